//! The two ends of a model: MAE's prediction of removed patches with its loss, and a classifier's
//! pooling, norm and linear layer with cross-entropy.

use candle_core::Tensor;

use super::{Below, Gradient, Grads, Linear, Norm, Planner};
use crate::Result;
use crate::config::{MaeConfig, Pooling, VitConfig};
use crate::init::Init;
use crate::ops::{cross_entropy, linear, masked_loss, pool, reduce};
use crate::params::{Params, ParamsBuilder};

/// Norm and projection to pixels, for removed patches only.
#[derive(Debug, Clone)]
pub(crate) struct PixelHead {
    pred: Linear,
    norm: Norm,
    len: usize,
}

/// Buffers of [`PixelHead`]; `R` is the number of removed patches.
pub(crate) struct PixelHeadWorkspace {
    normed: Tensor,
    stats: Tensor,
    dnormed: Tensor,
    /// `[B, R, P·P·C]`: the prediction, then its gradient.
    prediction: Tensor,
    /// Mean squared error of each removed patch `[B, R]`.
    pub(crate) errors: Tensor,
}

impl PixelHeadWorkspace {
    pub(crate) fn new(
        config: &MaeConfig,
        batch: usize,
        removed: usize,
        planner: &Planner,
    ) -> Result<Self> {
        let plan = |width: usize| planner.activations((batch, removed, width));
        Ok(Self {
            normed: plan(config.decoder_dim)?,
            stats: planner.f32((batch, removed, 2))?,
            dnormed: plan(config.decoder_dim)?,
            prediction: plan(config.vit.patch_len())?,
            errors: planner.f32((batch, removed))?,
        })
    }
}

impl PixelHead {
    pub(crate) fn new(b: &mut ParamsBuilder, config: &MaeConfig) -> Self {
        let len = config.vit.patch_len();
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
        config: &MaeConfig,
        x: &Tensor,
        (pixels, ids_restore): (&Tensor, &Tensor),
        w: &PixelHeadWorkspace,
    ) -> Result<()> {
        self.norm.forward(params, x, &w.normed, &w.stats)?;
        self.pred.forward(params, &w.normed, &w.prediction)?;
        let prediction = (&w.prediction, self.pred.bias(params));
        masked_loss::forward_backward(config, pixels, ids_restore, prediction, &w.errors)
    }

    /// Overwrites `dx` with the gradient of x, the loss weighted by `scale`.
    pub(crate) fn backward(
        &self,
        g: Grads<'_>,
        x: &Tensor,
        w: &PixelHeadWorkspace,
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

    /// The prediction for every patch, visible ones too: `[B, L, P·P·C]`, for pictures.
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
