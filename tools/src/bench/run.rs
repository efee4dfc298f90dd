//! `mae bench run`: loader and trainer together, on one process or several, and how long the trainer waits.

mod scaling;

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use candle_core::Device;
use clap::Args;
use mae_loader::{Cursor, Dataset, DatasetOptions, DecoderKind, HostBatch, Loader, Transform};
use mae_model::{Activations, Feeder, HostInput, Mae, MaeConfig, Precision};
use mae_trainer::Stepper;
use mae_trainer::config::{self, DeviceKind, InputSize};
use mae_trainer::dist::{self, Group, Launch, Stage};
use mae_trainer::optim::{AdamW, AdamWSettings};
use serde::{Deserialize, Serialize};

use crate::eval::percent;
use crate::units::show_bytes;
use crate::{Outcome, Usage, made, table};

/// Updates that may be queued on a GPU before the host waits for the first.
const BEHIND: usize = 3;

/// How long nothing may move before it ends by itself; to make pictures is one thing.
const PATIENCE: Duration = Duration::from_secs(3600);

/// Time the loader and the trainer together: images a second, and how long the trainer waits for data
///
/// Trains on --data, or on pictures made up for this, in shards in a temporary folder: 341 × 256, about as hard to decode as
/// photographs. Nothing is kept. On a GPU the waiting is the GPU's own, by its clock. Under mpirun or srun the processes train one model,
/// each on --batch-size images a step, and the first says what they came to together.
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

    /// Images a step; with --scaling over all processes, else on each
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

    /// Threads for decoding and for arithmetic; 0 takes every core. With --scaling over all processes, else of each
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

    /// Compare numbers of processes on this machine's CPU, which share the batch and the threads: start so many, by mpirun where there are
    /// several, each number in turn
    #[arg(long, value_delimiter = ',', value_name = "N,…")]
    scaling: Vec<usize>,

    /// Rounds of --scaling; its figures are medians over them
    #[arg(long, default_value_t = 3, value_name = "N", requires = "scaling")]
    rounds: usize,

    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Serialize, Deserialize)]
struct Report {
    model: String,
    device: String,
    precision: Precision,
    /// Processes.
    ranks: usize,
    /// Of each.
    batch_size: usize,
    /// Of each.
    threads: usize,
    decoder: String,
    pictures: u64,
    steps: usize,
    /// Of all.
    images_per_second: f64,
    milliseconds_a_step: f64,
    /// Share of the time that the device, or on the CPU the trainer, waited for a batch; the mean over processes.
    waiting_share: f64,
    /// Share of the time that the trainer was held up by adding up over the processes; the mean over them.
    all_reduce_share: f64,
    /// Of each.
    loader_memory_bound_bytes: u64,
    loss: f32,
}

pub(crate) fn run(args: &RunArgs) -> anyhow::Result<Outcome> {
    if args.steps == 0 || args.batch_size == 0 || args.pictures == 0 {
        return Err(
            Usage("--steps, --batch-size and --pictures must be above 0".to_owned()).into(),
        );
    }
    if !args.scaling.is_empty() {
        return scaling::run(args);
    }
    let launch = Launch::from_env()?;
    let device = mae_trainer::device::open(args.device.of_rank(&launch))?;
    let group = Arc::new(Group::join(&launch, &device, PATIENCE)?);
    let measured = measure(args, &launch, (&group, &device)).map_err(Failed);
    let report = dist::leave(group, measured).map_err(|Failed(error)| error)?;
    if !launch.is_first() {
        return Ok(Outcome::Done);
    }
    table::show(&report, args.json, page)?;
    Ok(Outcome::Done)
}

/// What the others are told.
struct Failed(anyhow::Error);

impl From<mae_trainer::Error> for Failed {
    fn from(error: mae_trainer::Error) -> Self {
        Failed(error.into())
    }
}

impl std::fmt::Display for Failed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:#}", self.0)
    }
}

/// What this process and the others of its group come to.
fn measure(
    args: &RunArgs,
    launch: &Launch,
    (group, device): (&Arc<Group>, &Device),
) -> anyhow::Result<Report> {
    mae_model::set_threads(args.threads)?;
    let folder = tempfile::tempdir().context("cannot make a temporary folder")?;
    let data = match &args.data[..] {
        [] => {
            if launch.is_first() {
                tracing::info!("making {} pictures", args.pictures);
            }
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
    let threads = config::threads(args.threads);
    let loader = Loader::builder(dataset)
        .image_size(size.0 as u32, size.1 as u32)
        .batch_size(args.batch_size)
        .rank(launch.rank, launch.world)
        .transform(Transform::default())
        .masks(config.patches(), keep)
        .threads(threads)
        .prefetch(args.prefetch)
        .epochs(u64::MAX)
        .decoder(args.decoder);
    #[cfg(feature = "cuda")]
    let loader = match args.device.of_rank(launch) {
        DeviceKind::Cuda(ordinal) => loader.page_locked(ordinal),
        DeviceKind::Cpu => loader,
    };
    let loader = match loader.build() {
        Err(error @ mae_loader::Error::Config { .. }) => {
            return Err(Usage(error.to_string()).into());
        }
        other => other?,
    };

    let mut mae = Mae::new(config.clone(), device, 0)?;
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
    stepper.join(group);
    if args.cuda_graphs {
        stepper
            .use_graphs()
            .map_err(|error| Usage(error.to_string()))?;
    }
    let mut feeder: Feeder<HostBatch> = Feeder::new(device, host_input)?;

    let mut batches = loader.batches(Cursor::default());
    let share = 1.0 / launch.world as f32;
    let (mut loss, mut queued) = (0.0, 0);
    let mut update = |number: usize, most: usize| -> anyhow::Result<_> {
        group.step(number as u64 + 1);
        group.enter(Stage::Data);
        let batch = batches.next().context("the loader has no more batches")??;
        group.enter(Stage::Copying);
        let input = feeder.feed(&config, batch)?;
        group.enter(Stage::Computing);
        stepper.last_batch(&input, share)?;
        stepper.apply(1e-4, number as u64 + 1)?;
        feeder.done()?;
        queued += 1;
        while queued > most {
            let Some(outcome) = stepper.outcome(true)? else {
                break;
            };
            (loss, queued) = (outcome.loss, queued - 1);
        }
        let for_data = match feeder.waited()? {
            Some(waited) => waited,
            None => batches.waited(),
        };
        Ok((for_data, group.waited()))
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
    let own = (
        seconds,
        (after.0 - before.0).as_secs_f64() / seconds,
        (after.1 - before.1).as_secs_f64() / seconds,
    );
    let all = group.gather(own)?;
    let seconds = all.iter().map(|own| own.0).fold(0.0, f64::max);
    let mean = |of: fn(&(f64, f64, f64)) -> f64| all.iter().map(of).sum::<f64>() / all.len() as f64;
    Ok(Report {
        model: args.model.clone(),
        device: args.device.to_string(),
        precision,
        ranks: launch.world,
        batch_size: args.batch_size,
        threads,
        decoder: loader.decoder(),
        pictures,
        steps: args.steps,
        images_per_second: (args.steps * args.batch_size * launch.world) as f64 / seconds,
        milliseconds_a_step: seconds * 1e3 / args.steps as f64,
        waiting_share: mean(|own| own.1),
        all_reduce_share: mean(|own| own.2),
        loader_memory_bound_bytes: loader.memory_bound().total(),
        loss,
    })
}

fn host_input(batch: &HostBatch) -> HostInput<'_> {
    HostInput {
        pixels: batch.pixels(),
        ids_keep: batch.ids_keep(),
        ids_restore: batch.ids_restore(),
    }
}

fn page(report: &Report) -> String {
    let several = report.ranks > 1;
    let of_each = |name: &str| match several {
        true => format!("{name}, each"),
        false => name.to_owned(),
    };
    let row = |name: &str, value: String| vec![name.to_owned(), value];
    let mut rows = vec![
        row("img/s", format!("{:.1}", report.images_per_second)),
        row("ms a step", format!("{:.1}", report.milliseconds_a_step)),
        row("waiting for data", percent(report.waiting_share)),
    ];
    if several {
        rows.push(row("all-reduce", percent(report.all_reduce_share)));
        rows.push(row("processes", report.ranks.to_string()));
    }
    let memory = show_bytes(report.loader_memory_bound_bytes);
    rows.extend([
        row(&of_each("batch"), report.batch_size.to_string()),
        row("decoder", report.decoder.clone()),
        row(&of_each("threads"), report.threads.to_string()),
        row(&of_each("loader's memory, at most"), memory),
        row("loss", format!("{:.4}", report.loss)),
    ]);
    let head = [
        report.model.clone(),
        format!("{} {}", report.device, report.precision),
    ];
    table::text(&head, &rows)
}
