//! The command `mae`. Parses, calls the libraries, prints; all work is theirs.
//!
//! Exit codes: 0 done, 1 failed, 2 wrong usage, 75 stopped after saving (run again to go on).

mod bench;
mod cli;
mod demo;
mod eval;
mod export;
mod finetune;
mod index;
mod inspect;
mod made;
mod plan;
mod pretrain;
mod progress;
mod report;
mod run;
mod selftest;
mod shard;
mod study;
mod table;
mod terminal;
mod tokenizer;
mod units;

use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;

use clap::{CommandFactory, Parser};
use tracing_subscriber::filter::LevelFilter;

use crate::cli::{Cli, Command, LogLevel};

/// How a subcommand ended when it did not fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// All that was asked is done.
    Done,
    /// Stopped on a signal with everything saved; the same command goes on.
    Stopped,
}

/// A mistake in what was asked rather than in the data: ends with exit code 2, as clap's own errors do.
#[derive(Debug)]
pub(crate) struct Usage(pub(crate) String);

impl std::fmt::Display for Usage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Usage {}

fn main() -> ExitCode {
    let cli = Cli::parse();
    start_logging(cli.global.log_level);
    match run(cli.command) {
        Ok(Outcome::Done) => ExitCode::SUCCESS,
        Ok(Outcome::Stopped) => ExitCode::from(75),
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            // Causes are part of the sentence: an error of ours already carries where and what to do.
            let _ = writeln!(io::stderr(), "error: {error:#}");
            ExitCode::from(if error.is::<Usage>() { 2 } else { 1 })
        }
    }
}

fn run(command: Command) -> anyhow::Result<Outcome> {
    match command {
        Command::Shard(args) => shard::run(args),
        Command::Index(args) => index::run(&args),
        Command::Inspect(args) => inspect::run(&args),
        Command::Pretrain(args) => pretrain::run(*args),
        Command::Finetune(args) => finetune::run(*args),
        Command::Tokenizer(args) => tokenizer::run(args),
        Command::Eval(args) => eval::run(args),
        Command::Study(args) => study::run(&args),
        Command::Export(args) => export::run(&args),
        Command::Bench(args) => bench::run(args),
        Command::Plan(args) => plan::run(&args),
        Command::Demo(args) => demo::run(&args),
        Command::Selftest(args) => selftest::run(&args),
        Command::Completions { shell } => {
            // Through a buffer: clap_complete panics where the reader of a pipe has gone.
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "mae", &mut script);
            io::stdout().write_all(&script)?;
            Ok(Outcome::Done)
        }
    }
}

fn start_logging(level: LogLevel) {
    let level = match level {
        LogLevel::Off => LevelFilter::OFF,
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    };
    tracing_subscriber::fmt()
        .with_max_level(level)
        .with_writer(|| terminal::Stderr)
        .with_ansi(io::stderr().is_terminal())
        .with_target(false)
        .init();
}

/// Whether the reader of our output has gone, as in `mae inspect … | head`: not a failure.
fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        cause
            .downcast_ref::<io::Error>()
            .is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe)
    })
}
