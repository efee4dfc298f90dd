//! What a run says while it goes on: lines to its log, reports to whoever watches.

use std::time::{Duration, Instant};

use super::{Plan, Standing, Underway};
use crate::error::Result;
use crate::metrics::log::{DataCount, EpochLine, Log, LogLine, StepLine};
use crate::metrics::throughput::Throughput;
use crate::observer::{Observer, StepReport};
use crate::output;

/// See the [module](self).
pub(crate) struct Journal<'a> {
    log: Log,
    pub(crate) observer: &'a mut dyn Observer,
    throughput: Throughput,
    /// When an update was last known to be done.
    last_done: Instant,
}

impl<'a> Journal<'a> {
    /// Opens the log in the run's folder, to go on where the run stands.
    pub(crate) fn open(
        output_dir: &std::path::Path,
        standing: &Standing,
        observer: &'a mut dyn Observer,
    ) -> Result<Self> {
        let path = output::log_path(output_dir);
        let now = Instant::now();
        Ok(Journal {
            log: Log::open(&path, standing.progress.step, standing.epoch_is_open())?,
            observer,
            throughput: Throughput::new(now),
            last_done: now,
        })
    }

    /// The speed is that of the training from now on: what was before took time of another kind.
    pub(crate) fn begin(&mut self) {
        self.throughput = Throughput::new(Instant::now());
    }

    /// An update is done: reported, and logged where that is due. `data` tells the epoch's samples of each data set so far, where there
    /// are several.
    pub(crate) fn step(
        &mut self,
        update: &Underway,
        outcome: &mae_model::Outcome,
        waited: Duration,
        plan: &Plan,
        data: impl FnOnce() -> Vec<DataCount>,
    ) -> Result<()> {
        let &Underway {
            step, lr, images, ..
        } = update;
        let loss = f64::from(outcome.loss);
        self.throughput.add(images, waited);
        self.observer.step(&StepReport {
            step,
            epoch: update.epoch,
            loss,
            lr,
            images,
            took: self.last_done.max(update.begun).elapsed(),
            waited,
        });
        self.last_done = Instant::now();
        if !step.is_multiple_of(plan.log_every) && step != plan.total_steps {
            return Ok(());
        }
        let rate = self.throughput.report(Instant::now());
        let line = StepLine {
            step,
            epoch: step as f64 / plan.steps_per_epoch as f64,
            loss,
            lr,
            images_per_second: rate.images_per_second,
            data_wait: rate.data_wait,
            // Where it is not clipped, no one asked for it.
            grad_norm: outcome.grad_norm.filter(|_| plan.clips).map(f64::from),
            tokenizer: update.tokenizer,
            data: data(),
        };
        self.log.write(&LogLine::Step(line.clone()))?;
        self.observer.logged(&line);
        Ok(())
    }

    /// An epoch is done.
    pub(crate) fn epoch(&mut self, line: &EpochLine) -> Result<()> {
        self.log.write(&LogLine::Epoch(line.clone()))?;
        self.observer.epoch(line);
        Ok(())
    }

    /// Brings what was logged to the disk: before a checkpoint, so that none is newer than the log.
    pub(crate) fn sync(&self) -> Result<()> {
        self.log.sync()
    }
}
