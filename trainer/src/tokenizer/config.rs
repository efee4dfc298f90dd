//! The settings of a tokenizer's training: every default is filled in here, every number checked.

use std::path::{Path, PathBuf};

use mae_loader::DatasetOptions;
use mae_model::TokenizerConfig;
use serde::{Deserialize, Serialize};

use super::RawTokenizer;
use crate::checkpoint::{RunConfig, RunKind};
use crate::config::common::{self, invalid};
use crate::config::{ByteSize, DeviceKind, Difference, InputSize, ListenAddress, Resume, compare};
use crate::error::{Error, Result};
use crate::schedule::CosineSchedule;

/// A validated training of a tokenizer. See [`RawTokenizer`] for what each field means.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs)] // The fields are RawTokenizer's, documented there.
pub struct TokenizerRun {
    pub data: Vec<String>,
    #[serde(default)]
    pub val_data: Vec<String>,
    pub output_dir: PathBuf,
    pub resume: Resume,
    pub seed: u64,
    pub threads: usize,
    pub device: DeviceKind,

    pub input_size: InputSize,
    pub channels: usize,
    pub patch_size: usize,
    pub vocabulary: usize,
    pub hidden: usize,
    pub blocks: usize,

    pub batch_size: usize,
    pub epochs: u64,
    pub lr: f64,
    pub min_lr: f64,
    pub warmup_epochs: f64,
    pub temperature: [f64; 2],
    pub kl_weight: f64,

    pub crop_scale: [f64; 2],
    pub flip: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache: Option<PathBuf>,
    pub cache_size: ByteSize,

    pub keep_last: usize,
    pub log_every: u64,
    pub picture_every: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prometheus: Option<ListenAddress>,
}

/// Besides what no kind of run minds.
const FREE: &[&str] = &["picture_every"];

impl RunConfig for TokenizerRun {
    const KIND: RunKind = RunKind::Tokenizer;

    fn output_dir(&self) -> &Path {
        &self.output_dir
    }
}

impl TokenizerRun {
    /// Fills in what `raw` leaves open and checks the whole.
    ///
    /// # Errors
    /// [`Error::Config`] naming the flag and what would be valid.
    pub fn resolve(raw: RawTokenizer) -> Result<Self> {
        let epochs = raw.epochs.unwrap_or(10);
        let temperature = raw.temperature.unwrap_or_else(|| vec![1.0, 0.0625]);
        let temperature = temperature
            .try_into()
            .map_err(|_| Error::Config("--temperature takes two numbers, as in 1,0.0625".into()))?;
        let config = TokenizerRun {
            data: raw.data.unwrap_or_default(),
            val_data: raw.val_data.unwrap_or_default(),
            output_dir: common::output_dir(raw.output_dir)?,
            resume: raw.resume.unwrap_or(Resume::Never),
            seed: raw.seed.unwrap_or(0),
            threads: raw.threads.unwrap_or(0),
            device: raw.device.unwrap_or(DeviceKind::Cpu),
            input_size: raw.input_size.unwrap_or(InputSize {
                height: 32,
                width: 32,
            }),
            channels: raw.channels.unwrap_or(3),
            patch_size: raw.patch_size.unwrap_or(4),
            vocabulary: raw.vocabulary.unwrap_or(512),
            hidden: raw.hidden.unwrap_or(64),
            blocks: raw.blocks.unwrap_or(1),
            batch_size: raw.batch_size.unwrap_or(64),
            epochs,
            lr: raw.lr.unwrap_or(3e-3),
            min_lr: raw.min_lr.unwrap_or(0.0),
            warmup_epochs: raw
                .warmup_epochs
                .unwrap_or_else(|| f64::min(1.0, epochs as f64 / 10.0)),
            temperature,
            kl_weight: raw.kl_weight.unwrap_or(4e-3),
            crop_scale: common::crop_scale(raw.crop_scale, [0.2, 1.0])?,
            flip: raw.flip.unwrap_or(true),
            cache: raw.cache,
            cache_size: raw
                .cache_size
                .unwrap_or_else(|| ByteSize(DatasetOptions::default().cache_bytes)),
            keep_last: raw.keep_last.unwrap_or(1),
            log_every: raw.log_every.unwrap_or(20),
            picture_every: raw.picture_every.unwrap_or(1),
            prometheus: raw.prometheus,
        };
        config.validate()?;
        Ok(config)
    }

    fn validate(&self) -> Result<()> {
        common::positive(&[
            ("--batch-size", self.batch_size as u64),
            ("--epochs", self.epochs),
            ("--keep-last", self.keep_last as u64),
            ("--log-every", self.log_every),
        ])?;
        common::not_negative(&[
            ("--lr", self.lr),
            ("--min-lr", self.min_lr),
            ("--warmup-epochs", self.warmup_epochs),
            ("--kl-weight", self.kl_weight),
        ])?;
        let [start, end] = self.temperature;
        if !(start.is_finite() && end > 0.0 && end <= start) {
            return invalid(format!(
                "--temperature {start},{end} must be two numbers with START >= END > 0"
            ));
        }
        common::check_schedule(&self.schedule())?;
        common::check_crop_scale(self.crop_scale)?;
        if self.data.is_empty() {
            return invalid("no data: give --data with tar shards, a folder of them, or a pattern");
        }
        Ok(self.tokenizer().validate()?)
    }

    /// The tokenizer.
    pub fn tokenizer(&self) -> TokenizerConfig {
        TokenizerConfig {
            image_size: (self.input_size.height, self.input_size.width),
            channels: self.channels,
            patch_size: self.patch_size,
            vocabulary: self.vocabulary,
            hidden: self.hidden,
            blocks: self.blocks,
        }
    }

    /// The learning rate over the run.
    pub fn schedule(&self) -> CosineSchedule {
        CosineSchedule {
            peak: self.lr,
            floor: self.min_lr,
            warmup_epochs: self.warmup_epochs,
            epochs: self.epochs as f64,
        }
    }

    /// The temperature at `epoch`, a fractional number of epochs since the start: half a cosine over the first half of the run, as
    /// DALL-E's over the beginning of a much longer one; from then on the decoder learns from nearly single codes.
    pub fn temperature_at(&self, epoch: f64) -> f64 {
        let [start, end] = self.temperature;
        let progress = (2.0 * epoch / self.epochs as f64).min(1.0);
        end + (start - end) * 0.5 * (1.0 + (std::f64::consts::PI * progress).cos())
    }

    /// Threads of the loader and, as many again, of the arithmetic.
    pub fn thread_budget(&self) -> usize {
        common::threads(self.threads)
    }

    /// The settings of `self` (this run) that make it another run than `saved` (the checkpoint's).
    pub fn differences(&self, saved: &Self) -> Vec<Difference> {
        compare::differences(self, saved, FREE)
    }

    /// As TOML, which [`RawTokenizer::from_toml_file`] reads.
    ///
    /// # Errors
    /// None for a configuration that was resolved.
    pub fn to_toml(&self) -> Result<String> {
        common::to_toml(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw() -> RawTokenizer {
        RawTokenizer {
            data: Some(vec!["a.tar".into()]),
            output_dir: Some("out".into()),
            ..Default::default()
        }
    }

    #[test]
    fn what_cannot_be_is_named() {
        let with = |change: fn(&mut RawTokenizer)| {
            let mut raw = raw();
            change(&mut raw);
            TokenizerRun::resolve(raw).unwrap_err().to_string()
        };
        for (message, part) in [
            (with(|raw| raw.data = None), "no data"),
            (with(|raw| raw.output_dir = None), "--output-dir"),
            (with(|raw| raw.vocabulary = Some(1)), "2 codes"),
            (with(|raw| raw.patch_size = Some(5)), "does not divide"),
            (with(|raw| raw.temperature = Some(vec![1.0])), "two numbers"),
            (with(|raw| raw.temperature = Some(vec![0.1, 0.2])), "START"),
            (with(|raw| raw.kl_weight = Some(-1.0)), "--kl-weight"),
        ] {
            assert!(message.contains(part), "{message}");
        }
    }

    #[test]
    fn the_temperature_falls_over_half_of_the_run() {
        let run = TokenizerRun::resolve(raw()).unwrap();
        let at = |epoch| run.temperature_at(epoch);
        assert_eq!(at(0.0), 1.0);
        assert!((at(2.5) - 0.531_25).abs() < 1e-12);
        assert_eq!((at(5.0), at(10.0)), (0.0625, 0.0625));
    }

    #[test]
    fn settings_come_back_from_their_file() {
        let run = TokenizerRun::resolve(raw()).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.toml");
        std::fs::write(&path, run.to_toml().unwrap()).unwrap();
        let read = RawTokenizer::from_toml_file(&path).unwrap();
        assert_eq!(TokenizerRun::resolve(read).unwrap(), run);
    }
}
