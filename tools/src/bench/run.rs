//! `mae bench run`: loader and trainer together, and how long the trainer waits.

use std::io::{self, Write};
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Instant;

use anyhow::Context as _;
use clap::Args;
use mae_loader::{Cursor, Dataset, DatasetOptions, DecoderKind, HostBatch, Loader, Transform};
use mae_model::{Activations, Feeder, HostInput, Mae, MaeConfig, Precision};
use mae_trainer::Stepper;
use mae_trainer::config::{DeviceKind, InputSize};
use mae_trainer::optim::{AdamW, AdamWSettings};
use serde::Serialize;

use crate::units::show_bytes;
use crate::{Outcome, Usage, made, table};

/// Updates that may be queued on a GPU before the host waits for the first.
const BEHIND: usize = 3;

/// Time the loader and the trainer together: images a second, and how long the trainer waits for data
///
/// Trains on --data, or on pictures made up for this, in shards in a temporary folder: 341 × 256, about as hard to decode as
/// photographs. Nothing is kept. On a GPU the waiting is the GPU's own, by its clock.
///
/// Example: mae bench run --device cuda --model mae-base-patch16 --batch-size 256
#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    /// Shards to train on, as `mae pretrain` takes them [default: made-up pictures]
    #[arg(long, num_args = 1.., value_name = "SPEC")]
    data: Vec<String>,

    /// How many pictures to make up
    #[arg(long, default_value_t = 4096, value_name = "N")]
    pictures: usize,

    /// Model by name, as `mae pretrain` takes it
    #[arg(long, default_value = "mae-base-patch16", value_name = "NAME")]
    model: String,

    /// Input size in pixels, one number or HEIGHTxWIDTH [default: the model's]
    #[arg(long, value_name = "SIZE")]
    input_size: Option<InputSize>,

    /// Images a step
    #[arg(long, default_value_t = 64, value_name = "N")]
    batch_size: usize,

    /// Share of the patches removed
    #[arg(long, default_value_t = 0.75, value_name = "RATIO")]
    mask_ratio: f64,

    /// Where the arithmetic runs: cpu, cuda or cuda:N
    #[arg(long, default_value = "cpu", value_name = "DEVICE")]
    device: DeviceKind,

    /// Numbers of activations and products: f32, tf32 or bf16 [default: bf16 on a GPU, f32 on the CPU]
    #[arg(long, value_name = "PRECISION")]
    precision: Option<Precision>,

    /// Threads for decoding and for arithmetic; 0 takes every core
    #[arg(long, default_value_t = 0, value_name = "N")]
    threads: usize,

    /// What decodes JPEG; auto takes turbo where it is built in
    #[arg(long, default_value = "auto", value_name = "auto|zune|turbo")]
    decoder: DecoderKind,

    /// Batches decoded ahead
    #[arg(long, default_value_t = 4, value_name = "N")]
    prefetch: usize,

    /// Steps that are measured
    #[arg(long, default_value_t = 50, value_name = "N")]
    steps: usize,

    /// Steps before those
    #[arg(long, default_value_t = 10, value_name = "N")]
    warm_up: usize,

    /// Keep only each block's input and compute the rest again in the backward pass
    #[arg(long)]
    activation_checkpointing: bool,

    /// On a GPU, queue each batch's work as one CUDA graph
    #[arg(long)]
    cuda_graphs: bool,

    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Serialize)]
struct Report {
    model: String,
    device: String,
    precision: Precision,
    batch_size: usize,
    threads: usize,
    decoder: String,
    pictures: u64,
    steps: usize,
    images_per_second: f64,
    milliseconds_a_step: f64,
    /// Share of the time that the device, or on the CPU the trainer, waited for a batch.
    waiting_share: f64,
    loader_memory_bound_bytes: u64,
    loss: f32,
}

pub(crate) fn run(args: &RunArgs) -> anyhow::Result<Outcome> {
    if args.steps == 0 || args.batch_size == 0 || args.pictures == 0 {
        return Err(
            Usage("--steps, --batch-size and --pictures must be above 0".to_owned()).into(),
        );
    }
    mae_model::set_threads(args.threads)?;
    let device = mae_trainer::device::open(args.device)?;
    let folder = tempfile::tempdir().context("cannot make a temporary folder")?;
    let data = match &args.data[..] {
        [] => {
            tracing::info!("making {} pictures", args.pictures);
            made::shards(folder.path(), args.pictures, made::PREPARED)?;
            vec![folder.path().join("*.tar").display().to_string()]
        }
        given => given.to_vec(),
    };
    let native = MaeConfig::native_size(&args.model).map_or((224, 224), |side| (side, side));
    let size = args
        .input_size
        .map_or(native, |size| (size.height, size.width));
    let config =
        MaeConfig::named(&args.model, size, 3).map_err(|error| Usage(error.to_string()))?;
    let keep = config.keep(args.mask_ratio);
    let precision = args
        .precision
        .unwrap_or_else(|| args.device.default_precision());

    let dataset = Arc::new(Dataset::open(&data, &DatasetOptions::default())?);
    let pictures = dataset.len();
    let threads = match args.threads {
        0 => std::thread::available_parallelism().map_or(1, NonZeroUsize::get),
        given => given,
    };
    let loader = Loader::builder(dataset)
        .image_size(size.0 as u32, size.1 as u32)
        .batch_size(args.batch_size)
        .transform(Transform::default())
        .masks(config.patches(), keep)
        .threads(threads)
        .prefetch(args.prefetch)
        .epochs(u64::MAX)
        .decoder(args.decoder);
    #[cfg(feature = "cuda")]
    let loader = match args.device {
        DeviceKind::Cuda(ordinal) => loader.page_locked(ordinal),
        DeviceKind::Cpu => loader,
    };
    let loader = match loader.build() {
        Err(error @ mae_loader::Error::Config { .. }) => {
            return Err(Usage(error.to_string()).into());
        }
        other => other?,
    };

    let mut mae = Mae::new(config.clone(), &device, 0)?;
    mae.set_precision(precision)
        .map_err(|error| Usage(error.to_string()))?;
    let settings = AdamWSettings {
        beta1: 0.9,
        beta2: 0.95,
        eps: 1e-8,
        weight_decay: 0.05,
    };
    let adamw = AdamW::new(&mae.params, settings)?;
    let activations = match args.activation_checkpointing {
        true => Activations::Recompute,
        false => Activations::Keep,
    };
    let shape = (args.batch_size, keep);
    let mut stepper = Stepper::new(mae, adamw, shape, activations, None)
        .map_err(|error| Usage(error.to_string()))?;
    if args.cuda_graphs {
        stepper
            .use_graphs()
            .map_err(|error| Usage(error.to_string()))?;
    }
    let mut feeder: Feeder<HostBatch> = Feeder::new(&device, host_input)?;

    let mut batches = loader.batches(Cursor::default());
    let (mut loss, mut queued) = (0.0, 0);
    let mut update = |number: usize, most: usize| -> anyhow::Result<_> {
        let batch = batches.next().context("the loader has no more batches")??;
        let input = feeder.feed(&config, batch)?;
        stepper.batch(&input, 1.0)?;
        stepper.apply(1e-4, number as u64 + 1)?;
        feeder.done()?;
        queued += 1;
        while queued > most {
            let Some(outcome) = stepper.outcome(true)? else {
                break;
            };
            (loss, queued) = (outcome.loss, queued - 1);
        }
        match feeder.waited()? {
            Some(waited) => Ok(waited),
            None => Ok(batches.waited()),
        }
    };
    let mut before = update(0, 0)?;
    for number in 1..=args.warm_up {
        // The last one empties the queue.
        before = update(number, if number == args.warm_up { 0 } else { BEHIND })?;
    }
    let (started, mut after) = (Instant::now(), before);
    for number in 1..=args.steps {
        let most = if number == args.steps { 0 } else { BEHIND };
        after = update(args.warm_up + number, most)?;
    }
    let seconds = started.elapsed().as_secs_f64();
    let report = Report {
        model: args.model.clone(),
        device: args.device.to_string(),
        precision,
        batch_size: args.batch_size,
        threads,
        decoder: loader.decoder(),
        pictures,
        steps: args.steps,
        images_per_second: (args.steps * args.batch_size) as f64 / seconds,
        milliseconds_a_step: seconds * 1e3 / args.steps as f64,
        waiting_share: (after - before).as_secs_f64() / seconds,
        loader_memory_bound_bytes: loader.memory_bound().total(),
        loss,
    };
    let mut out = io::stdout().lock();
    if args.json {
        writeln!(out, "{}", serde_json::to_string_pretty(&report)?)?;
    } else {
        out.write_all(page(&report).as_bytes())?;
    }
    Ok(Outcome::Done)
}

fn host_input(batch: &HostBatch) -> HostInput<'_> {
    HostInput {
        pixels: batch.pixels(),
        ids_keep: batch.ids_keep(),
        ids_restore: batch.ids_restore(),
    }
}

fn page(report: &Report) -> String {
    let rows: Vec<Vec<String>> = [
        ("img/s", format!("{:.1}", report.images_per_second)),
        ("ms a step", format!("{:.1}", report.milliseconds_a_step)),
        (
            "waiting for data",
            format!("{:.1}%", 100.0 * report.waiting_share),
        ),
        ("batch", report.batch_size.to_string()),
        ("decoder", report.decoder.clone()),
        ("threads", report.threads.to_string()),
        (
            "loader's memory, at most",
            show_bytes(report.loader_memory_bound_bytes),
        ),
        ("loss", format!("{:.4}", report.loss)),
    ]
    .map(|(name, value)| vec![name.to_owned(), value])
    .to_vec();
    let head = [
        report.model.clone(),
        format!("{} {}", report.device, report.precision),
    ];
    table::text(&head, &rows)
}
