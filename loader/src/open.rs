//! From shard names to open shards: takes each shard's table from the folder's index or, where that is absent or does not fit, from a
//! scan; and decides whether a shard is read where it is or from the cache.

use std::collections::{BTreeSet, HashMap};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::parallel;
use crate::shard::{INDEX_FILE, Index, IndexEntry, Prepared, ShardTable, scan};
use crate::source::{CachedFile, Encoding, LocalFile, Net, Origin, ShardCache, Source, Stored};
use crate::spec::{Folder, Place, ShardRef, ShardSet, missing_shard};

/// Shards whose files stay open; beyond it they are opened for each read, since processes may often have no more than
/// 1,024 files.
const KEPT_OPEN: usize = 512;

/// Shards on servers that are opened at once.
const REMOTE_AT_ONCE: usize = 16;

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

/// How shards are reached.
#[derive(Debug)]
pub(crate) struct Access {
    /// Where shards lie whole that cannot be read by offset where they are. Where the caller names it, plain shards of servers do, too.
    pub(crate) cache_dir: Option<PathBuf>,
    /// Bound on the bytes in that folder.
    pub(crate) cache_bytes: u64,
    /// Connections.
    pub(crate) net: Net,
}

/// Opens all shards of a set.
///
/// # Errors
/// Where a shard cannot be read or inflated, or a folder's index lists shards that it lacks.
pub(crate) fn open_all(set: &ShardSet, access: Access, indexes: Indexes) -> Result<Vec<OpenShard>> {
    let remote = set
        .shards
        .iter()
        .any(|shard| matches!(shard.place, Place::Url(_)));
    let opener = Opener::new(set, access, indexes)?;
    let at_least = if remote { REMOTE_AT_ONCE } else { 1 };
    let shards = parallel::try_map(&set.shards, at_least, |place, shard| {
        opener.open(place, shard)
    })?;
    for shard in &shards {
        for note in &shard.notes {
            tracing::warn!("{}: {note}", shard.name);
        }
    }
    opener.report(&shards);
    Ok(shards)
}

struct Opener {
    access: Access,
    cache: std::sync::OnceLock<Arc<ShardCache>>,
    indexes: HashMap<Folder, HashMap<String, IndexEntry>>,
}

/// Where a shard's bytes are, before it is known what is in them.
enum Found {
    /// To be read in place.
    Here(Source),
    /// To be read from the cache.
    Cached(Origin),
}

impl Opener {
    fn new(set: &ShardSet, access: Access, indexes: Indexes) -> Result<Self> {
        let indexes = if indexes == Indexes::Use {
            read_indexes(set, &access.net)?
        } else {
            HashMap::new()
        };
        Ok(Self {
            access,
            cache: std::sync::OnceLock::new(),
            indexes,
        })
    }

    /// The cache, made when it is first needed.
    fn cache(&self) -> Result<&Arc<ShardCache>> {
        if let Some(cache) = self.cache.get() {
            return Ok(cache);
        }
        let dir = self.access.cache_dir.clone();
        let dir = dir.unwrap_or_else(ShardCache::default_dir);
        let cache = Arc::new(ShardCache::open(&dir, self.access.cache_bytes)?);
        Ok(self.cache.get_or_init(|| cache))
    }

    /// Where the shard is, its length as stored, and how it is stored.
    fn find(&self, shard: &ShardRef, keep_open: bool) -> Result<(Found, u64, Encoding)> {
        let cached = |stored, encoding| {
            Found::Cached(Origin {
                name: shard.name.clone(),
                stored,
                encoding,
            })
        };
        match &shard.place {
            Place::File(path) => {
                let file = LocalFile::open(path, keep_open)?;
                let (size, encoding) = (file.size(), encoding_of(path)?);
                let found = match encoding {
                    Encoding::Plain => Found::Here(file.into()),
                    _ => cached(Stored::Local(path.clone()), encoding),
                };
                Ok((found, size, encoding))
            }
            Place::Pipe(command) => {
                let file = self.cache()?.piped(command)?;
                let size = file.size();
                Ok((Found::Here(file.into()), size, Encoding::Plain))
            }
            #[cfg(not(feature = "remote"))]
            Place::Url(url) => match self.access.net.open(url)? {},
            #[cfg(feature = "remote")]
            Place::Url(url) => {
                let opened = self.access.net.open(url)?;
                let (size, encoding) = (opened.size, opened.encoding);
                let in_place =
                    encoding == Encoding::Plain && opened.ranges && self.access.cache_dir.is_none();
                let found = if in_place {
                    Found::Here(opened.file.into())
                } else {
                    cached(
                        Stored::Remote {
                            file: opened.file,
                            ranges: opened.ranges,
                        },
                        encoding,
                    )
                };
                Ok((found, size, encoding))
            }
        }
    }

    fn open(&self, place: usize, shard: &ShardRef) -> Result<OpenShard> {
        let keep_open = place < KEPT_OPEN;
        let (found, stored_bytes, encoding) = self.find(shard, keep_open)?;
        let entry = shard
            .folder()
            .and_then(|folder| self.indexes.get(&folder)?.get(shard.base_name()));
        let mut source = match found {
            Found::Here(source) => source,
            Found::Cached(origin) => {
                let size = match encoding {
                    Encoding::Plain => Some(stored_bytes),
                    _ => entry.and_then(|entry| entry.tar_bytes(stored_bytes)),
                };
                CachedFile::open(self.cache()?, origin, size, keep_open)?.into()
            }
        };
        let mut notes = Vec::new();
        let table = match entry.map(|entry| entry.table(stored_bytes, &mut source)) {
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
                notes.extend(scanned.notes);
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

    /// Says what costs time, and what to do about it.
    fn report(&self, shards: &[OpenShard]) {
        let unread = shards
            .iter()
            .filter(|shard| !shard.indexed && shard.source.reads_in_chunks());
        let (count, bytes) = unread.fold((0, 0), |(count, bytes), shard| {
            (count + 1, bytes + shard.stored_bytes)
        });
        if count > 0 {
            tracing::warn!(
                "{count} shards on servers have no entry in an index beside them: all of their {bytes} bytes were read to find the samples. \
                 `mae index SPEC --output FILE` makes an index, to be put beside them as {INDEX_FILE} or named in their place"
            );
        }
    }
}

/// How the file at `path` is stored.
fn encoding_of(path: &Path) -> Result<Encoding> {
    let mut head = Vec::with_capacity(8);
    File::open(path)
        .map_err(Error::io("open shard", path))?
        .take(8)
        .read_to_end(&mut head)
        .map_err(Error::io("read", path))?;
    Encoding::sniff(&head).map_err(|kind| Error::Spec {
        spec: path.display().to_string(),
        reason: format!(
            "{kind} compression is not supported: decompress it, or use `pipe:{kind} -dc FILE`"
        ),
    })
}

/// The index of each folder with shards. One that is of no use is passed over with a warning: the tars are the truth.
fn read_indexes(set: &ShardSet, net: &Net) -> Result<HashMap<Folder, HashMap<String, IndexEntry>>> {
    let folders: BTreeSet<Folder> = set.shards.iter().filter_map(ShardRef::folder).collect();
    let mut indexes: HashMap<Folder, HashMap<String, IndexEntry>> = HashMap::new();
    for folder in folders {
        let index = folder
            .read(INDEX_FILE, net)
            .and_then(|found| {
                found
                    .map(|(name, bytes)| Index::parse(&bytes, &name))
                    .transpose()
            })
            .unwrap_or_else(|error| {
                tracing::warn!("{error}; reading the tars instead");
                None
            });
        let entries = index.unwrap_or_default().shardlist;
        let by_name = entries.into_iter().map(|e| (e.url.clone(), e)).collect();
        indexes.insert(folder, by_name);
    }
    // An index that was named itself speaks for shards wherever they are.
    for entry in &set.entries {
        if let Some((folder, name)) = entry.url.rsplit_once('/') {
            indexes
                .entry(Folder::Remote(folder.to_owned()))
                .or_default()
                .insert(name.to_owned(), entry.clone());
        }
    }
    for folder in &set.folders {
        let present: Vec<_> = set
            .shards
            .iter()
            .filter(|s| s.file().and_then(Path::parent) == Some(folder))
            .collect();
        let listed = indexes
            .get(&Folder::Local(folder.clone()))
            .into_iter()
            .flat_map(HashMap::keys);
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
