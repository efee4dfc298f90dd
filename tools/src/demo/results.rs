//! What the demo measures: the masked loss before and after training, and how well features tell the classes apart.

use std::sync::Arc;

use mae_loader::{Dataset, DatasetOptions};
use mae_model::Mae;
use mae_trainer::eval::features::{Extractor, FeaturePooling, features};
use mae_trainer::eval::knn::{KnnOptions, knn};
use mae_trainer::eval::linear_probe::{SweepOptions, sweep};
use mae_trainer::eval::loss::{LossReport, masked_loss};
use mae_trainer::eval::reconstruct::{Choice, reconstruct};
use mae_trainer::eval::{Accuracy, Masking, StreamOptions};
use mae_trainer::picture::{self, Picture, Reconstruction, Visible};
use serde::Serialize;

use super::dataset::Sets;
use super::shapes;

/// Everything measured, in the order of the table.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Results {
    pub(super) trained: Judged,
    pub(super) random: Judged,
    pub(super) pixels: Judged,
    /// Guessing, in [0, 1].
    pub(super) chance: f64,
    /// Samples that features were fitted on or compared with.
    pub(super) train_samples: usize,
    pub(super) test_samples: usize,
}

/// One way to describe an image.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Judged {
    pub(super) name: &'static str,
    /// Masked loss on the test set, for models.
    pub(super) loss: Option<LossReport>,
    pub(super) knn: Accuracy,
    pub(super) probe: Accuracy,
}

/// Measures `trained` beside the network it began as and beside raw pixels.
///
/// # Errors
/// Where the data cannot be read.
pub(super) fn measure(sets: &Sets, trained: &Mae, masking: &Masking) -> anyhow::Result<Results> {
    let mut random = Mae::new(trained.config.clone(), trained.device(), masking.seed)?;
    random.share_target(trained)?;
    let (train, test) = (open(sets.train_spec())?, open(sets.test_spec())?);
    let stream = StreamOptions::default();
    let pooling = FeaturePooling::default();
    let encoders = [trained.encoder()?, random.encoder()?];
    let extractors = [
        Extractor::Encoder(&encoders[0], pooling),
        Extractor::Encoder(&encoders[1], pooling),
        Extractor::Pixels,
    ];
    let pairs = features(&train, &extractors, &stream, &mut |_| ())?
        .into_iter()
        .zip(features(&test, &extractors, &stream, &mut |_| ())?);
    let mut losses =
        masked_loss(&test, &[trained, &random], masking, &stream, &mut |_| ())?.into_iter();
    let mut judged = ["trained encoder", "random encoder", "raw pixels"]
        .into_iter()
        .zip(pairs)
        .map(|(name, (train, test))| {
            Ok(Judged {
                name,
                loss: losses.next(),
                knn: knn(&train, &test, &KnnOptions::default())?[0],
                probe: sweep(&train, &test, &SweepOptions::default())?.accuracy,
            })
        });
    let mut next = || {
        judged
            .next()
            .unwrap_or_else(|| anyhow::bail!("an extractor gave no features"))
    };
    Ok(Results {
        trained: next()?,
        random: next()?,
        pixels: next()?,
        chance: 1.0 / f64::from(shapes::CLASSES),
        train_samples: train.len() as usize,
        test_samples: test.len() as usize,
    })
}

/// Test images masked, reconstructed and as they were.
///
/// # Errors
/// Where the data cannot be read.
pub(super) fn pictures(
    sets: &Sets,
    mae: &Mae,
    masking: &Masking,
    count: usize,
) -> anyhow::Result<Picture> {
    let test = open(sets.test_spec())?;
    let choice = Choice::Random {
        count,
        seed: masking.seed,
    };
    let (images, visible) = (choice.of(&test)?, Visible::Pasted);
    let stream = StreamOptions::default();
    let shown = reconstruct(&test, mae, &images, masking, visible, &stream)?;
    let pictures: Vec<Reconstruction> = shown.into_iter().map(|image| image.pictures).collect();
    Ok(picture::grid(&pictures))
}

fn open(spec: String) -> anyhow::Result<Arc<Dataset>> {
    Ok(Arc::new(Dataset::open(
        &[spec],
        &DatasetOptions::default(),
    )?))
}

impl Results {
    /// The rows in order.
    pub(super) fn rows(&self) -> [&Judged; 3] {
        [&self.trained, &self.random, &self.pixels]
    }

    /// The table's head and rows, as people read them.
    pub(super) fn table(&self) -> (Vec<String>, Vec<Vec<String>>) {
        let head = [
            "",
            "masked loss",
            "kNN top-1",
            "linear probe top-1",
            "samples",
        ];
        let percent = crate::eval::percent;
        let mut rows: Vec<Vec<String>> = self
            .rows()
            .into_iter()
            .map(|judged| {
                let loss = judged.loss.map_or("–".into(), |loss| {
                    format!("{:.3} ± {:.3}", loss.mean, loss.standard_error)
                });
                vec![
                    judged.name.to_owned(),
                    loss,
                    percent(judged.knn.top1),
                    percent(judged.probe.top1),
                    judged.knn.count.to_string(),
                ]
            })
            .collect();
        rows.push(vec![
            "guessing".into(),
            "–".into(),
            percent(self.chance),
            percent(self.chance),
            "–".into(),
        ]);
        (head.map(String::from).to_vec(), rows)
    }
}
