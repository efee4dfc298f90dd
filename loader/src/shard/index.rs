//! The index file of a folder of shards, `index.json`: a [wids](https://github.com/webdataset/webdataset) shard index
//! (counts, sizes, checksums) with, for each shard, the place of every member, so that a dataset opens without reading
//! the tars.
//!
//! The shards are the truth: an entry is used only while it fits its shard, and there is one index a folder, whatever
//! the number of sets in it.

use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::table::{ShardTable, Suffixes};
use crate::error::{Error, Result};
use crate::sample::Member;
use crate::source::Source;

/// Name of the index in its folder.
pub const INDEX_FILE: &str = "index.json";
const KIND: &str = "wids-shard-index-v1";
const TABLE_VERSION: u32 = 1;

/// An index file.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Index {
    #[serde(rename = "__kind__")]
    kind: String,
    wids_version: u32,
    /// The shards.
    pub shardlist: Vec<IndexEntry>,
    /// What other tools keep here (`name`, `base_path`, …), passed on unchanged.
    #[serde(flatten)]
    pub other: serde_json::Map<String, serde_json::Value>,
}

/// One shard of an index.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct IndexEntry {
    /// The shard's name, relative to the index.
    pub url: String,
    /// MD5 of the file as stored, in hexadecimal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub md5sum: Option<String>,
    /// Number of samples.
    pub nsamples: u64,
    /// Length of the file as stored.
    pub filesize: u64,
    /// How the images were made smaller when the shard was written; absent where they are as they came.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prepared: Option<Prepared>,
    /// The members; absent in an index that another tool wrote.
    #[serde(default, rename = "mae", skip_serializing_if = "Option::is_none")]
    pub members: Option<IndexShard>,
}

/// How `mae shard --short-side` made the images of a shard smaller. Images that were small enough are as they came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Prepared {
    /// Short side in pixels to which larger images were resized.
    pub short_side: u32,
    /// JPEG quality at which the resized images were stored.
    pub quality: u8,
}

/// The members of one shard, in columns: `counts[i]` members belong to the sample `keys[i]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IndexShard {
    version: u32,
    /// Length of the tar once inflated.
    tar_bytes: u64,
    suffixes: Vec<String>,
    keys: Vec<String>,
    counts: Vec<u32>,
    /// A member's suffix, as a place in `suffixes`.
    suffix: Vec<u32>,
    offset: Vec<u64>,
    size: Vec<u64>,
}

impl Default for Index {
    fn default() -> Self {
        Self {
            kind: KIND.into(),
            wids_version: 1,
            shardlist: Vec::new(),
            other: serde_json::Map::new(),
        }
    }
}

impl Index {
    /// Reads the index at `path`; `None` where there is no such file.
    ///
    /// # Errors
    /// Where it cannot be read or is not a wids shard index.
    pub fn read(path: &Path) -> Result<Option<Self>> {
        let text = match fs::read(path) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(Error::io("read index", path)(e)),
        };
        Self::parse(&text, path).map(Some)
    }

    /// Reads an index out of its text; `path` is for messages.
    pub(crate) fn parse(text: &[u8], path: &Path) -> Result<Self> {
        let bad = |reason: String| Error::Index {
            path: path.to_path_buf(),
            reason,
        };
        let index: Self = serde_json::from_slice(text).map_err(|e| {
            bad(format!(
                "not a wids shard index ({e}); rebuild it with `mae index`"
            ))
        })?;
        if index.kind != KIND || index.wids_version != 1 {
            return Err(bad(format!(
                "of kind {} version {}, where {KIND} version 1 is read",
                index.kind, index.wids_version
            )));
        }
        Ok(index)
    }

    /// Writes the index to `path`: under a temporary name, renamed when whole.
    ///
    /// # Errors
    /// Where the file cannot be written.
    pub fn write(&self, path: &Path) -> Result<()> {
        let text = serde_json::to_vec(self).map_err(|e| Error::Index {
            path: path.to_path_buf(),
            reason: e.to_string(),
        })?;
        super::publish::write_whole(path, &text)
    }

    /// Whether the file at `path` says that it is a wids index, whole or not.
    pub(super) fn is_ours(path: &Path) -> bool {
        fs::read(path)
            .is_ok_and(|text| text.windows(KIND.len()).any(|part| part == KIND.as_bytes()))
    }

    /// Puts `entries` in, in place of those of the same name, and sorts the list by name.
    pub fn merge(&mut self, entries: Vec<IndexEntry>) {
        self.shardlist
            .retain(|old| entries.iter().all(|new| new.url != old.url));
        self.shardlist.extend(entries);
        self.shardlist.sort_by(|a, b| a.url.cmp(&b.url));
    }
}

impl IndexEntry {
    /// Length of the tar once inflated, where the entry says it of a file of `stored` bytes.
    pub(crate) fn tar_bytes(&self, stored: u64) -> Option<u64> {
        let members = self.members.as_ref()?;
        (self.filesize == stored).then_some(members.tar_bytes)
    }

    /// The members as a table, where the entry has them and fits the tar in `source`. `stored` is the length of the
    /// file as stored. Otherwise the reason why not.
    pub(crate) fn table(
        &self,
        stored: u64,
        source: &mut Source,
    ) -> std::result::Result<Option<ShardTable>, String> {
        let Some(members) = &self.members else {
            return Ok(None);
        };
        if self.filesize != stored {
            return Err(format!(
                "it was {} bytes long when indexed and is {stored} now",
                self.filesize
            ));
        }
        if members.tar_bytes != source.size() {
            return Err(format!(
                "it held {} bytes when indexed and holds {} now",
                members.tar_bytes,
                source.size()
            ));
        }
        let table = members.to_table()?;
        // A tar may change and keep its length; the headers of its first and last member tell most such changes.
        if let Some(last) = table.len().checked_sub(1) {
            let ends = [table.sample(0), table.sample(last)];
            let members = ends
                .iter()
                .flat_map(|sample| sample.members.iter().cloned());
            source.check_headers(members.collect())?;
        }
        Ok(Some(table))
    }
}

impl IndexShard {
    /// The columns of `table`, whose tar is `tar_bytes` long.
    pub fn new(table: &ShardTable, tar_bytes: u64) -> Self {
        let mut columns = Self {
            version: TABLE_VERSION,
            tar_bytes,
            suffixes: Vec::new(),
            keys: Vec::with_capacity(table.len()),
            counts: Vec::with_capacity(table.len()),
            suffix: Vec::new(),
            offset: Vec::new(),
            size: Vec::new(),
        };
        for sample in table.samples() {
            columns.keys.push(sample.key.to_owned());
            columns.counts.push(sample.members.len() as u32);
            for member in sample.members {
                let known = columns
                    .suffixes
                    .iter()
                    .position(|suffix| **suffix == *member.suffix);
                let place = known.unwrap_or_else(|| {
                    columns.suffixes.push(member.suffix.to_string());
                    columns.suffixes.len() - 1
                });
                columns.suffix.push(place as u32);
                columns.offset.push(member.offset);
                columns.size.push(member.size);
            }
        }
        columns
    }

    /// Back to a table. An index is input like any other: whatever does not add up is an error.
    fn to_table(&self) -> std::result::Result<ShardTable, String> {
        if self.version != TABLE_VERSION {
            return Err(format!(
                "its members are listed in version {}, not {TABLE_VERSION}",
                self.version
            ));
        }
        let members: u64 = self.counts.iter().map(|&count| u64::from(count)).sum();
        let columns = [self.suffix.len(), self.offset.len(), self.size.len()];
        if self.keys.len() != self.counts.len() || columns.iter().any(|&len| len as u64 != members)
        {
            return Err("its columns differ in length".into());
        }
        let mut suffixes = Suffixes::default();
        let mut table = ShardTable::default();
        let mut place = 0;
        for (sample, (key, &count)) in self.keys.iter().zip(&self.counts).enumerate() {
            for _ in 0..count {
                let suffix = self
                    .suffixes
                    .get(self.suffix[place] as usize)
                    .ok_or("it names an unknown suffix")?;
                let (offset, size) = (self.offset[place], self.size[place]);
                if offset
                    .checked_add(size)
                    .is_none_or(|end| end > self.tar_bytes)
                {
                    return Err(format!("a member of `{key}` lies outside of the tar"));
                }
                if !table.push(
                    key,
                    Member {
                        suffix: suffixes.share(suffix),
                        offset,
                        size,
                    },
                ) {
                    return Err(format!("`{key}` repeats a suffix"));
                }
                place += 1;
            }
            if table.len() != sample + 1 {
                return Err(format!("`{key}` is empty or repeated"));
            }
        }
        Ok(table)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> ShardTable {
        let mut table = ShardTable::default();
        for (key, suffix, offset) in [("a", "cls", 512), ("a", "jpg", 1536), ("b", "jpg", 2560)] {
            assert!(table.push(
                key,
                Member {
                    suffix: suffix.into(),
                    offset,
                    size: 3
                }
            ));
        }
        table
    }

    #[test]
    fn columns_keep_the_table() {
        let columns = IndexShard::new(&table(), 10240);
        assert_eq!(columns.to_table().unwrap(), table());
        let json = serde_json::to_string(&columns).unwrap();
        assert_eq!(serde_json::from_str::<IndexShard>(&json).unwrap(), columns);
    }

    #[test]
    fn columns_that_do_not_add_up_are_refused() {
        let good = IndexShard::new(&table(), 10240);
        let breakages: [fn(&mut IndexShard); 7] = [
            |s| s.version = 2,
            |s| s.keys.truncate(1),
            |s| s.counts[0] = 3,
            |s| s.suffix[1] = 9,
            |s| s.offset[2] = u64::MAX,
            |s| s.suffix[1] = 0,
            |s| s.keys[1] = "a".into(),
        ];
        for (number, breakage) in breakages.iter().enumerate() {
            let mut bad = good.clone();
            breakage(&mut bad);
            assert!(bad.to_table().is_err(), "breakage {number}");
        }
    }

    #[test]
    fn merging_replaces_by_name_and_keeps_the_rest() {
        let entry = |url: &str, nsamples| IndexEntry {
            url: url.into(),
            md5sum: None,
            nsamples,
            filesize: 0,
            prepared: None,
            members: None,
        };
        let mut index = Index::default();
        index.merge(vec![entry("b.tar", 1), entry("a.tar", 1)]);
        index.merge(vec![entry("b.tar", 2), entry("c.tar", 1)]);
        let list: Vec<_> = index
            .shardlist
            .iter()
            .map(|e| (e.url.as_str(), e.nsamples))
            .collect();
        assert_eq!(list, [("a.tar", 1), ("b.tar", 2), ("c.tar", 1)]);
    }
}
