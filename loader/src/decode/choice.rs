//! Which JPEG decoder is used: asked for as [`DecoderKind`], resolved once to what this build has.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::{Decoder, ZuneDecoder};

/// A JPEG decoder, as a user names it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
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
#[non_exhaustive]
pub enum DecodeQuality {
    /// Exact inverse transform and interpolated chroma: the pixels that Pillow gives.
    #[default]
    Exact,
    /// Approximate inverse transform, and chroma repeated rather than interpolated. Only `turbo` has it.
    Fast,
}

impl FromStr for DecoderKind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(DecoderKind::Auto),
            "zune" => Ok(DecoderKind::Zune),
            "turbo" => Ok(DecoderKind::Turbo),
            other => Err(format!("`{other}` is none of auto, zune and turbo")),
        }
    }
}

impl fmt::Display for DecoderKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            DecoderKind::Auto => "auto",
            DecoderKind::Zune => "zune",
            DecoderKind::Turbo => "turbo",
        })
    }
}

impl FromStr for DecodeQuality {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "exact" => Ok(DecodeQuality::Exact),
            "fast" => Ok(DecodeQuality::Fast),
            other => Err(format!("`{other}` is neither exact nor fast")),
        }
    }
}

impl fmt::Display for DecodeQuality {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            DecodeQuality::Exact => "exact",
            DecodeQuality::Fast => "fast",
        })
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn auto_is_resolved_to_what_is_there() {
        let auto = DecoderKind::Auto.resolve(DecodeQuality::Exact).unwrap();
        assert_eq!(auto == DecoderKind::Turbo, DecoderKind::HAS_TURBO);
        let turbo = DecoderKind::Turbo.resolve(DecodeQuality::Fast);
        assert_eq!(turbo.is_ok(), DecoderKind::HAS_TURBO);
        let reason = DecoderKind::Zune.resolve(DecodeQuality::Fast).unwrap_err();
        assert!(reason.contains("turbo"), "{reason}");
    }

    #[test]
    fn names_are_read_as_they_are_written() {
        for kind in [DecoderKind::Auto, DecoderKind::Zune, DecoderKind::Turbo] {
            assert_eq!(kind.to_string().parse(), Ok(kind));
        }
        for quality in [DecodeQuality::Exact, DecodeQuality::Fast] {
            assert_eq!(quality.to_string().parse(), Ok(quality));
        }
        assert!(
            "mozjpeg".parse::<DecoderKind>().is_err() && "best".parse::<DecodeQuality>().is_err()
        );
    }
}
