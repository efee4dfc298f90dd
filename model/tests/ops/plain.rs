//! The operations as their formulas say, in f64, and what the tests share.

use candle_core::{Device, Tensor};

/// Numbers between -1 and 1 that look random.
pub(crate) fn numbers(count: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) + 1;
    (0..count)
        .map(|_| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
        })
        .collect()
}

pub(crate) fn tensor(numbers: &[f32], shape: &[usize]) -> Tensor {
    Tensor::from_slice(numbers, shape, &Device::Cpu).unwrap()
}

/// A tensor to be overwritten: what is in it must not matter.
pub(crate) fn garbage(shape: &[usize]) -> Tensor {
    Tensor::full(777f32, shape, &Device::Cpu)
        .unwrap()
        .force_contiguous()
        .unwrap()
}

pub(crate) fn values(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

pub(crate) fn wide(x: &[f32]) -> Vec<f64> {
    x.iter().copied().map(f64::from).collect()
}

/// Equal to `tolerance` of the largest number.
#[track_caller]
pub(crate) fn close(what: &str, actual: &[f32], exact: &[f64], tolerance: f64) {
    assert_eq!(actual.len(), exact.len(), "{what}");
    let size = exact.iter().fold(1e-3, |a: f64, b| a.max(b.abs()));
    for (i, (a, e)) in actual.iter().zip(exact).enumerate() {
        let error = (f64::from(*a) - e).abs();
        assert!(
            error <= tolerance * size,
            "{what}, number {i}: {a}, exactly {e}"
        );
    }
}

/// The gradient of `f` at x by central differences.
pub(crate) fn gradient(x: &[f32], f: impl Fn(&[f64]) -> f64) -> Vec<f64> {
    let mut x = wide(x);
    let h = 1e-5;
    (0..x.len())
        .map(|i| {
            let at = x[i];
            x[i] = at + h;
            let above = f(&x);
            x[i] = at - h;
            let below = f(&x);
            x[i] = at;
            (above - below) / (2.0 * h)
        })
        .collect()
}

pub(crate) fn dot(a: &[f64], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * f64::from(*b)).sum()
}

/// x `[M, K]` · Wᵀ `[K, N]`.
pub(crate) fn linear(x: &[f64], w: &[f64], k: usize) -> Vec<f64> {
    x.chunks(k)
        .flat_map(|x| {
            w.chunks(k)
                .map(|w| x.iter().zip(w).map(|(x, w)| x * w).sum())
        })
        .collect()
}

/// `x Φ(x)`, the error function by its power series and, further out, by its continued fraction.
pub(crate) fn gelu(x: f64) -> f64 {
    x * (1.0 + erf(x / 2f64.sqrt())) / 2.0
}

fn erf(x: f64) -> f64 {
    let (z, pi) = (x.abs(), std::f64::consts::PI);
    let positive = if z < 3.0 {
        let (mut term, mut sum) = (z, z);
        for n in 1..200 {
            term *= -z * z / n as f64;
            sum += term / (2 * n + 1) as f64;
        }
        sum * 2.0 / pi.sqrt()
    } else {
        let mut fraction = z;
        for n in (1..100).rev() {
            fraction = z + n as f64 / 2.0 / fraction;
        }
        1.0 - (-z * z).exp() / (pi.sqrt() * fraction)
    };
    positive.copysign(x)
}

pub(crate) fn layer_norm(x: &[f64], w: &[f64], b: &[f64], eps: f64) -> Vec<f64> {
    let n = w.len();
    x.chunks(n)
        .flat_map(|row| {
            let mean = row.iter().sum::<f64>() / n as f64;
            let variance = row.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / n as f64;
            let scale = 1.0 / (variance + eps).sqrt();
            row.iter()
                .zip(w)
                .zip(b)
                .map(move |((x, w), b)| (x - mean) * scale * w + b)
        })
        .collect()
}

/// qkv `[B, N, 3, H, W]` with its bias → `[B, N, H, W]`.
pub(crate) fn attention(
    qkv: &[f64],
    bias: &[f64],
    tokens: usize,
    heads: usize,
    width: usize,
) -> Vec<f64> {
    attention_with(
        qkv,
        bias,
        &vec![0.0; heads * tokens * tokens],
        tokens,
        heads,
        width,
    )
}

/// As [`attention`], with `added` `[H, N, N]` on the scores.
pub(crate) fn attention_with(
    qkv: &[f64],
    bias: &[f64],
    added: &[f64],
    tokens: usize,
    heads: usize,
    width: usize,
) -> Vec<f64> {
    let dim = heads * width;
    let mut out = vec![0.0; qkv.len() / 3];
    for (qkv, out) in qkv
        .chunks(tokens * 3 * dim)
        .zip(out.chunks_mut(tokens * dim))
    {
        let at = |token: usize, part: usize, column: usize| {
            qkv[(token * 3 + part) * dim + column] + bias[part * dim + column]
        };
        for head in 0..heads {
            let columns = || head * width..(head + 1) * width;
            for i in 0..tokens {
                let scores: Vec<f64> = (0..tokens)
                    .map(|j| {
                        columns().map(|c| at(i, 0, c) * at(j, 1, c)).sum::<f64>()
                            / (width as f64).sqrt()
                            + added[(head * tokens + i) * tokens + j]
                    })
                    .collect();
                let top = scores.iter().copied().fold(f64::MIN, f64::max);
                let weights: Vec<f64> = scores.iter().map(|s| (s - top).exp()).collect();
                let sum: f64 = weights.iter().sum();
                for c in columns() {
                    out[i * dim + c] = (0..tokens).map(|j| weights[j] / sum * at(j, 2, c)).sum();
                }
            }
        }
    }
    out
}
