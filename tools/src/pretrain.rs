//! `mae pretrain`: settings from flags and a file; the training is mae-trainer's.

use std::path::PathBuf;

use clap::Args;
use mae_trainer::dist::Launch;
use mae_trainer::{PretrainConfig, RawPretrain};

use crate::run::carry_out;
use crate::{Outcome, Usage};

/// Pre-train a masked autoencoder on tar shards, or go on with a run
///
/// Defaults are the reference code's recipe. The output folder gets checkpoints/, log.jsonl, pictures/ and config.toml.
/// SIGINT and SIGTERM finish the step, save and exit with code 75; the printed command goes on exactly from there.
///
/// Example: mae pretrain --data 'shards/train-*.tar' --model mae-tiny-patch4 --epochs 100 --output-dir runs/first
#[derive(Debug, Args)]
pub(crate) struct PretrainArgs {
    /// TOML file with settings, named as the flags (`batch_size = 64`); flags win over it. The config.toml that a run
    /// leaves in its output folder is one
    #[arg(long, value_name = "FILE", help_heading = "Run")]
    config: Option<PathBuf>,

    #[command(flatten)]
    settings: RawPretrain,
}

pub(crate) fn run(args: PretrainArgs) -> anyhow::Result<Outcome> {
    let config = resolve(args).map_err(|error| Usage(error.to_string()))?;
    carry_out(
        (&config, &config.launch),
        mae_trainer::pretrain,
        |summary| {
            let loss = summary
                .val_loss
                .or(summary.loss)
                .map_or(String::new(), |loss| format!(", loss {loss:.4}"));
            (loss, serde_json::json!({}))
        },
    )
}

fn resolve(args: PretrainArgs) -> mae_trainer::Result<PretrainConfig> {
    let mut raw = match args.config {
        Some(path) => args.settings.over(RawPretrain::from_toml_file(&path)?)?,
        None => args.settings,
    };
    raw.launch = Some(Launch::from_env()?);
    PretrainConfig::resolve(raw)
}
