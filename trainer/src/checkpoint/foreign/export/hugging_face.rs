//! A folder of transformers': `model.safetensors` under the hub's names, which every version reads, `config.json` and
//! `preprocessor_config.json`.

use std::fs;
use std::io;

use mae_model::{FinalNorm, StateDict, StateTensor};
use serde_json::{Value as Json, json};

use super::{Prepared, exact, exact_all};
use crate::checkpoint::foreign::Weights;
use crate::checkpoint::foreign::error::{Result, unsupported};
use crate::checkpoint::foreign::names::Naming;
use crate::checkpoint::tensors;

pub(super) fn prepare(weights: Weights, mask_ratio: f64) -> Result<Prepared> {
    weights.without_tables("transformers' ViT")?;
    weights.with_plain_encoder("transformers' ViTMAE")?;
    weights.of_pixels("transformers' ViTMAE")?;
    if weights.final_norm == FinalNorm::Pooled {
        return Err(unsupported(
            "its last norm stands behind mean pooling (fc_norm), which transformers' ViT does not have; export it --to timm \
             or reference",
        ));
    }
    let vit = weights.vit()?;
    let (height, width) = vit.image_size;
    if height != width {
        return Err(unsupported(format!(
            "it takes images of {height}x{width}, and transformers' ViT and ViTMAE only square ones; give --input-size {} to \
             interpolate its position embeddings, or export it --to timm or reference",
            height.max(width)
        )));
    }
    let mut config = json!({
        "hidden_size": vit.dim,
        "num_hidden_layers": vit.depth,
        "num_attention_heads": vit.heads,
        "intermediate_size": vit.hidden(),
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "initializer_range": 0.02,
        "layer_norm_eps": exact(vit.norm_eps),
        "image_size": height,
        "patch_size": vit.patch_size,
        "num_channels": vit.channels,
        "qkv_bias": true,
        "dtype": "float32",
        "torch_dtype": "float32",
    });
    let (class, prefix) = if weights.decoder.is_some() {
        let mae = weights.mae_config()?;
        let hidden = weights.state.get("decoder_blocks.0.mlp.fc1.weight");
        config["model_type"] = "vit_mae".into();
        config["decoder_hidden_size"] = mae.decoder_dim.into();
        config["decoder_num_hidden_layers"] = mae.decoder_depth.into();
        config["decoder_num_attention_heads"] = mae.decoder_heads.into();
        config["decoder_intermediate_size"] = hidden.map_or(0, |weight| weight.shape[0]).into();
        config["mask_ratio"] = mask_ratio.into();
        config["norm_pix_loss"] = mae.norm_pix_loss.into();
        ("ViTMAEForPreTraining", "vit.")
    } else {
        config["model_type"] = "vit".into();
        match weights.classes {
            Some(classes) => {
                let names = |flip: bool| -> Json {
                    let pair = |i: usize| match flip {
                        false => (i.to_string(), Json::from(format!("LABEL_{i}"))),
                        true => (format!("LABEL_{i}"), Json::from(i)),
                    };
                    (0..classes)
                        .map(pair)
                        .collect::<serde_json::Map<_, _>>()
                        .into()
                };
                config["id2label"] = names(false);
                config["label2id"] = names(true);
                ("ViTForImageClassification", "vit.")
            }
            None => ("ViTModel", ""),
        }
    };
    config["architectures"] = json!([class]);
    let preprocessor = json!({
        "image_processor_type": "ViTImageProcessor",
        "do_resize": true,
        "size": {"height": height, "width": width},
        "resample": 3,
        "do_rescale": true,
        "rescale_factor": 1.0 / 255.0,
        "do_normalize": true,
        "image_mean": exact_all(&vit.mean),
        "image_std": exact_all(&vit.std),
    });
    let config = serde_json::to_vec_pretty(&config).map_err(io::Error::from)?;
    let preprocessor = serde_json::to_vec_pretty(&preprocessor).map_err(io::Error::from)?;
    let has_classes = weights.classes.is_some() && weights.decoder.is_none();
    Ok(Prepared {
        files: Box::new(move |folder| {
            let state = renamed(weights.state, &Naming::hub(prefix), has_classes);
            tensors::write(&folder.join("model.safetensors"), &state)?;
            fs::write(folder.join("config.json"), config)?;
            fs::write(folder.join("preprocessor_config.json"), preprocessor)
        }),
        usage: Box::new(move |folder| {
            let pooler = if class == "ViTModel" {
                ", add_pooling_layer=False"
            } else {
                ""
            };
            format!(
                "transformers.{class}.from_pretrained(\"{}\"{pooler})",
                folder.display()
            )
        }),
    })
}

/// The weights under the hub's names, q, k and v apart.
fn renamed(state: StateDict, naming: &Naming, has_classes: bool) -> StateDict {
    let mut renamed = StateDict::new();
    for (ours, tensor) in state {
        if ours.starts_with("head.") && !has_classes {
            continue;
        }
        let mut theirs = naming.theirs(&ours);
        match theirs.len() {
            1 => drop(renamed.insert(theirs.remove(0), tensor)),
            parts => {
                let mut shape = tensor.shape;
                shape[0] /= parts;
                let count = tensor.data.len() / parts;
                for (name, data) in theirs.into_iter().zip(tensor.data.chunks_exact(count)) {
                    let (shape, data) = (shape.clone(), data.to_vec());
                    renamed.insert(name, StateTensor { shape, data });
                }
            }
        }
    }
    renamed
}
