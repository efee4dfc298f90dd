//! The workers: fill slots.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crossbeam::channel::{Receiver, Sender};

use super::Samples;
use super::stats::{Counters, add, timed};
use crate::augment::Augmenter;
use crate::batch::{BadReason, Finished, Slot, SlotParts};
use crate::config::Settings;
use crate::decode::{BadImage, Decoder};
use crate::error::{Error, Result};
use crate::mask::MaskSampler;
use crate::rng::{Draws, Key, Purpose};
use crate::sample::SampleId;

/// A slot to fill.
pub(super) struct Job {
    pub(super) slot: Slot,
    pub(super) epoch: u64,
    pub(super) place: u64,
    pub(super) sample: SampleId,
}

/// One worker thread and what it keeps between samples.
pub(super) struct Worker {
    samples: Arc<dyn Samples>,
    settings: Arc<Settings>,
    counters: Arc<Counters>,
    decoder: Box<dyn Decoder>,
    augmenter: Augmenter,
    masks: Option<MaskSampler>,
    /// The encoded image.
    bytes: Vec<u8>,
    stop: Arc<AtomicBool>,
}

/// Why a sample is not in its slot.
enum Failure {
    /// Another one may be.
    Bad(BadReason),
    /// The run cannot go on.
    Fatal(Error),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        match error {
            Error::Label { reason, .. } => Failure::Bad(BadReason::Label(reason)),
            other => Failure::Fatal(other),
        }
    }
}

impl From<BadImage> for Failure {
    fn from(bad: BadImage) -> Self {
        Failure::Bad(BadReason::Image(bad))
    }
}

impl Worker {
    pub(super) fn new(
        samples: Arc<dyn Samples>,
        settings: Arc<Settings>,
        counters: Arc<Counters>,
        decoder: Box<dyn Decoder>,
        stop: Arc<AtomicBool>,
    ) -> Self {
        let augmenter = Augmenter::new(settings.transform, settings.size, settings.max_pixels);
        let masks = settings
            .masks
            .map(|masks| MaskSampler::new(masks.patches, masks.keep));
        Worker {
            samples,
            settings,
            counters,
            decoder,
            augmenter,
            masks,
            bytes: Vec::new(),
            stop,
        }
    }

    /// Takes jobs until there are no more or the consumer goes away. A panic ends the batch with an error, not the thread.
    pub(super) fn run(mut self, jobs: &Receiver<Job>, finished: &Sender<Finished>) {
        for Job {
            mut slot,
            epoch,
            place,
            sample,
        } in jobs
        {
            if self.stop.load(Ordering::Relaxed) {
                continue;
            }
            let filled = catch_unwind(AssertUnwindSafe(|| {
                self.fill(&mut slot, epoch, place, sample)
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
            if let Some(error) = failed {
                slot.fail(error);
            }
            if let Some(batch) = slot.finish() {
                // Nobody listens any more: the consumer is on its way out.
                let _ = finished.send(batch);
            }
        }
    }

    /// Fills a slot with `sample`, or with the next good one of its shard.
    fn fill(&mut self, slot: &mut Slot, epoch: u64, place: u64, sample: SampleId) -> Result<()> {
        let key = Key {
            seed: self.settings.seed,
            epoch: self.settings.draw_epoch(epoch),
            place,
            repeat: 0,
        };
        let count = u64::from(self.samples.shard_len(sample.shard));
        let mut first_reason = None;
        let mut found = None;
        let mut parts = slot.parts();
        for step in 0..count {
            if self.stop.load(Ordering::Relaxed) {
                break;
            }
            let ordinal = ((u64::from(sample.ordinal) + step) % count) as u32;
            let candidate = SampleId { ordinal, ..sample };
            match self.try_sample(candidate, key, &mut parts) {
                Ok(()) => {
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
        *parts.sample = found;
        if let Some(masks) = &mut self.masks {
            timed(&self.counters.mask, || {
                masks.sample(
                    &mut Draws::new(Purpose::Mask, key),
                    parts.ids_keep,
                    parts.ids_restore,
                );
            });
        }
        if let Some(reason) = first_reason {
            add(&self.counters.bad, 1);
            slot.note_bad(sample, found, reason);
        }
        add(&self.counters.samples, 1);
        Ok(())
    }

    /// Fills image and label of a slot with `sample`. Each candidate for a slot is cropped with the same draws.
    fn try_sample(
        &mut self,
        sample: SampleId,
        key: Key,
        parts: &mut SlotParts<'_>,
    ) -> std::result::Result<(), Failure> {
        let Worker {
            samples,
            counters,
            decoder,
            augmenter,
            bytes,
            ..
        } = self;
        timed(&counters.read, || -> Result<()> {
            samples.read_image(sample, bytes)?;
            *parts.label = samples.label(sample)?.unwrap_or(0);
            Ok(())
        })?;
        add(&counters.bytes, bytes.len() as u64);
        let mut draws = Draws::new(Purpose::Crop, key);
        let mut plan = None;
        let region = timed(&counters.decode, || {
            decoder.decode(bytes, &mut |size| {
                let made = augmenter.plan(size, &mut draws)?;
                plan = Some(made);
                Ok(made.wanted())
            })
        })?;
        let plan = plan.ok_or_else(|| BadImage::Corrupt {
            reason: "an image without a size".to_owned(),
        })?;
        timed(&counters.resize, || {
            augmenter.apply(&region, &plan, parts.pixels)
        })?;
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
