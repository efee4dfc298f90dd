//! Grid-wise masks: the same patch of every square of s × s is kept.

use crate::rng::Draws;

/// The sides that squares may have.
const SIDES: [usize; 3] = [2, 3, 4];

/// Regular masks of one shape.
#[derive(Clone, Debug)]
pub(super) struct Grid {
    columns: usize,
    side: usize,
}

/// The side of the squares of which `keep` patches are one each, where the grid is made of such.
pub(super) fn side(grid: (usize, usize), keep: usize) -> Option<usize> {
    let (rows, columns) = grid;
    let fits = |side: &usize| divides(*side, grid) && keep * side * side == rows * columns;
    SIDES.into_iter().find(fits)
}

fn divides(side: usize, (rows, columns): (usize, usize)) -> bool {
    rows.is_multiple_of(side) && columns.is_multiple_of(side)
}

/// Why `keep` patches are not one of each square, and what would be.
pub(super) fn misfit(grid: (usize, usize), keep: usize) -> String {
    let (rows, columns) = grid;
    // Cut off, not rounded: what is kept is cut off, too.
    let ratio = |side: &usize| match side {
        2 => "0.75",
        3 => "0.888888",
        _ => "0.9375",
    };
    let fitting: Vec<&str> = SIDES
        .iter()
        .filter(|&&side| divides(side, grid))
        .map(ratio)
        .collect();
    let would = match fitting.as_slice() {
        [] => {
            let even = |length: usize| length.next_multiple_of(2);
            format!(
                "neither 2, 3 nor 4 divides both; with {}×{} patches the mask ratio 0.75 would do",
                even(rows),
                even(columns)
            )
        }
        [only] => format!("the mask ratio {only} would do"),
        [others @ .., last] => format!("a mask ratio of {} or {last} would do", others.join(", ")),
    };
    format!(
        "a grid keeps one of every 2×2, 3×3 or 4×4 patches, which is not {keep} of {rows}×{columns}; {would}"
    )
}

impl Grid {
    pub(super) fn new((_, columns): (usize, usize), side: usize) -> Self {
        Grid { columns, side }
    }

    /// Draws the kept patch's row within its square, then its column.
    pub(super) fn draw(&self, draws: &mut Draws, kept: &mut [bool]) {
        let row = draws.below(self.side as u32) as usize;
        let column = draws.below(self.side as u32) as usize;
        for (patch, kept) in kept.iter_mut().enumerate() {
            let (r, c) = (patch / self.columns, patch % self.columns);
            *kept = r % self.side == row && c % self.side == column;
        }
    }
}
