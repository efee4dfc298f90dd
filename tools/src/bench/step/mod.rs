//! `mae bench step`: how long an update takes, part by part, and what of the machine's product rate it reaches.

mod report;

use std::time::{Duration, Instant};

use anyhow::Context as _;
use candle_core::{Device, Tensor};
use clap::Args;
use mae_model::ops::linear;
use mae_model::profile;
use mae_model::{Activations, Mae, MaeConfig, MaeInput, Precision, memory};
use mae_trainer::Stepper;
use mae_trainer::config::{DeviceKind, InputSize};
use mae_trainer::optim::{AdamW, AdamWSettings};

use self::report::{Milliseconds, Report, page, per_step};
use super::{median, process};
use crate::table;
use crate::{Outcome, Usage};

/// Side of the square matrices whose product gives the machine's rate, on the CPU and on a GPU.
const PRODUCT_SIDE: usize = 2048;
const GPU_PRODUCT_SIDE: usize = 8192;
/// Steps that a GPU may be behind before the host waits.
const BEHIND: usize = 3;
/// Different batches, taken in turn.
const INPUTS: usize = 4;

/// Time a training step on random images: forward, backward, optimiser
///
/// Operations are counted as two for each multiply-add of the model's products, forward and backward, nothing else and nothing
/// twice. The product rate that they are compared with is measured first, on square matrices of 2048, on a GPU of 8192. On a GPU
/// steps follow each other without waiting for the host; forward, backward and optimiser are measured apart, in steps of their own.
#[derive(Debug, Args)]
pub(crate) struct StepArgs {
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

    /// Normalise each target patch by its own mean and variance
    #[arg(long)]
    norm_pix_loss: bool,

    /// Show the encoder every patch, removed ones as a mask token
    #[arg(long)]
    encoder_mask_tokens: bool,

    /// Clip the gradient's norm to this
    #[arg(long, value_name = "NORM")]
    clip_grad: Option<f64>,

    /// Where the arithmetic runs: cpu, cuda or cuda:N
    #[arg(long, default_value = "cpu", value_name = "DEVICE")]
    device: DeviceKind,

    /// Numbers of activations and products: f32, tf32 or bf16 [default: bf16 on a GPU, f32 on the CPU]
    #[arg(long, value_name = "PRECISION")]
    precision: Option<Precision>,

    /// Threads for arithmetic; 0 takes every core
    #[arg(long, default_value_t = 0, value_name = "N")]
    threads: usize,

    /// Steps that are measured, after two that are not
    #[arg(long, default_value_t = 10, value_name = "N")]
    steps: usize,

    /// Keep only each block's input and compute the rest again in the backward pass
    #[arg(long)]
    activation_checkpointing: bool,

    /// On a GPU, queue each batch's work as one CUDA graph
    #[arg(long)]
    cuda_graphs: bool,

    /// Show the time of each operation
    #[arg(long)]
    profile: bool,

    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &StepArgs) -> anyhow::Result<Outcome> {
    if args.steps == 0 || args.batch_size == 0 {
        return Err(Usage("--steps and --batch-size must be above 0".to_owned()).into());
    }
    mae_model::set_threads(args.threads)?;
    let device = mae_trainer::device::open(args.device)?;
    let config = config(args).map_err(|error| Usage(error.to_string()))?;
    let keep = config.keep(args.mask_ratio);
    let precision = args
        .precision
        .unwrap_or_else(|| args.device.default_precision());
    let product_rate = product_rate(&device, precision)?;
    process::forget_peak();

    let inputs = (0..INPUTS)
        .map(|seed| input(&config, args.batch_size, keep, seed as u64, &device))
        .collect::<anyhow::Result<Vec<_>>>()?;
    let before = taken(&device)?;
    let mut mae = Mae::new(config.clone(), &device, 0)?;
    mae.set_precision(precision)
        .map_err(|error| Usage(error.to_string()))?;
    let parameters = mae.params.count();
    let settings = AdamWSettings {
        beta1: 0.9,
        beta2: 0.95,
        eps: 1e-8,
        weight_decay: 0.05,
    };
    let adamw = AdamW::new(&mae.params, settings)?;
    let activations = if args.activation_checkpointing {
        Activations::Recompute
    } else {
        Activations::Keep
    };
    let shape = (args.batch_size, keep);
    let mut stepper = Stepper::new(mae, adamw, shape, activations, args.clip_grad)
        .map_err(|error| Usage(error.to_string()))?;
    if args.cuda_graphs {
        stepper
            .use_graphs()
            .map_err(|error| Usage(error.to_string()))?;
    }

    let mut loss = 0.0;
    let mut step = |number: usize| -> anyhow::Result<[Duration; 3]> {
        let input = &inputs[number % INPUTS];
        let started = Instant::now();
        stepper.forward(input, 1.0)?;
        device.synchronize()?;
        let forward = started.elapsed();
        stepper.backward(input, 1.0)?;
        device.synchronize()?;
        let backward = started.elapsed() - forward;
        stepper.apply(1e-4, number as u64 + 1)?;
        if let Some(outcome) = stepper.outcome(true)? {
            loss = outcome.loss;
        }
        Ok([forward, backward, started.elapsed() - forward - backward])
    };
    let warm_up = 2;
    for number in 0..warm_up {
        step(number)?;
    }
    if args.profile {
        profile::start(&device);
    }
    let usage = process::usage();
    let times = (warm_up..warm_up + args.steps)
        .map(&mut step)
        .collect::<anyhow::Result<Vec<_>>>()?;
    let used = usage.zip(process::usage());
    let operations = args.profile.then(profile::finish);

    let part = |i: usize| median(times.iter().map(|t| t[i].as_secs_f64()).collect());
    let whole: Vec<f64> = if device.is_cpu() {
        let sum = |t: &[Duration; 3]| t.iter().sum::<Duration>().as_secs_f64();
        times.iter().map(sum).collect()
    } else {
        let first = warm_up + args.steps;
        // With graphs each input's place in memory is new once and recorded once.
        let untimed = if args.cuda_graphs { 2 * INPUTS } else { 2 };
        in_a_row(&mut stepper, &inputs, first..first + args.steps, untimed)?
    };
    let step_seconds = median(whole.clone());
    let flop = config.flops(keep).total() * args.batch_size as f64;
    let peak = match device.is_cpu() {
        true => process::peak_memory(),
        false => taken(&device)?,
    };
    let counted = operations.as_ref().map(|operations| {
        let flop: u64 = operations.iter().map(|op| op.flop).sum();
        flop as f64 / (args.steps * args.batch_size) as f64 / 1e9
    });
    let report = Report {
        model: args.model.clone(),
        parameters,
        image_size: config.vit.image_size,
        batch_size: args.batch_size,
        visible_patches: keep,
        removed_patches: config.patches() - keep,
        device: args.device.to_string(),
        precision,
        threads: mae_model::threads(),
        steps: args.steps,
        images_per_second: args.batch_size as f64 / step_seconds,
        milliseconds: Milliseconds {
            step: step_seconds * 1e3,
            step_min: whole.iter().copied().fold(f64::INFINITY, f64::min) * 1e3,
            step_max: whole.iter().copied().fold(0.0, f64::max) * 1e3,
            forward: part(0) * 1e3,
            backward: part(1) * 1e3,
            optimizer: part(2) * 1e3,
        },
        gigaflop_per_image: config.flops(keep).total() / 1e9,
        gigaflop_per_second: flop / step_seconds / 1e9,
        product_gigaflop_per_second: product_rate / 1e9,
        share_of_product_rate: flop / (step_seconds - part(2)) / product_rate,
        peak_memory_bytes: peak,
        memory_beyond_parameters_bytes: peak
            .map(|peak| peak.saturating_sub(16 * parameters as u64)),
        planned_memory_bytes: stepper.memory().total(args.batch_size),
        grown_memory_bytes: peak
            .zip(before)
            .map(|(peak, before)| peak.saturating_sub(before)),
        minor_faults_per_step: used
            .map(|(a, b)| (b.minor_faults - a.minor_faults) as f64 / args.steps as f64),
        loss,
        counted_gigaflop_per_image: counted,
        profile: operations.map(|operations| per_step(&operations, args.steps, &whole)),
    };
    table::show(&report, args.json, page)?;
    Ok(Outcome::Done)
}

/// Memory that is taken now: of the GPU, or by this process.
fn taken(device: &Device) -> anyhow::Result<Option<u64>> {
    Ok(match memory::of_device(device)? {
        Some((free, all)) => Some(all - free),
        None => process::resident_memory(),
    })
}

fn config(args: &StepArgs) -> mae_model::Result<MaeConfig> {
    let native = MaeConfig::native_size(&args.model).unwrap_or(224);
    let size = args
        .input_size
        .map_or((native, native), |size| (size.height, size.width));
    let mut config = MaeConfig::named(&args.model, size, 3)?;
    config.norm_pix_loss = args.norm_pix_loss;
    config.encoder_mask_tokens = args.encoder_mask_tokens;
    Ok(config)
}

/// Seconds of each of some steps that follow each other without a pause: from when one is done to when the next is.
fn in_a_row(
    stepper: &mut Stepper,
    inputs: &[MaeInput],
    steps: std::ops::Range<usize>,
    untimed: usize,
) -> anyhow::Result<Vec<f64>> {
    let (mut done, mut queued) = (vec![], 0);
    let mut last = Instant::now();
    let mut note = |done: &mut Vec<f64>| {
        done.push(last.elapsed().as_secs_f64());
        last = Instant::now();
    };
    // The first ones fill the queue.
    let count = steps.len() + untimed;
    for number in steps.start..steps.start + count {
        let input = &inputs[number % inputs.len()];
        stepper.batch(input, 1.0)?;
        stepper.apply(1e-4, number as u64 + 1)?;
        queued += 1;
        while done.len() + BEHIND < queued && stepper.outcome(true)?.is_some() {
            note(&mut done);
        }
    }
    while stepper.outcome(true)?.is_some() {
        note(&mut done);
    }
    Ok(done.split_off(untimed))
}

/// Operations a second of a large product: the median of several.
fn product_rate(device: &Device, precision: Precision) -> anyhow::Result<f64> {
    let side = if device.is_cpu() {
        PRODUCT_SIDE
    } else {
        GPU_PRODUCT_SIDE
    };
    // Of random numbers: a card draws less power, and is faster, on constant ones.
    let matrix = |seed| -> anyhow::Result<Tensor> {
        let mut next = random(seed);
        let numbers: Vec<f32> = (0..side * side)
            .map(|_| (next() % 2048) as f32 / 1024.0 - 1.0)
            .collect();
        let matrix = Tensor::from_vec(numbers, (side, side), &Device::Cpu)?;
        Ok(matrix
            .to_dtype(precision.activations())?
            .to_device(device)?)
    };
    let (a, b, product) = (matrix(0)?, matrix(1)?, matrix(2)?);
    let mut seconds = Vec::new();
    for _ in 0..12 {
        let started = Instant::now();
        linear::backward_input(&a, &b, &product, precision)?;
        device.synchronize()?;
        seconds.push(started.elapsed().as_secs_f64());
    }
    // The first ones find cold memory.
    Ok(2.0 * (side as f64).powi(3) / median(seconds.split_off(2)))
}

/// Random bytes under random masks.
fn input(
    config: &MaeConfig,
    batch: usize,
    keep: usize,
    seed: u64,
    device: &Device,
) -> anyhow::Result<MaeInput> {
    let mut next = random(seed);
    let (height, width) = config.vit.image_size;
    let pixels: Vec<u8> = (0..batch * height * width * config.vit.channels)
        .map(|_| next() as u8)
        .collect();
    let patches = config.patches();
    let (mut kept, mut restore) = (Vec::new(), Vec::new());
    for _ in 0..batch {
        let mut shuffled: Vec<u32> = (0..patches as u32).collect();
        for i in 0..patches {
            shuffled.swap(i, i + next() % (patches - i));
        }
        shuffled[..keep].sort_unstable();
        kept.extend(&shuffled[..keep]);
        let mut places = vec![0; patches];
        for (place, &patch) in shuffled.iter().enumerate() {
            places[patch as usize] = place as u32;
        }
        restore.extend(places);
    }
    MaeInput::from_host(config, &pixels, &kept, &restore, device).context("a random batch")
}

fn random(seed: u64) -> impl FnMut() -> usize {
    let mut state = seed + 1;
    move || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize
    }
}
