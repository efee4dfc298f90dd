//! The matrix product, as a safe function.

use gemm::Parallelism;

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

/// `out = a · b`, or `out += a · b`, row-major `[m, n]`, shared among the compute threads.
pub(crate) fn product(out: &mut [f32], add: bool, a: Mat<'_>, b: Mat<'_>) {
    let (m, n, k) = (a.rows, b.cols, a.cols);
    assert_eq!(k, b.rows, "inner dimensions of a product");
    assert!(m * n <= out.len(), "product reaches beyond its slice");
    // SAFETY: `Mat`'s constructors and the assertion above keep every index that the strides can
    // produce inside the slices; `out` is exclusive, so it overlaps neither input.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            out.as_mut_ptr(),
            1,
            n as isize,
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
            Parallelism::Rayon(0),
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
