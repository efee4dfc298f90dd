//! From the encoder's output to the decoder's input: mask tokens join it here ([`Unshuffle`]), or the encoder had them already and
//! its tokens are only projected ([`Projection`]).

use candle_core::Tensor;

use super::unshuffle::{Unshuffle, UnshuffleWorkspace};
use super::{Gradient, Grads, Linear, Planner};
use crate::config::MaeConfig;
use crate::ops::linear;
use crate::params::{Params, ParamsBuilder};
use crate::{Error, Result};

/// The stage that a model has.
#[derive(Debug, Clone)]
pub(crate) enum DecoderInput {
    Unshuffle(Unshuffle),
    Projection(Projection),
}

/// Buffers of [`DecoderInput`].
pub(crate) enum DecoderInputWorkspace {
    Unshuffle(UnshuffleWorkspace),
    /// It works in the decoder's own.
    Projection,
}

impl DecoderInputWorkspace {
    pub(crate) fn new(
        config: &MaeConfig,
        batch: usize,
        keep: usize,
        planner: &Planner,
    ) -> Result<Self> {
        Ok(match config.encoder_mask_tokens {
            true => Self::Projection,
            false => Self::Unshuffle(UnshuffleWorkspace::new(
                batch,
                1 + keep,
                config.decoder_dim,
                planner,
            )?),
        })
    }
}

impl DecoderInput {
    pub(crate) fn new(b: &mut ParamsBuilder, config: &MaeConfig) -> Self {
        let (dim, decoder_dim) = (config.vit.dim, config.decoder_dim);
        match config.encoder_mask_tokens {
            true => Self::Projection(Projection {
                embed: Linear::new(b, "decoder_embed", decoder_dim, dim),
            }),
            false => Self::Unshuffle(Unshuffle::new(b, dim, decoder_dim)),
        }
    }

    /// latent, of the tokens that the encoder saw, and positions `[1 + L, E]` → x `[B, 1 + L, E]`.
    pub(crate) fn forward(
        &self,
        params: &Params,
        (latent, ids_restore): (&Tensor, &Tensor),
        positions: &Tensor,
        w: &DecoderInputWorkspace,
        x: &Tensor,
    ) -> Result<()> {
        match (self, w) {
            (Self::Unshuffle(stage), DecoderInputWorkspace::Unshuffle(w)) => {
                stage.forward(params, latent, ids_restore, positions, w, x)
            }
            (Self::Projection(stage), DecoderInputWorkspace::Projection) => {
                stage.forward(params, latent, positions, x)
            }
            _ => Err(of_another_model()),
        }
    }

    /// From the gradient of x to that of latent, `dlatent`, which is overwritten.
    pub(crate) fn backward(
        &self,
        g: Grads<'_>,
        (latent, ids_restore): (&Tensor, &Tensor),
        w: &DecoderInputWorkspace,
        dx: &Gradient,
        dlatent: &Tensor,
    ) -> Result<()> {
        match (self, w) {
            (Self::Unshuffle(stage), DecoderInputWorkspace::Unshuffle(w)) => {
                stage.backward(g, (latent, ids_restore), w, &dx.full, dlatent)
            }
            (Self::Projection(stage), DecoderInputWorkspace::Projection) => {
                stage.backward(g, latent, dx, dlatent)
            }
            _ => Err(of_another_model()),
        }
    }
}

fn of_another_model() -> Error {
    Error::Config("a workspace of another model: plan it with this one".into())
}

/// Every token to the decoder's width, its position added.
#[derive(Debug, Clone)]
pub(crate) struct Projection {
    embed: Linear,
}

impl Projection {
    fn forward(
        &self,
        params: &Params,
        latent: &Tensor,
        positions: &Tensor,
        x: &Tensor,
    ) -> Result<()> {
        self.embed.forward(params, latent, x)?;
        linear::add_bias(x, self.embed.bias(params))?;
        // A sample is one row to it.
        linear::add_bias(x, positions)
    }

    fn backward(
        &self,
        g: Grads<'_>,
        latent: &Tensor,
        dx: &Gradient,
        dlatent: &Tensor,
    ) -> Result<()> {
        dx.to_operand(None)?;
        self.embed.backward_bias(g, &dx.full)?;
        self.embed.backward_weight(g, latent, dx.operand())?;
        self.embed.backward_input(g.params, dx.operand(), dlatent)
    }
}
