//! Block-wise masks, by the algorithm that [`BlockMasks`] writes down.
//!
//! Exponential and logarithm come from `libm`, as for crops: a block could hang on their last bit.

use super::BlockMasks;
use crate::rng::Draws;

/// Tries in a row that may come to nothing before a block is forced.
const TRIES: usize = 10;

/// Block-wise masks of one shape.
#[derive(Clone, Debug)]
pub(crate) struct Blocks {
    rows: usize,
    columns: usize,
    remove: usize,
    least: f64,
    log_aspect: (f64, f64),
}

/// Some rows and columns of the grid.
#[derive(Clone, Copy)]
struct Block {
    top: usize,
    left: usize,
    height: usize,
    width: usize,
}

impl Blocks {
    /// Masks that remove `remove` of the patches of a grid of (rows, columns).
    pub(crate) fn new((rows, columns): (usize, usize), remove: usize, blocks: BlockMasks) -> Self {
        let (low, high) = blocks.aspect;
        Blocks {
            rows,
            columns,
            remove,
            least: blocks.least as f64,
            log_aspect: (libm::log(low), libm::log(high)),
        }
    }

    /// Draws a mask that removes as many as it should.
    pub(crate) fn draw(&self, draws: &mut Draws, kept: &mut [bool]) {
        kept.fill(true);
        let mut left = self.remove;
        while left > 0 {
            let removed = match self.attempt(draws, left, kept) {
                0 => self.force(draws, left, kept),
                removed => removed,
            };
            left -= removed;
        }
    }

    /// Removes a block, trying ten of them, and returns how many of at most `left` patches that were; 0 where none suited.
    ///
    /// Draws per try: area, aspect, and, if the block is smaller than the grid, its row and its column.
    pub(crate) fn attempt(&self, draws: &mut Draws, left: usize, kept: &mut [bool]) -> usize {
        for _ in 0..TRIES {
            let (height, width) = self.size(draws, left);
            if height >= self.rows || width >= self.columns {
                continue;
            }
            let block = Block {
                top: below(draws, self.rows - height + 1),
                left: below(draws, self.columns - width + 1),
                height,
                width,
            };
            let visible = self.places(block).filter(|&patch| kept[patch]).count();
            if (1..=left).contains(&visible) {
                self.places(block).for_each(|patch| kept[patch] = false);
                return visible;
            }
        }
        0
    }

    /// Removes a block over a visible patch, trimmed to `left` patches, and returns how many that were: at least one.
    ///
    /// Draws: area, aspect, the visible patch, the block's row, its column, and the corner to begin at, down or up, then right or left.
    fn force(&self, draws: &mut Draws, left: usize, kept: &mut [bool]) -> usize {
        let (height, width) = self.size(draws, left);
        let (height, width) = (height.clamp(1, self.rows), width.clamp(1, self.columns));
        let visible = kept.iter().filter(|&&kept| kept).count();
        let mut visible = (0..kept.len())
            .filter(|&patch| kept[patch])
            .skip(below(draws, visible));
        let Some(patch) = visible.next() else {
            return left;
        };
        let (row, column) = (patch / self.columns, patch % self.columns);
        let block = Block {
            top: over(draws, row, height, self.rows),
            left: over(draws, column, width, self.columns),
            height,
            width,
        };
        let (up, leftwards) = (draws.coin(), draws.coin());
        let mut removed = 0;
        for r in 0..height {
            let r = if up { height - 1 - r } else { r };
            for c in 0..width {
                let c = if leftwards { width - 1 - c } else { c };
                let kept = &mut kept[(block.top + r) * self.columns + block.left + c];
                if *kept && removed < left {
                    *kept = false;
                    removed += 1;
                }
            }
        }
        removed
    }

    /// Height and width of a block where `left` patches are left to remove.
    fn size(&self, draws: &mut Draws, left: usize) -> (usize, usize) {
        let area = draws.uniform(self.least, left as f64);
        let aspect = libm::exp(draws.uniform(self.log_aspect.0, self.log_aspect.1));
        // Python's round: halves to even.
        let height = (area * aspect).sqrt().round_ties_even();
        let width = (area / aspect).sqrt().round_ties_even();
        (height as usize, width as usize)
    }

    /// The patches of a block, row by row.
    fn places(&self, block: Block) -> impl Iterator<Item = usize> {
        let columns = self.columns;
        let rows = block.top..block.top + block.height;
        rows.flat_map(move |row| {
            (block.left..block.left + block.width).map(move |column| row * columns + column)
        })
    }
}

/// Where `length` of `all` places may start so that they hold `at`, one of all such starts.
fn over(draws: &mut Draws, at: usize, length: usize, all: usize) -> usize {
    let first = (at + 1).saturating_sub(length);
    let last = at.min(all - length);
    first + below(draws, last - first + 1)
}

fn below(draws: &mut Draws, bound: usize) -> usize {
    draws.below(bound as u32) as usize
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::rng::{Key, Purpose};

    fn draws(place: u64) -> Draws {
        let key = Key {
            seed: 4,
            epoch: 0,
            place,
            repeat: 0,
        };
        Draws::new(Purpose::Mask, key)
    }

    proptest! {
        #[test]
        fn a_forced_block_removes_some_and_never_too_many(
            rows in 1usize..12, columns in 1usize..12, place: u64, gone in prop::collection::vec(any::<bool>(), 144),
            least in 1usize..40, left in 1usize..144,
        ) {
            let mut kept: Vec<bool> = gone[..rows * columns].to_vec();
            let visible = kept.iter().filter(|&&kept| kept).count();
            prop_assume!(visible > 0);
            let left = left.min(visible);
            let blocks = Blocks::new((rows, columns), left, BlockMasks { least, aspect: (0.3, 3.0) });
            let before = kept.clone();
            let removed = blocks.force(&mut draws(place), left, &mut kept);
            prop_assert!((1..=left).contains(&removed));
            prop_assert_eq!(visible - removed, kept.iter().filter(|&&kept| kept).count());
            prop_assert!(kept.iter().zip(&before).all(|(after, before)| *before || !*after));
        }
    }

    #[test]
    fn one_block_is_a_rectangle_of_its_area_and_aspect() {
        // All 24 are left for the first block, which has an area of 24 and is twice as high as wide: 7 × 3 rounded, never more than
        // are left.
        let only = BlockMasks {
            least: 24,
            aspect: (2.0, 2.0),
        };
        let blocks = Blocks::new((14, 14), 24, only);
        for place in 0..200 {
            let mut kept = vec![true; 196];
            assert_eq!(blocks.attempt(&mut draws(place), 24, &mut kept), 21);
            let removed: Vec<_> = (0..196).filter(|&patch| !kept[patch]).collect();
            let (top, left) = (removed[0] / 14, removed[0] % 14);
            let expected: Vec<_> = (top..top + 7)
                .flat_map(|row| (left..left + 3).map(move |column| row * 14 + column))
                .collect();
            assert_eq!(removed, expected);
        }
    }

    #[test]
    fn a_try_that_removes_too_many_or_none_comes_to_nothing() {
        let square = BlockMasks {
            least: 16,
            aspect: (1.0, 1.0),
        };
        let blocks = Blocks::new((8, 8), 16, square);
        let mut kept = vec![true; 64];
        // Of at most 10 patches left areas are from 10 to 16, squares of 3 × 3 or 4 × 4: 9 patches, never 16.
        let sizes: Vec<usize> = (0..300)
            .map(|place| {
                kept.fill(true);
                blocks.attempt(&mut draws(place), 10, &mut kept)
            })
            .collect();
        assert!(
            sizes.iter().all(|&size| size == 9 || size == 0),
            "{sizes:?}"
        );
        assert!(sizes.contains(&9));
        kept.fill(false);
        assert_eq!(blocks.attempt(&mut draws(0), 16, &mut kept), 0);
        // As high as the grid is too high.
        let whole = BlockMasks {
            least: 64,
            aspect: (1.0, 1.0),
        };
        kept.fill(true);
        let blocks = Blocks::new((8, 8), 64, whole);
        assert_eq!(blocks.attempt(&mut draws(0), 64, &mut kept), 0);
    }
}
