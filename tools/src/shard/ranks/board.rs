//! The hidden folder in which the ranks of a job meet: a notice of each, and what they send.
//!
//! A notice is small and written anew in place, so that other machines see it through a network file system's caches; what is sent is
//! written before the notice speaks of it. Every process has a name of its own, by which leftovers of another run are told.

use std::fs::{self, OpenOptions};
use std::hash::{BuildHasher, RandomState};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::{Context, Result};
use mae_loader::shard::ShardPattern;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// How far a rank is. Of rank 0, what it makes of a stage is to be had; of others, what they send.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(in crate::shard) enum Stage {
    /// It is there.
    Here,
    /// It has looked into its part of the source.
    Found,
    /// It has written its shards.
    Packed,
    /// It has ended well.
    Left,
}

/// What a rank says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Notice {
    /// Its process.
    pub(super) process: String,
    /// Of rank 0: the processes of all ranks that it has met.
    pub(super) met: Vec<Option<String>>,
    pub(super) stage: Stage,
    /// Images packed.
    pub(super) images: u64,
    /// Why it ended, where it failed.
    pub(super) failed: Option<String>,
    /// Counts the writings: a process that lives counts on.
    pub(super) beat: u64,
}

impl Notice {
    pub(super) fn new(process: String) -> Self {
        Self {
            process,
            met: Vec::new(),
            stage: Stage::Here,
            images: 0,
            failed: None,
            beat: 0,
        }
    }
}

/// A name that no other process has.
pub(super) fn process_name() -> String {
    // Its keys come from the system's source of randomness.
    let random = RandomState::new();
    let seed = (std::process::id(), SystemTime::now());
    format!(
        "{:016x}{:016x}",
        random.hash_one(seed),
        random.hash_one((seed, 1))
    )
}

/// The folder.
#[derive(Debug, Clone)]
pub(super) struct Board {
    folder: PathBuf,
}

impl Board {
    pub(super) fn new(target: &Path, pattern: &ShardPattern) -> Self {
        Self {
            folder: target.join(format!(".{pattern}.ranks")),
        }
    }

    /// Empties it. A process that is waiting to be met puts its notice up again.
    pub(super) fn clear(&self) -> Result<()> {
        let cleared = || {
            for entry in fs::read_dir(&self.folder)? {
                match fs::remove_file(entry?.path()) {
                    Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
                    _ => {}
                }
            }
            Ok(())
        };
        match cleared() {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            cleared => cleared.with_context(|| format!("cannot clear {}", self.folder.display())),
        }
    }

    /// Removes it with all that is in it, as far as that can be done.
    pub(super) fn remove(&self) {
        let _ = fs::remove_dir_all(&self.folder);
    }

    /// A rank's notice; none where it is not there, or just being written.
    pub(super) fn read(&self, rank: usize) -> Option<Notice> {
        let text = fs::read(self.notice(rank)).ok()?;
        serde_json::from_slice(&text).ok()
    }

    /// Puts a notice up where there is none yet.
    pub(super) fn put_up(&self, rank: usize, notice: &Notice) -> Result<()> {
        let path = self.notice(rank);
        let write = || {
            fs::create_dir_all(&self.folder)?;
            fs::write(&path, serde_json::to_vec(notice)?)
        };
        write().with_context(|| format!("cannot write {}", path.display()))
    }

    /// Writes a notice anew that was put up before: one that was taken down stays away.
    pub(super) fn renew(&self, rank: usize, notice: &Notice) -> io::Result<()> {
        let mut file = OpenOptions::new()
            .write(true)
            .truncate(true)
            .open(self.notice(rank))?;
        file.write_all(&serde_json::to_vec(notice)?)
    }

    pub(super) fn take_down(&self, rank: usize) {
        let _ = fs::remove_file(self.notice(rank));
    }

    pub(super) fn send<T: Serialize>(&self, process: &str, stage: Stage, what: &T) -> Result<()> {
        let path = self.sent(process, stage);
        let write = || fs::write(&path, serde_json::to_vec(what)?);
        write().with_context(|| format!("cannot write {}", path.display()))
    }

    pub(super) fn receive<T: DeserializeOwned>(&self, process: &str, stage: Stage) -> Result<T> {
        let path = self.sent(process, stage);
        let read = || Ok::<_, io::Error>(serde_json::from_slice(&fs::read(&path)?)?);
        read().with_context(|| format!("cannot read {}", path.display()))
    }

    fn notice(&self, rank: usize) -> PathBuf {
        self.folder.join(format!("rank-{rank}.json"))
    }

    fn sent(&self, process: &str, stage: Stage) -> PathBuf {
        self.folder.join(format!("{process}.{stage:?}.json"))
    }
}
