//! Colour jitter: torchvision's `ColorJitter` without hue, on 8-bit pixels as on Pillow's images.

use super::rand_augment::enhance;
use crate::rng::Draws;

/// One change to the colours of an image; a factor of 1 leaves them as they are.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Change {
    /// Towards (below 1) or away from black.
    Brightness(f64),
    /// Towards or away from an image of the mean gray.
    Contrast(f64),
    /// Towards or away from the gray image.
    Saturation(f64),
}

/// The changes to an image, first to last, at `strength` V: each with a factor from [max(0, 1 − V), 1 + V].
///
/// Draws the order, then the factors of brightness, contrast and saturation.
pub(crate) fn draw(strength: f64, draws: &mut Draws) -> [Change; 3] {
    let mut order = [0, 1, 2];
    draws.shuffle(&mut order);
    let mut factor = || draws.uniform((1.0 - strength).max(0.0), 1.0 + strength);
    let changes = [
        Change::Brightness(factor()),
        Change::Contrast(factor()),
        Change::Saturation(factor()),
    ];
    order.map(|number| changes[number as usize])
}

/// Makes `changes` to an image, `[height, width, channels]` with 1 or 3 channels, in their order.
///
/// A gray image is its own gray image, so that saturation changes nothing of it, as of Pillow's of mode `L`.
pub(super) fn apply(changes: [Change; 3], pixels: &mut [u8], channels: usize) {
    for change in changes {
        match (change, channels) {
            (Change::Brightness(factor), _) => enhance::brightness(pixels, factor as f32),
            (Change::Contrast(factor), 1) => enhance::contrast::<1>(pixels, factor as f32),
            (Change::Contrast(factor), _) => enhance::contrast::<3>(pixels, factor as f32),
            (Change::Saturation(_), 1) => {}
            (Change::Saturation(factor), _) => enhance::color(pixels, factor as f32),
        }
    }
}
