//! A whole file, in order, as a reader.

use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use object_store::{GetOptions, ObjectStore};

use super::file::RemoteFile;
use super::{Block, Failure, cut_short};

/// Bytes of one request, and requests in flight.
const PART: u64 = 8 << 20;
const PARTS_AHEAD: usize = 3;

impl RemoteFile {
    /// Reads the file from its first byte to its last. Where the server knows no ranges, a failure on the way cannot be mended by another
    /// try, since bytes were given out already: then the reader's user begins again. Reads fail when `stop` is set.
    pub(crate) fn reader<'a>(
        &self,
        ranges: bool,
        stop: &'a AtomicBool,
    ) -> Box<dyn Read + Send + 'a> {
        if ranges {
            Box::new(Parts {
                file: self.clone(),
                stop,
                next: 0,
                position: 0,
                ahead: std::collections::VecDeque::new(),
            })
        } else {
            Box::new(Whole {
                file: self.clone(),
                stop,
                stream: None,
                chunk: Vec::new(),
                used: 0,
                position: 0,
            })
        }
    }
}

/// By ranges, some of them ahead.
struct Parts<'a> {
    file: RemoteFile,
    stop: &'a AtomicBool,
    /// First byte that is not asked for yet.
    next: u64,
    position: u64,
    /// With the end of each.
    ahead: std::collections::VecDeque<(u64, Arc<Block>)>,
}

impl Read for Parts<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let size = self.file.size();
        while self.ahead.len() <= PARTS_AHEAD && self.next < size {
            let end = (self.next + PART).min(size);
            self.ahead
                .push_back((end, self.file.fetch_ahead(self.next..end)?));
            self.next = end;
        }
        let Some((end, block)) = self.ahead.front() else {
            return Ok(0);
        };
        let count = ((end - self.position) as usize).min(buffer.len());
        block
            .copy(&mut buffer[..count], self.position, self.stop)
            .map_err(unwanted)?;
        self.position += count as u64;
        if self.position == *end {
            self.ahead.pop_front();
        }
        Ok(count)
    }
}

/// `Interrupted` means to readers that they should read again.
fn unwanted(error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::Interrupted => io::Error::other("the loader is shutting down"),
        _ => error,
    }
}

type Chunks = BoxStream<'static, object_store::Result<Vec<u8>>>;

/// In one answer.
struct Whole<'a> {
    file: RemoteFile,
    stop: &'a AtomicBool,
    stream: Option<Chunks>,
    chunk: Vec<u8>,
    used: usize,
    position: u64,
}

impl Whole<'_> {
    fn next_chunk(&mut self) -> io::Result<bool> {
        let (file, stream) = (self.file.clone(), self.stream.take());
        let work = async move {
            let mut stream = match stream {
                Some(stream) => stream,
                None => file.remote.retrying(|| begin(&file)).await?,
            };
            let chunk = stream.next().await.transpose().map_err(Failure::from)?;
            Ok::<_, Failure>((stream, chunk))
        };
        let (stream, chunk) = self
            .file
            .remote
            .wait(work, self.stop)
            .map_err(unwanted)?
            .map_err(|failure| io::Error::other(failure.reason()))?;
        self.stream = Some(stream);
        self.used = 0;
        let more = chunk.is_some();
        self.chunk = chunk.unwrap_or_default();
        if !more && self.position != self.file.size() {
            let failure = cut_short(self.position, self.file.size());
            return Err(io::Error::other(failure.reason()));
        }
        Ok(more)
    }
}

async fn begin(file: &RemoteFile) -> std::result::Result<Chunks, Failure> {
    let got = file
        .location
        .store
        .get_opts(&file.location.path, GetOptions::default())
        .await?;
    file.check(&got)?;
    Ok(got
        .into_stream()
        .map(|chunk| chunk.map(|bytes| bytes.to_vec()))
        .boxed())
}

impl Read for Whole<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.used == self.chunk.len() {
            if !self.next_chunk()? {
                return Ok(0);
            }
        }
        let count = buffer.len().min(self.chunk.len() - self.used);
        buffer[..count].copy_from_slice(&self.chunk[self.used..self.used + count]);
        self.used += count;
        self.position += count as u64;
        Ok(count)
    }
}
