//! One update of a masked autoencoder: gradients accumulated over batches, clipped, applied.

use std::sync::Arc;

use mae_loader::HostBatch;
use mae_model::ops::reduce;
use mae_model::{
    Activations, HostInput, Mae, MaeInput, MaeWorkspace, Outcome, Replay, StepMemory, memory,
};

use crate::dist::Group;
use crate::error::{Error, Result};
use crate::optim::AdamW;
use crate::update::Update;

/// Updates whose outcome may be unknown before the host waits for the first: enough for a GPU never to run dry.
pub(crate) const UNDERWAY: usize = 3;

/// A model with all that an update of it needs. Nothing is allocated from update to update but a batch's copy.
pub struct Stepper {
    pub(crate) mae: Mae,
    pub(crate) workspace: MaeWorkspace,
    pub(crate) update: Update,
    memory: StepMemory,
    replay: Option<Replay>,
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
        let mut memory = mae.step_memory(keep, activations)?;
        memory.parameters -= 2 * size_of::<f32>() as u64 * mae.params.flat_len() as u64;
        memory.parameters += adamw.bytes();
        check_room(&mae, memory, (batch, keep), activations)?;
        Ok(Stepper {
            memory,
            workspace: mae.workspace(batch, keep, activations)?,
            update: Update::new(&mae.params, adamw, clip)?,
            replay: None,
            mae,
        })
    }

    /// From now on [`Stepper::batch`] replays CUDA graphs.
    ///
    /// # Errors
    /// If the model is not on a GPU.
    pub fn use_graphs(&mut self) -> Result<()> {
        self.replay = Some(Replay::new(self.mae.device())?);
        Ok(())
    }

    /// [`Stepper::forward`] and [`Stepper::backward`].
    ///
    /// # Errors
    /// If the batch does not fit, or the device fails.
    pub fn batch(&mut self, input: &MaeInput, share: f32) -> Result<()> {
        let Self {
            mae,
            workspace,
            update,
            replay,
            ..
        } = self;
        let mode = update.mode();
        let mut work = || {
            mae.forward(input, workspace)?;
            workspace.record_loss(&update.record, share, mode)?;
            mae.backward(input, workspace, &update.grads, share, mode)
        };
        match replay {
            Some(replay) => replay.run(input, share, mode, work)?,
            None => work()?,
        }
        update.added();
        Ok(())
    }

    /// [`Stepper::batch`] for the last batch of an update: with several ranks, gradients are added up as they are done.
    ///
    /// # Errors
    /// As [`Stepper::batch`], or if another rank fails.
    pub fn last_batch(&mut self, input: &MaeInput, share: f32) -> Result<()> {
        // What a graph replays is all of the batch.
        if self.replay.is_some() {
            return self.batch(input, share);
        }
        let Self {
            mae,
            workspace,
            update,
            ..
        } = self;
        let mode = update.mode();
        mae.forward(input, workspace)?;
        workspace.record_loss(&update.record, share, mode)?;
        let done = |end| {
            let done = update.done_to(end);
            done.map_err(|error| mae_model::Error::Told(Box::new(error)))
        };
        mae.backward_in_parts(input, workspace, &update.grads, (share, mode), &done)?;
        update.added();
        Ok(())
    }

    /// Updates that may be queued, at most, behind one whose outcome is not known.
    pub(crate) fn most_behind(&self) -> u64 {
        match self.mae.device().is_cpu() {
            true => 0,
            false => UNDERWAY as u64,
        }
    }

    /// From now on updates are those of all ranks of `group`.
    pub fn join(&mut self, group: &Arc<Group>) {
        self.update.join(Arc::clone(group));
    }

    /// What a step takes.
    pub fn memory(&self) -> StepMemory {
        self.memory
    }

    /// Goes forward through a batch, whose loss has so much of a share in that of the update.
    ///
    /// # Errors
    /// If the batch does not fit.
    pub fn forward(&mut self, input: &MaeInput, share: f32) -> Result<()> {
        self.mae.forward(input, &mut self.workspace)?;
        let Update { record, .. } = &self.update;
        Ok(self
            .workspace
            .record_loss(record, share, self.update.mode())?)
    }

    /// Adds `share` of the gradient of the batch that [`Stepper::forward`] had last.
    ///
    /// # Errors
    /// If the device fails.
    pub fn backward(&mut self, input: &MaeInput, share: f32) -> Result<()> {
        let (mode, grads) = (self.update.mode(), &self.update.grads);
        self.mae
            .backward(input, &mut self.workspace, grads, share, mode)?;
        self.update.added();
        Ok(())
    }

    /// Clips the gradient and applies it as update number `step`, counted from 1; where the loss or the gradient's norm is not finite,
    /// the weights are left alone, now and later. A GPU may still be at it afterwards: see [`Stepper::outcome`].
    ///
    /// # Errors
    /// If the device fails.
    pub fn apply(&mut self, lr: f64, step: u64) -> Result<()> {
        self.update.apply(&self.mae.params, lr, step)
    }

    /// What the first applied update, of those not asked about yet, came to, if it is done; with `wait`, once it is. Nothing if there is
    /// none.
    ///
    /// # Errors
    /// If the device fails.
    pub fn outcome(&mut self, wait: bool) -> Result<Option<Outcome>> {
        self.update.outcome(wait)
    }

    /// A check sum of the weights: that of ranks that have the same ones.
    pub(crate) fn digest(&self) -> Result<u32> {
        const CRC: crc::Crc<u32> = crc::Crc::<u32>::new(&crc::CRC_32_ISCSI);
        let mut digest = CRC.digest();
        for number in self.mae.params.to_vec()? {
            digest.update(&number.to_le_bytes());
        }
        Ok(digest.finalize())
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

/// Refuses a batch that the GPU has no room for. All but the gradients and the workspace is there already.
fn check_room(
    mae: &Mae,
    memory: StepMemory,
    (batch, keep): (usize, usize),
    activations: Activations,
) -> Result<()> {
    let Some((free, _)) = memory::of_device(mae.device())? else {
        return Ok(());
    };
    let there = memory.parameters - mae.params.flat_len() as u64 * 4;
    let (needed, room) = (memory.total(batch) - there, free + there);
    if needed <= free {
        return Ok(());
    }
    let recomputing = match activations {
        Activations::Keep => Some(mae.step_memory(keep, Activations::Recompute)?.fits(room)),
        Activations::Recompute => None,
    };
    Err(Error::Memory {
        batch,
        needed,
        free,
        fits: memory.fits(room),
        recomputing,
    })
}

/// A batch of the loader, for [`mae_model::Feeder`].
pub(crate) fn host_input(batch: &HostBatch) -> HostInput<'_> {
    HostInput {
        pixels: batch.pixels(),
        ids_keep: batch.ids_keep(),
        ids_restore: batch.ids_restore(),
    }
}

/// A batch where the model is, copied at once.
pub(crate) fn device_input(mae: &Mae, batch: &HostBatch) -> Result<MaeInput> {
    let HostInput {
        pixels,
        ids_keep,
        ids_restore,
    } = host_input(batch);
    Ok(MaeInput::from_host(
        &mae.config,
        pixels,
        ids_keep,
        ids_restore,
        mae.device(),
    )?)
}
