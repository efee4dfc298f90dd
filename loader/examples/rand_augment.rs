//! How many 224 × 224 images a second RandAugment makes on one core, and how long each operation takes: the numbers of docs/loader.md,
//! beside those of `tests/reference/augment_speed.py` on the same pixels.
//!
//!     cargo run --release -p mae-loader --example rand_augment

use std::time::Instant;

use mae_loader::augment::{Operation, RandAugment, RandAugmenter};
use mae_loader::decode::ImageSize;

const SIDE: usize = 224;

/// As a photograph: soft, with some texture.
fn photo() -> Vec<u8> {
    (0..SIDE * SIDE * 3)
        .map(|i| {
            let (x, y, channel) = (i / 3 % SIDE, i / (3 * SIDE), i % 3);
            let noise = (i.wrapping_mul(0x9e37_79b9) >> 13) % 16;
            ((x * (channel + 1) / 4 + y / 2) % 200 + noise) as u8
        })
        .collect()
}

/// Seconds of one round, in the best of five runs.
fn seconds(photo: &[u8], rounds: u32, mut work: impl FnMut(u32, &mut [u8])) -> f64 {
    let mut image = photo.to_vec();
    let mut run = || {
        let started = Instant::now();
        for round in 0..rounds {
            image.copy_from_slice(photo);
            work(round, &mut image);
        }
        started.elapsed().as_secs_f64() / f64::from(rounds)
    };
    (0..5).map(|_| run()).fold(f64::INFINITY, f64::min)
}

fn main() {
    let (policy, photo) = (RandAugment::default(), photo());
    let size = ImageSize {
        width: SIDE as u32,
        height: SIDE as u32,
    };
    let mut augmenter = RandAugmenter::new(policy, size, [124, 116, 104]);
    let each = seconds(&photo, 2000, |round, image| {
        augmenter.augment_at((0, 0, round.into()), image, 3);
    });
    println!("{policy}: {:.0} images a second", 1.0 / each);
    for operation in Operation::all(0.9) {
        let each = seconds(&photo, 100, |_, image| {
            augmenter.apply(operation, image, 3);
        });
        println!("{operation:?}: {:.3} ms", each * 1e3);
    }
}
