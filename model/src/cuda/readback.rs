//! Small results read from the device while it goes on: into page-locked memory, with an event behind the copy.

use std::sync::Arc;

use candle_core::cuda_backend::CudaStorageSlice;
use candle_core::cuda_backend::cudarc::driver::sys::CUevent_flags;
use candle_core::cuda_backend::cudarc::driver::{
    CudaEvent, CudaStream, DriverError, PinnedHostSlice,
};
use candle_core::{CudaDevice, Storage, Tensor};

use super::failed;
use crate::Result;

/// Reads f32 tensors of a few numbers.
pub(crate) struct Readback {
    stream: Arc<CudaStream>,
    /// Of readings that are finished.
    free: Vec<PinnedHostSlice<f32>>,
}

/// A reading on its way.
pub(crate) struct Reading {
    /// There until it is finished.
    numbers: Option<PinnedHostSlice<f32>>,
    done: CudaEvent,
}

impl Drop for Reading {
    fn drop(&mut self) {
        // The memory must outlive the copy into it.
        if self.done.synchronize().is_err() {
            std::mem::forget(self.numbers.take());
        }
    }
}

impl Reading {
    /// Whether the numbers are here.
    pub(crate) fn is_done(&self) -> Result<bool> {
        self.done.try_is_complete().map_err(explain)
    }
}

impl Readback {
    pub(crate) fn new(device: &CudaDevice) -> Self {
        Self {
            stream: device.cuda_stream(),
            free: Vec::new(),
        }
    }

    /// Queues a copy of the tensor as it is when all that is queued before is done.
    pub(crate) fn begin(&mut self, tensor: &Tensor) -> Result<Reading> {
        let (storage, _) = tensor.storage_and_layout();
        let Storage::Cuda(storage) = &*storage else {
            return Err(failed("a readback is for a GPU's tensors".into()));
        };
        let CudaStorageSlice::F32(slice) = &storage.slice else {
            return Err(failed("a readback is for f32 tensors".into()));
        };
        let mut numbers = match self.free.pop() {
            Some(numbers) if numbers.len() == slice.len() => numbers,
            // SAFETY: nobody reads the memory before the copy has written it. Not write-combined, as the host reads it.
            _ => unsafe {
                self.stream
                    .context()
                    .alloc_pinned_with_flags(slice.len(), 0)
            }
            .map_err(explain)?,
        };
        self.stream
            .memcpy_dtoh(slice, &mut numbers)
            .map_err(explain)?;
        // Who waits for it sleeps: the loader has work for every core.
        let done = self
            .stream
            .record_event(Some(CUevent_flags::CU_EVENT_BLOCKING_SYNC))
            .map_err(explain)?;
        Ok(Reading {
            numbers: Some(numbers),
            done,
        })
    }

    /// Waits for a reading.
    pub(crate) fn finish(&mut self, mut reading: Reading) -> Result<Vec<f32>> {
        reading.done.synchronize().map_err(explain)?;
        let Some(memory) = reading.numbers.take() else {
            return Err(failed("a reading is finished once".into()));
        };
        let numbers = memory.as_slice().map_err(explain)?.to_vec();
        self.free.push(memory);
        Ok(numbers)
    }
}

fn explain(error: DriverError) -> crate::Error {
    failed(format!("the GPU failed: {error}"))
}
