//! What is asked for: how the patches of a mask are chosen.

use std::fmt;

use super::grid;

/// How the patches that an image keeps are chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum MaskSampling {
    /// Uniformly among all selections, as the reference code does. Where patches lie does not matter.
    #[default]
    Random,
    /// Whole blocks are removed, as by BEiT (Bao et al. 2021, algorithm 1), until the number is reached, exactly.
    Block(BlockMasks),
    /// One of every s × s patches is kept, the same one in each square, drawn for the image. So the mask ratio is 1 − 1 / s²: 0.75 for
    /// s = 2, 8/9 for s = 3, 15/16 for s = 4; and s must divide rows and columns.
    Grid,
}

/// The blocks of [`MaskSampling::Block`].
///
/// While patches are left to remove, a block's area is drawn uniformly between `least` and their number, its height / width
/// log-uniformly within `aspect`, both sides being rounded to whole patches, then its place among all in the grid. It is removed if it
/// is lower and narrower than the grid, holds a patch that was not removed before, and no more of them than are left. Ten such tries in a
/// row may come to nothing; BEiT's generator ends there, with fewer patches than were asked for. Here a block is forced: its
/// sides, drawn likewise, are cut to the grid, it is placed anywhere over a visible patch that is drawn among all, and is trimmed to the
/// patches that are left, row by row from one of its corners, which is drawn as well. Then blocks are tried again.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BlockMasks {
    /// Least area that is drawn, in patches. Near the end, where fewer are left, it is the greatest.
    pub least: usize,
    /// Least and greatest height / width.
    pub aspect: (f64, f64),
}

impl BlockMasks {
    /// Those of BEiT, for any number of patches: at least 16 patches where there are 196, in proportion elsewhere, and a height / width
    /// from 0.3 to its inverse.
    pub fn proportional(patches: usize) -> Self {
        let share = 16.0 * patches as f64 / 196.0;
        BlockMasks {
            least: (share.round() as usize).max(1),
            aspect: (0.3, 1.0 / 0.3),
        }
    }
}

impl MaskSampling {
    /// Whether `keep` of the patches of a grid of (rows, columns) can be chosen so.
    ///
    /// # Errors
    /// Why they cannot, and what could.
    pub fn check(self, grid: (usize, usize), keep: usize) -> Result<(), String> {
        let (rows, columns) = grid;
        let patches = rows.saturating_mul(columns);
        if keep == 0 || keep > patches || u32::try_from(patches).is_err() {
            return Err(format!("cannot keep {keep} of {patches} patches"));
        }
        match self {
            MaskSampling::Random => Ok(()),
            MaskSampling::Grid => grid::side(grid, keep)
                .map(drop)
                .ok_or_else(|| grid::misfit(grid, keep)),
            MaskSampling::Block(BlockMasks { least, aspect }) => {
                if !(1..=patches).contains(&least) {
                    return Err(format!(
                        "blocks of at least {least} patches are not within 1 to the image's {patches}"
                    ));
                }
                if !(aspect.0 > 0.0 && aspect.0 <= aspect.1 && aspect.1.is_finite()) {
                    return Err(format!(
                        "a block's aspect {},{} must satisfy 0 < least ≤ greatest",
                        aspect.0, aspect.1
                    ));
                }
                Ok(())
            }
        }
    }
}

impl fmt::Display for MaskSampling {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            MaskSampling::Random => f.write_str("random"),
            MaskSampling::Block(BlockMasks { least, aspect }) => {
                write!(f, "block least {least} aspect {},{}", aspect.0, aspect.1)
            }
            MaskSampling::Grid => f.write_str("grid"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_in_proportion_to_the_image() {
        for (patches, least) in [(196, 16), (256, 21), (64, 5), (16, 1), (1, 1)] {
            assert_eq!(BlockMasks::proportional(patches).least, least, "{patches}");
        }
    }

    #[test]
    fn a_misfit_says_what_would_fit() {
        let grid = |grid, keep| MaskSampling::Grid.check(grid, keep).unwrap_err();
        let text = grid((14, 14), 98);
        assert!(
            text.contains("98 of 14×14") && text.contains("0.75 would"),
            "{text}"
        );
        let text = grid((12, 12), 72);
        assert!(text.contains("0.75, 0.888888 or 0.9375 would"), "{text}");
        let text = grid((7, 6), 10);
        assert!(text.contains("8×6"), "{text}");
        // A third of the ratio's digits is not enough of them.
        assert!(MaskSampling::Grid.check((12, 12), 15).is_err());
        assert!(MaskSampling::Grid.check((12, 12), 16).is_ok());
        for (least, aspect) in [
            (0, (0.3, 3.0)),
            (65, (0.3, 3.0)),
            (5, (0.0, 3.0)),
            (5, (3.0, 0.3)),
            (5, (f64::NAN, 1.0)),
            (5, (0.3, f64::INFINITY)),
        ] {
            let block = MaskSampling::Block(BlockMasks { least, aspect });
            assert!(block.check((8, 8), 16).is_err(), "{block}");
        }
        for sampling in [
            MaskSampling::Random,
            MaskSampling::Grid,
            MaskSampling::Block(BlockMasks::proportional(16)),
        ] {
            assert!(sampling.check((4, 4), 0).is_err());
            assert!(sampling.check((4, 4), 17).is_err());
            assert!(sampling.check((4, 4), 4).is_ok());
        }
    }
}
