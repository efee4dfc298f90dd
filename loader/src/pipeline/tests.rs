//! The pipeline over data in memory, well-behaved and not.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use super::*;
use crate::augment::Transform;
use crate::batch::{BadReason, HostBatch, MemorySource};
use crate::config::MaskShape;
use crate::decode::testing::{jpeg, picture};
use crate::decode::{
    AnyDecoder, BadImage, DecodeQuality, Decoder, DecoderKind, ImageSize, Plan, Region,
};
use crate::error::{Error, Result};
use crate::mix::order::PartOrder;
use crate::mix::quota::Quotas;
use crate::order::{Order, Slices, Window};
use crate::source::Ahead;

/// Shards in memory: encoded images, labelled by ordinal.
fn zune() -> AnyDecoder {
    AnyDecoder::new(DecoderKind::Zune, DecodeQuality::Exact, 3, 1 << 20)
}

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
        masks: Some(MaskShape {
            patches: 12,
            keep: 3,
        }),
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

#[test]
fn batches_do_not_depend_on_threads() {
    let one = all(
        &loader(with_bad(fake()), |settings| settings.threads = 1),
        Cursor::default(),
    );
    assert_eq!(one.len(), 10);
    assert!(one.iter().any(|batch| batch.bad > 0));
    for threads in [2, 8] {
        let many = all(
            &loader(with_bad(fake()), |settings| settings.threads = threads),
            Cursor::default(),
        );
        assert_eq!(one, many);
    }
}

#[test]
fn any_cursor_goes_on_with_the_same_batches() {
    let whole = all(&loader(with_bad(fake()), |_| {}), Cursor::default());
    for (done, batch) in whole.iter().enumerate() {
        let loader = loader(with_bad(fake()), |settings| settings.threads = 3);
        assert_eq!(all(&loader, batch.cursor), whole[done..]);
        // The same place, counted on from the first epoch.
        assert_eq!(
            all(
                &loader,
                Cursor {
                    epoch: 0,
                    step: done as u64
                }
            ),
            whole[done..]
        );
    }
}

#[test]
fn cursors_count_batches_and_next_cursors_lead_on() {
    let loader = loader(fake(), |_| {});
    let mut expected = Cursor::default();
    for batch in loader.batches(expected) {
        let batch = batch.unwrap();
        assert_eq!(batch.cursor(), expected);
        expected = batch.next_cursor();
    }
    assert_eq!(expected, Cursor { epoch: 2, step: 0 });
    assert!(loader.batches(expected).next().is_none());
}

#[test]
fn an_epoch_has_every_sample_once_and_the_next_one_another_order() {
    let batches = all(
        &loader(fake(), |settings| settings.slices.batch = 23),
        Cursor::default(),
    );
    let [first, second] = &batches[..] else {
        panic!("{} batches", batches.len())
    };
    for batch in [first, second] {
        assert_eq!(batch.samples.iter().collect::<HashSet<_>>().len(), 23);
    }
    assert_ne!(first.samples, second.samples);
    assert_ne!(first.ids_keep, second.ids_keep);
    let labels: Vec<u32> = first.samples.iter().map(|sample| sample.ordinal).collect();
    assert_eq!(first.labels, labels);
}

#[test]
fn ranks_share_the_batches_of_one_rank() {
    for drop_last in [true, false] {
        let slices = |batch, rank, world| Slices {
            samples: 23,
            batch,
            rank,
            world,
            drop_last,
        };
        let whole = all(
            &loader(with_bad(fake()), |settings| {
                settings.slices = slices(6, 0, 1)
            }),
            Cursor::default(),
        );
        let ranks: Vec<_> = (0..3)
            .map(|rank| {
                all(
                    &loader(with_bad(fake()), |settings| {
                        settings.slices = slices(2, rank, 3)
                    }),
                    Cursor::default(),
                )
            })
            .collect();
        for (step, batch) in whole.iter().enumerate() {
            let joined = ranks.iter().map(|batches| &batches[step]);
            assert_eq!(
                batch.pixels,
                joined
                    .clone()
                    .flat_map(|batch| batch.pixels.clone())
                    .collect::<Vec<_>>()
            );
            assert_eq!(
                batch.ids_restore,
                joined
                    .clone()
                    .flat_map(|batch| batch.ids_restore.clone())
                    .collect::<Vec<_>>()
            );
            assert_eq!(
                batch.samples,
                joined
                    .flat_map(|batch| batch.samples.clone())
                    .collect::<Vec<_>>()
            );
        }
        assert!(ranks.iter().all(|batches| batches.len() == whole.len()));
    }
}

#[test]
fn evaluation_is_in_order_keeps_the_rest_and_repeats_itself() {
    let batches = all(
        &loader(fake(), |settings| {
            settings.transform = Transform::Eval { resize: 16 };
            settings.slices.drop_last = false;
        }),
        Cursor::default(),
    );
    assert_eq!(
        batches
            .iter()
            .map(|batch| batch.samples.len())
            .collect::<Vec<_>>(),
        [4, 4, 4, 4, 4, 3].repeat(2)
    );
    let samples: Vec<SampleId> = batches[..6]
        .iter()
        .flat_map(|batch| batch.samples.clone())
        .collect();
    let expected: Vec<SampleId> = [13, 1, 9]
        .iter()
        .zip(0..)
        .flat_map(|(&count, shard)| (0..count).map(move |o| id(shard, o)))
        .collect();
    assert_eq!(samples, expected);
    for (first, second) in batches[..6].iter().zip(&batches[6..]) {
        assert_eq!(
            (&first.pixels, &first.ids_keep),
            (&second.pixels, &second.ids_keep)
        );
    }
}

#[test]
fn a_rank_may_get_an_empty_last_batch() {
    let batches = |rank| {
        let slices = Slices {
            samples: 23,
            batch: 2,
            rank,
            world: 11,
            drop_last: false,
        };
        all(
            &loader(fake(), |settings| settings.slices = slices),
            Cursor::default(),
        )
    };
    let lengths = |rank| {
        batches(rank)
            .iter()
            .map(|batch| batch.samples.len())
            .collect::<Vec<_>>()
    };
    assert_eq!(lengths(0), [2, 0, 2, 0]);
    assert_eq!(lengths(10), [2, 1, 2, 1]);
}

#[test]
fn a_bad_sample_is_replaced_by_the_next_good_one_with_its_own_draws() {
    // The same data with the replacements in place of the bad samples gives the same pixels and masks.
    let mut repaired = fake();
    for (shard, ordinal, good) in [(0, 4, 6), (0, 5, 6), (2, 8, 0)] {
        repaired.shards[shard][ordinal] = repaired.shards[shard][good].clone();
    }
    let expected = all(
        &loader(repaired, |settings| settings.slices.batch = 23),
        Cursor::default(),
    );
    let loader = loader(with_bad(fake()), |settings| settings.slices.batch = 23);
    let mut epochs = 0;
    for (batch, expected) in loader.batches(Cursor::default()).zip(expected) {
        let batch = batch.unwrap();
        assert_eq!(batch.pixels(), expected.pixels);
        assert_eq!(batch.ids_restore(), expected.ids_restore);
        let bad: BTreeSet<_> = batch
            .bad()
            .iter()
            .map(|bad| (bad.sample, bad.replacement))
            .collect();
        assert_eq!(
            bad,
            BTreeSet::from([
                (id(0, 4), id(0, 6)),
                (id(0, 5), id(0, 6)),
                (id(2, 8), id(2, 0))
            ])
        );
        for bad in batch.bad() {
            assert_eq!(batch.samples()[bad.slot], bad.replacement);
            assert_eq!(batch.labels().unwrap()[bad.slot], bad.replacement.ordinal);
        }
        epochs += 1;
    }
    assert_eq!(epochs, 2);
    let stats = loader.stats();
    assert_eq!((stats.samples, stats.bad), (46, 6));
    assert_eq!(
        *loader.named.lock().unwrap(),
        HashSet::from([id(0, 4), id(0, 5), id(2, 8)])
    );
}

#[test]
fn a_missing_label_makes_a_sample_bad() {
    let fake = Fake {
        unlabelled: Some(id(2, 3)),
        ..fake()
    };
    let loader = loader(fake, |settings| settings.slices.batch = 23);
    let batch = loader.batches(Cursor::default()).next().unwrap().unwrap();
    let [bad] = batch.bad() else {
        panic!("{:?}", batch.bad())
    };
    assert_eq!((bad.sample, bad.replacement), (id(2, 3), id(2, 4)));
    assert_eq!(bad.reason, BadReason::Label("no label".to_owned()));
}

#[test]
fn too_many_bad_samples_end_the_run() {
    let loader = loader(with_bad(fake()), |settings| settings.max_bad_fraction = 0.1);
    let results: Vec<_> = loader.batches(Cursor::default()).collect();
    let Some(Err(Error::TooManyBad { bad: 3, worst, .. })) = results.last() else {
        panic!("{results:?}")
    };
    assert_eq!(worst, "0.tar (2), 2.tar (1)");
    assert!(
        results[..results.len() - 1]
            .iter()
            .all(|batch| batch.is_ok())
    );
}

#[test]
fn a_shard_without_a_good_sample_is_an_error() {
    let mut fake = fake();
    fake.shards[1][0] = vec![1, 2, 3];
    let loader = loader(fake, |settings| settings.max_bad_fraction = 1.0);
    let error = loader
        .batches(Cursor::default())
        .find_map(|batch| batch.err())
        .unwrap();
    assert!(
        matches!(&error, Error::NoGoodSample { shard, samples: 1, .. } if shard == "1.tar"),
        "{error}"
    );
}

#[test]
fn an_unreadable_sample_is_an_error_in_its_turn() {
    let slices = |settings: &mut Settings| {
        settings.transform = Transform::Eval { resize: 16 };
        settings.threads = 8;
    };
    let loader = loader(
        Fake {
            unreadable: Some(id(2, 2)),
            ..fake()
        },
        slices,
    );
    let results: Vec<_> = loader.batches(Cursor::default()).collect();
    // Sample 16 of the order is in batch 4.
    assert_eq!(results.len(), 5);
    assert!(results[..4].iter().all(|batch| batch.is_ok()));
    assert!(matches!(results[4], Err(Error::Member { .. })));
}

/// Panics or dawdles where told to.
struct Unruly {
    inner: AnyDecoder,
    panic_at_length: Option<usize>,
    delay: Duration,
}

impl Decoder for Unruly {
    fn name(&self) -> String {
        "unruly".to_owned()
    }
    fn decode<'a>(
        &'a mut self,
        bytes: &[u8],
        plan: &mut Plan<'_>,
    ) -> std::result::Result<Region<'a>, BadImage> {
        std::thread::sleep(self.delay);
        assert!(
            self.panic_at_length != Some(bytes.len()),
            "expected by this test"
        );
        self.inner.decode(bytes, plan)
    }
}

fn unruly(fake: Fake, panic_at_length: Option<usize>, delay: Duration) -> Loader {
    let mut settings = settings(&fake);
    (settings.threads, settings.epochs) = (4, 1000);
    let decoders = move || {
        Box::new(Unruly {
            inner: zune(),
            panic_at_length,
            delay,
        }) as Box<dyn Decoder>
    };
    loader_with(fake, settings, Arc::new(decoders))
}

#[test]
fn a_panic_in_a_worker_is_an_error_and_then_the_end() {
    let mut fake = fake();
    fake.shards[0][7].push(0);
    let length = fake.shards[0][7].len();
    let loader = unruly(fake, Some(length), Duration::ZERO);
    let mut batches = loader.batches(Cursor::default());
    let error = batches.by_ref().find_map(|batch| batch.err()).unwrap();
    let text = error.to_string();
    assert!(
        text.contains("0.tar: 7") && text.contains("expected by this test"),
        "{text}"
    );
    assert!(batches.next().is_none());
}

#[test]
fn dropping_in_mid_epoch_ends_the_threads_at_once() {
    let loader = unruly(fake(), None, Duration::from_millis(20));
    let held = Arc::strong_count(&loader.samples);
    let mut batches = loader.batches(Cursor::default());
    let batch = batches.next().unwrap().unwrap();
    assert!(Arc::strong_count(&loader.samples) >= held + 4);
    let started = Instant::now();
    drop(batches);
    assert!(
        started.elapsed() < Duration::from_millis(500),
        "{:?}",
        started.elapsed()
    );
    assert_eq!(Arc::strong_count(&loader.samples), held);
    // A batch outlives the iterator that lent it.
    assert_eq!(batch.pixels().len(), 4 * 16 * 12 * 3);
}

#[test]
fn never_asking_for_a_batch_is_no_hang() {
    let loader = unruly(fake(), None, Duration::ZERO);
    let batches = loader.batches(Cursor::default());
    std::thread::sleep(Duration::from_millis(50));
    drop(batches);
}

#[test]
fn a_caller_may_keep_all_batches() {
    let loader = loader(fake(), |settings| {
        (settings.epochs, settings.prefetch) = (4, 1)
    });
    let kept: Vec<HostBatch> = loader
        .batches(Cursor::default())
        .map(|batch| batch.unwrap())
        .collect();
    let contents: Vec<Content> = kept.iter().map(content).collect();
    assert_eq!(contents, all(&loader, Cursor::default()));
}

#[test]
fn memory_is_used_again() {
    let loader = loader(fake(), |settings| settings.epochs = 20);
    let mut addresses = HashSet::new();
    for batch in loader.batches(Cursor::default()) {
        addresses.insert(batch.unwrap().pixels().as_ptr() as usize);
    }
    assert!(
        addresses.len() <= 3,
        "{} buffers for a prefetch of 2",
        addresses.len()
    );
}

#[test]
fn the_next_epoch_is_prepared_before_the_last_batch_is_asked_for() {
    let loader = loader(fake(), |settings| settings.slices.batch = 23);
    let mut batches = loader.batches(Cursor::default());
    let first = batches.next().unwrap().unwrap();
    let deadline = Instant::now() + Duration::from_secs(10);
    while loader.stats().samples < 46 && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(loader.stats().samples, 46);
    drop(first);
}

#[test]
fn masks_do_not_depend_on_images() {
    let batches = all(&loader(fake(), |_| {}), Cursor::default());
    let mut other = fake();
    other
        .shards
        .iter_mut()
        .flatten()
        .for_each(|bytes| *bytes = jpeg(64, 40, &picture(64, 40, 3), |_| {}));
    let others = all(&loader(other, |_| {}), Cursor::default());
    for (batch, other) in batches.iter().zip(&others) {
        assert_eq!(
            (&batch.ids_keep, &batch.ids_restore),
            (&other.ids_keep, &other.ids_restore)
        );
        assert_ne!(batch.pixels, other.pixels);
    }
}
