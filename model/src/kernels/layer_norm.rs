//! Launches of `kernels/layer_norm.cu`.

use candle_core::{DType, Tensor};

use super::address::{input, output};
use super::{Engine, Launch, message, reduce, scratch, suffix};
use crate::Result;
use crate::ops::Accumulate;
use crate::ops::layer_norm::NormGrads;

/// Blocks of a launch; more rows are dealt out in turn. So many keep today's GPUs full.
const BLOCKS: usize = 1024;

/// Threads of a block, four columns each.
fn threads(dim: usize) -> Result<usize> {
    if !dim.is_multiple_of(4) || dim > 4096 {
        return Err(message(format!(
            "layer norm on a GPU takes widths that are multiples of 4, to 4096; this one is {dim}"
        )));
    }
    Ok((dim / 4).next_multiple_of(32))
}

/// As [`crate::ops::layer_norm::forward`].
pub(crate) fn forward(
    engine: &Engine,
    x: &Tensor,
    (weight, bias): (&Tensor, &Tensor),
    eps: f32,
    y: &Tensor,
    stats: &Tensor,
) -> Result<()> {
    let (dim, len) = (weight.elem_count(), x.elem_count());
    let rows = len / dim;
    let kernel = format!("layer_norm_forward_{}", suffix(y)?);
    Launch::new(kernel, rows.min(BLOCKS), threads(dim)?)
        .pointer(input(x, DType::F32, rows * dim)?)
        .pointer(input(weight, DType::F32, dim)?)
        .pointer(input(bias, DType::F32, dim)?)
        .float(eps)
        .pointer(output(y, y.dtype(), len)?)
        .pointer(output(stats, DType::F32, rows * 2)?)
        .count(rows)?
        .count(dim)?
        .run(engine)
}

/// As [`crate::ops::layer_norm::residual_forward`].
pub(crate) fn residual_forward(
    engine: &Engine,
    x: &Tensor,
    (residual, added): (&Tensor, &Tensor),
    (weight, bias): (&Tensor, &Tensor),
    eps: f32,
    y: &Tensor,
    stats: &Tensor,
) -> Result<()> {
    let (dim, len) = (weight.elem_count(), x.elem_count());
    let rows = len / dim;
    let kernel = format!("layer_norm_residual_{}", suffix(y)?);
    Launch::new(kernel, rows.min(BLOCKS), threads(dim)?)
        .pointer(output(x, DType::F32, rows * dim)?)
        .pointer(input(residual, DType::F32, len)?)
        .pointer(input(added, DType::F32, dim)?)
        .pointer(input(weight, DType::F32, dim)?)
        .pointer(input(bias, DType::F32, dim)?)
        .float(eps)
        .pointer(output(y, y.dtype(), len)?)
        .pointer(output(stats, DType::F32, rows * 2)?)
        .count(rows)?
        .count(dim)?
        .run(engine)
}

/// As [`crate::ops::layer_norm::backward`].
#[expect(clippy::too_many_arguments, reason = "saved, given and made tensors")]
pub(crate) fn backward(
    engine: &Engine,
    (x, stats): (&Tensor, &Tensor),
    weight: &Tensor,
    dy: &Tensor,
    dx: &Tensor,
    grads: &Tensor,
    ranges: NormGrads,
    mode: Accumulate,
) -> Result<()> {
    let (dim, len) = (weight.elem_count(), x.elem_count());
    let rows = len / dim;
    let blocks = rows.min(BLOCKS);
    let sums = scratch::take(x.device(), blocks * 3 * dim)?;
    let sums = output(&sums, DType::F32, sums.elem_count())?;
    let kernel = format!("layer_norm_backward_{}", suffix(dy)?);
    Launch::new(kernel, blocks, threads(dim)?)
        .pointer(input(x, DType::F32, rows * dim)?)
        .pointer(input(stats, DType::F32, rows * 2)?)
        .pointer(input(weight, DType::F32, dim)?)
        .pointer(input(dy, dy.dtype(), len)?)
        .pointer(output(dx, DType::F32, len)?)
        .null()
        .pointer(sums)
        .count(rows)?
        .count(dim)?
        .run(engine)?;
    let grads = output(grads, DType::F32, grads.elem_count())?;
    let parts = [Some(ranges.weight), Some(ranges.bias), ranges.added];
    for (i, range) in parts.into_iter().enumerate() {
        if let Some(range) = range {
            let (from, to) = (sums.skip(i * dim), grads.skip(range.start));
            reduce::column_sums(engine, from, (blocks, dim, 3 * dim), to, mode)?;
        }
    }
    Ok(())
}
