//! An opened, indexed dataset: every sample's members by number, read by offset from any thread.
//!
//! It holds no order and no cursor: what comes when is the subject of [`crate::order`].

use std::path::PathBuf;

use crate::error::Result;
use crate::label::LabelSource;
use crate::sample::{Member, SampleId};

/// How [`Dataset::open`] reads shards.
#[derive(Debug, Clone)]
pub struct DatasetOptions {
    /// Suffixes of image members, in order of preference, lower case.
    pub image_suffixes: Vec<String>,
    /// Where labels come from.
    pub labels: LabelSource,
    /// Class names to map string labels by, in place of `classes.json` or the values found. Give the training set's
    /// names when opening a validation set.
    pub classes: Option<Vec<String>>,
    /// Folder for inflated shards; by default one in the system's temporary folder.
    pub cache_dir: Option<PathBuf>,
    /// Bound on the bytes in that folder.
    pub cache_bytes: u64,
}

impl Default for DatasetOptions {
    fn default() -> Self {
        Self {
            image_suffixes: ["jpg", "jpeg", "png"].map(String::from).to_vec(),
            labels: LabelSource::default(),
            classes: None,
            cache_dir: None,
            cache_bytes: 32 << 30,
        }
    }
}

/// One shard of a dataset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShardInfo {
    /// The shard as named by the spec.
    pub name: String,
    /// Usable samples in it.
    pub samples: u32,
    /// Size of the file as stored, compressed where it is.
    pub bytes: u64,
}

/// An opened dataset. Cheap to share in an `Arc`; all methods may be called from many threads at once.
#[derive(Debug)]
pub struct Dataset {
    infos: Vec<ShardInfo>,
    digest: String,
}

#[allow(unused_variables, clippy::unimplemented, missing_docs)]
impl Dataset {
    pub fn open<S: AsRef<str>>(specs: &[S], options: &DatasetOptions) -> Result<Self> {
        unimplemented!()
    }
    pub fn shards(&self) -> &[ShardInfo] {
        &self.infos
    }
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> u64 {
        unimplemented!()
    }
    pub fn shard_len(&self, shard: u32) -> u32 {
        unimplemented!()
    }
    pub fn digest(&self) -> &str {
        &self.digest
    }
    pub fn key(&self, id: SampleId) -> &str {
        unimplemented!()
    }
    pub fn describe(&self, id: SampleId) -> String {
        unimplemented!()
    }
    pub fn image_member(&self, id: SampleId) -> &Member {
        unimplemented!()
    }
    pub fn read_image(&self, id: SampleId, buffer: &mut Vec<u8>) -> Result<()> {
        unimplemented!()
    }
    /// `Ok(None)`: the dataset has no labels at all; a sample without one in a dataset with labels is an error.
    pub fn label(&self, id: SampleId) -> Result<Option<u32>> {
        unimplemented!()
    }
    pub fn has_labels(&self) -> bool {
        unimplemented!()
    }
    pub fn classes(&self) -> Option<&[String]> {
        unimplemented!()
    }
}
