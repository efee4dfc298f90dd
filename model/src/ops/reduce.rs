//! Sums over whole flat tensors, and scaling them.

use std::ops::Range;

use candle_core::{Device, Tensor};
use rayon::prelude::*;

use multiversion::multiversion;

use super::Accumulate;
use super::access::{read, write, write_parts};
use super::math::sum_by_f64;
use crate::Result;
#[cfg(any(feature = "cuda", feature = "host-kernels"))]
use crate::kernels;
use crate::profile::span;

const CHUNK: usize = 1 << 14;
/// Columns that are summed as one piece of work.
const COLUMNS: usize = 64;

/// The Euclidean norm of every number of a tensor; NaN and infinities come through.
///
/// # Errors
/// If the tensor is not a contiguous f32 tensor on the CPU.
pub fn global_norm(x: &Tensor) -> Result<f64> {
    let _span = span("global norm");
    let x = x.to_device(&Device::Cpu)?;
    let x = read(&x)?;
    let partial: Vec<f64> = x.f32()?.par_chunks(CHUNK).map(squares).collect();
    Ok(partial.iter().sum::<f64>().sqrt())
}

#[multiversion(targets = "simd")]
fn squares(x: &[f32]) -> f64 {
    sum_by_f64([x], |[x]| x * x)
}

/// The mean of a tensor's numbers.
///
/// # Errors
/// As [`global_norm`].
pub fn mean(x: &Tensor) -> Result<f64> {
    // From wherever it is: for results, not for the middle of a step.
    let x = x.to_device(&Device::Cpu)?;
    let x = read(&x)?;
    let x = x.f32()?;
    Ok(x.iter().map(|&x| f64::from(x)).sum::<f64>() / x.len() as f64)
}

/// The sums of x's columns `[N]` (x is `[M, N]`, leading dimensions flattened) into their range of the flat gradients.
///
/// # Errors
/// As [`global_norm`].
pub fn column_sums(x: &Tensor, grads: &Tensor, sums: Range<usize>, mode: Accumulate) -> Result<()> {
    let _span = span("column sums");
    #[cfg(any(feature = "cuda", feature = "host-kernels"))]
    if let Some(engine) = kernels::engine(x) {
        return kernels::reduce::sums_of(&engine, x, grads, sums, mode);
    }
    let x = read(x)?;
    let x = x.f32()?;
    write_parts(grads, [sums], |[sums]| {
        add_rows(x, sums, mode);
        Ok(())
    })
}

/// `sums[j] (+)= Σᵢ rows[i, j]`, the rows in order.
pub(super) fn add_rows(rows: &[f32], sums: &mut [f32], mode: Accumulate) {
    let n = sums.len();
    sums.par_chunks_mut(COLUMNS)
        .enumerate()
        .for_each(|(block, sums)| {
            if mode == Accumulate::Replace {
                sums.fill(0.0);
            }
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

/// `x *= factor`.
///
/// # Errors
/// As [`global_norm`].
pub fn scale(x: &Tensor, factor: f32) -> Result<()> {
    #[cfg(any(feature = "cuda", feature = "host-kernels"))]
    if let Some(engine) = kernels::engine(x) {
        return kernels::elementwise::scale(&engine, x, factor);
    }
    write(x, |x| {
        x.par_chunks_mut(CHUNK)
            .for_each(|x| x.iter_mut().for_each(|x| *x *= factor));
        Ok(())
    })
}

/// Overwrites a tensor with one value.
///
/// # Errors
/// As [`global_norm`].
pub fn fill(x: &Tensor, value: f32) -> Result<()> {
    #[cfg(any(feature = "cuda", feature = "host-kernels"))]
    if let Some(engine) = kernels::engine(x) {
        return kernels::elementwise::fill(&engine, x, value);
    }
    write(x, |x| {
        x.par_chunks_mut(CHUNK).for_each(|x| x.fill(value));
        Ok(())
    })
}
