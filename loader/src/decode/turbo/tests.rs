use jpeg_encoder::SamplingFactor;
use proptest::prelude::*;

use super::super::testing::{jpeg, picture, whole};
use super::super::{BadImage, Decoder, ImageSize, Rect, Wanted, ZuneDecoder};
use super::*;

const LIMIT: u64 = 1 << 20;

fn exact(channels: usize) -> TurboDecoder {
    TurboDecoder::new(channels, LIMIT, DecodeQuality::Exact)
}

/// What a decoder gives for `wanted`, owned: pixels, size, x, y, scale.
type Answer = (Vec<u8>, ImageSize, u32, u32, u32);

fn ask(decoder: &mut dyn Decoder, bytes: &[u8], wanted: Wanted) -> Result<Answer, BadImage> {
    let region = decoder.decode(bytes, &mut |_| Ok(wanted))?;
    Ok((
        region.pixels.to_vec(),
        region.size,
        region.x,
        region.y,
        region.scale,
    ))
}

/// Those that the encoder writes in one scan.
fn samplings() -> impl Strategy<Value = SamplingFactor> {
    prop_oneof![
        Just(SamplingFactor::F_1_1),
        Just(SamplingFactor::F_2_1),
        Just(SamplingFactor::F_1_2),
        Just(SamplingFactor::F_2_2),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// The region holds the very pixels that the whole image has there, chroma at its borders included.
    #[test]
    fn a_region_is_cut_from_the_whole_image(
        (width, height) in (17u16..150, 17u16..150),
        sampling in samplings(), progressive: bool, gray: bool, restart in 0u16..3,
        share in (0.0f64..1.0, 0.0f64..1.0, 0.05f64..1.0, 0.05f64..1.0),
        shrink in 0u32..4, fast: bool,
    ) {
        let mut pixels = picture(width, height, 3);
        if gray {
            pixels = pixels.chunks(3).map(|pixel| pixel[1]).collect();
        }
        let bytes = jpeg(width, height, &pixels, |encoder| {
            encoder.set_sampling_factor(sampling);
            encoder.set_progressive(progressive);
            if restart > 0 && !progressive {
                encoder.set_restart_interval(restart);
            }
        });
        let quality = if fast { DecodeQuality::Fast } else { DecodeQuality::Exact };
        let decoder = || TurboDecoder::new(3, LIMIT, quality);
        let (image_width, image_height) = (u32::from(width), u32::from(height));
        let length = |share: f64, side: u32| ((share * f64::from(side)) as u32).clamp(1, side);
        let (part_width, part_height) = (length(share.2, image_width), length(share.3, image_height));
        let part = Rect {
            x: (share.0 * f64::from(image_width - part_width)) as u32,
            y: (share.1 * f64::from(image_height - part_height)) as u32,
            width: part_width,
            height: part_height,
        };
        let divide = |part: Rect| ImageSize {
            width: (part.width >> shrink).max(1),
            height: (part.height >> shrink).max(1),
        };
        let (pixels, size, x, y, scale) =
            ask(&mut decoder(), &bytes, Wanted { part, size: divide(part) }).unwrap();
        prop_assert!(scale <= 1 << shrink || part.width.min(part.height) < 1 << shrink);
        // The whole image at the same scale, which the size alone decides.
        let all = Rect { x: 0, y: 0, width: image_width, height: image_height };
        let at_scale = ImageSize {
            width: image_width / scale,
            height: image_height / scale,
        };
        let (whole, whole_size, _, _, whole_scale) =
            ask(&mut decoder(), &bytes, Wanted { part: all, size: at_scale }).unwrap();
        prop_assert_eq!(scale, whole_scale);
        // Covers what is wanted.
        prop_assert!(x <= part.x && y <= part.y && x % scale == 0 && y % scale == 0);
        prop_assert!(x + size.width * scale >= part.x + part.width);
        prop_assert!(y + size.height * scale >= part.y + part.height);
        let (x, y) = ((part.x / scale, x / scale), (part.y / scale, y / scale));
        let columns = (part.x + part.width).div_ceil(scale) - x.0;
        for row in y.0..(part.y + part.height).div_ceil(scale) {
            let at = |pixels: &[u8], width: u32, x: u32, y: u32| {
                let start = (y as usize * width as usize + x as usize) * 3;
                pixels[start..start + columns as usize * 3].to_vec()
            };
            prop_assert_eq!(
                at(&pixels, size.width, x.0 - x.1, row - y.1),
                at(&whole, whole_size.width, x.0, row),
                "row {} at 1/{}", row, scale
            );
        }
    }

    #[test]
    fn the_smallest_scale_that_keeps_the_size(width in 1u32..5000, height in 1u32..5000, side in 1u32..400) {
        let part = Rect { x: 0, y: 0, width, height };
        let chosen = scale(part, ImageSize { width: side, height: side });
        let keeps = |scale: u32| width >= side * scale && height >= side * scale;
        prop_assert!(chosen == 1 || keeps(chosen));
        prop_assert!(chosen == 8 || !keeps(chosen * 2));
    }
}

fn difference(a: &[u8], b: &[u8]) -> (f64, u8) {
    assert_eq!(a.len(), b.len());
    let differences = a.iter().zip(b).map(|(&a, &b)| a.abs_diff(b));
    let sum: f64 = differences.clone().map(f64::from).sum();
    (sum / a.len() as f64, differences.max().unwrap_or(0))
}

#[test]
fn whole_images_are_those_of_zune_to_rounding() {
    for channels in [1, 3] {
        for progressive in [false, true] {
            let bytes = jpeg(61, 35, &picture(61, 35, 2), |encoder| {
                encoder.set_progressive(progressive);
            });
            let mut zune = ZuneDecoder::new(channels, LIMIT);
            let zune = zune.decode(&bytes, &mut whole).unwrap().pixels.to_vec();
            let mut turbo = exact(channels);
            let turbo = turbo.decode(&bytes, &mut whole).unwrap();
            let (mean, worst) = difference(turbo.pixels, &zune);
            assert!(mean < 0.5 && worst <= 4, "mean {mean}, worst {worst}");
        }
    }
}

#[test]
fn fast_is_near_and_named() {
    let bytes = jpeg(120, 90, &picture(120, 90, 2), |encoder| {
        encoder.set_sampling_factor(SamplingFactor::F_2_2);
    });
    let mut fast = TurboDecoder::new(3, LIMIT, DecodeQuality::Fast);
    assert!(fast.name().starts_with("libjpeg-turbo-3.") && fast.name().ends_with("-fast"));
    assert!(exact(3).name().ends_with("-exact"));
    let mut slow = exact(3);
    let slow = slow.decode(&bytes, &mut whole).unwrap();
    let fast = fast.decode(&bytes, &mut whole).unwrap();
    assert_ne!(slow.pixels, fast.pixels);
    assert!(difference(slow.pixels, fast.pixels).0 < 8.0);
}

/// Damage below the region is damage: only the topmost rows are wanted here.
#[test]
fn damage_is_bad_wherever_it_is() {
    let wanted = Wanted {
        part: Rect {
            x: 0,
            y: 0,
            width: 64,
            height: 4,
        },
        size: ImageSize {
            width: 64,
            height: 4,
        },
    };
    for progressive in [false, true] {
        let bytes = jpeg(64, 48, &picture(64, 48, 5), |encoder| {
            encoder.set_progressive(progressive);
        });
        let mut decoder = exact(3);
        assert!(ask(&mut decoder, &bytes, wanted).is_ok());
        for length in 2..bytes.len() {
            assert!(
                ask(&mut decoder, &bytes[..length], wanted).is_err(),
                "cut to {length}"
            );
        }
        // Half of the data gone, an end marker put on: only the entropy decoder can notice.
        let mut ended = bytes[..bytes.len() * 3 / 4].to_vec();
        ended.extend([0xff, 0xd9]);
        if !progressive {
            assert!(ask(&mut decoder, &ended, wanted).is_err());
        }
        // Never a crash, and good images are good after bad ones.
        for flip in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[flip] ^= 0x55;
            let _ = ask(&mut decoder, &damaged, wanted);
        }
        assert_eq!(
            ask(&mut decoder, &bytes, wanted),
            ask(&mut exact(3), &bytes, wanted)
        );
    }
}

#[test]
fn a_refused_image_leaves_nothing_behind() {
    let bytes = jpeg(40, 30, &picture(40, 30, 5), |_| {});
    let mut decoder = exact(3);
    let refused = decoder.decode(&bytes, &mut |_| {
        Err(BadImage::Unsupported {
            what: "this test".to_owned(),
        })
    });
    assert!(matches!(refused, Err(BadImage::Unsupported { .. })));
    assert!(decoder.decode(&bytes, &mut whole).is_ok());
    let mut small = TurboDecoder::new(3, 40 * 30 - 1, DecodeQuality::Exact);
    assert!(matches!(
        small.decode(&bytes, &mut whole),
        Err(BadImage::TooLarge { .. })
    ));
}
