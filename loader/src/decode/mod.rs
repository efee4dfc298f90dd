//! From the bytes of an image member to pixels.
//!
//! A [`Decoder`] is asked for a part of an image at a size, and answers with pixels, where in the image they lie and at which scale;
//! so a decoder may leave out what a crop does not need, or decode straight to a smaller scale. What it may not do is to judge
//! only the part that it decodes: an image is bad if any of its bytes are, as far as the decoder can tell.
//!
//! Not done here: EXIF orientation is ignored, as the MAE reference does; colour profiles too.

mod choice;
mod jpeg;
mod png;
#[cfg(feature = "turbo")]
mod turbo;
#[cfg(test)]
mod vector;
mod zune;

use std::panic::{AssertUnwindSafe, catch_unwind};

pub use self::choice::{DecodeQuality, DecoderKind};
pub use self::png::PngDecoder;
#[cfg(feature = "turbo")]
pub use self::turbo::TurboDecoder;
pub use self::zune::ZuneDecoder;

/// Width and height in pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ImageSize {
    /// Pixels in a row.
    pub width: u32,
    /// Rows.
    pub height: u32,
}

/// A rectangle in an image's own pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rect {
    /// Leftmost column.
    pub x: u32,
    /// Topmost row.
    pub y: u32,
    /// Columns, at least 1.
    pub width: u32,
    /// Rows, at least 1.
    pub height: u32,
}

impl Rect {
    /// All of an image.
    pub fn whole(size: ImageSize) -> Self {
        Rect {
            x: 0,
            y: 0,
            width: size.width,
            height: size.height,
        }
    }
}

/// What the caller needs of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// The part of the image that must be covered; it lies inside the image.
    pub part: Rect,
    /// The size that `part` will be resized to: a decoder may decode to a smaller scale as long as `part` keeps at least that size.
    pub size: ImageSize,
}

impl Wanted {
    /// All of an image, at its own size.
    pub fn whole(size: ImageSize) -> Self {
        Wanted {
            part: Rect::whole(size),
            size,
        }
    }
}

/// Decoded pixels, borrowed from the decoder until its next image.
#[derive(Clone, Copy, Debug)]
pub struct Region<'a> {
    /// `[height, width, channels]`, without padding between rows.
    pub pixels: &'a [u8],
    /// Size in decoded pixels.
    pub size: ImageSize,
    /// 1 or 3, as the decoder was made for.
    pub channels: usize,
    /// Column of the image at which the region starts, in the image's own pixels.
    pub x: u32,
    /// Row of the image at which the region starts, in the image's own pixels.
    pub y: u32,
    /// Image pixels to a decoded pixel, in each direction: 1, 2, 4 or 8. `x` and `y` are multiples of it.
    pub scale: u32,
}

/// Why an image cannot be used. The sample is replaced by another; the run goes on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BadImage {
    /// Neither JPEG nor PNG, whatever its suffix says.
    #[error("neither a JPEG nor a PNG image")]
    UnknownFormat,
    /// A variant of a known format that the decoder cannot read, or not rightly.
    #[error("unsupported image: {what}")]
    Unsupported {
        /// The feature.
        what: String,
    },
    /// The image ends early.
    #[error("the image is cut off")]
    Truncated,
    /// The data contradict the format.
    #[error("corrupt image: {reason}")]
    Corrupt {
        /// The decoder's reason.
        reason: String,
    },
    /// More pixels than allowed.
    #[error("{width}×{height} pixels are more than the {limit} pixels allowed")]
    TooLarge {
        /// Width that the header claims.
        width: u32,
        /// Height that the header claims.
        height: u32,
        /// The limit in pixels.
        limit: u64,
    },
}

/// Says what is wanted of an image of a given size, or refuses the image.
pub type Plan<'a> = dyn FnMut(ImageSize) -> Result<Wanted, BadImage> + 'a;

/// A decoder of one or more image formats. One belongs to each worker thread and keeps its memory between images.
pub trait Decoder: Send {
    /// Name and version, for the fingerprint of a run: other decoders give other pixels.
    fn name(&self) -> String;

    /// Decodes what `plan` wants of the image in `bytes`. `plan` is called at most once, with the size of the whole image, before
    /// any pixel is decoded.
    ///
    /// # Errors
    /// [`BadImage`] if the image, any part of it, cannot be decoded, or if `plan` refuses it.
    fn decode<'a>(&'a mut self, bytes: &[u8], plan: &mut Plan<'_>) -> Result<Region<'a>, BadImage>;
}

/// Makes one decoder for each worker thread.
pub(crate) type DecoderFactory = dyn Fn() -> Box<dyn Decoder> + Send + Sync;

/// Chooses among decoders by an image's first bytes, not by its name.
pub(crate) struct AnyDecoder {
    jpeg: Box<dyn Decoder>,
    png: PngDecoder,
}

impl AnyDecoder {
    /// Decodes to `channels` (1 or 3) channels, images of up to `max_pixels` pixels; JPEG by `kind`, which has been resolved.
    pub(crate) fn new(
        kind: DecoderKind,
        quality: DecodeQuality,
        channels: usize,
        max_pixels: u64,
    ) -> Self {
        AnyDecoder {
            jpeg: kind.make(quality, channels, max_pixels),
            png: PngDecoder::new(channels, max_pixels),
        }
    }
}

impl Decoder for AnyDecoder {
    fn name(&self) -> String {
        format!("{}+{}", self.jpeg.name(), self.png.name())
    }

    fn decode<'a>(&'a mut self, bytes: &[u8], plan: &mut Plan<'_>) -> Result<Region<'a>, BadImage> {
        match bytes {
            [0xff, 0xd8, ..] => self.jpeg.decode(bytes, plan),
            [0x89, b'P', b'N', b'G', ..] => self.png.decode(bytes, plan),
            _ => Err(BadImage::UnknownFormat),
        }
    }
}

/// Channels (1 or 3) that a JPEG holds: as many as it takes to decode it without loss of colour.
///
/// # Errors
/// [`BadImage`] where its markers say that it cannot be decoded, or it is no JPEG.
pub fn jpeg_channels(bytes: &[u8]) -> Result<usize, BadImage> {
    if !bytes.starts_with(&[0xff, 0xd8]) {
        return Err(BadImage::UnknownFormat);
    }
    Ok(jpeg::inspect(bytes)?.components.into())
}

fn check_pixels(size: ImageSize, limit: u64) -> Result<(), BadImage> {
    if u64::from(size.width) * u64::from(size.height) > limit {
        return Err(BadImage::TooLarge {
            width: size.width,
            height: size.height,
            limit,
        });
    }
    Ok(())
}

/// Runs a decoder of someone else on data of someone else: a panic there means a bad image, not the end of the run.
fn guarded<T>(decode: impl FnOnce() -> Result<T, BadImage>) -> Result<T, BadImage> {
    catch_unwind(AssertUnwindSafe(decode)).unwrap_or_else(|_| {
        Err(BadImage::Corrupt {
            reason: "the decoder panicked".to_owned(),
        })
    })
}

#[cfg(test)]
pub(crate) mod testing {
    //! Small images for the tests of this module and others.

    use super::*;

    /// Asks for all of an image.
    pub(crate) fn whole(size: ImageSize) -> Result<Wanted, BadImage> {
        Ok(Wanted::whole(size))
    }

    /// Smooth colours with some structure, `[height, width, 3]`.
    pub(crate) fn picture(width: u16, height: u16, seed: u32) -> Vec<u8> {
        let mut pixels = Vec::with_capacity(usize::from(width) * usize::from(height) * 3);
        for y in 0..u32::from(height) {
            for x in 0..u32::from(width) {
                let wave = |frequency: u32| {
                    let phase = (x * frequency + y * (seed % 5 + 1)) as f32 / 20.0;
                    (128.0 + 100.0 * phase.sin()) as u8
                };
                pixels.extend([
                    wave(1 + seed % 3),
                    wave(2),
                    ((x * 3 + y * 5 + seed * 11) % 256) as u8 / 2 + 64,
                ]);
            }
        }
        pixels
    }

    /// A JPEG of quality 90.
    pub(crate) fn jpeg(
        width: u16,
        height: u16,
        pixels: &[u8],
        configure: impl FnOnce(&mut jpeg_encoder::Encoder<&mut Vec<u8>>),
    ) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut encoder = jpeg_encoder::Encoder::new(&mut bytes, 90);
        configure(&mut encoder);
        let colour = match pixels.len() / (usize::from(width) * usize::from(height)) {
            1 => jpeg_encoder::ColorType::Luma,
            3 => jpeg_encoder::ColorType::Rgb,
            _ => jpeg_encoder::ColorType::Cmyk,
        };
        encoder.encode(pixels, width, height, colour).unwrap();
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::testing::*;
    use super::*;

    #[test]
    fn format_is_told_by_content() {
        let mut decoder = AnyDecoder::new(DecoderKind::Zune, DecodeQuality::Exact, 3, 1 << 20);
        let bytes = jpeg(20, 10, &picture(20, 10, 0), |_| {});
        let region = decoder.decode(&bytes, &mut whole).unwrap();
        assert_eq!(
            (region.size, region.pixels.len()),
            (
                ImageSize {
                    width: 20,
                    height: 10
                },
                600
            )
        );
        assert_eq!(jpeg_channels(&bytes), Ok(3));
        assert_eq!(jpeg_channels(&jpeg(20, 10, &[7; 200], |_| {})), Ok(1));
        assert_eq!(jpeg_channels(b"GIF89a"), Err(BadImage::UnknownFormat));
        for bytes in [&b"GIF89a"[..], b"RIFF....WEBP", b"", b"\xff", b"\xff\xd8"] {
            assert!(decoder.decode(bytes, &mut whole).is_err());
        }
        assert_eq!(
            decoder.decode(b"GIF89a", &mut whole).unwrap_err(),
            BadImage::UnknownFormat
        );
    }

    #[test]
    fn a_panic_in_a_decoder_is_a_bad_image() {
        let result: Result<(), _> = guarded(|| panic!("expected by this test"));
        assert!(matches!(result, Err(BadImage::Corrupt { .. })));
    }
}
