//! Launches of `kernels/reduce.cu`.

use super::address::Pointer;
use super::{Engine, Launch};
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
