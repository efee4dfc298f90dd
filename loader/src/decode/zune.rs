//! JPEG by zune-jpeg: pure Rust, always the whole image at full scale.

use zune_jpeg::JpegDecoder;
use zune_jpeg::zune_core::bytestream::ZCursor;
use zune_jpeg::zune_core::colorspace::ColorSpace;
use zune_jpeg::zune_core::options::DecoderOptions;

use super::jpeg::{self, JpegHeader};
use super::{BadImage, Decoder, Plan, Region, check_pixels, guarded};

/// Decodes baseline and progressive JPEG of one or three components to gray or RGB.
pub struct ZuneDecoder {
    channels: usize,
    max_pixels: u64,
    options: DecoderOptions,
    /// The encoded image, with [`ONES`] put in.
    bytes: Vec<u8>,
    pixels: Vec<u8>,
}

impl ZuneDecoder {
    /// Decodes to `channels` (1 or 3) channels, images of up to `max_pixels` pixels.
    pub fn new(channels: usize, max_pixels: u64) -> Self {
        let colour = if channels == 1 {
            ColorSpace::Luma
        } else {
            ColorSpace::RGB
        };
        let options = DecoderOptions::new_fast()
            .jpeg_set_out_colorspace(colour)
            .set_strict_mode(true)
            .set_max_width(usize::from(u16::MAX))
            .set_max_height(usize::from(u16::MAX));
        ZuneDecoder {
            channels,
            max_pixels,
            options,
            bytes: Vec::new(),
            pixels: Vec::new(),
        }
    }
}

impl Decoder for ZuneDecoder {
    fn name(&self) -> String {
        "zune-jpeg-0.5".to_owned()
    }

    fn decode<'a>(&'a mut self, bytes: &[u8], plan: &mut Plan<'_>) -> Result<Region<'a>, BadImage> {
        let header = jpeg::inspect(bytes)?;
        let size = header.size;
        check_pixels(size, self.max_pixels)?;
        plan(size)?;
        with_ones(bytes, &header, &mut self.bytes);
        let length = size.width as usize * size.height as usize * self.channels;
        // Nothing of an earlier image may show through where the decoder leaves pixels out.
        self.pixels.clear();
        self.pixels.resize(length, 0);
        let (options, bytes, pixels) = (self.options, &self.bytes, &mut self.pixels);
        guarded(|| {
            let mut decoder = JpegDecoder::new_with_options(ZCursor::new(bytes), options);
            decoder.decode_headers().map_err(corrupt)?;
            let found = decoder.dimensions();
            if found != Some((size.width as usize, size.height as usize)) {
                return Err(BadImage::Corrupt {
                    reason: "two sizes in one image".to_owned(),
                });
            }
            decoder.decode_into(pixels).map_err(corrupt)
        })?;
        Ok(Region {
            pixels: &self.pixels,
            size,
            channels: self.channels,
            x: 0,
            y: 0,
            scale: 1,
        })
    }
}

/// Put at the end of coded data. zune-jpeg decodes data that end early as if zeros followed, without a word; but no Huffman code
/// consists of ones only, so that here it comes to an error, and where the data are whole it does not read them.
const ONES: [u8; 16] = [
    0xff, 0, 0xff, 0, 0xff, 0, 0xff, 0, 0xff, 0, 0xff, 0, 0xff, 0, 0xff, 0,
];

/// Copies a JPEG to `out`, up to its end marker, with [`ONES`] where coded data end: before restart markers and after scans. Only after the
/// first scan of a progressive image, zune-jpeg wants the marker at once.
fn with_ones(bytes: &[u8], header: &JpegHeader, out: &mut Vec<u8>) {
    out.clear();
    // The copy takes at most twice the memory, however short the parts between markers are.
    let limit = 2 * bytes.len();
    let (mut copied, mut position) = (0, header.data);
    let (mut in_data, mut wants_marker) = (true, header.progressive);
    while let Some(found) = memchr::memchr(0xff, &bytes[position..]) {
        position += found;
        let code = bytes[position + 1];
        if code == 0 || code == 0xff {
            position += if code == 0 { 2 } else { 1 };
            continue;
        }
        if in_data && !wants_marker && out.len() + bytes.len() - copied + ONES.len() <= limit {
            out.extend_from_slice(&bytes[copied..position]);
            out.extend_from_slice(&ONES);
            copied = position;
        }
        match code {
            0xd0..=0xd7 => position += 2,
            0xd9 => break,
            _ => {
                let length = [bytes[position + 2], bytes[position + 3]];
                position += 2 + usize::from(u16::from_be_bytes(length));
                (in_data, wants_marker) = (code == 0xda, false);
            }
        }
    }
    out.extend_from_slice(&bytes[copied..position]);
    out.extend_from_slice(&[0xff, 0xd9]);
}

fn corrupt(error: zune_jpeg::errors::DecodeErrors) -> BadImage {
    BadImage::Corrupt {
        reason: error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::ImageSize;
    use super::super::testing::{jpeg, picture, whole};
    use super::*;

    fn mean_difference(a: &[u8], b: &[u8]) -> f64 {
        assert_eq!(a.len(), b.len());
        a.iter()
            .zip(b)
            .map(|(&a, &b)| f64::from(a.abs_diff(b)))
            .sum::<f64>()
            / a.len() as f64
    }

    #[test]
    fn colour_images_come_back() {
        let pixels = picture(61, 35, 2);
        for progressive in [false, true] {
            let bytes = jpeg(61, 35, &pixels, |encoder| {
                encoder.set_progressive(progressive)
            });
            let mut decoder = ZuneDecoder::new(3, 1 << 20);
            let region = decoder.decode(&bytes, &mut whole).unwrap();
            assert_eq!(
                (region.size, region.channels),
                (
                    ImageSize {
                        width: 61,
                        height: 35
                    },
                    3
                )
            );
            assert!(mean_difference(region.pixels, &pixels) < 8.0);
        }
    }

    #[test]
    fn gray_becomes_rgb_and_colour_becomes_gray() {
        let gray: Vec<u8> = (0..40 * 30).map(|i| (i / 40 * 6) as u8).collect();
        let bytes = jpeg(40, 30, &gray, |_| {});
        let mut decoder = ZuneDecoder::new(3, 1 << 20);
        let region = decoder.decode(&bytes, &mut whole).unwrap();
        assert!(
            region
                .pixels
                .chunks(3)
                .all(|pixel| pixel[0] == pixel[1] && pixel[1] == pixel[2])
        );
        let first: Vec<u8> = region.pixels.iter().step_by(3).copied().collect();
        assert!(mean_difference(&first, &gray) < 3.0);

        let colour = picture(40, 30, 3);
        let bytes = jpeg(40, 30, &colour, |_| {});
        let expected: Vec<u8> = colour
            .chunks(3)
            .map(|pixel| {
                (0.299 * f32::from(pixel[0])
                    + 0.587 * f32::from(pixel[1])
                    + 0.114 * f32::from(pixel[2])) as u8
            })
            .collect();
        let mut decoder = ZuneDecoder::new(1, 1 << 20);
        let region = decoder.decode(&bytes, &mut whole).unwrap();
        assert_eq!(region.channels, 1);
        assert!(mean_difference(region.pixels, &expected) < 5.0);
    }

    #[test]
    fn a_smaller_image_after_a_larger_one_is_its_own() {
        let small = jpeg(17, 9, &picture(17, 9, 1), |_| {});
        let mut fresh = ZuneDecoder::new(3, 1 << 20);
        let expected = fresh.decode(&small, &mut whole).unwrap().pixels.to_vec();
        let mut used = ZuneDecoder::new(3, 1 << 20);
        used.decode(&jpeg(64, 64, &picture(64, 64, 4), |_| {}), &mut whole)
            .unwrap();
        assert_eq!(used.decode(&small, &mut whole).unwrap().pixels, expected);
    }

    #[test]
    fn damage_is_bad_and_never_a_panic() {
        let pixels = picture(64, 48, 5);
        for progressive in [false, true] {
            let bytes = jpeg(64, 48, &pixels, |encoder| {
                encoder.set_progressive(progressive)
            });
            let mut decoder = ZuneDecoder::new(3, 1 << 20);
            for length in 0..bytes.len() {
                assert!(
                    decoder.decode(&bytes[..length], &mut whole).is_err(),
                    "cut to {length}"
                );
                // The same cut with an end marker put on: often bad, always an answer.
                let mut ended = bytes[..length].to_vec();
                ended.extend([0xff, 0xd9]);
                let _ = decoder.decode(&ended, &mut whole);
            }
            for flip in 0..bytes.len() {
                let mut damaged = bytes.clone();
                damaged[flip] ^= 0x55;
                let _ = decoder.decode(&damaged, &mut whole);
            }
        }
    }

    #[test]
    fn images_over_the_limit_are_refused_before_decoding() {
        let bytes = jpeg(64, 48, &picture(64, 48, 5), |_| {});
        let mut decoder = ZuneDecoder::new(3, 64 * 48 - 1);
        assert!(matches!(
            decoder.decode(&bytes, &mut whole),
            Err(BadImage::TooLarge {
                width: 64,
                height: 48,
                ..
            })
        ));
        assert!(
            ZuneDecoder::new(3, 64 * 48)
                .decode(&bytes, &mut whole)
                .is_ok()
        );
    }

    #[test]
    fn four_components_are_bad() {
        let cmyk: Vec<u8> = picture(20, 16, 0)
            .into_iter()
            .chain(vec![0; 20 * 16])
            .collect();
        for colour in [
            jpeg_encoder::ColorType::Cmyk,
            jpeg_encoder::ColorType::CmykAsYcck,
        ] {
            let mut bytes = Vec::new();
            jpeg_encoder::Encoder::new(&mut bytes, 90)
                .encode(&cmyk, 20, 16, colour)
                .unwrap();
            let error = ZuneDecoder::new(3, 1 << 20)
                .decode(&bytes, &mut whole)
                .unwrap_err();
            assert!(matches!(error, BadImage::Unsupported { .. }));
        }
    }
}
