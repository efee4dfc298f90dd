//! Which sample stands at which place of which epoch, over all parts of a mixture.
//!
//! Each part goes through its own shuffled epochs, one after the other, so that every sample of it comes once before any comes
//! twice, however long the mixture's epochs are. Which part stands at a place is shuffled inside the blocks of
//! [`Quotas`]. A place is found from its number alone, at the cost of one block and of a window of each part.
//!
//! A data set by itself is a mixture of one part.

use std::sync::Arc;

use crate::mix::quota::Quotas;
use crate::order::{EpochOrder, Order};
use crate::rng::{Draws, Key, Purpose};
use crate::sample::SampleId;

/// One part's own order.
#[derive(Clone, Debug)]
pub(crate) struct PartOrder {
    order: Order,
    /// Samples in one of its own epochs.
    samples: u64,
    /// The number that its first shard has in the mixture.
    first_shard: u32,
}

impl PartOrder {
    pub(crate) fn new(order: Order, first_shard: u32) -> Self {
        PartOrder {
            samples: order.samples(),
            order,
            first_shard,
        }
    }
}

/// The order of a mixture in all epochs. Every part has samples. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct MixedOrder {
    parts: Arc<[PartOrder]>,
    quotas: Quotas,
    seed: u64,
}

impl MixedOrder {
    /// `quotas` has a share for each of `parts`.
    pub(crate) fn new(parts: Vec<PartOrder>, quotas: Quotas, seed: u64) -> Self {
        MixedOrder {
            parts: parts.into(),
            quotas,
            seed,
        }
    }

    /// Bytes that walking through it takes at most: what the permuted windows, the shards and the block take.
    pub(crate) fn memory(&self) -> u64 {
        let parts = self
            .parts
            .iter()
            .map(|part| 4 * part.order.largest_window() + 16 * part.order.shards() as u64);
        let block = match self.parts.len() {
            1 => 0,
            _ => self.quotas.longest_block(),
        };
        parts.sum::<u64>() + 8 * block
    }

    /// Reads the order from any place on.
    pub(crate) fn walk(&self) -> Walk {
        Walk {
            open: self.parts.iter().map(|_| None).collect(),
            order: self.clone(),
            block: None,
        }
    }
}

/// Which part stands at each place of a block, and which of its samples.
#[derive(Debug)]
struct Block {
    epoch: u64,
    number: u64,
    start: u64,
    /// Samples of each part before the block.
    before: Vec<u128>,
    /// The part at each place.
    parts: Vec<u32>,
    /// Places of the same part before each place, within the block.
    ranks: Vec<u32>,
}

/// An order with what was read last: fast where places are asked for in turn, over the ends of epochs too.
#[derive(Debug)]
pub(crate) struct Walk {
    order: MixedOrder,
    block: Option<Block>,
    /// Each part's epoch in use.
    open: Vec<Option<(u64, EpochOrder)>>,
}

impl Walk {
    /// The sample at `place` of `epoch`, `None` past the epoch's end.
    pub(crate) fn sample(&mut self, epoch: u64, place: u64) -> Option<SampleId> {
        let quotas = &self.order.quotas;
        if place >= quotas.epoch_samples() {
            return None;
        }
        let (part, drawn) = match self.order.parts.len() {
            1 => (0, quotas.position(epoch, place)),
            _ => self.drawn(epoch, place),
        };
        let PartOrder {
            order,
            samples,
            first_shard,
        } = &self.order.parts[part];
        let samples = u128::from(*samples);
        let own_epoch = drawn.checked_div(samples)? as u64;
        let open = &mut self.open[part];
        if open.as_ref().is_none_or(|(number, _)| *number != own_epoch) {
            *open = None;
        }
        let (_, samples_of_epoch) = open.get_or_insert_with(|| (own_epoch, order.epoch(own_epoch)));
        let sample = samples_of_epoch.sample((drawn % samples) as u64)?;
        Some(SampleId {
            shard: first_shard + sample.shard,
            ordinal: sample.ordinal,
        })
    }

    /// The part at a place, and how many samples were drawn from it before.
    fn drawn(&mut self, epoch: u64, place: u64) -> (usize, u128) {
        let quotas = &self.order.quotas;
        let (number, places) = quotas.block(place);
        if self
            .block
            .as_ref()
            .is_some_and(|block| (block.epoch, block.number) != (epoch, number))
        {
            self.block = None;
        }
        let seed = self.order.seed;
        let block = self.block.get_or_insert_with(|| {
            let before = quotas.before(quotas.position(epoch, places.start));
            let after = quotas.before(quotas.position(epoch, places.end));
            let mut parts = Vec::with_capacity((places.end - places.start) as usize);
            for (part, (before, after)) in (0..).zip(before.iter().zip(&after)) {
                parts.extend(std::iter::repeat_n(part, (after - before) as usize));
            }
            let key = Key {
                seed,
                epoch,
                place: number,
                repeat: 0,
            };
            Draws::new(Purpose::Mix, key).shuffle(&mut parts);
            let mut seen = vec![0u32; before.len()];
            let ranks = parts.iter().map(|&part| {
                let rank = seen[part as usize];
                seen[part as usize] += 1;
                rank
            });
            Block {
                epoch,
                number,
                start: places.start,
                ranks: ranks.collect(),
                before,
                parts,
            }
        });
        let offset = (place - block.start) as usize;
        let part = block.parts[offset] as usize;
        (part, block.before[part] + u128::from(block.ranks[offset]))
    }
}

#[cfg(test)]
mod tests;
