//! The linear layer `y = x · Wᵀ + b`, optionally added to a residual: x `[M, K]`, W `[N, K]`,
//! b `[N]`, y `[M, N]`.

use std::ops::Range;

use candle_core::Tensor;
use multiversion::multiversion;
use rayon::prelude::*;

use super::access::{read, write, write_parts};
use super::gemm::{Mat, Out, product};
use crate::Result;

/// Rows of `y` that are prepared as one piece of work.
const ROWS: usize = 64;
/// Columns of a bias gradient that are summed as one piece of work.
const COLUMNS: usize = 64;

/// `y = x · Wᵀ + b (+ residual)`; `x` is `[M, K]` (leading dimensions are flattened).
///
/// # Errors
/// If a tensor is not a contiguous f32 tensor of a fitting size.
pub fn forward(
    x: &Tensor,
    weight: &Tensor,
    bias: &Tensor,
    residual: Option<&Tensor>,
    y: &Tensor,
) -> Result<()> {
    let (n, k) = weight.dims2()?;
    let m = x.elem_count() / k;
    let (x, weight, bias) = (read(x)?, read(weight)?, read(bias)?);
    let residual = residual.map(read).transpose()?;
    let (x, weight, bias) = (x.f32()?, weight.f32()?, bias.f32()?);
    let residual = residual.as_ref().map(|r| r.f32()).transpose()?;
    write(y, |y| {
        y.par_chunks_mut(ROWS * n)
            .enumerate()
            .for_each(|(i, rows)| match residual {
                Some(residual) => add_bias(rows, &residual[i * ROWS * n..][..rows.len()], bias),
                None => rows
                    .chunks_exact_mut(n)
                    .for_each(|row| row.copy_from_slice(bias)),
            });
        let out = Out {
            data: y,
            row_stride: n,
            add: true,
        };
        product(
            out,
            Mat::new(x, m, k),
            Mat::new(weight, n, k).t(),
            1.0,
            true,
        );
        Ok(())
    })
}

#[multiversion(targets = "simd")]
fn add_bias(rows: &mut [f32], residual: &[f32], bias: &[f32]) {
    let n = bias.len();
    for (row, residual) in rows.chunks_exact_mut(n).zip(residual.chunks_exact(n)) {
        for ((y, r), b) in row.iter_mut().zip(residual).zip(bias) {
            *y = r + b;
        }
    }
}

/// `dx = dy · W`, overwriting `dx`.
///
/// # Errors
/// As [`forward`].
pub fn backward_input(dy: &Tensor, weight: &Tensor, dx: &Tensor) -> Result<()> {
    let (n, k) = weight.dims2()?;
    let m = dy.elem_count() / n;
    let (dy, weight) = (read(dy)?, read(weight)?);
    let (dy, weight) = (dy.f32()?, weight.f32()?);
    write(dx, |dx| {
        let out = Out {
            data: dx,
            row_stride: k,
            add: false,
        };
        product(out, Mat::new(dy, m, n), Mat::new(weight, n, k), 1.0, true);
        Ok(())
    })
}

/// Adds `dyᵀ · x` to the weight's range of the flat gradients and dy's column sums to the bias's.
/// The weight's range must lie before the bias's.
///
/// # Errors
/// As [`forward`].
pub fn backward_params(
    x: &Tensor,
    dy: &Tensor,
    grads: &Tensor,
    weight: Range<usize>,
    bias: Range<usize>,
) -> Result<()> {
    let n = bias.len();
    let k = weight.len() / n;
    let m = dy.elem_count() / n;
    let (x, dy) = (read(x)?, read(dy)?);
    let (x, dy) = (x.f32()?, dy.f32()?);
    write_parts(grads, [weight, bias], |[dw, db]| {
        let out = Out {
            data: dw,
            row_stride: k,
            add: true,
        };
        product(out, Mat::new(dy, m, n).t(), Mat::new(x, m, k), 1.0, true);
        add_column_sums(dy, db);
        Ok(())
    })
}

/// `sums[j] += Σᵢ rows[i, j]`.
pub(super) fn add_column_sums(rows: &[f32], sums: &mut [f32]) {
    let n = sums.len();
    sums.par_chunks_mut(COLUMNS)
        .enumerate()
        .for_each(|(block, sums)| {
            column_block(rows, n, block * COLUMNS, sums);
        });
}

#[multiversion(targets = "simd")]
fn column_block(rows: &[f32], n: usize, first: usize, sums: &mut [f32]) {
    let mut total = [0f32; COLUMNS];
    let width = sums.len();
    for row in rows.chunks_exact(n) {
        for (t, x) in total[..width].iter_mut().zip(&row[first..first + width]) {
            *t += x;
        }
    }
    for (sum, t) in sums.iter_mut().zip(total) {
        *sum += t;
    }
}
