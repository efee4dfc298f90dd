//! Weighted nearest neighbours on frozen features, as DINO does (arXiv 2104.14294, section 4.1; Wu et al., arXiv 1805.01978): cosine
//! similarity, the `k` nearest vote with weight exp(similarity / temperature). No training, so it judges the features as they are.

use candle_core::{DType, Device, Tensor};
use mae_model::Precision;
use mae_model::ops::linear;
use rayon::prelude::*;

use super::classes::Classes;
use super::error::{EvalError, Result};
use super::matrix::{Accuracy, Features, rank_of};

/// Test rows and train rows whose similarities are held at a time: 64 MiB of f32.
const QUERIES: usize = 1 << 10;
const BANK: usize = 1 << 14;

/// How neighbours vote.
#[derive(Clone, Debug, PartialEq)]
pub struct KnnOptions {
    /// How many neighbours vote; several numbers are judged in one pass.
    pub k: Vec<usize>,
    /// Smaller makes the nearest count for more.
    pub temperature: f32,
}

impl Default for KnnOptions {
    /// DINO's: 20 neighbours, which it finds the best of 10, 20, 100 and 200, at 0.07.
    fn default() -> Self {
        Self {
            k: vec![20],
            temperature: 0.07,
        }
    }
}

impl KnnOptions {
    /// Whether these options suit a train set of `samples` samples, which can be told before anything is encoded.
    ///
    /// # Errors
    /// Where an option is out of range.
    pub fn check(&self, samples: usize) -> Result<()> {
        let most = self.k.iter().copied().max().unwrap_or(0);
        if self.k.contains(&0) || most == 0 {
            return Err(EvalError::Option {
                name: "every k",
                must: "at least 1, and one at least given",
            });
        }
        if most > samples {
            return Err(EvalError::Neighbours { k: most, samples });
        }
        if self.temperature.is_nan() || self.temperature <= 0.0 {
            return Err(EvalError::Option {
                name: "the temperature",
                must: "above 0",
            });
        }
        Ok(())
    }
}

/// Classifies each row of `test` by its neighbours in `train`, for each number of them. Of equally similar neighbours the one earlier in
/// `train` counts. A class that got no vote was not found, whatever its number.
///
/// Beside the features it takes memory for 16 million similarities.
///
/// # Errors
/// Where a set is empty or not finite, the widths differ, an option is out of range, or the labels do not suit (see
/// [`Classes::survey`]).
pub fn knn(train: &Features, test: &Features, options: &KnnOptions) -> Result<Vec<Accuracy>> {
    train.check_pair(test)?;
    let classes = Classes::survey(train.labels(), test.labels(), None)?.count;
    options.check(train.len())?;
    let most = options.k.iter().copied().max().unwrap_or(0);
    let dim = train.dim();
    let mut ranks = vec![Vec::with_capacity(test.len()); options.k.len()];
    for (queries, labels) in test
        .data()
        .chunks(QUERIES * dim)
        .zip(test.labels().chunks(QUERIES))
    {
        let of_block: Vec<Vec<usize>> = nearest(queries, train, most)?
            .into_par_iter()
            .zip(labels)
            .map(|(neighbours, &label)| {
                let rank = |&k| {
                    let votes = vote(
                        &neighbours[..k],
                        train.labels(),
                        classes,
                        options.temperature,
                    );
                    let found = votes.get(label as usize).is_some_and(|&votes| votes > 0.0);
                    if found {
                        rank_of(&votes, label)
                    } else {
                        usize::MAX
                    }
                };
                options.k.iter().map(rank).collect()
            })
            .collect();
        for row in of_block {
            ranks
                .iter_mut()
                .zip(row)
                .for_each(|(ranks, rank)| ranks.push(rank));
        }
    }
    Ok(ranks
        .iter()
        .map(|ranks| Accuracy::from_ranks(ranks))
        .collect())
}

/// A similarity and its row in the train set.
type Neighbour = (f32, u32);

fn nearer(a: &Neighbour, b: &Neighbour) -> std::cmp::Ordering {
    b.0.total_cmp(&a.0).then(a.1.cmp(&b.1))
}

/// The `k` nearest rows of `train` of each of `queries`, the nearest first.
fn nearest(queries: &[f32], train: &Features, k: usize) -> Result<Vec<Vec<Neighbour>>> {
    let dim = train.dim();
    let count = queries.len() / dim;
    let queries = Tensor::from_vec(unit_rows(queries, dim), (count, dim), &Device::Cpu)?;
    let mut nearest: Vec<Vec<Neighbour>> = vec![vec![]; count];
    for (block, bank) in train.data().chunks(BANK * dim).enumerate() {
        let rows = bank.len() / dim;
        let bank = Tensor::from_vec(unit_rows(bank, dim), (rows, dim), &Device::Cpu)?;
        let similar = Tensor::zeros((count, rows), DType::F32, &Device::Cpu)?;
        linear::forward(&queries, &bank, &similar, Precision::F32)?;
        let similar = similar.flatten_all()?.to_vec1::<f32>()?;
        nearest
            .par_iter_mut()
            .zip(similar.par_chunks(rows))
            .for_each(|(nearest, similar)| {
                // Full, its last is the farthest: what comes later in the train set must be nearer than that.
                let farthest = nearest.get(k - 1).map_or(f32::NEG_INFINITY, |last| last.0);
                let found = (block * BANK) as u32..;
                let found = similar.iter().copied().zip(found);
                let mut all = nearest.clone();
                all.extend(found.filter(|found| found.0 > farthest));
                if all.len() >= k {
                    all.select_nth_unstable_by(k - 1, nearer);
                    all.truncate(k);
                }
                nearest.clear();
                nearest.extend_from_slice(&all);
            });
    }
    // Votes are summed in a fixed order, so that equal runs give equal sums.
    nearest
        .par_iter_mut()
        .for_each(|nearest| nearest.sort_unstable_by(nearer));
    Ok(nearest)
}

/// The weight that each class gets from `neighbours`.
fn vote(neighbours: &[Neighbour], labels: &[u32], classes: usize, temperature: f32) -> Vec<f32> {
    let mut votes = vec![0.0; classes];
    for &(similar, row) in neighbours {
        // Relative to the best possible similarity, so that a small temperature does not overflow.
        votes[labels[row as usize] as usize] += ((similar - 1.0) / temperature).exp();
    }
    votes
}

/// The rows scaled to length one; a row of zeros stays as it is, similar to nothing.
fn unit_rows(rows: &[f32], dim: usize) -> Vec<f32> {
    let mut data = rows.to_vec();
    data.par_chunks_mut(dim).for_each(|row| {
        let squares = row.iter().map(|&v| f64::from(v) * f64::from(v));
        let norm = squares.sum::<f64>().sqrt();
        let scale = if norm > 0.0 { (1.0 / norm) as f32 } else { 0.0 };
        row.iter_mut().for_each(|v| *v *= scale);
    });
    data
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::golden::Golden;

    fn features(rows: &[([f32; 2], u32)]) -> Features {
        let data = rows.iter().flat_map(|(row, _)| *row).collect();
        Features::new(data, 2, rows.iter().map(|(_, label)| *label).collect()).unwrap()
    }

    fn options(k: usize, temperature: f32) -> KnnOptions {
        KnnOptions {
            k: vec![k],
            temperature,
        }
    }

    /// DINO's formula in PyTorch, in float64.
    #[test]
    fn accuracies_are_those_of_pytorch() {
        let golden = Golden::open("linear_probe");
        let (train, test) = (golden.features("train"), golden.features("test"));
        let options = KnnOptions {
            k: golden.u32s("knn.k").iter().map(|&k| k as usize).collect(),
            temperature: 0.07,
        };
        let found = knn(&train, &test, &options).unwrap();
        let (top1, top5) = (golden.u32s("knn.top1"), golden.u32s("knn.top5"));
        assert_eq!(found.len(), top1.len());
        for ((found, top1), top5) in found.iter().zip(top1).zip(top5) {
            assert_eq!(*found, Accuracy::new(top1 as usize, top5 as usize, 60));
        }
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
        let accuracy = knn(&train, &test, &options(2, 0.07)).unwrap()[0];
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
        let top1 = |temperature| knn(&train, &test, &options(4, temperature)).unwrap()[0].top1;
        // Equal where T = 0.293 / ln 3 = 0.2666.
        assert_eq!(top1(0.26), 1.0);
        assert_eq!(top1(0.27), 0.0);
    }

    #[test]
    fn votes_are_those_of_the_formula() {
        let neighbours = [(0.9, 0), (0.7, 3), (0.4, 2)];
        let votes = vote(&neighbours, &[0, 0, 1, 1], 2, 0.5);
        let weight = |s: f32| ((s - 1.0) / 0.5).exp();
        assert!((votes[0] - weight(0.9)).abs() < 1e-6);
        assert!((votes[1] - weight(0.4) - weight(0.7)).abs() < 1e-6);
    }

    #[test]
    fn blocks_do_not_change_the_answer() {
        // Several blocks of both sets; each direction comes many times, so that equals are met in different blocks.
        let angle = |i: usize| (i % 977) as f32 * 0.7;
        let row = |i: usize| [angle(i).sin(), angle(i).cos()];
        let set = |n: usize, from: usize| {
            let rows = (from..from + n).map(|i| (row(i), u32::from(angle(i).sin() > 0.0)));
            features(&rows.collect::<Vec<_>>())
        };
        let (train, test) = (set(2 * BANK + 5000, 0), set(QUERIES + 300, 1_000_000));
        let found = nearest(&test.data()[..8], &train, 50).unwrap();
        let queries = unit_rows(test.data(), 2);
        let bank = unit_rows(train.data(), 2);
        for (found, query) in found.iter().zip(queries.chunks(2)) {
            let similar = bank
                .chunks(2)
                .map(|row| query[0] * row[0] + query[1] * row[1]);
            let mut all: Vec<Neighbour> = similar.zip(0..).collect();
            all.sort_by(nearer);
            let near = |a: f32, b: f32| (a - b).abs() < 1e-6;
            assert!(found.iter().zip(&all).all(|(a, b)| near(a.0, b.0)));
            assert!(
                found
                    .windows(2)
                    .all(|pair| nearer(&pair[0], &pair[1]).is_lt())
            );
        }
        let accuracy = knn(&train, &test, &KnnOptions::default()).unwrap()[0];
        assert_eq!(accuracy.count, QUERIES + 300);
        assert!(accuracy.top1 > 0.99, "{accuracy:?}");
    }

    #[test]
    fn bad_input_is_an_error() {
        let set = features(&[([1.0, 0.0], 0), ([0.0, 1.0], 1)]);
        let none = Features::new(vec![], 2, vec![]).unwrap();
        let wide = Features::new(vec![1.0; 3], 3, vec![0]).unwrap();
        let good = options(1, 0.07);
        let failed = |train: &_, test: &_, options: &_| knn(train, test, options).unwrap_err();
        assert!(matches!(
            failed(&none, &set, &good),
            EvalError::Empty { set: "train", .. }
        ));
        assert!(matches!(
            failed(&set, &none, &good),
            EvalError::Empty { set: "test", .. }
        ));
        assert!(matches!(
            failed(&set, &wide, &good),
            EvalError::Width { .. }
        ));
        let third = features(&[([1.0, 0.0], 2)]);
        assert!(matches!(
            failed(&set, &third, &good),
            EvalError::OnlyInTest { .. }
        ));
        assert!(matches!(
            failed(&set, &set, &options(3, 0.07)),
            EvalError::Neighbours { k: 3, samples: 2 }
        ));
        for (k, temperature) in [(vec![], 0.07), (vec![1, 0], 0.07), (vec![1], 0.0)] {
            let options = KnnOptions { k, temperature };
            assert!(matches!(
                failed(&set, &set, &options),
                EvalError::Option { .. }
            ));
        }
    }
}
