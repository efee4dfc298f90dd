//! The same input through the loader: bad samples are replaced, counted and named, and the run goes on.

#[path = "../common/mod.rs"]
mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use mae_loader::{
    BadReason, Cursor, Dataset, DatasetOptions, DecoderKind, LabelSource, Loader, Transform,
};

use super::images::{Expected, LIMIT, cases};
use common::{jpeg, tar};

fn kinds() -> Vec<DecoderKind> {
    let mut kinds = vec![DecoderKind::Zune];
    if DecoderKind::HAS_TURBO {
        kinds.push(DecoderKind::Turbo);
    }
    kinds
}

fn dataset(path: &Path, labels: &str) -> Arc<Dataset> {
    let options = DatasetOptions {
        labels: labels.parse::<LabelSource>().unwrap(),
        ..DatasetOptions::default()
    };
    Arc::new(Dataset::open(&[path.to_str().unwrap()], &options).unwrap())
}

/// One epoch: keys of bad samples with the reasons, how many samples came, and how many were counted as bad.
fn epoch(
    dataset: &Arc<Dataset>,
    kind: DecoderKind,
    transform: Transform,
) -> (BTreeMap<String, BadReason>, u64, u64) {
    let loader = Loader::builder(Arc::clone(dataset))
        .image_size(32, 32)
        .batch_size(8)
        .threads(3)
        .drop_last(false)
        .decoder(kind)
        .transform(transform)
        .max_pixels(LIMIT)
        .max_bad_fraction(1.0)
        .build()
        .unwrap();
    let mut bad = BTreeMap::new();
    for batch in loader.batches(Cursor::default()) {
        let batch = batch.unwrap();
        for sample in batch.bad() {
            assert_eq!(batch.samples()[sample.slot], sample.replacement);
            let key = dataset.key(sample.sample).to_owned();
            bad.insert(key, sample.reason.clone());
        }
    }
    (bad, loader.stats().samples, loader.stats().bad)
}

#[test]
fn bad_images_are_replaced_counted_and_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.tar");
    let cases = cases();
    let key = |file: &str| file.trim_end_matches(".jpg").replace('.', "-");
    let members = cases
        .iter()
        .map(|case| (format!("{}.jpg", key(&case.file)), case.bytes.clone()));
    tar(&path, members);
    let dataset = dataset(&path, "none");
    assert_eq!(dataset.len(), cases.len() as u64);
    let expected: BTreeMap<String, &str> = cases
        .iter()
        .filter_map(|case| match &case.expected {
            Expected::Bad(reason) => Some((key(&case.file), reason.as_str())),
            Expected::Pixels { .. } => None,
        })
        .collect();
    let train = Transform::Train(mae_loader::TrainTransform::default());
    for transform in [train, Transform::Eval { resize: 32 }] {
        for kind in kinds() {
            let (bad, samples, counted) = epoch(&dataset, kind, transform);
            let named: BTreeSet<&String> = bad.keys().collect();
            assert_eq!(named, expected.keys().collect(), "{kind}");
            assert_eq!(counted as usize, expected.len());
            assert_eq!(samples, dataset.len());
            for (key, reason) in bad {
                assert!(
                    reason.to_string().contains(expected[&key]),
                    "{key}: {reason}"
                );
            }
        }
    }
}

#[test]
fn labels_that_are_no_numbers_make_samples_bad() {
    let image = jpeg((40, 40), |_| (), |i| i as u8);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.tar");
    let labels: [(&str, Option<&[u8]>, bool); 13] = [
        ("plain", Some(b"7"), true),
        ("spaced", Some(b" 7 \r\n"), true),
        ("zeros", Some(b"007"), true),
        ("missing", None, false),
        ("empty", Some(b""), false),
        ("word", Some(b"cat"), false),
        ("negative", Some(b"-1"), false),
        ("fraction", Some(b"1.0"), false),
        ("exponent", Some(b"1e3"), false),
        ("two", Some(b"1 2"), false),
        ("large", Some(b"4294967296"), false),
        ("bytes", Some(&[0xff; 3000]), false),
        ("binary", Some(&[7, 0, 0, 0]), false),
    ];
    let members = labels.iter().flat_map(|(key, label, _)| {
        let image = Some((format!("{key}.jpg"), image.clone()));
        let label = label.map(|label| (format!("{key}.cls"), label.to_vec()));
        [image, label].into_iter().flatten()
    });
    tar(&path, members);
    let dataset = dataset(&path, "cls");
    for kind in kinds() {
        let (bad, _, _) = epoch(&dataset, kind, Transform::Eval { resize: 32 });
        for (key, label, good) in labels {
            match bad.get(key) {
                None => assert!(good, "{key}: {label:?}"),
                Some(BadReason::Label(reason)) => {
                    assert!(!good, "{key}: {reason}");
                    // However long the label is, the message is not.
                    assert!(reason.len() < 200, "{reason}");
                }
                other => panic!("{key}: {other:?}"),
            }
        }
    }
}
