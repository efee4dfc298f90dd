//! Named sizes and free dimensions of the models.

use serde::{Deserialize, Serialize};

use crate::tokenizer::TokenizerConfig;
use crate::{Error, Result};

/// Mean and standard deviation of ImageNet's channels, as the reference code normalises with.
pub const IMAGENET_MEAN: [f32; 3] = [0.485, 0.456, 0.406];
/// See [`IMAGENET_MEAN`].
pub const IMAGENET_STD: [f32; 3] = [0.229, 0.224, 0.225];

/// The dimensions of a vision transformer: MAE's encoder, or the plain classifier.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct VitConfig {
    /// Height and width in pixels; the patch size must divide both.
    pub image_size: (usize, usize),
    /// Side of a square patch in pixels.
    pub patch_size: usize,
    /// Channels of the image (3 for RGB).
    pub channels: usize,
    /// Width of a token.
    pub dim: usize,
    /// Number of blocks.
    pub depth: usize,
    /// Attention heads; must divide `dim`.
    pub heads: usize,
    /// Hidden width of the MLP over `dim`.
    pub mlp_ratio: f32,
    /// Epsilon of every layer norm.
    pub norm_eps: f32,
    /// What each channel is normalised with, on a scale of 0 to 1: mean, then standard deviation.
    pub mean: Vec<f32>,
    /// See `mean`.
    pub std: Vec<f32>,
    /// Whether each block adds a bias to its scores by the distance of patches, as BEiT does: fixed, on the CPU only.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub relative_positions: bool,
}

/// A masked autoencoder: its encoder, decoder and target.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MaeConfig {
    /// The encoder.
    pub vit: VitConfig,
    /// Width of the decoder's tokens; a multiple of 4.
    pub decoder_dim: usize,
    /// Blocks of the decoder.
    pub decoder_depth: usize,
    /// Heads of the decoder; must divide `decoder_dim`.
    pub decoder_heads: usize,
    /// Whether each target patch is normalised by its own mean and variance (paper, section 4.1).
    pub norm_pix_loss: bool,
    /// Whether the encoder runs over all patches, removed ones as a learnt token with their positions, and the decoder's input is
    /// the encoder's output alone (paper, table 1c).
    #[serde(default)]
    pub encoder_mask_tokens: bool,
    /// What is predicted of a removed patch.
    #[serde(default, skip_serializing_if = "Target::is_pixels")]
    pub target: Target,
}

/// What a masked autoencoder predicts of a removed patch (paper, table 1d).
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Target {
    /// Its pixels `[P·P·C]`, with mean squared error.
    #[default]
    Pixels,
    /// Its coefficients in a basis of principal components of patches, with mean squared error. Mean and basis are fixed parts of the
    /// model ([`crate::Mae::set_pca`]).
    Pca {
        /// Numbers of the basis's rows.
        components: usize,
    },
    /// The token that a tokenizer gives it, with cross-entropy over the vocabulary. The tokenizer is a fixed part of the model
    /// ([`crate::Mae::set_tokenizer`]).
    Tokens {
        /// What the tokenizer is.
        tokenizer: TokenizerConfig,
    },
}

impl Target {
    /// Numbers that are predicted for a patch: what is as wide as `decoder_pred`.
    pub fn width(&self, vit: &VitConfig) -> usize {
        match self {
            Self::Pixels => vit.patch_len(),
            Self::Pca { components } => *components,
            Self::Tokens { tokenizer } => tokenizer.vocabulary,
        }
    }

    fn is_pixels(&self) -> bool {
        *self == Self::Pixels
    }

    /// That it fits a model of such images.
    fn validate(&self, vit: &VitConfig, norm_pix_loss: bool) -> Result<()> {
        let name = match self {
            Self::Pixels => return Ok(()),
            Self::Pca { .. } => "PCA coefficients",
            Self::Tokens { .. } => "tokens",
        };
        if norm_pix_loss {
            return Err(Error::Config(format!(
                "norm_pix_loss normalises pixels, and this model's target is {name}; leave one of the two out"
            )));
        }
        match self {
            Self::Pca { components } => {
                let numbers = vit.patch_len();
                if (1..=numbers).contains(components) {
                    return Ok(());
                }
                Err(Error::Config(format!(
                    "{components} principal components of patches of {numbers} numbers: there are 1 to {numbers}"
                )))
            }
            Self::Tokens { tokenizer } => {
                let theirs = (
                    tokenizer.image_size,
                    tokenizer.channels,
                    tokenizer.patch_size,
                );
                if theirs == (vit.image_size, vit.channels, vit.patch_size)
                    && tokenizer.vocabulary > 1
                {
                    return Ok(());
                }
                let say = |((height, width), channels, patch): ((usize, usize), usize, usize)| {
                    format!(
                        "images of {height}x{width} with {channels} channels in patches of {patch}"
                    )
                };
                Err(Error::Config(format!(
                    "the tokenizer has {} tokens for {}, the model takes {}; train a tokenizer for those",
                    tokenizer.vocabulary,
                    say(theirs),
                    say((vit.image_size, vit.channels, vit.patch_size)),
                )))
            }
            Self::Pixels => Ok(()),
        }
    }
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Pixels => write!(f, "pixels"),
            Self::Pca { components } => write!(f, "{components} PCA coefficients"),
            Self::Tokens { tokenizer } => write!(f, "tokens of {}", tokenizer.vocabulary),
        }
    }
}

/// How a classifier reads one vector from the tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Pooling {
    /// The class token after the final norm (`norm.*`).
    Token,
    /// The mean of the patch tokens, then `fc_norm.*` (the reference code's global pool).
    Avg,
}

impl std::str::FromStr for Pooling {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        match text {
            "avg" => Ok(Self::Avg),
            "token" => Ok(Self::Token),
            _ => Err(format!(
                "`{text}` is neither avg (the mean of the patch tokens) nor token (the class token)"
            )),
        }
    }
}

/// name, patch, native image side, dim, depth, heads, decoder dim, depth, heads
type Size = (
    &'static str,
    usize,
    usize,
    usize,
    usize,
    usize,
    usize,
    usize,
    usize,
);

const SIZES: &[Size] = &[
    ("mae-micro-patch4", 4, 32, 96, 4, 3, 64, 1, 2),
    ("mae-tiny-patch4", 4, 32, 192, 6, 6, 96, 2, 3),
    ("mae-small-patch4", 4, 32, 384, 8, 6, 192, 2, 6),
    ("mae-tiny-patch8", 8, 96, 192, 12, 3, 192, 4, 6),
    ("mae-tiny-patch16", 16, 224, 192, 12, 3, 192, 4, 6),
    ("mae-small-patch16", 16, 224, 384, 12, 6, 256, 8, 8),
    ("mae-base-patch16", 16, 224, 768, 12, 12, 512, 8, 16),
    ("mae-large-patch16", 16, 224, 1024, 24, 16, 512, 8, 16),
    ("mae-huge-patch14", 14, 224, 1280, 32, 16, 512, 8, 16),
];

impl MaeConfig {
    /// The names that [`MaeConfig::named`] knows, smallest first within a patch size.
    pub fn names() -> impl Iterator<Item = &'static str> {
        SIZES.iter().map(|size| size.0)
    }

    /// The image side that a named model is meant for, in pixels.
    pub fn native_size(name: &str) -> Option<usize> {
        SIZES.iter().find(|size| size.0 == name).map(|size| size.2)
    }

    /// A named model for images of `image_size` (height, width) with `channels` channels.
    ///
    /// # Errors
    /// If the name is unknown or the patch does not divide the image.
    pub fn named(name: &str, image_size: (usize, usize), channels: usize) -> Result<Self> {
        let &(_, patch_size, _, dim, depth, heads, decoder_dim, decoder_depth, decoder_heads) =
            SIZES.iter().find(|size| size.0 == name).ok_or_else(|| {
                let names = Self::names().collect::<Vec<_>>().join(", ");
                Error::Config(format!(
                    "no model is called `{name}`; known models: {names}"
                ))
            })?;
        let (mean, std) = if channels == 3 {
            (IMAGENET_MEAN.to_vec(), IMAGENET_STD.to_vec())
        } else {
            (vec![0.5; channels], vec![0.5; channels])
        };
        let vit = VitConfig {
            image_size,
            patch_size,
            channels,
            dim,
            depth,
            heads,
            mlp_ratio: 4.0,
            norm_eps: 1e-6,
            mean,
            std,
            relative_positions: false,
        };
        let config = Self {
            vit,
            decoder_dim,
            decoder_depth,
            decoder_heads,
            norm_pix_loss: false,
            encoder_mask_tokens: false,
            target: Target::Pixels,
        };
        config.validate()?;
        Ok(config)
    }

    /// Patches of an image, `L`.
    pub fn patches(&self) -> usize {
        self.vit.patches()
    }

    /// Patches that stay visible at a mask ratio: `int(L * (1 - ratio))` as in the reference code.
    pub fn keep(&self, mask_ratio: f64) -> usize {
        (self.patches() as f64 * (1.0 - mask_ratio)) as usize
    }

    /// Patches that the encoder's blocks have tokens for where `keep` stay visible: those, or with mask tokens all.
    pub fn encoder_patches(&self, keep: usize) -> usize {
        match self.encoder_mask_tokens {
            true => self.patches(),
            false => keep,
        }
    }

    /// Rows and columns of the grid of patches.
    pub fn grid(&self) -> (usize, usize) {
        self.vit.grid()
    }

    /// What the loss is of, in words: the target, and whether pixels are normalised patch by patch.
    pub fn target_name(&self) -> String {
        match self.norm_pix_loss {
            true => "pixels normalised patch by patch".to_owned(),
            false => self.target.to_string(),
        }
    }

    /// Checks that the dimensions describe a model.
    ///
    /// # Errors
    /// Names the first dimension that does not fit, and what would.
    pub fn validate(&self) -> Result<()> {
        self.vit.validate()?;
        self.target.validate(&self.vit, self.norm_pix_loss)?;
        if self.vit.relative_positions {
            return Err(Error::Config(
                "a masked autoencoder has no relative position biases".into(),
            ));
        }
        blocks(
            "decoder",
            self.decoder_depth,
            self.decoder_dim,
            self.decoder_heads,
        )
    }
}

impl VitConfig {
    /// Patches of an image, `L`.
    pub fn patches(&self) -> usize {
        self.grid().0 * self.grid().1
    }

    /// Rows and columns of the grid of patches.
    pub fn grid(&self) -> (usize, usize) {
        (
            self.image_size.0 / self.patch_size,
            self.image_size.1 / self.patch_size,
        )
    }

    /// Numbers of a patch: `P * P * C`.
    pub fn patch_len(&self) -> usize {
        self.patch_size * self.patch_size * self.channels
    }

    /// Hidden width of the encoder's MLPs.
    pub fn hidden(&self) -> usize {
        hidden(self.dim, self.mlp_ratio)
    }

    /// See [`MaeConfig::validate`].
    ///
    /// # Errors
    /// As there.
    pub fn validate(&self) -> Result<()> {
        let (height, width_px) = self.image_size;
        let patch = self.patch_size;
        if patch == 0
            || height == 0
            || width_px == 0
            || height % patch != 0
            || width_px % patch != 0
        {
            let near = |n: usize| (n / patch.max(1)).max(1) * patch.max(1);
            return Err(Error::Config(format!(
                "a patch of {patch} pixels does not divide an image of {height}x{width_px}; \
                 the nearest size below that fits is {}x{}",
                near(height),
                near(width_px)
            )));
        }
        if self.channels == 0 || self.mean.len() != self.channels || self.std.len() != self.channels
        {
            return Err(Error::Config(format!(
                "{} channels need as many means and standard deviations, got {} and {}",
                self.channels,
                self.mean.len(),
                self.std.len()
            )));
        }
        if let Some(bad) = self.std.iter().find(|s| !s.is_finite() || **s <= 0.0) {
            return Err(Error::Config(format!(
                "a channel's standard deviation cannot be {bad}"
            )));
        }
        if self.mean.iter().any(|m| !m.is_finite()) {
            return Err(Error::Config(
                "a channel's mean is not a finite number".into(),
            ));
        }
        if !(self.mlp_ratio > 0.0 && hidden(self.dim, self.mlp_ratio) > 0) {
            return Err(Error::Config(format!(
                "an MLP ratio of {} leaves nothing",
                self.mlp_ratio
            )));
        }
        if !(self.norm_eps > 0.0 && self.norm_eps.is_finite()) {
            return Err(Error::Config(format!(
                "a norm epsilon cannot be {}",
                self.norm_eps
            )));
        }
        blocks("encoder", self.depth, self.dim, self.heads)
    }
}

/// Hidden width of an MLP, truncated as timm does.
pub(crate) fn hidden(dim: usize, ratio: f32) -> usize {
    (dim as f64 * f64::from(ratio)) as usize
}

fn blocks(what: &str, depth: usize, dim: usize, heads: usize) -> Result<()> {
    if depth == 0 {
        return Err(Error::Config(format!(
            "the {what} needs at least one block"
        )));
    }
    if dim == 0 || heads == 0 || !dim.is_multiple_of(heads) {
        return Err(Error::Config(format!(
            "{heads} heads do not divide the {what}'s width {dim}"
        )));
    }
    if !dim.is_multiple_of(4) {
        return Err(Error::Config(format!(
            "the {what}'s width {dim} is no multiple of 4, which the sine-cosine embedding needs"
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn published_sizes_have_their_dimensions() {
        let base = MaeConfig::named("mae-base-patch16", (224, 224), 3).unwrap();
        assert_eq!((base.patches(), base.keep(0.75)), (196, 49));
        assert_eq!((base.vit.hidden(), base.vit.patch_len()), (3072, 768));
        let huge = MaeConfig::named("mae-huge-patch14", (224, 224), 3).unwrap();
        assert_eq!(
            (huge.patches(), huge.vit.dim, huge.vit.depth),
            (256, 1280, 32)
        );
    }

    #[test]
    fn every_name_fits_its_native_size() {
        for name in MaeConfig::names() {
            let side = MaeConfig::native_size(name).unwrap();
            MaeConfig::named(name, (side, side), 3).unwrap();
        }
    }

    #[test]
    fn errors_say_what_would_fit() {
        let error = MaeConfig::named("mae-base-patch16", (230, 224), 3)
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("230x224") && error.contains("224x224"),
            "{error}"
        );
        let error = MaeConfig::named("mae-giant", (224, 224), 3)
            .unwrap_err()
            .to_string();
        assert!(error.contains("mae-base-patch16"), "{error}");
        let mut config = MaeConfig::named("mae-micro-patch4", (32, 32), 3).unwrap();
        config.decoder_depth = 0;
        let error = config.validate().unwrap_err().to_string();
        assert!(
            error.contains("decoder needs at least one block"),
            "{error}"
        );
    }
}
