//! The flags of `mae eval report`.

use std::path::PathBuf;

use clap::builder::TypedValueParser as _;
use clap::{Args, ValueEnum};
use mae_loader::LabelSource;
use mae_trainer::eval::StreamOptions;
use mae_trainer::eval::features::FeaturePooling;
use serde::Serialize;

use crate::cli::{CacheArgs, ImportArgs};
use crate::eval::reconstruct::ImageArgs;

/// What a report can hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Protocol {
    /// As `mae eval loss`
    Loss,
    /// As `mae eval knn`
    Knn,
    /// As `mae eval linear-probe --cached`
    LinearProbe,
    /// As `mae eval reconstruct`
    Reconstruct,
}

impl Protocol {
    /// As it is called on the command line.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Loss => "loss",
            Self::Knn => "knn",
            Self::LinearProbe => "linear-probe",
            Self::Reconstruct => "reconstruct",
        }
    }

    /// Whether it judges features by labels.
    pub(super) fn needs_labels(self) -> bool {
        matches!(self, Self::Knn | Self::LinearProbe)
    }
}

#[derive(Debug, Args)]
pub(in crate::eval) struct SummaryArgs {
    /// Checkpoints to compare: folders of checkpoints or of runs, or other programs' (.pth, .safetensors, a folder)
    #[arg(required = true, value_name = "CHECKPOINT")]
    pub(super) checkpoints: Vec<PathBuf>,
    /// Shards: a tar file, a folder of them, a glob, braces (`train-{000000..000009}.tar`); several may be given
    #[arg(long, required = true, num_args = 1.., value_name = "SPEC")]
    pub(super) data: Vec<String>,
    /// Test shards, in the same form; without them every fifth sample of --data is held out for the protocols with labels
    #[arg(long, num_args = 1.., value_name = "SPEC")]
    pub(super) val_data: Vec<String>,
    /// Folder for results.json and report.html
    #[arg(long, value_name = "DIR")]
    pub(super) output_dir: PathBuf,
    /// What to run
    #[arg(
        long,
        num_args = 1..,
        value_delimiter = ',',
        default_value = "loss,knn,linear-probe,reconstruct",
        value_name = "PROTOCOL"
    )]
    pub(super) protocols: Vec<Protocol>,
    /// Also judge the first checkpoint's network with random weights
    #[arg(long)]
    pub(super) random_weights: bool,
    /// Where labels come from: cls, or json:FIELD (for example json:wnid)
    #[arg(long, default_value = "cls", value_name = "FIELD")]
    pub(super) label_field: LabelSource,
    /// Features are the mean of the patch tokens, or the class token
    #[arg(long, default_value = "mean", value_name = "mean|token")]
    pub(super) pooling: FeaturePooling,
    /// Share of the patches removed [default: as in the training of the first checkpoint]
    #[arg(long, value_name = "RATIO")]
    pub(super) mask_ratio: Option<f64>,
    /// What the masks are drawn from
    #[arg(long, default_value = "0", value_name = "N")]
    pub(super) seed: u64,
    #[command(flatten)]
    pub(super) images: ImageArgs,
    /// Images encoded at a time
    #[arg(long, default_value = "64", value_parser = clap::value_parser!(u32).range(1..).map(|n| n as usize), value_name = "N")]
    batch_size: usize,
    /// Threads for decoding and for arithmetic; 0 takes every core
    #[arg(long, default_value = "0", value_name = "N")]
    threads: usize,
    /// Short side that images are resized to before the centre crop [default: the input's size below 128 pixels, else 8/7 of it]
    #[arg(long, value_name = "PIXELS")]
    resize: Option<u32>,
    #[command(flatten)]
    pub(super) import: ImportArgs,
    #[command(flatten)]
    pub(super) cache: CacheArgs,
}

impl SummaryArgs {
    pub(super) fn runs(&self, protocol: Protocol) -> bool {
        self.protocols.contains(&protocol)
    }

    pub(super) fn stream(&self) -> StreamOptions {
        StreamOptions {
            batch_size: self.batch_size,
            threads: Some(crate::eval::threads(self.threads)),
            resize: self.resize,
        }
    }
}
