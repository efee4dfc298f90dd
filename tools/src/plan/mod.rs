//! `mae plan`: what a pre-training run takes on GPUs that need not be at hand.

mod args;
mod card;
mod loader;
mod pace;
mod report;

use mae_model::{Activations, MaeConfig, ParameterMemory, StepMemory};
use mae_trainer::PretrainConfig;

use self::args::Gpu;
pub(crate) use self::args::PlanArgs;
use self::pace::{AllReduce, Bound, Cluster, Pace};
use self::report::{Batch, Flop, LoaderNeeds, Machines, Memory, Model, Report, page};
use crate::table;
use crate::{Outcome, Usage};

/// Samples of ImageNet-1k's training set.
const IMAGENET_SAMPLES: u64 = 1_281_167;
/// Their mean size: 147,897,477,120 bytes of ILSVRC2012_img_train.tar by their number, less the tar's own.
const IMAGENET_BYTES: f64 = 115e3;

pub(crate) fn run(args: &PlanArgs) -> anyhow::Result<Outcome> {
    args.check()?;
    let config = args.run()?;
    // Nothing is measured for a run that cannot be.
    let machines = (args.gpu()?, args.cluster()?, args.cores()?);
    let feed = feed(args, &config)?;
    let report = plan(args, &config, machines, feed)?;
    table::show(&report, args.json, page)?;
    Ok(Outcome::Done)
}

/// What the loader has to do with.
struct Feed {
    samples: u64,
    image_bytes: f64,
    images_per_core: f64,
    /// Where that comes from.
    measured: String,
}

fn feed(args: &PlanArgs, config: &PretrainConfig) -> anyhow::Result<Feed> {
    let data = match &args.data[..] {
        [] => None,
        specs => Some(loader::open(specs, &args.cache)?),
    };
    let samples = config
        .epoch_samples
        .or(data.as_ref().map(mae_loader::Dataset::len))
        .unwrap_or(IMAGENET_SAMPLES);
    let image_bytes = match (&args.image_bytes, &data) {
        (Some(size), _) => size.0 as f64,
        (None, Some(data)) => loader::mean_bytes(data),
        (None, None) => IMAGENET_BYTES,
    };
    let (images_per_core, measured) = match (args.images_per_core, data) {
        (Some(given), _) => (given, "given".to_owned()),
        (None, data) => {
            tracing::info!("measuring the loader on one core");
            let core = match data {
                Some(data) => loader::measure(config, data, &args.data.join(" "))?,
                None => loader::on_made_pictures(config)?,
            };
            let measured = format!("measured here on {}", core.of);
            (core.images_per_second, measured)
        }
    };
    Ok(Feed {
        samples,
        image_bytes,
        images_per_core,
        measured,
    })
}

fn plan(
    args: &PlanArgs,
    config: &PretrainConfig,
    (gpu, cluster, cores): (Gpu, Cluster, usize),
    feed: Feed,
) -> anyhow::Result<Report> {
    let (mae, keep) = (config.mae(), config.keep());
    let flops = mae.flops(keep);
    let (batch, accum) = (config.batch_size as u64, config.accum_iter as u64);
    let repeats = config.repeats as u64;
    let of_gpu = batch.saturating_mul(accum);
    let images = of_gpu.saturating_mul(cluster.ranks());
    let of_node = (of_gpu as f64) * cluster.gpus as f64;
    let batches = feed.samples / (batch / repeats).saturating_mul(cluster.ranks());
    let steps_per_epoch = batches / accum;
    if steps_per_epoch == 0 {
        return Err(Usage(format!(
            "an update takes {} samples, and an epoch has {}; lower --batch-size, --accum-iter, --gpus or --nodes",
            images / repeats,
            feed.samples
        ))
        .into());
    }
    let steps = steps_per_epoch as f64 * config.epochs as f64;

    let parts = mae.parameter_memory(config.precision);
    let shards = if args.shard_optimizer {
        cluster.ranks()
    } else {
        1
    };
    let parts = ParameterMemory {
        moments: parts.moments.div_ceil(shards),
        ..parts
    };
    let memory = memory_of(&mae, config, parts, gpu.memory)?;

    let again = match config.activations() {
        Activations::Keep => 0.0,
        Activations::Recompute => mae.recomputed_flops(keep),
    };
    let seconds = |flop: f64| batch as f64 * flop / (gpu.rate * args.utilisation);
    let backward = seconds(flops.backward + again);
    let gradients = parts.gradients as f64;
    let mut pace = Pace {
        compute: accum as f64 * seconds(flops.total() + again),
        all_reduce: AllReduce::new(&cluster, gradients, backward, args.shard_optimizer),
        decoding: of_node / (feed.images_per_core * cores as f64),
        reading: None,
    };
    let read = of_node / repeats as f64 * feed.image_bytes;
    pace.reading = args.read_bandwidth.map(|gigabytes| read / gigabytes / 1e9);
    let bound = match memory.largest_batch < config.batch_size {
        true => Bound::Memory,
        false => pace.bound(),
    };
    let vit = &mae.vit;
    Ok(Report {
        model: Model {
            name: config.model.clone(),
            parameters: mae.parameters(),
            image_size: vit.image_size,
            visible_patches: keep,
            removed_patches: mae.patches() - keep,
        },
        machines: Machines {
            gpu: gpu.name,
            gpus: cluster.gpus,
            nodes: cluster.nodes,
            precision: config.precision,
            flop_per_second: gpu.rate,
            utilisation: args.utilisation,
            all_reduce_bytes_per_second: [cluster.inside, cluster.between],
        },
        batch: Batch {
            images_per_gpu: batch,
            accum_iter: accum,
            images,
            steps_per_epoch,
            epochs: config.epochs,
        },
        flop: Flop {
            image_forward: flops.forward,
            image_backward: flops.backward,
            image: flops.total(),
            image_recomputed: again,
            step: flops.total() * images as f64,
            run: flops.total() * images as f64 * steps,
        },
        memory,
        loader: LoaderNeeds {
            images_per_core: feed.images_per_core,
            measured: feed.measured,
            cores_needed: of_node / feed.images_per_core / pace.gpu(),
            cores,
            image_bytes: feed.image_bytes,
            read_bytes_per_second_needed: read / pace.gpu(),
            read_bytes_per_second: args.read_bandwidth.map(|gigabytes| gigabytes * 1e9),
        },
        step_seconds: pace.step(),
        images_per_second: images as f64 / pace.step(),
        hours: steps * pace.step() / 3600.0,
        seconds: pace,
        bound,
    })
}

/// Of a GPU with so many bytes.
fn memory_of(
    mae: &MaeConfig,
    config: &PretrainConfig,
    parts: ParameterMemory,
    room: u64,
) -> anyhow::Result<Memory> {
    let of = |activations| -> anyhow::Result<StepMemory> {
        let step = mae
            .step_memory(config.keep(), activations, config.precision, true)
            .map_err(|error| Usage(error.to_string()))?;
        Ok(StepMemory {
            parameters: parts.total(),
            ..step
        })
    };
    let step = of(config.activations())?;
    Ok(Memory {
        weights: parts.weights,
        low: parts.low,
        gradients: parts.gradients,
        moments: parts.moments,
        activations: step.image.saturating_mul(config.batch_size as u64),
        apart: step.apart,
        total: step.total(config.batch_size),
        gpu: room,
        largest_batch: step.fits(room),
        largest_batch_checkpointing: of(Activations::Recompute)?.fits(room),
    })
}
