//! From the encoder's visible tokens to the decoder's sequence: projection to the decoder's width, visible
//! tokens back at their places, mask tokens elsewhere, positions added.

use candle_core::Tensor;

use super::{Grads, Linear, Planner};
use crate::Result;
use crate::init::Init;
use crate::ops::tokens;
use crate::params::{ParamId, Params, ParamsBuilder};

/// The stage's parameters.
#[derive(Debug, Clone)]
pub(crate) struct Unshuffle {
    embed: Linear,
    mask_token: ParamId,
}

/// The visible tokens at the decoder's width `[B, 1 + K, E]` (in the backward: their gradient).
pub(crate) struct UnshuffleWorkspace {
    visible: Tensor,
}

impl UnshuffleWorkspace {
    pub(crate) fn new(batch: usize, tokens: usize, dim: usize, planner: &Planner) -> Result<Self> {
        Ok(Self {
            visible: planner.activations((batch, tokens, dim))?,
        })
    }
}

impl Unshuffle {
    pub(crate) fn new(b: &mut ParamsBuilder, dim: usize, decoder_dim: usize) -> Self {
        Self {
            mask_token: b.add(
                "mask_token".into(),
                &[1, 1, decoder_dim],
                Init::Normal(0.02),
            ),
            embed: Linear::new(b, "decoder_embed", decoder_dim, dim),
        }
    }

    /// latent `[B, 1 + K, D]` → x `[B, 1 + L, E]`.
    pub(crate) fn forward(
        &self,
        params: &Params,
        latent: &Tensor,
        ids_restore: &Tensor,
        positions: &Tensor,
        w: &UnshuffleWorkspace,
        x: &Tensor,
    ) -> Result<()> {
        self.embed.forward(params, latent, &w.visible)?;
        let visible = (&w.visible, Some(self.embed.bias(params)));
        let mask_token = params.view(self.mask_token);
        tokens::unshuffle_forward(visible, ids_restore, mask_token, positions, x)
    }

    /// From the gradient of x to that of latent, `dlatent`, which is overwritten.
    pub(crate) fn backward(
        &self,
        g: Grads<'_>,
        (latent, ids_restore): (&Tensor, &Tensor),
        w: &UnshuffleWorkspace,
        dx: &Tensor,
        dlatent: &Tensor,
    ) -> Result<()> {
        let ranges = (
            g.params.range(self.mask_token),
            Some(self.embed.bias_range(g.params)),
        );
        tokens::unshuffle_backward(dx, ids_restore, &w.visible, g.flat, ranges, g.mode)?;
        self.embed.backward_weight(g, latent, &w.visible)?;
        self.embed.backward_input(g.params, &w.visible, dlatent)
    }
}
