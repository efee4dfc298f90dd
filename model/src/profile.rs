//! Where a step's time goes, by operation. Off until [`start`]; then every operation counts its calls and its time, products and
//! attention their floating-point operations too.
//!
//! Operations follow one another on one thread and share their work among the compute threads, so the times add up to that of
//! the step, but for what lies between operations.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use candle_core::Device;

static ON: AtomicBool = AtomicBool::new(false);
/// The device to wait for at an operation's end, where it works on after the host has queued it.
static DEVICE: Mutex<Option<Device>> = Mutex::new(None);
static TIMES: Mutex<BTreeMap<&'static str, OpTime>> = Mutex::new(BTreeMap::new());

/// What one operation took since [`start`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpTime {
    /// The operation, with its direction.
    pub name: &'static str,
    /// How often it ran.
    pub calls: u64,
    /// All calls together.
    pub time: Duration,
    /// Floating-point operations of all calls, as [`crate::flops`] counts them, so that what is computed again is left out.
    pub flop: u64,
}

/// Begins to count operations on `device`, from nothing. A GPU is waited for after each, so each pays for its launch.
pub fn start(device: &Device) {
    *DEVICE.lock().unwrap_or_else(PoisonError::into_inner) = Some(device.clone());
    TIMES.lock().unwrap_or_else(PoisonError::into_inner).clear();
    ON.store(true, Ordering::Relaxed);
}

/// Stops counting and returns what was counted, the longest first.
pub fn finish() -> Vec<OpTime> {
    ON.store(false, Ordering::Relaxed);
    let times = TIMES.lock().unwrap_or_else(PoisonError::into_inner);
    let mut times: Vec<OpTime> = times.values().copied().collect();
    times.sort_by_key(|op| std::cmp::Reverse(op.time));
    times
}

/// Counts from now to its end as `name`.
pub(crate) fn span(name: &'static str) -> Span {
    Span {
        name,
        flop: 0,
        started: ON.load(Ordering::Relaxed).then(Instant::now),
    }
}

pub(crate) struct Span {
    name: &'static str,
    flop: usize,
    started: Option<Instant>,
}

impl Span {
    /// Of so many floating-point operations.
    pub(crate) fn of(self, flop: usize) -> Self {
        Self { flop, ..self }
    }
}

impl Drop for Span {
    fn drop(&mut self) {
        if let Some(started) = self.started {
            if let Some(device) = &*DEVICE.lock().unwrap_or_else(PoisonError::into_inner) {
                // A device that fails says so to the next operation.
                let _ = device.synchronize();
            }
            let mut times = TIMES.lock().unwrap_or_else(PoisonError::into_inner);
            let op = times.entry(self.name).or_insert(OpTime {
                name: self.name,
                calls: 0,
                time: Duration::ZERO,
                flop: 0,
            });
            op.calls += 1;
            op.time += started.elapsed();
            op.flop += self.flop as u64;
        }
    }
}
