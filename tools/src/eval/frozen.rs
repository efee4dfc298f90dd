//! `mae eval knn` and `mae eval linear-probe`: what frozen features tell of the classes.

use mae_model::Encoder;
use mae_trainer::eval::Features;
use mae_trainer::eval::features::{Extractor, FeaturePooling};
use mae_trainer::eval::knn::{KnnOptions, knn};
use mae_trainer::eval::linear_probe::{Progress, Recipe, SweepOptions, linear_probe, sweep};
use serde_json::Value;

use super::args::{FeatureArgs, KnnArgs, LabelArgs, ProbeArgs};
use super::report::{Figures, percent};
use super::sets::Sets;
use super::subject::Subject;
use super::{images, rows};
use crate::{Outcome, Usage};

/// The settings of a report, by name.
type Settings = Vec<(&'static str, Value)>;

/// The class token, as in the paper, by its recipe and on cached features alike.
const PROBE_POOLING: FeaturePooling = FeaturePooling::Token;

/// What judges features once they are there.
pub(super) enum Judge {
    Knn(KnnOptions),
    Sweep(SweepOptions),
}

impl Judge {
    /// The features that it takes: its own where `args` asks for no other.
    pub(super) fn pooling(&self, args: &LabelArgs) -> FeaturePooling {
        args.pooling.unwrap_or(match self {
            Self::Knn(_) => FeaturePooling::Mean,
            Self::Sweep(_) => PROBE_POOLING,
        })
    }

    /// Whether it can judge at all by a train set of `samples` samples.
    ///
    /// # Errors
    /// Where an option does not suit them.
    pub(super) fn check(&self, samples: usize) -> Result<(), Usage> {
        let checked = match self {
            Self::Knn(options) => options.check(samples),
            Self::Sweep(options) => options.check(samples),
        };
        checked.map_err(|error| Usage(error.to_string()))
    }

    /// What it finds.
    ///
    /// # Errors
    /// Where the features do not allow it.
    pub(super) fn figures(&self, train: &Features, test: &Features) -> anyhow::Result<Figures> {
        Ok(match self {
            Self::Knn(options) => {
                let accuracies = knn(train, test, options)?;
                Figures::Knn(options.k.iter().copied().zip(accuracies).collect())
            }
            Self::Sweep(options) => Figures::Sweep(sweep(train, test, options)?),
        })
    }
}

/// `mae eval knn`.
pub(super) fn neighbours(args: &KnnArgs) -> anyhow::Result<Outcome> {
    let options = KnnOptions {
        k: args.k.clone(),
        temperature: args.temperature as f32,
    };
    let settings = vec![("temperature", args.temperature.into())];
    judge("knn", &args.features, &Judge::Knn(options), settings)
}

/// `mae eval linear-probe`.
pub(super) fn probe(args: &ProbeArgs) -> anyhow::Result<Outcome> {
    if !args.cached {
        return recipe(args);
    }
    let mut options = SweepOptions {
        seed: args.seed,
        ..SweepOptions::default()
    };
    options.epochs = args.epochs.unwrap_or(options.epochs);
    options.batch_size = args.batch_size.unwrap_or(options.batch_size);
    if !args.learning_rates.is_empty() {
        options.learning_rates.clone_from(&args.learning_rates);
    }
    let settings = vec![
        ("cached", true.into()),
        ("epochs", options.epochs.into()),
        ("batch_size", options.batch_size.into()),
        ("learning_rates", options.learning_rates.clone().into()),
        ("seed", args.seed.into()),
    ];
    let judged_by = Judge::Sweep(options);
    judge("linear-probe", &args.features, &judged_by, settings)
}

/// The reference code's linear probe, trained on augmented images.
fn recipe(args: &ProbeArgs) -> anyhow::Result<Outcome> {
    let common = &args.features.common;
    let pooling = args.features.labels.pooling.unwrap_or(PROBE_POOLING);
    let subject = Subject::<Encoder>::load(common)?;
    let sets = args.features.sets("linear-probe")?;
    let Some(test) = &sets.test else {
        return Err(Usage(
            "the probe trains on all of --data: name test shards with --val-data, or add --cached, which holds samples out".into(),
        )
        .into());
    };
    let mut recipe = Recipe::reference(&subject.trained.config);
    recipe.seed = args.seed;
    recipe.epochs = args.epochs.unwrap_or(recipe.epochs);
    recipe.batch_size = args.batch_size.unwrap_or(recipe.batch_size);
    recipe.blr = args.blr.unwrap_or(recipe.blr);
    recipe.warmup_epochs = args
        .warmup_epochs
        .unwrap_or_else(|| recipe.warmup_epochs.min(recipe.epochs as f64 / 5.0));
    let plan = recipe
        .plan(sets.train.len())
        .map_err(|error| Usage(error.to_string()))?;
    if plan.batch_size < recipe.batch_size {
        tracing::warn!(
            "the train set has fewer samples than a batch of {}: each epoch is one batch of all {}, at a peak learning rate of {:.3}. \
             On small data --cached says more",
            recipe.batch_size,
            plan.batch_size,
            plan.schedule.peak
        );
    }
    let mut extractors = vec![Extractor::Encoder(&subject.trained, pooling)];
    if args.random_weights {
        extractors.push(Extractor::Encoder(&subject.random, pooling));
    }
    let bar = images(test.len() + plan.images());
    let reports = linear_probe(
        (&sets.train, test),
        &extractors,
        sets.classes.count,
        &recipe,
        &common.encode.stream(),
        &mut |progress| match progress {
            Progress::Images(count) => bar.inc(count as u64),
            Progress::Epoch(epoch, reports) => tracing::info!(
                "epoch {epoch}/{}: loss {:.4}, top-1 {}",
                plan.epochs,
                reports[0].train_loss,
                percent(reports[0].accuracy.top1)
            ),
        },
    );
    bar.finish_and_clear();
    let settings = vec![
        ("cached", false.into()),
        ("epochs", plan.epochs.into()),
        ("warmup_epochs", recipe.warmup_epochs.into()),
        ("batch_size", plan.batch_size.into()),
        ("learning_rate", plan.schedule.peak.into()),
        ("seed", args.seed.into()),
    ];
    let mut report = subject.report("linear-probe", test.len());
    report.train_samples = Some(sets.train.len());
    report.settings = settings_of(settings, pooling, &sets, &args.features);
    report.rows = rows(reports?.into_iter().map(Figures::Probe));
    report.print(common.json)
}

/// The trained and the random encoder's features, each judged by `judge`.
fn judge(
    evaluation: &'static str,
    args: &FeatureArgs,
    judge: &Judge,
    settings: Settings,
) -> anyhow::Result<Outcome> {
    let common = &args.common;
    let pooling = judge.pooling(&args.labels);
    let subject = Subject::<Encoder>::load(common)?;
    let sets = args.sets(evaluation)?;
    judge.check(sets.train_samples)?;
    let extractors =
        [&subject.trained, &subject.random].map(|encoder| Extractor::Encoder(encoder, pooling));
    let pairs = sets.features(&extractors, &common.encode)?;
    let judged: Vec<Figures> = pairs
        .iter()
        .map(|(train, test)| judge.figures(train, test))
        .collect::<anyhow::Result<_>>()?;
    let mut report = subject.report(evaluation, pairs[0].1.len() as u64);
    report.train_samples = Some(pairs[0].0.len() as u64);
    report.settings = settings_of(settings, pooling, &sets, args);
    report.rows = rows(judged.into_iter());
    report.print(common.json)
}

/// An evaluation's own settings, and those that all have.
fn settings_of(
    own: Settings,
    pooling: FeaturePooling,
    sets: &Sets,
    args: &FeatureArgs,
) -> Settings {
    let shared = [
        ("pooling", pooling.to_string().into()),
        ("classes", sets.classes.count.into()),
        ("held_out", sets.test.is_none().into()),
    ];
    let encode = args.common.encode.settings();
    own.into_iter().chain(shared).chain(encode).collect()
}

impl FeatureArgs {
    fn sets(&self, evaluation: &str) -> anyhow::Result<Sets> {
        let common = &self.common;
        Sets::open(evaluation, &common.data.specs, &self.labels, &common.encode)
    }
}
