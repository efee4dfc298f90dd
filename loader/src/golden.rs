//! Pins order, crops, flips and masks across versions, of this crate and of those below it: a change to any of them would give other
//! batches for the same seed, and must be a decision. `MAE_WRITE_GOLDEN=1 cargo test -p mae-loader golden` writes the file anew.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::augment::{Augmenter, Transform};
use crate::decode::ImageSize;
use crate::mask::MaskSampler;
use crate::order::{Order, Window};
use crate::rng::{Draws, Key, Purpose};

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Golden {
    /// Of seed 0, epoch 0, place 0: integers below 1,000, then floats in units of 2⁻⁵³.
    integers: Vec<u32>,
    floats: Vec<u64>,
    order: Vec<OrderCase>,
    crops: Vec<CropCase>,
    masks: Vec<MaskCase>,
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
            MaskSampler::new(patches, keep).sample(&mut draws, &mut ids_keep, &mut ids_restore);
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
        crops,
        masks,
    }
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
