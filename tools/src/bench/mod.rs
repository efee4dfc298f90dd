//! `mae bench`: how fast the parts are on this machine.

pub(crate) mod loader;
mod process;
mod run;
mod step;

use clap::{Args, Subcommand};

use crate::Outcome;

/// Measure the speed of a part on this machine
#[derive(Debug, Args)]
pub(crate) struct BenchArgs {
    #[command(subcommand)]
    command: BenchCommand,
}

#[derive(Debug, Subcommand)]
enum BenchCommand {
    Loader(loader::LoaderArgs),
    Run(run::RunArgs),
    Step(step::StepArgs),
}

pub(crate) fn run(args: BenchArgs) -> anyhow::Result<Outcome> {
    match args.command {
        BenchCommand::Loader(args) => loader::run(&args),
        BenchCommand::Run(args) => run::run(&args),
        BenchCommand::Step(args) => step::run(&args),
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    if values.len() % 2 == 1 {
        values[middle]
    } else {
        (values[middle - 1] + values[middle]) / 2.0
    }
}
