//! The resize gives the same bytes with vector instructions as without: whichever of them a machine has, the batches are the same.
//! (Flips and masks have no vector code.)

use fast_image_resize::CpuExtensions;
use proptest::prelude::*;

use super::*;
use crate::decode::testing::picture;

/// Those of this machine; in continuous integration SSE4.1 and AVX2, or Neon.
fn extensions() -> Vec<CpuExtensions> {
    #[cfg(target_arch = "x86_64")]
    let known = [CpuExtensions::Sse4_1, CpuExtensions::Avx2];
    #[cfg(target_arch = "aarch64")]
    let known = [CpuExtensions::Neon];
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    let known = [];
    known
        .into_iter()
        .filter(CpuExtensions::is_supported)
        .collect()
}

fn resize(extensions: CpuExtensions, region: &Region<'_>, part: Rect, size: ImageSize) -> Vec<u8> {
    let mut resizer = Resizer::new();
    // SAFETY: the extensions are those that this machine supports, or none.
    unsafe { resizer.inner.set_cpu_extensions(extensions) };
    let mut out = vec![0; size.width as usize * size.height as usize * region.channels];
    resizer.resize(region, part, size, &mut out).unwrap();
    out
}

/// Smooth colours, or black and white in turn: where rounding and clipping show most.
fn pixels(width: u32, height: u32, channels: usize, hard: bool, seed: u32) -> Vec<u8> {
    let mut pixels = picture(width as u16, height as u16, seed);
    if hard {
        let mut state = seed | 1;
        for pixel in &mut pixels {
            state = state.wrapping_mul(0x9e37_79b1).rotate_left(13) ^ 0x5bd1;
            *pixel = [0, 255, 128, 254][(state >> 7) as usize % 4];
        }
    }
    pixels.truncate(width as usize * height as usize * channels);
    pixels
}

fn check(
    width: u32,
    height: u32,
    channels: usize,
    hard: bool,
    part: Rect,
    size: ImageSize,
    scale: u32,
) {
    let pixels = pixels(width, height, channels, hard, width * 31 + height);
    let region = Region {
        pixels: &pixels,
        size: ImageSize { width, height },
        channels,
        x: 0,
        y: 0,
        scale,
    };
    let plain = resize(CpuExtensions::None, &region, part, size);
    for extensions in extensions() {
        assert!(
            plain == resize(extensions, &region, part, size),
            "{extensions:?} differs: {part:?} of {width}×{height}×{channels} to {size:?} at scale {scale}"
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn any_crop_at_any_size(
        width in 1u32..150, height in 1u32..150, gray: bool, hard: bool,
        corner in (0.0f64..1.0, 0.0f64..1.0), extent in (0.0f64..1.0, 0.0f64..1.0),
        to_width in 1u32..130, to_height in 1u32..130, scale in prop::sample::select(vec![1u32, 2, 4, 8]),
    ) {
        let (whole_width, whole_height) = (width * scale, height * scale);
        let x = (corner.0 * f64::from(whole_width)) as u32;
        let y = (corner.1 * f64::from(whole_height)) as u32;
        let part = Rect {
            x,
            y,
            width: 1 + (extent.0 * f64::from(whole_width - x - 1)) as u32,
            height: 1 + (extent.1 * f64::from(whole_height - y - 1)) as u32,
        };
        let size = ImageSize { width: to_width, height: to_height };
        check(width, height, if gray { 1 } else { 3 }, hard, part, size, scale);
    }
}

#[test]
fn every_width_around_the_vector_lengths() {
    // Rows that end at any place in a vector of up to 32 bytes, in source and target, shrunk and grown.
    for width in 1..70u32 {
        for (channels, hard) in [(1, true), (3, true), (3, false)] {
            for (to_width, to_height) in [
                (width, 9),
                (33, 17),
                (width + 3, 40),
                (width.div_ceil(2), 5),
            ] {
                let part = Rect {
                    x: 0,
                    y: 0,
                    width,
                    height: 23,
                };
                let size = ImageSize {
                    width: to_width,
                    height: to_height,
                };
                check(width, 23, channels, hard, part, size, 1);
            }
        }
    }
}

#[test]
fn crops_of_photographs_size() {
    for (width, height) in [(500, 375), (333, 500), (1201, 799)] {
        for (number, gray) in (0..6).zip([true, false].into_iter().cycle()) {
            let part = Rect {
                x: 13 * number,
                y: 7 * number,
                width: width - 31 * number - 1,
                height: height - 29 * number,
            };
            let size = ImageSize {
                width: 224,
                height: 224,
            };
            check(
                width,
                height,
                if gray { 1 } else { 3 },
                number % 3 == 0,
                part,
                size,
                1,
            );
        }
    }
}

#[test]
fn there_is_something_to_compare() {
    // Silence on a machine without any of them would look like agreement.
    let found = extensions();
    println!("compared with plain code: {found:?}");
    let expected = cfg!(any(target_arch = "x86_64", target_arch = "aarch64"));
    assert!(!expected || !found.is_empty());
}
