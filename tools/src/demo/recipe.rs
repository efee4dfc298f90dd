//! What the demo does, in numbers: sizes, model, training. Saved beside its results, so that a run goes on only as what it began as.

use std::path::Path;

use mae_trainer::config::{InputSize, Resume};
use mae_trainer::{PretrainConfig, RawPretrain};
use serde::{Deserialize, Serialize};

use super::dataset::Sets;
use super::scene;

/// Grows when the pictures, the model or the training change for the same seed.
const VERSION: u32 = 1;

/// All that decides the demo's results.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Recipe {
    version: u32,
    pub(super) seed: u64,
    pub(super) train: u64,
    pub(super) test: u64,
    pub(super) epochs: u64,
    dim: usize,
    depth: usize,
}

impl Recipe {
    /// Under five minutes on two cores.
    pub(super) fn full(seed: u64) -> Self {
        Self {
            version: VERSION,
            seed,
            train: 6_000,
            test: 1_500,
            epochs: 30,
            dim: 96,
            depth: 4,
        }
    }

    /// Some seconds, to see that everything runs; too short to learn much.
    pub(super) fn quick(seed: u64) -> Self {
        Self {
            version: VERSION,
            seed,
            train: 960,
            test: 240,
            epochs: 4,
            dim: 48,
            depth: 2,
        }
    }

    /// The dataset, under `output`.
    pub(super) fn sets(&self, output: &Path) -> Sets {
        Sets {
            folder: output.join("data"),
            seed: self.seed,
            train: self.train,
            test: self.test,
        }
    }

    /// The training, under `output`.
    ///
    /// # Errors
    /// Where the settings contradict each other.
    pub(super) fn training(&self, output: &Path) -> mae_trainer::Result<PretrainConfig> {
        let sets = self.sets(output);
        let batch_size = 64;
        PretrainConfig::resolve(RawPretrain {
            data: Some(vec![sets.train_spec()]),
            val_data: Some(vec![sets.test_spec()]),
            output_dir: Some(output.join("run")),
            resume: Some(Resume::Auto),
            seed: Some(self.seed),
            model: Some("mae-micro-patch4".into()),
            input_size: Some(InputSize {
                height: scene::SIDE,
                width: scene::SIDE,
            }),
            dim: Some(self.dim),
            depth: Some(self.depth),
            heads: Some(self.dim / 32),
            mask_ratio: Some(0.6),
            norm_pix_loss: Some(true),
            batch_size: Some(batch_size),
            epochs: Some(self.epochs),
            warmup_epochs: Some(self.epochs as f64 / 20.0),
            lr: Some(2e-3),
            // Gentler than the paper's 0.2: an object cut in half has another shape.
            crop_scale: Some(vec![0.5, 1.0]),
            log_every: Some(20),
            eval_every: Some(2),
            picture_every: Some(0),
            keep_last: Some(1),
            ..RawPretrain::default()
        })
    }
}
