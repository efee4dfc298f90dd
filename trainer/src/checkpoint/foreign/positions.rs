//! Position embeddings for other image sizes than a model was trained at: bicubic interpolation with antialiasing, as timm's
//! `resample_abs_pos_embed` does it by PyTorch's `interpolate`. The class token's row stays.

use mae_model::StateTensor;

/// Cubic convolution's parameter; PyTorch takes −0.5 with antialiasing (and −0.75 without), Pillow too.
const A: f32 = -0.5;

/// `[1, 1 + rows·columns, D]` for a grid of other rows and columns. The same grid comes back to the bit.
pub(super) fn resample(
    positions: &StateTensor,
    from: (usize, usize),
    to: (usize, usize),
) -> StateTensor {
    if from == to {
        return positions.clone();
    }
    let dim = positions.shape[2];
    let (class, patches) = positions.data.split_at(dim);
    // Columns first, then rows, as PyTorch.
    let by_columns = Filter::new(from.1, to.1);
    let mut wide = vec![];
    for row in patches.chunks_exact(from.1 * dim) {
        by_columns.apply(row, dim, &mut wide);
    }
    let mut data = class.to_vec();
    Filter::new(from.0, to.0).apply(&wide, to.1 * dim, &mut data);
    StateTensor {
        shape: vec![1, 1 + to.0 * to.1, dim],
        data,
    }
}

/// For each output place the first input place and its weights.
struct Filter(Vec<(usize, Vec<f32>)>);

impl Filter {
    fn new(from: usize, to: usize) -> Self {
        let scale = from as f32 / to as f32;
        // Shrinking widens the filter, so that every input counts; enlarging leaves it.
        let stretch = scale.max(1.0);
        let support = 2.0 * stretch;
        let place = |i| {
            let centre = scale * (i as f32 + 0.5);
            let first = ((centre - support + 0.5).max(0.0)) as usize;
            let end = ((centre + support + 0.5) as usize).min(from);
            let weight = |j| cubic((j as f32 - centre + 0.5) / stretch);
            let weights: Vec<f32> = (first..end).map(weight).collect();
            let sum: f32 = weights.iter().sum();
            (first, weights.iter().map(|weight| weight / sum).collect())
        };
        Self((0..to).map(place).collect())
    }

    /// Rows of `width` numbers each.
    fn apply(&self, rows: &[f32], width: usize, out: &mut Vec<f32>) {
        for (first, weights) in &self.0 {
            let begin = out.len();
            out.resize(begin + width, 0.0);
            let taken = rows[first * width..].chunks_exact(width);
            for (row, weight) in taken.zip(weights) {
                out[begin..]
                    .iter_mut()
                    .zip(row)
                    .for_each(|(out, x)| *out += weight * x);
            }
        }
    }
}

fn cubic(x: f32) -> f32 {
    let x = x.abs();
    if x < 1.0 {
        ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0
    } else if x < 2.0 {
        (((x - 5.0) * x + 8.0) * x - 4.0) * A
    } else {
        0.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of a grid of 3 x 5, by timm (tests/reference/foreign.py).
    #[test]
    fn timms_numbers_come_out() {
        let path = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../tests/reference/golden/foreign/positions.safetensors"
        );
        let golden = crate::checkpoint::tensors::parse(&std::fs::read(path).unwrap()).unwrap();
        let mut compared = 0;
        for (name, expected) in &golden {
            let (rows, columns) = name.split_once('x').unwrap();
            let to = (rows.parse().unwrap(), columns.parse().unwrap());
            let found = resample(&golden["3x5"], (3, 5), to);
            assert_eq!(found.shape, expected.shape);
            for (a, b) in found.data.iter().zip(&expected.data) {
                assert!(
                    (a - b).abs() < 2e-6 * (1.0 + b.abs()),
                    "{name}: {a} against {b}"
                );
            }
            compared += 1;
        }
        assert_eq!(compared, 7);
    }

    #[test]
    fn a_constant_stays_constant() {
        let positions = StateTensor {
            shape: vec![1, 13, 2],
            data: [vec![9.0, 9.0], [0.25, -4.0].repeat(12)].concat(),
        };
        for to in [(3, 4), (2, 2), (7, 5), (1, 1)] {
            let other = resample(&positions, (3, 4), to);
            assert_eq!(other.shape, [1, 1 + to.0 * to.1, 2]);
            assert_eq!(other.data[..2], [9.0, 9.0]);
            for pair in other.data[2..].chunks_exact(2) {
                assert!((pair[0] - 0.25).abs() < 1e-6 && (pair[1] + 4.0).abs() < 1e-5);
            }
        }
    }
}
