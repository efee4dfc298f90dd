//! One update of the weights: gradients accumulated over batches, clipped, applied.

use candle_core::{Device, Tensor};
use mae_loader::HostBatch;
use mae_model::ops::reduce;
use mae_model::{Mae, MaeInput, MaeWorkspace};

use crate::error::{Error, Result};
use crate::optim::AdamW;

/// A model with all that an update of it needs. Nothing is allocated from update to update but a batch's copy.
pub(crate) struct Stepper {
    pub(crate) mae: Mae,
    pub(crate) adamw: AdamW,
    pub(crate) workspace: MaeWorkspace,
    grads: Tensor,
    clip: Option<f64>,
}

impl Stepper {
    pub(crate) fn new(
        mae: Mae,
        adamw: AdamW,
        batch: usize,
        keep: usize,
        clip: Option<f64>,
    ) -> Result<Self> {
        let (workspace, grads) = (mae.workspace(batch, keep)?, mae.params.zeros_like_flat()?);
        Ok(Stepper {
            mae,
            adamw,
            workspace,
            grads,
            clip,
        })
    }

    /// Forgets the gradients of the last update.
    pub(crate) fn begin(&mut self) -> Result<()> {
        Ok(reduce::fill(&self.grads, 0.0)?)
    }

    /// Adds `share` of a batch's gradient and returns the batch's loss, or the loss alone where it is not finite.
    pub(crate) fn accumulate(&mut self, batch: &HostBatch, share: f32) -> Result<f32> {
        let input = device_input(&self.mae, batch)?;
        self.mae.forward(&input, &mut self.workspace)?;
        let loss = self.workspace.loss()?;
        if loss.is_finite() {
            self.mae
                .backward(&input, &mut self.workspace, &self.grads, share)?;
        }
        Ok(loss)
    }

    /// Clips the gradient and applies it as update number `step`, counted from 1. Returns the norm before clipping,
    /// where clipping is on; where it is not finite, the weights are left alone.
    pub(crate) fn apply(&mut self, lr: f64, step: u64) -> Result<Option<f64>> {
        let mut norm = None;
        if let Some(limit) = self.clip {
            let found = reduce::global_norm(&self.grads)?;
            norm = Some(found);
            if !found.is_finite() {
                return Ok(norm);
            }
            // As torch.nn.utils.clip_grad_norm_.
            let factor = limit / (found + 1e-6);
            if factor < 1.0 {
                reduce::scale(&self.grads, factor as f32)?;
            }
        }
        self.adamw.step(&self.mae.params, &self.grads, lr, step)?;
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
