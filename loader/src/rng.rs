//! The generator behind every random choice of the loader.
//!
//! A draw depends on what it is for and where it stands, never on which thread makes it or when: ChaCha with 8 rounds, keyed by
//! what the draw is for and read at a stream of its own. The mappings to integers and floats are written out here and pinned by
//! `tests/golden/draws.json`, so that a run can be repeated with a later version of this crate, or of any crate below it.
//!
//! | words | content |
//! | --- | --- |
//! | key 0–1 | seed, low word first |
//! | key 2–3 | epoch, low word first |
//! | key 4–5 | repeat (0 unless one decoded image is cropped several times), or for an order the number of the data set in a mixture; low word first |
//! | key 6–7 | purpose, as eight ASCII characters |
//! | counter | 0, in 64-byte blocks |
//! | stream | place of the sample in its epoch, or the number of the window, block or step |
//!
//! This is no source of secrets: seed, epoch and place are no secrets either.

use rand_chacha::ChaCha8Rng;
use rand_core::{RngCore, SeedableRng};

/// What a stream of draws is for. Streams of different purposes share nothing, so that a mask does not change with the size of the
/// image that it covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// The order of the shards in an epoch (stream 0).
    Shards,
    /// The order of the samples in a window (stream: the number of the window).
    Window,
    /// Which data set of a mixture stands where in a block of places (stream: the number of the block).
    Mix,
    /// Flip, then crop, of the sample at a place (stream: the place).
    Crop,
    /// The mask of the sample at a place (stream: the place).
    Mask,
    /// The operations on the pixels of the sample at a place (stream: the place).
    Augment,
    /// The changes to the colours of the sample at a place (stream: the place).
    Jitter,
    /// The box to erase of the sample at a place (stream: the place).
    Erase,
    /// How a batch is mixed (stream: its step).
    Mixing,
}

impl Purpose {
    fn tag(self) -> &'static [u8; 8] {
        match self {
            Purpose::Shards => b"shards  ",
            Purpose::Window => b"window  ",
            Purpose::Mix => b"mix     ",
            Purpose::Crop => b"crop    ",
            Purpose::Mask => b"mask    ",
            Purpose::Augment => b"augment ",
            Purpose::Jitter => b"jitter  ",
            Purpose::Erase => b"erase   ",
            Purpose::Mixing => b"mixing  ",
        }
    }
}

/// What the draws of one stream depend on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Key {
    pub(crate) seed: u64,
    pub(crate) epoch: u64,
    /// Place in the epoch, or number of the window or block.
    pub(crate) place: u64,
    pub(crate) repeat: u64,
}

/// One stream of draws.
pub(crate) struct Draws {
    rng: ChaCha8Rng,
}

impl Draws {
    /// The stream of `key` for `purpose`, from its start.
    pub(crate) fn new(purpose: Purpose, key: Key) -> Self {
        let mut bytes = [0u8; 32];
        bytes[0..8].copy_from_slice(&key.seed.to_le_bytes());
        bytes[8..16].copy_from_slice(&key.epoch.to_le_bytes());
        bytes[16..24].copy_from_slice(&key.repeat.to_le_bytes());
        bytes[24..32].copy_from_slice(purpose.tag());
        let mut rng = ChaCha8Rng::from_seed(bytes);
        rng.set_stream(key.place);
        Draws { rng }
    }

    /// A uniform integer in `0..bound`, without bias (Lemire 2019, arXiv 1805.10941).
    ///
    /// Takes the high word of `word × bound`, and takes another word while the low word is below `2³² mod bound`.
    /// A bound of 0 counts as 1.
    pub(crate) fn below(&mut self, bound: u32) -> u32 {
        let bound = bound.max(1);
        let mut product = u64::from(self.rng.next_u32()) * u64::from(bound);
        if (product as u32) < bound {
            let rejected = bound.wrapping_neg() % bound;
            while (product as u32) < rejected {
                product = u64::from(self.rng.next_u32()) * u64::from(bound);
            }
        }
        (product >> 32) as u32
    }

    /// A uniform float in `[0, 1)`: the high 53 bits of two words (the first one low) times 2⁻⁵³.
    pub(crate) fn unit(&mut self) -> f64 {
        let low = u64::from(self.rng.next_u32());
        let high = u64::from(self.rng.next_u32());
        ((high << 32 | low) >> 11) as f64 * (1.0 / (1u64 << 53) as f64)
    }

    /// A uniform float from `low` on and below `high`: `low + (high − low) × unit`.
    pub(crate) fn uniform(&mut self, low: f64, high: f64) -> f64 {
        low + (high - low) * self.unit()
    }

    /// True in half of all draws: the top bit of one word.
    pub(crate) fn coin(&mut self) -> bool {
        self.rng.next_u32() >> 31 == 1
    }

    /// A standard normal number: `√(−2 ln(1 − u)) · cos(2πv)` of the floats `u`, then `v` (Box and Muller 1958).
    pub(crate) fn normal(&mut self) -> f64 {
        let radius = (-2.0 * libm::log(1.0 - self.unit())).sqrt();
        radius * libm::cos(std::f64::consts::TAU * self.unit())
    }

    /// A number from Beta(`alpha`, `alpha`), `alpha` being positive: x / (x + y) of two Gamma variates, x drawn first.
    pub(crate) fn beta(&mut self, alpha: f64) -> f64 {
        let x = self.log_gamma(alpha);
        let y = self.log_gamma(alpha);
        1.0 / (1.0 + libm::exp(y - x))
    }

    /// The logarithm of a Gamma variate (Marsaglia and Tsang 2000). As such it does not vanish where `shape` is small.
    fn log_gamma(&mut self, shape: f64) -> f64 {
        if shape < 1.0 {
            // Of one shape higher, times a uniform number to the power of 1 / shape.
            let higher = self.log_gamma(shape + 1.0);
            return higher + libm::log(1.0 - self.unit()) / shape;
        }
        let d = shape - 1.0 / 3.0;
        let c = 1.0 / (9.0 * d).sqrt();
        loop {
            let x = self.normal();
            let root = 1.0 + c * x;
            if root > 0.0 {
                let v = root * root * root;
                let log_v = libm::log(v);
                if libm::log(1.0 - self.unit()) < 0.5 * x * x + d - d * v + d * log_v {
                    return libm::log(d) + log_v;
                }
            }
        }
    }

    /// Puts `items` into a uniformly random order (Fisher–Yates, from the front: item `i` changes places with `i + below(n − i)`).
    pub(crate) fn shuffle(&mut self, items: &mut [u32]) {
        self.shuffle_front(items, items.len());
    }

    /// Puts a uniformly random selection of `count` items, in random order, at the front: the first `count` steps of
    /// [`shuffle`](Self::shuffle).
    pub(crate) fn shuffle_front(&mut self, items: &mut [u32], count: usize) {
        let length = items.len();
        for i in 0..count.min(length.saturating_sub(1)) {
            let other = i + self.below((length - i) as u32) as usize;
            items.swap(i, other);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(place: u64) -> Key {
        Key {
            seed: 7,
            epoch: 3,
            place,
            repeat: 0,
        }
    }

    #[test]
    fn streams_differ_in_every_part_of_the_key() {
        let base = key(5);
        let first = |purpose, key| Draws::new(purpose, key).rng.next_u64();
        let reference = first(Purpose::Crop, base);
        assert_eq!(reference, first(Purpose::Crop, base));
        for other in [
            first(Purpose::Mask, base),
            first(Purpose::Augment, base),
            first(Purpose::Jitter, base),
            first(Purpose::Erase, base),
            first(Purpose::Mixing, base),
            first(Purpose::Crop, Key { seed: 8, ..base }),
            first(Purpose::Crop, Key { epoch: 4, ..base }),
            first(Purpose::Crop, Key { place: 6, ..base }),
            first(Purpose::Crop, Key { repeat: 1, ..base }),
        ] {
            assert_ne!(reference, other);
        }
    }

    #[test]
    fn below_is_in_range_and_even() {
        let mut draws = Draws::new(Purpose::Crop, key(0));
        let mut counts = [0u32; 6];
        for _ in 0..60_000 {
            counts[draws.below(6) as usize] += 1;
        }
        for count in counts {
            // Six standard deviations of a binomial with n = 60,000 and p = 1/6.
            assert!(
                (f64::from(count) - 10_000.0).abs() < 6.0 * 91.3,
                "{counts:?}"
            );
        }
        assert_eq!(draws.below(1), 0);
        assert_eq!(draws.below(0), 0);
    }

    #[test]
    fn below_is_even_where_the_bound_is_no_divisor_of_the_word() {
        // With bound 3·2³⁰ plain multiply-shift would give every third value twice as often.
        let mut draws = Draws::new(Purpose::Crop, key(1));
        let bound = 3u32 << 30;
        let mut by_rest = [0u32; 3];
        for _ in 0..30_000 {
            by_rest[(draws.below(bound) % 3) as usize] += 1;
        }
        for count in by_rest {
            assert!(
                (f64::from(count) - 10_000.0).abs() < 6.0 * 81.7,
                "{by_rest:?}"
            );
        }
    }

    #[test]
    fn unit_stays_in_its_interval_with_the_mean_of_one_half() {
        let mut draws = Draws::new(Purpose::Crop, key(2));
        let mut sum = 0.0;
        for _ in 0..10_000 {
            let value = draws.unit();
            assert!((0.0..1.0).contains(&value));
            sum += value;
        }
        assert!((sum / 10_000.0 - 0.5).abs() < 6.0 * 0.0029);
    }

    #[test]
    fn normal_and_beta_have_their_moments() {
        let mut draws = Draws::new(Purpose::Mixing, key(0));
        let moments = |values: Vec<f64>| {
            let count = values.len() as f64;
            let mean = values.iter().sum::<f64>() / count;
            let squares = values.iter().map(|value| (value - mean).powi(2));
            (mean, squares.sum::<f64>() / count)
        };
        let (mean, variance) = moments((0..40_000).map(|_| draws.normal()).collect());
        // Six standard errors: 1 / √n, and √(2 / n).
        assert!(mean.abs() < 0.03, "{mean}");
        assert!((variance - 1.0).abs() < 0.043, "{variance}");
        for alpha in [0.001, 0.2, 0.8, 1.0, 3.0, 1000.0] {
            let values: Vec<f64> = (0..40_000).map(|_| draws.beta(alpha)).collect();
            assert!(values.iter().all(|value| (0.0..=1.0).contains(value)));
            let (mean, variance) = moments(values);
            let expected = 1.0 / (4.0 * (2.0 * alpha + 1.0));
            assert!(
                (mean - 0.5).abs() < 0.03 * expected.sqrt(),
                "{alpha}: {mean}"
            );
            assert!(
                (variance / expected - 1.0).abs() < 0.05,
                "{alpha}: {variance}"
            );
        }
    }

    #[test]
    fn shuffle_reaches_all_orders_evenly() {
        let mut counts = std::collections::HashMap::new();
        for place in 0..24_000 {
            let mut items = [0, 1, 2, 3];
            Draws::new(Purpose::Window, key(place)).shuffle(&mut items);
            *counts.entry(items).or_insert(0u32) += 1;
        }
        assert_eq!(counts.len(), 24);
        for count in counts.values() {
            assert!(
                (f64::from(*count) - 1000.0).abs() < 6.0 * 31.0,
                "{counts:?}"
            );
        }
    }
}
