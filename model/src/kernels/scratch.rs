//! Memory that a launch leaves partial results in for the next one: one piece a thread and device, as large as the largest need so far,
//! so that a steady step allocates nothing.

use std::cell::RefCell;

use candle_core::{DType, Device, Tensor};

use crate::Result;

thread_local! {
    static KEPT: RefCell<Vec<Tensor>> = const { RefCell::new(Vec::new()) };
}

/// At least `len` f32 numbers, whatever they are. The next call may give the same.
pub(super) fn take(device: &Device, len: usize) -> Result<Tensor> {
    KEPT.with_borrow_mut(|kept| {
        let at = kept
            .iter()
            // A GPU that was opened twice is two devices, each with a stream of its own.
            .position(|tensor| tensor.device().same_device(device));
        if let Some(at) = at {
            if kept[at].elem_count() >= len {
                return Ok(kept[at].clone());
            }
            kept.swap_remove(at);
        }
        let tensor = Tensor::zeros(len, DType::F32, device)?;
        kept.push(tensor.clone());
        Ok(tensor)
    })
}

/// All that the calling thread's launches left partial results in, so that it outlives a larger need.
#[cfg(feature = "cuda")]
pub(crate) fn kept() -> Vec<Tensor> {
    KEPT.with_borrow(Vec::clone)
}
