//! Weighted nearest neighbours on frozen features, as DINO does (arXiv 2104.14294, section 4.1; Wu et al., arXiv 1805.01978): cosine
//! similarity, the `k` nearest vote with weight exp(similarity / temperature). No training, so it judges the features as they are.

use candle_core::{Device, Tensor};
use rayon::prelude::*;

use super::error::{EvalError, Result};
use super::matrix::{Accuracy, Features, rank_of};

/// Similarities held at a time: 64 MiB of f32.
const BLOCK_VALUES: usize = 16 << 20;

/// How neighbours vote.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct KnnOptions {
    /// How many neighbours vote.
    pub k: usize,
    /// Smaller makes the nearest count for more.
    pub temperature: f32,
}

impl Default for KnnOptions {
    fn default() -> Self {
        Self {
            k: 20,
            temperature: 0.07,
        }
    }
}

/// Classifies each row of `test` by its neighbours in `train`. Of equally similar neighbours the one earlier in `train` counts.
///
/// # Errors
/// Where a set is empty or not finite, the widths differ, or an option is out of range.
pub fn knn(train: &Features, test: &Features, options: &KnnOptions) -> Result<Accuracy> {
    train.check("train", "compare with")?;
    test.check("test", "classify")?;
    if train.dim() != test.dim() {
        return Err(EvalError::Width {
            train: train.dim(),
            test: test.dim(),
        });
    }
    if options.k == 0 {
        return Err(EvalError::Option {
            name: "k",
            must: "at least 1",
        });
    }
    if options.temperature.is_nan() || options.temperature <= 0.0 {
        return Err(EvalError::Option {
            name: "the temperature",
            must: "above 0",
        });
    }
    let (dim, classes) = (train.dim(), train.classes());
    let bank = Tensor::from_vec(unit_rows(train), (train.len(), dim), &Device::Cpu)?.t()?;
    let queries = unit_rows(test);
    let block = (BLOCK_VALUES / train.len()).clamp(1, test.len());
    let mut ranks = Vec::with_capacity(test.len());
    for (rows, labels) in queries.chunks(block * dim).zip(test.labels().chunks(block)) {
        let similar = Tensor::from_slice(rows, (labels.len(), dim), &Device::Cpu)?.matmul(&bank)?;
        let similar = similar.flatten_all()?.to_vec1::<f32>()?;
        let block_ranks: Vec<usize> = similar
            .par_chunks(train.len())
            .zip(labels)
            .map(|(similar, &label)| {
                let votes = vote(similar, train.labels(), classes, options);
                // A class that got no vote was not found, whatever its number.
                let found = votes.get(label as usize).is_some_and(|&votes| votes > 0.0);
                if found {
                    rank_of(&votes, label)
                } else {
                    usize::MAX
                }
            })
            .collect();
        ranks.extend(block_ranks);
    }
    Ok(Accuracy::from_ranks(&ranks))
}

/// The weight that each class gets from the `k` nearest of `similar`.
fn vote(similar: &[f32], labels: &[u32], classes: usize, options: &KnnOptions) -> Vec<f32> {
    let mut order: Vec<u32> = (0..similar.len() as u32).collect();
    let nearer = |a: &u32, b: &u32| {
        similar[*b as usize]
            .total_cmp(&similar[*a as usize])
            .then(a.cmp(b))
    };
    if options.k < order.len() {
        order.select_nth_unstable_by(options.k, nearer);
        order.truncate(options.k);
    }
    // Summed in a fixed order, so that equal runs give equal votes.
    order.sort_unstable_by(nearer);
    let mut votes = vec![0.0; classes];
    for &index in &order {
        // Relative to the best possible similarity, so that a small temperature does not overflow.
        votes[labels[index as usize] as usize] +=
            ((similar[index as usize] - 1.0) / options.temperature).exp();
    }
    votes
}

/// The rows scaled to length one; a row of zeros stays as it is, similar to nothing.
fn unit_rows(features: &Features) -> Vec<f32> {
    let mut data = features.data().to_vec();
    data.par_chunks_mut(features.dim()).for_each(|row| {
        let norm = row
            .iter()
            .map(|&v| f64::from(v) * f64::from(v))
            .sum::<f64>()
            .sqrt();
        let scale = if norm > 0.0 { (1.0 / norm) as f32 } else { 0.0 };
        row.iter_mut().for_each(|v| *v *= scale);
    });
    data
}

#[cfg(test)]
mod tests {
    use super::*;

    fn features(rows: &[([f32; 2], u32)]) -> Features {
        let data = rows.iter().flat_map(|(row, _)| *row).collect();
        Features::new(data, 2, rows.iter().map(|(_, label)| *label).collect()).unwrap()
    }

    #[test]
    fn direction_decides_and_length_does_not() {
        let train = features(&[
            ([100.0, 1.0], 0),
            ([0.01, 0.0], 0),
            ([1.0, 50.0], 1),
            ([0.0, 0.01], 1),
        ]);
        let test = features(&[([0.001, 0.0001], 0), ([3.0, 40.0], 1), ([5.0, 1.0], 1)]);
        let accuracy = knn(
            &train,
            &test,
            &KnnOptions {
                k: 2,
                temperature: 0.07,
            },
        )
        .unwrap();
        assert_eq!((accuracy.top1, accuracy.count), (2.0 / 3.0, 3));
        assert_eq!(
            accuracy.top5,
            2.0 / 3.0,
            "with k = 2 the third sample's class got no vote"
        );
    }

    #[test]
    fn near_neighbours_outvote_many_far_ones() {
        // One neighbour at similarity 1, three at cos 45°: e^0 against 3 e^(-0.293/T).
        let far = std::f32::consts::FRAC_1_SQRT_2;
        let train = features(&[
            ([1.0, 0.0], 0),
            ([far, far], 1),
            ([far, far], 1),
            ([far, far], 1),
        ]);
        let test = features(&[([1.0, 0.0], 0)]);
        let top1 = |temperature| {
            knn(&train, &test, &KnnOptions { k: 4, temperature })
                .unwrap()
                .top1
        };
        // Equal where T = 0.293 / ln 3 = 0.2666.
        assert_eq!(top1(0.26), 1.0);
        assert_eq!(top1(0.27), 0.0);
    }

    #[test]
    fn votes_are_those_of_the_formula() {
        let options = KnnOptions {
            k: 3,
            temperature: 0.5,
        };
        let votes = vote(&[0.9, -0.2, 0.4, 0.7], &[0, 0, 1, 1], 2, &options);
        let weight = |s: f32| ((s - 1.0) / 0.5).exp();
        assert!((votes[0] - weight(0.9)).abs() < 1e-6);
        assert!((votes[1] - weight(0.4) - weight(0.7)).abs() < 1e-6);
    }

    #[test]
    fn blocks_do_not_change_the_answer() {
        // Enough rows that the similarities take several blocks.
        let row = |i: usize| [(i as f32 * 0.7).sin(), (i as f32 * 0.7).cos()];
        let class = |i: usize| u32::from((i as f32 * 0.7).sin() > 0.0);
        let set = |n: usize, from: usize| {
            features(
                &(from..from + n)
                    .map(|i| (row(i), class(i)))
                    .collect::<Vec<_>>(),
            )
        };
        let (train, test) = (set(70_000, 0), set(500, 1_000_000));
        assert!(BLOCK_VALUES / train.len() < test.len());
        let accuracy = knn(&train, &test, &KnnOptions::default()).unwrap();
        assert_eq!(accuracy.count, 500);
        assert!(accuracy.top1 > 0.99, "{accuracy:?}");
    }

    #[test]
    fn bad_input_is_an_error() {
        let set = features(&[([1.0, 0.0], 0)]);
        let none = Features::new(vec![], 2, vec![]).unwrap();
        let wide = Features::new(vec![1.0; 3], 3, vec![0]).unwrap();
        let options = KnnOptions::default();
        assert!(matches!(
            knn(&none, &set, &options),
            Err(EvalError::Empty { set: "train", .. })
        ));
        assert!(matches!(
            knn(&set, &none, &options),
            Err(EvalError::Empty { set: "test", .. })
        ));
        assert!(matches!(
            knn(&set, &wide, &options),
            Err(EvalError::Width { .. })
        ));
        assert!(knn(&set, &set, &KnnOptions { k: 0, ..options }).is_err());
        assert!(
            knn(
                &set,
                &set,
                &KnnOptions {
                    temperature: 0.0,
                    ..options
                }
            )
            .is_err()
        );
        assert_eq!(
            knn(&set, &set, &options).unwrap().top1,
            1.0,
            "fewer samples than k"
        );
    }
}
