//! What a checkpoint says of its model beside the weights: `config.json` of timm or transformers, the settings that a training
//! program saved, or what `mae export` wrote.

use std::collections::BTreeMap;
use std::path::Path;

use mae_model::VitConfig;
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

use super::archive::About;
use super::error::{Result, damaged, unsupported};

/// What is known from elsewhere than the weights.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Facts {
    /// Width of the encoder, to tell that these are facts of this model.
    pub(super) dim: Option<usize>,
    pub(super) heads: Option<usize>,
    pub(super) decoder_heads: Option<usize>,
    /// Height and width that the position embedding is for.
    pub(super) image_size: Option<(usize, usize)>,
    pub(super) norm_eps: Option<f32>,
    pub(super) norm_pix_loss: Option<bool>,
    pub(super) mask_ratio: Option<f64>,
    pub(super) mean: Option<Vec<f32>>,
    pub(super) std: Option<Vec<f32>>,
    /// transformers' `model_type`.
    pub(super) model_type: Option<String>,
    /// timm's `architecture`.
    pub(super) architecture: Option<String>,
    /// timm's way of pooling.
    pub(super) global_pool: Option<String>,
}

/// What `mae export` puts beside the weights in a torch file, as JSON.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Description {
    pub(super) vit: VitConfig,
    pub(super) decoder: Option<DescribedDecoder>,
    pub(super) mask_ratio: f64,
}

/// What a decoder's weights do not say.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(super) struct DescribedDecoder {
    pub(super) heads: usize,
    pub(super) norm_pix_loss: bool,
}

impl Facts {
    /// Everything that the file, and the folder it stands in, say.
    pub(super) fn gather(file: &Path, about: &About) -> Result<Self> {
        if let Some(text) = &about.described {
            return Self::described(text);
        }
        let mut facts = Self::settings(&about.settings);
        let beside = |name: &str| -> Result<Option<Json>> {
            let path = file.with_file_name(name);
            if !path.is_file() {
                return Ok(None);
            }
            let content = std::fs::read(&path)?;
            serde_json::from_slice(&content)
                .map(Some)
                .map_err(|error| damaged(format!("{name} beside it is no JSON: {error}")))
        };
        if let Some(config) = beside("config.json")? {
            if config.get("architecture").is_some() {
                facts.timm(&config);
            } else if config.get("model_type").is_some() {
                facts.transformers(&config)?;
            }
        }
        if let Some(config) = beside("preprocessor_config.json")? {
            facts.mean = numbers(&config["image_mean"]).or(facts.mean);
            facts.std = numbers(&config["image_std"]).or(facts.std);
        }
        Ok(facts)
    }

    fn described(text: &str) -> Result<Self> {
        let unreadable = |error| damaged(format!("what mae export said of the model: {error}"));
        let said: Description = serde_json::from_str(text).map_err(unreadable)?;
        let (vit, decoder) = (said.vit, said.decoder);
        Ok(Self {
            heads: Some(vit.heads),
            decoder_heads: decoder.map(|decoder| decoder.heads),
            image_size: Some(vit.image_size),
            norm_eps: Some(vit.norm_eps),
            norm_pix_loss: decoder.map(|decoder| decoder.norm_pix_loss),
            mask_ratio: Some(said.mask_ratio),
            mean: Some(vit.mean),
            std: Some(vit.std),
            ..Self::default()
        })
    }

    /// The settings that main_pretrain.py saves as `args`.
    fn settings(settings: &BTreeMap<String, Json>) -> Self {
        let get = |name: &str| settings.get(name).unwrap_or(&Json::Null);
        Self {
            norm_pix_loss: get("norm_pix_loss").as_bool(),
            mask_ratio: get("mask_ratio").as_f64(),
            ..Self::default()
        }
    }

    fn timm(&mut self, config: &Json) {
        let (args, trained) = (&config["model_args"], &config["pretrained_cfg"]);
        // Older folders have one flat object.
        let trained = if trained.is_object() { trained } else { config };
        self.architecture = config["architecture"].as_str().map(str::to_owned);
        self.dim = size(&args["embed_dim"]).or_else(|| size(&config["num_features"]));
        self.heads = size(&args["num_heads"]);
        let input = &trained["input_size"];
        self.image_size =
            sides(&args["img_size"]).or_else(|| Some((size(&input[1])?, size(&input[2])?)));
        self.mean = numbers(&trained["mean"]);
        self.std = numbers(&trained["std"]);
        let pool = [&args["global_pool"], &config["global_pool"]];
        self.global_pool = pool
            .iter()
            .find_map(|pool| pool.as_str())
            .map(str::to_owned);
    }

    fn transformers(&mut self, config: &Json) -> Result<()> {
        match config["hidden_act"].as_str() {
            None | Some("gelu") => {}
            Some(other) => {
                return Err(unsupported(format!(
                    "its blocks use {other} where this model has GELU"
                )));
            }
        }
        self.model_type = config["model_type"].as_str().map(str::to_owned);
        self.dim = size(&config["hidden_size"]);
        self.heads = size(&config["num_attention_heads"]);
        self.decoder_heads = size(&config["decoder_num_attention_heads"]);
        self.image_size = sides(&config["image_size"]);
        // transformers' default, where the file leaves it out.
        self.norm_eps = Some(config["layer_norm_eps"].as_f64().unwrap_or(1e-12) as f32);
        self.norm_pix_loss = config["norm_pix_loss"].as_bool();
        self.mask_ratio = config["mask_ratio"].as_f64();
        Ok(())
    }
}

fn size(value: &Json) -> Option<usize> {
    value.as_u64().and_then(|n| usize::try_from(n).ok())
}

/// One number for a square, or height and width.
fn sides(value: &Json) -> Option<(usize, usize)> {
    size(value)
        .map(|side| (side, side))
        .or_else(|| Some((size(&value[0])?, size(&value[1])?)))
}

fn numbers(value: &Json) -> Option<Vec<f32>> {
    let each = value.as_array()?.iter();
    each.map(|x| x.as_f64().map(|x| x as f32)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn beside(files: &[(&str, Json)]) -> Facts {
        let folder = tempfile::tempdir().unwrap();
        for (name, content) in files {
            std::fs::write(folder.path().join(name), content.to_string()).unwrap();
        }
        Facts::gather(&folder.path().join("model.safetensors"), &About::default()).unwrap()
    }

    #[test]
    fn a_transformers_folder_is_read() {
        let facts = beside(&[
            (
                "config.json",
                json!({"model_type": "vit_mae", "num_attention_heads": 3, "decoder_num_attention_heads": 2,
                       "image_size": 16, "norm_pix_loss": true, "layer_norm_eps": 1e-6}),
            ),
            (
                "preprocessor_config.json",
                json!({"image_mean": [0.5, 0.5, 0.5], "image_std": [0.25, 0.25, 0.25]}),
            ),
        ]);
        assert_eq!((facts.heads, facts.decoder_heads), (Some(3), Some(2)));
        assert_eq!(facts.image_size, Some((16, 16)));
        assert_eq!(
            (facts.norm_eps, facts.norm_pix_loss),
            (Some(1e-6), Some(true))
        );
        assert_eq!(facts.std, Some(vec![0.25; 3]));
    }

    #[test]
    fn a_timm_folder_is_read() {
        let facts = beside(&[(
            "config.json",
            json!({"architecture": "vit_tiny_patch16_224", "model_args": {"img_size": [8, 12], "num_heads": 2},
                   "pretrained_cfg": {"input_size": [3, 224, 224], "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}}),
        )]);
        assert_eq!((facts.heads, facts.image_size), (Some(2), Some((8, 12))));
        assert_eq!(facts.mean, Some(vec![0.5; 3]));
        let flat = beside(&[(
            "config.json",
            json!({"architecture": "vit_tiny_patch16_224", "input_size": [3, 32, 32], "mean": [0.0], "std": [1.0]}),
        )]);
        assert_eq!(
            (flat.image_size, flat.std),
            (Some((32, 32)), Some(vec![1.0]))
        );
    }

    #[test]
    fn other_folders_say_nothing() {
        assert_eq!(
            beside(&[("config.json", json!({"name": "x"}))]),
            Facts::default()
        );
        assert_eq!(beside(&[("config.json", json!([1]))]), Facts::default());
    }

    #[test]
    fn the_settings_of_a_training_count() {
        let about = About {
            settings: BTreeMap::from([
                ("norm_pix_loss".into(), json!(true)),
                ("mask_ratio".into(), json!(0.6)),
                ("model".into(), json!("mae_vit_base_patch16")),
            ]),
            ..About::default()
        };
        let facts = Facts::gather(Path::new("/nowhere/x.pth"), &about).unwrap();
        assert_eq!(
            (facts.norm_pix_loss, facts.mask_ratio),
            (Some(true), Some(0.6))
        );
    }
}
