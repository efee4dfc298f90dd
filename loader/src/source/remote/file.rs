//! One file on a server, read by ranges.

use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use futures_util::StreamExt;
use object_store::{GetOptions, GetRange, GetResult, ObjectMeta, ObjectStore};

use super::store::Location;
use super::{Block, Failure, Remote, cut_short};

/// Bytes that are read of a file when it is opened: enough to tell how it is stored.
const HEAD: u64 = 16;

/// A file that was found, and what was learned of it on the way.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) file: RemoteFile,
    pub(crate) head: Vec<u8>,
    /// Whether parts of it can be had.
    pub(crate) ranges: bool,
}

/// A file on a server. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct RemoteFile {
    pub(super) remote: Arc<Remote>,
    pub(super) location: Location,
    size: u64,
    etag: Option<String>,
    modified: i64,
}

pub(super) async fn open(
    remote: Arc<Remote>,
    location: Location,
) -> std::result::Result<Opened, Failure> {
    let part = GetOptions::default().with_range(Some(0..HEAD));
    let first = remote.retrying(|| begin(&location, part.clone())).await;
    let (meta, head, ranges) = match first {
        Ok((meta, head)) => (meta, head, true),
        Err(Failure::NoRanges) => {
            let (meta, head) = remote
                .retrying(|| begin(&location, GetOptions::default()))
                .await?;
            (meta, head, false)
        }
        Err(other) => return Err(other),
    };
    let file = RemoteFile {
        remote,
        location,
        size: meta.size,
        etag: meta.e_tag,
        modified: meta.last_modified.timestamp(),
    };
    Ok(Opened { file, head, ranges })
}

/// The first bytes of an answer, which is then dropped.
async fn begin(
    location: &Location,
    options: GetOptions,
) -> std::result::Result<(ObjectMeta, Vec<u8>), Failure> {
    let got = location.store.get_opts(&location.path, options).await?;
    let meta = got.meta.clone();
    let wanted = HEAD.min(meta.size) as usize;
    let mut head = Vec::with_capacity(wanted);
    let mut stream = got.into_stream();
    while head.len() < wanted {
        match stream.next().await {
            Some(chunk) => head.extend_from_slice(&chunk?),
            None => return Err(cut_short(head.len() as u64, wanted as u64)),
        }
    }
    head.truncate(wanted);
    Ok((meta, head))
}

impl RemoteFile {
    /// Length in bytes.
    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    /// How often a request is tried.
    pub(crate) fn tries(&self) -> u32 {
        self.remote.retries.tries
    }

    /// What tells this version of the file from others, as far as the server says.
    pub(crate) fn version(&self) -> String {
        format!(
            "{} {} {}",
            self.size,
            self.etag.as_deref().unwrap_or("-"),
            self.modified
        )
    }

    /// Fills `buffer` from `offset` on, out of `ahead` where that has it.
    pub(crate) fn read_exact_at(
        &self,
        buffer: &mut [u8],
        offset: u64,
        ahead: Option<&Block>,
        stop: &AtomicBool,
    ) -> io::Result<()> {
        let range = offset..offset + buffer.len() as u64;
        if let Some(block) = ahead.filter(|block| block.covers(&range)) {
            return block.copy(buffer, offset, stop);
        }
        let file = self.clone();
        let bytes = self
            .remote
            .wait(async move { file.fetch(range).await }, stop)?
            .map_err(|failure| io::Error::other(failure.reason()))?;
        buffer.copy_from_slice(&bytes);
        Ok(())
    }

    /// Begins to fetch `range`, to be read later.
    pub(crate) fn fetch_ahead(&self, range: Range<u64>) -> io::Result<Arc<Block>> {
        let block = Arc::new(Block::new(range.clone()));
        let (file, filled) = (self.clone(), Arc::downgrade(&block));
        let task = self.remote.runtime()?.spawn(async move {
            let fetched = file.fetch(range).await.map_err(Failure::reason);
            if let Some(block) = filled.upgrade() {
                block.fill(fetched);
            }
        });
        block.set_task(task.abort_handle());
        Ok(block)
    }

    /// The bytes of `range`, tried as often as is allowed.
    pub(super) async fn fetch(&self, range: Range<u64>) -> std::result::Result<Vec<u8>, Failure> {
        if range.is_empty() {
            return Ok(Vec::new());
        }
        if range.end > self.size {
            return Err(Failure::Final(format!(
                "bytes to {} were asked of a file of {}",
                range.end, self.size
            )));
        }
        self.remote
            .retrying(|| self.fetch_once(range.clone()))
            .await
    }

    async fn fetch_once(&self, range: Range<u64>) -> std::result::Result<Vec<u8>, Failure> {
        let expected = range.end - range.start;
        let options = GetOptions::default().with_range(Some(GetRange::Bounded(range)));
        let got = self
            .location
            .store
            .get_opts(&self.location.path, options)
            .await?;
        self.check(&got)?;
        let mut bytes = Vec::with_capacity(expected as usize);
        let mut stream = got.into_stream();
        while let Some(chunk) = stream.next().await {
            let chunk = chunk?;
            if (bytes.len() + chunk.len()) as u64 > expected {
                return Err(Failure::Passing(format!(
                    "the answer is longer than the {expected} bytes asked for"
                )));
            }
            bytes.extend_from_slice(&chunk);
        }
        if bytes.len() as u64 != expected {
            return Err(cut_short(bytes.len() as u64, expected));
        }
        Ok(bytes)
    }

    /// That the answer is of the file that was opened.
    pub(super) fn check(&self, got: &GetResult) -> std::result::Result<(), Failure> {
        let same_tag = match (&self.etag, &got.meta.e_tag) {
            (Some(then), Some(now)) => then == now,
            _ => true,
        };
        if got.meta.size == self.size && same_tag {
            return Ok(());
        }
        Err(Failure::Final(
            "the file has changed since it was opened; start again, with a new index if there is one"
                .into(),
        ))
    }
}
