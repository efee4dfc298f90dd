//! GELU in its exact (erf) form, as the reference code's `nn.GELU()`, with the bias of the layer before it.

use std::ops::Range;

use candle_core::Tensor;
use multiversion::multiversion;
use rayon::prelude::*;

use super::access::{read, write, write_parts, write2};
use super::math::normal_cdf;
use super::reduce::add_rows;
use super::{Accumulate, pieces, scratch};
use crate::Result;
#[cfg(any(feature = "cuda", feature = "host-kernels"))]
use crate::kernels;
use crate::profile::span;

/// `y = h · Φ(h)` with `h = x + bias`: x and y `[M, F]`, bias `[F]`.
///
/// # Errors
/// If a tensor is not a contiguous f32 tensor on the CPU.
pub fn forward(x: &Tensor, bias: &Tensor, y: &Tensor) -> Result<()> {
    let _span = span("gelu, forward");
    #[cfg(any(feature = "cuda", feature = "host-kernels"))]
    if let Some(engine) = kernels::engine(x) {
        return kernels::gelu::forward(&engine, x, bias, y);
    }
    let (x, bias) = (read(x)?, read(bias)?);
    let (x, bias) = (x.f32()?, bias.f32()?);
    let piece = pieces(x.len() / bias.len()) * bias.len();
    write(y, |y| {
        y.par_chunks_mut(piece)
            .zip(x.par_chunks(piece))
            .for_each(|(y, x)| forward_rows(x, bias, y));
        Ok(())
    })
}

#[multiversion(targets = "simd")]
fn forward_rows(x: &[f32], bias: &[f32], y: &mut [f32]) {
    for (y, x) in y
        .chunks_exact_mut(bias.len())
        .zip(x.chunks_exact(bias.len()))
    {
        for ((y, x), b) in y.iter_mut().zip(x).zip(bias) {
            let h = x + b;
            *y = h * normal_cdf(h).0;
        }
    }
}

/// Turns the gradient of y, in place, into that of h: `d *= Φ(h) + h φ(h)`; makes y again; and puts the bias's gradient into its
/// range of the flat gradients.
///
/// # Errors
/// As [`forward`].
pub fn backward(
    (x, bias): (&Tensor, &Tensor),
    y: &Tensor,
    d: &Tensor,
    grads: &Tensor,
    dbias: Range<usize>,
    mode: Accumulate,
) -> Result<()> {
    let _span = span("gelu, backward");
    #[cfg(any(feature = "cuda", feature = "host-kernels"))]
    if let Some(engine) = kernels::engine(x) {
        return kernels::gelu::backward(&engine, (x, bias), y, d, grads, dbias, mode);
    }
    let (x, bias) = (read(x)?, read(bias)?);
    let (x, bias) = (x.f32()?, bias.f32()?);
    let (rows, width) = (x.len() / bias.len(), bias.len());
    let piece = pieces(rows);
    let mut sums = scratch::take(rows.div_ceil(piece) * width);
    write2(y, d, |y, d| {
        y.par_chunks_mut(piece * width)
            .zip(x.par_chunks(piece * width))
            .zip(d.par_chunks_mut(piece * width))
            .zip(sums.par_chunks_mut(width))
            .for_each(|(((y, x), d), sums)| backward_rows(x, bias, y, d, sums));
        Ok(())
    })?;
    write_parts(grads, [dbias], |[dbias]| {
        add_rows(&sums, dbias, mode);
        Ok(())
    })
}

#[multiversion(targets = "simd")]
fn backward_rows(x: &[f32], bias: &[f32], y: &mut [f32], d: &mut [f32], sums: &mut [f32]) {
    const INV_SQRT_2PI: f32 = 0.398_942_3;
    let width = bias.len();
    sums.fill(0.0);
    for ((x, y), d) in x
        .chunks_exact(width)
        .zip(y.chunks_exact_mut(width))
        .zip(d.chunks_exact_mut(width))
    {
        for ((((x, b), y), d), sum) in x.iter().zip(bias).zip(y).zip(d).zip(&mut *sums) {
            let h = x + b;
            let (cdf, bell) = normal_cdf(h);
            *y = h * cdf;
            *d *= cdf + h * bell * INV_SQRT_2PI;
            *sum += *d;
        }
    }
}
