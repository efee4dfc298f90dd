//! `state.json`: all of a run's state that is not tensors.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::files::FileDigest;
use crate::config::PretrainConfig;

/// The version of the checkpoint's layout that this build writes and reads.
pub const VERSION: u32 = 1;

/// Where a run stands. Random numbers are counter-based, so no generator's state is in it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunState {
    /// Layout of the checkpoint.
    pub version: u32,
    /// The crate's version that wrote it.
    pub written_by: String,
    /// Updates done.
    pub step: u64,
    /// Updates an epoch.
    pub steps_per_epoch: u64,
    /// The epoch that the next batch belongs to, counted from 0.
    pub epoch: u64,
    /// The next batch within that epoch.
    pub batch: u64,
    /// Sum of the losses of the epoch's updates so far.
    pub epoch_loss: f64,
    /// Samples of each data set in the epoch's updates so far.
    #[serde(default)]
    pub data_samples: Vec<u64>,
    /// Seconds of training so far, over all the run's parts.
    pub seconds: f64,
    /// Digest of the data: names, keys and sizes. Those of several data sets are joined by `+`.
    pub dataset: String,
    /// What else decides the batches: decoder, seed, transform, processor features.
    pub fingerprint: String,
    /// The run's settings.
    pub config: PretrainConfig,
    /// The other files of the checkpoint.
    pub files: BTreeMap<String, FileDigest>,
}
