//! What fine-tuning and the paper's other augmentations ask for, through the public face: random augmentation, boxes to erase, fixed crops
//! and colour jitter are the same with any number of threads and from any batch on, and change nothing else of a batch.

mod common;

use std::path::Path;
use std::sync::Arc;

use mae_loader::{
    CropRule, Cursor, Dataset, DatasetOptions, DecoderKind, HostBatch, Loader, LoaderBuilder,
    RandAugment, SampleId, TrainTransform, Transform,
};

use common::{jpeg, tar};

const SIDE: usize = 24;
const SAMPLES: usize = 48;

/// Small pictures with edges and texture.
fn dataset(folder: &Path) -> Arc<Dataset> {
    let samples = (0..SAMPLES).map(|number| {
        let (width, height) = (40 + number % 9, 34 + number % 7);
        let value = |i: usize| {
            let (x, y) = (i / 3 % width, i / 3 / width);
            let edge = usize::from((x / 8 + y / 6 + number).is_multiple_of(2));
            (edge * 120 + x * 2 + (i * 7 + number) % 11) as u8
        };
        let jpeg = jpeg((width, height), |_| (), value);
        (format!("{number:04}.jpg"), jpeg)
    });
    tar(&folder.join("a.tar"), samples);
    let spec = folder.to_str().unwrap();
    Arc::new(Dataset::open(&[spec], &DatasetOptions::default()).unwrap())
}

fn builder(dataset: &Arc<Dataset>, augment: Option<RandAugment>) -> LoaderBuilder {
    with(
        dataset,
        TrainTransform {
            scale: (0.08, 1.0),
            crop: CropRule::Clamp,
            augment,
            ..TrainTransform::default()
        },
    )
}

fn with(dataset: &Arc<Dataset>, transform: TrainTransform) -> LoaderBuilder {
    Loader::builder(Arc::clone(dataset))
        .image_size(SIDE as u32, SIDE as u32)
        .batch_size(8)
        .epochs(2)
        .decoder(DecoderKind::Zune)
        .masks(36, 9)
        .transform(Transform::Train(transform))
}

#[derive(Clone, Debug, PartialEq)]
struct Content {
    samples: Vec<SampleId>,
    masks: Vec<u32>,
    pixels: Vec<u8>,
    boxes: Vec<u32>,
}

fn contents(loader: &Loader, from: Cursor) -> Vec<Content> {
    let content = |batch: HostBatch| Content {
        samples: batch.samples().to_vec(),
        masks: batch.ids_restore().to_vec(),
        pixels: batch.pixels().to_vec(),
        boxes: batch.erase_boxes().to_vec(),
    };
    loader
        .batches(from)
        .map(|batch| content(batch.unwrap()))
        .collect()
}

#[test]
fn threads_and_interruptions_change_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let dataset = dataset(folder.path());
    let tuning = TrainTransform {
        scale: (0.08, 1.0),
        crop: CropRule::Clamp,
        augment: Some(RandAugment::default()),
        ..TrainTransform::default()
    };
    let ablation = TrainTransform {
        crop: CropRule::Fixed { resize: 30 },
        color_jitter: 0.4,
        ..TrainTransform::default()
    };
    for (channels, transform) in [(3, tuning), (1, tuning), (3, ablation), (1, ablation)] {
        let build = |threads| {
            let builder = with(&dataset, transform).channels(channels);
            builder.threads(threads).erasing(0.5).build().unwrap()
        };
        let start = Cursor::default();
        let once = contents(&build(1), start);
        assert_eq!(once.len(), 2 * SAMPLES / 8);
        for threads in [2, 8] {
            assert_eq!(contents(&build(threads), start), once, "{threads} threads");
        }
        let middle = Cursor { epoch: 1, step: 2 };
        assert_eq!(contents(&build(3), middle), once[SAMPLES / 8 + 2..]);
    }
}

#[test]
fn augmenting_changes_pixels_and_erasing_none() {
    let folder = tempfile::tempdir().unwrap();
    let dataset = dataset(folder.path());
    let run = |builder: LoaderBuilder| contents(&builder.build().unwrap(), Cursor::default());
    let plain = run(builder(&dataset, None));
    assert!(plain.iter().all(|batch| batch.boxes.is_empty()));

    let erasing = run(builder(&dataset, None).erasing(0.5));
    let mut erased = 0;
    for (plain, erasing) in plain.iter().zip(&erasing) {
        assert_eq!(plain.pixels, erasing.pixels);
        assert_eq!(erasing.boxes.len(), 8 * 4);
        for area in erasing.boxes.chunks_exact(4) {
            assert!(area[0] + area[2] <= SIDE as u32 && area[1] + area[3] <= SIDE as u32);
            erased += usize::from(area[2] > 0);
        }
    }
    // Half of 96.
    assert!((30..67).contains(&erased), "{erased}");

    // Crop and flip are as without: an operation applied to none changes nothing.
    let never = run(builder(&dataset, Some("rand-m9-p0-inc1".parse().unwrap())));
    assert_eq!(never, plain);
    let always = run(builder(&dataset, Some("rand-m9-p1-inc1".parse().unwrap())));
    let images = |contents: &[Content]| -> Vec<Vec<u8>> {
        let images = contents
            .iter()
            .flat_map(|batch| batch.pixels.chunks(SIDE * SIDE * 3));
        images.map(<[u8]>::to_vec).collect()
    };
    let (plain, always) = (images(&plain), images(&always));
    let same = plain.iter().zip(&always).filter(|(a, b)| a == b).count();
    assert!(same < 8, "{same} of {} images are as before", plain.len());
}

#[test]
fn crops_of_an_image_are_augmented_each_for_itself() {
    let folder = tempfile::tempdir().unwrap();
    let dataset = dataset(folder.path());
    let build = |repeats| {
        let builder = builder(&dataset, Some("rand-m9-p1-inc1".parse().unwrap()));
        builder
            .erasing(1.0)
            .batch_size(8 * repeats)
            .repeats(repeats)
            .build()
            .unwrap()
    };
    let (once, twice) = (
        contents(&build(1), Cursor::default()),
        contents(&build(2), Cursor::default()),
    );
    let mut differing = 0;
    for (once, twice) in once.iter().zip(&twice) {
        let firsts: Vec<u32> = twice
            .boxes
            .chunks(8)
            .flat_map(|two| two[..4].to_vec())
            .collect();
        assert_eq!(once.boxes, firsts);
        let boxes = twice.boxes.chunks(8);
        differing += boxes.filter(|two| two[..4] != two[4..]).count();
        let image = SIDE * SIDE * 3;
        let firsts = twice.pixels.chunks(2 * image).flat_map(|two| &two[..image]);
        assert!(once.pixels.iter().eq(firsts));
    }
    assert!(differing > SAMPLES);
}

#[test]
fn colour_jitter_changes_pixels_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let dataset = dataset(folder.path());
    for crop in [
        CropRule::Retry,
        CropRule::Fixed { resize: 30 },
        CropRule::Centre { resize: 30 },
    ] {
        let run = |color_jitter| {
            let transform = TrainTransform {
                crop,
                color_jitter,
                ..TrainTransform::default()
            };
            let loader = with(&dataset, transform).build().unwrap();
            contents(&loader, Cursor::default())
        };
        let plain = run(0.0);
        // So little of it that each factor is 1 in 32 bits: what is cropped and mirrored is the same.
        assert_eq!(run(1e-12), plain);
        for (plain, jittered) in plain.iter().zip(run(0.4)) {
            assert_eq!(plain.samples, jittered.samples);
            assert_eq!(plain.masks, jittered.masks);
            let image = SIDE * SIDE * 3;
            let images = plain
                .pixels
                .chunks(image)
                .zip(jittered.pixels.chunks(image));
            assert!(images.filter(|(a, b)| a == b).count() < 2);
        }
    }
}

#[test]
fn a_centre_crop_is_the_same_in_every_epoch_and_a_fixed_one_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let dataset = dataset(folder.path());
    let changing = |crop| {
        let transform = TrainTransform {
            crop,
            flip: false,
            ..TrainTransform::default()
        };
        let loader = with(&dataset, transform).build().unwrap();
        let mut images = vec![Vec::new(); SAMPLES];
        for batch in contents(&loader, Cursor::default()) {
            let pixels = batch.pixels.chunks(SIDE * SIDE * 3);
            for (sample, pixels) in batch.samples.iter().zip(pixels) {
                images[sample.ordinal as usize].push(pixels.to_vec());
            }
        }
        assert!(images.iter().all(|epochs| epochs.len() == 2));
        images
            .iter()
            .filter(|epochs| epochs[0] != epochs[1])
            .count()
    };
    assert_eq!(changing(CropRule::Centre { resize: 30 }), 0);
    assert!(changing(CropRule::Fixed { resize: 30 }) > SAMPLES * 3 / 4);
    // Nothing is left to choose but along the longer side.
    assert!(changing(CropRule::Fixed { resize: 24 }) > 0);
}
