//! What a user wrote of a fine-tuning run, flags or TOML, before anything is filled in or checked. As [`crate::config::raw`]: a field's
//! name is its TOML key and its flag, its comment the flag's help.

use std::path::{Path, PathBuf};

use mae_loader::{DecodeQuality, DecoderKind, LabelSource, RandAugment};
use mae_model::{Pooling, Precision};
use serde::{Deserialize, Serialize};

use crate::config::table::{one_or_many, over, read_toml};
use crate::config::{ByteSize, DeviceKind, InputSize, ListenAddress, Resume};
use crate::dist::Launch;
use crate::error::Result;

// Apart from RawPretrain, although much is the same: serde cannot flatten a part into a struct that denies unknown fields.
/// Settings of a fine-tuning run as given; `None` is "not given".
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "cli", derive(clap::Args))]
#[serde(deny_unknown_fields)]
pub struct RawFinetune {
    /// Pre-trained weights: a checkpoint's folder, a run's for its newest whole one, or another program's (.pth, .safetensors, a folder)
    #[cfg_attr(feature = "cli", arg(value_name = "CHECKPOINT"))]
    pub checkpoint: Option<PathBuf>,
    /// Where in a torch file the weights stand, `student` for example [default: where they usually do]
    #[cfg_attr(feature = "cli", arg(long, value_name = "KEY", help_heading = "Model"))]
    pub checkpoint_key: Option<String>,
    /// Start from random weights instead: the supervised baseline, by the same code. Needs --model [default: false]
    #[cfg_attr(feature = "cli", arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true,
        default_missing_value = "true", help_heading = "Model"))]
    pub from_scratch: Option<bool>,

    /// Labelled training shards: a tar file, a folder of them, a glob, braces (`train-{000000..000009}.tar`); several may be given
    #[serde(default, deserialize_with = "one_or_many")]
    #[cfg_attr(feature = "cli", arg(long, num_args = 1.., value_name = "SPEC", help_heading = "Data"))]
    pub data: Option<Vec<String>>,
    /// Labelled shards that accuracy is measured on
    #[serde(default, deserialize_with = "one_or_many")]
    #[cfg_attr(feature = "cli", arg(long, num_args = 1.., value_name = "SPEC", help_heading = "Data"))]
    pub val_data: Option<Vec<String>>,
    /// Where labels come from: cls, or json:FIELD (for example json:wnid) [default: cls]
    #[cfg_attr(
        feature = "cli",
        arg(long, value_name = "FIELD", help_heading = "Data")
    )]
    pub label_field: Option<LabelSource>,
    /// Number of classes [default: as many as the training labels name]
    #[cfg_attr(feature = "cli", arg(long, value_name = "N", help_heading = "Data"))]
    pub classes: Option<usize>,
    /// Folder of the run: checkpoints/, best/, log.jsonl, config.toml
    #[cfg_attr(feature = "cli", arg(long, value_name = "DIR", help_heading = "Run"))]
    pub output_dir: Option<PathBuf>,
    /// auto: go on from the output folder's newest whole checkpoint, or start afresh; never: the folder must be empty; or the path
    /// of a checkpoint or a run of fine-tuning [default: never]
    #[cfg_attr(
        feature = "cli",
        arg(long, value_name = "auto|never|PATH", help_heading = "Run")
    )]
    pub resume: Option<Resume>,
    /// Seed of the head's weights, the order, and all augmentation [default: 0]
    #[cfg_attr(feature = "cli", arg(long, value_name = "N", help_heading = "Run"))]
    pub seed: Option<u64>,
    /// Threads for decoding and for arithmetic; 0 takes every core [default: 0]
    #[cfg_attr(feature = "cli", arg(long, value_name = "N", help_heading = "Run"))]
    pub threads: Option<usize>,
    /// This process among those of a job
    #[serde(skip)]
    #[cfg_attr(feature = "cli", arg(skip))]
    pub launch: Option<Launch>,
    /// Seconds that nothing may move, in any process, before the run ends with an error that says what stands still [default: 600]
    #[cfg_attr(
        feature = "cli",
        arg(long, value_name = "SECONDS", help_heading = "Run")
    )]
    pub hang_timeout: Option<u64>,
    /// Where the arithmetic runs: cpu, cuda or cuda:N; of several processes on GPUs, each takes the one of its number on its machine
    /// [default: cpu]
    #[cfg_attr(
        feature = "cli",
        arg(long, value_name = "DEVICE", help_heading = "Run")
    )]
    pub device: Option<DeviceKind>,
    /// Numbers of activations and products: f32, tf32 or bf16 [default: bf16 on a GPU, f32 on the CPU, which has no other]
    #[cfg_attr(
        feature = "cli",
        arg(long, value_name = "PRECISION", help_heading = "Run")
    )]
    pub precision: Option<Precision>,

    /// Architecture by name, for --from-scratch [default: the checkpoint's]
    #[cfg_attr(
        feature = "cli",
        arg(long, value_name = "NAME", help_heading = "Model")
    )]
    pub model: Option<String>,
    /// Input size in pixels, one number or HEIGHTxWIDTH [default: the checkpoint's]
    #[cfg_attr(
        feature = "cli",
        arg(long, value_name = "SIZE", help_heading = "Model")
    )]
    pub input_size: Option<InputSize>,
    /// Channels of the images, 3 or 1 [default: the checkpoint's]
    #[cfg_attr(feature = "cli", arg(long, value_name = "N", help_heading = "Model"))]
    pub channels: Option<usize>,
    /// Side of a patch in pixels [default: the checkpoint's]
    #[cfg_attr(feature = "cli", arg(long, value_name = "N", help_heading = "Model"))]
    pub patch_size: Option<usize>,
    /// Width of the encoder [default: the checkpoint's]
    #[cfg_attr(feature = "cli", arg(long, value_name = "N", help_heading = "Model"))]
    pub dim: Option<usize>,
    /// Blocks of the encoder [default: the checkpoint's]
    #[cfg_attr(feature = "cli", arg(long, value_name = "N", help_heading = "Model"))]
    pub depth: Option<usize>,
    /// Attention heads of the encoder [default: the checkpoint's]
    #[cfg_attr(feature = "cli", arg(long, value_name = "N", help_heading = "Model"))]
    pub heads: Option<usize>,
    /// Hidden width of the MLPs over `dim`; only a run's own settings have it
    #[cfg_attr(feature = "cli", arg(skip))]
    pub mlp_ratio: Option<f32>,
    /// Epsilon of the norms; only a run's own settings have it
    #[cfg_attr(feature = "cli", arg(skip))]
    pub norm_eps: Option<f32>,
    /// BEiT's biases of relative positions; only a run's own settings have it
    #[cfg_attr(feature = "cli", arg(skip))]
    pub relative_positions: Option<bool>,
    /// Mean of each channel on the scale 0..1 [default: the checkpoint's]
    #[cfg_attr(
        feature = "cli",
        arg(
            long,
            value_name = "X,..",
            value_delimiter = ',',
            help_heading = "Model"
        )
    )]
    pub mean: Option<Vec<f32>>,
    /// Standard deviation of each channel [default: the checkpoint's]
    #[cfg_attr(
        feature = "cli",
        arg(
            long,
            value_name = "X,..",
            value_delimiter = ',',
            help_heading = "Model"
        )
    )]
    pub std: Option<Vec<f32>>,
    /// What is classified: avg, the mean of the patch tokens, or token, the class token [default: avg]
    #[cfg_attr(
        feature = "cli",
        arg(long, value_name = "avg|token", help_heading = "Model")
    )]
    pub pooling: Option<Pooling>,
    /// Leave the first N blocks, and what is before them, as they are: partial fine-tuning. With all of them only the head is
    /// trained [default: 0]
    #[cfg_attr(feature = "cli", arg(long, value_name = "N", help_heading = "Model"))]
    pub freeze_blocks: Option<usize>,
    /// The same from the other end: train the last N blocks alone, and the head. A run's settings have it as freeze_blocks
    #[cfg_attr(
        feature = "cli",
        arg(
            long,
            value_name = "N",
            conflicts_with = "freeze_blocks",
            help_heading = "Model"
        )
    )]
    pub tune_blocks: Option<usize>,
    /// Probability that a sample skips a branch of the last block; less in those before [default: 0.1 for B, 0.2 for L, 0.3 for H]
    #[cfg_attr(
        feature = "cli",
        arg(long, value_name = "RATE", help_heading = "Model")
    )]
    pub drop_path: Option<f64>,

    /// Images of one forward and backward pass [default: 64]
    #[cfg_attr(
        feature = "cli",
        arg(long, value_name = "N", help_heading = "Optimisation")
    )]
    pub batch_size: Option<usize>,
    /// Batches whose gradients make one update [default: 1]
    #[cfg_attr(
        feature = "cli",
        arg(long, value_name = "N", help_heading = "Optimisation")
    )]
    pub accum_iter: Option<usize>,
    /// Passes over the data [default: 100 for B and smaller, 50 for L and H]
    #[cfg_attr(
        feature = "cli",
        arg(long, value_name = "N", help_heading = "Optimisation")
    )]
    pub epochs: Option<u64>,
    /// Learning rate per 256 images of an update [default: 5e-4 for B and smaller, 1e-3 for L and H]
    #[cfg_attr(
        feature = "cli",
        arg(long, value_name = "X", help_heading = "Optimisation")
    )]
    pub blr: Option<f64>,
    /// Learning rate, instead of --blr
    #[cfg_attr(
        feature = "cli",
        arg(long, value_name = "X", help_heading = "Optimisation")
    )]
    pub lr: Option<f64>,
    /// Learning rate at the end [default: 1e-6]
    #[cfg_attr(
        feature = "cli",
        arg(long, value_name = "X", help_heading = "Optimisation")
    )]
    pub min_lr: Option<f64>,
    /// Epochs over which the learning rate rises from 0 [default: 5, or a tenth of the epochs where that is less]
    #[cfg_attr(
        feature = "cli",
        arg(long, value_name = "EPOCHS", help_heading = "Optimisation")
    )]
    pub warmup_epochs: Option<f64>,
    /// Decoupled weight decay; none on 1-D parameters, position embedding and class token [default: 0.05]
    #[cfg_attr(
        feature = "cli",
        arg(long, value_name = "X", help_heading = "Optimisation")
    )]
    pub weight_decay: Option<f64>,
    /// Each block's learning rate is that of the next one times this [default: 0.65 for B and smaller, 0.75 for L and H; 1 from
    /// scratch]
    #[cfg_attr(
        feature = "cli",
        arg(long, value_name = "X", help_heading = "Optimisation")
    )]
    pub layer_decay: Option<f64>,
    /// Scale gradients down to this global norm where they exceed it [default: off]
    #[cfg_attr(
        feature = "cli",
        arg(long, value_name = "NORM", help_heading = "Optimisation")
    )]
    pub clip_grad: Option<f64>,
    /// Keep only each block's input and compute the rest again in the backward pass [default: false]
    #[cfg_attr(feature = "cli", arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true,
        default_missing_value = "true", help_heading = "Optimisation"))]
    pub activation_checkpointing: Option<bool>,

    /// Area of the random crop as a share of the image, lowest and highest [default: 0.08,1.0]
    #[cfg_attr(
        feature = "cli",
        arg(
            long,
            value_name = "LOW,HIGH",
            value_delimiter = ',',
            help_heading = "Augmentation"
        )
    )]
    pub crop_scale: Option<Vec<f64>>,
    /// Mirror half of the images [default: true]
    #[cfg_attr(feature = "cli", arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true,
        default_missing_value = "true", help_heading = "Augmentation"))]
    pub flip: Option<bool>,
    /// RandAugment, written as timm does, or none [default: rand-m9-mstd0.5-inc1]
    #[cfg_attr(
        feature = "cli",
        arg(long, value_name = "POLICY|none", help_heading = "Augmentation")
    )]
    pub aa: Option<AutoAugment>,
    /// Probability that a box of an image is erased [default: 0.25]
    #[cfg_attr(
        feature = "cli",
        arg(long, value_name = "P", help_heading = "Augmentation")
    )]
    pub reprob: Option<f64>,
    /// Mixup's alpha; 0 mixes nothing [default: 0.8]
    #[cfg_attr(
        feature = "cli",
        arg(long, value_name = "ALPHA", help_heading = "Augmentation")
    )]
    pub mixup: Option<f64>,
    /// Cutmix's alpha; 0 cuts nothing [default: 1.0]
    #[cfg_attr(
        feature = "cli",
        arg(long, value_name = "ALPHA", help_heading = "Augmentation")
    )]
    pub cutmix: Option<f64>,
    /// Share of the batches that are mixed or cut [default: 1.0]
    #[cfg_attr(
        feature = "cli",
        arg(long, value_name = "P", help_heading = "Augmentation")
    )]
    pub mixup_prob: Option<f64>,
    /// Share of those that are cut, where both are on [default: 0.5]
    #[cfg_attr(
        feature = "cli",
        arg(long, value_name = "P", help_heading = "Augmentation")
    )]
    pub mixup_switch_prob: Option<f64>,
    /// Label smoothing [default: 0.1]
    #[cfg_attr(
        feature = "cli",
        arg(long, value_name = "X", help_heading = "Augmentation")
    )]
    pub smoothing: Option<f64>,

    /// What decodes JPEG; auto takes turbo where it is built in [default: auto]
    #[cfg_attr(
        feature = "cli",
        arg(long, value_name = "auto|zune|turbo", help_heading = "Data")
    )]
    pub decoder: Option<DecoderKind>,
    /// exact: pixels as a full decode; fast: the turbo decoder's shortcuts [default: exact]
    #[cfg_attr(
        feature = "cli",
        arg(long, value_name = "exact|fast", help_heading = "Data")
    )]
    pub decode_quality: Option<DecodeQuality>,
    /// Share of undecodable samples above which the run ends [default: 0.01]
    #[cfg_attr(
        feature = "cli",
        arg(long, value_name = "SHARE", help_heading = "Data")
    )]
    pub max_bad_fraction: Option<f64>,
    /// Batches prepared ahead [default: 4]
    #[cfg_attr(feature = "cli", arg(long, value_name = "N", help_heading = "Data"))]
    pub prefetch: Option<usize>,
    /// Where shards lie whole that are compressed, or on servers without ranges; where it is given, shards of all servers are kept
    /// there [default: a folder in the system's temporary folder]
    #[cfg_attr(feature = "cli", arg(long, value_name = "DIR", help_heading = "Data"))]
    #[serde(alias = "cache_dir")]
    pub cache: Option<PathBuf>,
    /// How large that folder may grow: 50G, 500M, … [default: 32GiB]
    #[cfg_attr(feature = "cli", arg(long, value_name = "SIZE", help_heading = "Data"))]
    #[serde(alias = "cache_bytes")]
    pub cache_size: Option<ByteSize>,

    /// Checkpoints kept, newest first, besides the best [default: 1]
    #[cfg_attr(feature = "cli", arg(long, value_name = "N", help_heading = "Output"))]
    pub keep_last: Option<usize>,
    /// Log every so many updates [default: 20]
    #[cfg_attr(
        feature = "cli",
        arg(long, value_name = "STEPS", help_heading = "Output")
    )]
    pub log_every: Option<u64>,
    /// Measure accuracy every so many epochs, and after the last [default: 1]
    #[cfg_attr(
        feature = "cli",
        arg(long, value_name = "EPOCHS", help_heading = "Output")
    )]
    pub eval_every: Option<u64>,
    /// Serve the run's figures to Prometheus: an address and a port (0.0.0.0:9400, at /metrics), or a port that this machine alone reaches; 0 is any free one [default: off]
    #[cfg_attr(
        feature = "cli",
        arg(long, value_name = "ADDRESS:PORT", help_heading = "Output")
    )]
    pub prometheus: Option<ListenAddress>,
}

/// A policy of RandAugment, or none.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AutoAugment(pub Option<RandAugment>);

impl std::str::FromStr for AutoAugment {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        match text {
            "none" => Ok(Self(None)),
            policy => Ok(Self(Some(policy.parse().map_err(|e| format!("{e}"))?))),
        }
    }
}

impl std::fmt::Display for AutoAugment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.0 {
            None => f.write_str("none"),
            Some(policy) => policy.fmt(f),
        }
    }
}

impl Serialize for AutoAugment {
    fn serialize<S: serde::Serializer>(
        &self,
        serializer: S,
    ) -> std::result::Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for AutoAugment {
    fn deserialize<D: serde::Deserializer<'de>>(
        deserializer: D,
    ) -> std::result::Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

impl RawFinetune {
    /// Reads a TOML file whose keys are the flags' names, with `-` or `_` between words.
    ///
    /// # Errors
    /// If it cannot be read, or naming the key that is not one.
    pub fn from_toml_file(path: &Path) -> Result<Self> {
        read_toml(path)
    }

    /// These settings, with `base` where they are silent. `lr` and `blr` replace each other, as do `checkpoint` and `from_scratch`,
    /// and `freeze_blocks` and `tune_blocks`.
    ///
    /// # Errors
    /// None for settings that were read.
    pub fn over(self, mut base: Self) -> Result<Self> {
        if self.lr.is_some() || self.blr.is_some() {
            (base.lr, base.blr) = (None, None);
        }
        if self.checkpoint.is_some() || self.from_scratch.is_some() {
            (base.checkpoint, base.from_scratch) = (None, None);
        }
        if self.freeze_blocks.is_some() || self.tune_blocks.is_some() {
            (base.freeze_blocks, base.tune_blocks) = (None, None);
        }
        over(self, base)
    }
}
