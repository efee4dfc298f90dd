//! Shears and translations: the same pixels as [`affine`](super::affine) makes, which move along one axis only, so that a line of pixels
//! is made of one line.

use multiversion::multiversion;

use super::affine::{cubic_of_bytes, inside, split};

/// How far lines are moved: pixel `i` of line `j` comes from `i + slope × (j + ½) + shift`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Slide {
    pub(super) slope: f64,
    pub(super) shift: f64,
}

/// Memory for a line.
#[derive(Default)]
pub(super) struct Lines {
    /// Itself, with two pixels of border on either side.
    extended: Vec<u8>,
    /// Of each byte, how far beyond its source pixel it comes from.
    fractions: Vec<f64>,
    /// A column.
    column: Vec<u8>,
}

/// Moves each row of `pixels`, `[…, width, C]`, along itself.
#[multiversion(targets("x86_64+avx2"))]
pub(super) fn rows<const C: usize>(
    pixels: &mut [u8],
    width: usize,
    slide: Slide,
    fill: [u8; C],
    lines: &mut Lines,
) {
    for (y, row) in pixels.chunks_exact_mut(width * C).enumerate() {
        move_line(
            row,
            slide.slope * (y as f64 + 0.5),
            slide.shift,
            fill,
            lines,
        );
    }
}

/// Moves each column of `pixels`, `[…, width, C]`, along itself.
#[multiversion(targets("x86_64+avx2"))]
pub(super) fn columns<const C: usize>(
    pixels: &mut [u8],
    width: usize,
    slide: Slide,
    fill: [u8; C],
    lines: &mut Lines,
) {
    let stride = width * C;
    let mut column = std::mem::take(&mut lines.column);
    column.resize(pixels.len() / width, 0);
    for x in 0..width {
        let rows = pixels.chunks_exact(stride);
        for (value, row) in column.chunks_exact_mut(C).zip(rows) {
            value.copy_from_slice(&row[x * C..][..C]);
        }
        let offset = slide.slope * (x as f64 + 0.5);
        move_line(&mut column, offset, slide.shift, fill, lines);
        let rows = pixels.chunks_exact_mut(stride);
        for (value, row) in column.chunks_exact(C).zip(rows) {
            row[x * C..][..C].copy_from_slice(value);
        }
    }
    lines.column = column;
}

/// Moves a line of pixels.
#[inline(always)]
fn move_line<const C: usize>(
    line: &mut [u8],
    offset: f64,
    shift: f64,
    fill: [u8; C],
    lines: &mut Lines,
) {
    let length = line.len() / C;
    let Lines {
        extended,
        fractions,
        ..
    } = lines;
    extended.clear();
    for _ in 0..2 {
        extended.extend_from_slice(&line[..C]);
    }
    extended.extend_from_slice(line);
    for _ in 0..2 {
        extended.extend_from_slice(&line[(length - 1) * C..]);
    }
    let from = |i: usize| i as f64 + 0.5 + offset + shift;
    let mut next = 0;
    while next < length {
        let start = next;
        if !inside(from(start), length) {
            line[start * C..][..C].copy_from_slice(&fill);
            next += 1;
            continue;
        }
        // Pixels that come from neighbours of each other: all there are, unless rounding moves one.
        let (first, _) = split(from(start));
        fractions.clear();
        while next < length && inside(from(next), length) {
            let (whole, fraction) = split(from(next));
            if whole - first != (next - start) as isize {
                break;
            }
            fractions.extend_from_slice(&[fraction; C]);
            next += 1;
        }
        let bytes = (next - start) * C;
        // Not before −1, and `extended` begins one pixel before the first that is wanted of it.
        let source = &extended[(first + 1) as usize * C..][..bytes + 3 * C];
        let [p, q, r, s] = [0, C, 2 * C, 3 * C].map(|at| &source[at..][..bytes]);
        let out = &mut line[start * C..][..bytes];
        for (i, (out, &fraction)) in out.iter_mut().zip(&fractions[..bytes]).enumerate() {
            // A cast cuts off the fraction and keeps to 0–255.
            *out = cubic_of_bytes([p[i], q[i], r[i], s[i]], fraction) as u8;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::augment::rand_augment::affine::transform;

    fn agree<const C: usize>((width, height): (usize, usize), slide: Slide, seed: u32) {
        let value = |i: usize| ((i as u32 ^ seed).wrapping_mul(0x9e37_79b9) >> 23) as u8;
        let pixels: Vec<u8> = (0..width * height * C).map(value).collect();
        let mut source = vec![[0; 4]; width * height];
        let mut lines = Lines::default();
        let (mut expected, mut found) = (pixels.clone(), pixels.clone());
        let matrix = [1.0, slide.slope, slide.shift, 0.0, 1.0, 0.0];
        transform(&mut expected, (width, height), matrix, [7; C], &mut source);
        rows(&mut found, width, slide, [7; C], &mut lines);
        assert_eq!(found, expected, "rows");
        let (mut expected, mut found) = (pixels.clone(), pixels);
        let matrix = [1.0, 0.0, 0.0, slide.slope, 1.0, slide.shift];
        transform(&mut expected, (width, height), matrix, [7; C], &mut source);
        columns(&mut found, width, slide, [7; C], &mut lines);
        assert_eq!(found, expected, "columns");
    }

    fn amount() -> impl Strategy<Value = f64> {
        prop_oneof![
            -3.0f64..3.0,
            -50.0f64..50.0,
            (-8i32..8).prop_map(|quarters| f64::from(quarters) / 4.0),
            Just(0.1),
        ]
    }

    proptest! {
        #[test]
        fn lines_move_as_images_do(
            width in 1usize..40, height in 1usize..40, slope in amount(), shift in amount(), seed: u32,
        ) {
            let slide = Slide { slope, shift };
            agree::<3>((width, height), slide, seed);
            agree::<1>((width, height), slide, seed);
        }
    }
}
