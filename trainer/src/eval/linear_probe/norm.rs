//! Features before a head: each column brought to mean 0 and variance 1, as `BatchNorm1d(affine=False, eps=1e-6)` does it.

use rayon::prelude::*;

/// Added to the variance.
const EPS: f64 = 1e-6;
/// Share of a batch in the running statistics.
const MOMENTUM: f64 = 0.1;
/// Rows whose sums are made as one piece of work, so that results do not depend on the number of threads.
const PIECE: usize = 1024;

/// Mean and variance of each column; the variance divided by the number of rows.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Statistics {
    mean: Vec<f64>,
    variance: Vec<f64>,
}

impl Statistics {
    /// Of `rows` [n, dim], at least one.
    pub(super) fn of(rows: &[f32], dim: usize) -> Self {
        let n = (rows.len() / dim) as f64;
        let mean = column_means(rows, dim, n, |_, v| v);
        let variance = column_means(rows, dim, n, |column, v| (v - mean[column]).powi(2));
        Self { mean, variance }
    }

    /// Standardises `rows` [n, dim].
    pub(super) fn apply(&self, rows: &mut [f32]) {
        let columns: Vec<(f32, f32)> = self
            .mean
            .iter()
            .zip(&self.variance)
            .map(|(&mean, variance)| (mean as f32, (1.0 / (variance + EPS).sqrt()) as f32))
            .collect();
        rows.par_chunks_mut(columns.len()).for_each(|row| {
            for (v, (mean, inverse)) in row.iter_mut().zip(&columns) {
                *v = (*v - mean) * inverse;
            }
        });
    }
}

fn column_means(
    rows: &[f32],
    dim: usize,
    n: f64,
    value: impl Fn(usize, f64) -> f64 + Sync,
) -> Vec<f64> {
    let pieces: Vec<Vec<f64>> = rows
        .par_chunks(PIECE * dim)
        .map(|piece| {
            let mut sums = vec![0.0; dim];
            for row in piece.chunks_exact(dim) {
                for (column, (sum, &v)) in sums.iter_mut().zip(row).enumerate() {
                    *sum += value(column, f64::from(v));
                }
            }
            sums
        })
        .collect();
    let mut means = vec![0.0; dim];
    for piece in pieces {
        means.iter_mut().zip(piece).for_each(|(mean, v)| *mean += v);
    }
    means.iter_mut().for_each(|mean| *mean /= n);
    means
}

/// Batch normalisation: by the batch's own statistics in training, by their running means in evaluation.
#[derive(Clone, Debug)]
pub(super) struct BatchNorm {
    /// With the unbiased variance.
    pub(super) running: Statistics,
}

impl BatchNorm {
    pub(super) fn new(dim: usize) -> Self {
        Self {
            running: Statistics {
                mean: vec![0.0; dim],
                variance: vec![1.0; dim],
            },
        }
    }

    /// Standardises a training batch [n, dim], n at least two, and takes its statistics into the running ones.
    pub(super) fn train(&mut self, rows: &mut [f32]) {
        let dim = self.running.mean.len();
        let n = (rows.len() / dim) as f64;
        let batch = Statistics::of(rows, dim);
        batch.apply(rows);
        for (running, v) in self.running.mean.iter_mut().zip(&batch.mean) {
            *running += MOMENTUM * (v - *running);
        }
        for (running, v) in self.running.variance.iter_mut().zip(&batch.variance) {
            *running += MOMENTUM * (v * n / (n - 1.0) - *running);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_standardised_however_many_rows_a_piece_has() {
        let row = |i: usize| [i as f32, 3.0, 1e3 - 2.0 * (i % 7) as f32];
        let n = 2 * PIECE + 100;
        let mut rows: Vec<f32> = (0..n).flat_map(row).collect();
        let statistics = Statistics::of(&rows, 3);
        // 0, 1, …, n − 1 have the variance (n² − 1) / 12.
        let expected = ((n * n - 1) as f64) / 12.0;
        assert!((statistics.variance[0] / expected - 1.0).abs() < 1e-12);
        assert_eq!((statistics.mean[1], statistics.variance[1]), (3.0, 0.0));
        statistics.apply(&mut rows);
        let after = Statistics::of(&rows, 3);
        for (column, spread) in [(0, 1.0), (1, 0.0), (2, 1.0)] {
            assert!(after.mean[column].abs() < 1e-5, "{after:?}");
            assert!((after.variance[column] - spread).abs() < 1e-5, "{after:?}");
        }
    }

    #[test]
    fn running_statistics_follow_the_batches() {
        let mut norm = BatchNorm::new(1);
        norm.train(&mut [1.0, 3.0]);
        // From 0 and 1, a tenth of the way to 2 and to the unbiased 2.
        assert!((norm.running.mean[0] - 0.2).abs() < 1e-12);
        assert!((norm.running.variance[0] - 1.1).abs() < 1e-12);
    }
}
