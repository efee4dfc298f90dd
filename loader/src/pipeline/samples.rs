//! What the pipeline needs of its data. A trait of its own, so that tests can stand in data that misbehave.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use crate::error::Result;
use crate::sample::SampleId;
use crate::source::Ahead;

/// Samples by number, from any thread.
pub(crate) trait Samples: Send + Sync {
    /// Samples in a shard.
    fn shard_len(&self, shard: u32) -> u32;
    /// A shard's name, for messages.
    fn shard_name(&self, shard: u32) -> String;
    /// Shard and key, for messages.
    fn describe(&self, id: SampleId) -> String;
    /// Reads the encoded image into `buffer`, in place of what is there.
    fn read_image(&self, id: SampleId, buffer: &mut Vec<u8>, ahead: &Ahead) -> Result<()>;
    /// Length of the longest encoded image, in bytes.
    fn largest_image(&self) -> u64;
    /// Announces that the samples will be read soon, each through what stands in its place in the result. Reads give up when `stop` is set.
    fn announce(&self, ids: &[SampleId], stop: &Arc<AtomicBool>) -> Vec<Ahead>;
    /// The class index; `None` where the data set has no labels.
    fn label(&self, id: SampleId, ahead: &Ahead) -> Result<Option<u32>>;
}
