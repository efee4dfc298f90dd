//! A folder of timm's, as its hub has them: `model.safetensors` and `config.json`.

use std::fs;
use std::io;

use mae_model::FinalNorm;
use serde_json::json;

use super::{Prepared, exact_all};
use crate::checkpoint::foreign::Weights;
use crate::checkpoint::foreign::error::Result;
use crate::checkpoint::tensors;
use crate::config::eval_resize;

/// timm's names of plain vision transformers: width, patch, blocks. Every dimension is given besides.
const ARCHITECTURES: &[(&str, usize, usize, usize)] = &[
    ("vit_small_patch16_224", 384, 16, 12),
    ("vit_small_patch8_224", 384, 8, 12),
    ("vit_base_patch16_224", 768, 16, 12),
    ("vit_base_patch8_224", 768, 8, 12),
    ("vit_large_patch16_224", 1024, 16, 24),
    ("vit_huge_patch14_224", 1280, 14, 32),
];
const OTHERWISE: &str = "vit_tiny_patch16_224";
/// timm's epsilon of the norms, which its folders cannot set.
const NORM_EPS: f32 = 1e-6;

pub(super) fn prepare(mut weights: Weights) -> Result<Prepared> {
    weights.without_tables("timm's plain vision transformer")?;
    weights.leave_decoder();
    let vit = weights.vit()?;
    if vit.norm_eps != NORM_EPS {
        tracing::warn!(
            "timm's norms have an epsilon of {NORM_EPS:e}, these weights were trained with {:e}",
            vit.norm_eps
        );
    }
    let same = |(_, dim, patch, depth): &&(&str, usize, usize, usize)| {
        (*dim, *patch, *depth) == (vit.dim, vit.patch_size, vit.depth)
    };
    let architecture = ARCHITECTURES
        .iter()
        .find(same)
        .map_or(OTHERWISE, |size| size.0);
    let (height, width) = vit.image_size;
    let classes = weights.classes.unwrap_or(0);
    let pool = match weights.final_norm {
        FinalNorm::Tokens => "token",
        // timm then puts the norm behind pooling.
        FinalNorm::Pooled => "avg",
    };
    let crop = height.min(width) as f64 / f64::from(eval_resize(vit.image_size));
    let config = json!({
        "architecture": architecture,
        "num_classes": classes,
        "num_features": vit.dim,
        "global_pool": pool,
        "model_args": {
            "img_size": [height, width],
            "patch_size": vit.patch_size,
            "in_chans": vit.channels,
            "num_classes": classes,
            "global_pool": pool,
            "embed_dim": vit.dim,
            "depth": vit.depth,
            "num_heads": vit.heads,
            "mlp_ratio": f64::from(vit.mlp_ratio),
        },
        "pretrained_cfg": {
            "custom_load": false,
            "input_size": [vit.channels, height, width],
            "fixed_input_size": true,
            "interpolation": "bicubic",
            "crop_pct": crop.min(1.0),
            "crop_mode": "center",
            "mean": exact_all(&vit.mean),
            "std": exact_all(&vit.std),
            "num_classes": classes,
            "pool_size": null,
            "first_conv": "patch_embed.proj",
            "classifier": "head",
        },
    });
    let config = serde_json::to_vec_pretty(&config).map_err(io::Error::from)?;
    Ok(Prepared {
        files: Box::new(move |folder| {
            tensors::write(&folder.join("model.safetensors"), &weights.state)?;
            fs::write(folder.join("config.json"), config)
        }),
        usage: Box::new(|folder| {
            format!(
                "timm.create_model(\"local-dir:{}\", pretrained=True)",
                folder.display()
            )
        }),
    })
}
