//! Memory of a batch: the process's own, or page-locked for copies to a GPU (feature `cuda`).

use std::mem::ManuallyDrop;
use std::ops::Deref;
use std::ptr::NonNull;

#[cfg(feature = "cuda")]
use super::page_locked::{Gpu, PageLocked};
use crate::error::Result;

/// Where the memory of batches comes from.
#[derive(Clone, Debug, Default)]
pub(crate) struct MemorySource {
    #[cfg(feature = "cuda")]
    pub(crate) gpu: Option<Gpu>,
}

/// Numbers that may be zero bytes.
pub(crate) trait Number: Clone + Default {}
impl Number for u8 {}
impl Number for u32 {}

impl MemorySource {
    /// Zeros.
    pub(super) fn zeros<T: Number>(&self, length: usize) -> Result<Memory<T>> {
        #[cfg(feature = "cuda")]
        if let Some(gpu) = self.gpu.as_ref().filter(|_| length > 0) {
            let (start, locked) = gpu.zeros(length)?;
            return Ok(Memory {
                start,
                length,
                owner: Owner::Driver(locked),
            });
        }
        Ok(Memory::from(vec![T::default(); length]))
    }
}

/// As many elements as ever, in one place; taken apart while it is lent, so that nothing else can refer to them.
pub(crate) struct Memory<T> {
    start: NonNull<T>,
    length: usize,
    owner: Owner,
}

enum Owner {
    /// The allocator, as a vector of this capacity.
    Vector { capacity: usize },
    /// The GPU's driver, which gets it back when this is dropped.
    #[cfg(feature = "cuda")]
    Driver(#[expect(dead_code, reason = "kept to be dropped")] PageLocked),
}

// SAFETY: `Memory` owns its elements as a `Vec` does.
unsafe impl<T: Send> Send for Memory<T> {}
// SAFETY: as above.
unsafe impl<T: Sync> Sync for Memory<T> {}

impl<T> Memory<T> {
    pub(super) fn start(&self) -> NonNull<T> {
        self.start
    }

    pub(super) fn len(&self) -> usize {
        self.length
    }
}

impl<T> From<Vec<T>> for Memory<T> {
    fn from(vector: Vec<T>) -> Self {
        let mut vector = ManuallyDrop::new(vector);
        Memory {
            start: NonNull::new(vector.as_mut_ptr()).unwrap_or(NonNull::dangling()),
            length: vector.len(),
            owner: Owner::Vector {
                capacity: vector.capacity(),
            },
        }
    }
}

impl<T> Deref for Memory<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        // SAFETY: so many initialised elements, owned by `self`.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.length) }
    }
}

impl<T> Drop for Memory<T> {
    fn drop(&mut self) {
        match self.owner {
            Owner::Vector { capacity } => {
                // SAFETY: these came from a vector in `from`, and are given back once.
                drop(unsafe { Vec::from_raw_parts(self.start.as_ptr(), self.length, capacity) });
            }
            #[cfg(feature = "cuda")]
            Owner::Driver(_) => {}
        }
    }
}
