//! One update of a classifier, as [`crate::step::Stepper`] makes those of a masked autoencoder.

use candle_core::Tensor;
use mae_model::{
    Accumulate, Activations, Outcome, Record, VitClassifier, VitInput, VitTraining, VitWorkspace,
};

use crate::error::Result;
use crate::optim::AdamW;

/// A classifier with all that an update of it needs.
pub(super) struct Stepper {
    pub(super) vit: VitClassifier,
    pub(super) adamw: AdamW,
    pub(super) workspace: VitWorkspace,
    grads: Tensor,
    record: Record,
    /// Whether the gradients are still those of the last update.
    spent: bool,
}

impl Stepper {
    pub(super) fn new(
        vit: VitClassifier,
        adamw: AdamW,
        (batch, drop_path): (usize, bool),
        activations: Activations,
        clip: Option<f64>,
    ) -> Result<Self> {
        Ok(Stepper {
            workspace: vit.workspace(batch, activations, drop_path)?,
            grads: vit.params.zeros_like_flat()?,
            record: Record::new(vit.device(), clip)?,
            spent: true,
            vit,
            adamw,
        })
    }

    /// Goes both ways with a batch, which has so much of a share in the update.
    pub(super) fn batch(
        &mut self,
        input: &VitInput,
        training: &VitTraining,
        share: f32,
    ) -> Result<()> {
        let mode = match self.spent {
            true => Accumulate::Replace,
            false => Accumulate::Add,
        };
        let (vit, workspace) = (&self.vit, &mut self.workspace);
        vit.forward(input, training, workspace)?;
        workspace.record_loss(&self.record, share, mode)?;
        vit.backward(training, workspace, &self.grads, share, mode)?;
        self.spent = false;
        Ok(())
    }

    /// Applies the gradient as update number `step`, counted from 1, and says what it came to; where that is not finite, the weights are
    /// left alone.
    pub(super) fn apply(&mut self, lr: f64, step: u64) -> Result<Option<Outcome>> {
        self.spent = true;
        self.record.settle(&self.grads)?;
        self.adamw
            .step(&self.vit.params, &self.grads, &self.record, lr, step)?;
        self.record.ask()?;
        Ok(self.record.take(true)?)
    }
}
