//! The stages of a model: each holds its parameters' places and has a forward and a backward side
//! by side. Activations live in workspaces that are planned once for a batch shape.
//!
//! Backward stages add parameter gradients to the flat gradient tensor and pass the gradient of
//! their input on in the buffer that brought that of their output, where shapes allow.

pub mod block;
pub mod embed;
pub mod head;
pub mod trunk;
pub mod unshuffle;

use candle_core::{DType, Device, Shape, Tensor};

use crate::Result;
use crate::init::Init;
use crate::ops::{layer_norm, linear, reduce};
use crate::params::{ParamId, Params, ParamsBuilder};

/// A linear layer's parameters.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Linear {
    weight: ParamId,
    bias: ParamId,
}

impl Linear {
    pub(crate) fn new(b: &mut ParamsBuilder, name: &str, out: usize, input: usize) -> Self {
        Self::with_init(b, name, &[out, input], Init::XavierUniform, Init::Zeros)
    }

    /// Weight and bias stand next to each other, in this order: both gradients come from one write.
    pub(crate) fn with_init(
        b: &mut ParamsBuilder,
        name: &str,
        shape: &[usize],
        weight: Init,
        bias: Init,
    ) -> Self {
        let weight = b.add(format!("{name}.weight"), shape, weight);
        let bias = b.add(format!("{name}.bias"), &shape[..1], bias);
        Self { weight, bias }
    }

    pub(crate) fn forward(
        &self,
        params: &Params,
        x: &Tensor,
        residual: Option<&Tensor>,
        y: &Tensor,
    ) -> Result<()> {
        linear::forward(
            x,
            params.view(self.weight),
            params.view(self.bias),
            residual,
            y,
        )
    }

    pub(crate) fn backward_input(&self, params: &Params, dy: &Tensor, dx: &Tensor) -> Result<()> {
        linear::backward_input(dy, params.view(self.weight), dx)
    }

    pub(crate) fn backward_params(
        &self,
        params: &Params,
        grads: &Tensor,
        x: &Tensor,
        dy: &Tensor,
    ) -> Result<()> {
        linear::backward_params(
            x,
            dy,
            grads,
            params.range(self.weight),
            params.range(self.bias),
        )
    }
}

/// A layer norm's parameters.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Norm {
    weight: ParamId,
    bias: ParamId,
    eps: f32,
}

impl Norm {
    pub(crate) fn new(b: &mut ParamsBuilder, name: &str, dim: usize, eps: f32) -> Self {
        let weight = b.add(format!("{name}.weight"), &[dim], Init::Ones);
        let bias = b.add(format!("{name}.bias"), &[dim], Init::Zeros);
        Self { weight, bias, eps }
    }

    pub(crate) fn forward(
        &self,
        params: &Params,
        x: &Tensor,
        y: &Tensor,
        stats: &Tensor,
    ) -> Result<()> {
        let (weight, bias) = (params.view(self.weight), params.view(self.bias));
        layer_norm::forward(x, weight, bias, self.eps, y, stats)
    }

    /// Adds to the parameters' gradients, and the input's gradient to `dx`.
    pub(crate) fn backward(
        &self,
        params: &Params,
        grads: &Tensor,
        (x, stats): (&Tensor, &Tensor),
        dy: &Tensor,
        dx: &Tensor,
    ) -> Result<()> {
        let (weight, bias) = (params.range(self.weight), params.range(self.bias));
        layer_norm::backward_params(x, stats, dy, grads, weight, bias)?;
        layer_norm::backward_input(x, stats, params.view(self.weight), dy, dx)
    }
}

/// A planned buffer, its pages touched now rather than in the first step.
pub(crate) fn buffer(shape: impl Into<Shape>, device: &Device) -> Result<Tensor> {
    let tensor = Tensor::zeros(shape, DType::F32, device)?;
    reduce::fill(&tensor, 0.0)?;
    Ok(tensor)
}
