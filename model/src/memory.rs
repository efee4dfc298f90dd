//! How much memory a training step takes, known before it is taken, from the configuration alone.

use candle_core::Device;

use crate::feed::LANES;
use crate::stage::Planner;
use crate::stage::stack::Activations;
use crate::{Mae, MaeConfig, Precision, Result};

/// Besides what is planned: partial results and cuBLASLt's workspace on a GPU.
const APART: u64 = 96 << 20;

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
        (self.parameters + self.apart).saturating_add(self.image.saturating_mul(batch as u64))
    }

    /// The largest batch that so many bytes have room for.
    pub fn fits(&self, bytes: u64) -> usize {
        (bytes.saturating_sub(self.parameters + self.apart) / self.image.max(1)) as usize
    }
}

/// The parts of [`StepMemory::parameters`], in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ParameterMemory {
    /// The weights in float32.
    pub weights: u64,
    /// Their rounded copy, where products take one in.
    pub low: u64,
    /// The gradients in float32.
    pub gradients: u64,
    /// AdamW's two moments in float32.
    pub moments: u64,
}

impl ParameterMemory {
    /// Together.
    pub fn total(&self) -> u64 {
        self.weights + self.low + self.gradients + self.moments
    }
}

impl MaeConfig {
    /// Trainable numbers.
    pub fn parameters(&self) -> usize {
        Mae::table(self).count()
    }

    /// What the parameters take in training.
    pub fn parameter_memory(&self, precision: Precision) -> ParameterMemory {
        let numbers = Mae::table(self).flat_len() as u64;
        ParameterMemory {
            weights: 4 * numbers,
            low: match precision {
                Precision::Bf16 => 2 * numbers,
                Precision::F32 | Precision::Tf32 => 0,
            },
            gradients: 4 * numbers,
            moments: 8 * numbers,
        }
    }

    /// What a training step takes, on a GPU or on the CPU: no model is made, and none need fit this machine.
    ///
    /// # Errors
    /// If this describes no model, or nothing would be visible or nothing removed.
    pub fn step_memory(
        &self,
        keep: usize,
        activations: Activations,
        precision: Precision,
        on_gpu: bool,
    ) -> Result<StepMemory> {
        self.validate()?;
        // Every buffer grows with the batch, so a plan for one image, on the host, tells of all.
        let planner = Planner::new(&Device::Cpu, precision);
        let planned = Mae::plan(self, (1, keep), activations, &planner)?.bytes() as u64;
        let vit = &self.vit;
        let bytes = vit.image_size.0 * vit.image_size.1 * vit.channels;
        let input = (bytes + size_of::<u32>() * (keep + vit.patches())) as u64;
        Ok(StepMemory {
            parameters: self.parameter_memory(precision).total(),
            image: planned + if on_gpu { LANES as u64 * input } else { 0 },
            apart: if on_gpu { APART } else { 0 },
        })
    }
}

impl Mae {
    /// What a training step of this model takes.
    ///
    /// # Errors
    /// If nothing would be visible or nothing removed.
    pub fn step_memory(&self, keep: usize, activations: Activations) -> Result<StepMemory> {
        let on_gpu = !self.device().is_cpu();
        self.config
            .step_memory(keep, activations, self.params.precision(), on_gpu)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_is_what_the_model_takes() {
        let config = MaeConfig::named("mae-micro-patch4", (16, 16), 3).unwrap();
        let mae = Mae::new(config.clone(), &Device::Cpu, 0).unwrap();
        assert_eq!(config.parameters(), mae.params.count());
        for activations in [Activations::Keep, Activations::Recompute] {
            let memory = config
                .step_memory(4, activations, Precision::F32, false)
                .unwrap();
            assert_eq!(memory, mae.step_memory(4, activations).unwrap());
            let workspace = mae.workspace(3, 4, activations).unwrap().bytes() as u64;
            let parameters = 16 * mae.params.flat_len() as u64;
            assert_eq!(memory.total(3), parameters + workspace);
            assert_eq!((memory.fits(memory.total(3)), memory.apart), (3, 0));
        }
    }

    #[test]
    fn bfloat16_needs_no_gpu_to_be_planned() {
        let config = MaeConfig::named("mae-huge-patch14", (224, 224), 3).unwrap();
        let plan = |precision, activations| {
            config
                .step_memory(64, activations, precision, true)
                .unwrap()
        };
        let (full, low) = (
            plan(Precision::F32, Activations::Keep),
            plan(Precision::Bf16, Activations::Keep),
        );
        let parts = config.parameter_memory(Precision::Bf16);
        assert_eq!(
            (parts.low, parts.moments),
            (parts.weights / 2, parts.weights * 2)
        );
        assert_eq!(low.parameters, full.parameters / 16 * 18);
        // The residual stream stays in float32.
        assert!((full.image / 2..full.image).contains(&low.image));
        assert!(plan(Precision::Bf16, Activations::Recompute).image < low.image / 2);
        // 657 M: the encoder's 631 and a decoder of 26.
        assert!((config.parameters() as f64 / 657e6 - 1.0).abs() < 0.01);
    }

    #[test]
    fn what_is_no_model_has_no_plan() {
        let mut config = MaeConfig::named("mae-micro-patch4", (16, 16), 3).unwrap();
        let plan = |config: &MaeConfig, keep| {
            config.step_memory(keep, Activations::Keep, Precision::F32, false)
        };
        assert!(plan(&config, 0).is_err() && plan(&config, 16).is_err());
        config.decoder_heads = 3;
        assert!(plan(&config, 4).is_err());
    }
}
