//! A transformer block, pre-norm: `x + proj(attention(norm1(x)))`, then `x + mlp(norm2(x))`.

use candle_core::{Device, Tensor};

use super::{Grads, Linear, Norm, buffer};
use crate::Result;
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
    norm1: Norm,
    qkv: Linear,
    proj: Linear,
    norm2: Norm,
    fc1: Linear,
    fc2: Linear,
}

/// What a block's backward needs of its forward. Products are kept without their bias.
pub(crate) struct BlockSaved {
    normed1: Tensor,
    stats1: Tensor,
    qkv: Tensor,
    attended: Tensor,
    softmax: Tensor,
    middle: Tensor,
    normed2: Tensor,
    stats2: Tensor,
    hidden: Tensor,
}

impl BlockSaved {
    pub(crate) fn new(d: BlockDims, device: &Device) -> Result<Self> {
        let BlockDims {
            batch,
            tokens,
            dim,
            heads,
            hidden,
        } = d;
        let plan = |width: usize| buffer((batch, tokens, width), device);
        Ok(Self {
            normed1: plan(dim)?,
            stats1: plan(2)?,
            qkv: plan(3 * dim)?,
            attended: plan(dim)?,
            softmax: buffer((batch, heads, tokens, 2), device)?,
            middle: plan(dim)?,
            normed2: plan(dim)?,
            stats2: plan(2)?,
            hidden: plan(hidden)?,
        })
    }
}

/// Buffers that every block on one sequence shares.
pub(crate) struct BlockScratch {
    narrow: Tensor,
    qkv: Tensor,
    hidden: Tensor,
    activated: Tensor,
}

impl BlockScratch {
    pub(crate) fn new(d: BlockDims, device: &Device) -> Result<Self> {
        let rows = d.batch * d.tokens;
        // The gradients of qkv and of the hidden layer are never needed together.
        let wide = buffer(rows * d.hidden.max(3 * d.dim), device)?;
        let part = |width: usize| {
            wide.narrow(0, 0, rows * width)?
                .reshape((d.batch, d.tokens, width))
        };
        Ok(Self {
            narrow: buffer((d.batch, d.tokens, d.dim), device)?,
            qkv: part(3 * d.dim)?,
            hidden: part(d.hidden)?,
            activated: buffer((d.batch, d.tokens, d.hidden), device)?,
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
            fc2: Linear::new(b, &format!("{name}.mlp.fc2"), dim, hidden),
            fc1: Linear::new(b, &format!("{name}.mlp.fc1"), hidden, dim),
            norm2: Norm::new(b, &format!("{name}.norm2"), dim, eps),
            proj: Linear::new(b, &format!("{name}.attn.proj"), dim, dim),
            qkv: Linear::new(b, &format!("{name}.attn.qkv"), 3 * dim, dim),
            norm1: Norm::new(b, &format!("{name}.norm1"), dim, eps),
        }
    }

    /// From the block's input x `[B, N, D]`, whose norm `s.normed1` is, to the hidden layer of its MLP.
    fn forward_to_hidden(&self, params: &Params, x: &Tensor, s: &BlockSaved) -> Result<()> {
        self.qkv.forward(params, &s.normed1, &s.qkv)?;
        let bias = self.qkv.bias(params);
        attention::forward(&s.qkv, bias, self.heads, &s.attended, &s.softmax)?;
        self.proj.forward(params, &s.attended, &s.middle)?;
        let residual = (x, &self.proj);
        self.norm2
            .residual_forward(params, &s.middle, residual, &s.normed2, &s.stats2)?;
        self.fc1.forward(params, &s.normed2, &s.hidden)
    }

    /// From the hidden layer to y `[B, N, D]`, which lacks the last bias and the residual, `s.middle`.
    fn forward_from_hidden(
        &self,
        params: &Params,
        s: &BlockSaved,
        scratch: &BlockScratch,
        y: &Tensor,
    ) -> Result<()> {
        gelu::forward(&s.hidden, self.fc1.bias(params), &scratch.activated)?;
        self.fc2.forward(params, &scratch.activated, y)
    }

    /// `d` brings the gradient of y and leaves with that of x. The gradient of y's own bias is made by who made `d`, as here that of
    /// `below`, the layer whose product x was.
    fn backward(
        &self,
        g: Grads<'_>,
        x: &Tensor,
        s: &BlockSaved,
        d: &Tensor,
        scratch: &BlockScratch,
        below: Option<&Linear>,
    ) -> Result<()> {
        let BlockScratch {
            narrow,
            qkv,
            hidden,
            activated,
        } = scratch;
        let params = g.params;
        self.fc2.backward_input(params, d, hidden)?;
        gelu::backward(
            (&s.hidden, self.fc1.bias(params)),
            activated,
            hidden,
            g.flat,
            self.fc1.bias_range(params),
            g.mode,
        )?;
        self.fc2.backward_weight(g, activated, d)?;
        self.fc1.backward_weight(g, &s.normed2, hidden)?;
        self.fc1.backward_input(params, hidden, narrow)?;
        self.norm2
            .backward(g, (&s.middle, &s.stats2), narrow, d, Some(&self.proj))?;

        self.proj.backward_weight(g, &s.attended, d)?;
        self.proj.backward_input(params, d, narrow)?;
        attention::backward(
            (&s.qkv, self.qkv.bias(params)),
            self.heads,
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

/// Blocks in a row.
#[derive(Debug, Clone)]
pub(crate) struct Stack {
    blocks: Vec<Block>,
}

/// What a stack keeps of its forward pass.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Activations {
    /// All that the backward pass needs.
    #[default]
    Keep,
    /// Each block's input; the rest is computed again, one block at a time (Chen et al. 2016, arXiv 1604.06174). The same results
    /// to the bit, for less memory and about a third more time.
    Recompute,
}

/// The residual stream before, between and after the blocks, and what each block keeps.
pub(crate) struct StackWorkspace {
    /// `depth + 1` tensors `[B, N, D]`; the first is the stack's input.
    stream: Vec<Tensor>,
    /// Of each block, or of one after the other.
    saved: Vec<BlockSaved>,
    /// The gradient that runs backwards through the stack.
    pub(crate) gradient: Tensor,
    scratch: BlockScratch,
}

impl StackWorkspace {
    pub(crate) fn new(
        dims: BlockDims,
        depth: usize,
        activations: Activations,
        device: &Device,
    ) -> Result<Self> {
        let plan = || buffer((dims.batch, dims.tokens, dims.dim), device);
        let saved = match activations {
            Activations::Keep => depth,
            Activations::Recompute => depth.min(1),
        };
        Ok(Self {
            stream: (0..=depth).map(|_| plan()).collect::<Result<_>>()?,
            saved: (0..saved)
                .map(|_| BlockSaved::new(dims, device))
                .collect::<Result<_>>()?,
            gradient: plan()?,
            scratch: BlockScratch::new(dims, device)?,
        })
    }

    pub(crate) fn input(&self) -> &Tensor {
        &self.stream[0]
    }

    pub(crate) fn output(&self) -> &Tensor {
        &self.stream[self.stream.len() - 1]
    }

    /// What block `i` keeps, and whether a later block writes over it.
    fn saved(&self, i: usize) -> (&BlockSaved, bool) {
        let last = self.saved.len() - 1;
        (
            &self.saved[i.min(last)],
            i >= last && i + 2 < self.stream.len(),
        )
    }
}

impl Stack {
    /// The last block's parameters come first: its backward is done first.
    pub(crate) fn new(
        b: &mut ParamsBuilder,
        name: &str,
        depth: usize,
        dims: (usize, usize, usize),
        eps: f32,
    ) -> Self {
        let mut blocks: Vec<Block> = (0..depth)
            .rev()
            .map(|i| Block::new(b, &format!("{name}.{i}"), dims, eps))
            .collect();
        blocks.reverse();
        Self { blocks }
    }

    pub(crate) fn forward(&self, params: &Params, w: &StackWorkspace) -> Result<()> {
        if let Some(first) = self.blocks.first() {
            let (s, _) = w.saved(0);
            first
                .norm1
                .forward(params, w.input(), &s.normed1, &s.stats1)?;
        }
        for (i, block) in self.blocks.iter().enumerate() {
            let (s, _) = w.saved(i);
            let (x, y) = (&w.stream[i], &w.stream[i + 1]);
            block.forward_to_hidden(params, x, s)?;
            block.forward_from_hidden(params, s, &w.scratch, y)?;
            match self.blocks.get(i + 1) {
                Some(next) => {
                    let (t, _) = w.saved(i + 1);
                    let residual = (&s.middle, &block.fc2);
                    next.norm1
                        .residual_forward(params, y, residual, &t.normed1, &t.stats1)?;
                }
                None => layer_norm::add_residual(y, &s.middle, block.fc2.bias(params))?,
            }
        }
        Ok(())
    }

    /// From the gradient of the output to that of the input, in `w.gradient`.
    pub(crate) fn backward(&self, g: Grads<'_>, w: &StackWorkspace) -> Result<()> {
        let d = &w.gradient;
        if let Some(last) = self.blocks.last() {
            last.fc2.backward_bias(g, d)?;
        }
        for (i, block) in self.blocks.iter().enumerate().rev() {
            let ((s, overwritten), x) = (w.saved(i), &w.stream[i]);
            if overwritten {
                block.norm1.forward(g.params, x, &s.normed1, &s.stats1)?;
                block.forward_to_hidden(g.params, x, s)?;
            }
            let below = i.checked_sub(1).map(|i| &self.blocks[i].fc2);
            block.backward(g, x, s, d, &w.scratch, below)?;
        }
        Ok(())
    }
}
