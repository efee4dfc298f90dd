//! Streams datasets of tar shards (the WebDataset format) into batches for training.
//!
//! The crate finds shards by name ([`spec`]), indexes their members ([`shard`]), reads single members by offset
//! ([`Dataset`]), decodes, crops, flips and samples masks on worker threads and lends out finished batches, the same
//! bytes for the same seed whatever the number of threads.
//!
//! It knows nothing of models or devices: pixels leave it as `u8` in host memory, `[B, H, W, C]`.

pub mod augment;
mod batch;
mod classes;
mod config;
pub mod dataset;
pub mod decode;
#[cfg(test)]
mod distributions;
pub mod error;
#[cfg(test)]
mod golden;
pub mod label;
mod mask;
mod mix;
pub mod open;
mod order;
mod parallel;
mod pipeline;
mod rng;
pub mod sample;
pub mod shard;
pub mod source;
pub mod spec;

pub use augment::{CropRule, Mix, Mixing, RandAugment, TrainTransform, Transform, mix_draw};
pub use batch::{BadReason, BadSample, HostBatch};
pub use classes::CLASSES_FILE;
pub use config::LoaderBuilder;
pub use dataset::{Dataset, DatasetOptions, ShardInfo};
pub use decode::{DecodeQuality, DecoderKind, ImageSize, Rect};
pub use error::{Error, Result};
pub use label::LabelSource;
pub use mask::{BlockMasks, MaskSampling};
pub use mix::Mixture;
pub use order::{Cursor, Window};
pub use pipeline::{Activity, BareLoop, Batches, Loader, MemoryBound, Stats};
pub use sample::{Member, SampleId};
#[cfg(feature = "remote")]
pub use source::{RETRIES, Retries};
