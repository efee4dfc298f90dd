use std::collections::HashMap;

use proptest::prelude::*;

use super::*;
use crate::order::{Slices, Window};

/// Shards of some parts; each part has a sample at least.
fn parts() -> impl Strategy<Value = Vec<Vec<u32>>> {
    let part = prop::collection::vec(0u32..12, 1..5).prop_map(|mut counts| {
        counts[0] = counts[0].max(1);
        counts
    });
    prop::collection::vec(part, 1..5)
}

/// A mixture by weights from 1 to 4, which an epoch of 20 samples or more can hold.
fn mixed(parts: &[Vec<u32>], weights: &[f64], samples: u64, seed: u64) -> MixedOrder {
    let mut first_shard = 0;
    let orders = (0..).zip(parts).map(|(number, counts)| {
        let order = Order::shuffled(counts.clone(), seed, Window::All).of_part(number);
        let part = PartOrder::new(order, first_shard);
        first_shard += counts.len() as u32;
        part
    });
    let quotas = Quotas::new(&weights[..parts.len()], samples).unwrap();
    MixedOrder::new(orders.collect(), quotas, seed)
}

fn epochs(order: &MixedOrder, epochs: std::ops::Range<u64>) -> Vec<SampleId> {
    let mut walk = order.walk();
    epochs
        .flat_map(|epoch| {
            let samples = (0..).map_while(|place| walk.sample(epoch, place));
            samples.collect::<Vec<_>>()
        })
        .collect()
}

/// The part of each shard.
fn part_of(parts: &[Vec<u32>], sample: SampleId) -> usize {
    let shards = (0..)
        .zip(parts)
        .flat_map(|(part, counts)| counts.iter().map(move |_| part));
    shards.collect::<Vec<usize>>()[sample.shard as usize]
}

fn weights() -> impl Strategy<Value = Vec<f64>> {
    prop::collection::vec(1.0f64..4.0, 5)
}

proptest! {
    #[test]
    fn every_sample_of_a_part_comes_once_before_any_comes_twice(
        parts in parts(), weights in weights(), samples in 20u64..60, seed: u64,
    ) {
        let order = mixed(&parts, &weights, samples, seed);
        let drawn = epochs(&order, 0..7);
        prop_assert_eq!(drawn.len() as u64, 7 * samples);
        for (number, counts) in parts.iter().enumerate() {
            let own: Vec<SampleId> = drawn.iter().copied().filter(|id| part_of(&parts, *id) == number).collect();
            for round in own.chunks(counts.iter().sum::<u32>() as usize) {
                let mut times = HashMap::new();
                for id in round {
                    *times.entry(id).or_insert(0) += 1;
                }
                prop_assert!(times.values().all(|count| *count == 1));
            }
        }
    }

    #[test]
    fn shares_are_kept_from_the_first_epoch_to_the_end_of_any(
        parts in parts(), weights in weights(), samples in 20u64..60, seed: u64,
    ) {
        let order = mixed(&parts, &weights, samples, seed);
        let sum: f64 = weights[..parts.len()].iter().sum();
        let drawn = epochs(&order, 0..6);
        for end in (1..=6).map(|epoch| epoch * samples) {
            for (number, weight) in weights[..parts.len()].iter().enumerate() {
                let count = drawn[..end as usize].iter().filter(|id| part_of(&parts, **id) == number).count();
                let exact = end as f64 * weight / sum;
                prop_assert!((count as f64 - exact).abs() < 1.0 + 1e-5, "{count} for {exact}");
            }
        }
    }

    #[test]
    fn ranks_of_any_number_read_one_order(
        parts in parts(), weights in weights(), samples in 20u64..60, seed: u64, batch in 1u64..4, world in 1u64..5,
    ) {
        let order = mixed(&parts, &weights, samples, seed);
        let whole = epochs(&order, 2..3);
        let slices = |rank| Slices { samples, batch, rank, world, drop_last: false };
        let mut walks: Vec<_> = (0..world).map(|_| order.walk()).collect();
        let mut together = vec![];
        for step in 0..slices(0).steps() {
            for (rank, walk) in (0..).zip(&mut walks) {
                together.extend(slices(rank).places(step).filter_map(|place| walk.sample(2, place)));
            }
        }
        prop_assert_eq!(together, whole);
    }

    #[test]
    fn any_place_can_be_asked_for_first(
        parts in parts(), weights in weights(), samples in 20u64..60, seed: u64, from in 0u64..60, epoch in 0u64..9,
    ) {
        let order = mixed(&parts, &weights, samples, seed);
        let mut walk = order.walk();
        let tail: Vec<_> = (from..).map_while(|place| walk.sample(epoch, place)).collect();
        let whole = epochs(&order, epoch..epoch + 1);
        prop_assert_eq!(&tail[..], whole.get(from as usize..).unwrap_or_default());
    }

    #[test]
    fn a_part_by_itself_is_the_data_set_by_itself(counts in prop::collection::vec(1u32..12, 1..5), seed: u64) {
        let samples = counts.iter().copied().map(u64::from).sum();
        let plain = Order::shuffled(counts.clone(), seed, Window::All);
        let drawn = epochs(&mixed(&[counts], &[3.0], samples, seed), 0..3);
        let expected: Vec<_> = (0..3)
            .flat_map(|epoch| {
                let mut epoch = plain.epoch(epoch);
                (0..samples).filter_map(move |place| epoch.sample(place))
            })
            .collect();
        prop_assert_eq!(drawn, expected);
    }
}

#[test]
fn epochs_and_blocks_are_mixed_anew_and_evenly() {
    let parts = [vec![400; 5], vec![300; 4]];
    let order = mixed(&parts, &[1.0, 1.0], 150_000, 3);
    let first: Vec<usize> = epochs(&order, 0..1)
        .into_iter()
        .map(|id| part_of(&parts, id))
        .collect();
    // Three blocks of 50,000: each half and half, in an order of its own.
    let blocks: Vec<&[usize]> = first.chunks(50_000).collect();
    for block in &blocks {
        assert_eq!(block.iter().sum::<usize>(), 25_000);
        let half: usize = block[..25_000].iter().sum();
        // Six standard deviations of draws without replacement: √(25,000 / 8).
        assert!(half.abs_diff(12_500) < 336, "{half}");
    }
    assert!(blocks[0] != blocks[1] && blocks[1] != blocks[2]);
    let second = epochs(&order, 1..2);
    assert!(part_of(&parts, second[0]) < 2);
    assert_ne!(epochs(&order, 0..1), second);
    assert_ne!(
        epochs(&order, 0..1),
        epochs(&mixed(&parts, &[1.0, 1.0], 150_000, 4), 0..1)
    );
}

#[test]
fn parts_alike_do_not_go_in_step() {
    let parts = [vec![50], vec![50]];
    let drawn = epochs(&mixed(&parts, &[1.0, 1.0], 100, 0), 0..1);
    let ordinals = |shard| -> Vec<u32> {
        let own = drawn.iter().filter(|id| id.shard == shard);
        own.map(|id| id.ordinal).collect()
    };
    assert_ne!(ordinals(0), ordinals(1));
}

/// A walk that counted its way there from the first epoch would not end today.
#[test]
fn a_far_cursor_in_many_samples_is_found_without_a_walk_there() {
    let parts = [vec![1000; 1300], vec![1000; 200]];
    let order = mixed(&parts, &[0.7, 0.3], 100_000_000, 0);
    assert!(order.walk().sample(1 << 40, 98_765_432).is_some());
}
