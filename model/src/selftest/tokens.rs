//! Rows of tokens between layouts.

use candle_core::{DType, Device, Tensor};

use super::{Session, numbers, permutations, rounding};
use crate::ops::tokens::{
    embed_backward, embed_forward, removed_backward, removed_forward, unshuffle_backward,
    unshuffle_forward,
};
use crate::{Accumulate, Result};

/// Batch, patches, visible ones, width: one visible, all but one, and more rows than blocks.
const SHAPES: [(usize, usize, usize, usize); 4] = [
    (1, 4, 1, 4),
    (3, 9, 8, 36),
    (2, 49, 12, 132),
    (80, 16, 4, 8),
];

pub(super) fn run(s: &mut Session<'_>) -> Result<()> {
    for (batch, patches, keep, dim) in SHAPES {
        for dtype in [DType::F32, DType::BF16] {
            let shape = Shape {
                batch,
                patches,
                keep,
                dim,
                dtype,
            };
            embed(s, &shape)?;
            unshuffle(s, &shape, "unshuffle", true)?;
            unshuffle(s, &shape, "unshuffle without bias", false)?;
            removed(s, &shape)?;
        }
    }
    Ok(())
}

struct Shape {
    batch: usize,
    patches: usize,
    keep: usize,
    dim: usize,
    dtype: DType,
}

impl Shape {
    fn name(&self, what: &str) -> String {
        format!(
            "{what} {}x{}/{}x{} {:?}",
            self.batch, self.keep, self.patches, self.dim, self.dtype
        )
    }

    fn ids_restore(&self) -> Result<Tensor> {
        permutations(self.batch, self.patches)
    }

    /// Ids of visible patches `[B, K]`.
    fn ids_keep(&self) -> Result<Tensor> {
        Ok(self.ids_restore()?.narrow(1, 0, self.keep)?.contiguous()?)
    }

    fn rounded(&self, rows: usize, seed: u32) -> Result<Tensor> {
        Ok(numbers(&[self.batch, rows, self.dim], seed)?.to_dtype(self.dtype)?)
    }
}

fn plain(x: &Tensor) -> Result<Tensor> {
    // A copy: it may be written.
    Ok(x.to_dtype(DType::F32)?.copy()?)
}

fn embed(s: &mut Session<'_>, shape: &Shape) -> Result<()> {
    let (ids, dim) = (shape.ids_keep()?, shape.dim);
    let backward = |dx: &Tensor, _: &Tensor, d: &Tensor, grads: &Tensor| {
        embed_backward(dx, d, grads, (0..dim, dim..2 * dim), Accumulate::Add)
    };
    let rows = (shape.keep, 1 + shape.keep);
    learned(s, shape, "embedding", (&ids, rows), embed_forward, backward)
}

fn unshuffle(s: &mut Session<'_>, shape: &Shape, what: &str, biased: bool) -> Result<()> {
    let (ids, dim) = (shape.ids_restore()?, shape.dim);
    let forward =
        |rows: (&Tensor, &Tensor), ids: &Tensor, token: &Tensor, positions: &Tensor, x: &Tensor| {
            let rows = (rows.0, biased.then_some(rows.1));
            unshuffle_forward(rows, ids, token, positions, x)
        };
    let backward = |dx: &Tensor, ids: &Tensor, d: &Tensor, grads: &Tensor| {
        let ranges = (0..dim, biased.then_some(dim..2 * dim));
        unshuffle_backward(dx, ids, d, grads, ranges, Accumulate::Replace)
    };
    let rows = (1 + shape.keep, 1 + shape.patches);
    learned(s, shape, what, (&ids, rows), forward, backward)
}

/// What makes `to` rows of `from`, a bias, a learned token and positions.
fn learned(
    s: &mut Session<'_>,
    shape: &Shape,
    what: &str,
    (ids, (from, to)): (&Tensor, (usize, usize)),
    forward: impl Fn((&Tensor, &Tensor), &Tensor, &Tensor, &Tensor, &Tensor) -> Result<()>,
    backward: impl Fn(&Tensor, &Tensor, &Tensor, &Tensor) -> Result<()>,
) -> Result<()> {
    let &Shape {
        batch,
        patches,
        dim,
        dtype,
        ..
    } = shape;
    let rows2 = shape.rounded(from, 1)?;
    let (bias, token, positions) = (
        numbers(&[dim], 2)?,
        numbers(&[dim], 3)?,
        numbers(&[1 + patches, dim], 4)?,
    );
    let x = Tensor::zeros((batch, to, dim), DType::F32, &Device::Cpu)?;
    let x2 = s.put(&x)?;
    forward((&plain(&rows2)?, &bias), ids, &token, &positions, &x)?;
    let (rows2, bias2, ids2) = (s.put(&rows2)?, s.put(&bias)?, s.put(ids)?);
    let (token2, positions2) = (s.put(&token)?, s.put(&positions)?);
    s.on(|| forward((&rows2, &bias2), &ids2, &token2, &positions2, &x2))?;
    s.compare(shape.name(what), &x2, &x, 1e-6)?;

    let (dx, grads) = (numbers(&[batch, to, dim], 5)?, numbers(&[2 * dim + 4], 6)?);
    let d = Tensor::zeros((batch, from, dim), DType::F32, &Device::Cpu)?;
    let (dx2, grads2) = (s.put(&dx)?, s.put(&grads)?);
    let d2 = s.output((batch, from, dim), dtype)?;
    backward(&dx, ids, &d, &grads)?;
    s.on(|| backward(&dx2, &ids2, &d2, &grads2))?;
    let name = |of: &str| shape.name(&format!("{what}, {of}"));
    s.compare(name("gradient of rows"), &d2, &d, rounding(dtype))?;
    s.compare(name("gradients of parameters"), &grads2, &grads, 1e-5)
}

fn removed(s: &mut Session<'_>, shape: &Shape) -> Result<()> {
    let &Shape {
        batch,
        patches,
        keep,
        dim,
        dtype,
    } = shape;
    let (ids, x2, count) = (
        shape.ids_restore()?,
        shape.rounded(1 + patches, 1)?,
        patches - keep,
    );
    let ids2 = s.put(&ids)?;
    let rows = Tensor::zeros((batch, count, dim), DType::F32, &Device::Cpu)?;
    let rows2 = s.output((batch, count, dim), dtype)?;
    let x = plain(&x2)?;
    removed_forward(&x, &ids, &rows)?;
    let x2 = s.put(&x2)?;
    s.on(|| removed_forward(&x2, &ids2, &rows2))?;
    s.compare(shape.name("removed rows"), &rows2, &rows, 0.0)?;
    // Into memory that holds something.
    removed_backward(&rows, &ids, &x)?;
    s.on(|| removed_backward(&rows2, &ids2, &x2))?;
    s.compare(shape.name("removed rows, gradient"), &x2, &x, 0.0)
}
