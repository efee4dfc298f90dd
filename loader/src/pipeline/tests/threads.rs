//! The threads: that their number does not show, that they end, and whose memory they use.

use std::collections::HashSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex};
use std::time::{Duration, Instant};

use super::*;
use crate::decode::{BadImage, Decoder, Plan, Region};

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

/// Where decoding waits while it is shut.
#[derive(Default)]
struct Gate {
    shut: Mutex<bool>,
    changed: Condvar,
    /// Images that have come to it.
    come: AtomicUsize,
}

impl Gate {
    fn shut() -> Arc<Self> {
        let gate = Self::default();
        *gate.shut.lock().unwrap() = true;
        Arc::new(gate)
    }

    fn open(&self) {
        *self.shut.lock().unwrap() = false;
        self.changed.notify_all();
    }

    fn pass(&self) {
        self.come.fetch_add(1, Ordering::SeqCst);
        let shut = self.shut.lock().unwrap();
        drop(self.changed.wait_while(shut, |shut| *shut).unwrap());
    }
}

/// Waits at a gate, or panics where told to.
struct Unruly {
    inner: AnyDecoder,
    panic_at_length: Option<usize>,
    gate: Arc<Gate>,
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
        self.gate.pass();
        assert!(
            self.panic_at_length != Some(bytes.len()),
            "expected by this test"
        );
        self.inner.decode(bytes, plan)
    }
}

/// A loader of 1,000 epochs with 4 threads, and up to 12 images on their way.
fn unruly(fake: Fake, panic_at_length: Option<usize>, gate: Arc<Gate>) -> Loader {
    let mut settings = settings(&fake);
    (settings.threads, settings.epochs) = (4, 1000);
    let decoders = move || {
        Box::new(Unruly {
            inner: zune(),
            panic_at_length,
            gate: Arc::clone(&gate),
        }) as Box<dyn Decoder>
    };
    loader_with(fake, settings, Arc::new(decoders))
}

/// Until it holds, which it will with right code however slow the machine is.
fn wait_until(holds: impl Fn() -> bool) {
    let started = Instant::now();
    while !holds() {
        assert!(started.elapsed() < Duration::from_secs(300));
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn a_panic_in_a_worker_is_an_error_and_then_the_end() {
    let mut fake = fake();
    fake.shards[0][7].push(0);
    let length = fake.shards[0][7].len();
    let loader = unruly(fake, Some(length), Arc::default());
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
fn dropping_in_mid_epoch_ends_the_threads_after_the_images_that_they_are_at() {
    let gate = Gate::shut();
    let loader = unruly(fake(), None, Arc::clone(&gate));
    let holders = || Arc::strong_count(&loader.samples);
    let before = holders();
    let batches = loader.batches(Cursor::default());
    wait_until(|| gate.come.load(Ordering::SeqCst) == 4);
    let at_work = holders();
    assert!(at_work >= before + 4);
    let dropping = std::thread::spawn(move || drop(batches));
    // The planner ends, so the workers have been told to: the gate may open.
    wait_until(|| holders() < at_work);
    gate.open();
    dropping.join().unwrap();
    assert_eq!(
        gate.come.load(Ordering::SeqCst),
        4,
        "no image was begun that could be left"
    );
    assert_eq!(holders(), before, "all threads have ended");
}

#[test]
fn a_batch_outlives_the_iterator_that_lent_it() {
    let loader = loader(fake(), |_| {});
    let mut batches = loader.batches(Cursor::default());
    let batch = batches.next().unwrap().unwrap();
    let expected = content(&batch);
    drop(batches);
    drop(loader);
    assert_eq!(content(&batch), expected);
}

#[test]
fn never_asking_for_a_batch_is_no_hang() {
    let loader = unruly(fake(), None, Arc::default());
    let batches = loader.batches(Cursor::default());
    // All that there is memory for has been filled.
    wait_until(|| loader.stats().samples == 12);
    drop(batches);
}

#[test]
fn what_the_threads_are_at_is_told() {
    let gate = Gate::shut();
    let loader = unruly(fake(), None, Arc::clone(&gate));
    let activity = loader.activity();
    let batches = loader.batches(Cursor::default());
    wait_until(|| gate.come.load(Ordering::SeqCst) == 4);
    assert_eq!((activity.reading(), activity.decoding()), (0, 4));
    gate.open();
    drop(batches);
    assert_eq!((activity.reading(), activity.decoding()), (0, 0));
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
    wait_until(|| loader.stats().samples == 46);
    drop(first);
}
