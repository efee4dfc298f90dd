//! Bytes of a shard by offset: plain local files are read in place, plain files on servers by ranges, and what is compressed, comes from a
//! pipe, or is to be kept lies whole in a bounded [`cache`](ShardCache). What the bytes mean is the subject of [`crate::shard`].

mod cache;
mod cached;
mod local;
mod net;
mod reader;
#[cfg(feature = "remote")]
pub(crate) mod remote;
mod url;

use std::io::{self, Read};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

pub use cache::ShardCache;
pub(crate) use cached::{CachedFile, Origin, Stored};
pub(crate) use local::LocalFile;
pub(crate) use net::Net;
pub(crate) use reader::SourceReader;
#[cfg(feature = "remote")]
pub(crate) use remote::RemoteFile;
#[cfg(feature = "remote")]
pub use remote::{RETRIES, Retries};
pub(crate) use url::{is_url, without_secrets};

use crate::sample::Member;

/// Ranges this close together are fetched as one, up to this length.
#[cfg(feature = "remote")]
const GAP: u64 = 64 << 10;
#[cfg(feature = "remote")]
const MERGED: u64 = 8 << 20;

/// The bytes of a shard's tar, inflated, from many threads without a lock.
#[derive(Debug)]
pub struct Source(Place);

#[derive(Debug)]
enum Place {
    Local(LocalFile),
    Cached(CachedFile),
    #[cfg(feature = "remote")]
    Remote(RemoteFile),
}

impl From<LocalFile> for Source {
    fn from(file: LocalFile) -> Self {
        Self(Place::Local(file))
    }
}

impl From<CachedFile> for Source {
    fn from(file: CachedFile) -> Self {
        Self(Place::Cached(file))
    }
}

#[cfg(feature = "remote")]
impl From<RemoteFile> for Source {
    fn from(file: RemoteFile) -> Self {
        Self(Place::Remote(file))
    }
}

/// Bytes that were announced, as one sample holds them; and whether anybody still wants them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Ahead {
    #[cfg(feature = "remote")]
    block: Option<(usize, Arc<remote::Block>)>,
    stop: Arc<AtomicBool>,
}

impl Ahead {
    /// Nothing on its way yet; reads give up when `stop` is set.
    pub(crate) fn nothing(stop: &Arc<AtomicBool>) -> Self {
        Self {
            #[cfg(feature = "remote")]
            block: None,
            stop: Arc::clone(stop),
        }
    }
}

impl Source {
    /// Length in bytes when the source was opened.
    pub fn size(&self) -> u64 {
        match &self.0 {
            Place::Local(file) => file.size(),
            Place::Cached(file) => file.size(),
            #[cfg(feature = "remote")]
            Place::Remote(file) => file.size(),
        }
    }

    /// Whether the headers in front of `members` fit an index: at once where a read costs next to nothing, else (for a shard that is not in
    /// the cache yet) when it is there. Of files on servers only the size is compared, since each header would be a request.
    pub(crate) fn check_headers(
        &mut self,
        members: Vec<Member>,
    ) -> std::result::Result<(), String> {
        match &mut self.0 {
            Place::Local(file) => members.iter().try_for_each(|member| {
                check_header(member, |header, at| file.read_exact_at(header, at))
            }),
            Place::Cached(file) => file.check_headers(members),
            #[cfg(feature = "remote")]
            Place::Remote(_) => Ok(()),
        }
    }

    /// Whether short reads in a row are better served by long ones.
    pub(crate) fn reads_in_chunks(&self) -> bool {
        #[cfg(feature = "remote")]
        return matches!(&self.0, Place::Remote(_));
        #[cfg(not(feature = "remote"))]
        false
    }

    /// Bytes that this source has or will have in the cache folder.
    pub(crate) fn cached_bytes(&self) -> u64 {
        match &self.0 {
            Place::Cached(file) => file.size(),
            _ => 0,
        }
    }

    /// Fills `buffer` from `offset` on.
    ///
    /// # Errors
    /// The system's or the server's, and `UnexpectedEof` where the file ends before.
    pub fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.read_ahead(buffer, offset, &Ahead::default())
    }

    /// As [`read_exact_at`](Self::read_exact_at), out of what was announced where that has it. `Interrupted` where nobody wants it any more.
    pub(crate) fn read_ahead(
        &self,
        buffer: &mut [u8],
        offset: u64,
        ahead: &Ahead,
    ) -> io::Result<()> {
        match &self.0 {
            Place::Local(file) => file.read_exact_at(buffer, offset),
            Place::Cached(file) => file.read_exact_at(buffer, offset, &ahead.stop),
            #[cfg(feature = "remote")]
            Place::Remote(file) => {
                let block = ahead.block.as_ref();
                let block = block.filter(|(of, _)| *of == self.identity());
                file.read_exact_at(
                    buffer,
                    offset,
                    block.map(|(_, block)| &**block),
                    &ahead.stop,
                )
            }
        }
    }

    /// Announces that `ranges`, in ascending order, will be read soon, each through the [`Ahead`] that stands in its place in the result. A
    /// local file's are fetched by the system (`posix_fadvise`), a server's by requests for several of them at once. Nothing fails: what
    /// cannot be fetched ahead is fetched, and its error told, when it is read.
    pub(crate) fn announce(&self, ranges: &[Range<u64>], stop: &Arc<AtomicBool>) -> Vec<Ahead> {
        #[cfg_attr(not(feature = "remote"), allow(unused_mut))]
        let mut ahead = vec![Ahead::nothing(stop); ranges.len()];
        match &self.0 {
            Place::Local(file) => {
                for range in ranges {
                    file.will_need(range.start, range.end - range.start);
                }
            }
            Place::Cached(_) => {}
            #[cfg(feature = "remote")]
            Place::Remote(file) => {
                let mut from = 0;
                while from < ranges.len() {
                    let (to, range) = merge(&ranges[from..]);
                    if let Ok(block) = file.fetch_ahead(range) {
                        for ahead in &mut ahead[from..from + to] {
                            ahead.block = Some((self.identity(), Arc::clone(&block)));
                        }
                    }
                    from += to;
                }
            }
        }
        ahead
    }

    /// Tells this source from all others that are alive.
    #[cfg(feature = "remote")]
    fn identity(&self) -> usize {
        std::ptr::from_ref(self) as usize
    }
}

/// Whether the header in front of `member` is of a member of its size. `read` fills a buffer from an offset on.
fn check_header(
    member: &Member,
    read: impl Fn(&mut [u8], u64) -> io::Result<()>,
) -> std::result::Result<(), String> {
    let mut header = tar::Header::new_old();
    let changed = || format!("the member at byte {} is no longer there", member.offset);
    let at = member.offset.checked_sub(512).ok_or_else(changed)?;
    read(header.as_mut_bytes(), at).map_err(|e| e.to_string())?;
    // Sizes from 8 GiB on may be kept in another header.
    let fits = header
        .entry_size()
        .is_ok_and(|size| size == member.size || member.size >= 8 << 30);
    if fits { Ok(()) } else { Err(changed()) }
}

/// How many of the first ranges are fetched as one, and what.
#[cfg(feature = "remote")]
fn merge(ranges: &[Range<u64>]) -> (usize, Range<u64>) {
    let mut whole = ranges[0].clone();
    let mut count = 1;
    for range in &ranges[1..] {
        let end = whole.end.max(range.end);
        if range.start > whole.end + GAP || end - whole.start > MERGED {
            break;
        }
        whole.end = end;
        count += 1;
    }
    (count, whole)
}

/// How a file's bytes are stored, by their first bytes rather than by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    /// As they are.
    Plain,
    /// gzip, possibly of several members.
    Gzip,
    /// Zstandard, possibly of several frames.
    Zstd,
}

impl Encoding {
    /// By a file's first bytes; six of them tell, where it is as long. The error names a compression that is not read.
    pub(crate) fn sniff(head: &[u8]) -> std::result::Result<Self, &'static str> {
        match head {
            [0x1f, 0x8b, ..] => Ok(Self::Gzip),
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Ok(Self::Zstd),
            [b'B', b'Z', b'h', ..] => Err("bzip2"),
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Err("xz"),
            _ => Ok(Self::Plain),
        }
    }

    /// What `from` holds, inflated.
    pub(crate) fn inflate<'a>(
        self,
        from: impl Read + Send + 'a,
    ) -> io::Result<Box<dyn Read + Send + 'a>> {
        const CHUNK: usize = 256 << 10;
        Ok(match self {
            Self::Plain => Box::new(from),
            Self::Gzip => Box::new(flate2::read::MultiGzDecoder::new(
                io::BufReader::with_capacity(CHUNK, from),
            )),
            Self::Zstd => {
                let mut decoder = zstd::Decoder::new(from)?;
                // As the command line tool: a frame may not ask for more memory than that.
                decoder.window_log_max(27)?;
                Box::new(decoder)
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_zstd_frame_may_not_ask_for_more_memory_than_its_tool_allows() {
        // Magic, no flags, the window's exponent (10 + the upper five bits), one empty block.
        let frame = |window: u8| {
            let head = [0x28, 0xb5, 0x2f, 0xfd, 0, (window - 10) << 3, 1, 0, 0];
            let mut inflated = Vec::new();
            let from = Encoding::sniff(&head).unwrap();
            assert_eq!(from, Encoding::Zstd);
            from.inflate(&head[..]).unwrap().read_to_end(&mut inflated)
        };
        assert_eq!(frame(27).unwrap(), 0);
        assert!(frame(28).is_err());
    }

    #[cfg(feature = "remote")]
    #[test]
    fn near_ranges_are_fetched_as_one() {
        assert_eq!(merge(std::slice::from_ref(&(5..10))), (1, 5..10));
        assert_eq!(
            merge(&[5..10, 10..20, 20 + GAP..30 + GAP]),
            (3, 5..30 + GAP)
        );
        assert_eq!(merge(&[5..10, 11 + GAP..20 + GAP]).0, 1);
        assert_eq!(
            merge(&[0..MERGED - 1, MERGED - 1..MERGED, MERGED..MERGED + 1]).0,
            2
        );
        assert_eq!(
            merge(&[0..2 * MERGED, 5..9]),
            (1, 0..2 * MERGED),
            "one longer than the bound"
        );
    }
}
