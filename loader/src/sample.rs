//! What names a sample and its parts. Where a sample stands in an epoch is the subject of [`Loader`](crate::Loader).

use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// Identity of a sample within a [`Dataset`](crate::Dataset): the shard's number in the order of the specs, and the
/// sample's number among the usable samples (those with an image) of that shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SampleId {
    /// The shard, counted from 0 in the order of the specs.
    pub shard: u32,
    /// The usable sample within the shard, counted from 0 in the order of the tar.
    pub ordinal: u32,
}

/// One file of a sample.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// All that follows the first dot of the base name, in lower case: `jpg`, `cls`, `seg.png`.
    pub suffix: Arc<str>,
    /// First byte of the data in the (inflated) tar.
    pub offset: u64,
    /// Length of the data in bytes.
    pub size: u64,
}
