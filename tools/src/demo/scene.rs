//! Draws one picture of the demo's dataset: an object of the class on a cluttered ground, under a light. Everything but the class is
//! drawn without regard to the class, so that neither a colour histogram nor raw pixels tell classes apart.

use super::rng::Draws;
use super::shapes;

/// Side of the square pictures, in pixels.
pub(super) const SIDE: usize = 32;
/// Samples along each side of a pixel when the object and the lines are drawn.
const OVERSAMPLE: usize = 3;

/// How far a colour may lie from gray.
const SATURATION: f32 = 0.8;
/// How far an object and its texture are turned from upright, in radians either way.
const TURN: f32 = 0.45;

type Rgb = [f32; 3];

/// The picture of sample `index` of the dataset of `seed`: [SIDE, SIDE, 3] bytes.
pub(super) fn render(seed: u64, index: u64, class: u32) -> Vec<u8> {
    let mut draws = Draws::of_sample(seed, index);
    let mut canvas = ground(&mut draws);
    let ground_mean = mean(&canvas);
    for _ in 0..2 + draws.below(3) {
        line(&mut canvas, &mut draws);
    }
    object(&mut canvas, &mut draws, class, ground_mean);
    light(&mut canvas, &mut draws);
    canvas
        .iter()
        .flatten()
        .map(|v| (v.clamp(0.0, 1.0) * 255.0 + 0.5) as u8)
        .collect()
}

/// A gradient between two colours with a few soft blobs in others.
fn ground(draws: &mut Draws) -> Vec<Rgb> {
    let (from, to) = (colour(draws), colour(draws));
    let (sin, cos) = draws.angle().sin_cos();
    let mut canvas: Vec<Rgb> = pixels()
        .map(|(x, y)| {
            let t = 0.5 + (cos * x + sin * y) / (1.42 * SIDE as f32);
            blend(from, to, t)
        })
        .collect();
    for _ in 0..3 + draws.below(4) {
        let half = SIDE as f32 / 2.0;
        let (cx, cy) = (draws.range(-half, half), draws.range(-half, half));
        let (radius, strength) = (draws.range(2.0, 7.0), draws.range(0.25, 0.65));
        let paint = colour(draws);
        for ((x, y), pixel) in pixels().zip(&mut canvas) {
            let d2 = ((x - cx).powi(2) + (y - cy).powi(2)) / (radius * radius);
            *pixel = blend(*pixel, paint, strength * (-d2).exp());
        }
    }
    canvas
}

/// A thin straight stroke, which is no class's shape.
fn line(canvas: &mut [Rgb], draws: &mut Draws) {
    let half = SIDE as f32 / 2.0;
    let (x0, y0) = (draws.range(-half, half), draws.range(-half, half));
    let ((sin, cos), length) = (draws.angle().sin_cos(), draws.range(6.0, 24.0));
    let (width, paint) = (draws.range(0.5, 1.3), colour(draws));
    cover(canvas, |x, y| {
        let (dx, dy) = (x - x0, y - y0);
        let (along, across) = (dx * cos + dy * sin, dy * cos - dx * sin);
        (along.abs() < length / 2.0 && across.abs() < width / 2.0).then_some(paint)
    });
}

/// The object that gives the picture its class.
fn object(canvas: &mut [Rgb], draws: &mut Draws, class: u32, ground: Rgb) {
    let (shape, texture) = shapes::of_class(class);
    let radius = draws.range(9.0, 13.0);
    let reach = ((SIDE as f32 / 2.0 - radius) + 1.5).min(6.5);
    let (cx, cy) = (draws.range(-reach, reach), draws.range(-reach, reach));
    let (sin, cos) = draws.range(-TURN, TURN).sin_cos();
    let (tsin, tcos) = draws.range(-TURN, TURN).sin_cos();
    let period = draws.range(6.0, 8.0);
    let (pu, pv) = (draws.unit(), draws.unit());
    let share = draws.range(0.4, 0.6);
    let (first, second) = object_colours(draws, ground);
    cover(canvas, |x, y| {
        let (dx, dy) = ((x - cx) / radius, (y - cy) / radius);
        shape
            .contains(dx * cos + dy * sin, dy * cos - dx * sin)
            .then(|| {
                let (u, v) = (
                    (x * tcos + y * tsin) / period + pu,
                    (y * tcos - x * tsin) / period + pv,
                );
                if texture.is_second(u, v, share) {
                    second
                } else {
                    first
                }
            })
    });
}

/// Two colours that stand apart from each other and, one at least, from the ground.
fn object_colours(draws: &mut Draws, ground: Rgb) -> (Rgb, Rgb) {
    loop {
        let (first, second) = (colour(draws), colour(draws));
        let apart = distance(first, second);
        if apart > 0.6 && distance(first, ground).max(distance(second, ground)) > 0.4 {
            return (first, second);
        }
    }
}

/// Light that falls off in one direction, overall brightness, and a sensor's noise.
fn light(canvas: &mut [Rgb], draws: &mut Draws) {
    let ((sin, cos), fall) = (draws.angle().sin_cos(), draws.range(0.0, 0.35));
    let bright = draws.range(0.7, 1.15);
    let noise = draws.range(0.0, 0.01);
    for ((x, y), pixel) in pixels().zip(canvas) {
        let gain = bright * (1.0 + fall * (cos * x + sin * y) / (SIDE as f32 / 2.0));
        for value in pixel {
            *value = *value * gain + noise * (draws.unit() + draws.unit() - 1.0);
        }
    }
}

/// Paints where `paint` gives a colour, each pixel in proportion to the part of it that is covered.
fn cover(canvas: &mut [Rgb], paint: impl Fn(f32, f32) -> Option<Rgb>) {
    let step = 1.0 / OVERSAMPLE as f32;
    for ((x, y), pixel) in pixels().zip(canvas) {
        let before = *pixel;
        let mut sum = [0.0f32; 3];
        for i in 0..OVERSAMPLE * OVERSAMPLE {
            let dx = ((i % OVERSAMPLE) as f32 + 0.5) * step - 0.5;
            let dy = ((i / OVERSAMPLE) as f32 + 0.5) * step - 0.5;
            let colour = paint(x + dx, y + dy).unwrap_or(before);
            for (sum, value) in sum.iter_mut().zip(colour) {
                *sum += value;
            }
        }
        *pixel = sum.map(|v| v / (OVERSAMPLE * OVERSAMPLE) as f32);
    }
}

/// The pixels' centres, row by row, measured from the picture's centre.
fn pixels() -> impl Iterator<Item = (f32, f32)> {
    let half = SIDE as f32 / 2.0 - 0.5;
    (0..SIDE * SIDE).map(move |i| ((i % SIDE) as f32 - half, (i / SIDE) as f32 - half))
}

/// A random colour of any lightness.
fn colour(draws: &mut Draws) -> Rgb {
    let hue = [draws.unit(), draws.unit(), draws.unit()];
    let mean = hue.iter().sum::<f32>() / 3.0;
    let lightness = draws.unit();
    hue.map(|v| lightness + SATURATION * (v - mean))
}

fn blend(from: Rgb, to: Rgb, t: f32) -> Rgb {
    std::array::from_fn(|i| from[i] + (to[i] - from[i]) * t.clamp(0.0, 1.0))
}

fn distance(a: Rgb, b: Rgb) -> f32 {
    (0..3).map(|i| (a[i] - b[i]).powi(2)).sum::<f32>().sqrt()
}

fn mean(canvas: &[Rgb]) -> Rgb {
    std::array::from_fn(|i| canvas.iter().map(|p| p[i]).sum::<f32>() / canvas.len() as f32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_picture_depends_on_seed_index_and_class_alone() {
        let picture = render(3, 5, 2);
        assert_eq!(picture.len(), SIDE * SIDE * 3);
        assert_eq!(picture, render(3, 5, 2));
        assert_ne!(picture, render(4, 5, 2));
        assert_ne!(picture, render(3, 6, 2));
        assert_ne!(picture, render(3, 5, 3));
    }

    #[test]
    fn the_class_changes_the_object_and_not_the_scene() {
        // The ground, the lines and the light are drawn alike for each class: the corners seldom change.
        let same = (0..40u64)
            .filter(|&i| {
                let (a, b) = (render(1, i, 0), render(1, i, 7));
                a[..3] == b[..3]
            })
            .count();
        assert!(same > 30, "the corner is the same in {same} of 40");
    }
}
