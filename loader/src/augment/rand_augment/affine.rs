//! Rotations, shears and translations: Pillow's `Image.transform` with `AFFINE` and `BICUBIC`, to the bit.
//!
//! Each pixel's centre is mapped into the source. Where that is outside, the pixel becomes the fill colour; elsewhere it is a cubic
//! (a = −1) of four by four source pixels in double precision, those over the border repeating it, cut off to whole values.

use super::{pixels_of, pixels_of_mut};

/// Pixels padded to four channels, so that one fits a vector.
type Padded = [u8; 4];

/// From the centre (x, y) of a pixel to (ax + by + c, dx + ey + f) in the source.
pub(super) type Matrix = [f64; 6];

/// Counter-clockwise around the centre, as Pillow's `Image.rotate`.
pub(super) fn rotation(degrees: f64, width: usize, height: usize) -> Matrix {
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
                Some(values) => std::array::from_fn(|channel| values[channel]),
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
    fn at(&self, (x, y): (f64, f64)) -> Option<Padded> {
        let inside = |at: f64, length: usize| at >= 0.0 && at < length as f64;
        if !inside(x, self.width) || !inside(y, self.height) {
            return None;
        }
        let (x, dx) = split(x - 0.5);
        let (y, dy) = split(y - 0.5);
        let rows = clamped(y, self.height).map(|y| &self.pixels[y * self.width..][..self.width]);
        // Shears and translations move pixels along one axis; along the other one the cubic is its second value.
        let values = if dx == 0.0 {
            let column = x.max(0) as usize;
            cubic(rows.map(|row| row[column].map(f64::from)), dy)
        } else if dy == 0.0 {
            cubic_of_bytes(quad(rows[1], x), dx)
        } else {
            cubic(rows.map(|row| cubic_of_bytes(quad(row, x), dx)), dy)
        };
        // A cast cuts off the fraction and keeps to 0–255.
        Some(values.map(|value| value as u8))
    }
}

/// Whole and fractional part.
fn split(at: f64) -> (isize, f64) {
    let whole = at.floor();
    (whole as isize, at - whole)
}

/// The indices around `at`, from one before it, those outside being replaced by the nearest one.
fn clamped(at: isize, length: usize) -> [usize; 4] {
    [-1, 0, 1, 2].map(|offset| (at + offset).clamp(0, length as isize - 1) as usize)
}

/// The pixels of a row around column `x`.
fn quad(row: &[Padded], x: isize) -> [Padded; 4] {
    let start = usize::try_from(x - 1).unwrap_or(usize::MAX);
    match row.get(start..).and_then(<[Padded]>::first_chunk) {
        Some(pixels) => *pixels,
        None => clamped(x, row.len()).map(|x| row[x]),
    }
}

/// The cubic of whole values, whose differences are exact.
fn cubic_of_bytes(pixels: [Padded; 4], at: f64) -> [f64; 4] {
    let [p, q, r, s] = pixels.map(|pixel| pixel.map(i32::from));
    std::array::from_fn(|i| {
        let (p, q, r, s) = (p[i], q[i], r[i], s[i]);
        let (linear, square, cube) = (r - p, 2 * (p - q) + r - s, q - p - r + s);
        f64::from(q) + at * (f64::from(linear) + at * (f64::from(square) + at * f64::from(cube)))
    })
}

/// The cubic through `q` and `r` at `at` of the way from one to the other. The order of additions is Pillow's.
fn cubic([p, q, r, s]: [[f64; 4]; 4], at: f64) -> [f64; 4] {
    std::array::from_fn(|i| {
        let (p, q, r, s) = (p[i], q[i], r[i], s[i]);
        let (linear, square, cube) = (-p + r, 2.0 * (p - q) + r - s, -p + q - r + s);
        q + at * (linear + at * (square + at * cube))
    })
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
