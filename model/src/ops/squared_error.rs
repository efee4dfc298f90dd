//! Mean squared error against targets that are made beforehand, loss and gradient in one pass.

use candle_core::Tensor;
use rayon::prelude::*;

use super::access::{read, write2};
use super::masked_loss::differences;
use crate::Result;
#[cfg(any(feature = "cuda", feature = "host-kernels"))]
use crate::kernels;
use crate::profile::span;

/// prediction `[B, R, N]` without its bias `[N]`, targets `[B, R, N]` → the mean squared error of each row into `errors` `[B, R]`; the
/// prediction becomes the gradient of the batch's mean with respect to it.
///
/// # Errors
/// If a tensor is not a contiguous f32 tensor on the CPU.
pub fn forward_backward(
    (prediction, bias): (&Tensor, &Tensor),
    targets: &Tensor,
    errors: &Tensor,
) -> Result<()> {
    let _span = span("squared error");
    #[cfg(any(feature = "cuda", feature = "host-kernels"))]
    if let Some(engine) = kernels::engine(errors) {
        return kernels::target::squared_error(&engine, (prediction, bias), targets, errors);
    }
    let (batch, count, len) = prediction.dims3()?;
    let (targets, bias) = (read(targets)?, read(bias)?);
    let (targets, bias) = (targets.f32()?, bias.f32()?);
    let scale = 2.0 / (batch * count * len) as f32;
    write2(prediction, errors, |prediction, errors| {
        prediction
            .par_chunks_mut(count * len)
            .zip(targets.par_chunks(count * len))
            .zip(errors.par_chunks_mut(count))
            .for_each(|((prediction, targets), errors)| {
                let rows = prediction.chunks_exact_mut(len);
                for ((prediction, target), error) in rows.zip(targets.chunks_exact(len)).zip(errors)
                {
                    let sum = differences(prediction, bias, target, scale);
                    *error = (sum / len as f64) as f32;
                }
            });
        Ok(())
    })
}
