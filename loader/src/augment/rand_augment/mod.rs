//! RandAugment as timm applies it to Pillow's images, with Pillow's arithmetic: 8-bit pixels in, 8-bit pixels out, in place.
//!
//! [`policy`] says what is asked for, [`operation`] draws what is done, and [`tables`], [`enhance`], [`affine`] and [`slide`] do it.
//!
//! Gray images go through the same operations, as Pillow's of mode `L` do: one channel, which is its own luma, so that
//! `Color` changes nothing.

mod affine;
pub(super) mod enhance;
mod operation;
mod policy;
mod slide;
mod tables;

#[cfg(test)]
mod tests;

pub use self::operation::Operation;
pub(crate) use self::operation::draw;
pub use self::policy::RandAugment;
use self::slide::Slide;
use crate::decode::ImageSize;
use crate::rng::{Draws, Key, Purpose};

/// The pixels of `C` channels that lie in `bytes`.
fn pixels_of<const C: usize>(bytes: &[u8]) -> impl Iterator<Item = &[u8; C]> {
    bytes.chunks_exact(C).filter_map(<[u8]>::first_chunk)
}

/// The same, to be changed.
fn pixels_of_mut<const C: usize>(bytes: &mut [u8]) -> impl Iterator<Item = &mut [u8; C]> {
    bytes
        .chunks_exact_mut(C)
        .filter_map(<[u8]>::first_chunk_mut)
}

/// Augments images of one size; one belongs to each worker thread and keeps its memory between images.
pub struct RandAugmenter {
    policy: RandAugment,
    size: ImageSize,
    /// What comes in from outside the image.
    fill: [u8; 3],
    /// A copy of the image, where an operation needs one.
    source: Vec<affine::Padded>,
    /// Two rows of it.
    rows: Vec<u8>,
    lines: slide::Lines,
}

impl RandAugmenter {
    /// Augments images of `size` by `policy`; `fill` is the colour of what comes in from outside them.
    pub fn new(policy: RandAugment, size: ImageSize, fill: [u8; 3]) -> Self {
        RandAugmenter {
            policy,
            size,
            fill,
            source: Vec::new(),
            rows: Vec::new(),
            lines: slide::Lines::default(),
        }
    }

    /// Draws what is done to image number `place` of an epoch, as a loader of this seed does, and does it.
    ///
    /// # Panics
    /// As [`apply`](Self::apply).
    pub fn augment_at(
        &mut self,
        (seed, epoch, place): (u64, u64, u64),
        pixels: &mut [u8],
        channels: usize,
    ) {
        let key = Key {
            seed,
            epoch,
            place,
            repeat: 0,
        };
        self.augment(&mut Draws::new(Purpose::Augment, key), pixels, channels);
    }

    /// Draws what is done to an image, `[height, width, channels]` with 1 or 3 channels, and does it.
    pub(crate) fn augment(&mut self, draws: &mut Draws, pixels: &mut [u8], channels: usize) {
        for _ in 0..self.policy.layers() {
            if let Some(operation) = draw(&self.policy, draws) {
                self.apply(operation, pixels, channels);
            }
        }
    }

    /// Does one operation to an image, `[height, width, channels]` with 1 or 3 channels.
    ///
    /// # Panics
    /// If the image is of another size.
    pub fn apply(&mut self, operation: Operation, pixels: &mut [u8], channels: usize) {
        assert_eq!(
            pixels.len(),
            self.size.width as usize * self.size.height as usize * channels,
            "an image of {} × {}",
            self.size.width,
            self.size.height
        );
        match channels {
            1 => self.apply_to::<1>(operation, pixels, [enhance::luma(self.fill)]),
            _ => self.apply_to::<3>(operation, pixels, self.fill),
        }
    }

    fn apply_to<const C: usize>(&mut self, operation: Operation, pixels: &mut [u8], fill: [u8; C]) {
        let (width, height) = (self.size.width as usize, self.size.height as usize);
        match operation {
            Operation::AutoContrast => tables::map_each::<C>(pixels, tables::auto_contrast),
            Operation::Equalize => tables::map_each::<C>(pixels, tables::equalize),
            Operation::Invert => tables::map_all(pixels, &tables::table(|value| 255 - value)),
            Operation::Posterize(bits) => tables::map_all(pixels, &tables::posterize(bits)),
            Operation::Solarize(threshold) => tables::map_all(pixels, &tables::solarize(threshold)),
            Operation::SolarizeAdd(amount) => {
                tables::map_all(pixels, &tables::solarize_add(amount))
            }
            // A gray image is its own gray image.
            Operation::Color(_) if C == 1 => {}
            Operation::Color(factor) => enhance::color(pixels, factor as f32),
            Operation::Contrast(factor) => enhance::contrast::<C>(pixels, factor as f32),
            Operation::Brightness(factor) => enhance::brightness(pixels, factor as f32),
            Operation::Sharpness(factor) => {
                self.rows.resize(2 * width * C, 0);
                enhance::sharpness::<C>(pixels, width, factor as f32, &mut self.rows);
            }
            Operation::Rotate(degrees) => {
                let size = (width, height);
                let matrix = affine::rotation(degrees, size);
                self.source
                    .resize(width * height, affine::Padded::default());
                affine::transform(pixels, size, matrix, fill, &mut self.source);
            }
            Operation::ShearX(slope) => {
                let slide = Slide { slope, shift: 0.0 };
                slide::rows(pixels, width, slide, fill, &mut self.lines);
            }
            Operation::ShearY(slope) => {
                let slide = Slide { slope, shift: 0.0 };
                slide::columns(pixels, width, slide, fill, &mut self.lines);
            }
            Operation::TranslateX(share) => {
                let shift = share * width as f64;
                let slide = Slide { slope: 0.0, shift };
                slide::rows(pixels, width, slide, fill, &mut self.lines);
            }
            Operation::TranslateY(share) => {
                let shift = share * height as f64;
                let slide = Slide { slope: 0.0, shift };
                slide::columns(pixels, width, slide, fill, &mut self.lines);
            }
        }
    }
}
