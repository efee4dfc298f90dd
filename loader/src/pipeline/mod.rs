//! From places to batches: one planner, many workers, one consumer.
//!
//! The planner takes a free batch buffer, which is the only back-pressure there is, and queues a job for each of its slots in order
//! of place. Workers take jobs as they come: read, decode, resize into the slot, draw the mask. Whoever finishes the last slot of a
//! batch publishes it, and [`Batches`] hands batches over in order.
//!
//! Memory: a sum that [`MemoryBound`] writes down.

mod bare;
mod batches;
mod image;
mod memory;
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

pub use self::bare::BareLoop;
pub use self::batches::Batches;
pub use self::memory::MemoryBound;
pub(crate) use self::samples::Samples;
use self::stats::Counters;
pub use self::stats::{Activity, Stats};
use crate::config::{LoaderBuilder, Settings};
use crate::dataset::Dataset;
use crate::decode::{Decoder, DecoderFactory};
use crate::mix::Mixture;
use crate::mix::order::MixedOrder;
use crate::order::Cursor;
use crate::sample::SampleId;

/// A data set as a sequence of batches.
///
/// # Guarantees
/// - Order, crops, flips and masks follow from the seed and a sample's place in its epoch: the same batches, byte for byte, with any
///   number of threads, and from [`batches`](Self::batches) at a cursor as without the interruption (with the same decoder and CPU
///   features; see [`fingerprint`](Self::fingerprint)).
/// - Every sample comes once an epoch (of its own data set, in a [mixture](Self::mixture)), but for the remainder that [`drop_last`](LoaderBuilder::drop_last) leaves out and for bad
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
    order: MixedOrder,
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
        LoaderBuilder::new(Mixture::of_one(dataset))
    }

    /// Settings for a loader that draws from several data sets, each by its weight, with defaults for all of them.
    ///
    /// - A data set gets its share of all samples exactly, rounded up or down, counted from the very first epoch to the end of any.
    ///   The same holds within an epoch, at the ends of blocks of at most 65,536 samples; inside a block it is a matter of chance
    ///   which sample is of which.
    /// - Each data set is shuffled by itself and gone through whole before any sample of it comes again, whatever the length of an
    ///   epoch; see [`epoch_samples`](LoaderBuilder::epoch_samples).
    /// - All of it follows from seed and place, as for one data set. What [`drop_last`](LoaderBuilder::drop_last) leaves out counts as
    ///   drawn.
    ///
    /// Which data set a sample of a batch is of, [`Mixture::count`] tells.
    pub fn mixture(mixture: Mixture) -> LoaderBuilder {
        LoaderBuilder::new(mixture)
    }

    pub(crate) fn new(
        samples: Arc<dyn Samples>,
        order: MixedOrder,
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

    /// Rows that this rank is handed in an epoch: its samples, times their [`repeats`](LoaderBuilder::repeats).
    pub fn samples_per_epoch(&self) -> u64 {
        self.settings.slices.samples_of_rank() * self.settings.repeats as u64
    }

    /// Starts the threads and gives the batches from `from` on, through all epochs.
    ///
    /// Steps past the end of an epoch count on in the next one.
    pub fn batches(&self, from: Cursor) -> Batches {
        Batches::start(self, from)
    }

    /// The most memory that the loader takes while it makes batches: see [`MemoryBound`] for the formula.
    pub fn memory_bound(&self) -> MemoryBound {
        MemoryBound::new(
            &self.settings,
            self.samples.largest_image(),
            self.order.memory(),
        )
    }

    /// The decoder in use, by name and version.
    pub fn decoder(&self) -> String {
        self.settings.decoder().name()
    }

    /// The work without the pipeline, for one thread of `threads`: see [`BareLoop`].
    pub fn bare_loop(&self, thread: usize, threads: usize) -> BareLoop {
        BareLoop::new(self, thread, threads)
    }

    /// What its threads are at, at any time.
    pub fn activity(&self) -> Activity {
        Activity(Arc::clone(&self.counters))
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
