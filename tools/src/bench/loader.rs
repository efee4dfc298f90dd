//! `mae bench loader`: batches as fast as they come, and where the time goes.

use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::Args;
use mae_loader::{
    Cursor, Dataset, DatasetOptions, DecodeQuality, DecoderKind, Loader, Stats, Transform,
};
use serde::Serialize;

use super::median;
use super::process::{self, Usage};
use crate::cli::CacheArgs;
use crate::units::{show_bytes, show_count, show_memory};
use crate::{Outcome, table};

/// Time the loader: images a second, and milliseconds a sample in each stage
///
/// Reads, decodes, crops (0.2–1 of the area), flips and masks batches and throws them away. One warm-up window is left out;
/// figures are medians over the windows that follow. Bind it to cores with taskset to compare with other tools.
///
/// Example: mae bench loader --data 'shards/train-*.tar' --threads 1,2,4
#[derive(Debug, Args)]
pub(crate) struct LoaderArgs {
    /// Shards: a tar file, a folder of them, a glob, braces; several may be given, or joined by `::`
    #[arg(long, num_args = 1.., required = true, value_name = "SPEC")]
    data: Vec<String>,

    /// Numbers of worker threads to measure, each for itself [default: one for each core]
    #[arg(long, value_delimiter = ',', value_name = "N,…")]
    threads: Vec<usize>,

    /// What decodes JPEG; auto takes turbo where it is built in
    #[arg(long, default_value = "auto", value_name = "auto|zune|turbo")]
    decoder: DecoderKind,

    /// Exact, as Pillow decodes, or faster (turbo only)
    #[arg(long, default_value = "exact", value_name = "exact|fast")]
    decode_quality: DecodeQuality,

    /// Seconds measured for each number of threads, after the warm-up
    #[arg(long, default_value_t = 10.0, value_name = "SECONDS")]
    seconds: f64,

    /// Windows that these seconds are cut into; figures are medians over them
    #[arg(long, default_value_t = 5, value_name = "N")]
    windows: usize,

    /// Rows in a batch
    #[arg(long, default_value_t = 64, value_name = "N")]
    batch_size: usize,

    /// Side of a crop in pixels
    #[arg(long, default_value_t = 224, value_name = "PIXELS")]
    input_size: u32,

    /// Side of a patch in pixels, for the masks
    #[arg(long, default_value_t = 16, value_name = "PIXELS")]
    patch_size: u32,

    /// Share of the patches that masks remove
    #[arg(long, default_value_t = 0.75, value_name = "SHARE")]
    mask_ratio: f64,

    /// Crops, each with its mask, of one decoded image
    #[arg(long, default_value_t = 1, value_name = "K")]
    repeats: usize,

    /// Most pixels of an image; larger ones are bad. The memory bound follows it [default: 89478485]
    #[arg(long, value_name = "PIXELS")]
    max_pixels: Option<u64>,

    /// Measure the bare work too: as many loops as threads that decode and resize without batches, masks or hand-over
    #[arg(long)]
    bare: bool,

    /// Print the figures as JSON
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    cache: CacheArgs,
}

/// All that was measured.
#[derive(Debug, Serialize)]
struct Report {
    decoder: String,
    samples: u64,
    image_size: u32,
    batch_size: usize,
    repeats: usize,
    cores: usize,
    runs: Vec<Run>,
}

/// The figures for one number of threads: medians over windows.
#[derive(Debug, Default, Serialize)]
struct Run {
    threads: usize,
    images_per_second: f64,
    images_per_second_min: f64,
    images_per_second_max: f64,
    /// By the threads, or by the cores where there are fewer.
    images_per_second_per_core: f64,
    /// By the processor time used, which other programs on the machine do not distort.
    images_per_cpu_second: Option<f64>,
    megabytes_read_per_second: f64,
    milliseconds_per_sample: Stages,
    /// Share of their time that workers waited for work.
    workers_waiting: f64,
    /// Share of the time that the consumer waited for a batch.
    consumer_waiting: f64,
    minor_faults_per_sample: Option<f64>,
    bad_samples: u64,
    peak_memory_bytes: Option<u64>,
    memory_bound_bytes: u64,
    bare_images_per_second: Option<f64>,
}

/// Milliseconds of a thread for one sample.
#[derive(Debug, Default, Serialize)]
struct Stages {
    read: f64,
    decode: f64,
    resize: f64,
    mask: f64,
    hand_over: f64,
}

pub(crate) fn run(args: &LoaderArgs) -> anyhow::Result<Outcome> {
    let cores = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    let threads = match &args.threads[..] {
        [] => vec![cores],
        given => given.to_vec(),
    };
    if !(args.seconds.is_finite() && args.seconds > 0.0) || args.windows == 0 {
        return Err(crate::Usage("--seconds and --windows must be above 0".to_owned()).into());
    }
    let options = DatasetOptions {
        cache_dir: args.cache.cache.clone(),
        cache_bytes: args.cache.cache_size.0,
        ..DatasetOptions::default()
    };
    let dataset = Arc::new(Dataset::open(&args.data, &options)?);
    let mut report = Report {
        decoder: String::new(),
        samples: dataset.len(),
        image_size: args.input_size,
        batch_size: args.batch_size,
        repeats: args.repeats,
        cores,
        runs: Vec::new(),
    };
    for threads in threads {
        let loader = build(args, &dataset, threads)?;
        report.decoder = loader.decoder();
        tracing::info!(
            "{} of {}: at most {}",
            show_count(threads as u64, "thread"),
            report.decoder,
            show_memory(loader.memory_bound())
        );
        let mut run = measure(args, &loader, threads, cores)?;
        if args.bare {
            let window = Duration::from_secs_f64(args.seconds / args.windows as f64);
            let rate = bare(&loader, threads, args.repeats, (window, args.windows))?;
            run.bare_images_per_second = Some(rate.images_per_second);
        }
        report.runs.push(run);
    }
    table::show(&report, args.json, page)?;
    Ok(Outcome::Done)
}

fn build(args: &LoaderArgs, dataset: &Arc<Dataset>, threads: usize) -> anyhow::Result<Loader> {
    let side = (args.input_size / args.patch_size.max(1)) as usize;
    let keep = (side * side) as f64 * (1.0 - args.mask_ratio);
    let builder = Loader::builder(Arc::clone(dataset));
    let builder = match args.max_pixels {
        Some(pixels) => builder.max_pixels(pixels),
        None => builder,
    };
    let loader = builder
        .image_size(args.input_size, args.input_size)
        .batch_size(args.batch_size)
        .transform(Transform::default())
        .masks(side * side, keep as usize)
        .repeats(args.repeats)
        .threads(threads)
        .epochs(u64::MAX)
        .decoder(args.decoder)
        .decode_quality(args.decode_quality)
        .build();
    match loader {
        Err(error @ mae_loader::Error::Config { .. }) => {
            Err(crate::Usage(error.to_string()).into())
        }
        other => Ok(other?),
    }
}

/// What had been done and used at one moment.
#[derive(Clone, Copy)]
struct Moment {
    at: Instant,
    rows: u64,
    stats: Stats,
    usage: Option<Usage>,
}

fn measure(
    args: &LoaderArgs,
    loader: &Loader,
    threads: usize,
    cores: usize,
) -> anyhow::Result<Run> {
    let window = Duration::from_secs_f64(args.seconds / args.windows as f64);
    process::forget_peak();
    let mut batches = loader.batches(Cursor::default());
    let mut rows = 0;
    let mut moments = Vec::with_capacity(args.windows + 1);
    let mut next = Instant::now() + window;
    while moments.len() <= args.windows {
        let batch = batches.next().context("the loader has no more batches")??;
        rows += batch.len() as u64;
        drop(batch);
        let at = Instant::now();
        if at >= next {
            moments.push(Moment {
                at,
                rows,
                stats: loader.stats(),
                usage: process::usage(),
            });
            next = at + window;
        }
    }
    drop(batches);
    let windows: Vec<Run> = moments
        .windows(2)
        .map(|pair| between(&pair[0], &pair[1], threads, cores, args.repeats))
        .collect();
    let mut run = summary(&windows);
    run.threads = threads;
    run.bad_samples = loader.stats().bad;
    run.peak_memory_bytes = process::peak_memory();
    run.memory_bound_bytes = loader.memory_bound().total();
    Ok(run)
}

/// The figures of one window.
fn between(a: &Moment, b: &Moment, threads: usize, cores: usize, repeats: usize) -> Run {
    let seconds = (b.at - a.at).as_secs_f64();
    let images = (b.rows - a.rows) as f64;
    let samples = (b.stats.samples - a.stats.samples).max(1) as f64;
    let stage = |of: fn(&Stats) -> Duration| {
        (of(&b.stats).saturating_sub(of(&a.stats))).as_secs_f64() * 1e3 / samples
    };
    let rate = images / seconds;
    let used = a.usage.zip(b.usage);
    Run {
        images_per_second: rate,
        images_per_second_per_core: rate / threads.min(cores) as f64,
        images_per_cpu_second: used.and_then(|(a, b)| {
            let cpu = b.cpu_seconds - a.cpu_seconds;
            (cpu > 0.0).then(|| images / cpu)
        }),
        megabytes_read_per_second: (b.stats.bytes - a.stats.bytes) as f64 / seconds / 1e6,
        milliseconds_per_sample: Stages {
            read: stage(|stats| stats.read),
            decode: stage(|stats| stats.decode),
            resize: stage(|stats| stats.resize),
            mask: stage(|stats| stats.mask),
            hand_over: stage(|stats| stats.hand_over),
        },
        workers_waiting: stage(|stats| stats.idle) * samples / 1e3 / seconds / threads as f64,
        consumer_waiting: stage(|stats| stats.waited) * samples / 1e3 / seconds,
        minor_faults_per_sample: used.map(|(a, b)| {
            (b.minor_faults - a.minor_faults) as f64 * repeats as f64 / images.max(1.0)
        }),
        ..Run::default()
    }
}

/// The median of each figure.
fn summary(windows: &[Run]) -> Run {
    let figure = |of: &dyn Fn(&Run) -> f64| median(windows.iter().map(of).collect());
    let optional = |of: &dyn Fn(&Run) -> Option<f64>| {
        let values: Option<Vec<f64>> = windows.iter().map(of).collect();
        values.map(median)
    };
    let rates = || windows.iter().map(|run| run.images_per_second);
    Run {
        images_per_second: figure(&|run| run.images_per_second),
        images_per_second_min: rates().fold(f64::INFINITY, f64::min),
        images_per_second_max: rates().fold(0.0, f64::max),
        images_per_second_per_core: figure(&|run| run.images_per_second_per_core),
        images_per_cpu_second: optional(&|run| run.images_per_cpu_second),
        megabytes_read_per_second: figure(&|run| run.megabytes_read_per_second),
        milliseconds_per_sample: Stages {
            read: figure(&|run| run.milliseconds_per_sample.read),
            decode: figure(&|run| run.milliseconds_per_sample.decode),
            resize: figure(&|run| run.milliseconds_per_sample.resize),
            mask: figure(&|run| run.milliseconds_per_sample.mask),
            hand_over: figure(&|run| run.milliseconds_per_sample.hand_over),
        },
        workers_waiting: figure(&|run| run.workers_waiting),
        consumer_waiting: figure(&|run| run.consumer_waiting),
        minor_faults_per_sample: optional(&|run| run.minor_faults_per_sample),
        ..Run::default()
    }
}

/// How fast images are made in loops of their own.
pub(crate) struct Bare {
    /// The median over windows.
    pub(crate) images_per_second: f64,
    /// By the processor time used, which other programs on the machine do not distort.
    pub(crate) images_per_cpu_second: Option<f64>,
}

/// The same work as in batches, in loops of their own, one for each thread; one window more, the first, is not counted.
pub(crate) fn bare(
    loader: &Loader,
    threads: usize,
    repeats: usize,
    (window, windows): (Duration, usize),
) -> anyhow::Result<Bare> {
    let (stop, done, start) = (
        AtomicBool::new(false),
        AtomicU64::new(0),
        Barrier::new(threads + 1),
    );
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads)
            .map(|thread| {
                let (stop, done, start) = (&stop, &done, &start);
                let mut images = loader.bare_loop(thread, threads);
                scope.spawn(move || -> mae_loader::Result<()> {
                    start.wait();
                    while !stop.load(Ordering::Relaxed) {
                        images.next_sample()?;
                        done.fetch_add(repeats as u64, Ordering::Relaxed);
                    }
                    Ok(())
                })
            })
            .collect();
        start.wait();
        let mut rates = Vec::with_capacity(windows);
        std::thread::sleep(window);
        let (first, usage) = (done.load(Ordering::Relaxed), process::usage());
        for _ in 0..windows {
            let (at, before) = (Instant::now(), done.load(Ordering::Relaxed));
            std::thread::sleep(window);
            let images = done.load(Ordering::Relaxed) - before;
            rates.push(images as f64 / at.elapsed().as_secs_f64());
        }
        let used = usage.zip(process::usage());
        let images = done.load(Ordering::Relaxed) - first;
        stop.store(true, Ordering::Relaxed);
        for worker in workers {
            match worker.join() {
                Ok(result) => result?,
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        Ok(Bare {
            images_per_second: median(rates),
            images_per_cpu_second: used
                .map(|(a, b)| b.cpu_seconds - a.cpu_seconds)
                .filter(|&seconds| seconds > 0.0)
                .map(|seconds| images as f64 / seconds),
        })
    })
}

fn page(report: &Report) -> String {
    let percent = |share: f64| format!("{:.1}%", share * 100.0);
    let unknown = || "–".to_owned();
    let head: Vec<String> = report
        .runs
        .iter()
        .map(|run| format!("{} thr", run.threads))
        .collect();
    let row = |name: &str, show: &dyn Fn(&Run) -> String| -> Vec<String> {
        std::iter::once(name.to_owned())
            .chain(report.runs.iter().map(show))
            .collect()
    };
    let stage = |of: fn(&Stages) -> f64| {
        move |run: &Run| format!("{:.4}", of(&run.milliseconds_per_sample))
    };
    let mut rows = vec![
        row("img/s", &|run| format!("{:.0}", run.images_per_second)),
        row("  lowest – highest window", &|run| {
            format!(
                "{:.0}–{:.0}",
                run.images_per_second_min, run.images_per_second_max
            )
        }),
        row("img/s a core", &|run| {
            format!("{:.0}", run.images_per_second_per_core)
        }),
        row("img per CPU-second", &|run| {
            run.images_per_cpu_second
                .map_or_else(unknown, |rate| format!("{rate:.0}"))
        }),
        row("MB/s read", &|run| {
            format!("{:.1}", run.megabytes_read_per_second)
        }),
        row("ms a sample: read", &stage(|stages| stages.read)),
        row("  decode", &stage(|stages| stages.decode)),
        row("  resize", &stage(|stages| stages.resize)),
        row("  mask", &stage(|stages| stages.mask)),
        row("  hand-over", &stage(|stages| stages.hand_over)),
        row("workers waiting", &|run| percent(run.workers_waiting)),
        row("consumer waiting", &|run| percent(run.consumer_waiting)),
        row("minor faults a sample", &|run| {
            run.minor_faults_per_sample
                .map_or_else(unknown, |faults| format!("{faults:.2}"))
        }),
        row("bad samples", &|run| run.bad_samples.to_string()),
        row("peak memory", &|run| {
            run.peak_memory_bytes.map_or_else(unknown, show_bytes)
        }),
        row("memory bound of the loader", &|run| {
            show_bytes(run.memory_bound_bytes)
        }),
    ];
    if report
        .runs
        .iter()
        .any(|run| run.bare_images_per_second.is_some())
    {
        rows.push(row("bare loops, img/s", &|run| {
            run.bare_images_per_second
                .map_or_else(unknown, |rate| format!("{rate:.0}"))
        }));
        rows.push(row("  pipeline / bare", &|run| {
            run.bare_images_per_second.map_or_else(unknown, |rate| {
                format!("{:.3}", run.images_per_second / rate)
            })
        }));
    }
    let head: Vec<String> = std::iter::once(report.decoder.clone())
        .chain(head)
        .collect();
    table::text(&head, &rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(vec![4.0, 1.0, 2.0, 3.0]), 2.5);
    }
}
