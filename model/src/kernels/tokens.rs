//! Launches of `kernels/tokens.cu`.

use std::ops::Range;

use candle_core::{DType, Tensor};

use super::address::{input, output};
use super::{Engine, Launch, reduce, scratch, suffix};
use crate::Result;
use crate::ops::Accumulate;

/// Registers that a thread needs, at most.
const REGISTERS: usize = 32;

/// As [`crate::ops::tokens::embed_forward`].
pub(crate) fn embed_forward(
    engine: &Engine,
    embedded: (&Tensor, &Tensor),
    ids: &Tensor,
    class_token: &Tensor,
    positions: &Tensor,
    x: &Tensor,
) -> Result<()> {
    let (embedded, bias) = embedded;
    assemble(
        engine,
        "embed_forward",
        (embedded, Some(bias)),
        ids,
        class_token,
        positions,
        x,
    )
}

/// As [`crate::ops::tokens::unshuffle_forward`].
pub(crate) fn unshuffle_forward(
    engine: &Engine,
    visible: (&Tensor, Option<&Tensor>),
    ids_restore: &Tensor,
    mask_token: &Tensor,
    positions: &Tensor,
    x: &Tensor,
) -> Result<()> {
    assemble(
        engine,
        "unshuffle_forward",
        visible,
        ids_restore,
        mask_token,
        positions,
        x,
    )
}

fn assemble(
    engine: &Engine,
    kernel: &str,
    (from, bias): (&Tensor, Option<&Tensor>),
    ids: &Tensor,
    token: &Tensor,
    positions: &Tensor,
    x: &Tensor,
) -> Result<()> {
    let (batch, given, dim) = from.dims3()?;
    let patches = ids.dims2()?.1;
    let rows = batch * (1 + patches);
    let kernel = format!("{kernel}_{}", suffix(from)?);
    let (blocks, threads) = engine.rows(rows, dim, REGISTERS)?;
    let launch =
        Launch::new(kernel, blocks, threads).pointer(input(from, from.dtype(), from.elem_count())?);
    match bias {
        Some(bias) => launch.pointer(input(bias, DType::F32, dim)?),
        None => launch.null(),
    }
    .pointer(input(ids, DType::U32, batch * patches)?)
    .pointer(input(token, DType::F32, dim)?)
    .pointer(input(positions, DType::F32, positions.elem_count())?)
    .pointer(output(x, DType::F32, rows * dim)?)
    .count(batch)?
    .count(patches)?
    .count(given)?
    .count(dim)?
    .run(engine)
}

/// As [`crate::ops::tokens::embed_backward`]; `ids` as in the forward.
pub(crate) fn embed_backward(
    engine: &Engine,
    dx: &Tensor,
    dembedded: &Tensor,
    grads: &Tensor,
    (bias, class_token): (Range<usize>, Range<usize>),
    mode: Accumulate,
) -> Result<()> {
    let patches = dembedded.dims3()?.1;
    take_apart(
        engine,
        "embed_backward",
        (dx, patches),
        None,
        dembedded,
        grads,
        [Some(bias), Some(class_token)],
        mode,
    )
}

/// As [`crate::ops::tokens::unshuffle_backward`].
pub(crate) fn unshuffle_backward(
    engine: &Engine,
    dx: &Tensor,
    ids_restore: &Tensor,
    dvisible: &Tensor,
    grads: &Tensor,
    (mask_token, bias): (Range<usize>, Option<Range<usize>>),
    mode: Accumulate,
) -> Result<()> {
    let dx = (dx, ids_restore.dims2()?.1);
    take_apart(
        engine,
        "unshuffle_backward",
        dx,
        Some(ids_restore),
        dvisible,
        grads,
        [bias, Some(mask_token)],
        mode,
    )
}

/// `sums` are where the column sums go of the rows that were given, and of those that were the token, if they are wanted.
#[expect(clippy::too_many_arguments, reason = "given and made tensors")]
fn take_apart(
    engine: &Engine,
    kernel: &str,
    (dx, patches): (&Tensor, usize),
    ids: Option<&Tensor>,
    dfrom: &Tensor,
    grads: &Tensor,
    sums: [Option<Range<usize>>; 2],
    mode: Accumulate,
) -> Result<()> {
    let (batch, given, dim) = dfrom.dims3()?;
    let rows = batch * (1 + patches);
    let (blocks, threads) = engine.rows(rows, dim, REGISTERS)?;
    let partial = scratch::take(dx.device(), blocks * 2 * dim)?;
    let partial = output(&partial, DType::F32, partial.elem_count())?;
    let kernel = format!("{kernel}_{}", suffix(dfrom)?);
    let launch = Launch::new(kernel, blocks, threads).pointer(input(dx, DType::F32, rows * dim)?);
    match ids {
        Some(ids) => launch.pointer(input(ids, DType::U32, batch * patches)?),
        None => launch.null(),
    }
    .pointer(output(dfrom, dfrom.dtype(), batch * given * dim)?)
    .pointer(partial)
    .count(batch)?
    .count(patches)?
    .count(given)?
    .count(dim)?
    .run(engine)?;
    let grads = output(grads, DType::F32, grads.elem_count())?;
    let outs = sums.map(|range| range.map(|range| grads.skip(range.start)));
    reduce::column_sums(engine, partial, (blocks, dim), &outs, mode)
}

/// As [`crate::ops::tokens::removed_forward`].
pub(crate) fn removed_forward(
    engine: &Engine,
    x: &Tensor,
    ids_restore: &Tensor,
    removed: &Tensor,
) -> Result<()> {
    let (batch, count, dim) = removed.dims3()?;
    let patches = ids_restore.dims2()?.1;
    let rows = batch * (1 + patches);
    let kernel = format!("removed_forward_{}", suffix(x)?);
    let (blocks, threads) = engine.rows(rows, dim, REGISTERS)?;
    Launch::new(kernel, blocks, threads)
        .pointer(input(x, x.dtype(), rows * dim)?)
        .pointer(input(ids_restore, DType::U32, batch * patches)?)
        .pointer(output(removed, x.dtype(), batch * count * dim)?)
        .count(batch)?
        .count(patches)?
        .count(count)?
        .count(dim)?
        .run(engine)
}

/// As [`crate::ops::tokens::removed_backward`].
pub(crate) fn removed_backward(
    engine: &Engine,
    dremoved: &Tensor,
    ids_restore: &Tensor,
    dx: &Tensor,
) -> Result<()> {
    let (batch, count, dim) = dremoved.dims3()?;
    let patches = ids_restore.dims2()?.1;
    let rows = batch * (1 + patches);
    let kernel = format!("removed_backward_{}", suffix(dx)?);
    let (blocks, threads) = engine.rows(rows, dim, REGISTERS)?;
    Launch::new(kernel, blocks, threads)
        .pointer(output(dx, dx.dtype(), rows * dim)?)
        .pointer(input(ids_restore, DType::U32, batch * patches)?)
        .pointer(input(dremoved, dx.dtype(), batch * count * dim)?)
        .count(batch)?
        .count(patches)?
        .count(count)?
        .count(dim)?
        .run(engine)
}
