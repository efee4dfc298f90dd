//! A frozen vision transformer: images in, tokens or one vector each out. Every patch is visible.
//!
//! MAE's encoder is one ([`Mae::encoder`](crate::Mae::encoder)), and so are the encoders of other methods that have the same
//! blocks. Their position embedding is whatever was trained, and their last norm stands before or behind pooling. Nothing
//! here trains: the classifier that does is [`VitClassifier`](crate::VitClassifier).

use candle_core::{DType, Device, Tensor};
use serde::{Deserialize, Serialize};

use crate::config::{Pooling, VitConfig};
use crate::names::{self, StateDict, StateTensor};
use crate::ops::pool;
use crate::params::{Params, ParamsBuilder, write_range};
use crate::pos_embed;
use crate::precision::Precision;
use crate::stage::stack::Activations;
use crate::stage::trunk::{Training, Trunk, TrunkWorkspace};
use crate::stage::{Norm, Planner};
use crate::{Error, Result, on_compute_thread};

/// Where an encoder's last norm stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FinalNorm {
    /// Each token is normed, then pooled: `norm.*`. Pre-trained encoders and those with a class token.
    Tokens,
    /// The pooled vector is normed: `fc_norm.*`. Encoders that were fine-tuned with mean pooling.
    Pooled,
}

impl FinalNorm {
    fn name(self) -> &'static str {
        match self {
            Self::Tokens => "norm",
            Self::Pooled => "fc_norm",
        }
    }
}

/// See the [module](self).
pub struct Encoder {
    /// Dimensions.
    pub config: VitConfig,
    /// Blocks, embedding and the last norm, under the reference code's names.
    pub params: Params,
    final_norm: FinalNorm,
    /// `[1 + L, D]`.
    pos_embed: Tensor,
    norm: Norm,
    trunk: Trunk,
}

/// Activations and scratch for one batch size.
pub struct EncoderWorkspace {
    batch: usize,
    /// Every patch in order, `[B, L]`.
    ids: Tensor,
    trunk: TrunkWorkspace,
    /// The normed tokens `[B, 1 + L, D]`.
    normed: Tensor,
    stats: Tensor,
    /// `[B, D]`, and after its norm.
    pooled: [Tensor; 2],
    pooled_stats: Tensor,
}

impl EncoderWorkspace {
    /// Images in the batch.
    pub fn batch(&self) -> usize {
        self.batch
    }
}

impl Encoder {
    /// An encoder with the reference code's initial distribution and the sine-cosine position embedding.
    ///
    /// # Errors
    /// If the configuration describes no model.
    pub fn new(
        config: VitConfig,
        final_norm: FinalNorm,
        device: &Device,
        seed: u64,
    ) -> Result<Self> {
        config.validate()?;
        let (b, norm, mut trunk) = Self::describe(&config, final_norm);
        trunk.add_relative_positions(&config, device)?;
        let positions = pos_embed::sin_cos(config.dim, config.grid());
        Ok(Self {
            params: b.build(device, seed)?,
            pos_embed: Tensor::from_vec(positions, (1 + config.patches(), config.dim), device)?,
            config,
            final_norm,
            norm,
            trunk,
        })
    }

    fn describe(config: &VitConfig, final_norm: FinalNorm) -> (ParamsBuilder, Norm, Trunk) {
        let mut b = ParamsBuilder::default();
        let norm = Norm::new(&mut b, final_norm.name(), config.dim, config.norm_eps);
        let trunk = Trunk::new(&mut b, config);
        (b, norm, trunk)
    }

    /// Names and shapes of [`Encoder::state_dict`], without making the model.
    pub fn shapes(config: &VitConfig, final_norm: FinalNorm) -> Vec<(String, Vec<usize>)> {
        let mut shapes = Self::describe(config, final_norm).0.shapes();
        let positions = vec![1, 1 + config.patches(), config.dim];
        shapes.push((POS_EMBED.into(), positions));
        shapes.extend(Trunk::table_shapes(config));
        shapes
    }

    /// Where the last norm stands.
    pub fn final_norm(&self) -> FinalNorm {
        self.final_norm
    }

    /// The device that holds the parameters.
    pub fn device(&self) -> &Device {
        self.params.flat().device()
    }

    /// Sets what the encoder computes with: before its workspace is planned.
    ///
    /// # Errors
    /// If the device has no such numbers.
    pub fn set_precision(&mut self, precision: Precision) -> Result<()> {
        self.params.set_precision(precision)
    }

    /// Plans everything that `batch` images need.
    ///
    /// # Errors
    /// If the batch is empty or the device has no room.
    pub fn workspace(&self, batch: usize) -> Result<EncoderWorkspace> {
        if batch == 0 {
            return Err(Error::Config("a batch needs at least one image".into()));
        }
        let (config, patches) = (&self.config, self.config.patches());
        let planner = Planner::new(self.device(), self.params.precision());
        let ids: Vec<u32> = (0..batch).flat_map(|_| 0..patches as u32).collect();
        // No backward pass follows, so nothing but the blocks' inputs need stay.
        let recompute = Activations::Recompute;
        let pooled = || planner.f32((batch, config.dim));
        Ok(EncoderWorkspace {
            batch,
            ids: Tensor::from_vec(ids, (batch, patches), self.device())?,
            trunk: TrunkWorkspace::new(config, batch, patches, recompute, &planner)?,
            normed: planner.activations((batch, 1 + patches, config.dim))?,
            stats: planner.f32((batch, 1 + patches, 2))?,
            pooled: [pooled()?, pooled()?],
            pooled_stats: planner.f32((batch, 2))?,
        })
    }

    /// Pixels `[B, H, W, C]` → tokens `[B, 1 + L, D]`, the class token first; normed, unless the last norm stands behind pooling.
    ///
    /// # Errors
    /// If the pixels do not fit the workspace.
    pub fn encode<'w>(&self, pixels: &[u8], w: &'w mut EncoderWorkspace) -> Result<&'w Tensor> {
        let ((height, width), channels) = (self.config.image_size, self.config.channels);
        let shape = (w.batch, height, width, channels);
        if pixels.len() != w.batch * height * width * channels {
            return Err(Error::Shape {
                what: "pixels of a batch against its workspace",
                expected: vec![w.batch, height, width, channels],
                actual: vec![pixels.len()],
            });
        }
        let pixels = Tensor::from_slice(pixels, shape, self.device())?;
        on_compute_thread(self.device(), || {
            let input = (&pixels, &w.ids);
            self.trunk.forward(
                &self.params,
                input,
                &self.pos_embed,
                &w.trunk,
                &Training::default(),
            )?;
            match self.final_norm {
                FinalNorm::Tokens => {
                    self.norm
                        .forward(&self.params, w.trunk.output(), &w.normed, &w.stats)
                }
                FinalNorm::Pooled => Ok(()),
            }
        })?;
        Ok(self.tokens(w))
    }

    /// Pixels `[B, H, W, C]` → one vector an image, `[B, D]`, behind the last norm.
    ///
    /// # Errors
    /// As [`Encoder::encode`].
    pub fn features(
        &self,
        pixels: &[u8],
        pooling: Pooling,
        w: &mut EncoderWorkspace,
    ) -> Result<Vec<f32>> {
        self.encode(pixels, w)?;
        self.pool(pooling, w)
    }

    /// One vector an image, `[B, D]`, of the tokens that were last encoded, behind the last norm.
    ///
    /// # Errors
    /// If the device fails.
    pub fn pool(&self, pooling: Pooling, w: &mut EncoderWorkspace) -> Result<Vec<f32>> {
        let tokens = self.tokens(w).to_dtype(DType::F32)?;
        let [pooled, normed] = &w.pooled;
        pool::forward(pooling, &tokens, pooled)?;
        let features = match self.final_norm {
            FinalNorm::Tokens => pooled,
            FinalNorm::Pooled => {
                self.norm
                    .forward(&self.params, pooled, normed, &w.pooled_stats)?;
                normed
            }
        };
        Ok(features.flatten_all()?.to_vec1()?)
    }

    /// Where [`Encoder::encode`] leaves its tokens.
    fn tokens<'w>(&self, w: &'w EncoderWorkspace) -> &'w Tensor {
        match self.final_norm {
            FinalNorm::Tokens => &w.normed,
            FinalNorm::Pooled => w.trunk.output(),
        }
    }

    /// Every weight under the reference code's name, `pos_embed` `[1, 1 + L, D]` and BEiT's tables among them.
    ///
    /// # Errors
    /// If the device fails.
    pub fn state_dict(&self) -> Result<StateDict> {
        let mut state = names::save(&self.params)?;
        let (rows, dim) = self.pos_embed.dims2()?;
        let positions = StateTensor {
            shape: vec![1, rows, dim],
            data: self.pos_embed.flatten_all()?.to_vec1()?,
        };
        state.insert(POS_EMBED.into(), positions);
        for (name, table) in self.trunk.relative_positions() {
            state.insert(name, table.table()?);
        }
        Ok(state)
    }

    /// Takes weights under the reference code's names, `pos_embed` among them.
    ///
    /// # Errors
    /// Names what is missing, unexpected or of another shape; then nothing has changed.
    pub fn load_state_dict(&self, state: &StateDict) -> Result<()> {
        let tables = Trunk::table_shapes(&self.config);
        let shape = vec![1, 1 + self.config.patches(), self.config.dim];
        let tables = tables
            .iter()
            .map(|(name, shape)| (name.as_str(), shape.clone()));
        let others: Vec<_> = tables.chain([(POS_EMBED, shape)]).collect();
        names::load(&self.params, state, &others)?;
        for (name, table) in self.trunk.relative_positions() {
            table.set(&state[&name])?;
        }
        let flat = self.pos_embed.flatten_all()?;
        write_range(&flat, 0..flat.elem_count(), &state[POS_EMBED].data)
    }
}

const POS_EMBED: &str = "pos_embed";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::MaeConfig;

    fn vit() -> VitConfig {
        MaeConfig::named("mae-micro-patch4", (8, 12), 3)
            .unwrap()
            .vit
    }

    fn pixels() -> Vec<u8> {
        (0..2 * 8 * 12 * 3).map(|i| (i * 37 % 251) as u8).collect()
    }

    #[test]
    fn the_shapes_are_those_of_the_weights() {
        for norm in [FinalNorm::Tokens, FinalNorm::Pooled] {
            let state = Encoder::new(vit(), norm, &Device::Cpu, 1)
                .unwrap()
                .state_dict()
                .unwrap();
            let mut shapes = Encoder::shapes(&vit(), norm);
            shapes.sort();
            let actual: Vec<_> = state
                .into_iter()
                .map(|(name, tensor)| (name, tensor.shape))
                .collect();
            assert_eq!(shapes, actual);
        }
    }

    #[test]
    fn both_norms_agree_on_one_token_alone() {
        // Behind pooling or before it, the class token's norm is the same.
        let before = Encoder::new(vit(), FinalNorm::Tokens, &Device::Cpu, 1).unwrap();
        let behind = Encoder::new(vit(), FinalNorm::Pooled, &Device::Cpu, 2).unwrap();
        let state = before
            .state_dict()
            .unwrap()
            .into_iter()
            .map(|(name, tensor)| match name.strip_prefix("norm.") {
                Some(leaf) => (format!("fc_norm.{leaf}"), tensor),
                None => (name, tensor),
            })
            .collect();
        behind.load_state_dict(&state).unwrap();
        let features = |encoder: &Encoder, pooling| {
            let mut workspace = encoder.workspace(2).unwrap();
            encoder
                .features(&pixels(), pooling, &mut workspace)
                .unwrap()
        };
        let [a, b] = [&before, &behind].map(|encoder| features(encoder, Pooling::Token));
        assert_eq!(a, b);
        let [a, b] = [&before, &behind].map(|encoder| features(encoder, Pooling::Avg));
        assert_ne!(a, b);
        // Each sample's vector has been normed.
        for row in b.chunks_exact(behind.config.dim) {
            assert!(row.iter().sum::<f32>().abs() < 1e-3);
        }
    }

    #[test]
    fn a_batch_of_another_size_is_an_error() {
        let encoder = Encoder::new(vit(), FinalNorm::Tokens, &Device::Cpu, 1).unwrap();
        let mut workspace = encoder.workspace(3).unwrap();
        assert!(encoder.encode(&pixels(), &mut workspace).is_err());
        assert!(encoder.workspace(0).is_err());
    }
}
