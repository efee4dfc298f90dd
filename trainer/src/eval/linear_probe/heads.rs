//! Linear classifiers, one or several side by side on the same features: logits, cross-entropy, gradient. No rate and no schedule.

use std::ops::Range;

use candle_core::{DType, Device, Tensor};
use mae_model::Precision;
use mae_model::ops::{Accumulate, linear};
use rand_chacha::ChaCha8Rng;
use rand_core::{RngCore, SeedableRng};
use rayon::prelude::*;

use super::super::error::Result;
use super::super::matrix::rank_of;

/// Deviation of the initial weights.
const INIT_STD: f64 = 0.01;

/// `count` classifiers of `classes` classes on features of `dim` numbers.
pub(super) struct Heads {
    count: usize,
    classes: usize,
    dim: usize,
    /// The weights [count · classes, dim], then the biases [count · classes].
    parameters: Vec<f32>,
    /// As `parameters`, on the same device as they: the CPU.
    gradient: Tensor,
}

impl Heads {
    /// One head whose weights are drawn from a normal distribution by `seed`, without bias: as the reference's begins.
    pub(super) fn drawn(classes: usize, dim: usize, seed: u64) -> Result<Self> {
        let mut parameters = vec![0.0; classes * (dim + 1)];
        normal(seed, &mut parameters[..classes * dim]);
        Self::from(parameters, 1, classes)
    }

    /// Heads that know nothing: all parameters zero.
    pub(super) fn zeros(count: usize, classes: usize, dim: usize) -> Result<Self> {
        Self::from(vec![0.0; count * classes * (dim + 1)], count, classes)
    }

    /// With `parameters`: every head's weight [classes, dim], then every head's bias [classes].
    pub(super) fn from(parameters: Vec<f32>, count: usize, classes: usize) -> Result<Self> {
        let dim = parameters.len() / (count * classes) - 1;
        Ok(Self {
            count,
            classes,
            dim,
            gradient: Tensor::zeros(parameters.len(), DType::F32, &Device::Cpu)?,
            parameters,
        })
    }

    fn outputs(&self) -> usize {
        self.count * self.classes
    }

    /// Where the weight of a head stands in the flat parameters.
    pub(super) fn weight(&self, head: usize) -> Range<usize> {
        let length = self.classes * self.dim;
        head * length..(head + 1) * length
    }

    /// Where the bias of a head stands in the flat parameters.
    pub(super) fn bias(&self, head: usize) -> Range<usize> {
        let start = self.outputs() * self.dim + head * self.classes;
        start..start + self.classes
    }

    /// The logits [n, count · classes] of `rows` [n, dim].
    pub(super) fn logits(&self, rows: &Tensor) -> Result<Vec<f32>> {
        let (weight, bias) = self.parameters.split_at(self.outputs() * self.dim);
        let weight = Tensor::from_slice(weight, (self.outputs(), self.dim), &Device::Cpu)?;
        let logits = Tensor::zeros((rows.dim(0)?, self.outputs()), DType::F32, &Device::Cpu)?;
        linear::forward(rows, &weight, &logits, Precision::F32)?;
        let mut logits = logits.flatten_all()?.to_vec1::<f32>()?;
        logits.par_chunks_mut(self.outputs()).for_each(|row| {
            row.iter_mut().zip(bias).for_each(|(v, b)| *v += b);
        });
        Ok(logits)
    }

    /// Mean cross-entropy of each head on `rows` [n, dim]; calls `update` with all parameters and their gradient, flat.
    pub(super) fn step(
        &mut self,
        rows: &Tensor,
        labels: &[u32],
        update: impl FnOnce(&mut [f32], &[f32]),
    ) -> Result<Vec<f64>> {
        let (outputs, classes) = (self.outputs(), self.classes);
        let mut logits = self.logits(rows)?;
        let share = 1.0 / labels.len() as f32;
        let losses: Vec<Vec<f64>> = logits
            .par_chunks_mut(outputs)
            .zip(labels)
            .map(|(row, &label)| {
                let heads = row.chunks_exact_mut(classes);
                let loss = heads.map(|row| softmax_minus_one_hot(row, label as usize, share));
                loss.collect()
            })
            .collect();
        let mut mean = vec![0.0; self.count];
        for row in losses {
            mean.iter_mut().zip(row).for_each(|(mean, v)| *mean += v);
        }
        mean.iter_mut().for_each(|mean| *mean *= f64::from(share));

        let errors = Tensor::from_vec(logits, (labels.len(), outputs), &Device::Cpu)?;
        let weights = outputs * self.dim;
        let replace = Accumulate::Replace;
        linear::backward_weight(
            rows,
            &errors,
            &self.gradient,
            0..weights,
            replace,
            Precision::F32,
        )?;
        let biases = weights..weights + outputs;
        mae_model::ops::reduce::column_sums(&errors, &self.gradient, biases, replace)?;
        update(&mut self.parameters, &self.gradient.to_vec1::<f32>()?);
        Ok(mean)
    }

    /// Each row's rank of its label, head by head.
    pub(super) fn ranks(&self, rows: &Tensor, labels: &[u32]) -> Result<Vec<Vec<usize>>> {
        let logits = self.logits(rows)?;
        let of_head = |head: usize| {
            logits
                .par_chunks(self.outputs())
                .zip(labels)
                .map(|(row, &label)| rank_of(&row[head * self.classes..][..self.classes], label))
                .collect()
        };
        Ok((0..self.count).map(of_head).collect())
    }
}

/// Turns logits into the cross-entropy's gradient with respect to them, times `share`, and returns the cross-entropy.
fn softmax_minus_one_hot(row: &mut [f32], label: usize, share: f32) -> f64 {
    let highest = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let own = row[label] - highest;
    let mut sum = 0.0;
    for v in row.iter_mut() {
        *v = (*v - highest).exp();
        sum += *v;
    }
    let scale = share / sum;
    row.iter_mut().for_each(|v| *v *= scale);
    row[label] -= share;
    f64::from(sum.ln() - own)
}

/// Fills `out` by the Box-Muller method.
fn normal(seed: u64, out: &mut [f32]) {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut unit = || (rng.next_u64() >> 11) as f64 / (1u64 << 53) as f64;
    for pair in out.chunks_mut(2) {
        let radius = (-2.0 * (1.0 - unit()).ln()).sqrt() * INIT_STD;
        let angle = std::f64::consts::TAU * unit();
        for (v, part) in pair.iter_mut().zip([angle.cos(), angle.sin()]) {
            *v = (radius * part) as f32;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(n: usize, dim: usize) -> Tensor {
        let data: Vec<f32> = (0..n * dim).map(|i| (i as f32 * 1.7).sin()).collect();
        Tensor::from_vec(data, (n, dim), &Device::Cpu).unwrap()
    }

    #[test]
    fn the_gradient_is_that_of_each_heads_loss() {
        let (x, labels) = (rows(7, 4), [0, 2, 1, 1, 0, 2, 2]);
        let parameters: Vec<f32> = (0..30).map(|i| (i as f32 * 0.9).cos()).collect();
        let loss_at = |parameters: &[f32]| {
            let mut heads = Heads::from(parameters.to_vec(), 2, 3).unwrap();
            heads.step(&x, &labels, |_, _| ()).unwrap()
        };
        let mut heads = Heads::from(parameters.clone(), 2, 3).unwrap();
        let mut gradient = vec![];
        heads
            .step(&x, &labels, |_, of| gradient = of.to_vec())
            .unwrap();
        for head in 0..2 {
            for i in heads.weight(head).chain(heads.bias(head)) {
                let mut moved = parameters.clone();
                moved[i] += 1e-2;
                let above = loss_at(&moved);
                moved[i] -= 2e-2;
                let below = loss_at(&moved);
                let numeric = (above[head] - below[head]) / 2e-2;
                assert!(
                    (numeric - f64::from(gradient[i])).abs() < 1e-4,
                    "head {head}, {i}: {numeric} against {}",
                    gradient[i]
                );
                // The other head does not see it.
                assert_eq!(above[1 - head], below[1 - head]);
            }
        }
    }

    #[test]
    fn drawn_weights_are_small_and_there_is_no_bias() {
        let heads = Heads::drawn(100, 500, 5).unwrap();
        let (weight, bias) = heads.parameters.split_at(50_000);
        let squares: f64 = weight.iter().map(|&v| f64::from(v).powi(2)).sum();
        assert!(((squares / 50_000.0).sqrt() / INIT_STD - 1.0).abs() < 0.02);
        assert!(bias.len() == 100 && bias.iter().all(|&v| v == 0.0));
    }

    #[test]
    fn logits_that_are_not_numbers_are_no_hits() {
        let heads = Heads::from(vec![f32::NAN; 10], 1, 2).unwrap();
        let ranks = heads.ranks(&rows(3, 4), &[0, 1, 0]).unwrap();
        assert_eq!(ranks, [[2, 2, 2]]);
    }
}
