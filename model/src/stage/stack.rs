//! Blocks in a row, and the residual stream through them.
//!
//! Where only the removed patches of the last block's output are read, everything behind its attention runs on their rows alone.

use candle_core::{Device, Tensor};

use super::block::{Block, BlockDims, BlockSaved, BlockScratch, MlpSaved, MlpScratch, fewer_rows};
use super::relative::RelativePositions;
use super::{Below, Gradient, Grads, Planner};
use crate::Result;
use crate::config::VitConfig;
use crate::drop_path::DropPath;
use crate::ops::tokens;
use crate::params::{Params, ParamsBuilder};

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
    pub(crate) gradient: Gradient,
    scratch: BlockScratch,
}

/// The removed patches' rows of a stack's output, and what making them needs besides a [`StackWorkspace`].
pub(crate) struct RemovedWorkspace {
    /// `[B, R, D]`.
    pub(crate) output: Tensor,
    /// Of `output`; not kept by the backward.
    pub(crate) gradient: Gradient,
    attended: Tensor,
    saved: MlpSaved,
    scratch: MlpScratch,
}

impl RemovedWorkspace {
    /// Rows of `removed` patches; what it can it shares with the workspace.
    pub(crate) fn new(stack: &StackWorkspace, removed: usize, planner: &Planner) -> Result<Self> {
        let (batch, _, dim) = stack.output().dims3()?;
        let shape = (batch, removed, dim);
        let narrow = planner.activations(shape)?;
        // The whole output is not made where only these rows are.
        let attended = match narrow.dtype() == stack.output().dtype() {
            true => fewer_rows(stack.output(), removed)?,
            false => planner.activations(shape)?,
        };
        let (scratch, last) = (&stack.scratch.mlp, stack.saved(stack.stream.len() - 2));
        Ok(Self {
            output: planner.f32(shape)?,
            gradient: planner.gradient(shape)?,
            attended,
            saved: last.mlp.rows(removed)?,
            scratch: MlpScratch {
                // Not shared: scattered into the shared one.
                narrow,
                hidden: fewer_rows(&scratch.hidden, removed)?,
                activated: fewer_rows(&scratch.activated, removed)?,
            },
        })
    }
}

impl StackWorkspace {
    pub(crate) fn new(
        dims: BlockDims,
        depth: usize,
        activations: Activations,
        planner: &Planner,
    ) -> Result<Self> {
        let shape = (dims.batch, dims.tokens, dims.dim);
        let saved = match activations {
            Activations::Keep => depth,
            Activations::Recompute => 1,
        };
        Ok(Self {
            stream: (0..=depth)
                .map(|_| planner.f32(shape))
                .collect::<Result<_>>()?,
            saved: (0..saved)
                .map(|_| BlockSaved::new(dims, planner))
                .collect::<Result<_>>()?,
            gradient: planner.gradient(shape)?,
            scratch: BlockScratch::new(dims, planner)?,
        })
    }

    pub(crate) fn input(&self) -> &Tensor {
        &self.stream[0]
    }

    pub(crate) fn output(&self) -> &Tensor {
        &self.stream[self.stream.len() - 1]
    }

    /// What block `i` keeps.
    fn saved(&self, i: usize) -> &BlockSaved {
        &self.saved[i.min(self.saved.len() - 1)]
    }

    /// Whether a later block writes over what block `i` keeps.
    fn overwritten(&self, i: usize) -> bool {
        i + 1 >= self.saved.len() && i + 2 < self.stream.len()
    }
}

impl Stack {
    /// Gives each block a table of relative positions.
    pub(crate) fn add_relative_positions(
        &mut self,
        config: &VitConfig,
        device: &Device,
    ) -> Result<()> {
        for block in &mut self.blocks {
            block.relative = Some(RelativePositions::new(config, device)?);
        }
        Ok(())
    }

    /// Each block's table, if it has one.
    pub(crate) fn relative_positions(&self) -> impl Iterator<Item = (usize, &RelativePositions)> {
        let blocks = self.blocks.iter().enumerate();
        blocks.filter_map(|(i, block)| Some((i, block.relative.as_ref()?)))
    }

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

    pub(crate) fn forward(
        &self,
        params: &Params,
        w: &StackWorkspace,
        drop: Option<&DropPath>,
    ) -> Result<()> {
        let (last, x, s) = self.forward_to_last(params, w, drop)?;
        let (activated, factors) = (
            &w.scratch.mlp.activated,
            self.factors(drop, self.depth() - 1),
        );
        let input = (x, &s.attended);
        last.forward_mlp(params, input, factors, &s.mlp, activated, w.output())
    }

    /// Blocks.
    pub(crate) fn depth(&self) -> usize {
        self.blocks.len()
    }

    /// Of a block's attention and MLP.
    fn factors<'a>(&self, drop: Option<&'a DropPath>, block: usize) -> [Option<&'a Tensor>; 2] {
        [
            drop.map(|drop| drop.attention(block)),
            drop.map(|drop| drop.mlp(block)),
        ]
    }

    /// As [`Stack::forward`], but of the output the removed patches' rows only, in the order of the shuffled ids.
    pub(crate) fn forward_removed(
        &self,
        params: &Params,
        w: &StackWorkspace,
        ids_restore: &Tensor,
        r: &RemovedWorkspace,
    ) -> Result<()> {
        let (last, x, s) = self.forward_to_last(params, w, None)?;
        tokens::removed_forward(&s.attended, ids_restore, &r.attended)?;
        tokens::removed_forward(x, ids_restore, &r.output)?;
        let (input, activated) = ((&r.output, &r.attended), &r.scratch.activated);
        last.forward_mlp(params, input, [None; 2], &r.saved, activated, &r.output)
    }

    /// Up to the last block's attention: that block, its input and what it keeps.
    fn forward_to_last<'a>(
        &'a self,
        params: &Params,
        w: &'a StackWorkspace,
        drop: Option<&DropPath>,
    ) -> Result<(&'a Block, &'a Tensor, &'a BlockSaved)> {
        let mut block = &self.blocks[0];
        let (mut x, mut s) = (w.input(), w.saved(0));
        block.norm1.forward(params, x, &s.normed1, &s.stats1)?;
        block.attend(params, s)?;
        for (i, next) in self.blocks.iter().enumerate().skip(1) {
            let (y, t) = (&w.stream[i], w.saved(i));
            let [attention, mlp] = self.factors(drop, i - 1);
            block.forward_to_hidden(params, (x, &s.attended), attention, &s.mlp)?;
            block.forward_from_hidden(params, &s.mlp, &w.scratch.mlp.activated, y)?;
            let joining = block.joining(params, &s.mlp, mlp);
            next.norm1
                .residual_forward(params, y, joining, &t.normed1, &t.stats1)?;
            (block, x, s) = (next, y, t);
            block.attend(params, s)?;
        }
        Ok((block, x, s))
    }

    /// From the gradient of the output, and of the last branch, to that of the input, in `w.gradient`. Stops before the first `frozen`
    /// blocks, whose parameters get no gradient.
    pub(crate) fn backward(
        &self,
        g: Grads<'_>,
        w: &StackWorkspace,
        drop: Option<&DropPath>,
        frozen: usize,
    ) -> Result<()> {
        let last = self.blocks.len() - 1;
        if frozen > last {
            return Ok(());
        }
        let (block, s, d) = (&self.blocks[last], w.saved(last), &w.gradient);
        let joined = match drop {
            Some(_) => d.operand(),
            None => &d.full,
        };
        block.fc2.backward_bias(g, joined)?;
        let [attention, _] = self.factors(drop, last);
        block.backward_mlp(g, (&s.attended, attention), &s.mlp, d, &w.scratch.mlp)?;
        self.backward_from_last(g, w, drop, frozen)
    }

    /// As [`Stack::backward`], but from the gradient of the removed patches' rows, `r.gradient`.
    pub(crate) fn backward_removed(
        &self,
        g: Grads<'_>,
        w: &StackWorkspace,
        ids_restore: &Tensor,
        r: &RemovedWorkspace,
    ) -> Result<()> {
        let block = &self.blocks[self.blocks.len() - 1];
        block.fc2.backward_bias(g, &r.gradient.full)?;
        block.backward_mlp(g, (&r.attended, None), &r.saved, &r.gradient, &r.scratch)?;
        tokens::removed_backward(&r.gradient.full, ids_restore, &w.gradient.full)?;
        tokens::removed_backward(&r.scratch.narrow, ids_restore, &w.scratch.mlp.narrow)?;
        self.backward_from_last(g, w, None, 0)
    }

    /// From the last block's attention on, as [`Block::backward_mlp`] leaves it.
    fn backward_from_last(
        &self,
        g: Grads<'_>,
        w: &StackWorkspace,
        drop: Option<&DropPath>,
        frozen: usize,
    ) -> Result<()> {
        let (d, scratch) = (&w.gradient, &w.scratch);
        for (i, block) in self.blocks.iter().enumerate().skip(frozen).rev() {
            let (s, x) = (w.saved(i), &w.stream[i]);
            let [attention, _] = self.factors(drop, i);
            if i + 1 < self.blocks.len() {
                if w.overwritten(i) {
                    block.norm1.forward(g.params, x, &s.normed1, &s.stats1)?;
                    block.attend(g.params, s)?;
                    block.forward_to_hidden(g.params, (x, &s.attended), attention, &s.mlp)?;
                }
                block.backward_mlp(g, (&s.attended, attention), &s.mlp, d, &scratch.mlp)?;
            }
            let below = match i {
                _ if i == frozen => Below::default(),
                _ => Below {
                    layer: Some(&self.blocks[i - 1].fc2),
                    factors: drop.map(|drop| drop.mlp(i - 1)),
                },
            };
            let buffers = (&scratch.mlp.narrow, &scratch.qkv);
            block.backward_attention(g, x, s, d, buffers, below)?;
            g.done_to(block.end)?;
        }
        Ok(())
    }
}
