//! What a run's target is made with, before its first step: a basis fitted to the training data, or a trained tokenizer. Both belong to
//! the model and its checkpoints from then on.

mod pca;

use mae_model::{Mae, Target};

use crate::checkpoint::Checkpoint;
use crate::config::{Difference, PretrainConfig};
use crate::data::Data;
use crate::error::{Error, Result};
use crate::observer::Observer;
use crate::{tokenizer, validate};
pub use pca::PcaFit;

/// Gives `mae`, which starts afresh, what its target needs. Returns what a basis came to, if one was fitted.
///
/// # Errors
/// If the data or the tokenizer cannot be read.
pub(crate) fn prepare(
    mae: &mut Mae,
    config: &PretrainConfig,
    data: &Data,
    observer: &mut dyn Observer,
) -> Result<Option<PcaFit>> {
    match &mae.config.target {
        Target::Pixels => Ok(None),
        Target::Pca { components } => {
            let images = config.pca_images.unwrap_or(u64::MAX).min(data.train.len());
            let loader = validate::plain_loader(data.train.clone(), images, config)?;
            let fit = pca::fit(&loader, &mae.config.vit, *components, &mut |done| {
                observer.fitting(done, images);
            })?;
            mae.set_pca(&fit.basis)?;
            observer.fitted(&fit);
            Ok(Some(fit))
        }
        Target::Tokens { tokenizer: wanted } => {
            let Some(path) = &config.tokenizer else {
                return Ok(None);
            };
            let tokenizer = tokenizer::load(path, mae.device())?;
            if tokenizer.config() != wanted {
                return Err(Error::Config(format!(
                    "the tokenizer in {} is another than the one that `tokenizer_config` of the configuration file describes; leave \
                     that out to take this one",
                    path.display()
                )));
            }
            mae.set_tokenizer(tokenizer)?;
            Ok(None)
        }
    }
}

/// Where the tokenizer that this run names is there and is another than that of the checkpoint, the difference.
///
/// # Errors
/// If it is there and cannot be read.
pub(crate) fn other_tokenizer(
    config: &PretrainConfig,
    checkpoint: &Checkpoint,
) -> Result<Option<Difference>> {
    let Some(path) = config.tokenizer.as_ref().filter(|path| path.is_dir()) else {
        return Ok(None);
    };
    let state = tokenizer::load(path, &candle_core::Device::Cpu)?.state_dict()?;
    let same = state
        .iter()
        .all(|(name, tensor)| checkpoint.model.get(name) == Some(tensor));
    Ok((!same).then(|| Difference {
        field: "tokenizer".to_owned(),
        saved: "another, which it holds".to_owned(),
        given: path.display().to_string(),
    }))
}
