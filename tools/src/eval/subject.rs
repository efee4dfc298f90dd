//! The networks that are judged: a checkpoint's, and the same before training.

use std::path::Path;

use candle_core::Device;
use mae_model::{Encoder, Mae, Precision};
use mae_trainer::checkpoint::foreign::ImportOptions;
use mae_trainer::checkpoint::{Source, load_encoder, load_mae};
use mae_trainer::device;

use super::args::{Common, EncodeArgs};
use super::report::Report;

/// A part of a checkpoint that can be judged.
pub(super) trait Network: Sized {
    fn load(
        path: &Path,
        options: &ImportOptions,
        device: &Device,
    ) -> anyhow::Result<(Self, Source)>;

    /// The same before training, `source` being where it comes from.
    fn untrained(&self, source: &Source) -> anyhow::Result<Self>;

    fn set_precision(&mut self, precision: Precision) -> anyhow::Result<()>;
}

impl Network for Mae {
    fn load(
        path: &Path,
        options: &ImportOptions,
        device: &Device,
    ) -> anyhow::Result<(Self, Source)> {
        Ok(load_mae(path, options, device)?)
    }

    fn untrained(&self, source: &Source) -> anyhow::Result<Self> {
        let mut mae = Self::new(self.config.clone(), self.device(), source.seed())?;
        // What the loss is of is the same, however little the model knows of it.
        mae.share_target(self)?;
        Ok(mae)
    }

    fn set_precision(&mut self, precision: Precision) -> anyhow::Result<()> {
        Ok(self.set_precision(precision)?)
    }
}

impl Network for Encoder {
    fn load(
        path: &Path,
        options: &ImportOptions,
        device: &Device,
    ) -> anyhow::Result<(Self, Source)> {
        Ok(load_encoder(path, options, device)?)
    }

    fn untrained(&self, source: &Source) -> anyhow::Result<Self> {
        Ok(source.untrained(self)?)
    }

    fn set_precision(&mut self, precision: Precision) -> anyhow::Result<()> {
        Ok(self.set_precision(precision)?)
    }
}

/// Where networks run, and what they compute with.
pub(super) struct Machine {
    device: Device,
    precision: Precision,
}

impl Machine {
    /// Opens the device.
    ///
    /// # Errors
    /// Where there is none, or the threads cannot be started.
    pub(super) fn open(args: &EncodeArgs) -> anyhow::Result<Self> {
        mae_model::set_threads(args.threads())?;
        Ok(Self {
            device: device::open(args.device)?,
            precision: args.precision(),
        })
    }

    /// The network of the checkpoint at `path`.
    ///
    /// # Errors
    /// Where there is none, or the device does not compute so.
    pub(super) fn load<T: Network>(
        &self,
        path: &Path,
        options: &ImportOptions,
    ) -> anyhow::Result<(T, Source)> {
        let (mut network, source) = T::load(path, options, &self.device)?;
        network.set_precision(self.precision)?;
        Ok((network, source))
    }

    /// The same network before training.
    ///
    /// # Errors
    /// Where the device has no room.
    pub(super) fn untrained<T: Network>(&self, trained: &T, source: &Source) -> anyhow::Result<T> {
        let mut network = trained.untrained(source)?;
        network.set_precision(self.precision)?;
        Ok(network)
    }
}

/// What is judged, and the same before training.
pub(super) struct Subject<T> {
    pub(super) trained: T,
    pub(super) random: T,
    pub(super) source: Source,
}

impl<T: Network> Subject<T> {
    /// Loads the checkpoint that `common` names.
    ///
    /// # Errors
    /// Where it cannot be read or the device cannot be used.
    pub(super) fn load(common: &Common) -> anyhow::Result<Self> {
        let machine = Machine::open(&common.encode)?;
        let options = common.encode.import.options();
        let (trained, source) = machine.load(&common.checkpoint, &options)?;
        Ok(Self {
            random: machine.untrained(&trained, &source)?,
            trained,
            source,
        })
    }

    /// A report without figures yet.
    pub(super) fn report(&self, evaluation: &'static str, samples: u64) -> Report {
        Report {
            evaluation,
            checkpoint: self.source.path().display().to_string(),
            step: self.source.step(),
            train_samples: None,
            samples,
            settings: vec![],
            rows: vec![],
        }
    }
}
