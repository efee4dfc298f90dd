//! What the pipeline needs of a data set. A trait of its own, so that tests can stand in data that misbehave.

use crate::dataset::Dataset;
use crate::error::Result;
use crate::sample::SampleId;

/// Samples by number, from any thread.
pub(crate) trait Samples: Send + Sync {
    /// Samples in a shard.
    fn shard_len(&self, shard: u32) -> u32;
    /// A shard's name, for messages.
    fn shard_name(&self, shard: u32) -> String;
    /// Shard and key, for messages.
    fn describe(&self, id: SampleId) -> String;
    /// Reads the encoded image into `buffer`, in place of what is there.
    fn read_image(&self, id: SampleId, buffer: &mut Vec<u8>) -> Result<()>;
    /// Length of the longest encoded image, in bytes.
    fn largest_image(&self) -> u64;
    /// Announces that the image will be read soon.
    fn will_need(&self, id: SampleId);
    /// The class index; `None` where the data set has no labels.
    fn label(&self, id: SampleId) -> Result<Option<u32>>;
}

impl Samples for Dataset {
    fn shard_len(&self, shard: u32) -> u32 {
        Dataset::shard_len(self, shard)
    }

    fn shard_name(&self, shard: u32) -> String {
        self.shards()[shard as usize].name.clone()
    }

    fn describe(&self, id: SampleId) -> String {
        Dataset::describe(self, id)
    }

    fn read_image(&self, id: SampleId, buffer: &mut Vec<u8>) -> Result<()> {
        Dataset::read_image(self, id, buffer)
    }

    fn largest_image(&self) -> u64 {
        Dataset::largest_image(self)
    }

    fn will_need(&self, id: SampleId) {
        Dataset::will_need(self, id);
    }

    fn label(&self, id: SampleId) -> Result<Option<u32>> {
        Dataset::label(self, id)
    }
}
