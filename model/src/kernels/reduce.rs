//! Launches of `kernels/reduce.cu`.

use std::ops::Range;

use candle_core::{DType, Tensor};

use super::address::{Pointer, input, output};
use super::{Engine, Launch, scratch, suffix};
use crate::Result;
use crate::ops::Accumulate;

/// Sums columns over `rows` rows, in each of which stand, one after the other, `cols` columns for each of up to three outputs, some of
/// which may not be wanted.
pub(super) fn column_sums(
    engine: &Engine,
    x: Pointer,
    (rows, cols): (usize, usize),
    outs: &[Option<Pointer>],
    mode: Accumulate,
) -> Result<()> {
    let launch = Launch::new("column_sums", (outs.len() * cols).div_ceil(32), 1024)
        .pointer(x)
        .count(rows)?
        .count(cols)?
        .count(outs.len())?
        .count((mode == Accumulate::Add).into())?;
    (0..3)
        .fold(launch, |launch, i| match outs.get(i) {
            Some(Some(out)) => launch.pointer(*out),
            _ => launch.null(),
        })
        .run(engine)
}

/// Rows up to which one launch is quicker than two.
const FEW: usize = 4096;
/// Threads of the first of two launches, and registers that one needs at most.
const THREADS: usize = 256;
const REGISTERS: usize = 32;

/// As [`crate::ops::reduce::column_sums`].
pub(crate) fn sums_of(
    engine: &Engine,
    x: &Tensor,
    grads: &Tensor,
    range: Range<usize>,
    mode: Accumulate,
) -> Result<()> {
    let (len, cols) = (x.elem_count(), range.len());
    let rows = len / cols;
    let from = input(x, x.dtype(), len)?;
    let to = output(grads, DType::F32, grads.elem_count())?.skip(range.start);
    if x.dtype() == DType::F32 && rows <= FEW {
        return column_sums(engine, from, (rows, cols), &[Some(to)], mode);
    }
    let tiles = cols.div_ceil(4 * THREADS);
    let steps = rows.min((engine.blocks(THREADS, REGISTERS)? / tiles).max(1));
    let parts = scratch::take(x.device(), steps * cols)?;
    let parts = output(&parts, DType::F32, parts.elem_count())?;
    let kernel = format!("column_parts_{}", suffix(x)?);
    Launch::new(kernel, tiles * steps, THREADS)
        .pointer(from)
        .count(rows)?
        .count(cols)?
        .pointer(parts)
        .run(engine)?;
    column_sums(engine, parts, (steps, cols), &[Some(to)], mode)
}
