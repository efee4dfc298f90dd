//! Minimises a smooth convex function by L-BFGS (Nocedal & Wright, "Numerical Optimization", algorithm 7.4) with a backtracking line
//! search: no step size to tune, no randomness. Not for the model's training.

use std::collections::VecDeque;

/// Past steps that shape the direction.
const MEMORY: usize = 10;
/// Share of the promised decrease that a step must bring (Armijo).
const SUFFICIENT: f64 = 1e-4;
/// Halvings of a step before the search gives up: the function is then flat to rounding.
const HALVINGS: usize = 25;

/// When to stop.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stop {
    /// Iterations at most.
    pub(super) iterations: usize,
    /// The gradient's norm, relative to the larger of 1 and the point's norm, at which the minimum counts as found.
    pub(super) gradient: f64,
}

/// Moves `x` to the minimum of `f`, which returns its value and writes its gradient. Returns the value reached.
///
/// # Errors
/// Whatever `f` returns.
pub(super) fn minimise<E>(
    x: &mut [f32],
    stop: Stop,
    mut f: impl FnMut(&[f32], &mut [f32]) -> Result<f64, E>,
) -> Result<f64, E> {
    let mut gradient = vec![0.0; x.len()];
    let mut value = f(x, &mut gradient)?;
    let mut history: VecDeque<Pair> = VecDeque::with_capacity(MEMORY);
    let (mut next, mut next_gradient) = (x.to_vec(), gradient.clone());
    for _ in 0..stop.iterations {
        let norm = dot(&gradient, &gradient).sqrt();
        if norm <= stop.gradient * dot(x, x).sqrt().max(1.0) {
            break;
        }
        let mut direction = descent(&gradient, &history);
        let mut slope = dot(&direction, &gradient);
        if slope >= 0.0 {
            // Rounding spoilt the curvature: begin anew along the gradient.
            history.clear();
            direction = gradient.iter().map(|g| -g).collect();
            slope = -norm * norm;
        }
        // The first step has no curvature to go by: length one at most.
        let mut step = if history.is_empty() {
            (1.0 / norm).min(1.0)
        } else {
            1.0
        };
        let mut found = None;
        for _ in 0..HALVINGS {
            for ((next, &x), &d) in next.iter_mut().zip(x.iter()).zip(&direction) {
                *next = x + step as f32 * d;
            }
            let candidate = f(&next, &mut next_gradient)?;
            if candidate <= value + SUFFICIENT * step * slope {
                found = Some(candidate);
                break;
            }
            step *= 0.5;
        }
        let Some(candidate) = found else { break };
        let pair = Pair::new(x, &next, &gradient, &next_gradient);
        if pair.curvature > 1e-10 * dot(&pair.change, &pair.change) {
            if history.len() == MEMORY {
                history.pop_front();
            }
            history.push_back(pair);
        }
        x.copy_from_slice(&next);
        std::mem::swap(&mut gradient, &mut next_gradient);
        value = candidate;
    }
    Ok(value)
}

/// A step taken and what it did to the gradient.
struct Pair {
    step: Vec<f32>,
    change: Vec<f32>,
    /// step · change, positive where the function curves upwards.
    curvature: f64,
}

impl Pair {
    fn new(from: &[f32], to: &[f32], gradient_from: &[f32], gradient_to: &[f32]) -> Self {
        let difference = |to: &[f32], from: &[f32]| {
            to.iter()
                .zip(from)
                .map(|(a, b)| a - b)
                .collect::<Vec<f32>>()
        };
        let (step, change) = (difference(to, from), difference(gradient_to, gradient_from));
        let curvature = dot(&step, &change);
        Self {
            step,
            change,
            curvature,
        }
    }
}

/// The two-loop recursion: minus the inverse curvature, as the pairs tell it, times the gradient.
fn descent(gradient: &[f32], history: &VecDeque<Pair>) -> Vec<f32> {
    let mut direction: Vec<f32> = gradient.iter().map(|g| -g).collect();
    let mut weights = Vec::with_capacity(history.len());
    for pair in history.iter().rev() {
        let weight = dot(&pair.step, &direction) / pair.curvature;
        add(&mut direction, -weight, &pair.change);
        weights.push(weight);
    }
    if let Some(last) = history.back() {
        let scale = (last.curvature / dot(&last.change, &last.change)) as f32;
        direction.iter_mut().for_each(|d| *d *= scale);
    }
    for (pair, weight) in history.iter().zip(weights.into_iter().rev()) {
        let back = dot(&pair.change, &direction) / pair.curvature;
        add(&mut direction, weight - back, &pair.step);
    }
    direction
}

fn add(to: &mut [f32], factor: f64, from: &[f32]) {
    let factor = factor as f32;
    for (to, &from) in to.iter_mut().zip(from) {
        *to += factor * from;
    }
}

fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter()
        .zip(b)
        .map(|(&a, &b)| f64::from(a) * f64::from(b))
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::convert::Infallible;

    #[test]
    fn finds_the_minimum_of_an_ill_conditioned_bowl() {
        // Σ cᵢ (xᵢ − i)² with cᵢ from 1 to 100.
        let n = 20;
        let weight = |i: usize| 10f64.powf(2.0 * i as f64 / (n - 1) as f64);
        let mut calls = 0;
        let mut x = vec![0.0; n];
        let value = minimise(
            &mut x,
            Stop {
                iterations: 300,
                gradient: 1e-3,
            },
            |x, gradient| {
                calls += 1;
                let mut value = 0.0;
                for (i, &xi) in x.iter().enumerate() {
                    let off = f64::from(xi) - i as f64;
                    value += weight(i) * off * off;
                    gradient[i] = (2.0 * weight(i) * off) as f32;
                }
                Ok::<_, Infallible>(value)
            },
        )
        .unwrap();
        assert!(value < 1e-3, "value {value} after {calls} calls");
        for (i, &xi) in x.iter().enumerate() {
            assert!((f64::from(xi) - i as f64).abs() < 1e-2, "x[{i}] = {xi}");
        }
        assert!(calls < 100, "{calls} calls");
    }

    #[test]
    fn follows_a_bend() {
        // Rosenbrock's valley, not convex, but the classic test of a line search.
        let mut x = vec![-1.2f32, 1.0];
        let value = minimise(
            &mut x,
            Stop {
                iterations: 500,
                gradient: 1e-6,
            },
            |x, gradient| {
                let (a, b) = (f64::from(x[0]), f64::from(x[1]));
                let bend = b - a * a;
                gradient[0] = (-400.0 * a * bend - 2.0 * (1.0 - a)) as f32;
                gradient[1] = (200.0 * bend) as f32;
                Ok::<_, Infallible>(100.0 * bend * bend + (1.0 - a).powi(2))
            },
        )
        .unwrap();
        assert!(value < 1e-5, "value {value} at {x:?}");
    }
}
