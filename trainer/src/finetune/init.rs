//! Where a classifier's weights begin: the encoder's of a checkpoint, ours or another program's, under a new head.

use std::path::Path;

use mae_model::{StateDict, VitClassifier, VitConfig};

use crate::checkpoint::foreign::ImportOptions;
use crate::checkpoint::weights;
use crate::error::{Error, Result};

/// The encoder's dimensions in a checkpoint, with what `options` say of it.
///
/// # Errors
/// If `path` holds none, or not all is known.
pub fn pretrained(path: &Path, options: &ImportOptions) -> Result<VitConfig> {
    let (weights, _) = weights(path, options)?;
    weights.vit().map_err(|reason| Error::Foreign {
        path: path.into(),
        reason,
    })
}

/// Takes the encoder's weights, its position embedding interpolated where the images have another size; the head, and the norm before
/// it where it is not the encoder's, stay as they begin (the reference code's `strict=False`).
///
/// # Errors
/// If `path` holds no checkpoint, or names what does not fit.
pub(super) fn load(vit: &VitClassifier, path: &Path, key: Option<String>) -> Result<()> {
    let options = ImportOptions {
        image_size: Some(vit.config.image_size),
        key,
        ..Default::default()
    };
    let (mut weights, _) = weights(path, &options)?;
    weights.encoder.heads = Some(vit.config.heads);
    let encoder = weights
        .into_encoder(vit.device())
        .map_err(|reason| Error::Foreign {
            path: path.into(),
            reason,
        })?;
    let encoder = encoder.state_dict()?;
    let own: StateDict = vit
        .state_dict()?
        .into_iter()
        .map(|(name, tensor)| {
            let taken = encoder.get(&name).cloned();
            (name, taken.unwrap_or(tensor))
        })
        .collect();
    Ok(vit.load_state_dict(&own)?)
}
