//! Pins order, crops, flips, masks, colour jitter and what fine-tuning draws across versions, of this crate and of those below it: a change to any of them would give other
//! batches for the same seed, and must be a decision. `MAE_WRITE_GOLDEN=1 cargo test -p mae-loader golden` writes the file anew.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::augment::{
    Augmenter, Change, CropRule, Mixing, RandAugment, TrainTransform, Transform, draw_jitter,
    erase_box, mix_draw,
};
use crate::decode::{ImageSize, Region};
use crate::mask::{MaskSampler, MaskSampling};
use crate::mix::order::{MixedOrder, PartOrder};
use crate::mix::quota::Quotas;
use crate::order::{Cursor, Order, Window};
use crate::rng::{Draws, Key, Purpose};

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Golden {
    /// Of seed 0, epoch 0, place 0: integers below 1,000, then floats in units of 2⁻⁵³.
    integers: Vec<u32>,
    floats: Vec<u64>,
    order: Vec<OrderCase>,
    mixtures: Vec<MixtureCase>,
    crops: Vec<CropCase>,
    masks: Vec<MaskCase>,
    /// Column and row of a fixed crop of 224 × 224 in an image of 341 × 256, by place.
    fixed_crops: Vec<(u32, u32)>,
    /// Changes (0 brightness, 1 contrast, 2 saturation) in their order, each with its factor in units of 2⁻⁵², by place.
    jitters: Vec<[(u8, u64); 3]>,
    /// What an image becomes in fine-tuning: by place, its box to erase, and a digest of its pixels.
    fine_tuning: Vec<([u32; 4], u64)>,
    /// λ in units of 2⁻⁵³, and the box (x, y, width, height) of batches, by step.
    mixes: Vec<(u64, Option<[u32; 4]>)>,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct OrderCase {
    seed: u64,
    epoch: u64,
    /// Shards in a window, 0 for all.
    window: u32,
    shards: Vec<u32>,
    /// (shard, ordinal) by place.
    samples: Vec<(u32, u32)>,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct MixtureCase {
    seed: u64,
    epoch: u64,
    epoch_samples: u64,
    /// Samples in each shard of each data set.
    parts: Vec<Vec<u32>>,
    weights: Vec<f64>,
    /// (shard, ordinal) by place; the shards of all parts are numbered in turn.
    samples: Vec<(u32, u32)>,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct CropCase {
    seed: u64,
    epoch: u64,
    place: u64,
    width: u32,
    height: u32,
    /// x, y, width, height.
    part: [u32; 4],
    flip: bool,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct MaskCase {
    seed: u64,
    epoch: u64,
    place: u64,
    patches: usize,
    ids_keep: Vec<u32>,
}

fn draw() -> Golden {
    let key = Key {
        seed: 0,
        epoch: 0,
        place: 0,
        repeat: 0,
    };
    let mut draws = Draws::new(Purpose::Crop, key);
    let integers = (0..8).map(|_| draws.below(1000)).collect();
    let floats = (0..4)
        .map(|_| (draws.unit() * (1u64 << 53) as f64) as u64)
        .collect();

    let mut order = Vec::new();
    for (seed, epoch, window) in [(0, 0, 0), (0, 1, 0), (1, 0, 2)] {
        let shards = vec![5, 3, 0, 4, 2];
        let chosen = if window == 0 {
            Window::All
        } else {
            Window::Shards(window)
        };
        let mut places = Order::shuffled(shards.clone(), seed, chosen).epoch(epoch);
        let samples = (0..)
            .map_while(|place| places.sample(place))
            .map(|id| (id.shard, id.ordinal))
            .collect();
        order.push(OrderCase {
            seed,
            epoch,
            window,
            shards,
            samples,
        });
    }

    let mut mixtures = Vec::new();
    for (seed, epoch, epoch_samples) in [(0, 0, 12), (0, 5, 12), (1, 1 << 40, 9)] {
        let parts = vec![vec![5, 3], vec![2, 4, 1]];
        let weights = vec![0.7, 0.3];
        let mut first_shard = 0;
        let orders = (0..).zip(&parts).map(|(number, counts)| {
            let order = Order::shuffled(counts.clone(), seed, Window::All).of_part(number);
            let part = PartOrder::new(order, first_shard);
            first_shard += counts.len() as u32;
            part
        });
        let quotas = Quotas::new(&weights, epoch_samples).expect("shares of a sample at least");
        let order = MixedOrder::new(orders.collect(), quotas, seed);
        let mut walk = order.walk();
        let samples = (0..)
            .map_while(|place| walk.sample(epoch, place))
            .map(|id| (id.shard, id.ordinal))
            .collect();
        mixtures.push(MixtureCase {
            seed,
            epoch,
            epoch_samples,
            parts,
            weights,
            samples,
        });
    }

    let augmenter = Augmenter::new(
        Transform::default(),
        ImageSize {
            width: 224,
            height: 224,
        },
        1 << 30,
    );
    let keys = [
        (0, 0, 0),
        (0, 0, 1),
        (0, 7, 1),
        (u64::MAX, 1 << 40, u64::MAX),
    ];
    let mut crops = Vec::new();
    for (seed, epoch, place) in keys {
        for (width, height) in [(500, 375), (32, 32), (1000, 90)] {
            let key = Key {
                seed,
                epoch,
                place,
                repeat: 0,
            };
            let plan = augmenter.plan(
                ImageSize { width, height },
                &mut Draws::new(Purpose::Crop, key),
            );
            let plan = plan.expect("training refuses no image");
            let part = crate::augment::wanted(&[plan]).part;
            let part = [part.x, part.y, part.width, part.height];
            crops.push(CropCase {
                seed,
                epoch,
                place,
                width,
                height,
                part,
                flip: plan.flips(),
            });
        }
    }

    let mut masks = Vec::new();
    for (seed, epoch, place) in keys {
        for (patches, keep) in [(64, 16), (196, 49)] {
            let (mut ids_keep, mut ids_restore) = (vec![0; keep], vec![0; patches]);
            let mut draws = Draws::new(
                Purpose::Mask,
                Key {
                    seed,
                    epoch,
                    place,
                    repeat: 0,
                },
            );
            let sampler = MaskSampler::new(MaskSampling::Random, (1, patches), keep);
            let mut sampler = sampler.expect("random masks have any shape");
            sampler.sample(&mut draws, &mut ids_keep, &mut ids_restore);
            masks.push(MaskCase {
                seed,
                epoch,
                place,
                patches,
                ids_keep,
            });
        }
    }
    Golden {
        integers,
        floats,
        order,
        mixtures,
        crops,
        masks,
        fixed_crops: (0..8).map(fixed_crop).collect(),
        jitters: (0..8).map(jitter).collect(),
        fine_tuning: (0..24).map(fine_tuned).collect(),
        mixes: (0..12).map(mixed).collect(),
    }
}

const SMALL: ImageSize = ImageSize {
    width: 40,
    height: 30,
};

fn fixed_crop(place: u64) -> (u32, u32) {
    let key = Key {
        seed: 0,
        epoch: 3,
        place,
        repeat: 1,
    };
    let train = TrainTransform {
        crop: CropRule::Fixed { resize: 256 },
        ..TrainTransform::default()
    };
    let side = |width, height| ImageSize { width, height };
    let augmenter = Augmenter::new(Transform::Train(train), side(224, 224), 1 << 20);
    let plan = augmenter.plan(side(500, 375), &mut Draws::new(Purpose::Crop, key));
    plan.expect("it is not elongated").offset()
}

fn jitter(place: u64) -> [(u8, u64); 3] {
    let key = Key {
        seed: 0,
        epoch: 3,
        place,
        repeat: 1,
    };
    draw_jitter(0.4, &mut Draws::new(Purpose::Jitter, key)).map(|change| {
        let (number, factor) = match change {
            Change::Brightness(factor) => (0, factor),
            Change::Contrast(factor) => (1, factor),
            Change::Saturation(factor) => (2, factor),
        };
        (number, (factor * (1u64 << 52) as f64) as u64)
    })
}

/// The box that is erased of the image at a place, and an FNV-1a digest of a picture there after random augmentation.
fn fine_tuned(place: u64) -> ([u32; 4], u64) {
    let key = Key {
        seed: 0,
        epoch: 3,
        place,
        repeat: 1,
    };
    let area = erase_box(0.5, SMALL, &mut Draws::new(Purpose::Erase, key));
    let train = TrainTransform {
        scale: (1.0, 1.0),
        flip: false,
        augment: Some(RandAugment::default()),
        ..TrainTransform::default()
    };
    let mut augmenter = Augmenter::new(Transform::Train(train), SMALL, 1 << 20);
    let plan = augmenter.plan(SMALL, &mut Draws::new(Purpose::Crop, key));
    let pixels: Vec<u8> = (0..40 * 30 * 3)
        .map(|i: u32| (i / 9 + (i.wrapping_mul(0x9e37_79b9) >> 28)) as u8)
        .collect();
    let region = Region {
        pixels: &pixels,
        size: SMALL,
        channels: 3,
        x: 0,
        y: 0,
        scale: 1,
    };
    let mut out = vec![0; pixels.len()];
    let plan = plan.expect("training refuses no image");
    augmenter
        .apply(&region, &plan, key, &mut out)
        .expect("the whole image is there");
    let digest = out.iter().fold(0xcbf2_9ce4_8422_2325, |hash, &byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    (area, digest)
}

/// How the batch of a step is mixed.
fn mixed(step: u64) -> (u64, Option<[u32; 4]>) {
    let cursor = Cursor { epoch: 2, step };
    let mix = mix_draw(&Mixing::default(), SMALL, 0, cursor);
    mix.map_or((u64::MAX, None), |mix| {
        let cut = mix.cut.map(|cut| [cut.x, cut.y, cut.width, cut.height]);
        ((mix.lambda * (1u64 << 53) as f64) as u64, cut)
    })
}

#[test]
fn golden_draws_are_the_same_as_ever() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/draws.json");
    let found = draw();
    if std::env::var_os("MAE_WRITE_GOLDEN").is_some() {
        std::fs::write(&path, serde_json::to_string(&found).unwrap() + "\n").unwrap();
    }
    let pinned: Golden = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
    assert_eq!(found, pinned);
}
