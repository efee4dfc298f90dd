//! Products, and small passes over whole tensors.

use candle_core::{DType, Device, Tensor};

use super::{Session, numbers, rounding};
use crate::ops::layer_norm::Joining;
use crate::ops::{layer_norm, linear, reduce};
use crate::{Accumulate, Precision, Result};

/// Rows, inputs and outputs of a linear layer; on a GPU in bfloat16 widths are multiples of 8, as addresses are of 16 bytes.
const SHAPES: [(usize, usize, usize); 4] = [(1, 8, 8), (5, 24, 40), (67, 128, 32), (200, 64, 192)];
/// ViT-B's first product of an MLP, and as many rows as its decoder has.
const LARGE: [(usize, usize, usize); 2] = [(12_800, 768, 3072), (50_432, 512, 512)];

pub(super) fn run(s: &mut Session<'_>) -> Result<()> {
    for &shape in SHAPES.iter().chain(s.large(&LARGE)) {
        for precision in [Precision::F32, Precision::Tf32, Precision::Bf16] {
            products(s, shape, precision)?;
        }
    }
    for (rows, cols) in [(1, 4), (5000, 12), (37, 1284)] {
        for dtype in [DType::F32, DType::BF16] {
            columns(s, (rows, cols), dtype)?;
        }
        residuals(s, (rows, cols))?;
    }
    // Patches of odd sides have rows that are no multiple of four.
    for shape in [(37, 147), (4200, 7)] {
        for dtype in [DType::F32, DType::BF16] {
            columns(s, shape, dtype)?;
        }
    }
    Ok(())
}

fn products(
    s: &mut Session<'_>,
    (rows, inputs, outputs): (usize, usize, usize),
    precision: Precision,
) -> Result<()> {
    let dtype = precision.activations();
    let rounded = |shape: [usize; 2], seed| -> Result<[Tensor; 2]> {
        let x = numbers(&shape, seed)?.to_dtype(dtype)?;
        Ok([x.to_dtype(DType::F32)?, x])
    };
    let ([x, x2], [w, w2]) = (rounded([rows, inputs], 1)?, rounded([outputs, inputs], 2)?);
    let [dy, dy2] = rounded([rows, outputs], 3)?;
    let (x2, w2, dy2) = (s.put(&x2)?, s.put(&w2)?, s.put(&dy2)?);
    // TensorFloat-32 rounds what goes in to 10 bits.
    let tolerance = match precision {
        Precision::F32 => 2e-6 + inputs.max(outputs) as f32 / (1u32 << 31) as f32,
        Precision::Tf32 => 2e-3,
        Precision::Bf16 => rounding(dtype),
    };
    let name = format!("product {rows}x{inputs}x{outputs} {precision}");
    let zeros = |cols| Tensor::zeros((rows, cols), DType::F32, &Device::Cpu);
    let cpu = Precision::F32;
    for out in [DType::F32, dtype] {
        let (y, y2) = (zeros(outputs)?, s.output((rows, outputs), out)?);
        linear::forward(&x, &w, &y, cpu)?;
        s.on(|| linear::forward(&x2, &w2, &y2, precision))?;
        s.compare(format!("{name}, to {out:?}"), &y2, &y, tolerance)?;
    }
    let (dx, dx2) = (zeros(inputs)?, s.output((rows, inputs), dtype)?);
    linear::backward_input(&dy, &w, &dx, cpu)?;
    s.on(|| linear::backward_input(&dy2, &w2, &dx2, precision))?;
    s.compare(format!("{name}, gradient of x"), &dx2, &dx, tolerance)?;
    for mode in [Accumulate::Replace, Accumulate::Add] {
        let (grads, range) = (
            numbers(&[outputs * inputs + 8], 4)?,
            4..4 + outputs * inputs,
        );
        let grads2 = s.put(&grads)?;
        linear::backward_weight(&x, &dy, &grads, range.clone(), mode, cpu)?;
        s.on(|| linear::backward_weight(&x2, &dy2, &grads2, range, mode, precision))?;
        let tolerance = match precision {
            Precision::Tf32 => tolerance,
            // Its products are exact, and it is not rounded; tensor cores cut off what a step of 16 rows adds below the sum's last bit.
            _ => 4e-6 + (rows as f32 / 16.0) / (1 << 23) as f32,
        };
        s.compare(
            format!("{name}, gradient of the weight, {mode:?}"),
            &grads2,
            &grads,
            tolerance,
        )?;
    }
    Ok(())
}

fn columns(s: &mut Session<'_>, (rows, cols): (usize, usize), dtype: DType) -> Result<()> {
    let name = format!("{rows}x{cols} {dtype:?}");
    let low = numbers(&[rows, cols], 1)?.to_dtype(dtype)?;
    let (x, x2, bias) = (
        low.to_dtype(DType::F32)?.copy()?,
        s.put(&low)?,
        numbers(&[cols], 2)?,
    );
    let bias2 = s.put(&bias)?;
    let (grads, range) = (numbers(&[cols + 8], 3)?, 4..4 + cols);
    let grads2 = s.put(&grads)?;
    reduce::column_sums(&x, &grads, range.clone(), Accumulate::Add)?;
    s.on(|| reduce::column_sums(&x2, &grads2, range, Accumulate::Add))?;
    s.compare(format!("column sums {name}"), &grads2, &grads, 1e-5)?;
    linear::add_bias(&x, &bias)?;
    s.on(|| linear::add_bias(&x2, &bias2))?;
    s.compare(format!("bias {name}"), &x2, &x, rounding(dtype))?;
    reduce::scale(&x, -0.25)?;
    s.on(|| reduce::scale(&x2, -0.25))?;
    s.compare(format!("scaling {name}"), &x2, &x, rounding(dtype))
}

fn residuals(s: &mut Session<'_>, (rows, cols): (usize, usize)) -> Result<()> {
    let (x, residual) = (numbers(&[rows, cols], 1)?, numbers(&[rows, cols], 2)?);
    let added = numbers(&[cols], 3)?;
    let (x2, residual2, added2) = (s.put(&x)?, s.put(&residual)?, s.put(&added)?);
    let joining = |residual, bias| Joining {
        residual,
        bias,
        factors: None,
    };
    layer_norm::join(&x, joining(&residual, &added))?;
    s.on(|| layer_norm::join(&x2, joining(&residual2, &added2)))?;
    s.compare(format!("residual {rows}x{cols}"), &x2, &x, 1e-6)?;
    reduce::fill(&x, 0.75)?;
    s.on(|| reduce::fill(&x2, 0.75))?;
    s.compare(format!("filling {rows}x{cols}"), &x2, &x, 0.0)
}
