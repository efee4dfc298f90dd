//! A transformer block, pre-norm: `x + proj(attention(norm1(x)))`, then `x + mlp(norm2(x))`.

use candle_core::{Device, Tensor};

use super::{Linear, Norm, buffer};
use crate::Result;
use crate::ops::{attention, gelu};
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

/// What a block's backward needs of its forward.
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
    activated: Tensor,
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
            activated: plan(hidden)?,
        })
    }
}

/// Buffers that the backward of every block on one sequence shares.
pub(crate) struct BlockScratch {
    narrow: Tensor,
    qkv: Tensor,
    hidden: Tensor,
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

    /// x `[B, N, D]` → y `[B, N, D]`.
    pub(crate) fn forward(
        &self,
        params: &Params,
        x: &Tensor,
        s: &BlockSaved,
        y: &Tensor,
    ) -> Result<()> {
        self.norm1.forward(params, x, &s.normed1, &s.stats1)?;
        self.qkv.forward(params, &s.normed1, None, &s.qkv)?;
        attention::forward(&s.qkv, self.heads, &s.attended, &s.softmax)?;
        self.proj.forward(params, &s.attended, Some(x), &s.middle)?;
        self.norm2
            .forward(params, &s.middle, &s.normed2, &s.stats2)?;
        self.fc1.forward(params, &s.normed2, None, &s.hidden)?;
        gelu::forward(&s.hidden, &s.activated)?;
        self.fc2.forward(params, &s.activated, Some(&s.middle), y)
    }

    /// `d` brings the gradient of y and leaves with that of x.
    pub(crate) fn backward(
        &self,
        params: &Params,
        grads: &Tensor,
        x: &Tensor,
        s: &BlockSaved,
        d: &Tensor,
        scratch: &BlockScratch,
    ) -> Result<()> {
        let BlockScratch {
            narrow,
            qkv,
            hidden,
        } = scratch;
        self.fc2.backward_params(params, grads, &s.activated, d)?;
        self.fc2.backward_input(params, d, hidden)?;
        gelu::backward(&s.hidden, hidden)?;
        self.fc1
            .backward_params(params, grads, &s.normed2, hidden)?;
        self.fc1.backward_input(params, hidden, narrow)?;
        self.norm2
            .backward(params, grads, (&s.middle, &s.stats2), narrow, d)?;

        self.proj.backward_params(params, grads, &s.attended, d)?;
        self.proj.backward_input(params, d, narrow)?;
        attention::backward(&s.qkv, self.heads, &s.attended, &s.softmax, narrow, qkv)?;
        self.qkv.backward_params(params, grads, &s.normed1, qkv)?;
        self.qkv.backward_input(params, qkv, narrow)?;
        self.norm1
            .backward(params, grads, (x, &s.stats1), narrow, d)
    }
}

/// Blocks in a row.
#[derive(Debug, Clone)]
pub(crate) struct Stack {
    blocks: Vec<Block>,
}

/// The residual stream before, between and after the blocks, and what each block keeps.
pub(crate) struct StackWorkspace {
    /// `depth + 1` tensors `[B, N, D]`; the first is the stack's input.
    stream: Vec<Tensor>,
    saved: Vec<BlockSaved>,
    /// The gradient that runs backwards through the stack.
    pub(crate) gradient: Tensor,
    scratch: BlockScratch,
}

impl StackWorkspace {
    pub(crate) fn new(dims: BlockDims, depth: usize, device: &Device) -> Result<Self> {
        let plan = || buffer((dims.batch, dims.tokens, dims.dim), device);
        Ok(Self {
            stream: (0..=depth).map(|_| plan()).collect::<Result<_>>()?,
            saved: (0..depth)
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
        for (i, (block, saved)) in self.blocks.iter().zip(&w.saved).enumerate() {
            block.forward(params, &w.stream[i], saved, &w.stream[i + 1])?;
        }
        Ok(())
    }

    /// From the gradient of the output to that of the input, in `w.gradient`.
    pub(crate) fn backward(
        &self,
        params: &Params,
        grads: &Tensor,
        w: &StackWorkspace,
    ) -> Result<()> {
        for (i, (block, saved)) in self.blocks.iter().zip(&w.saved).enumerate().rev() {
            block.backward(params, grads, &w.stream[i], saved, &w.gradient, &w.scratch)?;
        }
        Ok(())
    }
}
