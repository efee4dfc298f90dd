//! The work on one image: read, decode, crop, resize, flip, augment.

use std::sync::Arc;

use super::Samples;
use super::stats::{Counters, add, during, timed};
use crate::augment::{Augmenter, ImagePlan, wanted};
use crate::batch::BadReason;
use crate::config::Settings;
use crate::decode::{BadImage, Decoder};
use crate::error::{Error, Result};
use crate::rng::{Draws, Key, Purpose};
use crate::sample::SampleId;
use crate::source::Ahead;

/// Why a sample is not in its slot.
pub(super) enum Failure {
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

/// Turns samples into pixels; one belongs to each worker thread and keeps its memory between images.
pub(super) struct ImageMaker {
    samples: Arc<dyn Samples>,
    counters: Arc<Counters>,
    decoder: Box<dyn Decoder>,
    augmenter: Augmenter,
    repeats: u64,
    /// The encoded image.
    bytes: Vec<u8>,
    /// One for each repeat.
    plans: Vec<ImagePlan>,
}

impl ImageMaker {
    pub(super) fn new(
        samples: Arc<dyn Samples>,
        settings: &Settings,
        counters: Arc<Counters>,
        decoder: Box<dyn Decoder>,
    ) -> Self {
        ImageMaker {
            samples,
            counters,
            decoder,
            augmenter: Augmenter::new(settings.transform, settings.size, settings.max_pixels),
            repeats: settings.repeats as u64,
            bytes: Vec::new(),
            plans: Vec::with_capacity(settings.repeats),
        }
    }

    /// Fills `pixels`, `[repeats, height, width, channels]`, with the crops of `sample` that `key` gives, and returns its label (0
    /// where the data set has none).
    pub(super) fn make(
        &mut self,
        sample: SampleId,
        ahead: &Ahead,
        key: Key,
        pixels: &mut [u8],
    ) -> std::result::Result<u32, Failure> {
        let ImageMaker {
            samples,
            counters,
            decoder,
            augmenter,
            repeats,
            bytes,
            plans,
        } = self;
        let read = || -> Result<Option<u32>> {
            samples.read_image(sample, bytes, ahead)?;
            samples.label(sample, ahead)
        };
        let label = during(&counters.reading, || timed(&counters.read, read))?;
        add(&counters.bytes, bytes.len() as u64);
        plans.clear();
        let region = during(&counters.decoding, || {
            timed(&counters.decode, || {
                decoder.decode(bytes, &mut |size| {
                    for repeat in 0..*repeats {
                        let mut draws = Draws::new(Purpose::Crop, Key { repeat, ..key });
                        plans.push(augmenter.plan(size, &mut draws)?);
                    }
                    Ok(wanted(plans))
                })
            })
        })?;
        if plans.is_empty() {
            return Err(Failure::from(BadImage::Corrupt {
                reason: "an image without a size".to_owned(),
            }));
        }
        let length = pixels.len() / plans.len();
        timed(&counters.resize, || {
            let rows = plans.iter().zip(pixels.chunks_exact_mut(length));
            (0..).zip(rows).try_for_each(|(repeat, (plan, pixels))| {
                augmenter.apply(&region, plan, Key { repeat, ..key }, pixels)
            })
        })?;
        Ok(label.unwrap_or(0))
    }
}
