//! Bytes that were asked for before they are needed.

use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};

use tokio::task::AbortHandle;

use super::POLL;

/// A range of a file that is on its way, shared by the samples in it. Dropped by the last of them, it is not fetched any further.
#[derive(Debug)]
pub(crate) struct Block {
    range: Range<u64>,
    filled: Mutex<Option<Result<Vec<u8>, String>>>,
    ready: Condvar,
    task: Mutex<Option<AbortHandle>>,
}

impl Block {
    pub(super) fn new(range: Range<u64>) -> Self {
        Self {
            range,
            filled: Mutex::default(),
            ready: Condvar::new(),
            task: Mutex::default(),
        }
    }

    pub(super) fn set_task(&self, task: AbortHandle) {
        *self.task.lock().unwrap_or_else(PoisonError::into_inner) = Some(task);
    }

    pub(super) fn fill(&self, bytes: Result<Vec<u8>, String>) {
        *self.filled.lock().unwrap_or_else(PoisonError::into_inner) = Some(bytes);
        self.ready.notify_all();
    }

    /// Whether all of `range` is in it.
    pub(super) fn covers(&self, range: &Range<u64>) -> bool {
        self.range.start <= range.start && range.end <= self.range.end
    }

    /// Waits for the bytes and copies those from `offset` on.
    pub(super) fn copy(&self, buffer: &mut [u8], offset: u64, stop: &AtomicBool) -> io::Result<()> {
        let mut filled = self.filled.lock().unwrap_or_else(PoisonError::into_inner);
        while filled.is_none() {
            if stop.load(Ordering::Relaxed) {
                return Err(io::ErrorKind::Interrupted.into());
            }
            filled = self
                .ready
                .wait_timeout(filled, POLL)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
        match filled.as_ref() {
            Some(Ok(bytes)) => {
                let start = (offset - self.range.start) as usize;
                buffer.copy_from_slice(&bytes[start..start + buffer.len()]);
                Ok(())
            }
            Some(Err(reason)) => Err(io::Error::other(reason.clone())),
            None => Err(io::ErrorKind::Interrupted.into()),
        }
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        let task = self.task.get_mut().unwrap_or_else(PoisonError::into_inner);
        if let Some(task) = task {
            task.abort();
        }
    }
}
