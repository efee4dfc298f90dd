//! Reads the golden files. `tests/reference/golden.py` says what they hold.

use std::path::{Path, PathBuf};

use mae_model::{StateDict, StateTensor, VitConfig};
use safetensors::SafeTensors;
use safetensors::tensor::Dtype;
use serde_json::Value;

/// The folder of the golden files.
pub(crate) fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("reference/golden")
}

/// One golden file in memory.
pub(crate) struct Golden {
    /// The file's, without its ending.
    pub(crate) name: String,
    bytes: Vec<u8>,
    /// The JSON of its metadata.
    pub(crate) facts: Value,
}

impl Golden {
    /// Opens `golden/NAME.safetensors`.
    pub(crate) fn open(name: &str) -> Self {
        let path = folder().join(format!("{name}.safetensors"));
        let bytes =
            std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let (_, metadata) = SafeTensors::read_metadata(&bytes).unwrap();
        let facts = serde_json::from_str(&metadata.metadata().as_ref().unwrap()["golden"]).unwrap();
        Self {
            name: name.into(),
            bytes,
            facts,
        }
    }

    fn tensors(&self) -> SafeTensors<'_> {
        SafeTensors::deserialize(&self.bytes).unwrap()
    }

    fn raw(&self, tensor: &str, dtype: Dtype) -> Vec<u8> {
        let tensors = self.tensors();
        let view = tensors
            .tensor(tensor)
            .unwrap_or_else(|error| panic!("{}: {tensor}: {error}", self.name));
        assert_eq!(view.dtype(), dtype, "{tensor}");
        view.data().to_vec()
    }

    pub(crate) fn u8s(&self, tensor: &str) -> Vec<u8> {
        self.raw(tensor, Dtype::U8)
    }

    pub(crate) fn u32s(&self, tensor: &str) -> Vec<u32> {
        let raw = self.raw(tensor, Dtype::U32);
        raw.chunks_exact(4)
            .map(|b| u32::from_le_bytes(b.try_into().unwrap()))
            .collect()
    }

    pub(crate) fn f32s(&self, tensor: &str) -> Vec<f32> {
        let raw = self.raw(tensor, Dtype::F32);
        raw.chunks_exact(4)
            .map(|b| f32::from_le_bytes(b.try_into().unwrap()))
            .collect()
    }

    /// Names under a prefix such as `grads.`, without it, sorted.
    pub(crate) fn names(&self, prefix: &str) -> Vec<String> {
        let tensors = self.tensors();
        let mut names: Vec<String> = tensors
            .names()
            .iter()
            .filter_map(|name| name.strip_prefix(prefix))
            .map(Into::into)
            .collect();
        names.sort();
        names
    }

    /// The model's weights.
    pub(crate) fn weights(&self) -> StateDict {
        let tensors = self.tensors();
        let tensor = |name: String| {
            let full = format!("weights.{name}");
            let shape = tensors.tensor(&full).unwrap().shape().to_vec();
            let data = self.f32s(&full);
            (name, StateTensor { shape, data })
        };
        self.names("weights.").into_iter().map(tensor).collect()
    }

    /// Dimensions of the encoder or the classifier.
    pub(crate) fn vit_config(&self) -> VitConfig {
        vit_config(&self.facts["model"])
    }
}

/// A number of a golden file's JSON.
pub(crate) fn number(value: &Value) -> usize {
    value
        .as_u64()
        .unwrap_or_else(|| panic!("{value} is no whole number")) as usize
}

/// The float of a golden file's JSON.
pub(crate) fn float(value: &Value) -> f64 {
    value
        .as_f64()
        .unwrap_or_else(|| panic!("{value} is no number"))
}

/// Dimensions as the scripts write them.
pub(crate) fn vit_config(model: &Value) -> VitConfig {
    let floats = |value: &Value| {
        value
            .as_array()
            .unwrap()
            .iter()
            .map(|x| float(x) as f32)
            .collect()
    };
    VitConfig {
        image_size: (
            number(&model["image_size"][0]),
            number(&model["image_size"][1]),
        ),
        patch_size: number(&model["patch_size"]),
        channels: number(&model["channels"]),
        dim: number(&model["dim"]),
        depth: number(&model["depth"]),
        heads: number(&model["heads"]),
        mlp_ratio: float(&model["mlp_ratio"]) as f32,
        norm_eps: float(&model["norm_eps"]) as f32,
        mean: floats(&model["mean"]),
        std: floats(&model["std"]),
        relative_positions: false,
    }
}

/// As [`vit_config`], with the decoder.
pub(crate) fn mae_config(model: &Value) -> mae_model::MaeConfig {
    mae_model::MaeConfig {
        vit: vit_config(model),
        decoder_dim: number(&model["decoder_dim"]),
        decoder_depth: number(&model["decoder_depth"]),
        decoder_heads: number(&model["decoder_heads"]),
        norm_pix_loss: model["norm_pix_loss"].as_bool().unwrap(),
        encoder_mask_tokens: model["encoder_mask_tokens"].as_bool().unwrap_or(false),
        target: mae_model::Target::Pixels,
    }
}
