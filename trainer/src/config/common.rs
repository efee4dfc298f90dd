//! What the settings of pre-training and of fine-tuning have in common: how the same ones are filled in, checked and read.

use std::path::PathBuf;

use mae_loader::{DecodeQuality, DecoderKind};
use mae_model::Activations;
use serde::Serialize;

use crate::error::{Error, Result};
use crate::schedule::CosineSchedule;

/// What checkpoints were made with that say nothing of a number: one crop of an image, one process.
pub(crate) fn one() -> usize {
    1
}

/// A setting that cannot be, and why.
pub(crate) fn invalid<T>(message: impl Into<String>) -> Result<T> {
    Err(Error::Config(message.into()))
}

/// The run's folder, which has no default.
pub(crate) fn output_dir(given: Option<PathBuf>) -> Result<PathBuf> {
    given.ok_or_else(|| Error::Config("where to? give --output-dir DIR".into()))
}

/// The learning rate as it is given, or as that for 256 images, of an update of `images`.
pub(crate) fn learning_rate(
    (lr, blr): (Option<f64>, Option<f64>),
    default_blr: f64,
    images: usize,
) -> Result<f64> {
    match (lr, blr) {
        (Some(_), Some(_)) => invalid("--lr and --blr exclude each other; give one"),
        (Some(lr), None) => Ok(lr),
        (None, blr) => Ok(blr.unwrap_or(default_blr) * images as f64 / 256.0),
    }
}

/// The decoder that this build has for what was asked.
pub(crate) fn decoder(given: Option<DecoderKind>, quality: DecodeQuality) -> Result<DecoderKind> {
    let asked = given.unwrap_or_default();
    let found = asked.resolve(quality);
    found.map_err(|reason| Error::Config(format!("--decoder {asked}: {reason}")))
}

/// Two shares, if any are given.
pub(crate) fn crop_scale(given: Option<Vec<f64>>, default: [f64; 2]) -> Result<[f64; 2]> {
    let Some(given) = given else {
        return Ok(default);
    };
    <[f64; 2]>::try_from(given).map_err(|_| {
        let [low, high] = default;
        Error::Config(format!(
            "--crop-scale takes two numbers, as in {low},{high:?}"
        ))
    })
}

/// Each flag's number must not be 0.
pub(crate) fn positive(flags: &[(&str, u64)]) -> Result<()> {
    match flags.iter().find(|(_, value)| *value == 0) {
        Some((flag, _)) => invalid(format!("{flag} must be at least 1")),
        None => Ok(()),
    }
}

/// Each flag's number must be finite and not below 0.
pub(crate) fn not_negative(flags: &[(&str, f64)]) -> Result<()> {
    let fits = |value: f64| value.is_finite() && value >= 0.0;
    match flags.iter().find(|(_, value)| !fits(*value)) {
        Some((flag, value)) => {
            invalid(format!("{flag} must be a number of 0 or more, not {value}"))
        }
        None => Ok(()),
    }
}

/// Each flag's number must lie in 0..1, 1 excluded.
pub(crate) fn below_one(flags: &[(&str, f64)]) -> Result<()> {
    match flags.iter().find(|(_, value)| !(0.0..1.0).contains(value)) {
        Some((flag, value)) => {
            invalid(format!("{flag} must lie in 0..1 (1 excluded), not {value}"))
        }
        None => Ok(()),
    }
}

/// The norm that gradients are clipped to.
pub(crate) fn check_clip_grad(norm: Option<f64>) -> Result<()> {
    match norm.filter(|norm| !(norm.is_finite() && *norm > 0.0)) {
        Some(norm) => invalid(format!(
            "--clip-grad must be above 0, not {norm}; leave it out to clip nothing"
        )),
        None => Ok(()),
    }
}

/// The warm-up must fit into the run, and the learning rate must not end above its peak.
pub(crate) fn check_schedule(schedule: &CosineSchedule) -> Result<()> {
    let &CosineSchedule {
        peak,
        floor,
        warmup_epochs,
        epochs,
    } = schedule;
    if warmup_epochs >= epochs {
        return invalid(format!(
            "a warm-up of {warmup_epochs} epochs does not fit into {epochs} epochs; lower --warmup-epochs or raise --epochs"
        ));
    }
    if floor > peak {
        return invalid(format!(
            "--min-lr {floor} is above the peak learning rate {peak}"
        ));
    }
    Ok(())
}

/// The crop's share of the image, lowest and highest.
pub(crate) fn check_crop_scale([low, high]: [f64; 2]) -> Result<()> {
    if low > 0.0 && low <= high && high <= 1.0 {
        return Ok(());
    }
    invalid(format!(
        "--crop-scale {low},{high} must be two shares with 0 < LOW <= HIGH <= 1"
    ))
}

/// Threads that a setting stands for: 0 is every core.
pub fn threads(setting: usize) -> usize {
    match setting {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        n => n,
    }
}

/// What a step keeps of its forward pass.
pub(crate) fn activations(checkpointing: bool) -> Activations {
    match checkpointing {
        true => Activations::Recompute,
        false => Activations::Keep,
    }
}

/// The resolved settings as a configuration file.
pub(crate) fn to_toml(config: &impl Serialize) -> Result<String> {
    toml::to_string(config).map_err(|error| Error::Config(error.to_string()))
}
