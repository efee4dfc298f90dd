//! The stages of a model: each holds its parameters' places and has a forward and a backward side
//! by side. Activations live in workspaces that are planned once for a batch shape.
//!
//! Backward stages put parameter gradients into the flat gradient tensor (or add them) and pass the gradient of
//! their input on in the buffer that brought that of their output, where shapes allow.

pub mod block;
pub mod embed;
pub mod head;
pub mod trunk;
pub mod unshuffle;

use std::ops::Range;

use candle_core::{DType, Device, Shape, Tensor};

use crate::Result;
use crate::init::Init;
use crate::ops::layer_norm::NormGrads;
use crate::ops::{Accumulate, layer_norm, linear, reduce};
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

    /// The product alone; who reads y adds [`Linear::bias`].
    pub(crate) fn forward(&self, params: &Params, x: &Tensor, y: &Tensor) -> Result<()> {
        linear::forward(x, params.view(self.weight), y)
    }

    pub(crate) fn bias<'p>(&self, params: &'p Params) -> &'p Tensor {
        params.view(self.bias)
    }

    /// Where the bias's gradient goes, which is made where that of y is.
    pub(crate) fn bias_range(&self, params: &Params) -> Range<usize> {
        params.range(self.bias)
    }

    pub(crate) fn backward_input(&self, params: &Params, dy: &Tensor, dx: &Tensor) -> Result<()> {
        linear::backward_input(dy, params.view(self.weight), dx)
    }

    pub(crate) fn backward_weight(&self, g: Grads<'_>, x: &Tensor, dy: &Tensor) -> Result<()> {
        linear::backward_weight(x, dy, g.flat, g.params.range(self.weight), g.mode)
    }

    /// The bias's gradient where no operation makes it on the way.
    pub(crate) fn backward_bias(&self, g: Grads<'_>, dy: &Tensor) -> Result<()> {
        reduce::column_sums(dy, g.flat, g.params.range(self.bias), g.mode)
    }
}

/// Parameters, and where their gradients go.
#[derive(Clone, Copy)]
pub(crate) struct Grads<'a> {
    pub(crate) params: &'a Params,
    pub(crate) flat: &'a Tensor,
    pub(crate) mode: Accumulate,
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
        layer_norm::forward(x, self.views(params), self.eps, y, stats)
    }

    /// `x`, a product of `layer`, takes its bias and the residual; then the norm.
    pub(crate) fn residual_forward(
        &self,
        params: &Params,
        x: &Tensor,
        (residual, layer): (&Tensor, &Linear),
        y: &Tensor,
        stats: &Tensor,
    ) -> Result<()> {
        let added = (residual, layer.bias(params));
        layer_norm::residual_forward(x, added, self.views(params), self.eps, y, stats)
    }

    /// Makes the parameters' gradients and adds the input's to `dx`; where the input was a product of `layer`, the gradient of
    /// its bias too.
    pub(crate) fn backward(
        &self,
        g: Grads<'_>,
        (x, stats): (&Tensor, &Tensor),
        dy: &Tensor,
        dx: &Tensor,
        layer: Option<&Linear>,
    ) -> Result<()> {
        let ranges = NormGrads {
            weight: g.params.range(self.weight),
            bias: g.params.range(self.bias),
            added: layer.map(|layer| layer.bias_range(g.params)),
        };
        let weight = g.params.view(self.weight);
        layer_norm::backward((x, stats), weight, dy, dx, g.flat, ranges, g.mode)
    }

    fn views<'p>(&self, params: &'p Params) -> (&'p Tensor, &'p Tensor) {
        (params.view(self.weight), params.view(self.bias))
    }
}

/// A planned buffer, its pages touched now rather than in the first step.
pub(crate) fn buffer(shape: impl Into<Shape>, device: &Device) -> Result<Tensor> {
    let tensor = Tensor::zeros(shape, DType::F32, device)?;
    reduce::fill(&tensor, 0.0)?;
    Ok(tensor)
}
