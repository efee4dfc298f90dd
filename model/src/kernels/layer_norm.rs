//! Launches of `kernels/layer_norm.cu`.

use candle_core::{DType, Tensor};

use super::address::{input, output};
use super::{Engine, Launch, elementwise, reduce, scratch, suffix};
use crate::Result;
use crate::ops::Accumulate;
use crate::ops::layer_norm::{Joining, NormGrads, StreamGradient};

/// Registers that a thread needs, at most.
const FORWARD: usize = 40;
const BACKWARD: usize = 64;

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
    let (blocks, threads) = engine.rows(rows, dim, FORWARD)?;
    Launch::new(kernel, blocks, threads)
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
    joining: Joining<'_>,
    (weight, bias): (&Tensor, &Tensor),
    eps: f32,
    y: &Tensor,
    stats: &Tensor,
) -> Result<()> {
    let (dim, len) = (weight.elem_count(), x.elem_count());
    let rows = len / dim;
    let kernel = format!("layer_norm_residual_{}", suffix(y)?);
    let (blocks, threads) = engine.rows(rows, dim, FORWARD)?;
    Launch::new(kernel, blocks, threads)
        .pointer(output(x, DType::F32, rows * dim)?)
        .pointer(input(joining.residual, DType::F32, len)?)
        .pointer(input(joining.bias, DType::F32, dim)?)
        .factors(joining.factors, rows)?
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
    stream: StreamGradient<'_>,
    grads: &Tensor,
    ranges: NormGrads,
    mode: Accumulate,
) -> Result<()> {
    let (dim, len) = (weight.elem_count(), x.elem_count());
    let rows = len / dim;
    let (blocks, threads) = engine.rows(rows, dim, BACKWARD)?;
    let sums = scratch::take(x.device(), blocks * 3 * dim)?;
    let sums = output(&sums, DType::F32, sums.elem_count())?;
    let kernel = format!("layer_norm_backward_{}", suffix(dy)?);
    let launch = Launch::new(kernel, blocks, threads)
        .pointer(input(x, DType::F32, rows * dim)?)
        .pointer(input(stats, DType::F32, rows * 2)?)
        .pointer(input(weight, DType::F32, dim)?)
        .pointer(input(dy, dy.dtype(), len)?)
        .pointer(output(stream.dx, DType::F32, len)?);
    let launch = match stream.operand {
        // In the same pass.
        Some(low) if low.dtype() == DType::BF16 => launch.pointer(output(low, DType::BF16, len)?),
        _ => launch.null(),
    };
    launch
        .factors(stream.factors, rows)?
        .pointer(sums)
        .count(rows)?
        .count(dim)?
        .run(engine)?;
    if let Some(full) = stream.operand.filter(|o| o.dtype() != DType::BF16) {
        elementwise::join_backward(engine, stream.dx, stream.factors, full)?;
    }
    let grads = output(grads, DType::F32, grads.elem_count())?;
    let parts = [Some(ranges.weight), Some(ranges.bias), ranges.added];
    let outs = parts.map(|range| range.map(|range| grads.skip(range.start)));
    reduce::column_sums(engine, sums, (blocks, dim), &outs, mode)
}
