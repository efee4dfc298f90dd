//! The pre-training run: the loop, and when to log, validate, draw and save.
//!
//! The arithmetic of an update is `step`'s, what the output folder may hold [`crate::output`]'s.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use mae_loader::{Batches, Cursor, HostBatch, SampleId};
use mae_model::{Feeder, Mae};

use crate::checkpoint::retention::Retention;
use crate::checkpoint::{self, Checkpoint, RunKind, RunState, VERSION};
use crate::config::PretrainConfig;
use crate::data::Data;
use crate::device;
use crate::error::{Error, Result};
use crate::metrics::log::{DataCount, EpochLine, Log, LogLine, StepLine};
use crate::metrics::throughput::Throughput;
use crate::observer::{Observer, Outcome, Start, StepReport, Summary};
use crate::optim::{AdamW, AdamWSettings};
use crate::output;
use crate::picture;
use crate::step::{Stepper, host_input};
use crate::validate;

/// Trains as `config` says, from the start or from where an earlier run stopped.
///
/// When `stop` becomes true, the update in progress is finished and saved, and the run ends with
/// [`Outcome::Stopped`]. The outcome of a run does not depend on how often it was stopped, killed and resumed.
///
/// # Errors
/// See [`Error`]. Whatever happens, checkpoints that stand are whole.
pub fn pretrain(
    config: &PretrainConfig,
    stop: &AtomicBool,
    observer: &mut dyn Observer,
) -> Result<Outcome> {
    let checkpoint = output::starting_point::<PretrainConfig>(&config.output_dir, &config.resume)?;
    mae_model::set_threads(config.thread_budget())?;
    let data = Data::open(config)?;
    if let Some(checkpoint) = &checkpoint {
        let differences = config.differences(&checkpoint.info.state.config);
        output::check_same_run(
            checkpoint,
            differences,
            &data.train.digest(),
            &data.loader.fingerprint(),
        )?;
    }
    let mut run = Run::new(config, &data, checkpoint.as_ref())?;
    let settings = (config.to_toml()?, config.resume_command());
    output::prepare(&config.output_dir, settings)?;
    let mut log = Log::open(
        &output::log_path(&config.output_dir),
        run.progress.step,
        run.epoch_is_open(),
    )?;
    observer.started(&Start {
        config,
        parameters: run.stepper.mae.params.count(),
        samples: data.train.len(),
        epoch_samples: data.epoch_samples,
        parts: &data.parts,
        decoder: data.loader.decoder(),
        loader_memory: data.loader.memory_bound(),
        step_memory: run.stepper.memory(),
        steps_per_epoch: data.steps_per_epoch,
        total_steps: run.total_steps,
        step: run.progress.step,
        resumed: checkpoint
            .as_ref()
            .map(|checkpoint| checkpoint.info.path.as_path()),
    });
    drop(checkpoint);
    run.go(&mut log, stop, observer)
}

/// Updates whose outcome may be unknown before the host waits for the first: enough for a GPU never to run dry.
const UNDERWAY: usize = 3;

/// An update that is queued.
struct Underway {
    step: u64,
    epoch: u64,
    lr: f64,
    images: u64,
    samples: Vec<SampleId>,
    begun: Instant,
    /// How long it waited for data.
    waited: Duration,
}

/// Where a run stands between two updates, the queued ones done.
#[derive(Clone, Copy, Debug, Default)]
struct Progress {
    /// Updates done.
    step: u64,
    /// The epoch, counted from 0, whose updates are being done or whose end is to come.
    epoch: u64,
    /// Updates done in it.
    within: u64,
    /// Sum of their losses.
    epoch_loss: f64,
}

struct Run<'a> {
    config: &'a PretrainConfig,
    data: &'a Data,
    stepper: Stepper,
    feeder: Feeder<HostBatch>,
    progress: Progress,
    /// Updates that are queued, the first first, and what they came to is not known yet. None, where the host computes.
    underway: VecDeque<Underway>,
    /// Samples of each data set in the epoch's updates so far.
    data_samples: Vec<u64>,
    total_steps: u64,
    /// Seconds of training in earlier parts of the run.
    seconds_before: f64,
    started: Instant,
    /// The checkpoint that stands for a step, if any does.
    saved: Option<(u64, PathBuf)>,
    /// The step at which the last picture was drawn.
    drawn: Option<u64>,
    last_epoch: Option<EpochLine>,
    /// How long the device had waited for data by then, where it counts.
    device_waited: Duration,
    /// When an update was last known to be done.
    last_done: Instant,
}

impl<'a> Run<'a> {
    fn new(
        config: &'a PretrainConfig,
        data: &'a Data,
        checkpoint: Option<&Checkpoint>,
    ) -> Result<Self> {
        let device = device::open(config.device)?;
        let mut mae = Mae::new(config.mae(), &device, config.seed)?;
        mae.set_precision(config.precision)?;
        let settings = AdamWSettings {
            beta1: config.beta1,
            beta2: config.beta2,
            eps: 1e-8,
            weight_decay: config.weight_decay,
        };
        let mut adamw = AdamW::new(&mae.params, settings)?;
        let mut progress = Progress::default();
        let mut data_samples = vec![0; data.train.datasets().len()];
        if let Some(checkpoint) = checkpoint {
            let state = &checkpoint.info.state;
            mae.load_state_dict(&checkpoint.model)?;
            adamw.load_state(&mae.params, &checkpoint.optimizer)?;
            progress = Progress {
                step: state.step,
                epoch: state.epoch,
                within: state.batch / config.accum_iter as u64,
                epoch_loss: state.epoch_loss,
            };
            // A checkpoint of a version that did not count has none.
            for (count, saved) in data_samples.iter_mut().zip(&state.data_samples) {
                *count = *saved;
            }
        }
        let whole = config.epochs.saturating_mul(data.steps_per_epoch);
        let mut stepper = Stepper::new(
            mae,
            adamw,
            (config.batch_size, config.keep()),
            config.activations(),
            config.clip_grad,
        )?;
        if config.cuda_graphs {
            stepper.use_graphs()?;
        }
        Ok(Run {
            config,
            data,
            stepper,
            feeder: Feeder::new(&device, host_input)?,
            progress,
            underway: VecDeque::new(),
            data_samples,
            total_steps: config.max_steps.map_or(whole, |most| most.min(whole)),
            seconds_before: checkpoint.map_or(0.0, |checkpoint| checkpoint.info.state.seconds),
            started: Instant::now(),
            saved: checkpoint
                .filter(|checkpoint| output::holds(&config.output_dir, &checkpoint.info.path))
                .map(|checkpoint| (checkpoint.info.state.step, checkpoint.info.path.clone())),
            drawn: None,
            last_epoch: None,
            device_waited: Duration::ZERO,
            last_done: Instant::now(),
        })
    }

    /// Whether an epoch's updates are done and its end (validation, its log line) is not.
    fn epoch_is_open(&self) -> bool {
        self.progress.within == self.data.steps_per_epoch
    }

    fn go(
        &mut self,
        log: &mut Log,
        stop: &AtomicBool,
        observer: &mut dyn Observer,
    ) -> Result<Outcome> {
        let accum = self.config.accum_iter as u64;
        let mut batches = self.data.loader.batches(Cursor {
            epoch: self.progress.epoch,
            step: self.progress.within * accum,
        });
        let mut throughput = Throughput::new(Instant::now());
        loop {
            let at_epoch_end = self.epoch_is_open();
            if at_epoch_end {
                self.conclude(0, &mut throughput, log, observer)?;
            }
            if at_epoch_end && self.end_epoch(log, stop, observer)? {
                // Validation takes its own time, which is not the training's speed.
                throughput = Throughput::new(Instant::now());
            }
            let due = match self.config.checkpoint_every {
                Some(every) => self.progress.step > 0 && self.progress.step.is_multiple_of(every),
                None => at_epoch_end,
            };
            let stopping = stop.load(Ordering::Relaxed);
            let finished = self.progress.step >= self.total_steps && !self.epoch_is_open();
            if at_epoch_end || due {
                // What a GPU waits for is not data.
                self.feeder.pause();
            }
            if due || stopping || finished {
                self.conclude(0, &mut throughput, log, observer)?;
            }
            if finished {
                self.draw(&format!("step-{:08}", self.progress.step), observer)?;
            }
            if due || stopping || finished {
                self.save(log, observer)?;
            }
            if finished {
                return Ok(Outcome::Finished(self.summary()));
            }
            if stopping {
                let (step, checkpoint) = self.saved.clone().unwrap_or_default();
                return Ok(Outcome::Stopped { checkpoint, step });
            }
            self.update(&mut batches, &mut throughput, log, observer)?;
        }
    }

    /// Queues an update, and reports those that are done.
    fn update(
        &mut self,
        batches: &mut Batches,
        throughput: &mut Throughput,
        log: &mut Log,
        observer: &mut dyn Observer,
    ) -> Result<()> {
        let (config, data) = (self.config, self.data);
        let (begun, waited_before) = (Instant::now(), batches.waited());
        let Progress {
            step,
            epoch,
            within,
            ..
        } = self.progress;
        let number = step + 1;
        let accum = config.accum_iter as u64;
        let batches_per_epoch = data.loader.steps_per_epoch();
        let lr = config
            .schedule()
            .at(epoch as f64 + (within * accum) as f64 / batches_per_epoch as f64);

        let share = 1.0 / accum as f32;
        let mut samples = vec![];
        for part in 0..accum {
            let batch = self.next_batch(
                batches,
                Cursor {
                    epoch,
                    step: within * accum + part,
                },
            )?;
            samples.extend_from_slice(batch.samples());
            let input = self.feeder.feed(&self.stepper.mae.config, batch)?;
            self.stepper.batch(&input, share)?;
            if part + 1 == accum {
                self.stepper.apply(lr, number)?;
            }
            self.feeder.done()?;
        }
        self.progress.step = number;
        self.progress.within = within + 1;
        self.underway.push_back(Underway {
            step: number,
            epoch,
            lr,
            images: config.batch_size as u64 * accum,
            samples,
            begun,
            waited: batches.waited().saturating_sub(waited_before),
        });
        self.conclude(UNDERWAY, throughput, log, observer)
    }

    /// Reports the updates that are done, waiting while more than `most` are not.
    fn conclude(
        &mut self,
        most: usize,
        throughput: &mut Throughput,
        log: &mut Log,
        observer: &mut dyn Observer,
    ) -> Result<()> {
        while let Some(outcome) = self.stepper.outcome(self.underway.len() > most)? {
            let Some(update) = self.underway.pop_front() else {
                return Ok(());
            };
            let (step, grad_norm) = (update.step, outcome.grad_norm.map(f64::from));
            if outcome.halted {
                // The batch's, where one has no loss; else all.
                let each = update.samples.len() / self.config.accum_iter;
                let guilty = match outcome.bad_batch {
                    Some(batch) => &update.samples[batch * each..][..each],
                    None => &update.samples,
                };
                let describe = |id: &SampleId| self.data.train.describe(*id);
                let samples = guilty.iter().map(describe).collect();
                return Err(match grad_norm {
                    Some(norm) if outcome.loss.is_finite() => Error::NonFiniteGradient {
                        step,
                        norm,
                        samples,
                    },
                    _ => Error::NonFiniteLoss {
                        step,
                        loss: outcome.loss,
                        samples,
                    },
                });
            }
            let loss = f64::from(outcome.loss);
            self.progress.epoch_loss += loss;
            let counts = self.data.train.count(&update.samples);
            for (sum, count) in self.data_samples.iter_mut().zip(counts) {
                *sum += count;
            }
            // A GPU's own waiting, by its clock; else the host's.
            let waited = match self.feeder.waited()? {
                Some(total) => total - std::mem::replace(&mut self.device_waited, total),
                None => update.waited,
            };
            throughput.add(update.images, waited);
            observer.step(&StepReport {
                step,
                epoch: update.epoch,
                loss,
                lr: update.lr,
                images: update.images,
                took: self.last_done.max(update.begun).elapsed(),
                waited,
            });
            self.last_done = Instant::now();
            if step.is_multiple_of(self.config.log_every) || step == self.total_steps {
                let rate = throughput.report(Instant::now());
                let line = StepLine {
                    step,
                    epoch: step as f64 / self.data.steps_per_epoch as f64,
                    loss,
                    lr: update.lr,
                    images_per_second: rate.images_per_second,
                    data_wait: rate.data_wait,
                    // Where it is not clipped, no one asked for it.
                    grad_norm: grad_norm.filter(|_| self.config.clip_grad.is_some()),
                    data: self.data_counts(),
                };
                log.write(&LogLine::Step(line.clone()))?;
                observer.logged(&line);
            }
        }
        Ok(())
    }

    /// The batch at `wanted`, passing over those at an epoch's end that fill no update.
    fn next_batch(&self, batches: &mut Batches, wanted: Cursor) -> Result<HostBatch> {
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

    /// Validates, draws and logs at the end of an epoch. False if `stop` came first: then the end is still to come.
    fn end_epoch(
        &mut self,
        log: &mut Log,
        stop: &AtomicBool,
        observer: &mut dyn Observer,
    ) -> Result<bool> {
        let Progress {
            step,
            epoch,
            within,
            epoch_loss,
        } = self.progress;
        let number = epoch + 1;
        let last = step >= self.total_steps;
        let due = |every: u64| every > 0 && (number.is_multiple_of(every) || last);
        let mut val_loss = None;
        if let Some(loader) = self
            .data
            .held_out
            .as_ref()
            .filter(|_| due(self.config.eval_every))
        {
            observer.validating();
            let Stepper { mae, workspace, .. } = &mut self.stepper;
            match validate::held_out_loss(mae, loader, workspace, self.config.keep(), stop)? {
                Some(held_out) => val_loss = Some(held_out.loss),
                None => return Ok(false),
            }
        }
        if due(self.config.picture_every) {
            self.draw(&format!("epoch-{number:04}"), observer)?;
        }
        let line = EpochLine {
            step,
            epoch: number,
            loss: epoch_loss / within as f64,
            val_loss,
            val_top1: None,
            val_top5: None,
            data: self.data_counts(),
            seconds: self.seconds(),
        };
        log.write(&LogLine::Epoch(line.clone()))?;
        observer.epoch(&line);
        self.last_epoch = Some(line);
        self.data_samples.fill(0);
        self.progress = Progress {
            step,
            epoch: number,
            within: 0,
            epoch_loss: 0.0,
        };
        Ok(true)
    }

    /// Draws the picture `name`, unless this step has one or pictures are off.
    fn draw(&mut self, name: &str, observer: &mut dyn Observer) -> Result<()> {
        if self.config.picture_every == 0 || self.drawn == Some(self.progress.step) {
            return Ok(());
        }
        let three =
            validate::reconstructions(&self.stepper.mae, &self.data.pictured, self.config.keep())?;
        let path = output::pictures_folder(&self.config.output_dir).join(format!("{name}.png"));
        picture::grid(&three)
            .save(&path)
            .map_err(|source| Error::Write {
                path: path.clone(),
                source,
            })?;
        observer.drawn(&path);
        self.drawn = Some(self.progress.step);
        Ok(())
    }

    /// Saves a checkpoint, unless one stands for this step, and deletes those that are not kept.
    fn save(&mut self, log: &Log, observer: &mut dyn Observer) -> Result<()> {
        let Progress {
            step,
            epoch,
            within,
            epoch_loss,
        } = self.progress;
        if matches!(self.saved, Some((saved, _)) if saved == step) {
            return Ok(());
        }
        self.stepper.check_finite(step)?;
        log.sync()?;
        let state = RunState {
            version: VERSION,
            kind: RunKind::Pretrain,
            best: None,
            written_by: env!("CARGO_PKG_VERSION").to_owned(),
            step,
            steps_per_epoch: self.data.steps_per_epoch,
            epoch,
            batch: within * self.config.accum_iter as u64,
            epoch_loss,
            data_samples: self.data_samples.clone(),
            seconds: self.seconds(),
            dataset: self.data.train.digest(),
            fingerprint: self.data.loader.fingerprint(),
            config: self.config.clone(),
            files: Default::default(),
        };
        let folder = checkpoint::folder(&self.config.output_dir);
        let Stepper { mae, adamw, .. } = &self.stepper;
        let path = checkpoint::save(
            &folder,
            state,
            &mae.state_dict()?,
            &adamw.state(&mae.params)?,
        )?;
        observer.saved(&path);
        self.saved = Some((step, path));
        let every = self
            .config
            .keep_every
            .map(|epochs| epochs.saturating_mul(self.data.steps_per_epoch));
        checkpoint::prune(
            &folder,
            Retention {
                last: self.config.keep_last,
                every,
            },
        )
    }

    /// The epoch's samples of each data set so far, by name, where several are mixed.
    fn data_counts(&self) -> Vec<DataCount> {
        let parts = self.data.parts.iter().zip(&self.data_samples);
        parts
            .map(|(part, &samples)| DataCount {
                name: part.name.clone(),
                samples,
            })
            .collect()
    }

    fn seconds(&self) -> f64 {
        self.seconds_before + self.started.elapsed().as_secs_f64()
    }

    fn summary(&self) -> Summary {
        let (step, checkpoint) = self.saved.clone().unwrap_or_default();
        let Progress {
            within, epoch_loss, ..
        } = self.progress;
        Summary {
            step,
            loss: match within {
                0 => self.last_epoch.as_ref().map(|line| line.loss),
                _ => Some(epoch_loss / within as f64),
            },
            val_loss: self.last_epoch.as_ref().and_then(|line| line.val_loss),
            val_top1: None,
            best: None,
            seconds: self.seconds(),
            checkpoint,
        }
    }
}
