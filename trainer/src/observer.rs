//! What a run tells whoever watches it: a progress bar, a test, nobody. Watching changes nothing.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use mae_loader::MemoryBound;
use mae_model::StepMemory;

use crate::checkpoint::Best;
use crate::config::PretrainConfig;
use crate::finetune::FinetuneStart;
use crate::metrics::log::{CodeUsage, EpochLine, StepLine};
use crate::metrics::utilisation::Utilisation;
use crate::target::PcaFit;
use crate::tokenizer::TokenizerStart;

/// The run before its first step.
#[derive(Debug)]
pub struct Start<'a> {
    /// The resolved settings.
    pub config: &'a PretrainConfig,
    /// Trainable numbers of the model.
    pub parameters: usize,
    /// Training samples.
    pub samples: u64,
    /// Samples drawn in an epoch.
    pub epoch_samples: u64,
    /// The data sets that are mixed; none where there is one only.
    pub parts: &'a [MixedPart],
    /// The decoder of the training images, by name and version.
    pub decoder: String,
    /// The most memory that the loader of the training images takes.
    pub loader_memory: MemoryBound,
    /// What a training step takes where the arithmetic runs.
    pub step_memory: StepMemory,
    /// Updates an epoch.
    pub steps_per_epoch: u64,
    /// Updates of the whole run.
    pub total_steps: u64,
    /// Updates already done.
    pub step: u64,
    /// The checkpoint that the run goes on from.
    pub resumed: Option<&'a Path>,
}

/// A data set among several.
#[derive(Clone, Debug, PartialEq)]
pub struct MixedPart {
    /// Its name: the value of `--data` without the weight.
    pub name: String,
    /// Its samples.
    pub samples: u64,
    /// Its share of the samples drawn.
    pub share: f64,
}

/// One update.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepReport {
    /// Updates done, this one included.
    pub step: u64,
    /// The epoch that it belongs to, counted from 0.
    pub epoch: u64,
    /// Its loss.
    pub loss: f64,
    /// Its learning rate.
    pub lr: f64,
    /// Images in it.
    pub images: u64,
    /// How long it took, waiting included.
    pub took: Duration,
    /// How long it waited for data.
    pub waited: Duration,
}

/// How a run ended when it did not fail.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// All that was asked is done.
    Finished(Summary),
    /// Asked to stop; everything is saved.
    Stopped {
        /// The checkpoint to go on from.
        checkpoint: PathBuf,
        /// Updates done.
        step: u64,
    },
}

/// What came of a finished run.
#[derive(Clone, Debug, PartialEq)]
pub struct Summary {
    /// Updates done, over all the run's parts.
    pub step: u64,
    /// Mean training loss of the epoch in progress, or of the last one where it ended with that.
    pub loss: Option<f64>,
    /// Held-out loss after that epoch.
    pub val_loss: Option<f64>,
    /// Held-out top-1 accuracy after that epoch, where it is measured.
    pub val_top1: Option<f64>,
    /// How a tokenizer uses its codes on held-out data.
    pub val_codes: Option<CodeUsage>,
    /// The best epoch, where accuracy is measured.
    pub best: Option<Best>,
    /// Seconds of training, over all the run's parts.
    pub seconds: f64,
    /// The last checkpoint.
    pub checkpoint: PathBuf,
}

/// Watches a run.
pub trait Observer {
    /// Before the first step of pre-training.
    fn started(&mut self, _start: &Start<'_>) {}
    /// While a basis is fitted to the training data, before the first step: `done` images of `total` are gone through.
    fn fitting(&mut self, _done: u64, _total: u64) {}
    /// A basis was fitted.
    fn fitted(&mut self, _fit: &PcaFit) {}
    /// Before the first step of fine-tuning.
    fn finetuning(&mut self, _start: &FinetuneStart<'_>) {}
    /// Before the first step of training a tokenizer.
    fn tokenizing(&mut self, _start: &TokenizerStart<'_>) {}
    /// After every update.
    fn step(&mut self, _report: &StepReport) {}
    /// After an update that is logged.
    fn logged(&mut self, _line: &StepLine) {}
    /// What the first hundred updates or so were bound by, unless an epoch ends before; those of a whole epoch are in its line.
    fn bound(&mut self, _utilisation: &Utilisation) {}
    /// Before the held-out data is gone through.
    fn validating(&mut self) {}
    /// After an epoch.
    fn epoch(&mut self, _line: &EpochLine) {}
    /// A checkpoint stands.
    fn saved(&mut self, _checkpoint: &Path) {}
    /// A picture stands.
    fn drawn(&mut self, _picture: &Path) {}
}

/// Watches nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Unobserved;

impl Observer for Unobserved {}

/// Raises a run's stop flag after an update, as a signal would: to see that what goes on from there comes to the same.
#[derive(Debug)]
pub struct StopAfter<'a> {
    step: Option<u64>,
    stop: &'a AtomicBool,
    began_at: Option<u64>,
}

impl<'a> StopAfter<'a> {
    /// Raises `stop` after update number `step`, counted from 1; never if there is none.
    pub fn new(step: Option<u64>, stop: &'a AtomicBool) -> Self {
        Self {
            step,
            stop,
            began_at: None,
        }
    }

    /// How many updates were done before the run, once it has started.
    pub fn began_at(&self) -> Option<u64> {
        self.began_at
    }
}

impl Observer for StopAfter<'_> {
    fn started(&mut self, start: &Start<'_>) {
        self.began_at = Some(start.step);
    }

    fn finetuning(&mut self, start: &FinetuneStart<'_>) {
        self.began_at = Some(start.step);
    }

    fn tokenizing(&mut self, start: &TokenizerStart<'_>) {
        self.began_at = Some(start.step);
    }

    fn step(&mut self, report: &StepReport) {
        if self.step == Some(report.step) {
            self.stop.store(true, Ordering::Relaxed);
        }
    }
}
