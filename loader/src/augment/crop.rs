//! Which part of an image is used: torchvision's and the reference code's arithmetic, to the pixel.
//!
//! Exponential and logarithm come from `libm`, not from the system's C library, whose last bit differs between versions; a crop
//! could hang on it. `√`, ×, ÷ and rounding are exact everywhere.

use serde::{Deserialize, Serialize};

use super::TrainTransform;
use crate::decode::{BadImage, ImageSize, Rect};
use crate::rng::Draws;

/// Which part of an image training uses: three of the paper's four crops (He et al. 2021, table 1e), and the linear probe's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CropRule {
    /// One of random area and ratio, resized to the sample's size ("random size"). One that is wider or higher than the image is drawn
    /// anew, ten times in all; then it is the largest central part whose ratio is within bounds: torchvision's `RandomResizedCrop`.
    #[default]
    Retry,
    /// The same, but one that is wider or higher is cut to the image's width or height, so that every draw is used: the crop of the
    /// reference code's linear probe, after BYOL's. More parts span the whole image, and their ratio may be out of bounds.
    Clamp,
    /// The image is resized, and the sample is cut out of it at a random place, each as likely ("fixed size"): torchvision's `Resize` and
    /// `RandomCrop`, without padding.
    Fixed {
        /// Short side after resizing, at least the sample's longer side. At the image's own size nothing is resampled.
        resize: u32,
    },
    /// The image is resized, and the sample is cut out of its centre ("none", where nothing is mirrored either): torchvision's `Resize`
    /// and `CenterCrop`, as [`Transform::Eval`](super::Transform::Eval).
    Centre {
        /// As of [`Fixed`](CropRule::Fixed).
        resize: u32,
    },
}

/// A random part of an image: area of `scale` times the image's, log-uniform `ratio` (width / height).
///
/// Draws per try: area, ratio, and, if the part is used, its row and its column.
pub(super) fn random_resized_crop(
    image: ImageSize,
    train: &TrainTransform,
    draws: &mut Draws,
) -> Rect {
    let (width, height) = (f64::from(image.width), f64::from(image.height));
    let area = width * height;
    let (scale, ratio) = (train.scale, train.ratio);
    let log_ratio = (libm::log(ratio.0), libm::log(ratio.1));
    for _ in 0..10 {
        let target = area * draws.uniform(scale.0, scale.1);
        let aspect = libm::exp(draws.uniform(log_ratio.0, log_ratio.1));
        // Python's round: halves to even.
        let mut crop_width = (target * aspect).sqrt().round_ties_even();
        let mut crop_height = (target / aspect).sqrt().round_ties_even();
        if train.crop == CropRule::Clamp {
            // The reference code draws no column from an image so small that nothing of it is left; here a pixel is.
            crop_width = crop_width.clamp(1.0, width);
            crop_height = crop_height.clamp(1.0, height);
        }
        if (1.0..=width).contains(&crop_width) && (1.0..=height).contains(&crop_height) {
            let (crop_width, crop_height) = (crop_width as u32, crop_height as u32);
            let y = draws.below(image.height - crop_height + 1);
            let x = draws.below(image.width - crop_width + 1);
            return Rect {
                x,
                y,
                width: crop_width,
                height: crop_height,
            };
        }
    }
    largest_central(image, ratio)
}

/// The largest central part whose width / height is within bounds.
fn largest_central(image: ImageSize, ratio: (f64, f64)) -> Rect {
    let (width, height) = (f64::from(image.width), f64::from(image.height));
    let image_ratio = width / height;
    let (crop_width, crop_height) = if image_ratio < ratio.0 {
        (image.width, rounded(width / ratio.0, image.height))
    } else if image_ratio > ratio.1 {
        (rounded(height * ratio.1, image.width), image.height)
    } else {
        (image.width, image.height)
    };
    Rect {
        x: (image.width - crop_width) / 2,
        y: (image.height - crop_height) / 2,
        width: crop_width,
        height: crop_height,
    }
}

/// `length` rounded as by Python, within `1..=limit`.
fn rounded(length: f64, limit: u32) -> u32 {
    (length.round_ties_even() as u32).clamp(1, limit)
}

/// torchvision's `Resize(short)`: the short side becomes `short` pixels, the long one is scaled alike and rounded down.
///
/// # Errors
/// [`BadImage::Unsupported`] where the result would have more than `max_pixels` pixels.
pub fn short_side(image: ImageSize, short: u32, max_pixels: u64) -> Result<ImageSize, BadImage> {
    let scaled = |long: u32, side: u32| u64::from(short) * u64::from(long) / u64::from(side.max(1));
    let (width, height) = if image.width <= image.height {
        (u64::from(short), scaled(image.height, image.width))
    } else {
        (scaled(image.width, image.height), u64::from(short))
    };
    match (u32::try_from(width), u32::try_from(height)) {
        (Ok(width), Ok(height)) if u64::from(width) * u64::from(height) <= max_pixels => {
            Ok(ImageSize { width, height })
        }
        _ => Err(BadImage::Unsupported {
            what: format!(
                "{}×{} pixels are too elongated to be resized to a short side of {short}",
                image.width, image.height
            ),
        }),
    }
}

/// torchvision's `RandomCrop`: column and row at which `size` starts in `image`. `size` must fit.
///
/// Draws the row, then the column.
pub(super) fn anywhere(image: ImageSize, size: ImageSize, draws: &mut Draws) -> (u32, u32) {
    let y = draws.below(image.height - size.height + 1);
    let x = draws.below(image.width - size.width + 1);
    (x, y)
}

/// torchvision's `CenterCrop`: column and row at which `size` starts in `image`. `size` must fit.
pub(super) fn centre(image: ImageSize, size: ImageSize) -> (u32, u32) {
    let start = |outer: u32, inner: u32| (f64::from(outer - inner) / 2.0).round_ties_even() as u32;
    (
        start(image.width, size.width),
        start(image.height, size.height),
    )
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::rng::{Key, Purpose};

    fn train(scale: (f64, f64), ratio: (f64, f64), crop: CropRule) -> TrainTransform {
        TrainTransform {
            scale,
            ratio,
            crop,
            ..TrainTransform::default()
        }
    }

    fn draws(place: u64) -> Draws {
        Draws::new(
            Purpose::Crop,
            Key {
                seed: 11,
                epoch: 0,
                place,
                repeat: 0,
            },
        )
    }

    fn size(width: u32, height: u32) -> ImageSize {
        ImageSize { width, height }
    }

    proptest! {
        #[test]
        fn crops_lie_inside_the_image(
            width in 1u32..3000, height in 1u32..3000, place: u64,
            scale in (0.01f64..1.0, 0.01f64..1.0), ratio in (0.1f64..10.0, 0.1f64..10.0),
            rule in prop_oneof![Just(CropRule::Retry), Just(CropRule::Clamp)],
        ) {
            let ordered = |(a, b): (f64, f64)| (a.min(b), a.max(b));
            let train = train(ordered(scale), ordered(ratio), rule);
            let crop = random_resized_crop(size(width, height), &train, &mut draws(place));
            prop_assert!(crop.width >= 1 && crop.x + crop.width <= width, "{crop:?}");
            prop_assert!(crop.height >= 1 && crop.y + crop.height <= height, "{crop:?}");
        }

        #[test]
        fn cuts_lie_inside(width in 1u32..2000, height in 1u32..2000, short in 1u32..300) {
            let resized = short_side(size(width, height), short, 1 << 30).unwrap();
            prop_assert_eq!(resized.width.min(resized.height), short);
            for (x, y) in [
                centre(resized, size(short, short)),
                anywhere(resized, size(short, short), &mut draws(u64::from(width))),
            ] {
                prop_assert!(x + short <= resized.width && y + short <= resized.height);
            }
        }
    }

    #[test]
    fn area_and_ratio_are_uniform_and_log_uniform() {
        let (image, rounds) = (size(1000, 1000), 4000);
        let train = TrainTransform {
            scale: (0.2, 0.6),
            ..TrainTransform::default()
        };
        let (mut area, mut log_ratio, mut fits) = (0.0, 0.0, 0);
        for place in 0..rounds {
            let crop = random_resized_crop(image, &train, &mut draws(place));
            let share = f64::from(crop.width) * f64::from(crop.height) / 1e6;
            assert!((0.198..0.602).contains(&share));
            area += share;
            log_ratio += (f64::from(crop.width) / f64::from(crop.height)).ln();
            fits += u32::from(crop.x + crop.width <= 1000);
        }
        let rounds = rounds as f64;
        // Nothing is rejected at these scales: means 0.4 and 0, standard errors 0.0018 and 0.0026.
        assert!((area / rounds - 0.4).abs() < 0.011, "{}", area / rounds);
        assert!((log_ratio / rounds).abs() < 0.016, "{}", log_ratio / rounds);
        assert_eq!(f64::from(fits), rounds);
    }

    #[test]
    fn elongated_images_fall_back_to_the_centre() {
        // No try can fit: the area asked for is far wider or higher than the image at any ratio allowed.
        let usual = TrainTransform::default();
        assert_eq!(
            random_resized_crop(size(1000, 10), &usual, &mut draws(0)),
            Rect {
                x: 493,
                y: 0,
                width: 13,
                height: 10
            }
        );
        assert_eq!(
            random_resized_crop(size(10, 1000), &usual, &mut draws(0)),
            Rect {
                x: 0,
                y: 493,
                width: 10,
                height: 13
            }
        );
        assert_eq!(
            random_resized_crop(
                size(1, 1),
                &train((1.0, 1.0), (1.0, 1.0), CropRule::Retry),
                &mut draws(0)
            ),
            Rect {
                x: 0,
                y: 0,
                width: 1,
                height: 1
            }
        );
    }

    #[test]
    fn a_clamped_part_spans_an_elongated_image() {
        let train = TrainTransform {
            crop: CropRule::Clamp,
            ..TrainTransform::default()
        };
        for place in 0..50 {
            let crop = random_resized_crop(size(1000, 10), &train, &mut draws(place));
            assert_eq!((crop.y, crop.height), (0, 10));
            // A fifth of the area at the least, at the highest ratio's width and the lowest's.
            assert!((38..=116).contains(&crop.width), "{crop:?}");
        }
    }

    #[test]
    fn sizes_round_as_torchvision() {
        // From torchvision.transforms.functional._compute_resized_image_output_size.
        for (image, short, resized) in [
            (size(500, 375), 256, size(341, 256)),
            (size(375, 500), 256, size(256, 341)),
            (size(333, 500), 256, size(256, 384)),
            (size(256, 256), 256, size(256, 256)),
            (size(32, 32), 224, size(224, 224)),
        ] {
            assert_eq!(short_side(image, short, 1 << 20).unwrap(), resized);
        }
        assert!(short_side(size(1_000_000, 1), 256, 1 << 26).is_err());
        // int(round(x / 2.0)): 58.5 → 58, 16; 0.5 → 0; 1.5 → 2.
        assert_eq!(centre(size(341, 256), size(224, 224)), (58, 16));
        assert_eq!(centre(size(225, 227), size(224, 224)), (0, 2));
    }
}
