//! PNG by the png crate: every colour type and depth, to 8-bit gray or RGB.
//!
//! As Pillow's `convert("RGB")`: palettes are looked up, alpha is dropped (not blended), 16-bit samples keep their high byte.

use std::io::Cursor;

use png::{BitDepth, ColorType, Transformations};

use super::{BadImage, Decoder, ImageSize, Plan, Region, check_pixels, guarded};

/// Decodes PNG images; of animated ones the default image.
pub struct PngDecoder {
    channels: usize,
    max_pixels: u64,
    /// As the png crate gives it: 1 to 4 channels.
    frame: Vec<u8>,
    pixels: Vec<u8>,
}

impl PngDecoder {
    /// Decodes to `channels` (1 or 3) channels, images of up to `max_pixels` pixels.
    pub fn new(channels: usize, max_pixels: u64) -> Self {
        PngDecoder {
            channels,
            max_pixels,
            frame: Vec::new(),
            pixels: Vec::new(),
        }
    }

    /// Fills `frame`; returns its size and its channels.
    fn decode_frame(
        &mut self,
        bytes: &[u8],
        plan: &mut Plan<'_>,
    ) -> Result<(ImageSize, usize), BadImage> {
        let mut decoder = png::Decoder::new(Cursor::new(bytes));
        decoder.set_transformations(Transformations::EXPAND | Transformations::STRIP_16);
        decoder.set_ignore_text_chunk(true);
        let header = decoder.read_header_info().map_err(bad)?;
        let size = ImageSize {
            width: header.width,
            height: header.height,
        };
        check_pixels(size, self.max_pixels)?;
        plan(size)?;
        let mut reader = decoder.read_info().map_err(bad)?;
        let length = reader
            .output_buffer_size()
            .ok_or_else(|| BadImage::Corrupt {
                reason: "the image's size does not fit into memory".to_owned(),
            })?;
        self.frame.clear();
        self.frame.resize(length, 0);
        reader.next_frame(&mut self.frame).map_err(bad)?;
        // The whole member decides: read on to the end, so that what is cut off there is noticed.
        reader.finish().map_err(bad)?;
        match reader.output_color_type() {
            (colour, BitDepth::Eight) => Ok((size, colour.samples())),
            (ColorType::Indexed, _) | (_, _) => Err(BadImage::Unsupported {
                what: "PNG samples that do not expand to 8 bits".to_owned(),
            }),
        }
    }
}

impl Decoder for PngDecoder {
    fn name(&self) -> String {
        "png-0.18".to_owned()
    }

    fn decode<'a>(&'a mut self, bytes: &[u8], plan: &mut Plan<'_>) -> Result<Region<'a>, BadImage> {
        let (size, found) = guarded(|| self.decode_frame(bytes, plan))?;
        let pixels = if found == self.channels {
            &self.frame
        } else {
            convert(&self.frame, found, self.channels, &mut self.pixels);
            &self.pixels
        };
        Ok(Region {
            pixels,
            size,
            channels: self.channels,
            x: 0,
            y: 0,
            scale: 1,
        })
    }
}

/// From 1–4 channels (gray, gray and alpha, RGB, RGB and alpha) to 1 or 3.
fn convert(from: &[u8], channels: usize, to: usize, out: &mut Vec<u8>) {
    out.clear();
    out.reserve(from.len() / channels * to);
    let gray = channels <= 2;
    for pixel in from.chunks_exact(channels) {
        match (gray, to) {
            (true, 1) => out.push(pixel[0]),
            (true, _) => out.extend([pixel[0]; 3]),
            (false, 1) => {
                // ITU-R 601 luma in 16-bit fixed point, as Pillow.
                let sum = 19595 * u32::from(pixel[0])
                    + 38470 * u32::from(pixel[1])
                    + 7471 * u32::from(pixel[2]);
                out.push(((sum + 0x8000) >> 16) as u8);
            }
            (false, _) => out.extend_from_slice(&pixel[..3]),
        }
    }
}

fn bad(error: png::DecodingError) -> BadImage {
    match error {
        png::DecodingError::IoError(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
            BadImage::Truncated
        }
        other => BadImage::Corrupt {
            reason: other.to_string(),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{picture, whole};
    use super::*;

    fn encode(
        width: u32,
        height: u32,
        colour: ColorType,
        depth: BitDepth,
        palette: Option<&[u8]>,
        data: &[u8],
    ) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut encoder = png::Encoder::new(&mut bytes, width, height);
        encoder.set_color(colour);
        encoder.set_depth(depth);
        if let Some(palette) = palette {
            encoder.set_palette(palette.to_vec());
        }
        encoder
            .write_header()
            .unwrap()
            .write_image_data(data)
            .unwrap();
        bytes
    }

    fn decode(bytes: &[u8], channels: usize) -> Vec<u8> {
        PngDecoder::new(channels, 1 << 20)
            .decode(bytes, &mut whole)
            .unwrap()
            .pixels
            .to_vec()
    }

    #[test]
    fn colour_types_become_rgb() {
        use BitDepth::{Eight, One, Sixteen, Two};
        let rgb = encode(2, 1, ColorType::Rgb, Eight, None, &[1, 2, 3, 4, 5, 6]);
        assert_eq!(decode(&rgb, 3), [1, 2, 3, 4, 5, 6]);
        let rgba = encode(
            2,
            1,
            ColorType::Rgba,
            Eight,
            None,
            &[1, 2, 3, 0, 4, 5, 6, 255],
        );
        assert_eq!(decode(&rgba, 3), [1, 2, 3, 4, 5, 6]);
        let gray = encode(2, 1, ColorType::Grayscale, Eight, None, &[9, 8]);
        assert_eq!(decode(&gray, 3), [9, 9, 9, 8, 8, 8]);
        let gray_alpha = encode(2, 1, ColorType::GrayscaleAlpha, Eight, None, &[9, 0, 8, 1]);
        assert_eq!(decode(&gray_alpha, 3), [9, 9, 9, 8, 8, 8]);
        let bilevel = encode(2, 1, ColorType::Grayscale, One, None, &[0b0100_0000]);
        assert_eq!(decode(&bilevel, 3), [0, 0, 0, 255, 255, 255]);
        let palette = encode(
            2,
            1,
            ColorType::Indexed,
            Two,
            Some(&[7, 8, 9, 1, 2, 3]),
            &[0b0100_0000],
        );
        assert_eq!(decode(&palette, 3), [1, 2, 3, 7, 8, 9]);
        let deep = encode(1, 1, ColorType::Rgb, Sixteen, None, &[1, 255, 2, 0, 3, 128]);
        assert_eq!(decode(&deep, 3), [1, 2, 3]);
    }

    #[test]
    fn colour_becomes_gray() {
        let rgb = encode(
            3,
            1,
            ColorType::Rgb,
            BitDepth::Eight,
            None,
            &[255, 0, 0, 0, 255, 0, 10, 20, 30],
        );
        assert_eq!(decode(&rgb, 1), [76, 150, 18]);
        let gray_alpha = encode(
            1,
            1,
            ColorType::GrayscaleAlpha,
            BitDepth::Eight,
            None,
            &[9, 0],
        );
        assert_eq!(decode(&gray_alpha, 1), [9]);
    }

    #[test]
    fn cuts_and_flips_are_bad_and_never_a_panic() {
        let bytes = encode(
            20,
            12,
            ColorType::Rgb,
            BitDepth::Eight,
            None,
            &picture(20, 12, 1),
        );
        let mut decoder = PngDecoder::new(3, 1 << 20);
        for length in 0..bytes.len() - 12 {
            assert!(
                decoder.decode(&bytes[..length], &mut whole).is_err(),
                "cut to {length} of {}",
                bytes.len()
            );
        }
        for flip in 8..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[flip] ^= 0x55;
            let _ = decoder.decode(&damaged, &mut whole);
        }
    }

    #[test]
    fn images_over_the_limit_are_refused() {
        let bytes = encode(
            20,
            12,
            ColorType::Rgb,
            BitDepth::Eight,
            None,
            &picture(20, 12, 1),
        );
        let mut decoder = PngDecoder::new(3, 239);
        assert!(matches!(
            decoder.decode(&bytes, &mut whole),
            Err(BadImage::TooLarge { .. })
        ));
    }
}
