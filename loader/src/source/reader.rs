//! A source from start to end, skipping cheaply; for the header scan.

use std::io;

use super::Source;

/// Read of a server at once: headers lie as far apart as images are long, so nearly all would be read anyway.
const REMOTE_CHUNK: u64 = 8 << 20;

#[derive(Debug)]
pub(crate) struct SourceReader<'a> {
    source: &'a Source,
    position: u64,
    /// Read of a server, and where that begins.
    chunk: Vec<u8>,
    chunk_start: u64,
}

impl<'a> SourceReader<'a> {
    pub(crate) fn new(source: &'a Source) -> Self {
        Self {
            source,
            position: 0,
            chunk: Vec::new(),
            chunk_start: 0,
        }
    }
}

impl io::Read for SourceReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.source.size().saturating_sub(self.position);
        let take = buffer
            .len()
            .min(usize::try_from(left).unwrap_or(usize::MAX));
        if take == 0 {
            return Ok(0);
        }
        if !self.source.reads_in_chunks() {
            self.source
                .read_exact_at(&mut buffer[..take], self.position)?;
            self.position += take as u64;
            return Ok(take);
        }
        let chunk_end = self.chunk_start + self.chunk.len() as u64;
        if !(self.chunk_start..chunk_end).contains(&self.position) {
            self.chunk.resize(REMOTE_CHUNK.min(left) as usize, 0);
            self.chunk_start = self.position;
            self.source.read_exact_at(&mut self.chunk, self.position)?;
        }
        let chunk = &self.chunk[(self.position - self.chunk_start) as usize..];
        let take = take.min(chunk.len());
        buffer[..take].copy_from_slice(&chunk[..take]);
        self.position += take as u64;
        Ok(take)
    }
}

impl io::Seek for SourceReader<'_> {
    fn seek(&mut self, to: io::SeekFrom) -> io::Result<u64> {
        let target = match to {
            io::SeekFrom::Start(offset) => Some(offset),
            io::SeekFrom::Current(delta) => self.position.checked_add_signed(delta),
            io::SeekFrom::End(delta) => self.source.size().checked_add_signed(delta),
        };
        self.position = target.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
        Ok(self.position)
    }
}
