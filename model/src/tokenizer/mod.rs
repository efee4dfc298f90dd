//! A discrete variational autoencoder: images to one code a patch and back, as DALL-E's (Ramesh et al. 2021, arXiv 2102.12092,
//! section 2.1) and small. Its codes are the targets of the paper's comparison with discrete tokens (table 1d).
//!
//! Unlike the models it is trained by candle's autograd: it is small, and nothing of it is kept from step to step. Convolutions
//! are products: forwards and backwards, candle's 3 × 3 convolution took 2.3 times as long as the same product over neighbourhoods gathered by
//! index (260 and 114 ms for 128 images of 8 × 8 × 64 on two shared cores). Where they have a stride it is their size, so that they are products of squares.
//!
//! The encoder `[B, H, W, C]` → `[B · L, V]`: a convolution of stride and size S, others of 2 until the patch size is reached, residual
//! blocks (ReLU, 3 × 3, ReLU, 1 × 1), ReLU, 1 × 1 to the logits. The decoder takes the codes' embeddings the same way back. The loss is the
//! mean squared error of pixels on a scale of -1 to 1 plus `kl_weight` times the mean of `KL(q ‖ uniform)` over patches, in nats. DALL-E's
//! logit-Laplace likelihood models pixels within their bounds by two numbers each; for codes as targets the squared error does, and it
//! is the measure of the other targets.

mod config;
mod noise;
mod ops;

use std::collections::BTreeMap;

use candle_core::{D, DType, Device, Tensor, Var};

pub use self::config::TokenizerConfig;
use crate::init::Init;
use crate::names::{self, StateDict};
use crate::ops::Accumulate;
use crate::params::{Params, ParamsBuilder};
use crate::record::Record;
use crate::{Error, Result};

/// A trained or untrained tokenizer. A clone shares the weights.
#[derive(Clone, Debug)]
pub struct Tokenizer {
    config: TokenizerConfig,
    /// Every weight.
    pub params: Params,
}

/// How a training step relaxes codes, and what it weighs.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Relaxation {
    /// Of the Gumbel-softmax: high is smooth, low is nearly one code.
    pub temperature: f64,
    /// Weight of the divergence from uniform codes.
    pub kl_weight: f64,
    /// What the noise is drawn from,
    pub seed: u64,
    /// with the number of the step.
    pub step: u64,
}

/// What a training step came to.
#[derive(Debug, Clone)]
pub struct TokenizerLoss {
    /// What was differentiated, a scalar where the model is.
    pub loss: Tensor,
    /// Mean squared error of the pixels on a scale of -1 to 1, from relaxed codes.
    pub reconstruction: f32,
    /// Mean divergence of a patch's codes from uniform ones, in nats.
    pub kl: f32,
    /// The likeliest code of each patch, `[B · L]`.
    pub tokens: Vec<u32>,
}

impl TokenizerLoss {
    /// Takes the loss into that of an update, of which it is the only batch.
    ///
    /// # Errors
    /// If the device fails.
    pub fn record(&self, record: &Record) -> Result<()> {
        record.loss(&self.loss.reshape(1)?, 1.0, Accumulate::Replace)
    }
}

/// Weights by their names without the prefix.
struct Weights(BTreeMap<String, Tensor>);

impl Weights {
    fn get(&self, name: &str) -> Result<&Tensor> {
        let missing = || Error::Config(format!("the tokenizer has no weight {name}"));
        self.0.get(name).ok_or_else(missing)
    }

    /// `[N, I]` to `[N, O]`.
    fn linear(&self, name: &str, x: &Tensor) -> Result<Tensor> {
        let weight = self.get(&format!("{name}.weight"))?;
        let bias = self.get(&format!("{name}.bias"))?;
        Ok(x.matmul(&weight.t()?)?.broadcast_add(bias)?)
    }

    /// `[B · h · w, D]` to the same.
    fn block(&self, name: &str, x: &Tensor, (height, width): (usize, usize)) -> Result<Tensor> {
        let (rows, hidden) = x.dims2()?;
        let grid = (rows / (height * width), height, width, hidden);
        let near = ops::neighbourhoods(&x.relu()?.reshape(grid)?)?;
        let inner = self.linear(&format!("{name}.near"), &near)?.relu()?;
        Ok((x + self.linear(&format!("{name}.out"), &inner)?)?)
    }
}

const PREFIX: &str = "tokenizer.";

impl Tokenizer {
    /// With random weights, drawn from `seed`.
    ///
    /// # Errors
    /// If the configuration describes no tokenizer.
    pub fn new(config: TokenizerConfig, device: &Device, seed: u64) -> Result<Self> {
        config.validate()?;
        let mut builder = ParamsBuilder::default();
        for (name, shape) in weights(&config) {
            let init = match shape.as_slice() {
                _ if name == "decoder.codes.weight" => Init::Normal(1.0),
                // He's, for what goes through ReLU.
                &[_, inputs] => Init::Uniform((6.0 / inputs as f32).sqrt()),
                _ => Init::Zeros,
            };
            builder.add(format!("{PREFIX}{name}"), &shape, init);
        }
        Ok(Self {
            params: builder.build(device, seed)?,
            config,
        })
    }

    /// Takes weights as [`Tokenizer::state_dict`] gives them.
    ///
    /// # Errors
    /// If they do not fit the configuration, or that describes no tokenizer.
    pub fn from_state_dict(
        config: TokenizerConfig,
        state: &StateDict,
        device: &Device,
    ) -> Result<Self> {
        let tokenizer = Self::new(config, device, 0)?;
        tokenizer.load_state_dict(state)?;
        Ok(tokenizer)
    }

    /// Overwrites every weight; nothing is written unless all fit.
    ///
    /// # Errors
    /// If names or shapes differ.
    pub fn load_state_dict(&self, state: &StateDict) -> Result<()> {
        names::load(&self.params, state, &[])
    }

    /// Every weight, under names that begin with `tokenizer.`.
    ///
    /// # Errors
    /// If the device fails.
    pub fn state_dict(&self) -> Result<StateDict> {
        names::save(&self.params)
    }

    /// The dimensions.
    pub fn config(&self) -> &TokenizerConfig {
        &self.config
    }

    /// The likeliest code of each patch, u32 `[B, L]` row by row, of bytes `[B, H, W, C]`. Nothing is drawn.
    ///
    /// # Errors
    /// If the pixels do not fit.
    pub fn tokens(&self, pixels: &Tensor) -> Result<Tensor> {
        let logits = self.encode(&self.weights()?, &self.squares(pixels)?)?;
        let shape = (pixels.dims()[0], self.config.patches());
        Ok(logits.argmax(D::Minus1)?.reshape(shape)?)
    }

    /// The images that codes `[B, L]` stand for, as bytes `[B, H, W, C]`.
    ///
    /// # Errors
    /// If a code is none of the vocabulary's.
    pub fn decode(&self, tokens: &Tensor) -> Result<Tensor> {
        let weights = self.weights()?;
        let codes = weights.get("decoder.codes.weight")?;
        let embedded = codes.index_select(&tokens.flatten_all()?, 0)?;
        let rows = self.decode_embedded(&weights, &embedded)?;
        let (stem, _) = self.config.strides();
        let (height, width) = self.config.image_size;
        let image = ops::from_squares(&rows, (height / stem, width / stem), stem)?;
        let bytes = ((image + 1.0)? * 127.5)?.round()?.clamp(0f32, 255f32)?;
        Ok(bytes.to_dtype(DType::U8)?)
    }

    /// What is left of images when they are told by their codes: bytes `[B, H, W, C]` of the same.
    ///
    /// # Errors
    /// If the pixels do not fit.
    pub fn reconstruct(&self, pixels: &Tensor) -> Result<Tensor> {
        self.decode(&self.tokens(pixels)?)
    }

    /// A training step's loss, and its gradients into `grads`, which has the layout of [`Tokenizer::params`].
    ///
    /// # Errors
    /// If the pixels do not fit, or candle recorded no gradient of a weight.
    pub fn step(
        &self,
        pixels: &Tensor,
        relaxation: &Relaxation,
        grads: &Tensor,
    ) -> Result<TokenizerLoss> {
        let batch = pixels.dims().first().copied().unwrap_or(0);
        let (rows, codes) = (batch * self.config.patches(), self.config.vocabulary);
        let noise = noise::gumbel(relaxation.seed, relaxation.step, rows, codes);
        self.step_with(pixels, noise, relaxation, grads)
    }

    /// As [`Tokenizer::step`], with the noise `[B · L, V]` that is added to the logits.
    fn step_with(
        &self,
        pixels: &Tensor,
        noise: Vec<f32>,
        relaxation: &Relaxation,
        grads: &Tensor,
    ) -> Result<TokenizerLoss> {
        let mut variables = vec![];
        let mut weights = BTreeMap::new();
        for (name, view) in self.weights()?.0 {
            let variable = Var::from_tensor(&view)?;
            weights.insert(name.clone(), variable.as_tensor().clone());
            variables.push((name, variable));
        }
        let loss = self.loss(&Weights(weights), pixels, noise, relaxation)?;
        let mut found = loss.loss.backward()?;
        for (name, variable) in variables {
            let name = format!("{PREFIX}{name}");
            let gradient = found.remove(variable.as_tensor());
            let (Some(gradient), Some(spec)) = (
                gradient,
                self.params.specs().iter().find(|spec| spec.name == name),
            ) else {
                return Err(Error::Config(format!("{name} got no gradient")));
            };
            grads.slice_set(&gradient.flatten_all()?.contiguous()?, 0, spec.offset)?;
        }
        Ok(TokenizerLoss {
            loss: loss.loss.detach(),
            ..loss
        })
    }

    fn loss(
        &self,
        weights: &Weights,
        pixels: &Tensor,
        noise: Vec<f32>,
        relaxation: &Relaxation,
    ) -> Result<TokenizerLoss> {
        let target = self.squares(pixels)?;
        let logits = self.encode(weights, &target)?;
        let noise = Tensor::from_vec(noise, logits.dims2()?, logits.device())?;
        let relaxed = ops::relaxed(&logits, &noise, relaxation.temperature)?;
        let embedded = relaxed.matmul(weights.get("decoder.codes.weight")?)?;
        let predicted = self.decode_embedded(weights, &embedded)?;
        let reconstruction = (predicted - target)?.sqr()?.mean_all()?;
        let kl = ops::divergence(&logits)?.mean_all()?;
        Ok(TokenizerLoss {
            loss: (&reconstruction + (&kl * relaxation.kl_weight)?)?,
            reconstruction: reconstruction.to_scalar()?,
            kl: kl.to_scalar()?,
            tokens: logits.detach().argmax(D::Minus1)?.to_vec1()?,
        })
    }

    /// Every weight as its name has it, a view.
    fn weights(&self) -> Result<Weights> {
        let view = |spec: &crate::ParamSpec| {
            let view = self.params.flat().narrow(0, spec.offset, spec.len)?;
            let name = spec.name.trim_start_matches(PREFIX).to_owned();
            Ok((name, view.reshape(spec.shape.as_slice())?))
        };
        let all: Result<_> = self.params.specs().iter().map(view).collect();
        Ok(Weights(all?))
    }

    /// Bytes `[B, H, W, C]` on a scale of -1 to 1, as the rows that the decoder predicts `[B · h · w, S · S · C]` and the encoder reads.
    fn squares(&self, pixels: &Tensor) -> Result<Tensor> {
        let config = &self.config;
        let (height, width) = config.image_size;
        let batch = pixels.dims().first().copied().unwrap_or(0);
        let expected = vec![batch, height, width, config.channels];
        if pixels.dims() != expected || batch == 0 {
            return Err(Error::Shape {
                what: "pixels for the tokenizer",
                expected,
                actual: pixels.dims().to_vec(),
            });
        }
        let scaled = ((pixels.to_dtype(DType::F32)? / 127.5)? - 1.0)?;
        Ok(ops::squares(&scaled, config.strides().0)?)
    }

    /// Rows of pixels to logits `[B · L, V]`.
    fn encode(&self, weights: &Weights, rows: &Tensor) -> Result<Tensor> {
        let config = &self.config;
        let (stem, stages) = config.strides();
        let (mut height, mut width) = (config.image_size.0 / stem, config.image_size.1 / stem);
        let mut x = weights.linear("encoder.stem", rows)?;
        for stage in 0..stages {
            let batch = x.dims()[0] / (height * width);
            let grid = x.relu()?.reshape((batch, height, width, config.hidden))?;
            x = weights.linear(&format!("encoder.down.{stage}"), &ops::squares(&grid, 2)?)?;
            (height, width) = (height / 2, width / 2);
        }
        for block in 0..config.blocks {
            x = weights.block(&format!("encoder.blocks.{block}"), &x, (height, width))?;
        }
        weights.linear("encoder.logits", &x.relu()?)
    }

    /// Codes' embeddings `[B · L, D]` to rows of pixels.
    fn decode_embedded(&self, weights: &Weights, embedded: &Tensor) -> Result<Tensor> {
        let config = &self.config;
        let (_, stages) = config.strides();
        let mut grid = config.grid();
        let mut x = embedded.clone();
        for block in 0..config.blocks {
            x = weights.block(&format!("decoder.blocks.{block}"), &x, grid)?;
        }
        for stage in 0..stages {
            let up = weights.linear(&format!("decoder.up.{stage}"), &x.relu()?)?;
            let larger = ops::from_squares(&up, grid, 2)?;
            x = larger.flatten_to(2)?;
            grid = (2 * grid.0, 2 * grid.1);
        }
        weights.linear("decoder.pixels", &x.relu()?)
    }
}

/// Names and shapes of the weights, the decoder's last first.
fn weights(config: &TokenizerConfig) -> Vec<(String, Vec<usize>)> {
    let (stem, stages) = config.strides();
    let (hidden, square) = (config.hidden, stem * stem * config.channels);
    let mut all = vec![];
    let mut linear = |name: String, inputs: usize, outputs: usize| {
        all.push((format!("{name}.weight"), vec![outputs, inputs]));
        all.push((format!("{name}.bias"), vec![outputs]));
    };
    linear("decoder.pixels".into(), hidden, square);
    for stage in 0..stages {
        linear(format!("decoder.up.{stage}"), hidden, 4 * hidden);
    }
    for side in ["decoder", "encoder"] {
        for block in 0..config.blocks {
            linear(format!("{side}.blocks.{block}.near"), 9 * hidden, hidden);
            linear(format!("{side}.blocks.{block}.out"), hidden, hidden);
        }
    }
    linear("encoder.logits".into(), hidden, config.vocabulary);
    for stage in 0..stages {
        linear(format!("encoder.down.{stage}"), 4 * hidden, hidden);
    }
    linear("encoder.stem".into(), square, hidden);
    all.push((
        "decoder.codes.weight".into(),
        vec![config.vocabulary, hidden],
    ));
    all
}

#[cfg(test)]
mod tests;
