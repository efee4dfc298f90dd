//! The loader's memory stays under the sum that it states, on any number of threads, over many epochs.
#![cfg(target_os = "linux")]

use std::path::Path;
use std::sync::Arc;

use mae_loader::{Cursor, Dataset, DatasetOptions, Loader};

const WIDTH: u16 = 320;
const HEIGHT: u16 = 240;

fn dataset(folder: &Path) -> Arc<Dataset> {
    let mut tar = tar::Builder::new(std::fs::File::create(folder.join("a.tar")).unwrap());
    for number in 0..48u32 {
        // Sizes differ, so that what threads hold on to grows while they work.
        let (width, height) = (WIDTH - number as u16, HEIGHT - (number * 7 % 48) as u16);
        let pixels: Vec<u8> = (0..u32::from(width) * u32::from(height) * 3)
            .map(|i| ((i ^ number).wrapping_mul(0x9e37_79b9) >> 27) as u8 + (i / 4096) as u8)
            .collect();
        let mut bytes = Vec::new();
        let mut encoder = jpeg_encoder::Encoder::new(&mut bytes, 90);
        encoder.set_progressive(number % 4 == 0);
        encoder
            .encode(&pixels, width, height, jpeg_encoder::ColorType::Rgb)
            .unwrap();
        let mut header = tar::Header::new_ustar();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        tar.append_data(&mut header, format!("{number:04}.jpg"), &bytes[..])
            .unwrap();
    }
    tar.finish().unwrap();
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
            .max_pixels(u64::from(WIDTH) * u64::from(HEIGHT))
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
