//! What can go wrong in training, each with what to do about it.

use std::io;
use std::path::PathBuf;

use crate::checkpoint::foreign::{Client, ForeignError};
use crate::config::{Difference, ListenAddress};

/// The crate's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Errors of the trainer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A setting that cannot be.
    #[error("{0}")]
    Config(String),
    /// A configuration file that cannot be read as one.
    #[error("{}: {message}", path.display())]
    ConfigFile {
        /// The file.
        path: PathBuf,
        /// What is wrong in it.
        message: String,
    },
    /// The loader failed.
    #[error(transparent)]
    Loader(#[from] mae_loader::Error),
    /// The model failed.
    #[error(transparent)]
    Model(#[from] mae_model::Error),
    /// Candle failed.
    #[error(transparent)]
    Candle(#[from] candle_core::Error),
    /// A file or folder could not be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file or folder could not be written.
    #[error("cannot write {}: {source}", path.display())]
    Write {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A checkpoint could not be saved; the former ones are untouched.
    #[error(
        "the checkpoint of step {step} could not be written to {}: {source}. Earlier checkpoints are whole. \
         Make room (this one needs {} MB) or write elsewhere, then go on with: {resume}",
        path.display(), bytes.div_ceil(1_000_000)
    )]
    Save {
        /// The step whose checkpoint failed.
        step: u64,
        /// Where it was to stand.
        path: PathBuf,
        /// Its size.
        bytes: u64,
        /// Why.
        source: io::Error,
        /// The command that goes on from the last whole checkpoint.
        resume: String,
    },
    /// A folder that is no whole checkpoint.
    #[error("{} is not a whole checkpoint: {reason}", path.display())]
    BrokenCheckpoint {
        /// The folder.
        path: PathBuf,
        /// What is missing or wrong.
        reason: String,
    },
    /// Another program's checkpoint that cannot be taken.
    #[error("no weights can be taken from {}: {reason}", path.display())]
    Foreign {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        reason: ForeignError,
    },
    /// A checkpoint that cannot be written for another program.
    #[error("{} cannot be exported to {client}: {reason}", path.display())]
    Export {
        /// The checkpoint.
        path: PathBuf,
        /// Whom it was for.
        client: Client,
        /// Why.
        reason: ForeignError,
    },
    /// A folder that holds no tokenizer.
    #[error("{} is no tokenizer: {reason}. Give the folder that `mae tokenizer train` wrote", path.display())]
    Tokenizer {
        /// The folder.
        path: PathBuf,
        /// What is missing or wrong.
        reason: String,
    },
    /// Moments that do not fit the model's parameters.
    #[error("the optimiser's state has {found} for {name}, the model needs shape {expected:?}")]
    OptimizerState {
        /// The moment's name.
        name: String,
        /// The parameter's shape.
        expected: Vec<usize>,
        /// What is there instead.
        found: String,
    },
    /// Checkpoints exist, but none can be used.
    #[error(
        "none of the checkpoints in {} is whole ({newest}); delete the folder to start afresh", path.display()
    )]
    NoWholeCheckpoint {
        /// The run's folder.
        path: PathBuf,
        /// What is wrong with the newest.
        newest: String,
    },
    /// A path that holds neither a checkpoint nor a run.
    #[error(
        "{} holds no checkpoint; give a folder step-N of a run's checkpoints, the run's folder, or another program's file or \
         folder of weights (.pth, .safetensors, config.json with model.safetensors)", path.display()
    )]
    NoCheckpoint {
        /// The path.
        path: PathBuf,
    },
    /// The output folder holds something, and no resume was asked for.
    #[error(
        "{} already holds files ({found}). To go on with the run in it, add --resume auto; to start another, \
         choose another --output-dir", path.display()
    )]
    OutputNotEmpty {
        /// The output folder.
        path: PathBuf,
        /// One of the files.
        found: String,
    },
    /// A checkpoint that is not the newest of the folder it would be continued in.
    #[error(
        "{} is not the newest checkpoint of its run (that is step {newest}); to branch off from it, choose another \
         --output-dir", path.display()
    )]
    NotNewest {
        /// The checkpoint asked for.
        path: PathBuf,
        /// The newest step there.
        newest: u64,
    },
    /// A resume under other settings.
    #[error(
        "this run and the checkpoint {} differ in what changes the training:\n{}\nGive the checkpoint's settings \
         (`--config` with the run's config.toml does), or start another run in another --output-dir",
        path.display(), lines(differences)
    )]
    OtherConfig {
        /// The checkpoint.
        path: PathBuf,
        /// What differs.
        differences: Vec<Difference>,
    },
    /// A resume on other data.
    #[error(
        "the data is not what the checkpoint {} was trained on (digest {saved}, now {given}): shards, samples or sizes \
         differ. Give the same --data, or start another run in another --output-dir", path.display()
    )]
    OtherData {
        /// The checkpoint.
        path: PathBuf,
        /// Its data's digest.
        saved: String,
        /// This data's.
        given: String,
    },
    /// Fewer batches in an epoch than one update takes.
    #[error(
        "an epoch has {samples} samples, which is {batches} batches of {batch_size}, but an update takes {accum_iter}: \
         the weights would never change. Lower --accum-iter or --batch-size"
    )]
    EpochTooShort {
        /// Samples of an epoch.
        samples: u64,
        /// Whole batches an epoch.
        batches: u64,
        /// Images a batch.
        batch_size: usize,
        /// Batches an update.
        accum_iter: usize,
    },
    /// A step is too large for the GPU.
    #[error(
        "a step on {batch} images takes {:.1} GB of the GPU's memory, of which {:.1} GB are free: {}",
        *needed as f64 / 1e9, *free as f64 / 1e9, smaller(*fits, *recomputing)
    )]
    Memory {
        /// Images a batch.
        batch: usize,
        /// Bytes that it takes.
        needed: u64,
        /// Bytes that there are.
        free: u64,
        /// Images that there is room for.
        fits: usize,
        /// Images that there is room for with activation checkpointing, where it is off.
        recomputing: Option<usize>,
    },
    /// The loss is not a number any more.
    #[error(
        "the loss at step {step} is {loss}; training stopped before it could spoil the weights. The last checkpoint \
         is good. A lower learning rate or --clip-grad 1 usually helps. Samples of that batch: {}",
        names(samples)
    )]
    NonFiniteLoss {
        /// The update, counted from 1.
        step: u64,
        /// The loss.
        loss: f32,
        /// The batch's samples, as `shard: key`.
        samples: Vec<String>,
    },
    /// The gradient is not a number any more.
    #[error(
        "the gradient's norm at step {step} is {norm} though the loss is finite; training stopped before it could \
         spoil the weights. The last checkpoint is good; try a lower learning rate. Samples of that update: {}",
        names(samples)
    )]
    NonFiniteGradient {
        /// The update, counted from 1.
        step: u64,
        /// The norm.
        norm: f64,
        /// The update's samples, as `shard: key`.
        samples: Vec<String>,
    },
    /// The weights are not numbers any more, so they were not saved.
    #[error(
        "the weights after step {step} hold values that are not finite, so no checkpoint was written; the last one is \
         good. Go on from it with a lower learning rate or --clip-grad 1"
    )]
    NonFiniteWeights {
        /// The update.
        step: u64,
    },
    /// The loader handed over fewer batches than the epochs have.
    #[error("the data ended at epoch {epoch}, batch {batch}, before the run did")]
    DataEnded {
        /// The epoch, counted from 0.
        epoch: u64,
        /// The batch within it.
        batch: u64,
    },
    /// The processes of a run do not have in common what they must.
    #[error(
        "the processes of this run differ in {0}. They must run the same program with the same flags, on the same data, in one output \
         folder that all of them see"
    )]
    Disagreement(String),
    /// Another process of the run has failed, or cannot be reached.
    #[error("{0}")]
    Ranks(String),
    /// The page for Prometheus cannot be served.
    #[error(
        "cannot serve the metrics at {address}: {source}. Give --prometheus another address or port (0 is any free one), or leave it out"
    )]
    Listen {
        /// Where.
        address: ListenAddress,
        /// Why.
        source: io::Error,
    },
    /// A log line that is not JSON, before the part that a resume may cut.
    #[error("{} line {line} is not a log line; move the file away to go on without it", path.display())]
    BrokenLog {
        /// The log.
        path: PathBuf,
        /// The line, counted from 1.
        line: usize,
    },
}

impl Error {
    /// The update that did not come to finite numbers, where that is what went wrong.
    pub(crate) fn diverged_at(&self) -> Option<u64> {
        match self {
            Error::NonFiniteLoss { step, .. } | Error::NonFiniteGradient { step, .. } => {
                Some(*step)
            }
            _ => None,
        }
    }
}

fn lines(differences: &[Difference]) -> String {
    differences
        .iter()
        .map(|difference| format!("  {difference}"))
        .collect::<Vec<_>>()
        .join("\n")
}

/// A batch's samples, cut where a screen would overflow.
fn names(samples: &[String]) -> String {
    const SHOWN: usize = 64;
    let shown = samples
        .iter()
        .take(SHOWN)
        .cloned()
        .collect::<Vec<_>>()
        .join(", ");
    match samples.len().saturating_sub(SHOWN) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

/// What to do where a batch does not fit.
fn smaller(fits: usize, recomputing: Option<usize>) -> String {
    let recomputing = recomputing.filter(|&images| images > fits).map(|images| {
        format!("with --activation-checkpointing --batch-size {images}, at a third more time")
    });
    match (fits, recomputing) {
        (0, None) => "not one image fits; take a smaller model".into(),
        (0, Some(other)) => format!("not one image fits, but {other}"),
        (fits, None) => format!("--batch-size {fits} fits"),
        (fits, Some(other)) => format!("--batch-size {fits} fits, or {other}"),
    }
}
