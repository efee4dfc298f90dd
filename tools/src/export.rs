//! `mae export`: a checkpoint as other programs take it.

use std::io::{self, Write};
use std::path::PathBuf;

use clap::Args;
use mae_trainer::checkpoint::export;
use mae_trainer::checkpoint::foreign::Client;

use crate::Outcome;
use crate::cli::ImportArgs;

/// Write a checkpoint as the reference code, timm or Hugging Face transformers load it
///
/// Of runs of mae, and of other programs' checkpoints alike: what is read in one form can be written in another.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    mae export runs/a --to timm exported/\n  \
    mae export runs/a/checkpoints/step-00010000 --to huggingface exported/\n  \
    mae export mae_pretrain_vit_base.pth --to timm exported/")]
pub(crate) struct ExportArgs {
    /// A checkpoint's folder, a run's for its newest whole one, or another program's (.pth, .safetensors, a folder)
    #[arg(value_name = "CHECKPOINT")]
    checkpoint: PathBuf,
    /// Whom it is for
    #[arg(long, value_name = "reference|timm|huggingface")]
    to: Client,
    /// The folder to write
    #[arg(value_name = "DIR")]
    output: PathBuf,
    #[command(flatten)]
    import: ImportArgs,
}

pub(crate) fn run(args: &ExportArgs) -> anyhow::Result<Outcome> {
    let usage = export(
        &args.checkpoint,
        &args.import.options(),
        args.to,
        &args.output,
    )?;
    tracing::info!("written to {}; load it with:", args.output.display());
    writeln!(io::stdout(), "{usage}")?;
    Ok(Outcome::Done)
}
