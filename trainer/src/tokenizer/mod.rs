//! The training of a tokenizer, whose codes are targets of pre-training: the loop, and what comes of it.
//!
//! The loop is that of the other kinds of run: the same checkpoints, log, resume to the bit and stop on a signal. At the end of every
//! epoch the tokenizer also stands in the run's folder by itself, for [`load`].

mod config;
mod files;
mod held_out;
mod raw;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use mae_loader::{
    Batches, Cursor, Dataset, DatasetOptions, LabelSource, Loader, LoaderBuilder, Mixture,
    TrainTransform, Transform,
};
use mae_model::tokenizer::Relaxation;
use mae_model::{Tokenizer, ops};

pub use config::TokenizerRun;
pub use files::{load, save};
pub use raw::RawTokenizer;

use crate::checkpoint::retention::Retention;
use crate::checkpoint::{Checkpoint, RunConfig as _};
use crate::config::eval_resize;
use crate::device;
use crate::dist::Group;
use crate::error::{Error, Result};
use crate::metrics::log::TokenizerFigures;
use crate::metrics::prometheus::Page;
use crate::observer::{Observer, Outcome};
use crate::optim::{AdamW, AdamWSettings};
use crate::output;
use crate::picture;
use crate::run::{HeldOutFigures, Journal, Measured, Plan, Saving, Standing, Underway, next_batch};
use crate::update::Update;
use crate::validate::{PICTURED, centred};

/// The run before its first step.
#[derive(Debug)]
pub struct TokenizerStart<'a> {
    /// The resolved settings.
    pub config: &'a TokenizerRun,
    /// Trainable numbers.
    pub parameters: usize,
    /// Training samples.
    pub samples: u64,
    /// Updates an epoch.
    pub steps_per_epoch: u64,
    /// Updates of the whole run.
    pub total_steps: u64,
    /// Updates already done.
    pub step: u64,
    /// The checkpoint that the run goes on from.
    pub resumed: Option<&'a Path>,
}

/// Trains a tokenizer as `config` says, from the start or from where an earlier run stopped.
///
/// When `stop` becomes true, the update in progress is finished and saved, and the run ends with [`Outcome::Stopped`]. The
/// outcome does not depend on how often it was stopped and resumed. The summary's `val_loss` is the error of held-out images that come
/// back from single codes: mean squared, on a scale of -1 to 1.
///
/// # Errors
/// See [`Error`].
pub fn train(
    config: &TokenizerRun,
    stop: &AtomicBool,
    observer: &mut dyn Observer,
) -> Result<Outcome> {
    let checkpoint = output::starting_point::<TokenizerRun>(&config.output_dir, &config.resume)?;
    let page = Page::serve(config.prometheus)?;
    mae_model::set_threads(config.thread_budget())?;
    let data = Data::open(config)?;
    if let Some(checkpoint) = &checkpoint {
        let differences = config.differences(&checkpoint.info.state.config);
        let (digest, fingerprint) = (data.train.digest(), data.loader.fingerprint());
        output::check_same_run(checkpoint, differences, &digest, &fingerprint)?;
    }
    let mut run = Run::new(config, &data, checkpoint.as_ref())?;
    output::prepare(
        &config.output_dir,
        (config.to_toml()?, config.resume_command()),
    )?;
    let measured = Measured {
        page,
        loader: &data.loader,
        device: run.tokenizer.params.flat().device().clone(),
    };
    let mut journal = Journal::open(
        (&config.output_dir, true),
        &run.standing,
        measured,
        observer,
    )?;
    journal.observer.tokenizing(&TokenizerStart {
        config,
        parameters: run.tokenizer.params.count(),
        samples: data.train.len(),
        steps_per_epoch: run.standing.plan.steps_per_epoch,
        total_steps: run.standing.plan.total_steps,
        step: run.standing.progress.step,
        resumed: checkpoint
            .as_ref()
            .map(|checkpoint| checkpoint.info.path.as_path()),
    });
    run.go(stop, &mut journal)
}

/// The data of a run, opened.
struct Data {
    train: Mixture,
    loader: Loader,
    held_out: Option<Loader>,
    pictured: Loader,
}

impl Data {
    fn open(config: &TokenizerRun) -> Result<Self> {
        let options = DatasetOptions {
            labels: LabelSource::None,
            cache_dir: config.cache.clone(),
            cache_bytes: config.cache_size.0,
            ..DatasetOptions::default()
        };
        let open = |specs: &[String]| Dataset::open(specs, &options).map(Arc::new);
        let train = Mixture::new([(open(&config.data)?, 1.0)])?;
        let val = match config.val_data.as_slice() {
            [] => None,
            specs => Some(open(specs)?),
        };
        let (height, width) = config.tokenizer().image_size;
        let common = |builder: LoaderBuilder| {
            builder
                .image_size(height as u32, width as u32)
                .channels(config.channels)
                .seed(config.seed)
                .threads(config.thread_budget())
        };
        let training = common(Loader::mixture(train.clone()));
        let loader = training
            .clone()
            .batch_size(config.batch_size)
            .transform(Transform::Train(TrainTransform {
                scale: config.crop_scale.into(),
                flip: config.flip,
                ..TrainTransform::default()
            }))
            .epochs(config.epochs)
            .prefetch(4)
            .drop_last(true)
            .build()?;
        if loader.steps_per_epoch() == 0 {
            return Err(Error::EpochTooShort {
                samples: train.len(),
                batches: 0,
                batch_size: config.batch_size,
                accum_iter: 1,
            });
        }
        let held_out = val.clone().map(|val| {
            common(Loader::builder(val))
                .batch_size(config.batch_size)
                .transform(Transform::Eval {
                    resize: eval_resize((height, width)),
                })
                .drop_last(false)
                .build()
        });
        let pictured = val.map_or(training, |val| common(Loader::builder(val)));
        let pictured = pictured
            .batch_size(PICTURED)
            .transform(centred((height, width)))
            .prefetch(1)
            .drop_last(false)
            .build()?;
        Ok(Data {
            train,
            loader,
            held_out: held_out.transpose()?,
            pictured,
        })
    }
}

struct Run<'a> {
    config: &'a TokenizerRun,
    data: &'a Data,
    tokenizer: Tokenizer,
    update: Update,
    standing: Standing,
    /// A tokenizer is trained by one process.
    group: Group,
}

impl<'a> Run<'a> {
    fn new(
        config: &'a TokenizerRun,
        data: &'a Data,
        checkpoint: Option<&Checkpoint<TokenizerRun>>,
    ) -> Result<Self> {
        let device = device::open(config.device)?;
        let tokenizer = Tokenizer::new(config.tokenizer(), &device, config.seed)?;
        let params = &tokenizer.params;
        let settings = AdamWSettings {
            beta1: 0.9,
            beta2: 0.999,
            eps: 1e-8,
            weight_decay: 0.0,
        };
        let mut adamw = AdamW::new(params, settings)?;
        if let Some(checkpoint) = checkpoint {
            tokenizer.load_state_dict(&checkpoint.model)?;
            adamw.load_state(params, &checkpoint.optimizer)?;
        }
        let steps_per_epoch = data.loader.steps_per_epoch();
        let plan = Plan {
            accum_iter: 1,
            batches_per_epoch: steps_per_epoch,
            steps_per_epoch,
            total_steps: config.epochs.saturating_mul(steps_per_epoch),
            schedule: config.schedule(),
            log_every: config.log_every,
            clips: false,
        };
        Ok(Run {
            config,
            data,
            update: Update::new(params, adamw, None)?,
            standing: Standing::new(plan, &config.output_dir, checkpoint),
            group: Group::alone(),
            tokenizer,
        })
    }

    fn go(&mut self, stop: &AtomicBool, journal: &mut Journal<'_>) -> Result<Outcome> {
        let mut batches = self.data.loader.batches(self.standing.cursor(0));
        loop {
            let ended = self.standing.epoch_is_open() && self.end_epoch(stop, journal)?;
            let stopping = stop.load(Ordering::Relaxed);
            let finished = self.standing.is_finished();
            if ended || stopping || finished {
                self.save(journal)?;
                journal.begin();
            }
            if ended || finished {
                files::save(&self.config.output_dir, &self.tokenizer)?;
            }
            if finished {
                return Ok(self.standing.finished());
            }
            if stopping {
                return Ok(self.standing.stopped());
            }
            self.train_batch(&mut batches, journal)?;
        }
    }

    fn train_batch(&mut self, batches: &mut Batches, journal: &mut Journal<'_>) -> Result<()> {
        let (begun, waited_before) = (Instant::now(), batches.waited());
        let (before, lr, plan) = (
            self.standing.progress,
            self.standing.lr(),
            self.standing.plan,
        );
        let batch = next_batch(batches, self.standing.cursor(0))?;
        let pixels = held_out::pixels(&self.tokenizer, &batch)?;
        let samples = batch.samples().to_vec();
        let bad_samples = batch.bad().len() as u64;
        drop(batch);
        let relaxation = Relaxation {
            temperature: self
                .config
                .temperature_at(before.step as f64 / plan.steps_per_epoch as f64),
            kl_weight: self.config.kl_weight,
            seed: self.config.seed,
            step: before.step,
        };
        let Self {
            tokenizer, update, ..
        } = self;
        let loss = tokenizer.step(&pixels, &relaxation, &update.grads)?;
        loss.record(&update.record)?;
        update.added();
        update.apply(&tokenizer.params, lr, before.step + 1)?;
        let codes = held_out::usage_of(&loss.tokens, self.config.vocabulary);
        let done = Underway {
            step: before.step + 1,
            epoch: before.epoch,
            lr,
            images: samples.len() as u64,
            samples,
            begun,
            waited: batches.waited().saturating_sub(waited_before),
            bad_samples,
            tokenizer: Some(TokenizerFigures {
                reconstruction: f64::from(loss.reconstruction),
                kl: f64::from(loss.kl),
                perplexity: codes.perplexity,
                temperature: relaxation.temperature,
            }),
        };
        self.standing.queued();
        if let Some(outcome) = self.update.outcome(true)? {
            let train = &self.data.train;
            done.check(&outcome, (&plan, &self.group), |id| train.describe(id))?;
            self.standing.concluded(&done, f64::from(outcome.loss), &[]);
            self.standing.add_up(&self.group)?;
            journal.step(&done, &outcome, done.waited, &self.standing, Vec::new)?;
        }
        Ok(())
    }

    /// Judges, draws and logs at the end of an epoch. False if `stop` came first: then the end is still to come.
    fn end_epoch(&mut self, stop: &AtomicBool, journal: &mut Journal<'_>) -> Result<bool> {
        let mut figures = HeldOutFigures::default();
        if let Some(loader) = &self.data.held_out {
            journal.observer.validating();
            match held_out::held_out(&self.tokenizer, loader, stop)? {
                Some(held_out) => {
                    figures.loss = Some(held_out.error);
                    figures.codes = Some(held_out.codes);
                }
                None => return Ok(false),
            }
        }
        let number = self.standing.progress.epoch + 1;
        let every = self.config.picture_every;
        if every > 0 && (number.is_multiple_of(every) || number == self.config.epochs) {
            self.draw(number, journal)?;
        }
        self.standing.end_epoch(figures, vec![], journal)?;
        Ok(true)
    }

    fn draw(&self, epoch: u64, journal: &mut Journal<'_>) -> Result<()> {
        let Some(batch) = self.data.pictured.batches(Cursor::default()).next() else {
            return Ok(());
        };
        let pairs = held_out::pairs(&self.tokenizer, &batch?)?;
        let step = self.standing.progress.step;
        journal.picture(step, &format!("epoch-{epoch:04}"), &picture::pairs(&pairs))?;
        Ok(())
    }

    /// Saves a checkpoint, unless one stands for this step, and deletes those that are not kept.
    fn save(&mut self, journal: &mut Journal<'_>) -> Result<()> {
        if self.standing.is_saved() {
            return Ok(());
        }
        let params = &self.tokenizer.params;
        if !ops::reduce::global_norm(params.flat())?.is_finite() {
            let step = self.standing.progress.step;
            return Err(Error::NonFiniteWeights { step });
        }
        let saving = Saving {
            config: self.config,
            dataset: self.data.train.digest(),
            fingerprint: self.data.loader.fingerprint(),
            retention: Retention {
                last: self.config.keep_last,
                every: None,
            },
        };
        let (tokenizer, update) = (&self.tokenizer, &self.update);
        let tensors = || Ok((tokenizer.state_dict()?, update.adamw.state(params)?));
        self.standing.save(saving, tensors, (&self.group, journal))
    }
}

/// `count` images of `dataset` at equal distances, each as it was and as `tokenizer` brings it back.
///
/// # Errors
/// If the data cannot be read.
pub fn reconstructions(
    tokenizer: &Tokenizer,
    dataset: &Arc<Dataset>,
    count: usize,
) -> Result<Vec<[picture::Picture; 2]>> {
    let config = tokenizer.config();
    let (height, width) = config.image_size;
    let loader = Loader::builder(Arc::clone(dataset))
        .image_size(height as u32, width as u32)
        .channels(config.channels)
        // A step is a place.
        .batch_size(1)
        .threads(1)
        .prefetch(1)
        .transform(Transform::Eval {
            resize: eval_resize(config.image_size),
        })
        .max_bad_fraction(1.0)
        .build()?;
    let stride = (dataset.len() / count.max(1) as u64).max(1);
    let mut shown = vec![];
    for step in (0..dataset.len()).step_by(stride as usize).take(count) {
        if let Some(batch) = loader.batches(Cursor { epoch: 0, step }).next() {
            shown.extend(held_out::pairs(tokenizer, &batch?)?);
        }
    }
    Ok(shown)
}
