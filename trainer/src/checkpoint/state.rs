//! `state.json`: all of a run's state that is not tensors.

use std::collections::BTreeMap;
use std::path::Path;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::files::FileDigest;
use crate::config::{CONFIG_FILE, PretrainConfig, shell_word};

/// The version of the checkpoint's layout that this build writes and reads.
pub const VERSION: u32 = 1;

/// The settings of a run: what kind of run it is.
pub trait RunConfig: Serialize + DeserializeOwned {
    /// As it stands in the state.
    const KIND: RunKind;

    /// The run's folder.
    fn output_dir(&self) -> &Path;

    /// The command that goes on with the run.
    fn resume_command(&self) -> String {
        format!(
            "mae {} --config {} --resume auto",
            Self::KIND.command(),
            shell_word(&self.output_dir().join(CONFIG_FILE))
        )
    }
}

/// What a run does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RunKind {
    /// Pre-trains a masked autoencoder.
    #[default]
    Pretrain,
    /// Fine-tunes a classifier.
    Finetune,
    /// Trains a tokenizer.
    Tokenizer,
}

impl RunKind {
    /// The subcommand of `mae` that runs it.
    fn command(self) -> &'static str {
        match self {
            RunKind::Pretrain => "pretrain",
            RunKind::Finetune => "finetune",
            RunKind::Tokenizer => "tokenizer train",
        }
    }
}

impl std::fmt::Display for RunKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            RunKind::Pretrain => "pre-training",
            RunKind::Finetune => "fine-tuning",
            RunKind::Tokenizer => "training a tokenizer",
        })
    }
}

impl RunConfig for PretrainConfig {
    const KIND: RunKind = RunKind::Pretrain;

    fn output_dir(&self) -> &Path {
        &self.output_dir
    }
}

/// The best evaluation of a run so far.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Best {
    /// Epochs done when it was made.
    pub epoch: u64,
    /// Its top-1 accuracy.
    pub top1: f64,
}

/// Where a run stands. Random numbers are counter-based, so no generator's state is in it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(bound = "C: RunConfig")]
pub struct RunState<C = PretrainConfig> {
    /// Layout of the checkpoint.
    pub version: u32,
    /// What the run does.
    #[serde(default)]
    pub kind: RunKind,
    /// The crate's version that wrote it.
    pub written_by: String,
    /// Processes that trained.
    #[serde(default = "crate::config::common::one")]
    pub world: usize,
    /// Updates done.
    pub step: u64,
    /// Updates an epoch.
    pub steps_per_epoch: u64,
    /// The epoch that the next batch belongs to, counted from 0.
    pub epoch: u64,
    /// The next batch within that epoch.
    pub batch: u64,
    /// Sum of the losses of the epoch's updates so far.
    pub epoch_loss: f64,
    /// Samples of each data set in the epoch's updates so far.
    #[serde(default)]
    pub data_samples: Vec<u64>,
    /// Samples so far, over all the run's parts, that could not be used and were replaced by others.
    #[serde(default)]
    pub bad_samples: u64,
    /// Seconds of training so far, over all the run's parts.
    pub seconds: f64,
    /// Digest of the data: names, keys and sizes. Those of several data sets are joined by `+`.
    pub dataset: String,
    /// What else decides the batches: decoder, seed, transform, processor features.
    pub fingerprint: String,
    /// The best evaluation so far, where the run has such.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub best: Option<Best>,
    /// Updates whose images were passed over, as they led to numbers that are not finite.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub skipped: Vec<u64>,
    /// The run's settings.
    pub config: C,
    /// The other files of the checkpoint.
    pub files: BTreeMap<String, FileDigest>,
}
