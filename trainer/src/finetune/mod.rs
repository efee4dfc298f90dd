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

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use candle_core::{Device, Tensor};
use mae_loader::{Batches, HostBatch, MemoryBound, Mixing, mix_draw};
use mae_model::ops::augment::{Augmentation, PixelBox};
use mae_model::{DropPath, VitClassifier, VitInput, VitTraining};

use self::data::Data;
use self::step::Stepper;
use crate::checkpoint::retention::Retention;
use crate::checkpoint::{self, Best, Checkpoint, RunConfig as _};
use crate::dist::{self, Group, Stage};
use crate::error::{Error, Result};
use crate::eval::Accuracy;
use crate::metrics::prometheus::Page;
use crate::observer::{Observer, Outcome};
use crate::optim::{AdamW, AdamWSettings};
use crate::run::{HeldOutFigures, Journal, Measured, Plan, Saving, Standing, Underway, next_batch};
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
    let patience = Duration::from_secs(config.hang_timeout);
    let device = device::open(config.device.of_rank(&config.launch))?;
    let launch = &config.launch;
    dist::together(launch, &device, patience, observer, |group, observer| {
        finetune_in((group, &device), config, stop, observer)
    })
}

fn finetune_in(
    (group, device): (&Arc<Group>, &Device),
    config: &FinetuneConfig,
    stop: &AtomicBool,
    observer: &mut dyn Observer,
) -> Result<Outcome> {
    let resumed = output::starting_point::<FinetuneConfig>(&config.output_dir, &config.resume)?;
    let resumed_at = resumed
        .as_ref()
        .map(|checkpoint| checkpoint.info.state.step);
    group.agree("the checkpoint to go on from", resumed_at)?;
    let page = Page::serve(config.prometheus.filter(|_| group.is_first()))?;
    mae_model::set_threads(config.thread_budget())?;
    let data = Data::open(config)?;
    if let Some(checkpoint) = &resumed {
        let state = &checkpoint.info.state;
        let differences = config.differences(&state.config, state.world);
        let (digest, fingerprint) = (data.train.digest(), data.loader.fingerprint());
        output::check_same_run(checkpoint, differences, digest, &fingerprint)?;
    }
    group.loader(data.loader.activity());
    group.agree("the settings", config.fingerprint()?)?;
    group.agree("the data", data.train.digest().to_owned())?;
    let mut run = Run::new(config, (group, device), &data, resumed.as_ref())?;
    if group.is_first() {
        let settings = (config.to_toml()?, config.resume_command());
        output::prepare(&config.output_dir, settings)?;
    }
    let measured = Measured {
        page,
        loader: &data.loader,
        device: run.stepper.vit.device().clone(),
    };
    let folder = (config.output_dir.as_path(), group.is_first());
    let mut journal = Journal::open(folder, &run.standing, measured, observer)?;
    run.announce(resumed.as_ref(), &mut journal);
    // An end between saving a checkpoint and keeping it as the best is made up for.
    run.keep_best()?;
    drop(resumed);
    run.go(stop, &mut journal)
}

struct Run<'a> {
    config: &'a FinetuneConfig,
    group: &'a Arc<Group>,
    data: &'a Data,
    stepper: Stepper,
    /// Of drop path, of each block.
    rates: Vec<f64>,
    /// How batches are mixed.
    mixing: Mixing,
    standing: Standing,
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
        (group, device): (&'a Arc<Group>, &Device),
        data: &'a Data,
        resumed: Option<&Checkpoint<FinetuneConfig>>,
    ) -> Result<Self> {
        let vit = VitClassifier::new(
            config.vit(),
            data.classes,
            config.pooling,
            device,
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
        if let Some(checkpoint) = resumed {
            adamw.load_state(&vit.params, &checkpoint.optimizer)?;
        }
        let mut rates = DropPath::rates(config.drop_path, config.depth);
        // Frozen blocks compute what they did when they were trained.
        rates[..config.freeze_blocks].fill(0.0);
        let drops = rates.iter().any(|&rate| rate > 0.0);
        // The same on every rank, whatever each made of the seed.
        group.take_first(vit.params.flat())?;
        vit.params.round()?;
        let mut stepper = Stepper::new(
            vit,
            adamw,
            (config.batch_size, drops),
            config.activations(),
            config.clip_grad,
        )?;
        stepper.update.join(Arc::clone(group));
        let plan = Plan {
            accum_iter: config.accum_iter,
            batches_per_epoch: data.loader.steps_per_epoch(),
            steps_per_epoch: data.steps_per_epoch,
            total_steps: config.epochs.saturating_mul(data.steps_per_epoch),
            schedule: config.schedule(),
            log_every: config.log_every,
            clips: config.clip_grad.is_some(),
        };
        Ok(Run {
            config,
            group,
            data,
            stepper,
            rates: if drops { rates } else { vec![] },
            mixing: config.mixing()?,
            standing: Standing::new(plan, &config.output_dir, resumed),
        })
    }

    fn announce(&self, resumed: Option<&Checkpoint<FinetuneConfig>>, journal: &mut Journal<'_>) {
        let (config, data, vit) = (self.config, self.data, &self.stepper.vit);
        let trained = vit.params.specs().iter().filter(|spec| {
            recipe::treatment(spec, config.depth, config.layer_decay, config.freeze_blocks)
                .is_some()
        });
        journal.observer.finetuning(&FinetuneStart {
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
            total_steps: self.standing.plan.total_steps,
            step: self.standing.progress.step,
            resumed: resumed.map(|checkpoint| checkpoint.info.path.as_path()),
        });
    }

    fn go(&mut self, stop: &AtomicBool, journal: &mut Journal<'_>) -> Result<Outcome> {
        let mut batches = self.data.loader.batches(self.standing.cursor(0));
        loop {
            let (mut due, mut best) = (false, false);
            if self.standing.epoch_is_open() {
                due = true;
                if let Ended::Done { best: is_best } = self.end_epoch(stop, journal)? {
                    best = is_best;
                    journal.begin();
                }
            }
            let stopping = self.standing.is_stopping(stop, self.group);
            let finished = self.standing.is_finished();
            if due || stopping || finished {
                self.save(journal)?;
            }
            if best {
                self.keep_best()?;
            }
            if finished {
                return Ok(self.standing.finished());
            }
            if stopping {
                return Ok(self.standing.stopped());
            }
            self.update(&mut batches, stop, journal)?;
        }
    }

    fn update(
        &mut self,
        batches: &mut Batches,
        stop: &AtomicBool,
        journal: &mut Journal<'_>,
    ) -> Result<()> {
        self.group.step(self.standing.progress.step + 1);
        let (accum, data) = (self.config.accum_iter, self.data);
        let (begun, waited_before) = (Instant::now(), batches.waited());
        let (before, lr) = (self.standing.progress, self.standing.lr());
        let (mut samples, mut bad_samples) = (vec![], 0);
        for part in 0..accum {
            self.group.enter(Stage::Data);
            let batch = next_batch(batches, self.standing.cursor(part))?;
            let number = before.step * accum as u64 + part as u64;
            let (input, training) = self.batch(&batch, number)?;
            samples.extend_from_slice(batch.samples());
            bad_samples += batch.bad().len() as u64;
            drop(batch);
            self.group.enter(Stage::Computing);
            let share = 1.0 / (accum * self.group.world()) as f32;
            self.stepper.batch(&input, &training, share)?;
        }
        let update = Underway {
            step: before.step + 1,
            epoch: before.epoch,
            lr,
            images: (self.config.batch_size * accum * self.group.world()) as u64,
            samples,
            begun,
            waited: batches.waited().saturating_sub(waited_before),
            bad_samples,
            tokenizer: None,
        };
        if stop.load(Ordering::Relaxed) {
            self.stepper.update.record.ask_to_stop()?;
        }
        self.stepper.apply(lr, update.step)?;
        self.standing.queued();
        if let Some(outcome) = self.stepper.update.outcome(true)? {
            let plan = self.standing.plan;
            update.check(&outcome, (&plan, self.group), |id| data.train.describe(id))?;
            if outcome.stop {
                self.standing.stop_after(update.step);
            }
            self.standing
                .concluded(&update, f64::from(outcome.loss), &[]);
            if plan.logs(update.step) {
                self.standing.add_up(self.group)?;
            }
            let standing = &self.standing;
            journal.step(&update, &outcome, update.waited, standing, Vec::new)?;
        }
        Ok(())
    }

    /// A batch on the device, and what training adds to it. `number` counts the run's batches.
    fn batch(&self, batch: &HostBatch, number: u64) -> Result<(VitInput, VitTraining)> {
        let (config, classes) = (self.config, self.data.classes);
        let vit = &self.stepper.vit;
        // Each rank's own draws.
        let number = number * self.group.world() as u64 + self.group.rank() as u64;
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
        let mix = mix_draw(
            &self.mixing,
            config.image_size(),
            config.seed,
            batch.cursor(),
        );
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
    fn end_epoch(&mut self, stop: &AtomicBool, journal: &mut Journal<'_>) -> Result<Ended> {
        let number = self.standing.progress.epoch + 1;
        let last = self.standing.progress.step >= self.standing.plan.total_steps;
        let due = number.is_multiple_of(self.config.eval_every) || last;
        let mut evaluation = None;
        if let Some(val) = self.data.val.as_ref().filter(|_| due) {
            journal.observer.validating();
            let Stepper { vit, workspace, .. } = &mut self.stepper;
            evaluation = evaluate::evaluate(vit, val, workspace, (stop, self.group))?;
            if evaluation.is_none() {
                self.standing.stop_after(self.standing.progress.step);
                return Ok(Ended::Stopped);
            }
        }
        let (loss, accuracy) = (
            evaluation.map(|evaluation| evaluation.loss),
            evaluation.map(|evaluation| evaluation.accuracy),
        );
        let before = self.standing.best;
        let best = accuracy.filter(|now| before.is_none_or(|best| now.top1 > best.top1));
        if let Some(Accuracy { top1, .. }) = best {
            self.standing.best = Some(Best {
                epoch: number,
                top1,
            });
        }
        let held_out = HeldOutFigures {
            loss,
            accuracy,
            ..Default::default()
        };
        self.standing.end_epoch(held_out, vec![], journal)?;
        Ok(Ended::Done {
            best: best.is_some(),
        })
    }

    /// Saves a checkpoint, unless one stands for this step, and deletes those that are not kept.
    fn save(&mut self, journal: &mut Journal<'_>) -> Result<()> {
        if self.standing.is_saved() {
            return Ok(());
        }
        let saving = Saving {
            config: self.config,
            dataset: self.data.train.digest().to_owned(),
            fingerprint: self.data.loader.fingerprint(),
            retention: Retention {
                last: self.config.keep_last,
                every: None,
            },
        };
        let Stepper { vit, update, .. } = &self.stepper;
        let tensors = || Ok((vit.state_dict()?, update.adamw.state(&vit.params)?));
        self.standing.save(saving, tensors, (self.group, journal))
    }

    /// Keeps the checkpoint that stands as the best, if it is.
    fn keep_best(&self) -> Result<()> {
        if !self.group.is_first() {
            return Ok(());
        }
        let Standing { progress, best, .. } = &self.standing;
        match (self.standing.checkpoint(), best) {
            (Some(path), Some(best)) if best.epoch == progress.epoch && progress.within == 0 => {
                checkpoint::keep_as(path, &self.config.output_dir, BEST)
            }
            _ => Ok(()),
        }
    }
}
