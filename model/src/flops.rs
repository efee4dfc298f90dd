//! How much arithmetic a model needs: two operations for each multiply-add of its matrix products, nothing else counted.
//!
//! For a stack of `d` blocks of width `D` and hidden width `F` on `N` tokens, forward: `2 d N D (4 D + 2 F + 2 N)`, the last
//! term being attention's two products. The backward of a product is two products, but for the patch embedding, before which
//! there is nothing that needs a gradient. What is computed again in the backward (attention's scores, checkpointed blocks)
//! does not count: these are the model's operations, not a program's.

use crate::config::{MaeConfig, Target, hidden};

/// Floating-point operations for one image.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Flops {
    /// Of the forward pass.
    pub forward: f64,
    /// Of the backward pass.
    pub backward: f64,
}

impl Flops {
    /// Both passes.
    pub fn total(self) -> f64 {
        self.forward + self.backward
    }
}

fn stack(depth: usize, tokens: usize, dim: usize, hidden: usize) -> f64 {
    2.0 * (depth * tokens * dim) as f64 * (4 * dim + 2 * hidden + 2 * tokens) as f64
}

impl MaeConfig {
    /// Operations of a pre-training step for one image of which `keep` patches stay visible: those are embedded; the encoder's blocks
    /// see them (with mask tokens every patch) and the class token, the decoder every patch and the class token, all behind its
    /// last attention the removed patches.
    pub fn flops(&self, keep: usize) -> Flops {
        let (vit, patches) = (&self.vit, self.patches());
        let linear = |rows: usize, from: usize, to: usize| 2.0 * (rows * from * to) as f64;
        let embed = linear(keep, vit.patch_len(), vit.dim);
        let seen = 1 + self.encoder_patches(keep);
        let removed = patches.saturating_sub(keep);
        let (wide, decoder_hidden) = (self.decoder_dim, hidden(self.decoder_dim, vit.mlp_ratio));
        let rest = stack(vit.depth, seen, vit.dim, vit.hidden())
            + linear(seen, vit.dim, self.decoder_dim)
            + stack(self.decoder_depth, 1 + patches, wide, decoder_hidden)
            - linear(1 + keep, wide, wide + 2 * decoder_hidden)
            + linear(removed, wide, self.target.width(vit));
        // Targets are made once and have no gradient. A tokenizer's own convolutions are not in here: `mae tokenizer` is another model.
        let targets = match self.target {
            Target::Pca { components } => linear(removed, vit.patch_len(), components),
            Target::Pixels | Target::Tokens { .. } => 0.0,
        };
        Flops {
            forward: embed + rest + targets,
            backward: embed + 2.0 * rest,
        }
    }

    /// Operations that [`Activations::Recompute`](crate::Activations::Recompute) adds to those for one image: of every block but the last
    /// of its stack, all before the MLP's second layer once more.
    pub fn recomputed_flops(&self, keep: usize) -> f64 {
        let again = |depth: usize, tokens: usize, dim: usize, hidden: usize| {
            2.0 * (depth.saturating_sub(1) * tokens * dim) as f64
                * (4 * dim + hidden + 2 * tokens) as f64
        };
        let (vit, wide) = (&self.vit, self.decoder_dim);
        let seen = 1 + self.encoder_patches(keep);
        again(vit.depth, seen, vit.dim, vit.hidden())
            + again(
                self.decoder_depth,
                1 + self.patches(),
                wide,
                hidden(wide, vit.mlp_ratio),
            )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn published_sizes_need_what_was_worked_out_by_hand() {
        // Multiply-adds forward: ViT-B's encoder on 50 tokens 4.3 G, its decoder on 197 tokens 5.4 G.
        let base = MaeConfig::named("mae-base-patch16", (224, 224), 3).unwrap();
        let flops = base.flops(49);
        assert!(
            (flops.forward / 2e9 - 9.7).abs() < 0.15,
            "{}",
            flops.forward
        );
        assert!((flops.total() / 1e9 - 58.0).abs() < 1.0);
    }

    #[test]
    fn the_head_is_as_wide_as_its_target() {
        let pixels = MaeConfig::named("mae-base-patch16", (224, 224), 3).unwrap();
        let mut pca = pixels.clone();
        pca.target = Target::Pca { components: 96 };
        let (pixels, pca) = (pixels.flops(49), pca.flops(49));
        // Of 147 removed patches 672 numbers fewer are predicted from 512, and 96 coefficients made of 768 pixels.
        let head = 2.0 * (147 * 512 * 672) as f64;
        assert_eq!(
            pixels.forward - pca.forward,
            head - 2.0 * (147 * 768 * 96) as f64
        );
        assert_eq!(pixels.backward - pca.backward, 2.0 * head);
    }

    #[test]
    fn a_tiny_model_by_hand() {
        let mut config = MaeConfig::named("mae-micro-patch4", (8, 8), 1).unwrap();
        (config.vit.dim, config.vit.depth, config.vit.heads) = (8, 1, 1);
        (config.decoder_dim, config.decoder_depth) = (4, 1);
        // 1 visible of 4 patches of 16 numbers. Encoder: 2 tokens; decoder: 5.
        let embed = 16 * 8;
        let encoder = 2 * (8 * 24 + 8 * 8 + 8 * 32 + 32 * 8) + 2 * (2 * 2 * 8);
        let decoder = 5 * (4 * 12) + 2 * (5 * 5 * 4) + 3 * (4 * 4 + 4 * 16 + 16 * 4);
        let rest = encoder + 2 * 8 * 4 + decoder + 3 * 4 * 16;
        let flops = config.flops(1);
        assert_eq!(flops.forward, 2.0 * f64::from(embed + rest));
        assert_eq!(flops.backward, 2.0 * f64::from(embed + 2 * rest));

        // With mask tokens in the encoder: still 1 patch embedded, but 5 tokens in its blocks and 5 projected.
        assert_eq!(config.recomputed_flops(1), 0.0);
        config.encoder_mask_tokens = true;
        let encoder = 5 * (8 * 24 + 8 * 8 + 8 * 32 + 32 * 8) + 2 * (5 * 5 * 8);
        let rest = encoder + 5 * 8 * 4 + decoder + 3 * 4 * 16;
        let flops = config.flops(1);
        assert_eq!(flops.forward, 2.0 * f64::from(embed + rest));
        assert_eq!(flops.backward, 2.0 * f64::from(embed + 2 * rest));

        // Two blocks more in the encoder: both are computed again without their MLP's second layer.
        config.vit.depth = 3;
        let block = 5 * (8 * 24 + 8 * 8 + 8 * 32) + 2 * (5 * 5 * 8);
        assert_eq!(config.recomputed_flops(1), 2.0 * f64::from(2 * block));
    }

    #[test]
    fn mask_tokens_in_the_encoder_cost_what_the_paper_says() {
        // Table 1c: 3.3 times the operations for ViT-L/16 with a decoder of 8 blocks.
        let mut large = MaeConfig::named("mae-large-patch16", (224, 224), 3).unwrap();
        let without = large.flops(49).total();
        large.encoder_mask_tokens = true;
        let ratio = large.flops(49).total() / without;
        assert!((ratio - 3.3).abs() < 0.1, "{ratio}");
    }
}
