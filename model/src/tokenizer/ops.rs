//! What the tokenizer does besides candle's products and sums: patches of a grid, the neighbourhoods of a 3 × 3 convolution, the
//! Gumbel-softmax, and the divergence from the uniform distribution.
//!
//! Each has its definition in candle's operations, on any device. On the CPU, where candle runs an operation on one thread and
//! its backward allocates each intermediate anew, the last three are one pass forwards and one backwards.

use candle_core::{CpuStorage, CustomOp1, CustomOp2, D, Layout, Result, Shape, Tensor};
use multiversion::multiversion;
use rayon::prelude::*;

use crate::ops::math::exp;

/// `[B, H, W, C]` as `[B · H/S · W/S, S · S · C]`, each row a square of side `S`, row by row.
pub(super) fn squares(x: &Tensor, side: usize) -> Result<Tensor> {
    let (batch, height, width, channels) = x.dims4()?;
    let (rows, columns) = (height / side, width / side);
    let row = side * side * channels;
    x.reshape(vec![batch, rows, side, columns, side, channels])?
        .permute(vec![0, 1, 3, 2, 4, 5])?
        .reshape((batch * rows * columns, row))
}

/// The inverse of [`squares`]: `[B · rows · columns, S · S · C]` as `[B, rows · S, columns · S, C]`.
pub(super) fn from_squares(
    x: &Tensor,
    (rows, columns): (usize, usize),
    side: usize,
) -> Result<Tensor> {
    let (all, row) = x.dims2()?;
    let (batch, channels) = (all / (rows * columns), row / (side * side));
    x.reshape(vec![batch, rows, columns, side, side, channels])?
        .permute(vec![0, 1, 3, 2, 4, 5])?
        .reshape((batch, rows * side, columns * side, channels))
}

/// `[B, H, W, C]` as `[B · H · W, 9 · C]`: each place's 3 × 3 neighbourhood, row by row, zero beyond the edge.
pub(super) fn neighbourhoods(x: &Tensor) -> Result<Tensor> {
    let (batch, height, width, channels) = x.dims4()?;
    let all = match x.device().is_cpu() {
        true => x.contiguous()?.apply_op1(Neighbourhoods)?,
        false => neighbourhoods_defined(x)?,
    };
    all.reshape((batch * height * width, 9 * channels))
}

fn neighbourhoods_defined(x: &Tensor) -> Result<Tensor> {
    let (batch, height, width, channels) = x.dims4()?;
    let padded = x.pad_with_zeros(1, 1, 1)?.pad_with_zeros(2, 1, 1)?;
    let at = |row: usize, column: usize| (row * (width + 2) + column) as u32;
    let places: Vec<u32> = (0..height * width * 9)
        .map(|i| {
            let (place, near) = (i / 9, i % 9);
            at(place / width + near / 3, place % width + near % 3)
        })
        .collect();
    let places = Tensor::new(places, x.device())?;
    padded
        .reshape((batch, (height + 2) * (width + 2), channels))?
        .index_select(&places, 1)
}

/// `softmax((logits + noise) / temperature)` of each row of `[N, V]`.
pub(super) fn relaxed(logits: &Tensor, noise: &Tensor, temperature: f64) -> Result<Tensor> {
    match logits.device().is_cpu() {
        true => logits.apply_op2(noise, Relaxed { temperature }),
        false => relaxed_defined(logits, noise, temperature),
    }
}

fn relaxed_defined(logits: &Tensor, noise: &Tensor, temperature: f64) -> Result<Tensor> {
    let x = ((logits + noise)? * (1.0 / temperature))?;
    // The largest is taken away from each and needs no gradient: softmax does not see a shift.
    let powers = x
        .broadcast_sub(&x.max_keepdim(D::Minus1)?.detach())?
        .exp()?;
    powers.broadcast_div(&powers.sum_keepdim(D::Minus1)?)
}

/// `KL(softmax(logits) ‖ uniform)` of each row of `[N, V]`, in nats: `[N]`.
pub(super) fn divergence(logits: &Tensor) -> Result<Tensor> {
    match logits.device().is_cpu() {
        true => logits.apply_op1(Divergence),
        false => divergence_defined(logits),
    }
}

fn divergence_defined(logits: &Tensor) -> Result<Tensor> {
    let codes = logits.dim(D::Minus1)?;
    let x = logits.broadcast_sub(&logits.max_keepdim(D::Minus1)?.detach())?;
    let log_q = x.broadcast_sub(&x.exp()?.sum_keepdim(D::Minus1)?.log()?)?;
    (&log_q * log_q.exp()?)?.sum(D::Minus1)? + (codes as f64).ln()
}

fn numbers<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    let (start, end) = match layout.contiguous_offsets() {
        Some(range) => range,
        None => candle_core::bail!("an operation of the tokenizer needs contiguous tensors"),
    };
    Ok(&storage.as_slice::<f32>()?[start..end])
}

/// Makes a CPU tensor of `shape` from those of `inputs`, which are contiguous f32.
fn made<const N: usize>(
    inputs: [&Tensor; N],
    shape: &Shape,
    make: impl FnOnce([&[f32]; N], &mut [f32]),
) -> Result<Tensor> {
    let inputs: Vec<Tensor> = inputs
        .iter()
        .map(|x| x.contiguous())
        .collect::<Result<_>>()?;
    let guards: Vec<_> = inputs.iter().map(|x| x.storage_and_layout()).collect();
    let mut slices: [&[f32]; N] = [&[]; N];
    for (slice, (storage, layout)) in slices.iter_mut().zip(&guards) {
        *slice = match &**storage {
            candle_core::Storage::Cpu(storage) => numbers(storage, layout)?,
            _ => candle_core::bail!("an operation of the tokenizer's CPU side met another device"),
        };
    }
    let mut out = vec![0f32; shape.elem_count()];
    make(slices, &mut out);
    Tensor::from_vec(out, shape.clone(), &candle_core::Device::Cpu)
}

struct Neighbourhoods;

impl CustomOp1 for Neighbourhoods {
    fn name(&self) -> &'static str {
        "neighbourhoods"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = numbers(storage, layout)?;
        let (batch, height, width, channels) = layout.shape().dims4()?;
        let mut out = vec![0f32; 9 * x.len()];
        let image = height * width * channels;
        out.par_chunks_mut((9 * image).max(1))
            .zip(x.par_chunks(image.max(1)))
            .for_each(|(out, x)| {
                each_neighbour(height, width, |place, near, other| {
                    out[(9 * place + near) * channels..][..channels]
                        .copy_from_slice(&x[other * channels..][..channels]);
                });
            });
        let shape = Shape::from((batch, height * width * 9, channels));
        Ok((CpuStorage::F32(out), shape))
    }

    fn bwd(&self, arg: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let (_, height, width, channels) = arg.dims4()?;
        let image = height * width * channels;
        let sums = made([grad], arg.shape(), |[grad], out| {
            out.par_chunks_mut(image.max(1))
                .zip(grad.par_chunks((9 * image).max(1)))
                .for_each(|(out, grad)| {
                    each_neighbour(height, width, |place, near, other| {
                        let grad = &grad[(9 * place + near) * channels..][..channels];
                        let out = &mut out[other * channels..][..channels];
                        out.iter_mut().zip(grad).for_each(|(sum, x)| *sum += x);
                    });
                });
        });
        sums.map(Some)
    }
}

/// Calls `each` with a place, the number of a neighbour (0 to 8), and the neighbour's place, for all that lie inside.
fn each_neighbour(height: usize, width: usize, mut each: impl FnMut(usize, usize, usize)) {
    for place in 0..height * width {
        let (row, column) = (place / width, place % width);
        for near in 0..9 {
            // Both one too many, so that they are not negative.
            let (other_row, other_column) = (row + near / 3, column + near % 3);
            if (1..=height).contains(&other_row) && (1..=width).contains(&other_column) {
                each(place, near, (other_row - 1) * width + other_column - 1);
            }
        }
    }
}

/// Rows that a thread takes at a time.
const ROWS: usize = 64;

struct Relaxed {
    temperature: f64,
}

impl CustomOp2 for Relaxed {
    fn name(&self) -> &'static str {
        "gumbel-softmax"
    }

    fn cpu_fwd(
        &self,
        logits: &CpuStorage,
        layout: &Layout,
        noise: &CpuStorage,
        noise_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (logits, noise) = (numbers(logits, layout)?, numbers(noise, noise_layout)?);
        let codes = layout.shape().dims2()?.1;
        let scale = (1.0 / self.temperature) as f32;
        let mut out = vec![0f32; logits.len()];
        out.par_chunks_mut(ROWS * codes)
            .zip(logits.par_chunks(ROWS * codes))
            .zip(noise.par_chunks(ROWS * codes))
            .for_each(|((out, logits), noise)| relax_rows(codes, scale, logits, noise, out));
        Ok((CpuStorage::F32(out), layout.shape().clone()))
    }

    fn bwd(
        &self,
        _: &Tensor,
        _: &Tensor,
        result: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let codes = result.dims2()?.1;
        let scale = (1.0 / self.temperature) as f32;
        let grad = made([result, grad], result.shape(), |[y, grad], out| {
            out.par_chunks_mut(ROWS * codes)
                .zip(y.par_chunks(ROWS * codes))
                .zip(grad.par_chunks(ROWS * codes))
                .for_each(|((out, y), grad)| relax_back_rows(codes, scale, y, grad, out));
        })?;
        Ok((Some(grad), None))
    }
}

#[multiversion(targets = "simd")]
fn relax_rows(codes: usize, scale: f32, logits: &[f32], noise: &[f32], out: &mut [f32]) {
    let rows = logits.chunks_exact(codes).zip(noise.chunks_exact(codes));
    for ((logits, noise), out) in rows.zip(out.chunks_exact_mut(codes)) {
        let mut most = f32::NEG_INFINITY;
        for ((y, l), g) in out.iter_mut().zip(logits).zip(noise) {
            *y = (l + g) * scale;
            most = if *y > most { *y } else { most };
        }
        softmax(out, most);
    }
}

/// Turns numbers, of which `most` is the largest, into their softmax; returns the logarithm of the sum of powers, `most` taken away.
#[inline(always)]
fn softmax(x: &mut [f32], most: f32) -> f32 {
    // Powers and their sum apart, the sum in fixed lanes: both become vector code.
    x.iter_mut().for_each(|x| *x = exp(*x - most));
    let sum = crate::ops::math::sum_by([x], |[x]| x);
    let share = 1.0 / sum;
    x.iter_mut().for_each(|x| *x *= share);
    sum.ln()
}

#[multiversion(targets = "simd")]
fn relax_back_rows(codes: usize, scale: f32, y: &[f32], grad: &[f32], out: &mut [f32]) {
    let rows = y.chunks_exact(codes).zip(grad.chunks_exact(codes));
    for ((y, grad), out) in rows.zip(out.chunks_exact_mut(codes)) {
        let mean = crate::ops::math::sum_by([y, grad], |[y, grad]| y * grad);
        for ((out, y), grad) in out.iter_mut().zip(y).zip(grad) {
            *out = scale * y * (grad - mean);
        }
    }
}

struct Divergence;

impl CustomOp1 for Divergence {
    fn name(&self) -> &'static str {
        "divergence"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let logits = numbers(storage, layout)?;
        let (rows, codes) = layout.shape().dims2()?;
        let mut out = vec![0f32; rows];
        out.par_chunks_mut(ROWS)
            .zip(logits.par_chunks(ROWS * codes))
            .for_each_init(
                || vec![0f32; 2 * codes],
                |scratch, (out, logits)| diverge_rows(codes, logits, scratch, out),
            );
        Ok((CpuStorage::F32(out), Shape::from(rows)))
    }

    fn bwd(&self, logits: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let codes = logits.dims2()?.1;
        let grad = made([logits, grad], logits.shape(), |[logits, grad], out| {
            out.par_chunks_mut(ROWS * codes)
                .zip(logits.par_chunks(ROWS * codes))
                .zip(grad.par_chunks(ROWS))
                .for_each_init(
                    || vec![0f32; 2 * codes],
                    |scratch, ((out, logits), grad)| {
                        diverge_back_rows(codes, logits, grad, scratch, out);
                    },
                );
        })?;
        Ok(Some(grad))
    }
}

/// A row's probabilities and their logarithms; returns the sum of their products.
#[inline(always)]
fn negative_entropy(logits: &[f32], q: &mut [f32], log_q: &mut [f32]) -> f32 {
    let mut most = f32::NEG_INFINITY;
    for &l in logits {
        most = if l > most { l } else { most };
    }
    q.copy_from_slice(logits);
    let log_sum = softmax(q, most);
    for (log_q, l) in log_q.iter_mut().zip(logits) {
        *log_q = l - most - log_sum;
    }
    crate::ops::math::sum_by([q, log_q], |[q, log_q]| q * log_q)
}

#[multiversion(targets = "simd")]
fn diverge_rows(codes: usize, logits: &[f32], scratch: &mut [f32], out: &mut [f32]) {
    let (q, log_q) = scratch.split_at_mut(codes);
    let most = (codes as f32).ln();
    for (out, logits) in out.iter_mut().zip(logits.chunks_exact(codes)) {
        *out = most + negative_entropy(logits, q, log_q);
    }
}

#[multiversion(targets = "simd")]
fn diverge_back_rows(
    codes: usize,
    logits: &[f32],
    grad: &[f32],
    scratch: &mut [f32],
    out: &mut [f32],
) {
    let (q, log_q) = scratch.split_at_mut(codes);
    let rows = logits.chunks_exact(codes).zip(grad);
    for ((logits, grad), out) in rows.zip(out.chunks_exact_mut(codes)) {
        let sum = negative_entropy(logits, q, log_q);
        for ((out, q), log_q) in out.iter_mut().zip(&*q).zip(&*log_q) {
            *out = grad * q * (log_q - sum);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{Device, Var};

    fn var(shape: &[usize]) -> Var {
        let count = shape.iter().product();
        let numbers: Vec<f32> = (0..count)
            .map(|i| ((i * 7919 + 13) % 101) as f32 / 20.0 - 2.5)
            .collect();
        Var::from_tensor(&Tensor::from_vec(numbers, shape, &Device::Cpu).unwrap()).unwrap()
    }

    /// One pass and definition agree in value and in the gradient of a sum with unequal weights.
    fn agree(x: &Var, fused: Result<Tensor>, defined: Result<Tensor>) {
        let results = [fused, defined].map(|y| {
            let y = y.unwrap();
            let weights = var(y.dims());
            let sum = (&y * weights.as_tensor().detach())
                .unwrap()
                .sum_all()
                .unwrap();
            let grads = sum.backward().unwrap();
            let flat = |x: &Tensor| x.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            [flat(&y), flat(grads.get(x.as_tensor()).unwrap())]
        });
        let [fused, defined] = results;
        for (fused, defined) in fused.iter().zip(&defined) {
            let scale = defined.iter().fold(0f32, |a, x| a.max(x.abs()));
            for (a, b) in fused.iter().zip(defined) {
                assert!((a - b).abs() <= 1e-4 * scale, "{a} {b}");
            }
            assert!(scale > 0.0 && fused.len() == defined.len());
        }
    }

    #[test]
    fn one_pass_is_what_its_definition_says() {
        let x = var(&[2, 3, 4, 5]);
        let flat = |x: Result<Tensor>| x.and_then(|x| x.reshape((24, 45)));
        agree(&x, neighbourhoods(&x), flat(neighbourhoods_defined(&x)));
        let noise = (var(&[70, 9]).as_tensor().detach() * 0.3).unwrap();
        let logits = var(&[70, 9]);
        for temperature in [1.0, 0.0625] {
            let defined = relaxed_defined(&logits, &noise, temperature);
            agree(&logits, relaxed(&logits, &noise, temperature), defined);
        }
        agree(&logits, divergence(&logits), divergence_defined(&logits));
    }

    #[test]
    fn squares_come_back() {
        let x = var(&[2, 4, 6, 3]);
        let rows = squares(&x, 2).unwrap();
        assert_eq!(rows.dims(), [12, 12]);
        // The second square of the first image begins at its third column.
        let numbers = |x: &Tensor| x.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        assert_eq!(numbers(&rows)[12..15], numbers(&x)[6..9]);
        let back = from_squares(&rows, (2, 3), 2).unwrap();
        assert_eq!(numbers(&back), numbers(&x));
    }
}
