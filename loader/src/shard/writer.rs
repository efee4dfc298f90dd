//! Writes samples to shards.
//!
//! The same samples give the same bytes: members carry a fixed owner and time. Which folder the files are for and when
//! they get their names is the subject of [`ShardTarget`].

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use md5::{Digest, Md5};
use webdataset::core::utils::{base_plus_ext, is_shard_metadata};
use webdataset::core::{Sample, Value};
use webdataset::shard::{Compression, TarWriter};

use super::index::{IndexEntry, IndexShard};
use super::publish::{FinishedShard, ShardTarget, Temporary, Written, partial_path};
use super::scan::scan;
use crate::error::{Error, Result};
use crate::source::{LocalFile, Source};

/// When a shard is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Samples in a shard.
    pub max_count: u64,
    /// Bytes of data in a shard; the sample that passes it is the shard's last, as in Python's `ShardWriter`.
    pub max_bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_count: 10_000,
            max_bytes: 3_000_000_000,
        }
    }
}

/// One shard being written. Dropped before [`finish`](Self::finish), it leaves nothing.
pub struct ShardFile {
    dir: PathBuf,
    name: String,
    temporary: Temporary,
    sink: Arc<Mutex<Sink>>,
    tar: TarWriter,
    last_key: Option<String>,
    count: u64,
    bytes: u64,
}

impl ShardFile {
    pub(super) fn create(dir: &Path, name: String) -> Result<Self> {
        let temporary = Temporary(partial_path(dir, &name));
        let file = File::create(&temporary.0).map_err(Error::io("create", &temporary.0))?;
        let sink = Arc::new(Mutex::new(Sink {
            file: BufWriter::with_capacity(256 << 10, file),
            md5: Md5::new(),
            failed: None,
        }));
        let tar = TarWriter::new(Box::new(Shared(Arc::clone(&sink))), Compression::None)
            .map_err(|e| Error::Write {
                dir: dir.to_path_buf(),
                reason: e.to_string(),
            })?
            .with_mtime(Some(0));
        let dir = dir.to_path_buf();
        Ok(Self {
            dir,
            name,
            temporary,
            sink,
            tar,
            last_key: None,
            count: 0,
            bytes: 0,
        })
    }

    /// Appends a sample: its key, and each member's suffix and bytes. Members are stored in order of suffix.
    ///
    /// # Errors
    /// Where readers would not see the key, the suffixes or the sample as they are given, or writing fails.
    pub fn write(&mut self, key: &str, members: &[(&str, &[u8])]) -> Result<()> {
        check_names(key, members).map_err(|reason| self.failed(reason))?;
        if self.last_key.as_deref() == Some(key) {
            return Err(self.failed(format!(
                "two samples in a row have the key `{key}`; readers would take them for one"
            )));
        }
        let mut sample = Sample::with_key(key);
        for (suffix, bytes) in members {
            sample.insert(*suffix, Value::Bytes(bytes.to_vec().into()));
        }
        self.bytes += self
            .tar
            .write(&sample)
            .map_err(|e| self.failed(self.not_written().unwrap_or_else(|| e.to_string())))?;
        self.count += 1;
        self.last_key = Some(key.to_owned());
        Ok(())
    }

    /// The disk's reason, where it refused a write.
    fn not_written(&self) -> Option<String> {
        lock(&self.sink).failed.as_deref().map(refused)
    }

    /// Samples written so far.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Bytes of data written so far, without headers.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Completes the file, puts it on the disk and reads its headers back for the index.
    ///
    /// # Errors
    /// Where writing fails, or what is read back is not what was written.
    pub fn finish(self) -> Result<FinishedShard> {
        let Self {
            dir,
            name,
            temporary,
            sink,
            tar,
            count,
            ..
        } = self;
        let failed = |reason: String| Error::Write {
            dir: dir.clone(),
            reason: format!("{name}: {reason}"),
        };
        tar.close().map_err(|e| failed(e.to_string()))?;
        let sink =
            Arc::into_inner(sink).ok_or_else(|| failed("the tar is still being written".into()))?;
        let Sink {
            file,
            md5,
            failed: error,
        } = sink.into_inner().unwrap_or_else(PoisonError::into_inner);
        if let Some(error) = error {
            return Err(failed(refused(&error)));
        }
        let file = file
            .into_inner()
            .map_err(|e| failed(refused(&e.to_string())))?;
        file.sync_all()
            .map_err(|e| failed(refused(&e.to_string())))?;

        let source: Source = LocalFile::from_file(
            File::open(&temporary.0).map_err(Error::io("open", &temporary.0))?,
            &temporary.0,
        )?
        .into();
        let table = scan(&source, &name)?.table;
        if table.len() as u64 != count {
            return Err(failed(format!(
                "holds {} samples after {count} were written",
                table.len()
            )));
        }
        let entry = IndexEntry {
            url: name.clone(),
            md5sum: Some(hex(&md5.finalize())),
            nsamples: count,
            filesize: source.size(),
            prepared: None,
            members: Some(IndexShard::new(&table, source.size())),
        };
        Ok(FinishedShard { temporary, entry })
    }

    fn failed(&self, reason: String) -> Error {
        Error::Write {
            dir: self.dir.clone(),
            reason: format!("{}: {reason}", self.name),
        }
    }
}

/// Writes samples to numbered shards, one after the other.
///
/// ```no_run
/// # fn main() -> mae_loader::Result<()> {
/// # let jpeg: Vec<u8> = Vec::new();
/// use mae_loader::shard::{Limits, ShardTarget, ShardWriter};
///
/// let pattern = "train-%06d.tar".parse().expect("a pattern");
/// let target = ShardTarget::prepare("data".as_ref(), pattern, false)?;
/// let mut writer = ShardWriter::new(target, Limits::default());
/// writer.write("000000", &[("jpg", jpeg.as_slice()), ("cls", b"3")])?;
/// writer.finish(None)?;
/// # Ok(())
/// # }
/// ```
pub struct ShardWriter {
    target: ShardTarget,
    limits: Limits,
    current: Option<ShardFile>,
    finished: Vec<FinishedShard>,
}

impl ShardWriter {
    /// A writer that begins at shard 0.
    pub fn new(target: ShardTarget, limits: Limits) -> Self {
        Self {
            target,
            limits,
            current: None,
            finished: Vec::new(),
        }
    }

    /// Appends a sample, beginning a new shard where the last is full. See [`ShardFile::write`].
    ///
    /// # Errors
    /// As for [`ShardFile::write`].
    pub fn write(&mut self, key: &str, members: &[(&str, &[u8])]) -> Result<()> {
        let full = |s: &ShardFile| {
            s.count() >= self.limits.max_count || s.bytes() >= self.limits.max_bytes
        };
        if let Some(shard) = self.current.take_if(|shard| full(shard)) {
            self.finished.push(shard.finish()?);
        }
        let current = match &mut self.current {
            Some(current) => current,
            none => none.insert(self.target.shard(self.finished.len() as u64)?),
        };
        current.write(key, members)
    }

    /// Completes the last shard and publishes all of them, with `classes` as the names of the class indices in `.cls`.
    ///
    /// # Errors
    /// As for [`ShardFile::finish`] and [`ShardTarget::publish`].
    pub fn finish(mut self, classes: Option<&[String]>) -> Result<Written> {
        if let Some(last) = self.current.take() {
            self.finished.push(last.finish()?);
        }
        self.target.publish(self.finished, classes)
    }
}

/// Whether a reader would get back the key and the suffixes.
fn check_names(key: &str, members: &[(&str, &[u8])]) -> std::result::Result<(), String> {
    if members.is_empty() {
        return Err(format!("sample `{key}` has no members"));
    }
    for (place, (suffix, _)) in members.iter().enumerate() {
        let name = format!("{key}.{suffix}");
        let plain = !suffix.starts_with(['_', '.'])
            && !suffix.contains('/')
            && *suffix == suffix.to_lowercase();
        if suffix.is_empty() || !plain {
            return Err(format!(
                "`{suffix}` cannot be a suffix: it is lower-case text without a slash"
            ));
        }
        let odd_path =
            key.starts_with('/') || key.contains('\0') || key.split('/').any(|part| part == "..");
        if odd_path || base_plus_ext(&name) != Some((key, *suffix)) || is_shard_metadata(&name) {
            return Err(format!(
                "`{key}` cannot be a key: it is a relative path without a dot in its last part or `__` around its first"
            ));
        }
        if members[..place].iter().any(|(before, _)| before == suffix) {
            return Err(format!("sample `{key}` has two members .{suffix}"));
        }
    }
    Ok(())
}

struct Sink {
    file: BufWriter<File>,
    md5: Md5,
    /// The first error. What comes after it is dropped, so that a tar given up says no more.
    failed: Option<String>,
}

/// The tar writer owns its output; sharing it gives the file and the checksum back at the end.
struct Shared(Arc<Mutex<Sink>>);

impl Write for Shared {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut sink = lock(&self.0);
        if sink.failed.is_some() {
            return Ok(bytes.len());
        }
        let count = sink
            .file
            .write(bytes)
            .inspect_err(|e| sink.failed = Some(e.to_string()))?;
        sink.md5.update(&bytes[..count]);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        let mut sink = lock(&self.0);
        if sink.failed.is_some() {
            return Ok(());
        }
        sink.file
            .flush()
            .inspect_err(|e| sink.failed = Some(e.to_string()))
    }
}

fn refused(reason: &str) -> String {
    format!("cannot write: {reason}; no shard was published; put that right and run again")
}

fn lock(sink: &Mutex<Sink>) -> MutexGuard<'_, Sink> {
    sink.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests;
