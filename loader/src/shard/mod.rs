//! The tar format: the index of a shard, the scan that builds it, the files that keep it, and the writer.

mod build;
mod index;
mod pattern;
mod publish;
mod scan;
mod table;
#[cfg(test)]
pub(crate) mod testing;
mod writer;

pub use build::{BuildOptions, Built, build_index};
pub use index::{INDEX_FILE, Index, IndexEntry, IndexShard, Prepared};
pub use pattern::ShardPattern;
pub use publish::{FinishedShard, ShardTarget, Written};
pub use scan::{Scanned, scan};
pub use table::{SampleView, ShardTable};
pub use writer::{Limits, ShardFile, ShardWriter};
