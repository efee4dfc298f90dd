//! Tars of every kind, against what Python's webdataset reads from them; and tars that are cut off, damaged or built to harm.
//! `tests/reference/corpus_tars.py` made the former.

use std::path::{Path, PathBuf};

use mae_loader::{Dataset, DatasetOptions, Error, LabelSource};
use sha2::{Digest, Sha256};
use tar::EntryType;

use super::images::golden;

/// Opens the shard in `bytes`.
fn open(bytes: &[u8]) -> Result<Dataset, Error> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.tar");
    std::fs::write(&path, bytes).unwrap();
    open_at(&path)
}

fn open_at(path: &Path) -> Result<Dataset, Error> {
    let options = DatasetOptions {
        labels: LabelSource::None,
        ..DatasetOptions::default()
    };
    Dataset::open(&[path.to_str().unwrap()], &options)
}

/// Key, and suffix, size and sum of each member.
type Sample = (String, Vec<(String, u64, String)>);

fn samples(dataset: &Dataset) -> Vec<Sample> {
    let mut bytes = Vec::new();
    let sample = |id| {
        let members = dataset.members(id).iter().map(|member| {
            dataset.read_member(id, member, &mut bytes).unwrap();
            let sum: String = Sha256::digest(&bytes)
                .iter()
                .take(8)
                .map(|byte| format!("{byte:02x}"))
                .collect();
            (member.suffix.to_string(), member.size, sum)
        });
        let members = members.collect();
        (dataset.key(id).to_owned(), members)
    };
    dataset.ids().map(sample).collect()
}

#[test]
fn samples_are_those_of_webdataset() {
    let folder: PathBuf = golden().join("tars");
    let text = std::fs::read_to_string(folder.join("cases.json")).unwrap();
    let cases: serde_json::Value = serde_json::from_str(&text).unwrap();
    let cases = cases["cases"].as_array().unwrap();
    assert!(cases.len() > 30);
    let mut wrong = Vec::new();
    for case in cases {
        let file = case["file"].as_str().unwrap();
        let opened = open_at(&folder.join(file));
        match (case["error"].as_str(), opened) {
            (Some(text), Err(error)) => {
                let message = error.to_string();
                let placed = matches!(&error, Error::Shard { shard, .. } if shard.ends_with(file));
                let empty = matches!(error, Error::NoSamples { .. });
                if !(message.contains(text) && (placed || empty)) {
                    wrong.push(format!("{file}: {message}"));
                }
                println!("{message}");
            }
            (None, Ok(dataset)) => {
                let expected: Vec<Sample> =
                    serde_json::from_value(case["webdataset"].clone()).unwrap();
                // Those without an image are none of ours.
                let images = |sample: &Sample| sample.1.iter().any(|member| member.0 == "jpg");
                let expected: Vec<Sample> = expected.into_iter().filter(images).collect();
                if samples(&dataset) != expected {
                    wrong.push(format!("{file}: {:?}", samples(&dataset)));
                }
            }
            (Some(_), Ok(_)) => wrong.push(format!("{file}: no error")),
            (None, Err(error)) => wrong.push(format!("{file}: {error}")),
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn header(kind: EntryType, size: u64, name: &str) -> [u8; 512] {
    let mut header = tar::Header::new_gnu();
    header.as_gnu_mut().unwrap().name[..name.len()].copy_from_slice(name.as_bytes());
    header.set_entry_type(kind);
    header.set_size(size);
    header.set_cksum();
    *header.as_bytes()
}

/// Three samples with labels, one of them under a long name.
fn three() -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    let long = format!("{}/{}", "folder".repeat(20), "name".repeat(30));
    for (key, length) in [("a", 700), (long.as_str(), 100), ("c", 1500)] {
        for (suffix, data) in [("jpg", vec![7; length]), ("cls", b"1".to_vec())] {
            let mut header = tar::Header::new_gnu();
            header.set_size(data.len() as u64);
            builder
                .append_data(&mut header, format!("{key}.{suffix}"), data.as_slice())
                .unwrap();
        }
    }
    builder.into_inner().unwrap()
}

/// An error that names the place, or fewer samples with a note: never fewer without a word.
#[test]
fn a_tar_cut_anywhere_says_so() {
    let bytes = three();
    let whole = samples(&open(&bytes).unwrap());
    assert_eq!(whole.len(), 3);
    let lengths = (0..bytes.len())
        .step_by(128)
        .flat_map(|length| [length, length + 1]);
    for length in lengths {
        match open(&bytes[..length]) {
            Ok(dataset) => {
                let found: Vec<_> = samples(&dataset).into_iter().flat_map(|s| s.1).collect();
                let all: Vec<_> = whole.iter().flat_map(|s| s.1.clone()).collect();
                assert_eq!(found, all[..found.len()], "cut to {length}");
                let noted = !dataset.shards()[0].notes.is_empty();
                assert!(noted || found.len() == all.len(), "cut to {length}");
            }
            Err(Error::Shard { shard, offset, .. }) => {
                assert!(shard.ends_with("x.tar") && offset as usize <= length);
            }
            Err(Error::NoSamples { .. }) => assert!(length < 512, "cut to {length}"),
            Err(other) => panic!("cut to {length}: {other}"),
        }
    }
}

/// A header that was changed anywhere is an error that names where it stands, or still says the same.
#[test]
fn a_damaged_header_is_named() {
    let bytes = three();
    let whole = samples(&open(&bytes).unwrap());
    let second = 512 + 1024;
    for start in [0, second] {
        for at in start..start + 512 {
            for mask in [0x01, 0x80, 0xff] {
                let mut damaged = bytes.clone();
                damaged[at] ^= mask;
                match open(&damaged) {
                    Ok(dataset) => assert_eq!(samples(&dataset), whole, "byte {at}"),
                    Err(Error::Shard { offset, .. }) => {
                        assert_eq!(offset as usize, start, "byte {at}");
                    }
                    Err(other) => panic!("byte {at}: {other}"),
                }
            }
        }
    }
}

/// Blocks lost, doubled, swapped or overwritten: an answer, whatever it is.
#[test]
fn shuffled_blocks_are_never_a_panic() {
    let bytes = three();
    let blocks: Vec<&[u8]> = bytes.chunks(512).collect();
    let mut state = 1u32;
    let mut draw = |below: usize| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as usize % below
    };
    for _ in 0..500 {
        let mut shuffled = blocks.clone();
        for _ in 0..3 {
            let at = draw(shuffled.len());
            let other = draw(shuffled.len());
            match draw(3) {
                0 => drop(shuffled.remove(at)),
                1 => shuffled.insert(at, shuffled[other]),
                _ => shuffled.swap(at, other),
            }
        }
        if let Ok(dataset) = open(&shuffled.concat()) {
            samples(&dataset);
        }
    }
}

/// Names and records are as long as the tar says: not all of that is read.
#[test]
fn names_without_end_are_refused() {
    for (kind, word) in [
        (EntryType::GNULongName, "names and records"),
        (EntryType::GNULongLink, "names and records"),
        (EntryType::XHeader, "names and records"),
    ] {
        let length = 64 << 20;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.tar");
        std::fs::write(&path, header(kind, length, "1.jpg")).unwrap();
        let file = std::fs::File::options().write(true).open(&path).unwrap();
        file.set_len(512 + length + 1024).unwrap();
        let error = open_at(&path).unwrap_err().to_string();
        assert!(error.contains("byte 0") && error.contains(word), "{error}");
    }
    // And one that claims more than there is.
    let mut lies = header(EntryType::GNULongName, 1 << 60, "1.jpg").to_vec();
    lies.resize(4096, b'x');
    assert!(matches!(open(&lies), Err(Error::Shard { .. })));
}

#[test]
fn a_member_of_more_than_a_gigabyte_is_not_read() {
    let length = (1 << 30) + 1;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.tar");
    std::fs::write(&path, header(EntryType::Regular, length, "1.jpg")).unwrap();
    let file = std::fs::File::options().write(true).open(&path).unwrap();
    file.set_len(512 + (1 << 30) + 512 + 1024).unwrap();
    let dataset = open_at(&path).unwrap();
    let id = dataset.ids().next().unwrap();
    let error = dataset.read_image(id, &mut Vec::new()).unwrap_err();
    assert!(
        matches!(&error, Error::Member { offset: 512, sample, .. } if sample.contains("x.tar")),
        "{error}"
    );
}

#[test]
fn a_compressed_tar_that_is_cut_off_is_an_error() {
    use std::io::Write;
    let bytes = three();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&bytes).unwrap();
    let gzip = gzip.finish().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let open_gz = |bytes: &[u8]| {
        let path = folder.path().join("x.tar.gz");
        std::fs::write(&path, bytes).unwrap();
        let options = DatasetOptions {
            labels: LabelSource::None,
            cache_dir: Some(folder.path().join("cache")),
            ..DatasetOptions::default()
        };
        Dataset::open(&[path.to_str().unwrap()], &options)
    };
    assert_eq!(open_gz(&gzip).unwrap().len(), 3);
    for length in [20, gzip.len() / 2, gzip.len() - 9, gzip.len() - 1] {
        let error = open_gz(&gzip[..length]).unwrap_err().to_string();
        assert!(error.contains("x.tar.gz"), "cut to {length}: {error}");
    }
    let mut damaged = gzip;
    let middle = damaged.len() / 2;
    damaged[middle] ^= 0x10;
    assert!(open_gz(&damaged).is_err());
}

/// The tar is the truth: an index that does not fit it is passed over, with a note.
#[test]
fn an_index_that_does_not_fit_is_passed_over() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.tar");
    let index = folder.path().join("index.json");
    std::fs::write(&path, three()).unwrap();
    let whole = open_at(&path).unwrap();
    let expected = samples(&whole);
    mae_loader::shard::build_index(
        &[path.to_str().unwrap()],
        &mae_loader::shard::BuildOptions::default(),
    )
    .unwrap();
    assert!(open_at(&path).unwrap().shards()[0].indexed);

    // Another tar of the same length; and a longer one.
    let renamed = |bytes: &mut [u8]| {
        let mut first = tar::Header::new_gnu();
        first.as_mut_bytes().copy_from_slice(&bytes[..512]);
        first.set_size(699);
        first.set_cksum();
        bytes[..512].copy_from_slice(first.as_bytes());
    };
    let mut other = three();
    renamed(&mut other);
    let mut longer = three();
    longer.extend([0; 512]);
    for bytes in [other, longer] {
        std::fs::write(&path, bytes).unwrap();
        let dataset = open_at(&path).unwrap();
        let info = &dataset.shards()[0];
        assert!(!info.indexed && info.notes.len() == 1, "{:?}", info.notes);
        assert_eq!(samples(&dataset).len(), 3);
    }
    std::fs::write(&path, three()).unwrap();
    let text = std::fs::read_to_string(&index).unwrap();
    for (from, to) in [
        ("\"offset\":[512", "\"offset\":[1024"),
        ("\"offset\":[512", "\"offset\":[18446744073709551615"),
        ("\"size\":[700", "\"size\":[701"),
        ("\"size\":[700", "\"size\":[18446744073709551615"),
        ("\"counts\":[2", "\"counts\":[3"),
        ("\"counts\":[2", "\"counts\":[4294967295"),
        ("\"suffix\":[", "\"suffix\":[77,"),
        ("\"version\":1,\"tar", "\"version\":9,\"tar"),
        ("{", "["),
    ] {
        assert!(text.contains(from), "{from} in {text}");
        std::fs::write(&index, text.replacen(from, to, 1)).unwrap();
        let dataset = open_at(&path).unwrap();
        assert!(!dataset.shards()[0].indexed, "{to}");
        assert_eq!(samples(&dataset), expected, "{to}");
    }
}
