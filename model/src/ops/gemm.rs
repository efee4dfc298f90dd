//! The matrix product, as a safe function over strided views.

use gemm::Parallelism;

/// A strided matrix over a slice.
#[derive(Clone, Copy)]
pub(crate) struct Mat<'a> {
    data: &'a [f32],
    rows: usize,
    cols: usize,
    row_stride: usize,
    col_stride: usize,
}

impl<'a> Mat<'a> {
    /// A row-major matrix whose rows begin `row_stride` numbers apart.
    pub(crate) fn strided(data: &'a [f32], rows: usize, cols: usize, row_stride: usize) -> Self {
        assert!(
            fits(data.len(), rows, cols, row_stride),
            "matrix reaches beyond its slice"
        );
        Self {
            data,
            rows,
            cols,
            row_stride,
            col_stride: 1,
        }
    }

    /// A dense row-major matrix.
    pub(crate) fn new(data: &'a [f32], rows: usize, cols: usize) -> Self {
        Self::strided(data, rows, cols, cols)
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

fn fits(len: usize, rows: usize, cols: usize, row_stride: usize) -> bool {
    rows == 0
        || cols == 0
        || (cols <= row_stride || rows == 1) && (rows - 1) * row_stride + cols <= len
}

/// Where a product goes.
pub(crate) struct Out<'a> {
    /// The numbers; rows begin `row_stride` apart.
    pub(crate) data: &'a mut [f32],
    /// Distance between rows.
    pub(crate) row_stride: usize,
    /// Whether the product is added to what is there.
    pub(crate) add: bool,
}

/// `out = scale * a · b`, or `out += scale * a · b`. `parallel` shares it among the compute
/// threads; leave it off inside a parallel loop.
pub(crate) fn product(out: Out<'_>, a: Mat<'_>, b: Mat<'_>, scale: f32, parallel: bool) {
    let (m, n, k) = (a.rows, b.cols, a.cols);
    assert_eq!(k, b.rows, "inner dimensions of a product");
    assert!(
        fits(out.data.len(), m, n, out.row_stride),
        "product reaches beyond its slice"
    );
    let parallelism = if parallel {
        Parallelism::Rayon(0)
    } else {
        Parallelism::None
    };
    // SAFETY: `Mat`'s constructors and the assertion above keep every index that the strides can
    // produce inside the slices; `out` is exclusive, so it overlaps neither input.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            out.data.as_mut_ptr(),
            1,
            out.row_stride as isize,
            out.add,
            a.data.as_ptr(),
            a.col_stride as isize,
            a.row_stride as isize,
            b.data.as_ptr(),
            b.col_stride as isize,
            b.row_stride as isize,
            1.0f32,
            scale,
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
        let mut out = vec![1.0; m * (n + 2)];
        let dst = Out {
            data: &mut out,
            row_stride: n + 2,
            add: true,
        };
        product(dst, Mat::new(&a, m, k), Mat::new(&b, n, k).t(), 2.0, true);
        for i in 0..m {
            for j in 0..n {
                let exact: f32 = (0..k).map(|x| a[i * k + x] * b[j * k + x]).sum();
                assert_eq!(out[i * (n + 2) + j], 1.0 + 2.0 * exact);
            }
            assert!(
                i + 1 == m || out[i * (n + 2) + n] == 1.0,
                "wrote between rows"
            );
        }
    }

    #[test]
    #[should_panic(expected = "beyond its slice")]
    fn a_matrix_must_fit_its_slice() {
        Mat::strided(&[0.0; 10], 3, 4, 4);
    }
}
