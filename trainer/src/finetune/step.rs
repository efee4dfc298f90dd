//! Batches of an update of a classifier, as [`crate::step::Stepper`] takes those of a masked autoencoder.

use mae_model::{Activations, VitClassifier, VitInput, VitTraining, VitWorkspace};

use crate::error::Result;
use crate::optim::AdamW;
use crate::update::Update;

/// A classifier with all that an update of it needs.
pub(super) struct Stepper {
    pub(super) vit: VitClassifier,
    pub(super) workspace: VitWorkspace,
    pub(super) update: Update,
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
            update: Update::new(&vit.params, adamw, clip)?,
            vit,
        })
    }

    /// Goes both ways with a batch, which has so much of a share in the update.
    pub(super) fn batch(
        &mut self,
        input: &VitInput,
        training: &VitTraining,
        share: f32,
    ) -> Result<()> {
        let Self {
            vit,
            workspace,
            update,
        } = self;
        let mode = update.mode();
        vit.forward(input, training, workspace)?;
        workspace.record_loss(&update.record, share, mode)?;
        vit.backward(training, workspace, &update.grads, share, mode)?;
        update.added();
        Ok(())
    }

    /// Applies the gradient; see [`Update::apply`].
    pub(super) fn apply(&mut self, lr: f64, step: u64) -> Result<()> {
        self.update.apply(&self.vit.params, lr, step)
    }
}
