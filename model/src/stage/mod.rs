//! The stages of a model: each holds its parameters' places and has a forward and a backward side
//! by side. Activations live in workspaces that are planned once for a batch shape.
//!
//! Backward stages put parameter gradients into the flat gradient tensor (or add them) and pass the gradient of
//! their input on in the buffer that brought that of their output, where shapes allow.

pub mod block;
pub(crate) mod decoder_input;
pub mod embed;
pub mod head;
pub mod mask_tokens;
pub(crate) mod relative;
pub mod stack;
pub mod trunk;
pub mod unshuffle;

use std::cell::Cell;
use std::ops::Range;

use candle_core::{DType, Device, Shape, Tensor};

use crate::Result;
use crate::init::Init;
use crate::ops::layer_norm::{Joining, NormGrads, StreamGradient};
use crate::ops::{Accumulate, layer_norm, linear, reduce};
use crate::params::{ParamId, Params, ParamsBuilder};
use crate::precision::Precision;

/// A linear layer's parameters.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Linear {
    weight: ParamId,
    bias: ParamId,
    /// Whether its products are in float32 whatever the model computes with.
    full: bool,
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
        Self {
            weight,
            bias,
            full: false,
        }
    }

    /// Small, and close to the loss: in float32.
    pub(crate) fn in_full(self) -> Self {
        Self { full: true, ..self }
    }

    fn weight<'p>(&self, params: &'p Params) -> (&'p Tensor, Precision) {
        match self.full {
            true => (params.view(self.weight), Precision::F32),
            false => (params.operand(self.weight), params.precision()),
        }
    }

    /// The product alone; who reads y adds [`Linear::bias`].
    pub(crate) fn forward(&self, params: &Params, x: &Tensor, y: &Tensor) -> Result<()> {
        let (weight, precision) = self.weight(params);
        linear::forward(x, weight, y, precision)
    }

    pub(crate) fn bias<'p>(&self, params: &'p Params) -> &'p Tensor {
        params.view(self.bias)
    }

    /// Where the bias's gradient goes, which is made where that of y is.
    pub(crate) fn bias_range(&self, params: &Params) -> Range<usize> {
        params.range(self.bias)
    }

    pub(crate) fn backward_input(&self, params: &Params, dy: &Tensor, dx: &Tensor) -> Result<()> {
        let (weight, precision) = self.weight(params);
        linear::backward_input(dy, weight, dx, precision)
    }

    pub(crate) fn backward_weight(&self, g: Grads<'_>, x: &Tensor, dy: &Tensor) -> Result<()> {
        let (range, (_, precision)) = (g.params.range(self.weight), self.weight(g.params));
        linear::backward_weight(x, dy, g.flat, range, g.mode, precision)
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
    /// Told how far the flat tensor is done.
    pub(crate) done: &'a Done<'a>,
}

/// Told in the backward that the gradients in front of a place of the flat tensor will not change any more; on a GPU, that what makes them is
/// queued. Places ascend.
pub type Done<'a> = dyn Fn(usize) -> Result<()> + Sync + 'a;

impl Grads<'_> {
    /// All parameters up to the one that ends at `end` have their gradients.
    pub(crate) fn done_to(&self, end: usize) -> Result<()> {
        (self.done)(end)
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
        layer_norm::forward(x, self.views(params), self.eps, y, stats)
    }

    /// `x`, a product, joins the residual stream; then the norm.
    pub(crate) fn residual_forward(
        &self,
        params: &Params,
        x: &Tensor,
        joining: Joining<'_>,
        y: &Tensor,
        stats: &Tensor,
    ) -> Result<()> {
        layer_norm::residual_forward(x, joining, self.views(params), self.eps, y, stats)
    }

    /// Makes the parameters' gradients and adds the input's to `dx`; where the input was the product of a branch's last layer, the
    /// gradient of its bias too.
    pub(crate) fn backward(
        &self,
        g: Grads<'_>,
        (x, stats): (&Tensor, &Tensor),
        dy: &Tensor,
        dx: &Gradient,
        below: Below<'_>,
    ) -> Result<()> {
        let ranges = NormGrads {
            weight: g.params.range(self.weight),
            bias: g.params.range(self.bias),
            added: below.layer.map(|layer| layer.bias_range(g.params)),
        };
        let weight = g.params.view(self.weight);
        let stream = StreamGradient {
            dx: &dx.full,
            operand: dx.operand.as_ref(),
            factors: below.factors,
        };
        layer_norm::backward((x, stats), weight, dy, stream, g.flat, ranges, g.mode)
    }

    fn views<'p>(&self, params: &'p Params) -> (&'p Tensor, &'p Tensor) {
        (params.view(self.weight), params.view(self.bias))
    }
}

/// The branch whose product joined the residual stream just before a norm: its last layer, and its samples' factors.
#[derive(Clone, Copy, Default)]
pub(crate) struct Below<'a> {
    pub(crate) layer: Option<&'a Linear>,
    pub(crate) factors: Option<&'a Tensor>,
}

/// Plans buffers: all of them before the first step.
pub(crate) struct Planner {
    device: Device,
    activations: DType,
    /// Whether branches have factors, so that their gradients are not the stream's.
    drop_path: bool,
    bytes: Cell<usize>,
}

impl Planner {
    pub(crate) fn new(device: &Device, precision: Precision) -> Self {
        Self {
            device: device.clone(),
            activations: precision.activations(),
            drop_path: false,
            bytes: Cell::new(0),
        }
    }

    /// For training with drop path.
    pub(crate) fn with_drop_path(self) -> Self {
        Self {
            drop_path: true,
            ..self
        }
    }

    /// Bytes planned so far.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes.get()
    }

    /// For sums: the residual stream, statistics, losses.
    pub(crate) fn f32(&self, shape: impl Into<Shape>) -> Result<Tensor> {
        let tensor = self.plan(shape.into(), DType::F32)?;
        // Its pages are touched now rather than in the first step.
        if self.device.is_cpu() {
            reduce::fill(&tensor, 0.0)?;
        }
        Ok(tensor)
    }

    /// For what products take in or make.
    pub(crate) fn activations(&self, shape: impl Into<Shape>) -> Result<Tensor> {
        match self.activations {
            DType::F32 => self.f32(shape),
            low => self.plan(shape.into(), low),
        }
    }

    /// For the gradient of a residual stream.
    pub(crate) fn gradient(&self, shape: impl Into<Shape>) -> Result<Gradient> {
        let shape = shape.into();
        let own = self.drop_path || self.activations != DType::F32;
        let operand = own.then(|| self.activations(shape.clone())).transpose()?;
        Ok(Gradient {
            full: self.f32(shape)?,
            operand,
        })
    }

    fn plan(&self, shape: Shape, dtype: DType) -> Result<Tensor> {
        let bytes = shape.elem_count() * dtype.size_in_bytes();
        self.bytes.set(self.bytes.get() + bytes);
        Ok(Tensor::zeros(shape, dtype, &self.device)?)
    }
}

/// The gradient of a residual stream, and, where products take in rounded numbers or branches have factors, that of the last branch
/// that joined it, which the norms' backward makes.
pub(crate) struct Gradient {
    pub(crate) full: Tensor,
    operand: Option<Tensor>,
}

impl Gradient {
    /// As products take it in.
    pub(crate) fn operand(&self) -> &Tensor {
        self.operand.as_ref().unwrap_or(&self.full)
    }

    /// Makes the gradient of the last branch from that of the stream, where no norm has.
    pub(crate) fn to_operand(&self, factors: Option<&Tensor>) -> Result<()> {
        match &self.operand {
            Some(operand) => layer_norm::join_backward(&self.full, factors, operand),
            None => Ok(()),
        }
    }
}
