//! A transformer block, pre-norm: `x + proj(attention(norm1(x)))`, then `x + mlp(norm2(x))`.

use candle_core::Tensor;

use super::relative::RelativePositions;
use super::{Below, Gradient, Grads, Linear, Norm, Planner};
use crate::Result;
use crate::ops::attention::Heads;
use crate::ops::layer_norm::Joining;
use crate::ops::{attention, gelu, layer_norm};
use crate::params::{Params, ParamsBuilder};

/// The dimensions of a sequence of tokens and of the blocks on it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct BlockDims {
    pub(crate) batch: usize,
    pub(crate) tokens: usize,
    pub(crate) dim: usize,
    pub(crate) heads: usize,
    pub(crate) hidden: usize,
}

/// A block's parameters.
#[derive(Debug, Clone)]
pub(crate) struct Block {
    heads: usize,
    pub(super) relative: Option<RelativePositions>,
    pub(super) norm1: Norm,
    qkv: Linear,
    proj: Linear,
    norm2: Norm,
    fc1: Linear,
    pub(super) fc2: Linear,
    /// Where its parameters end in the flat tensor.
    pub(super) end: usize,
}

/// What a block's backward needs of its forward. Products are kept without their bias.
pub(crate) struct BlockSaved {
    pub(super) normed1: Tensor,
    pub(super) stats1: Tensor,
    qkv: Tensor,
    pub(super) attended: Tensor,
    softmax: Tensor,
    pub(super) mlp: MlpSaved,
}

/// The part behind attention, row by row.
pub(super) struct MlpSaved {
    middle: Tensor,
    normed2: Tensor,
    stats2: Tensor,
    hidden: Tensor,
}

impl BlockSaved {
    pub(crate) fn new(d: BlockDims, planner: &Planner) -> Result<Self> {
        let BlockDims {
            batch,
            tokens,
            dim,
            heads,
            hidden,
        } = d;
        let plan = |width: usize| planner.activations((batch, tokens, width));
        let plan_f32 = |width: usize| planner.f32((batch, tokens, width));
        Ok(Self {
            normed1: plan(dim)?,
            stats1: plan_f32(2)?,
            qkv: plan(3 * dim)?,
            attended: plan(dim)?,
            softmax: planner.f32((batch, heads, tokens, 2))?,
            mlp: MlpSaved {
                middle: plan_f32(dim)?,
                normed2: plan(dim)?,
                stats2: plan_f32(2)?,
                hidden: plan(hidden)?,
            },
        })
    }
}

impl MlpSaved {
    /// The same memory for fewer rows.
    pub(super) fn rows(&self, rows: usize) -> Result<Self> {
        Ok(Self {
            middle: fewer_rows(&self.middle, rows)?,
            normed2: fewer_rows(&self.normed2, rows)?,
            stats2: fewer_rows(&self.stats2, rows)?,
            hidden: fewer_rows(&self.hidden, rows)?,
        })
    }
}

/// `[B, N, W]` → `[B, rows, W]` in the same memory.
pub(super) fn fewer_rows(x: &Tensor, rows: usize) -> Result<Tensor> {
    let (batch, _, width) = x.dims3()?;
    let part = x.flatten_all()?.narrow(0, 0, batch * rows * width)?;
    Ok(part.reshape((batch, rows, width))?)
}

/// Buffers that every block on one sequence shares.
pub(super) struct BlockScratch {
    pub(super) qkv: Tensor,
    pub(super) mlp: MlpScratch,
}

pub(super) struct MlpScratch {
    pub(super) narrow: Tensor,
    pub(super) hidden: Tensor,
    pub(super) activated: Tensor,
}

impl BlockScratch {
    pub(super) fn new(d: BlockDims, planner: &Planner) -> Result<Self> {
        let rows = d.batch * d.tokens;
        // The gradients of qkv and of the hidden layer are never needed together.
        let wide = planner.activations(rows * d.hidden.max(3 * d.dim))?;
        let part = |width: usize| {
            wide.narrow(0, 0, rows * width)?
                .reshape((d.batch, d.tokens, width))
        };
        Ok(Self {
            qkv: part(3 * d.dim)?,
            mlp: MlpScratch {
                narrow: planner.activations((d.batch, d.tokens, d.dim))?,
                hidden: part(d.hidden)?,
                activated: planner.activations((d.batch, d.tokens, d.hidden))?,
            },
        })
    }
}

impl Block {
    pub(crate) fn new(
        b: &mut ParamsBuilder,
        name: &str,
        (dim, heads, hidden): (usize, usize, usize),
        eps: f32,
    ) -> Self {
        Self {
            heads,
            relative: None,
            fc2: Linear::new(b, &format!("{name}.mlp.fc2"), dim, hidden),
            fc1: Linear::new(b, &format!("{name}.mlp.fc1"), hidden, dim),
            norm2: Norm::new(b, &format!("{name}.norm2"), dim, eps),
            proj: Linear::new(b, &format!("{name}.attn.proj"), dim, dim),
            qkv: Linear::new(b, &format!("{name}.attn.qkv"), 3 * dim, dim),
            norm1: Norm::new(b, &format!("{name}.norm1"), dim, eps),
            end: b.end(),
        }
    }

    fn heads(&self) -> Heads<'_> {
        Heads {
            count: self.heads,
            added: self.relative.as_ref().map(RelativePositions::scores),
        }
    }

    /// Attention over the block's input, whose norm is `s.normed1`.
    pub(super) fn attend(&self, params: &Params, s: &BlockSaved) -> Result<()> {
        self.qkv.forward(params, &s.normed1, &s.qkv)?;
        let bias = self.qkv.bias(params);
        attention::forward(&s.qkv, bias, self.heads(), &s.attended, &s.softmax)
    }

    /// From the rows that attention made of those of x to the hidden layer of the MLP; `factors` are those of attention's branch.
    pub(super) fn forward_to_hidden(
        &self,
        params: &Params,
        (x, attended): (&Tensor, &Tensor),
        factors: Option<&Tensor>,
        s: &MlpSaved,
    ) -> Result<()> {
        self.proj.forward(params, attended, &s.middle)?;
        let joining = Joining {
            residual: x,
            bias: self.proj.bias(params),
            factors,
        };
        self.norm2
            .residual_forward(params, &s.middle, joining, &s.normed2, &s.stats2)?;
        self.fc1.forward(params, &s.normed2, &s.hidden)
    }

    /// From the hidden layer to y, which lacks the last bias and the residual, `s.middle`.
    pub(super) fn forward_from_hidden(
        &self,
        params: &Params,
        s: &MlpSaved,
        activated: &Tensor,
        y: &Tensor,
    ) -> Result<()> {
        gelu::forward(&s.hidden, self.fc1.bias(params), activated)?;
        self.fc2.forward(params, activated, y)
    }

    /// How the MLP's product joins the stream.
    pub(super) fn joining<'a>(
        &self,
        params: &'a Params,
        s: &'a MlpSaved,
        factors: Option<&'a Tensor>,
    ) -> Joining<'a> {
        Joining {
            residual: &s.middle,
            bias: self.fc2.bias(params),
            factors,
        }
    }

    /// All that is behind attention, for the last block: y gets its bias and residual at once. Where y is x, x is overwritten.
    pub(super) fn forward_mlp(
        &self,
        params: &Params,
        input: (&Tensor, &Tensor),
        [attention, mlp]: [Option<&Tensor>; 2],
        s: &MlpSaved,
        activated: &Tensor,
        y: &Tensor,
    ) -> Result<()> {
        self.forward_to_hidden(params, input, attention, s)?;
        self.forward_from_hidden(params, s, activated, y)?;
        layer_norm::join(y, self.joining(params, s, mlp))
    }

    /// `d` brings the gradient of y and leaves with that of the residual stream before the MLP; that of attention's output goes
    /// to `scratch.narrow`. The gradient of y's own bias is made by who made `d`. `factors` are those of attention's branch.
    pub(super) fn backward_mlp(
        &self,
        g: Grads<'_>,
        (attended, factors): (&Tensor, Option<&Tensor>),
        s: &MlpSaved,
        d: &Gradient,
        scratch: &MlpScratch,
    ) -> Result<()> {
        let MlpScratch {
            narrow,
            hidden,
            activated,
        } = scratch;
        let params = g.params;
        self.fc2.backward_input(params, d.operand(), hidden)?;
        gelu::backward(
            (&s.hidden, self.fc1.bias(params)),
            activated,
            hidden,
            g.flat,
            self.fc1.bias_range(params),
            g.mode,
        )?;
        self.fc2.backward_weight(g, activated, d.operand())?;
        self.fc1.backward_weight(g, &s.normed2, hidden)?;
        self.fc1.backward_input(params, hidden, narrow)?;
        let below = Below {
            layer: Some(&self.proj),
            factors,
        };
        self.norm2
            .backward(g, (&s.middle, &s.stats2), narrow, d, below)?;
        self.proj.backward_weight(g, attended, d.operand())?;
        self.proj.backward_input(params, d.operand(), narrow)
    }

    /// `narrow` brings the gradient of attention's output; to `d` that of x is added. The gradient of the bias of the layer whose
    /// product joined x is made too.
    pub(super) fn backward_attention(
        &self,
        g: Grads<'_>,
        x: &Tensor,
        s: &BlockSaved,
        d: &Gradient,
        (narrow, qkv): (&Tensor, &Tensor),
        below: Below<'_>,
    ) -> Result<()> {
        let params = g.params;
        attention::backward(
            (&s.qkv, self.qkv.bias(params)),
            self.heads(),
            (&s.attended, &s.softmax),
            narrow,
            qkv,
            g.flat,
            self.qkv.bias_range(params),
            g.mode,
        )?;
        self.qkv.backward_weight(g, &s.normed1, qkv)?;
        self.qkv.backward_input(params, qkv, narrow)?;
        self.norm1.backward(g, (x, &s.stats1), narrow, d, below)
    }
}
