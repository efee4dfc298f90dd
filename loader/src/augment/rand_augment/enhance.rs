//! Operations that blend an image with a lesser version of itself, or away from it: Pillow's `ImageEnhance`.

use super::tables::{map_all, table};
use super::{pixels_of, pixels_of_mut};

/// A value at `factor` of the way from `lesser` to `value`, cut off and kept to 0–255 as Pillow's `Image.blend`.
fn blend(lesser: u8, value: u8, factor: f32) -> u8 {
    let (lesser, value) = (f32::from(lesser), f32::from(value));
    (lesser + factor * (value - lesser)) as u8
}

/// Pillow's luma: ITU-R 601 in 16 bits.
pub(super) fn luma([r, g, b]: [u8; 3]) -> u8 {
    let [r, g, b] = [r, g, b].map(u32::from);
    ((r * 19_595 + g * 38_470 + b * 7_471 + 0x8000) >> 16) as u8
}

/// From the gray image.
pub(in crate::augment) fn color(pixels: &mut [u8], factor: f32) {
    for pixel in pixels_of_mut(pixels) {
        let gray = luma(*pixel);
        *pixel = pixel.map(|value| blend(gray, value, factor));
    }
}

/// From an image of the mean of the gray one.
pub(in crate::augment) fn contrast<const C: usize>(pixels: &mut [u8], factor: f32) {
    let sum: u64 = if C == 1 {
        pixels.iter().map(|&value| u64::from(value)).sum()
    } else {
        pixels_of(pixels).map(|&pixel| u64::from(luma(pixel))).sum()
    };
    let mean = (sum as f64 / (pixels.len() / C).max(1) as f64 + 0.5) as u8;
    map_all(pixels, &table(|value| blend(mean, value, factor)));
}

/// From black.
pub(in crate::augment) fn brightness(pixels: &mut [u8], factor: f32) {
    map_all(pixels, &table(|value| blend(0, value, factor)));
}

/// From an image that Pillow's `SMOOTH` has filtered: the mean of a pixel, five times, and its eight neighbours. The border, which has
/// not as many, stays as it is.
///
/// `rows` is memory for two rows, each of a row's length.
pub(super) fn sharpness<const C: usize>(
    pixels: &mut [u8],
    width: usize,
    factor: f32,
    rows: &mut [u8],
) {
    let stride = width * C;
    let height = pixels.len() / stride;
    if width < 3 || height < 3 {
        return;
    }
    // The rows above and at the current one, as they were.
    let (mut above, mut at) = rows.split_at_mut(stride);
    above.copy_from_slice(&pixels[..stride]);
    for y in 1..height - 1 {
        let (done, rest) = pixels.split_at_mut((y + 1) * stride);
        let (row, below) = (&mut done[y * stride..], &rest[..stride]);
        at.copy_from_slice(row);
        let inner = &mut row[C..stride - C];
        let n = inner.len();
        let around = |row: &[u8], i: usize| {
            u16::from(row[i]) + u16::from(row[i + C]) + u16::from(row[i + 2 * C])
        };
        // Slices of known length: no bounds are checked inside the loop.
        let (a, b, c) = (&above[..n + 2 * C], &at[..n + 2 * C], &below[..n + 2 * C]);
        for (i, value) in inner.iter_mut().enumerate() {
            let sum = around(a, i) + around(b, i) + around(c, i) + 4 * u16::from(b[i + C]);
            // sum / 13 to the nearest; never halfway.
            let smooth = (2 * sum + 13) / 26;
            *value = blend(smooth as u8, b[i + C], factor);
        }
        std::mem::swap(&mut above, &mut at);
    }
}
