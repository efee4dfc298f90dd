//! Decoders of images, and what reads their headers.

use jpeg_encoder::{ColorType, Encoder, SamplingFactor};
use mae_loader::ImageSize;
use mae_loader::decode::{
    BadImage, Decoder, PngDecoder, Rect, Region, Wanted, ZuneDecoder, jpeg_channels,
};
use proptest::prelude::*;

use crate::mutation::{fuzz, mutated};

/// The most pixels that the decoders here are allowed.
const MAX_PIXELS: u64 = 1 << 16;

/// All kinds that the encoder makes: sampling, restarts, progressive, gray, four components.
fn jpegs() -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    let samplings = [
        SamplingFactor::F_1_1,
        SamplingFactor::F_2_2,
        SamplingFactor::F_2_1,
        SamplingFactor::F_1_2,
    ];
    for (number, sampling) in samplings.into_iter().enumerate() {
        for progressive in [false, true] {
            for (colour, channels) in [
                (ColorType::Rgb, 3),
                (ColorType::Luma, 1),
                (ColorType::Cmyk, 4),
                (ColorType::CmykAsYcck, 4),
            ] {
                let (width, height) = (19 + number * 8, 35);
                let pixels: Vec<u8> = (0..width * height * channels)
                    .map(|i| {
                        ((i as u32).wrapping_mul(0x9e37_79b9) >> 26) as u8 + (i / 29) as u8 % 128
                    })
                    .collect();
                let mut bytes = Vec::new();
                let mut encoder = Encoder::new(&mut bytes, 80);
                encoder.set_sampling_factor(sampling);
                encoder.set_progressive(progressive);
                if number % 2 == 1 {
                    encoder.set_restart_interval(2);
                }
                encoder
                    .encode(&pixels, width as u16, height as u16, colour)
                    .unwrap();
                all.push(bytes);
            }
        }
    }
    all
}

fn pngs() -> Vec<Vec<u8>> {
    use png::{BitDepth, ColorType};
    let kinds = [
        (ColorType::Rgb, BitDepth::Eight, 3 * 21),
        (ColorType::Rgba, BitDepth::Sixteen, 8 * 21),
        (ColorType::Grayscale, BitDepth::One, 3),
        (ColorType::GrayscaleAlpha, BitDepth::Eight, 2 * 21),
        (ColorType::Indexed, BitDepth::Four, 11),
    ];
    let encode = |(colour, depth, row): (ColorType, BitDepth, usize)| {
        let mut bytes = Vec::new();
        let mut encoder = png::Encoder::new(&mut bytes, 21, 9);
        encoder.set_color(colour);
        encoder.set_depth(depth);
        if colour == ColorType::Indexed {
            encoder.set_palette((0..48).collect::<Vec<u8>>());
            encoder.set_trns(vec![9; 16]);
        }
        let data: Vec<u8> = (0..row * 9).map(|i| (i * 7) as u8).collect();
        let mut writer = encoder.write_header().unwrap();
        writer.write_image_data(&data).unwrap();
        writer.finish().unwrap();
        bytes
    };
    kinds.into_iter().map(encode).collect()
}

/// Asks for a part of the image, a few pixels large.
fn part(size: ImageSize) -> Wanted {
    let (width, height) = (size.width.div_ceil(3), size.height.div_ceil(2));
    Wanted {
        part: Rect {
            x: size.width - width,
            y: size.height - height,
            width,
            height,
        },
        size: ImageSize {
            width: width.div_ceil(2),
            height: height.div_ceil(3),
        },
    }
}

/// Decodes, and checks what a decoder promises of the region.
fn decode(decoder: &mut dyn Decoder, channels: usize, bytes: &[u8]) -> Result<Vec<u8>, BadImage> {
    let mut asked = None;
    let decoded = decoder.decode(bytes, &mut |size| {
        assert!(asked.is_none(), "asked once");
        assert!(size.width > 0 && size.height > 0);
        asked = Some(size);
        Ok(part(size))
    });
    let Region {
        pixels,
        size,
        channels: found,
        x,
        y,
        scale,
    } = decoded?;
    let image = asked.expect("asked before decoding");
    assert!(u64::from(image.width) * u64::from(image.height) <= MAX_PIXELS);
    assert_eq!(found, channels);
    assert_eq!(
        pixels.len(),
        size.width as usize * size.height as usize * channels
    );
    let wanted = part(image).part;
    assert!(x <= wanted.x && y <= wanted.y);
    assert!(x + size.width * scale >= wanted.x + wanted.width);
    assert!(y + size.height * scale >= wanted.y + wanted.height);
    Ok(pixels.to_vec())
}

/// The answer is the same from a decoder that has seen other images and from a fresh one.
fn decodes_alike(
    used: &mut dyn Decoder,
    fresh: &mut dyn Decoder,
    channels: usize,
    bytes: &[u8],
) -> Result<bool, TestCaseError> {
    let answer = decode(used, channels, bytes);
    prop_assert_eq!(&answer, &decode(fresh, channels, bytes));
    Ok(answer.is_ok())
}

#[test]
fn jpeg_headers() {
    // Only what comes before the coded data, so that each change is to a header; then all of it.
    let heads = jpegs().into_iter().map(|mut bytes| {
        let scan = bytes.windows(2).position(|pair| pair == [0xff, 0xda]);
        bytes.truncate(scan.unwrap() + 14);
        bytes
    });
    let originals = heads.chain(jpegs()).collect();
    fuzz("JPEG headers", 3000, &mutated(originals), |bytes| {
        if let Ok(channels) = jpeg_channels(&bytes) {
            prop_assert!([1, 3, 4].contains(&channels), "{} channels", channels);
            return Ok(true);
        }
        if bytes.starts_with(&[0xff, 0xd8]) {
            let refused = decode(&mut ZuneDecoder::new(3, MAX_PIXELS), 3, &bytes);
            prop_assert!(refused.is_err(), "the headers are bad, the image is not");
        }
        Ok(false)
    });
}

#[test]
fn zune() {
    let used =
        std::cell::RefCell::new([1, 3].map(|channels| ZuneDecoder::new(channels, MAX_PIXELS)));
    fuzz("zune", 1500, &mutated(jpegs()), |bytes| {
        let mut all_good = true;
        for (decoder, channels) in used.borrow_mut().iter_mut().zip([1, 3]) {
            let mut fresh = ZuneDecoder::new(channels, MAX_PIXELS);
            let good = decodes_alike(decoder, &mut fresh, channels, &bytes)?;
            prop_assert!(!good || jpeg_channels(&bytes).is_ok());
            all_good &= good;
        }
        Ok(all_good)
    });
}

#[cfg(feature = "turbo")]
#[test]
fn turbo() {
    use mae_loader::DecodeQuality;
    use mae_loader::decode::TurboDecoder;

    let make = |channels, quality| TurboDecoder::new(channels, MAX_PIXELS, quality);
    let kinds = [
        (1, DecodeQuality::Exact),
        (3, DecodeQuality::Exact),
        (3, DecodeQuality::Fast),
    ];
    let used = std::cell::RefCell::new(kinds.map(|(channels, quality)| make(channels, quality)));
    fuzz("turbo", 1500, &mutated(jpegs()), |bytes| {
        let mut all_good = true;
        for (decoder, (channels, quality)) in used.borrow_mut().iter_mut().zip(kinds) {
            let good = decodes_alike(decoder, &mut make(channels, quality), channels, &bytes)?;
            prop_assert!(!good || jpeg_channels(&bytes).is_ok());
            all_good &= good;
        }
        Ok(all_good)
    });
}

#[test]
fn png() {
    let used =
        std::cell::RefCell::new([1, 3].map(|channels| PngDecoder::new(channels, MAX_PIXELS)));
    fuzz("png", 1500, &mutated(pngs()), |bytes| {
        let mut all_good = true;
        for (decoder, channels) in used.borrow_mut().iter_mut().zip([1, 3]) {
            let mut fresh = PngDecoder::new(channels, MAX_PIXELS);
            all_good &= decodes_alike(decoder, &mut fresh, channels, &bytes)?;
        }
        Ok(all_good)
    });
}
