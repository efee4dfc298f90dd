//! One vector from a sequence of tokens: the class token's row, or the mean of the patches' rows.

use candle_core::Tensor;
use rayon::prelude::*;

use super::access::{read, write};
use crate::Result;
use crate::config::Pooling;
#[cfg(any(feature = "cuda", feature = "host-kernels"))]
use crate::kernels;
use crate::profile::span;

/// x `[B, 1 + L, D]` → pooled `[B, D]`.
///
/// # Errors
/// If a tensor is not a contiguous f32 tensor on the CPU.
pub fn forward(pooling: Pooling, x: &Tensor, pooled: &Tensor) -> Result<()> {
    let _span = span("pooling, forward");
    #[cfg(any(feature = "cuda", feature = "host-kernels"))]
    if let Some(engine) = kernels::engine(x) {
        return kernels::classify::pool_forward(&engine, pooling, x, pooled);
    }
    let (_, tokens, dim) = x.dims3()?;
    let x = read(x)?;
    let x = x.f32()?;
    write(pooled, |pooled| {
        pooled
            .par_chunks_mut(dim)
            .zip(x.par_chunks(tokens * dim))
            .for_each(|(out, x)| match pooling {
                Pooling::Token => out.copy_from_slice(&x[..dim]),
                Pooling::Avg => {
                    out.fill(0.0);
                    for row in x[dim..].chunks_exact(dim) {
                        out.iter_mut().zip(row).for_each(|(out, x)| *out += x);
                    }
                    let scale = 1.0 / (tokens - 1) as f32;
                    out.iter_mut().for_each(|x| *x *= scale);
                }
            });
        Ok(())
    })
}

/// The gradient of x from that of the pooled vectors; `dx` is overwritten.
///
/// # Errors
/// As [`forward`].
pub fn backward(pooling: Pooling, dpooled: &Tensor, dx: &Tensor) -> Result<()> {
    let _span = span("pooling, backward");
    #[cfg(any(feature = "cuda", feature = "host-kernels"))]
    if let Some(engine) = kernels::engine(dx) {
        return kernels::classify::pool_backward(&engine, pooling, dpooled, dx);
    }
    let (_, tokens, dim) = dx.dims3()?;
    let dpooled = read(dpooled)?;
    let dpooled = dpooled.f32()?;
    write(dx, |dx| {
        dx.par_chunks_mut(tokens * dim)
            .zip(dpooled.par_chunks(dim))
            .for_each(|(dx, dpooled)| {
                let (class_row, rows) = dx.split_at_mut(dim);
                match pooling {
                    Pooling::Token => {
                        class_row.copy_from_slice(dpooled);
                        rows.fill(0.0);
                    }
                    Pooling::Avg => {
                        class_row.fill(0.0);
                        let scale = 1.0 / (tokens - 1) as f32;
                        for row in rows.chunks_exact_mut(dim) {
                            row.iter_mut()
                                .zip(dpooled)
                                .for_each(|(dx, d)| *dx = d * scale);
                        }
                    }
                }
            });
        Ok(())
    })
}
