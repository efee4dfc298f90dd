//! What the ranks of a job find, each its part: put together where they agree on the whole.

use anyhow::{Result, bail};
use mae_loader::shard::{IndexEntry, Limits};
use serde::{Deserialize, Serialize};

use super::encode::Encoding;
use super::listing::Look;
use super::source::Skipped;

/// A rank's view of the source, and what it saw in its part of the files.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Found {
    /// What the bytes of the shards depend on besides the source.
    flags: String,
    /// Equal where the sources are.
    digest: String,
    looks: Vec<Look>,
}

/// What a rank wrote.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Packed {
    /// Of the shards that rank 0 is to take over.
    pub(super) entries: Vec<IndexEntry>,
    /// Images that could not be encoded.
    pub(super) broken: Vec<Skipped>,
}

impl Found {
    pub(super) fn new(
        limits: Limits,
        encoding: Encoding,
        seed: Option<u64>,
        digest: String,
        looks: Vec<Look>,
    ) -> Self {
        let version = env!("CARGO_PKG_VERSION");
        Self {
            flags: format!("{version} {limits:?} {encoding:?} {seed:?}"),
            digest,
            looks,
        }
    }

    /// What was seen in all files, in order.
    ///
    /// # Errors
    /// Where a rank would write other shards than rank 0.
    pub(super) fn together(parts: Vec<Self>) -> Result<Vec<Look>> {
        for (rank, part) in parts.iter().enumerate() {
            if part.flags != parts[0].flags {
                bail!(
                    "rank {rank} was started with other flags than rank 0, or is another version of mae"
                );
            }
            if part.digest != parts[0].digest {
                bail!(
                    "rank {rank} does not find the same samples as rank 0: do all machines see the same files in the source?"
                );
            }
        }
        Ok(parts.into_iter().flat_map(|part| part.looks).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shard::format::Format;

    #[test]
    fn parts_come_together_where_the_ranks_agree() {
        let encoding = Encoding {
            reencode: false,
            short_side: None,
            quality: 95,
        };
        let found = |seed, digest: &str, bytes| {
            let looks = vec![(Some(Format::Jpeg), bytes)];
            Found::new(Limits::default(), encoding, seed, digest.into(), looks)
        };
        let looks = Found::together(vec![found(None, "a", 1), found(None, "a", 2)]);
        assert_eq!(
            looks.unwrap(),
            [(Some(Format::Jpeg), 1), (Some(Format::Jpeg), 2)]
        );
        for (other, said) in [
            (
                found(Some(3), "a", 2),
                "rank 1 was started with other flags",
            ),
            (found(None, "b", 2), "rank 1 does not find the same samples"),
        ] {
            let error = Found::together(vec![found(None, "a", 1), other]).unwrap_err();
            assert!(error.to_string().contains(said), "{error}");
        }
    }
}
