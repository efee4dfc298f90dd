//! `mae eval`: what a checkpoint is worth, beside the same network with random weights.
//!
//! Each evaluation gives a `Report`, printed as a table or as JSON; the arithmetic is `mae_trainer::eval`'s.

mod args;
mod frozen;
mod reconstruct;
mod report;
mod sets;
mod subject;
mod summary;

use std::sync::Arc;

use indicatif::ProgressBar;
use mae_loader::{Dataset, DatasetOptions, LabelSource};
use mae_model::Mae;
use mae_trainer::eval::Masking;
use mae_trainer::eval::loss::masked_loss;

pub(crate) use args::EvalArgs;
use args::{Common, LossArgs, What};
pub(crate) use report::percent;
use report::{Figures, Row};
use subject::Subject;

use crate::cli::CacheArgs;
use crate::terminal::bars;
use crate::{Outcome, progress};

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

/// `mae eval loss`.
fn loss(args: &LossArgs) -> anyhow::Result<Outcome> {
    let common = &args.common;
    let (subject, data) = with_decoder(common)?;
    let maskings = args.mask.maskings(&subject)?;
    let models = [&subject.trained, &subject.random];
    let stream = common.encode.stream();
    let bar = images(data.len() * maskings.len() as u64);
    let mut by_ratio = models.map(|_| vec![]);
    for masking in &maskings {
        let progress = &mut |images| bar.inc(images as u64);
        let losses = masked_loss(&data, &models, masking, &stream, progress)?;
        for (model, loss) in by_ratio.iter_mut().zip(losses) {
            model.push((masking.ratio, loss));
        }
    }
    bar.finish_and_clear();
    let mut report = subject.report("loss", data.len());
    report.settings = vec![
        ("seed", args.mask.seed.into()),
        ("mask_sampling", said(&maskings).into()),
        ("target", subject.trained.config.target_name().into()),
        ("norm_pix_loss", subject.trained.config.norm_pix_loss.into()),
    ];
    report.settings.extend(common.encode.settings());
    report.rows = rows(by_ratio.into_iter().map(Figures::Loss));
    report.print(common.json)
}

/// How the masks were chosen, the same at all ratios.
fn said(maskings: &[Masking]) -> String {
    let first = maskings.first();
    first.map_or(String::new(), |masking| masking.sampling.to_string())
}

/// What evaluations by a decoder begin with: the networks, and the images without their labels.
fn with_decoder(common: &Common) -> anyhow::Result<(Subject<Mae>, Arc<Dataset>)> {
    let subject = Subject::load(common)?;
    let (cache, specs) = (&common.encode.cache, &common.data.specs);
    let data = open(cache, specs, LabelSource::None, None)?;
    Ok((subject, data))
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

/// A bar that counts images gone through the network.
fn images(count: u64) -> ProgressBar {
    bars().add(progress::bar(count, "images"))
}
