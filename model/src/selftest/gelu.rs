//! GELU with its bias.

use candle_core::{DType, Device, Tensor};

use super::{Session, numbers, rounding};
use crate::ops::gelu::{backward, forward};
use crate::{Accumulate, Result};

/// Rows and width: less than a warp's columns, more than a tile's, and more rows than blocks.
const SHAPES: [(usize, usize); 4] = [(1, 8), (5, 264), (3, 2056), (300, 40)];
/// An MLP of the encoder of ViT-B.
const LARGE: [(usize, usize); 1] = [(4200, 3072)];

pub(super) fn run(s: &mut Session<'_>) -> Result<()> {
    for &(rows, width) in SHAPES.iter().chain(s.large(&LARGE)) {
        for dtype in [DType::F32, DType::BF16] {
            let name = format!("GELU {rows}x{width} {dtype:?}");
            // Rounded before, so that both sides take in the same; to ±4, where GELU bends.
            let rounded = |seed, scale| -> Result<Tensor> {
                let x = numbers(&[rows, width], seed)?.affine(scale, 0.0)?;
                Ok(x.to_dtype(dtype)?)
            };
            let (x, dy, bias) = (rounded(1, 4.0)?, rounded(2, 1.0)?, numbers(&[width], 3)?);
            let (x2, d2, bias2) = (s.put(&x)?, s.put(&dy)?, s.put(&bias)?);
            let (x, d) = (x.to_dtype(DType::F32)?, dy.to_dtype(DType::F32)?.copy()?);
            let (y, y2) = (
                Tensor::zeros((rows, width), DType::F32, &Device::Cpu)?,
                s.output((rows, width), dtype)?,
            );
            forward(&x, &bias, &y)?;
            s.on(|| forward(&x2, &bias2, &y2))?;
            s.compare(name.clone(), &y2, &y, rounding(dtype))?;

            let (grads, range) = (numbers(&[width + 8], 4)?, 4..4 + width);
            let (grads2, y2) = (s.put(&grads)?, s.output((rows, width), dtype)?);
            backward((&x, &bias), &y, &d, &grads, range.clone(), Accumulate::Add)?;
            s.on(|| backward((&x2, &bias2), &y2, &d2, &grads2, range, Accumulate::Add))?;
            s.compare(format!("{name}, made again"), &y2, &y, rounding(dtype))?;
            s.compare(format!("{name}, gradient of x"), &d2, &d, rounding(dtype))?;
            s.compare(
                format!("{name}, gradient of the bias"),
                &grads2,
                &grads,
                1e-5,
            )?;
        }
    }
    Ok(())
}
