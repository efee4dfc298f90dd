//! What an update of the weights came to: kept on the device, where the update needs it, and read from there without holding it up.

use std::collections::VecDeque;
use std::ops::Range;

use candle_core::{DType, Device, Tensor};

use crate::Result;
#[cfg(feature = "cuda")]
use crate::cuda::Readback;
#[cfg(any(feature = "cuda", feature = "host-kernels"))]
use crate::kernels;
use crate::ops::access::{read, write};
use crate::ops::{Accumulate, reduce};
use crate::params::write_range;

/// Numbers of a record: loss, norm, factor, halted, batches, bad batch, asked to stop.
pub(crate) const LEN: usize = 7;
/// Where the loss stands, and whether someone asked to stop.
const LOSS: usize = 0;
const STOP: usize = 6;

/// What an update came to.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Outcome {
    /// Mean loss over the update's batches.
    pub loss: f32,
    /// The Euclidean norm of the gradient before clipping; on the CPU only where it is clipped.
    pub grad_norm: Option<f32>,
    /// Whether the weights were left alone, as the loss or the norm, of this update or an earlier one, is no finite number.
    pub halted: bool,
    /// The first of the update's batches whose loss is no finite number.
    pub bad_batch: Option<usize>,
    /// Whether [`Record::ask_to_stop`] was called before it, on this process or, where what they came to is added up, on another.
    pub stop: bool,
}

/// See the [module](self).
pub struct Record {
    numbers: Tensor,
    clip: Option<f64>,
    pending: VecDeque<Pending>,
    #[cfg(feature = "cuda")]
    readback: Option<Readback>,
}

enum Pending {
    Known(Outcome),
    #[cfg(feature = "cuda")]
    Underway(crate::cuda::Reading),
}

impl Record {
    /// For a model on `device`; `clip` bounds the norm of its gradients.
    ///
    /// # Errors
    /// If the device has no room.
    pub fn new(device: &Device, clip: Option<f64>) -> Result<Self> {
        Ok(Self {
            numbers: Tensor::zeros(LEN, DType::F32, device)?,
            clip,
            pending: VecDeque::new(),
            #[cfg(feature = "cuda")]
            readback: match device {
                Device::Cuda(device) => Some(Readback::new(device)),
                _ => None,
            },
        })
    }

    /// As [`LEN`] says.
    pub(crate) fn numbers(&self) -> &Tensor {
        &self.numbers
    }

    /// What several processes that train one model add up before [`Record::settle`]: the record, and the ranges of it.
    pub fn to_add_up(&self) -> (&Tensor, [Range<usize>; 2]) {
        (&self.numbers, [LOSS..LOSS + 1, STOP..STOP + 1])
    }

    /// This update and those behind it say in their [`Outcome`] that the training is to stop.
    ///
    /// # Errors
    /// If the device fails.
    pub fn ask_to_stop(&self) -> Result<()> {
        write_range(&self.numbers, STOP..STOP + 1, &[1.0])
    }

    /// Takes `share` of the mean of a batch's errors into the loss of this update, as its first batch or a later one.
    ///
    /// # Errors
    /// If the device fails.
    pub(crate) fn loss(&self, errors: &Tensor, share: f32, mode: Accumulate) -> Result<()> {
        #[cfg(any(feature = "cuda", feature = "host-kernels"))]
        if let Some(engine) = kernels::engine(errors) {
            return kernels::update::loss(&engine, errors, share, &self.numbers, mode);
        }
        let loss = reduce::mean(errors)? as f32;
        write(&self.numbers, |record| {
            if mode == Accumulate::Replace {
                (record[0], record[4], record[5]) = (0.0, 0.0, -1.0);
            }
            if !loss.is_finite() && record[5] < 0.0 {
                record[5] = record[4];
            }
            record[0] += loss * share;
            record[4] += 1.0;
            Ok(())
        })
    }

    /// Decides how the update's gradients are applied: clipped to their norm, or, where that or the loss is not finite, not at all.
    ///
    /// # Errors
    /// If the device fails.
    pub fn settle(&self, grads: &Tensor) -> Result<()> {
        #[cfg(any(feature = "cuda", feature = "host-kernels"))]
        if let Some(engine) = kernels::engine(grads) {
            return kernels::update::settle(&engine, grads, self.clip, &self.numbers);
        }
        let norm = match self.clip {
            Some(_) => reduce::global_norm(grads)?,
            None => 0.0,
        };
        write(&self.numbers, |record| {
            record[1] = norm as f32;
            // As torch.nn.utils.clip_grad_norm_.
            record[2] =
                self.clip
                    .map_or(1.0, |limit| (limit / (norm + 1e-6)).min(1.0)) as f32;
            if !norm.is_finite() || !record[0].is_finite() {
                record[3] = 1.0;
            }
            Ok(())
        })
    }

    /// Asks for what the update came to, once all that is queued before is done.
    ///
    /// # Errors
    /// If the device fails.
    pub fn ask(&mut self) -> Result<()> {
        #[cfg(feature = "cuda")]
        if let Some(readback) = &mut self.readback {
            let reading = readback.begin(&self.numbers)?;
            self.pending.push_back(Pending::Underway(reading));
            return Ok(());
        }
        let numbers = read(&self.numbers)?;
        let outcome = self.outcome(numbers.f32()?);
        self.pending.push_back(Pending::Known(outcome));
        Ok(())
    }

    /// Of the updates asked about, the first that is not taken yet, if what it came to is here; `wait` until it is.
    ///
    /// # Errors
    /// If the device fails.
    #[cfg_attr(
        not(feature = "cuda"),
        expect(unused_variables, reason = "nothing is ever underway")
    )]
    pub fn take(&mut self, wait: bool) -> Result<Option<Outcome>> {
        match self.pending.pop_front() {
            None => Ok(None),
            Some(Pending::Known(outcome)) => Ok(Some(outcome)),
            #[cfg(feature = "cuda")]
            Some(Pending::Underway(reading)) => {
                if !wait && !reading.is_done()? {
                    self.pending.push_front(Pending::Underway(reading));
                    return Ok(None);
                }
                let numbers = match &mut self.readback {
                    Some(readback) => readback.finish(reading)?,
                    None => unreachable!("readings come from the readback"),
                };
                Ok(Some(self.outcome(&numbers)))
            }
        }
    }

    /// Updates asked about and not taken yet.
    pub fn pending(&self) -> usize {
        self.pending.len()
    }

    fn outcome(&self, numbers: &[f32]) -> Outcome {
        let known = self.clip.is_some() || !self.numbers.device().is_cpu();
        Outcome {
            loss: numbers[LOSS],
            grad_norm: known.then_some(numbers[1]),
            halted: numbers[3] != 0.0,
            bad_batch: (numbers[5] >= 0.0).then_some(numbers[5] as usize),
            stop: numbers[STOP] != 0.0,
        }
    }
}
