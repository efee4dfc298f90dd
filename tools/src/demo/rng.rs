//! The few random draws that the procedural dataset makes, keyed by (seed, sample), so that each picture is the same whatever drew
//! before it and however many threads draw.

use rand_chacha::ChaCha8Rng;
use rand_core::{RngCore, SeedableRng};

/// A generator of one picture's draws.
pub(super) struct Draws(ChaCha8Rng);

impl Draws {
    /// The draws of sample `index` of the dataset of `seed`; a stream of its own.
    pub(super) fn of_sample(seed: u64, index: u64) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        rng.set_stream(index);
        Self(rng)
    }

    /// Uniform in [0, 1).
    pub(super) fn unit(&mut self) -> f32 {
        (self.0.next_u32() >> 8) as f32 / (1u32 << 24) as f32
    }

    /// Uniform in [low, high).
    pub(super) fn range(&mut self, low: f32, high: f32) -> f32 {
        low + (high - low) * self.unit()
    }

    /// Uniform in 0..n; `n` is far below 2³², so that the bias of the multiplication is of no account.
    pub(super) fn below(&mut self, n: u32) -> u32 {
        ((u64::from(self.0.next_u32()) * u64::from(n)) >> 32) as u32
    }

    /// Uniform in [0, 2π).
    pub(super) fn angle(&mut self) -> f32 {
        self.range(0.0, std::f32::consts::TAU)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_have_streams_of_their_own() {
        let first: Vec<f32> = (0..4).map(|i| Draws::of_sample(7, i).unit()).collect();
        let again: Vec<f32> = (0..4).map(|i| Draws::of_sample(7, i).unit()).collect();
        assert_eq!(first, again);
        assert!(first.windows(2).all(|w| w[0] != w[1]));
        assert_ne!(Draws::of_sample(8, 0).unit(), first[0]);
    }

    #[test]
    fn ranges_are_half_open() {
        let mut draws = Draws::of_sample(1, 1);
        for _ in 0..10_000 {
            assert!((0.0..1.0).contains(&draws.unit()));
            assert!(draws.below(3) < 3);
            assert!((-2.0..5.0).contains(&draws.range(-2.0, 5.0)));
        }
    }
}
