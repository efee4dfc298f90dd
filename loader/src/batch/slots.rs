//! Memory of one batch that many threads fill at once, each its own part.
//!
//! The one place of this crate with `unsafe`: a buffer must be one slice in the end, `[B, …]`, but its parts are written by
//! different threads, and borrows cannot be handed to threads that live longer than they do.

use std::mem::ManuallyDrop;
use std::ptr::NonNull;

/// A vector lent out in equal parts.
///
/// The vector is taken apart while it is lent, so that nothing else can refer to its memory.
pub(super) struct Parts<T> {
    start: NonNull<T>,
    length: usize,
    capacity: usize,
    /// Elements in a part.
    width: usize,
}

// SAFETY: `Parts` owns its elements as a `Vec` does, and gives no access to them through a shared reference but in `part`, whose
// caller vouches that no two threads hold the same part.
unsafe impl<T: Send> Send for Parts<T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for Parts<T> {}

impl<T> Parts<T> {
    /// Takes a vector apart into parts of `width` elements (its length must be a multiple of it).
    pub(super) fn new(vector: Vec<T>, width: usize) -> Self {
        assert!(
            vector.len().is_multiple_of(width),
            "{} elements in parts of {width}",
            vector.len()
        );
        let mut vector = ManuallyDrop::new(vector);
        let start = NonNull::new(vector.as_mut_ptr()).unwrap_or(NonNull::dangling());
        Parts {
            start,
            length: vector.len(),
            capacity: vector.capacity(),
            width,
        }
    }

    /// Part number `index`.
    ///
    /// # Safety
    /// No other reference to the same part may exist for as long as this one is in use.
    #[allow(clippy::mut_from_ref)]
    pub(super) unsafe fn part(&self, index: usize) -> &mut [T] {
        let start = index.checked_mul(self.width).expect("the index of a part");
        assert!(
            start + self.width <= self.length,
            "part {index} of {} elements",
            self.length
        );
        // SAFETY: the range lies within the vector's initialised elements, which `self` owns and nothing else refers to; parts do
        // not overlap, and the caller vouches for this one.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr().add(start), self.width) }
    }

    /// The whole vector again. That takes `self`, so no part is still borrowed.
    pub(super) fn into_vec(self) -> Vec<T> {
        let this = ManuallyDrop::new(self);
        // SAFETY: these came from a vector in `new`, and `this` is not dropped, so they are given back once.
        unsafe { Vec::from_raw_parts(this.start.as_ptr(), this.length, this.capacity) }
    }
}

impl<T> Drop for Parts<T> {
    fn drop(&mut self) {
        // SAFETY: as in `into_vec`; `self` is not used again.
        drop(unsafe { Vec::from_raw_parts(self.start.as_ptr(), self.length, self.capacity) });
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
        let vector = Arc::into_inner(parts).unwrap().into_vec();
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
        assert!(empty.into_vec().is_empty());
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
