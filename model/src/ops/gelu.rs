//! GELU in its exact (erf) form, as the reference code's `nn.GELU()`.

use candle_core::Tensor;
use multiversion::multiversion;
use rayon::prelude::*;

use super::access::{read, write};
use super::math::normal_cdf;
use crate::Result;

const CHUNK: usize = 1 << 14;

/// `y = x · Φ(x)`.
///
/// # Errors
/// If a tensor is not a contiguous f32 tensor on the CPU.
pub fn forward(x: &Tensor, y: &Tensor) -> Result<()> {
    let x = read(x)?;
    let x = x.f32()?;
    write(y, |y| {
        y.par_chunks_mut(CHUNK)
            .zip(x.par_chunks(CHUNK))
            .for_each(|(y, x)| forward_row(x, y));
        Ok(())
    })
}

#[multiversion(targets = "simd")]
fn forward_row(x: &[f32], y: &mut [f32]) {
    for (y, &x) in y.iter_mut().zip(x) {
        *y = x * normal_cdf(x).0;
    }
}

/// Turns the gradient of `y`, in place, into that of `x`: `d *= Φ(x) + x φ(x)`.
///
/// # Errors
/// As [`forward`].
pub fn backward(x: &Tensor, d: &Tensor) -> Result<()> {
    let x = read(x)?;
    let x = x.f32()?;
    write(d, |d| {
        d.par_chunks_mut(CHUNK)
            .zip(x.par_chunks(CHUNK))
            .for_each(|(d, x)| backward_row(x, d));
        Ok(())
    })
}

#[multiversion(targets = "simd")]
fn backward_row(x: &[f32], d: &mut [f32]) {
    const INV_SQRT_2PI: f32 = 0.398_942_3;
    for (d, &x) in d.iter_mut().zip(x) {
        let (cdf, bell) = normal_cdf(x);
        *d *= cdf + x * bell * INV_SQRT_2PI;
    }
}
