//! `mae inspect`: says what a dataset, a shard, an index or a checkpoint holds, and what is wrong with it.

mod checkpoint;
mod dataset;
mod images;

use std::fmt::Display;
use std::io::{self, Write};
use std::path::Path;

use anyhow::Result;
use clap::Args;
use mae_loader::LabelSource;
use serde::Serialize;

use crate::Outcome;
use crate::cli::{CacheArgs, ImportArgs};

/// Show what a dataset, a shard, an index or a checkpoint holds, and what is wrong with it
///
/// PATH is a shard spec (file, folder, glob, brace range, index.json), the folder of a checkpoint or of a run,
/// or another program's checkpoint (.pth, .safetensors, a folder).
#[derive(Debug, Args)]
pub(crate) struct InspectArgs {
    /// What to look into
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<String>,

    /// Print JSON
    #[arg(long)]
    json: bool,

    /// List every shard and class, not only the first twenty
    #[arg(long)]
    all: bool,

    /// Where labels come from: none, cls, or json:FIELD (for example json:wnid)
    #[arg(long, default_value_t = LabelSource::Cls, value_name = "FIELD")]
    label_field: LabelSource,

    /// How many images, spread over the dataset, to decode for sizes and damage
    #[arg(long, default_value_t = 100, value_name = "N")]
    images: u64,

    #[command(flatten)]
    import: ImportArgs,

    #[command(flatten)]
    cache: CacheArgs,
}

pub(crate) fn run(args: &InspectArgs) -> Result<Outcome> {
    match args.paths.as_slice() {
        [path] if checkpoint::is_one(Path::new(path)) => {
            let report = checkpoint::inspect(Path::new(path), &args.import.options())?;
            show(&report, args.json)
        }
        specs => show(&dataset::inspect(specs, args)?, args.json),
    }
}

fn show(report: &(impl Display + Serialize), json: bool) -> Result<Outcome> {
    let mut out = io::stdout().lock();
    if json {
        // As text first: an error of serde_json does not say that the reader of a pipe has gone.
        writeln!(out, "{}", serde_json::to_string_pretty(report)?)?;
    } else {
        write!(out, "{report}")?;
    }
    Ok(Outcome::Done)
}
