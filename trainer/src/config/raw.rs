//! What a user wrote, flags or TOML, before anything is filled in or checked.
//!
//! One struct serves both: a field's name is its TOML key and, with the feature `cli`, its flag; its comment is the
//! flag's help. Nothing but [`super::PretrainConfig`] reads it.

use std::path::{Path, PathBuf};

use mae_loader::{DecodeQuality, DecoderKind};
use mae_model::{Precision, TokenizerConfig};
use serde::{Deserialize, Serialize};

use super::augment::CropKind;
use super::listen::ListenAddress;
use super::table::{one_or_many, over, read_toml};
use super::values::{
    ByteSize, DeviceKind, InputSize, MaskSamplingKind, Resume, TargetKind, WindowSize,
};
use crate::dist::Launch;
use crate::error::Result;

/// Settings of a pre-training run as given; `None` is "not given".
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "cli", derive(clap::Args))]
#[serde(deny_unknown_fields)]
pub struct RawPretrain {
    /// Training shards: a tar file, a folder of them, a glob, braces (`train-{000000..000009}.tar`); several may be
    /// given, or joined by `::`. With weights, as in `--data photos@0.7 drawings@0.3`, each value is a data set of its
    /// own that gives its share of the samples
    #[serde(default, deserialize_with = "one_or_many")]
    #[cfg_attr(feature = "cli", arg(long, num_args = 1.., value_name = "SPEC", help_heading = "Data"))]
    pub data: Option<Vec<String>>,
    /// Samples in an epoch [default: as many as the data have]. The data are gone through whole, in shuffled order,
    /// before a sample comes again, however the epochs cut this up
    #[cfg_attr(feature = "cli", arg(long, value_name = "N", help_heading = "Data"))]
    pub epoch_samples: Option<u64>,
    /// Held-out shards, for the validation loss and the pictures
    #[serde(default, deserialize_with = "one_or_many")]
    #[cfg_attr(feature = "cli", arg(long, num_args = 1.., value_name = "SPEC", help_heading = "Data"))]
    pub val_data: Option<Vec<String>>,
    /// Folder of the run: checkpoints/, log.jsonl, pictures/, tensorboard/, config.toml
    #[cfg_attr(feature = "cli", arg(long, value_name = "DIR", help_heading = "Run"))]
    pub output_dir: Option<PathBuf>,
    /// auto: go on from the output folder's newest whole checkpoint, or start afresh; never: the folder must be empty;
    /// or the path of a checkpoint or a run [default: never]
    #[cfg_attr(
        feature = "cli",
        arg(long, value_name = "auto|never|PATH", help_heading = "Run")
    )]
    pub resume: Option<Resume>,
    /// Seed of the initial weights, the order, the crops and the masks [default: 0]
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
    /// Of several processes, each holds the optimiser's moments of its part of the weights alone (ZeRO-1): less memory, the same
    /// numbers, one more exchange an update
    #[cfg_attr(
        feature = "cli",
        arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", help_heading = "Run")
    )]
    pub shard_optimizer: Option<bool>,
    /// Times that the run may go back to its last checkpoint where the loss or the gradient is no finite number, passing over that update's
    /// images the next time, which are named; then it ends with an error [default: 0]
    #[cfg_attr(feature = "cli", arg(long, value_name = "N", help_heading = "Run"))]
    pub max_rollbacks: Option<usize>,
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

    /// Model by name, e.g. mae-tiny-patch4, mae-base-patch16, mae-large-patch16 or mae-huge-patch14
    #[cfg_attr(
        feature = "cli",
        arg(long, value_name = "NAME", help_heading = "Model")
    )]
    pub model: Option<String>,
    /// Input size in pixels, one number or HEIGHTxWIDTH [default: the model's]
    #[cfg_attr(
        feature = "cli",
        arg(long, value_name = "SIZE", help_heading = "Model")
    )]
    pub input_size: Option<InputSize>,
    /// Channels of the images, 3 or 1 [default: 3]
    #[cfg_attr(feature = "cli", arg(long, value_name = "N", help_heading = "Model"))]
    pub channels: Option<usize>,
    /// Side of a patch in pixels [default: the model's]
    #[cfg_attr(feature = "cli", arg(long, value_name = "N", help_heading = "Model"))]
    pub patch_size: Option<usize>,
    /// Width of the encoder [default: the model's]
    #[cfg_attr(feature = "cli", arg(long, value_name = "N", help_heading = "Model"))]
    pub dim: Option<usize>,
    /// Blocks of the encoder [default: the model's]
    #[cfg_attr(feature = "cli", arg(long, value_name = "N", help_heading = "Model"))]
    pub depth: Option<usize>,
    /// Attention heads of the encoder [default: the model's, or where they do not divide --dim, heads at least as wide as the model's]
    #[cfg_attr(feature = "cli", arg(long, value_name = "N", help_heading = "Model"))]
    pub heads: Option<usize>,
    /// Width of the decoder [default: the model's]
    #[cfg_attr(feature = "cli", arg(long, value_name = "N", help_heading = "Model"))]
    pub decoder_dim: Option<usize>,
    /// Blocks of the decoder [default: the model's]
    #[cfg_attr(feature = "cli", arg(long, value_name = "N", help_heading = "Model"))]
    pub decoder_depth: Option<usize>,
    /// Attention heads of the decoder [default: the model's, or where they do not divide --decoder-dim, heads at least as wide as the
    /// model's]
    #[cfg_attr(feature = "cli", arg(long, value_name = "N", help_heading = "Model"))]
    pub decoder_heads: Option<usize>,
    /// Share of the patches removed [default: 0.75]
    #[cfg_attr(
        feature = "cli",
        arg(long, value_name = "RATIO", help_heading = "Model")
    )]
    pub mask_ratio: Option<f64>,
    /// How the patches that stay are chosen: random; block, where blocks are removed as by BEiT; grid, where one of every 2 × 2 stays (3 × 3
    /// and 4 × 4 with the ratios 0.888888 and 0.9375) [default: random]
    #[cfg_attr(
        feature = "cli",
        arg(long, value_name = "random|block|grid", help_heading = "Model")
    )]
    pub mask_sampling: Option<MaskSamplingKind>,
    /// For --mask-sampling block: least area of a block, in patches [default: 16 where there are 196, in proportion elsewhere]
    #[cfg_attr(feature = "cli", arg(long, value_name = "N", help_heading = "Model"))]
    pub mask_block_min: Option<usize>,
    /// For --mask-sampling block: least and greatest height / width of a block [default: 0.3 and its inverse]
    #[cfg_attr(
        feature = "cli",
        arg(
            long,
            value_name = "LOW,HIGH",
            value_delimiter = ',',
            help_heading = "Model"
        )
    )]
    pub mask_block_aspect: Option<Vec<f64>>,
    /// Normalise each target patch by its own mean and variance [default: false]
    #[cfg_attr(feature = "cli", arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true,
        default_missing_value = "true", help_heading = "Model"))]
    pub norm_pix_loss: Option<bool>,
    /// Show the encoder every patch, removed ones as a learnt mask token, instead of the visible ones alone: the paper's ablation, at
    /// about three times the arithmetic [default: false]
    #[cfg_attr(feature = "cli", arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true,
        default_missing_value = "true", help_heading = "Model"))]
    pub encoder_mask_tokens: Option<bool>,
    /// What is predicted of a removed patch: its pixels; pca, its coefficients in a basis of principal components fitted to the training
    /// data; or tokens, those of a trained tokenizer, with cross-entropy [default: pixels]
    #[cfg_attr(
        feature = "cli",
        arg(long, value_name = "pixels|pca|tokens", help_heading = "Model")
    )]
    pub target: Option<TargetKind>,
    /// For --target pca: principal components that are predicted [default: an eighth of a patch's numbers, 96 of 768]
    #[cfg_attr(feature = "cli", arg(long, value_name = "N", help_heading = "Model"))]
    pub pca_components: Option<usize>,
    /// For --target pca: training images that the basis is fitted on, once, at the start [default: 10,000, or all where there are
    /// fewer]
    #[cfg_attr(feature = "cli", arg(long, value_name = "N", help_heading = "Model"))]
    pub pca_images: Option<u64>,
    /// For --target tokens: folder of a tokenizer that `mae tokenizer train` made. Checkpoints hold it, so that only a run's start reads
    /// it
    #[cfg_attr(feature = "cli", arg(long, value_name = "DIR", help_heading = "Model"))]
    pub tokenizer: Option<PathBuf>,
    /// Mean of each channel on the scale 0..1 [default: ImageNet's; 0.5 for one channel]
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
    /// Standard deviation of each channel on the scale 0..1 [default: ImageNet's; 0.5 for one channel]
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

    /// Images a step, before accumulation [default: 64]
    #[cfg_attr(
        feature = "cli",
        arg(long, value_name = "N", help_heading = "Optimisation")
    )]
    pub batch_size: Option<usize>,
    /// Batches whose gradients are averaged before each update [default: 1]
    #[cfg_attr(
        feature = "cli",
        arg(long, value_name = "N", help_heading = "Optimisation")
    )]
    pub accum_iter: Option<usize>,
    /// Passes over the data, or over --epoch-samples of them; the schedule's length [default: 400]
    #[cfg_attr(
        feature = "cli",
        arg(long, value_name = "N", help_heading = "Optimisation")
    )]
    pub epochs: Option<u64>,
    /// End after this many updates, without changing the schedule
    #[cfg_attr(
        feature = "cli",
        arg(long, value_name = "N", help_heading = "Optimisation")
    )]
    pub max_steps: Option<u64>,
    /// Base learning rate: the learning rate is blr x batch size x accum iter / 256 [default: 1.5e-4]
    #[cfg_attr(
        feature = "cli",
        arg(
            long,
            value_name = "X",
            conflicts_with = "lr",
            help_heading = "Optimisation"
        )
    )]
    pub blr: Option<f64>,
    /// Peak learning rate itself, instead of --blr
    #[cfg_attr(
        feature = "cli",
        arg(long, value_name = "X", help_heading = "Optimisation")
    )]
    pub lr: Option<f64>,
    /// Learning rate at the end [default: 0]
    #[cfg_attr(
        feature = "cli",
        arg(long, value_name = "X", help_heading = "Optimisation")
    )]
    pub min_lr: Option<f64>,
    /// Epochs of linear warm-up from 0 [default: 40, or a tenth of the epochs if that is less]
    #[cfg_attr(
        feature = "cli",
        arg(long, value_name = "X", help_heading = "Optimisation")
    )]
    pub warmup_epochs: Option<f64>,
    /// Weight decay of AdamW, on parameters of two or more dimensions [default: 0.05]
    #[cfg_attr(
        feature = "cli",
        arg(long, value_name = "X", help_heading = "Optimisation")
    )]
    pub weight_decay: Option<f64>,
    /// AdamW's decay of the first moment [default: 0.9]
    #[cfg_attr(
        feature = "cli",
        arg(long, value_name = "X", help_heading = "Optimisation")
    )]
    pub beta1: Option<f64>,
    /// AdamW's decay of the second moment [default: 0.95]
    #[cfg_attr(
        feature = "cli",
        arg(long, value_name = "X", help_heading = "Optimisation")
    )]
    pub beta2: Option<f64>,
    /// Scale gradients down to this global norm where they exceed it [default: off]
    #[cfg_attr(
        feature = "cli",
        arg(long, value_name = "NORM", help_heading = "Optimisation")
    )]
    pub clip_grad: Option<f64>,
    /// Keep only each block's input and compute the rest again in the backward pass: the same results to the bit for less
    /// memory and more time [default: false]
    #[cfg_attr(feature = "cli", arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true,
        default_missing_value = "true", help_heading = "Optimisation"))]
    pub activation_checkpointing: Option<bool>,
    /// On a GPU, queue each batch's work as one CUDA graph: the same results to the bit for less of the host's time, which pays for
    /// small models [default: false]
    #[cfg_attr(feature = "cli", arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true,
        default_missing_value = "true", help_heading = "Optimisation"))]
    pub cuda_graphs: Option<bool>,

    /// Which part of an image is used: random, one of random area and ratio; fixed, one of the input's size at a random place of the
    /// resized image; centre, that in its middle [default: random]
    #[cfg_attr(
        feature = "cli",
        arg(long, value_name = "random|fixed|centre", help_heading = "Data")
    )]
    pub crop: Option<CropKind>,
    /// For --crop random: area of the part as a share of the image, lowest and highest [default: 0.2,1.0]
    #[cfg_attr(
        feature = "cli",
        arg(
            long,
            value_name = "LOW,HIGH",
            value_delimiter = ',',
            help_heading = "Data"
        )
    )]
    pub crop_scale: Option<Vec<f64>>,
    /// For --crop fixed or centre: short side that images are resized to before the crop, in pixels [default: 8/7 of the input's longer
    /// side, 256 where it is 224]
    #[cfg_attr(
        feature = "cli",
        arg(long, value_name = "PIXELS", help_heading = "Data")
    )]
    pub resize: Option<u32>,
    /// Mirror half the images [default: true]
    #[cfg_attr(feature = "cli", arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true,
        default_missing_value = "true", help_heading = "Data"))]
    pub flip: Option<bool>,
    /// Strength V of colour jitter: brightness, contrast and saturation are changed by factors from 1 - V, or 0, to 1 + V, in random
    /// order; 0 is none [default: 0]
    #[cfg_attr(feature = "cli", arg(long, value_name = "V", help_heading = "Data"))]
    pub color_jitter: Option<f64>,
    /// Shuffle over all shards at once, or over windows of this many; auto: all, but where shards are kept in a cache, no more at a time than
    /// half of it holds [default: auto]
    #[cfg_attr(
        feature = "cli",
        arg(long, value_name = "auto|all|N", help_heading = "Data")
    )]
    pub window: Option<WindowSize>,
    /// Crops, each with its mask, of one decoded image; --batch-size counts them, and must be a multiple [default: 1]
    #[cfg_attr(feature = "cli", arg(long, value_name = "K", help_heading = "Data"))]
    pub repeats: Option<usize>,
    /// What decodes JPEG; auto takes turbo (libjpeg-turbo) where it is built in [default: auto]
    #[cfg_attr(
        feature = "cli",
        arg(long, value_name = "auto|zune|turbo", help_heading = "Data")
    )]
    pub decoder: Option<DecoderKind>,
    /// Decode exactly as Pillow does, or faster (turbo only) [default: exact]
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

    /// Save every so many updates [default: at the end of every epoch]
    #[cfg_attr(
        feature = "cli",
        arg(long, value_name = "STEPS", help_heading = "Output")
    )]
    pub checkpoint_every: Option<u64>,
    /// Checkpoints kept, newest first [default: 3]
    #[cfg_attr(feature = "cli", arg(long, value_name = "N", help_heading = "Output"))]
    pub keep_last: Option<usize>,
    /// Besides those, keep for good the first checkpoint of every so many epochs [default: off]
    #[cfg_attr(
        feature = "cli",
        arg(long, value_name = "EPOCHS", help_heading = "Output")
    )]
    pub keep_every: Option<u64>,
    /// Log every so many updates [default: 20]
    #[cfg_attr(
        feature = "cli",
        arg(long, value_name = "STEPS", help_heading = "Output")
    )]
    pub log_every: Option<u64>,
    /// Validate every so many epochs; 0 never [default: 1]
    #[cfg_attr(
        feature = "cli",
        arg(long, value_name = "EPOCHS", help_heading = "Output")
    )]
    pub eval_every: Option<u64>,
    /// Draw reconstructions every so many epochs; 0 never [default: 10]
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

    /// What the tokenizer is: a run writes it into its config.toml, so that the run goes on without the tokenizer's folder. No flag.
    #[cfg_attr(feature = "cli", arg(skip))]
    pub tokenizer_config: Option<TokenizerConfig>,
}

impl RawPretrain {
    /// Reads a TOML file whose keys are the flags' names, with `-` or `_` between words.
    pub fn from_toml_file(path: &Path) -> Result<Self> {
        read_toml(path)
    }

    /// These settings, with `base` where they are silent. `lr` and `blr` replace each other, a tokenizer the
    /// description of another, and a crop what is for other ones.
    pub fn over(self, mut base: Self) -> Result<Self> {
        if self.lr.is_some() || self.blr.is_some() {
            (base.lr, base.blr) = (None, None);
        }
        if self.tokenizer.is_some() {
            base.tokenizer_config = None;
        }
        match self.crop {
            Some(CropKind::Random) => base.resize = None,
            Some(CropKind::Fixed | CropKind::Centre) => base.crop_scale = None,
            None => {}
        }
        over(self, base)
    }
}
