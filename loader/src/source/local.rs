//! Positioned reads from a local file, from many threads without a lock.

use std::fs::File;
use std::io;
use std::num::NonZeroU64;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// A local file of fixed length, read by offset.
///
/// Large datasets have more shards than a process may have open files (often 1,024), so one either keeps its file
/// open or opens it for each read: a few microseconds, against milliseconds for decoding the image.
#[derive(Debug)]
pub(crate) struct LocalFile {
    path: PathBuf,
    size: u64,
    file: Option<File>,
}

impl LocalFile {
    /// Opens the file at `path`, to keep it open or not.
    ///
    /// # Errors
    /// Where the file cannot be opened or is not a regular file.
    pub(crate) fn open(path: &Path, keep_open: bool) -> Result<Self> {
        let file = File::open(path).map_err(Error::io("open", path))?;
        let metadata = file.metadata().map_err(Error::io("read", path))?;
        if !metadata.is_file() {
            let reason = io::Error::other("not a regular file");
            return Err(Error::Io {
                action: "open",
                path: path.to_path_buf(),
                reason,
            });
        }
        Ok(Self {
            path: path.to_path_buf(),
            size: metadata.len(),
            file: keep_open.then_some(file),
        })
    }

    /// One over a file that may have no name any more.
    pub(crate) fn from_file(file: File, path: &Path) -> Result<Self> {
        let size = file.metadata().map_err(Error::io("read", path))?.len();
        Ok(Self {
            path: path.to_path_buf(),
            size,
            file: Some(file),
        })
    }

    /// Length in bytes when it was opened.
    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    /// Asks the system to fetch these bytes ahead of their being read (`posix_fadvise`). Nothing fails: it is a hint, and a file that
    /// is opened for each read is not opened for it.
    pub(crate) fn will_need(&self, offset: u64, length: u64) {
        if let (Some(file), length @ Some(_)) = (&self.file, NonZeroU64::new(length)) {
            let _ = rustix::fs::fadvise(file, offset, length, rustix::fs::Advice::WillNeed);
        }
    }

    /// Fills `buffer` from `offset` on.
    ///
    /// # Errors
    /// The system's, and `UnexpectedEof` where the file ends before.
    pub(crate) fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        match &self.file {
            Some(file) => file.read_exact_at(buffer, offset),
            None => File::open(&self.path)?.read_exact_at(buffer, offset),
        }
    }
}
