//! How much was done, and where the time went.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// What a loader has done so far. Times of the stages are summed over threads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Samples put into slots by workers, including some not handed over yet.
    pub samples: u64,
    /// Samples that were bad.
    pub bad: u64,
    /// Bytes of encoded images read.
    pub bytes: u64,
    /// Time in reading images and labels.
    pub read: Duration,
    /// Time in decoding.
    pub decode: Duration,
    /// Time in cropping, resizing, flipping and augmenting.
    pub resize: Duration,
    /// Time in drawing masks.
    pub mask: Duration,
    /// Time in finishing slots and publishing batches.
    pub hand_over: Duration,
    /// Time that workers waited for something to do.
    pub idle: Duration,
    /// Time that consumers waited for batches.
    pub waited: Duration,
}

/// The same, as it is counted by many threads.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) samples: AtomicU64,
    pub(crate) bad: AtomicU64,
    pub(crate) bytes: AtomicU64,
    pub(crate) read: AtomicU64,
    pub(crate) decode: AtomicU64,
    pub(crate) resize: AtomicU64,
    pub(crate) mask: AtomicU64,
    pub(crate) hand_over: AtomicU64,
    pub(crate) idle: AtomicU64,
    pub(crate) waited: AtomicU64,
    /// Threads that are at it now.
    pub(crate) reading: AtomicU64,
    pub(crate) decoding: AtomicU64,
}

impl Counters {
    pub(crate) fn snapshot(&self) -> Stats {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let time = |counter: &AtomicU64| Duration::from_nanos(count(counter));
        Stats {
            samples: count(&self.samples),
            bad: count(&self.bad),
            bytes: count(&self.bytes),
            read: time(&self.read),
            decode: time(&self.decode),
            resize: time(&self.resize),
            mask: time(&self.mask),
            hand_over: time(&self.hand_over),
            idle: time(&self.idle),
            waited: time(&self.waited),
        }
    }
}

/// What a loader's threads are at, told at any time from any thread: what to look at where no batch comes.
#[derive(Clone, Debug)]
pub struct Activity(pub(super) Arc<Counters>);

impl Activity {
    /// Threads that are reading an image.
    pub fn reading(&self) -> u64 {
        self.0.reading.load(Ordering::Relaxed)
    }

    /// Threads that are decoding one.
    pub fn decoding(&self) -> u64 {
        self.0.decoding.load(Ordering::Relaxed)
    }
}

/// Runs `work`, while which `now` counts one more.
pub(super) fn during<T>(now: &AtomicU64, work: impl FnOnce() -> T) -> T {
    /// Also where the work panics, which is the image's fault and survived.
    struct Ends<'a>(&'a AtomicU64);
    impl Drop for Ends<'_> {
        fn drop(&mut self) {
            self.0.fetch_sub(1, Ordering::Relaxed);
        }
    }
    now.fetch_add(1, Ordering::Relaxed);
    let _ends = Ends(now);
    work()
}

/// Adds to a count.
pub(super) fn add(counter: &AtomicU64, amount: u64) {
    counter.fetch_add(amount, Ordering::Relaxed);
}

/// Runs `work` and adds its time to `counter`.
pub(super) fn timed<T>(counter: &AtomicU64, work: impl FnOnce() -> T) -> T {
    let started = Instant::now();
    let result = work();
    add(counter, started.elapsed().as_nanos() as u64);
    result
}
