//! A validated fine-tuning run.

use std::path::{Path, PathBuf};

use mae_loader::{DatasetOptions, DecodeQuality, DecoderKind, ImageSize, LabelSource, Mixing};
use mae_model::{Activations, MaeConfig, Pooling, Precision, VitConfig};
use serde::{Deserialize, Serialize};

use super::raw::{AutoAugment, RawFinetune};
use super::recipe::Recipe;
use crate::checkpoint::foreign::ImportOptions;
use crate::checkpoint::{RunConfig, RunKind};
use crate::config::common::{self, invalid};
use crate::config::compare::{differences, fingerprint, other_images};
use crate::config::hang_timeout;
use crate::config::{ByteSize, DeviceKind, Difference, InputSize, ListenAddress, Resume};
use crate::dist::{self, Launch};
use crate::error::{Error, Result};
use crate::schedule::CosineSchedule;

/// A validated fine-tuning run. See [`RawFinetune`] for what each field means; what was optional there and is plain here has its
/// default.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs)] // The fields are RawFinetune's, documented there.
pub struct FinetuneConfig {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checkpoint: Option<PathBuf>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checkpoint_key: Option<String>,
    #[serde(default)]
    pub from_scratch: bool,
    pub data: Vec<String>,
    #[serde(default)]
    pub val_data: Vec<String>,
    pub label_field: LabelSource,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub classes: Option<usize>,
    pub output_dir: PathBuf,
    pub resume: Resume,
    #[serde(default = "hang_timeout")]
    pub hang_timeout: u64,
    /// This process among those that train; not a setting of the run.
    #[serde(skip)]
    pub launch: Launch,
    pub seed: u64,
    pub threads: usize,
    pub device: DeviceKind,
    pub precision: Precision,

    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    pub input_size: InputSize,
    pub channels: usize,
    pub patch_size: usize,
    pub dim: usize,
    pub depth: usize,
    pub heads: usize,
    #[serde(default = "four")]
    pub mlp_ratio: f32,
    pub norm_eps: f32,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub relative_positions: bool,
    pub mean: Vec<f32>,
    pub std: Vec<f32>,
    pub pooling: Pooling,
    pub freeze_blocks: usize,
    pub drop_path: f64,

    pub batch_size: usize,
    pub accum_iter: usize,
    pub epochs: u64,
    pub lr: f64,
    pub min_lr: f64,
    pub warmup_epochs: f64,
    pub weight_decay: f64,
    pub layer_decay: f64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clip_grad: Option<f64>,
    #[serde(default)]
    pub activation_checkpointing: bool,

    pub crop_scale: [f64; 2],
    pub flip: bool,
    pub aa: AutoAugment,
    pub reprob: f64,
    pub mixup: f64,
    pub cutmix: f64,
    pub mixup_prob: f64,
    pub mixup_switch_prob: f64,
    pub smoothing: f64,

    pub decoder: DecoderKind,
    pub decode_quality: DecodeQuality,
    pub max_bad_fraction: f64,
    pub prefetch: usize,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache: Option<PathBuf>,
    pub cache_size: ByteSize,

    pub keep_last: usize,
    pub log_every: u64,
    pub eval_every: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prometheus: Option<ListenAddress>,
}

/// The MLP ratio of runs whose settings say nothing of it.
fn four() -> f32 {
    4.0
}

/// Besides what no kind of run minds.
const FREE: &[&str] = &[
    "batch_size", // What is compared is the images of an update.
    "accum_iter",
    "checkpoint",
    "checkpoint_key",
];

impl RunConfig for FinetuneConfig {
    const KIND: RunKind = RunKind::Finetune;

    fn output_dir(&self) -> &Path {
        &self.output_dir
    }
}

impl FinetuneConfig {
    /// Fills in what `raw` leaves open and checks the whole. `pretrained` says what the checkpoint at a path holds; it is asked only
    /// where the settings do not say.
    ///
    /// # Errors
    /// [`Error::Config`] naming the flag and what would be valid.
    pub fn resolve(
        raw: RawFinetune,
        pretrained: impl FnOnce(&Path, &ImportOptions) -> Result<VitConfig>,
    ) -> Result<Self> {
        let from_scratch = raw.from_scratch.unwrap_or(false);
        let base = architecture(&raw, from_scratch, pretrained)?;
        let recipe = Recipe::of(base.dim);
        let input_size = raw.input_size.unwrap_or(InputSize {
            height: base.image_size.0,
            width: base.image_size.1,
        });
        let batch_size = raw.batch_size.unwrap_or(64);
        let accum_iter = raw.accum_iter.unwrap_or(1);
        let epochs = raw.epochs.unwrap_or(recipe.epochs);
        let launch = raw.launch.clone().unwrap_or_default();
        let images = batch_size * accum_iter * launch.world;
        let lr = common::learning_rate((raw.lr, raw.blr), recipe.blr, images)?;
        let decode_quality = raw.decode_quality.unwrap_or_default();
        let decoder = common::decoder(raw.decoder, decode_quality)?;
        let device = raw.device.unwrap_or(DeviceKind::Cpu);
        let aa = match raw.aa {
            Some(aa) => aa,
            None => "rand-m9-mstd0.5-inc1".parse().map_err(Error::Config)?,
        };
        let config = FinetuneConfig {
            checkpoint: raw.checkpoint,
            checkpoint_key: raw.checkpoint_key,
            from_scratch,
            data: raw.data.unwrap_or_default(),
            val_data: raw.val_data.unwrap_or_default(),
            label_field: raw.label_field.unwrap_or_default(),
            classes: raw.classes,
            output_dir: common::output_dir(raw.output_dir)?,
            resume: raw.resume.unwrap_or(Resume::Never),
            hang_timeout: raw.hang_timeout.unwrap_or(dist::HANG_TIMEOUT.as_secs()),
            launch,
            seed: raw.seed.unwrap_or(0),
            threads: raw.threads.unwrap_or(0),
            device,
            precision: raw.precision.unwrap_or_else(|| device.default_precision()),
            model: raw.model,
            input_size,
            channels: base.channels,
            patch_size: base.patch_size,
            dim: base.dim,
            depth: base.depth,
            heads: base.heads,
            mlp_ratio: base.mlp_ratio,
            norm_eps: base.norm_eps,
            relative_positions: base.relative_positions,
            mean: raw.mean.unwrap_or(base.mean),
            std: raw.std.unwrap_or(base.std),
            pooling: raw.pooling.unwrap_or(Pooling::Avg),
            freeze_blocks: freeze_blocks(raw.freeze_blocks, raw.tune_blocks, base.depth)?,
            drop_path: raw.drop_path.unwrap_or(recipe.drop_path),
            batch_size,
            accum_iter,
            epochs,
            lr,
            min_lr: raw.min_lr.unwrap_or_else(|| f64::min(1e-6, lr)),
            warmup_epochs: raw
                .warmup_epochs
                .unwrap_or_else(|| f64::min(5.0, epochs as f64 / 10.0)),
            weight_decay: raw.weight_decay.unwrap_or(0.05),
            layer_decay: raw.layer_decay.unwrap_or(if from_scratch {
                1.0
            } else {
                recipe.layer_decay
            }),
            clip_grad: raw.clip_grad,
            activation_checkpointing: raw.activation_checkpointing.unwrap_or(false),
            crop_scale: common::crop_scale(raw.crop_scale, [0.08, 1.0])?,
            flip: raw.flip.unwrap_or(true),
            aa,
            reprob: raw.reprob.unwrap_or(0.25),
            mixup: raw.mixup.unwrap_or(0.8),
            cutmix: raw.cutmix.unwrap_or(1.0),
            mixup_prob: raw.mixup_prob.unwrap_or(1.0),
            mixup_switch_prob: raw.mixup_switch_prob.unwrap_or(0.5),
            smoothing: raw.smoothing.unwrap_or(0.1),
            decoder,
            decode_quality,
            max_bad_fraction: raw.max_bad_fraction.unwrap_or(0.01),
            prefetch: raw.prefetch.unwrap_or(4),
            cache: raw.cache,
            cache_size: raw
                .cache_size
                .unwrap_or_else(|| ByteSize(DatasetOptions::default().cache_bytes)),
            keep_last: raw.keep_last.unwrap_or(1),
            log_every: raw.log_every.unwrap_or(20),
            eval_every: raw.eval_every.unwrap_or(1),
            prometheus: raw.prometheus,
        };
        config.validate()?;
        Ok(config)
    }

    fn validate(&self) -> Result<()> {
        if self.data.is_empty() {
            return invalid("no data: give --data with tar shards, a folder of them, or a pattern");
        }
        if self.label_field == LabelSource::None {
            return invalid("fine-tuning needs labels: --label-field cannot be none");
        }
        common::positive(&[
            ("--batch-size", self.batch_size as u64),
            ("--hang-timeout", self.hang_timeout),
            ("--accum-iter", self.accum_iter as u64),
            ("--epochs", self.epochs),
            ("--prefetch", self.prefetch as u64),
            ("--keep-last", self.keep_last as u64),
            ("--log-every", self.log_every),
            ("--eval-every", self.eval_every),
            ("--classes", self.classes.unwrap_or(2) as u64),
        ])?;
        common::not_negative(&[
            ("--lr", self.lr),
            ("--min-lr", self.min_lr),
            ("--warmup-epochs", self.warmup_epochs),
            ("--weight-decay", self.weight_decay),
        ])?;
        common::below_one(&[
            ("--drop-path", self.drop_path),
            ("--smoothing", self.smoothing),
        ])?;
        for (flag, value) in [
            ("--reprob", self.reprob),
            ("--max-bad-fraction", self.max_bad_fraction),
        ] {
            if !(0.0..=1.0).contains(&value) {
                return invalid(format!("{flag} must lie in 0..1, not {value}"));
            }
        }
        if !(self.layer_decay > 0.0 && self.layer_decay <= 1.0) {
            return invalid(format!(
                "--layer-decay must be above 0 and at most 1, not {}",
                self.layer_decay
            ));
        }
        common::check_clip_grad(self.clip_grad)?;
        common::check_schedule(&self.schedule())?;
        common::check_crop_scale(self.crop_scale)?;
        if self.freeze_blocks > self.depth {
            return invalid(format!(
                "--freeze-blocks {}: the model has {} blocks",
                self.freeze_blocks, self.depth
            ));
        }
        self.mixing()?;
        Ok(self.vit().validate()?)
    }

    /// The model, without its head.
    pub fn vit(&self) -> VitConfig {
        VitConfig {
            image_size: (self.input_size.height, self.input_size.width),
            patch_size: self.patch_size,
            channels: self.channels,
            dim: self.dim,
            depth: self.depth,
            heads: self.heads,
            mlp_ratio: self.mlp_ratio,
            norm_eps: self.norm_eps,
            mean: self.mean.clone(),
            std: self.std.clone(),
            relative_positions: self.relative_positions,
        }
    }

    /// How batches are mixed.
    pub(crate) fn mixing(&self) -> Result<Mixing> {
        Ok(Mixing::new(
            self.mixup,
            self.cutmix,
            self.mixup_prob,
            self.mixup_switch_prob,
        )?)
    }

    pub(crate) fn image_size(&self) -> ImageSize {
        ImageSize {
            width: self.input_size.width as u32,
            height: self.input_size.height as u32,
        }
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

    /// Threads of the loader and, as many again, of the arithmetic.
    pub fn thread_budget(&self) -> usize {
        common::threads(self.threads)
    }

    /// What the step keeps of its forward pass.
    pub fn activations(&self) -> Activations {
        common::activations(self.activation_checkpointing)
    }

    /// As TOML, which [`RawFinetune::from_toml_file`] reads.
    ///
    /// # Errors
    /// None for a configuration that was resolved.
    pub fn to_toml(&self) -> Result<String> {
        common::to_toml(self)
    }

    /// See [`fingerprint`].
    pub(crate) fn fingerprint(&self) -> Result<String> {
        fingerprint(self, FREE)
    }

    /// The settings of `self` (this run) that make it another run than `saved` (the checkpoint's), which so many processes trained.
    pub fn differences(&self, saved: &Self, processes: usize) -> Vec<Difference> {
        let mut differences = differences(self, saved, FREE);
        differences.extend(other_images(
            [self.batch_size, self.accum_iter, self.launch.world],
            [saved.batch_size, saved.accum_iter, processes],
        ));
        differences
    }
}

/// Blocks that stay as they are, of `depth`, by whichever of the two settings is given.
fn freeze_blocks(freeze: Option<usize>, tune: Option<usize>, depth: usize) -> Result<usize> {
    match (freeze, tune) {
        (Some(_), Some(_)) => invalid("give --freeze-blocks or --tune-blocks, not both"),
        (freeze, None) => Ok(freeze.unwrap_or(0)),
        (None, Some(tune)) => match depth.checked_sub(tune) {
            Some(frozen) => Ok(frozen),
            None => invalid(format!(
                "--tune-blocks {tune}: the model has {depth} blocks"
            )),
        },
    }
}

/// The dimensions, from the checkpoint or by name, with what the settings say on top.
fn architecture(
    raw: &RawFinetune,
    from_scratch: bool,
    pretrained: impl FnOnce(&Path, &ImportOptions) -> Result<VitConfig>,
) -> Result<VitConfig> {
    let mut vit = match (&raw.checkpoint, from_scratch) {
        (Some(_), true) => return invalid("a checkpoint and --from-scratch exclude each other"),
        (None, false) => {
            return invalid(
                "fine-tune what? give a checkpoint of `mae pretrain`, or --from-scratch with --model",
            );
        }
        (Some(path), false) => {
            if let Some(vit) = resolved(raw) {
                return Ok(vit);
            }
            let options = ImportOptions {
                heads: raw.heads,
                key: raw.checkpoint_key.clone(),
                ..Default::default()
            };
            let vit = pretrained(path, &options)?;
            let own = (vit.channels, vit.patch_size, vit.dim, vit.depth, vit.heads);
            let asked = (
                raw.channels.unwrap_or(own.0),
                raw.patch_size.unwrap_or(own.1),
                raw.dim.unwrap_or(own.2),
                raw.depth.unwrap_or(own.3),
                raw.heads.unwrap_or(own.4),
            );
            if asked != own {
                return invalid(format!(
                    "{} has {} channels, patches of {}, {} wide, {} blocks, {} heads; leave these flags out",
                    path.display(),
                    own.0,
                    own.1,
                    own.2,
                    own.3,
                    own.4
                ));
            }
            vit
        }
        (None, true) => {
            let Some(name) = &raw.model else {
                let known = MaeConfig::names().collect::<Vec<_>>().join(", ");
                return invalid(format!("which model? give --model with one of: {known}"));
            };
            named(name, raw.channels)?
        }
    };
    let set = |field: &mut usize, value: Option<usize>| *field = value.unwrap_or(*field);
    set(&mut vit.channels, raw.channels);
    set(&mut vit.patch_size, raw.patch_size);
    set(&mut vit.dim, raw.dim);
    set(&mut vit.depth, raw.depth);
    set(&mut vit.heads, raw.heads);
    vit.mlp_ratio = raw.mlp_ratio.unwrap_or(vit.mlp_ratio);
    vit.norm_eps = raw.norm_eps.unwrap_or(vit.norm_eps);
    vit.relative_positions = raw.relative_positions.unwrap_or(vit.relative_positions);
    Ok(vit)
}

/// The dimensions where the settings are those that an earlier start of the run resolved: they are whole, and the checkpoint may be
/// gone.
fn resolved(raw: &RawFinetune) -> Option<VitConfig> {
    let input_size = raw.input_size?;
    Some(VitConfig {
        image_size: (input_size.height, input_size.width),
        patch_size: raw.patch_size?,
        channels: raw.channels?,
        dim: raw.dim?,
        depth: raw.depth?,
        heads: raw.heads?,
        mlp_ratio: raw.mlp_ratio.unwrap_or_else(four),
        norm_eps: raw.norm_eps?,
        mean: raw.mean.clone()?,
        std: raw.std.clone()?,
        relative_positions: raw.relative_positions.unwrap_or(false),
    })
}

/// A named model's encoder at its own input size.
fn named(name: &str, channels: Option<usize>) -> Result<VitConfig> {
    let side = MaeConfig::native_size(name).unwrap_or(224);
    Ok(MaeConfig::named(name, (side, side), channels.unwrap_or(3))?.vit)
}

#[cfg(test)]
mod tests;
