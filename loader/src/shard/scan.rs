//! Reads a tar's headers, seeking past the data, and groups the members into samples as WebDataset does.

use std::io::{Seek, SeekFrom};

use webdataset::core::utils::{base_plus_ext, is_shard_metadata};

use super::table::{ShardTable, Suffixes};
use crate::error::{Error, Result};
use crate::sample::Member;
use crate::source::{Source, SourceReader};

/// What a scan found.
#[derive(Debug, Clone)]
pub struct Scanned {
    /// The samples.
    pub table: ShardTable,
    /// Whether the tar ends in its end-of-archive marker. Where it does not, members may have been cut off.
    pub complete: bool,
}

/// Scans the (inflated) tar in `source`; `name` is for messages.
///
/// A sample is a run of members with one key (path up to the first dot of the base name); the rest, in lower case, is
/// the suffix. Names without a suffix, dot files, `__…__` names, folders and links are passed over.
///
/// # Errors
/// Where the tar is cut off inside a member, is no tar, repeats a suffix within a sample, or cannot be read.
pub fn scan(source: &Source, name: &str) -> Result<Scanned> {
    let at = |offset: u64, reason: String| Error::Shard {
        shard: name.to_owned(),
        offset,
        reason,
    };
    let mut archive = tar::Archive::new(SourceReader {
        source,
        position: 0,
    });
    let mut table = ShardTable::default();
    let mut suffixes = Suffixes::default();
    let mut end = 0;

    for entry in archive
        .entries_with_seek()
        .map_err(|e| at(0, e.to_string()))?
    {
        let entry = entry.map_err(|e| at(end, describe(&e, end)))?;
        let (offset, size) = (entry.raw_file_position(), entry.size());
        let cut_off = || {
            let has = source.size().saturating_sub(offset);
            at(
                offset,
                format!(
                    "the tar is cut off: a member of {size} bytes has {has}; copy or download it again"
                ),
            )
        };
        let data_end = offset
            .checked_add(size)
            .filter(|&end| end <= source.size())
            .ok_or_else(cut_off)?;
        end = data_end.next_multiple_of(512);

        let kind = entry.header().entry_type();
        if kind.is_gnu_sparse() {
            return Err(at(
                offset,
                "a sparse member; write the tar without --sparse".into(),
            ));
        }
        if !(kind.is_file() || kind.is_contiguous()) {
            continue;
        }
        let path = entry.path_bytes();
        let path = String::from_utf8_lossy(&path);
        if is_shard_metadata(&path) {
            continue;
        }
        let Some((key, suffix)) = base_plus_ext(&path).filter(|(_, suffix)| !suffix.is_empty())
        else {
            continue;
        };
        let suffix = suffixes.share(&suffix.to_lowercase());
        if !table.push(
            key,
            Member {
                suffix,
                offset,
                size,
            },
        ) {
            return Err(at(
                offset,
                format!("`{path}` repeats a suffix within one sample; give its files another key"),
            ));
        }
    }

    let position = archive
        .into_inner()
        .seek(SeekFrom::Current(0))
        .map_err(|e| at(end, e.to_string()))?;
    Ok(Scanned {
        table,
        complete: end < source.size() && position > end,
    })
}

fn describe(error: &std::io::Error, offset: u64) -> String {
    if error.kind() == std::io::ErrorKind::UnexpectedEof {
        return "the tar is cut off inside a header; copy or download it again".into();
    }
    let hint = if offset == 0 {
        "this is not a tar file"
    } else {
        "the tar is damaged from here on"
    };
    format!("{hint} ({error})")
}
