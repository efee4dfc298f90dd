//! BEiT's relative position biases: what a head adds to the score of a query and a key by how far apart their patches are
//! (Bao et al. 2022, arXiv 2106.08254, after Swin). A table holds a number for each distance and head; it is not trained here.

use candle_core::{Device, Tensor};

use crate::config::VitConfig;
use crate::names::StateTensor;
use crate::params::write_range;
use crate::{Error, Result};

/// The name of a block's table behind the block's.
pub(crate) const TABLE: &str = "attn.relative_position_bias_table";

/// A block's table and what follows from it.
#[derive(Debug, Clone)]
pub(crate) struct RelativePositions {
    grid: (usize, usize),
    /// `[(2·rows − 1)·(2·columns − 1) + 3, H]`.
    table: Tensor,
    /// `[H, N, N]`.
    scores: Tensor,
}

impl RelativePositions {
    /// Zeros.
    pub(crate) fn new(config: &VitConfig, device: &Device) -> Result<Self> {
        let (heads, tokens) = (config.heads, 1 + config.patches());
        let f32 = candle_core::DType::F32;
        Ok(Self {
            grid: config.grid(),
            table: Tensor::zeros((distances(config.grid()), heads), f32, device)?,
            scores: Tensor::zeros((heads, tokens, tokens), f32, device)?,
        })
    }

    /// What is added to the scores.
    pub(crate) fn scores(&self) -> &Tensor {
        &self.scores
    }

    pub(crate) fn table(&self) -> Result<StateTensor> {
        Ok(StateTensor {
            shape: self.table.dims().to_vec(),
            data: self.table.flatten_all()?.to_vec1()?,
        })
    }

    /// Takes a table of the shape of [`RelativePositions::table`].
    pub(crate) fn set(&self, table: &StateTensor) -> Result<()> {
        let (rows, heads) = self.table.dims2()?;
        if table.shape != [rows, heads] {
            return Err(Error::Shape {
                what: "a table of relative positions",
                expected: vec![rows, heads],
                actual: table.shape.clone(),
            });
        }
        let places = places(self.grid);
        let scores: Vec<f32> = (0..heads)
            .flat_map(|head| places.iter().map(move |place| (head, place)))
            .map(|(head, place)| table.data[place * heads + head])
            .collect();
        for (tensor, numbers) in [(&self.table, &table.data), (&self.scores, &scores)] {
            write_range(&tensor.flatten_all()?, 0..numbers.len(), numbers)?;
        }
        Ok(())
    }
}

/// Rows of a table: every distance of two patches, and three for the class token.
pub(crate) fn distances((rows, columns): (usize, usize)) -> usize {
    (2 * rows - 1) * (2 * columns - 1) + 3
}

/// The table's row for each query and key, `[N, N]`. The last three rows are from the class token to a patch, from a patch to
/// the class token, and from the class token to itself.
fn places(grid: (usize, usize)) -> Vec<usize> {
    let (rows, columns) = grid;
    let last = distances(grid) - 1;
    let mut places = vec![];
    for query in 0..=rows * columns {
        for key in 0..=rows * columns {
            places.push(match (query, key) {
                (0, 0) => last,
                (0, _) => last - 2,
                (_, 0) => last - 1,
                _ => {
                    let at = |token: usize| ((token - 1) / columns, (token - 1) % columns);
                    let (q, k) = (at(query), at(key));
                    let (down, across) = (q.0 + rows - 1 - k.0, q.1 + columns - 1 - k.1);
                    down * (2 * columns - 1) + across
                }
            });
        }
    }
    places
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_distances_share_a_row() {
        let places = places((2, 3));
        let tokens = 7;
        let of = |query: usize, key: usize| places[query * tokens + key];
        assert_eq!(distances((2, 3)), 18);
        // Patches (0, 0) and (0, 1), as (1, 1) and (1, 2): one column apart.
        assert_eq!(of(1, 2), of(5, 6));
        assert_ne!(of(1, 2), of(2, 1));
        assert_eq!(of(1, 1), of(6, 6));
        assert_eq!([of(0, 0), of(0, 3), of(3, 0)], [17, 15, 16]);
        // The farthest both ways are the first and the last of the distances.
        assert_eq!((of(1, 6), of(6, 1)), (0, 14));
    }
}
