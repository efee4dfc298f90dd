//! What an update of the weights needs besides a model that makes gradients: summed over batches, clipped, applied.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use candle_core::Tensor;
use mae_model::{Accumulate, Outcome, Params, Record};

use crate::dist::Group;
use crate::error::Result;
use crate::optim::AdamW;

/// Gradients that are added up over the ranks at a time, at least: PyTorch's 25 MB.
const PART: usize = 25 * 1024 * 1024 / size_of::<f32>();

/// See the [module](self).
pub(crate) struct Update {
    pub(crate) adamw: AdamW,
    /// As [`Params::zeros_like_flat`].
    pub(crate) grads: Tensor,
    pub(crate) record: Record,
    /// Whether the gradients are still those of the last update.
    spent: bool,
    /// Where there are several ranks.
    group: Option<Arc<Group>>,
    /// How far the gradients are being added up over the ranks.
    summed: AtomicUsize,
}

impl Update {
    /// Of `params`; `clip` bounds the norm of the gradient.
    pub(crate) fn new(params: &Params, adamw: AdamW, clip: Option<f64>) -> Result<Self> {
        Ok(Update {
            adamw,
            grads: params.zeros_like_flat()?,
            record: Record::new(params.flat().device(), clip)?,
            spent: true,
            group: None,
            summed: AtomicUsize::new(0),
        })
    }

    /// From now on gradients and loss are those of all ranks of `group`.
    pub(crate) fn join(&mut self, group: Arc<Group>) {
        self.group = (group.world() > 1).then_some(group);
    }

    /// In the backward of an update's last batch: the gradients in front of `end` are done, so that they can be added up over the ranks
    /// while the others are computed.
    pub(crate) fn done_to(&self, end: usize) -> Result<()> {
        let Some(group) = &self.group else {
            return Ok(());
        };
        let from = self.summed.load(Ordering::Relaxed);
        if end - from >= PART {
            self.summed.store(end, Ordering::Relaxed);
            group.begin_sum(&self.grads, from..end)?;
        }
        Ok(())
    }

    /// Adds up loss and gradients over the ranks, as far as that is not under way.
    fn add_up(&self) -> Result<()> {
        let Some(group) = &self.group else {
            return Ok(());
        };
        let from = self.summed.swap(0, Ordering::Relaxed);
        group.begin_sum(&self.grads, from..self.grads.elem_count())?;
        group.finish(&self.grads)?;
        let (record, ranges) = self.record.to_add_up();
        for range in ranges {
            group.begin_sum(record, range)?;
        }
        group.finish(record)
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
        self.add_up()?;
        self.record.settle(&self.grads)?;
        self.adamw
            .step(params, &self.grads, &self.record, lr, step)?;
        if let (Some(shards), Some(group)) = (self.adamw.shards(), &self.group) {
            group.share(params.flat(), shards)?;
            params.round()?;
        }
        Ok(self.record.ask()?)
    }

    /// What the first applied update, of those not asked about yet, came to, if it is done; with `wait`, once it is. Nothing if there is
    /// none.
    pub(crate) fn outcome(&mut self, wait: bool) -> Result<Option<Outcome>> {
        Ok(self.record.take(wait)?)
    }
}
