//! Multi-head self-attention over packed projections: qkv `[B, N, 3, H, W]`, output `[B, N, H, W]`.
//!
//! The projections come without their bias, which is added where they are read. Each softmax row's maximum and reciprocal sum
//! are kept (`[B, H, N, 2]`); the backward computes the very same probabilities again from them. Of the scores `[N, N]` of a
//! head only a block of rows is ever held, so memory grows with N, not with its square. Samples and heads are independent
//! pieces of work.

use std::ops::Range;

use candle_core::Tensor;
use multiversion::multiversion;
use rayon::prelude::*;

use super::Accumulate;
use super::access::{Shared, read, write, write_parts, write2};
use super::math::{exp, max, sum_by};
use super::reduce::add_rows;
use super::scratch;
use super::small::{Left, padded, product};
use crate::Result;
#[cfg(any(feature = "cuda", feature = "host-kernels"))]
use crate::kernels;
use crate::profile::span;

/// Queries whose scores are held at a time: a multiple of the products' rows, small enough for the scores and their gradients
/// to stay in the second-level cache with 1,025 keys.
const QUERIES: usize = 48;

/// How many heads there are, and what each adds to its scores before the softmax.
#[derive(Clone, Copy)]
pub struct Heads<'a> {
    /// Heads.
    pub count: usize,
    /// `[H, N, N]`, for every sample alike; no gradient of it is made.
    pub added: Option<&'a Tensor>,
}

impl From<usize> for Heads<'_> {
    fn from(count: usize) -> Self {
        Self { count, added: None }
    }
}

impl Heads<'_> {
    #[cfg(any(feature = "cuda", feature = "host-kernels"))]
    fn for_kernels(self) -> Result<usize> {
        match self.added {
            None => Ok(self.count),
            Some(_) => Err(crate::Error::Config(
                "relative position biases (BEiT's) are computed on the CPU only".into(),
            )),
        }
    }
}

/// One sample's packed projections `[N, 3, D]`, and the bias `[3, D]` that they lack.
#[derive(Clone, Copy)]
struct Projections<'a> {
    qkv: &'a [f32],
    bias: &'a [f32],
}

/// One head of one sample within the packed tensors.
#[derive(Clone, Copy)]
struct Head {
    tokens: usize,
    /// Width of a head and what it is padded to.
    width: usize,
    wide: usize,
    /// Keys, padded.
    keys: usize,
    /// Width of all heads together.
    dim: usize,
    /// The head's first column.
    at: usize,
}

impl Head {
    fn new(tokens: usize, dim: usize, heads: usize, head: usize) -> Self {
        let width = dim / heads;
        Self {
            tokens,
            width,
            wide: padded(width),
            keys: padded(tokens),
            dim,
            at: head * width,
        }
    }

    fn scale(self) -> f32 {
        1.0 / (self.width as f32).sqrt()
    }

    /// Numbers of a matrix with a row for each token.
    fn by_token(self) -> usize {
        self.tokens * self.wide
    }

    /// Numbers of a matrix with a column for each token.
    fn by_width(self) -> usize {
        self.width * self.keys
    }

    /// Part 0, 1 or 2 (q, k, v) of the tokens in `rows`, bias added, times `scale`: `[rows, wide]`.
    #[inline(always)]
    fn load(
        self,
        Projections { qkv, bias }: Projections<'_>,
        part: usize,
        rows: Range<usize>,
        scale: f32,
        out: &mut [f32],
    ) {
        let first = part * self.dim + self.at;
        let bias = &bias[first..][..self.width];
        for (out, row) in out.chunks_exact_mut(self.wide).zip(rows) {
            let from = &qkv[row * 3 * self.dim + first..][..self.width];
            let (out, rest) = out.split_at_mut(self.width);
            for ((out, x), b) in out.iter_mut().zip(from).zip(bias) {
                *out = (x + b) * scale;
            }
            rest.fill(0.0);
        }
    }

    /// The head's columns of the tokens in `rows` of a tensor `[N, D]`: `[rows, wide]`.
    #[inline(always)]
    fn load_plain(self, from: &[f32], rows: Range<usize>, out: &mut [f32]) {
        for (out, row) in out.chunks_exact_mut(self.wide).zip(rows) {
            let (out, rest) = out.split_at_mut(self.width);
            out.copy_from_slice(&from[row * self.dim + self.at..][..self.width]);
            rest.fill(0.0);
        }
    }

    /// `[N, wide]` → `[width, keys]`, zeros behind the last key.
    #[inline(always)]
    fn transpose(self, by_token: &[f32], out: &mut [f32]) {
        for (column, out) in out.chunks_exact_mut(self.keys).enumerate() {
            for (out, row) in out.iter_mut().zip(by_token.chunks_exact(self.wide)) {
                *out = row[column];
            }
            out[self.tokens..].fill(0.0);
        }
    }

    /// `scores = q · kᵀ` for some queries.
    #[inline(always)]
    fn scores(self, queries: usize, q: &[f32], keys: &[f32], scores: &mut [f32]) {
        let shape = (queries, self.keys, self.width);
        product(shape, Left::Rows(q, self.wide), keys, scores, false);
    }

    /// Adds what the head adds to the scores of the queries in `rows`, of `[N, N]`.
    #[inline(always)]
    fn add(self, rows: Range<usize>, added: &[f32], scores: &mut [f32]) {
        let added = added[rows.start * self.tokens..].chunks_exact(self.tokens);
        for (scores, added) in scores
            .chunks_exact_mut(self.keys)
            .zip(added)
            .take(rows.len())
        {
            add_to(&mut scores[..self.tokens], added);
        }
    }

    /// `out (+)= scoresᵀ · x` for some queries: `[N, wide]`.
    #[inline(always)]
    fn by_key(self, queries: usize, scores: &[f32], x: &[f32], out: &mut [f32], add: bool) {
        let shape = (self.tokens, self.wide, queries);
        product(shape, Left::Columns(scores, self.keys), x, out, add);
    }

    /// `out = scores · x` for some queries: `[queries, wide]`.
    #[inline(always)]
    fn by_query(self, queries: usize, scores: &[f32], x: &[f32], out: &mut [f32]) {
        let shape = (queries, self.wide, self.tokens);
        product(shape, Left::Rows(scores, self.keys), x, out, false);
    }
}

/// A row of the gradient of part 0, 1 or 2 (q, k, v), or the sum of all its rows.
struct Place {
    part: usize,
    row: Option<usize>,
}

fn blocks(tokens: usize) -> impl Iterator<Item = Range<usize>> {
    (0..tokens)
        .step_by(QUERIES)
        .map(move |first| first..(first + QUERIES).min(tokens))
}

/// Cuts a buffer into parts of these lengths.
fn split<const N: usize>(mut rest: &mut [f32], lengths: [usize; N]) -> [&mut [f32]; N] {
    lengths.map(|len| {
        let (part, tail) = std::mem::take(&mut rest).split_at_mut(len);
        rest = tail;
        part
    })
}

/// Of the two products of a forward pass that makes `out` `[B, N, D]`. A backward pass has four, and makes the scores again.
fn flop(out: &Tensor) -> Result<usize> {
    let (batch, tokens, dim) = out.dims3()?;
    Ok(2 * 2 * batch * tokens * tokens * dim)
}

/// `out = softmax(q · kᵀ / sqrt(W) + added) · v`, head by head, where q, k and v are `qkv + bias`.
///
/// # Errors
/// If a tensor is not a contiguous f32 tensor of a fitting size.
pub fn forward<'a>(
    qkv: &Tensor,
    bias: &Tensor,
    heads: impl Into<Heads<'a>>,
    out: &Tensor,
    stats: &Tensor,
) -> Result<()> {
    let _span = span("attention, forward").of(flop(out)?);
    let heads = heads.into();
    #[cfg(any(feature = "cuda", feature = "host-kernels"))]
    if let Some(engine) = kernels::engine(qkv) {
        let heads = heads.for_kernels()?;
        return kernels::attention::forward(&engine, qkv, bias, heads, out, stats);
    }
    let (_, tokens, dim) = out.dims3()?;
    let added = heads.added.map(read).transpose()?;
    let added = added.as_ref().map(|added| added.f32()).transpose()?;
    let heads = heads.count;
    let (qkv, bias) = (read(qkv)?, read(bias)?);
    let (qkv, bias) = (qkv.f32()?, bias.f32()?);
    write2(out, stats, |out, stats| {
        let out = Shared::new(out);
        stats
            .par_chunks_mut(tokens * 2)
            .enumerate()
            .for_each(|(task, stats)| {
                let (sample, head) = (task / heads, Head::new(tokens, dim, heads, task % heads));
                let qkv = &qkv[sample * tokens * 3 * dim..][..tokens * 3 * dim];
                let first = sample * tokens * dim + head.at;
                let qkv = Projections { qkv, bias };
                let added = of_head(added, tokens, task % heads);
                forward_head(head, qkv, added, stats, &mut |row, x| {
                    // SAFETY: sample, row and head differ from piece to piece, so no two slices share a number.
                    let to = unsafe { out.slice(first + row * dim..first + row * dim + x.len()) };
                    to.copy_from_slice(x);
                });
            });
        Ok(())
    })
}

/// A head's part of `[H, N, N]`.
fn of_head(added: Option<&[f32]>, tokens: usize, head: usize) -> Option<&[f32]> {
    added.map(|added| &added[head * tokens * tokens..][..tokens * tokens])
}

#[multiversion(targets = "simd")]
fn forward_head(
    head: Head,
    qkv: Projections<'_>,
    added: Option<&[f32]>,
    stats: &mut [f32],
    put: &mut dyn FnMut(usize, &[f32]),
) {
    let lengths = [
        head.by_token(),
        head.by_width(),
        QUERIES * head.wide,
        QUERIES * head.keys,
    ];
    let mut memory = scratch::take(lengths.iter().sum());
    let [values, keys, queries, scores] = split(&mut memory, lengths);
    head.load(qkv, 1, 0..head.tokens, 1.0, values);
    head.transpose(values, keys);
    head.load(qkv, 2, 0..head.tokens, 1.0, values);
    for rows in blocks(head.tokens) {
        let count = rows.len();
        head.load(qkv, 0, rows.clone(), head.scale(), queries);
        head.scores(count, queries, keys, scores);
        if let Some(added) = added {
            head.add(rows.clone(), added, scores);
        }
        for (row, stats) in scores
            .chunks_exact_mut(head.keys)
            .zip(stats[2 * rows.start..2 * rows.end].chunks_exact_mut(2))
        {
            let row = &mut row[..head.tokens];
            let top = max(row);
            for x in row.iter_mut() {
                *x = exp(*x - top);
            }
            stats.copy_from_slice(&[top, 1.0 / sum_by([row], |[x]| x)]);
        }
        // The queries are done with; their place takes the output.
        head.by_query(count, scores, values, queries);
        for (row, out) in rows.zip(queries.chunks_exact_mut(head.wide)) {
            let scale = stats[2 * row + 1];
            let out = &mut out[..head.width];
            out.iter_mut().for_each(|x| *x *= scale);
            put(row, out);
        }
    }
}

/// The gradient of qkv from that of the output, overwriting `dqkv`, and the bias's into its range of the flat gradients.
///
/// # Errors
/// As [`forward`].
#[expect(clippy::too_many_arguments, reason = "saved, given and made tensors")]
pub fn backward<'a>(
    (qkv, bias): (&Tensor, &Tensor),
    heads: impl Into<Heads<'a>>,
    (out, stats): (&Tensor, &Tensor),
    dout: &Tensor,
    dqkv: &Tensor,
    grads: &Tensor,
    dbias: Range<usize>,
    mode: Accumulate,
) -> Result<()> {
    let _span = span("attention, backward").of(2 * flop(out)?);
    let heads = heads.into();
    #[cfg(any(feature = "cuda", feature = "host-kernels"))]
    if let Some(engine) = kernels::engine(qkv) {
        return kernels::attention::backward(
            &engine,
            (qkv, bias),
            heads.for_kernels()?,
            (out, stats),
            dout,
            dqkv,
            grads,
            dbias,
            mode,
        );
    }
    let (batch, tokens, dim) = out.dims3()?;
    let added = heads.added.map(read).transpose()?;
    let added = added.as_ref().map(|added| added.f32()).transpose()?;
    let heads = heads.count;
    let (qkv, bias, out, stats, dout) = (
        read(qkv)?,
        read(bias)?,
        read(out)?,
        read(stats)?,
        read(dout)?,
    );
    let (qkv, bias, out) = (qkv.f32()?, bias.f32()?, out.f32()?);
    let (stats, dout) = (stats.f32()?, dout.f32()?);
    let mut sums = scratch::take(batch * 3 * dim);
    write(dqkv, |dqkv| {
        let (dqkv, sums) = (Shared::new(dqkv), Shared::new(&mut sums));
        stats
            .par_chunks(tokens * 2)
            .enumerate()
            .for_each(|(task, stats)| {
                let (sample, head) = (task / heads, Head::new(tokens, dim, heads, task % heads));
                let qkv = &qkv[sample * tokens * 3 * dim..][..tokens * 3 * dim];
                let out = &out[sample * tokens * dim..][..tokens * dim];
                let dout = &dout[sample * tokens * dim..][..tokens * dim];
                let first = sample * tokens * 3 * dim + head.at;
                let qkv = Projections { qkv, bias };
                backward_head(
                    head,
                    qkv,
                    of_head(added, tokens, task % heads),
                    (out, stats),
                    dout,
                    &mut |Place { part, row }, x| {
                        let at = match row {
                            Some(row) => first + row * 3 * dim + part * dim,
                            None => sample * 3 * dim + part * dim + head.at,
                        };
                        let to = if row.is_some() { &dqkv } else { &sums };
                        // SAFETY: sample, row, part and head differ from piece to piece, so no two slices share a number.
                        unsafe { to.slice(at..at + x.len()) }.copy_from_slice(x);
                    },
                );
            });
        Ok(())
    })?;
    write_parts(grads, [dbias], |[dbias]| {
        add_rows(&sums, dbias, mode);
        Ok(())
    })
}

#[multiversion(targets = "simd")]
fn backward_head(
    head: Head,
    qkv: Projections<'_>,
    added: Option<&[f32]>,
    (out, stats): (&[f32], &[f32]),
    dout: &[f32],
    put: &mut dyn FnMut(Place, &[f32]),
) {
    let (tokens, wide) = (head.tokens, head.wide);
    let lengths = [
        head.by_token(),
        head.by_width(),
        head.by_width(),
        head.by_token(),
        head.by_token(),
        QUERIES * wide,
        QUERIES * wide,
        QUERIES * head.keys,
        QUERIES * head.keys,
        3 * wide,
    ];
    let mut memory = scratch::take(lengths.iter().sum());
    let [
        keys,
        keys_t,
        values_t,
        dkeys,
        dvalues,
        queries,
        douts,
        probs,
        dscores,
        sums,
    ] = split(&mut memory, lengths);
    sums.fill(0.0);
    // The values themselves are not needed, only their transpose.
    head.load(qkv, 2, 0..tokens, 1.0, keys);
    head.transpose(keys, values_t);
    head.load(qkv, 1, 0..tokens, 1.0, keys);
    head.transpose(keys, keys_t);
    for rows in blocks(tokens) {
        let (count, add) = (rows.len(), rows.start > 0);
        head.load(qkv, 0, rows.clone(), head.scale(), queries);
        head.load_plain(dout, rows.clone(), douts);
        head.scores(count, queries, keys_t, probs);
        if let Some(added) = added {
            head.add(rows.clone(), added, probs);
        }
        head.scores(count, douts, values_t, dscores);
        for (i, row) in rows.clone().enumerate() {
            let at = row * head.dim + head.at;
            let (out, dout) = (&out[at..][..head.width], &dout[at..][..head.width]);
            // `Σⱼ pᵢⱼ dpᵢⱼ` equals the dot product of the output's row with its gradient.
            let dot = sum_by([out, dout], |[o, d]| o * d);
            let (top, scale) = (stats[2 * row], stats[2 * row + 1]);
            let probs = &mut probs[i * head.keys..][..tokens];
            let dscores = &mut dscores[i * head.keys..][..tokens];
            for (p, d) in probs.iter_mut().zip(dscores) {
                *p = exp(*p - top) * scale;
                *d = *p * (*d - dot);
            }
        }
        head.by_key(count, probs, douts, dvalues, add);
        head.by_key(count, dscores, queries, dkeys, add);
        // The gradients of the output are done with; their place takes the queries'.
        head.by_query(count, dscores, keys, douts);
        for (row, dq) in rows.zip(douts.chunks_exact_mut(wide)) {
            let scale = head.scale();
            dq.iter_mut().for_each(|x| *x *= scale);
            add_to(&mut sums[..wide], dq);
            put(
                Place {
                    part: 0,
                    row: Some(row),
                },
                &dq[..head.width],
            );
        }
    }
    for (part, gradient) in [(1, dkeys), (2, dvalues)] {
        for (row, d) in gradient.chunks_exact(wide).enumerate() {
            add_to(&mut sums[part * wide..][..wide], d);
            put(
                Place {
                    part,
                    row: Some(row),
                },
                &d[..head.width],
            );
        }
    }
    for (part, sum) in sums.chunks_exact(wide).enumerate() {
        put(Place { part, row: None }, &sum[..head.width]);
    }
}

#[inline(always)]
fn add_to(sums: &mut [f32], x: &[f32]) {
    for (sum, x) in sums.iter_mut().zip(x) {
        *sum += x;
    }
}
