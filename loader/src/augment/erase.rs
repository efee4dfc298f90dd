//! Where random erasing (Zhong et al. 2020, arXiv 1708.04896) puts its box: timm's `RandomErasing`, one box an image.
//!
//! What is put into the box are floats, after normalising: that is left to the device.

use crate::decode::ImageSize;
use crate::rng::Draws;

/// Least and greatest share of the image's area.
const AREA: (f64, f64) = (0.02, 1.0 / 3.0);
/// Least height / width; the greatest is its inverse.
const LEAST_ASPECT: f64 = 0.3;

/// The box to erase of an image of `size`, with `probability`: top, left, height, width; zeros where nothing is erased.
///
/// Ten tries at an area and a log-uniform height / width, until the box is lower and narrower than the image. Draws: whether, then
/// per try area, height / width, and, if it fits, row and column.
pub(crate) fn erase_box(probability: f64, size: ImageSize, draws: &mut Draws) -> [u32; 4] {
    if draws.unit() >= probability {
        return [0; 4];
    }
    let area = f64::from(size.width) * f64::from(size.height);
    let log_aspect = libm::log(LEAST_ASPECT);
    for _ in 0..10 {
        let target = area * draws.uniform(AREA.0, AREA.1);
        let aspect = libm::exp(draws.uniform(log_aspect, -log_aspect));
        // Python's round: halves to even.
        let height = (target * aspect).sqrt().round_ties_even() as u32;
        let width = (target / aspect).sqrt().round_ties_even() as u32;
        if width < size.width && height < size.height {
            if width == 0 || height == 0 {
                return [0; 4];
            }
            let top = draws.below(size.height - height + 1);
            let left = draws.below(size.width - width + 1);
            return [top, left, height, width];
        }
    }
    [0; 4]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::rng::{Key, Purpose};

    fn draws(place: u64) -> Draws {
        let key = Key {
            seed: 3,
            epoch: 0,
            place,
            repeat: 0,
        };
        Draws::new(Purpose::Erase, key)
    }

    proptest! {
        #[test]
        fn boxes_lie_inside_the_image(width in 1u32..600, height in 1u32..600, place: u64) {
            let [top, left, rows, columns] = erase_box(1.0, ImageSize { width, height }, &mut draws(place));
            prop_assert!(top + rows <= height && left + columns <= width);
            prop_assert_eq!(rows == 0, columns == 0);
        }
    }

    #[test]
    fn probability_is_kept_at_its_ends() {
        let size = ImageSize {
            width: 224,
            height: 224,
        };
        for place in 0..1000 {
            assert_eq!(erase_box(0.0, size, &mut draws(place)), [0; 4]);
            assert_ne!(erase_box(1.0, size, &mut draws(place)), [0; 4]);
        }
    }
}
