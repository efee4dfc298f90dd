//! Launches of `kernels/gelu.cu`.

use std::ops::Range;

use candle_core::{DType, Tensor};

use super::address::{input, output};
use super::{Engine, Launch, message, reduce, scratch, suffix};
use crate::Result;
use crate::ops::Accumulate;

/// Threads of a block, eight columns each: few, so that the last of the tiles of usual widths are full.
const THREADS: usize = 128;
/// Registers that a thread needs in bfloat16, at most.
const FORWARD: usize = 32;
const BACKWARD: usize = 56;

/// Tiles of columns, and blocks to each, to which rows are dealt out in turn.
fn grid(engine: &Engine, rows: usize, width: usize, registers: usize) -> Result<(usize, usize)> {
    if !width.is_multiple_of(8) {
        return Err(message(format!(
            "an MLP on a GPU needs a hidden width that is a multiple of 8; this one is {width}"
        )));
    }
    let tiles = width.div_ceil(8 * THREADS);
    let steps = engine.blocks(THREADS, registers)? / tiles;
    Ok((tiles, rows.min(steps.max(1))))
}

/// As [`crate::ops::gelu::forward`].
pub(crate) fn forward(engine: &Engine, x: &Tensor, bias: &Tensor, y: &Tensor) -> Result<()> {
    let (len, width) = (x.elem_count(), bias.elem_count());
    let (tiles, steps) = grid(engine, len / width, width, FORWARD)?;
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
    let (tiles, steps) = grid(engine, len / width, width, BACKWARD)?;
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
