//! Where a classifier's weights begin: the encoder's of a checkpoint, under a new head.

use std::path::Path;

use mae_model::{StateDict, VitClassifier, VitConfig};

use crate::checkpoint;
use crate::error::Result;

/// The encoder's dimensions in a checkpoint of pre-training.
///
/// # Errors
/// If `path` holds none.
pub fn pretrained(path: &Path) -> Result<VitConfig> {
    Ok(checkpoint::load_mae(path)?.0.config.vit)
}

/// Takes the encoder's weights; the head, and the norm before it where it is not the encoder's, stay as they begin (the reference code's
/// `strict=False`).
///
/// # Errors
/// If `path` holds no checkpoint, or names what does not fit.
pub(super) fn load(vit: &VitClassifier, path: &Path) -> Result<()> {
    let (mae, _) = checkpoint::load_mae(path)?;
    let encoder = mae.state_dict()?;
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
