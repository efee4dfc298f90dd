//! AdamW (Loshchilov and Hutter 2019) as PyTorch computes it, over a range of flat tensors.

use std::ops::Range;

use candle_core::Tensor;
use multiversion::multiversion;
use rayon::prelude::*;

use super::access::{read, write, write_parts};
use crate::Result;
use crate::profile::span;

const CHUNK: usize = 1 << 14;

/// The numbers of one update.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamWStep {
    /// Learning rate.
    pub lr: f64,
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub eps: f64,
    /// Decoupled weight decay.
    pub weight_decay: f64,
    /// What every gradient is multiplied with first: the factor that clips their norm, or 1.
    pub grad_scale: f32,
    /// Number of this update, from 1, for the bias corrections.
    pub step: u64,
}

#[derive(Clone, Copy)]
struct Factors {
    decay: f32,
    beta1: f32,
    beta2: f32,
    rest1: f32,
    rest2: f32,
    step_size: f32,
    root_correction: f32,
    eps: f32,
    grad_scale: f32,
}

/// Updates `range` of the flat parameters and of both moments from the flat gradients.
///
/// # Errors
/// If a tensor is not a contiguous f32 tensor on the CPU.
pub fn adamw_step(
    params: &Tensor,
    grads: &Tensor,
    exp_avg: &Tensor,
    exp_avg_sq: &Tensor,
    range: Range<usize>,
    step: &AdamWStep,
) -> Result<()> {
    let _span = span("AdamW");
    let correction = |beta: f64| 1.0 - beta.powf(step.step as f64);
    let factors = Factors {
        decay: (1.0 - step.lr * step.weight_decay) as f32,
        beta1: step.beta1 as f32,
        beta2: step.beta2 as f32,
        rest1: (1.0 - step.beta1) as f32,
        rest2: (1.0 - step.beta2) as f32,
        step_size: (step.lr / correction(step.beta1)) as f32,
        root_correction: (1.0 / correction(step.beta2).sqrt()) as f32,
        eps: step.eps as f32,
        grad_scale: step.grad_scale,
    };
    let grads = read(grads)?;
    let grads = &grads.f32()?[range.clone()];
    write_parts(params, [range.clone()], |[params]| {
        write_parts(exp_avg, [range.clone()], |[m]| {
            write(exp_avg_sq, |v| {
                params
                    .par_chunks_mut(CHUNK)
                    .zip(grads.par_chunks(CHUNK))
                    .zip(m.par_chunks_mut(CHUNK))
                    .zip(v[range].par_chunks_mut(CHUNK))
                    .for_each(|(((p, g), m), v)| update(p, g, m, v, factors));
                Ok(())
            })
        })
    })
}

#[multiversion(targets = "simd")]
fn update(params: &mut [f32], grads: &[f32], m: &mut [f32], v: &mut [f32], f: Factors) {
    for (((p, g), m), v) in params.iter_mut().zip(grads).zip(m).zip(v) {
        let g = g * f.grad_scale;
        *m = f.beta1 * *m + f.rest1 * g;
        *v = f.beta2 * *v + f.rest2 * (g * g);
        let denominator = v.sqrt() * f.root_correction + f.eps;
        *p = *p * f.decay - f.step_size * (*m / denominator);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    #[test]
    fn two_updates_by_hand() {
        let make = |x: [f32; 3]| Tensor::new(&x, &Device::Cpu).unwrap();
        let (p, g) = (make([1.0, 2.0, 3.0]), make([0.5, -1.0, 0.0]));
        let (m, v) = (make([0.0; 3]), make([0.0; 3]));
        let mut step = AdamWStep {
            lr: 0.1,
            beta1: 0.9,
            beta2: 0.95,
            eps: 1e-8,
            weight_decay: 0.5,
            grad_scale: 1.0,
            step: 1,
        };
        adamw_step(&p, &g, &m, &v, 0..2, &step).unwrap();
        // The first update moves by lr against the gradient's sign, after the decay.
        let after = p.to_vec1::<f32>().unwrap();
        assert!((after[0] - (0.95 - 0.1)).abs() < 1e-6 && (after[1] - (1.9 + 0.1)).abs() < 1e-6);
        assert_eq!(after[2], 3.0, "outside the range");
        step.step = 2;
        adamw_step(&p, &g, &m, &v, 0..2, &step).unwrap();
        // A constant gradient keeps the corrected moments at g and g².
        let again = p.to_vec1::<f32>().unwrap();
        assert!((again[0] - (after[0] * 0.95 - 0.1)).abs() < 1e-6);
    }
}
