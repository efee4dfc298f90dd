//! Builds the index of shards that another tool wrote.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use md5::{Digest, Md5};

use super::index::{INDEX_FILE, Index, IndexEntry, IndexShard};
use super::writer::hex;
use crate::error::{Error, Result};
use crate::open::{self, Access, Indexes, OpenShard};
use crate::parallel;
use crate::source::Net;
use crate::spec::{self, Place, ShardRef};

/// An index that was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Built {
    /// The file.
    pub path: PathBuf,
    /// Shards that were read for it.
    pub shards: usize,
    /// Samples in them, with or without an image.
    pub samples: u64,
}

/// How [`build_index`] reads and writes.
#[derive(Debug, Clone, Default)]
pub struct BuildOptions {
    /// As [`DatasetOptions::cache_dir`](crate::DatasetOptions::cache_dir).
    pub cache_dir: Option<PathBuf>,
    /// As [`DatasetOptions::cache_bytes`](crate::DatasetOptions::cache_bytes).
    pub cache_bytes: u64,
    /// Whether to read all data of local shards for the MD5 that a wids index carries; without, only headers are read.
    pub checksums: bool,
    /// One index of all shards, written here, in place of one in each folder. It is the only way to index shards on servers, which it
    /// names by their URLs.
    pub output: Option<PathBuf>,
}

/// Reads the shards that `specs` name and writes `index.json` into each of their folders, or one index where the options say. Entries of
/// other shards in it stay where the shard is still there.
///
/// # Errors
/// Where a shard is damaged, comes from a pipe, is on a server while no output is named, or an index cannot be written.
pub fn build_index<S: AsRef<str>>(specs: &[S], options: &BuildOptions) -> Result<Vec<Built>> {
    let net = Net::default();
    let set = spec::resolve_on(specs, &net)?;
    for shard in &set.shards {
        let refused = match &shard.place {
            Place::Pipe(_) => {
                Some("what a pipe gives has no place to be found again; store it as a file first")
            }
            Place::Url(url) if url.contains('?') => Some(
                "a URL with a query, which may be a signature that expires, is not kept in an index",
            ),
            Place::Url(_) if options.output.is_none() => Some(
                "an index is not written to a server: name a file with --output; then give that file in place of the shards, or put it \
                 beside them as index.json, with their names for their URLs",
            ),
            _ => None,
        };
        if let Some(reason) = refused {
            return Err(Error::Spec {
                spec: shard.name.clone(),
                reason: reason.into(),
            });
        }
    }
    let access = Access {
        cache_dir: options.cache_dir.clone(),
        cache_bytes: options.cache_bytes,
        net,
    };
    let opened = open::open_all(&set, access, Indexes::Ignore)?;
    let shards: Vec<_> = set.shards.iter().zip(&opened).collect();
    let entries = parallel::try_map(&shards, 1, |_, (shard, open)| entry(shard, open, options))?;
    if let Some(path) = &options.output {
        return Ok(vec![write(path, entries)?]);
    }
    let mut folders: BTreeMap<PathBuf, Vec<IndexEntry>> = BTreeMap::new();
    for ((shard, _), entry) in shards.iter().zip(entries) {
        let folder = shard.file().and_then(Path::parent).unwrap_or(Path::new(""));
        folders
            .entry(folder.join(INDEX_FILE))
            .or_default()
            .push(entry);
    }
    folders
        .into_iter()
        .map(|(path, entries)| write(&path, entries))
        .collect()
}

fn entry(shard: &ShardRef, open: &OpenShard, options: &BuildOptions) -> Result<IndexEntry> {
    let md5sum = match shard.file() {
        Some(path) if options.checksums => Some(md5_of(path)?),
        _ => None,
    };
    Ok(IndexEntry {
        url: match (&options.output, shard.file()) {
            (Some(output), Some(path)) => below(output, path)?,
            (Some(_), None) => shard.name.clone(),
            (None, _) => open.base_name.clone(),
        },
        md5sum,
        nsamples: open.table.len() as u64,
        filesize: open.stored_bytes,
        prepared: None,
        members: Some(IndexShard::new(&open.table, open.source.size())),
    })
}

/// The path of `shard` from the folder of the index at `output` on.
fn below(output: &Path, shard: &Path) -> Result<String> {
    let absolute = |path: &Path| path.canonicalize().map_err(Error::io("find", path));
    let folder = output.parent().filter(|folder| *folder != Path::new(""));
    let folder = absolute(folder.unwrap_or(Path::new(".")))?;
    let found = absolute(shard)?;
    let below = found.strip_prefix(&folder).ok().and_then(Path::to_str);
    below.map(str::to_owned).ok_or_else(|| Error::Index {
        path: output.to_path_buf(),
        reason: format!(
            "{} is not below it: an index names files in or below its own folder only",
            shard.display()
        ),
    })
}

fn write(path: &Path, mut entries: Vec<IndexEntry>) -> Result<Built> {
    let folder = path.parent().unwrap_or(Path::new(""));
    // A broken index is what this is meant to replace; another tool's file of the same name is not.
    let mut index = match Index::read(path) {
        Ok(index) => index.unwrap_or_default(),
        Err(error) if Index::is_ours(path) => {
            tracing::warn!("{error}; writing it anew");
            Index::default()
        }
        Err(error) => return Err(error),
    };
    index
        .shardlist
        .retain(|entry| entry.url.contains('/') || folder.join(&entry.url).is_file());
    // The one thing that no tar says of itself.
    for entry in &mut entries {
        let before = index.shardlist.iter().find(|old| old.url == entry.url);
        entry.prepared = before
            .filter(|old| old.filesize == entry.filesize)
            .and_then(|old| old.prepared);
    }
    let built = Built {
        path: path.to_path_buf(),
        shards: entries.len(),
        samples: entries.iter().map(|entry| entry.nsamples).sum(),
    };
    index.merge(entries);
    index.write(path)?;
    Ok(built)
}

fn md5_of(path: &Path) -> Result<String> {
    let mut hash = Md5::new();
    let mut file = File::open(path).map_err(Error::io("open shard", path))?;
    io::copy(&mut file, &mut hash).map_err(Error::io("read", path))?;
    Ok(hex(&hash.finalize()))
}
