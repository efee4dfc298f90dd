//! Distributions over codes: the Gumbel-softmax, the divergence from the uniform distribution, the likeliest code.

use candle_core::{D, DType, Tensor};
use multiversion::multiversion;
use rayon::prelude::*;

use super::beside;
use crate::Result;
use crate::ops::access::{read, write};
use crate::ops::math::{exp, sum_by};

/// Rows that a thread takes at a time.
const ROWS: usize = 64;

/// `softmax((logits + noise) / temperature)` of each row of `[N, V]`.
pub(in super::super) fn relaxed(
    logits: &Tensor,
    noise: &Tensor,
    temperature: f64,
) -> Result<Tensor> {
    if !logits.device().is_cpu() {
        return relaxed_defined(logits, noise, temperature);
    }
    let (rows, codes) = logits.dims2()?;
    let scale = (1.0 / temperature) as f32;
    let shares = beside(logits, (rows, codes))?;
    let (logits, noise) = (read(logits)?, read(noise)?);
    let (logits, noise) = (logits.f32()?, noise.f32()?);
    write(&shares, |shares| {
        shares
            .par_chunks_mut(ROWS * codes)
            .zip(logits.par_chunks(ROWS * codes))
            .zip(noise.par_chunks(ROWS * codes))
            .for_each(|((shares, logits), noise)| relax_rows(codes, scale, logits, noise, shares));
        Ok(())
    })?;
    Ok(shares)
}

pub(super) fn relaxed_defined(logits: &Tensor, noise: &Tensor, temperature: f64) -> Result<Tensor> {
    let x = ((logits + noise)? * (1.0 / temperature))?;
    softmax_defined(&x)
}

/// The logits' gradient, given `shares` that [`relaxed`] made and their gradient, which is used up.
pub(in super::super) fn relaxed_back(
    shares: &Tensor,
    grad: Tensor,
    temperature: f64,
) -> Result<Tensor> {
    if !shares.device().is_cpu() {
        return relaxed_back_defined(shares, &grad, temperature);
    }
    let codes = shares.dim(D::Minus1)?;
    let scale = (1.0 / temperature) as f32;
    let shares = read(shares)?;
    let shares = shares.f32()?;
    write(&grad, |grad| {
        grad.par_chunks_mut(ROWS * codes)
            .zip(shares.par_chunks(ROWS * codes))
            .for_each(|(grad, shares)| relax_back_rows(codes, scale, shares, grad));
        Ok(())
    })?;
    Ok(grad)
}

pub(super) fn relaxed_back_defined(
    shares: &Tensor,
    grad: &Tensor,
    temperature: f64,
) -> Result<Tensor> {
    let mean = (shares * grad)?.sum_keepdim(D::Minus1)?;
    Ok(((shares * grad.broadcast_sub(&mean)?)? * (1.0 / temperature))?)
}

/// `KL(softmax(logits) ‖ uniform)` of each row of `[N, V]`, in nats: `[N]`.
pub(in super::super) fn divergence(logits: &Tensor) -> Result<Tensor> {
    if !logits.device().is_cpu() {
        return divergence_defined(logits);
    }
    let (rows, codes) = logits.dims2()?;
    let all = Tensor::zeros(rows, DType::F32, logits.device())?;
    let logits = read(logits)?;
    let logits = logits.f32()?;
    write(&all, |all| {
        all.par_chunks_mut(ROWS)
            .zip(logits.par_chunks(ROWS * codes))
            .for_each_init(
                || vec![0f32; codes],
                |q, (all, logits)| diverge_rows(codes, logits, q, all),
            );
        Ok(())
    })?;
    Ok(all)
}

pub(super) fn divergence_defined(logits: &Tensor) -> Result<Tensor> {
    let codes = logits.dim(D::Minus1)? as f64;
    let (q, log_q) = shares_defined(logits)?;
    Ok(((q * log_q)?.sum(D::Minus1)? + codes.ln())?)
}

/// `onto`, which is used up, and `weight` times the gradient of the sum of [`divergence`].
pub(in super::super) fn add_divergence_back(
    logits: &Tensor,
    weight: f64,
    onto: Tensor,
) -> Result<Tensor> {
    if !logits.device().is_cpu() {
        return Ok((onto + (divergence_back_defined(logits)? * weight)?)?);
    }
    let codes = logits.dim(D::Minus1)?;
    let logits = read(logits)?;
    let logits = logits.f32()?;
    write(&onto, |onto| {
        onto.par_chunks_mut(ROWS * codes)
            .zip(logits.par_chunks(ROWS * codes))
            .for_each_init(
                || vec![0f32; codes],
                |q, (onto, logits)| diverge_back_rows(codes, logits, weight as f32, q, onto),
            );
        Ok(())
    })?;
    Ok(onto)
}

pub(super) fn divergence_back_defined(logits: &Tensor) -> Result<Tensor> {
    let (q, log_q) = shares_defined(logits)?;
    let mean = (&q * &log_q)?.sum_keepdim(D::Minus1)?;
    Ok((q * log_q.broadcast_sub(&mean)?)?)
}

/// The largest number's place in each row of `[N, V]`, the first of equals: u32 `[N]`.
pub(in super::super) fn likeliest(logits: &Tensor) -> Result<Tensor> {
    if !logits.device().is_cpu() {
        return Ok(logits.argmax(D::Minus1)?);
    }
    let (rows, codes) = logits.dims2()?;
    let numbers = read(logits)?;
    let numbers = numbers.f32()?;
    let all: Vec<u32> = (0..rows)
        .into_par_iter()
        .with_min_len(ROWS)
        .map(|row| first_largest(&numbers[row * codes..][..codes]))
        .collect();
    Ok(Tensor::from_vec(all, rows, logits.device())?)
}

fn softmax_defined(x: &Tensor) -> Result<Tensor> {
    // The largest is taken away from each: softmax does not see a shift.
    let powers = x
        .broadcast_sub(&x.max_keepdim(D::Minus1)?.detach())?
        .exp()?;
    Ok(powers.broadcast_div(&powers.sum_keepdim(D::Minus1)?)?)
}

/// Shares and their logarithms.
fn shares_defined(logits: &Tensor) -> Result<(Tensor, Tensor)> {
    let x = logits.broadcast_sub(&logits.max_keepdim(D::Minus1)?.detach())?;
    let log_q = x.broadcast_sub(&x.exp()?.sum_keepdim(D::Minus1)?.log()?)?;
    Ok((log_q.exp()?, log_q))
}

#[inline(always)]
fn largest(x: &[f32]) -> f32 {
    x.iter().fold(
        f32::NEG_INFINITY,
        |most, &x| if x > most { x } else { most },
    )
}

#[multiversion(targets = "simd")]
fn first_largest(x: &[f32]) -> u32 {
    let most = largest(x);
    x.iter().position(|&x| x == most).unwrap_or(0) as u32
}

#[multiversion(targets = "simd")]
fn relax_rows(codes: usize, scale: f32, logits: &[f32], noise: &[f32], out: &mut [f32]) {
    let rows = logits.chunks_exact(codes).zip(noise.chunks_exact(codes));
    for ((logits, noise), out) in rows.zip(out.chunks_exact_mut(codes)) {
        for ((y, l), g) in out.iter_mut().zip(logits).zip(noise) {
            *y = (l + g) * scale;
        }
        let most = largest(out);
        softmax(out, most);
    }
}

/// Turns numbers, of which `most` is the largest, into their softmax; returns the logarithm of the sum of powers, `most` taken away.
#[inline(always)]
fn softmax(x: &mut [f32], most: f32) -> f32 {
    // Powers and their sum apart, the sum in fixed lanes: both become vector code.
    x.iter_mut().for_each(|x| *x = exp(*x - most));
    let sum = sum_by([x], |[x]| x);
    let share = 1.0 / sum;
    x.iter_mut().for_each(|x| *x *= share);
    sum.ln()
}

#[multiversion(targets = "simd")]
fn relax_back_rows(codes: usize, scale: f32, shares: &[f32], grad: &mut [f32]) {
    for (y, grad) in shares.chunks_exact(codes).zip(grad.chunks_exact_mut(codes)) {
        let mean = sum_by([y, grad], |[y, grad]| y * grad);
        for (grad, y) in grad.iter_mut().zip(y) {
            *grad = scale * y * (*grad - mean);
        }
    }
}

/// Fills `q` with a row's shares; returns the sum of their products with their logarithms, and what a logit exceeds its share's logarithm by.
#[inline(always)]
fn negative_entropy(logits: &[f32], q: &mut [f32]) -> (f32, f32) {
    let most = largest(logits);
    q.copy_from_slice(logits);
    let excess = most + softmax(q, most);
    (sum_by([q, logits], |[q, l]| q * (l - excess)), excess)
}

#[multiversion(targets = "simd")]
fn diverge_rows(codes: usize, logits: &[f32], q: &mut [f32], out: &mut [f32]) {
    let most = (codes as f32).ln();
    for (out, logits) in out.iter_mut().zip(logits.chunks_exact(codes)) {
        *out = most + negative_entropy(logits, q).0;
    }
}

#[multiversion(targets = "simd")]
fn diverge_back_rows(codes: usize, logits: &[f32], weight: f32, q: &mut [f32], onto: &mut [f32]) {
    for (logits, onto) in logits.chunks_exact(codes).zip(onto.chunks_exact_mut(codes)) {
        let (sum, excess) = negative_entropy(logits, q);
        for ((onto, q), l) in onto.iter_mut().zip(&*q).zip(logits) {
            *onto += weight * q * (l - excess - sum);
        }
    }
}
