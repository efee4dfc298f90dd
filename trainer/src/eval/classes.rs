//! The classes of a train and a test set: what can be wrong with labels is found here, before anything is encoded.

use mae_loader::Dataset;
use rayon::prelude::*;

use super::error::{EvalError, Result};

/// Samples whose labels are read as one piece of work.
const PIECE: usize = 4096;
/// Classes that a message names.
const NAMED: usize = 5;

/// The classes that a train set holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Classes {
    /// How many there are: as many as have names, else one more than the highest label.
    pub count: usize,
    /// Those without a train sample.
    pub empty: Vec<u32>,
}

impl Classes {
    /// Looks through the labels of both sets. `names` are the classes' names, where there are any.
    ///
    /// # Errors
    /// Where a set is empty, a label has no name, there are fewer than two classes or more than train samples, or a class occurs in the
    /// test set only.
    pub fn survey(train: &[u32], test: &[u32], names: Option<&[String]>) -> Result<Self> {
        for (set, labels, verb) in [("train", train, "fit"), ("test", test, "classify")] {
            if labels.is_empty() {
                return Err(EvalError::Empty { set, verb });
            }
        }
        let highest = |labels: &[u32]| labels.iter().max().map_or(0, |&label| label as usize);
        let count = names.map_or(highest(train) + 1, <[String]>::len);
        let label = highest(train).max(highest(test));
        if names.is_some() && label >= count {
            return Err(EvalError::UnknownClass {
                label,
                classes: count,
            });
        }
        if train.len() < count {
            return Err(EvalError::FewSamples {
                samples: train.len(),
                classes: count,
            });
        }
        let mut samples = vec![0usize; count];
        train.iter().for_each(|&label| samples[label as usize] += 1);
        let without = |label: u32| samples.get(label as usize).is_none_or(|&n| n == 0);
        if let Some(&label) = test.iter().find(|&&label| without(label)) {
            return Err(EvalError::OnlyInTest {
                class: describe(label, names),
                samples: test.iter().filter(|&&other| other == label).count(),
            });
        }
        let empty: Vec<u32> = (0..count as u32).filter(|&label| without(label)).collect();
        if count - empty.len() < 2 {
            return Err(EvalError::Classes {
                classes: count - empty.len(),
            });
        }
        Ok(Self { count, empty })
    }

    /// A warning that names the classes without a train sample, if there are such.
    pub fn warning(&self, names: Option<&[String]>) -> Option<String> {
        let named = self.empty.iter().take(NAMED);
        let named: Vec<String> = named.map(|&label| describe(label, names)).collect();
        let more = match self.empty.len().saturating_sub(NAMED) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        (!named.is_empty()).then(|| {
            format!(
                "no train sample of class {}{more}: nothing can be classified as such",
                named.join(", ")
            )
        })
    }
}

/// A class's number, and its name where it has one.
fn describe(label: u32, names: Option<&[String]>) -> String {
    match names.and_then(|names| names.get(label as usize)) {
        Some(name) => format!("{label} ({name})"),
        None => label.to_string(),
    }
}

/// The label of every sample of `dataset`, in its order.
///
/// # Errors
/// Where there are no labels, or one is missing, cannot be understood or is beyond the list of classes: the first such sample is named.
pub fn labels(dataset: &Dataset) -> Result<Vec<u32>> {
    let ids: Vec<_> = dataset.ids().collect();
    let pieces: Vec<Result<Vec<u32>>> = ids
        .par_chunks(PIECE)
        .map(|ids| {
            let label = |&id| match dataset.label(id) {
                Ok(label) => label.ok_or(EvalError::NoLabels),
                Err(error @ mae_loader::Error::Label { .. }) => Err(EvalError::Label(error)),
                Err(error) => Err(error.into()),
            };
            ids.iter().map(label).collect()
        })
        .collect();
    let mut labels = Vec::with_capacity(ids.len());
    for piece in pieces {
        labels.extend(piece?);
    }
    Ok(labels)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(n: usize) -> Vec<String> {
        (0..n).map(|i| format!("name{i}")).collect()
    }

    #[test]
    fn classes_are_as_many_as_have_names_and_empty_ones_are_named() {
        let classes = Classes::survey(&[0, 3, 3, 1, 1], &[3, 0], Some(&names(5))).unwrap();
        assert_eq!((classes.count, &classes.empty[..]), (5, &[2, 4][..]));
        let warning = classes.warning(Some(&names(5))).unwrap();
        assert!(warning.contains("2 (name2), 4 (name4):"), "{warning}");
        let many = Classes::survey(&[[0; 9], [9; 9]].concat(), &[0], None).unwrap();
        let warning = many.warning(None).unwrap();
        assert!(
            warning.contains("class 1, 2, 3, 4, 5 and 3 more"),
            "{warning}"
        );
        let full = Classes::survey(&[0, 1, 1], &[1], None).unwrap();
        assert_eq!((full.count, full.warning(None)), (2, None));
    }

    #[test]
    fn each_mistake_is_named() {
        let three = names(3);
        for (train, test, names, part) in [
            (&[][..], &[0][..], None, "train set is empty"),
            (&[0, 1], &[], None, "test set is empty"),
            (
                &[0, 1, 3, 0],
                &[0],
                Some(&three[..]),
                "label 3 is beyond the 3 classes",
            ),
            (
                &[0, 1, 2, 0],
                &[7],
                Some(&three),
                "label 7 is beyond the 3 classes",
            ),
            (&[0, 1], &[0], Some(&three), "2 samples for 3 classes"),
            (
                &[0, 4_000_000_000],
                &[0],
                None,
                "2 samples for 4000000001 classes",
            ),
            (
                &[0, 1, 1],
                &[1, 2, 2],
                None,
                "2 test samples are of class 2, of which",
            ),
            (
                &[0, 1, 1],
                &[1, 2],
                Some(&three),
                "1 test sample is of class 2 (name2), of which",
            ),
            (&[0, 0, 0], &[0], None, "train set holds 1 class"),
        ] {
            let error = Classes::survey(train, test, names).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
    }
}
