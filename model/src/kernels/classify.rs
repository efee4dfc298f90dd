//! Launches of `kernels/classify.cu`.

use candle_core::{DType, Tensor};

use super::address::{input, output};
use super::elementwise::over;
use super::{Engine, Launch};
use crate::Result;
use crate::config::Pooling;

/// As [`crate::ops::pool::forward`].
pub(crate) fn pool_forward(
    engine: &Engine,
    pooling: Pooling,
    x: &Tensor,
    pooled: &Tensor,
) -> Result<()> {
    let ((batch, tokens, dim), count) = (x.dims3()?, pooled.elem_count());
    over("pool_forward", count, 1)
        .pointer(input(x, DType::F32, batch * tokens * dim)?)
        .count((pooling == Pooling::Avg).into())?
        .pointer(output(pooled, DType::F32, batch * dim)?)
        .count(tokens)?
        .count(dim)?
        .long(count)
        .run(engine)
}

/// As [`crate::ops::pool::backward`].
pub(crate) fn pool_backward(
    engine: &Engine,
    pooling: Pooling,
    dpooled: &Tensor,
    dx: &Tensor,
) -> Result<()> {
    let ((batch, tokens, dim), count) = (dx.dims3()?, dx.elem_count());
    over("pool_backward", count, 1)
        .pointer(input(dpooled, DType::F32, batch * dim)?)
        .count((pooling == Pooling::Avg).into())?
        .pointer(output(dx, DType::F32, count)?)
        .count(tokens)?
        .count(dim)?
        .long(count)
        .run(engine)
}

/// As [`crate::ops::cross_entropy::forward_backward`].
pub(crate) fn cross_entropy(
    engine: &Engine,
    logits: &Tensor,
    targets: &Tensor,
    losses: &Tensor,
) -> Result<()> {
    let (batch, classes) = logits.dims2()?;
    Launch::new("cross_entropy", batch, 256)
        .pointer(output(logits, DType::F32, batch * classes)?)
        .pointer(input(targets, DType::F32, batch * classes)?)
        .pointer(output(losses, DType::F32, batch)?)
        .count(classes)?
        .run(engine)
}
