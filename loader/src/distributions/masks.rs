//! Masks are spread as the reference code's.

use serde::Deserialize;

use super::{distance, golden, key, limit};
use crate::mask::{MaskSampler, MaskSampling};
use crate::rng::{Draws, Purpose};

/// Counts by the number of patches, but for `kept`.
#[derive(Deserialize)]
pub(super) struct MaskCase {
    patches: usize,
    keep: usize,
    columns: usize,
    /// How often each patch was kept.
    kept: Vec<u64>,
    /// Kept patches that have a kept one to their right.
    beside: Vec<u64>,
    /// Kept patches that have a kept one below.
    below: Vec<u64>,
    /// Kept patches in the upper half.
    upper: Vec<u64>,
}

/// The counts of a mask case, of masks that `draw` puts into `kept`.
fn count_masks(case: &MaskCase, draws: u64, mut draw: impl FnMut(u64, &mut [bool])) -> MaskCase {
    let MaskCase {
        patches,
        keep,
        columns,
        ..
    } = *case;
    let zeros = || vec![0; patches + 1];
    let mut counts = MaskCase {
        patches,
        keep,
        columns,
        kept: vec![0; patches],
        beside: zeros(),
        below: zeros(),
        upper: zeros(),
    };
    let mut kept = vec![false; patches];
    for place in 0..draws {
        kept.fill(false);
        draw(place, &mut kept);
        let (mut beside, mut below, mut upper) = (0, 0, 0);
        for patch in (0..patches).filter(|&patch| kept[patch]) {
            counts.kept[patch] += 1;
            beside += usize::from((patch + 1) % columns != 0 && kept[patch + 1]);
            below += usize::from(kept.get(patch + columns) == Some(&true));
            upper += usize::from(patch < patches / columns / 2 * columns);
        }
        counts.beside[beside] += 1;
        counts.below[below] += 1;
        counts.upper[upper] += 1;
    }
    counts
}

fn mask_distance(ours: &MaskCase, theirs: &MaskCase, draws: u64) -> (f64, &'static str) {
    // Exactly `keep` are kept each time, so a patch's count varies as without replacement: χ² of one degree less than patches.
    let (patches, share) = (
        theirs.patches as f64,
        theirs.keep as f64 / theirs.patches as f64,
    );
    let variance = 2.0 * draws as f64 * share * (1.0 - share) * patches / (patches - 1.0);
    let squares = ours.kept.iter().zip(&theirs.kept);
    let squares: f64 = squares.map(|(&a, &b)| (a as f64 - b as f64).powi(2)).sum();
    let distances = [
        (squares / variance / limit(theirs.patches - 1), "kept"),
        (distance(&ours.beside, &theirs.beside), "beside"),
        (distance(&ours.below, &theirs.below), "below"),
        (distance(&ours.upper, &theirs.upper), "upper"),
    ];
    distances
        .into_iter()
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .unwrap()
}

#[test]
fn masks_are_spread_as_the_reference_codes() {
    let golden = golden();
    for case in &golden.masks {
        let sampler = MaskSampler::new(MaskSampling::Random, (1, case.patches), case.keep);
        let mut sampler = sampler.unwrap();
        let (mut ids_keep, mut ids_restore) = (vec![0; case.keep], vec![0; case.patches]);
        let ours = count_masks(case, golden.draws, |place, kept| {
            let mut draws = Draws::new(Purpose::Mask, key(place));
            sampler.sample(&mut draws, &mut ids_keep, &mut ids_restore);
            ids_keep
                .iter()
                .for_each(|&patch| kept[patch as usize] = true);
        });
        let (distance, worst) = mask_distance(&ours, case, golden.draws);
        println!("{} of {}: {worst} {distance:.2}", case.keep, case.patches);
        assert!(
            distance < 1.0,
            "{} of {}: {worst} is {distance} limits away",
            case.keep,
            case.patches
        );
    }
}

#[test]
fn other_masks_are_noticed() {
    let golden = golden();
    let case = &golden.masks[0];
    let noticed = |draw: &dyn Fn(&mut Draws, &mut [bool])| {
        let ours = count_masks(case, golden.draws, |place, kept| {
            draw(&mut Draws::new(Purpose::Mask, key(place)), kept)
        });
        mask_distance(&ours, case, golden.draws)
    };
    // A shuffle that exchanges each patch with any, rather than with one that is not settled yet.
    let (distance, worst) = noticed(&|draws, kept| {
        let mut order: Vec<usize> = (0..kept.len()).collect();
        for i in 0..order.len() {
            order.swap(i, draws.below(kept.len() as u32) as usize);
        }
        order[..case.keep]
            .iter()
            .for_each(|&patch| kept[patch] = true);
    });
    assert!(distance > 1.0, "{worst} {distance}");
    // Each patch by a coin of its own: equally often, but not equally many.
    let (distance, _) = noticed(&|draws, kept| {
        kept.iter_mut().for_each(|kept| *kept = draws.below(4) == 0);
    });
    assert!(distance > 1.0, "{distance}");
    // Patches in a row of a random start: equally often, and together.
    let (distance, worst) = noticed(&|draws, kept| {
        let (start, patches) = (draws.below(kept.len() as u32) as usize, kept.len());
        (0..case.keep).for_each(|i| kept[(start + i) % patches] = true);
    });
    assert!(distance > 1.0 && worst != "kept", "{worst} {distance}");
}
