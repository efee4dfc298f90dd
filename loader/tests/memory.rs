//! The loader's memory stays under the sum that it states, on any number of threads, over many epochs.
#![cfg(target_os = "linux")]

mod common;

use std::path::Path;
use std::sync::Arc;

use mae_loader::{
    CropRule, Cursor, Dataset, DatasetOptions, Loader, LoaderBuilder, TrainTransform, Transform,
};

use common::{jpeg, tar};

const WIDTH: usize = 320;
const HEIGHT: usize = 240;

fn dataset(folder: &Path) -> Arc<Dataset> {
    let samples = (0..48).map(|number| {
        // Sizes differ, so that what threads hold on to grows while they work.
        let size = (WIDTH - number, HEIGHT - number * 7 % 48);
        let value = |i: usize| {
            let noise = ((i ^ number) as u32).wrapping_mul(0x9e37_79b9) >> 27;
            noise as u8 + (i / 4096) as u8
        };
        let jpeg = jpeg(
            size,
            |encoder| encoder.set_progressive(number % 4 == 0),
            value,
        );
        (format!("{number:04}.jpg"), jpeg)
    });
    tar(&folder.join("a.tar"), samples);
    let spec = folder.join("a.tar");
    Arc::new(Dataset::open(&[spec.to_str().unwrap()], &DatasetOptions::default()).unwrap())
}

/// `VmHWM` or `VmRSS`, in bytes.
fn resident(field: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix(field))
        .unwrap();
    let kilobytes = line
        .trim_start_matches(':')
        .trim()
        .trim_end_matches("kB")
        .trim();
    kilobytes.parse::<u64>().unwrap() * 1024
}

fn fixed(resize: u32) -> Transform {
    Transform::Train(TrainTransform {
        crop: CropRule::Fixed { resize },
        ..TrainTransform::default()
    })
}

fn builder(dataset: &Arc<Dataset>, transform: Transform, side: u32) -> LoaderBuilder {
    Loader::builder(Arc::clone(dataset))
        .image_size(side, side)
        .batch_size(16)
        .masks(100, 25)
        .max_pixels((WIDTH * HEIGHT) as u64)
        .transform(transform)
}

#[test]
fn images_that_are_resized_whole_are_in_the_bound() {
    let folder = tempfile::tempdir().unwrap();
    let dataset = dataset(folder.path());
    let threads = |transform| {
        let loader = builder(&dataset, transform, 160)
            .threads(3)
            .build()
            .unwrap();
        loader.memory_bound().threads
    };
    let pixels = (WIDTH * HEIGHT) as u64;
    // The resized image; columns of it for each row of the source.
    let more = 3 * (3 * pixels + (192 - 160) * 3 * pixels.min(65_535));
    assert_eq!(threads(fixed(192)), threads(Transform::default()) + more);
    assert_eq!(
        threads(Transform::Eval { resize: 192 }),
        threads(fixed(192))
    );
}

#[test]
fn peak_memory_stays_within_the_bound() {
    let folder = tempfile::tempdir().unwrap();
    let dataset = dataset(folder.path());
    let random = (Transform::default(), 224);
    let resized = (fixed(192), 160);
    for (threads, (transform, side)) in [(1, random), (2, random), (8, random), (2, resized)] {
        let loader = builder(&dataset, transform, side)
            .threads(threads)
            .epochs(40)
            .build()
            .unwrap();
        let bound = loader.memory_bound();
        // A new peak begins here, where the system allows it.
        let _ = std::fs::write("/proc/self/clear_refs", "5");
        let before = resident("VmRSS");
        let samples: usize = loader
            .batches(Cursor::default())
            .map(|batch| batch.unwrap().len())
            .sum();
        assert_eq!(samples, 48 * 40);
        let grown = resident("VmHWM").saturating_sub(before);
        println!(
            "{threads} threads: {grown} bytes of {} ({bound:?})",
            bound.total()
        );
        assert!(grown <= bound.total(), "{threads} threads: {grown} bytes");
        assert!(
            grown >= bound.batches / 2,
            "the measurement measures nothing: {grown}"
        );
    }
}
