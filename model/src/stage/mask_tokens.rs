//! Mask tokens in the encoder (paper, table 1c): the visible patches' sequence becomes that of all patches, with one learnt token,
//! and its position, wherever a patch was removed.

use candle_core::Tensor;

use super::Grads;
use crate::Result;
use crate::init::Init;
use crate::ops::tokens;
use crate::params::{ParamId, Params, ParamsBuilder};

/// The token's name; the reference code's encoder has none.
pub const ENCODER_MASK_TOKEN: &str = "encoder_mask_token";

/// The stage's parameter.
#[derive(Debug, Clone)]
pub(crate) struct MaskTokens {
    token: ParamId,
}

impl MaskTokens {
    pub(crate) fn new(b: &mut ParamsBuilder, dim: usize) -> Self {
        let init = Init::Normal(0.02);
        Self {
            token: b.add(ENCODER_MASK_TOKEN.into(), &[1, 1, dim], init),
        }
    }

    /// The embedded sequence `[B, 1 + K, D]`, positions added, and positions `[1 + L, D]` → x `[B, 1 + L, D]`.
    pub(crate) fn forward(
        &self,
        params: &Params,
        visible: &Tensor,
        ids_restore: &Tensor,
        positions: &Tensor,
        x: &Tensor,
    ) -> Result<()> {
        let token = params.view(self.token);
        tokens::unshuffle_forward((visible, None), ids_restore, token, positions, x)
    }

    /// From the gradient of x to that of the embedded sequence, `dvisible`, which is overwritten.
    pub(crate) fn backward(
        &self,
        g: Grads<'_>,
        dx: &Tensor,
        ids_restore: &Tensor,
        dvisible: &Tensor,
    ) -> Result<()> {
        let ranges = (g.params.range(self.token), None);
        tokens::unshuffle_backward(dx, ids_restore, dvisible, g.flat, ranges, g.mode)
    }
}
