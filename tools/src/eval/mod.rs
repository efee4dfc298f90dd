//! `mae eval`: what a checkpoint is worth, beside the same network with random weights.
//!
//! Each evaluation gives a [`Report`], printed as a table or as JSON; the arithmetic is `mae_trainer::eval`'s.

mod args;
mod reconstruct;
mod report;
mod summary;

use std::sync::Arc;

use mae_loader::{Dataset, DatasetOptions, LabelSource};
use mae_model::{Encoder, Mae};
use mae_trainer::checkpoint::{Source, load_encoder, load_mae};
use mae_trainer::eval::features::{Extractor, features};
use mae_trainer::eval::knn::{KnnOptions, knn};
use mae_trainer::eval::linear_probe::{ProbeOptions, linear_probe};
use mae_trainer::eval::loss::masked_loss;
use mae_trainer::eval::{Features, StreamOptions};

pub(crate) use args::EvalArgs;
use args::{Common, FeatureArgs, KnnArgs, LossArgs, ProbeArgs, What};
pub(crate) use report::percent;
use report::{Figures, Report, Row};

use crate::cli::CacheArgs;
use crate::{Outcome, Usage};

/// Without a test set, every this many-th sample of the data is held out.
const HELD_OUT_EVERY: usize = 5;

/// What a row of a report is called.
const TRAINED: &str = "checkpoint";
const RANDOM: &str = "random weights";

/// Runs `mae eval`.
///
/// # Errors
/// Where the checkpoint or the data cannot be read, or do not fit each other.
pub(crate) fn run(args: EvalArgs) -> anyhow::Result<Outcome> {
    match args.what {
        What::Loss(args) => loss(&args),
        What::Reconstruct(args) => reconstruct::run(&args),
        What::Knn(args) => neighbours(&args),
        What::LinearProbe(args) => probe(&args),
        What::Report(args) => summary::run(&args),
    }
}

/// What is judged, and the same before training.
struct Subject<T> {
    trained: T,
    random: T,
    source: Source,
}

impl Subject<Mae> {
    fn load(common: &Common) -> anyhow::Result<Self> {
        mae_model::set_threads(common.threads())?;
        let (trained, source) = load_mae(&common.checkpoint, &common.import.options())?;
        let random = Mae::new(trained.config.clone(), trained.device(), source.seed())?;
        Ok(Self {
            trained,
            random,
            source,
        })
    }
}

impl Subject<Encoder> {
    fn load(common: &Common) -> anyhow::Result<Self> {
        mae_model::set_threads(common.threads())?;
        let (trained, source) = load_encoder(&common.checkpoint, &common.import.options())?;
        let random = source.untrained(&trained)?;
        Ok(Self {
            trained,
            random,
            source,
        })
    }
}

impl<T> Subject<T> {
    fn report(&self, evaluation: &'static str, samples: u64) -> Report {
        Report {
            evaluation,
            checkpoint: self.source.path().display().to_string(),
            step: self.source.step(),
            train_samples: None,
            samples,
            settings: vec![],
            rows: vec![],
        }
    }
}

fn loss(args: &LossArgs) -> anyhow::Result<Outcome> {
    let subject = Subject::<Mae>::load(&args.common)?;
    let data = open(
        &args.common.cache,
        &args.common.data,
        LabelSource::None,
        None,
    )?;
    let ratio = args.mask_ratio.unwrap_or(subject.source.mask_ratio());
    let models = [&subject.trained, &subject.random];
    let losses = masked_loss(&data, &models, ratio, args.seed, &args.common.stream())?;
    let mut report = subject.report("loss", data.len());
    report.settings = vec![
        ("mask_ratio", ratio.into()),
        ("seed", args.seed.into()),
        ("norm_pix_loss", subject.trained.config.norm_pix_loss.into()),
    ];
    report.rows = rows(losses.into_iter().map(Figures::Loss));
    report.print(args.common.json)
}

fn neighbours(args: &KnnArgs) -> anyhow::Result<Outcome> {
    let options = KnnOptions {
        k: args.k,
        temperature: args.temperature,
    };
    let settings = vec![
        ("k", args.k.into()),
        ("temperature", f64::from(args.temperature).into()),
    ];
    judge("knn", &args.features, settings, |train, test| {
        Ok(Figures::Accuracy(knn(train, test, &options)?))
    })
}

fn probe(args: &ProbeArgs) -> anyhow::Result<Outcome> {
    let options = ProbeOptions {
        seed: args.seed,
        ..ProbeOptions::default()
    };
    judge(
        "linear-probe",
        &args.features,
        vec![("seed", args.seed.into())],
        |train, test| Ok(Figures::Probe(linear_probe(train, test, &options)?)),
    )
}

/// Features by the trained and the random encoder, each judged by `figures` of a train and a test set.
fn judge(
    evaluation: &'static str,
    args: &FeatureArgs,
    mut settings: Vec<(&'static str, serde_json::Value)>,
    figures: impl Fn(&Features, &Features) -> anyhow::Result<Figures>,
) -> anyhow::Result<Outcome> {
    let common = &args.common;
    if args.label_field == LabelSource::None {
        return Err(Usage(format!(
            "{evaluation} needs labels: --label-field cannot be none"
        ))
        .into());
    }
    let subject = Subject::<Encoder>::load(common)?;
    let train = open(&common.cache, &common.data, args.label_field.clone(), None)?;
    let test = match args.val_data.as_slice() {
        [] => None,
        specs => {
            let classes = train.classes().map(<[String]>::to_vec);
            Some(open(
                &common.cache,
                specs,
                args.label_field.clone(),
                classes,
            )?)
        }
    };
    let extractors = [&subject.trained, &subject.random]
        .map(|encoder| Extractor::Encoder(encoder, args.pooling));
    let stream = common.stream();
    let of_train = features(&train, &extractors, &stream)?;
    let pairs: Vec<(Features, Features)> = match test {
        Some(test) => of_train
            .into_iter()
            .zip(features(&test, &extractors, &stream)?)
            .collect(),
        None => of_train
            .iter()
            .map(|all| all.split(|index| index % HELD_OUT_EVERY == HELD_OUT_EVERY - 1))
            .collect(),
    };
    let judged: Vec<Figures> = pairs
        .iter()
        .map(|(train, test)| figures(train, test))
        .collect::<anyhow::Result<_>>()?;
    let mut report = subject.report(evaluation, pairs[0].1.len() as u64);
    report.train_samples = Some(pairs[0].0.len() as u64);
    settings.push(("pooling", args.pooling.to_string().into()));
    settings.push(("classes", pairs[0].0.classes().into()));
    settings.push(("held_out", args.val_data.is_empty().into()));
    report.settings = settings;
    report.rows = rows(judged.into_iter());
    report.print(common.json)
}

fn rows(figures: impl Iterator<Item = Figures>) -> Vec<Row> {
    [TRAINED, RANDOM]
        .into_iter()
        .zip(figures)
        .map(|(name, figures)| Row { name, figures })
        .collect()
}

fn open(
    cache: &CacheArgs,
    specs: &[String],
    labels: LabelSource,
    classes: Option<Vec<String>>,
) -> anyhow::Result<Arc<Dataset>> {
    let options = DatasetOptions {
        labels,
        classes,
        cache_dir: cache.cache_dir.clone(),
        cache_bytes: cache.cache_bytes,
        ..DatasetOptions::default()
    };
    Ok(Arc::new(Dataset::open(specs, &options)?))
}

/// As many threads as asked for, or one for each core.
fn threads(asked: usize) -> usize {
    match asked {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        threads => threads,
    }
}

impl Common {
    fn threads(&self) -> usize {
        threads(self.threads)
    }

    fn stream(&self) -> StreamOptions {
        StreamOptions {
            batch_size: self.batch_size,
            threads: Some(self.threads()),
            resize: self.resize,
        }
    }
}
