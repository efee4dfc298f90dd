//! What this process holds, as Linux tells it.

use std::time::{Duration, Instant};

/// Memory, threads and descriptors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Usage {
    /// Resident memory, in bytes.
    pub(crate) resident: u64,
    pub(crate) threads: usize,
    /// Open files, sockets and so on.
    pub(crate) descriptors: usize,
}

impl Usage {
    pub(crate) fn now() -> Self {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let resident = status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:"))
            .and_then(|line| line.trim().trim_end_matches("kB").trim().parse().ok());
        let entries = |folder| std::fs::read_dir(folder).unwrap().count();
        Self {
            resident: resident.map_or(0, |kilobytes: u64| kilobytes * 1024),
            threads: entries("/proc/self/task"),
            // Without the one that lists them.
            descriptors: entries("/proc/self/fd") - 1,
        }
    }

    /// Waits until there are no more threads and descriptors than now at `before`, and returns what is held then. A thread that was
    /// waited for may be listed a moment longer, and those of the network end on their own.
    ///
    /// # Errors
    /// What is held after `patience`.
    pub(crate) fn back_to(before: Self, patience: Duration) -> Result<Self, String> {
        let started = Instant::now();
        loop {
            let now = Self::now();
            if now.threads <= before.threads && now.descriptors <= before.descriptors {
                return Ok(now);
            }
            if started.elapsed() > patience {
                return Err(format!(
                    "{} threads and {} descriptors are left of {} and {} before",
                    now.threads, now.descriptors, before.threads, before.descriptors
                ));
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}
