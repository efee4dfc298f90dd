//! Reads a tar's headers, seeking past the data, and groups the members into samples as WebDataset does.

use std::cell::Cell;
use std::io::{self, Read, Seek};
use std::rc::Rc;

use webdataset::core::utils::{base_plus_ext, is_shard_metadata};

use super::table::{ShardTable, Suffixes};
use crate::error::{Error, Result};
use crate::sample::Member;
use crate::source::{Source, SourceReader};

/// Headers, long names and pax records of one member together are shorter.
const MAX_HEADER_BYTES: u64 = 1 << 20;

/// Behind the end of a tar, this much is looked through for what may be another.
const LOOKED_THROUGH: u64 = 64 << 10;

/// What a scan found.
#[derive(Debug, Clone)]
pub struct Scanned {
    /// The samples.
    pub table: ShardTable,
    /// What is odd about the tar: no end, or something behind it.
    pub notes: Vec<String>,
}

/// Scans the (inflated) tar in `source`; `name` is for messages.
///
/// A sample is a run of members with one key (path up to the first dot of the base name); the rest, in lower case, is
/// the suffix. Names without a suffix, dot files, `__…__` names, folders, links and devices are passed over. What comes after the
/// end-of-archive marker is not read, as Python's `tarfile` does not; a note says that there is something.
///
/// # Errors
/// Where the tar is cut off inside a member, is no tar, is damaged, has a sparse member, repeats a suffix within a sample, or cannot be
/// read.
pub fn scan(source: &Source, name: &str) -> Result<Scanned> {
    let at = |offset: u64, reason: String| Error::Shard {
        shard: name.to_owned(),
        offset,
        reason,
    };
    let header_bytes = Rc::new(Cell::new(0));
    let mut archive = tar::Archive::new(HeaderReader {
        inner: SourceReader::new(source),
        read: Rc::clone(&header_bytes),
    });
    let mut table = ShardTable::default();
    let mut suffixes = Suffixes::default();
    let mut end = 0;

    let mut entries = archive
        .entries_with_seek()
        .map_err(|e| at(0, e.to_string()))?;
    loop {
        header_bytes.set(0);
        let Some(entry) = entries.next() else {
            break;
        };
        let mut entry = entry.map_err(|e| at(end, describe(&e, end, source.size())))?;
        let (offset, size) = (entry.raw_file_position(), entry.size());
        let kind = entry.header().entry_type();
        let is_file = kind.is_file() || kind.is_contiguous();
        if kind.is_gnu_sparse() || is_file && is_pax_sparse(&mut entry) {
            return Err(at(
                offset,
                "a sparse member; write the tar without --sparse".into(),
            ));
        }
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

        if !is_file {
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

    let mut reader = archive.into_inner().inner;
    let position = reader
        .stream_position()
        .map_err(|e| at(end, e.to_string()))?;
    let mut rest = Vec::new();
    reader
        .take(LOOKED_THROUGH)
        .read_to_end(&mut rest)
        .map_err(|e| at(position, e.to_string()))?;
    let mut notes = Vec::new();
    if end >= source.size() || position <= end {
        notes.push("ends without the end-of-archive marker; it may have been cut off".into());
    }
    if let Some(more) = rest.iter().position(|&byte| byte != 0) {
        notes.push(format!(
            "what follows the end of the tar, from byte {} on, is not read, as by Python's webdataset. Samples of a tar that was put there \
             with `cat` are lost: join tars with `tar --concatenate`, or keep them apart",
            position + more as u64
        ));
    }
    Ok(Scanned { table, notes })
}

/// Reads headers, as long as those of one member are not too long: their length is what the tar says.
struct HeaderReader<'a> {
    inner: SourceReader<'a>,
    /// Since the last member.
    read: Rc<Cell<u64>>,
}

impl Read for HeaderReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.read.set(self.read.get() + count as u64);
        if self.read.get() > MAX_HEADER_BYTES {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("names and records of more than {MAX_HEADER_BYTES} bytes"),
            ));
        }
        Ok(count)
    }
}

impl Seek for HeaderReader<'_> {
    fn seek(&mut self, to: io::SeekFrom) -> io::Result<u64> {
        self.inner.seek(to)
    }
}

/// Whether a member is stored without its holes in the way of pax: as a regular file, with a map of what is left.
fn is_pax_sparse<R: Read>(entry: &mut tar::Entry<'_, R>) -> bool {
    let records = entry.pax_extensions().ok().flatten();
    records.into_iter().flatten().flatten().any(|record| {
        let key = record.key_bytes();
        key.starts_with(b"GNU.sparse.")
    })
}

/// What to say of an error while the header at `offset` was read; `size` is that of the tar.
fn describe(error: &std::io::Error, offset: u64, size: u64) -> String {
    if offset > 0 && offset.saturating_add(512) > size {
        return "the tar is cut off inside a header; copy or download it again".into();
    }
    let hint = if offset == 0 {
        "this is not a tar file"
    } else {
        "the tar is damaged from here on"
    };
    format!("{hint} ({error})")
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::path::Path;

    use super::*;
    use crate::shard::testing::tar;
    use crate::source::LocalFile;

    fn scan_bytes(bytes: &[u8]) -> Result<Scanned> {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        scan(
            &LocalFile::from_file(file, Path::new("x.tar"))
                .unwrap()
                .into(),
            "x.tar",
        )
    }

    fn found(bytes: &[u8]) -> Vec<(String, Vec<String>)> {
        let table = scan_bytes(bytes).unwrap().table;
        let members = |m: &[Member]| m.iter().map(|m| m.suffix.to_string()).collect();
        table
            .samples()
            .map(|s| (s.key.to_owned(), members(s.members)))
            .collect()
    }

    #[test]
    fn members_are_grouped_as_webdataset_does() {
        let long = format!("{}/{}", "folder".repeat(20), "name".repeat(30));
        let long_jpg = format!("{long}.jpg");
        let bytes = tar(&[
            ("a/1.JPG", b"one"),
            ("a/1.seg.png", b"two"),
            ("a/2.cls", b"3"),
            ("__meta__/x.json", b"{}"),
            ("noextension", b"?"),
            ("a/.hidden.jpg", b"?"),
            (&long_jpg, b"long"),
        ]);
        let names = |names: &[&str]| names.iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(
            found(&bytes),
            [
                ("a/1".to_owned(), names(&["jpg", "seg.png"])),
                ("a/2".to_owned(), names(&["cls"])),
                (long, names(&["jpg"])),
            ]
        );
        let table = scan_bytes(&bytes).unwrap().table;
        for (sample, data) in [(0, b"one".as_slice()), (2, b"long")] {
            let member = &table.sample(sample).members[0];
            let at = member.offset as usize;
            assert_eq!(&bytes[at..at + member.size as usize], data);
        }
    }

    #[test]
    fn folders_and_links_are_passed_over() {
        let mut builder = tar::Builder::new(Vec::new());
        for (kind, name) in [
            (tar::EntryType::Directory, "d.jpg/"),
            (tar::EntryType::Symlink, "l.jpg"),
        ] {
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(kind);
            header.set_size(0);
            builder.append_data(&mut header, name, &b""[..]).unwrap();
        }
        assert!(found(&builder.into_inner().unwrap()).is_empty());
    }

    #[test]
    fn a_tar_that_is_cut_off_names_the_place() {
        let bytes = tar(&[("1.jpg", &[7; 600]), ("2.jpg", &[8; 600])]);
        // Header 0, data 512..1112 padded to 1536; header 1536, data 2048..2648.
        let error = scan_bytes(&bytes[..2500]).unwrap_err();
        assert!(
            matches!(&error, Error::Shard { offset: 2048, shard, .. } if shard == "x.tar"),
            "{error}"
        );
        let error = scan_bytes(&bytes[..1700]).unwrap_err().to_string();
        assert!(
            error.contains("byte 1536") && error.contains("cut off"),
            "{error}"
        );
        let unended = scan_bytes(&bytes[..3072]).unwrap();
        assert!(unended.notes[0].contains("end-of-archive") && unended.table.len() == 2);
        assert!(scan_bytes(&bytes).unwrap().notes.is_empty());
    }

    #[test]
    fn what_is_no_tar_and_what_repeats_is_refused() {
        let error = scan_bytes(&[b'x'; 2000]).unwrap_err().to_string();
        assert!(error.contains("not a tar"), "{error}");
        let error = scan_bytes(&tar(&[("1.jpg", b"a"), ("1.JPG", b"b")]))
            .unwrap_err()
            .to_string();
        assert!(error.contains("repeats"), "{error}");
        assert!(found(&[0; 1024]).is_empty());
    }

    #[test]
    fn a_size_that_lies_is_refused() {
        let mut bytes = tar(&[("1.jpg", b"abc")]);
        let mut header = tar::Header::new_ustar();
        header.as_mut_bytes().copy_from_slice(&bytes[..512]);
        header.set_size(u64::MAX / 2);
        header.set_cksum();
        bytes[..512].copy_from_slice(header.as_bytes());
        assert!(scan_bytes(&bytes).is_err());
    }
}
