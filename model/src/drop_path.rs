//! Drop path, stochastic depth by sample (Huang et al. 2016, arXiv 1603.09382): in training a sample skips a branch of a block, attention
//! or MLP, with a probability that grows from 0 in the first block to `rate` in the last, as in timm. Where it does not, the branch is
//! divided by the probability that it does not.

use candle_core::{Device, Tensor};
use rand_chacha::ChaCha8Rng;
use rand_core::{RngCore, SeedableRng};

use crate::Result;

/// One draw for a batch: what each sample's branches are multiplied by.
pub struct DropPath {
    /// Of each block, for its attention and its MLP, `[B]`.
    factors: Vec<[Tensor; 2]>,
}

impl DropPath {
    /// The probabilities of `depth` blocks, timm's `linspace(0, rate, depth)`.
    pub fn rates(rate: f64, depth: usize) -> Vec<f64> {
        (0..depth)
            .map(|block| rate * block as f64 / depth.saturating_sub(1).max(1) as f64)
            .collect()
    }

    /// Draws for `batch` samples; a block's attention and MLP draw each for itself. The same seed and stream give the same draws.
    ///
    /// # Errors
    /// If the device has no room.
    pub fn draw(
        rates: &[f64],
        batch: usize,
        (seed, stream): (u64, u64),
        device: &Device,
    ) -> Result<Self> {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        rng.set_stream(stream);
        let mut numbers = Vec::with_capacity(2 * rates.len() * batch);
        for &rate in rates {
            let kept = (1.0 / (1.0 - rate)) as f32;
            for _ in 0..2 * batch {
                let unit = f64::from(rng.next_u32()) / 2f64.powi(32);
                numbers.push(if unit < rate { 0.0 } else { kept });
            }
        }
        // One copy to the device.
        let all = Tensor::from_vec(numbers, (2 * rates.len(), batch), device)?;
        let factors = (0..rates.len())
            .map(|block| Ok([all.get(2 * block)?, all.get(2 * block + 1)?]))
            .collect::<Result<_>>()?;
        Ok(Self { factors })
    }

    pub(crate) fn attention(&self, block: usize) -> &Tensor {
        &self.factors[block][0]
    }

    pub(crate) fn mlp(&self, block: usize) -> &Tensor {
        &self.factors[block][1]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_grow_linearly() {
        assert_eq!(
            DropPath::rates(0.3, 4),
            [0.0, 0.3 / 3.0, 0.3 * 2.0 / 3.0, 0.3]
        );
        assert_eq!(DropPath::rates(0.3, 1), [0.0]);
    }

    #[test]
    fn branches_are_dropped_at_their_rate_and_kept_in_the_mean() {
        let rates = [0.0, 0.25];
        let batch = 4000;
        let draw = |stream| DropPath::draw(&rates, batch, (5, stream), &Device::Cpu).unwrap();
        let (one, again, other) = (draw(1), draw(1), draw(2));
        let numbers = |x: &Tensor| x.to_vec1::<f32>().unwrap();
        assert!(numbers(one.attention(0)).iter().all(|&x| x == 1.0));
        for factors in [one.attention(1), one.mlp(1)] {
            let factors = numbers(factors);
            let dropped = factors.iter().filter(|&&x| x == 0.0).count() as f64 / batch as f64;
            // Four standard deviations.
            assert!((dropped - 0.25).abs() < 4.0 * (0.25 * 0.75 / batch as f64).sqrt());
            assert!(
                factors
                    .iter()
                    .all(|&x| x == 0.0 || x == (1.0 / 0.75f64) as f32)
            );
        }
        assert_eq!(numbers(one.mlp(1)), numbers(again.mlp(1)));
        assert_ne!(numbers(one.mlp(1)), numbers(other.mlp(1)));
        assert_ne!(numbers(one.mlp(1)), numbers(one.attention(1)));
    }
}
