//! Fine-tuning a classifier from pre-trained weights, or training one from scratch, by the reference code's recipe (FINETUNE.md there,
//! paper, appendix A.1): the loop, and when to log, evaluate and save.
//!
//! A run goes on to the bit, as pre-training does: every draw follows from the seed and the place.

mod config;
mod data;
mod evaluate;
mod init;
mod raw;
mod recipe;
mod step;
mod targets;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use candle_core::Tensor;
use mae_loader::{Batches, Cursor, HostBatch, MemoryBound, mix_draw};
use mae_model::ops::augment::{Augmentation, PixelBox};
use mae_model::{DropPath, VitClassifier, VitInput, VitTraining};

use self::data::Data;
use self::step::Stepper;
use crate::checkpoint::retention::Retention;
use crate::checkpoint::{self, Best, Checkpoint, RunKind, RunState, VERSION};
use crate::error::{Error, Result};
use crate::metrics::log::{EpochLine, Log, LogLine, StepLine};
use crate::metrics::throughput::Throughput;
use crate::observer::{Observer, Outcome, StepReport, Summary};
use crate::optim::{AdamW, AdamWSettings};
use crate::{device, output};

pub use config::FinetuneConfig;
pub use evaluate::Evaluation;
pub use init::pretrained;
pub use raw::{AutoAugment, RawFinetune};

/// What the best checkpoint is called in a run's folder.
const BEST: &str = "best";
/// torch.optim.AdamW's own, as the reference fine-tunes with.
const BETAS: (f64, f64) = (0.9, 0.999);

/// The run before its first step.
#[derive(Debug)]
pub struct FinetuneStart<'a> {
    /// The resolved settings.
    pub config: &'a FinetuneConfig,
    /// Numbers of the model, and those of them that are trained.
    pub parameters: (usize, usize),
    /// Training samples, and those that accuracy is measured on.
    pub samples: (u64, u64),
    /// Classes.
    pub classes: usize,
    /// The decoder of the training images, by name and version.
    pub decoder: String,
    /// The most memory that the loader of the training images takes.
    pub loader_memory: MemoryBound,
    /// Bytes that activations take.
    pub activations: usize,
    /// Updates an epoch.
    pub steps_per_epoch: u64,
    /// Updates of the whole run.
    pub total_steps: u64,
    /// Updates already done.
    pub step: u64,
    /// The checkpoint that the run goes on from.
    pub resumed: Option<&'a Path>,
}

/// Fine-tunes as `config` says, from the start or from where an earlier run stopped. As [`crate::pretrain()`], `stop` ends the run after
/// the update in progress, saved.
///
/// # Errors
/// See [`Error`]. Whatever happens, checkpoints that stand are whole.
pub fn finetune(
    config: &FinetuneConfig,
    stop: &AtomicBool,
    observer: &mut dyn Observer,
) -> Result<Outcome> {
    let resumed = output::starting_point::<FinetuneConfig>(&config.output_dir, &config.resume)?;
    mae_model::set_threads(config.thread_budget())?;
    let data = Data::open(config)?;
    if let Some(checkpoint) = &resumed {
        let differences = config.differences(&checkpoint.info.state.config);
        let (digest, fingerprint) = (data.train.digest(), data.loader.fingerprint());
        output::check_same_run(checkpoint, differences, digest, &fingerprint)?;
    }
    let mut run = Run::new(config, &data, resumed.as_ref())?;
    let settings = (
        config.to_toml()?,
        checkpoint::RunConfig::resume_command(config),
    );
    output::prepare(&config.output_dir, settings)?;
    let path = output::log_path(&config.output_dir);
    let mut log = Log::open(&path, run.progress.step, run.epoch_is_open())?;
    run.announce(resumed.as_ref(), observer);
    // An end between saving a checkpoint and keeping it as the best is made up for.
    run.keep_best()?;
    drop(resumed);
    run.go(&mut log, stop, observer)
}

/// Where a run stands between two updates.
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
    config: &'a FinetuneConfig,
    data: &'a Data,
    stepper: Stepper,
    /// Of drop path, of each block.
    rates: Vec<f64>,
    progress: Progress,
    total_steps: u64,
    best: Option<Best>,
    /// The checkpoint that stands for a step, if any does.
    saved: Option<(u64, PathBuf)>,
    last_epoch: Option<EpochLine>,
    /// Seconds of training in earlier parts of the run.
    seconds_before: f64,
    started: Instant,
}

/// How an epoch's end went.
enum Ended {
    /// `stop` came first; it is still to come.
    Stopped,
    /// With the best accuracy so far, or not.
    Done { best: bool },
}

impl<'a> Run<'a> {
    fn new(
        config: &'a FinetuneConfig,
        data: &'a Data,
        resumed: Option<&Checkpoint<FinetuneConfig>>,
    ) -> Result<Self> {
        let device = device::open(config.device)?;
        let vit = VitClassifier::new(
            config.vit(),
            data.classes,
            config.pooling,
            &device,
            config.seed,
        )?;
        match (resumed, &config.checkpoint) {
            (Some(checkpoint), _) => vit.load_state_dict(&checkpoint.model)?,
            (None, Some(path)) => init::load(&vit, path, config.checkpoint_key.clone())?,
            (None, None) => {}
        }
        let mut vit = vit;
        vit.set_precision(config.precision)?;
        let settings = AdamWSettings {
            beta1: BETAS.0,
            beta2: BETAS.1,
            eps: 1e-8,
            weight_decay: config.weight_decay,
        };
        let mut adamw = AdamW::with(&vit.params, settings, |spec| {
            recipe::treatment(spec, config.depth, config.layer_decay, config.freeze_blocks)
        })?;
        let mut progress = Progress::default();
        if let Some(checkpoint) = resumed {
            let state = &checkpoint.info.state;
            adamw.load_state(&vit.params, &checkpoint.optimizer)?;
            progress = Progress {
                step: state.step,
                epoch: state.epoch,
                within: state.batch / config.accum_iter as u64,
                epoch_loss: state.epoch_loss,
            };
        }
        let mut rates = DropPath::rates(config.drop_path, config.depth);
        // Frozen blocks compute what they did when they were trained.
        rates[..config.freeze_blocks].fill(0.0);
        let drops = rates.iter().any(|&rate| rate > 0.0);
        let state = resumed.map(|checkpoint| &checkpoint.info.state);
        Ok(Run {
            config,
            data,
            stepper: Stepper::new(
                vit,
                adamw,
                (config.batch_size, drops),
                config.activations(),
                config.clip_grad,
            )?,
            rates: if drops { rates } else { vec![] },
            progress,
            total_steps: config.epochs.saturating_mul(data.steps_per_epoch),
            best: state.and_then(|state| state.best),
            saved: resumed
                .filter(|checkpoint| output::holds(&config.output_dir, &checkpoint.info.path))
                .map(|checkpoint| (checkpoint.info.state.step, checkpoint.info.path.clone())),
            last_epoch: None,
            seconds_before: state.map_or(0.0, |state| state.seconds),
            started: Instant::now(),
        })
    }

    fn announce(&self, resumed: Option<&Checkpoint<FinetuneConfig>>, observer: &mut dyn Observer) {
        let (config, data, vit) = (self.config, self.data, &self.stepper.vit);
        let trained = vit.params.specs().iter().filter(|spec| {
            recipe::treatment(spec, config.depth, config.layer_decay, config.freeze_blocks)
                .is_some()
        });
        observer.finetuning(&FinetuneStart {
            config,
            parameters: (vit.params.count(), trained.map(|spec| spec.len).sum()),
            samples: (
                data.train.len(),
                data.val.as_ref().map_or(0, |(val, _)| val.len()),
            ),
            classes: data.classes,
            decoder: data.loader.decoder(),
            loader_memory: data.loader.memory_bound(),
            activations: self.stepper.workspace.bytes(),
            steps_per_epoch: data.steps_per_epoch,
            total_steps: self.total_steps,
            step: self.progress.step,
            resumed: resumed.map(|checkpoint| checkpoint.info.path.as_path()),
        });
    }

    /// Whether an epoch's updates are done and its end (evaluation, its log line) is not.
    fn epoch_is_open(&self) -> bool {
        self.progress.within == self.data.steps_per_epoch
    }

    fn go(
        &mut self,
        log: &mut Log,
        stop: &AtomicBool,
        observer: &mut dyn Observer,
    ) -> Result<Outcome> {
        let mut batches = self.data.loader.batches(Cursor {
            epoch: self.progress.epoch,
            step: self.progress.within * self.config.accum_iter as u64,
        });
        let mut throughput = Throughput::new(Instant::now());
        loop {
            let (mut due, mut best) = (false, false);
            if self.epoch_is_open() {
                due = true;
                if let Ended::Done { best: is_best } = self.end_epoch(log, stop, observer)? {
                    best = is_best;
                    // Evaluation takes its own time, which is not the training's speed.
                    throughput = Throughput::new(Instant::now());
                }
            }
            let stopping = stop.load(Ordering::Relaxed);
            let finished = self.progress.step >= self.total_steps && !self.epoch_is_open();
            if due || stopping || finished {
                self.save(log, observer)?;
            }
            if best {
                self.keep_best()?;
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
        let (number, accum) = (step + 1, config.accum_iter as u64);
        let fraction = (within * accum) as f64 / data.loader.steps_per_epoch() as f64;
        let lr = config.schedule().at(epoch as f64 + fraction);
        let mut samples = vec![];
        for part in 0..accum {
            let cursor = Cursor {
                epoch,
                step: within * accum + part,
            };
            let batch = next_batch(batches, cursor)?;
            let (input, training) = self.batch(&batch, step * accum + part)?;
            samples.extend_from_slice(batch.samples());
            drop(batch);
            self.stepper.batch(&input, &training, 1.0 / accum as f32)?;
        }
        let Some(outcome) = self.stepper.apply(lr, number)? else {
            return Ok(());
        };
        if outcome.halted {
            // The batch's, where one has no loss; else all.
            let guilty = match outcome.bad_batch {
                Some(batch) => &samples[batch * config.batch_size..][..config.batch_size],
                None => &samples[..],
            };
            let samples = guilty.iter().map(|id| data.train.describe(*id)).collect();
            return Err(match outcome.grad_norm {
                Some(norm) if outcome.loss.is_finite() => Error::NonFiniteGradient {
                    step: number,
                    norm: f64::from(norm),
                    samples,
                },
                _ => Error::NonFiniteLoss {
                    step: number,
                    loss: outcome.loss,
                    samples,
                },
            });
        }
        let loss = f64::from(outcome.loss);
        self.progress = Progress {
            step: number,
            within: within + 1,
            epoch_loss: self.progress.epoch_loss + loss,
            ..self.progress
        };
        let images = config.batch_size as u64 * accum;
        let waited = batches.waited().saturating_sub(waited_before);
        throughput.add(images, waited);
        observer.step(&StepReport {
            step: number,
            epoch,
            loss,
            lr,
            images,
            took: begun.elapsed(),
            waited,
        });
        if number.is_multiple_of(config.log_every) || number == self.total_steps {
            let rate = throughput.report(Instant::now());
            let line = StepLine {
                step: number,
                epoch: number as f64 / data.steps_per_epoch as f64,
                loss,
                lr,
                images_per_second: rate.images_per_second,
                data_wait: rate.data_wait,
                grad_norm: outcome
                    .grad_norm
                    .map(f64::from)
                    .filter(|_| config.clip_grad.is_some()),
                data: vec![],
            };
            log.write(&LogLine::Step(line.clone()))?;
            observer.logged(&line);
        }
        Ok(())
    }

    /// A batch on the device, and what training adds to it. `number` counts the run's batches.
    fn batch(&self, batch: &HostBatch, number: u64) -> Result<(VitInput, VitTraining)> {
        let (config, classes) = (self.config, self.data.classes);
        let vit = &self.stepper.vit;
        let labels = batch.labels().unwrap_or_default();
        if let Some((&label, id)) = labels
            .iter()
            .zip(batch.samples())
            .find(|(label, _)| **label as usize >= classes)
        {
            return Err(Error::Config(format!(
                "{} is of class {label}, where there are {classes} (counted from 0)",
                self.data.train.describe(*id)
            )));
        }
        let mixing = config.mixing()?;
        let mix = mix_draw(&mixing, config.image_size(), config.seed, batch.cursor());
        let lambda = mix.as_ref().map(|mix| mix.lambda);
        let soft = targets::soft_targets(labels, classes, config.smoothing, lambda);
        let input = VitInput::labelled(vit, batch.pixels(), &soft)?;
        let erase = match batch.erase_boxes() {
            [] => None,
            boxes => {
                let boxes = Tensor::from_slice(boxes, (batch.len(), 4), vit.device())?;
                // Another seed for each batch of each run.
                let seed = config.seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ number;
                Some((boxes, seed))
            }
        };
        let drop_path = match self.rates.is_empty() {
            true => None,
            false => Some(DropPath::draw(
                &self.rates,
                batch.len(),
                (config.seed, number),
                vit.device(),
            )?),
        };
        let training = VitTraining {
            augmentation: Augmentation {
                erase,
                mix: mix.map(|mix| {
                    let cut = mix.cut.map(|cut| PixelBox {
                        top: cut.y as usize,
                        left: cut.x as usize,
                        height: cut.height as usize,
                        width: cut.width as usize,
                    });
                    (mix.lambda as f32, cut)
                }),
            },
            drop_path,
            frozen_blocks: config.freeze_blocks,
        };
        Ok((input, training))
    }

    /// Evaluates and logs at the end of an epoch.
    fn end_epoch(
        &mut self,
        log: &mut Log,
        stop: &AtomicBool,
        observer: &mut dyn Observer,
    ) -> Result<Ended> {
        let Progress {
            step,
            epoch,
            within,
            epoch_loss,
        } = self.progress;
        let number = epoch + 1;
        let due = number.is_multiple_of(self.config.eval_every) || step >= self.total_steps;
        let mut evaluation = None;
        if let Some(val) = self.data.val.as_ref().filter(|_| due) {
            observer.validating();
            let Stepper { vit, workspace, .. } = &mut self.stepper;
            evaluation = evaluate::evaluate(vit, val, workspace, stop)?;
            if evaluation.is_none() {
                return Ok(Ended::Stopped);
            }
        }
        let best = evaluation.is_some_and(|Evaluation { accuracy, .. }| {
            self.best.is_none_or(|best| accuracy.top1 > best.top1)
        });
        if let Some(Evaluation { accuracy, .. }) = evaluation.filter(|_| best) {
            self.best = Some(Best {
                epoch: number,
                top1: accuracy.top1,
            });
        }
        let line = EpochLine {
            step,
            epoch: number,
            loss: epoch_loss / within as f64,
            val_loss: evaluation.map(|evaluation| evaluation.loss),
            val_top1: evaluation.map(|evaluation| evaluation.accuracy.top1),
            val_top5: evaluation.map(|evaluation| evaluation.accuracy.top5),
            data: vec![],
            seconds: self.seconds(),
        };
        log.write(&LogLine::Epoch(line.clone()))?;
        observer.epoch(&line);
        self.last_epoch = Some(line);
        self.progress = Progress {
            step,
            epoch: number,
            within: 0,
            epoch_loss: 0.0,
        };
        Ok(Ended::Done { best })
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
        log.sync()?;
        let state = RunState {
            version: VERSION,
            kind: RunKind::Finetune,
            written_by: env!("CARGO_PKG_VERSION").to_owned(),
            step,
            steps_per_epoch: self.data.steps_per_epoch,
            epoch,
            batch: within * self.config.accum_iter as u64,
            epoch_loss,
            data_samples: vec![],
            seconds: self.seconds(),
            dataset: self.data.train.digest().to_owned(),
            fingerprint: self.data.loader.fingerprint(),
            best: self.best,
            config: self.config.clone(),
            files: Default::default(),
        };
        let folder = checkpoint::folder(&self.config.output_dir);
        let Stepper { vit, adamw, .. } = &self.stepper;
        let (model, moments) = (vit.state_dict()?, adamw.state(&vit.params)?);
        let path = checkpoint::save(&folder, state, &model, &moments)?;
        observer.saved(&path);
        self.saved = Some((step, path));
        let retention = Retention {
            last: self.config.keep_last,
            every: None,
        };
        checkpoint::prune(&folder, retention)
    }

    /// Keeps the checkpoint that stands as the best, if it is.
    fn keep_best(&self) -> Result<()> {
        match (&self.saved, self.best) {
            (Some((_, path)), Some(best))
                if best.epoch == self.progress.epoch && self.progress.within == 0 =>
            {
                checkpoint::keep_as(path, &self.config.output_dir, BEST)
            }
            _ => Ok(()),
        }
    }

    fn seconds(&self) -> f64 {
        self.seconds_before + self.started.elapsed().as_secs_f64()
    }

    fn summary(&self) -> Summary {
        let (step, checkpoint) = self.saved.clone().unwrap_or_default();
        let last = self.last_epoch.as_ref();
        Summary {
            step,
            loss: last.map(|line| line.loss),
            val_loss: last.and_then(|line| line.val_loss),
            val_top1: last.and_then(|line| line.val_top1),
            best: self.best,
            seconds: self.seconds(),
            checkpoint,
        }
    }
}

/// The batch at `wanted`, passing over those at an epoch's end that fill no update.
fn next_batch(batches: &mut Batches, wanted: Cursor) -> Result<HostBatch> {
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
