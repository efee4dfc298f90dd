//! Opening an index of a million samples, and going on from a cursor in the middle of an epoch.
//!
//! `cargo test --release -p mae-loader --test million -- --nocapture` says how long it takes. The index is as large as a real one; the
//! shards are sparse files as large as real ones, in which all samples of a shard are one image.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{Seek, SeekFrom, Write as _};
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use mae_loader::{Cursor, Dataset, DatasetOptions, LabelSource, Loader, Transform};

const SHARDS: usize = 1000;
const SAMPLES: usize = 1000;
/// Where the one image of a shard lies, so that offsets have as many digits as in a shard of 1,000 photographs.
const AT: u64 = 110_000_128;

/// An index by `mae index`, and shards that fit it.
fn write(folder: &Path) {
    let mut jpeg = Vec::new();
    let pixels: Vec<u8> = (0..32 * 32 * 3).map(|i| (i / 12) as u8).collect();
    jpeg_encoder::Encoder::new(&mut jpeg, 90)
        .encode(&pixels, 32, 32, jpeg_encoder::ColorType::Rgb)
        .unwrap();
    let member = |name: &str, data: &[u8]| {
        let mut header = tar::Header::new_gnu();
        header.set_path(name).unwrap();
        header.set_size(data.len() as u64);
        header.set_mode(0o644);
        header.set_cksum();
        let mut bytes = header.as_bytes().to_vec();
        bytes.extend(data);
        bytes.resize(bytes.len().next_multiple_of(512), 0);
        bytes
    };
    let (cls, jpg) = (member("x.cls", b"7"), member("x.jpg", &jpeg));
    let jpg_at = AT + cls.len() as u64;
    let length = jpg_at + jpg.len() as u64 + 1024;

    let repeated = |text: String| vec![text; SAMPLES].join(",");
    let counts = repeated("2".into());
    let suffix = repeated("0,1".into());
    let offset = repeated(format!("{},{}", AT + 512, jpg_at + 512));
    let size = repeated(format!("1,{}", jpeg.len()));
    let mut shards = Vec::new();
    for shard in 0..SHARDS {
        let name = format!("train-{shard:06}.tar");
        let mut file = File::create(folder.join(&name)).unwrap();
        file.set_len(length).unwrap();
        file.seek(SeekFrom::Start(AT)).unwrap();
        file.write_all(&cls).unwrap();
        file.write_all(&jpg).unwrap();
        let mut keys = String::new();
        for sample in 0..SAMPLES {
            let comma = if sample > 0 { "," } else { "" };
            let class = shard * 7919 % 1000;
            write!(
                keys,
                r#"{comma}"n{class:08}/n{class:08}_{:05}""#,
                sample * 13
            )
            .unwrap();
        }
        shards.push(format!(
            r#"{{"url":"{name}","md5sum":"0123456789abcdef0123456789abcdef","nsamples":{SAMPLES},"filesize":{length},"#
        ) + &format!(
            r#""mae":{{"version":1,"tar_bytes":{length},"suffixes":["cls","jpg"],"keys":[{keys}],"counts":[{counts}],"#
        ) + &format!(r#""suffix":[{suffix}],"offset":[{offset}],"size":[{size}]}}}}"#));
    }
    let index = format!(
        r#"{{"__kind__":"wids-shard-index-v1","wids_version":1,"shardlist":[{}]}}"#,
        shards.join(",")
    );
    fs::write(folder.join("index.json"), index).unwrap();
}

#[test]
fn a_million_samples_are_taken_up_in_mid_epoch() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path());
    let options = DatasetOptions {
        labels: LabelSource::Cls,
        ..DatasetOptions::default()
    };
    let started = Instant::now();
    let dataset = Dataset::open(&[folder.path().to_str().unwrap()], &options).unwrap();
    let opened = started.elapsed();
    let dataset = Arc::new(dataset);
    assert_eq!(dataset.len(), (SHARDS * SAMPLES) as u64);
    assert!(dataset.shards().iter().all(|shard| shard.indexed));

    let loader = Loader::builder(Arc::clone(&dataset))
        .image_size(32, 32)
        .transform(Transform::default())
        .batch_size(256)
        .masks(64, 16)
        .epochs(100)
        .build()
        .unwrap();
    let built = started.elapsed();
    let cursor = Cursor {
        epoch: 57,
        step: loader.steps_per_epoch() / 2,
    };
    let batch = loader.batches(cursor).next().unwrap().unwrap();
    let first = started.elapsed();
    assert_eq!((batch.cursor(), batch.len()), (cursor, 256));
    assert!(batch.labels().unwrap().iter().all(|&label| label == 7));
    println!(
        "index of {:.1} MB; {opened:.2?} to open, {:.2?} to build the loader, {:.2?} more to the first batch: {first:.2?}",
        fs::metadata(folder.path().join("index.json"))
            .unwrap()
            .len() as f64
            / 1e6,
        built - opened,
        first - built,
    );
}
