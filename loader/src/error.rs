//! The one error type of the crate: what failed, where (shard, member, byte offset) and what to do about it.

use std::path::{Path, PathBuf};

/// Result of the crate's operations.
pub type Result<T> = std::result::Result<T, Error>;

/// Whatever can go wrong between a shard spec and a batch.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused a file operation.
    #[error("cannot {action} {}: {reason}", path.display())]
    Io {
        /// What was tried, as a verb: "read", "create", …
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The system's reason. Part of the message, hence not also a `source()`.
        reason: std::io::Error,
    },

    /// A server did not give what was asked of it.
    #[error("cannot read {url}: {reason}")]
    Remote {
        /// The file or folder, without passwords and signatures.
        url: String,
        /// The server's reason, or the network's; how often was tried.
        reason: String,
    },

    /// The GPU's driver would not lock memory for batches.
    #[error(
        "{} MB of page-locked memory for a batch cannot be had: {reason}. Prefetch fewer batches or make them smaller; limits on \
         locked memory are `ulimit -l` and those of the container",
        bytes.div_ceil(1_000_000)
    )]
    PageLock {
        /// Bytes that were asked for.
        bytes: u64,
        /// The driver's reason.
        reason: String,
    },

    /// A shard spec that cannot be understood or names a kind of source that is not supported.
    #[error("shard spec `{spec}`: {reason}")]
    Spec {
        /// The spec as given.
        spec: String,
        /// What is wrong and what to write instead.
        reason: String,
    },

    /// A shard spec that names nothing.
    #[error("no shards found for `{spec}`: {reason}")]
    NoShards {
        /// The spec as given.
        spec: String,
        /// What was looked for.
        reason: String,
    },

    /// A folder whose shards belong to several sets, such as `train-*` and `test-*`.
    #[error("folder {} holds several sets of shards; name the one you mean: {}", folder.display(), choices.join(", "))]
    MixedPrefixes {
        /// The folder.
        folder: PathBuf,
        /// Specs that name one set each.
        choices: Vec<String>,
    },

    /// Shards were found and read, but no sample in them has an image.
    #[error(
        "no usable sample in {shards} shard(s) of `{spec}`: no member ends in one of: {suffixes}"
    )]
    NoSamples {
        /// The specs as given.
        spec: String,
        /// How many shards were read.
        shards: usize,
        /// The image suffixes looked for.
        suffixes: String,
    },

    /// A shard that is not a whole, well-formed tar.
    #[error("shard {shard}, byte {offset}: {reason}")]
    Shard {
        /// The shard's name.
        shard: String,
        /// Where in the (inflated) tar.
        offset: u64,
        /// What is wrong and what to do.
        reason: String,
    },

    /// An index file or class list that cannot be used.
    #[error("index {}: {reason}", path.display())]
    Index {
        /// The file.
        path: PathBuf,
        /// What is wrong and what to do.
        reason: String,
    },

    /// The shards of one dataset do not fit into the cache for inflated shards.
    #[error(
        "inflating {shard} needs more than the {limit} bytes allowed for the shard cache in {}: raise the limit \
         (--cache-size), choose another folder (--cache), or store the shards uncompressed",
        dir.display()
    )]
    CacheFull {
        /// The shard that did not fit.
        shard: String,
        /// The cache folder.
        dir: PathBuf,
        /// The bound in bytes.
        limit: u64,
    },

    /// A shell command of a `pipe:` spec failed.
    #[error("pipe `{command}`: {reason}")]
    Pipe {
        /// The command.
        command: String,
        /// Its exit status or the reason it did not start.
        reason: String,
    },

    /// A member of a sample cannot be read.
    #[error("{sample}, member .{suffix} at byte {offset}: {reason}")]
    Member {
        /// Shard and key.
        sample: String,
        /// The member's suffix.
        suffix: String,
        /// Where its data starts in the (inflated) tar.
        offset: u64,
        /// What is wrong.
        reason: String,
    },

    /// A sample whose label is missing or cannot be understood.
    #[error("{sample}: {reason}")]
    Label {
        /// Shard and key.
        sample: String,
        /// What is wrong and what to do.
        reason: String,
    },

    /// Shards that cannot be written as asked.
    #[error("writing shards to {}: {reason}", dir.display())]
    Write {
        /// The folder.
        dir: PathBuf,
        /// What is wrong and what to do.
        reason: String,
    },

    /// A loader setting that is out of range or does not fit the others.
    #[error("{setting}: {reason}")]
    Config {
        /// The setting's name.
        setting: &'static str,
        /// What is wrong and what to do.
        reason: String,
    },

    /// A shard of which no sample can take the place of a bad one.
    #[error(
        "no sample of shard {shard} ({samples} samples) can be used; the first one tried: {reason}"
    )]
    NoGoodSample {
        /// The shard's name.
        shard: String,
        /// Samples in it.
        samples: u64,
        /// What is wrong with the first of them that was tried.
        reason: String,
    },

    /// More bad samples than the run tolerates.
    #[error(
        "{bad} of {seen} samples could not be used, more than the {:.2}% allowed (--max-bad-fraction); worst shards: {worst}",
        limit * 100.0
    )]
    TooManyBad {
        /// Bad samples so far.
        bad: u64,
        /// Samples handed over so far.
        seen: u64,
        /// The fraction allowed.
        limit: f64,
        /// The worst shards with their counts.
        worst: String,
    },

    /// A thread of the loader ended unexpectedly.
    #[error("a loader thread ended unexpectedly: {reason}")]
    Thread {
        /// What is known about it.
        reason: String,
    },
}

impl Error {
    /// An [`Error::Io`] for `path`; for use with `map_err`.
    pub(crate) fn io(
        action: &'static str,
        path: impl AsRef<Path>,
    ) -> impl FnOnce(std::io::Error) -> Error {
        let path = path.as_ref().to_path_buf();
        move |reason| Error::Io {
            action,
            path,
            reason,
        }
    }
}
