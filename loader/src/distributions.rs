//! Crops, flips and masks are spread as torchvision's and the reference code's: 40,000 draws of each against as many of theirs, which
//! `tests/reference/crops_torchvision.py` has counted into `tests/reference/golden/draws.json`.
//!
//! Draws here come from fixed seeds, so that a test that passes goes on passing. Should other draws be chosen, chance alone exceeds
//! one [`limit`] with a probability of about 3·10⁻⁷, and any of the hundred or so here with 3·10⁻⁵.

mod ablation;
mod blocks;
mod fine_tuning;
mod masks;

use std::path::Path;

use serde::Deserialize;

use crate::augment::{Augmenter, CropRule, TrainTransform, Transform, wanted};
use crate::decode::{ImageSize, Rect};
use crate::rng::{Draws, Key, Purpose};

#[derive(Deserialize)]
struct Golden {
    draws: u64,
    flips: u64,
    crops: Vec<CropCase>,
    masks: Vec<masks::MaskCase>,
    clamped: Vec<CropCase>,
}

#[derive(Deserialize)]
struct CropCase {
    width: u32,
    height: u32,
    scale: (f64, f64),
    ratio: (f64, f64),
    /// Draws of the largest central part, where torchvision's ten tries may end.
    fallback: u64,
    /// Share of the image's area.
    area: Binned,
    /// Width / height.
    aspect: Binned,
    /// Column among all that the part could start at, from 0 to 1.
    x: Binned,
    y: Binned,
    /// Twice the column of the part's centre.
    centre_x: Binned,
}

#[derive(Deserialize)]
struct Binned {
    edges: Vec<f64>,
    counts: Vec<u64>,
}

fn golden() -> Golden {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/reference/golden/draws.json");
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

/// Value that χ² with `freedom` degrees of freedom exceeds as rarely as a normal variable exceeds five standard deviations:
/// 2.9·10⁻⁷ (Wilson and Hilferty 1931).
fn limit(freedom: usize) -> f64 {
    let ninth = 2.0 / (9.0 * freedom as f64);
    freedom as f64 * (1.0 - ninth + 5.0 * ninth.sqrt()).powi(3)
}

/// How far two histograms are from one distribution, in units of [`limit`]: below 1 is agreement. Bins that are too rare for χ² to hold
/// are taken together.
fn distance(ours: &[u64], theirs: &[u64]) -> f64 {
    assert_eq!(ours.len(), theirs.len());
    let (n, m) = (ours.iter().sum::<u64>(), theirs.iter().sum::<u64>());
    if n == 0 || m == 0 {
        return (n + m) as f64;
    }
    // 1 where both hold equally many.
    let ratio = (m as f64 / n as f64).sqrt();
    let (mut bins, mut rest) = (Vec::new(), (0.0, 0.0));
    for (&a, &b) in ours.iter().zip(theirs) {
        let (a, b) = (a as f64, b as f64);
        if a + b < 40.0 {
            rest = (rest.0 + a, rest.1 + b);
        } else {
            bins.push((a, b));
        }
    }
    if rest.0 + rest.1 > 0.0 {
        bins.push(rest);
    }
    let squares: f64 = bins
        .iter()
        .map(|(a, b)| (a * ratio - b / ratio).powi(2) / (a + b))
        .sum();
    if bins.len() < 2 {
        // All in one bin, on both sides.
        return squares;
    }
    squares / limit(bins.len() - 1)
}

/// Counts between `edges`. A value counts above the edge that it is at, which `serde_json` may have read by a last bit too large.
fn histogram(values: impl Iterator<Item = f64>, edges: &[f64]) -> Vec<u64> {
    let mut counts = vec![0; edges.len() + 1];
    for value in values {
        let value = value + 1e-12 * value.abs();
        counts[edges.partition_point(|&edge| edge <= value)] += 1;
    }
    counts
}

fn key(place: u64) -> Key {
    Key {
        seed: 1,
        epoch: 0,
        place,
        repeat: 0,
    }
}

/// Crops of `case` by `crop` and how often they were flipped.
fn crops(case: &CropCase, crop: CropRule, draws: u64) -> (Vec<Rect>, u64) {
    let image = ImageSize {
        width: case.width,
        height: case.height,
    };
    let augmenter = Augmenter::new(
        Transform::Train(TrainTransform {
            scale: case.scale,
            ratio: case.ratio,
            crop,
            ..TrainTransform::default()
        }),
        ImageSize {
            width: 224,
            height: 224,
        },
        1 << 30,
    );
    let mut flips = 0;
    let parts = (0..draws).map(|place| {
        let plan = augmenter
            .plan(image, &mut Draws::new(Purpose::Crop, key(place)))
            .unwrap();
        flips += u64::from(plan.flips());
        wanted(&[plan]).part
    });
    (parts.collect(), flips)
}

/// The greatest [`distance`] of all that is counted of crops, and what it is of.
fn crop_distance(case: &CropCase, parts: &[Rect]) -> (f64, &'static str) {
    let (width, height) = (f64::from(case.width), f64::from(case.height));
    let compare = |value: &dyn Fn(&Rect) -> f64, binned: &Binned| {
        distance(
            &histogram(parts.iter().map(value), &binned.edges),
            &binned.counts,
        )
    };
    let area = |part: &Rect| f64::from(part.width) * f64::from(part.height) / (width * height);
    let aspect = |part: &Rect| f64::from(part.width) / f64::from(part.height);
    let x = |part: &Rect| (f64::from(part.x) + 0.5) / (width - f64::from(part.width) + 1.0);
    let y = |part: &Rect| (f64::from(part.y) + 0.5) / (height - f64::from(part.height) + 1.0);
    let centre_x = |part: &Rect| 2.0 * f64::from(part.x) + f64::from(part.width);
    let central = central(case);
    let fallback = parts.iter().filter(|part| **part == central).count() as u64;
    let others = |fallback| [fallback, parts.len() as u64 - fallback];
    let distances = [
        (compare(&area, &case.area), "area"),
        (compare(&aspect, &case.aspect), "aspect"),
        (compare(&x, &case.x), "x"),
        (compare(&y, &case.y), "y"),
        (compare(&centre_x, &case.centre_x), "centre"),
        (
            distance(&others(fallback), &others(case.fallback)),
            "fallback",
        ),
    ];
    distances
        .into_iter()
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .unwrap()
}

/// The part that ten misfits end at.
fn central(case: &CropCase) -> Rect {
    let (width, height) = (f64::from(case.width), f64::from(case.height));
    let (least, greatest) = case.ratio;
    let rounded = |length: f64| length.round_ties_even() as u32;
    let (w, h) = if width / height < least {
        (case.width, rounded(width / least))
    } else if width / height > greatest {
        (rounded(height * greatest), case.height)
    } else {
        (case.width, case.height)
    };
    Rect {
        x: (case.width - w) / 2,
        y: (case.height - h) / 2,
        width: w,
        height: h,
    }
}

fn check_crops(cases: &[CropCase], rule: CropRule, draws: u64) {
    for case in cases {
        let (distance, worst) = crop_distance(case, &crops(case, rule, draws).0);
        println!(
            "{}×{} at scale {:?}: {worst} {distance:.2}, {} of {draws} at the centre",
            case.width, case.height, case.scale, case.fallback
        );
        assert!(
            distance < 1.0,
            "{}×{}, scale {:?}: {worst} is {distance} limits away",
            case.width,
            case.height,
            case.scale
        );
    }
}

#[test]
fn crops_are_spread_as_torchvisions() {
    let golden = golden();
    check_crops(&golden.crops, CropRule::Retry, golden.draws);
}

#[test]
fn clamped_crops_are_spread_as_the_reference_codes() {
    let golden = golden();
    check_crops(&golden.clamped, CropRule::Clamp, golden.draws);
    // The rules can be told apart.
    let case = &golden.clamped[1];
    let (retried, _) = crops(case, CropRule::Retry, golden.draws);
    assert!(crop_distance(case, &retried).0 > 1.0);
}

#[test]
fn flips_are_as_frequent_as_torchvisions() {
    let golden = golden();
    let flips = crops(&golden.crops[0], CropRule::Retry, golden.draws).1;
    let others = |flips| [flips, golden.draws - flips];
    assert!(distance(&others(flips), &others(golden.flips)) < 1.0);
    assert!(distance(&others(golden.draws * 47 / 100), &others(golden.flips)) > 1.0);
}

/// What could be got wrong, done on purpose.
#[test]
fn other_crops_are_noticed() {
    let golden = golden();
    let case = golden
        .crops
        .iter()
        .find(|case| (case.width, case.height) == (500, 375))
        .unwrap();
    let (width, height) = (f64::from(case.width), f64::from(case.height));
    type Draw<'a> = &'a dyn Fn(&mut Draws) -> f64;
    let crops =
        |area: Draw<'_>, aspect: Draw<'_>, start: &dyn Fn(&mut Draws, u32) -> u32, tries: u32| {
            let crop = |place| {
                let mut draws = Draws::new(Purpose::Crop, key(place));
                for _ in 0..tries {
                    let (area, aspect) = (width * height * area(&mut draws), aspect(&mut draws));
                    let w = (area * aspect).sqrt().round_ties_even() as u32;
                    let h = (area / aspect).sqrt().round_ties_even() as u32;
                    if w <= case.width && h <= case.height {
                        let y = start(&mut draws, case.height - h + 1);
                        let x = start(&mut draws, case.width - w + 1);
                        return Rect {
                            x,
                            y,
                            width: w,
                            height: h,
                        };
                    }
                }
                central(case)
            };
            let parts: Vec<Rect> = (0..golden.draws).map(crop).collect();
            crop_distance(case, &parts)
        };
    let (least, greatest) = case.ratio;
    let area = |draws: &mut Draws| draws.uniform(0.2, 1.0);
    let aspect = |draws: &mut Draws| draws.uniform(least.ln(), greatest.ln()).exp();
    let start = |draws: &mut Draws, bound: u32| draws.below(bound);
    let right = crops(&area, &aspect, &start, 10);
    assert!(right.0 < 1.0, "the same, written once more: {right:?}");

    let uniform_ratio = |draws: &mut Draws| draws.uniform(least, greatest);
    let uniform_side = |draws: &mut Draws| draws.uniform(0.2f64.sqrt(), 1.0).powi(2);
    let other_scale = |draws: &mut Draws| draws.uniform(0.08, 1.0);
    let to_the_middle =
        |draws: &mut Draws, bound: u32| (draws.below(bound) + draws.below(bound)) / 2;
    let wrong_area = crops(&uniform_side, &aspect, &start, 10);
    for (name, (distance, worst), expected) in [
        (
            "ratio uniform",
            crops(&area, &uniform_ratio, &start, 10),
            "aspect",
        ),
        ("side uniform", wrong_area, "area"),
        (
            "torchvision's own scale",
            crops(&other_scale, &aspect, &start, 10),
            "area",
        ),
        (
            "start towards the middle",
            crops(&area, &aspect, &to_the_middle, 10),
            "",
        ),
        ("one try", crops(&area, &aspect, &start, 1), "fallback"),
    ] {
        println!("{name}: {worst} {distance:.2}");
        assert!(distance > 1.0, "{name}: only {distance} limits away");
        assert!(
            expected.is_empty() || worst == expected,
            "{name}: noticed by {worst}"
        );
    }
}
