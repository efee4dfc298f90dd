//! The workers: fill slots.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crossbeam::channel::{Receiver, Sender};

use super::Samples;
use super::image::{Failure, ImageMaker};
use super::stats::{Counters, add, timed};
use crate::augment::erase_box;
use crate::batch::{Finished, Slot};
use crate::config::Settings;
use crate::decode::Decoder;
use crate::error::{Error, Result};
use crate::mask::MaskSampler;
use crate::rng::{Draws, Key, Purpose};
use crate::sample::SampleId;
use crate::source::Ahead;

/// A slot to fill.
pub(super) struct Job {
    pub(super) slot: Slot,
    pub(super) epoch: u64,
    pub(super) place: u64,
    pub(super) sample: SampleId,
    /// Its bytes, on their way.
    pub(super) ahead: Ahead,
}

/// One worker thread and what it keeps between samples.
pub(super) struct Worker {
    samples: Arc<dyn Samples>,
    settings: Arc<Settings>,
    counters: Arc<Counters>,
    images: ImageMaker,
    masks: Option<MaskSampler>,
    stop: Arc<AtomicBool>,
}

impl Worker {
    pub(super) fn new(
        samples: Arc<dyn Samples>,
        settings: Arc<Settings>,
        counters: Arc<Counters>,
        decoder: Box<dyn Decoder>,
        stop: Arc<AtomicBool>,
    ) -> Self {
        let masks = settings.masks.clone();
        let images = ImageMaker::new(
            Arc::clone(&samples),
            &settings,
            Arc::clone(&counters),
            decoder,
        );
        Worker {
            samples,
            settings,
            counters,
            images,
            masks,
            stop,
        }
    }

    /// Takes jobs until there are no more or the consumer goes away. A panic ends the batch with an error, not the thread.
    pub(super) fn run(mut self, jobs: &Receiver<Job>, finished: &Sender<Finished>) {
        let counters = Arc::clone(&self.counters);
        while let Ok(job) = timed(&counters.idle, || jobs.recv()) {
            let Job {
                mut slot,
                epoch,
                place,
                sample,
                ahead,
            } = job;
            if self.stop.load(Ordering::Relaxed) {
                continue;
            }
            let filled = catch_unwind(AssertUnwindSafe(|| {
                self.fill(&mut slot, epoch, place, sample, &ahead)
            }));
            let failed = match filled {
                Ok(Ok(())) => None,
                Ok(Err(error)) => Some(error),
                Err(panic) => Some(Error::Thread {
                    reason: format!(
                        "a worker panicked at {}: {}",
                        self.samples.describe(sample),
                        message(&*panic)
                    ),
                }),
            };
            timed(&counters.hand_over, || {
                if let Some(error) = failed {
                    slot.fail(error);
                }
                if let Some(batch) = slot.finish() {
                    // Nobody listens any more: the consumer is on its way out.
                    let _ = finished.send(batch);
                }
            });
        }
    }

    /// Fills a slot with `sample`, or with the next good one of its shard.
    fn fill(
        &mut self,
        slot: &mut Slot,
        epoch: u64,
        place: u64,
        sample: SampleId,
        ahead: &Ahead,
    ) -> Result<()> {
        let key = Key {
            seed: self.settings.seed,
            epoch: self.settings.draw_epoch(epoch),
            place,
            repeat: 0,
        };
        let count = u64::from(self.samples.shard_len(sample.shard));
        let mut first_reason = None;
        let mut found = None;
        let parts = slot.parts();
        for step in 0..count {
            if self.stop.load(Ordering::Relaxed) {
                break;
            }
            let ordinal = ((u64::from(sample.ordinal) + step) % count) as u32;
            let candidate = SampleId { ordinal, ..sample };
            // Each candidate for a slot is cropped with the same draws.
            match self.images.make(candidate, ahead, key, parts.pixels) {
                Ok(label) => {
                    parts.labels.fill(label);
                    found = Some(candidate);
                    break;
                }
                Err(Failure::Bad(reason)) => first_reason = first_reason.or(Some(reason)),
                Err(Failure::Fatal(error)) => return Err(error),
            }
        }
        let Some(found) = found else {
            let reason = first_reason.map_or("the loader is shutting down".to_owned(), |reason| {
                reason.to_string()
            });
            return Err(Error::NoGoodSample {
                shard: self.samples.shard_name(sample.shard),
                samples: count,
                reason,
            });
        };
        parts.samples.fill(found);
        if let Some(masks) = &mut self.masks {
            timed(&self.counters.mask, || {
                let (keep, patches) = masks.shape();
                let rows = parts.ids_keep.chunks_exact_mut(keep);
                let rows = rows.zip(parts.ids_restore.chunks_exact_mut(patches));
                for (repeat, (ids_keep, ids_restore)) in (0..).zip(rows) {
                    let mut draws = Draws::new(Purpose::Mask, Key { repeat, ..key });
                    masks.sample(&mut draws, ids_keep, ids_restore);
                }
            });
        }
        if let Some(probability) = self.settings.erasing {
            for (repeat, row) in (0..).zip(parts.erase_boxes.chunks_exact_mut(4)) {
                let mut draws = Draws::new(Purpose::Erase, Key { repeat, ..key });
                row.copy_from_slice(&erase_box(probability, self.settings.size, &mut draws));
            }
        }
        if let Some(reason) = first_reason {
            add(&self.counters.bad, 1);
            slot.note_bad(sample, found, reason);
        }
        add(&self.counters.samples, 1);
        Ok(())
    }
}

/// What a panic said.
pub(super) fn message(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message")
}
