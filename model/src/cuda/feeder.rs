//! Batches copied to the device on a stream of their own, beside the training.
//!
//! Three lanes of device memory are filled in turn. A copy waits, on the device, until the work on the lane's last batch is done; the
//! training waits, on the device, until the copy is. The host waits for neither: it holds a batch until its copy is done.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use candle_core::cuda_backend::cudarc::driver::sys::CUevent_flags;
use candle_core::cuda_backend::cudarc::driver::{
    CudaEvent, CudaSlice, CudaStream, DevicePtrMut, DriverError, result,
};
use candle_core::{CudaDevice, CudaStorage, DType, Device, InplaceOp1, Layout, Tensor};

use super::failed;
use crate::Result;
use crate::config::MaeConfig;
use crate::feed::{HostInput, LANES};
use crate::input::MaeInput;

/// Device memory of a batch.
struct Lane {
    pixels: Tensor,
    ids_keep: Tensor,
    ids_restore: Tensor,
    /// Behind the work on the batch that is in it.
    used: Option<CudaEvent>,
}

/// A batch that is copied.
struct Held<T> {
    /// Before its first byte, and behind its last.
    begun: CudaEvent,
    copied: CudaEvent,
    /// What they are copied from.
    _batch: T,
}

/// See the [module](self).
pub(crate) struct Lanes<T> {
    device: Device,
    training: Arc<CudaStream>,
    copies: Arc<CudaStream>,
    lanes: Vec<Lane>,
    next: usize,
    /// Batches whose copies may not be done.
    held: VecDeque<Held<T>>,
    /// Where the training stream had done all there was, and where it went on.
    gaps: VecDeque<(Arc<CudaEvent>, CudaEvent)>,
    idle_since: Option<Arc<CudaEvent>>,
    waited: Duration,
    copying: Duration,
}

impl<T> Lanes<T> {
    pub(crate) fn new(device: &CudaDevice) -> Result<Self> {
        let training = device.cuda_stream();
        Ok(Self {
            device: Device::Cuda(device.clone()),
            copies: training.context().new_stream().map_err(explain)?,
            training,
            lanes: Vec::new(),
            next: 0,
            held: VecDeque::new(),
            gaps: VecDeque::new(),
            idle_since: None,
            waited: Duration::ZERO,
            copying: Duration::ZERO,
        })
    }

    pub(crate) fn feed(
        &mut self,
        config: &MaeConfig,
        batch: T,
        view: fn(&T) -> HostInput<'_>,
    ) -> Result<MaeInput> {
        let host = view(&batch);
        let [pixels, keep, restore] = MaeInput::check(config, host)?;
        self.let_go(LANES - 1)?;
        let fits = |lane: &Lane| lane.pixels.dims() == pixels && lane.ids_keep.dims() == keep;
        if !self.lanes.iter().all(fits) {
            // Another shape: nothing of the old one is used any more once the device is through.
            self.training.synchronize().map_err(explain)?;
            self.lanes.clear();
        }
        if self.lanes.len() < LANES {
            self.lanes.push(Lane {
                pixels: Tensor::zeros(pixels, DType::U8, &self.device)?,
                ids_keep: Tensor::zeros(keep, DType::U32, &self.device)?,
                ids_restore: Tensor::zeros(restore, DType::U32, &self.device)?,
                used: Some(self.training.record_event(None).map_err(explain)?),
            });
            self.next = self.lanes.len() - 1;
        } else {
            self.next = (self.next + 1) % LANES;
        }
        let lane = &self.lanes[self.next];
        if let Some(used) = &lane.used {
            self.copies.wait(used).map_err(explain)?;
        }
        let begun = timed(&self.copies)?;
        let copied = match copy_all(&self.copies, host, lane) {
            Ok(copied) => copied,
            Err(error) => {
                // What is under way reads the batch, which goes now.
                let _ = self.copies.synchronize();
                return Err(error);
            }
        };
        self.training.wait(&copied).map_err(explain)?;
        self.held.push_back(Held {
            begun,
            copied,
            _batch: batch,
        });
        if let Some(idle) = self.idle_since.take() {
            self.gaps.push_back((idle, timed(&self.training)?));
        }
        Ok(MaeInput::from_device([
            lane.pixels.clone(),
            lane.ids_keep.clone(),
            lane.ids_restore.clone(),
        ]))
    }

    pub(crate) fn done(&mut self) -> Result<()> {
        if let Some(lane) = self.lanes.get_mut(self.next) {
            lane.used = Some(self.training.record_event(None).map_err(explain)?);
        }
        self.idle_since = Some(Arc::new(timed(&self.training)?));
        Ok(())
    }

    pub(crate) fn pause(&mut self) {
        self.idle_since = None;
    }

    pub(crate) fn waited(&mut self) -> Result<Duration> {
        while let Some((from, to)) = self.gaps.front() {
            if !to.try_is_complete().map_err(explain)? {
                break;
            }
            self.waited += between(from, to)?;
            self.gaps.pop_front();
        }
        Ok(self.waited)
    }

    pub(crate) fn copying(&mut self) -> Result<Duration> {
        self.let_go(usize::MAX)?;
        Ok(self.copying)
    }

    /// Drops the batches whose copies are done, waiting for the first ones while there are more than `most`: the device is busy for as
    /// long as it has these, and the loader has its memory back.
    fn let_go(&mut self, most: usize) -> Result<()> {
        while let Some(held) = self.held.front() {
            if self.held.len() > most {
                held.copied.synchronize().map_err(explain)?;
            } else if !held.copied.try_is_complete().map_err(explain)? {
                break;
            }
            self.copying += between(&held.begun, &held.copied)?;
            self.held.pop_front();
        }
        Ok(())
    }
}

impl<T> Drop for Lanes<T> {
    fn drop(&mut self) {
        // The batches' memory must outlive the copies from it.
        if self.let_go(0).is_err() {
            std::mem::forget(std::mem::take(&mut self.held));
        }
    }
}

/// An event of the stream whose time is taken.
fn timed(stream: &CudaStream) -> Result<CudaEvent> {
    stream
        .record_event(Some(CUevent_flags::CU_EVENT_DEFAULT))
        .map_err(explain)
}

/// Time from one event to another, both done.
fn between(from: &CudaEvent, to: &CudaEvent) -> Result<Duration> {
    let milliseconds = from.elapsed_ms(to).map_err(explain)?;
    Ok(Duration::from_secs_f64(
        f64::from(milliseconds.max(0.0)) / 1e3,
    ))
}

/// Queues a batch's copies; the caller keeps it until the event.
fn copy_all(stream: &Arc<CudaStream>, host: HostInput<'_>, lane: &Lane) -> Result<CudaEvent> {
    copy(stream, host.pixels, &lane.pixels)?;
    copy(stream, host.ids_keep, &lane.ids_keep)?;
    copy(stream, host.ids_restore, &lane.ids_restore)?;
    // Who waits for it sleeps: the loader has work for every core.
    stream
        .record_event(Some(CUevent_flags::CU_EVENT_BLOCKING_SYNC))
        .map_err(explain)
}

/// Queues a copy on a stream; the caller keeps the source until it is done.
fn copy<N: candle_core::WithDType>(
    stream: &Arc<CudaStream>,
    from: &[N],
    to: &Tensor,
) -> Result<()> {
    Ok(to.inplace_op1(&Copy { stream, from })?)
}

struct Copy<'a, N> {
    stream: &'a Arc<CudaStream>,
    from: &'a [N],
}

impl<N: candle_core::WithDType> InplaceOp1 for Copy<'_, N> {
    fn name(&self) -> &'static str {
        "mae-copy"
    }

    fn cpu_fwd(&self, _: &mut candle_core::CpuStorage, _: &Layout) -> candle_core::Result<()> {
        candle_core::bail!("a feeder's lanes are on a GPU")
    }

    fn cuda_fwd(&self, storage: &mut CudaStorage, layout: &Layout) -> candle_core::Result<()> {
        fn start<N>(slice: &mut CudaSlice<N>, stream: &Arc<CudaStream>) -> (u64, usize) {
            let len = slice.len();
            (slice.device_ptr_mut(stream).0, len)
        }
        use candle_core::cuda_backend::CudaStorageSlice as Slice;
        let (at, len) = match &mut storage.slice {
            Slice::U8(slice) => start(slice, self.stream),
            Slice::U32(slice) => start(slice, self.stream),
            _ => candle_core::bail!("a lane holds u8 and u32 only"),
        };
        if layout.start_offset() != 0 || len != self.from.len() {
            candle_core::bail!("a lane of {len} numbers cannot take {}", self.from.len());
        }
        // SAFETY: the lane has room for as many numbers; the source lives until the event behind the copy is done.
        unsafe { result::memcpy_htod_async(at, self.from, self.stream.cu_stream()) }
            .map_err(candle_core::Error::wrap)
    }
}

fn explain(error: DriverError) -> crate::Error {
    failed(format!("the GPU failed: {error}"))
}
