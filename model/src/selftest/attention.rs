//! Attention.

use candle_core::{DType, Device, Tensor};

use super::{Session, largest, numbers};
use crate::ops::attention::{backward, forward};
use crate::{Accumulate, Result};

/// Batch, tokens, heads, width of a head: one token, parts of a warp's rows, whole ones, several blocks of rows, and more keys than
/// shared memory takes at once; widths that are padded and those that are not.
const SHAPES: [(usize, usize, usize, usize); 9] = [
    (1, 1, 1, 8),
    (2, 5, 3, 16),
    (1, 50, 2, 64),
    (2, 33, 1, 32),
    (1, 32, 2, 64),
    (1, 128, 1, 40),
    (1, 65, 1, 80),
    (1, 197, 2, 32),
    (1, 450, 1, 72),
];

/// What the scores of a row are like.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Scores {
    Near,
    /// One takes all.
    Far,
    /// All hundreds below zero.
    Negative,
}

pub(super) fn run(s: &mut Session<'_>) -> Result<()> {
    for shape in SHAPES {
        for dtype in [DType::F32, DType::BF16] {
            for scores in [Scores::Near, Scores::Far, Scores::Negative] {
                check(s, shape, dtype, scores)?;
            }
        }
    }
    Ok(())
}

fn check(
    s: &mut Session<'_>,
    (batch, tokens, heads, width): (usize, usize, usize, usize),
    dtype: DType,
    scores: Scores,
) -> Result<()> {
    let dim = heads * width;
    let rounded = |x: Tensor| -> Result<(Tensor, Tensor)> {
        let low = x.to_dtype(dtype)?;
        Ok((low.to_dtype(DType::F32)?.copy()?, low))
    };
    // What the kernels add as they read, they round once more; so that the sum is exact, the bias is a coarse number.
    let coarse =
        |x: Tensor| -> Result<Tensor> { Ok(x.affine(8.0, 0.0)?.round()?.affine(0.125, 0.0)?) };
    let scale = if scores == Scores::Far { 12.0 } else { 1.0 };
    let qkv = coarse(numbers(&[batch, tokens, 3 * dim], 1)?.affine(scale, 0.0)?)?;
    let away = if scores == Scores::Negative { 6.0 } else { 0.0 };
    let parts = [away, -away, 0.0].into_iter().enumerate();
    let parts: Vec<Tensor> = parts
        .map(|(part, by)| Ok(qkv.narrow(2, part * dim, dim)?.affine(1.0, by)?))
        .collect::<Result<_>>()?;
    let (qkv, qkv2) = rounded(Tensor::cat(&parts, 2)?)?;
    let bias = coarse(numbers(&[3 * dim], 2)?)?;
    let (qkv2, bias2) = (s.put(&qkv2)?, s.put(&bias)?);
    let zeros = |width| Tensor::zeros((batch, tokens, width), DType::F32, &Device::Cpu);
    let (out, stats) = (
        zeros(dim)?,
        Tensor::zeros((batch, heads, tokens, 2), DType::F32, &Device::Cpu)?,
    );
    let out2 = s.output((batch, tokens, dim), dtype)?;
    let stats2 = s.put(&stats)?;
    forward(&qkv, &bias, heads, &out, &stats)?;
    s.on(|| forward(&qkv2, &bias2, heads, &out2, &stats2))?;
    // Probabilities are rounded to bfloat16 before they weigh the values, whose sum is rounded once more. Where one key takes all, the
    // gradients of scores are small differences of such sums.
    let tolerance = match dtype {
        DType::F32 if scores == Scores::Near => 1e-5,
        DType::F32 => 2e-4,
        _ if scores == Scores::Near => 1.0 / 32.0,
        _ => 1.0 / 16.0,
    };
    let name = format!("attention {batch}x{tokens}x{heads}x{width} {dtype:?}, {scores:?}");
    s.compare(name.clone(), &out2, &out, tolerance)?;

    let (dout, dout2) = rounded(numbers(&[batch, tokens, dim], 3)?)?;
    let dout2 = s.put(&dout2)?;
    let (dqkv, dqkv2) = (zeros(3 * dim)?, s.output((batch, tokens, 3 * dim), dtype)?);
    let (grads, range) = (numbers(&[3 * dim + 8], 4)?, 4..4 + 3 * dim);
    let grads2 = s.put(&grads)?;
    let mode = Accumulate::Add;
    backward(
        (&qkv, &bias),
        heads,
        (&out, &stats),
        &dout,
        &dqkv,
        &grads,
        range.clone(),
        mode,
    )?;
    s.on(|| {
        let saved = (&out2, &stats2);
        backward(
            (&qkv2, &bias2),
            heads,
            saved,
            &dout2,
            &dqkv2,
            &grads2,
            range,
            mode,
        )
    })?;
    // The gradients of queries and keys are differences; those of a single token, which takes all wherever it looks, cancel entirely.
    let size = largest(&dqkv)? / 8.0;
    for (part, what) in ["queries", "keys", "values"].into_iter().enumerate() {
        let of = |x: &Tensor| x.narrow(2, part * dim, dim);
        let name = format!("{name}, gradient of {what}");
        s.compare_sized(name, &of(&dqkv2)?, &of(&dqkv)?, size, tolerance)?;
    }
    s.compare(
        format!("{name}, gradient of the bias"),
        &grads2,
        &grads,
        tolerance,
    )
}
