//! A map over a slice on as many threads as there are cores; for opening many shards, not for the pipeline.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crate::error::Result;

/// `f` of each item, in order, on `at_least` so many threads (more than there are cores where `f` waits for servers); of several errors the first in order. After an error no new item is begun.
pub(crate) fn try_map<T: Sync, R: Send>(
    items: &[T],
    at_least: usize,
    f: impl Fn(usize, &T) -> Result<R> + Sync,
) -> Result<Vec<R>> {
    let threads = std::thread::available_parallelism()
        .map_or(1, usize::from)
        .max(at_least)
        .min(items.len());
    let (next, failed) = (AtomicUsize::new(0), AtomicBool::new(false));
    let work = || {
        let mut done = Vec::new();
        while !failed.load(Ordering::Relaxed) {
            let index = next.fetch_add(1, Ordering::Relaxed);
            let Some(item) = items.get(index) else { break };
            let result = f(index, item);
            failed.fetch_or(result.is_err(), Ordering::Relaxed);
            done.push((index, result));
        }
        done
    };
    let mut all: Vec<_> = std::thread::scope(|scope| {
        let handles: Vec<_> = (1..threads).map(|_| scope.spawn(work)).collect();
        let mut all = work();
        for handle in handles {
            all.extend(
                handle
                    .join()
                    .unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
            );
        }
        all
    });
    // Items are begun in order, so the first error in order of items is the same on every run.
    all.sort_by_key(|(index, _)| *index);
    all.into_iter().map(|(_, result)| result).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Error;

    #[test]
    fn keeps_order_and_gives_the_first_error() {
        let items: Vec<u32> = (0..1000).collect();
        assert_eq!(
            try_map(&items, 1, |_, x| Ok(x * 2)).unwrap(),
            items.iter().map(|x| x * 2).collect::<Vec<_>>()
        );
        assert!(
            try_map::<u32, u32>(&[], 1, |_, x| Ok(*x))
                .unwrap()
                .is_empty()
        );
        let error = try_map(&items, 1, |_, x| match x {
            17 | 900 => Err(Error::Thread {
                reason: x.to_string(),
            }),
            _ => Ok(()),
        });
        assert!(error.unwrap_err().to_string().ends_with(" 17"));
    }
}
