//! The fixed two-dimensional sine-cosine position embedding (reference code, `util/pos_embed.py`).

/// `[1 + rows·columns, dim]`, row-major: the class token's row is zero; the first half of a patch's
/// channels encodes its column (the width coordinate), the second its row, each as sines, then
/// cosines, of the coordinate times `10000^(-i / (dim / 4))`. Computed in f64.
pub fn sin_cos(dim: usize, grid: (usize, usize)) -> Vec<f32> {
    let quarter = dim / 4;
    let omega: Vec<f64> = (0..quarter)
        .map(|i| 10_000f64.powf(-(i as f64) / quarter as f64))
        .collect();
    let mut out = vec![0f32; dim];
    for row in 0..grid.0 {
        for column in 0..grid.1 {
            for coordinate in [column, row] {
                out.extend(omega.iter().map(|o| (coordinate as f64 * o).sin() as f32));
                out.extend(omega.iter().map(|o| (coordinate as f64 * o).cos() as f32));
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_column_comes_first() {
        let table = sin_cos(8, (2, 3));
        assert_eq!(table.len(), 7 * 8);
        assert!(table[..8].iter().all(|&x| x == 0.0));
        // Patch (0, 1): column 1, row 0.
        let row = &table[2 * 8..3 * 8];
        let exact = [
            1f64.sin(),
            0.01f64.sin(),
            1f64.cos(),
            0.01f64.cos(),
            0.0,
            0.0,
            1.0,
            1.0,
        ];
        assert!(
            row.iter()
                .zip(exact)
                .all(|(&a, b)| (f64::from(a) - b).abs() < 1e-7),
            "{row:?}"
        );
    }
}
