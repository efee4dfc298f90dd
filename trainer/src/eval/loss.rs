//! The masked loss on images and masks that stay the same, so that its values can be compared between checkpoints and models.

use std::sync::Arc;

use mae_loader::Dataset;
use mae_model::{Activations, Mae, MaeInput, MaeWorkspace};
use serde::Serialize;

use super::error::{EvalError, Result};
use super::masking::Masking;
use super::stream::{Input, StreamOptions, stream};

/// A mean over samples.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct LossReport {
    /// Mean over the images of their loss, which is the mean over their removed patches (the paper's; in the target's space).
    pub mean: f64,
    /// Its standard error: the samples' standard deviation over the root of their number. Masks count as part of a sample.
    pub standard_error: f64,
    /// Number of images.
    pub count: usize,
}

/// The loss of each of `models` on `dataset`, each sample under one mask by `masking`,
/// each in the space of its own target ([`mae_model::MaeConfig::target_name`]): losses of different targets
/// cannot be compared. All models must take the same input in the same patches. Calls `progress` with the number of images
/// of each batch.
///
/// # Errors
/// Where the data cannot be read, the masks do not fit the models, or these differ in their input.
pub fn masked_loss(
    dataset: &Arc<Dataset>,
    models: &[&Mae],
    masking: &Masking,
    options: &StreamOptions,
    progress: &mut dyn FnMut(usize),
) -> Result<Vec<LossReport>> {
    let shape = |mae: &Mae| {
        (
            mae.config.vit.image_size,
            mae.config.vit.channels,
            mae.config.patches(),
        )
    };
    let Some(first) = models
        .first()
        .filter(|first| models.iter().all(|mae| shape(mae) == shape(first)))
    else {
        return Err(EvalError::Option {
            name: "the models' input and patch size",
            must: "the same for all of them",
        });
    };
    let (size, channels, _) = shape(first);
    let keep = masking.keep(&first.config)?;
    let mut workspaces: Vec<Option<MaeWorkspace>> = models.iter().map(|_| None).collect();
    let mut losses: Vec<Vec<f32>> = vec![Vec::new(); models.len()];
    stream(
        dataset,
        Input { size, channels },
        Some((masking, &first.config)),
        options,
        |batch| {
            for ((mae, workspace), losses) in models.iter().zip(&mut workspaces).zip(&mut losses) {
                if workspace
                    .as_ref()
                    .is_none_or(|workspace| workspace.batch() != batch.len())
                {
                    *workspace = Some(mae.workspace(batch.len(), keep, Activations::Recompute)?);
                }
                let Some(workspace) = workspace else { continue };
                let input = MaeInput::from_host(
                    &mae.config,
                    batch.pixels(),
                    batch.ids_keep(),
                    batch.ids_restore(),
                    mae.device(),
                )?;
                mae.forward(&input, workspace)?;
                losses.extend(workspace.image_losses()?);
            }
            progress(batch.len());
            Ok(true)
        },
    )?;
    Ok(losses.iter().map(|losses| LossReport::of(losses)).collect())
}

impl LossReport {
    fn of(losses: &[f32]) -> Self {
        let count = losses.len();
        let n = count as f64;
        let mean = losses.iter().map(|&v| f64::from(v)).sum::<f64>() / n;
        let squares: f64 = losses.iter().map(|&v| (f64::from(v) - mean).powi(2)).sum();
        let standard_error = if count > 1 {
            (squares / (n - 1.0) / n).sqrt()
        } else {
            f64::NAN
        };
        Self {
            mean,
            standard_error,
            count,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_standard_error_is_that_of_the_mean() {
        let report = LossReport::of(&[1.0, 2.0, 3.0, 4.0]);
        assert_eq!((report.mean, report.count), (2.5, 4));
        // Variance 5/3 with n − 1, over n = 4.
        assert!((report.standard_error - (5.0f64 / 12.0).sqrt()).abs() < 1e-12);
        assert!(LossReport::of(&[1.0]).standard_error.is_nan());
    }
}
