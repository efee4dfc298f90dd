//! Ranks on GPUs: NCCL adds up and hands round ranges of flat tensors, on a stream of its own beside the training's.

use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use candle_core::cuda_backend::CudaStorageSlice;
use candle_core::cuda_backend::cudarc::driver::{CudaStream, CudaViewMut, DriverError};
use candle_core::cuda_backend::cudarc::nccl::result::NcclError;
use candle_core::cuda_backend::cudarc::nccl::safe::{Comm, Id, ReduceOp};
use candle_core::{CudaStorage, Device, InplaceOp1, Layout, Tensor};

use super::failed;
use crate::Result;

/// Bytes of what ranks find each other by.
pub const ID_LEN: usize = 128;

/// What ranks find each other by: rank 0 makes it, and all give it to [`Nccl::new`].
///
/// # Errors
/// If NCCL has no network to use.
pub fn unique_id() -> Result<Vec<u8>> {
    let id = Id::new().map_err(refused)?;
    Ok(id.internal().iter().map(|&byte| byte as u8).collect())
}

struct Owned(Comm);

// SAFETY: NCCL's communicators belong to no thread; the lock around it lets one at a time use it.
unsafe impl Send for Owned {}

/// See the [module](self).
pub struct Nccl {
    comm: Mutex<Owned>,
    /// The communicator's.
    stream: Arc<CudaStream>,
    training: Arc<CudaStream>,
}

impl Nccl {
    /// Of rank `rank` of `world`, whose tensors are on `device`. Waits for all of them.
    ///
    /// # Errors
    /// If the device is no GPU, or NCCL fails.
    pub fn new(device: &Device, id: &[u8], (rank, world): (usize, usize)) -> Result<Self> {
        let Device::Cuda(device) = device else {
            return Err(failed("NCCL is for GPUs".into()));
        };
        let mut internal = [0; ID_LEN];
        if id.len() != ID_LEN {
            return Err(failed(format!(
                "an id of NCCL has {ID_LEN} bytes, not {}",
                id.len()
            )));
        }
        for (to, &from) in internal.iter_mut().zip(id) {
            *to = from as core::ffi::c_char;
        }
        let training = device.cuda_stream();
        let stream = training.context().new_stream().map_err(explain)?;
        let comm = Comm::from_rank(Arc::clone(&stream), rank, world, Id::uninit(internal));
        Ok(Self {
            comm: Mutex::new(Owned(comm.map_err(refused)?)),
            stream,
            training,
        })
    }

    /// Begins to replace a range of a flat f32 tensor by its sum over the ranks, behind what the training has queued.
    ///
    /// # Errors
    /// If the GPU or NCCL fails.
    pub fn begin_sum(&self, flat: &Tensor, range: Range<usize>) -> Result<()> {
        self.stream.join(&self.training).map_err(explain)?;
        let comm = self.comm();
        let sum = |view: &mut CudaViewMut<'_, f32>| {
            comm.0.all_reduce_in_place(view, &ReduceOp::Sum).map(drop)
        };
        on_range(flat, range, &sum)
    }

    /// What the training queues from now on comes behind all that was begun.
    ///
    /// # Errors
    /// If the GPU fails.
    pub fn finish(&self) -> Result<()> {
        self.training.join(&self.stream).map_err(explain)
    }

    /// Range number `r` of a flat f32 tensor becomes that of rank `r`.
    ///
    /// # Errors
    /// If the GPU or NCCL fails.
    pub fn share(&self, flat: &Tensor, ranges: &[Range<usize>]) -> Result<()> {
        self.stream.join(&self.training).map_err(explain)?;
        let comm = self.comm();
        for (rank, range) in ranges
            .iter()
            .enumerate()
            .filter(|(_, range)| !range.is_empty())
        {
            let take = |view: &mut CudaViewMut<'_, f32>| {
                comm.0.broadcast_in_place(view, rank as i32).map(drop)
            };
            on_range(flat, range.clone(), &take)?;
        }
        drop(comm);
        self.finish()
    }

    fn comm(&self) -> MutexGuard<'_, Owned> {
        self.comm.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

type Collective<'a> = dyn Fn(&mut CudaViewMut<'_, f32>) -> std::result::Result<(), NcclError> + 'a;

/// Does something with a range of a flat tensor where it is.
fn on_range(flat: &Tensor, range: Range<usize>, what: &Collective<'_>) -> Result<()> {
    Ok(flat.inplace_op1(&OnRange { range, what })?)
}

struct OnRange<'a> {
    range: Range<usize>,
    what: &'a Collective<'a>,
}

impl InplaceOp1 for OnRange<'_> {
    fn name(&self) -> &'static str {
        "mae-ranks"
    }

    fn cpu_fwd(&self, _: &mut candle_core::CpuStorage, _: &Layout) -> candle_core::Result<()> {
        candle_core::bail!("NCCL adds up what is on GPUs")
    }

    fn cuda_fwd(&self, storage: &mut CudaStorage, layout: &Layout) -> candle_core::Result<()> {
        let CudaStorageSlice::F32(numbers) = &mut storage.slice else {
            candle_core::bail!("ranks add up f32 only");
        };
        let start = layout.start_offset();
        let mut view = numbers.slice_mut(start + self.range.start..start + self.range.end);
        (self.what)(&mut view).map_err(|error| candle_core::Error::Msg(refused(error).to_string()))
    }
}

fn refused(error: NcclError) -> crate::Error {
    failed(format!(
        "NCCL failed ({:?}); NCCL_DEBUG=INFO in the environment makes it say why",
        error.0
    ))
}

fn explain(error: DriverError) -> crate::Error {
    failed(format!("the GPU failed: {error}"))
}
