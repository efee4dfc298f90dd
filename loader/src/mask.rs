//! Which patches of an image the encoder sees.
//!
//! A mask keeps K of L patches, uniformly among all such selections, as the reference code's argsort of uniform noise does. Both
//! parts are in ascending order here: `ids_shuffle = [kept, removed]`, and `ids_restore` is its inverse, so that
//! `ids_restore[patch]` is where the patch stands in `ids_shuffle`. A patch is visible where `ids_restore < K`.
//! (The encoder has no notion of order but the position embedding, so a sorted selection is the same selection.)

use crate::rng::Draws;

/// Draws masks of one shape.
#[derive(Clone, Debug)]
pub(crate) struct MaskSampler {
    keep: usize,
    /// The patches in some order; the first K are the ones kept.
    order: Vec<u32>,
    kept: Vec<bool>,
}

impl MaskSampler {
    /// A sampler that keeps `keep` of `patches` patches.
    pub(crate) fn new(patches: usize, keep: usize) -> Self {
        MaskSampler {
            keep: keep.min(patches),
            order: vec![0; patches],
            kept: vec![false; patches],
        }
    }

    /// Patches kept, and patches.
    pub(crate) fn shape(&self) -> (usize, usize) {
        (self.keep, self.order.len())
    }

    /// Draws one mask: `ids_keep` gets the K visible patches, `ids_restore` the place of each of the L patches.
    ///
    /// Partial Fisher–Yates: K draws, whatever L is.
    pub(crate) fn sample(
        &mut self,
        draws: &mut Draws,
        ids_keep: &mut [u32],
        ids_restore: &mut [u32],
    ) {
        debug_assert_eq!(
            (ids_keep.len(), ids_restore.len()),
            (self.keep, self.order.len())
        );
        for (patch, slot) in self.order.iter_mut().enumerate() {
            *slot = patch as u32;
        }
        draws.shuffle_front(&mut self.order, self.keep);
        self.kept.fill(false);
        for &patch in &self.order[..self.keep] {
            self.kept[patch as usize] = true;
        }
        let (mut visible, mut removed) = (0u32, self.keep as u32);
        for (patch, restore) in ids_restore.iter_mut().enumerate() {
            if self.kept[patch] {
                ids_keep[visible as usize] = patch as u32;
                *restore = visible;
                visible += 1;
            } else {
                *restore = removed;
                removed += 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::{Key, Purpose};

    fn sample(patches: usize, keep: usize, place: u64) -> (Vec<u32>, Vec<u32>) {
        let mut draws = Draws::new(
            Purpose::Mask,
            Key {
                seed: 0,
                epoch: 0,
                place,
                repeat: 0,
            },
        );
        let (mut ids_keep, mut ids_restore) = (vec![0; keep], vec![0; patches]);
        MaskSampler::new(patches, keep).sample(&mut draws, &mut ids_keep, &mut ids_restore);
        (ids_keep, ids_restore)
    }

    #[test]
    fn restore_is_the_inverse_of_kept_then_removed() {
        for (patches, keep) in [(196, 49), (64, 16), (5, 1), (5, 5), (5, 0), (1, 1)] {
            for place in 0..20 {
                let (ids_keep, ids_restore) = sample(patches, keep, place);
                assert!(ids_keep.is_sorted_by(|a, b| a < b));
                let removed = (0..patches as u32).filter(|patch| !ids_keep.contains(patch));
                let shuffle: Vec<u32> = ids_keep.iter().copied().chain(removed).collect();
                for (position, &patch) in shuffle.iter().enumerate() {
                    assert_eq!(ids_restore[patch as usize] as usize, position);
                }
            }
        }
    }

    #[test]
    fn every_patch_and_every_pair_is_kept_equally_often() {
        let (patches, keep, rounds) = (8usize, 2usize, 28_000u64);
        let mut pairs = std::collections::HashMap::new();
        for place in 0..rounds {
            *pairs.entry(sample(patches, keep, place).0).or_insert(0u32) += 1;
        }
        assert_eq!(pairs.len(), 28);
        for count in pairs.values() {
            assert!((f64::from(*count) - 1000.0).abs() < 6.0 * 31.1, "{pairs:?}");
        }
    }

    #[test]
    fn a_sampler_remembers_nothing() {
        let mut sampler = MaskSampler::new(64, 16);
        let mut draw = |place| {
            let mut draws = Draws::new(
                Purpose::Mask,
                Key {
                    seed: 0,
                    epoch: 0,
                    place,
                    repeat: 0,
                },
            );
            let (mut ids_keep, mut ids_restore) = (vec![0; 16], vec![0; 64]);
            sampler.sample(&mut draws, &mut ids_keep, &mut ids_restore);
            (ids_keep, ids_restore)
        };
        let first = draw(3);
        draw(4);
        assert_eq!(draw(3), first);
        assert_eq!(first, sample(64, 16, 3));
    }
}
