//! What every kind of training run keeps: where it stands, how long it is, its batches in order, what became of its updates, its
//! checkpoints.
//!
//! The loops are those of [`crate::pretrain()`] and [`crate::finetune()`]; what a run says to its log and to whoever watches is
//! [`journal`]'s.

mod journal;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use mae_loader::{Batches, Cursor, HostBatch, SampleId};
use mae_model::StateDict;

use crate::checkpoint::retention::Retention;
use crate::checkpoint::{self, Best, Checkpoint, RunConfig, RunState, VERSION};
use crate::dist::{Group, Stage};
use crate::error::{Error, Result};
use crate::eval::Accuracy;
use crate::metrics::log::{CodeUsage, DataCount, EpochLine, TokenizerFigures};
use crate::observer::{Outcome, Summary};
use crate::output;
use crate::schedule::CosineSchedule;

pub(crate) use self::journal::{Journal, Measured};

/// Where a run stands between two updates, the queued ones done.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Progress {
    /// Updates done.
    pub(crate) step: u64,
    /// The epoch, counted from 0, whose updates are being done or whose end is to come.
    pub(crate) epoch: u64,
    /// Updates done in it.
    pub(crate) within: u64,
    /// Sum of their losses.
    pub(crate) epoch_loss: f64,
}

/// What a run's settings say of its length and of what it reports.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    /// Batches of an update.
    pub(crate) accum_iter: usize,
    /// Batches of an epoch, those at its end included that fill no update.
    pub(crate) batches_per_epoch: u64,
    /// Updates of an epoch.
    pub(crate) steps_per_epoch: u64,
    /// Updates of the whole run.
    pub(crate) total_steps: u64,
    /// The learning rate over the run.
    pub(crate) schedule: CosineSchedule,
    /// Updates from one line of the log to the next.
    pub(crate) log_every: u64,
    /// Whether gradients are clipped, so that their norm is logged.
    pub(crate) clips: bool,
}

impl Plan {
    /// Whether this update is one of those that have a line in the log.
    pub(crate) fn logs(&self, step: u64) -> bool {
        step.is_multiple_of(self.log_every) || step == self.total_steps
    }
}

/// An update whose outcome may not be known yet.
pub(crate) struct Underway {
    /// Its number, counted from 1.
    pub(crate) step: u64,
    pub(crate) epoch: u64,
    pub(crate) lr: f64,
    pub(crate) images: u64,
    pub(crate) samples: Vec<SampleId>,
    pub(crate) begun: Instant,
    /// How long it waited for data.
    pub(crate) waited: Duration,
    /// Samples in it that stand in for bad ones.
    pub(crate) bad_samples: u64,
    /// What a tokenizer's update came to besides its loss.
    pub(crate) tokenizer: Option<TokenizerFigures>,
}

/// What held-out data said at the end of an epoch, as far as it was asked.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct HeldOutFigures {
    pub(crate) loss: Option<f64>,
    pub(crate) accuracy: Option<Accuracy>,
    pub(crate) codes: Option<CodeUsage>,
}

impl Underway {
    /// Refuses to go on where `outcome` is that the update was not applied, naming the samples that may be why, and, of several ranks,
    /// whose they are.
    pub(crate) fn check(
        &self,
        outcome: &mae_model::Outcome,
        (plan, group): (&Plan, &Group),
        describe: impl Fn(SampleId) -> String,
    ) -> Result<()> {
        if !outcome.halted {
            return Ok(());
        }
        let each = self.samples.len() / plan.accum_iter;
        // The batch's, where one has no loss.
        let guilty = outcome
            .bad_batch
            .map(|batch| &self.samples[batch * each..][..each]);
        let told: Vec<String> = guilty
            .unwrap_or(&self.samples)
            .iter()
            .map(|id| describe(*id))
            .collect();
        let ranks = group.gather((guilty.is_some(), told))?;
        let any = ranks.iter().any(|(guilty, _)| *guilty);
        let samples = ranks.into_iter().enumerate();
        let alone = samples.len() == 1;
        let samples = samples
            .filter(|(_, (guilty, _))| *guilty || !any)
            .flat_map(|(rank, (_, samples))| {
                let of = match alone {
                    true => String::new(),
                    false => format!("rank {rank}: "),
                };
                samples
                    .into_iter()
                    .map(move |sample| format!("{of}{sample}"))
            })
            .collect();
        let step = self.step;
        Err(match outcome.grad_norm {
            Some(norm) if outcome.loss.is_finite() => Error::NonFiniteGradient {
                step,
                norm: f64::from(norm),
                samples,
            },
            _ => Error::NonFiniteLoss {
                step,
                loss: outcome.loss,
                samples,
            },
        })
    }
}

/// The batch at `wanted`, passing over those at an epoch's end that fill no update.
pub(crate) fn next_batch(batches: &mut Batches, wanted: Cursor) -> Result<HostBatch> {
    loop {
        let batch = batches.next().ok_or(Error::DataEnded {
            epoch: wanted.epoch,
            batch: wanted.step,
        })??;
        if batch.cursor() >= wanted {
            debug_assert_eq!(batch.cursor(), wanted);
            return Ok(batch);
        }
    }
}

/// What a checkpoint says of a run besides where it stands, and which checkpoints stay once it is there.
pub(crate) struct Saving<'a, C> {
    pub(crate) config: &'a C,
    /// Digest of the data.
    pub(crate) dataset: String,
    /// What else decides the batches.
    pub(crate) fingerprint: String,
    pub(crate) retention: Retention,
}

/// What updates took in.
#[derive(Clone, Debug, Default)]
struct Tally {
    /// Samples so far that could not be used.
    bad_samples: u64,
    /// Samples of each data set in the epoch.
    data_samples: Vec<u64>,
}

impl Tally {
    fn add(&mut self, bad_samples: u64, data_samples: &[u64]) {
        self.bad_samples += bad_samples;
        let sets = self.data_samples.len().max(data_samples.len());
        self.data_samples.resize(sets, 0);
        for (sum, count) in self.data_samples.iter_mut().zip(data_samples) {
            *sum += count;
        }
    }
}

/// How far a run is.
pub(crate) struct Standing {
    pub(crate) plan: Plan,
    pub(crate) progress: Progress,
    /// Of all ranks.
    tally: Tally,
    /// Of this rank, since they were last added up.
    own_tally: Tally,
    /// The step after which several ranks stop together, where one was asked to.
    stop_at: Option<u64>,
    /// The best evaluation, where the run has such.
    pub(crate) best: Option<Best>,
    /// Updates that are passed over.
    pub(crate) skipped: Vec<u64>,
    /// The checkpoint that stands for a step, if any does.
    saved: Option<(u64, PathBuf)>,
    last_epoch: Option<EpochLine>,
    /// Seconds of training in earlier parts of the run.
    seconds_before: f64,
    started: Instant,
}

impl Standing {
    /// At the start, or where the checkpoint `from` is; `output_dir` is this run's folder.
    pub(crate) fn new<C>(plan: Plan, output_dir: &Path, from: Option<&Checkpoint<C>>) -> Self {
        let state = from.map(|checkpoint| &checkpoint.info.state);
        Standing {
            plan,
            progress: state.map_or_else(Progress::default, |state| Progress {
                step: state.step,
                epoch: state.epoch,
                within: state.step - (state.epoch * state.steps_per_epoch).min(state.step),
                epoch_loss: state.epoch_loss,
            }),
            tally: state.map_or_else(Tally::default, |state| Tally {
                bad_samples: state.bad_samples,
                data_samples: state.data_samples.clone(),
            }),
            own_tally: Tally::default(),
            stop_at: None,
            best: state.and_then(|state| state.best),
            skipped: state.map_or_else(Vec::new, |state| state.skipped.clone()),
            saved: from
                .filter(|checkpoint| output::holds(output_dir, &checkpoint.info.path))
                .map(|checkpoint| (checkpoint.info.state.step, checkpoint.info.path.clone())),
            last_epoch: None,
            seconds_before: state.map_or(0.0, |state| state.seconds),
            started: Instant::now(),
        }
    }

    /// Whether an epoch's updates are done and its end (judging what came of it, its log line) is not.
    pub(crate) fn epoch_is_open(&self) -> bool {
        self.progress.within == self.plan.steps_per_epoch
    }

    /// Whether all updates and the last epoch's end are done.
    pub(crate) fn is_finished(&self) -> bool {
        self.progress.step >= self.plan.total_steps && !self.epoch_is_open()
    }

    /// Whether a checkpoint of this step stands.
    pub(crate) fn is_saved(&self) -> bool {
        matches!(self.saved, Some((step, _)) if step == self.progress.step)
    }

    /// Where batch `part` of the next update is.
    pub(crate) fn cursor(&self, part: usize) -> Cursor {
        let Progress { epoch, within, .. } = self.progress;
        Cursor {
            epoch,
            step: within * self.plan.accum_iter as u64 + part as u64,
        }
    }

    /// The learning rate of the next update.
    pub(crate) fn lr(&self) -> f64 {
        let Cursor { epoch, step } = self.cursor(0);
        let within = step as f64 / self.plan.batches_per_epoch as f64;
        self.plan.schedule.at(epoch as f64 + within)
    }

    /// The next update is queued: what follows is the one behind it.
    pub(crate) fn queued(&mut self) {
        self.progress.step += 1;
        self.progress.within += 1;
    }

    /// Updates of the epoch so far that were not passed over.
    fn counted(&self) -> usize {
        let Progress { step, within, .. } = self.progress;
        let in_epoch = |skipped: &&u64| **skipped <= step && **skipped > step - within;
        // An epoch that was passed over whole has no loss to divide.
        (within as usize - self.skipped.iter().filter(in_epoch).count()).max(1)
    }

    /// An update came to `loss`, from so many samples of each data set.
    pub(crate) fn concluded(&mut self, update: &Underway, loss: f64, data_samples: &[u64]) {
        self.progress.epoch_loss += loss;
        self.own_tally.add(update.bad_samples, data_samples);
    }

    /// Brings in what the other ranks took in: before it is logged or saved.
    pub(crate) fn add_up(&mut self, group: &Group) -> Result<()> {
        let Tally {
            bad_samples,
            data_samples,
        } = std::mem::take(&mut self.own_tally);
        for (bad_samples, data_samples) in group.gather((bad_samples, data_samples))? {
            self.tally.add(bad_samples, &data_samples);
        }
        Ok(())
    }

    /// Samples so far that could not be used.
    pub(crate) fn bad_samples(&self) -> u64 {
        self.tally.bad_samples
    }

    /// Samples of each data set in the epoch's updates so far.
    pub(crate) fn data_samples(&self) -> &[u64] {
        &self.tally.data_samples
    }

    /// Of several ranks, one was asked to stop: all stop when `step` is done.
    pub(crate) fn stop_after(&mut self, step: u64) {
        self.stop_at.get_or_insert(step);
    }

    /// Whether the run ends here, saved. Ranks agree on the step: each update carries who was asked.
    pub(crate) fn is_stopping(&self, stop: &AtomicBool, group: &Group) -> bool {
        match group.world() {
            1 => stop.load(Ordering::Relaxed),
            _ => self.stop_at.is_some_and(|step| self.progress.step >= step),
        }
    }

    /// Logs the epoch, with what was measured on held-out data, and begins the next one.
    pub(crate) fn end_epoch(
        &mut self,
        held_out: HeldOutFigures,
        data: Vec<DataCount>,
        journal: &mut Journal<'_>,
    ) -> Result<()> {
        let Progress {
            step,
            epoch,
            epoch_loss,
            ..
        } = self.progress;
        let line = EpochLine {
            step,
            epoch: epoch + 1,
            loss: epoch_loss / self.counted() as f64,
            val_loss: held_out.loss,
            val_top1: held_out.accuracy.map(|accuracy| accuracy.top1),
            val_top5: held_out.accuracy.map(|accuracy| accuracy.top5),
            val_codes: held_out.codes,
            data,
            utilisation: journal.utilisation(),
            seconds: self.seconds(),
        };
        journal.epoch(&line)?;
        self.last_epoch = Some(line);
        self.progress = Progress {
            step,
            epoch: epoch + 1,
            within: 0,
            epoch_loss: 0.0,
        };
        self.tally.data_samples.fill(0);
        Ok(())
    }

    /// Saves a checkpoint and deletes those that are not kept: the first rank does, which alone makes the `tensors`, model and moments.
    pub(crate) fn save<C: RunConfig + Clone>(
        &mut self,
        saving: Saving<'_, C>,
        tensors: impl FnOnce() -> Result<(StateDict, StateDict)>,
        (group, journal): (&Group, &mut Journal<'_>),
    ) -> Result<()> {
        group.enter(Stage::Saving);
        self.add_up(group)?;
        let folder = checkpoint::folder(saving.config.output_dir());
        if !group.is_first() {
            let step = self.progress.step;
            self.saved = Some((step, checkpoint::path(&folder, step)));
            return Ok(());
        }
        let (model, moments) = tensors()?;
        journal.sync()?;
        let Progress {
            step,
            epoch,
            epoch_loss,
            ..
        } = self.progress;
        let state = RunState {
            version: VERSION,
            kind: C::KIND,
            written_by: env!("CARGO_PKG_VERSION").to_owned(),
            world: group.world(),
            step,
            steps_per_epoch: self.plan.steps_per_epoch,
            epoch,
            batch: self.cursor(0).step,
            epoch_loss,
            data_samples: self.tally.data_samples.clone(),
            bad_samples: self.tally.bad_samples,
            seconds: self.seconds(),
            dataset: saving.dataset,
            fingerprint: saving.fingerprint,
            best: self.best,
            skipped: self.skipped.clone(),
            config: saving.config.clone(),
            files: Default::default(),
        };
        let path = checkpoint::save(&folder, state, &model, &moments)?;
        journal.saved(step, &path);
        self.saved = Some((step, path));
        checkpoint::prune(&folder, saving.retention)
    }

    /// The checkpoint of the last save, or the one that the run began at.
    pub(crate) fn checkpoint(&self) -> Option<&Path> {
        self.saved.as_ref().map(|(_, path)| path.as_path())
    }

    /// Asked to stop, and saved.
    pub(crate) fn stopped(&self) -> Outcome {
        let (step, checkpoint) = self.saved.clone().unwrap_or_default();
        Outcome::Stopped { checkpoint, step }
    }

    /// All done, and saved.
    pub(crate) fn finished(&self) -> Outcome {
        let (step, checkpoint) = self.saved.clone().unwrap_or_default();
        let last = self.last_epoch.as_ref();
        let Progress {
            within, epoch_loss, ..
        } = self.progress;
        Outcome::Finished(Summary {
            step,
            loss: match within {
                0 => last.map(|line| line.loss),
                _ => Some(epoch_loss / self.counted() as f64),
            },
            val_loss: last.and_then(|line| line.val_loss),
            val_top1: last.and_then(|line| line.val_top1),
            val_codes: last.and_then(|line| line.val_codes),
            best: self.best,
            seconds: self.seconds(),
            checkpoint,
        })
    }

    fn seconds(&self) -> f64 {
        self.seconds_before + self.started.elapsed().as_secs_f64()
    }
}
