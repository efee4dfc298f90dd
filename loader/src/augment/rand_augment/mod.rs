//! RandAugment as timm applies it to Pillow's images, with Pillow's arithmetic: 8-bit pixels in, 8-bit pixels out, in place.
//!
//! [`policy`] says what is asked for, [`operation`] draws what is done, and [`tables`], [`enhance`] and [`affine`] do it.
//!
//! Gray images go through the same operations, as Pillow's of mode `L` do: one channel, which is its own luma, so that
//! `Color` changes nothing.

mod affine;
mod enhance;
mod operation;
mod policy;
mod tables;

#[cfg(test)]
mod tests;

pub(crate) use self::operation::{Operation, draw};
pub use self::policy::RandAugment;
use crate::decode::ImageSize;
use crate::rng::Draws;

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
pub(crate) struct RandAugmenter {
    policy: RandAugment,
    size: ImageSize,
    /// What comes in from outside the image.
    fill: [u8; 3],
    /// A copy of the image, where an operation needs one.
    source: Vec<[u8; 4]>,
    /// Two rows of it.
    rows: Vec<u8>,
}

impl RandAugmenter {
    /// Augments images of `size` by `policy`.
    pub(crate) fn new(policy: RandAugment, size: ImageSize, fill: [u8; 3]) -> Self {
        RandAugmenter {
            policy,
            size,
            fill,
            source: Vec::new(),
            rows: Vec::new(),
        }
    }

    /// Draws what is done to an image, `[height, width, channels]` with 1 or 3 channels, and does it.
    pub(crate) fn augment(&mut self, draws: &mut Draws, pixels: &mut [u8], channels: usize) {
        for _ in 0..self.policy.layers() {
            if let Some(operation) = draw(&self.policy, draws) {
                self.apply(operation, pixels, channels);
            }
        }
    }

    fn apply(&mut self, operation: Operation, pixels: &mut [u8], channels: usize) {
        match channels {
            1 => self.apply_to::<1>(operation, pixels, [enhance::luma(self.fill)]),
            _ => self.apply_to::<3>(operation, pixels, self.fill),
        }
    }

    fn apply_to<const C: usize>(&mut self, operation: Operation, pixels: &mut [u8], fill: [u8; C]) {
        let (width, height) = (self.size.width as usize, self.size.height as usize);
        let matrix = match operation {
            Operation::AutoContrast => {
                return tables::map_each::<C>(pixels, tables::auto_contrast);
            }
            Operation::Equalize => return tables::map_each::<C>(pixels, tables::equalize),
            Operation::Invert => {
                return tables::map_all(pixels, &tables::table(|value| 255 - value));
            }
            Operation::Posterize(bits) => {
                return tables::map_all(pixels, &tables::posterize(bits));
            }
            Operation::Solarize(threshold) => {
                return tables::map_all(pixels, &tables::solarize(threshold));
            }
            Operation::SolarizeAdd(amount) => {
                return tables::map_all(pixels, &tables::solarize_add(amount));
            }
            Operation::Color(_) if C == 1 => return,
            Operation::Color(factor) => return enhance::color(pixels, factor as f32),
            Operation::Contrast(factor) => {
                return enhance::contrast::<C>(pixels, factor as f32);
            }
            Operation::Brightness(factor) => return enhance::brightness(pixels, factor as f32),
            Operation::Sharpness(factor) => {
                self.rows.resize(2 * width * C, 0);
                return enhance::sharpness::<C>(pixels, width, factor as f32, &mut self.rows);
            }
            Operation::Rotate(degrees) => affine::rotation(degrees, width, height),
            Operation::ShearX(slope) => [1.0, slope, 0.0, 0.0, 1.0, 0.0],
            Operation::ShearY(slope) => [1.0, 0.0, 0.0, slope, 1.0, 0.0],
            Operation::TranslateX(share) => [1.0, 0.0, share * width as f64, 0.0, 1.0, 0.0],
            Operation::TranslateY(share) => [1.0, 0.0, 0.0, 0.0, 1.0, share * height as f64],
        };
        self.source.resize(width * height, [0; 4]);
        affine::transform(pixels, (width, height), matrix, fill, &mut self.source);
    }
}
