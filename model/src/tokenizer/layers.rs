//! The layers and where their weights stand among the parameters.

use super::TokenizerConfig;
use crate::init::Init;
use crate::params::{ParamId, ParamsBuilder};

/// What every weight's name begins with.
pub(super) const PREFIX: &str = "tokenizer.";

/// A linear layer: weight `[O, I]`, bias `[O]`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Linear {
    pub(super) weight: ParamId,
    pub(super) bias: ParamId,
}

/// A residual block: 3 × 3, then 1 × 1.
#[derive(Clone, Copy, Debug)]
pub(super) struct Block {
    pub(super) near: Linear,
    pub(super) out: Linear,
}

/// Every layer.
#[derive(Clone, Debug)]
pub(super) struct Layers {
    pub(super) stem: Linear,
    pub(super) down: Vec<Linear>,
    pub(super) encoder: Vec<Block>,
    pub(super) logits: Linear,
    /// The codes' embeddings, `[V, D]`.
    pub(super) codes: ParamId,
    pub(super) decoder: Vec<Block>,
    pub(super) up: Vec<Linear>,
    pub(super) pixels: Linear,
}

impl Layers {
    /// Adds the weights to `builder`, the decoder's last first.
    pub(super) fn new(config: &TokenizerConfig, builder: &mut ParamsBuilder) -> Self {
        let (stem, stages) = config.strides();
        let (hidden, square) = (config.hidden, stem * stem * config.channels);
        let mut linear = |name: String, inputs: usize, outputs: usize| {
            let name = |part| format!("{PREFIX}{name}.{part}");
            // He's, for what goes through ReLU.
            let init = Init::Uniform((6.0 / inputs as f32).sqrt());
            Linear {
                weight: builder.add(name("weight"), &[outputs, inputs], init),
                bias: builder.add(name("bias"), &[outputs], Init::Zeros),
            }
        };
        let pixels = linear("decoder.pixels".into(), hidden, square);
        let mut up = vec![];
        for stage in 0..stages {
            up.push(linear(format!("decoder.up.{stage}"), hidden, 4 * hidden));
        }
        let [decoder, encoder] = ["decoder", "encoder"].map(|side| {
            let block = |block: usize| Block {
                near: linear(format!("{side}.blocks.{block}.near"), 9 * hidden, hidden),
                out: linear(format!("{side}.blocks.{block}.out"), hidden, hidden),
            };
            (0..config.blocks).map(block).collect()
        });
        let logits = linear("encoder.logits".into(), hidden, config.vocabulary);
        let mut down = vec![];
        for stage in 0..stages {
            down.push(linear(format!("encoder.down.{stage}"), 4 * hidden, hidden));
        }
        let stem = linear("encoder.stem".into(), square, hidden);
        let embedding = [config.vocabulary, hidden];
        let name = format!("{PREFIX}decoder.codes.weight");
        Self {
            codes: builder.add(name, &embedding, Init::Normal(1.0)),
            stem,
            down,
            encoder,
            logits,
            decoder,
            up,
            pixels,
        }
    }
}
