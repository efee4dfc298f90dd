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

/// What makes a layer's product the next state of the residual stream: `residual + factor * (product + bias)`.
#[derive(Clone, Copy)]
pub struct Joining<'a> {
    /// The stream so far `[B, N, D]`.
    pub residual: &'a Tensor,
    /// The layer's bias `[D]`.
    pub bias: &'a Tensor,
    /// Of each sample, `[B]` (see [`crate::drop_path`]); all are 1 without it.
    pub factors: Option<&'a Tensor>,
}

/// The factor of each row; rows are those of samples, as many each.
#[derive(Clone, Copy)]
struct RowFactors<'a> {
    of_samples: &'a [f32],
    rows: usize,
    first: usize,
}

impl<'a> RowFactors<'a> {
    fn new(of_samples: &'a [f32], rows: usize) -> Result<Self> {
        match of_samples.len() {
            0 => Ok(Self {
                of_samples,
                rows: 1,
                first: 0,
            }),
            samples if rows.is_multiple_of(samples) => Ok(Self {
                of_samples,
                rows: rows / samples,
                first: 0,
            }),
            samples => Err(crate::Error::Config(format!(
                "{rows} rows are not those of {samples} samples"
            ))),
        }
    }

    /// From a row on.
    fn from(self, first: usize) -> Self {
        Self { first, ..self }
    }

    fn of(self, row: usize) -> f32 {
        match self.of_samples {
            [] => 1.0,
            some => some[(self.first + row) / self.rows],
        }
    }
}

/// Opens factors for reading; without any the second is empty.
fn open(factors: Option<&Tensor>) -> Result<Option<super::access::Read<'_>>> {
    factors.map(read).transpose()
}

fn slice<'a>(factors: &'a Option<super::access::Read<'_>>) -> Result<&'a [f32]> {
    factors.as_ref().map_or(Ok(&[]), |factors| factors.f32())
}

/// The residual stream and its norm in one pass: x, a product, becomes the stream (see [`Joining`]), then as [`forward`].
///
/// # Errors
/// As [`forward`].
pub fn residual_forward(
    x: &Tensor,
    joining: Joining<'_>,
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
            joining,
            (weight, bias),
            eps,
            y,
            stats,
        );
    }
    let dim = weight.elem_count();
    let (residual, added, factors) = (
        read(joining.residual)?,
        read(joining.bias)?,
        open(joining.factors)?,
    );
    let (residual, added) = (residual.f32()?, added.f32()?);
    let factors = RowFactors::new(slice(&factors)?, residual.len() / dim)?;
    let (weight, bias) = (read(weight)?, read(bias)?);
    let norm = (weight.f32()?, bias.f32()?, eps);
    write(x, |x| {
        write2(y, stats, |y, stats| {
            y.par_chunks_mut(ROWS * dim)
                .zip(x.par_chunks_mut(ROWS * dim))
                .zip(residual.par_chunks(ROWS * dim))
                .zip(stats.par_chunks_mut(ROWS * 2))
                .enumerate()
                .for_each(|(i, (((y, x), residual), stats))| {
                    join_rows(x, residual, added, factors.from(i * ROWS));
                    forward_rows(x, norm, y, stats);
                });
            Ok(())
        })
    })
}

/// x, a product, becomes the stream (see [`Joining`]): the end of a stack, which has no norm of its own.
///
/// # Errors
/// As [`forward`].
pub fn join(x: &Tensor, joining: Joining<'_>) -> Result<()> {
    let _span = span("residual");
    #[cfg(any(feature = "cuda", feature = "host-kernels"))]
    if let Some(engine) = kernels::engine(x) {
        return kernels::elementwise::join(&engine, x, joining);
    }
    let (residual, added, factors) = (
        read(joining.residual)?,
        read(joining.bias)?,
        open(joining.factors)?,
    );
    let (residual, added) = (residual.f32()?, added.f32()?);
    let factors = RowFactors::new(slice(&factors)?, residual.len() / added.len())?;
    let piece = ROWS * added.len();
    write(x, |x| {
        x.par_chunks_mut(piece)
            .zip(residual.par_chunks(piece))
            .enumerate()
            .for_each(|(i, (x, residual))| join_rows(x, residual, added, factors.from(i * ROWS)));
        Ok(())
    })
}

#[multiversion(targets = "simd")]
fn join_rows(x: &mut [f32], residual: &[f32], added: &[f32], factors: RowFactors<'_>) {
    let dim = added.len();
    let rows = x.chunks_exact_mut(dim).zip(residual.chunks_exact(dim));
    for (row, (x, residual)) in rows.enumerate() {
        if factors.of_samples.is_empty() {
            for ((x, r), a) in x.iter_mut().zip(residual).zip(added) {
                *x += r + a;
            }
        } else {
            let factor = factors.of(row);
            for ((x, r), a) in x.iter_mut().zip(residual).zip(added) {
                *x = r + factor * (*x + a);
            }
        }
    }
}

/// `operand = factor * dx`, rounded to its type: the gradient of what [`join`] took in, from that of the stream.
///
/// # Errors
/// As [`forward`].
pub fn join_backward(dx: &Tensor, factors: Option<&Tensor>, operand: &Tensor) -> Result<()> {
    let _span = span("residual, backward");
    #[cfg(any(feature = "cuda", feature = "host-kernels"))]
    if let Some(engine) = kernels::engine(dx) {
        return kernels::elementwise::join_backward(&engine, dx, factors, operand);
    }
    let dim = dx.dim(candle_core::D::Minus1)?;
    let (dx, factors) = (read(dx)?, open(factors)?);
    let dx = dx.f32()?;
    let factors = RowFactors::new(slice(&factors)?, dx.len() / dim)?;
    write(operand, |operand| {
        operand
            .par_chunks_mut(dim)
            .zip(dx.par_chunks(dim))
            .enumerate()
            .for_each(|(row, (to, dx))| scale_row(to, dx, factors.of(row)));
        Ok(())
    })
}

#[multiversion(targets = "simd")]
fn scale_row(to: &mut [f32], dx: &[f32], factor: f32) {
    to.iter_mut().zip(dx).for_each(|(to, dx)| *to = factor * dx);
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
    /// Of the bias of the layer whose product, with the residual, this norm took in: it gets the column sums of its gradient. Behind
    /// the others.
    pub added: Option<Range<usize>>,
}

/// Where a norm's backward puts the gradient of the stream.
#[derive(Clone, Copy)]
pub struct StreamGradient<'a> {
    /// `[B, N, D]`; the residual's gradient is there already.
    pub dx: &'a Tensor,
    /// Gets the gradient of the product that joined the stream, rounded to its type: the finished `dx` times the factors. Without it
    /// `dx` is that gradient.
    pub operand: Option<&'a Tensor>,
    /// As in [`Joining`].
    pub factors: Option<&'a Tensor>,
}

/// Adds the gradient with respect to x to that of the stream, and makes the parameters' gradients in the same pass.
///
/// # Errors
/// As [`forward`].
pub fn backward(
    (x, stats): (&Tensor, &Tensor),
    weight: &Tensor,
    dy: &Tensor,
    stream: StreamGradient<'_>,
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
            stream,
            grads,
            ranges,
            mode,
        );
    }
    let StreamGradient {
        dx,
        operand,
        factors,
    } = stream;
    debug_assert!(factors.is_none() || operand.is_some());
    let dim = weight.elem_count();
    let (x, stats, weight, dy) = (read(x)?, read(stats)?, read(weight)?, read(dy)?);
    let (x, stats, weight, dy) = (x.f32()?, stats.f32()?, weight.f32()?, dy.f32()?);
    let rows = x.len() / dim;
    let factors = open(factors)?;
    let factors = RowFactors::new(slice(&factors)?, rows)?;
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
            .enumerate()
            .for_each(
                |(i, ((((((dx, x), dy), stats), dweight), dbias), dadded))| {
                    let (saved, factors) = ((x, stats, weight), factors.from(i * piece));
                    backward_rows(saved, dy, dx, factors, [dweight, dbias, dadded]);
                },
            );
        Ok(())
    })?;
    if let Some(operand) = operand {
        join_backward(dx, stream.factors, operand)?;
    }
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
    factors: RowFactors<'_>,
    [dweight, dbias, dadded]: [&mut [f32]; 3],
) {
    let dim = weight.len();
    dweight.fill(0.0);
    dbias.fill(0.0);
    dadded.fill(0.0);
    for (row, (((x, dy), dx), stats)) in x
        .chunks_exact(dim)
        .zip(dy.chunks_exact(dim))
        .zip(dx.chunks_exact_mut(dim))
        .zip(stats.chunks_exact(2))
        .enumerate()
    {
        let (mean, scale, factor) = (stats[0], stats[1], factors.of(row));
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
            *dadded += factor * *dx;
        }
    }
}
