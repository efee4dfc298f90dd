//! `mae finetune`: settings from flags and a file; the training is mae-trainer's, signals and the bar are those of `mae pretrain`.

use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use clap::Args;
use mae_trainer::checkpoint::RunConfig as _;
use mae_trainer::finetune::pretrained;
use mae_trainer::{FinetuneConfig, RawFinetune};

use crate::eval::percent;
use crate::pretrain::{Progress, duration, stop_on_signals};
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
    let stop = Arc::new(AtomicBool::new(false));
    stop_on_signals(Arc::clone(&stop))?;
    let mut progress = Progress::default();
    let outcome = mae_trainer::finetune(&config, &stop, &mut progress);
    progress.close();
    let (result, ended) = match outcome? {
        mae_trainer::Outcome::Finished(summary) => {
            let accuracy = match (summary.val_top1, summary.best) {
                (Some(top1), Some(best)) => format!(
                    ", top-1 {} ({} after epoch {})",
                    percent(top1),
                    percent(best.top1),
                    best.epoch
                ),
                _ => String::new(),
            };
            tracing::info!(
                "done: {} steps{accuracy} in {}; the model is in {}",
                summary.step,
                duration(summary.seconds),
                summary.checkpoint.display()
            );
            let json = serde_json::json!({
                "outcome": "finished", "step": summary.step, "loss": summary.loss, "val_loss": summary.val_loss,
                "top1": summary.val_top1, "best": summary.best, "seconds": summary.seconds, "checkpoint": summary.checkpoint,
            });
            (json, Outcome::Done)
        }
        mae_trainer::Outcome::Stopped { checkpoint, step } => {
            let resume = config.resume_command();
            tracing::info!(
                "stopped after step {step}, saved as {}. Go on with: {resume}",
                checkpoint.display()
            );
            let json = serde_json::json!({
                "outcome": "stopped", "step": step, "checkpoint": checkpoint, "resume": resume,
            });
            (json, Outcome::Stopped)
        }
    };
    writeln!(io::stdout(), "{result}")?;
    Ok(ended)
}

fn resolve(args: FinetuneArgs) -> mae_trainer::Result<FinetuneConfig> {
    let raw = match args.config {
        Some(path) => args.settings.over(RawFinetune::from_toml_file(&path)?)?,
        None => args.settings,
    };
    FinetuneConfig::resolve(raw, pretrained)
}
