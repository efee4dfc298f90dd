//! Softmax cross-entropy against soft targets, loss and gradient in one pass.

use candle_core::Tensor;
use rayon::prelude::*;

use super::access::{read, write2};
use crate::Result;
#[cfg(any(feature = "cuda", feature = "host-kernels"))]
use crate::kernels;
use crate::profile::span;

/// logits `[B, N]`, targets `[B, N]` (rows sum to one) → each sample's loss into `losses` `[B]`; the
/// logits become the gradient of the batch's mean with respect to them.
///
/// # Errors
/// If a tensor is not a contiguous f32 tensor on the CPU.
pub fn forward_backward(logits: &Tensor, targets: &Tensor, losses: &Tensor) -> Result<()> {
    let _span = span("cross-entropy");
    #[cfg(any(feature = "cuda", feature = "host-kernels"))]
    if let Some(engine) = kernels::engine(logits) {
        return kernels::classify::cross_entropy(&engine, logits, targets, losses);
    }
    let (batch, classes) = logits.dims2()?;
    let targets = read(targets)?;
    let targets = targets.f32()?;
    write2(logits, losses, |logits, losses| {
        logits
            .par_chunks_mut(classes)
            .zip(targets.par_chunks(classes))
            .zip(losses.par_iter_mut())
            .for_each(|((row, target), loss)| {
                let top = row.iter().copied().fold(f32::NEG_INFINITY, |a, b| {
                    if b.is_nan() || b > a { b } else { a }
                });
                let sum: f64 = row.iter().map(|&x| f64::from(x - top).exp()).sum();
                let log_sum = sum.ln() + f64::from(top);
                let mut total = 0.0;
                for (x, &t) in row.iter_mut().zip(target) {
                    let log_p = f64::from(*x) - log_sum;
                    total -= f64::from(t) * log_p;
                    *x = ((log_p.exp() - f64::from(t)) / batch as f64) as f32;
                }
                *loss = total as f32;
            });
        Ok(())
    })
}
