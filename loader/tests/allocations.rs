//! What a loader allocates once it has warmed up, C code included: this file's `malloc` stands in for the system's.
#![cfg(all(feature = "turbo", target_os = "linux", target_env = "gnu"))]

mod common;

use std::ffi::c_void;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use jpeg_encoder::SamplingFactor;
use mae_loader::{
    Cursor, Dataset, DatasetOptions, DecoderKind, Loader, RandAugment, TrainTransform, Transform,
};

use common::{jpeg, tar};

static COUNT: AtomicU64 = AtomicU64::new(0);
static BYTES: AtomicU64 = AtomicU64::new(0);
static LARGEST: AtomicUsize = AtomicUsize::new(0);

fn note(size: usize) {
    COUNT.fetch_add(1, Ordering::Relaxed);
    BYTES.fetch_add(size as u64, Ordering::Relaxed);
    LARGEST.fetch_max(size, Ordering::Relaxed);
}

unsafe extern "C" {
    fn __libc_malloc(size: usize) -> *mut c_void;
    fn __libc_calloc(count: usize, size: usize) -> *mut c_void;
    fn __libc_realloc(old: *mut c_void, size: usize) -> *mut c_void;
}

// The linker takes these for all callers in this program, Rust's allocator and the C library's own code among them.
// SAFETY: each only counts, and passes its arguments on to the function that it stands in for.
#[unsafe(no_mangle)]
unsafe extern "C" fn malloc(size: usize) -> *mut c_void {
    note(size);
    // SAFETY: as above.
    unsafe { __libc_malloc(size) }
}

// SAFETY: as for `malloc`.
#[unsafe(no_mangle)]
unsafe extern "C" fn calloc(count: usize, size: usize) -> *mut c_void {
    note(count.saturating_mul(size));
    // SAFETY: as above.
    unsafe { __libc_calloc(count, size) }
}

// SAFETY: as for `malloc`.
#[unsafe(no_mangle)]
unsafe extern "C" fn realloc(old: *mut c_void, size: usize) -> *mut c_void {
    note(size);
    // SAFETY: as above.
    unsafe { __libc_realloc(old, size) }
}

const WIDTH: usize = 500;
const HEIGHT: usize = 375;
const SAMPLES: usize = 64;

/// A shard of JPEGs as photographs are: chroma at half size, quality 90.
fn dataset(folder: &std::path::Path) -> Arc<Dataset> {
    let samples = (0..SAMPLES).map(|number| {
        let value = |i: usize| {
            let (pixel, channel) = (i / 3, i % 3);
            let (x, y) = (pixel % WIDTH, pixel / WIDTH);
            let noise = ((pixel ^ number) as u32).wrapping_mul(0x9e37_79b9) >> 29;
            match channel {
                0 => (((x + number) / 2) as u32 + noise) as u8,
                1 => ((y / 2) as u32 + noise) as u8,
                _ => ((x + y) / 4) as u8,
            }
        };
        let jpeg = jpeg(
            (WIDTH, HEIGHT),
            |encoder| encoder.set_sampling_factor(SamplingFactor::F_2_2),
            value,
        );
        (format!("{number:04}.jpg"), jpeg)
    });
    tar(&folder.join("a.tar"), samples);
    let spec = folder.join("a.tar");
    Arc::new(Dataset::open(&[spec.to_str().unwrap()], &DatasetOptions::default()).unwrap())
}

/// Allocations, bytes, and the largest one, over four epochs after four of warm-up; a sample each. One worker: of several, one might see
/// its first large image only after the warm-up.
fn steady(
    dataset: &Arc<Dataset>,
    decoder: DecoderKind,
    augment: Option<RandAugment>,
) -> (f64, f64, usize) {
    let loader = Loader::builder(Arc::clone(dataset))
        .batch_size(16)
        .masks(196, 49)
        .threads(1)
        .epochs(8)
        .decoder(decoder)
        .transform(Transform::Train(TrainTransform {
            augment,
            ..TrainTransform::default()
        }))
        .build()
        .unwrap();
    let mut begun = (0, 0);
    let mut samples = 0;
    for batch in loader.batches(Cursor::default()) {
        let batch = batch.unwrap();
        if batch.cursor().epoch < 4 {
            begun = (COUNT.load(Ordering::Relaxed), BYTES.load(Ordering::Relaxed));
            LARGEST.store(0, Ordering::Relaxed);
        } else {
            samples += batch.len();
        }
    }
    let samples = samples as f64;
    (
        (COUNT.load(Ordering::Relaxed) - begun.0) as f64 / samples,
        (BYTES.load(Ordering::Relaxed) - begun.1) as f64 / samples,
        LARGEST.load(Ordering::Relaxed),
    )
}

#[test]
fn no_pixel_sized_allocation_in_steady_state() {
    let folder = tempfile::tempdir().unwrap();
    let dataset = dataset(folder.path());
    // The smallest crop there is has a fifth of the area.
    let pixels = WIDTH * HEIGHT;
    // So many operations that each was there in the warm-up.
    let operations: Option<RandAugment> = Some("rand-m9-n16-p1-mstd0.5-inc1".parse().unwrap());
    for (name, decoder, augment) in [
        ("turbo", DecoderKind::Turbo, None),
        ("turbo, augmented", DecoderKind::Turbo, operations),
        ("zune", DecoderKind::Zune, None),
    ] {
        let (count, bytes, largest) = steady(&dataset, decoder, augment);
        println!(
            "{name}: {count:.1} allocations a sample, {bytes:.0} bytes, the largest {largest}"
        );
        assert!(count > 0.0, "nothing is counted");
        if decoder == DecoderKind::Turbo {
            assert!(largest < pixels / 5, "{largest} bytes at once");
        }
    }
}
