//! Models from checkpoints: those of our runs, and other programs'.

use std::path::Path;

use candle_core::Device;
use mae_loader::MaskSampling;
use mae_model::{Encoder, Mae, VitClassifier};

use super::foreign::{
    self, Client, ForeignError, ForeignInspection, ImportOptions, Origin, Weights,
};
use super::{
    CheckpointInfo, MODEL, RunKind, STATE, folder, list, open_by, read_kind, read_state,
    read_tensors, step_of,
};
use crate::config::PretrainConfig;
use crate::error::{Error, Result};
use crate::finetune::FinetuneConfig;

/// Where a model's weights come from.
#[derive(Debug)]
pub enum Source {
    /// A pre-training run of ours.
    Run(Box<CheckpointInfo>),
    /// A fine-tuning run of ours.
    Tuned(Box<CheckpointInfo<FinetuneConfig>>),
    /// Another program.
    Foreign(Box<Origin>),
}

impl Source {
    /// The checkpoint's folder, or the file of weights.
    pub fn path(&self) -> &Path {
        match self {
            Self::Run(info) => &info.path,
            Self::Tuned(info) => &info.path,
            Self::Foreign(origin) => &origin.path,
        }
    }

    /// Updates done, where that is known.
    pub fn step(&self) -> Option<u64> {
        match self {
            Self::Run(info) => Some(info.state.step),
            Self::Tuned(info) => Some(info.state.step),
            Self::Foreign(_) => None,
        }
    }

    /// Share of the patches that were removed in training; the paper's where that is not known.
    pub fn mask_ratio(&self) -> f64 {
        match self {
            Self::Run(info) => info.state.config.mask_ratio,
            Self::Tuned(_) => 0.75,
            Self::Foreign(origin) => origin.mask_ratio,
        }
    }

    /// How the patches that stayed visible were chosen in training; at random where that is not known.
    pub fn mask_sampling(&self) -> MaskSampling {
        match self {
            Self::Run(info) => info.state.config.mask_sampling(),
            Self::Tuned(_) | Self::Foreign(_) => MaskSampling::Random,
        }
    }

    /// What the weights before training are drawn from: for a run of ours, those that it began with.
    pub fn seed(&self) -> u64 {
        match self {
            Self::Run(info) => info.state.config.seed,
            Self::Tuned(info) => info.state.config.seed,
            Self::Foreign(_) => 0,
        }
    }

    /// An encoder like `trained` before training.
    ///
    /// # Errors
    /// If the device has no room.
    pub fn untrained(&self, trained: &Encoder) -> Result<Encoder> {
        let (vit, device) = (trained.config.clone(), trained.device());
        Ok(match self {
            Self::Run(info) => {
                // What the decoder predicts does not enter the encoder's first weights.
                let config = mae_model::MaeConfig {
                    vit,
                    target: mae_model::Target::Pixels,
                    ..info.state.config.mae()
                };
                Mae::new(config, device, self.seed())?.encoder()?
            }
            Self::Tuned(_) | Self::Foreign(_) => {
                Encoder::new(vit, trained.final_norm(), device, self.seed())?
            }
        })
    }
}

/// The weights at `path`: a checkpoint's folder, a run's for its newest whole one, another program's file (`.pth`,
/// `.safetensors`), or a folder with one and its `config.json`.
///
/// # Errors
/// Where there is none, it is damaged, or it is no model of this kind.
pub fn weights(path: &Path, options: &ImportOptions) -> Result<(Weights, Source)> {
    let path = folder_of(path);
    if !is_run(path)? {
        if !foreign::is_one(path) {
            return Err(Error::NoCheckpoint { path: path.into() });
        }
        let (weights, origin) = foreign::open(path, options).map_err(|error| about(path, error))?;
        return Ok((weights, Source::Foreign(Box::new(origin))));
    }
    if let Some(flag) = options.stated() {
        return Err(Error::Config(format!(
            "{} is of a run of mae's, which says everything of its model itself; leave {flag} out",
            path.display()
        )));
    }
    let (mut weights, source) = open_by(path, |path| match read_kind(path)? {
        RunKind::Pretrain => {
            let info = read_state::<PretrainConfig>(path)?;
            let state = read_tensors(&info, MODEL)?;
            let weights = Weights::of_run(&info.state.config.mae(), state);
            Ok((weights, Source::Run(Box::new(info))))
        }
        RunKind::Finetune => {
            let info = read_state::<FinetuneConfig>(path)?;
            let state = read_tensors(&info, MODEL)?;
            let config = &info.state.config;
            let weights = Weights::of_tuned(&config.vit(), config.pooling, state);
            Ok((weights, Source::Tuned(Box::new(info))))
        }
        kind @ RunKind::Tokenizer => Err(super::broken(
            path,
            format!("it is one of {kind}, which has no encoder to take"),
        )),
    })?;
    if let Some(size) = options.image_size {
        weights.resize(size).map_err(|error| about(path, error))?;
    }
    Ok((weights, source))
}

/// Writes the checkpoint at `path` into the folder `target` as `client` takes it, and returns how it is loaded there.
///
/// # Errors
/// As [`weights`], and where the client has no such model, something of it is not known, or `target` holds files.
pub fn export(
    path: &Path,
    options: &ImportOptions,
    client: Client,
    target: &Path,
) -> Result<String> {
    let (weights, source) = weights(path, options)?;
    foreign::export(weights, source.mask_ratio(), client, target).map_err(|reason| Error::Export {
        path: path.into(),
        client,
        reason,
    })
}

/// The folder of a run's checkpoint whose weights `path` names; any other path as it is.
fn folder_of(path: &Path) -> &Path {
    let folder = path.parent();
    let folder = folder.filter(|folder| path.ends_with(MODEL) && folder.join(STATE).is_file());
    folder.unwrap_or(path)
}

/// Whether `path` is a checkpoint of a run of ours, or a folder that holds some.
///
/// # Errors
/// If the folder cannot be read.
pub fn is_run(path: &Path) -> Result<bool> {
    let path = folder_of(path);
    let one = path.join(STATE).is_file() || step_of(path).is_some() && path.is_dir();
    Ok(one || folder(path).is_dir() || path.is_dir() && !list(path)?.is_empty())
}

fn about(path: &Path, reason: ForeignError) -> Error {
    Error::Foreign {
        path: path.into(),
        reason,
    }
}

/// What another program's checkpoint holds.
///
/// # Errors
/// As [`weights`].
pub fn inspect_foreign(path: &Path, options: &ImportOptions) -> Result<ForeignInspection> {
    foreign::inspect(path, options).map_err(|error| about(path, error))
}

/// The encoder of the checkpoint at `path`, on `device`; see [`weights`].
///
/// # Errors
/// As there, and if its number of heads is not known.
pub fn load_encoder(
    path: &Path,
    options: &ImportOptions,
    device: &Device,
) -> Result<(Encoder, Source)> {
    load(path, options, |weights| weights.into_encoder(device))
}

/// Encoder and decoder of the checkpoint at `path`, on `device`; see [`weights`].
///
/// # Errors
/// As there, and if it has no decoder, or not all of its configuration is known.
pub fn load_mae(path: &Path, options: &ImportOptions, device: &Device) -> Result<(Mae, Source)> {
    load(path, options, |weights| weights.into_mae(device))
}

/// Encoder and head over classes of the checkpoint at `path`, on `device`; see [`weights`].
///
/// # Errors
/// As there, and if it has no head, or its number of heads is not known.
pub fn load_classifier(
    path: &Path,
    options: &ImportOptions,
    device: &Device,
) -> Result<(VitClassifier, Source)> {
    load(path, options, |weights| weights.into_classifier(device))
}

fn load<T>(
    path: &Path,
    options: &ImportOptions,
    into: impl Fn(Weights) -> std::result::Result<T, ForeignError>,
) -> Result<(T, Source)> {
    let (weights, source) = weights(path, options)?;
    Ok((into(weights).map_err(|error| about(path, error))?, source))
}
