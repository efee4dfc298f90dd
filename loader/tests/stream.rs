//! From shards on disk to batches, through the public face.

mod common;

use std::path::Path;
use std::sync::Arc;

use mae_loader::{
    CropRule, Cursor, Dataset, DatasetOptions, Error, LabelSource, Loader, LoaderBuilder,
    RandAugment, TrainTransform, Transform, Window,
};

use common::{jpeg, tar};

/// A plain image of one colour.
fn image(colour: [u8; 3], width: usize, height: usize) -> Vec<u8> {
    jpeg((width, height), |_| (), |i| colour[i % 3])
}

fn colour(number: usize) -> [u8; 3] {
    [(number * 9) as u8, (255 - number * 7) as u8, 128]
}

/// Writes shards of `counts` samples, the colour and class of each given by its number.
fn write_shards(folder: &Path, counts: &[usize]) {
    let mut next = 0;
    for (shard, &count) in counts.iter().enumerate() {
        let samples = (next..next + count).flat_map(|number| {
            let image = image(colour(number), 20 + number, 24);
            let class = (number % 10).to_string().into_bytes();
            [("jpg", image), ("cls", class)]
                .map(|(suffix, content)| (format!("{number:04}.{suffix}"), content))
        });
        tar(&folder.join(format!("train-{shard:06}.tar")), samples);
        next += count;
    }
}

fn dataset(folder: &Path) -> Arc<Dataset> {
    let options = DatasetOptions {
        labels: LabelSource::Cls,
        ..DatasetOptions::default()
    };
    Arc::new(Dataset::open(&[folder.to_str().unwrap()], &options).unwrap())
}

fn builder(dataset: &Arc<Dataset>) -> LoaderBuilder {
    Loader::builder(Arc::clone(dataset))
        .image_size(16, 24)
        .batch_size(4)
        .masks(24, 6)
        .threads(3)
        .epochs(2)
}

#[test]
fn shards_become_batches_of_the_right_samples() {
    let folder = tempfile::tempdir().unwrap();
    write_shards(folder.path(), &[7, 5, 3]);
    let dataset = dataset(folder.path());
    let starts = [0, 7, 12];
    for window in [Window::All, Window::Shards(1)] {
        let loader = builder(&dataset).window(window).build().unwrap();
        assert_eq!(
            (loader.steps_per_epoch(), loader.samples_per_epoch()),
            (3, 12)
        );
        let mut batches = 0;
        for batch in loader.batches(Cursor::default()) {
            let batch = batch.unwrap();
            assert_eq!(
                (
                    batch.len(),
                    batch.ids_keep().len(),
                    batch.ids_restore().len()
                ),
                (4, 24, 96)
            );
            let slots = batch
                .pixels()
                .chunks(16 * 24 * 3)
                .zip(batch.labels().unwrap())
                .zip(batch.samples());
            for ((pixels, &label), sample) in slots {
                let number = starts[sample.shard as usize] + sample.ordinal as usize;
                assert_eq!(label as usize, number % 10);
                for (found, expected) in pixels.iter().zip(colour(number).into_iter().cycle()) {
                    assert!(found.abs_diff(expected) <= 3, "{found} for {expected}");
                }
            }
            batches += 1;
        }
        assert_eq!(batches, 6);
        let stats = loader.stats();
        assert_eq!((stats.samples, stats.bad), (24, 0));
        assert!(stats.bytes > 0 && stats.decode > std::time::Duration::ZERO);
    }
}

#[test]
fn evaluation_without_masks_keeps_every_sample() {
    let folder = tempfile::tempdir().unwrap();
    write_shards(folder.path(), &[3, 3]);
    let dataset = dataset(folder.path());
    let loader = Loader::builder(dataset)
        .image_size(16, 16)
        .batch_size(4)
        .transform(Transform::Eval { resize: 20 })
        .build()
        .unwrap();
    let batches: Vec<_> = loader
        .batches(Cursor::default())
        .map(|batch| batch.unwrap())
        .collect();
    let labels: Vec<u32> = batches
        .iter()
        .flat_map(|batch| batch.labels().unwrap().to_vec())
        .collect();
    assert_eq!(labels, [0, 1, 2, 3, 4, 5]);
    assert!(
        batches
            .iter()
            .all(|batch| batch.ids_keep().is_empty() && batch.ids_restore().is_empty())
    );
}

fn cut(crop: CropRule) -> Transform {
    Transform::Train(TrainTransform {
        crop,
        ..TrainTransform::default()
    })
}

fn jittered(color_jitter: f64) -> Transform {
    Transform::Train(TrainTransform {
        color_jitter,
        ..TrainTransform::default()
    })
}

#[test]
fn settings_that_cannot_be_are_named() {
    let folder = tempfile::tempdir().unwrap();
    write_shards(folder.path(), &[3]);
    let dataset = dataset(folder.path());
    let train = |scale, ratio| {
        Transform::Train(TrainTransform {
            scale,
            ratio,
            ..TrainTransform::default()
        })
    };
    let base = || builder(&dataset).batch_size(2);
    base().build().unwrap();
    let least = cut(CropRule::Fixed { resize: 24 });
    base().transform(least).build().unwrap();
    base().transform(jittered(10.0)).build().unwrap();
    for (builder, name) in [
        (base().image_size(0, 4), "image size"),
        (base().channels(4), "channels"),
        (base().batch_size(0), "batch size"),
        (base().batch_size(4), "batch size"),
        (base().threads(0), "threads"),
        (base().prefetch(0), "prefetch"),
        (base().rank(2, 2), "rank"),
        (base().rank(0, 0), "rank"),
        (base().max_bad_fraction(f64::NAN), "max bad fraction"),
        (base().masks(4, 5), "masks"),
        (base().masks(4, 0), "masks"),
        (
            base().transform(train((0.0, 1.0), (1.0, 1.0))),
            "crop scale",
        ),
        (
            base().transform(train((0.2, 1.1), (1.0, 1.0))),
            "crop scale",
        ),
        (
            base().transform(train((0.2, 1.0), (1.5, 1.0))),
            "crop ratio",
        ),
        (base().transform(Transform::Eval { resize: 23 }), "resize"),
        (
            base().transform(cut(CropRule::Fixed { resize: 23 })),
            "resize",
        ),
        (
            base().transform(cut(CropRule::Centre { resize: 23 })),
            "resize",
        ),
        (
            base().transform(cut(CropRule::Fixed { resize: 20_000 })),
            "resize",
        ),
        (base().transform(jittered(-0.1)), "colour jitter"),
        (base().transform(jittered(10.5)), "colour jitter"),
        (base().transform(jittered(f64::NAN)), "colour jitter"),
        (base().erasing(1.5), "erasing"),
        (
            base()
                .transform(Transform::Eval { resize: 24 })
                .erasing(0.25),
            "erasing",
        ),
        (base().window(Window::Shards(0)), "window"),
    ] {
        match builder.build() {
            Err(Error::Config { setting, .. }) => assert_eq!(setting, name),
            other => panic!("{name}: {other:?}"),
        }
    }
    base().batch_size(4).drop_last(false).build().unwrap();
}

#[test]
fn fingerprints_differ_where_batches_do() {
    let folder = tempfile::tempdir().unwrap();
    write_shards(folder.path(), &[4, 4]);
    let dataset = dataset(folder.path());
    let base = || builder(&dataset).batch_size(2);
    let print = |builder: LoaderBuilder| builder.build().unwrap().fingerprint();
    let reference = print(base());
    assert_eq!(print(base().transform(jittered(0.0))), reference);
    // Saved runs hold this text.
    let usual =
        ";transform=train scale (0.2, 1.0) ratio (0.75, 1.3333333333333333) flip true;masks=";
    assert!(reference.contains(usual), "{reference}");
    for same in [
        base().threads(1),
        base().prefetch(7),
        base().epochs(9),
        base().batch_size(1).rank(1, 2),
    ] {
        assert_eq!(print(same), reference);
    }
    let mut seen = vec![reference];
    for other in [
        base().seed(1),
        base().image_size(24, 24),
        base().channels(1),
        base().masks(24, 7),
        base().erasing(0.25),
        base().batch_size(4),
        base().window(Window::Shards(1)),
        base().transform(Transform::Eval { resize: 24 }),
        base().transform(cut(CropRule::Clamp)),
        base().transform(cut(CropRule::Fixed { resize: 24 })),
        base().transform(cut(CropRule::Fixed { resize: 25 })),
        base().transform(cut(CropRule::Centre { resize: 24 })),
        base().transform(jittered(0.4)),
        base().transform(jittered(0.5)),
        base().transform(Transform::Train(TrainTransform {
            augment: Some(RandAugment::default()),
            ..TrainTransform::default()
        })),
        base().drop_last(false),
        base().max_pixels(1 << 20),
    ] {
        let other = print(other);
        assert!(!seen.contains(&other), "{other}");
        seen.push(other);
    }
}

/// Row K·i + r is crop r of sample i; crop 0 is the one that there is without repeats.
#[test]
fn repeats_are_neighbours_and_the_first_is_the_single_crop() {
    let folder = tempfile::tempdir().unwrap();
    write_shards(folder.path(), &[9, 5]);
    let dataset = dataset(folder.path());
    let (image, keep, patches) = (16 * 24 * 3, 6, 24);
    let plain = |threads| {
        let builder = builder(&dataset).threads(threads);
        builder.decoder(mae_loader::DecoderKind::Zune)
    };
    let once: Vec<_> = plain(3)
        .build()
        .unwrap()
        .batches(Cursor::default())
        .collect();
    for threads in [1, 3] {
        let loader = plain(threads).batch_size(12).repeats(3).build().unwrap();
        assert_eq!(loader.samples_per_epoch(), 3 * 12);
        let thrice: Vec<_> = loader.batches(Cursor::default()).collect();
        assert_eq!(once.len(), thrice.len());
        for (once, thrice) in once.iter().zip(thrice) {
            let (once, thrice) = (once.as_ref().unwrap(), thrice.unwrap());
            assert_eq!(thrice.len(), 3 * once.len());
            for row in 0..thrice.len() {
                let of = row / 3;
                assert_eq!(thrice.samples()[row], once.samples()[of]);
                assert_eq!(thrice.labels().unwrap()[row], once.labels().unwrap()[of]);
                let pixels = &thrice.pixels()[row * image..][..image];
                let kept = &thrice.ids_keep()[row * keep..][..keep];
                let first = row % 3 == 0;
                assert_eq!(
                    pixels == &once.pixels()[of * image..][..image],
                    first || plain_colour(pixels)
                );
                if first {
                    assert_eq!(kept, &once.ids_keep()[of * keep..][..keep]);
                    let restore = &thrice.ids_restore()[row * patches..][..patches];
                    assert_eq!(restore, &once.ids_restore()[of * patches..][..patches]);
                } else {
                    assert_ne!(kept, &thrice.ids_keep()[3 * of * keep..][..keep]);
                }
            }
        }
    }
    assert!(matches!(
        plain(1).batch_size(8).repeats(3).build(),
        Err(Error::Config { .. })
    ));
}

/// Whether crops of the image cannot be told apart.
fn plain_colour(pixels: &[u8]) -> bool {
    pixels.chunks(3).all(|pixel| pixel == &pixels[..3])
}
