//! How parameters begin (reference code, `initialize_weights`), from a counter-based generator with
//! one stream a parameter.

use rand_chacha::ChaCha8Rng;
use rand_core::{RngCore, SeedableRng};

/// A parameter's initial distribution.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Init {
    Zeros,
    Ones,
    /// Xavier-uniform of the matrix `[shape[0], rest]`.
    XavierUniform,
    /// Uniform in ±bound.
    Uniform(f32),
    /// Normal around zero.
    Normal(f32),
}

impl Init {
    pub(crate) fn fill(self, seed: u64, stream: u64, shape: &[usize], out: &mut [f32]) {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        rng.set_stream(stream);
        match self {
            Init::Zeros => out.fill(0.0),
            Init::Ones => out.fill(1.0),
            Init::XavierUniform => {
                let fan_in_and_out = shape[0] + out.len() / shape[0];
                uniform(&mut rng, (6.0 / fan_in_and_out as f64).sqrt(), out);
            }
            Init::Uniform(bound) => uniform(&mut rng, f64::from(bound), out),
            Init::Normal(std) => {
                // Box-Muller, two numbers a pair.
                for pair in out.chunks_mut(2) {
                    let radius = (-2.0 * (1.0 - unit(&mut rng)).ln()).sqrt() * f64::from(std);
                    let angle = std::f64::consts::TAU * unit(&mut rng);
                    pair[0] = (radius * angle.cos()) as f32;
                    if let Some(second) = pair.get_mut(1) {
                        *second = (radius * angle.sin()) as f32;
                    }
                }
            }
        }
    }
}

/// Uniform in [0, 1) with 53 bits.
fn unit(rng: &mut ChaCha8Rng) -> f64 {
    (rng.next_u64() >> 11) as f64 / (1u64 << 53) as f64
}

fn uniform(rng: &mut ChaCha8Rng, bound: f64, out: &mut [f32]) {
    out.iter_mut()
        .for_each(|x| *x = ((2.0 * unit(rng) - 1.0) * bound) as f32);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn moments(init: Init, shape: &[usize]) -> (f64, f64, f64) {
        let mut out = vec![0f32; shape.iter().product()];
        init.fill(3, 1, shape, &mut out);
        let n = out.len() as f64;
        let mean = out.iter().map(|&x| f64::from(x)).sum::<f64>() / n;
        let variance = out
            .iter()
            .map(|&x| (f64::from(x) - mean).powi(2))
            .sum::<f64>()
            / n;
        let top = out.iter().fold(0f64, |a, &x| a.max(f64::from(x.abs())));
        (mean, variance.sqrt(), top)
    }

    #[test]
    fn distributions_have_their_moments() {
        let bound = (6.0f64 / 600.0).sqrt();
        let (mean, std, top) = moments(Init::XavierUniform, &[400, 200]);
        assert!(mean.abs() < 1e-3 && (std / (bound / 3f64.sqrt()) - 1.0).abs() < 0.01);
        assert!(top <= bound && top > 0.99 * bound);
        let (mean, std, _) = moments(Init::Normal(0.02), &[80_001]);
        assert!(mean.abs() < 3e-4 && (std / 0.02 - 1.0).abs() < 0.01);
        let (_, _, top) = moments(Init::Uniform(0.5), &[1000]);
        assert!(top <= 0.5 && top > 0.49);
    }

    #[test]
    fn streams_and_seeds_differ() {
        let draw = |seed, stream| {
            let mut out = [0f32; 4];
            Init::Normal(1.0).fill(seed, stream, &[4], &mut out);
            out
        };
        assert_eq!(draw(1, 2), draw(1, 2));
        assert_ne!(draw(1, 2), draw(1, 3));
        assert_ne!(draw(1, 2), draw(2, 2));
    }
}
