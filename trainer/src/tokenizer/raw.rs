//! What a user wrote of a tokenizer's training, flags or TOML, before anything is filled in or checked. As [`crate::config::raw`]: a
//! field's name is its TOML key and its flag, its comment the flag's help.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::config::table::{one_or_many, over, read_toml};
use crate::config::{ByteSize, DeviceKind, InputSize, ListenAddress, Resume};
use crate::error::Result;

/// Settings of a tokenizer's training as given; `None` is "not given".
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "cli", derive(clap::Args))]
#[serde(deny_unknown_fields)]
pub struct RawTokenizer {
    /// Training shards: a tar file, a folder of them, a glob, braces (`train-{000000..000009}.tar`); several may be given
    #[serde(default, deserialize_with = "one_or_many")]
    #[cfg_attr(feature = "cli", arg(long, num_args = 1.., value_name = "SPEC", help_heading = "Data"))]
    pub data: Option<Vec<String>>,
    /// Held-out shards, for the reconstruction error, the use of the codes and the pictures
    #[serde(default, deserialize_with = "one_or_many")]
    #[cfg_attr(feature = "cli", arg(long, num_args = 1.., value_name = "SPEC", help_heading = "Data"))]
    pub val_data: Option<Vec<String>>,
    /// Folder of the run: tokenizer.safetensors, tokenizer.json, checkpoints/, log.jsonl, pictures/, config.toml
    #[cfg_attr(feature = "cli", arg(long, value_name = "DIR", help_heading = "Run"))]
    pub output_dir: Option<PathBuf>,
    /// auto: go on from the output folder's newest whole checkpoint, or start afresh; never: the folder must be empty; or the path of a checkpoint or a run of a tokenizer [default: never]
    #[cfg_attr(
        feature = "cli",
        arg(long, value_name = "auto|never|PATH", help_heading = "Run")
    )]
    pub resume: Option<Resume>,
    /// Seed of the initial weights, the order, the crops and the noise [default: 0]
    #[cfg_attr(feature = "cli", arg(long, value_name = "N", help_heading = "Run"))]
    pub seed: Option<u64>,
    /// Threads for decoding and for arithmetic; 0 takes every core [default: 0]
    #[cfg_attr(feature = "cli", arg(long, value_name = "N", help_heading = "Run"))]
    pub threads: Option<usize>,
    /// Where the arithmetic runs: cpu, cuda or cuda:N [default: cpu]
    #[cfg_attr(
        feature = "cli",
        arg(long, value_name = "DEVICE", help_heading = "Run")
    )]
    pub device: Option<DeviceKind>,
    /// Input size in pixels, one number or HEIGHTxWIDTH: that of the model whose targets the codes are to be [default: 32]
    #[cfg_attr(
        feature = "cli",
        arg(long, value_name = "SIZE", help_heading = "Model")
    )]
    pub input_size: Option<InputSize>,
    /// Channels of the images, 3 or 1 [default: 3]
    #[cfg_attr(feature = "cli", arg(long, value_name = "N", help_heading = "Model"))]
    pub channels: Option<usize>,
    /// Side of the patch that a code stands for: the model's [default: 4]
    #[cfg_attr(feature = "cli", arg(long, value_name = "N", help_heading = "Model"))]
    pub patch_size: Option<usize>,
    /// Number of codes [default: 512]
    #[cfg_attr(feature = "cli", arg(long, value_name = "N", help_heading = "Model"))]
    pub vocabulary: Option<usize>,
    /// Channels of the convolutions [default: 64]
    #[cfg_attr(feature = "cli", arg(long, value_name = "N", help_heading = "Model"))]
    pub hidden: Option<usize>,
    /// Residual blocks of the encoder, and as many of the decoder [default: 1]
    #[cfg_attr(feature = "cli", arg(long, value_name = "N", help_heading = "Model"))]
    pub blocks: Option<usize>,
    /// Images a step [default: 64]
    #[cfg_attr(
        feature = "cli",
        arg(long, value_name = "N", help_heading = "Optimisation")
    )]
    pub batch_size: Option<usize>,
    /// Passes over the data; the schedules' length [default: 10]
    #[cfg_attr(
        feature = "cli",
        arg(long, value_name = "N", help_heading = "Optimisation")
    )]
    pub epochs: Option<u64>,
    /// Peak learning rate of Adam [default: 3e-3]
    #[cfg_attr(
        feature = "cli",
        arg(long, value_name = "RATE", help_heading = "Optimisation")
    )]
    pub lr: Option<f64>,
    /// Learning rate at the end of the cosine [default: 0]
    #[cfg_attr(
        feature = "cli",
        arg(long, value_name = "RATE", help_heading = "Optimisation")
    )]
    pub min_lr: Option<f64>,
    /// Epochs in which the learning rate rises from 0 [default: a tenth of the epochs, at most 1]
    #[cfg_attr(
        feature = "cli",
        arg(long, value_name = "EPOCHS", help_heading = "Optimisation")
    )]
    pub warmup_epochs: Option<f64>,
    /// Temperature of the Gumbel-softmax: where it begins, and where a cosine over half of the run takes it [default: 1,0.0625]
    #[cfg_attr(
        feature = "cli",
        arg(
            long,
            value_delimiter = ',',
            value_name = "START,END",
            help_heading = "Optimisation"
        )
    )]
    pub temperature: Option<Vec<f64>>,
    /// Weight of the codes' divergence from uniform ones, in nats a patch, beside the squared error [default: 0.004]
    #[cfg_attr(
        feature = "cli",
        arg(long, value_name = "X", help_heading = "Optimisation")
    )]
    pub kl_weight: Option<f64>,
    /// Share of the image's area that a random crop takes, lowest and highest [default: 0.2,1.0]
    #[cfg_attr(
        feature = "cli",
        arg(
            long,
            value_delimiter = ',',
            value_name = "LOW,HIGH",
            help_heading = "Data"
        )
    )]
    pub crop_scale: Option<Vec<f64>>,
    /// Mirror every second image, at random [default: true]
    #[cfg_attr(feature = "cli", arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL", help_heading = "Data"))]
    pub flip: Option<bool>,
    /// Folder for shards that are compressed or on servers [default: one in the system's temporary folder]
    #[cfg_attr(feature = "cli", arg(long, value_name = "DIR", help_heading = "Data"))]
    pub cache: Option<PathBuf>,
    /// Most bytes in that folder: 50G, 500M, … [default: 32GiB]
    #[cfg_attr(feature = "cli", arg(long, value_name = "SIZE", help_heading = "Data"))]
    pub cache_size: Option<ByteSize>,
    /// Checkpoints kept [default: 1]
    #[cfg_attr(feature = "cli", arg(long, value_name = "N", help_heading = "Output"))]
    pub keep_last: Option<usize>,
    /// Updates from one line of the log to the next [default: 20]
    #[cfg_attr(feature = "cli", arg(long, value_name = "N", help_heading = "Output"))]
    pub log_every: Option<u64>,
    /// Draw images beside their reconstructions every so many epochs; 0 never [default: 1]
    #[cfg_attr(
        feature = "cli",
        arg(long, value_name = "EPOCHS", help_heading = "Output")
    )]
    pub picture_every: Option<u64>,
    /// Serve the run's figures to Prometheus: an address and a port (0.0.0.0:9400, at /metrics), or a port that this machine alone reaches; 0 is any free one [default: off]
    #[cfg_attr(
        feature = "cli",
        arg(long, value_name = "ADDRESS:PORT", help_heading = "Output")
    )]
    pub prometheus: Option<ListenAddress>,
}

impl RawTokenizer {
    /// Reads a TOML file whose keys are the flags' names, with `-` or `_` between words.
    ///
    /// # Errors
    /// If it cannot be read, or naming the key that is not one.
    pub fn from_toml_file(path: &Path) -> Result<Self> {
        read_toml(path)
    }

    /// These settings, with `base` where they are silent.
    ///
    /// # Errors
    /// None for settings that were read.
    pub fn over(self, base: Self) -> Result<Self> {
        over(self, base)
    }
}
