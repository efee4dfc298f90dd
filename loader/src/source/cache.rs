//! The bounded folder where shards lie whole and inflated that cannot be read by offset where they are, or are to be kept from a server.
//!
//! An entry is named after the shard's place, size and version ([`Origin`]), and appears under its name only when it is whole: after a crash
//! there is at most a partial file, which the next process to come by removes after an hour. Entries stay for the next run. When the
//! folder is full the longest unused ones go, whoever put them there; a process that has one of them open reads on, and one that
//! comes back to it fetches it again. What a `pipe:` gives is spooled into the same folder but never kept, since nothing tells
//! whether the command would repeat it.

use std::collections::HashMap;
use std::fs::{self, DirBuilder, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError, RwLock, Weak};
use std::time::{Duration, Instant, SystemTime};

use super::{Encoding, LocalFile, Origin};
use crate::error::{Error, Result};

/// A partial file untouched for so long belongs to a process that has died.
const ABANDONED: Duration = Duration::from_secs(3600);
const CHUNK: usize = 256 << 10;
/// How much is written between two looks at the folder's size.
const RESERVED: u64 = 64 << 20;
/// For others to finish, where the folder does not hold at once what is being put there.
const LONGEST_WAIT: Duration = Duration::from_secs(600);
const POLL: Duration = Duration::from_millis(20);

/// The cache folder as one dataset sees it.
#[derive(Debug)]
pub struct ShardCache {
    dir: PathBuf,
    limit: u64,
    /// Bytes of pipes, which cannot be had again.
    pinned: AtomicU64,
    /// Held while room is made.
    room: Mutex<()>,
    /// Held by whoever found the folder too full for several at a time.
    turn: Mutex<()>,
    /// Entries that this dataset keeps open, to be closed when they go.
    open: Mutex<HashMap<PathBuf, Weak<RwLock<Option<File>>>>>,
}

/// Numbers the partial files of this process, which may have several caches in one folder.
static SERIAL: AtomicU64 = AtomicU64::new(0);

/// Why a shard was not put into the folder.
enum NotSpooled {
    /// It would fit but for others that are being put there now, here or by other processes.
    Crowded,
    Failed(Error),
}

impl From<Error> for NotSpooled {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

impl ShardCache {
    /// The folder used where none is named: one for each user in the system's temporary folder.
    pub fn default_dir() -> PathBuf {
        let user = std::env::var("USER")
            .ok()
            .filter(|user| !user.is_empty() && !user.contains('/'));
        std::env::temp_dir().join(format!("mae-shards-{}", user.as_deref().unwrap_or("user")))
    }

    /// Opens the cache in `dir`, with at most `limit` bytes in it.
    ///
    /// # Errors
    /// Where the folder cannot be created or read.
    pub fn open(dir: &Path, limit: u64) -> Result<Self> {
        // Only the owner may write: what lies here is taken for the shard's content.
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)
            .map_err(Error::io("create cache folder", dir))?;
        let cache = Self {
            dir: dir.to_path_buf(),
            limit,
            pinned: AtomicU64::new(0),
            room: Mutex::default(),
            turn: Mutex::default(),
            open: Mutex::default(),
        };
        cache.list().map_err(Error::io("read cache folder", dir))?;
        Ok(cache)
    }

    /// Where the shard lies when it is in the cache.
    pub(super) fn entry(&self, origin: &Origin) -> Result<PathBuf> {
        Ok(self.dir.join(origin.entry_name()?))
    }

    /// The shard's tar, found in the cache or put there now. `stop`: whether nobody wants it any more.
    pub(super) fn file(&self, origin: &Origin, entry: &Path, stop: &AtomicBool) -> Result<File> {
        let (mut tried, mut crowded) = (0, 0);
        let mut turn = None;
        let until = Instant::now() + LONGEST_WAIT;
        loop {
            if let Ok(file) = File::open(entry) {
                mark_used(entry);
                return Ok(file);
            }
            match self.fetch(origin, entry, stop) {
                // Then it is done one after the other.
                Err(NotSpooled::Crowded) if Instant::now() < until => {
                    turn.get_or_insert_with(|| {
                        self.turn.lock().unwrap_or_else(PoisonError::into_inner)
                    });
                    crowded += 1;
                    self.wait_for_others(crowded, until, stop);
                }
                Err(NotSpooled::Failed(error @ Error::Shard { .. }))
                    if tried + 1 < origin.tries() && !stop.load(Ordering::Relaxed) =>
                {
                    tried += 1;
                    tracing::warn!("{error}; trying again");
                }
                Ok(file) => return Ok(file),
                Err(NotSpooled::Failed(error)) => return Err(error),
                Err(NotSpooled::Crowded) => return Err(self.full(&origin.name)),
            }
        }
    }

    fn full(&self, shard: &str) -> Error {
        Error::CacheFull {
            shard: shard.to_owned(),
            dir: self.dir.clone(),
            limit: self.limit,
        }
    }

    fn fetch(
        &self,
        origin: &Origin,
        entry: &Path,
        stop: &AtomicBool,
    ) -> std::result::Result<File, NotSpooled> {
        let doing = match origin.encoding {
            Encoding::Plain => "copying",
            _ => "inflating",
        };
        tracing::info!("{doing} {} into {}", origin.name, self.dir.display());
        let partial = Partial::create(self.partial_path(entry))?;
        self.spool(origin.read(stop)?, &partial, &origin.name, stop)?;
        partial
            .file
            .sync_data()
            .map_err(Error::io("write", &partial.path))?;
        let file = File::open(&partial.path).map_err(Error::io("open", &partial.path))?;
        partial.publish(entry)?;
        Ok(file)
    }

    /// Waits until nothing else is being put there, or for a while; after that for a moment which differs between those who wait, and
    /// grows with the `number` of times, so that not all of them begin again together.
    fn wait_for_others(&self, number: u32, until: Instant, stop: &AtomicBool) {
        let wanted = || !stop.load(Ordering::Relaxed);
        let busy = || {
            self.list()
                .is_ok_and(|found| found.iter().any(|entry| !entry.whole))
        };
        while wanted() && busy() && Instant::now() < until {
            std::thread::sleep(POLL);
        }
        let one = u64::from(std::process::id()) ^ SERIAL.fetch_add(1, Ordering::Relaxed) << 20;
        let part = (one.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 48) as u32;
        std::thread::sleep(POLL * number.min(16) * part / (1 << 16));
    }

    /// Notes that an entry is kept open.
    pub(super) fn kept_open(&self, entry: &Path, file: &std::sync::Arc<RwLock<Option<File>>>) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.insert(entry.to_path_buf(), std::sync::Arc::downgrade(file));
    }

    /// What the shell command writes to its standard output, inflated.
    ///
    /// # Errors
    /// Where the command fails, its output is cut off or damaged, the bound is reached, or the disk is full.
    pub(crate) fn piped(&self, command: &str) -> Result<LocalFile> {
        let failed = |reason: String| Error::Pipe {
            command: command.to_owned(),
            reason,
        };
        let mut child = Command::new("/bin/sh")
            .args(["-c", command])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|e| failed(e.to_string()))?;
        let mut output = child
            .stdout
            .take()
            .ok_or_else(|| failed("has no standard output".into()))?;

        let partial = Partial::create(self.partial_path(&self.dir.join("pipe")))?;
        let spooled = (|| {
            let mut head = Vec::new();
            Read::by_ref(&mut output)
                .take(8)
                .read_to_end(&mut head)
                .map_err(|e| failed(e.to_string()))?;
            let encoding = Encoding::sniff(&head).map_err(|kind| {
                failed(format!(
                    "gives {kind}, which is not supported: add `| {kind} -dc`"
                ))
            })?;
            let whole = encoding
                .inflate(io::Cursor::new(head).chain(&mut output))
                .map_err(|e| failed(e.to_string()))?;
            self.spool(whole, &partial, command, &AtomicBool::new(false))
                .map_err(|error| match error {
                    NotSpooled::Crowded => self.full(command),
                    NotSpooled::Failed(error) => error,
                })
        })();
        // Closed before waiting: a command whose output nobody reads any more would wait forever.
        drop(output);
        let status = child.wait().map_err(|e| failed(e.to_string()))?;
        let bytes = spooled?;
        if !status.success() {
            return Err(failed(format!("ended with {status}")));
        }
        self.pinned.fetch_add(bytes, Ordering::Relaxed);
        let file = File::open(&partial.path).map_err(Error::io("open", &partial.path))?;
        // Dropping `partial` takes the name away; the open file stays readable.
        LocalFile::from_file(file, &partial.path)
    }

    /// Writes all of `from` and returns how much that was.
    fn spool(
        &self,
        mut from: impl Read,
        to: &Partial,
        shard: &str,
        stop: &AtomicBool,
    ) -> std::result::Result<u64, NotSpooled> {
        let mut chunk = vec![0; CHUNK];
        let (mut written, mut reserved) = (0_u64, 0_u64);
        loop {
            if stop.load(Ordering::Relaxed) {
                let gone = io::ErrorKind::Interrupted.into();
                return Err(Error::io("read", Path::new(shard))(gone).into());
            }
            let count = match from.read(&mut chunk) {
                Ok(0) => {
                    to.file
                        .set_len(written)
                        .map_err(Error::io("write", &to.path))?;
                    return Ok(written);
                }
                Ok(count) => count,
                Err(e)
                    if e.kind() == io::ErrorKind::Interrupted || stop.load(Ordering::Relaxed) =>
                {
                    continue;
                }
                Err(e) => {
                    return Err(Error::Shard {
                        shard: shard.to_owned(),
                        offset: written,
                        reason: format!(
                            "the data is cut off or damaged ({e}); copy or download it again"
                        ),
                    }
                    .into());
                }
            };
            if written + count as u64 > reserved {
                reserved = written + (count as u64).max(RESERVED.min(self.limit / 16));
                self.make_room(to, reserved, shard)?;
            }
            (&to.file)
                .write_all(&chunk[..count])
                .map_err(Error::io("write to the shard cache (--cache)", &to.path))?;
            written += count as u64;
        }
    }

    /// Sees to it that the folder is not over its bound when `partial` has `bytes`, which it is long from now on, so that all who look at
    /// the folder see it.
    fn make_room(
        &self,
        partial: &Partial,
        bytes: u64,
        shard: &str,
    ) -> std::result::Result<(), NotSpooled> {
        let _alone = self.room.lock().unwrap_or_else(PoisonError::into_inner);
        partial
            .file
            .set_len(bytes)
            .map_err(Error::io("write", &partial.path))?;
        let found = self
            .list()
            .map_err(Error::io("read cache folder", &self.dir))?;
        let held: u64 = found.iter().map(|entry| entry.bytes).sum();
        let pinned = self.pinned.load(Ordering::Relaxed);
        let mut total = held + pinned;
        for entry in found.iter().filter(|entry| entry.whole) {
            if total <= self.limit {
                break;
            }
            tracing::debug!("removing {} from the shard cache", entry.path.display());
            let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(file) = open.remove(&entry.path).and_then(|file| file.upgrade()) {
                *file.write().unwrap_or_else(PoisonError::into_inner) = None;
            }
            drop(open);
            let _ = fs::remove_file(&entry.path);
            total -= entry.bytes;
        }
        match total > self.limit {
            false => Ok(()),
            true if bytes + pinned <= self.limit => Err(NotSpooled::Crowded),
            true => Err(self.full(shard).into()),
        }
    }

    /// The files that are ours, the longest unused first. Removes what a dead process left.
    fn list(&self) -> io::Result<Vec<Entry>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.dir)? {
            let entry = entry?;
            let Ok(metadata) = entry.metadata() else {
                continue;
            };
            let name = entry.file_name().to_string_lossy().into_owned();
            let used = metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH);
            let whole = !name.ends_with(".partial");
            if !whole && used.elapsed().is_ok_and(|age| age > ABANDONED) {
                let _ = fs::remove_file(entry.path());
            } else if metadata.is_file() && (!whole || is_entry_name(&name)) {
                found.push(Entry {
                    used,
                    path: entry.path(),
                    bytes: metadata.len(),
                    whole,
                });
            }
        }
        found.sort_by(|a, b| (a.used, &a.path).cmp(&(b.used, &b.path)));
        Ok(found)
    }

    fn partial_path(&self, entry: &Path) -> PathBuf {
        let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
        let mut name = entry.file_name().unwrap_or_default().to_os_string();
        name.push(format!(".{}-{serial}.partial", std::process::id()));
        entry.with_file_name(name)
    }
}

/// A file in the folder.
#[derive(Debug)]
struct Entry {
    used: SystemTime,
    path: PathBuf,
    bytes: u64,
    whole: bool,
}

/// Marks an entry as used now.
pub(super) fn mark_used(entry: &Path) {
    let _ = File::options()
        .append(true)
        .open(entry)
        .and_then(|file| file.set_modified(SystemTime::now()));
}

/// Only files named as ours are ever removed: the folder may be anything the user names.
fn is_entry_name(name: &str) -> bool {
    name.split_once('-')
        .is_some_and(|(hex, _)| hex.len() == 32 && hex.bytes().all(|b| b.is_ascii_hexdigit()))
}

/// A file under a name of its own, gone when dropped unless published.
#[derive(Debug)]
struct Partial {
    path: PathBuf,
    file: File,
}

impl Partial {
    fn create(path: PathBuf) -> Result<Self> {
        let file = File::options()
            .write(true)
            .create_new(true)
            .open(&path)
            .map_err(Error::io("create", &path))?;
        Ok(Self { path, file })
    }

    fn publish(self, to: &Path) -> Result<()> {
        fs::rename(&self.path, to).map_err(Error::io("rename", &self.path))
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests;
