//! What the tokenizer does besides the products of its linear layers, each with its way back.
//!
//! On the CPU each is one pass, shared among the compute threads and cut by shape alone; elsewhere it is what candle's operations make of
//! its definition, to which the tests hold the passes.

mod codes;
mod neighbours;
#[cfg(test)]
mod tests;

use candle_core::{DType, Tensor};
use rayon::prelude::*;

pub(super) use self::codes::{add_divergence_back, divergence, likeliest, relaxed, relaxed_back};
pub(super) use self::neighbours::{neighbourhoods, neighbourhoods_back};
use crate::Result;
use crate::ops::access::{read, write};

/// Numbers that a thread takes at a time.
const CHUNK: usize = 1 << 14;

/// `[B, H, W, C]` as `[B · H/S · W/S, S · S · C]`, each row a square of side `S`, row by row.
pub(super) fn squares(x: &Tensor, side: usize) -> Result<Tensor> {
    let (batch, height, width, channels) = x.dims4()?;
    let (rows, columns) = (height / side, width / side);
    let row = side * side * channels;
    Ok(x.reshape(vec![batch, rows, side, columns, side, channels])?
        .permute(vec![0, 1, 3, 2, 4, 5])?
        .reshape((batch * rows * columns, row))?)
}

/// The inverse of [`squares`]: `[B · rows · columns, S · S · C]` as `[B, rows · S, columns · S, C]`.
pub(super) fn from_squares(
    x: &Tensor,
    (rows, columns): (usize, usize),
    side: usize,
) -> Result<Tensor> {
    let (all, row) = x.dims2()?;
    let (batch, channels) = (all / (rows * columns), row / (side * side));
    Ok(x.reshape(vec![batch, rows, columns, side, side, channels])?
        .permute(vec![0, 1, 3, 2, 4, 5])?
        .reshape((batch, rows * side, columns * side, channels))?)
}

/// An f32 tensor of `shape` beside `x`, for an operation that writes all of it.
pub(super) fn beside(x: &Tensor, shape: (usize, usize)) -> Result<Tensor> {
    Ok(Tensor::zeros(shape, DType::F32, x.device())?)
}

/// The positive numbers of x, zero for the others.
pub(super) fn relu(x: &Tensor) -> Result<Tensor> {
    if !x.device().is_cpu() {
        return Ok(x.relu()?);
    }
    let y = Tensor::zeros(x.dims(), DType::F32, x.device())?;
    let x = read(x)?;
    let x = x.f32()?;
    write(&y, |y| {
        y.par_chunks_mut(CHUNK)
            .zip(x.par_chunks(CHUNK))
            .for_each(|(y, x)| y.iter_mut().zip(x).for_each(|(y, x)| *y = x.max(0.0)));
        Ok(())
    })?;
    Ok(y)
}

/// The gradient of what [`relu`] made `y` of, given that of y, which is used up.
pub(super) fn relu_back(dy: Tensor, y: &Tensor) -> Result<Tensor> {
    if !y.device().is_cpu() {
        return Ok((dy * y.gt(0f32)?.to_dtype(DType::F32)?)?);
    }
    let y = read(y)?;
    let y = y.f32()?;
    write(&dy, |dy| {
        dy.par_chunks_mut(CHUNK)
            .zip(y.par_chunks(CHUNK))
            .for_each(|(dy, y)| {
                for (dy, y) in dy.iter_mut().zip(y) {
                    *dy = if *y > 0.0 { *dy } else { 0.0 };
                }
            });
        Ok(())
    })?;
    Ok(dy)
}

/// The sum of two tensors of one shape; the first is used up.
pub(super) fn sum(x: Tensor, y: &Tensor) -> Result<Tensor> {
    if !x.device().is_cpu() {
        return Ok((x + y)?);
    }
    let y = read(y)?;
    let y = y.f32()?;
    write(&x, |x| {
        x.par_chunks_mut(CHUNK)
            .zip(y.par_chunks(CHUNK))
            .for_each(|(x, y)| x.iter_mut().zip(y).for_each(|(x, y)| *x += y));
        Ok(())
    })?;
    Ok(x)
}
