//! What an epoch hands over, through the public face and from tars on disk, for any number of shards (some of them empty), ranks,
//! threads and windows: every sample once up to the stated remainder, equally many batches for every rank, and the bytes at a place
//! whatever else is set.

mod common;

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;

use mae_loader::{
    Cursor, Dataset, DatasetOptions, Error, HostBatch, LabelSource, Loader, LoaderBuilder,
    SampleId, Window,
};
use proptest::prelude::*;

use common::{jpeg, tar};

/// Shards of `counts` samples, each a small picture of its own with its number as class.
fn dataset(folder: &Path, counts: &[usize]) -> Arc<Dataset> {
    let mut next = 0;
    for (shard, &count) in counts.iter().enumerate() {
        let samples = (next..next + count).flat_map(|number| {
            let size = (9 + number % 5, 8 + number % 7);
            let jpeg = jpeg(size, |_| (), |i| (i * 5 + number * 37) as u8);
            let class = number.to_string().into_bytes();
            [("jpg", jpeg), ("cls", class)]
                .map(|(suffix, content)| (format!("{number:04}.{suffix}"), content))
        });
        tar(&folder.join(format!("s-{shard:03}.tar")), samples);
        next += count;
    }
    let options = DatasetOptions {
        labels: LabelSource::Cls,
        ..DatasetOptions::default()
    };
    Arc::new(Dataset::open(&[folder.to_str().unwrap()], &options).unwrap())
}

/// What a loader is asked for, but for the ranks and threads.
#[derive(Clone, Copy, Debug)]
struct Asked {
    seed: u64,
    window: Window,
    drop_last: bool,
}

impl Asked {
    fn builder(self, dataset: &Arc<Dataset>) -> LoaderBuilder {
        Loader::builder(Arc::clone(dataset))
            .image_size(8, 8)
            .masks(16, 4)
            .seed(self.seed)
            .window(self.window)
            .drop_last(self.drop_last)
            .epochs(2)
    }
}

/// All that is handed over for one sample.
#[derive(Clone, Debug, PartialEq)]
struct Slot {
    sample: SampleId,
    label: u32,
    pixels: Vec<u8>,
    ids_keep: Vec<u32>,
    ids_restore: Vec<u32>,
}

fn slots(batch: &HostBatch) -> Vec<Slot> {
    let pixels = batch.pixels().chunks(8 * 8 * 3);
    let masks = batch
        .ids_keep()
        .chunks(4)
        .zip(batch.ids_restore().chunks(16));
    let samples = batch.samples().iter().zip(batch.labels().unwrap());
    samples
        .zip(pixels)
        .zip(masks)
        .map(|(((&sample, &label), pixels), (keep, restore))| Slot {
            sample,
            label,
            pixels: pixels.to_vec(),
            ids_keep: keep.to_vec(),
            ids_restore: restore.to_vec(),
        })
        .collect()
}

/// Batches by epoch.
fn epochs(loader: &Loader, from: Cursor) -> Vec<Vec<Vec<Slot>>> {
    let mut epochs = vec![Vec::new(); 2];
    for batch in loader.batches(from) {
        let batch = batch.unwrap();
        let slots = slots(&batch);
        assert_eq!(slots.len(), batch.len());
        let epoch: &mut Vec<_> = &mut epochs[batch.cursor().epoch as usize];
        if from == Cursor::default() {
            assert_eq!(epoch.len() as u64, batch.cursor().step);
        }
        epoch.push(slots);
    }
    epochs
}

fn window() -> impl Strategy<Value = Window> {
    prop_oneof![Just(Window::All), (1u32..5).prop_map(Window::Shards)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn ranks_and_threads_share_out_one_order(
        counts in prop::collection::vec(prop_oneof![1 => Just(0usize), 3 => 1usize..12], 1..9),
        seed: u64, window in window(), drop_last: bool,
        world in 1usize..6, batch in 1usize..6, prefetch in 1usize..4, resume in 0.0f64..1.0,
        threads in prop::collection::vec(1usize..7, 5),
    ) {
        let total: usize = counts.iter().sum();
        prop_assume!(total > 0);
        let folder = tempfile::tempdir().unwrap();
        let dataset = dataset(folder.path(), &counts);
        let asked = Asked { seed, window, drop_last };
        let global = batch * world;
        let build = |rank: usize| {
            let ranked = asked.builder(&dataset).batch_size(batch).rank(rank, world);
            ranked.threads(threads[rank]).prefetch(prefetch).build()
        };
        if drop_last && total < global {
            let refused = matches!(build(0), Err(Error::Config { setting: "batch size", .. }));
            prop_assert!(refused, "an epoch without a batch");
            return Ok(());
        }

        // One sample at a time, by one rank and thread: the order that all others are parts of.
        let single = Asked { drop_last: false, ..asked };
        let single = single.builder(&dataset).batch_size(1).threads(1).build().unwrap();
        let order: Vec<Vec<Slot>> = epochs(&single, Cursor::default())
            .into_iter()
            .map(|batches| batches.into_iter().flatten().collect())
            .collect();
        for epoch in &order {
            let distinct: HashSet<SampleId> = epoch.iter().map(|slot| slot.sample).collect();
            prop_assert_eq!((epoch.len(), distinct.len()), (total, total));
            let labels: HashSet<u32> = epoch.iter().map(|slot| slot.label).collect();
            prop_assert_eq!(labels, (0..total as u32).collect::<HashSet<_>>());
        }

        let ranks: Vec<Loader> = (0..world).map(|rank| build(rank).unwrap()).collect();
        let handed: Vec<_> = ranks.iter().map(|rank| epochs(rank, Cursor::default())).collect();
        let steps = if drop_last { total / global } else { total.div_ceil(global) };
        let kept = if drop_last { steps * global } else { total };
        for (number, expected) in order.iter().enumerate() {
            let mut union = Vec::new();
            for step in 0..steps {
                for rank in &handed {
                    union.extend(rank[number][step].iter().cloned());
                }
            }
            prop_assert!(union == expected[..kept], "epoch {} differs from its order", number);
            for (rank, loader) in handed.iter().zip(&ranks) {
                prop_assert_eq!(rank[number].len(), steps, "equally many batches for every rank");
                prop_assert_eq!(loader.steps_per_epoch(), steps as u64);
                let full = rank[number].iter().filter(|slots| slots.len() == batch).count();
                prop_assert!(full + usize::from(!drop_last) >= steps, "all batches full but the last");
                let samples: usize = rank[number].iter().map(Vec::len).sum();
                prop_assert_eq!(loader.samples_per_epoch(), samples as u64);
            }
        }

        // Stopped anywhere, by any rank, with other threads.
        let done = (resume * (2 * steps) as f64) as usize;
        let cursor = Cursor { epoch: (done / steps) as u64, step: (done % steps) as u64 };
        let rank = done % world;
        let rest: Vec<_> = epochs(&build(rank).unwrap(), cursor).into_iter().flatten().collect();
        let whole: Vec<_> = handed[rank].iter().flatten().cloned().collect();
        prop_assert!(rest == whole[done..], "{} batches in, rank {} goes on otherwise", done, rank);
    }
}
