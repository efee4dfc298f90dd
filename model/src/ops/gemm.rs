//! The matrix product, as a safe function.

use std::ops::Range;

use gemm::Parallelism;
use rayon::prelude::*;

use super::access::Shared;

/// A matrix over a slice, row-major or the transpose of one.
#[derive(Clone, Copy)]
pub(crate) struct Mat<'a> {
    data: &'a [f32],
    rows: usize,
    cols: usize,
    row_stride: usize,
    col_stride: usize,
}

impl<'a> Mat<'a> {
    /// A row-major matrix.
    pub(crate) fn new(data: &'a [f32], rows: usize, cols: usize) -> Self {
        assert!(rows * cols <= data.len(), "matrix reaches beyond its slice");
        Self {
            data,
            rows,
            cols,
            row_stride: cols,
            col_stride: 1,
        }
    }

    /// Some columns.
    fn columns(self, range: Range<usize>) -> Self {
        assert!(range.start < range.end && range.end <= self.cols);
        Self {
            data: &self.data[range.start * self.col_stride..],
            cols: range.len(),
            ..self
        }
    }

    /// The transposed view.
    pub(crate) fn t(self) -> Self {
        Self {
            rows: self.cols,
            cols: self.rows,
            row_stride: self.col_stride,
            col_stride: self.row_stride,
            ..self
        }
    }
}

/// Least side of a tile of a weight's gradient.
const TILE: usize = 96;
/// Columns of the output that one thread at least computes where the right matrix is a transpose.
const PANEL: usize = 192;

/// Height and width of the tiles into which the output is cut for the threads, where that is faster than how `gemm` shares it.
fn tiles(a: Mat<'_>, b: Mat<'_>, threads: usize) -> Option<(usize, usize)> {
    let (m, n, k) = (a.rows, b.cols, a.cols);
    if threads == 1 {
        return None;
    }
    if b.row_stride == 1 && k >= PANEL {
        // `x · Wᵀ`: the crate packs W on one thread. Panels of columns pack their own part, and even out what else the machine
        // does. A short inner dimension would not pay for reading x once a panel.
        let panels = (n / PANEL).min(2 * threads);
        return (panels >= threads).then(|| (m, n.div_ceil(panels).next_multiple_of(16)));
    }
    if a.row_stride == 1 && k >= 4 * m.max(n) {
        // `dyᵀ · x` of many rows into a small matrix.
        let (down, across) = ((m / TILE).min(threads), (n / TILE).min(2));
        let cut = |length: usize, parts: usize| length.div_ceil(parts).next_multiple_of(16);
        return (down * across >= threads).then(|| (cut(m, down), cut(n, across)));
    }
    None
}

/// `out = a · b`, or `out += a · b`, row-major `[m, n]`, shared among the compute threads.
///
/// How it is shared does not show in the result: a number's sum runs over the same blocks of the inner dimension.
pub(crate) fn product(out: &mut [f32], add: bool, a: Mat<'_>, b: Mat<'_>) {
    let (m, n, k) = (a.rows, b.cols, a.cols);
    assert_eq!(k, b.rows, "inner dimensions of a product");
    assert!(m * n <= out.len(), "product reaches beyond its slice");
    if let Some((height, width)) = tiles(a, b, rayon::current_num_threads()) {
        let out = Shared::new(out);
        let across = n.div_ceil(width);
        (0..m.div_ceil(height) * across)
            .into_par_iter()
            .with_max_len(1)
            .for_each(|tile| {
                let (row, column) = (tile / across * height, tile % across * width);
                let a = a.t().columns(row..(row + height).min(m)).t();
                let b = b.columns(column..(column + width).min(n));
                let first = out.pointer(row * n + column);
                // SAFETY: the tile's rows, n apart, from its first number on, lie in the slice; no two tiles share a number.
                unsafe { run(first, n, add, a, b, Parallelism::None) };
            });
        return;
    }
    // SAFETY: m rows of n columns lie in the slice, as asserted.
    unsafe { run(out.as_mut_ptr(), n, add, a, b, Parallelism::Rayon(0)) };
}

/// # Safety
/// From `out` on there must be `a.rows` rows of `b.cols` numbers, `stride` apart, which no one else uses meanwhile.
unsafe fn run(
    out: *mut f32,
    stride: usize,
    add: bool,
    a: Mat<'_>,
    b: Mat<'_>,
    parallelism: Parallelism,
) {
    // SAFETY: a `Mat`'s strides stay inside its slice; `out` as promised, and so it overlaps neither.
    unsafe {
        gemm::gemm(
            a.rows,
            b.cols,
            a.cols,
            out,
            1,
            stride as isize,
            add,
            a.data.as_ptr(),
            a.col_stride as isize,
            a.row_stride as isize,
            b.data.as_ptr(),
            b.col_stride as isize,
            b.row_stride as isize,
            1.0f32,
            1.0f32,
            false,
            false,
            false,
            parallelism,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_agree_with_loops() {
        let (m, n, k) = (5, 7, 3);
        let a: Vec<f32> = (0..m * k).map(|i| i as f32 * 0.5 - 3.0).collect();
        let b: Vec<f32> = (0..n * k).map(|i| 2.0 - i as f32 * 0.25).collect();
        let mut out = vec![1.0; m * n];
        product(&mut out, true, Mat::new(&a, m, k), Mat::new(&b, n, k).t());
        for i in 0..m {
            for j in 0..n {
                let exact: f32 = (0..k).map(|x| a[i * k + x] * b[j * k + x]).sum();
                assert_eq!(out[i * n + j], 1.0 + exact);
            }
        }
    }

    #[test]
    #[should_panic(expected = "beyond its slice")]
    fn a_matrix_must_fit_its_slice() {
        Mat::new(&[0.0; 10], 3, 4);
    }
}
