//! A model's dimensions from its weights' shapes, and the rest from what is said beside them.

use mae_model::config::{IMAGENET_MEAN, IMAGENET_STD};
use mae_model::stage::mask_tokens::ENCODER_MASK_TOKEN;
use mae_model::{StateDict, VitConfig};

use serde::Serialize;

use super::error::{ForeignError, Result, damaged, unsupported};
use super::facts::Facts;
use super::{Format, ImportOptions};

/// What the weights of an encoder are for.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Dimensions {
    /// Channels of an image.
    pub channels: usize,
    /// Side of a patch in pixels.
    pub patch_size: usize,
    /// Width of a token.
    pub dim: usize,
    /// Blocks.
    pub depth: usize,
    /// Hidden width of the MLPs.
    pub hidden: usize,
    /// Attention heads, if known.
    pub heads: Option<usize>,
    /// Height and width that the position embedding is for.
    pub image_size: (usize, usize),
    /// Epsilon of the norms.
    pub norm_eps: f32,
    /// Mean of each channel that images are normalised with, on a scale of 0 to 1.
    pub mean: Vec<f32>,
    /// Standard deviation of each channel.
    pub std: Vec<f32>,
    /// Whether mean and standard deviation are a guess by the format.
    pub guessed_statistics: bool,
    /// Whether blocks have BEiT's tables of relative positions.
    pub relative_positions: bool,
}

/// What the weights of a decoder are for.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct DecoderDimensions {
    /// Width of a token.
    pub dim: usize,
    /// Blocks.
    pub depth: usize,
    /// Attention heads, if known.
    pub heads: Option<usize>,
    /// Whether the target is normalised patch by patch, if known.
    pub norm_pix_loss: Option<bool>,
    /// Whether the encoder has mask tokens in training.
    pub encoder_mask_tokens: bool,
}

/// Patches in a row of the largest image with relative positions: 1,024 pixels of patches of 16.
const MOST_SIDE: usize = 64;

const FIRST_TABLE: &str = "blocks.0.attn.relative_position_bias_table";

/// Heads of encoders whose heads are not 64 wide, by their width: ViT-H, g, G and SO400M.
const OTHER_HEADS: &[(usize, usize)] = &[(1280, 16), (1408, 16), (1664, 16), (1152, 16)];

impl Dimensions {
    pub(super) fn of(
        state: &StateDict,
        format: &Format,
        facts: &Facts,
        options: &ImportOptions,
    ) -> Result<Self> {
        let shape = |name: &str| state.get(name).map(|tensor| tensor.shape.as_slice());
        let &[dim, channels, patch_size, width] = shape("patch_embed.proj.weight").unwrap_or(&[])
        else {
            return Err(unsupported(
                "its patch embedding is no convolution [D, C, P, P], which this model's is",
            ));
        };
        if patch_size != width || patch_size == 0 || channels == 0 {
            return Err(unsupported(format!(
                "its patches of {patch_size}x{width} pixels are not square"
            )));
        }
        if let Some(other) = facts.dim.filter(|other| *other != dim) {
            return Err(unsupported(format!(
                "config.json beside it is of another model, {other} wide where the weights are {dim}; move one of them away"
            )));
        }
        if shape("cls_token").is_none() {
            return Err(unsupported(
                "it has no class token (cls_token), which this model's encoder needs",
            ));
        }
        let hidden = match shape("blocks.0.mlp.fc1.weight") {
            Some(&[hidden, _]) if hidden > 0 => hidden,
            _ => {
                return Err(unsupported(
                    "its first block has no MLP of two layers (mlp.fc1.weight)",
                ));
            }
        };
        let default = || match format {
            Format::Beit => (vec![0.5; channels], vec![0.5; channels]),
            _ if channels == 3 => (IMAGENET_MEAN.to_vec(), IMAGENET_STD.to_vec()),
            _ => (vec![0.5; channels], vec![0.5; channels]),
        };
        let mean = options.mean.clone().or(facts.mean.clone());
        let std = options.std.clone().or(facts.std.clone());
        let guessed_statistics = mean.is_none() || std.is_none();
        Ok(Self {
            channels,
            patch_size,
            dim,
            depth: depth(state, "blocks"),
            hidden,
            heads: options
                .heads
                .or(facts.heads)
                .or_else(|| shape(FIRST_TABLE)?.get(1).copied())
                .or_else(|| usual_heads(dim, format)),
            image_size: image_size(state, patch_size, facts, options)?,
            norm_eps: facts.norm_eps.unwrap_or(1e-6),
            mean: mean.unwrap_or_else(|| default().0),
            std: std.unwrap_or_else(|| default().1),
            guessed_statistics,
            relative_positions: state.contains_key(FIRST_TABLE),
        })
    }

    /// The encoder's configuration.
    ///
    /// # Errors
    /// If the number of heads is not known.
    pub(super) fn vit(&self) -> Result<VitConfig> {
        let heads = self.heads.ok_or_else(|| ForeignError::Unknown {
            what: format!(
                "how many attention heads the encoder has (its width is {})",
                self.dim
            ),
            flag: "--heads N".into(),
        })?;
        let config = self.vit_of(heads);
        config.validate().map_err(ForeignError::Fit)?;
        Ok(config)
    }

    pub(super) fn vit_of(&self, heads: usize) -> VitConfig {
        VitConfig {
            image_size: self.image_size,
            patch_size: self.patch_size,
            channels: self.channels,
            dim: self.dim,
            depth: self.depth,
            heads,
            mlp_ratio: ratio(self.dim, self.hidden),
            norm_eps: self.norm_eps,
            mean: self.mean.clone(),
            std: self.std.clone(),
            relative_positions: self.relative_positions,
        }
    }

    /// That patches divide images.
    pub(super) fn check_size(&self) -> Result<()> {
        let config = self.vit_of(1).validate();
        config.map_err(ForeignError::Fit)
    }

    /// Rows and columns of patches.
    pub(super) fn grid(&self) -> (usize, usize) {
        let (height, width) = self.image_size;
        (height / self.patch_size, width / self.patch_size)
    }
}

impl From<&VitConfig> for Dimensions {
    fn from(vit: &VitConfig) -> Self {
        Self {
            channels: vit.channels,
            patch_size: vit.patch_size,
            dim: vit.dim,
            depth: vit.depth,
            hidden: vit.hidden(),
            heads: Some(vit.heads),
            image_size: vit.image_size,
            norm_eps: vit.norm_eps,
            mean: vit.mean.clone(),
            std: vit.std.clone(),
            guessed_statistics: false,
            relative_positions: vit.relative_positions,
        }
    }
}

impl DecoderDimensions {
    /// None if there is no decoder among the weights.
    pub(super) fn of(state: &StateDict, facts: &Facts, options: &ImportOptions) -> Option<Self> {
        let dim = *state.get("decoder_embed.weight")?.shape.first()?;
        // The paper's decoders are 512 wide with 16 heads.
        let usual = (dim == 512).then_some(16);
        Some(Self {
            dim,
            depth: depth(state, "decoder_blocks"),
            heads: options.decoder_heads.or(facts.decoder_heads).or(usual),
            norm_pix_loss: options.norm_pix_loss.or(facts.norm_pix_loss),
            encoder_mask_tokens: state.contains_key(ENCODER_MASK_TOKEN),
        })
    }
}

/// How many different blocks a stack has.
fn depth(state: &StateDict, stack: &str) -> usize {
    let number = |name: &String| {
        let rest = name.strip_prefix(stack)?.strip_prefix('.')?;
        Some(rest.split_once('.')?.0.to_owned())
    };
    let numbers: std::collections::BTreeSet<String> = state.keys().filter_map(number).collect();
    numbers.len()
}

fn usual_heads(dim: usize, format: &Format) -> Option<usize> {
    // MoCo v3's ViT-S has twice the usual heads.
    if *format == Format::MocoV3 && dim == 384 {
        return Some(12);
    }
    let other = OTHER_HEADS.iter().find(|(width, _)| *width == dim);
    let usual = || (dim > 0 && dim.is_multiple_of(64)).then_some(dim / 64);
    other.map(|(_, heads)| *heads).or_else(usual)
}

/// The ratio that gives exactly this hidden width, which is truncated.
fn ratio(dim: usize, hidden: usize) -> f32 {
    let ratio = hidden as f32 / dim as f32;
    let truncated = (dim as f64 * f64::from(ratio)) as usize;
    if truncated < hidden {
        ratio.next_up()
    } else {
        ratio
    }
}

/// Height and width that the weights were trained at.
fn image_size(
    state: &StateDict,
    patch: usize,
    facts: &Facts,
    options: &ImportOptions,
) -> Result<(usize, usize)> {
    let fits = |&(height, width): &(usize, usize), patches: usize| {
        let divided = height.is_multiple_of(patch) && width.is_multiple_of(patch);
        divided && (height / patch).checked_mul(width / patch) == Some(patches)
    };
    let rows = match state.get("pos_embed").map(|tensor| &tensor.shape[..]) {
        Some(&[1, rows, _]) if rows > 1 => rows,
        Some(other) => {
            return Err(damaged(format!(
                "its pos_embed has the shape {other:?}, not [1, 1 + L, D]"
            )));
        }
        // BEiT tells places apart by its tables of relative positions.
        None => 1 + patches_of_table(state)?,
    };
    // A class token without a row of its own (DeiT III) has one row fewer.
    for patches in [rows - 1, rows] {
        let stated = facts.image_size.filter(|size| fits(size, patches));
        let side = patches.isqrt();
        let square = (side * side == patches).then_some((side * patch, side * patch));
        if let Some(size) = stated.or(square) {
            return Ok(size);
        }
    }
    let asked = options.image_size.filter(|size| fits(size, rows - 1));
    asked.ok_or_else(|| ForeignError::Unknown {
        what: format!(
            "the size of its images ({} patches are no square)",
            rows - 1
        ),
        flag: "--input-size HEIGHTxWIDTH, the size that it was trained at".into(),
    })
}

/// Patches of a square window of BEiT's table: `(2s − 1)² + 3` rows.
fn patches_of_table(state: &StateDict) -> Result<usize> {
    let table = state
        .get(FIRST_TABLE)
        .ok_or_else(|| unsupported("it has no position embedding (pos_embed)"))?;
    let rows = table.shape.first().copied().unwrap_or(0);
    let side = rows.saturating_sub(3).isqrt().div_ceil(2);
    if side == 0 || (2 * side - 1).pow(2) + 3 != rows {
        return Err(unsupported(format!(
            "its table of relative positions has {rows} rows, which is not that of a square image"
        )));
    }
    // The biases take memory by the square of this.
    if side > MOST_SIDE {
        return Err(unsupported(format!(
            "its table of relative positions is for {side}x{side} patches, more than {MOST_SIDE}x{MOST_SIDE}"
        )));
    }
    Ok(side * side)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ratio_gives_back_its_hidden_width() {
        for dim in [12, 24, 96, 384, 768, 1152, 1408] {
            for hidden in 1..5000 {
                let ratio = ratio(dim, hidden);
                assert_eq!((dim as f64 * f64::from(ratio)) as usize, hidden, "{dim}");
            }
        }
    }

    #[test]
    fn heads_are_the_published_ones() {
        let heads = |dim| usual_heads(dim, &Format::Reference);
        assert_eq!(
            [192, 384, 768, 1024, 1280].map(heads),
            [Some(3), Some(6), Some(12), Some(16), Some(16)]
        );
        assert_eq!(heads(96), None);
        assert_eq!(usual_heads(384, &Format::MocoV3), Some(12));
    }
}
