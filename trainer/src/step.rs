//! One update of the weights: gradients accumulated over batches, clipped, applied.

use candle_core::{Device, Tensor};
use mae_loader::HostBatch;
use mae_model::ops::reduce;
use mae_model::{Accumulate, Activations, Mae, MaeInput, MaeWorkspace};

use crate::error::{Error, Result};
use crate::optim::AdamW;

/// A model with all that an update of it needs. Nothing is allocated from update to update but a batch's copy.
pub struct Stepper {
    pub(crate) mae: Mae,
    pub(crate) adamw: AdamW,
    pub(crate) workspace: MaeWorkspace,
    grads: Tensor,
    /// Whether the gradients are still those of the last update.
    spent: bool,
    clip: Option<f64>,
}

impl Stepper {
    /// For batches of `batch` images with `keep` visible patches; `clip` bounds the norm of the gradient.
    ///
    /// # Errors
    /// If the shape leaves nothing visible or nothing removed, or the device has no room.
    pub fn new(
        mae: Mae,
        adamw: AdamW,
        (batch, keep): (usize, usize),
        activations: Activations,
        clip: Option<f64>,
    ) -> Result<Self> {
        Ok(Stepper {
            workspace: mae.workspace(batch, keep, activations)?,
            grads: mae.params.zeros_like_flat()?,
            spent: true,
            mae,
            adamw,
            clip,
        })
    }

    /// The loss of a batch.
    ///
    /// # Errors
    /// If the batch does not fit.
    pub fn forward(&mut self, input: &MaeInput) -> Result<f32> {
        self.mae.forward(input, &mut self.workspace)?;
        Ok(self.workspace.loss()?)
    }

    /// Adds `share` of the gradient of the batch that [`Stepper::forward`] had last.
    ///
    /// # Errors
    /// If the device fails.
    pub fn backward(&mut self, input: &MaeInput, share: f32) -> Result<()> {
        let mode = if self.spent {
            Accumulate::Replace
        } else {
            Accumulate::Add
        };
        self.mae
            .backward(input, &mut self.workspace, &self.grads, share, mode)?;
        self.spent = false;
        Ok(())
    }

    /// Clips the gradient and applies it as update number `step`, counted from 1. Returns the norm before clipping,
    /// where clipping is on; where it is not finite, the weights are left alone.
    ///
    /// # Errors
    /// If the device fails.
    pub fn apply(&mut self, lr: f64, step: u64) -> Result<Option<f64>> {
        self.spent = true;
        let (mut norm, mut factor) = (None, 1.0);
        if let Some(limit) = self.clip {
            let found = reduce::global_norm(&self.grads)?;
            norm = Some(found);
            if !found.is_finite() {
                return Ok(norm);
            }
            // As torch.nn.utils.clip_grad_norm_.
            factor = (limit / (found + 1e-6)).min(1.0);
        }
        self.adamw
            .step(&self.mae.params, &self.grads, factor as f32, lr, step)?;
        Ok(norm)
    }

    /// Refuses weights that a checkpoint must not hold.
    pub(crate) fn check_finite(&self, step: u64) -> Result<()> {
        if reduce::global_norm(self.mae.params.flat())?.is_finite() {
            Ok(())
        } else {
            Err(Error::NonFiniteWeights { step })
        }
    }
}

/// A batch where the model is.
pub(crate) fn device_input(mae: &Mae, batch: &HostBatch) -> Result<MaeInput> {
    let ids = (batch.ids_keep(), batch.ids_restore());
    Ok(MaeInput::from_host(
        &mae.config,
        batch.pixels(),
        ids.0,
        ids.1,
        &Device::Cpu,
    )?)
}
