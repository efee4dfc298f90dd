//! Layer norm.

use candle_core::DType;

use super::{Session, numbers, rounding};
use crate::ops::layer_norm::{NormGrads, backward, forward, residual_forward};
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
                gradients(s, shape, dtype, mode)?;
            }
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

    residual_forward(&x, (&residual, &added), norm, EPS, &y, &stats)?;
    s.on(|| residual_forward(&x2, (&residual2, &added2), norm2, EPS, &y2, &stats2))?;
    let name = format!("layer norm with residual {what}");
    s.compare(format!("{name}, stream"), &x2, &x, 1e-6)?;
    s.compare(name.clone(), &y2, &y, rounding(dtype))?;
    s.compare(format!("{name}, statistics"), &stats2, &stats, 4e-6)
}

fn gradients(
    s: &mut Session<'_>,
    (rows, dim): (usize, usize),
    dtype: DType,
    mode: Accumulate,
) -> Result<()> {
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
    backward(
        (&x, &stats),
        &weight,
        &dy,
        (&dx, None),
        &grads,
        ranges(),
        mode,
    )?;
    let low2 = s.output((rows, dim), DType::BF16)?;
    let wanted_low = (dtype == DType::BF16).then_some(&low2);
    s.on(|| {
        backward(
            (&x2, &stats2),
            &weight2,
            &dy2,
            (&dx2, wanted_low),
            &grads2,
            ranges(),
            mode,
        )
    })?;
    let name = format!("layer norm {rows}x{dim} {dtype:?}, gradient");
    s.compare(format!("{name} of x"), &dx2, &dx, 4e-6)?;
    if let Some(low2) = wanted_low {
        s.compare(format!("{name} of x, rounded"), low2, &dx, rounding(dtype))?;
    }
    s.compare(
        format!("{name}s of parameters, {mode:?}"),
        &grads2,
        &grads,
        1e-5,
    )
}
