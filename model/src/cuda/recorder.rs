//! CUDA graphs of work on the device's stream.

use std::sync::Arc;

use candle_core::cuda_backend::cudarc::driver::sys::{
    CUgraphInstantiate_flags, CUstreamCaptureMode,
};
use candle_core::cuda_backend::cudarc::driver::{CudaGraph, CudaStream, DriverError};
use candle_core::{CudaDevice, DType, Tensor};

use super::failed;
use crate::Result;
use crate::input::MaeInput;
use crate::kernels::{address, scratch};

/// What decides the launches of a batch's work: where the batch stands, and what becomes of its loss and gradients.
#[derive(PartialEq, Eq)]
pub(crate) struct Key {
    places: [u64; 3],
    batch: usize,
    share: u32,
    adds: bool,
}

impl Key {
    pub(crate) fn new(input: &MaeInput, share: f32, adds: bool) -> Result<Self> {
        let place =
            |x: &Tensor, dtype| -> Result<u64> { Ok(address::input(x, dtype, x.elem_count())?.0) };
        Ok(Self {
            places: [
                place(input.pixels(), DType::U8)?,
                place(input.ids_keep(), DType::U32)?,
                place(input.ids_restore(), DType::U32)?,
            ],
            batch: input.batch(),
            share: share.to_bits(),
            adds,
        })
    }
}

/// See [`crate::replay::Replay`].
pub(crate) struct Recorder {
    stream: Arc<CudaStream>,
    seen: Vec<(Key, Option<Recording>)>,
}

struct Recording {
    graph: CudaGraph,
    /// The graph names its addresses, and the next one who needs more would free it.
    _scratch: Vec<Tensor>,
}

impl Recorder {
    pub(crate) fn new(device: &CudaDevice) -> Self {
        Self {
            stream: device.cuda_stream(),
            seen: Vec::new(),
        }
    }

    pub(crate) fn run(&mut self, key: Key, work: impl FnOnce() -> Result<()>) -> Result<()> {
        let Some((_, recording)) = self.seen.iter_mut().find(|(seen, _)| *seen == key) else {
            // Modules are loaded, algorithms chosen and scratch is allocated while nothing is recorded.
            work()?;
            self.seen.push((key, None));
            return Ok(());
        };
        let recording = match recording {
            Some(recording) => recording,
            None => recording.insert(record(&self.stream, work)?),
        };
        recording.graph.launch().map_err(explain)
    }
}

fn record(stream: &Arc<CudaStream>, work: impl FnOnce() -> Result<()>) -> Result<Recording> {
    // Other threads may lock memory meanwhile.
    stream
        .begin_capture(CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL)
        .map_err(explain)?;
    let done = work();
    // In any case, or the stream would take no more work.
    let graph = stream.end_capture(CUgraphInstantiate_flags(0));
    done?;
    let graph = graph
        .map_err(explain)?
        .ok_or_else(|| failed("a CUDA graph came out empty".into()))?;
    graph.upload().map_err(explain)?;
    Ok(Recording {
        graph,
        _scratch: scratch::kept(),
    })
}

fn explain(error: DriverError) -> crate::Error {
    failed(format!(
        "the GPU failed with CUDA graphs: {error}; leave out --cuda-graphs"
    ))
}
