//! Layer norm over the last dimension: x `[M, D]`, y `[M, D]`; the statistics `[M, 2]` (mean,
//! reciprocal standard deviation) are kept for the backward.

use std::ops::Range;

use candle_core::Tensor;
use multiversion::multiversion;
use rayon::prelude::*;

use super::access::{read, write, write_parts, write2};
use super::math::sum_by;
use crate::Result;

/// Rows of one piece of work.
const ROWS: usize = 32;
/// Columns of one piece of work in the parameters' gradients.
const COLUMNS: usize = 64;

/// `y = (x - mean) / sqrt(variance + eps) * weight + bias`.
///
/// # Errors
/// If a tensor is not a contiguous f32 tensor of a fitting size.
pub fn forward(
    x: &Tensor,
    weight: &Tensor,
    bias: &Tensor,
    eps: f32,
    y: &Tensor,
    stats: &Tensor,
) -> Result<()> {
    let dim = weight.elem_count();
    let (x, weight, bias) = (read(x)?, read(weight)?, read(bias)?);
    let (x, weight, bias) = (x.f32()?, weight.f32()?, bias.f32()?);
    write2(y, stats, |y, stats| {
        y.par_chunks_mut(ROWS * dim)
            .zip(x.par_chunks(ROWS * dim))
            .zip(stats.par_chunks_mut(ROWS * 2))
            .for_each(|((y, x), stats)| forward_rows(x, weight, bias, eps, y, stats));
        Ok(())
    })
}

#[multiversion(targets = "simd")]
fn forward_rows(
    x: &[f32],
    weight: &[f32],
    bias: &[f32],
    eps: f32,
    y: &mut [f32],
    stats: &mut [f32],
) {
    let dim = weight.len();
    for ((x, y), stats) in x
        .chunks_exact(dim)
        .zip(y.chunks_exact_mut(dim))
        .zip(stats.chunks_exact_mut(2))
    {
        let mean = sum_by(dim, |i| x[i]) / dim as f32;
        let variance = sum_by(dim, |i| (x[i] - mean) * (x[i] - mean)) / dim as f32;
        let scale = 1.0 / (variance + eps).sqrt();
        for (((y, x), w), b) in y.iter_mut().zip(x).zip(weight).zip(bias) {
            *y = (x - mean) * scale * w + b;
        }
        stats[0] = mean;
        stats[1] = scale;
    }
}

/// Adds the gradient with respect to `x` to `dx` (where the residual's gradient already is).
///
/// # Errors
/// As [`forward`].
pub fn backward_input(
    x: &Tensor,
    stats: &Tensor,
    weight: &Tensor,
    dy: &Tensor,
    dx: &Tensor,
) -> Result<()> {
    let dim = weight.elem_count();
    let (x, stats, weight, dy) = (read(x)?, read(stats)?, read(weight)?, read(dy)?);
    let (x, stats, weight, dy) = (x.f32()?, stats.f32()?, weight.f32()?, dy.f32()?);
    write(dx, |dx| {
        dx.par_chunks_mut(ROWS * dim)
            .zip(x.par_chunks(ROWS * dim))
            .zip(dy.par_chunks(ROWS * dim))
            .zip(stats.par_chunks(ROWS * 2))
            .for_each(|(((dx, x), dy), stats)| backward_rows(x, stats, weight, dy, dx));
        Ok(())
    })
}

#[multiversion(targets = "simd")]
fn backward_rows(x: &[f32], stats: &[f32], weight: &[f32], dy: &[f32], dx: &mut [f32]) {
    let dim = weight.len();
    for (((x, dy), dx), stats) in x
        .chunks_exact(dim)
        .zip(dy.chunks_exact(dim))
        .zip(dx.chunks_exact_mut(dim))
        .zip(stats.chunks_exact(2))
    {
        let (mean, scale) = (stats[0], stats[1]);
        let sum = sum_by(dim, |i| dy[i] * weight[i]) / dim as f32;
        let dot = sum_by(dim, |i| dy[i] * weight[i] * ((x[i] - mean) * scale)) / dim as f32;
        for (((dx, x), dy), w) in dx.iter_mut().zip(x).zip(dy).zip(weight) {
            *dx += scale * (dy * w - sum - (x - mean) * scale * dot);
        }
    }
}

/// Adds the gradients of weight and bias to their ranges of the flat gradients; the weight's range
/// must lie before the bias's.
///
/// # Errors
/// As [`forward`].
pub fn backward_params(
    x: &Tensor,
    stats: &Tensor,
    dy: &Tensor,
    grads: &Tensor,
    weight: Range<usize>,
    bias: Range<usize>,
) -> Result<()> {
    let (x, stats, dy) = (read(x)?, read(stats)?, read(dy)?);
    let (x, stats, dy) = (x.f32()?, stats.f32()?, dy.f32()?);
    write_parts(grads, [weight, bias], |[dw, db]| {
        dw.par_chunks_mut(COLUMNS)
            .zip(db.par_chunks_mut(COLUMNS))
            .enumerate()
            .for_each(|(block, (dw, db))| backward_columns(x, stats, dy, block * COLUMNS, dw, db));
        Ok(())
    })
}

/// `first` is the block's first column; the row length follows from the statistics.
#[multiversion(targets = "simd")]
fn backward_columns(
    x: &[f32],
    stats: &[f32],
    dy: &[f32],
    first: usize,
    dw: &mut [f32],
    db: &mut [f32],
) {
    let (mut weight, mut bias) = ([0f32; COLUMNS], [0f32; COLUMNS]);
    let width = dw.len();
    let dim = x.len() / (stats.len() / 2);
    for ((x, dy), stats) in x
        .chunks_exact(dim)
        .zip(dy.chunks_exact(dim))
        .zip(stats.chunks_exact(2))
    {
        let (mean, scale) = (stats[0], stats[1]);
        let (x, dy) = (&x[first..first + width], &dy[first..first + width]);
        for (((w, b), x), dy) in weight[..width]
            .iter_mut()
            .zip(&mut bias[..width])
            .zip(x)
            .zip(dy)
        {
            *w += dy * ((x - mean) * scale);
            *b += dy;
        }
    }
    for (sum, total) in dw.iter_mut().zip(weight) {
        *sum += total;
    }
    for (sum, total) in db.iter_mut().zip(bias) {
        *sum += total;
    }
}
