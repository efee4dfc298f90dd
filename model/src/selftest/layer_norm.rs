//! Layer norm.

use candle_core::{DType, Device, Tensor};

use super::{Session, numbers, rounding};
use crate::ops::layer_norm::{
    Joining, NormGrads, StreamGradient, backward, forward, residual_forward,
};
use crate::{Accumulate, Result};

/// Rows and width: less than a warp's columns, one warp, several, and more rows than blocks, of one warp and of several.
const SHAPES: [(usize, usize); 7] = [
    (1, 4),
    (3, 36),
    (5, 128),
    (37, 192),
    (7, 1284),
    (1100, 8),
    (150, 260),
];
/// More rows than a GPU has blocks, of the encoder of ViT-B.
const LARGE: [(usize, usize); 1] = [(4200, 768)];
const EPS: f32 = 1e-6;

pub(super) fn run(s: &mut Session<'_>) -> Result<()> {
    for &shape in SHAPES.iter().chain(s.large(&LARGE)) {
        for dtype in [DType::F32, DType::BF16] {
            forwards(s, shape, dtype)?;
            for mode in [Accumulate::Replace, Accumulate::Add] {
                gradients(s, shape, dtype, mode, false)?;
            }
            gradients(s, shape, dtype, Accumulate::Add, true)?;
        }
    }
    Ok(())
}

fn forwards(s: &mut Session<'_>, (rows, dim): (usize, usize), dtype: DType) -> Result<()> {
    let what = format!("{rows}x{dim} {dtype:?}");
    let (x, residual) = (numbers(&[rows, dim], 1)?, numbers(&[rows, dim], 2)?);
    let (weight, bias, added) = (
        numbers(&[dim], 3)?,
        numbers(&[dim], 4)?,
        numbers(&[dim], 5)?,
    );
    let (x2, residual2) = (s.put(&x)?, s.put(&residual)?);
    let (weight2, bias2, added2) = (s.put(&weight)?, s.put(&bias)?, s.put(&added)?);
    let (y, stats) = (x.zeros_like()?, numbers(&[rows, 2], 9)?);
    let (y2, stats2) = (
        s.output((rows, dim), dtype)?,
        s.output((rows, 2), DType::F32)?,
    );
    let (norm, norm2) = ((&weight, &bias), (&weight2, &bias2));

    forward(&x, norm, EPS, &y, &stats)?;
    s.on(|| forward(&x2, norm2, EPS, &y2, &stats2))?;
    s.compare(format!("layer norm {what}"), &y2, &y, rounding(dtype))?;
    s.compare(
        format!("layer norm {what}, statistics"),
        &stats2,
        &stats,
        4e-6,
    )?;

    // Each row a sample, some of whose branches are dropped.
    let factors = factors(rows)?;
    let factors2 = s.put(&factors)?;
    for (factors, factors2) in [(None, None), (Some(&factors), Some(&factors2))] {
        let joining = |residual, bias, factors| Joining {
            residual,
            bias,
            factors,
        };
        let (one, two) = (
            joining(&residual, &added, factors),
            joining(&residual2, &added2, factors2),
        );
        residual_forward(&x, one, norm, EPS, &y, &stats)?;
        s.on(|| residual_forward(&x2, two, norm2, EPS, &y2, &stats2))?;
        let drop = if factors.is_some() { ", drop path" } else { "" };
        let name = format!("layer norm with residual {what}{drop}");
        s.compare(format!("{name}, stream"), &x2, &x, 1e-6)?;
        s.compare(name.clone(), &y2, &y, rounding(dtype))?;
        s.compare(format!("{name}, statistics"), &stats2, &stats, 4e-6)?;
    }
    Ok(())
}

/// Drop path's: every third is 0.
fn factors(samples: usize) -> Result<Tensor> {
    let factors: Vec<f32> = (0..samples)
        .map(|i| if i % 3 == 1 { 0.0 } else { 1.5 })
        .collect();
    Ok(Tensor::from_vec(factors, samples, &Device::Cpu)?)
}

fn gradients(
    s: &mut Session<'_>,
    (rows, dim): (usize, usize),
    dtype: DType,
    mode: Accumulate,
    drop_path: bool,
) -> Result<()> {
    let factors = drop_path.then(|| factors(rows)).transpose()?;
    let factors2 = factors.as_ref().map(|f| s.put(f)).transpose()?;
    let (x, weight, bias) = (
        numbers(&[rows, dim], 1)?,
        numbers(&[dim], 3)?,
        numbers(&[dim], 4)?,
    );
    let (y, stats) = (x.zeros_like()?, numbers(&[rows, 2], 9)?);
    forward(&x, (&weight, &bias), EPS, &y, &stats)?;
    // Rounded before, so that both sides take in the same.
    let rounded = numbers(&[rows, dim], 6)?.to_dtype(dtype)?;
    let dy = rounded.to_dtype(DType::F32)?;
    // Four numbers before and behind belong to others.
    let (dx, grads) = (numbers(&[rows, dim], 7)?, numbers(&[3 * dim + 8], 8)?);
    let (x2, stats2, weight2) = (s.put(&x)?, s.put(&stats)?, s.put(&weight)?);
    let (dy2, dx2, grads2) = (s.put(&rounded)?, s.put(&dx)?, s.put(&grads)?);
    let ranges = || NormGrads {
        weight: 4..4 + dim,
        bias: 4 + dim..4 + 2 * dim,
        added: Some(4 + 2 * dim..4 + 3 * dim),
    };
    let operand = x.zeros_like()?;
    let stream = StreamGradient {
        dx: &dx,
        operand: Some(&operand),
        factors: factors.as_ref(),
    };
    backward((&x, &stats), &weight, &dy, stream, &grads, ranges(), mode)?;
    let operand2 = s.output((rows, dim), dtype)?;
    let stream2 = StreamGradient {
        dx: &dx2,
        operand: Some(&operand2),
        factors: factors2.as_ref(),
    };
    s.on(|| {
        backward(
            (&x2, &stats2),
            &weight2,
            &dy2,
            stream2,
            &grads2,
            ranges(),
            mode,
        )
    })?;
    let drop = if drop_path { ", drop path" } else { "" };
    let name = format!("layer norm {rows}x{dim} {dtype:?}{drop}, gradient");
    s.compare(format!("{name} of x"), &dx2, &dx, 4e-6)?;
    s.compare(
        format!("{name} of the branch"),
        &operand2,
        &operand,
        rounding(dtype).max(4e-6),
    )?;
    s.compare(
        format!("{name}s of parameters, {mode:?}"),
        &grads2,
        &grads,
        1e-5,
    )
}
