//! Launches of `kernels/gelu.cu`.

use std::ops::Range;

use candle_core::{DType, Tensor};

use super::address::{input, output};
use super::{Engine, Launch, message, reduce, scratch, suffix};
use crate::Result;
use crate::ops::Accumulate;

const THREADS: usize = 256;
/// Blocks of a launch, about; rows are dealt out to them in turn.
const BLOCKS: usize = 1024;

/// Tiles of columns, and blocks to each.
fn grid(rows: usize, width: usize) -> Result<(usize, usize)> {
    if !width.is_multiple_of(4) {
        return Err(message(format!(
            "an MLP on a GPU needs a hidden width that is a multiple of 4; this one is {width}"
        )));
    }
    let tiles = width.div_ceil(4 * THREADS);
    Ok((tiles, rows.min(BLOCKS.div_ceil(tiles))))
}

/// As [`crate::ops::gelu::forward`].
pub(crate) fn forward(engine: &Engine, x: &Tensor, bias: &Tensor, y: &Tensor) -> Result<()> {
    let (len, width) = (x.elem_count(), bias.elem_count());
    let (tiles, steps) = grid(len / width, width)?;
    let kernel = format!("gelu_forward_{}", suffix(x)?);
    Launch::new(kernel, tiles * steps, THREADS)
        .pointer(input(x, x.dtype(), len)?)
        .pointer(input(bias, DType::F32, width)?)
        .pointer(output(y, x.dtype(), len)?)
        .count(len / width)?
        .count(width)?
        .run(engine)
}

/// As [`crate::ops::gelu::backward`].
pub(crate) fn backward(
    engine: &Engine,
    (x, bias): (&Tensor, &Tensor),
    y: &Tensor,
    d: &Tensor,
    grads: &Tensor,
    dbias: Range<usize>,
    mode: Accumulate,
) -> Result<()> {
    let (len, width) = (x.elem_count(), bias.elem_count());
    let (tiles, steps) = grid(len / width, width)?;
    let sums = scratch::take(x.device(), steps * width)?;
    let sums = output(&sums, DType::F32, sums.elem_count())?;
    let kernel = format!("gelu_backward_{}", suffix(x)?);
    Launch::new(kernel, tiles * steps, THREADS)
        .pointer(input(x, x.dtype(), len)?)
        .pointer(input(bias, DType::F32, width)?)
        .pointer(output(y, x.dtype(), len)?)
        .pointer(output(d, x.dtype(), len)?)
        .pointer(sums)
        .count(len / width)?
        .count(width)?
        .run(engine)?;
    let grads = output(grads, DType::F32, grads.elem_count())?.skip(dbias.start);
    reduce::column_sums(engine, sums, (steps, width), &[Some(grads)], mode)
}
