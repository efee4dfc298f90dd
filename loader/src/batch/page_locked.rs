//! Host memory that a GPU copies from without the processor's help: page-locked, usable from every context, cached as any other memory,
//! since the CPU writes and reads it.
//!
//! Not yet run on a machine with a GPU.

use std::ffi::c_void;
use std::ptr::NonNull;
use std::sync::Arc;

use cudarc::driver::{CudaContext, DriverError, result, sys};

use crate::error::{Error, Result};

/// A GPU whose driver locks pages.
#[derive(Clone, Debug)]
pub(crate) struct Gpu(Arc<CudaContext>);

impl Gpu {
    /// The GPU of this number, in its primary context, which others in the process share.
    ///
    /// # Errors
    /// If there is none.
    pub(crate) fn new(ordinal: usize) -> Result<Self> {
        let context = CudaContext::new(ordinal).map_err(|error| Error::Config {
            setting: "page-locked memory",
            reason: format!("the NVIDIA GPU {ordinal} cannot be used: {error}"),
        })?;
        Ok(Gpu(context))
    }

    /// So many elements of zero bytes, which must be valid ones.
    pub(super) fn zeros<T>(&self, length: usize) -> Result<(NonNull<T>, PageLocked)> {
        let bytes = length * size_of::<T>();
        let explain = |error: DriverError| Error::PageLock {
            bytes: bytes as u64,
            reason: error.to_string(),
        };
        self.0.bind_to_thread().map_err(explain)?;
        // SAFETY: asks for memory that is freed once, by `PageLocked`.
        let start = unsafe { result::malloc_host(bytes, sys::CU_MEMHOSTALLOC_PORTABLE) }
            .map_err(explain)?;
        let locked = PageLocked {
            start,
            context: Arc::clone(&self.0),
        };
        // SAFETY: the driver gave so many bytes, aligned to pages.
        unsafe { std::ptr::write_bytes(start.cast::<u8>(), 0, bytes) };
        match NonNull::new(start.cast()) {
            Some(start) => Ok((start, locked)),
            None => Err(Error::PageLock {
                bytes: bytes as u64,
                reason: "the driver gave none".into(),
            }),
        }
    }
}

/// Page-locked memory, which the driver gets back.
pub(super) struct PageLocked {
    start: *mut c_void,
    context: Arc<CudaContext>,
}

// SAFETY: memory of the process, which any thread may use and give back.
unsafe impl Send for PageLocked {}
// SAFETY: as above; there is no access through it.
unsafe impl Sync for PageLocked {}

impl Drop for PageLocked {
    fn drop(&mut self) {
        let freed = self.context.bind_to_thread().and_then(|()| {
            // SAFETY: the driver gave it, and it is given back once.
            unsafe { result::free_host(self.start) }
        });
        if let Err(error) = freed {
            tracing::warn!("page-locked memory could not be given back: {error}");
        }
    }
}
