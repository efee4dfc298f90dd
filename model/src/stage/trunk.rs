//! What MAE's encoder and the plain classifier share: the embedding and the blocks, up to the last
//! residual stream.

use candle_core::{Device, Tensor};

use super::block::{Activations, BlockDims, Stack, StackWorkspace};
use super::embed::{Embed, EmbedWorkspace};
use super::relative::{RelativePositions, TABLE, distances};
use super::{Gradient, Grads, Planner};
use crate::Result;
use crate::config::VitConfig;
use crate::params::{Params, ParamsBuilder};

/// Embedding and blocks.
#[derive(Debug, Clone)]
pub(crate) struct Trunk {
    blocks: Stack,
    embed: Embed,
}

/// Activations of the trunk for one batch shape.
pub(crate) struct TrunkWorkspace {
    embed: EmbedWorkspace,
    blocks: StackWorkspace,
}

impl TrunkWorkspace {
    pub(crate) fn new(
        config: &VitConfig,
        batch: usize,
        keep: usize,
        activations: Activations,
        planner: &Planner,
    ) -> Result<Self> {
        let dims = BlockDims {
            batch,
            tokens: 1 + keep,
            dim: config.dim,
            heads: config.heads,
            hidden: config.hidden(),
        };
        Ok(Self {
            embed: EmbedWorkspace::new(config, batch, keep, planner)?,
            blocks: StackWorkspace::new(dims, config.depth, activations, planner)?,
        })
    }

    /// The last residual stream `[B, 1 + K, D]`.
    pub(crate) fn output(&self) -> &Tensor {
        self.blocks.output()
    }

    /// Where the backward expects the gradient of [`TrunkWorkspace::output`]; afterwards the
    /// gradient of the embedded sequence.
    pub(crate) fn gradient(&self) -> &Gradient {
        &self.blocks.gradient
    }
}

impl Trunk {
    pub(crate) fn new(b: &mut ParamsBuilder, config: &VitConfig) -> Self {
        let dims = (config.dim, config.heads, config.hidden());
        Self {
            blocks: Stack::new(b, "blocks", config.depth, dims, config.norm_eps),
            embed: Embed::new(b, config),
        }
    }

    /// Tables of relative positions, all zeros, if the configuration asks for them: once, when the device is known.
    pub(crate) fn add_relative_positions(
        &mut self,
        config: &VitConfig,
        device: &Device,
    ) -> Result<()> {
        if !config.relative_positions {
            return Ok(());
        }
        self.blocks.add_relative_positions(config, device)
    }

    /// Each table by its name, if there are any.
    pub(crate) fn relative_positions(&self) -> impl Iterator<Item = (String, &RelativePositions)> {
        let tables = self.blocks.relative_positions();
        tables.map(|(i, table)| (format!("blocks.{i}.{TABLE}"), table))
    }

    /// Names and shapes of the tables that a configuration asks for.
    pub(crate) fn table_shapes(config: &VitConfig) -> Vec<(String, Vec<usize>)> {
        let shape = vec![distances(config.grid()), config.heads];
        let name = |i| (format!("blocks.{i}.{TABLE}"), shape.clone());
        let depth = if config.relative_positions {
            config.depth
        } else {
            0
        };
        (0..depth).map(name).collect()
    }

    pub(crate) fn forward(
        &self,
        params: &Params,
        input: (&Tensor, &Tensor),
        positions: &Tensor,
        w: &TrunkWorkspace,
    ) -> Result<()> {
        self.embed
            .forward(params, input, positions, &w.embed, w.blocks.input())?;
        self.blocks.forward(params, &w.blocks)
    }

    pub(crate) fn backward(&self, g: Grads<'_>, w: &TrunkWorkspace) -> Result<()> {
        self.blocks.backward(g, &w.blocks)?;
        self.embed.backward(g, &w.embed, &w.blocks.gradient.full)
    }
}
