//! Where shards go: the folder they are published to, all together and under their names only when they are whole.
//!
//! A run that is interrupted leaves no shard at all, only files that the next run clears away.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use super::index::{INDEX_FILE, Index, IndexEntry, Prepared};
use super::pattern::ShardPattern;
use super::writer::ShardFile;
use crate::classes::CLASSES_FILE;
use crate::error::{Error, Result};

/// What was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Written {
    /// Shards.
    pub shards: usize,
    /// Samples in them.
    pub samples: u64,
    /// Bytes of the shards.
    pub bytes: u64,
}

/// Where shards go and under which names; the part that all writers of one set share.
#[derive(Debug, Clone)]
pub struct ShardTarget {
    dir: PathBuf,
    pattern: ShardPattern,
    overwrite: bool,
    prepared: Option<Prepared>,
}

impl ShardTarget {
    /// Creates the folder, and clears away what an interrupted run of the same pattern left. With `overwrite`,
    /// finished shards of the pattern are replaced when the new ones are published.
    ///
    /// # Errors
    /// Where there are finished shards already and `overwrite` is false, or the folder cannot be written to.
    pub fn prepare(dir: &Path, pattern: ShardPattern, overwrite: bool) -> Result<Self> {
        fs::create_dir_all(dir).map_err(Error::io("create folder", dir))?;
        let target = Self {
            dir: dir.to_path_buf(),
            pattern,
            overwrite,
            prepared: None,
        };
        let finished = target.finished()?;
        if let (Some(first), false) = (finished.first(), overwrite) {
            return Err(target.failed(format!(
                "{first} and {} more are there already; choose another folder or --pattern, or replace them with --overwrite",
                finished.len() - 1
            )));
        }
        for name in target.names()? {
            if name
                .strip_prefix('.')
                .and_then(|name| name.strip_suffix(PARTIAL))
                .is_some_and(|n| target.pattern.matches(n))
            {
                let path = dir.join(name);
                fs::remove_file(&path).map_err(Error::io("remove", &path))?;
            }
        }
        Ok(target)
    }

    /// The same folder and pattern for a process that writes some of the shards, where another has prepared the folder, takes
    /// them over and publishes them.
    pub fn joined(dir: &Path, pattern: ShardPattern) -> Self {
        Self {
            dir: dir.to_path_buf(),
            pattern,
            overwrite: false,
            prepared: None,
        }
    }

    /// A shard that another process finished in this folder, by its entry of the index.
    ///
    /// # Errors
    /// Where there is no such file, or it is not as long as the entry says.
    pub fn take_over(&self, entry: IndexEntry) -> Result<FinishedShard> {
        if !self.pattern.matches(&entry.url) {
            return Err(self.failed(format!("`{}` is no shard of {}", entry.url, self.pattern)));
        }
        let path = partial_path(&self.dir, &entry.url);
        let found = fs::metadata(&path).map_err(Error::io("find", &path))?.len();
        if found != entry.filesize {
            return Err(self.failed(format!(
                "{} has {found} bytes, where {} were written to it",
                path.display(),
                entry.filesize
            )));
        }
        Ok(FinishedShard {
            temporary: Temporary(path),
            entry,
        })
    }

    /// Has the index say that the images were made smaller, and how.
    pub fn prepared(mut self, prepared: Option<Prepared>) -> Self {
        self.prepared = prepared;
        self
    }

    /// Begins shard `number`. Shards of one target may be written at the same time.
    ///
    /// # Errors
    /// Where the file cannot be created.
    pub fn shard(&self, number: u64) -> Result<ShardFile> {
        ShardFile::create(&self.dir, self.pattern.name(number))
    }

    /// Gives finished shards their names, after `classes.json` and `index.json` are in place: a reader that finds fewer
    /// shards than the index lists knows that something is missing.
    ///
    /// # Errors
    /// Where there is nothing to publish, a class list that belongs to other shards differs, or renaming fails.
    pub fn publish(
        &self,
        shards: Vec<FinishedShard>,
        classes: Option<&[String]>,
    ) -> Result<Written> {
        let samples = shards.iter().map(|shard| shard.entry.nsamples).sum();
        let bytes = shards.iter().map(|shard| shard.entry.filesize).sum();
        if samples == 0 {
            return Err(self.failed("there are no samples to write".into()));
        }
        let old = self.finished()?;
        if !old.is_empty() && !self.overwrite {
            return Err(self.failed(format!(
                "{} has appeared meanwhile; nothing was replaced",
                old[0]
            )));
        }
        let index_path = self.dir.join(INDEX_FILE);
        let mut index = Index::read(&index_path)?.unwrap_or_default();
        index
            .shardlist
            .retain(|entry| !self.pattern.matches(&entry.url));
        self.check_classes(classes, !index.shardlist.is_empty())?;

        for name in &old {
            let path = self.dir.join(name);
            fs::remove_file(&path).map_err(Error::io("remove", &path))?;
        }
        match classes {
            Some(classes) => {
                write_whole(&self.dir.join(CLASSES_FILE), &to_json(&self.dir, classes)?)?
            }
            None if index.shardlist.is_empty() => {
                match fs::remove_file(self.dir.join(CLASSES_FILE)) {
                    Err(e) if e.kind() != io::ErrorKind::NotFound => {
                        return Err(Error::io("remove", &self.dir.join(CLASSES_FILE))(e));
                    }
                    _ => {}
                }
            }
            None => {}
        }
        let entries = shards.iter().map(|shard| IndexEntry {
            prepared: self.prepared,
            ..shard.entry.clone()
        });
        index.merge(entries.collect());
        index.write(&index_path)?;
        let written = Written {
            shards: shards.len(),
            samples,
            bytes,
        };
        for shard in shards {
            shard.publish(&self.dir)?;
        }
        sync_dir(&self.dir)?;
        Ok(written)
    }

    /// Labels are places in the one class list of a folder: those of other sets must keep their meaning.
    fn check_classes(&self, classes: Option<&[String]>, others: bool) -> Result<()> {
        let (Some(classes), true) = (classes, others) else {
            return Ok(());
        };
        let path = self.dir.join(CLASSES_FILE);
        match fs::read(&path) {
            Ok(known) if serde_json::from_slice::<Vec<String>>(&known).ok().as_deref() == Some(classes) => Ok(()),
            Ok(_) => Err(self.failed(format!(
                "the folder holds another set with other classes in {CLASSES_FILE}; write this set to a folder of its own"
            ))),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(e) => Err(Error::io("read class list", &path)(e)),
        }
    }

    /// Names of finished shards of the pattern, sorted.
    fn finished(&self) -> Result<Vec<String>> {
        let mut names = self.names()?;
        names.retain(|name| self.pattern.matches(name));
        names.sort();
        Ok(names)
    }

    fn names(&self) -> Result<Vec<String>> {
        let read = || {
            fs::read_dir(&self.dir)?
                .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
                .collect()
        };
        let names: io::Result<Vec<String>> = read();
        names.map_err(Error::io("read folder", &self.dir))
    }

    fn failed(&self, reason: String) -> Error {
        Error::Write {
            dir: self.dir.clone(),
            reason,
        }
    }
}

/// A whole shard that does not have its name yet. Dropped before it is published, it leaves nothing.
pub struct FinishedShard {
    pub(super) temporary: Temporary,
    pub(super) entry: IndexEntry,
}

impl FinishedShard {
    /// Its entry of the index.
    pub fn entry(&self) -> &IndexEntry {
        &self.entry
    }

    fn publish(self, dir: &Path) -> Result<()> {
        fs::rename(&self.temporary.0, dir.join(&self.entry.url))
            .map_err(Error::io("rename", &self.temporary.0))
    }
}

/// Ends the temporary name of a file that is not whole yet; a dot begins it, so that no glob takes it for a shard.
const PARTIAL: &str = ".partial";

/// A file that is gone when dropped, unless it was renamed before.
pub(super) struct Temporary(pub(super) PathBuf);

impl Drop for Temporary {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

pub(super) fn partial_path(dir: &Path, name: &str) -> PathBuf {
    dir.join(format!(".{name}{PARTIAL}"))
}

/// Writes a file so that it is there whole or not at all.
pub(super) fn write_whole(path: &Path, bytes: &[u8]) -> Result<()> {
    let dir = path.parent().unwrap_or(Path::new(""));
    let temporary = Temporary(partial_path(
        dir,
        &path.file_name().unwrap_or_default().to_string_lossy(),
    ));
    let mut file = File::create(&temporary.0).map_err(Error::io("create", path))?;
    file.write_all(bytes)
        .and_then(|()| file.sync_all())
        .map_err(Error::io("write", path))?;
    fs::rename(&temporary.0, path).map_err(Error::io("rename", &temporary.0))?;
    sync_dir(dir)
}

/// Makes the names in `dir` survive a power failure.
fn sync_dir(dir: &Path) -> Result<()> {
    let dir = if dir.as_os_str().is_empty() {
        Path::new(".")
    } else {
        dir
    };
    File::open(dir)
        .and_then(|dir| dir.sync_all())
        .map_err(Error::io("write folder", dir))
}

fn to_json(dir: &Path, classes: &[String]) -> Result<Vec<u8>> {
    serde_json::to_vec(classes).map_err(|e| Error::Write {
        dir: dir.to_path_buf(),
        reason: e.to_string(),
    })
}
