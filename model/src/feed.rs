//! Batches from the host's memory to where the model is.

use candle_core::Device;

use crate::config::MaeConfig;
use crate::input::MaeInput;
use crate::{Error, Result};

/// Batches whose memory is on a GPU at a time; and batches that the host holds until they are copied.
pub(crate) const LANES: usize = 3;

/// A batch in the host's memory; lengths as in [`MaeInput::from_host`].
#[derive(Clone, Copy)]
pub struct HostInput<'a> {
    /// Bytes `[B, H, W, C]`.
    pub pixels: &'a [u8],
    /// `[B, K]`.
    pub ids_keep: &'a [u32],
    /// `[B, L]`.
    pub ids_restore: &'a [u32],
}

/// Feeds a model on one device. Batches of type `T` are held until their memory has been read.
pub struct Feeder<T> {
    device: Device,
    #[cfg(feature = "cuda")]
    lanes: Option<crate::cuda::Lanes<T>>,
    view: fn(&T) -> HostInput<'_>,
}

impl<T> Feeder<T> {
    /// Feeds `device` with what `view` finds in a batch.
    ///
    /// # Errors
    /// If the device fails.
    pub fn new(device: &Device, view: fn(&T) -> HostInput<'_>) -> Result<Self> {
        Ok(Self {
            device: device.clone(),
            #[cfg(feature = "cuda")]
            lanes: match device {
                Device::Cuda(device) => Some(crate::cuda::Lanes::new(device)?),
                _ => None,
            },
            view,
        })
    }

    /// The batch on the device. On a GPU, copies run beside the training that is queued, in order; work on the batch must be queued
    /// before the next one is fed.
    ///
    /// # Errors
    /// If lengths do not fit the model, the ids contradict each other, or the device fails.
    pub fn feed(&mut self, config: &MaeConfig, batch: T) -> Result<MaeInput> {
        #[cfg(feature = "cuda")]
        if let Some(lanes) = &mut self.lanes {
            return lanes.feed(config, batch, self.view);
        }
        let host = (self.view)(&batch);
        MaeInput::from_host(
            config,
            host.pixels,
            host.ids_keep,
            host.ids_restore,
            &self.device,
        )
    }

    /// Says that all work before the next batch is queued. On a GPU, what the device waits between this and the next batch counts as
    /// waiting.
    ///
    /// # Errors
    /// If the device fails.
    pub fn done(&mut self) -> Result<()> {
        #[cfg(feature = "cuda")]
        if let Some(lanes) = &mut self.lanes {
            return lanes.done();
        }
        Ok(())
    }

    /// Says that something else than the next batch is what the device waits for now.
    pub fn pause(&mut self) {
        #[cfg(feature = "cuda")]
        if let Some(lanes) = &mut self.lanes {
            lanes.pause();
        }
    }

    /// How long the device has waited for batches, as far as it has come; nothing where the host computes.
    ///
    /// # Errors
    /// If the device fails.
    pub fn waited(&mut self) -> Result<Option<std::time::Duration>> {
        #[cfg(feature = "cuda")]
        if let Some(lanes) = &mut self.lanes {
            return lanes.waited().map(Some);
        }
        Ok::<_, Error>(None)
    }

    /// How long copies to the device have taken, as far as they are known to be done; nothing where the host computes.
    ///
    /// # Errors
    /// If the device fails.
    pub fn copying(&mut self) -> Result<Option<std::time::Duration>> {
        #[cfg(feature = "cuda")]
        if let Some(lanes) = &mut self.lanes {
            return lanes.copying().map(Some);
        }
        Ok(None)
    }
}
