//! Memory of one batch that many threads fill at once, each its own part.
//!
//! With `unsafe`, as `memory` and `page_locked`: a buffer must be one slice in the end, `[B, …]`, but its parts are written by
//! different threads, and borrows cannot be handed to threads that live longer than they do.

use super::memory::Memory;

/// Memory lent out in equal parts.
pub(super) struct Parts<T> {
    memory: Memory<T>,
    /// Elements in a part.
    width: usize,
}

// SAFETY: `Parts` gives no access to its elements through a shared reference but in `part`, whose caller vouches that no two threads hold
// the same part.
unsafe impl<T: Send> Sync for Parts<T> {}

impl<T> Parts<T> {
    /// Takes memory apart into parts of `width` elements (its length must be a multiple of it).
    pub(super) fn new(memory: impl Into<Memory<T>>, width: usize) -> Self {
        let memory = memory.into();
        assert!(
            memory.len().is_multiple_of(width),
            "{} elements in parts of {width}",
            memory.len()
        );
        Parts { memory, width }
    }

    /// Part number `index`.
    ///
    /// # Safety
    /// No other reference to the same part may exist for as long as this one is in use.
    #[allow(clippy::mut_from_ref)]
    pub(super) unsafe fn part(&self, index: usize) -> &mut [T] {
        let start = index.checked_mul(self.width).expect("the index of a part");
        assert!(
            start + self.width <= self.memory.len(),
            "part {index} of {} elements",
            self.memory.len()
        );
        // SAFETY: the range lies within the memory's initialised elements, which `self` owns and nothing else refers to; parts do
        // not overlap, and the caller vouches for this one.
        unsafe {
            std::slice::from_raw_parts_mut(self.memory.start().as_ptr().add(start), self.width)
        }
    }

    /// The whole memory again. That takes `self`, so no part is still borrowed.
    pub(super) fn into_memory(self) -> Memory<T> {
        self.memory
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn threads_fill_their_parts() {
        let parts = Arc::new(Parts::new(vec![0u32; 8 * 5], 5));
        let threads: Vec<_> = (0..8)
            .map(|index| {
                let parts = Arc::clone(&parts);
                std::thread::spawn(move || {
                    // SAFETY: each thread takes another part, once.
                    unsafe { parts.part(index) }.fill(index as u32);
                })
            })
            .collect();
        threads
            .into_iter()
            .for_each(|thread| thread.join().unwrap());
        let vector = Arc::into_inner(parts).unwrap().into_memory();
        assert!(
            vector
                .iter()
                .enumerate()
                .all(|(i, &value)| value as usize == i / 5)
        );
    }

    #[test]
    fn parts_may_be_empty_and_dropped() {
        let empty = Parts::new(Vec::<u32>::new(), 0);
        // SAFETY: the only reference.
        assert!(unsafe { empty.part(3) }.is_empty());
        assert!(empty.into_memory().is_empty());
        drop(Parts::new(vec![String::from("dropped once")], 1));
    }

    #[test]
    #[should_panic(expected = "part 2")]
    fn parts_end_with_the_vector() {
        let parts = Parts::new(vec![0u8; 6], 3);
        // SAFETY: the only reference.
        unsafe { parts.part(2) };
    }
}
