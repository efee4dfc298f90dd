//! A model's weights under the reference code's names, known to fit the model's dimensions.

use std::collections::BTreeMap;

use candle_core::Device;
use mae_model::mae::{is_decoder, is_trained};
use mae_model::{
    Encoder, FinalNorm, Mae, MaeConfig, Pooling, StateDict, StateTensor, Target, VitClassifier,
    VitConfig,
};

use super::dimensions::{DecoderDimensions, Dimensions};
use super::error::{ForeignError, Result, unsupported};
use super::facts::Facts;
use super::names::Naming;
use super::{Format, ImportOptions, fold, positions};

/// Weights and what they are for.
#[derive(Debug)]
pub struct Weights {
    /// The encoder.
    pub encoder: Dimensions,
    /// Where the encoder's last norm stands.
    pub final_norm: FinalNorm,
    /// The decoder, if there is one.
    pub decoder: Option<DecoderDimensions>,
    /// What the decoder predicts; other programs' predict pixels.
    pub target: Target,
    /// Classes of the head, if there is one.
    pub classes: Option<usize>,
    /// Under the reference code's names.
    pub(super) state: StateDict,
}

impl Weights {
    /// Joins parts, tells the dimensions, checks that all fits, and brings it to the image size asked for.
    pub(super) fn assemble(
        mut state: StateDict,
        (naming, format): (&Naming, &Format),
        facts: &Facts,
        options: &ImportOptions,
        (unknown, left_out): (Vec<String>, &mut Vec<String>),
    ) -> Result<Self> {
        if let Some(token) = unknown.iter().find(|name| is_other_token(name)) {
            return Err(unsupported(format!(
                "it has tokens beside the class token ({token}), which this model's encoder does not"
            )));
        }
        fold::fold(&mut state)?;
        let encoder = Dimensions::of(&state, format, facts, options)?;
        let decoder = DecoderDimensions::of(&state, facts, options);
        let final_norm = match state.contains_key("norm.weight") {
            false if state.contains_key("fc_norm.weight") => FinalNorm::Pooled,
            _ => FinalNorm::Tokens,
        };
        let classes = classes(&state, encoder.dim, final_norm, facts);
        if classes.is_none() {
            let heads = state.keys().filter(|name| is_head(name));
            left_out.extend(heads.flat_map(|name| naming.theirs(name)));
            state.retain(|name, _| !is_head(name));
        }
        complete_class_position(&mut state, &encoder);
        let mut weights = Self {
            encoder,
            final_norm,
            decoder,
            target: Target::Pixels,
            classes,
            state,
        };
        weights.check(naming, unknown)?;
        weights.complete_positions();
        if let Some(size) = options.image_size {
            weights.resize(size)?;
        }
        Ok(weights)
    }

    /// The weights of a run of ours.
    pub(in crate::checkpoint) fn of_run(config: &MaeConfig, state: StateDict) -> Self {
        Self {
            encoder: Dimensions::from(&config.vit),
            final_norm: FinalNorm::Tokens,
            decoder: Some(DecoderDimensions {
                dim: config.decoder_dim,
                depth: config.decoder_depth,
                heads: Some(config.decoder_heads),
                norm_pix_loss: Some(config.norm_pix_loss),
                encoder_mask_tokens: config.encoder_mask_tokens,
            }),
            target: config.target.clone(),
            classes: None,
            state,
        }
    }

    /// The weights of a fine-tuning run of ours.
    pub(in crate::checkpoint) fn of_tuned(
        vit: &VitConfig,
        pooling: Pooling,
        state: StateDict,
    ) -> Self {
        Self {
            encoder: Dimensions::from(vit),
            final_norm: match pooling {
                Pooling::Token => FinalNorm::Tokens,
                Pooling::Avg => FinalNorm::Pooled,
            },
            decoder: None,
            target: Target::Pixels,
            classes: state
                .get("head.weight")
                .and_then(|head| head.shape.first().copied()),
            state,
        }
    }

    /// The encoder's configuration.
    ///
    /// # Errors
    /// If the number of heads is not known.
    pub fn vit(&self) -> Result<VitConfig> {
        self.encoder.vit()
    }

    /// The configuration of encoder and decoder.
    ///
    /// # Errors
    /// If there is no decoder, or its heads or its target are not known.
    pub fn mae_config(&self) -> Result<MaeConfig> {
        let decoder = self.decoder.as_ref().ok_or_else(|| {
            unsupported(
                "it has no decoder, which masked pre-training, its loss and reconstructions need; the reference code's \
                 checkpoints with a decoder are called *_full.pth or mae_visualize_*.pth",
            )
        })?;
        let heads = decoder.heads.ok_or_else(|| ForeignError::Unknown {
            what: format!(
                "how many attention heads the decoder has (its width is {})",
                decoder.dim
            ),
            flag: "--decoder-heads N".into(),
        })?;
        let norm_pix_loss = decoder.norm_pix_loss.ok_or_else(|| ForeignError::Unknown {
            what: "whether the target was normalised patch by patch".into(),
            flag: "--norm-pix-loss true (the reference code's *_full.pth) or --norm-pix-loss false (its mae_visualize_*.pth)".into(),
        })?;
        let config = MaeConfig {
            vit: self.vit()?,
            decoder_dim: decoder.dim,
            decoder_depth: decoder.depth,
            decoder_heads: heads,
            norm_pix_loss,
            encoder_mask_tokens: decoder.encoder_mask_tokens,
            target: self.target.clone(),
        };
        config.validate().map_err(ForeignError::Fit)?;
        Ok(config)
    }

    /// The encoder.
    ///
    /// # Errors
    /// If the number of heads is not known.
    pub fn into_encoder(mut self, device: &Device) -> Result<Encoder> {
        self.state.retain(|name, _| !is_beside(name));
        let encoder = Encoder::new(self.vit()?, self.final_norm, device, 0);
        let encoder = encoder.map_err(ForeignError::Fit)?;
        encoder
            .load_state_dict(&self.state)
            .map_err(ForeignError::Fit)?;
        Ok(encoder)
    }

    /// Encoder and decoder.
    ///
    /// # Errors
    /// As [`Weights::mae_config`].
    pub fn into_mae(mut self, device: &Device) -> Result<Mae> {
        self.state.retain(|name, _| !is_head(name));
        let mut mae = Mae::new(self.mae_config()?, device, 0).map_err(ForeignError::Fit)?;
        mae.load_state_dict(&self.state)
            .map_err(ForeignError::Fit)?;
        Ok(mae)
    }

    /// The encoder with its head over classes, which reads the class token or, where the last norm is behind pooling, the mean.
    ///
    /// # Errors
    /// If there is no head, or the number of the encoder's heads is not known.
    pub fn into_classifier(mut self, device: &Device) -> Result<VitClassifier> {
        let no_head = || unsupported("it has no head over classes (head.weight, head.bias)");
        let classes = self.classes.ok_or_else(no_head)?;
        let pooling = match self.final_norm {
            FinalNorm::Tokens => Pooling::Token,
            FinalNorm::Pooled => Pooling::Avg,
        };
        self.state.retain(|name, _| !is_decoder(name));
        let vit = VitClassifier::new(self.vit()?, classes, pooling, device, 0);
        let vit = vit.map_err(ForeignError::Fit)?;
        vit.load_state_dict(&self.state)
            .map_err(ForeignError::Fit)?;
        Ok(vit)
    }

    /// Trainable numbers.
    pub fn parameters(&self) -> usize {
        let trained = self.state.iter().filter(|(name, _)| is_trained(name));
        trained.map(|(_, tensor)| tensor.data.len()).sum()
    }

    /// Brings the position embeddings to another image size.
    ///
    /// # Errors
    /// If the patches do not divide it.
    pub fn resize(&mut self, image_size: (usize, usize)) -> Result<()> {
        let from = self.encoder.grid();
        if self.encoder.relative_positions && image_size != self.encoder.image_size {
            let (height, width) = self.encoder.image_size;
            return Err(unsupported(format!(
                "its tables of relative positions (BEiT's) are for images of {height}x{width} and are not interpolated; leave \
                 --input-size out"
            )));
        }
        let resized = Dimensions {
            image_size,
            ..self.encoder.clone()
        };
        resized.check_size()?;
        for name in [POS_EMBED, "decoder_pos_embed"] {
            if let Some(positions) = self.state.get_mut(name) {
                *positions = positions::resample(positions, from, resized.grid());
            }
        }
        self.encoder = resized;
        Ok(())
    }

    /// That the model has no tables of relative positions.
    pub(super) fn without_tables(&self, client: &str) -> Result<()> {
        if self.encoder.relative_positions {
            return Err(unsupported(format!(
                "it has relative position biases (BEiT's), which {client} does not"
            )));
        }
        Ok(())
    }

    /// That the decoder, if there is one, brings the mask tokens, as everywhere else.
    pub(super) fn with_plain_encoder(&self, client: &str) -> Result<()> {
        match &self.decoder {
            Some(decoder) if decoder.encoder_mask_tokens => Err(unsupported(format!(
                "it was trained with mask tokens in the encoder (--encoder-mask-tokens), which {client} does not have; export the \
                 encoder alone --to timm, and from there to others"
            ))),
            _ => Ok(()),
        }
    }

    /// That another program's decoder predicts what this one does.
    pub(super) fn of_pixels(&self, client: &str) -> Result<()> {
        if self.decoder.is_none() || self.target == Target::Pixels {
            return Ok(());
        }
        Err(unsupported(format!(
            "its decoder predicts {}, not pixels, which {client} does not know; export the encoder alone, with --to timm",
            self.target
        )))
    }

    /// Leaves the decoder out.
    pub(super) fn leave_decoder(&mut self) {
        self.decoder = None;
        self.state.retain(|name, _| !is_decoder(name));
    }

    /// Every name and shape that the model asks for.
    fn shapes(&self) -> Vec<(String, Vec<usize>)> {
        // But for tables of relative positions, no shape depends on the heads.
        let vit = self.encoder.vit_of(self.encoder.heads.unwrap_or(1));
        let mut shapes = match &self.decoder {
            Some(decoder) => Mae::shapes(&MaeConfig {
                vit,
                decoder_dim: decoder.dim,
                decoder_depth: decoder.depth,
                decoder_heads: 1,
                norm_pix_loss: false,
                encoder_mask_tokens: decoder.encoder_mask_tokens,
                target: self.target.clone(),
            }),
            None => Encoder::shapes(&vit, self.final_norm),
        };
        if let Some(classes) = self.classes {
            shapes.push(("head.weight".into(), vec![classes, self.encoder.dim]));
            shapes.push(("head.bias".into(), vec![classes]));
        }
        shapes
    }

    /// Zeros for `pos_embed` where a model has none (BEiT).
    fn complete_positions(&mut self) {
        if !self.state.contains_key(POS_EMBED) {
            let (rows, columns) = self.encoder.grid();
            let shape = vec![1, 1 + rows * columns, self.encoder.dim];
            let data = vec![0.0; shape.iter().product()];
            let positions = StateTensor { shape, data };
            self.state.insert(POS_EMBED.into(), positions);
        }
    }

    /// That every parameter of the model is there, of the right shape, and nothing else.
    fn check(&self, naming: &Naming, unknown: Vec<String>) -> Result<()> {
        let wanted: BTreeMap<String, Vec<usize>> = self.shapes().into_iter().collect();
        let both = |ours: &String| {
            let theirs = naming.theirs(ours);
            if theirs == [ours.clone()] {
                ours.clone()
            } else {
                format!("{ours} ({})", theirs.join(", "))
            }
        };
        let (mut missing, mut misshapen) = (vec![], vec![]);
        for (name, shape) in &wanted {
            match self.state.get(name) {
                None if name == POS_EMBED && self.encoder.relative_positions => {}
                None => missing.push(both(name)),
                Some(tensor) if tensor.shape != *shape => misshapen.push(format!(
                    "{} (the model has {shape:?}, the weights {:?})",
                    both(name),
                    tensor.shape
                )),
                Some(_) => {}
            }
        }
        let extra = self.state.keys().filter(|name| !wanted.contains_key(*name));
        let unexpected: Vec<String> = extra.map(both).chain(unknown).collect();
        if missing.is_empty() && unexpected.is_empty() && misshapen.is_empty() {
            return Ok(());
        }
        Err(ForeignError::Fit(mae_model::Error::StateDict {
            missing,
            unexpected,
            misshapen,
        }))
    }
}

/// Classes of a head that can be used: a linear layer on what the last norm's place says, the class token or the mean.
fn classes(state: &StateDict, dim: usize, norm: FinalNorm, facts: &Facts) -> Option<usize> {
    let pooling = match norm {
        FinalNorm::Tokens => "token",
        FinalNorm::Pooled => "avg",
    };
    let stated = facts.global_pool.as_deref();
    let &[classes, width] = state.get("head.weight")?.shape.as_slice() else {
        return None;
    };
    let fits = width == dim && state.get("head.bias")?.shape == [classes];
    (fits && stated.is_none_or(|stated| stated == pooling)).then_some(classes)
}

/// Registers and distillation tokens.
fn is_other_token(name: &str) -> bool {
    let last = name.rsplit('.').next().unwrap_or(name);
    [
        "dist_token",
        "distillation_token",
        "reg_token",
        "register_tokens",
        "storage_tokens",
    ]
    .contains(&last)
}

const POS_EMBED: &str = "pos_embed";

fn is_head(name: &str) -> bool {
    name.starts_with("head.")
}

fn is_beside(name: &str) -> bool {
    is_head(name) || is_decoder(name)
}

/// Gives `pos_embed` the class token's row where a model adds nothing to it (DeiT III).
fn complete_class_position(state: &mut StateDict, encoder: &Dimensions) {
    let (rows, columns) = encoder.grid();
    let Some(StateTensor { shape, data }) = state.get_mut(POS_EMBED) else {
        return;
    };
    if *shape == [1, rows * columns, encoder.dim] {
        data.splice(0..0, std::iter::repeat_n(0.0, encoder.dim));
        shape[1] += 1;
    }
}
