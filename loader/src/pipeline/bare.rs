//! The work on images without the pipeline around it: what the pipeline is measured against.

use std::sync::Arc;

use super::image::{Failure, ImageMaker};
use super::{Loader, Samples};
use crate::config::Settings;
use crate::error::Result;
use crate::mix::order::Walk;
use crate::rng::Key;
use crate::sample::SampleId;
use crate::source::Ahead;

/// One thread's share of an epoch, over and over: read, decode, crop, resize and flip into the same memory, without batches, masks,
/// other threads or hand-over. As many of them as threads give what a machine can do at best with this decoder.
pub struct BareLoop {
    images: ImageMaker,
    samples: Arc<dyn Samples>,
    settings: Arc<Settings>,
    order: Walk,
    key: Key,
    first: u64,
    stride: u64,
    pixels: Vec<u8>,
}

impl BareLoop {
    pub(super) fn new(loader: &Loader, thread: usize, threads: usize) -> Self {
        let settings = Arc::clone(&loader.settings);
        let shape = settings.batch_shape();
        BareLoop {
            images: ImageMaker::new(
                Arc::clone(&loader.samples),
                &settings,
                Arc::default(),
                (loader.decoders)(),
            ),
            samples: Arc::clone(&loader.samples),
            order: loader.order.walk(),
            key: Key {
                seed: settings.seed,
                epoch: 0,
                place: thread as u64,
                repeat: 0,
            },
            first: thread as u64,
            stride: threads.max(1) as u64,
            pixels: vec![0; shape.repeats * shape.image],
            settings,
        }
    }

    /// Makes one sample after the next and returns its pixels, `[repeats, H, W, C]`. Bad samples are passed over.
    ///
    /// # Errors
    /// What would end the batches too, such as a shard that cannot be read.
    pub fn next_sample(&mut self) -> Result<&[u8]> {
        loop {
            let sample = self.next_id();
            let key = Key {
                epoch: self.settings.draw_epoch(self.key.epoch),
                ..self.key
            };
            self.key.place += self.stride;
            match self
                .images
                .make(sample, &Ahead::default(), key, &mut self.pixels)
            {
                Ok(_) => return Ok(&self.pixels),
                Err(Failure::Bad(reason)) => {
                    tracing::debug!("{}: {reason}", self.samples.describe(sample));
                }
                Err(Failure::Fatal(error)) => return Err(error),
            }
        }
    }

    fn next_id(&mut self) -> SampleId {
        loop {
            if let Some(sample) = self.order.sample(self.key.epoch, self.key.place) {
                return sample;
            }
            self.key.epoch += 1;
            // A data set may have fewer samples than there are threads.
            self.key.place = self.first % self.settings.slices.samples;
        }
    }
}
