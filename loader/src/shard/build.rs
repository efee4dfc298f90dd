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
use crate::spec::{self, Place};

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

/// Reads the shards that `specs` name and writes `index.json` into each of their folders. Entries of other shards in it
/// stay where the shard is still there. `checksums`: whether to read all data for the MD5 that a wids index carries;
/// without, only headers are read.
///
/// # Errors
/// Where a shard is damaged, comes from a pipe, or an index cannot be written.
pub fn build_index<S: AsRef<str>>(
    specs: &[S],
    cache_dir: Option<&Path>,
    cache_bytes: u64,
    checksums: bool,
) -> Result<Vec<Built>> {
    let net = Net::default();
    let set = spec::resolve_on(specs, &net)?;
    if let Some(pipe) = set
        .shards
        .iter()
        .find(|shard| matches!(shard.place, Place::Pipe(_)))
    {
        let reason =
            "what a pipe gives has no folder to keep an index in; store it as a file first".into();
        return Err(Error::Spec {
            spec: pipe.name.clone(),
            reason,
        });
    }
    let access = Access {
        cache_dir: cache_dir.map(Path::to_path_buf),
        cache_bytes,
        net,
    };
    let opened = open::open_all(&set, access, Indexes::Ignore)?;
    let files: Vec<_> = set
        .shards
        .iter()
        .filter_map(|shard| shard.file())
        .zip(&opened)
        .collect();
    let entries = parallel::try_map(&files, 1, |_, (path, shard)| entry(path, shard, checksums))?;

    let mut folders: BTreeMap<&Path, Vec<IndexEntry>> = BTreeMap::new();
    for ((path, _), entry) in files.iter().zip(entries) {
        folders
            .entry(path.parent().unwrap_or(Path::new("")))
            .or_default()
            .push(entry);
    }
    folders
        .into_iter()
        .map(|(folder, entries)| write(folder, entries))
        .collect()
}

fn entry(path: &Path, shard: &OpenShard, checksums: bool) -> Result<IndexEntry> {
    Ok(IndexEntry {
        url: shard.base_name.clone(),
        md5sum: if checksums { Some(md5_of(path)?) } else { None },
        nsamples: shard.table.len() as u64,
        filesize: shard.stored_bytes,
        prepared: None,
        members: Some(IndexShard::new(&shard.table, shard.source.size())),
    })
}

fn write(folder: &Path, mut entries: Vec<IndexEntry>) -> Result<Built> {
    let path = folder.join(INDEX_FILE);
    // A broken index is what this is meant to replace; another tool's file of the same name is not.
    let mut index = match Index::read(&path) {
        Ok(index) => index.unwrap_or_default(),
        Err(error) if Index::is_ours(&path) => {
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
        path: path.clone(),
        shards: entries.len(),
        samples: entries.iter().map(|entry| entry.nsamples).sum(),
    };
    index.merge(entries);
    index.write(&path)?;
    Ok(built)
}

fn md5_of(path: &Path) -> Result<String> {
    let mut hash = Md5::new();
    let mut file = File::open(path).map_err(Error::io("open shard", path))?;
    io::copy(&mut file, &mut hash).map_err(Error::io("read", path))?;
    Ok(hex(&hash.finalize()))
}
