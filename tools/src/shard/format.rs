//! What kind of image a file holds, by its first bytes, and turning the kinds that are not streamed into JPEG.

use std::io::Cursor;

use image::{DynamicImage, ImageReader};
use jpeg_encoder::{ColorType, Encoder};

/// Bytes that [`Format::of`] looks at.
pub(super) const HEAD_BYTES: usize = 12;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    Jpeg,
    Png,
    WebP,
    Bmp,
    Gif,
}

impl Format {
    pub(super) fn of(head: &[u8]) -> Option<Self> {
        match head {
            [0xff, 0xd8, 0xff, ..] => Some(Self::Jpeg),
            [0x89, b'P', b'N', b'G', ..] => Some(Self::Png),
            [
                b'R',
                b'I',
                b'F',
                b'F',
                _,
                _,
                _,
                _,
                b'W',
                b'E',
                b'B',
                b'P',
                ..,
            ] => Some(Self::WebP),
            [b'B', b'M', _, _, _, _, 0, 0, 0, 0, ..] => Some(Self::Bmp),
            [b'G', b'I', b'F', b'8', ..] => Some(Self::Gif),
            _ => None,
        }
    }

    /// Suffix under which the file's own bytes are stored, where they are.
    pub(super) fn stored_suffix(self) -> Option<&'static str> {
        match self {
            Self::Jpeg => Some("jpg"),
            Self::Png => Some("png"),
            Self::WebP | Self::Bmp | Self::Gif => None,
        }
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Jpeg => "JPEG",
            Self::Png => "PNG",
            Self::WebP => "WebP",
            Self::Bmp => "BMP",
            Self::Gif => "GIF",
        }
    }
}

/// The image as a JPEG: gray stays gray, all else becomes RGB without its alpha, as torchvision's loader does.
pub(super) fn to_jpeg(bytes: &[u8], quality: u8) -> Result<Vec<u8>, String> {
    let reader = ImageReader::new(Cursor::new(bytes))
        .with_guessed_format()
        .map_err(|e| e.to_string())?;
    let image = reader.decode().map_err(|e| e.to_string())?;
    let side = |n: u32| {
        u16::try_from(n).map_err(|_| "more than 65535 pixels in a row or column".to_owned())
    };
    let (width, height) = (side(image.width())?, side(image.height())?);
    let gray = matches!(
        image,
        DynamicImage::ImageLuma8(_) | DynamicImage::ImageLuma16(_)
    );
    let (pixels, colour) = match gray {
        true => (image.into_luma8().into_raw(), ColorType::Luma),
        false => (image.into_rgb8().into_raw(), ColorType::Rgb),
    };
    let mut jpeg = Vec::new();
    Encoder::new(&mut jpeg, quality)
        .encode(&pixels, width, height, colour)
        .map_err(|e| e.to_string())?;
    Ok(jpeg)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded(image: &DynamicImage, format: image::ImageFormat) -> Vec<u8> {
        let mut bytes = Cursor::new(Vec::new());
        image.write_to(&mut bytes, format).unwrap();
        bytes.into_inner()
    }

    #[test]
    fn formats_are_known_by_content_and_turn_into_jpeg() {
        let rgb = DynamicImage::new_rgb8(9, 5);
        for (kind, format) in [
            (image::ImageFormat::Png, Format::Png),
            (image::ImageFormat::WebP, Format::WebP),
            (image::ImageFormat::Bmp, Format::Bmp),
            (image::ImageFormat::Gif, Format::Gif),
        ] {
            let bytes = encoded(&rgb, kind);
            assert_eq!(Format::of(&bytes[..HEAD_BYTES]), Some(format));
            let jpeg = to_jpeg(&bytes, 90).unwrap();
            assert_eq!(Format::of(&jpeg), Some(Format::Jpeg), "{}", format.name());
        }
        assert_eq!(Format::of(b"#!/bin/sh\n..."), None);
        assert_eq!(Format::of(b""), None);
    }

    #[test]
    fn alpha_is_dropped_and_gray_kept() {
        let alpha = to_jpeg(
            &encoded(&DynamicImage::new_rgba8(4, 4), image::ImageFormat::Png),
            90,
        )
        .unwrap();
        let gray = to_jpeg(
            &encoded(&DynamicImage::new_luma8(4, 4), image::ImageFormat::Png),
            90,
        )
        .unwrap();
        assert!(gray.len() < alpha.len(), "one component against three");
        assert!(to_jpeg(b"\x89PNG\r\n\x1a\nbroken", 90).is_err());
    }
}
