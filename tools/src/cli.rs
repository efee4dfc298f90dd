//! The command line: what `mae` accepts, before anything is checked against files or devices.
//!
//! To add a subcommand: a variant with its arguments here, and its arm in `main.rs`.

use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;

/// Pre-train masked autoencoders on sharded image datasets, and evaluate them.
#[derive(Debug, Parser)]
#[command(
    name = "mae",
    version,
    propagate_version = true,
    max_term_width = 100,
    after_help = "Exit codes: 0 done; 1 failed; 2 wrong usage; 75 stopped after saving, run again to go on.\n\
                  Results go to stdout, logs and progress to stderr.\n\n\
                  Start with `mae shard IMAGES DATA` to pack images, then `mae inspect DATA` to see what came out."
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,

    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Flags of every subcommand.
#[derive(Debug, Args)]
pub(crate) struct Global {
    /// How much to log on stderr
    #[arg(
        long,
        global = true,
        value_enum,
        default_value = "info",
        env = "MAE_LOG_LEVEL"
    )]
    pub(crate) log_level: LogLevel,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum LogLevel {
    Off,
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Print a script that completes `mae` commands in a shell
    ///
    /// For bash: mae completions bash > ~/.local/share/bash-completion/completions/mae
    Completions {
        /// The shell to write for
        shell: Shell,
    },
}
