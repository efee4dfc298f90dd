//! The command line: what `mae` accepts, before anything is checked against files or devices.
//!
//! To add a subcommand: a variant with its arguments here, and its arm in `main.rs`.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use mae_trainer::checkpoint::foreign::ImportOptions;
use mae_trainer::config::{ByteSize, InputSize};

use crate::bench::BenchArgs;
use crate::demo::DemoArgs;
use crate::eval::EvalArgs;
use crate::export::ExportArgs;
use crate::finetune::FinetuneArgs;
use crate::index::IndexArgs;
use crate::inspect::InspectArgs;
use crate::plan::PlanArgs;
use crate::pretrain::PretrainArgs;
use crate::selftest::SelftestArgs;
use crate::shard::ShardArgs;
use crate::study::StudyArgs;
use crate::tokenizer::TokenizerArgs;

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

/// Where shards lie whole that are not read where they are.
#[derive(Debug, Args)]
pub(crate) struct CacheArgs {
    /// Folder for shards that are compressed, or on servers without ranges; where it is given, shards of all servers are kept in it
    /// [default: one in the system's temporary folder]
    #[arg(long, value_name = "DIR")]
    pub(crate) cache: Option<PathBuf>,

    /// Most bytes in that folder: 50G, 500M, …
    #[arg(long, default_value = "32GiB", value_name = "SIZE")]
    pub(crate) cache_size: ByteSize,
}

const OTHERS: &str = "Checkpoints of other programs";

/// What another program's checkpoint may leave open.
#[derive(Debug, Args)]
pub(crate) struct ImportArgs {
    /// Size of the images that the model takes, N or HEIGHTxWIDTH; position embeddings are interpolated where it was trained at another
    #[arg(long, help_heading = OTHERS, value_name = "PIXELS")]
    input_size: Option<InputSize>,
    /// Attention heads of the encoder, where the checkpoint does not say
    #[arg(long, help_heading = OTHERS, value_name = "N")]
    heads: Option<usize>,
    /// Attention heads of the decoder, where the checkpoint does not say
    #[arg(long, help_heading = OTHERS, value_name = "N")]
    decoder_heads: Option<usize>,
    /// Whether the decoder predicts patches normalised one by one, where the checkpoint does not say
    #[arg(long, help_heading = OTHERS, value_name = "true|false")]
    norm_pix_loss: Option<bool>,
    /// Mean of each channel that images are normalised with [default: the checkpoint's, else ImageNet's, or 0.5 for BEiT]
    #[arg(long, help_heading = OTHERS, value_delimiter = ',', value_name = "X,X,X")]
    mean: Option<Vec<f32>>,
    /// Standard deviation of each channel [default: as --mean]
    #[arg(long, help_heading = OTHERS, value_delimiter = ',', value_name = "X,X,X")]
    std: Option<Vec<f32>>,
    /// Which of several sets of weights in a torch file, for example student
    #[arg(long, help_heading = OTHERS, value_name = "KEY")]
    checkpoint_key: Option<String>,
}

impl ImportArgs {
    pub(crate) fn options(&self) -> ImportOptions {
        ImportOptions {
            heads: self.heads,
            decoder_heads: self.decoder_heads,
            image_size: self.input_size.map(|size| (size.height, size.width)),
            norm_pix_loss: self.norm_pix_loss,
            mean: self.mean.clone(),
            std: self.std.clone(),
            key: self.checkpoint_key.clone(),
        }
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Shard(ShardArgs),
    Index(IndexArgs),
    Inspect(InspectArgs),
    Pretrain(Box<PretrainArgs>),
    Finetune(Box<FinetuneArgs>),
    Tokenizer(TokenizerArgs),
    Eval(EvalArgs),
    Study(StudyArgs),
    Export(ExportArgs),
    Bench(BenchArgs),
    Plan(Box<PlanArgs>),
    Demo(DemoArgs),
    Selftest(SelftestArgs),
    /// Print a script that completes `mae` commands in a shell
    ///
    /// For bash: mae completions bash > ~/.local/share/bash-completion/completions/mae
    Completions {
        /// The shell to write for
        shell: Shell,
    },
}
