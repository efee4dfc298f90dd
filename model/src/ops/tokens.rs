//! Rows of tokens moved between layouts: patch embeddings into the encoder's sequence, visible
//! rows among mask tokens into a full one, the removed rows out of it; each with its backward.

use std::ops::Range;

use candle_core::Tensor;
use rayon::prelude::*;

use super::access::{read, write, write_parts};
use super::reduce::add_rows;
use super::{Accumulate, scratch};
use crate::Result;
#[cfg(any(feature = "cuda", feature = "host-kernels"))]
use crate::kernels;
use crate::profile::span;

/// Patch embeddings `[B, K, D]`, the bias `[D]` that they lack, their ids `[B, K]`, the class token `[D]` and the position
/// embedding `[1 + L, D]` → `x` `[B, 1 + K, D]`.
///
/// # Errors
/// If a tensor is not a contiguous CPU tensor of its type.
pub fn embed_forward(
    (embedded, bias): (&Tensor, &Tensor),
    ids: &Tensor,
    class_token: &Tensor,
    positions: &Tensor,
    x: &Tensor,
) -> Result<()> {
    let _span = span("embedding, forward");
    #[cfg(any(feature = "cuda", feature = "host-kernels"))]
    if let Some(engine) = kernels::engine(x) {
        return kernels::tokens::embed_forward(
            &engine,
            (embedded, bias),
            ids,
            class_token,
            positions,
            x,
        );
    }
    let (_, kept, dim) = embedded.dims3()?;
    let (embedded, bias, ids) = (read(embedded)?, read(bias)?, read(ids)?);
    let (class_token, positions) = (read(class_token)?, read(positions)?);
    let (embedded, bias, ids) = (embedded.f32()?, bias.f32()?, ids.slice::<u32>()?);
    let (class_token, positions) = (class_token.f32()?, positions.f32()?);
    write(x, |x| {
        x.par_chunks_mut((1 + kept) * dim)
            .zip(embedded.par_chunks(kept * dim))
            .zip(ids.par_chunks(kept))
            .for_each(|((x, embedded), ids)| {
                let (class_row, rows) = x.split_at_mut(dim);
                add(class_row, class_token, &positions[..dim]);
                for ((row, embedded), &id) in rows
                    .chunks_exact_mut(dim)
                    .zip(embedded.chunks_exact(dim))
                    .zip(ids)
                {
                    let position = &positions[(1 + id as usize) * dim..][..dim];
                    add_biased(row, embedded, bias, position);
                }
            });
        Ok(())
    })
}

fn add(out: &mut [f32], a: &[f32], b: &[f32]) {
    for ((out, a), b) in out.iter_mut().zip(a).zip(b) {
        *out = a + b;
    }
}

fn add_biased(out: &mut [f32], x: &[f32], bias: &[f32], position: &[f32]) {
    for (((out, x), b), p) in out.iter_mut().zip(x).zip(bias).zip(position) {
        *out = (x + b) + p;
    }
}

fn accumulate(out: &mut [f32], x: &[f32]) {
    for (out, x) in out.iter_mut().zip(x) {
        *out += x;
    }
}

/// `dx` `[B, 1 + K, D]` → the patch embeddings' gradient `[B, K, D]` (overwritten); the bias's and the class token's go into their
/// ranges of the flat gradients, which stand in this order.
///
/// # Errors
/// As [`embed_forward`].
pub fn embed_backward(
    dx: &Tensor,
    dembedded: &Tensor,
    grads: &Tensor,
    (bias, class_token): (Range<usize>, Range<usize>),
    mode: Accumulate,
) -> Result<()> {
    let _span = span("embedding, backward");
    #[cfg(any(feature = "cuda", feature = "host-kernels"))]
    if let Some(engine) = kernels::engine(dx) {
        return kernels::tokens::embed_backward(
            &engine,
            dx,
            dembedded,
            grads,
            (bias, class_token),
            mode,
        );
    }
    let (_, kept, dim) = dembedded.dims3()?;
    let dx = read(dx)?;
    let dx = dx.f32()?;
    write(dembedded, |out| {
        out.par_chunks_mut(kept * dim)
            .zip(dx.par_chunks((1 + kept) * dim))
            .for_each(|(out, dx)| out.copy_from_slice(&dx[dim..]));
        Ok(())
    })?;
    let dembedded = read(dembedded)?;
    let dembedded = dembedded.f32()?;
    write_parts(grads, [bias, class_token], |[dbias, dclass]| {
        add_rows(dembedded, dbias, mode);
        if mode == Accumulate::Replace {
            dclass.fill(0.0);
        }
        dx.chunks_exact((1 + kept) * dim)
            .for_each(|dx| accumulate(dclass, &dx[..dim]));
        Ok(())
    })
}

/// The gradient of a trained position embedding `[1 + L, D]` (a classifier's, which sees every patch in order) into its range of
/// the flat gradients.
///
/// # Errors
/// As [`embed_forward`].
pub fn positions_backward(
    dx: &Tensor,
    grads: &Tensor,
    positions: Range<usize>,
    mode: Accumulate,
) -> Result<()> {
    let _span = span("positions, backward");
    #[cfg(any(feature = "cuda", feature = "host-kernels"))]
    if let Some(engine) = kernels::engine(dx) {
        return kernels::reduce::sums_of(&engine, dx, grads, positions, mode);
    }
    let dx = read(dx)?;
    let dx = dx.f32()?;
    write_parts(grads, [positions], |[dpositions]| {
        add_rows(dx, dpositions, mode);
        Ok(())
    })
}

/// The sequence of every patch: rows of `visible` `[B, 1 + K, D]` (without their bias `[D]`) at their places, the mask token `[D]`
/// elsewhere, plus positions `[1 + L, D]` → `x` `[B, 1 + L, D]`. `ids_restore` is `[B, L]`: where
/// each patch stands among the shuffled ones, the visible first.
///
/// Visible rows without a bias have their positions already and are moved as they are.
///
/// # Errors
/// As [`embed_forward`].
pub fn unshuffle_forward(
    (visible, bias): (&Tensor, Option<&Tensor>),
    ids_restore: &Tensor,
    mask_token: &Tensor,
    positions: &Tensor,
    x: &Tensor,
) -> Result<()> {
    let _span = span("unshuffle, forward");
    #[cfg(any(feature = "cuda", feature = "host-kernels"))]
    if let Some(engine) = kernels::engine(x) {
        return kernels::tokens::unshuffle_forward(
            &engine,
            (visible, bias),
            ids_restore,
            mask_token,
            positions,
            x,
        );
    }
    let (_, rows, dim) = visible.dims3()?;
    let patches = ids_restore.dims2()?.1;
    let (visible, ids_restore) = (read(visible)?, read(ids_restore)?);
    let (mask_token, positions) = (read(mask_token)?, read(positions)?);
    let bias = bias.map(read).transpose()?;
    let (visible, bias) = (
        visible.f32()?,
        bias.as_ref().map(|bias| bias.f32()).transpose()?,
    );
    let place = |out: &mut [f32], row: &[f32], position: &[f32]| match bias {
        Some(bias) => add_biased(out, row, bias, position),
        None => out.copy_from_slice(row),
    };
    let ids_restore = ids_restore.slice::<u32>()?;
    let (mask_token, positions) = (mask_token.f32()?, positions.f32()?);
    write(x, |x| {
        x.par_chunks_mut((1 + patches) * dim)
            .zip(visible.par_chunks(rows * dim))
            .zip(ids_restore.par_chunks(patches))
            .for_each(|((x, visible), ids_restore)| {
                let (class_row, out) = x.split_at_mut(dim);
                place(class_row, &visible[..dim], &positions[..dim]);
                for ((out, &id), position) in out
                    .chunks_exact_mut(dim)
                    .zip(ids_restore)
                    .zip(positions[dim..].chunks_exact(dim))
                {
                    let row = 1 + id as usize;
                    if row < rows {
                        place(out, &visible[row * dim..][..dim], position);
                    } else {
                        add(out, mask_token, position);
                    }
                }
            });
        Ok(())
    })
}

/// `dx` `[B, 1 + L, D]` → the visible rows' gradient `[B, 1 + K, D]` (overwritten); the mask token's, and the bias's where there is
/// one, go into their ranges of the flat gradients.
///
/// # Errors
/// As [`embed_forward`].
pub fn unshuffle_backward(
    dx: &Tensor,
    ids_restore: &Tensor,
    dvisible: &Tensor,
    grads: &Tensor,
    (mask_token, bias): (Range<usize>, Option<Range<usize>>),
    mode: Accumulate,
) -> Result<()> {
    let _span = span("unshuffle, backward");
    #[cfg(any(feature = "cuda", feature = "host-kernels"))]
    if let Some(engine) = kernels::engine(dx) {
        return kernels::tokens::unshuffle_backward(
            &engine,
            dx,
            ids_restore,
            dvisible,
            grads,
            (mask_token, bias),
            mode,
        );
    }
    let (batch, rows, dim) = dvisible.dims3()?;
    let patches = ids_restore.dims2()?.1;
    let (dx, ids_restore) = (read(dx)?, read(ids_restore)?);
    let (dx, ids_restore) = (dx.f32()?, ids_restore.slice::<u32>()?);
    // One sum a sample in parallel, then over the samples in order: the mask token's, the bias's.
    let mut sums = scratch::take(2 * batch * dim);
    let (masks, biases) = sums.split_at_mut(batch * dim);
    write(dvisible, |dvisible| {
        dvisible
            .par_chunks_mut(rows * dim)
            .zip(dx.par_chunks((1 + patches) * dim))
            .zip(ids_restore.par_chunks(patches))
            .zip(masks.par_chunks_mut(dim))
            .zip(biases.par_chunks_mut(dim))
            .for_each(|((((dvisible, dx), ids_restore), mask), bias)| {
                mask.fill(0.0);
                bias.copy_from_slice(&dx[..dim]);
                dvisible[..dim].copy_from_slice(&dx[..dim]);
                for (dx, &id) in dx[dim..].chunks_exact(dim).zip(ids_restore) {
                    let row = 1 + id as usize;
                    if row < rows {
                        dvisible[row * dim..][..dim].copy_from_slice(dx);
                        accumulate(bias, dx);
                    } else {
                        accumulate(mask, dx);
                    }
                }
            });
        Ok(())
    })?;
    write_parts(grads, [mask_token], |[dmask]| {
        add_rows(masks, dmask, mode);
        Ok(())
    })?;
    match bias {
        Some(bias) => write_parts(grads, [bias], |[dbias]| {
            add_rows(biases, dbias, mode);
            Ok(())
        }),
        None => Ok(()),
    }
}

/// The removed patches' rows of `x` `[B, 1 + L, D]` → `[B, R, D]`, in the order of the shuffled ids.
///
/// # Errors
/// As [`embed_forward`].
pub fn removed_forward(x: &Tensor, ids_restore: &Tensor, removed: &Tensor) -> Result<()> {
    let _span = span("removed rows, forward");
    #[cfg(any(feature = "cuda", feature = "host-kernels"))]
    if let Some(engine) = kernels::engine(x) {
        return kernels::tokens::removed_forward(&engine, x, ids_restore, removed);
    }
    let (_, count, dim) = removed.dims3()?;
    let patches = ids_restore.dims2()?.1;
    let (x, ids_restore) = (read(x)?, read(ids_restore)?);
    let (x, ids_restore) = (x.f32()?, ids_restore.slice::<u32>()?);
    write(removed, |removed| {
        removed
            .par_chunks_mut(count * dim)
            .zip(x.par_chunks((1 + patches) * dim))
            .zip(ids_restore.par_chunks(patches))
            .for_each(|((removed, x), ids_restore)| {
                for (x, &id) in x[dim..].chunks_exact(dim).zip(ids_restore) {
                    if let Some(row) = (id as usize).checked_sub(patches - count) {
                        removed[row * dim..][..dim].copy_from_slice(x);
                    }
                }
            });
        Ok(())
    })
}

/// The gradient of [`removed_forward`]: `dx` `[B, 1 + L, D]` is overwritten, zero where nothing was
/// taken.
///
/// # Errors
/// As [`embed_forward`].
pub fn removed_backward(dremoved: &Tensor, ids_restore: &Tensor, dx: &Tensor) -> Result<()> {
    let _span = span("removed rows, backward");
    #[cfg(any(feature = "cuda", feature = "host-kernels"))]
    if let Some(engine) = kernels::engine(dx) {
        return kernels::tokens::removed_backward(&engine, dremoved, ids_restore, dx);
    }
    let (_, count, dim) = dremoved.dims3()?;
    let patches = ids_restore.dims2()?.1;
    let (dremoved, ids_restore) = (read(dremoved)?, read(ids_restore)?);
    let (dremoved, ids_restore) = (dremoved.f32()?, ids_restore.slice::<u32>()?);
    write(dx, |dx| {
        dx.par_chunks_mut((1 + patches) * dim)
            .zip(dremoved.par_chunks(count * dim))
            .zip(ids_restore.par_chunks(patches))
            .for_each(|((dx, dremoved), ids_restore)| {
                let (class_row, dx) = dx.split_at_mut(dim);
                class_row.fill(0.0);
                for (dx, &id) in dx.chunks_exact_mut(dim).zip(ids_restore) {
                    match (id as usize).checked_sub(patches - count) {
                        Some(row) => dx.copy_from_slice(&dremoved[row * dim..][..dim]),
                        None => dx.fill(0.0),
                    }
                }
            });
        Ok(())
    })
}
