//! How many samples of each part of a mixture stand before a position: exactly, and without counting.
//!
//! The position is global, `epoch × samples of an epoch + place`. A part with the share `w` of the whole gets `⌊P·w⌋` or `⌈P·w⌉` of
//! the first `P` samples; the ones that rounding down leaves over go to the parts with the largest remainders. This holds at the
//! ends of *blocks* only: an epoch is cut into blocks of about 50,000 places (at most 65,536, alike to within one), and which part
//! stands where inside a block is a matter of chance. So what a block holds follows from its two ends, whatever came before.
//!
//! A block must not hold less than no sample of a part. It never does if `length × w ≥ 1`: then
//! `⌊(P + length)·w⌋ ≥ ⌊P·w + 1⌋ ≥ ⌈P·w⌉`. Shares too small for that are refused.

use std::cmp::Reverse;
use std::ops::Range;

/// The most places in a block. It sets the memory of the order, 8 bytes a place, and over how many samples shares are kept.
const BLOCK: u64 = 1 << 16;

/// Shares are kept in billionths of the whole, give or take rounding: 0.7 and 0.3, or three equal parts, are exact.
const SCALE: f64 = 1e9;

/// A part that would be left out of some block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TooSmall {
    /// The part's number.
    pub(crate) part: usize,
    /// The samples of the shortest block, none of which may be this part's.
    pub(crate) samples: u64,
    /// Whether longer epochs would help.
    pub(crate) short_epoch: bool,
}

/// Shares of parts, and an epoch cut into blocks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Quotas {
    /// Each part's share, in units of 1 / `whole`.
    shares: Vec<u64>,
    whole: u64,
    epoch_samples: u64,
    blocks: u64,
}

impl Quotas {
    /// Shares in proportion to `weights` (one at least, finite and above 0), for epochs of `epoch_samples` (at least 1).
    pub(crate) fn new(weights: &[f64], epoch_samples: u64) -> Result<Self, TooSmall> {
        let shares = shares(weights);
        let whole = shares.iter().sum();
        let blocks = epoch_samples.div_ceil(BLOCK).max(1);
        let shortest = epoch_samples / blocks;
        for (part, &share) in shares.iter().enumerate() {
            if u128::from(shortest) * u128::from(share) < u128::from(whole) {
                return Err(TooSmall {
                    part,
                    samples: shortest,
                    short_epoch: blocks == 1,
                });
            }
        }
        Ok(Quotas {
            shares,
            whole,
            epoch_samples,
            blocks,
        })
    }

    pub(crate) fn epoch_samples(&self) -> u64 {
        self.epoch_samples
    }

    /// The most places in a block.
    pub(crate) fn longest_block(&self) -> u64 {
        self.epoch_samples.div_ceil(self.blocks)
    }

    /// The position of a place.
    pub(crate) fn position(&self, epoch: u64, place: u64) -> u128 {
        u128::from(epoch) * u128::from(self.epoch_samples) + u128::from(place)
    }

    /// The block of an epoch that holds `place`, and the places in it.
    pub(crate) fn block(&self, place: u64) -> (u64, Range<u64>) {
        let (blocks, samples) = (u128::from(self.blocks), u128::from(self.epoch_samples));
        // The last number whose start, ⌊samples × number / blocks⌋, is not beyond the place.
        let number = ((u128::from(place) + 1) * blocks - 1) / samples;
        let start = |number: u128| (samples * number / blocks) as u64;
        (number as u64, start(number)..start(number + 1))
    }

    /// Samples of each part among the first `position`, where that is the end of a block: they add up to `position`, and each is
    /// `position` times the part's share, rounded down or up.
    pub(crate) fn before(&self, position: u128) -> Vec<u128> {
        let whole = u128::from(self.whole);
        // Whole rounds divide without a remainder, and leave numbers too small to overflow.
        let (rounds, mut missing) = (position / whole, position % whole);
        let rest = missing;
        let mut counts = Vec::with_capacity(self.shares.len());
        let mut remainders = Vec::with_capacity(self.shares.len());
        for (part, &share) in self.shares.iter().enumerate() {
            let product = rest * u128::from(share);
            counts.push(rounds * u128::from(share) + product / whole);
            missing -= product / whole;
            remainders.push((Reverse(product % whole), part));
        }
        // As many are missing as the remainders add up to, each less than one: the parts that get one have a remainder.
        remainders.sort_unstable();
        for &(_, part) in remainders.iter().take(missing as usize) {
            counts[part] += 1;
        }
        counts
    }
}

/// `weights` as whole numbers in proportion: two lists of the same mixture have the same shares.
pub(crate) fn shares(weights: &[f64]) -> Vec<u64> {
    // Divided first, so that the largest numbers that there are do not add up to infinity.
    let largest = weights.iter().copied().fold(0.0, f64::max);
    let sum: f64 = weights.iter().map(|weight| weight / largest).sum();
    weights
        .iter()
        .map(|weight| (weight / largest / sum * SCALE).round() as u64)
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Ends of all blocks of some epochs.
    fn ends(quotas: &Quotas, epochs: u64) -> Vec<u128> {
        let mut ends = vec![];
        for epoch in 0..epochs {
            let mut place = 0;
            while place < quotas.epoch_samples() {
                let (_, places) = quotas.block(place);
                assert_eq!(places.start, place);
                ends.push(quotas.position(epoch, places.end));
                place = places.end;
            }
        }
        ends
    }

    proptest! {
        #[test]
        fn quotas_are_whole_and_never_taken_back(
            weights in prop::collection::vec(0.001f64..1.0, 1..9), samples in 1u64..400_000, epochs in 1u64..6, start in 0u64..1 << 60,
        ) {
            let Ok(quotas) = Quotas::new(&weights, samples) else { return Ok(()) };
            let whole: u64 = quotas.shares.iter().sum();
            let from = quotas.position(start, 0);
            let mut last = quotas.before(from);
            for end in ends(&quotas, epochs).into_iter().map(|end| from + end) {
                let counts = quotas.before(end);
                prop_assert_eq!(counts.iter().sum::<u128>(), end);
                for (part, (&count, &share)) in counts.iter().zip(&quotas.shares).enumerate() {
                    let exact = end * u128::from(share);
                    prop_assert!(count == exact / u128::from(whole) || count == exact.div_ceil(u128::from(whole)));
                    prop_assert!(count >= last[part]);
                }
                last = counts;
            }
        }

        /// The hard case: parts that get hardly more than one sample a block, next to large ones.
        #[test]
        fn the_smallest_shares_that_pass_are_never_taken_back(
            samples in 10u64..200, small in prop::collection::vec(1.0f64..1.9, 1..6),
        ) {
            let mut weights: Vec<f64> = small.iter().map(|expected| expected / samples as f64).collect();
            let rest = 1.0 - weights.iter().sum::<f64>();
            prop_assume!(rest > 0.0);
            weights.push(rest);
            let Ok(quotas) = Quotas::new(&weights, samples) else { return Ok(()) };
            let mut last = vec![0; weights.len()];
            for epoch in 1..200 {
                let counts = quotas.before(quotas.position(epoch, 0));
                for (count, last) in counts.iter().zip(&last) {
                    prop_assert!(count >= last, "{counts:?} after {last:?}");
                }
                last = counts;
            }
        }

        #[test]
        fn every_place_is_in_its_block(samples in 1u64..1 << 40, at in 0.0f64..1.0) {
            let quotas = Quotas::new(&[1.0], samples).unwrap();
            let place = ((samples as f64 * at) as u64).min(samples - 1);
            let (number, places) = quotas.block(place);
            prop_assert!(places.contains(&place) && number < quotas.blocks);
            prop_assert!(places.end - places.start <= BLOCK);
            prop_assert!(places.end - places.start >= samples.min(BLOCK / 2));
        }
    }

    #[test]
    fn shares_are_in_proportion() {
        assert_eq!(shares(&[0.7, 0.3]), shares(&[7.0, 3.0]));
        assert_eq!(shares(&[1.0, 1.0, 1.0]), [333_333_333; 3]);
        assert_eq!(
            shares(&[f64::MAX, f64::MAX]),
            shares(&[f64::MIN_POSITIVE; 2])
        );
        let quotas = Quotas::new(&[0.7, 0.3], 1000).unwrap();
        assert_eq!(quotas.before(1000), [700, 300]);
        assert_eq!(quotas.before(5), [4, 1]);
        let thirds = Quotas::new(&[1.0; 3], 10).unwrap();
        assert_eq!(thirds.before(30), [10; 3]);
        assert_eq!(thirds.before(10), [4, 3, 3]);
    }

    #[test]
    fn shares_of_less_than_a_sample_are_refused() {
        assert!(Quotas::new(&[0.9, 0.1], 10).is_ok());
        let refused = |part, samples, short_epoch| {
            Err(TooSmall {
                part,
                samples,
                short_epoch,
            })
        };
        assert_eq!(Quotas::new(&[0.9, 0.1], 9), refused(1, 9, true));
        assert_eq!(
            Quotas::new(&[1e-9, 1.0], 1 << 17),
            refused(0, 1 << 16, false)
        );
        assert!(Quotas::new(&[f64::MIN_POSITIVE, f64::MAX], 1 << 20).is_err());
    }
}
