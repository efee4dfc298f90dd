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

/// The left matrix: the number in `row` at depth `k` stands at `row * row_step + k * depth_step`.
#[derive(Clone, Copy)]
pub(crate) struct Left<'a> {
    pub(crate) data: &'a [f32],
    pub(crate) row_step: usize,
    pub(crate) depth_step: usize,
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
    assert!(n % LANES == 0 && b.len() >= depth * n && out.len() >= m * n);
    assert!(
        m == 0 || depth == 0 || (m - 1) * a.row_step + (depth - 1) * a.depth_step < a.data.len()
    );
    let mut row = 0;
    while row < m {
        let rows = ROWS.min(m - row);
        let tile = Tile {
            a: &a.data[row * a.row_step..],
            row_step: a.row_step,
            depth_step: a.depth_step,
            b,
            n,
            depth,
            add,
        };
        let out = &mut out[row * n..];
        match rows {
            6 => tile.rows::<6>(out),
            5 => tile.rows::<5>(out),
            4 => tile.rows::<4>(out),
            3 => tile.rows::<3>(out),
            2 => tile.rows::<2>(out),
            _ => tile.rows::<1>(out),
        }
        row += rows;
    }
}

#[derive(Clone, Copy)]
struct Tile<'a> {
    a: &'a [f32],
    row_step: usize,
    depth_step: usize,
    b: &'a [f32],
    n: usize,
    depth: usize,
    add: bool,
}

impl Tile<'_> {
    #[inline(always)]
    fn rows<const R: usize>(self, out: &mut [f32]) {
        let mut column = 0;
        while column < self.n {
            let mut sums = [[0f32; LANES]; R];
            if self.add {
                for (r, sums) in sums.iter_mut().enumerate() {
                    sums.copy_from_slice(&out[r * self.n + column..][..LANES]);
                }
            }
            for k in 0..self.depth {
                let b: &[f32; LANES] = self.b[k * self.n + column..][..LANES]
                    .first_chunk()
                    .expect("a slice of LANES numbers");
                for (r, sums) in sums.iter_mut().enumerate() {
                    let a = self.a[r * self.row_step + k * self.depth_step];
                    for (sum, b) in sums.iter_mut().zip(b) {
                        *sum = a.mul_add(*b, *sum);
                    }
                }
            }
            for (r, sums) in sums.iter().enumerate() {
                out[r * self.n + column..][..LANES].copy_from_slice(sums);
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
            let steps = [(depth, 1), (1, m)];
            for (row_step, depth_step) in steps {
                let left = Left {
                    data: &a,
                    row_step,
                    depth_step,
                };
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
