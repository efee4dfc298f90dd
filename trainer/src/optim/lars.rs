//! LARS (You et al., arXiv 1708.03888) over a flat buffer: momentum with a step length of each layer's own, for very large batches.
//!
//! As the reference code's `util/lars.py`: a layer's gradient is scaled to `trust_coefficient` times the norm of its weights before it
//! enters the momentum; parameters of one dimension are left to plain momentum, without decay. With no layer adapting this is SGD.

use std::ops::Range;

use rayon::prelude::*;

/// What stays the same over the run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LarsSettings {
    /// Share of the last update that goes on into the next.
    pub momentum: f64,
    /// Length of an adapting layer's update over that of its weights, before momentum and learning rate.
    pub trust_coefficient: f64,
    /// L2 penalty of adapting layers, added to their gradients.
    pub weight_decay: f64,
}

impl Default for LarsSettings {
    /// The reference's: 0.9, 0.001, 0.
    fn default() -> Self {
        Self {
            momentum: 0.9,
            trust_coefficient: 1e-3,
            weight_decay: 0.0,
        }
    }
}

/// A range that is treated as one parameter.
#[derive(Clone, Debug, PartialEq)]
pub struct Layer {
    /// Where it stands in the flat buffer.
    pub range: Range<usize>,
    /// Whether its step length adapts: the reference's rule is yes for two and more dimensions, no for biases and norms.
    pub adapts: bool,
    /// The learning rate is multiplied with it.
    pub lr_scale: f64,
}

/// The optimiser: the layers and their momentum.
#[derive(Clone, Debug)]
pub struct Lars {
    settings: LarsSettings,
    layers: Vec<Layer>,
    momentum: Vec<f32>,
}

impl Lars {
    /// At rest. Numbers outside of every layer never change.
    pub fn new(settings: LarsSettings, layers: Vec<Layer>) -> Self {
        let end = layers.iter().map(|layer| layer.range.end).max();
        Self {
            settings,
            layers,
            momentum: vec![0.0; end.unwrap_or(0)],
        }
    }

    /// Updates `values` by their `gradient`, flat buffers that hold every layer's range.
    pub fn step(&mut self, values: &mut [f32], gradient: &[f32], lr: f64) {
        for Layer {
            range,
            adapts,
            lr_scale,
        } in &self.layers
        {
            let (values, gradient) = (&mut values[range.clone()], &gradient[range.clone()]);
            let decay = if *adapts {
                self.settings.weight_decay as f32
            } else {
                0.0
            };
            let trust = if *adapts {
                trust(values, gradient, decay, self.settings.trust_coefficient)
            } else {
                1.0
            };
            let (keep, rate) = (self.settings.momentum as f32, (lr * lr_scale) as f32);
            values
                .par_iter_mut()
                .zip(gradient)
                .zip(&mut self.momentum[range.clone()])
                .with_min_len(1 << 14)
                .for_each(|((value, gradient), momentum)| {
                    *momentum = keep * *momentum + trust * (gradient + decay * *value);
                    *value -= rate * *momentum;
                });
        }
    }
}

/// The factor on a layer's gradient; 1 where weights or gradient are zero.
fn trust(values: &[f32], gradient: &[f32], decay: f32, coefficient: f64) -> f32 {
    let norm = |numbers: &mut dyn Iterator<Item = f32>| {
        numbers
            .map(|v| f64::from(v) * f64::from(v))
            .sum::<f64>()
            .sqrt()
    };
    let weights = norm(&mut values.iter().copied());
    let update = norm(&mut values.iter().zip(gradient).map(|(v, g)| g + decay * v));
    if weights > 0.0 && update > 0.0 {
        (coefficient * weights / update) as f32
    } else {
        1.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::golden::Golden;

    fn layers() -> Vec<Layer> {
        // A matrix, its bias, and a matrix that begins at zero, as the script lays them out.
        [(0..30, true), (30..36, false), (36..48, true)]
            .map(|(range, adapts)| Layer {
                range,
                adapts,
                lr_scale: 1.0,
            })
            .to_vec()
    }

    /// Five steps of the formula in PyTorch, with and without decay.
    #[test]
    fn steps_are_those_of_pytorch() {
        let golden = Golden::open("linear_probe");
        let rates = golden.f32s("lars.lr");
        for (name, weight_decay) in [("plain", 0.0), ("decay", 0.1)] {
            let settings = LarsSettings {
                weight_decay,
                ..LarsSettings::default()
            };
            let mut lars = Lars::new(settings, layers());
            let mut values = golden.f32s("lars.start");
            let gradients = golden.f32s("lars.gradients");
            let after = golden.f32s(&format!("lars.{name}"));
            for ((gradient, after), &lr) in gradients.chunks(48).zip(after.chunks(48)).zip(&rates) {
                lars.step(&mut values, gradient, f64::from(lr));
                for (i, (a, b)) in values.iter().zip(after).enumerate() {
                    assert!(
                        (a - b).abs() <= 1e-6 * b.abs().max(0.1),
                        "{name} {i}: {a} against {b}"
                    );
                }
            }
        }
    }

    #[test]
    fn the_length_of_a_step_follows_the_weights_not_the_gradient() {
        let step = |factor: f32| {
            let layer = Layer {
                range: 0..2,
                adapts: true,
                lr_scale: 2.0,
            };
            let mut values = [3.0, 4.0];
            Lars::new(LarsSettings::default(), vec![layer]).step(&mut values, &[0.0, factor], 0.5);
            values
        };
        // 1e-3 · |(3, 4)| along the gradient, times the learning rate.
        assert_eq!(step(1.0), [3.0, 4.0 - 5e-3]);
        assert_eq!(step(1.0), step(1024.0));
    }
}
