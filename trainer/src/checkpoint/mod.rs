//! Checkpoints: folders `step-N` under a run's `checkpoints/`, each with the weights under the reference code's names
//! (`model.safetensors`), the optimiser's moments (`optimizer.safetensors`) and the run's state (`state.json`).
//!
//! A checkpoint is either whole or not there; one that was damaged later is recognised by its digests when loaded.

pub mod files;
pub mod foreign;
mod load;
pub mod retention;
mod state;
pub(crate) mod tensors;

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use mae_model::StateDict;
use mae_model::mae::is_trained;

pub use load::{
    Source, export, inspect_foreign, is_run, load_classifier, load_encoder, load_mae, weights,
};
pub use state::{Best, RunConfig, RunKind, RunState, VERSION};

use self::files::FileDigest;
use self::retention::Retention;
use crate::config::PretrainConfig;
use crate::error::{Error, Result};

const MODEL: &str = "model.safetensors";
const OPTIMIZER: &str = "optimizer.safetensors";
const STATE: &str = "state.json";

/// What a checkpoint says of itself, without its tensors.
#[derive(Clone, Debug)]
pub struct CheckpointInfo<C = PretrainConfig> {
    /// The checkpoint's folder.
    pub path: PathBuf,
    /// The run's state in it.
    pub state: RunState<C>,
}

/// A checkpoint read and verified.
#[derive(Clone, Debug)]
pub struct Checkpoint<C = PretrainConfig> {
    /// Where it stands and what it says.
    pub info: CheckpointInfo<C>,
    /// Weights by the reference code's names.
    pub model: StateDict,
    /// The optimiser's moments.
    pub optimizer: StateDict,
}

/// The folder of a run's checkpoints.
pub fn folder(run: &Path) -> PathBuf {
    run.join("checkpoints")
}

/// Where in `folder` the checkpoint of a step stands.
pub(crate) fn path(folder: &Path, step: u64) -> PathBuf {
    folder.join(format!("step-{step:08}"))
}

/// The checkpoints in `folder`, oldest first, as (step, path). Whether they are whole is not looked at.
pub fn list(folder: &Path) -> Result<Vec<(u64, PathBuf)>> {
    let failed = |source| Error::Read {
        path: folder.into(),
        source,
    };
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(vec![]),
        entries => entries.map_err(failed)?,
    };
    let mut found = vec![];
    for entry in entries {
        let path = entry.map_err(failed)?.path();
        if let Some(step) = step_of(&path) {
            found.push((step, path));
        }
    }
    found.sort();
    Ok(found)
}

fn step_of(path: &Path) -> Option<u64> {
    path.file_name()?
        .to_str()?
        .strip_prefix("step-")?
        .parse()
        .ok()
}

/// Writes a checkpoint into `folder`, whole or not at all, and returns its path. `state.files` is filled in here.
///
/// # Errors
/// [`Error::Save`] with what to do; former checkpoints are untouched.
pub fn save<C: RunConfig>(
    folder: &Path,
    mut state: RunState<C>,
    model: &StateDict,
    optimizer: &StateDict,
) -> Result<PathBuf> {
    let target = path(folder, state.step);
    let step = state.step;
    let resume = state.config.resume_command();
    let written = fs::create_dir_all(folder).and_then(|()| {
        files::commit_folder(&target, |temporary| {
            for (name, tensors) in [(MODEL, model), (OPTIMIZER, optimizer)] {
                let path = temporary.join(name);
                tensors::write(&path, tensors)?;
                state
                    .files
                    .insert(name.to_owned(), FileDigest::of_file(&path)?);
            }
            fs::write(temporary.join(STATE), serde_json::to_vec_pretty(&state)?)
        })
    });
    match written {
        Ok(()) => Ok(target),
        Err(source) => {
            let numbers: usize = model
                .values()
                .chain(optimizer.values())
                .map(|tensor| tensor.data.len())
                .sum();
            Err(Error::Save {
                step,
                path: target,
                bytes: 4 * numbers as u64,
                source,
                resume,
            })
        }
    }
}

/// Keeps the checkpoint at `path` as `name` in the run's folder, whatever becomes of it; the former one of that name goes. Takes no room
/// where the file system has hard links.
///
/// # Errors
/// If it cannot be written; then the former one stands.
pub fn keep_as(path: &Path, run: &Path, name: &str) -> Result<()> {
    let target = run.join(name);
    let kept = files::commit_folder(&target, |temporary| {
        for entry in fs::read_dir(path)? {
            let (from, to) = (entry?.path(), temporary);
            let to = to.join(from.file_name().unwrap_or_default());
            if fs::hard_link(&from, &to).is_err() {
                fs::copy(&from, &to)?;
            }
        }
        Ok(())
    });
    kept.map_err(|source| Error::Write {
        path: target,
        source,
    })
}

/// Deletes the checkpoints in `folder` that `retention` does not keep. One that cannot be deleted is only logged:
/// the run is worth more than the room.
pub fn prune(folder: &Path, retention: Retention) -> Result<()> {
    let existing = list(folder)?;
    let steps: Vec<u64> = existing.iter().map(|(step, _)| *step).collect();
    let gone = retention.to_delete(&steps);
    for (_, path) in existing.iter().filter(|(step, _)| gone.contains(step)) {
        if let Err(error) = files::discard_folder(path) {
            tracing::warn!(
                "cannot delete the old checkpoint {}: {error}",
                path.display()
            );
        }
    }
    Ok(())
}

/// Reads the checkpoint in the folder `path` and verifies it.
///
/// # Errors
/// [`Error::BrokenCheckpoint`] if anything is missing or damaged.
pub fn load<C: RunConfig>(path: &Path) -> Result<Checkpoint<C>> {
    let info = read_state(path)?;
    Ok(Checkpoint {
        model: read_tensors(&info, MODEL)?,
        optimizer: read_tensors(&info, OPTIMIZER)?,
        info,
    })
}

/// The newest whole checkpoint in `folder`; damaged ones are passed over with a warning. None if there is none at all.
///
/// # Errors
/// [`Error::NoWholeCheckpoint`] if there are only damaged ones.
pub fn newest<C: RunConfig>(folder: &Path) -> Result<Option<Checkpoint<C>>> {
    newest_by(folder, load)
}

fn newest_by<T>(folder: &Path, load: impl Fn(&Path) -> Result<T>) -> Result<Option<T>> {
    let mut newest_failure = None;
    for (_, path) in list(folder)?.iter().rev() {
        match load(path) {
            Ok(checkpoint) => return Ok(Some(checkpoint)),
            Err(error @ Error::BrokenCheckpoint { .. }) => {
                tracing::warn!("passed over: {error}");
                newest_failure.get_or_insert(error.to_string());
            }
            Err(error) => return Err(error),
        }
    }
    match newest_failure {
        Some(newest) => Err(Error::NoWholeCheckpoint {
            path: folder.into(),
            newest,
        }),
        None => Ok(None),
    }
}

/// Reads the checkpoint that `path` names: its own folder, or a run's folder for its newest whole one.
///
/// # Errors
/// [`Error::NoCheckpoint`] if `path` is neither.
pub fn open<C: RunConfig>(path: &Path) -> Result<Checkpoint<C>> {
    open_by(path, load)
}

fn open_by<T>(path: &Path, load: impl Fn(&Path) -> Result<T>) -> Result<T> {
    if path.join(STATE).is_file() || step_of(path).is_some() && path.is_dir() {
        return load(path);
    }
    for folder in [folder(path), path.to_owned()] {
        if let Some(found) = newest_by(&folder, &load)? {
            return Ok(found);
        }
    }
    Err(Error::NoCheckpoint { path: path.into() })
}

fn broken(path: &Path, reason: impl Into<String>) -> Error {
    Error::BrokenCheckpoint {
        path: path.into(),
        reason: reason.into(),
    }
}

/// What kind of run the checkpoint in the folder `path` is of.
fn read_kind(path: &Path) -> Result<RunKind> {
    kind_of(path, &read_part(path, STATE)?)
}

fn kind_of(path: &Path, state: &[u8]) -> Result<RunKind> {
    #[derive(serde::Deserialize)]
    struct Version {
        version: u32,
        #[serde(default)]
        kind: RunKind,
    }
    match serde_json::from_slice(state) {
        Ok(Version { version, kind }) if version == VERSION => Ok(kind),
        Ok(Version { version, .. }) => Err(broken(
            path,
            format!("its layout is version {version}, this build reads version {VERSION}"),
        )),
        Err(error) => Err(broken(path, format!("{STATE}: {error}"))),
    }
}

fn read_state<C: RunConfig>(path: &Path) -> Result<CheckpointInfo<C>> {
    let content = read_part(path, STATE)?;
    let kind = kind_of(path, &content)?;
    if kind != C::KIND {
        return Err(broken(
            path,
            format!("it is one of {kind}, where one of {} is wanted", C::KIND),
        ));
    }
    let state: RunState<C> = serde_json::from_slice(&content)
        .map_err(|error| broken(path, format!("{STATE}: {error}")))?;
    for name in [MODEL, OPTIMIZER] {
        let digest = state
            .files
            .get(name)
            .ok_or_else(|| broken(path, format!("{STATE} does not name {name}")))?;
        match fs::metadata(path.join(name)) {
            Ok(about) if about.len() == digest.bytes => {}
            Ok(about) => {
                return Err(broken(
                    path,
                    format!(
                        "{name} has {} bytes instead of {}",
                        about.len(),
                        digest.bytes
                    ),
                ));
            }
            Err(error) => return Err(broken(path, format!("{name}: {error}"))),
        }
    }
    Ok(CheckpointInfo {
        path: path.into(),
        state,
    })
}

fn read_tensors<C>(info: &CheckpointInfo<C>, name: &str) -> Result<StateDict> {
    let content = read_part(&info.path, name)?;
    if info.state.files.get(name) != Some(&FileDigest::of(&content)) {
        return Err(broken(
            &info.path,
            format!("{name} has changed since it was written"),
        ));
    }
    tensors::parse(&content).map_err(|reason| broken(&info.path, format!("{name}: {reason}")))
}

fn read_part(path: &Path, name: &str) -> Result<Vec<u8>> {
    fs::read(path.join(name)).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => broken(path, format!("{name} is missing")),
        _ => Error::Read {
            path: path.join(name),
            source: error,
        },
    })
}

/// A checkpoint's contents for people and programs: what `mae inspect` prints.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Inspection {
    /// The checkpoint's folder.
    pub path: PathBuf,
    /// Updates done.
    pub step: u64,
    /// Epochs done, as a fraction.
    pub epoch: f64,
    /// Trainable numbers, encoder and decoder.
    pub parameters: usize,
    /// Bytes of each file.
    pub files: BTreeMap<String, u64>,
    /// The run's state, its settings among them.
    pub state: RunState,
}

/// What a checkpoint (or a run's newest) holds; its tensors are read and verified.
pub fn inspect(path: &Path) -> Result<Inspection> {
    let Checkpoint::<PretrainConfig> { info, model, .. } = open(path)?;
    let state = info.state;
    Ok(Inspection {
        path: info.path,
        step: state.step,
        epoch: state.step as f64 / state.steps_per_epoch.max(1) as f64,
        parameters: model
            .iter()
            .filter(|(name, _)| is_trained(name))
            .map(|(_, tensor)| tensor.data.len())
            .sum(),
        files: state
            .files
            .iter()
            .map(|(name, digest)| (name.clone(), digest.bytes))
            .collect(),
        state,
    })
}

impl fmt::Display for Inspection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "checkpoint   {}", self.path.display())?;
        writeln!(
            f,
            "step         {} ({:.2} of {} epochs)",
            self.step, self.epoch, self.state.config.epochs
        )?;
        writeln!(f, "parameters   {}", self.parameters)?;
        let target = self.state.config.mae().target_name();
        writeln!(f, "target       {target}")?;
        writeln!(f, "trained for  {:.0} s", self.state.seconds)?;
        writeln!(f, "dataset      {}", self.state.dataset)?;
        writeln!(f, "written by   mae {}", self.state.written_by)?;
        for (name, bytes) in &self.files {
            writeln!(f, "file         {name}, {bytes} bytes")?;
        }
        let settings = self.state.config.to_toml().map_err(|_| fmt::Error)?;
        write!(f, "\n{settings}")
    }
}

#[cfg(test)]
mod tests;
