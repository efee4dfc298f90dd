//! Writing and publishing shards: read back, reproducible, never half there.

use std::fs;

use super::*;
use crate::shard::{INDEX_FILE, Index};
use crate::{Dataset, DatasetOptions};

fn target(dir: &Path, overwrite: bool) -> Result<ShardTarget> {
    ShardTarget::prepare(dir, "t-%03d.tar".parse().unwrap(), overwrite)
}

fn writer(dir: &Path, max_count: u64) -> ShardWriter {
    ShardWriter::new(
        target(dir, false).unwrap(),
        Limits {
            max_count,
            ..Limits::default()
        },
    )
}

fn write(writer: &mut ShardWriter, samples: u32) {
    for sample in 0..samples {
        let label = (sample % 3).to_string();
        writer
            .write(
                &format!("k/{sample}"),
                &[("jpg", &[sample as u8; 700]), ("cls", label.as_bytes())],
            )
            .unwrap();
    }
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(dir)
        .unwrap()
        .map(|e| e.unwrap().file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

const CLASSES: [&str; 3] = ["a", "b", "c"];

#[test]
fn what_is_written_is_read_back_through_the_index() {
    let dir = tempfile::tempdir().unwrap();
    let classes = CLASSES.map(String::from);
    let mut writer = writer(dir.path(), 4);
    write(&mut writer, 10);
    assert_eq!(
        names(dir.path()),
        [
            ".t-000.tar.partial",
            ".t-001.tar.partial",
            ".t-002.tar.partial"
        ]
    );
    let written = writer.finish(Some(&classes)).unwrap();
    assert_eq!((written.shards, written.samples), (3, 10));
    assert_eq!(
        names(dir.path()),
        [
            "classes.json",
            "index.json",
            "t-000.tar",
            "t-001.tar",
            "t-002.tar"
        ]
    );

    let open =
        || Dataset::open(&[dir.path().to_str().unwrap()], &DatasetOptions::default()).unwrap();
    let dataset = open();
    assert!(dataset.shards().iter().all(|shard| shard.indexed));
    assert_eq!(dataset.classes().unwrap(), CLASSES);
    let mut image = Vec::new();
    for (sample, id) in (0..).zip(dataset.ids()) {
        dataset.read_image(id, &mut image).unwrap();
        assert_eq!(image, [sample as u8; 700]);
        assert_eq!(dataset.key(id), format!("k/{sample}"));
        assert_eq!(dataset.label(id).unwrap(), Some(sample % 3));
    }

    fs::remove_file(dir.path().join(INDEX_FILE)).unwrap();
    let scanned = open();
    assert!(scanned.shards().iter().all(|shard| !shard.indexed));
    assert_eq!(scanned.digest(), dataset.digest());
}

#[test]
fn the_same_samples_give_the_same_bytes_and_checksums() {
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    for dir in [&one, &two] {
        let mut writer = writer(dir.path(), 4);
        write(&mut writer, 6);
        writer.finish(None).unwrap();
    }
    for name in ["t-000.tar", "t-001.tar", "index.json"] {
        assert_eq!(
            fs::read(one.path().join(name)).unwrap(),
            fs::read(two.path().join(name)).unwrap(),
            "{name}"
        );
    }
    let index = Index::read(&one.path().join(INDEX_FILE)).unwrap().unwrap();
    let tar = fs::read(one.path().join("t-000.tar")).unwrap();
    assert_eq!(
        index.shardlist[0].md5sum.as_deref(),
        Some(hex(&Md5::digest(&tar)).as_str())
    );
    assert_eq!(index.shardlist[0].filesize, tar.len() as u64);
}

#[test]
fn nothing_finished_is_left_by_a_writer_that_is_dropped_or_killed() {
    let dir = tempfile::tempdir().unwrap();
    let mut dropped = writer(dir.path(), 4);
    write(&mut dropped, 10);
    drop(dropped);
    assert!(names(dir.path()).is_empty());

    let mut killed = writer(dir.path(), 4);
    write(&mut killed, 10);
    std::mem::forget(killed);
    assert!(Dataset::open(&[dir.path().to_str().unwrap()], &DatasetOptions::default()).is_err());
    target(dir.path(), false).unwrap();
    assert!(names(dir.path()).is_empty(), "the next run clears away");
}

#[test]
fn finished_shards_are_replaced_only_when_asked() {
    let dir = tempfile::tempdir().unwrap();
    let mut first = writer(dir.path(), 2);
    write(&mut first, 6);
    first.finish(None).unwrap();
    let error = target(dir.path(), false).unwrap_err().to_string();
    assert!(error.contains("--overwrite"), "{error}");

    let mut again = ShardWriter::new(target(dir.path(), true).unwrap(), Limits::default());
    write(&mut again, 3);
    assert!(
        dir.path().join("t-002.tar").exists(),
        "the old ones stay until the new ones are whole"
    );
    again.finish(None).unwrap();
    assert_eq!(names(dir.path()), ["index.json", "t-000.tar"]);
    let dataset =
        Dataset::open(&[dir.path().to_str().unwrap()], &DatasetOptions::default()).unwrap();
    assert_eq!(dataset.len(), 3);
}

#[test]
fn two_sets_share_a_folder_and_its_classes() {
    let dir = tempfile::tempdir().unwrap();
    let classes = CLASSES.map(String::from);
    let set = |pattern: &str, classes: &[String]| {
        let target = ShardTarget::prepare(dir.path(), pattern.parse().unwrap(), false)?;
        let mut writer = ShardWriter::new(target, Limits::default());
        write(&mut writer, 3);
        writer.finish(Some(classes))
    };
    set("train-%d.tar", &classes).unwrap();
    let error = set("test-%d.tar", &classes[..2]).unwrap_err().to_string();
    assert!(error.contains("other classes"), "{error}");
    set("test-%d.tar", &classes).unwrap();
    let index = Index::read(&dir.path().join(INDEX_FILE)).unwrap().unwrap();
    let urls: Vec<_> = index
        .shardlist
        .iter()
        .map(|entry| entry.url.as_str())
        .collect();
    assert_eq!(urls, ["test-0.tar", "train-0.tar"]);
}

#[test]
fn what_readers_would_misread_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = writer(dir.path(), 4);
    for key in ["", "a.b", "/a", "../a", "a/../b", ".a", "__x__/a", "a/"] {
        assert!(writer.write(key, &[("jpg", b"x")]).is_err(), "key {key:?}");
    }
    for suffix in ["", "JPG", "_x", ".jpg", "a/b"] {
        assert!(
            writer.write("a", &[(suffix, b"x")]).is_err(),
            "suffix {suffix:?}"
        );
    }
    assert!(writer.write("a", &[]).is_err());
    assert!(writer.write("a", &[("jpg", b"x"), ("jpg", b"y")]).is_err());
    writer.write("a", &[("seg.png", b"x")]).unwrap();
    assert!(
        writer.write("a", &[("jpg", b"x")]).is_err(),
        "would join the sample before"
    );
    let empty = ShardWriter::new(
        target(&dir.path().join("new"), false).unwrap(),
        Limits::default(),
    );
    assert!(
        empty
            .finish(None)
            .unwrap_err()
            .to_string()
            .contains("no samples")
    );
}

#[test]
#[cfg(target_os = "linux")]
fn a_full_disk_is_said_and_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = writer(dir.path(), 1000);
    // Every write to this device fails as on a full disk.
    std::os::unix::fs::symlink("/dev/full", dir.path().join(".t-000.tar.partial")).unwrap();
    let big = vec![0; 1 << 20];
    let error = writer.write("a", &[("jpg", &big)]).unwrap_err().to_string();
    assert!(
        error.contains("No space left") && error.contains("t-000.tar"),
        "{error}"
    );
    assert!(
        writer
            .finish(None)
            .unwrap_err()
            .to_string()
            .contains("No space left")
    );
    assert!(names(dir.path()).is_empty());
}

#[test]
fn shards_of_another_process_are_published_with_ones_own() {
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let shard = |target: &ShardTarget, number: u64| {
        let mut shard = target.shard(number).unwrap();
        shard
            .write(&number.to_string(), &[("jpg", &[number as u8; 700])])
            .unwrap();
        shard.finish().unwrap()
    };
    let alone = target(one.path(), false).unwrap();
    let shards = vec![shard(&alone, 0), shard(&alone, 1)];
    alone.publish(shards, None).unwrap();

    let first = target(two.path(), false).unwrap();
    let other = ShardTarget::joined(two.path(), "t-%03d.tar".parse().unwrap());
    let others = shard(&other, 0);
    let entry = others.entry().clone();
    for (wrong, said) in [
        (
            IndexEntry {
                url: "t-002.tar".into(),
                ..entry.clone()
            },
            "t-002.tar",
        ),
        (
            IndexEntry {
                url: "../t-000.tar".into(),
                ..entry.clone()
            },
            "no shard of t-%03d.tar",
        ),
        (
            IndexEntry {
                filesize: 1,
                ..entry.clone()
            },
            "where 1 were written",
        ),
    ] {
        let error = first.take_over(wrong).err().unwrap().to_string();
        assert!(error.contains(said), "{error}");
    }
    let shards = vec![shard(&first, 1), first.take_over(entry).unwrap()];
    first.publish(shards, None).unwrap();
    drop(others);
    assert_eq!(names(one.path()), names(two.path()));
    for name in names(one.path()) {
        let read = |dir: &tempfile::TempDir| fs::read(dir.path().join(&name)).unwrap();
        assert!(read(&one) == read(&two), "{name}");
    }
}
