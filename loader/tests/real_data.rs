//! Real photographs: `MAE_TEST_DATA` names a folder with `imagenet-sample/` (JPEGs in plain tars, no `.cls`) and `cifar10/`
//! (PNG or JPEG in gzipped tars). Skipped where it is not set.

use std::path::PathBuf;
use std::sync::Arc;

use mae_loader::{Cursor, Dataset, DatasetOptions, Loader, LoaderBuilder, Transform};

fn open(folder: &str, labels: &str) -> Option<Arc<Dataset>> {
    let Some(root) = std::env::var_os("MAE_TEST_DATA") else {
        println!("skipped: MAE_TEST_DATA is not set");
        return None;
    };
    let spec = PathBuf::from(root).join(folder);
    let options = DatasetOptions {
        labels: labels.parse().unwrap(),
        ..DatasetOptions::default()
    };
    Some(Arc::new(
        Dataset::open(&[spec.to_str().unwrap()], &options).unwrap(),
    ))
}

/// A number that changes with any byte handed over.
fn digest(loader: &Loader, from: Cursor) -> (u64, u64) {
    let (mut sum, mut samples) = (0u64, 0);
    for batch in loader.batches(from) {
        let batch = batch.unwrap();
        assert_eq!(batch.bad(), []);
        let parts = [
            batch.ids_keep(),
            batch.ids_restore(),
            batch.labels().unwrap(),
        ];
        let words = parts.into_iter().flatten().copied();
        for value in batch
            .pixels()
            .iter()
            .map(|&byte| u32::from(byte))
            .chain(words)
        {
            sum = sum.wrapping_mul(0x0000_0100_0000_01b3) ^ u64::from(value);
        }
        samples += batch.len() as u64;
    }
    (sum, samples)
}

fn photographs(dataset: &Arc<Dataset>) -> LoaderBuilder {
    Loader::builder(Arc::clone(dataset))
        .image_size(96, 96)
        .batch_size(50)
        .masks(36, 9)
        .max_bad_fraction(0.0)
}

#[test]
fn photographs_stream_alike_on_any_number_of_threads() {
    let Some(dataset) = open("imagenet-sample", "json:wnid") else {
        return;
    };
    let one = digest(
        &photographs(&dataset).threads(1).build().unwrap(),
        Cursor::default(),
    );
    assert_eq!(one.1, dataset.len() - dataset.len() % 50);
    assert_eq!(
        digest(
            &photographs(&dataset).threads(8).build().unwrap(),
            Cursor::default()
        ),
        one
    );
    let other_seed = photographs(&dataset).seed(1).build().unwrap();
    assert_ne!(digest(&other_seed, Cursor::default()).0, one.0);
}

#[test]
fn photographs_evaluate_in_order() {
    let Some(dataset) = open("imagenet-sample", "json:wnid") else {
        return;
    };
    let loader = photographs(&dataset)
        .batch_size(64)
        .transform(Transform::Eval { resize: 110 })
        .build()
        .unwrap();
    let samples: Vec<_> = loader
        .batches(Cursor::default())
        .flat_map(|batch| batch.unwrap().samples().to_vec())
        .collect();
    assert!(samples.is_sorted_by(|a, b| a < b));
    assert_eq!(samples.len() as u64, dataset.len());
}

#[test]
fn small_images_in_compressed_shards_pass_unchanged_in_evaluation() {
    let Some(root) = std::env::var_os("MAE_TEST_DATA") else {
        println!("skipped: MAE_TEST_DATA is not set");
        return;
    };
    let spec = PathBuf::from(root).join("cifar10/test-*.tar.gz");
    let dataset =
        Arc::new(Dataset::open(&[spec.to_str().unwrap()], &DatasetOptions::default()).unwrap());
    let loader = Loader::builder(Arc::clone(&dataset))
        .image_size(32, 32)
        .batch_size(256)
        .transform(Transform::Eval { resize: 32 })
        .max_bad_fraction(0.0)
        .build()
        .unwrap();
    let mut classes = [0; 10];
    let mut seen = 0;
    for batch in loader.batches(Cursor::default()) {
        let batch = batch.unwrap();
        for &label in batch.labels().unwrap() {
            classes[label as usize] += 1;
        }
        seen += batch.len() as u64;
    }
    assert_eq!(seen, dataset.len());
    assert!(
        classes.iter().all(|&count| count == classes[0]),
        "{classes:?}"
    );
}
