//! Layer norm over the last dimension: x `[M, D]`, y `[M, D]`; the statistics `[M, 2]` (mean, reciprocal standard deviation) are
//! kept for the backward. In a block the residual is added on the way in.

use std::ops::Range;

use candle_core::Tensor;
use multiversion::multiversion;
use rayon::prelude::*;

use super::access::{read, write, write_parts, write2};
use super::math::sum_by;
use super::reduce::add_rows;
use super::{Accumulate, pieces, scratch};
use crate::Result;
#[cfg(any(feature = "cuda", feature = "host-kernels"))]
use crate::kernels;
use crate::profile::span;

/// Rows of one piece of work in the forward.
const ROWS: usize = 16;

/// `y = (x - mean) / sqrt(variance + eps) * weight + bias`.
///
/// # Errors
/// If a tensor is not a contiguous f32 tensor of a fitting size.
pub fn forward(
    x: &Tensor,
    (weight, bias): (&Tensor, &Tensor),
    eps: f32,
    y: &Tensor,
    stats: &Tensor,
) -> Result<()> {
    let _span = span("layer norm, forward");
    #[cfg(any(feature = "cuda", feature = "host-kernels"))]
    if let Some(engine) = kernels::engine(x) {
        return kernels::layer_norm::forward(&engine, x, (weight, bias), eps, y, stats);
    }
    let dim = weight.elem_count();
    let (x, weight, bias) = (read(x)?, read(weight)?, read(bias)?);
    let (x, norm) = (x.f32()?, (weight.f32()?, bias.f32()?, eps));
    write2(y, stats, |y, stats| {
        y.par_chunks_mut(ROWS * dim)
            .zip(x.par_chunks(ROWS * dim))
            .zip(stats.par_chunks_mut(ROWS * 2))
            .for_each(|((y, x), stats)| forward_rows(x, norm, y, stats));
        Ok(())
    })
}

/// The residual stream and its norm in one pass: `x += residual + added` (`added` `[D]` is the bias of the layer that made x), then
/// as [`forward`].
///
/// # Errors
/// As [`forward`].
pub fn residual_forward(
    x: &Tensor,
    (residual, added): (&Tensor, &Tensor),
    (weight, bias): (&Tensor, &Tensor),
    eps: f32,
    y: &Tensor,
    stats: &Tensor,
) -> Result<()> {
    let _span = span("layer norm with residual, forward");
    #[cfg(any(feature = "cuda", feature = "host-kernels"))]
    if let Some(engine) = kernels::engine(x) {
        return kernels::layer_norm::residual_forward(
            &engine,
            x,
            (residual, added),
            (weight, bias),
            eps,
            y,
            stats,
        );
    }
    let dim = weight.elem_count();
    let (residual, added) = (read(residual)?, read(added)?);
    let (residual, added) = (residual.f32()?, added.f32()?);
    let (weight, bias) = (read(weight)?, read(bias)?);
    let norm = (weight.f32()?, bias.f32()?, eps);
    write(x, |x| {
        write2(y, stats, |y, stats| {
            y.par_chunks_mut(ROWS * dim)
                .zip(x.par_chunks_mut(ROWS * dim))
                .zip(residual.par_chunks(ROWS * dim))
                .zip(stats.par_chunks_mut(ROWS * 2))
                .for_each(|(((y, x), residual), stats)| {
                    add_rows_to(x, residual, added);
                    forward_rows(x, norm, y, stats);
                });
            Ok(())
        })
    })
}

/// `x += residual + added`: the end of a stack, which has no norm of its own.
///
/// # Errors
/// As [`forward`].
pub fn add_residual(x: &Tensor, residual: &Tensor, added: &Tensor) -> Result<()> {
    let _span = span("residual");
    #[cfg(any(feature = "cuda", feature = "host-kernels"))]
    if let Some(engine) = kernels::engine(x) {
        return kernels::elementwise::add_residual(&engine, x, residual, added);
    }
    let (residual, added) = (read(residual)?, read(added)?);
    let (residual, added) = (residual.f32()?, added.f32()?);
    let piece = ROWS * added.len();
    write(x, |x| {
        x.par_chunks_mut(piece)
            .zip(residual.par_chunks(piece))
            .for_each(|(x, residual)| add_rows_to(x, residual, added));
        Ok(())
    })
}

#[multiversion(targets = "simd")]
fn add_rows_to(x: &mut [f32], residual: &[f32], added: &[f32]) {
    let dim = added.len();
    for (x, residual) in x.chunks_exact_mut(dim).zip(residual.chunks_exact(dim)) {
        for ((x, r), a) in x.iter_mut().zip(residual).zip(added) {
            *x += r + a;
        }
    }
}

#[multiversion(targets = "simd")]
fn forward_rows(
    x: &[f32],
    (weight, bias, eps): (&[f32], &[f32], f32),
    y: &mut [f32],
    stats: &mut [f32],
) {
    let dim = weight.len();
    for ((x, y), stats) in x
        .chunks_exact(dim)
        .zip(y.chunks_exact_mut(dim))
        .zip(stats.chunks_exact_mut(2))
    {
        let mean = sum_by([x], |[x]| x) / dim as f32;
        let variance = sum_by([x], |[x]| (x - mean) * (x - mean)) / dim as f32;
        let scale = 1.0 / (variance + eps).sqrt();
        for (((y, x), w), b) in y.iter_mut().zip(x).zip(weight).zip(bias) {
            *y = (x - mean) * scale * w + b;
        }
        stats[0] = mean;
        stats[1] = scale;
    }
}

/// Where a norm's gradients go in the flat gradients.
#[derive(Clone, Debug)]
pub struct NormGrads {
    /// The weight's range.
    pub weight: Range<usize>,
    /// The bias's, behind it.
    pub bias: Range<usize>,
    /// Of the bias of the layer whose output, with the residual, this norm took in: it gets the column sums of the finished `dx`.
    /// Behind the others.
    pub added: Option<Range<usize>>,
}

/// Adds the gradient with respect to x to `dx`, where the residual's gradient already is, and makes the parameters' gradients in
/// the same pass. `low`, bfloat16, on a GPU only, gets the finished `dx` rounded.
///
/// # Errors
/// As [`forward`].
pub fn backward(
    (x, stats): (&Tensor, &Tensor),
    weight: &Tensor,
    dy: &Tensor,
    (dx, low): (&Tensor, Option<&Tensor>),
    grads: &Tensor,
    ranges: NormGrads,
    mode: Accumulate,
) -> Result<()> {
    let _span = span("layer norm, backward");
    #[cfg(any(feature = "cuda", feature = "host-kernels"))]
    if let Some(engine) = kernels::engine(x) {
        return kernels::layer_norm::backward(
            &engine,
            (x, stats),
            weight,
            dy,
            (dx, low),
            grads,
            ranges,
            mode,
        );
    }
    debug_assert!(low.is_none(), "the CPU has no bfloat16");
    let dim = weight.elem_count();
    let (x, stats, weight, dy) = (read(x)?, read(stats)?, read(weight)?, read(dy)?);
    let (x, stats, weight, dy) = (x.f32()?, stats.f32()?, weight.f32()?, dy.f32()?);
    let rows = x.len() / dim;
    let piece = pieces(rows);
    let count = rows.div_ceil(piece) * dim;
    // Of each piece: the weight's sums, the bias's, the added one's.
    let mut sums = scratch::take(3 * count);
    let (dweight, rest) = sums.split_at_mut(count);
    let (dbias, dadded) = rest.split_at_mut(count);
    write(dx, |dx| {
        dx.par_chunks_mut(piece * dim)
            .zip(x.par_chunks(piece * dim))
            .zip(dy.par_chunks(piece * dim))
            .zip(stats.par_chunks(piece * 2))
            .zip(dweight.par_chunks_mut(dim))
            .zip(dbias.par_chunks_mut(dim))
            .zip(dadded.par_chunks_mut(dim))
            .for_each(|((((((dx, x), dy), stats), dweight), dbias), dadded)| {
                backward_rows((x, stats, weight), dy, dx, [dweight, dbias, dadded]);
            });
        Ok(())
    })?;
    let NormGrads {
        weight,
        bias,
        added,
    } = ranges;
    write_parts(grads, [weight, bias], |[w, b]| {
        add_rows(dweight, w, mode);
        add_rows(dbias, b, mode);
        Ok(())
    })?;
    match added {
        Some(added) => write_parts(grads, [added], |[a]| {
            add_rows(dadded, a, mode);
            Ok(())
        }),
        None => Ok(()),
    }
}

#[multiversion(targets = "simd")]
fn backward_rows(
    (x, stats, weight): (&[f32], &[f32], &[f32]),
    dy: &[f32],
    dx: &mut [f32],
    [dweight, dbias, dadded]: [&mut [f32]; 3],
) {
    let dim = weight.len();
    dweight.fill(0.0);
    dbias.fill(0.0);
    dadded.fill(0.0);
    for (((x, dy), dx), stats) in x
        .chunks_exact(dim)
        .zip(dy.chunks_exact(dim))
        .zip(dx.chunks_exact_mut(dim))
        .zip(stats.chunks_exact(2))
    {
        let (mean, scale) = (stats[0], stats[1]);
        let sum = sum_by([dy, weight], |[d, w]| d * w) / dim as f32;
        let dot = sum_by([dy, weight, x], |[d, w, x]| d * w * ((x - mean) * scale)) / dim as f32;
        let inputs = x.iter().zip(dy).zip(weight);
        let outputs = dx
            .iter_mut()
            .zip(&mut *dweight)
            .zip(&mut *dbias)
            .zip(&mut *dadded);
        for (((x, dy), w), (((dx, dweight), dbias), dadded)) in inputs.zip(outputs) {
            let normal = (x - mean) * scale;
            *dx += scale * (dy * w - sum - normal * dot);
            *dweight += dy * normal;
            *dbias += dy;
            *dadded += *dx;
        }
    }
}
