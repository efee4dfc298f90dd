//! What MAE's encoder and the plain classifier share: the embedding and the blocks, up to the last
//! residual stream.

use candle_core::{Device, Tensor};

use super::block::BlockDims;
use super::embed::{Embed, EmbedWorkspace};
use super::mask_tokens::MaskTokens;
use super::relative::{RelativePositions, TABLE, distances};
use super::stack::{Activations, Stack, StackWorkspace};
use super::{Gradient, Grads, Planner};
use crate::Result;
use crate::config::{MaeConfig, VitConfig};
use crate::drop_path::DropPath;
use crate::ops::augment::Augmentation;
use crate::params::{Params, ParamsBuilder};

/// Embedding and blocks, and between them, in MAE's encoder if it is so set, mask tokens.
#[derive(Debug, Clone)]
pub(crate) struct Trunk {
    blocks: Stack,
    mask_tokens: Option<MaskTokens>,
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
    /// Where each patch stands among the shuffled ones `[B, L]`: what mask tokens are placed by.
    pub(crate) ids_restore: Option<&'a Tensor>,
}

/// Activations of the trunk for one batch shape.
pub(crate) struct TrunkWorkspace {
    embed: EmbedWorkspace,
    /// The sequence before mask tokens join it `[B, 1 + K, D]`, if they do (in the backward: its gradient).
    visible: Option<Tensor>,
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
        Self::plan(config, batch, (keep, keep), activations, planner)
    }

    /// Of MAE's encoder.
    pub(crate) fn of_mae(
        config: &MaeConfig,
        batch: usize,
        keep: usize,
        activations: Activations,
        planner: &Planner,
    ) -> Result<Self> {
        let patches = (keep, config.encoder_patches(keep));
        Self::plan(&config.vit, batch, patches, activations, planner)
    }

    /// Of the patches so many are embedded, and for so many there are tokens.
    fn plan(
        config: &VitConfig,
        batch: usize,
        (embedded, patches): (usize, usize),
        activations: Activations,
        planner: &Planner,
    ) -> Result<Self> {
        let dims = BlockDims {
            batch,
            tokens: 1 + patches,
            dim: config.dim,
            heads: config.heads,
            hidden: config.hidden(),
        };
        let visible = (embedded < patches).then(|| planner.f32((batch, 1 + embedded, config.dim)));
        Ok(Self {
            embed: EmbedWorkspace::new(config, batch, embedded, planner)?,
            visible: visible.transpose()?,
            blocks: StackWorkspace::new(dims, config.depth, activations, planner)?,
        })
    }

    /// The last residual stream `[B, 1 + K, D]`, or with mask tokens `[B, 1 + L, D]`.
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
        Self::with(b, config, false)
    }

    /// MAE's encoder in training.
    pub(crate) fn of_mae(b: &mut ParamsBuilder, config: &MaeConfig) -> Self {
        Self::with(b, &config.vit, config.encoder_mask_tokens)
    }

    fn with(b: &mut ParamsBuilder, config: &VitConfig, mask_tokens: bool) -> Self {
        let dims = (config.dim, config.heads, config.hidden());
        Self {
            blocks: Stack::new(b, "blocks", config.depth, dims, config.norm_eps),
            mask_tokens: mask_tokens.then(|| MaskTokens::new(b, config.dim)),
            embed: Embed::new(b, config),
        }
    }

    /// What makes the sequence of all patches, if they are not visible alone.
    fn joining<'a>(
        &'a self,
        w: &'a TrunkWorkspace,
        training: &Training<'a>,
    ) -> Option<(&'a MaskTokens, &'a Tensor, &'a Tensor)> {
        let stage = self.mask_tokens.as_ref()?;
        Some((stage, w.visible.as_ref()?, training.ids_restore?))
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
        let x = w.blocks.input();
        match self.joining(w, training) {
            None => self
                .embed
                .forward(params, input.1, positions, &w.embed, x)?,
            Some((stage, visible, ids_restore)) => {
                self.embed
                    .forward(params, input.1, positions, &w.embed, visible)?;
                stage.forward(params, visible, ids_restore, positions, x)?;
            }
        }
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
        if training.frozen > 0 {
            return Ok(());
        }
        let dx = &w.blocks.gradient.full;
        match self.joining(w, training) {
            None => self.embed.backward(g, &w.embed, dx),
            Some((stage, visible, ids_restore)) => {
                stage.backward(g, dx, ids_restore, visible)?;
                self.embed.backward(g, &w.embed, visible)
            }
        }
    }

    /// Blocks.
    pub(crate) fn depth(&self) -> usize {
        self.blocks.depth()
    }
}
