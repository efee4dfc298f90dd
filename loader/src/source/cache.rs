//! The bounded folder where compressed shards lie inflated, so that their members can be read by offset.
//!
//! An entry is named by the shard's absolute path, size and time of change, and appears under its name only when it is
//! whole. Entries stay for the next run; those of other datasets give way, the longest unused first. What a `pipe:`
//! gives is spooled into the same folder but never kept, since nothing tells whether the command would repeat it.

use std::collections::{HashSet, VecDeque};
use std::fs::{self, DirBuilder, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use flate2::read::MultiGzDecoder;
use sha2::{Digest, Sha256};

use super::{Encoding, Source};
use crate::error::{Error, Result};

/// A partial file untouched for so long belongs to a process that has died.
const ABANDONED: Duration = Duration::from_secs(3600);
const CHUNK: usize = 256 << 10;

/// The cache folder as one dataset sees it.
#[derive(Debug)]
pub struct ShardCache {
    dir: PathBuf,
    limit: u64,
    /// Bytes this dataset has put or found there.
    own: AtomicU64,
    /// Entries of other datasets, the longest unused first.
    foreign: Mutex<Foreign>,
    serial: AtomicU64,
}

#[derive(Debug, Default)]
struct Foreign {
    entries: VecDeque<(PathBuf, u64)>,
    bytes: u64,
}

impl ShardCache {
    /// The folder used where none is named: one for each user in the system's temporary folder.
    pub fn default_dir() -> PathBuf {
        let user = std::env::var("USER")
            .ok()
            .filter(|user| !user.is_empty() && !user.contains('/'));
        std::env::temp_dir().join(format!("mae-shards-{}", user.as_deref().unwrap_or("user")))
    }

    /// Opens the cache in `dir` for a dataset whose compressed shards are `shards`, with at most `limit` bytes in it.
    ///
    /// # Errors
    /// Where the folder cannot be created or read.
    pub fn open(dir: &Path, limit: u64, shards: &[&Path]) -> Result<Self> {
        // Only the owner may write: what lies here is taken for the shard's content.
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)
            .map_err(Error::io("create cache folder", dir))?;
        let own = shards
            .iter()
            .map(|path| entry_name(path))
            .collect::<Result<HashSet<_>>>()?;
        let foreign =
            Mutex::new(Foreign::list(dir, &own).map_err(Error::io("read cache folder", dir))?);
        Ok(Self {
            dir: dir.to_path_buf(),
            limit,
            own: AtomicU64::new(0),
            foreign,
            serial: AtomicU64::new(0),
        })
    }

    /// The gzip-compressed shard at `path`, inflated now or found inflated.
    ///
    /// # Errors
    /// Where the shard is damaged, the bound is reached, or the disk is full.
    pub fn inflated(&self, path: &Path, keep_open: bool) -> Result<Source> {
        let entry = self.dir.join(entry_name(path)?);
        if let Ok(source) = Source::open(&entry, keep_open) {
            self.reserve(source.size(), path)?;
            // Marks it as used. Failing to do so only makes it the next to go.
            let _ = File::options()
                .append(true)
                .open(&entry)
                .and_then(|f| f.set_modified(SystemTime::now()));
            return Ok(source);
        }
        tracing::info!("inflating {} into {}", path.display(), self.dir.display());
        let compressed = File::open(path).map_err(Error::io("open shard", path))?;
        let partial = Partial::create(self.partial_path(&entry))?;
        self.spool(
            MultiGzDecoder::new(io::BufReader::with_capacity(CHUNK, compressed)),
            &partial,
            path,
        )?;
        partial
            .file
            .sync_data()
            .map_err(Error::io("write", &partial.path))?;
        partial.publish(&entry)?;
        Source::open(&entry, keep_open)
    }

    /// What the shell command writes to its standard output, inflated where it is gzip.
    ///
    /// # Errors
    /// Where the command fails, or as for [`inflated`](Self::inflated).
    pub fn piped(&self, command: &str) -> Result<Source> {
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
            let whole = io::Cursor::new(head).chain(&mut output);
            let name = Path::new(command);
            match encoding {
                Encoding::Plain => self.spool(whole, &partial, name),
                Encoding::Gzip => self.spool(
                    MultiGzDecoder::new(io::BufReader::new(whole)),
                    &partial,
                    name,
                ),
            }
        })();
        // Closed before waiting: a command whose output nobody reads any more would wait forever.
        drop(output);
        let status = child.wait().map_err(|e| failed(e.to_string()))?;
        spooled?;
        if !status.success() {
            return Err(failed(format!("ended with {status}")));
        }
        let file = File::open(&partial.path).map_err(Error::io("open", &partial.path))?;
        // Dropping `partial` takes the name away; the open file stays readable.
        Source::from_file(file, &partial.path)
    }

    fn spool(&self, mut from: impl Read, to: &Partial, shard: &Path) -> Result<()> {
        let mut chunk = vec![0; CHUNK];
        let mut written = 0_u64;
        loop {
            let count = match from.read(&mut chunk) {
                Ok(0) => return Ok(()),
                Ok(count) => count,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => {
                    let shard = shard.display().to_string();
                    let reason = format!(
                        "the compressed data is cut off or damaged ({e}); copy or download it again"
                    );
                    return Err(Error::Shard {
                        shard,
                        offset: written,
                        reason,
                    });
                }
            };
            self.reserve(count as u64, shard)?;
            (&to.file).write_all(&chunk[..count]).map_err(Error::io(
                "write to the shard cache (--cache-dir)",
                &to.path,
            ))?;
            written += count as u64;
        }
    }

    /// Counts `bytes` more as this dataset's, making room where the folder is full of others'.
    fn reserve(&self, bytes: u64, shard: &Path) -> Result<()> {
        let own = self.own.fetch_add(bytes, Ordering::Relaxed) + bytes;
        if own > self.limit {
            let shard = shard.display().to_string();
            return Err(Error::CacheFull {
                shard,
                dir: self.dir.clone(),
                limit: self.limit,
            });
        }
        let mut foreign = self.foreign.lock().unwrap_or_else(PoisonError::into_inner);
        while own + foreign.bytes > self.limit {
            let Some((path, size)) = foreign.entries.pop_front() else {
                break;
            };
            tracing::debug!("removing {} from the shard cache", path.display());
            let _ = fs::remove_file(path);
            foreign.bytes -= size;
        }
        Ok(())
    }

    fn partial_path(&self, entry: &Path) -> PathBuf {
        let serial = self.serial.fetch_add(1, Ordering::Relaxed);
        let mut name = entry.file_name().unwrap_or_default().to_os_string();
        name.push(format!(".{}-{serial}.partial", std::process::id()));
        entry.with_file_name(name)
    }
}

impl Foreign {
    fn list(dir: &Path, own: &HashSet<String>) -> io::Result<Self> {
        let mut found = Vec::new();
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            let Ok(metadata) = entry.metadata() else {
                continue;
            };
            let name = entry.file_name().to_string_lossy().into_owned();
            let used = metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH);
            if name.ends_with(".partial") {
                if used.elapsed().is_ok_and(|age| age > ABANDONED) {
                    let _ = fs::remove_file(entry.path());
                }
            } else if is_entry_name(&name) && metadata.is_file() && !own.contains(&name) {
                found.push((used, entry.path(), metadata.len()));
            }
        }
        found.sort();
        let bytes = found.iter().map(|(_, _, size)| size).sum();
        Ok(Self {
            entries: found
                .into_iter()
                .map(|(_, path, size)| (path, size))
                .collect(),
            bytes,
        })
    }
}

/// `<32 hex digits>-<base name>`; changes with the file's place, size and time of change.
fn entry_name(path: &Path) -> Result<String> {
    let absolute = path.canonicalize().map_err(Error::io("find shard", path))?;
    let metadata = fs::metadata(&absolute).map_err(Error::io("read", path))?;
    let mut hash = Sha256::new();
    hash.update(absolute.as_os_str().as_encoded_bytes());
    for part in [
        metadata.size() as i64,
        metadata.mtime(),
        metadata.mtime_nsec(),
    ] {
        hash.update(part.to_le_bytes());
    }
    let hex: String = hash.finalize()[..16]
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    Ok(format!(
        "{hex}-{}",
        absolute.file_name().unwrap_or_default().to_string_lossy()
    ))
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
mod tests {
    use super::*;
    use crate::shard::testing::gzip;

    fn names(dir: &Path) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(dir)
            .unwrap()
            .map(|e| e.unwrap().file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }

    fn content(source: &Source) -> Vec<u8> {
        let mut bytes = vec![0; source.size() as usize];
        source.read_exact_at(&mut bytes, 0).unwrap();
        bytes
    }

    #[test]
    fn a_shard_is_inflated_once_and_again_when_it_changes() {
        let dir = tempfile::tempdir().unwrap();
        let (shard, cache) = (dir.path().join("a.tar.gz"), dir.path().join("cache"));
        fs::write(&shard, gzip(b"first content")).unwrap();
        let inflate = || {
            let cache = ShardCache::open(&cache, 1000, &[&shard]).unwrap();
            content(&cache.inflated(&shard, true).unwrap())
        };
        assert_eq!(inflate(), b"first content");
        let entry = cache.join(&names(&cache)[0]);
        assert!(names(&cache)[0].ends_with("-a.tar.gz"));
        fs::write(&entry, b"found in the cache").unwrap();
        assert_eq!(inflate(), b"found in the cache");

        fs::write(&shard, gzip(b"longer content than before")).unwrap();
        assert_eq!(inflate(), b"longer content than before");
    }

    #[test]
    fn the_bound_removes_what_others_left_and_then_refuses() {
        let dir = tempfile::tempdir().unwrap();
        let cache = dir.path().join("cache");
        let shard = |name: &str, size: usize| {
            let path = dir.path().join(name);
            fs::write(&path, gzip(&vec![b'x'; size])).unwrap();
            path
        };
        let (old, new) = (shard("old.tgz", 600), shard("new.tgz", 700));
        ShardCache::open(&cache, 1000, &[&old])
            .unwrap()
            .inflated(&old, true)
            .unwrap();
        fs::write(cache.join("not-ours"), [0; 5000]).unwrap();
        ShardCache::open(&cache, 1000, &[&new])
            .unwrap()
            .inflated(&new, true)
            .unwrap();
        let left = names(&cache);
        assert!(
            left.len() == 2
                && left.iter().any(|n| n.ends_with("new.tgz"))
                && left.contains(&"not-ours".into()),
            "{left:?}"
        );

        let both = ShardCache::open(&cache, 1000, &[&old, &new]).unwrap();
        both.inflated(&new, true).unwrap();
        let error = both.inflated(&old, true).unwrap_err();
        assert!(
            matches!(error, Error::CacheFull { limit: 1000, .. })
                && error.to_string().contains("--cache-bytes")
        );
        assert_eq!(names(&cache), left, "nothing partial is left");
    }

    #[test]
    fn damaged_gzip_names_the_shard() {
        let dir = tempfile::tempdir().unwrap();
        let shard = dir.path().join("a.tar.gz");
        let whole = gzip(&[b'y'; 5000]);
        fs::write(&shard, &whole[..whole.len() - 6]).unwrap();
        let cache = ShardCache::open(&dir.path().join("cache"), 1 << 20, &[&shard]).unwrap();
        let error = cache.inflated(&shard, true).unwrap_err().to_string();
        assert!(
            error.contains("a.tar.gz") && error.contains("cut off or damaged"),
            "{error}"
        );
        assert!(names(&dir.path().join("cache")).is_empty());
    }

    #[test]
    fn pipes_are_spooled_and_leave_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let shard = dir.path().join("a.gz");
        fs::write(&shard, gzip(b"from a pipe")).unwrap();
        let cache = ShardCache::open(&dir.path().join("cache"), 1000, &[]).unwrap();
        assert_eq!(content(&cache.piped("printf hello").unwrap()), b"hello");
        assert_eq!(
            content(&cache.piped(&format!("cat {}", shard.display())).unwrap()),
            b"from a pipe"
        );
        assert!(names(&dir.path().join("cache")).is_empty());
        assert!(
            cache
                .piped("printf x; exit 3")
                .unwrap_err()
                .to_string()
                .contains('3')
        );
        assert!(
            matches!(cache.piped("yes"), Err(Error::CacheFull { .. })),
            "an endless pipe ends at the bound"
        );
    }
}
