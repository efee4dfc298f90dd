//! `mae eval`: what a checkpoint is worth, beside the same network with random weights.
//!
//! Each evaluation gives a [`Report`], printed as a table or as JSON; the arithmetic is `mae_trainer::eval`'s.

mod args;
mod frozen;
mod report;

use std::io::{self, Write};
use std::sync::Arc;

use anyhow::Context;
use mae_loader::{Dataset, DatasetOptions, LabelSource};
use mae_model::{Encoder, Mae};
use mae_trainer::checkpoint::{Source, load_encoder, load_mae};
use mae_trainer::device;
use mae_trainer::eval::StreamOptions;
use mae_trainer::eval::loss::masked_loss;
use mae_trainer::eval::reconstruct::reconstruct;
use mae_trainer::picture;

pub(crate) use args::EvalArgs;
use args::{Common, LossArgs, ReconstructArgs, What};
pub(crate) use report::percent;
use report::{Figures, Report, Row};

use crate::Outcome;

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
        What::Reconstruct(args) => reconstructions(&args),
        What::Knn(args) => frozen::neighbours(&args),
        What::LinearProbe(args) => frozen::probe(&args),
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
    let data = open(&args.common, &args.common.data, LabelSource::None, None)?;
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

fn reconstructions(args: &ReconstructArgs) -> anyhow::Result<Outcome> {
    let subject = Subject::<Mae>::load(&args.common)?;
    let data = open(&args.common, &args.common.data, LabelSource::None, None)?;
    let ratio = args.mask_ratio.unwrap_or(subject.source.mask_ratio());
    // Spread over the dataset, which may be sorted by class.
    let stride = (data.len() as usize / args.count).max(1);
    let pictures = (args.count, stride);
    let done = reconstruct(
        &data,
        &subject.trained,
        (ratio, args.seed),
        pictures,
        &args.common.stream(),
    )?;
    picture::grid(&done)
        .save(&args.output)
        .with_context(|| format!("cannot write {}", args.output.display()))?;
    if args.common.json {
        let output = args.output.display().to_string();
        let step = subject.source.step();
        let json = serde_json::json!({ "evaluation": "reconstruct", "step": step, "images": done.len(), "output": output });
        writeln!(io::stdout(), "{json}")?;
    } else {
        let text = format!(
            "{}: {} images of {}, each masked | reconstructed | original\n",
            args.output.display(),
            done.len(),
            subject.source.path().display()
        );
        io::stdout().write_all(text.as_bytes())?;
    }
    Ok(Outcome::Done)
}

fn rows(figures: impl Iterator<Item = Figures>) -> Vec<Row> {
    [TRAINED, RANDOM]
        .into_iter()
        .zip(figures)
        .map(|(name, figures)| Row { name, figures })
        .collect()
}

fn open(
    common: &Common,
    specs: &[String],
    labels: LabelSource,
    classes: Option<Vec<String>>,
) -> anyhow::Result<Arc<Dataset>> {
    let options = DatasetOptions {
        labels,
        classes,
        cache_dir: common.cache.cache_dir.clone(),
        cache_bytes: common.cache.cache_bytes,
        ..DatasetOptions::default()
    };
    Ok(Arc::new(Dataset::open(specs, &options)?))
}

impl Common {
    fn threads(&self) -> usize {
        match self.threads {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            threads => threads,
        }
    }

    fn stream(&self) -> StreamOptions {
        StreamOptions {
            batch_size: self.encode_batch,
            threads: Some(self.threads()),
            resize: self.resize,
        }
    }
}
