//! Bytes of a shard by offset: plain local files are read in place, compressed files and pipes are inflated once into
//! a bounded [`cache`](ShardCache). What the bytes mean is the subject of [`crate::shard`].

mod cache;
mod local;

use std::io::Read;
use std::path::Path;

pub use cache::ShardCache;
pub use local::Source;
pub(crate) use local::SourceReader;

use crate::error::{Error, Result};

/// How a file's bytes are stored, by their first bytes rather than by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    /// As they are.
    Plain,
    /// gzip, possibly of several members.
    Gzip,
}

impl Encoding {
    /// Looks at the first bytes of the file at `path`.
    ///
    /// # Errors
    /// Where the file cannot be read or is compressed in a way that is not supported.
    pub fn of(path: &Path) -> Result<Self> {
        let mut file = std::fs::File::open(path).map_err(Error::io("open shard", path))?;
        let mut head = Vec::with_capacity(8);
        Read::by_ref(&mut file)
            .take(8)
            .read_to_end(&mut head)
            .map_err(Error::io("read", path))?;
        Self::sniff(&head).map_err(|kind| Error::Spec {
            spec: path.display().to_string(),
            reason: format!(
                "{kind} compression is not supported: decompress it, or use `pipe:{kind} -dc FILE`"
            ),
        })
    }

    pub(crate) fn sniff(head: &[u8]) -> std::result::Result<Self, &'static str> {
        match head {
            [0x1f, 0x8b, ..] => Ok(Self::Gzip),
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Err("zstd"),
            [b'B', b'Z', b'h', ..] => Err("bzip2"),
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Err("xz"),
            _ => Ok(Self::Plain),
        }
    }
}
