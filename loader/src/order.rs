//! Which sample stands at which place of an epoch.
//!
//! One shuffle: the shards are permuted, cut into windows of W shards, and the samples are permuted inside each window. All of it
//! follows from (seed, epoch) and the shards' counts, so that a [`Cursor`] is all the state there is, and taking up an epoch in its
//! middle costs one permutation of a window. Memory: 4 bytes a sample of one window.
//!
//! A *place* is global: `step × global batch + rank × batch + slot`. Ranks and threads read places; they never change the order.

use serde::{Deserialize, Serialize};

use crate::rng::{Draws, Key, Purpose};
use crate::sample::SampleId;

/// A position between batches: everything before step `step` of epoch `epoch` has been handed over.
///
/// Also names a batch: the one that is handed over next at that position. The default is the start of training.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Cursor {
    /// Epochs that are complete, and so the number of the epoch in progress, from 0.
    pub epoch: u64,
    /// Batches of this epoch that are complete, and so the number of the next one, from 0.
    pub step: u64,
}

/// How far the shuffle reaches: the number of shards that are mixed with each other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Window {
    /// All shards, unless they are kept in a cache that does not hold them: then so many that those of two windows fit into it, since one
    /// begins before the last one's end.
    #[default]
    Auto,
    /// All shards: a full shuffle of the data set.
    All,
    /// This many shards at a time (at least 1), for data where an open shard costs memory or cache.
    Shards(u32),
}

/// The order of the samples in all epochs.
#[derive(Clone, Debug)]
pub(crate) struct Order {
    /// Samples in each shard.
    counts: Vec<u32>,
    shuffle: Option<Shuffle>,
}

#[derive(Clone, Copy, Debug)]
struct Shuffle {
    seed: u64,
    /// The data set's number in a mixture: parts alike in size must not go in step.
    part: u64,
    window: Window,
}

impl Order {
    /// Shard after shard, sample after sample, the same in every epoch.
    pub(crate) fn sequential(counts: Vec<u32>) -> Self {
        Order {
            counts,
            shuffle: None,
        }
    }

    /// Shuffled anew in every epoch. `Auto` is all here: what fits into a cache is for [`Mixture`](crate::Mixture) to find.
    pub(crate) fn shuffled(counts: Vec<u32>, seed: u64, window: Window) -> Self {
        Order {
            counts,
            shuffle: Some(Shuffle {
                seed,
                part: 0,
                window,
            }),
        }
    }

    /// The same, as part `part` of a mixture. Part 0 is shuffled as a data set by itself.
    pub(crate) fn of_part(mut self, part: u64) -> Self {
        if let Some(shuffle) = &mut self.shuffle {
            shuffle.part = part;
        }
        self
    }

    /// Samples in an epoch.
    pub(crate) fn samples(&self) -> u64 {
        self.counts.iter().copied().map(u64::from).sum()
    }

    /// Shards, empty ones included.
    pub(crate) fn shards(&self) -> usize {
        self.counts.len()
    }

    /// The most samples that one window may have, 0 where nothing is shuffled.
    pub(crate) fn largest_window(&self) -> u64 {
        let shards = match self.shuffle.map(|shuffle| shuffle.window) {
            None => 0,
            Some(Window::Auto | Window::All) => self.counts.len(),
            Some(Window::Shards(shards)) => shards as usize,
        };
        // The worst case: the shuffle may bring the largest shards together.
        let mut largest = self.counts.clone();
        largest.sort_unstable_by(|a, b| b.cmp(a));
        largest.iter().take(shards).copied().map(u64::from).sum()
    }

    /// The order of one epoch. Cheap: no window is permuted before it is read.
    pub(crate) fn epoch(&self, epoch: u64) -> EpochOrder {
        let mut shards: Vec<u32> = (0..self.counts.len() as u32).collect();
        let mut width = shards.len().max(1);
        if let Some(Shuffle { seed, part, window }) = self.shuffle {
            Draws::new(
                Purpose::Shards,
                Key {
                    seed,
                    epoch,
                    place: 0,
                    repeat: part,
                },
            )
            .shuffle(&mut shards);
            if let Window::Shards(count) = window {
                width = (count as usize).clamp(1, width);
            }
        }
        let windows = shards
            .chunks(width)
            .scan(0u64, |end, members| {
                let start = *end;
                let mut ends = Vec::with_capacity(members.len());
                for &shard in members {
                    *end += u64::from(self.counts[shard as usize]);
                    ends.push(*end);
                }
                Some(WindowPlan {
                    start,
                    shards: members.to_vec(),
                    ends,
                })
            })
            .collect();
        EpochOrder {
            windows,
            seed: self.shuffle.map(|shuffle| (shuffle.seed, shuffle.part)),
            epoch,
            loaded: None,
            permutation: Vec::new(),
        }
    }
}

/// The shards of one window, and the places at which each of them would end if nothing were shuffled inside the window.
#[derive(Debug)]
struct WindowPlan {
    start: u64,
    shards: Vec<u32>,
    ends: Vec<u64>,
}

impl WindowPlan {
    fn end(&self) -> u64 {
        self.ends.last().copied().unwrap_or(self.start)
    }
}

/// The order of one epoch, with the window that was read last.
#[derive(Debug)]
pub(crate) struct EpochOrder {
    windows: Vec<WindowPlan>,
    /// Seed and part; absent where the order is sequential.
    seed: Option<(u64, u64)>,
    epoch: u64,
    loaded: Option<usize>,
    permutation: Vec<u32>,
}

impl EpochOrder {
    /// The sample at `index` of the epoch, `None` past its end. Fast for ascending indices; other indices may permute a window.
    pub(crate) fn sample(&mut self, index: u64) -> Option<SampleId> {
        let number = self.windows.partition_point(|window| window.end() <= index);
        let window = self.windows.get(number)?;
        let mut target = index;
        if let Some((seed, part)) = self.seed {
            if self.loaded != Some(number) {
                self.permutation.clear();
                self.permutation
                    .extend(0..(window.end() - window.start) as u32);
                let key = Key {
                    seed,
                    epoch: self.epoch,
                    place: number as u64,
                    repeat: part,
                };
                Draws::new(Purpose::Window, key).shuffle(&mut self.permutation);
                self.loaded = Some(number);
            }
            target = window.start + u64::from(self.permutation[(index - window.start) as usize]);
        }
        let position = window.ends.partition_point(|&end| end <= target);
        let shard_start = if position == 0 {
            window.start
        } else {
            window.ends[position - 1]
        };
        Some(SampleId {
            shard: window.shards[position],
            ordinal: (target - shard_start) as u32,
        })
    }
}

/// How the places of an epoch are cut into global batches, and those into the slices of the ranks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Slices {
    /// Samples in an epoch.
    pub(crate) samples: u64,
    /// Samples in a batch of one rank.
    pub(crate) batch: u64,
    pub(crate) rank: u64,
    pub(crate) world: u64,
    /// Leave out the last global batch where it is not full.
    pub(crate) drop_last: bool,
}

impl Slices {
    fn global_batch(&self) -> u64 {
        self.batch * self.world
    }

    /// Batches in an epoch: the same for every rank.
    pub(crate) fn steps(&self) -> u64 {
        if self.drop_last {
            self.samples / self.global_batch()
        } else {
            self.samples.div_ceil(self.global_batch())
        }
    }

    /// The places of this rank at `step`.
    ///
    /// A last global batch that is not full is dealt out evenly, in order, to within one sample a rank; so a rank may get fewer
    /// samples than another then, or none, but no sample is left out and none comes twice.
    pub(crate) fn places(&self, step: u64) -> std::ops::Range<u64> {
        let start = step * self.global_batch();
        let held = self.global_batch().min(self.samples.saturating_sub(start));
        start + held * self.rank / self.world..start + held * (self.rank + 1) / self.world
    }

    /// Samples that this rank is handed in an epoch.
    pub(crate) fn samples_of_rank(&self) -> u64 {
        match self.steps() {
            0 => 0,
            steps => {
                let last = self.places(steps - 1);
                (steps - 1) * self.batch + (last.end - last.start)
            }
        }
    }

    /// `cursor` with whole epochs carried over from its steps.
    pub(crate) fn normalise(&self, cursor: Cursor) -> Cursor {
        match self.steps() {
            0 => cursor,
            steps => Cursor {
                epoch: cursor.epoch + cursor.step / steps,
                step: cursor.step % steps,
            },
        }
    }

    /// The cursor one batch after `cursor`.
    pub(crate) fn after(&self, cursor: Cursor) -> Cursor {
        self.normalise(Cursor {
            step: cursor.step + 1,
            ..cursor
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    fn all(order: &Order, epoch: u64) -> Vec<SampleId> {
        let mut epoch = order.epoch(epoch);
        (0..).map_while(|index| epoch.sample(index)).collect()
    }

    fn window() -> impl Strategy<Value = Window> {
        prop_oneof![Just(Window::All), (1u32..6).prop_map(Window::Shards)]
    }

    proptest! {
        #[test]
        fn an_epoch_holds_every_sample_once(
            counts in prop::collection::vec(0u32..20, 0..12), seed: u64, epoch in 0u64..3, window in window(),
        ) {
            let expected: HashSet<SampleId> = counts.iter().enumerate()
                .flat_map(|(shard, &count)| (0..count).map(move |ordinal| SampleId { shard: shard as u32, ordinal }))
                .collect();
            for order in [Order::shuffled(counts.clone(), seed, window), Order::sequential(counts.clone())] {
                let samples = all(&order, epoch);
                prop_assert_eq!(samples.len(), expected.len());
                prop_assert_eq!(&samples.into_iter().collect::<HashSet<_>>(), &expected);
            }
        }

        #[test]
        fn any_place_can_be_asked_for_first(
            counts in prop::collection::vec(0u32..20, 1..8), seed: u64, window in window(), from in 0u64..100,
        ) {
            let order = Order::shuffled(counts, seed, window);
            let samples = all(&order, 1);
            let mut epoch = order.epoch(1);
            prop_assert_eq!(epoch.sample(from), samples.get(from as usize).copied());
        }

        #[test]
        fn windows_hold_whole_shards(
            counts in prop::collection::vec(1u32..20, 1..10), seed: u64, width in 1u32..5,
        ) {
            let samples = all(&Order::shuffled(counts.clone(), seed, Window::Shards(width)), 0);
            let mut rest = &samples[..];
            while !rest.is_empty() {
                // The shards of a window are those that come before any shard outside it: take `width` distinct ones.
                let mut shards = HashSet::new();
                let mut length = 0;
                for sample in rest {
                    if shards.insert(sample.shard) && shards.len() > width as usize {
                        shards.remove(&sample.shard);
                        break;
                    }
                    length += 1;
                }
                let expected: u32 = shards.iter().map(|&shard| counts[shard as usize]).sum();
                prop_assert_eq!(length, expected as usize);
                rest = &rest[length..];
            }
        }

        #[test]
        fn ranks_together_are_one_rank(
            samples in 0u64..500, batch in 1u64..9, world in 1u64..6, drop_last: bool,
        ) {
            let slices = |rank| Slices { samples, batch, rank, world, drop_last };
            let whole = Slices { samples, batch: batch * world, rank: 0, world: 1, drop_last };
            let mut handed_over = 0;
            for step in 0..whole.steps() {
                let mut next = whole.places(step).start;
                for rank in 0..world {
                    prop_assert_eq!(slices(rank).steps(), whole.steps());
                    let places = slices(rank).places(step);
                    prop_assert_eq!(places.start, next);
                    prop_assert!(places.end - places.start <= batch);
                    next = places.end;
                    if step + 1 < whole.steps() || drop_last {
                        prop_assert_eq!(places.end - places.start, batch);
                    }
                }
                prop_assert_eq!(next, whole.places(step).end);
                handed_over = next;
            }
            prop_assert_eq!((0..world).map(|rank| slices(rank).samples_of_rank()).sum::<u64>(), handed_over);
            prop_assert_eq!(handed_over, if drop_last { samples - samples % (batch * world) } else { samples });
        }

        #[test]
        fn a_cursor_counts_batches(samples in 1u64..100, batch in 1u64..9, steps in 0u64..200) {
            let slices = Slices { samples, batch, rank: 0, world: 1, drop_last: false };
            let mut cursor = Cursor::default();
            for _ in 0..steps {
                cursor = slices.after(cursor);
                prop_assert!(cursor.step < slices.steps());
            }
            prop_assert_eq!(cursor.epoch * slices.steps() + cursor.step, steps);
            prop_assert_eq!(slices.normalise(Cursor { epoch: 0, step: steps }), cursor);
        }
    }

    #[test]
    fn order_changes_with_epoch_and_seed_and_not_otherwise() {
        let order = Order::shuffled(vec![30, 30, 30], 1, Window::All);
        assert_eq!(all(&order, 0), all(&order, 0));
        assert_ne!(all(&order, 0), all(&order, 1));
        assert_ne!(
            all(&order, 0),
            all(&Order::shuffled(vec![30, 30, 30], 2, Window::All), 0)
        );
        assert_ne!(all(&order, 0), all(&Order::sequential(vec![30, 30, 30]), 0));
        let sequential = Order::sequential(vec![2, 0, 1]);
        let ids = [(0, 0), (0, 1), (2, 0)].map(|(shard, ordinal)| SampleId { shard, ordinal });
        assert_eq!(all(&sequential, 5), ids);
    }

    #[test]
    fn a_full_shuffle_moves_samples_across_shards() {
        let samples = all(&Order::shuffled(vec![1000; 10], 0, Window::All), 0);
        // The first tenth holds about 100 samples of each shard: standard deviation 9 or so.
        for shard in 0..10 {
            let count = samples[..1000]
                .iter()
                .filter(|sample| sample.shard == shard)
                .count();
            assert!(
                (50..150).contains(&count),
                "{count} samples of shard {shard}"
            );
        }
    }
}
