//! Rows of tokens moved between layouts: patch embeddings into the encoder's sequence, the
//! encoder's output into the decoder's full one, the removed rows out of it; each with its
//! backward.

use std::ops::Range;

use candle_core::Tensor;
use rayon::prelude::*;

use super::access::{read, write, write_parts};
use super::linear::add_column_sums;
use crate::Result;

/// Patch embeddings `[B, K, D]`, their ids `[B, K]`, the class token `[D]` and the position
/// embedding `[1 + L, D]` → `x` `[B, 1 + K, D]`.
///
/// # Errors
/// If a tensor is not a contiguous CPU tensor of its type.
pub fn embed_forward(
    embedded: &Tensor,
    ids: &Tensor,
    class_token: &Tensor,
    positions: &Tensor,
    x: &Tensor,
) -> Result<()> {
    let (_, kept, dim) = embedded.dims3()?;
    let (embedded, ids) = (read(embedded)?, read(ids)?);
    let (class_token, positions) = (read(class_token)?, read(positions)?);
    let (embedded, ids) = (embedded.f32()?, ids.slice::<u32>()?);
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
                    add(row, embedded, &positions[(1 + id as usize) * dim..][..dim]);
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

fn accumulate(out: &mut [f32], x: &[f32]) {
    for (out, x) in out.iter_mut().zip(x) {
        *out += x;
    }
}

/// `dx` `[B, 1 + K, D]` → the patch embeddings' gradient `[B, K, D]` (overwritten); the class
/// token's is added to its range of the flat gradients.
///
/// # Errors
/// As [`embed_forward`].
pub fn embed_backward(
    dx: &Tensor,
    dembedded: &Tensor,
    grads: &Tensor,
    class_token: Range<usize>,
) -> Result<()> {
    let (_, kept, dim) = dembedded.dims3()?;
    let dx = read(dx)?;
    let dx = dx.f32()?;
    write(dembedded, |out| {
        out.par_chunks_mut(kept * dim)
            .zip(dx.par_chunks((1 + kept) * dim))
            .for_each(|(out, dx)| out.copy_from_slice(&dx[dim..]));
        Ok(())
    })?;
    write_parts(grads, [class_token], |[dclass]| {
        dx.chunks_exact((1 + kept) * dim)
            .for_each(|dx| accumulate(dclass, &dx[..dim]));
        Ok(())
    })
}

/// Adds the gradient of a trained position embedding `[1 + L, D]` (a classifier's, which sees every
/// patch in order) to its range of the flat gradients.
///
/// # Errors
/// As [`embed_forward`].
pub fn positions_backward(dx: &Tensor, grads: &Tensor, positions: Range<usize>) -> Result<()> {
    let dx = read(dx)?;
    let dx = dx.f32()?;
    write_parts(grads, [positions], |[dpositions]| {
        add_column_sums(dx, dpositions);
        Ok(())
    })
}

/// The decoder's sequence: rows of `visible` `[B, 1 + K, D]` at their places, the mask token `[D]`
/// elsewhere, plus positions `[1 + L, D]` → `x` `[B, 1 + L, D]`. `ids_restore` is `[B, L]`: where
/// each patch stands among the shuffled ones, the visible first.
///
/// # Errors
/// As [`embed_forward`].
pub fn unshuffle_forward(
    visible: &Tensor,
    ids_restore: &Tensor,
    mask_token: &Tensor,
    positions: &Tensor,
    x: &Tensor,
) -> Result<()> {
    let (_, rows, dim) = visible.dims3()?;
    let patches = ids_restore.dims2()?.1;
    let (visible, ids_restore) = (read(visible)?, read(ids_restore)?);
    let (mask_token, positions) = (read(mask_token)?, read(positions)?);
    let (visible, ids_restore) = (visible.f32()?, ids_restore.slice::<u32>()?);
    let (mask_token, positions) = (mask_token.f32()?, positions.f32()?);
    write(x, |x| {
        x.par_chunks_mut((1 + patches) * dim)
            .zip(visible.par_chunks(rows * dim))
            .zip(ids_restore.par_chunks(patches))
            .for_each(|((x, visible), ids_restore)| {
                let (class_row, out) = x.split_at_mut(dim);
                add(class_row, &visible[..dim], &positions[..dim]);
                for ((out, &id), position) in out
                    .chunks_exact_mut(dim)
                    .zip(ids_restore)
                    .zip(positions[dim..].chunks_exact(dim))
                {
                    let row = 1 + id as usize;
                    let from = if row < rows {
                        &visible[row * dim..][..dim]
                    } else {
                        mask_token
                    };
                    add(out, from, position);
                }
            });
        Ok(())
    })
}

/// `dx` `[B, 1 + L, D]` → the visible rows' gradient `[B, 1 + K, D]` (overwritten); the mask
/// token's is added to its range of the flat gradients.
///
/// # Errors
/// As [`embed_forward`].
pub fn unshuffle_backward(
    dx: &Tensor,
    ids_restore: &Tensor,
    dvisible: &Tensor,
    grads: &Tensor,
    mask_token: Range<usize>,
) -> Result<()> {
    let (_, rows, dim) = dvisible.dims3()?;
    let patches = ids_restore.dims2()?.1;
    let (dx, ids_restore) = (read(dx)?, read(ids_restore)?);
    let (dx, ids_restore) = (dx.f32()?, ids_restore.slice::<u32>()?);
    write(dvisible, |dvisible| {
        dvisible
            .par_chunks_mut(rows * dim)
            .zip(dx.par_chunks((1 + patches) * dim))
            .zip(ids_restore.par_chunks(patches))
            .for_each(|((dvisible, dx), ids_restore)| {
                dvisible[..dim].copy_from_slice(&dx[..dim]);
                for (dx, &id) in dx[dim..].chunks_exact(dim).zip(ids_restore) {
                    let row = 1 + id as usize;
                    if row < rows {
                        dvisible[row * dim..][..dim].copy_from_slice(dx);
                    }
                }
            });
        Ok(())
    })?;
    // One sum a sample in parallel, then over the samples in order.
    let sums: Vec<Vec<f32>> = dx
        .par_chunks((1 + patches) * dim)
        .zip(ids_restore.par_chunks(patches))
        .map(|(dx, ids_restore)| {
            let mut sum = vec![0f32; dim];
            for (dx, &id) in dx[dim..].chunks_exact(dim).zip(ids_restore) {
                if 1 + id as usize >= rows {
                    accumulate(&mut sum, dx);
                }
            }
            sum
        })
        .collect();
    write_parts(grads, [mask_token], |[dmask]| {
        sums.iter().for_each(|sum| accumulate(dmask, sum));
        Ok(())
    })
}

/// The removed patches' rows of `x` `[B, 1 + L, D]` → `[B, R, D]`, in the order of the shuffled ids.
///
/// # Errors
/// As [`embed_forward`].
pub fn removed_forward(x: &Tensor, ids_restore: &Tensor, removed: &Tensor) -> Result<()> {
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
