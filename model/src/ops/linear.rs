//! The products of the linear layer `y = x · Wᵀ + b`: x `[M, K]`, W `[N, K]`, y `[M, N]`, leading dimensions flattened.
//!
//! The bias is added by the operation that reads y (the activation, the norm, attention, the loss), which passes over it anyway,
//! and the bias's gradient is made where that of y is.

use std::ops::Range;

use candle_core::Tensor;
use rayon::prelude::*;

use super::Accumulate;
use super::access::{read, write, write_parts};
use super::gemm::{Mat, product};
use crate::Result;
#[cfg(any(feature = "cuda", feature = "host-kernels"))]
use crate::kernels;
use crate::precision::Precision;
use crate::profile::span;

/// `y = x · Wᵀ`, overwriting y.
///
/// # Errors
/// If a tensor is not a contiguous f32 tensor of a fitting size.
pub fn forward(x: &Tensor, weight: &Tensor, y: &Tensor, precision: Precision) -> Result<()> {
    let _span = span("product, forward").of(2 * x.elem_count() * weight.dim(0)?);
    #[cfg(any(feature = "cuda", feature = "host-kernels"))]
    if let Some(engine) = kernels::engine(x) {
        return kernels::product::forward(&engine, x, weight, y, precision);
    }
    on_cpu(precision)?;
    let (n, k) = weight.dims2()?;
    let m = x.elem_count() / k;
    let (x, weight) = (read(x)?, read(weight)?);
    let (x, weight) = (x.f32()?, weight.f32()?);
    write(y, |y| {
        let (x, weight) = (Mat::new(x, m, k), Mat::new(weight, n, k));
        product(y, false, x, weight.t());
        Ok(())
    })
}

/// `y += bias` in every row, as long as the bias, where no other operation does it on the way.
///
/// # Errors
/// As [`forward`].
pub fn add_bias(y: &Tensor, bias: &Tensor) -> Result<()> {
    let _span = span("bias");
    #[cfg(any(feature = "cuda", feature = "host-kernels"))]
    if let Some(engine) = kernels::engine(y) {
        return kernels::elementwise::add_bias(&engine, y, bias);
    }
    let bias = read(bias)?;
    let bias = bias.f32()?;
    write(y, |y| {
        y.par_chunks_exact_mut(bias.len())
            .for_each(|row| row.iter_mut().zip(bias).for_each(|(y, b)| *y += b));
        Ok(())
    })
}

/// `dx = dy · W`, overwriting dx.
///
/// # Errors
/// As [`forward`].
pub fn backward_input(
    dy: &Tensor,
    weight: &Tensor,
    dx: &Tensor,
    precision: Precision,
) -> Result<()> {
    let _span = span("product, input's gradient").of(2 * weight.elem_count() * rows(dy)?);
    #[cfg(any(feature = "cuda", feature = "host-kernels"))]
    if let Some(engine) = kernels::engine(dy) {
        return kernels::product::backward_input(&engine, dy, weight, dx, precision);
    }
    on_cpu(precision)?;
    let (n, k) = weight.dims2()?;
    let m = dy.elem_count() / n;
    let (dy, weight) = (read(dy)?, read(weight)?);
    let (dy, weight) = (dy.f32()?, weight.f32()?);
    write(dx, |dx| {
        product(dx, false, Mat::new(dy, m, n), Mat::new(weight, n, k));
        Ok(())
    })
}

/// `dyᵀ · x` into the weight's range of the flat gradients; dy is `[.., N]`.
///
/// # Errors
/// As [`forward`].
pub fn backward_weight(
    x: &Tensor,
    dy: &Tensor,
    grads: &Tensor,
    weight: Range<usize>,
    mode: Accumulate,
    precision: Precision,
) -> Result<()> {
    let _span = span("product, weight's gradient").of(2 * weight.len() * rows(dy)?);
    let n = dy.dim(candle_core::D::Minus1)?;
    let k = weight.len() / n;
    let m = dy.elem_count() / n;
    let add = mode == Accumulate::Add;
    #[cfg(any(feature = "cuda", feature = "host-kernels"))]
    if let Some(engine) = kernels::engine(dy) {
        let grads = (grads, weight.start);
        return kernels::product::backward_weight(&engine, x, dy, grads, (n, k), add, precision);
    }
    on_cpu(precision)?;
    let (x, dy) = (read(x)?, read(dy)?);
    let (x, dy) = (x.f32()?, dy.f32()?);
    write_parts(grads, [weight], |[dw]| {
        product(dw, add, Mat::new(dy, m, n).t(), Mat::new(x, m, k));
        Ok(())
    })
}

/// Leading dimensions, flattened.
fn rows(x: &Tensor) -> Result<usize> {
    Ok(x.elem_count() / x.dim(candle_core::D::Minus1)?.max(1))
}

fn on_cpu(precision: Precision) -> Result<()> {
    match precision {
        Precision::F32 => Ok(()),
        other => Err(crate::Error::Config(format!(
            "the CPU computes in f32, not in {other}"
        ))),
    }
}
