//! Hand-over: batches in order, one verdict on bad samples, and an end to the threads.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam::channel::{Receiver, Sender, unbounded};

use super::planner::Planner;
use super::stats::{Counters, add};
use super::verdict::Verdict;
use super::worker::{Worker, message};
use super::{Loader, Samples};
use crate::batch::{BadSample, Buffers, Finished, HostBatch};
use crate::config::Settings;
use crate::error::{Error, Result};
use crate::order::Cursor;
use crate::sample::SampleId;

/// The batches of a [`Loader`], in order, through all its epochs; made by [`Loader::batches`].
///
/// Work goes on in the background from the start, also over the end of an epoch. After an error there are no more batches.
/// Dropping it ends its threads, after the images that they are at.
pub struct Batches {
    samples: Arc<dyn Samples>,
    settings: Arc<Settings>,
    counters: Arc<Counters>,
    named: Arc<Mutex<HashSet<SampleId>>>,
    /// The batch to be handed over next: its position, and its number since the start.
    next: Cursor,
    sequence: u64,
    /// Batches that were finished out of turn.
    early: HashMap<u64, Finished>,
    finished: Receiver<Finished>,
    /// Where memory goes when a batch is dropped.
    home: Sender<Buffers>,
    buffers: usize,
    lent: Arc<AtomicUsize>,
    verdict: Verdict,
    waited: Duration,
    /// An error that came up before the first batch.
    failed: Option<Error>,
    done: bool,
    stop: Arc<AtomicBool>,
    /// Dropped to wake the planner.
    wake: Option<Sender<()>>,
    threads: Vec<JoinHandle<()>>,
}

impl Batches {
    pub(super) fn start(loader: &Loader, from: Cursor) -> Self {
        let settings = &loader.settings;
        let (home, free) = unbounded();
        let (jobs, queue) = unbounded();
        let (publish, finished) = unbounded();
        let (wake, stop_planner) = unbounded();
        let stop = Arc::new(AtomicBool::new(false));
        let next = settings.slices.normalise(from);
        let mut batches = Batches {
            samples: Arc::clone(&loader.samples),
            settings: Arc::clone(settings),
            counters: Arc::clone(&loader.counters),
            named: Arc::clone(&loader.named),
            next,
            sequence: 0,
            early: HashMap::new(),
            finished,
            home,
            buffers: 0,
            lent: Arc::default(),
            verdict: Verdict::new(settings.max_bad_fraction, settings.slices.samples_of_rank()),
            waited: Duration::ZERO,
            failed: None,
            done: next.epoch >= settings.epochs,
            stop,
            wake: Some(wake),
            threads: Vec::new(),
        };
        if batches.done {
            return batches;
        }
        for _ in 0..settings.prefetch + 1 {
            batches.add_buffers();
        }
        let planner = Planner {
            order: loader.order.clone(),
            samples: Arc::clone(&loader.samples),
            settings: Arc::clone(settings),
            from: next,
            free,
            stop: stop_planner,
            unwanted: Arc::clone(&batches.stop),
            jobs,
            finished: publish.clone(),
        };
        batches.spawn("mae-plan".to_owned(), move || planner.run());
        for number in 0..settings.threads {
            let (queue, publish) = (queue.clone(), publish.clone());
            let worker = Worker::new(
                Arc::clone(&loader.samples),
                Arc::clone(settings),
                Arc::clone(&loader.counters),
                (loader.decoders)(),
                Arc::clone(&batches.stop),
            );
            batches.spawn(format!("mae-load-{number}"), move || {
                worker.run(&queue, &publish)
            });
        }
        batches
    }

    fn spawn(&mut self, name: String, body: impl FnOnce() + Send + 'static) {
        if self.failed.is_some() {
            return;
        }
        match std::thread::Builder::new().name(name.clone()).spawn(body) {
            Ok(thread) => self.threads.push(thread),
            Err(error) => {
                self.failed = Some(Error::Thread {
                    reason: format!("cannot start {name}: {error}"),
                })
            }
        }
    }

    fn add_buffers(&mut self) {
        match Buffers::new(self.settings.batch_shape(), &self.settings.memory) {
            Ok(buffers) => {
                self.buffers += 1;
                // The planner may be gone already, which shows where its batches are missed.
                let _ = self.home.send(buffers);
            }
            Err(error) => {
                self.failed.get_or_insert(error);
            }
        }
    }

    /// How long [`next`](Iterator::next) has waited for batches so far.
    pub fn waited(&self) -> Duration {
        self.waited
    }

    fn next_batch(&mut self) -> Result<HostBatch> {
        if let Some(error) = self.failed.take() {
            return Err(error);
        }
        if self.lent.load(Ordering::Relaxed) >= self.buffers {
            // The caller holds all there are: it would wait for itself.
            self.add_buffers();
            if let Some(error) = self.failed.take() {
                return Err(error);
            }
        }
        let started = Instant::now();
        let batch = self.receive();
        let waited = started.elapsed();
        self.waited += waited;
        add(&self.counters.waited, waited.as_nanos() as u64);
        let mut batch = batch?;
        if let Some(error) = batch.error.take() {
            return Err(error);
        }
        for bad in &batch.bad {
            self.name_once(bad);
        }
        self.verdict.add(batch.length as u64, &batch.bad, |shard| {
            self.samples.shard_name(shard)
        })?;
        self.sequence += 1;
        self.next = self.settings.slices.after(self.next);
        Ok(batch.lend(self.next, self.home.clone(), Arc::clone(&self.lent)))
    }

    /// Waits for the batch whose turn it is.
    fn receive(&mut self) -> Result<Finished> {
        loop {
            if let Some(batch) = self.early.remove(&self.sequence) {
                return Ok(batch);
            }
            match self.finished.recv() {
                Ok(batch) => self.early.insert(batch.sequence, batch),
                // All threads have ended, though batches are missing.
                Err(_) => return Err(self.thread_error()),
            };
        }
    }

    fn thread_error(&mut self) -> Error {
        let mut reason = "a batch is missing".to_owned();
        for thread in self.threads.drain(..) {
            let name = thread.thread().name().unwrap_or("thread").to_owned();
            if let Err(panic) = thread.join() {
                reason = format!("{name} panicked: {}", message(&*panic));
            }
        }
        Error::Thread { reason }
    }

    fn name_once(&self, bad: &BadSample) {
        let mut named = self.named.lock().unwrap_or_else(PoisonError::into_inner);
        if named.insert(bad.sample) {
            let (sample, replacement) = (
                self.samples.describe(bad.sample),
                self.samples.describe(bad.replacement),
            );
            tracing::warn!(
                "bad sample {sample}: {}; using {replacement} in its place",
                bad.reason
            );
        }
    }

    /// Ends all threads and waits for them.
    fn shut_down(&mut self) {
        self.done = true;
        self.stop.store(true, Ordering::Relaxed);
        self.wake = None;
        for thread in self.threads.drain(..) {
            // A panic has been reported where it was missed, or nobody has asked for its batch.
            let _ = thread.join();
        }
        self.early.clear();
    }
}

impl Iterator for Batches {
    type Item = Result<HostBatch>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.done || self.next.epoch >= self.settings.epochs {
            return None;
        }
        let batch = self.next_batch();
        if batch.is_err() {
            self.shut_down();
        }
        Some(batch)
    }
}

impl std::iter::FusedIterator for Batches {}

impl Drop for Batches {
    fn drop(&mut self) {
        self.shut_down();
    }
}

impl std::fmt::Debug for Batches {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Batches")
            .field("next", &self.next)
            .field("waited", &self.waited)
            .finish_non_exhaustive()
    }
}
