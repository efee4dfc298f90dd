//! Multi-head self-attention over packed projections: qkv `[B, N, 3, H, W]`, output `[B, N, H, W]`.
//!
//! Each softmax row's maximum and reciprocal sum are kept (`[B, H, N, 2]`); the backward computes
//! the very same probabilities again from them, so nothing of size `[B, H, N, N]` is ever held.

use candle_core::Tensor;
use multiversion::multiversion;
use rayon::prelude::*;

use super::access::{read, write, write2};
use super::gemm::{Mat, Out, product};
use super::math::{exp, max, sum_by};
use crate::Result;

/// `out = softmax(q · kᵀ / sqrt(W)) · v`, head by head.
///
/// # Errors
/// If a tensor is not a contiguous f32 tensor of a fitting size.
pub fn forward(qkv: &Tensor, heads: usize, out: &Tensor, stats: &Tensor) -> Result<()> {
    let (_, tokens, dim) = out.dims3()?;
    let width = dim / heads;
    let qkv = read(qkv)?;
    let qkv = qkv.f32()?;
    write2(out, stats, |out, stats| {
        out.par_chunks_mut(tokens * dim)
            .zip(qkv.par_chunks(tokens * 3 * dim))
            .zip(stats.par_chunks_mut(heads * tokens * 2))
            .for_each_init(
                || vec![0f32; tokens * tokens],
                |scores, ((out, qkv), stats)| {
                    for head in 0..heads {
                        let [q, k, v] = head_of(qkv, tokens, dim, head, width);
                        let dst = Out {
                            data: scores,
                            row_stride: tokens,
                            add: false,
                        };
                        product(dst, q, k.t(), 1.0 / (width as f32).sqrt(), false);
                        let stats = &mut stats[head * tokens * 2..][..tokens * 2];
                        softmax_rows(scores, stats);
                        let out = &mut out[head * width..];
                        let dst = Out {
                            data: out,
                            row_stride: dim,
                            add: false,
                        };
                        product(dst, Mat::new(scores, tokens, tokens), v, 1.0, false);
                    }
                },
            );
        Ok(())
    })
}

/// Queries, keys and values `[N, W]` of one head within one sample's packed projections.
fn head_of(qkv: &[f32], tokens: usize, dim: usize, head: usize, width: usize) -> [Mat<'_>; 3] {
    [0, 1, 2].map(|part| Mat::strided(&qkv[part * dim + head * width..], tokens, width, 3 * dim))
}

#[multiversion(targets = "simd")]
fn softmax_rows(scores: &mut [f32], stats: &mut [f32]) {
    let n = stats.len() / 2;
    for (row, stats) in scores.chunks_exact_mut(n).zip(stats.chunks_exact_mut(2)) {
        let top = max(row);
        for x in row.iter_mut() {
            *x = exp(*x - top);
        }
        let scale = 1.0 / sum_by(n, |i| row[i]);
        for x in row.iter_mut() {
            *x *= scale;
        }
        stats.copy_from_slice(&[top, scale]);
    }
}

/// The gradient of qkv from that of the output, overwriting `dqkv`.
///
/// # Errors
/// As [`forward`].
pub fn backward(
    qkv: &Tensor,
    heads: usize,
    out: &Tensor,
    stats: &Tensor,
    dout: &Tensor,
    dqkv: &Tensor,
) -> Result<()> {
    let (_, tokens, dim) = out.dims3()?;
    let width = dim / heads;
    let (qkv, out, stats, dout) = (read(qkv)?, read(out)?, read(stats)?, read(dout)?);
    let (qkv, out, stats, dout) = (qkv.f32()?, out.f32()?, stats.f32()?, dout.f32()?);
    write(dqkv, |dqkv| {
        dqkv.par_chunks_mut(tokens * 3 * dim)
            .zip(qkv.par_chunks(tokens * 3 * dim))
            .zip(out.par_chunks(tokens * dim))
            .zip(dout.par_chunks(tokens * dim))
            .zip(stats.par_chunks(heads * tokens * 2))
            .for_each_init(
                || (vec![0f32; tokens * tokens], vec![0f32; tokens * tokens]),
                |(probs, dscores), ((((dqkv, qkv), out), dout), stats)| {
                    for head in 0..heads {
                        let scale = 1.0 / (width as f32).sqrt();
                        let [q, k, v] = head_of(qkv, tokens, dim, head, width);
                        let at = head * width;
                        let (out, dout) = (&out[at..], &dout[at..]);
                        let douts = Mat::strided(dout, tokens, width, dim);
                        let stats = &stats[head * tokens * 2..][..tokens * 2];

                        let dst = Out {
                            data: probs,
                            row_stride: tokens,
                            add: false,
                        };
                        product(dst, q, k.t(), scale, false);
                        let dst = Out {
                            data: dscores,
                            row_stride: tokens,
                            add: false,
                        };
                        product(dst, douts, v.t(), 1.0, false);
                        softmax_backward(probs, dscores, stats, out, dout, dim, width);

                        let (p, ds) = (
                            Mat::new(probs, tokens, tokens),
                            Mat::new(dscores, tokens, tokens),
                        );
                        let gradients = [
                            (0, ds, k, scale),
                            (1, ds.t(), q, scale),
                            (2, p.t(), douts, 1.0),
                        ];
                        for (part, a, b, scale) in gradients {
                            let data = &mut dqkv[part * dim + at..];
                            let dst = Out {
                                data,
                                row_stride: 3 * dim,
                                add: false,
                            };
                            product(dst, a, b, scale, false);
                        }
                    }
                },
            );
        Ok(())
    })
}

/// Scores become probabilities; the probabilities' gradients become the scores'.
/// `Σⱼ pᵢⱼ dpᵢⱼ` equals the dot product of the output's row with its gradient.
#[multiversion(targets = "simd")]
fn softmax_backward(
    probs: &mut [f32],
    dprobs: &mut [f32],
    stats: &[f32],
    out: &[f32],
    dout: &[f32],
    dim: usize,
    width: usize,
) {
    let n = stats.len() / 2;
    let rows = probs.chunks_exact_mut(n).zip(dprobs.chunks_exact_mut(n));
    for (i, (p, d)) in rows.enumerate() {
        let (out, dout) = (&out[i * dim..][..width], &dout[i * dim..][..width]);
        let dot = sum_by(width, |j| out[j] * dout[j]);
        let (top, scale) = (stats[2 * i], stats[2 * i + 1]);
        for (p, d) in p.iter_mut().zip(d.iter_mut()) {
            *p = exp(*p - top) * scale;
            *d = *p * (*d - dot);
        }
    }
}
