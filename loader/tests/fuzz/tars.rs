//! The header scan, the grouping of members into samples, and the index.

use std::path::Path;

use mae_loader::shard::{BuildOptions, build_index};
use mae_loader::{Dataset, DatasetOptions, LabelSource};
use proptest::prelude::*;

use crate::mutation::{fuzz, mutated};

/// Names that fit a header, that take a GNU long name, and that take a pax header.
fn tars() -> Vec<Vec<u8>> {
    let long = format!("{}/7.cls", "folder/".repeat(30));
    let files = [
        ("1.jpg", 700),
        ("1.cls", 1),
        ("a/2.seg.png", 30),
        ("a/2.JPG", 512),
        (&*long, 0),
    ];
    let write = |header: fn() -> tar::Header, pax: bool| {
        let mut tar = tar::Builder::new(Vec::new());
        for (name, size) in files {
            if pax {
                let records = [("path", name.as_bytes()), ("mtime", b"1.5")];
                tar.append_pax_extensions(records).unwrap();
            }
            let mut header = header();
            header.set_size(size);
            header.set_mode(0o644);
            let data = vec![b'3'; size as usize];
            tar.append_data(&mut header, name, &data[..]).unwrap();
        }
        tar.into_inner().unwrap()
    };
    let gnu = write(tar::Header::new_gnu, false);
    let pax = write(tar::Header::new_ustar, true);
    let twice = [&gnu[..], &pax[..]].concat();
    vec![gnu, pax, twice]
}

/// Sums of the headers at multiples of 512 are made right again, where there is anything like a header: else no change to one gets any
/// further than the sum.
fn mend_sums(bytes: &mut [u8]) {
    for block in bytes.chunks_exact_mut(512) {
        if &block[257..262] == b"ustar" {
            let mut header = tar::Header::new_old();
            header.as_mut_bytes().copy_from_slice(block);
            header.set_cksum();
            block.copy_from_slice(header.as_bytes());
        }
    }
}

/// Reads all that an opened data set says that it has. It may fail, but nothing else.
fn read_all(dataset: &Dataset) {
    let mut buffer = Vec::new();
    for id in dataset.ids() {
        for member in dataset.members(id) {
            if dataset.read_member(id, member, &mut buffer).is_ok() {
                assert_eq!(buffer.len() as u64, member.size);
            }
        }
        let _ = dataset.read_image(id, &mut buffer);
        let _ = dataset.label(id);
    }
}

pub(crate) fn unlabelled() -> DatasetOptions {
    DatasetOptions {
        labels: LabelSource::None,
        ..DatasetOptions::default()
    }
}

/// What is true of every shard that opens: members lie in the tar, in its order, and make samples of differing keys and suffixes.
fn check_table(path: &Path, dataset: &Dataset) -> Result<(), TestCaseError> {
    let length = std::fs::metadata(path).unwrap().len();
    let (mut end, mut last) = (0, None);
    for sample in dataset.table(0).samples() {
        prop_assert!(!sample.members.is_empty() && last != Some(sample.key));
        last = Some(sample.key);
        for (place, member) in sample.members.iter().enumerate() {
            prop_assert!(
                member.offset >= end + 512,
                "{} after {}",
                member.offset,
                end
            );
            end = member.offset + member.size;
            prop_assert!(end <= length);
            prop_assert!(!member.suffix.is_empty());
            let before = &sample.members[..place];
            prop_assert!(before.iter().all(|other| other.suffix != member.suffix));
        }
    }
    Ok(())
}

#[test]
fn tar_scan() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.tar");
    let spec = path.display().to_string();
    let input = (mutated(tars()), any::<bool>());
    fuzz("tar scan", 400, &input, |(mut bytes, mend)| {
        if mend {
            mend_sums(&mut bytes);
        }
        let _ = std::fs::remove_file(folder.path().join("index.json"));
        std::fs::write(&path, &bytes).unwrap();
        if let Ok(labelled) = Dataset::open(&[&spec], &DatasetOptions::default()) {
            read_all(&labelled);
        }
        let Ok(scanned) = Dataset::open(&[&spec], &unlabelled()) else {
            return Ok(false);
        };
        check_table(&path, &scanned)?;
        read_all(&scanned);
        // The way through an index and back changes nothing.
        build_index(&[&spec], &BuildOptions::default()).unwrap();
        let indexed = Dataset::open(&[&spec], &unlabelled()).unwrap();
        prop_assert!(indexed.shards()[0].indexed, "{:?}", indexed.shards()[0]);
        prop_assert_eq!(indexed.table(0), scanned.table(0));
        prop_assert_eq!(indexed.digest(), scanned.digest());
        Ok(true)
    });
}

#[test]
fn grouping() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.tar");
    let spec = path.display().to_string();
    let word = prop::sample::select(vec![
        "a", "b", ".", ".", "/", "jpg", "JPG", "cls", "__", "é", " ", "\\", "0", "..", "a.jpg",
        "b.jpg", ".png",
    ]);
    let name = prop::collection::vec(word, 1..7).prop_map(|words| words.concat());
    let names = prop::collection::vec(name, 0..12);
    fuzz("grouping", 300, &names, |names| {
        let mut tar = tar::Builder::new(Vec::new());
        for name in &names {
            // The library would refuse names such as `../x`, so they are put in by hand.
            let mut header = tar::Header::new_gnu();
            header.as_gnu_mut().unwrap().name[..name.len()].copy_from_slice(name.as_bytes());
            header.set_size(1);
            header.set_cksum();
            tar.append(&header, &b"1"[..]).unwrap();
        }
        std::fs::write(&path, tar.into_inner().unwrap()).unwrap();
        let dataset = Dataset::open(&[&spec], &unlabelled());
        if let Ok(dataset) = &dataset {
            check_table(&path, dataset)?;
            read_all(dataset);
        }
        Ok(dataset.is_ok())
    });
}

#[test]
fn index() {
    let folder = tempfile::tempdir().unwrap();
    let tar = &tars()[0];
    std::fs::write(folder.path().join("a.tar"), tar).unwrap();
    let all = folder.path().display().to_string();
    build_index(&[&all], &BuildOptions::default()).unwrap();
    let path = folder.path().join("index.json");
    let original = std::fs::read(&path).unwrap();
    let itself = path.display().to_string();
    fuzz("index", 500, &mutated(vec![original]), |bytes| {
        std::fs::write(&path, &bytes).unwrap();
        let mut used = false;
        for spec in [&all, &itself] {
            if let Ok(dataset) = Dataset::open(&[spec], &unlabelled()) {
                used |= dataset.shards().iter().any(|shard| shard.indexed);
                read_all(&dataset);
                for shard in 0..dataset.shards().len() {
                    for sample in dataset.table(shard as u32).samples() {
                        for member in sample.members {
                            prop_assert!(member.offset + member.size <= tar.len() as u64);
                        }
                    }
                }
            }
        }
        Ok(used)
    });
}
