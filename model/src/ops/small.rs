//! The product of matrices that stay in a core's cache, on one thread and without packing: attention's products, which are too
//! small for `gemm` to pay.

/// The right matrix's columns come in multiples of this, its rows padded with zeros where need be.
pub(crate) const LANES: usize = 16;
/// Rows of a tile: with two registers of eight numbers a row, what AVX2 has room for.
const ROWS: usize = 6;

/// `n` rounded up to a multiple of [`LANES`].
pub(crate) fn padded(n: usize) -> usize {
    n.next_multiple_of(LANES)
}

/// The left matrix.
#[derive(Clone, Copy)]
pub(crate) enum Left<'a> {
    /// Row-major, rows this far apart.
    Rows(&'a [f32], usize),
    /// Column-major, columns this far apart: the transpose of a row-major matrix.
    Columns(&'a [f32], usize),
}

/// `out = a · b`, or `out += a · b`: a `[m, depth]`, b `[depth, n]` and out `[m, n]` dense, n a multiple of [`LANES`].
#[inline(always)]
pub(crate) fn product(
    (m, n, depth): (usize, usize, usize),
    a: Left<'_>,
    b: &[f32],
    out: &mut [f32],
    add: bool,
) {
    assert!(n % LANES == 0 && depth > 0);
    let (b, out) = (&b[..depth * n], &mut out[..m * n]);
    for (i, out) in out.chunks_mut(ROWS * n).enumerate() {
        let tile = Tile {
            a,
            first: i * ROWS,
            b,
            n,
            depth,
            add,
        };
        match out.len() / n {
            6 => tile.rows::<6>(out),
            5 => tile.rows::<5>(out),
            4 => tile.rows::<4>(out),
            3 => tile.rows::<3>(out),
            2 => tile.rows::<2>(out),
            _ => tile.rows::<1>(out),
        }
    }
}

#[derive(Clone, Copy)]
struct Tile<'a> {
    a: Left<'a>,
    first: usize,
    b: &'a [f32],
    n: usize,
    depth: usize,
    add: bool,
}

impl Tile<'_> {
    /// Some numbers of row k of the right matrix.
    #[inline(always)]
    fn lanes(&self, k: usize, column: usize) -> &[f32; LANES] {
        debug_assert!(k < self.depth && column + LANES <= self.n);
        // SAFETY: k is less than the depth and the columns end within n, a multiple of LANES; b has depth rows of n numbers.
        unsafe { &*self.b.as_ptr().add(k * self.n + column).cast() }
    }

    #[inline(always)]
    fn rows<const R: usize>(self, out: &mut [f32]) {
        let mut column = 0;
        while column < self.n {
            let mut sums = [[0f32; LANES]; R];
            if self.add {
                for (sums, out) in sums.iter_mut().zip(out.chunks_exact(self.n)) {
                    sums.copy_from_slice(&out[column..column + LANES]);
                }
            }
            // Loops of known lengths without index checks: so the sums, and what is needed to find the numbers, stay in registers.
            match self.a {
                Left::Rows(a, step) => {
                    let mut rows = [&a[..0]; R];
                    for (r, row) in rows.iter_mut().enumerate() {
                        *row = &a[(self.first + r) * step..][..self.depth];
                    }
                    for k in 0..self.depth {
                        let b = self.lanes(k, column);
                        for (sums, row) in sums.iter_mut().zip(&rows) {
                            // SAFETY: the row has as many numbers as the depth.
                            let a = unsafe { *row.get_unchecked(k) };
                            for (sum, b) in sums.iter_mut().zip(b) {
                                *sum = a.mul_add(*b, *sum);
                            }
                        }
                    }
                }
                Left::Columns(a, step) => {
                    assert!((self.depth - 1) * step + self.first + R <= a.len());
                    for k in 0..self.depth {
                        let b = self.lanes(k, column);
                        // SAFETY: the last column's numbers are within a, as asserted.
                        let a: &[f32; R] =
                            unsafe { &*a.as_ptr().add(k * step + self.first).cast() };
                        for (sums, a) in sums.iter_mut().zip(a) {
                            for (sum, b) in sums.iter_mut().zip(b) {
                                *sum = a.mul_add(*b, *sum);
                            }
                        }
                    }
                }
            }
            for (sums, out) in sums.iter().zip(out.chunks_exact_mut(self.n)) {
                out[column..column + LANES].copy_from_slice(sums);
            }
            column += LANES;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use multiversion::multiversion;

    #[multiversion(targets = "simd")]
    fn vector(shape: (usize, usize, usize), a: Left<'_>, b: &[f32], out: &mut [f32], add: bool) {
        product(shape, a, b, out, add);
    }

    #[test]
    fn products_agree_with_loops_and_with_scalar_code() {
        for (m, depth, n) in [(1, 1, 16), (6, 3, 32), (13, 17, 48), (197, 32, 208)] {
            let numbers = |count: usize, step: f32| -> Vec<f32> {
                (0..count).map(|i| (i as f32 * step).sin()).collect()
            };
            let (a, b) = (numbers(m * depth, 0.7), numbers(depth * n, 0.3));
            for (left, row_step, depth_step) in [
                (Left::Rows(&a, depth), depth, 1),
                (Left::Columns(&a, m), 1, m),
            ] {
                let mut out = vec![1.0; m * n];
                vector((m, n, depth), left, &b, &mut out, true);
                let mut scalar = vec![1.0; m * n];
                product((m, n, depth), left, &b, &mut scalar, true);
                assert_eq!(out, scalar, "bits of {m}x{depth}x{n}");
                for i in 0..m {
                    for j in 0..n {
                        let exact: f64 = (0..depth)
                            .map(|k| {
                                f64::from(a[i * row_step + k * depth_step])
                                    * f64::from(b[k * n + j])
                            })
                            .sum();
                        assert!((f64::from(out[i * n + j]) - 1.0 - exact).abs() < 1e-4);
                    }
                }
                vector((m, n, depth), left, &b, &mut out, false);
                assert!(out != scalar, "overwritten");
            }
        }
    }
}
