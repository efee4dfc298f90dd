//! A tokenizer: patches as discrete tokens. A stand-in of the interface until the trained one is merged: random directions.

use candle_core::{D, DType, Device, Tensor};
use serde::{Deserialize, Serialize};

use crate::names::{StateDict, StateTensor};
use crate::{Error, Result};

/// Dimensions of a tokenizer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TokenizerConfig {
    /// Height and width in pixels.
    pub image_size: (usize, usize),
    /// Channels of the image.
    pub channels: usize,
    /// Side of the square patch that a token stands for.
    pub patch_size: usize,
    /// Number of different tokens.
    pub vocabulary: usize,
}

/// See the [module](self).
#[derive(Debug, Clone)]
pub struct Tokenizer {
    config: TokenizerConfig,
    codebook: Tensor,
}

const CODEBOOK: &str = "tokenizer.codebook";

impl Tokenizer {
    /// Random.
    ///
    /// # Errors
    /// If the device has no room.
    pub fn new(config: TokenizerConfig, device: &Device, seed: u64) -> Result<Self> {
        let len = config.patch_size * config.patch_size * config.channels;
        let mut state = seed.wrapping_add(1);
        let numbers = std::iter::repeat_with(|| {
            state = state
                .wrapping_mul(6364136223846793005)
                .wrapping_add(1442695040888963407);
            (state >> 33) as f32 / (1u64 << 30) as f32 - 1.0
        });
        let numbers: Vec<f32> = numbers.take(config.vocabulary * len).collect();
        let codebook = Tensor::from_vec(numbers, (config.vocabulary, len), device)?;
        Ok(Self { config, codebook })
    }

    /// Its dimensions.
    pub fn config(&self) -> &TokenizerConfig {
        &self.config
    }

    /// u8 `[B, H, W, C]` → u32 `[B, L]`, row by row.
    ///
    /// # Errors
    /// If the device fails.
    pub fn tokens(&self, pixels: &Tensor) -> Result<Tensor> {
        let (batch, height, width, channels) = pixels.dims4()?;
        let side = self.config.patch_size;
        let (rows, columns) = (height / side, width / side);
        let x = (pixels.to_dtype(DType::F32)? / 127.5)?.affine(1.0, -1.0)?;
        let x = x
            .reshape(vec![batch, rows, side, columns, side, channels])?
            .permute(vec![0, 1, 3, 2, 4, 5])?
            .reshape((batch * rows * columns, side * side * channels))?;
        let scores = x.matmul(&self.codebook.t()?)?;
        Ok(scores.argmax(D::Minus1)?.reshape((batch, rows * columns))?)
    }

    /// u32 `[B, L]` → u8 `[B, H, W, C]`.
    ///
    /// # Errors
    /// If the device fails.
    pub fn decode(&self, tokens: &Tensor) -> Result<Tensor> {
        let (batch, _) = tokens.dims2()?;
        let TokenizerConfig {
            image_size: (height, width),
            channels,
            patch_size: side,
            ..
        } = self.config;
        let x = self.codebook.index_select(&tokens.flatten_all()?, 0)?;
        let x = x
            .reshape(vec![
                batch,
                height / side,
                width / side,
                side,
                side,
                channels,
            ])?
            .permute(vec![0, 1, 3, 2, 4, 5])?
            .reshape((batch, height, width, channels))?;
        Ok(x.affine(127.5, 127.5)?
            .clamp(0.0, 255.0)?
            .round()?
            .to_dtype(DType::U8)?)
    }

    /// Its weights.
    ///
    /// # Errors
    /// If the device fails.
    pub fn state_dict(&self) -> Result<StateDict> {
        let tensor = StateTensor {
            shape: self.codebook.dims().to_vec(),
            data: self.codebook.flatten_all()?.to_vec1()?,
        };
        Ok([(CODEBOOK.to_owned(), tensor)].into())
    }

    /// From its weights.
    ///
    /// # Errors
    /// If they do not fit.
    pub fn from_state_dict(
        config: TokenizerConfig,
        state: &StateDict,
        device: &Device,
    ) -> Result<Self> {
        let Some(tensor) = state.get(CODEBOOK) else {
            return Err(Error::StateDict {
                missing: vec![CODEBOOK.into()],
                unexpected: vec![],
                misshapen: vec![],
            });
        };
        let codebook = Tensor::from_slice(&tensor.data, tensor.shape.as_slice(), device)?;
        Ok(Self { config, codebook })
    }
}
