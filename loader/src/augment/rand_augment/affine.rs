//! Rotations: Pillow's `Image.transform` with `AFFINE` and `BICUBIC`, to the bit.
//!
//! Each pixel's centre is mapped into the source. Where that is outside, the pixel becomes the fill colour; elsewhere it is a cubic
//! (a = −1) of four by four source pixels in double precision, those over the border repeating it, cut off to a whole value.
//! Vector instructions change nothing of that: no product is fused with a sum.

use multiversion::multiversion;

use super::{pixels_of, pixels_of_mut};

/// A pixel padded to four channels, so that it fits a vector.
pub(super) type Padded = [u8; 4];

/// From the centre (x, y) of a pixel to (ax + by + c, dx + ey + f) in the source.
pub(super) type Matrix = [f64; 6];

/// Counter-clockwise around the centre, as Pillow's `Image.rotate`.
pub(super) fn rotation(degrees: f64, (width, height): (usize, usize)) -> Matrix {
    let angle = -degrees.rem_euclid(360.0).to_radians();
    let (cos, sin) = (rounded(libm::cos(angle)), rounded(libm::sin(angle)));
    let (x, y) = (width as f64 / 2.0, height as f64 / 2.0);
    [
        cos,
        sin,
        cos * -x + sin * -y + x,
        -sin,
        cos,
        -sin * -x + cos * -y + y,
    ]
}

/// To 15 decimals, as by Pillow, so that a right angle is one. The product is taken whole: of its own rounding the last digit may come
/// out otherwise.
fn rounded(value: f64) -> f64 {
    let product = value * 1e15;
    let rest = libm::fma(value, 1e15, -product);
    let whole = product.round_ties_even();
    let over = product - whole + rest;
    let correction = f64::from(over > 0.5) - f64::from(over < -0.5);
    (whole + correction) / 1e15
}

/// Transforms `pixels`, `[height, width, C]`, in place. `source` is memory for as many pixels.
#[multiversion(targets("x86_64+avx2"))]
pub(super) fn transform<const C: usize>(
    pixels: &mut [u8],
    (width, height): (usize, usize),
    matrix: Matrix,
    fill: [u8; C],
    source: &mut [Padded],
) {
    for (padded, pixel) in source.iter_mut().zip(pixels_of::<C>(pixels)) {
        padded[..C].copy_from_slice(pixel);
    }
    let [a, b, c, d, e, f] = matrix;
    let source = Source {
        pixels: source,
        width,
        height,
    };
    for (y, row) in pixels.chunks_exact_mut(width * C).enumerate() {
        let y = y as f64 + 0.5;
        for (x, pixel) in pixels_of_mut(row).enumerate() {
            let x = x as f64 + 0.5;
            let at = (a * x + b * y + c, d * x + e * y + f);
            *pixel = match source.at(at) {
                Some(value) => std::array::from_fn(|channel| value[channel]),
                None => fill,
            };
        }
    }
}

/// What is transformed.
struct Source<'a> {
    pixels: &'a [Padded],
    width: usize,
    height: usize,
}

impl Source<'_> {
    /// The value at a point, unless it is outside.
    #[inline(always)]
    fn at(&self, (x, y): (f64, f64)) -> Option<Padded> {
        if !inside(x, self.width) || !inside(y, self.height) {
            return None;
        }
        let ((x, dx), (y, dy)) = (split(x), split(y));
        // By column, four rows of one pixel each.
        let mut around = [[0u8; 16]; 4];
        for (i, y) in clamped(y, self.height).into_iter().enumerate() {
            let row = &self.pixels[y * self.width..][..self.width];
            for (column, pixel) in around.iter_mut().zip(quad(row, x)) {
                column[4 * i..][..4].copy_from_slice(&pixel);
            }
        }
        let mut rows = [0.0; 16];
        let [p, q, r, s] = &around;
        for (i, value) in rows.iter_mut().enumerate() {
            *value = cubic_of_bytes([p[i], q[i], r[i], s[i]], dx);
        }
        let mut value = [0; 4];
        for (i, value) in value.iter_mut().enumerate() {
            let column = [rows[i], rows[4 + i], rows[8 + i], rows[12 + i]];
            // A cast cuts off the fraction and keeps to 0–255.
            *value = cubic(column, dy) as u8;
        }
        Some(value)
    }
}

/// Whether a coordinate is one of the source's.
#[inline(always)]
pub(super) fn inside(at: f64, length: usize) -> bool {
    at >= 0.0 && at < length as f64
}

/// The number of the last pixel whose centre is not beyond a coordinate inside the source, −1 before the first one's, and how far beyond
/// it the coordinate is.
#[inline(always)]
pub(super) fn split(at: f64) -> (isize, f64) {
    let at = at - 0.5;
    let whole = at as isize - isize::from(at < 0.0);
    (whole, at - whole as f64)
}

/// The numbers around `at`, from one before it, those outside being replaced by the nearest one.
#[inline(always)]
fn clamped(at: isize, length: usize) -> [usize; 4] {
    [-1, 0, 1, 2].map(|offset| (at + offset).clamp(0, length as isize - 1) as usize)
}

/// The pixels of a row around column `x`.
#[inline(always)]
fn quad(row: &[Padded], x: isize) -> [Padded; 4] {
    let start = usize::try_from(x - 1).unwrap_or(usize::MAX);
    match row.get(start..).and_then(<[Padded]>::first_chunk) {
        Some(pixels) => *pixels,
        None => clamped(x, row.len()).map(|x| row[x]),
    }
}

/// [`cubic`] of whole values, whose differences are exact.
#[inline(always)]
pub(super) fn cubic_of_bytes(values: [u8; 4], at: f64) -> f64 {
    let [p, q, r, s] = values.map(i32::from);
    let (linear, square, cube) = (r - p, 2 * (p - q) + r - s, q - p - r + s);
    f64::from(q) + at * (f64::from(linear) + at * (f64::from(square) + at * f64::from(cube)))
}

/// The cubic through `q` and `r` at `at` of the way from one to the other. The order of additions is Pillow's.
#[inline(always)]
fn cubic([p, q, r, s]: [f64; 4], at: f64) -> f64 {
    let (linear, square, cube) = (-p + r, 2.0 * (p - q) + r - s, -p + q - r + s);
    q + at * (linear + at * (square + at * cube))
}

#[cfg(test)]
mod tests {
    use super::rounded;

    #[test]
    fn numbers_round_as_pythons() {
        // round(x, 15)
        for (value, expected) in [
            (-0.7277727576572105, -0.727772757657211),
            (0.45399049973954697, 0.453990499739547),
            (6.123233995736766e-17, 0.0),
            (-0.49999999999999994, -0.5),
            (1.0, 1.0),
        ] {
            assert_eq!(rounded(value), expected);
        }
    }
}
