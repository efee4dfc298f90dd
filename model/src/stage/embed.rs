//! From bytes to the encoder's sequence: visible patches only, projected, with positions added and
//! the class token in front.

use candle_core::Tensor;

use super::{Grads, Linear, Planner};
use crate::Result;
use crate::config::VitConfig;
use crate::init::Init;
use crate::ops::augment::Augmentation;
use crate::ops::{patchify, tokens};
use crate::params::{ParamId, Params, ParamsBuilder};

/// The embedding's parameters.
#[derive(Debug, Clone)]
pub(crate) struct Embed {
    config: VitConfig,
    proj: Linear,
    class_token: ParamId,
}

/// Patches `[B, K, C·P·P]` and their embeddings `[B, K, D]` (in the backward: the gradient).
pub(crate) struct EmbedWorkspace {
    patches: Tensor,
    embedded: Tensor,
}

impl EmbedWorkspace {
    pub(crate) fn new(
        config: &VitConfig,
        batch: usize,
        keep: usize,
        planner: &Planner,
    ) -> Result<Self> {
        Ok(Self {
            patches: planner.activations((batch, keep, config.patch_len()))?,
            embedded: planner.activations((batch, keep, config.dim))?,
        })
    }
}

impl Embed {
    pub(crate) fn new(b: &mut ParamsBuilder, config: &VitConfig) -> Self {
        let shape = [
            config.dim,
            config.channels,
            config.patch_size,
            config.patch_size,
        ];
        // The reference leaves the bias as the convolution's default.
        let bound = 1.0 / (config.patch_len() as f32).sqrt();
        let (weight, bias) = (Init::XavierUniform, Init::Uniform(bound));
        Self {
            config: config.clone(),
            proj: Linear::with_init(b, "patch_embed.proj", &shape, weight, bias),
            class_token: b.add("cls_token".into(), &[1, 1, config.dim], Init::Normal(0.02)),
        }
    }

    /// Bytes `[B, H, W, C]` and the patches to take `[B, K]` → patches, normalised.
    pub(crate) fn patches(
        &self,
        (pixels, ids): (&Tensor, &Tensor),
        w: &EmbedWorkspace,
    ) -> Result<()> {
        patchify::forward(&self.config, pixels, ids, &w.patches)
    }

    /// Changes the patches of whole images.
    pub(crate) fn augment(&self, augmentation: &Augmentation, w: &EmbedWorkspace) -> Result<()> {
        augmentation.apply(&self.config, &w.patches)
    }

    /// Patches, of which `ids` `[B, K]` says which they are, and positions `[1 + L, D]` → x `[B, 1 + K, D]`.
    pub(crate) fn forward(
        &self,
        params: &Params,
        ids: &Tensor,
        positions: &Tensor,
        w: &EmbedWorkspace,
        x: &Tensor,
    ) -> Result<()> {
        self.proj.forward(params, &w.patches, &w.embedded)?;
        tokens::embed_forward(
            (&w.embedded, self.proj.bias(params)),
            ids,
            params.view(self.class_token),
            positions,
            x,
        )
    }

    /// Takes the gradient of x `[B, 1 + K, D]`; nothing lies further back.
    pub(crate) fn backward(&self, g: Grads<'_>, w: &EmbedWorkspace, dx: &Tensor) -> Result<()> {
        let ranges = (
            self.proj.bias_range(g.params),
            g.params.range(self.class_token),
        );
        tokens::embed_backward(dx, &w.embedded, g.flat, ranges, g.mode)?;
        self.proj.backward_weight(g, &w.patches, &w.embedded)
    }
}
