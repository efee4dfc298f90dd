//! Opening datasets: images, labels, the index against the tars, the digest; and real shards where they are at hand.

use std::fs;
use std::path::Path;

use super::*;
use crate::shard::testing::{gzip, tar};
use crate::shard::{BuildOptions, INDEX_FILE, Index, build_index};

fn folder(files: &[(&str, Vec<u8>)]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, bytes) in files {
        fs::write(dir.path().join(name), bytes).unwrap();
    }
    dir
}

fn open(dir: &tempfile::TempDir, labels: &str) -> Result<Dataset> {
    let options = DatasetOptions {
        labels: labels.parse().unwrap(),
        cache_dir: Some(dir.path().join("cache")),
        ..DatasetOptions::default()
    };
    Dataset::open(&[dir.path().to_str().unwrap()], &options)
}

fn labels(dataset: &Dataset) -> Vec<Option<u32>> {
    dataset.ids().map(|id| dataset.label(id).unwrap()).collect()
}

fn build(cache: &Path, checksums: bool) -> BuildOptions {
    BuildOptions {
        cache_dir: Some(cache.to_path_buf()),
        cache_bytes: 1 << 20,
        checksums,
        output: None,
    }
}

#[test]
fn samples_without_an_image_are_passed_over() {
    let shard = tar(&[
        ("a.cls", b"1"),
        ("b.jpg", b"B"),
        ("c.png", b"C"),
        ("c.jpeg", b"D"),
        ("d.cls", b"0"),
        ("d.jpg", b"E"),
    ]);
    let dir = folder(&[("0.tar", shard), ("1.tar", tar(&[]))]);
    let dataset = open(&dir, "none").unwrap();
    let mut image = Vec::new();
    let images: Vec<u8> = dataset
        .ids()
        .flat_map(|id| {
            dataset.read_image(id, &mut image).unwrap();
            image.clone()
        })
        .collect();
    assert_eq!(
        images, b"BDE",
        "of several images the first suffix of the options is taken"
    );
    assert_eq!(
        (
            dataset.shards()[0].samples,
            dataset.shards()[0].without_image
        ),
        (3, 1)
    );
    assert_eq!(dataset.shard_len(1), 0);
    assert!(!dataset.has_labels());

    let dir = folder(&[("0.tar", tar(&[("a.cls", b"1")]))]);
    assert!(matches!(
        open(&dir, "none"),
        Err(Error::NoSamples { shards: 1, .. })
    ));
}

#[test]
fn labels_come_from_text_or_json_or_not_at_all() {
    let none = folder(&[("0.tar", tar(&[("a.jpg", b"x")]))]);
    assert_eq!(labels(&open(&none, "cls").unwrap()), [None]);
    assert!(
        open(&none, "json:wnid")
            .unwrap_err()
            .to_string()
            .contains("json:wnid")
    );

    let some = folder(&[(
        "0.tar",
        tar(&[("a.jpg", b"x"), ("a.cls", b"4"), ("b.jpg", b"x")]),
    )]);
    let dataset = open(&some, "cls").unwrap();
    assert_eq!(
        dataset
            .label(SampleId {
                shard: 0,
                ordinal: 0
            })
            .unwrap(),
        Some(4)
    );
    let error = dataset
        .label(SampleId {
            shard: 0,
            ordinal: 1,
        })
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("0.tar: b") && error.contains(".cls"),
        "{error}"
    );
    fs::write(some.path().join("classes.json"), r#"["a", "b"]"#).unwrap();
    let error = open(&some, "cls")
        .unwrap()
        .label(SampleId {
            shard: 0,
            ordinal: 0,
        })
        .unwrap_err()
        .to_string();
    assert!(error.contains("lists 2 classes"), "{error}");

    let named = tar(&[
        ("a.jpg", b"x"),
        ("a.json", br#"{"w":"n2"}"#),
        ("b.jpg", b"x"),
        ("b.json", br#"{"w":"n1"}"#),
    ]);
    let named = folder(&[("0.tar", named)]);
    let dataset = open(&named, "json:w").unwrap();
    assert_eq!(
        (labels(&dataset), dataset.classes().unwrap()),
        (vec![Some(1), Some(0)], &["n1".into(), "n2".into()][..])
    );
    fs::write(named.path().join("classes.json"), r#"["n3", "n2", "n1"]"#).unwrap();
    assert_eq!(labels(&open(&named, "json:w").unwrap()), [Some(1), Some(2)]);
    fs::write(named.path().join("classes.json"), "{}").unwrap();
    assert!(matches!(open(&named, "json:w"), Err(Error::Index { .. })));
}

#[test]
fn an_index_that_does_not_fit_gives_way_to_the_tar() {
    let before = tar(&[("a.jpg", b"first"), ("b.jpg", b"second")]);
    let dir = folder(&[("0.tar.gz", gzip(&before)), ("1.tar.gz", gzip(&before))]);
    let spec = [dir.path().to_str().unwrap()];
    let cache = dir.path().join("cache");
    let built = build_index(&spec, &build(&cache, true)).unwrap();
    assert_eq!((built[0].shards, built[0].samples), (2, 4));
    assert!(
        open(&dir, "none")
            .unwrap()
            .shards()
            .iter()
            .all(|shard| shard.indexed)
    );

    // The same lengths, stored and inflated, and other places: only the headers tell.
    let after = tar(&[("a.jpg", b"a sentence of some length"), ("b.jpg", b"!")]);
    let (stored, size) = (gzip(&after), gzip(&before).len() as u64);
    fs::write(dir.path().join("1.tar.gz"), &stored).unwrap();
    let path = dir.path().join(INDEX_FILE);
    let mut index = Index::read(&path).unwrap().unwrap();
    assert_eq!(
        (before.len(), index.shardlist[1].filesize),
        (after.len(), size)
    );
    index.shardlist[1].filesize = stored.len() as u64;
    index.write(&path).unwrap();

    // Nothing is inflated before it is read, unless it has to be.
    let dataset = open(&dir, "none").unwrap();
    let read = |dataset: &Dataset| {
        let id = SampleId {
            shard: 1,
            ordinal: 0,
        };
        dataset.read_image(id, &mut Vec::new())
    };
    let error = read(&dataset).unwrap_err().to_string();
    assert!(error.contains("mae index"), "{error}");

    let dataset = open(&dir, "none").unwrap();
    assert_eq!(
        dataset
            .shards()
            .iter()
            .map(|s| s.indexed)
            .collect::<Vec<_>>(),
        [true, false]
    );
    assert!(
        dataset.shards()[1].notes[0].contains("mae index"),
        "{:?}",
        dataset.shards()[1].notes
    );
    let mut image = Vec::new();
    dataset
        .read_image(
            SampleId {
                shard: 1,
                ordinal: 0,
            },
            &mut image,
        )
        .unwrap();
    assert_eq!(image, b"a sentence of some length");

    fs::remove_file(dir.path().join("0.tar.gz")).unwrap();
    let error = open(&dir, "none").unwrap_err().to_string();
    assert!(
        error.contains("0.tar.gz") && error.contains("not there"),
        "{error}"
    );
    build_index(&spec, &build(&cache, false)).unwrap();
    assert_eq!(open(&dir, "none").unwrap().len(), 2);

    fs::write(&path, "{").unwrap();
    assert_eq!(
        open(&dir, "none").unwrap().len(),
        2,
        "a broken index is passed over"
    );
}

#[test]
fn the_digest_pins_names_order_and_sizes() {
    let digest = |name: &str, members: &[(&str, &[u8])]| {
        open(&folder(&[(name, tar(members))]), "none")
            .unwrap()
            .digest()
            .to_owned()
    };
    let base = digest("0.tar", &[("a.jpg", b"x"), ("b.jpg", b"y")]);
    assert_eq!(base.len(), 64);
    assert_eq!(base, digest("0.tar", &[("a.jpg", b"x"), ("b.jpg", b"y")]));
    for other in [
        digest("1.tar", &[("a.jpg", b"x"), ("b.jpg", b"y")]),
        digest("0.tar", &[("b.jpg", b"x"), ("a.jpg", b"y")]),
        digest("0.tar", &[("a.jpg", b"x"), ("b.jpg", b"yy")]),
        digest("0.tar", &[("a.jpg", b"x"), ("b.png", b"y")]),
        digest("0.tar", &[("a.jpg", b"x")]),
    ] {
        assert_ne!(base, other);
    }
}

#[test]
fn real_data_opens() {
    let Some(data) = std::env::var_os("MAE_TEST_DATA").map(PathBuf::from) else {
        println!("skipped: MAE_TEST_DATA is not set");
        return;
    };
    let cache = tempfile::tempdir().unwrap();
    let options = DatasetOptions {
        cache_dir: Some(cache.path().to_path_buf()),
        ..Default::default()
    };
    let cifar = data.join("cifar10/train-*.tar.gz").display().to_string();
    let dataset = Dataset::open(&[&cifar], &options).unwrap();
    assert_eq!((dataset.shards().len(), dataset.len()), (10, 50_000));
    let mut counts = [0; 10];
    for id in dataset.ids() {
        counts[dataset.label(id).unwrap().unwrap() as usize] += 1;
    }
    assert_eq!(counts, [5000; 10]);
    assert_eq!(dataset.classes().unwrap()[9], "truck");
    let again = Dataset::open(&[&cifar], &options).unwrap();
    assert_eq!(again.digest(), dataset.digest());

    let folder = data.join("cifar10").display().to_string();
    let error = Dataset::open(&[&folder], &options).unwrap_err();
    assert!(matches!(error, Error::MixedPrefixes { .. }), "{error}");

    let photos = data.join("imagenet-sample").display().to_string();
    let labels = "json:wnid".parse().unwrap();
    let dataset = Dataset::open(&[&photos], &DatasetOptions { labels, ..options }).unwrap();
    assert_eq!(dataset.len(), 600);
    assert_eq!(dataset.classes().unwrap().len(), 600);
    let mut image = Vec::new();
    for (id, class) in dataset.ids().zip(0..) {
        dataset.read_image(id, &mut image).unwrap();
        assert!(image.starts_with(&[0xff, 0xd8]) && image.len() > 1000);
        let wnid = &dataset.classes().unwrap()[dataset.label(id).unwrap().unwrap() as usize];
        assert!(dataset.key(id).starts_with(wnid.as_str()), "sample {class}");
    }
}
