//! The pre-training run: the loop, and when to log, validate, draw and save.
//!
//! The arithmetic of an update is `step`'s, what the output folder may hold [`crate::output`]'s, where a run stands `run`'s.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use candle_core::Device;
use mae_loader::{Batches, HostBatch};
use mae_model::{Feeder, Mae, StateDict};

use crate::checkpoint::retention::Retention;
use crate::checkpoint::{Checkpoint, RunConfig as _};
use crate::config::{PretrainConfig, Resume};
use crate::data::Data;
use crate::device;
use crate::dist::{self, Group, Stage};
use crate::error::Result;
use crate::metrics::log::DataCount;
use crate::metrics::prometheus::Page;
use crate::observer::{Observer, Outcome, Start};
use crate::optim::{AdamW, AdamWSettings};
use crate::output;
use crate::picture;
use crate::run::{HeldOutFigures, Journal, Measured, Plan, Saving, Standing, Underway, next_batch};
use crate::step::{Stepper, UNDERWAY, host_input};
use crate::target::{self, PcaFit};
use crate::validate;

/// Trains as `config` says, from the start or from where an earlier run stopped.
///
/// When `stop` becomes true, the update in progress is finished and saved, and the run ends with
/// [`Outcome::Stopped`]. The outcome of a run does not depend on how often it was stopped, killed and resumed.
///
/// # Errors
/// See [`crate::Error`]. Whatever happens, checkpoints that stand are whole.
pub fn pretrain(
    config: &PretrainConfig,
    stop: &AtomicBool,
    observer: &mut dyn Observer,
) -> Result<Outcome> {
    let patience = Duration::from_secs(config.hang_timeout);
    let device = device::open(config.device.of_rank(&config.launch))?;
    let launch = &config.launch;
    dist::together(launch, &device, patience, observer, |group, observer| {
        with_rollbacks((group, &device), config, stop, observer)
    })
}

/// Goes back to the last checkpoint, where an update does not come to finite numbers, and passes it over: as often as is allowed over the
/// whole run. Every rank comes here at the same update.
fn with_rollbacks(
    (group, device): (&Arc<Group>, &Device),
    config: &PretrainConfig,
    stop: &AtomicBool,
    observer: &mut dyn Observer,
) -> Result<Outcome> {
    let mut config = config.clone();
    let mut skipped = vec![];
    loop {
        let ended = pretrain_in((group, device), &config, &mut skipped, stop, observer);
        let Err(error) = ended else {
            return ended;
        };
        let (Some(step), true) = (
            error.diverged_at(),
            skipped.len() < config.max_rollbacks && !matches!(config.resume, Resume::From(_)),
        ) else {
            return Err(error);
        };
        skipped.push(step);
        if group.is_first() {
            tracing::warn!(
                "{error}. Going back to the last checkpoint, to pass over update {step} (rollback {} of {})",
                skipped.len(),
                config.max_rollbacks
            );
        }
        config.resume = Resume::Auto;
    }
}

fn pretrain_in(
    (group, device): (&Arc<Group>, &Device),
    config: &PretrainConfig,
    skipped: &mut Vec<u64>,
    stop: &AtomicBool,
    observer: &mut dyn Observer,
) -> Result<Outcome> {
    group.enter(Stage::Starting);
    let checkpoint = output::starting_point::<PretrainConfig>(&config.output_dir, &config.resume)?;
    group.agree(
        "the checkpoint to go on from",
        checkpoint
            .as_ref()
            .map(|checkpoint| checkpoint.info.state.step),
    )?;
    let page = Page::serve(config.prometheus.filter(|_| group.is_first()))?;
    mae_model::set_threads(config.thread_budget())?;
    let data = Data::open(config)?;
    group.loader(data.loader.activity());
    group.agree("the settings", config.fingerprint()?)?;
    group.agree("the data", data.train.digest())?;
    if let Some(checkpoint) = &checkpoint {
        let state = &checkpoint.info.state;
        let mut differences = config.differences(&state.config, state.world);
        differences.extend(target::other_tokenizer(config, checkpoint)?);
        output::check_same_run(
            checkpoint,
            differences,
            &data.train.digest(),
            &data.loader.fingerprint(),
        )?;
    }
    for step in checkpoint
        .iter()
        .flat_map(|checkpoint| &checkpoint.info.state.skipped)
    {
        if !skipped.contains(step) {
            skipped.push(*step);
        }
    }
    let (mut run, fit) = Run::new(
        config,
        (group, device),
        &data,
        checkpoint.as_ref(),
        observer,
    )?;
    run.standing.skipped.clone_from(skipped);
    let measured = Measured {
        page,
        loader: &data.loader,
        device: run.stepper.mae.device().clone(),
    };
    if group.is_first() {
        let settings = (config.to_toml()?, config.resume_command());
        output::prepare(&config.output_dir, settings)?;
        if let Some(fit) = fit {
            output::write_fit(&config.output_dir, &fit)?;
        }
    }
    let folder = (config.output_dir.as_path(), group.is_first());
    let mut journal = Journal::open(folder, &run.standing, measured, observer)?;
    journal.observer.started(&Start {
        config,
        parameters: run.stepper.mae.params.count(),
        samples: data.train.len(),
        epoch_samples: data.epoch_samples,
        parts: &data.parts,
        decoder: data.loader.decoder(),
        loader_memory: data.loader.memory_bound(),
        step_memory: run.stepper.memory(),
        steps_per_epoch: data.steps_per_epoch,
        total_steps: run.standing.plan.total_steps,
        step: run.standing.progress.step,
        resumed: checkpoint
            .as_ref()
            .map(|checkpoint| checkpoint.info.path.as_path()),
    });
    drop(checkpoint);
    run.go(stop, &mut journal)
}

struct Run<'a> {
    config: &'a PretrainConfig,
    group: &'a Arc<Group>,
    data: &'a Data,
    stepper: Stepper,
    feeder: Feeder<HostBatch>,
    standing: Standing,
    /// Updates that are queued, the first first, and what they came to is not known yet. None, where the host computes.
    underway: VecDeque<Underway>,
    /// The step at which the last picture was drawn.
    drawn: Option<u64>,
    /// How long the device had waited for data by then, where it counts.
    device_waited: Duration,
}

impl<'a> Run<'a> {
    fn new(
        config: &'a PretrainConfig,
        (group, device): (&'a Arc<Group>, &Device),
        data: &'a Data,
        checkpoint: Option<&Checkpoint>,
        observer: &mut dyn Observer,
    ) -> Result<(Self, Option<PcaFit>)> {
        let mut mae = Mae::new(config.mae(), device, config.seed)?;
        mae.set_precision(config.precision)?;
        let settings = AdamWSettings {
            beta1: config.beta1,
            beta2: config.beta2,
            eps: 1e-8,
            weight_decay: config.weight_decay,
        };
        let mut adamw = AdamW::new(&mae.params, settings)?;
        if config.shard_optimizer && group.world() > 1 {
            adamw = adamw.shard(&mae.params, (group.rank(), group.world()))?;
        }
        let mut fit = None;
        if let Some(checkpoint) = checkpoint {
            mae.load_state_dict(&checkpoint.model)?;
            adamw.load_state(&mae.params, &checkpoint.optimizer)?;
        } else {
            fit = target::prepare(&mut mae, config, data, observer)?;
        }
        // The same on every rank, whatever each made of the seed.
        group.take_first(mae.params.flat())?;
        mae.params.round()?;
        let mut stepper = Stepper::new(
            mae,
            adamw,
            (config.batch_size, config.keep()),
            config.activations(),
            config.clip_grad,
        )?;
        stepper.join(group);
        if config.cuda_graphs {
            stepper.use_graphs()?;
        }
        let whole = config.epochs.saturating_mul(data.steps_per_epoch);
        let plan = Plan {
            accum_iter: config.accum_iter,
            batches_per_epoch: data.loader.steps_per_epoch(),
            steps_per_epoch: data.steps_per_epoch,
            total_steps: config.max_steps.map_or(whole, |most| most.min(whole)),
            schedule: config.schedule(),
            log_every: config.log_every,
            clips: config.clip_grad.is_some(),
        };
        let run = Run {
            config,
            group,
            data,
            stepper,
            feeder: Feeder::new(device, host_input)?,
            standing: Standing::new(plan, &config.output_dir, checkpoint),
            underway: VecDeque::new(),
            drawn: None,
            device_waited: Duration::ZERO,
        };
        Ok((run, fit))
    }

    fn go(&mut self, stop: &AtomicBool, journal: &mut Journal<'_>) -> Result<Outcome> {
        let mut batches = self.data.loader.batches(self.standing.cursor(0));
        loop {
            let at_epoch_end = self.standing.epoch_is_open();
            if at_epoch_end {
                self.conclude(0, journal)?;
            }
            if at_epoch_end && self.end_epoch(stop, journal)? {
                journal.begin();
            }
            let step = self.standing.progress.step;
            let due = match self.config.checkpoint_every {
                Some(every) => step > 0 && step.is_multiple_of(every),
                None => at_epoch_end,
            };
            let stopping = self.standing.is_stopping(stop, self.group);
            let finished = self.standing.is_finished();
            if at_epoch_end || due {
                // What a GPU waits for is not data.
                self.feeder.pause();
            }
            if due || stopping || finished {
                self.conclude(0, journal)?;
            }
            if finished {
                self.draw(&format!("step-{step:08}"), journal)?;
            }
            if due || stopping || finished {
                self.save(journal)?;
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

    /// Queues an update, and reports those that are done.
    fn update(
        &mut self,
        batches: &mut Batches,
        stop: &AtomicBool,
        journal: &mut Journal<'_>,
    ) -> Result<()> {
        let accum = self.config.accum_iter;
        let (begun, waited_before) = (Instant::now(), batches.waited());
        let (step, lr) = (self.standing.progress.step + 1, self.standing.lr());
        let share = 1.0 / (accum * self.group.world()) as f32;
        self.group.step(step);
        if self.standing.skipped.contains(&step) {
            return self.pass_over(batches);
        }
        let (mut samples, mut bad_samples) = (vec![], 0);
        for part in 0..accum {
            self.group.enter(Stage::Data);
            let batch = next_batch(batches, self.standing.cursor(part))?;
            samples.extend_from_slice(batch.samples());
            bad_samples += batch.bad().len() as u64;
            self.group.enter(Stage::Copying);
            let input = self.feeder.feed(&self.stepper.mae.config, batch)?;
            self.group.enter(Stage::Computing);
            if part + 1 < accum {
                self.stepper.batch(&input, share)?;
            } else {
                self.stepper.last_batch(&input, share)?;
                if stop.load(Ordering::Relaxed) {
                    self.stepper.update.record.ask_to_stop()?;
                }
                self.stepper.apply(lr, step)?;
            }
            self.feeder.done()?;
        }
        self.underway.push_back(Underway {
            step,
            epoch: self.standing.progress.epoch,
            lr,
            images: self.config.update_images() as u64,
            samples,
            begun,
            waited: batches.waited().saturating_sub(waited_before),
            bad_samples,
            tokenizer: None,
        });
        self.standing.queued();
        self.conclude(UNDERWAY, journal)
    }

    /// Takes an update's batches and leaves the weights alone.
    fn pass_over(&mut self, batches: &mut Batches) -> Result<()> {
        for part in 0..self.config.accum_iter {
            self.group.enter(Stage::Data);
            next_batch(batches, self.standing.cursor(part))?;
        }
        self.standing.queued();
        Ok(())
    }

    /// Reports the updates that are done, waiting while more than `most` are not.
    fn conclude(&mut self, most: usize, journal: &mut Journal<'_>) -> Result<()> {
        let (data, plan) = (self.data, self.standing.plan);
        // Several ranks learn what became of an update at the same place, so that they have queued the same ones.
        let most = match self.group.world() {
            1 => most,
            _ => most.min(self.stepper.most_behind() as usize),
        };
        while self.group.world() == 1 || self.underway.len() > most {
            let Some(outcome) = self.stepper.outcome(self.underway.len() > most)? else {
                return Ok(());
            };
            let Some(update) = self.underway.pop_front() else {
                return Ok(());
            };
            update.check(&outcome, (&plan, self.group), |id| data.train.describe(id))?;
            if outcome.stop {
                // No rank has queued more than this behind it.
                self.standing
                    .stop_after(update.step + self.stepper.most_behind());
            }
            let counts = data.train.count(&update.samples);
            let loss = f64::from(outcome.loss);
            self.standing.concluded(&update, loss, &counts);
            if plan.logs(update.step) {
                self.standing.add_up(self.group)?;
            }
            // A GPU's own waiting, by its clock; else the host's.
            let waited = match self.feeder.waited()? {
                Some(total) => total - std::mem::replace(&mut self.device_waited, total),
                None => update.waited,
            };
            journal.copying(self.feeder.copying()?);
            let standing = &self.standing;
            journal.step(&update, &outcome, waited, standing, || self.data_counts())?;
        }
        Ok(())
    }

    /// Validates, draws and logs at the end of an epoch. False if `stop` came first: then the end is still to come.
    fn end_epoch(&mut self, stop: &AtomicBool, journal: &mut Journal<'_>) -> Result<bool> {
        let number = self.standing.progress.epoch + 1;
        let last = self.standing.progress.step >= self.standing.plan.total_steps;
        let due = |every: u64| every > 0 && (number.is_multiple_of(every) || last);
        let mut val_loss = None;
        if let Some(loader) = self
            .data
            .held_out
            .as_ref()
            .filter(|_| due(self.config.eval_every))
        {
            journal.observer.validating();
            let Stepper { mae, workspace, .. } = &mut self.stepper;
            let keep = self.config.keep();
            match validate::held_out_loss(mae, loader, workspace, keep, (stop, self.group))? {
                Some(held_out) => val_loss = Some(held_out.loss),
                None => {
                    self.standing.stop_after(self.standing.progress.step);
                    return Ok(false);
                }
            }
        }
        if due(self.config.picture_every) {
            self.draw(&format!("epoch-{number:04}"), journal)?;
        }
        self.standing.add_up(self.group)?;
        let counts = self.data_counts();
        let held_out = HeldOutFigures {
            loss: val_loss,
            ..Default::default()
        };
        self.standing.end_epoch(held_out, counts, journal)?;
        Ok(true)
    }

    /// Draws the picture `name`, unless this step has one or pictures are off.
    fn draw(&mut self, name: &str, journal: &mut Journal<'_>) -> Result<()> {
        let step = self.standing.progress.step;
        if self.config.picture_every == 0 || self.drawn == Some(step) || !self.group.is_first() {
            return Ok(());
        }
        self.group.enter(Stage::Evaluating);
        let three =
            validate::reconstructions(&self.stepper.mae, &self.data.pictured, self.config.keep())?;
        journal.picture(step, name, &picture::grid(&three))?;
        self.drawn = Some(step);
        Ok(())
    }

    /// Saves a checkpoint, unless one stands for this step, and deletes those that are not kept.
    fn save(&mut self, journal: &mut Journal<'_>) -> Result<()> {
        if self.standing.is_saved() {
            return Ok(());
        }
        let (config, stepper) = (self.config, &self.stepper);
        let step = self.standing.progress.step;
        stepper.check_finite(step)?;
        if self.group.world() > 1 {
            self.group.agree("the weights", stepper.digest()?)?;
        }
        let (mae, adamw) = (&stepper.mae, &stepper.update.adamw);
        let moments = match adamw.shards() {
            Some(_) => adamw.whole_state(&mae.params, self.group)?,
            None if self.group.is_first() => adamw.state(&mae.params)?,
            None => StateDict::new(),
        };
        let every = config
            .keep_every
            .map(|epochs| epochs.saturating_mul(self.data.steps_per_epoch));
        let saving = Saving {
            config,
            dataset: self.data.train.digest(),
            fingerprint: self.data.loader.fingerprint(),
            retention: Retention {
                last: config.keep_last,
                every,
            },
        };
        let tensors = || Ok((mae.state_dict()?, moments));
        self.standing.save(saving, tensors, (self.group, journal))
    }

    /// The epoch's samples of each data set so far, by name, where several are mixed.
    fn data_counts(&self) -> Vec<DataCount> {
        let parts = self.data.parts.iter().zip(self.standing.data_samples());
        parts
            .map(|(part, &samples)| DataCount {
                name: part.name.clone(),
                samples,
            })
            .collect()
    }
}
