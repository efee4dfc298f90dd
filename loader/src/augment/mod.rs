//! From a decoded image to the pixels of a slot: crop, resize, flip, and where they are asked for RandAugment and colour jitter.
//!
//! Crop then resize, or resize then crop, as torchvision: a resize never reads outside a crop before it. Pixels stay 8-bit; normalising,
//! and augmentations that need floats, are left to the device. Of these only the numbers are drawn here: boxes to erase, and how a batch
//! is mixed.

mod crop;
mod erase;
mod jitter;
mod mixing;
mod rand_augment;
mod resize;
#[cfg(test)]
mod torchvision;
mod transform;

pub use self::crop::{CropRule, short_side};
pub(crate) use self::erase::erase_box;
#[cfg(test)]
pub(crate) use self::jitter::{Change, draw as draw_jitter};
pub use self::mixing::{Mix, Mixing, mix_draw};
#[cfg(test)]
pub(crate) use self::rand_augment::draw as draw_operation;
pub use self::rand_augment::{Operation, RandAugment, RandAugmenter};
pub use self::resize::Resizer;
pub use self::transform::{TrainTransform, Transform};
use crate::decode::{BadImage, ImageSize, Rect, Region, Wanted};
use crate::rng::{Draws, Key, Purpose};

/// What one image goes through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ImagePlan {
    /// The part of the image that is used.
    part: Rect,
    /// The size that the part must still have when it is decoded.
    least: ImageSize,
    /// What the part is resized to.
    resized: ImageSize,
    /// Column and row of the resized part at which the sample starts.
    offset: (u32, u32),
    flip: bool,
}

/// What `plans`, at least one, want of their image together: a part that covers all of theirs, at a size at which each of them has its
/// own.
pub(crate) fn wanted(plans: &[ImagePlan]) -> Wanted {
    let parts = || plans.iter().map(|plan| plan.part);
    let (x, y) = (
        parts().map(|part| part.x).min().unwrap_or(0),
        parts().map(|part| part.y).min().unwrap_or(0),
    );
    let right = parts().map(|part| part.x + part.width).max().unwrap_or(0);
    let bottom = parts().map(|part| part.y + part.height).max().unwrap_or(0);
    let part = Rect {
        x,
        y,
        width: right - x,
        height: bottom - y,
    };
    // Rounded up: no plan's part becomes smaller than it may.
    let length = |all: u32, own: u32, least: u32| {
        (u64::from(all) * u64::from(least)).div_ceil(u64::from(own.max(1))) as u32
    };
    let widths = plans
        .iter()
        .map(|plan| length(part.width, plan.part.width, plan.least.width));
    let heights = plans
        .iter()
        .map(|plan| length(part.height, plan.part.height, plan.least.height));
    Wanted {
        part,
        size: ImageSize {
            width: widths.max().unwrap_or(1),
            height: heights.max().unwrap_or(1),
        },
    }
}

impl ImagePlan {
    #[cfg(test)]
    pub(crate) fn flips(&self) -> bool {
        self.flip
    }

    #[cfg(test)]
    pub(crate) fn offset(&self) -> (u32, u32) {
        self.offset
    }
}

/// Crops, resizes, flips and augments; one belongs to each worker thread and keeps its memory between images.
pub(crate) struct Augmenter {
    transform: Transform,
    size: ImageSize,
    max_pixels: u64,
    resizer: Resizer,
    scratch: Vec<u8>,
    operations: Option<RandAugmenter>,
    /// 0 where there is none.
    color_jitter: f64,
}

impl Augmenter {
    /// Makes samples of `size`; refuses images that would have more than `max_pixels` pixels on the way.
    pub(crate) fn new(transform: Transform, size: ImageSize, max_pixels: u64) -> Self {
        let (operations, color_jitter) = match transform {
            Transform::Train(train) => {
                let augmenter = |policy| RandAugmenter::new(policy, size, train.fill);
                (train.augment.map(augmenter), train.color_jitter)
            }
            Transform::Eval { .. } => (None, 0.0),
        };
        Augmenter {
            transform,
            size,
            max_pixels,
            resizer: Resizer::new(),
            scratch: Vec::new(),
            operations,
            color_jitter,
        }
    }

    /// Decides about an image of size `image`. Draws the flip first, then the crop.
    pub(crate) fn plan(&self, image: ImageSize, draws: &mut Draws) -> Result<ImagePlan, BadImage> {
        let centred =
            |resize| self.resized_whole(image, resize, |resized| crop::centre(resized, self.size));
        let train = match self.transform {
            Transform::Train(train) => train,
            // At full scale: what is published of a model was measured so.
            Transform::Eval { resize } => {
                return Ok(ImagePlan {
                    least: image,
                    ..centred(resize)?
                });
            }
        };
        let flip = train.flip && draws.coin();
        let plan = match train.crop {
            CropRule::Retry | CropRule::Clamp => ImagePlan {
                part: crop::random_resized_crop(image, &train, draws),
                least: self.size,
                resized: self.size,
                offset: (0, 0),
                flip: false,
            },
            CropRule::Fixed { resize } => self.resized_whole(image, resize, |resized| {
                crop::anywhere(resized, self.size, draws)
            })?,
            CropRule::Centre { resize } => centred(resize)?,
        };
        Ok(ImagePlan { flip, ..plan })
    }

    /// The whole image with its short side at `resize`, the sample cut out of it at what `offset` makes of its size.
    fn resized_whole(
        &self,
        image: ImageSize,
        resize: u32,
        offset: impl FnOnce(ImageSize) -> (u32, u32),
    ) -> Result<ImagePlan, BadImage> {
        let resized = crop::short_side(image, resize, self.max_pixels)?;
        Ok(ImagePlan {
            part: Rect {
                x: 0,
                y: 0,
                width: image.width,
                height: image.height,
            },
            least: resized,
            resized,
            offset: offset(resized),
            flip: false,
        })
    }

    /// Carries out `plan` on decoded pixels; fills `out`, `[height, width, channels]`. What is done to them after that, where anything
    /// is, is drawn at `key`.
    pub(crate) fn apply(
        &mut self,
        region: &Region<'_>,
        plan: &ImagePlan,
        key: Key,
        out: &mut [u8],
    ) -> Result<(), BadImage> {
        let channels = region.channels;
        if plan.resized == self.size {
            self.resizer.resize(region, plan.part, self.size, out)?;
        } else {
            let row = plan.resized.width as usize * channels;
            self.scratch.resize(row * plan.resized.height as usize, 0);
            self.resizer
                .resize(region, plan.part, plan.resized, &mut self.scratch)?;
            let (x, y) = (plan.offset.0 as usize * channels, plan.offset.1 as usize);
            let width = self.size.width as usize * channels;
            for (target, source) in out
                .chunks_exact_mut(width)
                .zip(self.scratch.chunks_exact(row).skip(y))
            {
                target.copy_from_slice(&source[x..x + width]);
            }
        }
        if plan.flip {
            flip_rows(out, self.size.width as usize, channels);
        }
        if let Some(operations) = &mut self.operations {
            let mut draws = Draws::new(Purpose::Augment, key);
            operations.augment(&mut draws, out, channels);
        }
        if self.color_jitter > 0.0 {
            let mut draws = Draws::new(Purpose::Jitter, key);
            jitter::apply(jitter::draw(self.color_jitter, &mut draws), out, channels);
        }
        Ok(())
    }
}

/// Mirrors each row of `width` pixels in place.
fn flip_rows(pixels: &mut [u8], width: usize, channels: usize) {
    // A known pixel size makes moves of loops: half the time.
    match channels {
        1 => pixels.chunks_exact_mut(width).for_each(<[u8]>::reverse),
        _ => flip_rgb(pixels, width),
    }
}

fn flip_rgb(pixels: &mut [u8], width: usize) {
    for row in pixels.chunks_exact_mut(width * 3) {
        let mut pixels = row.chunks_exact_mut(3);
        while let (Some(left), Some(right)) = (pixels.next(), pixels.next_back()) {
            let pixel = [left[0], left[1], left[2]];
            left.copy_from_slice(right);
            right.copy_from_slice(&pixel);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(place: u64) -> Key {
        Key {
            seed: 0,
            epoch: 0,
            place,
            repeat: 0,
        }
    }

    fn draws(place: u64) -> Draws {
        Draws::new(Purpose::Crop, key(place))
    }

    fn region(pixels: &[u8], width: u32, height: u32, channels: usize) -> Region<'_> {
        Region {
            pixels,
            size: ImageSize { width, height },
            channels,
            x: 0,
            y: 0,
            scale: 1,
        }
    }

    #[test]
    fn flip_mirrors_pixels_not_channels() {
        let mut rgb = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12];
        flip_rows(&mut rgb, 2, 3);
        assert_eq!(rgb, [4, 5, 6, 1, 2, 3, 10, 11, 12, 7, 8, 9]);
        let mut gray = [1, 2, 3, 4, 5, 6];
        flip_rows(&mut gray, 3, 1);
        assert_eq!(gray, [3, 2, 1, 6, 5, 4]);
    }

    #[test]
    fn evaluation_at_the_own_size_changes_no_pixel() {
        let pixels: Vec<u8> = (0..32 * 32 * 3).map(|i| (i * 7 % 251) as u8).collect();
        let size = ImageSize {
            width: 32,
            height: 32,
        };
        let mut augmenter = Augmenter::new(Transform::Eval { resize: 32 }, size, 1 << 20);
        let plan = augmenter.plan(size, &mut draws(0)).unwrap();
        let mut out = vec![0; pixels.len()];
        augmenter
            .apply(&region(&pixels, 32, 32, 3), &plan, key(0), &mut out)
            .unwrap();
        assert_eq!(out, pixels);
    }

    #[test]
    fn evaluation_cuts_the_centre() {
        // 40×20 at short side 20 is not resampled; the centre 10×10 starts at column 15, row 5.
        let pixels: Vec<u8> = (0..20u8)
            .flat_map(|y| (0..40u8).map(move |x| x + y))
            .collect();
        let size = ImageSize {
            width: 10,
            height: 10,
        };
        let mut augmenter = Augmenter::new(Transform::Eval { resize: 20 }, size, 1 << 20);
        let plan = augmenter
            .plan(
                ImageSize {
                    width: 40,
                    height: 20,
                },
                &mut draws(0),
            )
            .unwrap();
        let mut out = vec![0; 100];
        augmenter
            .apply(&region(&pixels, 40, 20, 1), &plan, key(0), &mut out)
            .unwrap();
        assert_eq!((out[0], out[9], out[90], out[99]), (20, 29, 29, 38));
    }

    #[test]
    fn a_scratch_left_by_a_larger_image_does_not_show() {
        let size = ImageSize {
            width: 8,
            height: 8,
        };
        let small: Vec<u8> = (0..16 * 9).map(|i| i as u8).collect();
        let run = |augmenter: &mut Augmenter, pixels: &[u8], width, height| {
            let plan = augmenter
                .plan(ImageSize { width, height }, &mut draws(0))
                .unwrap();
            let mut out = vec![0; 64];
            augmenter
                .apply(&region(pixels, width, height, 1), &plan, key(0), &mut out)
                .unwrap();
            out
        };
        let new = || Augmenter::new(Transform::Eval { resize: 10 }, size, 1 << 20);
        let mut used = new();
        run(&mut used, &[200; 64 * 30], 64, 30);
        assert_eq!(
            run(&mut used, &small, 16, 9),
            run(&mut new(), &small, 16, 9)
        );
    }

    #[test]
    fn half_of_all_plans_flip_and_none_where_it_is_off() {
        let size = ImageSize {
            width: 8,
            height: 8,
        };
        let image = ImageSize {
            width: 100,
            height: 80,
        };
        let count = |transform| {
            let augmenter = Augmenter::new(transform, size, 1 << 20);
            (0..1000)
                .filter(|&place| augmenter.plan(image, &mut draws(place)).unwrap().flip)
                .count()
        };
        assert!((400..600).contains(&count(Transform::default())));
        assert_eq!(
            count(Transform::Train(TrainTransform {
                flip: false,
                ..TrainTransform::default()
            })),
            0
        );
    }
}
