//! Configuration in two stages: [`RawPretrain`] is what the user wrote, [`PretrainConfig`] what the run will do.
//!
//! Every default is filled in here and nowhere else. The resolved configuration is printed, saved beside the run and
//! in each checkpoint, and compared on resume. It is written with the raw one's keys, so that `config.toml` of a run
//! is a valid configuration file of the same run.

mod augment;
pub(crate) mod common;
pub(crate) mod compare;
mod listen;
mod masks;
pub(crate) mod raw;
mod sources;
pub mod table;
mod target;
mod values;

use std::path::{Path, PathBuf};

use mae_loader::{DatasetOptions, DecodeQuality, DecoderKind};
use mae_model::{Activations, MaeConfig, Precision, TokenizerConfig};
use serde::{Deserialize, Serialize};

pub use augment::CropKind;
use augment::CropSettings;
use common::invalid;
pub use common::threads;
pub use compare::Difference;
pub use listen::ListenAddress;
pub use raw::RawPretrain;
pub use sources::Sources;
pub(crate) use sources::misread;
use target::TargetSettings;
pub use values::{
    ByteSize, DeviceKind, InputSize, MaskSamplingKind, Resume, TargetKind, WindowSize,
};

use crate::dist::{self, Launch};
use crate::error::{Error, Result};
use crate::schedule::CosineSchedule;

/// A validated pre-training run. See [`RawPretrain`] for what each field means; what was optional there and is plain
/// here has its default.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs)] // The fields are RawPretrain's, documented there.
pub struct PretrainConfig {
    pub data: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epoch_samples: Option<u64>,
    #[serde(default)]
    pub val_data: Vec<String>,
    pub output_dir: PathBuf,
    pub resume: Resume,
    #[serde(default = "hang_timeout")]
    pub hang_timeout: u64,
    /// This process among those that train; not a setting of the run.
    #[serde(skip)]
    pub launch: Launch,
    #[serde(default)]
    pub max_rollbacks: usize,
    #[serde(default)]
    pub shard_optimizer: bool,
    pub seed: u64,
    pub threads: usize,
    pub device: DeviceKind,
    #[serde(default)]
    pub precision: Precision,

    pub model: String,
    pub input_size: InputSize,
    pub channels: usize,
    pub patch_size: usize,
    pub dim: usize,
    pub depth: usize,
    pub heads: usize,
    pub decoder_dim: usize,
    pub decoder_depth: usize,
    pub decoder_heads: usize,
    pub mask_ratio: f64,
    #[serde(default)]
    pub mask_sampling: MaskSamplingKind,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mask_block_min: Option<usize>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mask_block_aspect: Option<[f64; 2]>,
    pub norm_pix_loss: bool,
    #[serde(default)]
    pub encoder_mask_tokens: bool,
    #[serde(default)]
    pub target: TargetKind,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pca_components: Option<usize>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pca_images: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokenizer: Option<PathBuf>,
    pub mean: Vec<f32>,
    pub std: Vec<f32>,

    pub batch_size: usize,
    pub accum_iter: usize,
    pub epochs: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_steps: Option<u64>,
    pub lr: f64,
    pub min_lr: f64,
    pub warmup_epochs: f64,
    pub weight_decay: f64,
    pub beta1: f64,
    pub beta2: f64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clip_grad: Option<f64>,
    #[serde(default)]
    pub activation_checkpointing: bool,
    #[serde(default)]
    pub cuda_graphs: bool,

    #[serde(default)]
    pub crop: CropKind,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub crop_scale: Option<[f64; 2]>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resize: Option<u32>,
    pub flip: bool,
    #[serde(default)]
    pub color_jitter: f64,
    pub window: WindowSize,
    #[serde(default = "common::one")]
    pub repeats: usize,
    /// Never `auto`.
    #[serde(default = "zune")]
    pub decoder: DecoderKind,
    #[serde(default)]
    pub decode_quality: DecodeQuality,
    pub max_bad_fraction: f64,
    pub prefetch: usize,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache: Option<PathBuf>,
    pub cache_size: ByteSize,

    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checkpoint_every: Option<u64>,
    pub keep_last: usize,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keep_every: Option<u64>,
    pub log_every: u64,
    pub eval_every: u64,
    pub picture_every: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prometheus: Option<ListenAddress>,

    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokenizer_config: Option<TokenizerConfig>,
}

/// What checkpoints that say nothing of it were made with.
pub(crate) fn hang_timeout() -> u64 {
    dist::HANG_TIMEOUT.as_secs()
}

/// What checkpoints that say nothing of it were made with.
fn zune() -> DecoderKind {
    DecoderKind::Zune
}

/// Attention heads where none are given: the named model's, if they divide the width; else the most heads that do, each at least as
/// wide as the named model's.
fn heads(dim: usize, (named_dim, named): (usize, usize)) -> usize {
    if dim.is_multiple_of(named) {
        return named;
    }
    let most = dim * named / named_dim;
    (1..=most)
        .rev()
        .find(|heads| dim.is_multiple_of(*heads))
        .unwrap_or(1)
}

/// That each stack of blocks has some, and that its heads divide its width, a multiple of 4.
fn check_widths(stacks: &[([&str; 3], [usize; 3])]) -> Result<()> {
    for &([dim_flag, depth_flag, heads_flag], [dim, depth, heads]) in stacks {
        common::positive(&[
            (dim_flag, dim as u64),
            (depth_flag, depth as u64),
            (heads_flag, heads as u64),
        ])?;
        if !dim.is_multiple_of(4) {
            return invalid(format!(
                "{dim_flag} {dim} is no multiple of 4, which the sine-cosine embedding needs; the next is {}",
                dim.next_multiple_of(4)
            ));
        }
        if !dim.is_multiple_of(heads) {
            return invalid(format!(
                "{heads_flag} {heads} do not divide {dim_flag} {dim}; give a number of heads that does, or leave {heads_flag} out"
            ));
        }
    }
    Ok(())
}

impl PretrainConfig {
    /// Fills in what `raw` leaves open and checks the whole.
    ///
    /// # Errors
    /// [`Error::Config`] naming the flag and what would be valid.
    pub fn resolve(raw: RawPretrain) -> Result<Self> {
        let name = raw.model.clone().ok_or_else(|| {
            let known = MaeConfig::names().collect::<Vec<_>>().join(", ");
            Error::Config(format!("which model? give --model with one of: {known}"))
        })?;
        let native = MaeConfig::native_size(&name).unwrap_or(224);
        let input_size = raw.input_size.unwrap_or(InputSize {
            height: native,
            width: native,
        });
        let channels = raw.channels.unwrap_or(3);
        // The named size at its native input: free dimensions may be what makes the asked input fit.
        let named = MaeConfig::named(&name, (native, native), channels)?;
        let dim = raw.dim.unwrap_or(named.vit.dim);
        let decoder_dim = raw.decoder_dim.unwrap_or(named.decoder_dim);
        let heads = |given: Option<usize>, dim, named| given.unwrap_or_else(|| heads(dim, named));
        let patch_size = raw.patch_size.unwrap_or(named.vit.patch_size);
        let target = TargetSettings::resolve(&raw, patch_size * patch_size * channels)?;
        let crop = CropSettings::resolve(&raw, input_size)?;
        let batch_size = raw.batch_size.unwrap_or(64);
        let accum_iter = raw.accum_iter.unwrap_or(1);
        let epochs = raw.epochs.unwrap_or(400);
        let launch = raw.launch.unwrap_or_default();
        let images = batch_size * accum_iter * launch.world;
        let lr = common::learning_rate((raw.lr, raw.blr), 1.5e-4, images)?;
        let decode_quality = raw.decode_quality.unwrap_or_default();
        let decoder = common::decoder(raw.decoder, decode_quality)?;
        let device = raw.device.unwrap_or(DeviceKind::Cpu);
        let config = PretrainConfig {
            data: raw.data.unwrap_or_default(),
            epoch_samples: raw.epoch_samples,
            val_data: raw.val_data.unwrap_or_default(),
            output_dir: common::output_dir(raw.output_dir)?,
            resume: raw.resume.unwrap_or(Resume::Never),
            hang_timeout: raw.hang_timeout.unwrap_or(dist::HANG_TIMEOUT.as_secs()),
            launch: launch.clone(),
            max_rollbacks: raw.max_rollbacks.unwrap_or(0),
            shard_optimizer: raw.shard_optimizer.unwrap_or(false),
            seed: raw.seed.unwrap_or(0),
            threads: raw.threads.unwrap_or(0),
            device,
            precision: raw.precision.unwrap_or_else(|| device.default_precision()),
            input_size,
            channels,
            patch_size,
            dim,
            depth: raw.depth.unwrap_or(named.vit.depth),
            heads: heads(raw.heads, dim, (named.vit.dim, named.vit.heads)),
            decoder_dim,
            decoder_depth: raw.decoder_depth.unwrap_or(named.decoder_depth),
            decoder_heads: heads(
                raw.decoder_heads,
                decoder_dim,
                (named.decoder_dim, named.decoder_heads),
            ),
            mask_ratio: raw.mask_ratio.unwrap_or(0.75),
            mask_sampling: raw.mask_sampling.unwrap_or_default(),
            mask_block_min: raw.mask_block_min,
            mask_block_aspect: masks::aspect(raw.mask_block_aspect)?,
            norm_pix_loss: raw.norm_pix_loss.unwrap_or(false),
            encoder_mask_tokens: raw.encoder_mask_tokens.unwrap_or(false),
            target: target.kind,
            pca_components: target.components,
            pca_images: target.images,
            tokenizer: target.tokenizer,
            mean: raw.mean.unwrap_or(named.vit.mean),
            std: raw.std.unwrap_or(named.vit.std),
            model: name,
            batch_size,
            accum_iter,
            epochs,
            max_steps: raw.max_steps,
            lr,
            min_lr: raw.min_lr.unwrap_or(0.0),
            warmup_epochs: raw
                .warmup_epochs
                .unwrap_or_else(|| f64::min(40.0, epochs as f64 / 10.0)),
            weight_decay: raw.weight_decay.unwrap_or(0.05),
            beta1: raw.beta1.unwrap_or(0.9),
            beta2: raw.beta2.unwrap_or(0.95),
            clip_grad: raw.clip_grad,
            activation_checkpointing: raw.activation_checkpointing.unwrap_or(false),
            cuda_graphs: raw.cuda_graphs.unwrap_or(false),
            crop: crop.kind,
            crop_scale: crop.scale,
            resize: crop.resize,
            flip: raw.flip.unwrap_or(true),
            color_jitter: raw.color_jitter.unwrap_or(0.0),
            window: raw.window.unwrap_or(WindowSize::Auto),
            repeats: raw.repeats.unwrap_or(1),
            decoder,
            decode_quality,
            max_bad_fraction: raw.max_bad_fraction.unwrap_or(0.01),
            prefetch: raw.prefetch.unwrap_or(4),
            cache: raw.cache,
            cache_size: raw
                .cache_size
                .unwrap_or_else(|| ByteSize(DatasetOptions::default().cache_bytes)),
            checkpoint_every: raw.checkpoint_every,
            keep_last: raw.keep_last.unwrap_or(3),
            keep_every: raw.keep_every,
            log_every: raw.log_every.unwrap_or(20),
            eval_every: raw.eval_every.unwrap_or(1),
            picture_every: raw.picture_every.unwrap_or(10),
            prometheus: raw.prometheus,
            tokenizer_config: target.tokenizer_config,
        };
        config.validate()?;
        Ok(config)
    }

    /// Checks everything that can be checked without the data.
    fn validate(&self) -> Result<()> {
        common::positive(&[
            ("--batch-size", self.batch_size as u64),
            ("--accum-iter", self.accum_iter as u64),
            ("--epochs", self.epochs),
            ("--epoch-samples", self.epoch_samples.unwrap_or(1)),
            ("--max-steps", self.max_steps.unwrap_or(1)),
            ("--repeats", self.repeats as u64),
            ("--prefetch", self.prefetch as u64),
            ("--checkpoint-every", self.checkpoint_every.unwrap_or(1)),
            ("--keep-last", self.keep_last as u64),
            ("--keep-every", self.keep_every.unwrap_or(1)),
            ("--log-every", self.log_every),
            ("--hang-timeout", self.hang_timeout),
        ])?;
        if !self.batch_size.is_multiple_of(self.repeats) {
            return invalid(format!(
                "--batch-size {} is not a multiple of --repeats {}: a batch holds all crops of an image",
                self.batch_size, self.repeats
            ));
        }
        common::not_negative(&[
            ("--lr", self.lr),
            ("--min-lr", self.min_lr),
            ("--warmup-epochs", self.warmup_epochs),
            ("--weight-decay", self.weight_decay),
        ])?;
        common::below_one(&[("--beta1", self.beta1), ("--beta2", self.beta2)])?;
        common::check_clip_grad(self.clip_grad)?;
        if self.cuda_graphs && self.device == DeviceKind::Cpu {
            return invalid("--cuda-graphs is for --device cuda");
        }
        if self.cuda_graphs && self.target == TargetKind::Tokens {
            return invalid(
                "--cuda-graphs repeats the same memory, and --target tokens makes its tokens in memory of its own; leave one of them out",
            );
        }
        common::check_schedule(&self.schedule())?;
        self.check_augmentation()?;
        if !(0.0..=1.0).contains(&self.max_bad_fraction) {
            return invalid(format!(
                "--max-bad-fraction {} is not a share (0..1)",
                self.max_bad_fraction
            ));
        }
        if !matches!(self.channels, 1 | 3) {
            return invalid(format!(
                "images have 3 channels (RGB) or 1 (gray), not {}",
                self.channels
            ));
        }
        if self.data.is_empty() {
            return invalid("no data: give --data with tar shards, a folder of them, or a pattern");
        }
        self.sources()?;
        check_widths(&[
            (
                ["--dim", "--depth", "--heads"],
                [self.dim, self.depth, self.heads],
            ),
            (
                ["--decoder-dim", "--decoder-depth", "--decoder-heads"],
                [self.decoder_dim, self.decoder_depth, self.decoder_heads],
            ),
        ])?;
        let model = self.mae();
        model.validate()?;
        let (patches, keep) = (model.patches(), self.keep());
        if !self.mask_ratio.is_finite() || keep == 0 || keep >= patches {
            return invalid(format!(
                "--mask-ratio {} keeps {keep} of {patches} patches; some must stay and some must go",
                self.mask_ratio
            ));
        }
        self.check_masks()
    }

    /// The model.
    pub fn mae(&self) -> MaeConfig {
        MaeConfig {
            vit: mae_model::VitConfig {
                image_size: (self.input_size.height, self.input_size.width),
                patch_size: self.patch_size,
                channels: self.channels,
                dim: self.dim,
                depth: self.depth,
                heads: self.heads,
                mlp_ratio: 4.0,
                norm_eps: 1e-6,
                mean: self.mean.clone(),
                std: self.std.clone(),
                relative_positions: false,
            },
            decoder_dim: self.decoder_dim,
            decoder_depth: self.decoder_depth,
            decoder_heads: self.decoder_heads,
            norm_pix_loss: self.norm_pix_loss,
            encoder_mask_tokens: self.encoder_mask_tokens,
            target: self.model_target(),
        }
    }

    /// The training data: one data set, or several with weights.
    ///
    /// # Errors
    /// None for a configuration that was resolved; see [`Sources::parse`].
    pub fn sources(&self) -> Result<Sources> {
        Sources::parse(&self.data)
    }

    /// Patches of an image that stay visible, `K`.
    pub fn keep(&self) -> usize {
        self.mae().keep(self.mask_ratio)
    }

    /// The learning rate over the run.
    pub fn schedule(&self) -> CosineSchedule {
        CosineSchedule {
            peak: self.lr,
            floor: self.min_lr,
            warmup_epochs: self.warmup_epochs,
            epochs: self.epochs as f64,
        }
    }

    /// Threads of the loader and, as many again, of the arithmetic. Both are given the whole budget: a loader that
    /// keeps up sleeps on full buffers, and one that does not should have every core.
    pub fn thread_budget(&self) -> usize {
        common::threads(self.threads)
    }

    /// Images of an update, over its batches and all processes.
    pub fn update_images(&self) -> usize {
        self.batch_size * self.accum_iter * self.launch.world
    }

    /// What the step keeps of its forward pass.
    pub fn activations(&self) -> Activations {
        common::activations(self.activation_checkpointing)
    }

    /// As TOML, which [`RawPretrain::from_toml_file`] reads.
    ///
    /// # Errors
    /// None for a configuration that was resolved.
    pub fn to_toml(&self) -> Result<String> {
        common::to_toml(self)
    }
}

/// Name of the resolved configuration in a run's folder.
pub const CONFIG_FILE: &str = "config.toml";

/// Quotes a path where a shell would split or expand it.
pub fn shell_word(path: &Path) -> String {
    let text = path.display().to_string();
    let plain = |c: char| c.is_alphanumeric() || "/._-+=:,@".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        text
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

/// The short side to which evaluation resizes before its centre crop: 256 for 224 as in the reference code, in
/// proportion for other sizes, and the size itself below 128 pixels, where cropping a margin away costs more of the
/// picture than it is worth.
pub fn eval_resize(image_size: (usize, usize)) -> u32 {
    let side = image_size.0.max(image_size.1);
    (if side < 128 {
        side
    } else {
        augment::with_margin(side)
    }) as u32
}

#[cfg(test)]
mod tests;
