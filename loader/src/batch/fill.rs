//! Batches while they are filled: memory, the slots of its samples, and what the last of them leaves.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::memory::Memory;
use super::slots::Parts;
use super::{BadReason, BadSample, BatchShape, MemorySource};
use crate::error::{Error, Result};
use crate::order::Cursor;
use crate::sample::SampleId;

/// The memory of one batch, kept between batches.
pub(crate) struct Buffers {
    pub(super) shape: BatchShape,
    pub(super) pixels: Memory<u8>,
    pub(super) ids_keep: Memory<u32>,
    pub(super) ids_restore: Memory<u32>,
    pub(super) erase_boxes: Memory<u32>,
    pub(super) labels: Memory<u32>,
    pub(super) samples: Memory<SampleId>,
}

impl Buffers {
    pub(crate) fn new(shape: BatchShape, source: &MemorySource) -> Result<Self> {
        let rows = shape.slots * shape.repeats;
        let sample = SampleId {
            shard: 0,
            ordinal: 0,
        };
        Ok(Buffers {
            shape,
            pixels: source.zeros(rows * shape.image)?,
            ids_keep: source.zeros(rows * shape.keep)?,
            ids_restore: source.zeros(rows * shape.patches)?,
            erase_boxes: source.zeros(rows * shape.erase)?,
            labels: source.zeros(rows)?,
            samples: vec![sample; rows].into(),
        })
    }

    /// Begins a batch of `length` samples (1 to the shape's slots): one slot for each of them.
    pub(crate) fn open(self, sequence: u64, cursor: Cursor, length: usize) -> Vec<Slot> {
        let shape = self.shape;
        let batch = Arc::new(OpenBatch {
            shape,
            sequence,
            cursor,
            length,
            pixels: Parts::new(self.pixels, shape.image * shape.repeats),
            ids_keep: Parts::new(self.ids_keep, shape.keep * shape.repeats),
            ids_restore: Parts::new(self.ids_restore, shape.patches * shape.repeats),
            erase_boxes: Parts::new(self.erase_boxes, shape.erase * shape.repeats),
            labels: Parts::new(self.labels, shape.repeats),
            samples: Parts::new(self.samples, shape.repeats),
            notes: Mutex::default(),
            done: AtomicUsize::new(0),
        });
        // Each slot is made once and cannot be copied: this is what keeps the parts of a batch apart. And nothing but slots may
        // hold on to the batch, or the last one to finish would not be the last to let go: hence no lazy iterator.
        let slots = (0..length).map(|index| Slot {
            batch: Arc::clone(&batch),
            index,
        });
        slots.collect()
    }

    /// A batch without samples, which no worker needs to see.
    pub(crate) fn finished_empty(self, sequence: u64, cursor: Cursor) -> Finished {
        Finished {
            sequence,
            cursor,
            length: 0,
            buffers: self,
            bad: Vec::new(),
            error: None,
        }
    }
}

struct OpenBatch {
    shape: BatchShape,
    sequence: u64,
    cursor: Cursor,
    length: usize,
    pixels: Parts<u8>,
    ids_keep: Parts<u32>,
    ids_restore: Parts<u32>,
    erase_boxes: Parts<u32>,
    labels: Parts<u32>,
    samples: Parts<SampleId>,
    notes: Mutex<Notes>,
    /// Slots that were finished, not just dropped.
    done: AtomicUsize,
}

#[derive(Default)]
struct Notes {
    bad: Vec<BadSample>,
    /// The error of the lowest slot that failed.
    error: Option<(usize, Error)>,
}

/// The place of one sample in a batch that is being filled.
pub(crate) struct Slot {
    batch: Arc<OpenBatch>,
    index: usize,
}

/// What a slot holds: the rows of its sample, one after the other.
pub(crate) struct SlotParts<'a> {
    pub(crate) pixels: &'a mut [u8],
    pub(crate) ids_keep: &'a mut [u32],
    pub(crate) ids_restore: &'a mut [u32],
    pub(crate) erase_boxes: &'a mut [u32],
    pub(crate) labels: &'a mut [u32],
    pub(crate) samples: &'a mut [SampleId],
}

impl Slot {
    /// The slot's memory, with whatever an earlier batch left there.
    pub(crate) fn parts(&mut self) -> SlotParts<'_> {
        let (batch, index) = (&self.batch, self.index);
        // SAFETY: this slot is the only one with this index in this batch (`Buffers::open`), it is borrowed mutably for as long as
        // the parts are, and the batch's other users wait until every slot is finished.
        let (pixels, ids_keep, ids_restore, erase_boxes, labels, samples) = unsafe {
            (
                batch.pixels.part(index),
                batch.ids_keep.part(index),
                batch.ids_restore.part(index),
                batch.erase_boxes.part(index),
                batch.labels.part(index),
                batch.samples.part(index),
            )
        };
        SlotParts {
            pixels,
            ids_keep,
            ids_restore,
            erase_boxes,
            labels,
            samples,
        }
    }

    /// Notes that the slot's own sample was replaced.
    pub(crate) fn note_bad(&self, sample: SampleId, replacement: SampleId, reason: BadReason) {
        let bad = BadSample {
            slot: self.index * self.batch.shape.repeats,
            sample,
            replacement,
            reason,
        };
        self.batch
            .notes
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .bad
            .push(bad);
    }

    /// Notes that the slot could not be filled, and so the batch neither.
    pub(crate) fn fail(&self, error: Error) {
        let mut notes = self
            .batch
            .notes
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if notes
            .error
            .as_ref()
            .is_none_or(|(slot, _)| self.index < *slot)
        {
            notes.error = Some((self.index, error));
        }
    }

    /// Marks the slot as done; the last one of a batch to be so gives the batch.
    pub(crate) fn finish(self) -> Option<Finished> {
        self.batch.done.fetch_add(1, Ordering::Relaxed);
        let batch = Arc::into_inner(self.batch)?;
        // A slot that was dropped unfinished, by a thread that ended early, must not pass for a filled one.
        if batch.done.into_inner() < batch.length {
            return None;
        }
        let Notes { mut bad, error } = batch
            .notes
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner);
        bad.sort_unstable_by_key(|bad| bad.slot);
        Some(Finished {
            sequence: batch.sequence,
            cursor: batch.cursor,
            length: batch.length,
            buffers: Buffers {
                shape: batch.shape,
                pixels: batch.pixels.into_memory(),
                ids_keep: batch.ids_keep.into_memory(),
                ids_restore: batch.ids_restore.into_memory(),
                erase_boxes: batch.erase_boxes.into_memory(),
                labels: batch.labels.into_memory(),
                samples: batch.samples.into_memory(),
            },
            bad,
            error: error.map(|(_, error)| error),
        })
    }
}

/// A batch whose slots are all done, well or not.
pub(crate) struct Finished {
    /// Number of the batch since the pipeline was started.
    pub(crate) sequence: u64,
    pub(crate) cursor: Cursor,
    pub(crate) length: usize,
    pub(crate) buffers: Buffers,
    pub(crate) bad: Vec<BadSample>,
    pub(crate) error: Option<Error>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decode::BadImage;

    fn shape() -> BatchShape {
        BatchShape {
            slots: 4,
            repeats: 1,
            image: 6,
            keep: 1,
            patches: 3,
            erase: 4,
            labels: true,
        }
    }

    fn buffers() -> Buffers {
        Buffers::new(shape(), &MemorySource::default()).unwrap()
    }

    fn reason() -> BadReason {
        BadReason::Image(BadImage::Truncated)
    }

    #[test]
    fn the_last_slot_gives_the_batch_and_dropping_it_gives_the_memory_back() {
        let mut slots: Vec<Slot> = buffers().open(7, Cursor::default(), 3);
        for slot in &mut slots {
            let index = slot.index as u32;
            let parts = slot.parts();
            parts.pixels.fill(index as u8);
            parts.ids_restore.copy_from_slice(&[index; 3]);
            parts.erase_boxes.fill(index);
            parts.labels.fill(index);
            parts.samples.fill(SampleId {
                shard: 1,
                ordinal: index,
            });
        }
        slots[2].note_bad(
            SampleId {
                shard: 1,
                ordinal: 8,
            },
            SampleId {
                shard: 1,
                ordinal: 2,
            },
            reason(),
        );
        slots[0].note_bad(
            SampleId {
                shard: 1,
                ordinal: 9,
            },
            SampleId {
                shard: 1,
                ordinal: 0,
            },
            reason(),
        );
        slots.swap(0, 1);
        let mut finished: Vec<Finished> = slots.into_iter().filter_map(Slot::finish).collect();
        let finished = finished.pop().unwrap();
        assert_eq!((finished.sequence, finished.length), (7, 3));
        let (home, returned) = crossbeam::channel::unbounded();
        let lent = Arc::new(AtomicUsize::new(0));
        let batch = finished.lend(Cursor { epoch: 0, step: 1 }, home, Arc::clone(&lent));
        assert_eq!(
            batch.pixels(),
            [0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2]
        );
        assert_eq!(batch.ids_restore(), [0, 0, 0, 1, 1, 1, 2, 2, 2]);
        assert_eq!(batch.labels(), Some(&[0, 1, 2][..]));
        assert_eq!(batch.erase_boxes(), [0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2]);
        assert_eq!(batch.ids_keep().len(), 3);
        assert_eq!(
            batch.bad().iter().map(|bad| bad.slot).collect::<Vec<_>>(),
            [0, 2]
        );
        assert_eq!(lent.load(Ordering::Relaxed), 1);
        let address = batch.pixels().as_ptr();
        drop(batch);
        assert_eq!(lent.load(Ordering::Relaxed), 0);
        let buffers = returned.try_recv().unwrap();
        assert_eq!(
            (buffers.pixels.as_ptr(), buffers.pixels.len()),
            (address, 24)
        );
    }

    #[test]
    fn the_lowest_slots_error_is_kept() {
        let slots: Vec<Slot> = buffers().open(0, Cursor::default(), 4);
        for index in [2, 1, 3] {
            slots[index].fail(Error::Thread {
                reason: index.to_string(),
            });
        }
        let finished = slots.into_iter().filter_map(Slot::finish).next().unwrap();
        assert!(matches!(finished.error, Some(Error::Thread { reason }) if reason == "1"));
    }

    #[test]
    fn a_batch_is_finished_while_its_slots_are_still_being_given_out() {
        let mut slots = buffers().open(0, Cursor::default(), 4).into_iter();
        let finished: Vec<bool> = slots.by_ref().map(|slot| slot.finish().is_some()).collect();
        assert_eq!(finished, [false, false, false, true]);
        assert!(slots.next().is_none());
    }

    #[test]
    fn a_slot_lost_to_a_panic_never_gives_half_a_batch() {
        let mut slots: Vec<Slot> = buffers().open(0, Cursor::default(), 4);
        drop(slots.remove(1));
        assert_eq!(slots.into_iter().filter_map(Slot::finish).count(), 0);
    }
}
