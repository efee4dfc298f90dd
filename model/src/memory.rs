//! How much memory a training step takes, known before it is taken.

use candle_core::Device;

use crate::stage::Planner;
use crate::stage::stack::Activations;
use crate::{Mae, Result};

/// Besides what is planned: partial results and cuBLASLt's workspace on a GPU.
const APART: u64 = 96 << 20;
/// Batches that are on a GPU at a time.
#[cfg(feature = "cuda")]
const INPUTS: u64 = crate::cuda::LANES as u64;
#[cfg(not(feature = "cuda"))]
const INPUTS: u64 = 0;

/// Bytes that a training step takes on its device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StepMemory {
    /// Weights, gradients, two moments, and the weights' rounded copy.
    pub parameters: u64,
    /// Activations and scratch for one image, and on a GPU the image itself.
    pub image: u64,
    /// What is there whatever the batch.
    pub apart: u64,
}

impl StepMemory {
    /// For batches of so many images.
    pub fn total(&self, batch: usize) -> u64 {
        self.parameters + self.apart + self.image * batch as u64
    }

    /// The largest batch that so many bytes have room for.
    pub fn fits(&self, bytes: u64) -> usize {
        (bytes.saturating_sub(self.parameters + self.apart) / self.image.max(1)) as usize
    }
}

impl Mae {
    /// What a training step of this model takes.
    ///
    /// # Errors
    /// If nothing would be visible or nothing removed.
    pub fn step_memory(&self, keep: usize, activations: Activations) -> Result<StepMemory> {
        // Every buffer grows with the batch, so a plan for one image, on the host, tells of all.
        let planner = Planner::new(&Device::Cpu, self.params.precision());
        let low = if self.params.low().is_some() { 2 } else { 0 };
        let planned = self.plan(1, keep, activations, &planner)?.bytes() as u64;
        let vit = &self.config.vit;
        let bytes = vit.image_size.0 * vit.image_size.1 * vit.channels;
        let input = (bytes + size_of::<u32>() * (keep + vit.patches())) as u64;
        let on_gpu = !self.device().is_cpu();
        Ok(StepMemory {
            parameters: (16 + low) * self.params.flat_len() as u64,
            image: planned + if on_gpu { INPUTS * input } else { 0 },
            apart: if on_gpu { APART } else { 0 },
        })
    }
}

/// Free and all bytes of a GPU; nothing for the host, which pages.
///
/// # Errors
/// If the device fails.
pub fn of_device(device: &Device) -> Result<Option<(u64, u64)>> {
    match device {
        #[cfg(feature = "cuda")]
        Device::Cuda(device) => crate::cuda::memory(device).map(Some),
        _ => Ok(None),
    }
}
