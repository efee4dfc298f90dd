//! Launches of `kernels/elementwise.cu`.

use candle_core::{DType, Tensor};

use super::address::{input, output};
use super::{Engine, Launch, message, suffix};
use crate::Result;
use crate::ops::layer_norm::Joining;

const THREADS: usize = 256;
/// Blocks of a launch at most; numbers are dealt out to them in turn.
const BLOCKS: usize = 2048;

/// A launch over so many numbers, so many of them a thread.
pub(super) fn over(kernel: impl Into<String>, count: usize, each: usize) -> Launch {
    let blocks = count.div_ceil(each * THREADS).clamp(1, BLOCKS);
    Launch::new(kernel, blocks, THREADS)
}

/// As [`crate::ops::reduce::fill`].
pub(crate) fn fill(engine: &Engine, x: &Tensor, value: f32) -> Result<()> {
    let count = x.elem_count();
    over("fill", count, 1)
        .pointer(output(x, DType::F32, count)?)
        .float(value)
        .long(count)
        .run(engine)
}

/// As [`crate::ops::reduce::scale`].
pub(crate) fn scale(engine: &Engine, x: &Tensor, factor: f32) -> Result<()> {
    let count = x.elem_count();
    over(format!("scale_{}", suffix(x)?), count, 1)
        .pointer(output(x, x.dtype(), count)?)
        .float(factor)
        .long(count)
        .run(engine)
}

/// As [`crate::ops::linear::add_bias`].
pub(crate) fn add_bias(engine: &Engine, x: &Tensor, bias: &Tensor) -> Result<()> {
    let (count, cols) = (x.elem_count(), bias.elem_count());
    over(format!("add_bias_{}", suffix(x)?), count, 1)
        .pointer(output(x, x.dtype(), count)?)
        .pointer(input(bias, DType::F32, cols)?)
        .count(cols)?
        .long(count)
        .run(engine)
}

/// As [`crate::ops::layer_norm::join`].
pub(crate) fn join(engine: &Engine, x: &Tensor, joining: Joining<'_>) -> Result<()> {
    let (count, dim) = (x.elem_count(), joining.bias.elem_count());
    fours(dim)?;
    over("join", count, 4)
        .pointer(output(x, DType::F32, count)?)
        .pointer(input(joining.residual, DType::F32, count)?)
        .pointer(input(joining.bias, DType::F32, dim)?)
        .factors(joining.factors, count / dim)?
        .count(dim)?
        .long(count)
        .run(engine)
}

/// As [`crate::ops::layer_norm::join_backward`].
pub(crate) fn join_backward(
    engine: &Engine,
    dx: &Tensor,
    factors: Option<&Tensor>,
    operand: &Tensor,
) -> Result<()> {
    let (count, dim) = (dx.elem_count(), dx.dim(candle_core::D::Minus1)?);
    fours(dim)?;
    over(format!("join_backward_{}", suffix(operand)?), count, 4)
        .pointer(input(dx, DType::F32, count)?)
        .factors(factors, count / dim)?
        .pointer(output(operand, operand.dtype(), count)?)
        .count(dim)?
        .long(count)
        .run(engine)
}

/// Writes `x`, f32, rounded to `to`, bfloat16.
pub(crate) fn round(engine: &Engine, x: &Tensor, to: &Tensor) -> Result<()> {
    let count = x.elem_count();
    fours(count)?;
    over("round_to_bf16", count, 4)
        .pointer(input(x, DType::F32, count)?)
        .pointer(output(to, DType::BF16, count)?)
        .long(count)
        .run(engine)
}

fn fours(count: usize) -> Result<()> {
    match count.is_multiple_of(4) {
        true => Ok(()),
        false => Err(message(format!(
            "a GPU takes widths that are multiples of 4; this one is {count}"
        ))),
    }
}
