//! `mae tokenizer`: training a tokenizer, and pictures of what it makes of images.

use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context;
use clap::builder::TypedValueParser as _;
use clap::{Args, Subcommand};
use mae_loader::{Dataset, DatasetOptions, LabelSource};
use mae_trainer::config::DeviceKind;
use mae_trainer::dist::Launch;
use mae_trainer::tokenizer::{RawTokenizer, TokenizerRun, load, reconstructions, train};
use mae_trainer::{device, picture};

use crate::cli::CacheArgs;
use crate::run::carry_out;
use crate::{Outcome, Usage};

/// Train a discrete VAE whose codes can be the targets of pre-training (--target tokens), and look at it
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    mae tokenizer train --data 'data/train-*.tar' --val-data 'data/test-*.tar' --output-dir tokenizer\n  \
    mae tokenizer reconstruct --tokenizer tokenizer --data 'data/test-*.tar' --output pictures.png")]
pub(crate) struct TokenizerArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Train a tokenizer on tar shards, or go on with one
    ///
    /// The output folder gets tokenizer.safetensors and tokenizer.json at the end of every epoch, checkpoints/, log.jsonl, pictures/ and
    /// config.toml. SIGINT and SIGTERM finish the step, save and exit with code 75; the printed command goes on exactly from there.
    Train(Box<TrainArgs>),
    /// Pictures of images beside what comes back from their codes
    Reconstruct(ReconstructArgs),
}

#[derive(Debug, Args)]
struct TrainArgs {
    /// TOML file with settings, named as the flags (`batch_size = 64`); flags win over it. The config.toml that a run
    /// leaves in its output folder is one
    #[arg(long, value_name = "FILE", help_heading = "Run")]
    config: Option<PathBuf>,

    #[command(flatten)]
    settings: RawTokenizer,
}

#[derive(Debug, Args)]
struct ReconstructArgs {
    /// The folder that `mae tokenizer train` wrote
    #[arg(long, value_name = "DIR")]
    tokenizer: PathBuf,
    /// Shards: a tar file, a folder of them, a glob, braces; several may be given
    #[arg(long, required = true, num_args = 1.., value_name = "SPEC")]
    data: Vec<String>,
    /// The PNG to write, each image as it was | as it came back
    #[arg(long, default_value = "reconstructions.png", value_name = "FILE")]
    output: PathBuf,
    /// How many images, spread over the data
    #[arg(long, default_value = "8", value_parser = clap::value_parser!(u32).range(1..=1000).map(|n| n as usize), value_name = "N")]
    count: usize,
    /// Where the network runs: cpu, cuda or cuda:N
    #[arg(long, default_value = "cpu", value_name = "DEVICE")]
    device: DeviceKind,
    #[command(flatten)]
    cache: CacheArgs,
}

pub(crate) fn run(args: TokenizerArgs) -> anyhow::Result<Outcome> {
    match args.what {
        What::Train(args) => {
            let config = resolve(*args).map_err(|error| Usage(error.to_string()))?;
            let launch = Launch::from_env()?;
            if launch.world > 1 {
                let why = format!(
                    "a tokenizer is trained by one process, and this is one of {}; start it without the launcher",
                    launch.world
                );
                return Err(Usage(why).into());
            }
            carry_out((&config, &launch), train, |summary| {
                let said = match (summary.val_loss, summary.val_codes) {
                    (Some(error), Some(codes)) => format!(
                        ", held-out reconstruction error {error:.4}, {} codes in use (perplexity {:.0})",
                        codes.used, codes.perplexity
                    ),
                    _ => String::new(),
                };
                let json = serde_json::json!({
                    "tokenizer": config.output_dir, "val_codes": summary.val_codes,
                });
                (said, json)
            })
        }
        What::Reconstruct(args) => reconstruct(&args),
    }
}

fn resolve(args: TrainArgs) -> mae_trainer::Result<TokenizerRun> {
    let raw = match args.config {
        Some(path) => args.settings.over(RawTokenizer::from_toml_file(&path)?)?,
        None => args.settings,
    };
    TokenizerRun::resolve(raw)
}

fn reconstruct(args: &ReconstructArgs) -> anyhow::Result<Outcome> {
    let tokenizer = load(&args.tokenizer, &device::open(args.device)?)?;
    let options = DatasetOptions {
        labels: LabelSource::None,
        cache_dir: args.cache.cache.clone(),
        cache_bytes: args.cache.cache_size.0,
        ..DatasetOptions::default()
    };
    let dataset = Arc::new(Dataset::open(&args.data, &options)?);
    let pairs = reconstructions(&tokenizer, &dataset, args.count)?;
    let output = args.output.display();
    picture::pairs(&pairs)
        .save(&args.output)
        .with_context(|| format!("cannot write {output}"))?;
    writeln!(
        io::stdout(),
        "{output}: {} images, each as it was | from its codes",
        pairs.len()
    )?;
    Ok(Outcome::Done)
}
