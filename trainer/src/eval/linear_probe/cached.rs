//! The probe on cached features: heads of many learning rates trained side by side, the rate chosen on a tenth of the train set.
//!
//! Plain SGD with momentum in batches of 256, not LARS: LARS is made for batches of thousands, and the sweep is there to find the one
//! step length that it would adapt. What a penalty does for noisy features a small rate does, for heads that begin at zero: the grid
//! reaches down to where little is fitted.

use candle_core::{Device, Tensor};
use rand_chacha::ChaCha8Rng;
use rand_core::{RngCore, SeedableRng};

use super::super::classes::Classes;
use super::super::error::{EvalError, Result};
use super::super::matrix::{Accuracy, Features};
use super::heads::Heads;
use super::norm::Statistics;
use crate::optim::{Lars, LarsSettings, Layer};
use crate::schedule::CosineSchedule;

/// Rows that are classified at a time.
const CHUNK: usize = 1024;
/// One in so many train samples chooses the learning rate.
const HELD_OUT: usize = 10;
/// Where a tenth is fewer samples than this, several take turns, up to `TURNS`.
const JUDGED: usize = 1000;
const TURNS: usize = 5;
/// Updates of an epoch at least, in smaller batches where the train set is small.
const STEPS: usize = 16;
/// The smallest batch that is made for that.
const LEAST_BATCH: usize = 32;

/// How the heads are trained.
#[derive(Clone, Debug, PartialEq)]
pub struct SweepOptions {
    /// Peak learning rates to choose from.
    pub learning_rates: Vec<f64>,
    /// Passes over the train set.
    pub epochs: u64,
    /// Rows in an update; as many as there are where the train set has fewer.
    pub batch_size: usize,
    /// Decides which samples choose the rate, and the order of the others.
    pub seed: u64,
}

impl Default for SweepOptions {
    /// 13 rates from 1e-4 to 1, 30 epochs.
    fn default() -> Self {
        Self {
            learning_rates: vec![
                1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 1e-1, 2e-1, 5e-1, 1.0,
            ],
            epochs: 30,
            batch_size: 256,
            seed: 0,
        }
    }
}

impl SweepOptions {
    /// Whether these options suit a train set of `samples` samples, which can be told before anything is encoded.
    ///
    /// # Errors
    /// Where an option is out of range.
    pub fn check(&self, samples: usize) -> Result<()> {
        let rates = &self.learning_rates;
        let option = |name, must| Err(EvalError::Option { name, must });
        if rates.is_empty() || rates.iter().any(|rate| !(rate.is_finite() && *rate > 0.0)) {
            return option("every learning rate", "above 0, and one at least given");
        }
        if self.epochs == 0 || self.batch_size == 0 {
            return option("epochs and batch size", "at least 1");
        }
        if rates.len() > 1 && samples < HELD_OUT {
            return option(
                "the number of train samples",
                "at least 10 to choose among learning rates; give one rate",
            );
        }
        Ok(())
    }
}

/// What the sweep found.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct SweepReport {
    /// On the test set.
    pub accuracy: Accuracy,
    /// On the train set; far above `accuracy` where the head learnt samples by heart.
    pub train: Accuracy,
    /// The learning rate chosen.
    pub learning_rate: f64,
}

/// Chooses the learning rate on a tenth of `train`, trains with it on all of `train`, and judges on `test`.
///
/// # Errors
/// Where a set is empty or not finite, the widths differ, an option is out of range, or the labels do not suit (see
/// [`Classes::survey`]).
pub fn sweep(train: &Features, test: &Features, options: &SweepOptions) -> Result<SweepReport> {
    train.check_pair(test)?;
    let classes = Classes::survey(train.labels(), test.labels(), None)?.count;
    options.check(train.len())?;
    let cached = Cached {
        features: train,
        statistics: Statistics::of(train.data(), train.dim()),
    };
    let learning_rate = cached.choose(classes, options)?;
    let all: Vec<u32> = (0..train.len() as u32).collect();
    let (heads, loss) = cached.fit(&all, classes, &[learning_rate], options)?;
    if !loss.is_finite() {
        return Err(EvalError::Diverged { lr: learning_rate });
    }
    let tests = Cached {
        features: test,
        statistics: cached.statistics.clone(),
    };
    let every: Vec<u32> = (0..test.len() as u32).collect();
    Ok(SweepReport {
        accuracy: tests.judge(&heads, &every)?[0],
        train: cached.judge(&heads, &all)?[0],
        learning_rate,
    })
}

/// Features and how they are standardised.
struct Cached<'a> {
    features: &'a Features,
    statistics: Statistics,
}

impl Cached<'_> {
    /// The rate under which nine tenths of the rows predict the last tenth best; of equals the lowest. Where a tenth is few, several
    /// tenths take turns.
    fn choose(&self, classes: usize, options: &SweepOptions) -> Result<f64> {
        let mut rates = options.learning_rates.clone();
        rates.sort_by(f64::total_cmp);
        if rates.len() == 1 {
            return Ok(rates[0]);
        }
        let mut order: Vec<u32> = (0..self.features.len() as u32).collect();
        shuffle(&mut order, &mut ChaCha8Rng::seed_from_u64(options.seed));
        let tenth = order.len() / HELD_OUT;
        let mut right = vec![0.0; rates.len()];
        for _ in 0..JUDGED.div_ceil(tenth).min(TURNS) {
            let (held, fitted) = order.split_at(tenth);
            let (heads, _) = self.fit(fitted, classes, &rates, options)?;
            let judged = self.judge(&heads, held)?;
            right
                .iter_mut()
                .zip(judged)
                .for_each(|(right, accuracy)| *right += accuracy.top1);
            order.rotate_left(tenth);
        }
        let best = right.iter().copied().fold(0.0, f64::max);
        let best = right.iter().position(|&v| v == best).unwrap_or(0);
        if best + 1 == rates.len() {
            tracing::info!(
                "learning rate {} is the highest of those tried: higher ones may do better",
                rates[best]
            );
        }
        Ok(rates[best])
    }

    /// A head for each of `rates`, trained on `rows`; and the sum of their last losses.
    fn fit(
        &self,
        rows: &[u32],
        classes: usize,
        rates: &[f64],
        options: &SweepOptions,
    ) -> Result<(Heads, f64)> {
        let mut heads = Heads::zeros(rates.len(), classes, self.features.dim())?;
        let mut sgd = plain_sgd(&heads, rates);
        let schedule = CosineSchedule {
            peak: 1.0,
            floor: 0.0,
            warmup_epochs: 0.0,
            epochs: options.epochs as f64,
        };
        let batch = (rows.len() / STEPS).max(LEAST_BATCH);
        let batch = batch.min(options.batch_size).min(rows.len());
        let steps = rows.len() / batch;
        let mut order = rows.to_vec();
        let mut rng = ChaCha8Rng::seed_from_u64(options.seed);
        rng.set_stream(1);
        let mut losses = vec![];
        for epoch in 0..options.epochs {
            shuffle(&mut order, &mut rng);
            for (step, rows) in order.chunks_exact(batch).enumerate() {
                let lr = schedule.at(epoch as f64 + step as f64 / steps as f64);
                let (rows, labels) = self.gather(rows)?;
                losses = heads.step(&rows, &labels, |values, gradient| {
                    sgd.step(values, gradient, lr);
                })?;
            }
        }
        Ok((heads, losses.iter().sum()))
    }

    /// The accuracy of each head on `rows`.
    fn judge(&self, heads: &Heads, rows: &[u32]) -> Result<Vec<Accuracy>> {
        let mut ranks: Vec<Vec<usize>> = vec![];
        for rows in rows.chunks(CHUNK) {
            let (rows, labels) = self.gather(rows)?;
            let of_chunk = heads.ranks(&rows, &labels)?;
            ranks.resize(of_chunk.len(), vec![]);
            ranks
                .iter_mut()
                .zip(of_chunk)
                .for_each(|(ranks, chunk)| ranks.extend(chunk));
        }
        Ok(ranks
            .iter()
            .map(|ranks| Accuracy::from_ranks(ranks))
            .collect())
    }

    /// Some rows, standardised, and their labels.
    fn gather(&self, rows: &[u32]) -> Result<(Tensor, Vec<u32>)> {
        let (data, dim) = (self.features.data(), self.features.dim());
        let mut batch = Vec::with_capacity(rows.len() * dim);
        for &row in rows {
            batch.extend_from_slice(&data[row as usize * dim..][..dim]);
        }
        self.statistics.apply(&mut batch);
        let labels = rows.iter().map(|&row| self.features.labels()[row as usize]);
        let shape = (rows.len(), dim);
        Ok((
            Tensor::from_vec(batch, shape, &Device::Cpu)?,
            labels.collect(),
        ))
    }
}

/// SGD with momentum, each head at its own rate.
fn plain_sgd(heads: &Heads, rates: &[f64]) -> Lars {
    let layers = rates.iter().enumerate().flat_map(|(head, &lr_scale)| {
        [heads.weight(head), heads.bias(head)].map(|range| Layer {
            range,
            adapts: false,
            lr_scale,
        })
    });
    Lars::new(LarsSettings::default(), layers.collect())
}

/// Fisher and Yates's shuffle.
fn shuffle(rows: &mut [u32], rng: &mut ChaCha8Rng) {
    for last in (1..rows.len()).rev() {
        let other = (u64::from(rng.next_u32()) * (last as u64 + 1)) >> 32;
        rows.swap(last, other as usize);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::golden::Golden;

    /// Points in `dim` dimensions, `classes` clusters around unit axes, noise uniform in ±`noise`.
    fn clusters(n: usize, dim: usize, classes: u32, noise: f32, seed: u64) -> Features {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut unit = || (rng.next_u32() >> 8) as f32 / (1 << 24) as f32;
        let labels: Vec<u32> = (0..n as u32).map(|i| i % classes).collect();
        let data = labels
            .iter()
            .flat_map(|&label| {
                (0..dim)
                    .map(|d| f32::from(d as u32 == label) + noise * (2.0 * unit() - 1.0))
                    .collect::<Vec<_>>()
            })
            .collect();
        Features::new(data, dim, labels).unwrap()
    }

    /// torch.optim.SGD on the same standardised features, first weights, batches and rates.
    #[test]
    fn training_is_that_of_pytorch() {
        let golden = Golden::open("linear_probe");
        let train = golden.features("train");
        let cached = Cached {
            statistics: Statistics::of(train.data(), 24),
            features: &train,
        };
        let mut heads = Heads::from(golden.f32s("head.start"), 1, 5).unwrap();
        let scale = f64::from(golden.f32s("sgd.scale")[0]);
        let mut sgd = plain_sgd(&heads, &[scale]);
        let (order, rates) = (golden.u32s("head.order"), golden.f32s("head.lr"));
        let losses = golden.f32s("sgd.losses");
        let mut end = vec![];
        for ((rows, lr), expected) in order.chunks(40).zip(rates).zip(losses) {
            let (rows, labels) = cached.gather(rows).unwrap();
            let loss = heads.step(&rows, &labels, |values, gradient| {
                sgd.step(values, gradient, f64::from(lr));
                end = values.to_vec();
            });
            let loss = loss.unwrap()[0];
            assert!(
                (loss / f64::from(expected) - 1.0).abs() < 1e-4,
                "{loss} against {expected}"
            );
        }
        for (a, b) in end.iter().zip(golden.f32s("sgd.end")) {
            assert!((a - b).abs() < 1e-4 * b.abs().max(1.0), "{a} against {b}");
        }
    }

    #[test]
    fn separable_clusters_are_told_apart_whatever_their_scale() {
        let (train, test) = (clusters(600, 8, 4, 0.3, 1), clusters(200, 8, 4, 0.3, 2));
        let report = sweep(&train, &test, &SweepOptions::default()).unwrap();
        assert_eq!((report.accuracy.top1, report.accuracy.count), (1.0, 200));
        let scaled = |set: &Features| {
            let data = set.rows().flat_map(|row| {
                row.iter()
                    .enumerate()
                    .map(|(d, v)| v * 10f32.powi(d as i32 - 2) + 7.0)
                    .collect::<Vec<_>>()
            });
            Features::new(data.collect(), 8, set.labels().to_vec()).unwrap()
        };
        let report = sweep(&scaled(&train), &scaled(&test), &SweepOptions::default()).unwrap();
        assert!(report.accuracy.top1 > 0.99, "{report:?}");
    }

    #[test]
    fn labels_without_meaning_stay_at_chance() {
        let (train, test) = (clusters(600, 8, 4, 0.3, 1), clusters(400, 8, 4, 0.3, 2));
        let scrambled = |set: &Features, seed| {
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            let labels = set.labels().iter().map(|_| rng.next_u32() % 4);
            Features::new(set.data().to_vec(), 8, labels.collect()).unwrap()
        };
        let (train, test) = (scrambled(&train, 3), scrambled(&test, 4));
        let report = sweep(&train, &test, &SweepOptions::default()).unwrap();
        assert!((0.15..0.35).contains(&report.accuracy.top1), "{report:?}");
    }

    #[test]
    fn the_rate_chosen_is_about_as_good_as_the_best() {
        let (train, test) = (clusters(600, 30, 3, 1.0, 6), clusters(600, 30, 3, 1.0, 7));
        let with = |learning_rates: &[f64]| {
            let options = SweepOptions {
                learning_rates: learning_rates.to_vec(),
                ..SweepOptions::default()
            };
            sweep(&train, &test, &options)
        };
        // The last blows the head up.
        let rates = [1e-2, 1e-1, 1.0, 1e39];
        let best = rates[..3]
            .iter()
            .map(|&rate| with(&[rate]).unwrap().accuracy.top1)
            .fold(0.0, f64::max);
        let chosen = with(&rates).unwrap();
        assert!(chosen.accuracy.top1 > best - 0.05, "{chosen:?}, {best}");
        assert!(with(&rates[3..]).is_err());
    }

    #[test]
    fn equal_seeds_give_equal_reports_and_rates_do_not_see_each_other() {
        let (train, test) = (clusters(300, 8, 4, 1.0, 1), clusters(200, 8, 4, 1.0, 2));
        let report = sweep(&train, &test, &SweepOptions::default()).unwrap();
        let again = sweep(&train, &test, &SweepOptions::default()).unwrap();
        assert_eq!(report, again);
        let alone = SweepOptions {
            learning_rates: vec![report.learning_rate],
            ..SweepOptions::default()
        };
        assert_eq!(sweep(&train, &test, &alone).unwrap(), report);
    }

    #[test]
    fn bad_input_is_an_error() {
        let set = clusters(30, 4, 3, 0.1, 1);
        let one = Features::new(vec![1.0, 2.0, 3.0], 1, vec![0; 3]).unwrap();
        let none = Features::new(vec![], 4, vec![]).unwrap();
        let good = SweepOptions::default();
        let failed = |train: &_, test: &_, options: &_| sweep(train, test, options).unwrap_err();
        assert!(matches!(
            failed(&none, &set, &good),
            EvalError::Empty { .. }
        ));
        assert!(matches!(failed(&set, &one, &good), EvalError::Width { .. }));
        assert!(matches!(
            failed(&one, &one, &good),
            EvalError::Classes { classes: 1 }
        ));
        let few = clusters(9, 4, 3, 0.1, 1);
        assert!(matches!(
            failed(&few, &few, &good),
            EvalError::Option { .. }
        ));
        for learning_rates in [vec![], vec![0.1, 0.0], vec![f64::NAN]] {
            let options = SweepOptions {
                learning_rates,
                ..good.clone()
            };
            assert!(matches!(
                failed(&set, &set, &options),
                EvalError::Option { .. }
            ));
        }
        let explosive = SweepOptions {
            learning_rates: vec![1e39],
            ..good
        };
        assert!(matches!(
            failed(&set, &set, &explosive),
            EvalError::Diverged { .. }
        ));
    }
}
