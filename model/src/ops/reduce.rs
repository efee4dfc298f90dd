//! Sums over whole flat tensors, and scaling them.

use candle_core::Tensor;
use rayon::prelude::*;

use super::access::{read, write};
use crate::Result;

const CHUNK: usize = 1 << 14;

/// The Euclidean norm of every number of a tensor; NaN and infinities come through.
///
/// # Errors
/// If the tensor is not a contiguous f32 tensor on the CPU.
pub fn global_norm(x: &Tensor) -> Result<f64> {
    let x = read(x)?;
    let partial: Vec<f64> = x
        .f32()?
        .par_chunks(CHUNK)
        .map(|x| x.iter().map(|&x| f64::from(x) * f64::from(x)).sum())
        .collect();
    Ok(partial.iter().sum::<f64>().sqrt())
}

/// The mean of a tensor's numbers.
///
/// # Errors
/// As [`global_norm`].
pub fn mean(x: &Tensor) -> Result<f64> {
    let x = read(x)?;
    let x = x.f32()?;
    Ok(x.iter().map(|&x| f64::from(x)).sum::<f64>() / x.len() as f64)
}

/// `x *= factor`.
///
/// # Errors
/// As [`global_norm`].
pub fn scale(x: &Tensor, factor: f32) -> Result<()> {
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
    write(x, |x| {
        x.par_chunks_mut(CHUNK).for_each(|x| x.fill(value));
        Ok(())
    })
}
