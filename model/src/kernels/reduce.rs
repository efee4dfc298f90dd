//! Launches of `kernels/reduce.cu`.

use std::ops::Range;

use candle_core::{DType, Tensor};

use super::address::{Pointer, input, output};
use super::{Engine, Launch, scratch, suffix};
use crate::Result;
use crate::ops::Accumulate;

/// Sums each of `cols` columns over `rows` rows that are `stride` apart.
pub(super) fn column_sums(
    engine: &Engine,
    x: Pointer,
    (rows, cols, stride): (usize, usize, usize),
    out: Pointer,
    mode: Accumulate,
) -> Result<()> {
    Launch::new("column_sums", cols.div_ceil(32), 1024)
        .pointer(x)
        .count(rows)?
        .count(cols)?
        .count(stride)?
        .pointer(out)
        .count((mode == Accumulate::Add).into())?
        .run(engine)
}

/// Rows up to which one launch is quicker than two.
const FEW: usize = 4096;
/// Blocks of the first of two launches, about.
const BLOCKS: usize = 1024;

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
    let plain = x.dtype() == DType::F32;
    if plain && (rows <= FEW || !cols.is_multiple_of(4)) {
        return column_sums(engine, from, (rows, cols, cols), to, mode);
    }
    let tiles = cols.div_ceil(4 * 256);
    let steps = rows.min(BLOCKS.div_ceil(tiles));
    let parts = scratch::take(x.device(), steps * cols)?;
    let parts = output(&parts, DType::F32, parts.elem_count())?;
    Launch::new(format!("column_parts_{}", suffix(x)?), tiles * steps, 256)
        .pointer(from)
        .count(rows)?
        .count(cols)?
        .pointer(parts)
        .run(engine)?;
    column_sums(engine, parts, (steps, cols, cols), to, mode)
}
