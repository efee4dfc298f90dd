//! What fine-tuning draws is spread as timm's, of which `tests/reference/draws_timm.py` has counted as many draws into
//! `tests/reference/golden/draws_timm.json`.

use std::path::Path;

use serde::Deserialize;

use super::{Binned, distance, histogram, key};
use crate::augment::{Mix, Mixing, Operation, RandAugment, draw_operation, erase_box, mix_draw};
use crate::decode::ImageSize;
use crate::order::Cursor;
use crate::rng::{Draws, Purpose};

#[derive(Deserialize)]
struct Golden {
    draws: u64,
    erasing: Vec<ErasingCase>,
    mixing: Vec<MixingCase>,
    augmenting: Vec<AugmentingCase>,
}

#[derive(Deserialize)]
struct ErasingCase {
    probability: f64,
    width: u32,
    height: u32,
    /// Images of which something was erased.
    erased: u64,
    /// Of these: see `erasing_values`.
    values: Vec<Binned>,
}

#[derive(Deserialize)]
struct MixingCase {
    mixup_alpha: f64,
    cutmix_alpha: f64,
    probability: f64,
    switch_probability: f64,
    width: u32,
    height: u32,
    /// Batches that were mixed by mixup, and by cutmix.
    mixed: u64,
    cut: u64,
    /// λ.
    mixup: Vec<Binned>,
    /// See `cut_values`.
    cutmix: Vec<Binned>,
}

#[derive(Deserialize)]
struct AugmentingCase {
    policy: RandAugment,
    operations: Vec<String>,
    /// By the numbers of the first and the second operation of an image, 15 where none is applied.
    pairs: Vec<u64>,
    /// Of each operation that has one.
    arguments: Vec<Option<Binned>>,
}

fn golden() -> Golden {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"));
    let path = path.join("../tests/reference/golden/draws_timm.json");
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

/// The greatest distance between `rows` of values and what was counted of theirs, and the number of the value.
fn worst<const N: usize>(rows: &[[f64; N]], theirs: &[Binned]) -> (f64, usize) {
    if theirs.is_empty() {
        return (rows.len() as f64, 0);
    }
    assert_eq!(theirs.len(), N);
    let distances = theirs.iter().enumerate().map(|(value, theirs)| {
        let ours = histogram(rows.iter().map(|row| row[value]), &theirs.edges);
        (distance(&ours, &theirs.counts), value)
    });
    distances.max_by(|a, b| a.0.total_cmp(&b.0)).unwrap()
}

fn check(name: &str, distances: &[(f64, usize)]) {
    println!("{name}: {distances:.2?}");
    for (distance, value) in distances {
        assert!(*distance < 1.0, "{name}: value {value} is {distance} away");
    }
}

fn erasing_values([top, left, height, width]: [u32; 4], case: &ErasingCase) -> [f64; 6] {
    let (h, w) = (f64::from(height), f64::from(width));
    let room = |start: u32, all: u32, length: f64| {
        (f64::from(start) + 0.5) / (f64::from(all) - length + 1.0)
    };
    [
        h,
        w,
        h * w,
        h / w,
        room(top, case.height, h),
        room(left, case.width, w),
    ]
}

#[test]
fn erased_boxes_are_spread_as_timms() {
    let golden = golden();
    for case in &golden.erasing {
        let size = ImageSize {
            width: case.width,
            height: case.height,
        };
        let boxes = (0..golden.draws).map(|place| {
            let mut draws = Draws::new(Purpose::Erase, key(place));
            erase_box(case.probability, size, &mut draws)
        });
        let rows: Vec<_> = boxes
            .filter(|&area| area != [0; 4])
            .map(|area| erasing_values(area, case))
            .collect();
        let split = |erased: u64| [erased, golden.draws - erased];
        check(
            &format!("{}×{} at {}", case.width, case.height, case.probability),
            &[
                (distance(&split(rows.len() as u64), &split(case.erased)), 99),
                worst(&rows, &case.values),
            ],
        );
    }
}

fn cut_values(mix: &Mix) -> Option<[f64; 7]> {
    let cut = mix.cut?;
    let [top, left, height, width] = [cut.y, cut.x, cut.height, cut.width].map(f64::from);
    let (middle, centre) = (2.0 * top + height, 2.0 * left + width);
    Some([mix.lambda, top, left, height, width, middle, centre])
}

#[test]
fn mixes_are_spread_as_timms() {
    let golden = golden();
    for case in &golden.mixing {
        let mixing = Mixing::new(
            case.mixup_alpha,
            case.cutmix_alpha,
            case.probability,
            case.switch_probability,
        );
        let size = ImageSize {
            width: case.width,
            height: case.height,
        };
        let mixing = mixing.unwrap();
        let mixes: Vec<Mix> = (0..golden.draws)
            .filter_map(|step| mix_draw(&mixing, size, 1, Cursor { epoch: 0, step }))
            .collect();
        let cut: Vec<_> = mixes.iter().filter_map(cut_values).collect();
        let mixed: Vec<_> = mixes
            .iter()
            .filter(|mix| mix.cut.is_none())
            .map(|mix| [mix.lambda])
            .collect();
        let kinds = |mixed: u64, cut: u64| [mixed, cut, golden.draws - mixed - cut];
        let ours = kinds(mixed.len() as u64, cut.len() as u64);
        check(
            &format!("mixup {}, cutmix {}", case.mixup_alpha, case.cutmix_alpha),
            &[
                (distance(&ours, &kinds(case.mixed, case.cut)), 99),
                worst(&mixed, &case.mixup),
                worst(&cut, &case.cutmix),
            ],
        );
    }
}

/// The greatest distance of operations drawn by `policy` from those counted in `case`, and the number of the operation, or 99 for pairs.
fn augmenting_distance(case: &AugmentingCase, policy: &RandAugment, images: u64) -> (f64, usize) {
    let kinds = case.operations.len();
    let mut pairs = vec![0; (kinds + 1) * (kinds + 1)];
    let mut arguments = vec![Vec::new(); kinds];
    for place in 0..images {
        let mut draws = Draws::new(Purpose::Augment, key(place));
        let layers: Vec<_> = (0..policy.layers())
            .map(|_| draw_operation(policy, &mut draws).map(Operation::numbered))
            .collect();
        let number = |layer: usize| layers[layer].map_or(kinds, |(number, _)| number);
        pairs[number(0) * (kinds + 1) + number(1)] += 1;
        for (number, argument) in layers.into_iter().flatten() {
            arguments[number].push([argument]);
        }
    }
    let spread = arguments.iter().zip(&case.arguments).enumerate();
    let spread = spread.filter_map(|(number, (ours, theirs))| {
        let theirs = theirs.as_ref()?;
        let ours = histogram(ours.iter().map(|row| row[0]), &theirs.edges);
        Some((distance(&ours, &theirs.counts), number))
    });
    let pairs = (distance(&pairs, &case.pairs), 99);
    spread
        .chain([pairs])
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .unwrap()
}

#[test]
fn operations_are_spread_as_timms() {
    let golden = golden();
    for case in &golden.augmenting {
        let worst = augmenting_distance(case, &case.policy, golden.draws);
        check(&case.policy.to_string(), &[worst]);
        for other in [
            "rand-m9-mstd0.7-inc1",
            "rand-m9-p0.55-mstd0.5-inc1",
            "rand-m8-mstd0.5-inc1",
        ] {
            let other = other.parse().unwrap();
            assert!(
                augmenting_distance(case, &other, golden.draws).0 > 1.0,
                "{other}"
            );
        }
    }
}

/// What could be got wrong, done on purpose.
#[test]
fn other_draws_are_noticed() {
    let golden = golden();
    let case = &golden.erasing[1];
    let size = ImageSize {
        width: case.width,
        height: case.height,
    };
    let boxes = (0..golden.draws)
        .map(|place| erase_box(1.0, size, &mut Draws::new(Purpose::Erase, key(place))));
    // Narrower by a tenth.
    let rows: Vec<_> = boxes
        .map(|[top, left, height, width]| erasing_values([top, left, height, width * 9 / 10], case))
        .collect();
    assert!(worst(&rows, &case.values).0 > 1.0);

    let case = &golden.mixing[0];
    let mixes = |mixing: &Mixing| -> Vec<Mix> {
        let size = ImageSize {
            width: case.width,
            height: case.height,
        };
        let draws = 0..golden.draws;
        draws
            .filter_map(|step| mix_draw(mixing, size, 1, Cursor { epoch: 0, step }))
            .collect()
    };
    let uniform = mixes(&Mixing::new(1.0, 1.0, 1.0, 0.5).unwrap());
    let shares: Vec<_> = uniform
        .iter()
        .filter(|mix| mix.cut.is_none())
        .map(|mix| [mix.lambda])
        .collect();
    assert!(worst(&shares, &case.mixup).0 > 1.0, "another α");
    let cut = mixes(&Mixing::default());
    let uncorrected: Vec<_> = cut
        .iter()
        .filter_map(|mix| {
            let mut values = cut_values(mix)?;
            // λ as it would be had the image's edge cut nothing off.
            values[0] = 1.0 - (values[3].max(values[4]) / f64::from(case.width)).powi(2);
            Some(values)
        })
        .collect();
    let (distance, value) = worst(&uncorrected, &case.cutmix);
    assert!(distance > 1.0 && value == 0, "{distance} {value}");
}
