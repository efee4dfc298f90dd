//! `mae eval`: what a checkpoint is worth, beside the same network with random weights.
//!
//! Each evaluation gives a [`Report`], printed as a table or as JSON; the arithmetic is `mae_trainer::eval`'s.

mod args;
mod frozen;
mod reconstruct;
mod report;
mod summary;

use std::sync::Arc;

use mae_loader::{Dataset, DatasetOptions, LabelSource};
use mae_model::{Encoder, Mae};
use mae_trainer::checkpoint::{Source, load_encoder, load_mae};
use mae_trainer::device;
use mae_trainer::eval::StreamOptions;
use mae_trainer::eval::loss::masked_loss;

pub(crate) use args::EvalArgs;
use args::{Common, LossArgs, What};
pub(crate) use report::percent;
use report::{Figures, Report, Row};

use crate::Outcome;
use crate::cli::CacheArgs;

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
        What::Knn(args) => frozen::neighbours(&args),
        What::LinearProbe(args) => frozen::probe(&args),
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
        let device = device::open(common.device)?;
        let (mut trained, source) =
            load_mae(&common.checkpoint, &common.import.options(), &device)?;
        let mut random = Mae::new(trained.config.clone(), &device, source.seed())?;
        for mae in [&mut trained, &mut random] {
            mae.set_precision(common.device.default_precision())?;
        }
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
        let device = device::open(common.device)?;
        let (mut trained, source) =
            load_encoder(&common.checkpoint, &common.import.options(), &device)?;
        let mut random = source.untrained(&trained)?;
        for encoder in [&mut trained, &mut random] {
            encoder.set_precision(common.device.default_precision())?;
        }
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
        cache_dir: cache.cache.clone(),
        cache_bytes: cache.cache_size.0,
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
            batch_size: self.encode_batch,
            threads: Some(self.threads()),
            resize: self.resize,
        }
    }
}
