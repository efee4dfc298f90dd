//! The two ends of a model: MAE's prediction of removed patches with its loss, and a classifier's
//! pooling, norm and linear layer with cross-entropy.

use candle_core::Tensor;

use super::{Below, Gradient, Grads, Linear, Norm, Planner};
use crate::Result;
use crate::config::{MaeConfig, Pooling, Target, VitConfig};
use crate::init::Init;
use crate::ops::{
    cross_entropy, linear, masked_loss, pool, reduce, removed_patches, squared_error, token_loss,
};
use crate::params::{Params, ParamsBuilder};
use crate::precision::Precision;
use crate::target::Fixed;

/// Norm and projection to what is predicted, for removed patches only.
#[derive(Debug, Clone)]
pub(crate) struct PatchHead {
    pred: Linear,
    norm: Norm,
    len: usize,
}

/// Buffers of [`PatchHead`]; `R` is the number of removed patches.
pub(crate) struct PatchHeadWorkspace {
    normed: Tensor,
    stats: Tensor,
    dnormed: Tensor,
    /// `[B, R, N]`, N numbers for a patch: the prediction, then its gradient.
    prediction: Tensor,
    /// For coefficients: the removed patches `[B, R, P·P·C]` less the mean, and their coefficients `[B, R, N]`.
    coefficients: Option<(Tensor, Tensor)>,
    /// The loss of each removed patch `[B, R]`.
    pub(crate) errors: Tensor,
}

impl PatchHeadWorkspace {
    pub(crate) fn new(
        config: &MaeConfig,
        batch: usize,
        removed: usize,
        planner: &Planner,
    ) -> Result<Self> {
        let plan = |width: usize| planner.activations((batch, removed, width));
        let coefficients = match config.target {
            Target::Pca { components } => Some((
                planner.f32((batch, removed, config.vit.patch_len()))?,
                planner.f32((batch, removed, components))?,
            )),
            Target::Pixels | Target::Tokens { .. } => None,
        };
        Ok(Self {
            normed: plan(config.decoder_dim)?,
            stats: planner.f32((batch, removed, 2))?,
            dnormed: plan(config.decoder_dim)?,
            prediction: plan(config.target.width(&config.vit))?,
            coefficients,
            errors: planner.f32((batch, removed))?,
        })
    }
}

impl PatchHead {
    pub(crate) fn new(b: &mut ParamsBuilder, config: &MaeConfig) -> Self {
        let len = config.target.width(&config.vit);
        Self {
            pred: Linear::new(b, "decoder_pred", len, config.decoder_dim),
            norm: Norm::new(b, "decoder_norm", config.decoder_dim, config.vit.norm_eps),
            len,
        }
    }

    /// The decoder's output for removed patches x `[B, R, E]` → errors and, in place of the prediction, its gradient.
    pub(crate) fn forward(
        &self,
        params: &Params,
        (config, fixed): (&MaeConfig, &Fixed),
        x: &Tensor,
        (pixels, ids_restore): (&Tensor, &Tensor),
        w: &PatchHeadWorkspace,
    ) -> Result<()> {
        self.norm.forward(params, x, &w.normed, &w.stats)?;
        self.pred.forward(params, &w.normed, &w.prediction)?;
        let prediction = (&w.prediction, self.pred.bias(params));
        match (fixed, &w.coefficients) {
            (Fixed::Pca(pca), Some((patches, targets))) => {
                let (vit, mean) = (&config.vit, &pca.mean);
                removed_patches::forward(vit, pixels, ids_restore, mean, patches)?;
                // What is to be predicted is in float32 whatever the model computes with.
                linear::forward(patches, &pca.basis, targets, Precision::F32)?;
                squared_error::forward_backward(prediction, targets, &w.errors)
            }
            (Fixed::Tokens(tokenizer), _) => {
                let tokens = tokenizer.tokens(pixels)?;
                token_loss::forward_backward(prediction, &tokens, ids_restore, &w.errors)
            }
            _ => masked_loss::forward_backward(config, pixels, ids_restore, prediction, &w.errors),
        }
    }

    /// Overwrites `dx` with the gradient of x, the loss weighted by `scale`.
    pub(crate) fn backward(
        &self,
        g: Grads<'_>,
        x: &Tensor,
        w: &PatchHeadWorkspace,
        scale: f32,
        dx: &Gradient,
    ) -> Result<()> {
        if scale != 1.0 {
            reduce::scale(&w.prediction, scale)?;
        }
        self.pred.backward_weight(g, &w.normed, &w.prediction)?;
        self.pred.backward_bias(g, &w.prediction)?;
        self.pred
            .backward_input(g.params, &w.prediction, &w.dnormed)?;
        reduce::fill(&dx.full, 0.0)?;
        self.norm
            .backward(g, (x, &w.stats), &w.dnormed, dx, Below::default())
    }

    /// The prediction for every patch, visible ones too: `[B, L, N]`, for pictures.
    pub(crate) fn predict_all(&self, params: &Params, x: &Tensor) -> Result<Tensor> {
        let (batch, tokens, dim) = x.dims3()?;
        let planner = Planner::new(x.device(), params.precision());
        let normed = planner.activations((batch, tokens, dim))?;
        let stats = planner.f32((batch, tokens, 2))?;
        let all = planner.activations((batch, tokens, self.len))?;
        self.norm.forward(params, x, &normed, &stats)?;
        self.pred.forward(params, &normed, &all)?;
        linear::add_bias(&all, self.pred.bias(params))?;
        Ok(all.narrow(1, 1, tokens - 1)?)
    }
}

/// Pooling, norm and a linear layer over classes.
#[derive(Debug, Clone)]
pub(crate) struct ClassHead {
    pooling: Pooling,
    linear: Linear,
    norm: Norm,
}

/// Buffers of [`ClassHead`].
pub(crate) struct ClassHeadWorkspace {
    pooled: Tensor,
    normed: Tensor,
    stats: Tensor,
    dnormed: Tensor,
    dpooled: Gradient,
    /// `[B, classes]`; after [`ClassHead::loss`] their gradient.
    pub(crate) logits: Tensor,
    /// `[B]`.
    pub(crate) losses: Tensor,
}

impl ClassHeadWorkspace {
    pub(crate) fn new(dim: usize, batch: usize, classes: usize, planner: &Planner) -> Result<Self> {
        let plan = |width: usize| planner.f32((batch, width));
        Ok(Self {
            pooled: plan(dim)?,
            normed: plan(dim)?,
            stats: plan(2)?,
            dnormed: plan(dim)?,
            dpooled: planner.gradient((batch, dim))?,
            logits: plan(classes)?,
            losses: planner.f32(batch)?,
        })
    }
}

impl ClassHead {
    pub(crate) fn new(
        b: &mut ParamsBuilder,
        config: &VitConfig,
        classes: usize,
        pooling: Pooling,
    ) -> Self {
        let norm = match pooling {
            Pooling::Token => "norm",
            Pooling::Avg => "fc_norm",
        };
        let shape = [classes, config.dim];
        Self {
            pooling,
            // The reference's fine-tuning starts the head at almost nothing.
            linear: Linear::with_init(b, "head", &shape, Init::Normal(2e-5), Init::Zeros).in_full(),
            norm: Norm::new(b, norm, config.dim, config.norm_eps),
        }
    }

    /// x `[B, 1 + L, D]` → logits.
    pub(crate) fn forward(
        &self,
        params: &Params,
        x: &Tensor,
        w: &ClassHeadWorkspace,
    ) -> Result<()> {
        pool::forward(self.pooling, x, &w.pooled)?;
        self.norm.forward(params, &w.pooled, &w.normed, &w.stats)?;
        self.linear.forward(params, &w.normed, &w.logits)?;
        linear::add_bias(&w.logits, self.linear.bias(params))
    }

    /// Losses against `targets` `[B, classes]`; the logits become their gradient.
    pub(crate) fn loss(&self, targets: &Tensor, w: &ClassHeadWorkspace) -> Result<()> {
        cross_entropy::forward_backward(&w.logits, targets, &w.losses)
    }

    /// Overwrites `dx` `[B, 1 + L, D]`, the loss weighted by `scale`.
    pub(crate) fn backward(
        &self,
        g: Grads<'_>,
        w: &ClassHeadWorkspace,
        scale: f32,
        dx: &Tensor,
    ) -> Result<()> {
        if scale != 1.0 {
            reduce::scale(&w.logits, scale)?;
        }
        self.linear.backward_weight(g, &w.normed, &w.logits)?;
        self.linear.backward_bias(g, &w.logits)?;
        self.linear
            .backward_input(g.params, &w.logits, &w.dnormed)?;
        reduce::fill(&w.dpooled.full, 0.0)?;
        let saved = (&w.pooled, &w.stats);
        self.norm
            .backward(g, saved, &w.dnormed, &w.dpooled, Below::default())?;
        pool::backward(self.pooling, &w.dpooled.full, dx)
    }
}
