//! Memory that an operation needs only while it runs, kept from call to call: in steady state nothing is allocated and no page
//! is touched for the first time.

use std::ops::{Deref, DerefMut};
use std::sync::{Mutex, PoisonError};

/// Buffers that no one uses now.
static FREE: Mutex<Vec<Vec<f32>>> = Mutex::new(Vec::new());

/// Numbers that go back to be used again when dropped. What they hold at first is left over from others.
pub(crate) struct Scratch {
    numbers: Vec<f32>,
    len: usize,
}

/// `len` numbers with anything in them.
pub(crate) fn take(len: usize) -> Scratch {
    let mut free = FREE.lock().unwrap_or_else(PoisonError::into_inner);
    // The smallest that is large enough, else the largest, which grows.
    let best = (0..free.len())
        .filter(|&i| free[i].len() >= len)
        .min_by_key(|&i| free[i].len())
        .or_else(|| (0..free.len()).max_by_key(|&i| free[i].len()));
    let mut numbers = best.map(|i| free.swap_remove(i)).unwrap_or_default();
    drop(free);
    if numbers.len() < len {
        // Not `resize`, which would copy what nobody wants.
        numbers = vec![0.0; len];
    }
    Scratch { numbers, len }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let numbers = std::mem::take(&mut self.numbers);
        FREE.lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(numbers);
    }
}

impl Deref for Scratch {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        &self.numbers[..self.len]
    }
}

impl DerefMut for Scratch {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut self.numbers[..self.len]
    }
}
