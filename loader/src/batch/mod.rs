//! Batches: host memory that is filled slot by slot, lent out, and used again.
//!
//! [`Buffers`] → [`open`](Buffers::open) → one [`Slot`] a sample, written by any thread → the last slot finished gives a
//! [`Finished`] batch → [`HostBatch`], lent to the caller → dropped, and its memory goes back to where it came from.

mod fill;
mod lent;
mod memory;
#[cfg(feature = "cuda")]
mod page_locked;
mod slots;

pub(crate) use self::fill::{Buffers, Finished, Slot};
pub use self::lent::HostBatch;
pub(crate) use self::memory::MemorySource;
#[cfg(feature = "cuda")]
pub(crate) use self::page_locked::Gpu;
use crate::decode::BadImage;
use crate::sample::SampleId;

/// Sizes of a batch's parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BatchShape {
    /// Samples, at most.
    pub(crate) slots: usize,
    /// Rows of a sample: each is a crop and a mask of its own.
    pub(crate) repeats: usize,
    /// Bytes of an image: height × width × channels.
    pub(crate) image: usize,
    /// Visible patches of a mask, 0 without masks.
    pub(crate) keep: usize,
    /// All patches of a mask, 0 without masks.
    pub(crate) patches: usize,
    /// Numbers of a box to erase: 4, or 0 without erasing.
    pub(crate) erase: usize,
    /// Whether samples have labels.
    pub(crate) labels: bool,
}

/// A sample that could not be used, and the one that took its slot.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct BadSample {
    /// Its row in the batch; the first of them where samples are repeated.
    pub slot: usize,
    /// The sample.
    pub sample: SampleId,
    /// The next good sample of its shard (cyclically), which is in the slot now.
    pub replacement: SampleId,
    /// What is wrong with it.
    pub reason: BadReason,
}

/// Why a sample could not be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BadReason {
    /// The image cannot be decoded.
    #[error(transparent)]
    Image(#[from] BadImage),
    /// The label is missing or cannot be understood.
    #[error("{0}")]
    Label(String),
}
