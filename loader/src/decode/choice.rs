//! Which JPEG decoder is used: asked for as [`DecoderKind`], resolved once to what this build has.

use serde::{Deserialize, Serialize};

use super::{Decoder, ZuneDecoder};

/// A JPEG decoder, as a user names it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DecoderKind {
    /// `turbo` where it is built in, `zune` elsewhere.
    #[default]
    Auto,
    /// zune-jpeg: pure Rust, always there, decodes whole images.
    Zune,
    /// libjpeg-turbo 3: decodes only the crop, at the smallest scale that will do. Needs the crate's feature `turbo`.
    Turbo,
}

/// What to trade for speed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DecodeQuality {
    /// Exact inverse transform and interpolated chroma: the pixels that Pillow gives.
    #[default]
    Exact,
    /// Approximate inverse transform, and chroma repeated rather than interpolated. Only `turbo` has it.
    Fast,
}

impl DecoderKind {
    /// Whether this build has libjpeg-turbo.
    pub const HAS_TURBO: bool = cfg!(feature = "turbo");

    /// The decoder that is meant: never `Auto`.
    ///
    /// # Errors
    /// Says what to do where this build does not have the decoder, or the decoder not the quality.
    pub fn resolve(self, quality: DecodeQuality) -> Result<Self, String> {
        let kind = match self {
            DecoderKind::Auto if Self::HAS_TURBO => DecoderKind::Turbo,
            DecoderKind::Auto => DecoderKind::Zune,
            other => other,
        };
        match (kind, quality) {
            (DecoderKind::Turbo, _) if !Self::HAS_TURBO => Err(
                "this build has no libjpeg-turbo; build with `--features turbo` (needs cmake and nasm), or choose zune"
                    .to_owned(),
            ),
            (DecoderKind::Zune, DecodeQuality::Fast) => Err(
                "zune decodes exactly only; for fast decoding choose turbo, in a build with `--features turbo`".to_owned(),
            ),
            _ => Ok(kind),
        }
    }

    /// The decoder itself; `self` has been resolved.
    pub(super) fn make(
        self,
        quality: DecodeQuality,
        channels: usize,
        max_pixels: u64,
    ) -> Box<dyn Decoder> {
        match self {
            #[cfg(feature = "turbo")]
            DecoderKind::Turbo => Box::new(super::TurboDecoder::new(channels, max_pixels, quality)),
            _ => {
                debug_assert_eq!(quality, DecodeQuality::Exact);
                Box::new(ZuneDecoder::new(channels, max_pixels))
            }
        }
    }
}
