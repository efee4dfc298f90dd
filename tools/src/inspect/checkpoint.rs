//! Checkpoints and run folders: the trainer knows what they hold.

use std::fmt::{self, Display};
use std::path::Path;

use anyhow::Result;
use mae_trainer::checkpoint::{self, Inspection};
use serde::Serialize;

/// [`Inspection`] with the kind of report that it is.
#[derive(Debug, Serialize)]
pub(super) struct CheckpointReport {
    kind: &'static str,
    #[serde(flatten)]
    inspection: Inspection,
}

/// Whether `path` looks like a checkpoint's folder, or a run's with checkpoints in it.
pub(super) fn is_one(path: &Path) -> bool {
    path.join("state.json").is_file()
        || path.join("model.safetensors").is_file()
        || checkpoint::folder(path).is_dir()
}

pub(super) fn inspect(path: &Path) -> Result<CheckpointReport> {
    Ok(CheckpointReport {
        kind: "checkpoint",
        inspection: checkpoint::inspect(path)?,
    })
}

impl Display for CheckpointReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.inspection)
    }
}
