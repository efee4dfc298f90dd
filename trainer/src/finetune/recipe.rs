//! The reference code's fine-tuning recipe (FINETUNE.md and `util/lr_decay.py` there): what depends on the model's size, and how each
//! parameter is trained.

use mae_model::ParamSpec;

use crate::optim::Treatment;

/// What the published settings differ in by size.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Recipe {
    pub(super) epochs: u64,
    /// Learning rate per 256 images.
    pub(super) blr: f64,
    pub(super) layer_decay: f64,
    pub(super) drop_path: f64,
}

impl Recipe {
    /// For an encoder of this width: that of the largest published model which is no wider; of B for what is smaller.
    pub(super) fn of(dim: usize) -> Self {
        let large = Recipe {
            epochs: 50,
            blr: 1e-3,
            layer_decay: 0.75,
            drop_path: 0.2,
        };
        match dim {
            1280.. => Recipe {
                drop_path: 0.3,
                ..large
            },
            1024.. => large,
            _ => Recipe {
                epochs: 100,
                blr: 5e-4,
                layer_decay: 0.65,
                drop_path: 0.1,
            },
        }
    }
}

/// Which layer a parameter belongs to: 0 for the embedding, `i + 1` for block `i`, `depth + 1` for what follows.
fn layer(name: &str, depth: usize) -> usize {
    if name == "cls_token" || name == "pos_embed" || name.starts_with("patch_embed.") {
        return 0;
    }
    let block = name
        .strip_prefix("blocks.")
        .and_then(|rest| rest.split('.').next())
        .and_then(|number| number.parse::<usize>().ok());
    block.map_or(depth + 1, |block| block + 1)
}

/// How a classifier's parameter is trained; not at all if it belongs to the first `frozen` blocks or what is before them.
pub(super) fn treatment(
    spec: &ParamSpec,
    depth: usize,
    layer_decay: f64,
    frozen: usize,
) -> Option<Treatment> {
    let layer = layer(&spec.name, depth);
    if frozen > 0 && layer <= frozen {
        return None;
    }
    Some(Treatment {
        // The reference's `no_weight_decay`.
        decay: spec.decay && spec.name != "pos_embed" && spec.name != "cls_token",
        lr_scale: layer_decay.powi((depth + 1 - layer) as i32),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;
    use mae_model::{MaeConfig, Pooling, VitClassifier};

    #[test]
    fn sizes_have_their_published_settings() {
        let b = Recipe::of(768);
        assert_eq!(
            (b.epochs, b.blr, b.layer_decay, b.drop_path),
            (100, 5e-4, 0.65, 0.1)
        );
        let l = Recipe::of(1024);
        assert_eq!(
            (l.epochs, l.blr, l.layer_decay, l.drop_path),
            (50, 1e-3, 0.75, 0.2)
        );
        assert_eq!(Recipe::of(1280).drop_path, 0.3);
        assert_eq!(Recipe::of(192), b);
    }

    #[test]
    fn layers_decay_towards_the_embedding() {
        let config = MaeConfig::named("mae-micro-patch4", (8, 8), 3).unwrap().vit;
        let depth = config.depth;
        let vit = VitClassifier::new(config, 3, Pooling::Avg, &Device::Cpu, 0).unwrap();
        for spec in vit.params.specs() {
            let whole = treatment(spec, depth, 0.5, 0).unwrap();
            let (scale, decay) = match spec.name.as_str() {
                "cls_token" | "pos_embed" => (1.0 / 32.0, false),
                "patch_embed.proj.weight" => (1.0 / 32.0, true),
                "blocks.0.attn.qkv.weight" => (1.0 / 16.0, true),
                "blocks.3.norm1.weight" => (0.5, false),
                "head.weight" => (1.0, true),
                "fc_norm.weight" | "head.bias" => (1.0, false),
                _ => continue,
            };
            assert_eq!(
                (whole.lr_scale, whole.decay),
                (scale, decay),
                "{}",
                spec.name
            );
        }
        let trained = |frozen: usize| -> Vec<&str> {
            let specs = vit.params.specs().iter();
            let trained = specs.filter(|spec| treatment(spec, depth, 0.5, frozen).is_some());
            trained.map(|spec| spec.name.as_str()).collect()
        };
        assert_eq!(trained(0).len(), vit.params.specs().len());
        let of_last = trained(depth - 1);
        assert!(of_last.iter().all(|name| {
            name.starts_with("blocks.3.")
                || name.starts_with("head.")
                || name.starts_with("fc_norm.")
        }));
        assert_eq!(of_last.len(), 12 + 4);
        assert_eq!(trained(depth).len(), 4);
    }
}
