//! From shard names to open shards: inflates what is compressed, and takes each shard's table from the folder's index
//! or, where that is absent or does not fit, from a scan.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::parallel;
use crate::shard::{INDEX_FILE, Index, IndexEntry, Prepared, ShardTable, scan};
use crate::source::{Encoding, ShardCache, Source};
use crate::spec::{Place, ShardRef, ShardSet, missing_shard};

/// Shards whose files stay open; beyond it they are opened for each read, since processes may often have no more than
/// 1,024 files.
const KEPT_OPEN: usize = 512;

/// A shard ready to be read.
#[derive(Debug)]
pub struct OpenShard {
    /// As named by the spec.
    pub name: String,
    /// The name without the folder.
    pub base_name: String,
    /// Length of the file as stored; of the tar, for a pipe.
    pub stored_bytes: u64,
    /// How it is stored.
    pub encoding: Encoding,
    /// The tar's bytes, inflated.
    pub source: Source,
    /// Its samples.
    pub table: ShardTable,
    /// Whether they come from an index.
    pub indexed: bool,
    /// How the images were made smaller when the shard was written, where an index that fits says so.
    pub prepared: Option<Prepared>,
    /// What is odd about it but did not stop it from being read.
    pub notes: Vec<String>,
}

/// Whether to take tables from index files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Indexes {
    /// Where they fit.
    Use,
    /// Read every tar's headers.
    Ignore,
}

/// Opens all shards of a set. `cache_dir` and `cache_bytes` bound the cache for inflated shards.
///
/// # Errors
/// Where a shard cannot be read or inflated, or a folder's index lists shards that it lacks.
pub fn open_all(
    set: &ShardSet,
    cache_dir: Option<&Path>,
    cache_bytes: u64,
    indexes: Indexes,
) -> Result<Vec<OpenShard>> {
    let opener = Opener::new(set, cache_dir, cache_bytes, indexes)?;
    let shards = parallel::try_map(&set.shards, |place, shard| opener.open(place, shard))?;
    for shard in &shards {
        for note in &shard.notes {
            tracing::warn!("{}: {note}", shard.name);
        }
    }
    Ok(shards)
}

struct Opener {
    encodings: Vec<Encoding>,
    cache: Option<ShardCache>,
    indexes: HashMap<PathBuf, HashMap<String, IndexEntry>>,
}

impl Opener {
    fn new(
        set: &ShardSet,
        cache_dir: Option<&Path>,
        cache_bytes: u64,
        indexes: Indexes,
    ) -> Result<Self> {
        let encodings = parallel::try_map(&set.shards, |_, shard| match &shard.place {
            Place::File(path) => Encoding::of(path),
            Place::Pipe(_) => Ok(Encoding::Plain),
        })?;
        let compressed = set
            .shards
            .iter()
            .zip(&encodings)
            .filter(|(_, encoding)| **encoding != Encoding::Plain);
        let compressed: Vec<&Path> = compressed.filter_map(|(shard, _)| shard.file()).collect();
        let piped = set.shards.iter().any(|shard| shard.file().is_none());
        let cache = if compressed.is_empty() && !piped {
            None
        } else {
            let dir = cache_dir.map_or_else(ShardCache::default_dir, Path::to_path_buf);
            Some(ShardCache::open(&dir, cache_bytes, &compressed)?)
        };
        let indexes = if indexes == Indexes::Use {
            read_indexes(set)?
        } else {
            HashMap::new()
        };
        Ok(Self {
            encodings,
            cache,
            indexes,
        })
    }

    fn open(&self, place: usize, shard: &ShardRef) -> Result<OpenShard> {
        let keep_open = place < KEPT_OPEN;
        let encoding = self.encodings[place];
        let (source, stored_bytes) = match (&shard.place, &self.cache) {
            (Place::File(path), Some(cache)) if encoding == Encoding::Gzip => {
                let stored = std::fs::metadata(path)
                    .map_err(Error::io("read", path))?
                    .len();
                (cache.inflated(path, keep_open)?, stored)
            }
            (Place::File(path), _) => {
                let source = Source::open(path, keep_open)?;
                let size = source.size();
                (source, size)
            }
            (Place::Pipe(command), cache) => {
                let cache = cache.as_ref().ok_or_else(|| Error::Pipe {
                    command: command.clone(),
                    reason: "needs a cache folder".into(),
                })?;
                let source = cache.piped(command)?;
                let size = source.size();
                (source, size)
            }
        };
        let mut notes = Vec::new();
        let entry = shard
            .file()
            .and_then(Path::parent)
            .and_then(|dir| self.indexes.get(dir)?.get(shard.base_name()));
        let table = match entry.map(|entry| entry.table(stored_bytes, &source)) {
            Some(Ok(table)) => table,
            Some(Err(reason)) => {
                notes.push(format!("does not fit its entry in {INDEX_FILE} ({reason}); reading the tar instead. Run `mae index`"));
                None
            }
            None => None,
        };
        let indexed = table.is_some();
        let prepared = entry.filter(|_| indexed).and_then(|entry| entry.prepared);
        let table = match table {
            Some(table) => table,
            None => {
                let scanned = scan(&source, &shard.name)?;
                if !scanned.complete {
                    notes.push(
                        "ends without the end-of-archive marker; it may have been cut off".into(),
                    );
                }
                scanned.table
            }
        };
        Ok(OpenShard {
            name: shard.name.clone(),
            base_name: shard.base_name().to_owned(),
            stored_bytes,
            encoding,
            source,
            table,
            indexed,
            prepared,
            notes,
        })
    }
}

/// The index of each folder with shards. One that is of no use is passed over with a warning: the tars are the truth.
fn read_indexes(set: &ShardSet) -> Result<HashMap<PathBuf, HashMap<String, IndexEntry>>> {
    let mut indexes = HashMap::new();
    for dir in set.shards.iter().filter_map(|shard| shard.file()?.parent()) {
        if indexes.contains_key(dir) {
            continue;
        }
        let index = Index::read(&dir.join(INDEX_FILE)).unwrap_or_else(|error| {
            tracing::warn!("{error}; reading the tars instead");
            None
        });
        let entries = index.unwrap_or_default().shardlist;
        indexes.insert(
            dir.to_path_buf(),
            entries
                .into_iter()
                .map(|e| (e.url.clone(), e))
                .collect::<HashMap<_, _>>(),
        );
    }
    for folder in &set.folders {
        let present: Vec<_> = set
            .shards
            .iter()
            .filter(|s| s.file().and_then(Path::parent) == Some(folder))
            .collect();
        let listed = indexes.get(folder).into_iter().flat_map(HashMap::keys);
        let missing = listed
            .filter(|url| !url.contains('/') && present.iter().all(|s| s.base_name() != *url))
            .min();
        if let Some(missing) = missing.filter(|url| !folder.join(url).is_file()) {
            return Err(Error::Index {
                path: folder.join(INDEX_FILE),
                reason: missing_shard(missing),
            });
        }
    }
    Ok(indexes)
}
