//! Which patches of an image the encoder sees.
//!
//! A mask keeps K of L patches, chosen by one of the strategies of [`MaskSampling`]: [`random`], [`block`] or [`grid`]. Both
//! parts are in ascending order here: `ids_shuffle = [kept, removed]`, and `ids_restore` is its inverse, so that
//! `ids_restore[patch]` is where the patch stands in `ids_shuffle`. A patch is visible where `ids_restore < K`.
//! (The encoder has no notion of order but the position embedding, so a sorted selection is the same selection.)

pub(crate) mod block;
mod grid;
mod random;
mod sampling;

use self::block::Blocks;
use self::grid::Grid;
use self::random::Random;
pub use self::sampling::{BlockMasks, MaskSampling};
use crate::error::{Error, Result};
use crate::rng::Draws;

/// Draws masks of one shape; keeps its memory between masks.
#[derive(Clone, Debug)]
pub(crate) struct MaskSampler {
    keep: usize,
    strategy: Strategy,
    kept: Vec<bool>,
}

#[derive(Clone, Debug)]
enum Strategy {
    Random(Random),
    Block(Blocks),
    Grid(Grid),
}

impl MaskSampler {
    /// A sampler that keeps `keep` of the patches of a grid of (rows, columns).
    ///
    /// # Errors
    /// [`Error::Config`] where they cannot be chosen so, as [`MaskSampling::check`] says.
    pub(crate) fn new(sampling: MaskSampling, grid: (usize, usize), keep: usize) -> Result<Self> {
        let misfit = |reason| Error::Config {
            setting: "masks",
            reason,
        };
        sampling.check(grid, keep).map_err(misfit)?;
        let patches = grid.0 * grid.1;
        let strategy = match sampling {
            MaskSampling::Random => Strategy::Random(Random::new(patches, keep)),
            MaskSampling::Block(blocks) => {
                Strategy::Block(Blocks::new(grid, patches - keep, blocks))
            }
            MaskSampling::Grid => match grid::side(grid, keep) {
                Some(side) => Strategy::Grid(Grid::new(grid, side)),
                None => return Err(misfit(grid::misfit(grid, keep))),
            },
        };
        Ok(MaskSampler {
            keep,
            strategy,
            kept: vec![false; patches],
        })
    }

    /// Patches kept, and patches.
    pub(crate) fn shape(&self) -> (usize, usize) {
        (self.keep, self.kept.len())
    }

    /// Draws one mask: `ids_keep` gets the K visible patches, `ids_restore` the place of each of the L patches.
    pub(crate) fn sample(
        &mut self,
        draws: &mut Draws,
        ids_keep: &mut [u32],
        ids_restore: &mut [u32],
    ) {
        debug_assert_eq!((ids_keep.len(), ids_restore.len()), self.shape());
        let kept = &mut self.kept;
        match &mut self.strategy {
            Strategy::Random(random) => random.draw(draws, kept),
            Strategy::Block(blocks) => blocks.draw(draws, kept),
            Strategy::Grid(grid) => grid.draw(draws, kept),
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
mod testing {
    use super::*;
    use crate::rng::{Key, Purpose};

    /// Those of image number `place`.
    pub(super) fn draws(place: u64) -> Draws {
        let key = Key {
            seed: 0,
            epoch: 0,
            place,
            repeat: 0,
        };
        Draws::new(Purpose::Mask, key)
    }

    /// `ids_keep` and `ids_restore` at a place.
    pub(super) fn sample(
        sampling: MaskSampling,
        grid: (usize, usize),
        keep: usize,
        place: u64,
    ) -> (Vec<u32>, Vec<u32>) {
        let (mut ids_keep, mut ids_restore) = (vec![0; keep], vec![0; grid.0 * grid.1]);
        let mut sampler = MaskSampler::new(sampling, grid, keep).unwrap();
        sampler.sample(&mut draws(place), &mut ids_keep, &mut ids_restore);
        (ids_keep, ids_restore)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::testing::{draws, sample};
    use super::*;

    fn all(patches: usize) -> [MaskSampling; 3] {
        let blocks = BlockMasks::proportional(patches);
        [
            MaskSampling::Random,
            MaskSampling::Block(blocks),
            MaskSampling::Grid,
        ]
    }

    /// As the model counts: `int(L · (1 − ratio))`.
    fn keep(patches: usize, ratio: f64) -> usize {
        (patches as f64 * (1.0 - ratio)) as usize
    }

    /// Panics unless the parts of a mask are what they should be.
    fn check((ids_keep, ids_restore): (Vec<u32>, Vec<u32>)) {
        let patches = ids_restore.len() as u32;
        assert!(ids_keep.is_sorted_by(|a, b| a < b));
        let removed = (0..patches).filter(|patch| !ids_keep.contains(patch));
        let shuffle: Vec<u32> = ids_keep.iter().copied().chain(removed).collect();
        assert_eq!(shuffle.len(), patches as usize);
        for (position, &patch) in shuffle.iter().enumerate() {
            assert_eq!(ids_restore[patch as usize] as usize, position);
        }
    }

    #[test]
    fn as_many_are_visible_as_the_ratio_says() {
        for (grid, ratio, visible) in [
            ((14, 14), 0.1, 176),
            ((14, 14), 0.25, 147),
            ((14, 14), 0.4, 117),
            ((14, 14), 0.5, 98),
            ((14, 14), 0.6, 78),
            ((14, 14), 0.75, 49),
            ((14, 14), 0.9, 19),
            ((14, 14), 0.95, 9),
            ((8, 8), 0.75, 16),
            ((6, 20), 0.75, 30),
            ((12, 12), 8.0 / 9.0, 16),
            ((12, 12), 15.0 / 16.0, 9),
        ] {
            let patches = grid.0 * grid.1;
            let keep = keep(patches, ratio);
            assert_eq!(keep, visible);
            for sampling in all(patches) {
                if sampling == MaskSampling::Grid && grid::side(grid, keep).is_none() {
                    continue;
                }
                for place in 0..20 {
                    let mask = sample(sampling, grid, keep, place);
                    assert_eq!((mask.0.len(), mask.1.len()), (visible, patches));
                    check(mask);
                }
            }
        }
    }

    proptest! {
        #[test]
        fn any_shape_gives_whole_masks(
            rows in 1usize..20, columns in 1usize..20, share in 0.0f64..1.0, place: u64, least in 1usize..60,
            aspect in (0.05f64..20.0, 0.05f64..20.0),
        ) {
            let patches = rows * columns;
            let keep = ((patches as f64 * share) as usize).max(1);
            let aspect = (aspect.0.min(aspect.1), aspect.0.max(aspect.1));
            let least = least.min(patches);
            let blocks = MaskSampling::Block(BlockMasks { least, aspect });
            for sampling in [MaskSampling::Random, blocks] {
                check(sample(sampling, (rows, columns), keep, place));
            }
        }

        #[test]
        fn grids_are_regular(rows in 1usize..6, columns in 1usize..6, side in 2usize..5, place: u64) {
            let grid = (rows * side, columns * side);
            let mask = sample(MaskSampling::Grid, grid, rows * columns, place);
            let first = mask.0[0] as usize;
            let (row, column) = (first / grid.1, first % grid.1);
            prop_assert!(row < side && column < side);
            let expected: Vec<u32> = (0..rows)
                .flat_map(|r| (0..columns).map(move |c| ((r * side + row) * grid.1 + c * side + column) as u32))
                .collect();
            prop_assert_eq!(&mask.0, &expected);
            check(mask);
        }
    }

    #[test]
    fn a_grid_starts_at_each_patch_of_a_square_as_often() {
        for (grid, keep, squares) in [((8, 8), 16, 4u32), ((6, 6), 4, 9), ((4, 8), 2, 16)] {
            let mut counts = std::collections::HashMap::new();
            for place in 0..8000 {
                let (ids_keep, _) = sample(MaskSampling::Grid, grid, keep, place);
                *counts.entry(ids_keep[0]).or_insert(0u32) += 1;
            }
            assert_eq!(counts.len(), squares as usize);
            let expected = 8000.0 / f64::from(squares);
            for count in counts.values() {
                let off = (f64::from(*count) - expected).abs();
                assert!(off < 6.0 * expected.sqrt(), "{counts:?}");
            }
        }
    }

    #[test]
    fn a_sampler_remembers_nothing() {
        for sampling in all(64) {
            let mut sampler = MaskSampler::new(sampling, (8, 8), 16).unwrap();
            let mut draw = |place| {
                let (mut ids_keep, mut ids_restore) = (vec![0; 16], vec![0; 64]);
                sampler.sample(&mut draws(place), &mut ids_keep, &mut ids_restore);
                (ids_keep, ids_restore)
            };
            let first = draw(3);
            draw(4);
            assert_eq!(draw(3), first);
            assert_eq!(first, sample(sampling, (8, 8), 16, 3));
        }
    }
}
