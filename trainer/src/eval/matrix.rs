//! Feature matrices with labels, and the measure that the judges of features share.

use super::error::{EvalError, Result};

/// Features of samples, a row a sample, with the samples' class indices.
#[derive(Clone, Debug, PartialEq)]
pub struct Features {
    data: Vec<f32>,
    dim: usize,
    labels: Vec<u32>,
}

impl Features {
    /// Takes `data` as a row-major matrix [labels.len(), dim].
    ///
    /// # Errors
    /// Where the counts do not fit together.
    pub fn new(data: Vec<f32>, dim: usize, labels: Vec<u32>) -> Result<Self> {
        if dim == 0 || data.len() != dim * labels.len() {
            return Err(EvalError::Shape {
                values: data.len(),
                labels: labels.len(),
                dim,
            });
        }
        Ok(Self { data, dim, labels })
    }

    /// Number of samples.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Whether there is no sample.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// Number of features a sample.
    pub fn dim(&self) -> usize {
        self.dim
    }

    /// The matrix [len, dim], row by row.
    pub fn data(&self) -> &[f32] {
        &self.data
    }

    /// The class of each row.
    pub fn labels(&self) -> &[u32] {
        &self.labels
    }

    /// The rows, one slice a sample.
    pub fn rows(&self) -> std::slice::ChunksExact<'_, f32> {
        self.data.chunks_exact(self.dim)
    }

    /// Splits off the rows whose index `held_out` names: (the others, those).
    pub fn split(&self, held_out: impl Fn(usize) -> bool) -> (Self, Self) {
        let mut parts = [(); 2].map(|()| Self {
            data: Vec::new(),
            dim: self.dim,
            labels: Vec::new(),
        });
        for (index, (row, &label)) in self.rows().zip(&self.labels).enumerate() {
            let part = &mut parts[usize::from(held_out(index))];
            part.data.extend_from_slice(row);
            part.labels.push(label);
        }
        let [others, those] = parts;
        (others, those)
    }

    /// Fails where this train set and `test` are of different width or hold a value that is not finite.
    pub(super) fn check_pair(&self, test: &Self) -> Result<()> {
        if self.dim != test.dim {
            return Err(EvalError::Width {
                train: self.dim,
                test: test.dim,
            });
        }
        for (set, features) in [("train", self), ("test", test)] {
            if let Some(at) = features.data.iter().position(|value| !value.is_finite()) {
                return Err(EvalError::NotFinite {
                    sample: format!("row {} of the {set} set", at / self.dim),
                    column: at % self.dim,
                });
            }
        }
        Ok(())
    }
}

/// How often the right class came first, and among the first five.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct Accuracy {
    /// Share of samples whose class was ranked first, in [0, 1].
    pub top1: f64,
    /// Between which shares the true one lies with 95% confidence: Wilson's interval, samples taken as drawn independently.
    pub top1_interval: (f64, f64),
    /// Share of samples whose class was among the first five.
    pub top5: f64,
    /// As `top1_interval`.
    pub top5_interval: (f64, f64),
    /// Number of samples judged.
    pub count: usize,
}

impl Accuracy {
    /// Of `top1` and `top5` right samples among `count`, at least one.
    pub fn new(top1: usize, top5: usize, count: usize) -> Self {
        Self {
            top1: top1 as f64 / count as f64,
            top1_interval: wilson(top1, count),
            top5: top5 as f64 / count as f64,
            top5_interval: wilson(top5, count),
            count,
        }
    }

    /// From each sample's rank of its true class, 0 the first.
    pub(crate) fn from_ranks(ranks: &[usize]) -> Self {
        let within = |n: usize| ranks.iter().filter(|&&rank| rank < n).count();
        Self::new(within(1), within(5), ranks.len())
    }
}

/// Wilson's score interval at 95% for `hits` of `count` (E. B. Wilson 1927; it stays within [0, 1] and holds for shares near either).
fn wilson(hits: usize, count: usize) -> (f64, f64) {
    // The normal distribution's 97.5% quantile.
    let z2 = 1.959_963_984_540_054_f64.powi(2);
    let (p, n) = (hits as f64 / count as f64, count as f64);
    let centre = (p + z2 / (2.0 * n)) / (1.0 + z2 / n);
    let half = (z2 * (p * (1.0 - p) / n + z2 / (4.0 * n * n))).sqrt() / (1.0 + z2 / n);
    ((centre - half).max(0.0), (centre + half).min(1.0))
}

/// The rank of class `label` by `scores`, higher first; of equal scores the lower class comes first. A score that is not a number ranks
/// its own class last and every other before it.
pub(crate) fn rank_of(scores: &[f32], label: u32) -> usize {
    let label = label as usize;
    match scores.get(label) {
        Some(&own) if !own.is_nan() => scores
            .iter()
            .enumerate()
            .filter(|&(class, &score)| {
                score > own || score.is_nan() || (score == own && class < label)
            })
            .count(),
        _ => scores.len(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_matrix_must_fit_its_labels() {
        assert!(Features::new(vec![0.0; 6], 3, vec![0, 1]).is_ok());
        assert!(matches!(
            Features::new(vec![0.0; 6], 3, vec![0]),
            Err(EvalError::Shape { .. })
        ));
        assert!(matches!(
            Features::new(vec![], 0, vec![]),
            Err(EvalError::Shape { .. })
        ));
    }

    #[test]
    fn a_value_that_is_not_finite_is_named() {
        let good = Features::new(vec![0.0; 4], 2, vec![0, 1]).unwrap();
        for bad in [f32::NAN, f32::INFINITY] {
            let features = Features::new(vec![0.0, 1.0, bad, 2.0], 2, vec![0, 1]).unwrap();
            let error = good.check_pair(&features).unwrap_err().to_string();
            assert!(
                error.contains("feature 0 of row 1 of the test set"),
                "{error}"
            );
        }
        let wide = Features::new(vec![0.0; 6], 3, vec![0, 1]).unwrap();
        assert!(matches!(
            good.check_pair(&wide),
            Err(EvalError::Width { train: 2, test: 3 })
        ));
    }

    /// Against scipy 1.17.1: scipy.stats.binomtest(hits, count).proportion_ci(method="wilson").
    #[test]
    fn intervals_are_wilsons() {
        for ((hits, count), (low, high)) in [
            ((0, 10), (0.0, 0.27753279986288926)),
            ((6320, 10_000), (0.6224988426865223, 0.641399781743619)),
            ((240, 240), (0.9842460800584412, 1.0)),
            ((1, 3), (0.06149194472039626, 0.7923403991979523)),
        ] {
            let found = wilson(hits, count);
            assert!((found.0 - low).abs() < 1e-9, "{hits} of {count}: {found:?}");
            assert!(
                (found.1 - high).abs() < 1e-9,
                "{hits} of {count}: {found:?}"
            );
        }
    }

    #[test]
    fn splitting_keeps_rows_with_their_labels() {
        let features =
            Features::new((0..10).map(|v| v as f32).collect(), 2, vec![5, 6, 7, 8, 9]).unwrap();
        let (train, test) = features.split(|index| index % 3 == 2);
        assert_eq!(train.labels(), &[5, 6, 8, 9]);
        assert_eq!(test.labels(), &[7]);
        assert_eq!(test.data(), &[4.0, 5.0]);
    }

    #[test]
    fn ties_go_to_the_lower_class() {
        assert_eq!(rank_of(&[0.1, 0.7, 0.7], 1), 0);
        assert_eq!(rank_of(&[0.1, 0.7, 0.7], 2), 1);
        assert_eq!(rank_of(&[0.1, 0.7], 9), 2);
        let nan = f32::NAN;
        assert_eq!(rank_of(&[nan, 0.7, 0.1], 0), 3);
        assert_eq!(rank_of(&[nan, 0.7, 0.1], 1), 1);
        let accuracy = Accuracy::from_ranks(&[0, 4, 5, 0]);
        assert_eq!(
            (accuracy.top1, accuracy.top5, accuracy.count),
            (0.5, 0.75, 4)
        );
    }
}
