//! `mae finetune`: settings from flags and a file; the training is mae-trainer's.

use std::path::PathBuf;

use clap::Args;
use mae_trainer::dist::Launch;
use mae_trainer::finetune::pretrained;
use mae_trainer::{FinetuneConfig, RawFinetune};

use crate::eval::percent;
use crate::run::carry_out;
use crate::{Outcome, Usage};

/// Fine-tune a pre-trained encoder as a classifier, or train one from scratch
///
/// Defaults are the reference code's recipe for the model's size. The output folder gets checkpoints/, best/ (the checkpoint of
/// the highest top-1 accuracy on --val-data), log.jsonl and config.toml. SIGINT and SIGTERM finish the step, save and exit with code
/// 75; the printed command goes on exactly from there.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    mae finetune runs/a --data 'data/train-*.tar' --val-data 'data/val-*.tar' --output-dir runs/a-tuned\n  \
    mae finetune runs/a --freeze-blocks 11 --data … --val-data … --output-dir runs/a-last-block\n  \
    mae finetune --from-scratch --model mae-tiny-patch4 --data … --val-data … --output-dir runs/scratch")]
pub(crate) struct FinetuneArgs {
    /// TOML file with settings, named as the flags (`batch_size = 64`); flags win over it. The config.toml that a run
    /// leaves in its output folder is one
    #[arg(long, value_name = "FILE", help_heading = "Run")]
    config: Option<PathBuf>,

    #[command(flatten)]
    settings: RawFinetune,
}

pub(crate) fn run(args: FinetuneArgs) -> anyhow::Result<Outcome> {
    let config = resolve(args).map_err(|error| Usage(error.to_string()))?;
    carry_out(
        (&config, &config.launch),
        mae_trainer::finetune,
        |summary| {
            let accuracy = match (summary.val_top1, summary.best) {
                (Some(top1), Some(best)) => format!(
                    ", top-1 {} ({} after epoch {})",
                    percent(top1),
                    percent(best.top1),
                    best.epoch
                ),
                _ => String::new(),
            };
            let json = serde_json::json!({"top1": summary.val_top1, "best": summary.best});
            (accuracy, json)
        },
    )
}

fn resolve(args: FinetuneArgs) -> mae_trainer::Result<FinetuneConfig> {
    let mut raw = match args.config {
        Some(path) => args.settings.over(RawFinetune::from_toml_file(&path)?)?,
        None => args.settings,
    };
    raw.launch = Some(Launch::from_env()?);
    FinetuneConfig::resolve(raw, pretrained)
}
