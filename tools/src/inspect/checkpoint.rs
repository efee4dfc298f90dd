//! Checkpoints, of runs and of other programs: the trainer knows what they hold.

use std::fmt::{self, Display};
use std::path::Path;

use anyhow::Result;
use mae_trainer::checkpoint::foreign::{ForeignInspection, ImportOptions, is_recognised};
use mae_trainer::checkpoint::{self, Inspection};
use serde::Serialize;

/// What a checkpoint holds, with the kind of report that it is.
#[derive(Debug, Serialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub(super) enum CheckpointReport {
    Checkpoint(Box<Inspection>),
    ForeignCheckpoint(Box<ForeignInspection>),
}

/// Whether `path` looks like a checkpoint, of a run or of another program.
pub(super) fn is_one(path: &Path) -> bool {
    checkpoint::is_run(path).unwrap_or(false) || is_recognised(path)
}

pub(super) fn inspect(path: &Path, options: &ImportOptions) -> Result<CheckpointReport> {
    if checkpoint::is_run(path)? {
        let inspection = checkpoint::inspect(path)?;
        return Ok(CheckpointReport::Checkpoint(Box::new(inspection)));
    }
    let inspection = checkpoint::inspect_foreign(path, options)?;
    Ok(CheckpointReport::ForeignCheckpoint(Box::new(inspection)))
}

impl Display for CheckpointReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Checkpoint(inspection) => inspection.fmt(f),
            Self::ForeignCheckpoint(inspection) => inspection.fmt(f),
        }
    }
}
