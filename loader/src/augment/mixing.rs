//! How the images of a batch are mixed with each other: mixup (Zhang et al. 2018, arXiv 1710.09412) and cutmix (Yun et al. 2019,
//! arXiv 1905.04899), drawn as by timm's `Mixup` in its mode `batch`.
//!
//! Only the numbers are drawn here, one share and one box for all images of a batch. Mixing itself takes floats, on the device, and the
//! labels are the trainer's.

use crate::config::bad;
use crate::decode::{ImageSize, Rect};
use crate::error::Result;
use crate::order::Cursor;
use crate::rng::{Draws, Key, Purpose};

/// Least and greatest parameter of the Beta distribution, beside 0.
const ALPHA: (f64, f64) = (1e-3, 1e3);

/// How batches are mixed: checked by [`Mixing::new`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Mixing {
    mixup_alpha: f64,
    cutmix_alpha: f64,
    probability: f64,
    switch_probability: f64,
}

/// How one batch is mixed: each image with the one at its place from the batch's end.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Mix {
    /// λ: what an image keeps of itself, and its label of its own; from 0 to less than 1.
    pub lambda: f64,
    /// Cutmix: the part that both images exchange, in pixels of the sample. Without one all pixels are mixed (mixup).
    pub cut: Option<Rect>,
}

impl Default for Mixing {
    /// The fine-tuning recipe: mixup 0.8, cutmix 1.0, every batch, one of both in half of all cases.
    fn default() -> Self {
        Mixing {
            mixup_alpha: 0.8,
            cutmix_alpha: 1.0,
            probability: 1.0,
            switch_probability: 0.5,
        }
    }
}

impl Mixing {
    /// Mixes a batch with `probability`; λ is from Beta(α, α), α being `mixup_alpha` or `cutmix_alpha`. An α of 0 turns its kind off;
    /// where both are on, a batch is cut with `switch_probability`.
    ///
    /// # Errors
    /// [`Error::Config`](crate::Error::Config) which names the number that is out of range.
    pub fn new(
        mixup_alpha: f64,
        cutmix_alpha: f64,
        probability: f64,
        switch_probability: f64,
    ) -> Result<Self> {
        for (setting, alpha) in [("mixup alpha", mixup_alpha), ("cutmix alpha", cutmix_alpha)] {
            if alpha != 0.0 && !(ALPHA.0..=ALPHA.1).contains(&alpha) {
                return bad(
                    setting,
                    format!(
                        "{alpha} is neither 0 (off) nor within {} to {}",
                        ALPHA.0, ALPHA.1
                    ),
                );
            }
        }
        for (setting, probability) in [
            ("mixing probability", probability),
            ("switch probability", switch_probability),
        ] {
            if !(0.0..=1.0).contains(&probability) {
                return bad(setting, format!("{probability} is not within 0 to 1"));
            }
        }
        Ok(Mixing {
            mixup_alpha,
            cutmix_alpha,
            probability,
            switch_probability,
        })
    }
}

/// How the batch at `cursor` is mixed, of samples of `size`; `None` where it stays as it is.
///
/// Follows from `seed` and `cursor` alone, and is the same on every rank. The box of cutmix has 1 − λ of the image's area and its
/// proportions around a random pixel; what lies outside the image is cut off, and λ becomes what is left, as timm's `correct_lam`.
///
/// Draws: whether, then, where both kinds are on, which; λ; for cutmix the row and the column of the centre.
pub fn mix_draw(mixing: &Mixing, size: ImageSize, seed: u64, cursor: Cursor) -> Option<Mix> {
    let key = Key {
        seed,
        epoch: cursor.epoch,
        place: cursor.step,
        repeat: 0,
    };
    let mut draws = Draws::new(Purpose::Mixing, key);
    if draws.unit() >= mixing.probability {
        return None;
    }
    let cuts = match (mixing.mixup_alpha > 0.0, mixing.cutmix_alpha > 0.0) {
        (true, true) => draws.unit() < mixing.switch_probability,
        (false, true) => true,
        (true, false) => false,
        (false, false) => return None,
    };
    let mix = if cuts {
        let lambda = draws.beta(mixing.cutmix_alpha);
        let cut = cut_box(lambda, size, &mut draws);
        let area = |width: u32, height: u32| f64::from(width) * f64::from(height);
        Mix {
            lambda: 1.0 - area(cut.width, cut.height) / area(size.width, size.height),
            cut: Some(cut),
        }
    } else {
        Mix {
            lambda: draws.beta(mixing.mixup_alpha),
            cut: None,
        }
    };
    // Also where a box without area is cut.
    (mix.lambda < 1.0).then_some(mix)
}

/// A box of 1 − `lambda` of the area around a pixel, as far as it lies inside: timm's `rand_bbox`.
fn cut_box(lambda: f64, size: ImageSize, draws: &mut Draws) -> Rect {
    let ratio = (1.0 - lambda).sqrt();
    let mut range = |length: u32| {
        let cut = (f64::from(length) * ratio) as u32;
        let centre = draws.below(length);
        let start = centre.saturating_sub(cut / 2);
        let end = (centre + cut.div_ceil(2)).min(length);
        (start, end - start)
    };
    let (y, height) = range(size.height);
    let (x, width) = range(size.width);
    Rect {
        x,
        y,
        width,
        height,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::error::Error;

    const SIZE: ImageSize = ImageSize {
        width: 224,
        height: 224,
    };

    fn at(step: u64) -> Cursor {
        Cursor { epoch: 0, step }
    }

    proptest! {
        #[test]
        fn boxes_lie_inside_and_lambda_is_what_they_leave(
            width in 1u32..300, height in 1u32..300, seed: u64, step: u64, alpha in 0.001f64..10.0,
        ) {
            let size = ImageSize { width, height };
            let mixing = Mixing::new(alpha, alpha, 1.0, 0.5).unwrap();
            if let Some(mix) = mix_draw(&mixing, size, seed, at(step)) {
                prop_assert!((0.0..1.0).contains(&mix.lambda));
                if let Some(cut) = mix.cut {
                    prop_assert!(cut.x + cut.width <= width && cut.y + cut.height <= height);
                    let left = 1.0 - f64::from(cut.width * cut.height) / f64::from(width * height);
                    prop_assert!((mix.lambda - left).abs() < 1e-12);
                }
            }
        }
    }

    #[test]
    fn kinds_are_turned_off_by_their_alpha() {
        let count = |mixup, cutmix| {
            let mixing = Mixing::new(mixup, cutmix, 1.0, 0.5).unwrap();
            let mixes = (0..200).filter_map(|step| mix_draw(&mixing, SIZE, 1, at(step)));
            let cuts: Vec<bool> = mixes.map(|mix| mix.cut.is_some()).collect();
            (cuts.len(), cuts.iter().filter(|&&cut| cut).count())
        };
        assert_eq!(count(0.8, 0.0), (200, 0));
        let (mixed, cut) = count(0.0, 1.0);
        assert!(mixed > 190 && cut == mixed);
        assert_eq!(count(0.0, 0.0), (0, 0));
        let never = Mixing::new(0.8, 1.0, 0.0, 0.5).unwrap();
        assert!((0..200).all(|step| mix_draw(&never, SIZE, 1, at(step)).is_none()));
    }

    #[test]
    fn every_part_of_the_position_counts() {
        let draw = |seed, cursor| mix_draw(&Mixing::default(), SIZE, seed, cursor);
        let first = draw(1, at(5));
        assert_eq!(first, draw(1, at(5)));
        assert_ne!(first, draw(2, at(5)));
        assert_ne!(first, draw(1, at(6)));
        assert_ne!(first, draw(1, Cursor { epoch: 1, step: 5 }));
    }

    #[test]
    fn numbers_out_of_range_are_named() {
        for (mixing, name) in [
            (Mixing::new(-0.1, 1.0, 1.0, 0.5), "mixup alpha"),
            (Mixing::new(0.8, f64::NAN, 1.0, 0.5), "cutmix alpha"),
            (Mixing::new(0.8, 1e4, 1.0, 0.5), "cutmix alpha"),
            (Mixing::new(0.8, 1.0, 1.1, 0.5), "mixing probability"),
            (Mixing::new(0.8, 1.0, 1.0, f64::NAN), "switch probability"),
        ] {
            assert!(
                matches!(mixing, Err(Error::Config { setting, .. }) if setting == name),
                "{name}"
            );
        }
        assert_eq!(Mixing::new(0.8, 1.0, 1.0, 0.5).unwrap(), Mixing::default());
    }
}
