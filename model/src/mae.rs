//! The masked autoencoder: its stages in order, forwards and backwards.

use candle_core::{DType, Device, Tensor};

use crate::config::MaeConfig;
use crate::encoder::{Encoder, FinalNorm};
use crate::input::MaeInput;
use crate::names::{self, StateDict, StateTensor};
use crate::ops::{Accumulate, reduce};
use crate::params::{Params, ParamsBuilder, write_range};
use crate::pos_embed;
use crate::precision::Precision;
use crate::record::Record;
use crate::stage::block::BlockDims;
use crate::stage::decoder_input::{DecoderInput, DecoderInputWorkspace};
use crate::stage::head::{PatchHead, PatchHeadWorkspace};
use crate::stage::mask_tokens::ENCODER_MASK_TOKEN;
use crate::stage::stack::{Activations, RemovedWorkspace, Stack, StackWorkspace};
use crate::stage::trunk::Training;
use crate::stage::trunk::{Trunk, TrunkWorkspace};
use crate::stage::{Below, Done, Grads, Norm, Planner};
use crate::target::{self, Fixed};
use crate::{Error, Result, on_compute_thread};

/// A masked autoencoder (paper, section 3).
pub struct Mae {
    /// Dimensions and target.
    pub config: MaeConfig,
    /// Every trainable parameter.
    pub params: Params,
    /// `[1 + L, D]`, fixed.
    pos_embed: Tensor,
    /// `[1 + L, E]`, fixed.
    decoder_pos_embed: Tensor,
    /// What the target is made with.
    pub(crate) fixed: Fixed,
    head: PatchHead,
    decoder: Stack,
    decoder_input: DecoderInput,
    norm: Norm,
    trunk: Trunk,
    ends: Ends,
}

/// Where the parameters of some stages end in the flat tensor.
#[derive(Clone, Copy)]
struct Ends {
    head: usize,
    decoder_input: usize,
}

/// Activations and scratch of the whole model for one batch shape.
pub struct MaeWorkspace {
    batch: usize,
    keep: usize,
    trunk: TrunkWorkspace,
    /// The encoder's output after its norm `[B, 1 + K, D]` (with mask tokens `[B, 1 + L, D]`), the class token first.
    latent: Tensor,
    stats: Tensor,
    /// The gradient of `latent`.
    dlatent: Tensor,
    decoder_input: DecoderInputWorkspace,
    decoder: StackWorkspace,
    removed: RemovedWorkspace,
    head: PatchHeadWorkspace,
    bytes: usize,
}

impl MaeWorkspace {
    /// The last forward's loss: mean over the removed patches of the batch.
    ///
    /// # Errors
    /// If the device fails.
    pub fn loss(&self) -> Result<f32> {
        Ok(reduce::mean(&self.head.errors)? as f32)
    }

    /// Takes `share` of the last forward's loss into that of the update, as its first batch or a later one, without reading it.
    ///
    /// # Errors
    /// If the device fails.
    pub fn record_loss(&self, record: &Record, share: f32, mode: Accumulate) -> Result<()> {
        record.loss(&self.head.errors, share, mode)
    }

    /// What was planned takes so many bytes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The last forward's loss of each image, `[B]`.
    ///
    /// # Errors
    /// If the device fails.
    pub fn image_losses(&self) -> Result<Vec<f32>> {
        let rows = self.head.errors.to_vec2::<f32>()?;
        let mean =
            |row: &Vec<f32>| row.iter().map(|&x| f64::from(x)).sum::<f64>() / row.len() as f64;
        Ok(rows.iter().map(|row| mean(row) as f32).collect())
    }

    /// Images in the batch.
    pub fn batch(&self) -> usize {
        self.batch
    }
}

impl Mae {
    /// A model with the reference code's initial distribution.
    ///
    /// # Errors
    /// If the configuration describes no model.
    pub fn new(config: MaeConfig, device: &Device, seed: u64) -> Result<Self> {
        config.validate()?;
        let mut b = ParamsBuilder::default();
        let (head, decoder, decoder_input, norm, trunk, ends) = Self::stages(&mut b, &config);
        let vit = &config.vit;
        let params = b.build(device, seed)?;
        let positions = |dim: usize| {
            Tensor::from_vec(
                pos_embed::sin_cos(dim, vit.grid()),
                (1 + vit.patches(), dim),
                device,
            )
        };
        let (pos_embed, decoder_pos_embed) = (positions(vit.dim)?, positions(config.decoder_dim)?);
        Ok(Self {
            config,
            params,
            pos_embed,
            decoder_pos_embed,
            fixed: Fixed::None,
            head,
            decoder,
            decoder_input,
            norm,
            trunk,
            ends,
        })
    }

    /// The stages in the order of the backward.
    fn stages(
        b: &mut ParamsBuilder,
        config: &MaeConfig,
    ) -> (PatchHead, Stack, DecoderInput, Norm, Trunk, Ends) {
        let vit = &config.vit;
        let decoder_hidden = crate::config::hidden(config.decoder_dim, vit.mlp_ratio);
        let decoder_dims = (config.decoder_dim, config.decoder_heads, decoder_hidden);
        let (eps, depth) = (vit.norm_eps, config.decoder_depth);
        let head = PatchHead::new(b, config);
        let head_end = b.end();
        let decoder = Stack::new(b, "decoder_blocks", depth, decoder_dims, eps);
        let decoder_input = DecoderInput::new(b, config);
        let ends = Ends {
            head: head_end,
            decoder_input: b.end(),
        };
        let norm = Norm::new(b, "norm", vit.dim, eps);
        let trunk = Trunk::of_mae(b, config);
        (head, decoder, decoder_input, norm, trunk, ends)
    }

    /// The trainable parameters, without making them.
    pub(crate) fn table(config: &MaeConfig) -> ParamsBuilder {
        let mut b = ParamsBuilder::default();
        let _ = Self::stages(&mut b, config);
        b
    }

    /// Names and shapes of [`Mae::state_dict`], without making the model; but for a tokenizer's, which it knows itself.
    pub fn shapes(config: &MaeConfig) -> Vec<(String, Vec<usize>)> {
        let mut shapes = Self::table(config).shapes();
        let rows = 1 + config.patches();
        shapes.push(("pos_embed".into(), vec![1, rows, config.vit.dim]));
        let decoder = vec![1, rows, config.decoder_dim];
        shapes.push(("decoder_pos_embed".into(), decoder));
        shapes.extend(target::shapes(config));
        shapes
    }

    /// Sets what the model computes with: before its workspace is planned.
    ///
    /// # Errors
    /// If the device has no such numbers.
    pub fn set_precision(&mut self, precision: Precision) -> Result<()> {
        self.params.set_precision(precision)
    }

    /// The device that holds the parameters.
    pub fn device(&self) -> &Device {
        self.params.flat().device()
    }

    /// Plans everything that a step on `batch` images with `keep` visible patches needs.
    ///
    /// # Errors
    /// If nothing would be visible or nothing removed, or the device has no room.
    pub fn workspace(
        &self,
        batch: usize,
        keep: usize,
        activations: Activations,
    ) -> Result<MaeWorkspace> {
        let planner = Planner::new(self.device(), self.params.precision());
        Self::plan(&self.config, (batch, keep), activations, &planner)
    }

    /// [`Mae::workspace`] of a model that need not be there.
    pub(crate) fn plan(
        config: &MaeConfig,
        (batch, keep): (usize, usize),
        activations: Activations,
        planner: &Planner,
    ) -> Result<MaeWorkspace> {
        let patches = config.patches();
        if batch == 0 {
            return Err(Error::Config("a batch needs at least one image".into()));
        }
        if keep == 0 || keep >= patches {
            return Err(Error::Config(format!(
                "of {patches} patches {keep} would stay visible: at least one must, and at least \
                 one must be removed; choose another mask ratio"
            )));
        }
        let dims = BlockDims {
            batch,
            tokens: 1 + patches,
            dim: config.decoder_dim,
            heads: config.decoder_heads,
            hidden: crate::config::hidden(config.decoder_dim, config.vit.mlp_ratio),
        };
        let seen = (batch, 1 + config.encoder_patches(keep));
        let decoder = StackWorkspace::new(dims, config.decoder_depth, activations, planner)?;
        Ok(MaeWorkspace {
            batch,
            keep,
            trunk: TrunkWorkspace::of_mae(config, batch, keep, activations, planner)?,
            latent: planner.activations((seen.0, seen.1, config.vit.dim))?,
            stats: planner.f32((seen.0, seen.1, 2))?,
            dlatent: planner.activations((seen.0, seen.1, config.vit.dim))?,
            decoder_input: DecoderInputWorkspace::new(config, batch, keep, planner)?,
            removed: RemovedWorkspace::new(&decoder, patches - keep, planner)?,
            decoder,
            head: PatchHeadWorkspace::new(config, batch, patches - keep, planner)?,
            bytes: planner.bytes(),
        })
    }

    /// The forward pass, loss included ([`MaeWorkspace::loss`]).
    ///
    /// # Errors
    /// If the input does not fit the workspace, or a fixed part of the target is not there ([`Error::NoTarget`]).
    pub fn forward(&self, input: &MaeInput, w: &mut MaeWorkspace) -> Result<()> {
        self.check_target()?;
        on_compute_thread(self.device(), || {
            self.decoder_input(input, w)?;
            let (ids, x) = (input.ids_restore(), &w.removed.output);
            self.decoder
                .forward_removed(&self.params, &w.decoder, ids, &w.removed)?;
            self.head.forward(
                &self.params,
                (&self.config, &self.fixed),
                x,
                (input.pixels(), ids),
                &w.head,
            )
        })
    }

    /// The gradients of `scale` times the loss of the last [`Mae::forward`], into `grads`, a flat tensor as
    /// [`Params::zeros_like_flat`] makes it. Once for each forward.
    ///
    /// # Errors
    /// If the device fails.
    pub fn backward(
        &self,
        input: &MaeInput,
        w: &mut MaeWorkspace,
        grads: &Tensor,
        scale: f32,
        mode: Accumulate,
    ) -> Result<()> {
        self.backward_in_parts(input, w, grads, (scale, mode), &|_| Ok(()))
    }

    /// As [`Mae::backward`], telling `done` how far the gradients are, stage by stage.
    ///
    /// # Errors
    /// If the device fails, or `done` does.
    pub fn backward_in_parts(
        &self,
        input: &MaeInput,
        w: &mut MaeWorkspace,
        grads: &Tensor,
        (scale, mode): (f32, Accumulate),
        done: &Done<'_>,
    ) -> Result<()> {
        on_compute_thread(self.device(), || {
            let g = Grads {
                params: &self.params,
                flat: grads,
                mode,
                done,
            };
            let (ids_restore, dx) = (input.ids_restore(), &w.decoder.gradient);
            let (removed, dremoved) = (&w.removed.output, &w.removed.gradient);
            self.head.backward(g, removed, &w.head, scale, dremoved)?;
            g.done_to(self.ends.head)?;
            self.decoder
                .backward_removed(g, &w.decoder, ids_restore, &w.removed)?;
            let saved = (&w.latent, ids_restore);
            self.decoder_input
                .backward(g, saved, &w.decoder_input, dx, &w.dlatent)?;
            g.done_to(self.ends.decoder_input)?;
            let (stream, d) = (w.trunk.output(), w.trunk.gradient());
            reduce::fill(&d.full, 0.0)?;
            self.norm
                .backward(g, (stream, &w.stats), &w.dlatent, d, Below::default())?;
            self.trunk.backward(g, &w.trunk, &of_encoder(input))?;
            g.done_to(self.params.flat_len())
        })
    }

    /// Predicts every patch, visible ones too, in the target's space: pixels `[B, L, P·P·C]` in (row, column, channel) order (see
    /// [`crate::ops::masked_loss::Target`]), coefficients `[B, L, components]`, or the tokens' logits `[B, L, vocabulary]`.
    ///
    /// # Errors
    /// If the input does not fit the workspace.
    pub fn predict(&self, input: &MaeInput, w: &mut MaeWorkspace) -> Result<Vec<f32>> {
        let all = on_compute_thread(self.device(), || {
            self.decoder_input(input, w)?;
            self.decoder.forward(&self.params, &w.decoder, None)?;
            self.head.predict_all(&self.params, w.decoder.output())
        })?;
        Ok(all.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?)
    }

    /// Encodes the visible patches, and makes the decoder's input.
    fn decoder_input(&self, input: &MaeInput, w: &MaeWorkspace) -> Result<()> {
        let (expected, actual) = (vec![w.batch, w.keep], vec![input.batch(), input.keep()]);
        if expected != actual {
            let what = "the batch (images, visible patches) against its workspace";
            return Err(Error::Shape {
                what,
                expected,
                actual,
            });
        }
        let trunk_input = (input.pixels(), input.ids_keep());
        self.trunk.forward(
            &self.params,
            trunk_input,
            &self.pos_embed,
            &w.trunk,
            &of_encoder(input),
        )?;
        self.norm
            .forward(&self.params, w.trunk.output(), &w.latent, &w.stats)?;
        let positions = &self.decoder_pos_embed;
        let (latent, x) = ((&w.latent, input.ids_restore()), w.decoder.input());
        self.decoder_input
            .forward(&self.params, latent, positions, &w.decoder_input, x)
    }

    /// A copy of the encoder, for features. It sees every patch, so it has no mask tokens.
    ///
    /// # Errors
    /// If the device has no room.
    pub fn encoder(&self) -> Result<Encoder> {
        let encoder = Encoder::new(self.config.vit.clone(), FinalNorm::Tokens, self.device(), 0)?;
        let mut state = self.state_dict()?;
        state.retain(|name, _| !is_decoder(name));
        encoder.load_state_dict(&state)?;
        Ok(encoder)
    }

    /// Every weight under the reference code's name, the fixed position embeddings and the target's fixed parts included.
    ///
    /// # Errors
    /// If the device fails.
    pub fn state_dict(&self) -> Result<StateDict> {
        let mut state = names::save(&self.params)?;
        state.extend(self.fixed.state_dict()?);
        for (name, tensor) in self.buffers() {
            let (rows, dim) = tensor.dims2()?;
            let data = tensor.flatten_all()?.to_vec1()?;
            state.insert(
                name.into(),
                StateTensor {
                    shape: vec![1, rows, dim],
                    data,
                },
            );
        }
        Ok(state)
    }

    /// Takes weights under the reference code's names, the position embeddings and the target's fixed parts included.
    ///
    /// # Errors
    /// Names what is missing, unexpected or of another shape; then nothing has changed.
    pub fn load_state_dict(&mut self, state: &StateDict) -> Result<()> {
        let fixed = Fixed::from_state_dict(&self.config, state, self.device())?;
        // Those of the target fit: they were taken.
        let own = fixed.names(state);
        let buffers = self
            .buffers()
            .map(|(name, tensor)| (name, [&[1], tensor.dims()].concat()));
        let shapes: Vec<_> = buffers.into_iter().chain(own).collect();
        names::load(&self.params, state, &shapes)?;
        for (name, tensor) in self.buffers() {
            let flat = tensor.flatten_all()?;
            write_range(&flat, 0..flat.elem_count(), &state[name].data)?;
        }
        self.fixed = fixed;
        Ok(())
    }

    fn buffers(&self) -> [(&'static str, &Tensor); 2] {
        [
            ("pos_embed", &self.pos_embed),
            ("decoder_pos_embed", &self.decoder_pos_embed),
        ]
    }
}

/// What the encoder's pass is told beside the visible patches.
fn of_encoder(input: &MaeInput) -> Training<'_> {
    Training {
        ids_restore: Some(input.ids_restore()),
        ..Training::default()
    }
}

/// Whether a weight of this name is the decoder's, a mask token, or a fixed part of the target, so that an encoder that sees every patch
/// does without.
pub fn is_decoder(name: &str) -> bool {
    ["mask_token", ENCODER_MASK_TOKEN].contains(&name)
        || name.starts_with("decoder_")
        || target::is_fixed(name)
}

/// Whether a weight of this name is trained in pre-training, rather than a fixed position embedding or part of the target.
pub fn is_trained(name: &str) -> bool {
    !name.ends_with("pos_embed") && !target::is_fixed(name)
}
