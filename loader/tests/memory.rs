//! The loader's memory stays under the sum that it states, on any number of threads, over many epochs.
#![cfg(target_os = "linux")]

mod common;

use std::path::Path;
use std::sync::Arc;

use mae_loader::{Cursor, Dataset, DatasetOptions, Loader};

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

#[test]
fn peak_memory_stays_within_the_bound() {
    let folder = tempfile::tempdir().unwrap();
    let dataset = dataset(folder.path());
    for threads in [1, 2, 8] {
        let loader = Loader::builder(Arc::clone(&dataset))
            .batch_size(16)
            .masks(196, 49)
            .threads(threads)
            .max_pixels((WIDTH * HEIGHT) as u64)
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
