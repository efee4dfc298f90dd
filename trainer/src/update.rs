//! What an update of the weights needs besides a model that makes gradients: summed over batches, clipped, applied.

use candle_core::Tensor;
use mae_model::{Accumulate, Outcome, Params, Record};

use crate::error::Result;
use crate::optim::AdamW;

/// See the [module](self).
pub(crate) struct Update {
    pub(crate) adamw: AdamW,
    /// As [`Params::zeros_like_flat`].
    pub(crate) grads: Tensor,
    pub(crate) record: Record,
    /// Whether the gradients are still those of the last update.
    spent: bool,
}

impl Update {
    /// Of `params`; `clip` bounds the norm of the gradient.
    pub(crate) fn new(params: &Params, adamw: AdamW, clip: Option<f64>) -> Result<Self> {
        Ok(Update {
            adamw,
            grads: params.zeros_like_flat()?,
            record: Record::new(params.flat().device(), clip)?,
            spent: true,
        })
    }

    /// How a batch's loss and gradients join those of the update: the first one's replace what is left of the last update.
    pub(crate) fn mode(&self) -> Accumulate {
        match self.spent {
            true => Accumulate::Replace,
            false => Accumulate::Add,
        }
    }

    /// A batch's gradients are in.
    pub(crate) fn added(&mut self) {
        self.spent = false;
    }

    /// Clips the gradient and applies it to `params` as update number `step`, counted from 1; where the loss or the gradient's norm is
    /// not finite, the weights are left alone, now and later. A GPU may still be at it afterwards: see [`Update::outcome`].
    pub(crate) fn apply(&mut self, params: &Params, lr: f64, step: u64) -> Result<()> {
        self.spent = true;
        self.record.settle(&self.grads)?;
        self.adamw
            .step(params, &self.grads, &self.record, lr, step)?;
        Ok(self.record.ask()?)
    }

    /// What the first applied update, of those not asked about yet, came to, if it is done; with `wait`, once it is. Nothing if there is
    /// none.
    pub(crate) fn outcome(&mut self, wait: bool) -> Result<Option<Outcome>> {
        Ok(self.record.take(wait)?)
    }
}
