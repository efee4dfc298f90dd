//! `mae eval knn` and `mae eval linear-probe`: what frozen features tell of the classes.

use std::sync::Arc;

use indicatif::ProgressBar;
use mae_loader::{Dataset, LabelSource};
use mae_model::Encoder;
use mae_trainer::eval::classes::labels;
use mae_trainer::eval::features::{Extractor, FeaturePooling, features};
use mae_trainer::eval::knn::{KnnOptions, knn};
use mae_trainer::eval::linear_probe::{Progress, Recipe, SweepOptions, linear_probe, sweep};
use mae_trainer::eval::{Classes, Features};
use serde_json::Value;

use super::args::{FeatureArgs, KnnArgs, ProbeArgs};
use super::report::{Figures, percent};
use super::{Subject, open, rows};
use crate::terminal::bars;
use crate::{Outcome, Usage, progress};

/// Without a test set, every this many-th sample of the data is held out.
const HELD_OUT_EVERY: usize = 5;

/// The settings of a report, by name.
type Settings = Vec<(&'static str, Value)>;

/// `mae eval knn`.
pub(super) fn neighbours(args: &KnnArgs) -> anyhow::Result<Outcome> {
    let options = KnnOptions {
        k: args.k.clone(),
        temperature: args.temperature as f32,
    };
    let settings = vec![("temperature", args.temperature.into())];
    let pooling = args.features.pooling.unwrap_or(FeaturePooling::Mean);
    judge("knn", &args.features, pooling, settings, |train, test| {
        let accuracies = knn(train, test, &options)?;
        Ok(Figures::Knn(
            options.k.iter().copied().zip(accuracies).collect(),
        ))
    })
}

/// `mae eval linear-probe`.
pub(super) fn probe(args: &ProbeArgs) -> anyhow::Result<Outcome> {
    let pooling = args.features.pooling.unwrap_or(FeaturePooling::Token);
    if !args.cached {
        return recipe(args, pooling);
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
    judge(
        "linear-probe",
        &args.features,
        pooling,
        settings,
        |train, test| Ok(Figures::Sweep(sweep(train, test, &options)?)),
    )
}

/// The reference code's linear probe, trained on augmented images.
fn recipe(args: &ProbeArgs, pooling: FeaturePooling) -> anyhow::Result<Outcome> {
    let common = &args.features.common;
    let subject = Subject::<Encoder>::load(common)?;
    let sets = Sets::open("linear-probe", &args.features)?;
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
        &common.stream(),
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
    report.settings = sets.settings(settings, pooling, &args.features);
    report.rows = rows(reports?.into_iter().map(Figures::Probe));
    report.print(common.json)
}

/// Features by the trained and the random encoder, each judged by `figures` of a train and a test set.
fn judge(
    evaluation: &'static str,
    args: &FeatureArgs,
    pooling: FeaturePooling,
    settings: Settings,
    figures: impl Fn(&Features, &Features) -> anyhow::Result<Figures>,
) -> anyhow::Result<Outcome> {
    let common = &args.common;
    let subject = Subject::<Encoder>::load(common)?;
    let sets = Sets::open(evaluation, args)?;
    let extractors =
        [&subject.trained, &subject.random].map(|mae| Extractor::Encoder(mae, pooling));
    let stream = common.stream();
    let bar = images(sets.train.len() + sets.test.as_ref().map_or(0, |test| test.len()));
    let of = |set: &Arc<Dataset>| {
        features(set, &extractors, &stream, &mut |images| {
            bar.inc(images as u64)
        })
    };
    let of_train = of(&sets.train)?;
    let pairs: Vec<(Features, Features)> = match &sets.test {
        Some(test) => of_train.into_iter().zip(of(test)?).collect(),
        None => of_train.iter().map(|all| all.split(held_out)).collect(),
    };
    bar.finish_and_clear();
    let judged: Vec<Figures> = pairs
        .iter()
        .map(|(train, test)| figures(train, test))
        .collect::<anyhow::Result<_>>()?;
    let mut report = subject.report(evaluation, pairs[0].1.len() as u64);
    report.train_samples = Some(pairs[0].0.len() as u64);
    report.settings = sets.settings(settings, pooling, args);
    report.rows = rows(judged.into_iter());
    report.print(common.json)
}

/// A train and a test set whose labels suit each other.
struct Sets {
    train: Arc<Dataset>,
    /// `None` where every fifth sample of the train set is held out.
    test: Option<Arc<Dataset>>,
    classes: Classes,
}

impl Sets {
    fn open(evaluation: &str, args: &FeatureArgs) -> anyhow::Result<Self> {
        if args.label_field == LabelSource::None {
            return Err(Usage(format!(
                "{evaluation} needs labels: --label-field cannot be none"
            ))
            .into());
        }
        let open = |specs: &[String], classes: Option<Vec<String>>| {
            open(&args.common.cache, specs, args.label_field.clone(), classes)
        };
        let train = open(&args.common.data, None)?;
        let names = train.classes().map(<[String]>::to_vec);
        let test = match args.val_data.as_slice() {
            [] => None,
            specs => Some(open(specs, names.clone())?),
        };
        let (of_train, of_test) = match &test {
            Some(test) => (labels(&train)?, labels(test)?),
            None => split(&labels(&train)?),
        };
        let classes = Classes::survey(&of_train, &of_test, names.as_deref())?;
        if let Some(warning) = classes.warning(names.as_deref()) {
            tracing::warn!("{warning}");
        }
        Ok(Self {
            train,
            test,
            classes,
        })
    }

    fn settings(&self, own: Settings, pooling: FeaturePooling, args: &FeatureArgs) -> Settings {
        let shared = [
            ("pooling", pooling.to_string().into()),
            ("classes", self.classes.count.into()),
            ("held_out", self.test.is_none().into()),
            ("device", args.common.device.to_string().into()),
        ];
        own.into_iter().chain(shared).collect()
    }
}

/// Whether the sample of this number is held out, where there is no test set.
pub(super) fn held_out(index: usize) -> bool {
    index % HELD_OUT_EVERY == HELD_OUT_EVERY - 1
}

fn split(labels: &[u32]) -> (Vec<u32>, Vec<u32>) {
    let part = |of_test: bool| {
        let numbered = labels.iter().enumerate();
        let part = numbered.filter(|&(index, _)| held_out(index) == of_test);
        part.map(|(_, &label)| label).collect()
    };
    (part(false), part(true))
}

/// A bar that counts encoded images.
fn images(count: u64) -> ProgressBar {
    bars().add(progress::bar(count, "images"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_fifth_sample_is_held_out() {
        let labels: Vec<u32> = (0..12).collect();
        let (train, test) = split(&labels);
        assert_eq!(train, [0, 1, 2, 3, 5, 6, 7, 8, 10, 11]);
        assert_eq!(test, [4, 9]);
    }
}
