//! A discrete variational autoencoder: images to one code a patch and back, as DALL-E's (Ramesh et al. 2021, arXiv 2102.12092,
//! section 2.1) and small. Its codes are the targets of the paper's comparison with discrete tokens (table 1d).
//!
//! Convolutions are products: of neighbourhoods where they are 3 × 3, of squares where they have a stride, which is their size. As in
//! the models the way back is written out. By candle's autograd a run took 2.8 times the CPU time: there most of it went into
//! sums of gradients with zeros, and into candle's threads, which wait for each other without sleeping.
//!
//! The encoder `[B, H, W, C]` → `[B · L, V]`: a convolution of stride and size S, others of 2 until the patch size is reached, residual
//! blocks (ReLU, 3 × 3, ReLU, 1 × 1), ReLU, 1 × 1 to the logits. The decoder takes the codes' embeddings the same way back. The loss is the
//! mean squared error of pixels on a scale of -1 to 1 plus `kl_weight` times the mean of `KL(q ‖ uniform)` over patches, in nats. DALL-E's
//! logit-Laplace likelihood models pixels within their bounds by two numbers each; for codes as targets the squared error does, and it
//! is the measure of the other targets.

mod config;
mod layers;
mod noise;
mod ops;
mod pass;

use candle_core::{DType, Device, Tensor};

pub use self::config::TokenizerConfig;
use self::layers::Layers;
use crate::names::{self, StateDict};
use crate::ops::{Accumulate, linear, reduce, squared_error};
use crate::params::{Params, ParamsBuilder};
use crate::record::Record;
use crate::{Error, Result};

/// A trained or untrained tokenizer. A clone shares the weights.
#[derive(Clone, Debug)]
pub struct Tokenizer {
    config: TokenizerConfig,
    layers: Layers,
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

impl Tokenizer {
    /// With random weights, drawn from `seed`.
    ///
    /// # Errors
    /// If the configuration describes no tokenizer.
    pub fn new(config: TokenizerConfig, device: &Device, seed: u64) -> Result<Self> {
        config.validate()?;
        let mut builder = ParamsBuilder::default();
        let layers = Layers::new(&config, &mut builder);
        Ok(Self {
            params: builder.build(device, seed)?,
            layers,
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
        let logits = self.encode(&self.squares(pixels)?)?.logits;
        let shape = (pixels.dims()[0], self.config.patches());
        Ok(ops::likeliest(&logits)?.reshape(shape)?)
    }

    /// The images that codes `[B, L]` stand for, as bytes `[B, H, W, C]`.
    ///
    /// # Errors
    /// If a code is none of the vocabulary's.
    pub fn decode(&self, tokens: &Tensor) -> Result<Tensor> {
        let codes = self.params.view(self.layers.codes);
        let embedded = codes.index_select(&tokens.flatten_all()?, 0)?;
        let rows = self.decode_embedded(embedded)?.rows;
        linear::add_bias(&rows, self.params.view(self.layers.pixels.bias))?;
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
    /// If the pixels do not fit.
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
        let target = self.squares(pixels)?;
        let encoded = self.encode(&target)?;
        let logits = &encoded.logits;
        let noise = Tensor::from_vec(noise, logits.dims2()?, logits.device())?;
        let shares = ops::relaxed(logits, &noise, relaxation.temperature)?;
        let decoded = self.decode_embedded(self.embed(&shares)?)?;
        // Of all numbers the mean; the predicted rows become its gradient.
        let batch = pixels.dims()[0];
        let (rows, square) = target.dims2()?;
        let by_image = (batch, rows / batch, square);
        let errors = ops::beside(&target, (batch, rows / batch))?;
        squared_error::forward_backward(
            (
                &decoded.rows.reshape(by_image)?,
                self.params.view(self.layers.pixels.bias),
            ),
            &target.reshape(by_image)?,
            &errors,
        )?;
        let embedded = self.decode_back(&decoded, &decoded.rows, grads)?;
        let shares_grad = self.embed_back(&shares, &embedded, grads)?;
        let logits_grad = ops::relaxed_back(&shares, shares_grad, relaxation.temperature)?;
        let weight = relaxation.kl_weight / logits.dims2()?.0 as f64;
        let logits_grad = ops::add_divergence_back(logits, weight, logits_grad)?;
        self.encode_back(&target, &encoded, &logits_grad, grads)?;

        let reconstruction = reduce::mean(&errors)?;
        let kl = reduce::mean(&ops::divergence(logits)?)?;
        let loss = reconstruction + relaxation.kl_weight * kl;
        Ok(TokenizerLoss {
            loss: Tensor::new(loss as f32, logits.device())?,
            reconstruction: reconstruction as f32,
            kl: kl as f32,
            tokens: ops::likeliest(logits)?.to_vec1()?,
        })
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
        ops::squares(&scaled, config.strides().0)
    }
}

#[cfg(test)]
mod tests;
