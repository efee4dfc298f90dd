//! A shard that is read from the cache folder, and put there when it is not: where it comes from, and the file as it is read.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{SystemTime, UNIX_EPOCH};

use sha2::{Digest, Sha256};

use super::{Encoding, ShardCache, check_header};
use crate::error::{Error, Result};
use crate::sample::Member;

/// How often an entry in use is marked as such, in seconds.
const MARK_EVERY: u64 = 60;

/// Where the shard stands as it was written.
#[derive(Debug, Clone)]
pub(crate) enum Stored {
    Local(PathBuf),
    #[cfg(feature = "remote")]
    Remote {
        file: super::RemoteFile,
        /// Whether the server gives parts of it.
        ranges: bool,
    },
}

/// What an entry of the cache is made of.
#[derive(Debug, Clone)]
pub(crate) struct Origin {
    /// As named by the spec.
    pub(crate) name: String,
    pub(crate) stored: Stored,
    pub(crate) encoding: Encoding,
}

impl Origin {
    /// The entry's name, `<32 hex digits>-<base name>`, which changes with the shard's place, size, and time of change or entity tag.
    pub(super) fn entry_name(&self) -> Result<String> {
        let mut hash = Sha256::new();
        let base_name = match &self.stored {
            Stored::Local(path) => {
                let absolute = path.canonicalize().map_err(Error::io("find shard", path))?;
                let metadata = fs::metadata(&absolute).map_err(Error::io("read", path))?;
                hash.update(absolute.as_os_str().as_encoded_bytes());
                for part in [
                    metadata.size() as i64,
                    metadata.mtime(),
                    metadata.mtime_nsec(),
                ] {
                    hash.update(part.to_le_bytes());
                }
                let name = absolute.file_name().unwrap_or_default();
                name.to_string_lossy().into_owned()
            }
            #[cfg(feature = "remote")]
            Stored::Remote { file, .. } => {
                hash.update(&self.name);
                hash.update([0]);
                hash.update(file.version());
                self.name.rsplit('/').next().unwrap_or_default().to_owned()
            }
        };
        let hex: String = hash.finalize()[..16]
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        // Names of files may not be longer than 255 bytes.
        let base_name: String = base_name.chars().rev().take(48).collect();
        let base_name: String = base_name.chars().rev().collect();
        Ok(format!("{hex}-{base_name}"))
    }

    /// The tar from its first byte on. Where it comes from a server, reads fail when `stop` is set.
    #[cfg_attr(not(feature = "remote"), allow(unused_variables))]
    pub(super) fn read<'a>(&self, stop: &'a AtomicBool) -> Result<Box<dyn Read + Send + 'a>> {
        let stored: Box<dyn Read + Send + 'a> = match &self.stored {
            Stored::Local(path) => {
                Box::new(File::open(path).map_err(Error::io("open shard", path))?)
            }
            #[cfg(feature = "remote")]
            Stored::Remote { file, ranges } => file.reader(*ranges, stop),
        };
        self.encoding
            .inflate(stored)
            .map_err(Error::io("inflate", Path::new(&self.name)))
    }

    /// How often reading it to the end may be tried.
    pub(super) fn tries(&self) -> u32 {
        match &self.stored {
            #[cfg(feature = "remote")]
            Stored::Remote {
                file,
                ranges: false,
            } => file.tries(),
            _ => 1,
        }
    }
}

/// A shard in the cache, or to be put there when it is first read.
#[derive(Debug)]
pub(crate) struct CachedFile {
    cache: Arc<ShardCache>,
    origin: Origin,
    entry: PathBuf,
    size: u64,
    /// Whether the file stays open.
    keep_open: bool,
    file: Arc<RwLock<Option<File>>>,
    /// What an index says of it, to be checked when it is there.
    headers: Vec<Member>,
    /// One thread at a time puts it there.
    making: Mutex<()>,
    /// When the entry was last marked as used, in seconds since 1970.
    marked: AtomicU64,
}

impl CachedFile {
    /// `size`: the tar's length, where an index says so; else the shard is put into the cache now, to learn it.
    pub(crate) fn open(
        cache: &Arc<ShardCache>,
        origin: Origin,
        size: Option<u64>,
        keep_open: bool,
    ) -> Result<Self> {
        let mut cached = Self {
            entry: cache.entry(&origin)?,
            cache: Arc::clone(cache),
            origin,
            size: size.unwrap_or(0),
            keep_open,
            file: Arc::default(),
            headers: Vec::new(),
            making: Mutex::default(),
            marked: AtomicU64::new(0),
        };
        if size.is_none() {
            let file = cached.at_hand(&AtomicBool::new(false))?;
            cached.size = file
                .metadata()
                .map_err(Error::io("read", &cached.entry))?
                .len();
            cached.keep(file);
        }
        Ok(cached)
    }

    /// Whether the headers in front of `members` fit: now where it is in the cache, else when it is.
    pub(super) fn check_headers(
        &mut self,
        members: Vec<Member>,
    ) -> std::result::Result<(), String> {
        match File::open(&self.entry) {
            Ok(file) => check_headers(&file, &members),
            Err(_) => {
                self.headers = members;
                Ok(())
            }
        }
    }

    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    pub(crate) fn read_exact_at(
        &self,
        buffer: &mut [u8],
        offset: u64,
        stop: &AtomicBool,
    ) -> io::Result<()> {
        self.mark();
        if let Some(file) = &*self.file.read().unwrap_or_else(PoisonError::into_inner) {
            return file.read_exact_at(buffer, offset);
        }
        let file = match File::open(&self.entry) {
            Ok(file) => file,
            Err(_) => self.make(stop)?,
        };
        file.read_exact_at(buffer, offset)?;
        self.keep(file);
        Ok(())
    }

    /// Puts the shard into the cache, unless another thread or process has.
    fn make(&self, stop: &AtomicBool) -> io::Result<File> {
        let file = self.at_hand(stop).map_err(|error| match error {
            Error::Io { reason, .. } if reason.kind() == io::ErrorKind::Interrupted => reason,
            other => io::Error::other(other.to_string()),
        })?;
        let size = file.metadata()?.len();
        let fits = if size == self.size {
            check_headers(&file, &self.headers)
        } else {
            Err(format!("it holds {size} bytes, not {}", self.size))
        };
        match fits {
            Ok(()) => Ok(file),
            Err(reason) => Err(io::Error::other(format!(
                "the shard does not fit its index ({reason}); run `mae index`"
            ))),
        }
    }

    fn at_hand(&self, stop: &AtomicBool) -> Result<File> {
        let _one_at_a_time = self.making.lock().unwrap_or_else(PoisonError::into_inner);
        self.cache.file(&self.origin, &self.entry, stop)
    }

    fn keep(&self, file: File) {
        if !self.keep_open {
            return;
        }
        *self.file.write().unwrap_or_else(PoisonError::into_inner) = Some(file);
        self.cache.kept_open(&self.entry, &self.file);
        // Removed meanwhile: open it would hold its place on the disk, where nobody counts it.
        if !self.entry.exists() {
            *self.file.write().unwrap_or_else(PoisonError::into_inner) = None;
        }
    }

    /// Tells other processes that the entry is in use. Failing to do so only makes it go earlier.
    fn mark(&self) {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |now| now.as_secs());
        let before = self.marked.load(Ordering::Relaxed);
        if now >= before + MARK_EVERY
            && self
                .marked
                .compare_exchange(before, now, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok()
        {
            super::cache::mark_used(&self.entry);
        }
    }
}

fn check_headers(file: &File, members: &[Member]) -> std::result::Result<(), String> {
    members
        .iter()
        .try_for_each(|member| check_header(member, |header, at| file.read_exact_at(header, at)))
}
