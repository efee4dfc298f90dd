//! A batch's work queued by one call instead of hundreds: a CUDA graph, recorded once for each place in memory that batches come to.
//!
//! It saves the host's time only, so it helps where a GPU would wait for the host: small models and small batches.

use candle_core::Device;

use crate::input::MaeInput;
use crate::{Accumulate, Error, Result};

/// Records work and replays it.
pub struct Replay {
    #[cfg(feature = "cuda")]
    recorder: crate::cuda::Recorder,
}

impl Replay {
    /// For work on a GPU.
    ///
    /// # Errors
    /// If the device is none.
    pub fn new(device: &Device) -> Result<Self> {
        match device {
            #[cfg(feature = "cuda")]
            Device::Cuda(device) => Ok(Self {
                recorder: crate::cuda::Recorder::new(device),
            }),
            _ => Err(Error::Config(
                "CUDA graphs are for a GPU; leave them off on the CPU".into(),
            )),
        }
    }

    /// Does `work` on `input`, whose loss and gradients have so much of a share in the update and replace or add to what is there. The
    /// first time it is done as it is, the second time recorded, from then on it is what was recorded: for one place of the input,
    /// share and mode it must always be the same, and it must not wait for the device.
    ///
    /// # Errors
    /// Those of `work`, or if it cannot be recorded.
    #[cfg_attr(
        not(feature = "cuda"),
        expect(unused_variables, reason = "without a GPU there is no replay")
    )]
    pub fn run(
        &mut self,
        input: &MaeInput,
        share: f32,
        mode: Accumulate,
        work: impl FnOnce() -> Result<()>,
    ) -> Result<()> {
        #[cfg(feature = "cuda")]
        return self.recorder.run(
            crate::cuda::Key::new(input, share, mode == Accumulate::Add)?,
            work,
        );
        #[cfg(not(feature = "cuda"))]
        work()
    }
}
