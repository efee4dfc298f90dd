//! Launches of `kernels/target.cu`.

use candle_core::{DType, Tensor};

use super::address::{input, output};
use super::{Engine, Launch, suffix};
use crate::Result;

const THREADS: usize = 256;
/// Blocks of a launch for each multiprocessor, several times what it runs at once; more rows are dealt out in turn.
const BLOCKS: usize = 32;

/// As [`crate::ops::squared_error::forward_backward`].
pub(crate) fn squared_error(
    engine: &Engine,
    (prediction, bias): (&Tensor, &Tensor),
    targets: &Tensor,
    errors: &Tensor,
) -> Result<()> {
    let (batch, count, len) = prediction.dims3()?;
    let rows = batch * count;
    let kernel = format!("squared_error_{}", suffix(prediction)?);
    Launch::new(kernel, rows.min(BLOCKS * engine.processors()?), THREADS)
        .pointer(output(prediction, prediction.dtype(), rows * len)?)
        .pointer(input(bias, DType::F32, len)?)
        .pointer(input(targets, DType::F32, rows * len)?)
        .pointer(output(errors, DType::F32, rows)?)
        .count(rows)?
        .count(len)?
        .float(2.0 / (rows * len) as f32)
        .run(engine)
}

/// As [`crate::ops::token_loss::forward_backward`].
pub(crate) fn token_loss(
    engine: &Engine,
    (logits, bias): (&Tensor, &Tensor),
    (tokens, ids_restore): (&Tensor, &Tensor),
    losses: &Tensor,
) -> Result<()> {
    let ((batch, count, vocabulary), patches) = (logits.dims3()?, ids_restore.dims2()?.1);
    let (rows, all) = (batch * count, batch * patches);
    let kernel = format!("token_loss_{}", suffix(logits)?);
    Launch::new(kernel, all.min(BLOCKS * engine.processors()?), THREADS)
        .pointer(output(logits, logits.dtype(), rows * vocabulary)?)
        .pointer(input(bias, DType::F32, vocabulary)?)
        .pointer(input(tokens, DType::U32, all)?)
        .pointer(input(ids_restore, DType::U32, all)?)
        .pointer(output(losses, DType::F32, rows)?)
        .count(batch)?
        .count(patches)?
        .count(count)?
        .count(vocabulary)?
        .float(1.0 / rows as f32)
        .run(engine)
}
