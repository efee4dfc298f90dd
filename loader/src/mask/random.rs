//! Random masks: every selection of K patches is as likely.

use crate::rng::Draws;

/// Random masks of one shape.
#[derive(Clone, Debug)]
pub(super) struct Random {
    keep: usize,
    /// The patches in some order; the first K are the ones kept.
    order: Vec<u32>,
}

impl Random {
    pub(super) fn new(patches: usize, keep: usize) -> Self {
        Random {
            keep,
            order: vec![0; patches],
        }
    }

    /// Partial Fisher–Yates: K draws, whatever L is.
    pub(super) fn draw(&mut self, draws: &mut Draws, kept: &mut [bool]) {
        for (patch, slot) in self.order.iter_mut().enumerate() {
            *slot = patch as u32;
        }
        draws.shuffle_front(&mut self.order, self.keep);
        kept.fill(false);
        for &patch in &self.order[..self.keep] {
            kept[patch as usize] = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::sample;
    use crate::mask::MaskSampling;

    #[test]
    fn every_patch_and_every_pair_is_kept_equally_often() {
        let (grid, keep, rounds) = ((2usize, 4usize), 2usize, 28_000u64);
        let mut pairs = std::collections::HashMap::new();
        for place in 0..rounds {
            let (ids_keep, _) = sample(MaskSampling::Random, grid, keep, place);
            *pairs.entry(ids_keep).or_insert(0u32) += 1;
        }
        assert_eq!(pairs.len(), 28);
        for count in pairs.values() {
            assert!((f64::from(*count) - 1000.0).abs() < 6.0 * 31.1, "{pairs:?}");
        }
    }
}
