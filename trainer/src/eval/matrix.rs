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

    /// One more than the highest label.
    pub fn classes(&self) -> usize {
        self.labels
            .iter()
            .max()
            .map_or(0, |&label| label as usize + 1)
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

    /// Fails on an empty set and on values that are not finite.
    pub(super) fn check(&self, set: &'static str, verb: &'static str) -> Result<()> {
        if self.is_empty() {
            return Err(EvalError::Empty { set, verb });
        }
        match self.data.iter().position(|value| !value.is_finite()) {
            Some(at) => Err(EvalError::NotFinite {
                set,
                row: at / self.dim,
                column: at % self.dim,
            }),
            None => Ok(()),
        }
    }
}

/// How often the right class came first, and among the first five.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct Accuracy {
    /// Share of samples whose class was ranked first, in [0, 1].
    pub top1: f64,
    /// Share of samples whose class was among the first five.
    pub top5: f64,
    /// Number of samples judged.
    pub count: usize,
}

impl Accuracy {
    /// From each sample's rank of its true class, 0 the first.
    pub(crate) fn from_ranks(ranks: &[usize]) -> Self {
        let share = |n: usize| {
            ranks.iter().filter(|&&rank| rank < n).count() as f64 / ranks.len().max(1) as f64
        };
        Self {
            top1: share(1),
            top5: share(5),
            count: ranks.len(),
        }
    }
}

/// The rank of class `label` by `scores`, higher first; of equal scores the lower class comes first. A class without a score comes
/// after all.
pub(crate) fn rank_of(scores: &[f32], label: u32) -> usize {
    let label = label as usize;
    match scores.get(label) {
        None => scores.len(),
        Some(&own) => scores
            .iter()
            .enumerate()
            .filter(|&(class, &score)| score > own || (score == own && class < label))
            .count(),
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
        let features = Features::new(vec![0.0, 1.0, f32::NAN, 2.0], 2, vec![0, 1]).unwrap();
        let error = features.check("train", "judge").unwrap_err().to_string();
        assert!(
            error.contains("feature 0 of sample 1 of the train set"),
            "{error}"
        );
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
        let accuracy = Accuracy::from_ranks(&[0, 4, 5, 0]);
        assert_eq!(
            (accuracy.top1, accuracy.top5, accuracy.count),
            (0.5, 0.75, 4)
        );
    }
}
