//! `mae bench`: how fast the parts are on this machine.

mod loader;
mod process;

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
}

pub(crate) fn run(args: BenchArgs) -> anyhow::Result<Outcome> {
    match args.command {
        BenchCommand::Loader(args) => loader::run(&args),
    }
}
