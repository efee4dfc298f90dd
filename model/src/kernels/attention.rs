//! Launches of `kernels/attention.cu` and `kernels/attention_f32.cu`.

use std::ops::Range;

use candle_core::{DType, Tensor};

use super::address::{Pointer, input, output};
use super::{Engine, Launch, message, reduce, scratch, suffix};
use crate::Result;
use crate::ops::Accumulate;

/// Widths of heads that tensor-core kernels are made for, and warps of a block at most; other widths are padded to the next.
const WIDTHS: [(usize, usize); 3] = [(32, 8), (64, 6), (80, 6)];
/// Rows that a warp takes.
const ROWS: usize = 16;
/// A head's rows pass through shared memory at once up to so many bytes, else so many rows at a time.
const SHARED: usize = 96 << 10;
const CHUNK: usize = 128;

/// How a launch shares out the rows of a head.
struct Plan {
    suffix: String,
    blocks: usize,
    warps: usize,
    /// Blocks of a head of a sample.
    parts: usize,
    chunk: usize,
    forward_bytes: usize,
    backward_bytes: usize,
}

/// Samples, tokens, heads and the width of one.
#[derive(Clone, Copy)]
struct Shape {
    batch: usize,
    tokens: usize,
    heads: usize,
    width: usize,
}

impl Shape {
    fn new(out: &Tensor, heads: usize) -> Result<Self> {
        let (batch, tokens, dim) = out.dims3()?;
        Ok(Self {
            batch,
            tokens,
            heads,
            width: dim / heads,
        })
    }

    fn len(self) -> usize {
        self.batch * self.tokens * self.heads * self.width
    }

    fn plan(self, dtype: DType) -> Result<Plan> {
        let all = self.batch * self.heads;
        if dtype == DType::F32 {
            let warps = 4;
            let parts = self.tokens.div_ceil(warps);
            let bytes = warps * (self.width + self.tokens) * size_of::<f32>();
            return Ok(Plan {
                suffix: "f32".into(),
                blocks: all * parts,
                warps,
                parts,
                chunk: 0,
                forward_bytes: bytes,
                backward_bytes: 2 * bytes,
            });
        }
        let wide = WIDTHS.into_iter().find(|&(wide, _)| self.width <= wide);
        let Some((wide, warps)) = wide.filter(|_| self.width.is_multiple_of(8)) else {
            return Err(message(format!(
                "attention on a GPU in bfloat16 takes heads whose width is a multiple of 8, to {}; this one is {}",
                WIDTHS[WIDTHS.len() - 1].0,
                self.width
            )));
        };
        let tiles = self.tokens.div_ceil(ROWS);
        let parts = tiles.div_ceil(warps);
        // Two rows of eight numbers more than the width, and in the backward two numbers of f32.
        let (rows, stats) = (2 * (wide + 8) * 2, 2 * size_of::<f32>());
        let chunk = match tiles * ROWS {
            all if all * (rows + stats) <= SHARED => all,
            _ => CHUNK,
        };
        Ok(Plan {
            suffix: format!("bf16_{wide}"),
            blocks: all * parts,
            warps: tiles.div_ceil(parts),
            parts,
            chunk,
            forward_bytes: chunk * rows,
            backward_bytes: chunk * (rows + stats),
        })
    }

    fn args(self, launch: Launch, plan: &Plan) -> Result<Launch> {
        launch
            .count(self.tokens)?
            .count(self.heads)?
            .count(self.width)?
            .float(1.0 / (self.width as f32).sqrt())
            .count(plan.parts)?
            .count(plan.chunk)
    }
}

/// As [`crate::ops::attention::forward`], but for what the statistics say, which is the kernels' own affair.
pub(crate) fn forward(
    engine: &Engine,
    qkv: &Tensor,
    bias: &Tensor,
    heads: usize,
    out: &Tensor,
    stats: &Tensor,
) -> Result<()> {
    let (shape, dtype) = (Shape::new(out, heads)?, qkv.dtype());
    let (plan, len) = (shape.plan(dtype)?, shape.len());
    suffix(qkv)?;
    let kernel = format!("attention_forward_{}", plan.suffix);
    let launch = Launch::new(kernel, plan.blocks, 32 * plan.warps)
        .shared(plan.forward_bytes)
        .pointer(input(qkv, dtype, 3 * len)?)
        .pointer(input(
            bias,
            DType::F32,
            3 * len / shape.batch / shape.tokens,
        )?)
        .pointer(output(out, dtype, len)?)
        .pointer(output(stats, DType::F32, 2 * len / shape.width)?);
    shape.args(launch, &plan)?.run(engine)
}

/// As [`crate::ops::attention::backward`].
#[expect(clippy::too_many_arguments, reason = "saved, given and made tensors")]
pub(crate) fn backward(
    engine: &Engine,
    (qkv, bias): (&Tensor, &Tensor),
    heads: usize,
    (out, stats): (&Tensor, &Tensor),
    dout: &Tensor,
    dqkv: &Tensor,
    grads: &Tensor,
    dbias: Range<usize>,
    mode: Accumulate,
) -> Result<()> {
    let (shape, dtype) = (Shape::new(out, heads)?, qkv.dtype());
    let (plan, len) = (shape.plan(dtype)?, shape.len());
    let dim = shape.heads * shape.width;
    let rows = shape.batch * shape.tokens;
    let (dots, sum_rows) = (rows * heads, shape.batch * plan.parts);
    let scratch = scratch::take(qkv.device(), dots + sum_rows * 3 * dim)?;
    let scratch = output(&scratch, DType::F32, scratch.elem_count())?;
    let sums = scratch.skip(dots);
    for pass in ["query", "key"] {
        let kernel = format!("attention_backward_{pass}_{}", plan.suffix);
        let launch = Launch::new(kernel, plan.blocks, 32 * plan.warps)
            .shared(plan.backward_bytes)
            .pointer(input(qkv, dtype, 3 * len)?)
            .pointer(input(bias, DType::F32, 3 * dim)?)
            .pointer(input(out, dtype, len)?)
            .pointer(input(stats, DType::F32, 2 * rows * heads)?)
            .pointer(input(dout, dtype, len)?)
            .pointer(scratch)
            .pointer(output(dqkv, dtype, 3 * len)?)
            .pointer(sums);
        shape.args(launch, &plan)?.run(engine)?;
    }
    let grads: Pointer = output(grads, DType::F32, grads.elem_count())?.skip(dbias.start);
    match dtype {
        // The plain kernels leave the sums to this.
        DType::F32 => {
            let made = input(dqkv, dtype, 3 * len)?;
            reduce::column_sums(engine, made, (rows, 3 * dim), &[Some(grads)], mode)
        }
        _ => reduce::column_sums(engine, sums, (sum_rows, 3 * dim), &[Some(grads)], mode),
    }
}
