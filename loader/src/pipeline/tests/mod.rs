//! The pipeline over data in memory, well-behaved and not.

mod bad;
mod places;
mod threads;

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use super::*;
use crate::augment::Transform;
use crate::batch::{HostBatch, MemorySource};
use crate::decode::testing::{jpeg, picture};
use crate::decode::{AnyDecoder, DecodeQuality, DecoderKind, ImageSize};
use crate::error::{Error, Result};
use crate::mask::{MaskSampler, MaskSampling};
use crate::mix::order::PartOrder;
use crate::mix::quota::Quotas;
use crate::order::{Order, Slices, Window};
use crate::source::Ahead;

fn zune() -> AnyDecoder {
    AnyDecoder::new(DecoderKind::Zune, DecodeQuality::Exact, 3, 1 << 20)
}

/// Shards in memory: encoded images, labelled by ordinal.
struct Fake {
    shards: Vec<Vec<Vec<u8>>>,
    /// A sample that the system refuses to read.
    unreadable: Option<SampleId>,
    /// A sample without a label, where others have one.
    unlabelled: Option<SampleId>,
}

impl Samples for Fake {
    fn shard_len(&self, shard: u32) -> u32 {
        self.shards[shard as usize].len() as u32
    }
    fn shard_name(&self, shard: u32) -> String {
        format!("{shard}.tar")
    }
    fn describe(&self, id: SampleId) -> String {
        format!("{}.tar: {}", id.shard, id.ordinal)
    }
    fn read_image(&self, id: SampleId, buffer: &mut Vec<u8>, _: &Ahead) -> Result<()> {
        if self.unreadable == Some(id) {
            let (sample, suffix) = (self.describe(id), "jpg".to_owned());
            return Err(Error::Member {
                sample,
                suffix,
                offset: 0,
                reason: "input/output error".to_owned(),
            });
        }
        buffer.clear();
        buffer.extend_from_slice(&self.shards[id.shard as usize][id.ordinal as usize]);
        Ok(())
    }
    fn largest_image(&self) -> u64 {
        let lengths = self.shards.iter().flatten().map(|image| image.len() as u64);
        lengths.max().unwrap_or(0)
    }
    fn announce(&self, ids: &[SampleId], stop: &Arc<AtomicBool>) -> Vec<Ahead> {
        vec![Ahead::nothing(stop); ids.len()]
    }
    fn label(&self, id: SampleId, _: &Ahead) -> Result<Option<u32>> {
        if self.unlabelled == Some(id) {
            return Err(Error::Label {
                sample: self.describe(id),
                reason: "no label".to_owned(),
            });
        }
        Ok(Some(id.ordinal))
    }
}

fn id(shard: u32, ordinal: u32) -> SampleId {
    SampleId { shard, ordinal }
}

/// Three shards of 13, 1 and 9 samples of different sizes.
fn fake() -> Fake {
    let image = |n: u16| {
        jpeg(
            20 + n * 3 % 17,
            16 + n * 5 % 11,
            &picture(20 + n * 3 % 17, 16 + n * 5 % 11, n.into()),
            |_| {},
        )
    };
    let shards = [0..13, 13..14, 14..23]
        .map(|numbers| numbers.map(image).collect())
        .to_vec();
    Fake {
        shards,
        unreadable: None,
        unlabelled: None,
    }
}

fn settings(fake: &Fake) -> Settings {
    Settings {
        size: ImageSize {
            width: 16,
            height: 12,
        },
        channels: 3,
        transform: Transform::default(),
        masks: Some(MaskSampler::new(MaskSampling::Random, (3, 4), 3).unwrap()),
        erasing: None,
        seed: 5,
        threads: 2,
        epochs: 2,
        prefetch: 2,
        max_bad_fraction: 0.5,
        max_pixels: 1 << 20,
        repeats: 1,
        decoder: DecoderKind::Zune,
        quality: DecodeQuality::Exact,
        slices: Slices {
            samples: fake.shards.iter().map(|shard| shard.len() as u64).sum(),
            batch: 4,
            rank: 0,
            world: 1,
            drop_last: true,
        },
        labels: true,
        memory: MemorySource::default(),
    }
}

fn loader_with(fake: Fake, settings: Settings, decoders: Arc<DecoderFactory>) -> Loader {
    let counts = fake.shards.iter().map(|shard| shard.len() as u32).collect();
    let order = match settings.transform {
        Transform::Train { .. } => Order::shuffled(counts, settings.seed, Window::Shards(2)),
        Transform::Eval { .. } => Order::sequential(counts),
    };
    let quotas = Quotas::new(&[1.0], settings.slices.samples).unwrap();
    let order = MixedOrder::new(vec![PartOrder::new(order, 0)], quotas, settings.seed);
    Loader::new(Arc::new(fake), order, settings, decoders, String::new())
}

fn loader(fake: Fake, change: impl FnOnce(&mut Settings)) -> Loader {
    let mut settings = settings(&fake);
    change(&mut settings);
    loader_with(fake, settings, Arc::new(|| Box::new(zune())))
}

/// All that a batch holds.
#[derive(Clone, Debug, PartialEq)]
struct Content {
    pixels: Vec<u8>,
    ids_keep: Vec<u32>,
    ids_restore: Vec<u32>,
    labels: Vec<u32>,
    samples: Vec<SampleId>,
    cursor: Cursor,
    bad: usize,
}

fn content(batch: &HostBatch) -> Content {
    Content {
        pixels: batch.pixels().to_vec(),
        ids_keep: batch.ids_keep().to_vec(),
        ids_restore: batch.ids_restore().to_vec(),
        labels: batch.labels().unwrap().to_vec(),
        samples: batch.samples().to_vec(),
        cursor: batch.cursor(),
        bad: batch.bad().len(),
    }
}

fn all(loader: &Loader, from: Cursor) -> Vec<Content> {
    loader
        .batches(from)
        .map(|batch| content(&batch.unwrap()))
        .collect()
}

fn with_bad(mut fake: Fake) -> Fake {
    fake.shards[0][4].truncate(100);
    fake.shards[0][5] = b"GIF89a".to_vec();
    fake.shards[2][8].clear();
    fake
}
