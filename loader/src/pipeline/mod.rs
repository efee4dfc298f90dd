//! From places to batches: one planner, many workers, one consumer.
//!
//! The planner takes a free batch buffer, which is the only back-pressure there is, and queues a job for each of its slots in order
//! of place. Workers take jobs as they come: read, decode, resize into the slot, draw the mask. Whoever finishes the last slot of a
//! batch publishes it, and [`Batches`] hands batches over in order.
//!
//! Memory: `(prefetch + 1)` batches, and for each thread the largest image seen, encoded and decoded (at most `max_pixels` pixels),
//! plus the shuffled window at 4 bytes a sample. Batches that the caller holds on to come on top.

mod batches;
mod planner;
mod samples;
mod stats;
mod verdict;
mod worker;

#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::fmt;
use std::sync::{Arc, Mutex};

pub use self::batches::Batches;
pub(crate) use self::samples::Samples;
use self::stats::Counters;
pub use self::stats::Stats;
use crate::config::{LoaderBuilder, Settings};
use crate::dataset::Dataset;
use crate::decode::DecoderFactory;
use crate::order::{Cursor, Order};
use crate::sample::SampleId;

/// A data set as a sequence of batches.
///
/// # Guarantees
/// - Order, crops, flips and masks follow from the seed and a sample's place in its epoch: the same batches, byte for byte, with any
///   number of threads, and from [`batches`](Self::batches) at a cursor as without the interruption (with the same decoder and CPU
///   features; see [`fingerprint`](Self::fingerprint)).
/// - Every sample comes once an epoch, but for the remainder that [`drop_last`](LoaderBuilder::drop_last) leaves out and for bad
///   samples, each of which is replaced by the next good one of its shard, counted, and named once on the log.
/// - Ranks of any world size get slices of the same global batches, and equally many of them.
///
/// # Example
/// ```no_run
/// use std::sync::Arc;
/// use mae_loader::{Cursor, Dataset, DatasetOptions, Loader, Transform};
///
/// # fn main() -> mae_loader::Result<()> {
/// let dataset = Dataset::open(&["shards/train-*.tar"], &DatasetOptions::default())?;
/// let loader = Loader::builder(Arc::new(dataset))
///     .image_size(224, 224)
///     .batch_size(256)
///     .transform(Transform::default())
///     .masks(196, 49)
///     .seed(0)
///     .epochs(400)
///     .build()?;
/// for batch in loader.batches(Cursor::default()) {
///     let batch = batch?;
///     assert_eq!(batch.pixels().len(), batch.len() * 224 * 224 * 3);
///     assert_eq!(batch.ids_keep().len(), batch.len() * 49);
///     // … train on the batch, then save `batch.next_cursor()` to go on from here later.
/// }
/// # Ok(())
/// # }
/// ```
pub struct Loader {
    samples: Arc<dyn Samples>,
    order: Order,
    settings: Arc<Settings>,
    decoders: Arc<DecoderFactory>,
    fingerprint: String,
    counters: Arc<Counters>,
    /// Bad samples that the log has named.
    named: Arc<Mutex<HashSet<SampleId>>>,
}

impl Loader {
    /// Settings for a loader of `dataset`, with defaults for all of them.
    pub fn builder(dataset: Arc<Dataset>) -> LoaderBuilder {
        LoaderBuilder::new(dataset)
    }

    pub(crate) fn new(
        samples: Arc<dyn Samples>,
        order: Order,
        settings: Settings,
        decoders: Arc<DecoderFactory>,
        fingerprint: String,
    ) -> Self {
        Loader {
            samples,
            order,
            settings: Arc::new(settings),
            decoders,
            fingerprint,
            counters: Arc::default(),
            named: Arc::default(),
        }
    }

    /// Batches in an epoch, the same for every rank. At least 1.
    pub fn steps_per_epoch(&self) -> u64 {
        self.settings.slices.steps()
    }

    /// Samples that this rank is handed in an epoch.
    pub fn samples_per_epoch(&self) -> u64 {
        self.settings.slices.samples_of_rank()
    }

    /// Starts the threads and gives the batches from `from` on, through all epochs.
    ///
    /// Steps past the end of an epoch count on in the next one.
    pub fn batches(&self, from: Cursor) -> Batches {
        Batches::start(self, from)
    }

    /// What was done so far, by all iterators of this loader together.
    pub fn stats(&self) -> Stats {
        self.counters.snapshot()
    }

    /// What decides about the bytes of the batches: data set, settings, decoder, instructions of the CPU. Two loaders of one
    /// fingerprint give the same global batches; where it differs from a saved one, a run cannot be continued exactly.
    ///
    /// `key=value` pairs with `;` between them, so that a difference can be named.
    pub fn fingerprint(&self) -> String {
        self.fingerprint.clone()
    }
}

impl fmt::Debug for Loader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Loader")
            .field("settings", &self.settings)
            .field("fingerprint", &self.fingerprint)
            .finish_non_exhaustive()
    }
}
