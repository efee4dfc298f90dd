//! Turns images into the JPEGs that are stored: other formats, and images that are to become smaller.
//!
//! Chroma is halved both ways at any quality, by averaging, as libjpeg and so Pillow do unless told otherwise. EXIF and
//! colour profiles are left out: `mae` looks at neither.

use std::io::Cursor;

use image::{DynamicImage, ImageReader};
use jpeg_encoder::{ChromaSubsamplingMethod, ColorType, Encoder, SamplingFactor};
use mae_loader::augment::{Resizer, short_side};
use mae_loader::decode::{Decoder, ImageSize, Rect, Region, Wanted, ZuneDecoder, jpeg_channels};

use super::format::Format;

/// Images beyond this many pixels are passed over, not decoded.
const MAX_PIXELS: u64 = 1 << 28;

/// Which images are changed, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Encoding {
    /// Turn all formats into JPEG.
    pub(super) reencode: bool,
    /// Resize images whose short side is longer to this many pixels.
    pub(super) short_side: Option<u32>,
    /// JPEG quality of what is encoded.
    pub(super) quality: u8,
}

impl Encoding {
    fn resized(&self, size: ImageSize) -> Result<Option<ImageSize>, String> {
        match self.short_side {
            Some(short) if size.width.min(size.height) > short => {
                let resized = short_side(size, short, MAX_PIXELS).map_err(|e| e.to_string())?;
                Ok(Some(resized))
            }
            _ => Ok(None),
        }
    }
}

/// Carries out an [`Encoding`]; keeps its memory between images.
pub(super) struct ImageEncoder {
    encoding: Encoding,
    gray: ZuneDecoder,
    rgb: ZuneDecoder,
    resizer: Resizer,
    pixels: Vec<u8>,
}

impl ImageEncoder {
    pub(super) fn new(encoding: Encoding) -> Self {
        Self {
            encoding,
            gray: ZuneDecoder::new(1, MAX_PIXELS),
            rgb: ZuneDecoder::new(3, MAX_PIXELS),
            resizer: Resizer::new(),
            pixels: Vec::new(),
        }
    }

    /// The JPEG to store in place of `bytes`; `None` where they are stored as they are. Gray stays gray, all else becomes
    /// RGB without its alpha, as torchvision's loader has it.
    ///
    /// # Errors
    /// Where the image does not decode, though its size might not have to change: what is left is known to be good.
    pub(super) fn encode(
        &mut self,
        bytes: &[u8],
        format: Format,
    ) -> Result<Option<Vec<u8>>, String> {
        let Encoding {
            reencode,
            short_side,
            ..
        } = self.encoding;
        match (format, reencode, short_side) {
            (Format::Jpeg, _, None) | (Format::Png, false, None) => Ok(None),
            (Format::Jpeg, _, Some(_)) => self.jpeg(bytes),
            (Format::Png, ..) | (_, true, _) => self.other(bytes),
            (_, false, _) => Err(format!("{} needs --reencode", format.name())),
        }
    }

    fn jpeg(&mut self, bytes: &[u8]) -> Result<Option<Vec<u8>>, String> {
        let bad = |e: mae_loader::decode::BadImage| e.to_string();
        let decoder = match jpeg_channels(bytes).map_err(bad)? {
            1 => &mut self.gray,
            _ => &mut self.rgb,
        };
        let whole = |size: ImageSize| Ok(Wanted::whole(size));
        let region = decoder.decode(bytes, &mut { whole }).map_err(bad)?;
        match self.encoding.resized(region.size)? {
            None => Ok(None),
            Some(size) => {
                resize(&mut self.resizer, &region, size, &mut self.pixels)?;
                encode(&self.pixels, size, region.channels, self.encoding.quality).map(Some)
            }
        }
    }

    fn other(&mut self, bytes: &[u8]) -> Result<Option<Vec<u8>>, String> {
        let reader = ImageReader::new(Cursor::new(bytes))
            .with_guessed_format()
            .map_err(|e| e.to_string())?;
        let image = reader.decode().map_err(|e| e.to_string())?;
        let size = ImageSize {
            width: image.width(),
            height: image.height(),
        };
        let resized = self.encoding.resized(size)?;
        if resized.is_none() && !self.encoding.reencode {
            return Ok(None);
        }
        let gray = matches!(
            image,
            DynamicImage::ImageLuma8(_) | DynamicImage::ImageLuma16(_)
        );
        let (pixels, channels) = match gray {
            true => (image.into_luma8().into_raw(), 1),
            false => (image.into_rgb8().into_raw(), 3),
        };
        let quality = self.encoding.quality;
        let Some(resized) = resized else {
            return encode(&pixels, size, channels, quality).map(Some);
        };
        let region = Region {
            pixels: &pixels,
            size,
            channels,
            x: 0,
            y: 0,
            scale: 1,
        };
        resize(&mut self.resizer, &region, resized, &mut self.pixels)?;
        encode(&self.pixels, resized, channels, quality).map(Some)
    }
}

fn resize(
    resizer: &mut Resizer,
    region: &Region<'_>,
    size: ImageSize,
    pixels: &mut Vec<u8>,
) -> Result<(), String> {
    pixels.resize(
        size.width as usize * size.height as usize * region.channels,
        0,
    );
    resizer
        .resize(region, Rect::whole(region.size), size, pixels)
        .map_err(|e| e.to_string())
}

fn encode(pixels: &[u8], size: ImageSize, channels: usize, quality: u8) -> Result<Vec<u8>, String> {
    let side = |n: u32| {
        u16::try_from(n).map_err(|_| "more than 65535 pixels in a row or column".to_owned())
    };
    let colour = match channels {
        1 => ColorType::Luma,
        _ => ColorType::Rgb,
    };
    let mut jpeg = Vec::new();
    let mut encoder = Encoder::new(&mut jpeg, quality);
    if channels > 1 {
        // Left alone, the encoder keeps all of the chroma from quality 90 on: a third more bytes, and slower to decode.
        encoder.set_sampling_factor(SamplingFactor::R_4_2_0);
        encoder.set_chroma_subsampling_method(ChromaSubsamplingMethod::Average);
    }
    encoder
        .encode(pixels, side(size.width)?, side(size.height)?, colour)
        .map_err(|e| e.to_string())?;
    Ok(jpeg)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn other(image: &DynamicImage, format: image::ImageFormat) -> Vec<u8> {
        let mut bytes = Cursor::new(Vec::new());
        image.write_to(&mut bytes, format).unwrap();
        bytes.into_inner()
    }

    /// Waves, `[height, width, channels]`, as a JPEG of quality 95.
    fn photo(width: u32, height: u32, channels: usize) -> Vec<u8> {
        let wave = |i: u32, length: f32| 127.0 + 120.0 * (i as f32 / length).sin();
        let pixels: Vec<u8> = (0..width * height)
            .flat_map(|i| {
                let (x, y) = (i % width, i / width);
                let pixel = [wave(x, 19.0), wave(y, 23.0), wave(x + y, 31.0)];
                pixel.map(|value| value as u8).into_iter().take(channels)
            })
            .collect();
        encode(&pixels, ImageSize { width, height }, channels, 95).unwrap()
    }

    fn encoder(reencode: bool, short_side: Option<u32>) -> ImageEncoder {
        ImageEncoder::new(Encoding {
            reencode,
            short_side,
            quality: 90,
        })
    }

    fn size_of(jpeg: &[u8]) -> (u32, u32) {
        let mut found = (0, 0);
        let whole = &mut |size: ImageSize| {
            found = (size.width, size.height);
            Ok(Wanted::whole(size))
        };
        ZuneDecoder::new(3, MAX_PIXELS).decode(jpeg, whole).unwrap();
        found
    }

    #[test]
    fn every_format_turns_into_jpeg() {
        let rgb = DynamicImage::new_rgb8(9, 5);
        for (kind, format) in [
            (image::ImageFormat::Png, Format::Png),
            (image::ImageFormat::WebP, Format::WebP),
            (image::ImageFormat::Bmp, Format::Bmp),
            (image::ImageFormat::Gif, Format::Gif),
        ] {
            let bytes = other(&rgb, kind);
            assert_eq!(Format::of(&bytes), Some(format));
            let jpeg = encoder(true, None).encode(&bytes, format).unwrap().unwrap();
            assert_eq!(Format::of(&jpeg), Some(Format::Jpeg), "{}", format.name());
            assert_eq!(size_of(&jpeg), (9, 5));
        }
        assert!(
            encoder(true, None)
                .encode(b"\x89PNG\r\n\x1a\nbroken", Format::Png)
                .is_err()
        );
    }

    #[test]
    fn alpha_is_dropped_and_gray_kept() {
        let channels = |image| {
            let png = other(&image, image::ImageFormat::Png);
            let jpeg = encoder(true, None).encode(&png, Format::Png).unwrap();
            jpeg_channels(&jpeg.unwrap()).unwrap()
        };
        assert_eq!(channels(DynamicImage::new_rgba8(4, 4)), 3);
        assert_eq!(channels(DynamicImage::new_luma8(4, 4)), 1);
        let gray = encoder(false, Some(40)).encode(&photo(90, 60, 1), Format::Jpeg);
        assert_eq!(jpeg_channels(&gray.unwrap().unwrap()), Ok(1));
    }

    #[test]
    fn larger_images_get_the_size_that_torchvision_gives_them() {
        // From torchvision.transforms.functional._compute_resized_image_output_size.
        for ((width, height), expected) in [
            ((500, 375), (341, 256)),
            ((375, 500), (256, 341)),
            ((333, 500), (256, 384)),
            ((257, 400), (256, 398)),
            ((1000, 300), (853, 256)),
        ] {
            let jpeg = encoder(false, Some(256))
                .encode(&photo(width, height, 3), Format::Jpeg)
                .unwrap()
                .unwrap();
            assert_eq!(size_of(&jpeg), expected, "{width}×{height}");
        }
    }

    #[test]
    fn images_that_are_small_enough_are_left_alone_if_they_are_whole() {
        for size in [(256, 256), (256, 700), (90, 60)] {
            let jpeg = photo(size.0, size.1, 3);
            let mut encoder = encoder(false, Some(256));
            assert_eq!(encoder.encode(&jpeg, Format::Jpeg), Ok(None));
            assert!(
                encoder
                    .encode(&jpeg[..jpeg.len() / 2], Format::Jpeg)
                    .is_err()
            );
        }
        let png = other(&DynamicImage::new_rgb8(90, 60), image::ImageFormat::Png);
        assert_eq!(
            encoder(false, Some(60)).encode(&png, Format::Png),
            Ok(None),
            "a small PNG stays a PNG"
        );
        let jpeg = encoder(false, Some(59)).encode(&png, Format::Png).unwrap();
        assert_eq!(size_of(&jpeg.unwrap()), (88, 59));
    }

    #[test]
    fn chroma_is_halved_at_any_quality() {
        let jpeg = photo(64, 64, 3);
        let frame = jpeg
            .windows(2)
            .position(|pair| pair == [0xff, 0xc0])
            .unwrap();
        // Marker, length, precision, height, width, count; then id, sampling and table of each component.
        let sampling = [0, 1, 2].map(|component| jpeg[frame + 11 + 3 * component]);
        assert_eq!(sampling, [0x22, 0x11, 0x11]);
    }
}
