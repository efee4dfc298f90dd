//! Where the arithmetic runs.

use candle_core::Device;

use crate::config::DeviceKind;
#[cfg(not(feature = "cuda"))]
use crate::error::Error;
use crate::error::Result;

/// The device of this name.
///
/// # Errors
/// If this build or this machine has no such device.
pub fn open(kind: DeviceKind) -> Result<Device> {
    match kind {
        DeviceKind::Cpu => Ok(Device::Cpu),
        #[cfg(feature = "cuda")]
        DeviceKind::Cuda(ordinal) => Ok(mae_model::cuda::device(ordinal)?),
        #[cfg(not(feature = "cuda"))]
        DeviceKind::Cuda(_) => Err(Error::Config(
            "this mae was built without CUDA; build with `cargo build --release --features cuda` (docs/gpu.md)"
                .into(),
        )),
    }
}
