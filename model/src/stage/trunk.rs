//! What MAE's encoder and the plain classifier share: the embedding and the blocks, up to the last
//! residual stream.

use candle_core::{Device, Tensor};

use super::block::BlockDims;
use super::embed::{Embed, EmbedWorkspace};
use super::relative::{RelativePositions, TABLE, distances};
use super::stack::{Activations, Stack, StackWorkspace};
use super::{Gradient, Grads, Planner};
use crate::Result;
use crate::config::VitConfig;
use crate::drop_path::DropPath;
use crate::ops::augment::Augmentation;
use crate::params::{Params, ParamsBuilder};

/// Embedding and blocks.
#[derive(Debug, Clone)]
pub(crate) struct Trunk {
    blocks: Stack,
    embed: Embed,
}

/// What training adds to a pass through the trunk.
#[derive(Clone, Copy, Default)]
pub(crate) struct Training<'a> {
    /// What becomes of the images once they are normalised.
    pub(crate) augmentation: Option<&'a Augmentation>,
    pub(crate) drop_path: Option<&'a DropPath>,
    /// With so many of the first blocks, and what is before them, as they are.
    pub(crate) frozen: usize,
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

    /// Where the backward expects the gradient of [`TrunkWorkspace::output`], and of the last branch that joined it; afterwards the
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
        training: &Training<'_>,
    ) -> Result<()> {
        self.embed.patches(input, &w.embed)?;
        if let Some(augmentation) = training.augmentation {
            self.embed.augment(augmentation, &w.embed)?;
        }
        self.embed
            .forward(params, input.1, positions, &w.embed, w.blocks.input())?;
        self.blocks.forward(params, &w.blocks, training.drop_path)
    }

    pub(crate) fn backward(
        &self,
        g: Grads<'_>,
        w: &TrunkWorkspace,
        training: &Training<'_>,
    ) -> Result<()> {
        self.blocks
            .backward(g, &w.blocks, training.drop_path, training.frozen)?;
        match training.frozen {
            0 => self.embed.backward(g, &w.embed, &w.blocks.gradient.full),
            _ => Ok(()),
        }
    }

    /// Blocks.
    pub(crate) fn depth(&self) -> usize {
        self.blocks.depth()
    }
}
