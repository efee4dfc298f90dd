//! A run's output folder: what it may hold at the start, and which checkpoint the run goes on from.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::checkpoint::RunConfig;
use crate::checkpoint::{self, Checkpoint, files};
use crate::config::{CONFIG_FILE, Difference, Resume};
use crate::error::{Error, Result};
use crate::target::PcaFit;

/// The log of the run in `output_dir`.
pub fn log_path(output_dir: &Path) -> PathBuf {
    output_dir.join("log.jsonl")
}

/// TensorBoard's event files of the run in `output_dir`.
pub fn events_folder(output_dir: &Path) -> PathBuf {
    output_dir.join("tensorboard")
}

/// The pictures of the run in `output_dir`.
pub fn pictures_folder(output_dir: &Path) -> PathBuf {
    output_dir.join("pictures")
}

/// The checkpoint that the run goes on from; None to start afresh. Touches nothing.
///
/// # Errors
/// If the output folder holds something that the run would mix with.
pub(crate) fn starting_point<C: RunConfig>(
    output: &Path,
    resume: &Resume,
) -> Result<Option<Checkpoint<C>>> {
    match resume {
        Resume::Never => {
            must_be_empty(output)?;
            Ok(None)
        }
        Resume::Auto => checkpoint::newest(&checkpoint::folder(output)),
        Resume::From(path) => {
            let found = checkpoint::open(path)?;
            if !holds(output, &found.info.path) {
                must_be_empty(output)?;
            } else if let Some((newest, _)) = checkpoint::list(&checkpoint::folder(output))?
                .last()
                .filter(|(newest, _)| *newest > found.info.state.step)
            {
                return Err(Error::NotNewest {
                    path: found.info.path,
                    newest: *newest,
                });
            }
            Ok(Some(found))
        }
    }
}

/// Whether `checkpoint` is one of the run in `output_dir`, however the paths are spelt.
pub(crate) fn holds(output_dir: &Path, checkpoint: &Path) -> bool {
    match (
        checkpoint.canonicalize(),
        checkpoint::folder(output_dir).canonicalize(),
    ) {
        (Ok(path), Ok(folder)) => path.starts_with(folder),
        _ => false,
    }
}

fn must_be_empty(output: &Path) -> Result<()> {
    let failed = |source| Error::Read {
        path: output.into(),
        source,
    };
    let mut entries = match fs::read_dir(output) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries.map_err(failed)?,
    };
    match entries.next() {
        None => Ok(()),
        Some(entry) => {
            let found = entry
                .map_err(failed)?
                .file_name()
                .to_string_lossy()
                .into_owned();
            Err(Error::OutputNotEmpty {
                path: output.into(),
                found,
            })
        }
    }
}

/// Whether `checkpoint` belongs to this run: same settings, same data. What makes the same data come out otherwise
/// (another decoder or processor) is only logged: the run is the same, though not to the bit.
pub(crate) fn check_same_run<C>(
    checkpoint: &Checkpoint<C>,
    differences: Vec<Difference>,
    dataset: &str,
    fingerprint: &str,
) -> Result<()> {
    let (path, saved) = (&checkpoint.info.path, &checkpoint.info.state);
    if !differences.is_empty() {
        return Err(Error::OtherConfig {
            path: path.clone(),
            differences,
        });
    }
    if saved.dataset != dataset {
        return Err(Error::OtherData {
            path: path.clone(),
            saved: saved.dataset.clone(),
            given: dataset.to_owned(),
        });
    }
    if saved.fingerprint != fingerprint {
        tracing::warn!(
            "the loader is not the one that {} was trained with, so batches may differ in single bits: was {}, is {}",
            path.display(),
            saved.fingerprint,
            fingerprint
        );
    }
    Ok(())
}

/// Name of what a fitted basis came to, in a run's folder.
pub const PCA_FILE: &str = "pca.json";

/// Writes how much of the data a fitted basis explains; the basis itself is in the checkpoints.
pub(crate) fn write_fit(output: &Path, fit: &PcaFit) -> Result<()> {
    let path = output.join(PCA_FILE);
    let json = serde_json::to_vec_pretty(fit).map_err(io::Error::from);
    let written = json.and_then(|json| files::commit_file(&path, &json));
    written.map_err(|source| Error::Write { path, source })
}

/// Makes the folder, clears what an interrupted run left unfinished, and writes the resolved settings (TOML, and the command that goes
/// on).
pub(crate) fn prepare(output: &Path, (settings, resume): (String, String)) -> Result<()> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| Error::Write { path, source }
    };
    fs::create_dir_all(output).map_err(failed(output))?;
    for folder in [
        output.to_owned(),
        checkpoint::folder(output),
        pictures_folder(output),
    ] {
        files::sweep(&folder).map_err(failed(&folder))?;
    }
    let path = output.join(CONFIG_FILE);
    let text = format!("# The run's settings, resolved. Go on with: {resume}\n{settings}");
    files::commit_file(&path, text.as_bytes()).map_err(failed(&path))
}
