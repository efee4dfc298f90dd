//! Random places of crops and colour jitter are spread as torchvision's, of which `tests/reference/augment_torchvision.py` has counted as
//! many draws into `tests/reference/golden/ablation/draws.json`.

use std::path::Path;

use serde::Deserialize;

use super::{Binned, distance, histogram, key};
use crate::augment::{Augmenter, Change, CropRule, TrainTransform, Transform, draw_jitter};
use crate::decode::ImageSize;
use crate::rng::{Draws, Purpose};

#[derive(Deserialize)]
struct Golden {
    draws: u64,
    offsets: Vec<OffsetCase>,
    jitters: Vec<JitterCase>,
}

/// Places of `inner` in `outer`, each height first.
#[derive(Deserialize)]
struct OffsetCase {
    outer: (u32, u32),
    inner: (u32, u32),
    x: Binned,
    y: Binned,
    /// Row less column.
    difference: Binned,
}

#[derive(Deserialize)]
struct JitterCase {
    strength: f64,
    /// By the orders of brightness, contrast and saturation, ascending.
    orders: Vec<u64>,
    /// Of the three factors, and of each less the next.
    factors: [Binned; 6],
}

fn golden() -> Golden {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"));
    let path = path.join("../tests/reference/golden/ablation/draws.json");
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

/// The greatest distance of the places (column, row) from those of `case`.
fn offset_distance(case: &OffsetCase, places: &[(u32, u32)]) -> f64 {
    let compare = |value: &dyn Fn(f64, f64) -> f64, theirs: &Binned| {
        let values = places
            .iter()
            .map(|&(x, y)| value(f64::from(x), f64::from(y)));
        distance(&histogram(values, &theirs.edges), &theirs.counts)
    };
    let distances = [
        compare(&|x, _| x, &case.x),
        compare(&|_, y| y, &case.y),
        compare(&|x, y| y - x, &case.difference),
    ];
    distances.into_iter().fold(0.0, f64::max)
}

#[test]
fn fixed_crops_are_spread_as_torchvisions() {
    let golden = golden();
    let mut noticed = 0;
    for case in &golden.offsets {
        let size = |(height, width)| ImageSize { width, height };
        let outer = size(case.outer);
        let crop = CropRule::Fixed {
            resize: outer.width.min(outer.height),
        };
        let train = TrainTransform {
            crop,
            ..TrainTransform::default()
        };
        let augmenter = Augmenter::new(Transform::Train(train), size(case.inner), 1 << 30);
        let places: Vec<(u32, u32)> = (0..golden.draws)
            .map(|place| {
                let plan = augmenter.plan(outer, &mut Draws::new(Purpose::Crop, key(place)));
                plan.unwrap().offset()
            })
            .collect();
        let distance = offset_distance(case, &places);
        println!("{:?} in {:?}: {distance:.2}", case.inner, case.outer);
        assert!(distance < 1.0, "{:?}: {distance} limits away", case.outer);
        // What could be got wrong: the last place left out, or one draw for both.
        if case.inner == (32, 32) {
            let last = outer.width - case.inner.1;
            let short = |&(x, y): &(u32, u32)| (x.min(last - 1), y);
            let wrong: Vec<_> = places.iter().map(short).collect();
            assert!(offset_distance(case, &wrong) > 1.0);
            let wrong: Vec<_> = places.iter().map(|&(x, _)| (x, x)).collect();
            assert!(offset_distance(case, &wrong) > 1.0);
            noticed += 1;
        }
    }
    assert_eq!(noticed, 1);
}

/// The greatest distance of changes from those of `case`.
fn jitter_distance(case: &JitterCase, images: &[[Change; 3]]) -> f64 {
    let mut orders = vec![0; 6];
    let mut factors = Vec::new();
    for changes in images {
        let (mut order, mut factor) = ([0; 3], [0.0; 3]);
        for (place, change) in order.iter_mut().zip(changes) {
            let (number, value) = match *change {
                Change::Brightness(value) => (0, value),
                Change::Contrast(value) => (1, value),
                Change::Saturation(value) => (2, value),
            };
            *place = number;
            factor[number] = value;
        }
        // Ascending: two orders begin with each.
        orders[2 * order[0] + usize::from(order[1] > order[2])] += 1;
        factors.push(factor);
    }
    let compare = |value: usize| {
        let (a, b) = (value % 3, (value + 1) % 3);
        let values = factors.iter().map(|factor| {
            if value < 3 {
                factor[a]
            } else {
                factor[a] - factor[b]
            }
        });
        let theirs = &case.factors[value];
        distance(&histogram(values, &theirs.edges), &theirs.counts)
    };
    (0..6)
        .map(compare)
        .fold(distance(&orders, &case.orders), f64::max)
}

#[test]
fn colour_jitter_is_spread_as_torchvisions() {
    let golden = golden();
    for case in &golden.jitters {
        let drawn = |strength| -> Vec<[Change; 3]> {
            let draw = |place| draw_jitter(strength, &mut Draws::new(Purpose::Jitter, key(place)));
            (0..golden.draws).map(draw).collect()
        };
        let images = drawn(case.strength);
        let distance = jitter_distance(case, &images);
        println!("strength {}: {distance:.2}", case.strength);
        assert!(distance < 1.0, "{}: {distance} limits away", case.strength);

        // What could be got wrong.
        let sorted = |mut changes: [Change; 3]| {
            changes.sort_by_key(|change| matches!(change, Change::Saturation(_)));
            changes
        };
        let one_factor = |changes: [Change; 3]| {
            let (Change::Brightness(one) | Change::Contrast(one) | Change::Saturation(one)) =
                changes[0];
            changes.map(|change| match change {
                Change::Brightness(_) => Change::Brightness(one),
                Change::Contrast(_) => Change::Contrast(one),
                Change::Saturation(_) => Change::Saturation(one),
            })
        };
        let in_order: Vec<_> = images.iter().copied().map(sorted).collect();
        let together: Vec<_> = images.iter().copied().map(one_factor).collect();
        for (name, wrong) in [
            ("saturation last", in_order),
            ("one factor for all", together),
            ("a strength that is larger", drawn(case.strength * 1.05)),
        ] {
            let distance = jitter_distance(case, &wrong);
            assert!(distance > 1.0, "{name}: only {distance} limits away");
        }
    }
}
