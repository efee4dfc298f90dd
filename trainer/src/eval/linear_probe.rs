//! A linear classifier on frozen features: how much of the classes a plane can read from them.
//!
//! As the reference code, features are standardised without learnt scale (its `BatchNorm1d(affine=False, eps=1e-6)`), here with the
//! train set's own mean and variance, and a softmax regression is fitted to them. That problem is convex, so it is solved to its
//! minimum by L-BFGS instead of by a schedule of SGD or LARS: the answer depends on no learning rate, and features of any width and
//! scale, raw pixels too, are judged alike. The strength of the L2 penalty is chosen for each set of features from a fixed grid on a
//! tenth of the train set, from the strongest on until two in a row bring nothing, never on the test set. Without augmentation, so not comparable with the paper's linear-probe numbers.

use candle_core::{Device, Tensor};
use rand_chacha::ChaCha8Rng;
use rand_core::{RngCore, SeedableRng};
use rayon::prelude::*;

use super::error::{EvalError, Result};
use super::lbfgs::{Stop, minimise};
use super::matrix::{Accuracy, Features, rank_of};

/// The gradient's norm at which the minimum counts as found: accuracies no longer move there.
const GRADIENT: f64 = 3e-4;
/// Rows of a product at a time: bounds the logits held.
const CHUNK: usize = 4096;
/// Share of a feature's variance below which it is left as it is: `eps` of the reference code's BatchNorm.
const EPS: f64 = 1e-6;

/// How the probe is fitted.
#[derive(Clone, Debug, PartialEq)]
pub struct ProbeOptions {
    /// Strengths of the L2 penalty to choose from.
    pub penalties: Vec<f64>,
    /// Iterations of a fit at most.
    pub iterations: usize,
    /// Decides which tenth of the train set chooses the penalty.
    pub seed: u64,
}

impl Default for ProbeOptions {
    fn default() -> Self {
        Self {
            penalties: vec![1e-1, 1e-2, 1e-3, 1e-4, 1e-5],
            iterations: 100,
            seed: 0,
        }
    }
}

/// What the probe found.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct ProbeReport {
    /// On the test set.
    pub accuracy: Accuracy,
    /// On the train set; far above `accuracy` where the probe learnt samples by heart.
    pub train: Accuracy,
    /// The penalty chosen.
    pub penalty: f64,
}

/// Fits on `train`, judges on `test`.
///
/// # Errors
/// Where a set is empty or not finite, the widths differ, the train set has one class only, or an option is out of range.
pub fn linear_probe(
    train: &Features,
    test: &Features,
    options: &ProbeOptions,
) -> Result<ProbeReport> {
    train.check("train", "fit")?;
    test.check("test", "classify")?;
    if train.dim() != test.dim() {
        return Err(EvalError::Width {
            train: train.dim(),
            test: test.dim(),
        });
    }
    if options.penalties.is_empty()
        || options
            .penalties
            .iter()
            .any(|p| !p.is_finite() || *p <= 0.0)
    {
        return Err(EvalError::Option {
            name: "every penalty",
            must: "above 0, and one at least given",
        });
    }
    let present = train
        .labels()
        .iter()
        .collect::<std::collections::HashSet<_>>()
        .len();
    if present < 2 {
        return Err(EvalError::Classes { classes: present });
    }
    let classes = train.classes();
    let penalty = choose_penalty(train, classes, options)?;
    let scaling = Scaling::of(train);
    let train = Design::new(train, &scaling)?;
    let mut probe = Probe::zeros(scaling.mean.len(), classes);
    probe.fit(&train, penalty, options.iterations)?;
    let test = Design::new(test, &scaling)?;
    Ok(ProbeReport {
        accuracy: probe.judge(&test)?,
        train: probe.judge(&train)?,
        penalty,
    })
}

/// The penalty under which nine tenths of the train set predict the last tenth best; of equals the strongest.
fn choose_penalty(train: &Features, classes: usize, options: &ProbeOptions) -> Result<f64> {
    let mut penalties = options.penalties.clone();
    penalties.sort_by(|a, b| b.total_cmp(a));
    if penalties.len() == 1 || train.len() < 20 {
        return Ok(penalties[0]);
    }
    let mut rng = ChaCha8Rng::seed_from_u64(options.seed);
    let draws: Vec<u32> = (0..train.len()).map(|_| rng.next_u32()).collect();
    let (fit, held) = train.split(|index| draws[index] % 10 == 9);
    if held.is_empty() {
        return Ok(penalties[0]);
    }
    let scaling = Scaling::of(&fit);
    let (fit, held) = (Design::new(&fit, &scaling)?, Design::new(&held, &scaling)?);
    // From the strongest on, each fit begins where the one before ended.
    let mut probe = Probe::zeros(train.dim(), classes);
    let mut best = (penalties[0], -1.0);
    let mut worse = 0;
    for &penalty in &penalties {
        probe.fit(&fit, penalty, options.iterations)?;
        let top1 = probe.judge(&held)?.top1;
        if top1 > best.1 {
            best = (penalty, top1);
            worse = 0;
        } else {
            worse += 1;
        }
        // Past its best the probe only learns samples by heart, which takes the most iterations.
        if worse == 2 {
            break;
        }
    }
    Ok(best.0)
}

/// A set's mean and inverse deviation, a column each.
struct Scaling {
    mean: Vec<f32>,
    inverse: Vec<f32>,
}

impl Scaling {
    fn of(features: &Features) -> Self {
        let (n, dim) = (features.len() as f64, features.dim());
        let mut mean = vec![0.0f64; dim];
        for row in features.rows() {
            mean.iter_mut()
                .zip(row)
                .for_each(|(mean, &v)| *mean += f64::from(v) / n);
        }
        let mut variance = vec![0.0f64; dim];
        for row in features.rows() {
            for ((variance, &v), mean) in variance.iter_mut().zip(row).zip(&mean) {
                *variance += (f64::from(v) - mean).powi(2) / n;
            }
        }
        Self {
            mean: mean.into_iter().map(|v| v as f32).collect(),
            inverse: variance
                .into_iter()
                .map(|v| (1.0 / (v + EPS).sqrt()) as f32)
                .collect(),
        }
    }
}

/// A standardised set in chunks of rows, ready for products.
struct Design {
    chunks: Vec<Chunk>,
    samples: usize,
}

struct Chunk {
    rows: Tensor,
    transposed: Tensor,
    labels: Vec<u32>,
}

impl Design {
    fn new(features: &Features, scaling: &Scaling) -> Result<Self> {
        let dim = features.dim();
        let chunks = features
            .data()
            .chunks(CHUNK * dim)
            .zip(features.labels().chunks(CHUNK))
            .map(|(data, labels)| {
                let mut data = data.to_vec();
                data.par_chunks_mut(dim).for_each(|row| {
                    for ((v, mean), inverse) in
                        row.iter_mut().zip(&scaling.mean).zip(&scaling.inverse)
                    {
                        *v = (*v - mean) * inverse;
                    }
                });
                let rows = Tensor::from_vec(data, (labels.len(), dim), &Device::Cpu)?;
                Ok(Chunk {
                    transposed: rows.t()?,
                    rows,
                    labels: labels.to_vec(),
                })
            })
            .collect::<Result<_>>()?;
        Ok(Self {
            chunks,
            samples: features.len(),
        })
    }
}

/// The classifier: `parameters` is the weight [dim, classes] with the bias [classes] behind it.
struct Probe {
    parameters: Vec<f32>,
    dim: usize,
    classes: usize,
}

impl Probe {
    fn zeros(dim: usize, classes: usize) -> Self {
        Self {
            parameters: vec![0.0; (dim + 1) * classes],
            dim,
            classes,
        }
    }

    fn fit(&mut self, set: &Design, penalty: f64, iterations: usize) -> Result<()> {
        let (dim, classes) = (self.dim, self.classes);
        let stop = Stop {
            iterations,
            gradient: GRADIENT,
        };
        minimise(&mut self.parameters, stop, |parameters, gradient| {
            objective(set, parameters, (dim, classes), penalty, gradient)
        })?;
        Ok(())
    }

    fn judge(&self, set: &Design) -> Result<Accuracy> {
        let mut ranks = Vec::with_capacity(set.samples);
        for chunk in &set.chunks {
            let logits = logits(chunk, &self.parameters, (self.dim, self.classes))?;
            ranks.extend(
                logits
                    .chunks_exact(self.classes)
                    .zip(&chunk.labels)
                    .map(|(row, &label)| rank_of(row, label)),
            );
        }
        Ok(Accuracy::from_ranks(&ranks))
    }
}

/// The chunk's logits [rows, classes], row by row.
fn logits(chunk: &Chunk, parameters: &[f32], (dim, classes): (usize, usize)) -> Result<Vec<f32>> {
    let (weight, bias) = parameters.split_at(dim * classes);
    let weight = Tensor::from_slice(weight, (dim, classes), &Device::Cpu)?;
    let mut logits = chunk
        .rows
        .matmul(&weight)?
        .flatten_all()?
        .to_vec1::<f32>()?;
    for row in logits.chunks_exact_mut(classes) {
        row.iter_mut().zip(bias).for_each(|(v, b)| *v += b);
    }
    Ok(logits)
}

/// Mean cross-entropy plus `penalty`/2 · |weight|², and its gradient; the bias is not penalised.
fn objective(
    set: &Design,
    parameters: &[f32],
    shape @ (dim, classes): (usize, usize),
    penalty: f64,
    gradient: &mut [f32],
) -> Result<f64> {
    let weights = dim * classes;
    let share = 1.0 / set.samples as f32;
    for (gradient, &parameter) in gradient[..weights].iter_mut().zip(parameters) {
        *gradient = penalty as f32 * parameter;
    }
    gradient[weights..].fill(0.0);
    let squares: f64 = parameters[..weights]
        .iter()
        .map(|&w| f64::from(w) * f64::from(w))
        .sum();
    let mut value = 0.5 * penalty * squares;
    for chunk in &set.chunks {
        let mut errors = logits(chunk, parameters, shape)?;
        for (row, &label) in errors.chunks_exact_mut(classes).zip(&chunk.labels) {
            value += softmax_minus_one_hot(row, label as usize) / set.samples as f64;
            for (v, bias) in row.iter_mut().zip(&mut gradient[weights..]) {
                *v *= share;
                *bias += *v;
            }
        }
        let errors = Tensor::from_vec(errors, (chunk.labels.len(), classes), &Device::Cpu)?;
        let products = chunk
            .transposed
            .matmul(&errors)?
            .flatten_all()?
            .to_vec1::<f32>()?;
        gradient[..weights]
            .iter_mut()
            .zip(products)
            .for_each(|(gradient, v)| *gradient += v);
    }
    Ok(value)
}

/// Turns logits into the cross-entropy's gradient with respect to them, and returns the cross-entropy.
fn softmax_minus_one_hot(row: &mut [f32], label: usize) -> f64 {
    let highest = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let own = row[label] - highest;
    let mut sum = 0.0;
    for v in row.iter_mut() {
        *v = (*v - highest).exp();
        sum += *v;
    }
    row.iter_mut().for_each(|v| *v /= sum);
    row[label] -= 1.0;
    f64::from(sum.ln() - own)
}

#[cfg(test)]
mod tests {
    use super::*;

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

    #[test]
    fn separable_clusters_are_told_apart_whatever_their_scale() {
        let (train, test) = (clusters(600, 8, 4, 0.3, 1), clusters(200, 8, 4, 0.3, 2));
        let report = linear_probe(&train, &test, &ProbeOptions::default()).unwrap();
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
        let report =
            linear_probe(&scaled(&train), &scaled(&test), &ProbeOptions::default()).unwrap();
        assert!(report.accuracy.top1 > 0.99, "{report:?}");
    }

    #[test]
    fn labels_without_meaning_stay_at_chance() {
        let (train, test) = (clusters(600, 8, 4, 0.3, 1), clusters(400, 8, 4, 0.3, 2));
        let scrambled = |set: &Features, seed| {
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            Features::new(
                set.data().to_vec(),
                8,
                set.labels().iter().map(|_| rng.next_u32() % 4).collect(),
            )
            .unwrap()
        };
        let report = linear_probe(
            &scrambled(&train, 3),
            &scrambled(&test, 4),
            &ProbeOptions::default(),
        )
        .unwrap();
        assert!((0.15..0.35).contains(&report.accuracy.top1), "{report:?}");
    }

    #[test]
    fn the_minimum_is_the_analytic_one() {
        // One feature that is ±1, two classes, a share q of the class where the sign says so. Without a bias by symmetry, the weights are
        // ±w with cross-entropy −q ln σ(2w) − (1−q) ln σ(−2w) + penalty w² (both columns): at the minimum σ(2w) = q − penalty·w.
        let (n, right) = (1000, 800);
        let data: Vec<f32> = (0..n)
            .map(|i| if i % 2 == 0 { 1.0 } else { -1.0 })
            .collect();
        let labels: Vec<u32> = (0..n)
            .map(|i| u32::from((i % 2 == 1) == (i < right)))
            .collect();
        let set = Features::new(data, 1, labels).unwrap();
        let scaling = Scaling {
            mean: vec![0.0],
            inverse: vec![1.0],
        };
        let set = Design::new(&set, &scaling).unwrap();
        let penalty = 0.05;
        let mut probe = Probe::zeros(1, 2);
        probe.fit(&set, penalty, 100).unwrap();
        let w = f64::from(probe.parameters[0]);
        let sigma = 1.0 / (1.0 + (-2.0 * w).exp());
        assert!(
            (sigma - (0.8 - penalty * w)).abs() < 1e-3,
            "w = {w}, sigma = {sigma}"
        );
        assert!((f64::from(probe.parameters[1]) + w).abs() < 1e-3);
        assert!(probe.parameters[2].abs() < 1e-3);
    }

    #[test]
    fn the_gradient_is_that_of_the_value() {
        let set = clusters(50, 3, 3, 1.0, 5);
        let set = Design::new(&set, &Scaling::of(&set)).unwrap();
        let mut parameters: Vec<f32> = (0..12).map(|i| (i as f32 * 1.7).sin()).collect();
        let mut gradient = vec![0.0; 12];
        let mut scratch = vec![0.0; 12];
        objective(&set, &parameters, (3, 3), 0.1, &mut gradient).unwrap();
        for i in 0..12 {
            let at = parameters[i];
            let mut value = |v| {
                parameters[i] = v;
                objective(&set, &parameters, (3, 3), 0.1, &mut scratch).unwrap()
            };
            let numeric = (value(at + 1e-2) - value(at - 1e-2)) / 2e-2;
            parameters[i] = at;
            assert!(
                (numeric - f64::from(gradient[i])).abs() < 1e-3,
                "{i}: {numeric} against {}",
                gradient[i]
            );
        }
    }

    #[test]
    fn noise_chooses_a_strong_penalty() {
        // Many columns of noise, few samples: the weakest penalty would learn them by heart.
        let (train, test) = (clusters(120, 200, 3, 2.0, 6), clusters(600, 200, 3, 2.0, 7));
        let chosen = linear_probe(&train, &test, &ProbeOptions::default()).unwrap();
        let weakest = ProbeOptions {
            penalties: vec![1e-5],
            ..ProbeOptions::default()
        };
        let weakest = linear_probe(&train, &test, &weakest).unwrap();
        assert!(chosen.penalty > 1e-3, "{chosen:?}");
        assert!(
            chosen.accuracy.top1 > weakest.accuracy.top1,
            "{chosen:?} against {weakest:?}"
        );
        assert_eq!(weakest.train.top1, 1.0);
    }

    #[test]
    fn bad_input_is_an_error() {
        let set = clusters(30, 4, 3, 0.1, 1);
        let one = Features::new(vec![1.0, 2.0, 3.0], 1, vec![0; 3]).unwrap();
        let none = Features::new(vec![], 4, vec![]).unwrap();
        let options = ProbeOptions::default();
        assert!(matches!(
            linear_probe(&none, &set, &options),
            Err(EvalError::Empty { .. })
        ));
        assert!(matches!(
            linear_probe(&set, &one, &options),
            Err(EvalError::Width { .. })
        ));
        assert!(matches!(
            linear_probe(&one, &one, &options),
            Err(EvalError::Classes { classes: 1 })
        ));
        assert!(
            linear_probe(
                &set,
                &set,
                &ProbeOptions {
                    penalties: vec![],
                    ..options
                }
            )
            .is_err()
        );
    }
}
