//! Gumbel noise from a counter: the same for a seed and a step, whichever thread asks and when. Candle's generator for the CPU
//! takes no seed.

use std::sync::LazyLock;

use rand_chacha::ChaCha8Rng;
use rand_core::{RngCore, SeedableRng};
use rayon::prelude::*;

/// The standard Gumbel distribution's quantiles at the middles of 65,536 equal parts. A draw picks one: two logarithms a number
/// would take longer than all else that a step does with the logits. Draws end at 11.8, above which one in 130,000 would lie.
static QUANTILES: LazyLock<Vec<f32>> = LazyLock::new(|| {
    (0..1u32 << 16)
        .map(|part| {
            let share = (f64::from(part) + 0.5) / 65_536.0;
            (-(-share.ln()).ln()) as f32
        })
        .collect()
});

/// `rows` times `width` independent draws; a row's are those of `seed`, `step` and its number.
pub(super) fn gumbel(seed: u64, step: u64, rows: usize, width: usize) -> Vec<f32> {
    let mut key = [0u8; 32];
    key[0..8].copy_from_slice(&seed.to_le_bytes());
    key[8..16].copy_from_slice(&step.to_le_bytes());
    key[24..32].copy_from_slice(b"gumbel  ");
    let mut noise = vec![0f32; rows * width];
    noise
        .par_chunks_mut(width)
        .enumerate()
        .for_each_init(Vec::new, |words, (row, noise)| {
            let mut rng = ChaCha8Rng::from_seed(key);
            rng.set_stream(row as u64);
            words.resize(2 * width, 0u8);
            rng.fill_bytes(words);
            for (number, word) in noise.iter_mut().zip(words.chunks_exact(2)) {
                *number = QUANTILES[usize::from(u16::from_le_bytes([word[0], word[1]]))];
            }
        });
    noise
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_have_the_distributions_moments() {
        let noise = gumbel(3, 5, 200, 500);
        let count = noise.len() as f64;
        let mean = noise.iter().map(|&x| f64::from(x)).sum::<f64>() / count;
        let variance = noise
            .iter()
            .map(|&x| (f64::from(x) - mean).powi(2))
            .sum::<f64>()
            / count;
        // Euler's constant and π²/6, within six standard errors.
        assert!((mean - 0.577_216).abs() < 0.025, "{mean}");
        assert!((variance - 1.644_934).abs() < 0.07, "{variance}");
    }

    #[test]
    fn a_row_depends_on_its_number_alone() {
        let (few, many) = (gumbel(1, 2, 3, 7), gumbel(1, 2, 9, 7));
        assert_eq!(few, many[..21]);
        assert_ne!(few[..7], few[7..14]);
        assert_ne!(few, gumbel(1, 3, 3, 7));
        assert_ne!(few, gumbel(2, 2, 3, 7));
    }
}
