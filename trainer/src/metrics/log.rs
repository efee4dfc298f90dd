//! `log.jsonl`: a JSON object a line, one a logged step and one an epoch.
//!
//! The log holds each step once, also over interruptions: a resumed run first cuts what was logged after its
//! checkpoint. It is flushed to the disk before a checkpoint is, so that none is newer than the log.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::checkpoint::files;
use crate::error::{Error, Result};
use crate::metrics::utilisation::Utilisation;

/// A line of the log.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum LogLine {
    /// After an update.
    Step(StepLine),
    /// After an epoch.
    Epoch(EpochLine),
}

/// How many samples came from a data set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DataCount {
    /// The data set: the value of `--data` without the weight.
    pub name: String,
    /// Its samples, those that are cropped several times counted as often.
    pub samples: u64,
}

/// An update's figures.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StepLine {
    /// Updates done, this one included.
    pub step: u64,
    /// Epochs done, as a fraction.
    pub epoch: f64,
    /// This update's loss, over its whole accumulation.
    pub loss: f64,
    /// This update's learning rate.
    pub lr: f64,
    /// Images a second since the last line.
    pub images_per_second: f64,
    /// Share of the time since the last line spent waiting for data.
    pub data_wait: f64,
    /// Samples so far, over all the run's parts, that could not be used and were replaced by others.
    #[serde(default)]
    pub bad_samples: u64,
    /// Bytes of the process in the machine's memory, where the system tells.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_memory: Option<u64>,
    /// Bytes in use on the GPU, by every process.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device_memory: Option<u64>,
    /// Norm of the gradient before clipping, where clipping is on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grad_norm: Option<f64>,
    /// What a tokenizer's update came to besides.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokenizer: Option<TokenizerFigures>,
    /// Samples of each data set in this epoch's updates so far, where several are mixed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub data: Vec<DataCount>,
}

/// What a tokenizer's update came to besides its loss.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct TokenizerFigures {
    /// Mean squared error of the pixels on a scale of -1 to 1, from relaxed codes.
    pub reconstruction: f64,
    /// Mean divergence of a patch's codes from uniform ones, in nats.
    pub kl: f64,
    /// Codes in use: `e` to the entropy of the likeliest codes' shares in the batch.
    pub perplexity: f64,
    /// Of the Gumbel-softmax.
    pub temperature: f64,
}

/// How a tokenizer's codes are used on held-out images.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct CodeUsage {
    /// Codes that occur.
    pub used: u64,
    /// `e` to the entropy of the codes' shares.
    pub perplexity: f64,
}

/// An epoch's figures.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EpochLine {
    /// Updates done.
    pub step: u64,
    /// Epochs done.
    pub epoch: u64,
    /// Mean of the epoch's training losses.
    pub loss: f64,
    /// Loss on the held-out data, in epochs that validate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub val_loss: Option<f64>,
    /// Share of the held-out samples whose class came first, where there are classes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub val_top1: Option<f64>,
    /// Among the first five.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub val_top5: Option<f64>,
    /// How a tokenizer's codes are used on the held-out data.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub val_codes: Option<CodeUsage>,
    /// Samples of each data set in the epoch's updates, where several are mixed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub data: Vec<DataCount>,
    /// What the epoch's updates were bound by, where they were enough to say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub utilisation: Option<Utilisation>,
    /// Seconds of training so far, over all the run's parts.
    pub seconds: f64,
}

/// The open log of a run.
#[derive(Debug)]
pub struct Log {
    path: PathBuf,
    file: File,
}

impl Log {
    /// Opens the log at `path` to go on after `step`: later lines, and a last one that was cut short, are removed.
    /// So is the line of an epoch that ends at `step` if that epoch's end is yet to come (`epoch_open`).
    ///
    /// # Errors
    /// [`Error::BrokenLog`] if anything but the last line is not one of ours.
    pub fn open(path: &Path, step: u64, epoch_open: bool) -> Result<Self> {
        let failed = |source| Error::Write {
            path: path.into(),
            source,
        };
        match std::fs::read(path) {
            Ok(content) => {
                let kept = lines_until(&content, path, step, epoch_open)?;
                if kept != content {
                    files::commit_file(path, &kept).map_err(failed)?;
                }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(source) => {
                return Err(Error::Read {
                    path: path.into(),
                    source,
                });
            }
        }
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(path)
            .map_err(failed)?;
        Ok(Log {
            path: path.into(),
            file,
        })
    }

    /// Appends a line, in one write.
    pub fn write(&mut self, line: &LogLine) -> Result<()> {
        let text = serde_json::to_string(line).map_err(io::Error::from);
        text.and_then(|text| self.file.write_all(format!("{text}\n").as_bytes()))
            .map_err(|source| Error::Write {
                path: self.path.clone(),
                source,
            })
    }

    /// Flushes what was written to the disk.
    pub fn sync(&self) -> Result<()> {
        self.file.sync_all().map_err(|source| Error::Write {
            path: self.path.clone(),
            source,
        })
    }
}

/// Reads a whole log.
pub fn read(path: &Path) -> Result<Vec<LogLine>> {
    let text = std::fs::read_to_string(path).map_err(|source| Error::Read {
        path: path.into(),
        source,
    })?;
    text.lines()
        .enumerate()
        .map(|(n, line)| {
            serde_json::from_str(line).map_err(|_| Error::BrokenLog {
                path: path.into(),
                line: n + 1,
            })
        })
        .collect()
}

/// The whole lines of `content` up to `step`.
fn lines_until(content: &[u8], path: &Path, step: u64, epoch_open: bool) -> Result<Vec<u8>> {
    let stays = |line: &LogLine| match line {
        LogLine::Step(line) => line.step <= step,
        LogLine::Epoch(line) => line.step < step || line.step == step && !epoch_open,
    };
    let mut kept = Vec::with_capacity(content.len());
    let mut lines = content
        .split_inclusive(|byte| *byte == b'\n')
        .enumerate()
        .peekable();
    while let Some((n, line)) = lines.next() {
        match serde_json::from_slice::<LogLine>(line) {
            Ok(parsed) if stays(&parsed) && line.ends_with(b"\n") => kept.extend_from_slice(line),
            Ok(_) => {}
            Err(_) if lines.peek().is_none() => {}
            Err(_) => {
                return Err(Error::BrokenLog {
                    path: path.into(),
                    line: n + 1,
                });
            }
        }
    }
    Ok(kept)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::utilisation::{Bound, Shares};

    fn step(step: u64) -> LogLine {
        LogLine::Step(StepLine {
            step,
            epoch: step as f64 / 3.0,
            loss: 0.1 * step as f64,
            lr: 1e-3,
            images_per_second: 9.0,
            data_wait: 0.0,
            bad_samples: step,
            host_memory: Some(1 << 40),
            device_memory: None,
            grad_norm: None,
            tokenizer: None,
            data: vec![],
        })
    }

    fn epoch(step: u64) -> LogLine {
        LogLine::Epoch(EpochLine {
            step,
            epoch: step / 3,
            loss: 1.0 / 3.0,
            val_loss: None,
            val_top1: None,
            val_top5: None,
            val_codes: None,
            data: vec![DataCount {
                name: "a".into(),
                samples: 7,
            }],
            utilisation: Some(Utilisation {
                bound_by: Bound::Decoding,
                shares: Shares {
                    waiting: 1.0 / 3.0,
                    decoding: 0.9,
                    ..Shares::default()
                },
            }),
            seconds: 1.5,
        })
    }

    fn filled(folder: &Path, lines: &[LogLine]) -> PathBuf {
        let path = folder.join("log.jsonl");
        let mut log = Log::open(&path, 0, false).unwrap();
        for line in lines {
            log.write(line).unwrap();
        }
        log.sync().unwrap();
        path
    }

    #[test]
    fn lines_come_back_as_written() {
        let folder = tempfile::tempdir().unwrap();
        let lines = [step(1), step(3), epoch(3)];
        let path = filled(folder.path(), &lines);
        assert_eq!(read(&path).unwrap(), lines);
    }

    #[test]
    fn lines_of_a_version_that_said_less_are_read() {
        let line = r#"{"kind":"step","step":1,"epoch":0.5,"loss":1.0,"lr":0.1,"images_per_second":9.0,"data_wait":0.0}"#;
        let LogLine::Step(line) = serde_json::from_str(line).unwrap() else {
            panic!("not a step");
        };
        assert_eq!((line.bad_samples, line.host_memory), (0, None));
        let line = r#"{"kind":"epoch","step":3,"epoch":1,"loss":1.0,"seconds":1.5}"#;
        let LogLine::Epoch(line) = serde_json::from_str(line).unwrap() else {
            panic!("not an epoch");
        };
        assert_eq!(line.utilisation, None);
    }

    #[test]
    fn a_resume_cuts_what_came_after_its_checkpoint() {
        let folder = tempfile::tempdir().unwrap();
        let path = filled(
            folder.path(),
            &[step(1), step(3), epoch(3), step(4), step(6), epoch(6)],
        );
        let mut log = Log::open(&path, 4, false).unwrap();
        log.write(&step(5)).unwrap();
        assert_eq!(
            read(&path).unwrap(),
            [step(1), step(3), epoch(3), step(4), step(5)]
        );
    }

    #[test]
    fn an_epoch_whose_end_is_to_come_is_logged_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = filled(folder.path(), &[step(3), epoch(3), step(6), epoch(6)]);
        Log::open(&path, 6, false).unwrap();
        assert_eq!(read(&path).unwrap().len(), 4);
        Log::open(&path, 6, true).unwrap();
        assert_eq!(read(&path).unwrap(), [step(3), epoch(3), step(6)]);
    }

    #[test]
    fn a_half_written_last_line_goes() {
        let folder = tempfile::tempdir().unwrap();
        let path = filled(folder.path(), &[step(1)]);
        let mut file = OpenOptions::new().append(true).open(&path).unwrap();
        file.write_all(b"{\"kind\":\"st").unwrap();
        Log::open(&path, 9, false).unwrap();
        assert_eq!(read(&path).unwrap(), [step(1)]);
    }

    #[test]
    fn a_foreign_file_is_not_cut() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log.jsonl");
        std::fs::write(&path, "hello\nworld\n").unwrap();
        assert!(matches!(
            Log::open(&path, 9, false),
            Err(Error::BrokenLog { line: 1, .. })
        ));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "hello\nworld\n");
    }
}
