//! `mae bench run --scaling`: numbers of processes on the same cores and the same batch, each number beside the first.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, bail};
use mae_model::Precision;
use mae_trainer::config::{self, DeviceKind};
use mae_trainer::dist::Launch;
use serde::Serialize;

use super::super::median;
use super::{Report, RunArgs};
use crate::eval::percent;
use crate::{Outcome, Usage, made, table};

#[derive(Debug, Serialize)]
struct Scaling {
    model: String,
    precision: Precision,
    /// Over all processes.
    batch_size: usize,
    /// Over all processes.
    threads: usize,
    rounds: usize,
    steps: usize,
    runs: Vec<Run>,
}

/// The figures of one number of processes: medians over rounds.
#[derive(Debug, Serialize)]
struct Run {
    ranks: usize,
    images_per_second: f64,
    images_per_second_min: f64,
    images_per_second_max: f64,
    milliseconds_a_step: f64,
    /// Images a second over those of the first number of processes in the same round.
    efficiency: f64,
    /// Share of the time that the trainer was held up by adding up over the processes.
    all_reduce_share: f64,
    /// Share of the time that the trainer waited for a batch.
    waiting_share: f64,
    loss: f32,
}

pub(super) fn run(args: &RunArgs) -> anyhow::Result<Outcome> {
    let threads = config::threads(args.threads);
    check(args, threads)?;
    let folder = tempfile::tempdir().context("cannot make a temporary folder")?;
    let mut data = args.data.clone();
    if data.is_empty() {
        tracing::info!("making {} pictures", args.pictures);
        made::shards(folder.path(), args.pictures, made::PREPARED)?;
        data = vec![folder.path().join("*.tar").display().to_string()];
    }
    let mae = std::env::current_exe().context("cannot find this program's own file")?;
    let mut reports: Vec<Vec<Report>> = args.scaling.iter().map(|_| Vec::new()).collect();
    for round in 1..=args.rounds {
        for (reports, &ranks) in reports.iter_mut().zip(&args.scaling) {
            let report = start(&mae, args, &data, (ranks, threads))?;
            tracing::info!(
                "round {round} of {}: {ranks} × {} threads, {:.1} img/s, all-reduce {}",
                args.rounds,
                report.threads,
                report.images_per_second,
                percent(report.all_reduce_share)
            );
            reports.push(report);
        }
    }
    let first = &reports[0];
    let scaling = Scaling {
        model: args.model.clone(),
        precision: first[0].precision,
        batch_size: args.batch_size,
        threads,
        rounds: args.rounds,
        steps: args.steps,
        runs: reports.iter().map(|own| summary(own, first)).collect(),
    };
    table::show(&scaling, args.json, page)?;
    Ok(Outcome::Done)
}

/// Refuses what no process need be started for.
fn check(args: &RunArgs, threads: usize) -> anyhow::Result<()> {
    let usage = |why: String| Err(Usage(why).into());
    if args.device != DeviceKind::Cpu {
        return usage("--scaling divides this machine's cores: it is for --device cpu".to_owned());
    }
    if Launch::from_env()?.world > 1 {
        return usage(
            "--scaling starts mpirun itself: start it once, without a launcher".to_owned(),
        );
    }
    if args.rounds == 0 {
        return usage("--rounds must be above 0".to_owned());
    }
    for &ranks in &args.scaling {
        for (what, number) in [("--batch-size", args.batch_size), ("threads", threads)] {
            if !number.is_multiple_of(ranks) {
                return usage(format!(
                    "{ranks} processes cannot share {what} {number} equally: the comparison needs that (--threads, --batch-size)"
                ));
            }
        }
        if ranks > 1 && !cfg!(feature = "mpi") {
            return usage(
                "this mae was built without MPI, which joins processes on CPUs; build with `cargo build --release --features mpi` \
                 (docs/distributed.md)"
                    .to_owned(),
            );
        }
    }
    Ok(())
}

/// Measures `ranks` processes, which share `threads`.
fn start(
    mae: &Path,
    args: &RunArgs,
    data: &[String],
    (ranks, threads): (usize, usize),
) -> anyhow::Result<Report> {
    let program = match ranks {
        1 => mae,
        _ => Path::new("mpirun"),
    };
    let mut command = Command::new(program);
    if ranks > 1 {
        // Its own habit is a core for each process, whatever threads that has.
        command.args(["--bind-to", "none", "--oversubscribe"]);
        command.args(["-n", &ranks.to_string()]).arg(mae);
    }
    flags(&mut command, args, data, (ranks, threads));
    let ended = command
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| match ranks {
            1 => format!("cannot start {}", mae.display()),
            _ => "cannot start mpirun, which is OpenMPI's (Debian: openmpi-bin)".to_owned(),
        })?;
    if !ended.status.success() {
        bail!("{ranks} processes: {} (above is why)", ended.status);
    }
    serde_json::from_slice(&ended.stdout).with_context(|| {
        let said = String::from_utf8_lossy(&ended.stdout);
        format!("{ranks} processes printed no report, but: {said}")
    })
}

/// What each process is told: all of `args` but what this comparison is.
fn flags(command: &mut Command, args: &RunArgs, data: &[String], (ranks, threads): (usize, usize)) {
    let RunArgs {
        data: _,
        pictures: _,
        model,
        input_size,
        batch_size,
        mask_ratio,
        device: _,
        precision,
        threads: _,
        decoder,
        prefetch,
        steps,
        warm_up,
        activation_checkpointing,
        cuda_graphs,
        scaling: _,
        rounds: _,
        json: _,
    } = args;
    command
        .args(["bench", "run", "--json", "--data"])
        .args(data);
    for (flag, value) in [
        ("--model", model.clone()),
        ("--batch-size", (batch_size / ranks).to_string()),
        ("--mask-ratio", mask_ratio.to_string()),
        ("--threads", (threads / ranks).to_string()),
        ("--decoder", decoder.to_string()),
        ("--prefetch", prefetch.to_string()),
        ("--steps", steps.to_string()),
        ("--warm-up", warm_up.to_string()),
    ] {
        command.args([flag, &value]);
    }
    if let Some(size) = input_size {
        command.args(["--input-size", &size.to_string()]);
    }
    if let Some(precision) = precision {
        command.args(["--precision", &precision.to_string()]);
    }
    for (flag, given) in [
        ("--activation-checkpointing", *activation_checkpointing),
        ("--cuda-graphs", *cuda_graphs),
    ] {
        if given {
            command.arg(flag);
        }
    }
}

fn summary(own: &[Report], first: &[Report]) -> Run {
    let figure = |of: fn(&Report) -> f64| median(own.iter().map(of).collect());
    let rates = || own.iter().map(|report| report.images_per_second);
    let ratios = rates()
        .zip(first)
        .map(|(rate, first)| rate / first.images_per_second);
    Run {
        ranks: own[0].ranks,
        images_per_second: figure(|report| report.images_per_second),
        images_per_second_min: rates().fold(f64::INFINITY, f64::min),
        images_per_second_max: rates().fold(0.0, f64::max),
        milliseconds_a_step: figure(|report| report.milliseconds_a_step),
        efficiency: median(ratios.collect()),
        all_reduce_share: figure(|report| report.all_reduce_share),
        waiting_share: figure(|report| report.waiting_share),
        loss: own[0].loss,
    }
}

fn page(scaling: &Scaling) -> String {
    let row = |name: &str, show: &dyn Fn(&Run) -> String| -> Vec<String> {
        std::iter::once(name.to_owned())
            .chain(scaling.runs.iter().map(show))
            .collect()
    };
    let rows = [
        row("img/s", &|run| format!("{:.1}", run.images_per_second)),
        row("  lowest – highest round", &|run| {
            format!(
                "{:.1}–{:.1}",
                run.images_per_second_min, run.images_per_second_max
            )
        }),
        row("ms a step", &|run| {
            format!("{:.1}", run.milliseconds_a_step)
        }),
        row("efficiency", &|run| percent(run.efficiency)),
        row("all-reduce", &|run| percent(run.all_reduce_share)),
        row("waiting for data", &|run| percent(run.waiting_share)),
        row("batch, each", &|run| {
            (scaling.batch_size / run.ranks).to_string()
        }),
        row("threads, each", &|run| {
            (scaling.threads / run.ranks).to_string()
        }),
        row("loss", &|run| format!("{:.4}", run.loss)),
    ];
    let counts = scaling.runs.iter().map(|run| match run.ranks {
        1 => "1 process".to_owned(),
        ranks => format!("{ranks} processes"),
    });
    let head: Vec<String> = std::iter::once(scaling.model.clone())
        .chain(counts)
        .collect();
    table::text(&head, &rows)
}
