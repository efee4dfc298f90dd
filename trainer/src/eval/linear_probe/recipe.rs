//! The reference code's linear probing (`main_linprobe.py`): a head trained by LARS on features of randomly cropped and mirrored
//! images, which a frozen encoder sees anew in every epoch.

use std::sync::Arc;

use candle_core::{Device, Tensor};
use mae_loader::{CropRule, Dataset, TrainTransform, Transform};
use mae_model::VitConfig;

use super::super::error::{EvalError, Result};
use super::super::features::{Encoders, Extractor, features};
use super::super::matrix::{Accuracy, Features};
use super::super::stream::{Augmented, StreamOptions, stream_augmented};
use super::heads::Heads;
use super::norm::BatchNorm;
use crate::optim::{Lars, LarsSettings, Layer};
use crate::schedule::CosineSchedule;

/// Rows of test features that are classified at a time.
const CHUNK: usize = 4096;

/// How a training image is cut: the reference's crop, at a scale of 0.08 to 1, mirrored in half of all cases.
fn crop() -> Transform {
    Transform::Train(TrainTransform {
        scale: (0.08, 1.0),
        crop: CropRule::Clamp,
        ..TrainTransform::default()
    })
}

/// How the head is trained.
#[derive(Clone, Debug, PartialEq)]
pub struct Recipe {
    /// Passes over the train set.
    pub epochs: u64,
    /// Epochs in which the learning rate rises from 0.
    pub warmup_epochs: f64,
    /// Images in an update; as many as there are where the train set has fewer.
    pub batch_size: usize,
    /// Learning rate of an update of 256 images; it grows with the batch.
    pub blr: f64,
    /// What order, crops and the head's first weights are drawn from.
    pub seed: u64,
}

impl Recipe {
    /// The reference's for an encoder: batches of 16,384, base learning rate 0.1, 90 epochs (50 from ViT-L on), 10 of them of warm-up.
    pub fn reference(encoder: &VitConfig) -> Self {
        let large = encoder.depth >= 24;
        Self {
            epochs: if large { 50 } else { 90 },
            warmup_epochs: 10.0,
            batch_size: 16_384,
            blr: 0.1,
            seed: 0,
        }
    }

    /// The recipe on a train set of `samples` images.
    ///
    /// # Errors
    /// Where a number is out of its range.
    pub fn plan(&self, samples: u64) -> Result<Plan> {
        let option = |name, must| Err(EvalError::Option { name, must });
        let batch_size = self
            .batch_size
            .min(usize::try_from(samples).unwrap_or(usize::MAX));
        if batch_size < 2 {
            return option(
                "the batch size",
                "at least 2: the head's norm takes a batch's variance",
            );
        }
        if self.epochs == 0 {
            return option("the number of epochs", "at least 1");
        }
        if !(0.0..self.epochs as f64).contains(&self.warmup_epochs) {
            return option("the warm-up", "at least 0 and shorter than all epochs");
        }
        if !(self.blr.is_finite() && self.blr > 0.0) {
            return option("the base learning rate", "above 0");
        }
        Ok(Plan {
            batch_size,
            steps_per_epoch: samples / batch_size as u64,
            epochs: self.epochs,
            schedule: CosineSchedule {
                peak: self.blr * batch_size as f64 / 256.0,
                floor: 0.0,
                warmup_epochs: self.warmup_epochs,
                epochs: self.epochs as f64,
            },
        })
    }
}

/// A recipe's numbers for a train set.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// Images in an update.
    pub batch_size: usize,
    /// Updates in an epoch; what fills no batch at its end opens the next one.
    pub steps_per_epoch: u64,
    /// Passes over the train set.
    pub epochs: u64,
    /// The learning rate over the epochs.
    pub schedule: CosineSchedule,
}

impl Plan {
    /// Training images that are encoded in all.
    pub fn images(&self) -> u64 {
        self.epochs * self.steps_per_epoch * self.batch_size as u64
    }
}

/// What the probe found of one encoder.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct ProbeReport {
    /// On the test set after the last epoch.
    pub accuracy: Accuracy,
    /// The highest top-1 after any epoch: what the reference code prints as its maximum. Chosen on the test set itself.
    pub best: Accuracy,
    /// The epoch of `best`, counted from 1.
    pub best_epoch: u64,
    /// Mean cross-entropy of the last epoch's batches.
    pub train_loss: f64,
}

/// How far a probe is.
#[derive(Clone, Copy, Debug)]
pub enum Progress<'a> {
    /// So many more images, of the test set first and then of the train set, have been encoded.
    Images(usize),
    /// An epoch is over: its number, counted from 1, and each encoder's figures.
    Epoch(u64, &'a [ProbeReport]),
}

/// Trains a head of `classes` classes on each encoder's features of `train`, all in one pass, and judges it on `test` after each
/// epoch.
///
/// The test images are encoded once. In memory stand their features and those of one training batch, for each encoder.
///
/// # Errors
/// Where the data cannot be read, an option is out of range, a feature is not finite or the training diverges.
pub fn linear_probe(
    (train, test): (&Arc<Dataset>, &Arc<Dataset>),
    extractors: &[Extractor<'_>],
    classes: usize,
    recipe: &Recipe,
    options: &StreamOptions,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<Vec<ProbeReport>> {
    let plan = recipe.plan(train.len())?;
    let tests = features(test, extractors, options, &mut |images| {
        progress(Progress::Images(images));
    })?;
    let mut probes = tests
        .iter()
        .map(|test| Probe::new(classes, test.dim(), recipe.seed))
        .collect::<Result<Vec<_>>>()?;
    let mut encoders = Encoders::new(extractors)?;
    let augmented = Augmented {
        transform: crop(),
        epochs: plan.epochs,
        epoch_samples: plan.steps_per_epoch * plan.batch_size as u64,
        seed: recipe.seed,
    };
    let mut reports = Vec::new();
    let mut step = 0;
    stream_augmented(train, encoders.input(), &augmented, options, |batch| {
        encoders.add(train, batch)?;
        progress(Progress::Images(batch.len()));
        while encoders.len() >= plan.batch_size {
            let lr = plan.schedule.at(step as f64 / plan.steps_per_epoch as f64);
            for (probe, batch) in probes.iter_mut().zip(encoders.take(plan.batch_size)?) {
                probe.step(&batch, lr)?;
            }
            step += 1;
            if step % plan.steps_per_epoch == 0 {
                let epoch = step / plan.steps_per_epoch;
                let judged = probes.iter_mut().zip(&tests);
                let judged = judged.map(|(probe, test)| probe.judge(test, epoch));
                reports = judged.collect::<Result<Vec<_>>>()?;
                progress(Progress::Epoch(epoch, &reports));
            }
        }
        Ok(())
    })?;
    Ok(reports)
}

/// A head in training.
struct Probe {
    norm: BatchNorm,
    heads: Heads,
    lars: Lars,
    /// Sum and number of this epoch's losses.
    losses: (f64, u64),
    best: Option<(Accuracy, u64)>,
}

impl Probe {
    fn new(classes: usize, dim: usize, seed: u64) -> Result<Self> {
        Ok(Self::from(Heads::drawn(classes, dim, seed)?, dim))
    }

    fn from(heads: Heads, dim: usize) -> Self {
        let layer = |range, adapts| Layer {
            range,
            adapts,
            lr_scale: 1.0,
        };
        let layers = vec![layer(heads.weight(0), true), layer(heads.bias(0), false)];
        Self {
            norm: BatchNorm::new(dim),
            heads,
            lars: Lars::new(LarsSettings::default(), layers),
            losses: (0.0, 0),
            best: None,
        }
    }

    /// One update; returns the loss before it.
    fn step(&mut self, batch: &Features, lr: f64) -> Result<f64> {
        let mut rows = batch.data().to_vec();
        self.norm.train(&mut rows);
        let rows = Tensor::from_vec(rows, (batch.len(), batch.dim()), &Device::Cpu)?;
        let lars = &mut self.lars;
        let update = |values: &mut [f32], gradient: &[f32]| lars.step(values, gradient, lr);
        let loss = self.heads.step(&rows, batch.labels(), update)?[0];
        if !loss.is_finite() {
            return Err(EvalError::Diverged { lr });
        }
        self.losses.0 += loss;
        self.losses.1 += 1;
        Ok(loss)
    }

    /// Ends an epoch.
    fn judge(&mut self, test: &Features, epoch: u64) -> Result<ProbeReport> {
        let accuracy = self.accuracy(test)?;
        let best = match self.best {
            Some(best) if best.0.top1 >= accuracy.top1 => best,
            _ => (accuracy, epoch),
        };
        self.best = Some(best);
        let (sum, count) = std::mem::take(&mut self.losses);
        Ok(ProbeReport {
            accuracy,
            best: best.0,
            best_epoch: best.1,
            train_loss: sum / count as f64,
        })
    }

    fn accuracy(&self, test: &Features) -> Result<Accuracy> {
        let dim = test.dim();
        let mut ranks = Vec::with_capacity(test.len());
        let chunks = test.data().chunks(CHUNK * dim);
        for (rows, labels) in chunks.zip(test.labels().chunks(CHUNK)) {
            let mut rows = rows.to_vec();
            self.norm.running.apply(&mut rows);
            let rows = Tensor::from_vec(rows, (labels.len(), dim), &Device::Cpu)?;
            ranks.extend(self.heads.ranks(&rows, labels)?.swap_remove(0));
        }
        Ok(Accuracy::from_ranks(&ranks))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eval::matrix::rank_of;
    use crate::golden::Golden;

    /// The reference's head in PyTorch: the same features, first weights, batches and rates.
    #[test]
    fn training_is_that_of_pytorch() {
        let golden = Golden::open("linear_probe");
        let (train, test) = (golden.features("train"), golden.features("test"));
        let start = golden.f32s("head.start");
        let mut probe = Probe::from(Heads::from(start, 1, 5).unwrap(), 24);
        let (order, rates) = (golden.u32s("head.order"), golden.f32s("head.lr"));
        let plan = Recipe {
            epochs: 10,
            warmup_epochs: 2.0,
            batch_size: 40,
            blr: 6.0 * 256.0 / 40.0,
            seed: 0,
        };
        let plan = plan.plan(train.len() as u64).unwrap();
        let losses = golden.f32s("head.losses");
        for (step, (rows, (&lr, expected))) in
            order.chunks(40).zip(rates.iter().zip(losses)).enumerate()
        {
            let planned = plan.schedule.at(step as f64 / plan.steps_per_epoch as f64);
            assert!((planned - f64::from(lr)).abs() < 1e-6, "step {step}");
            let row = |&row: &u32| train.rows().nth(row as usize).unwrap().to_vec();
            let labels = rows.iter().map(|&row| train.labels()[row as usize]);
            let batch: Vec<f32> = rows.iter().flat_map(row).collect();
            let batch = Features::new(batch, 24, labels.collect()).unwrap();
            let loss = probe.step(&batch, planned).unwrap();
            assert!(
                (loss / f64::from(expected) - 1.0).abs() < 1e-4,
                "step {step}: {loss} against {expected}"
            );
        }
        let mut rows = test.data().to_vec();
        probe.norm.running.apply(&mut rows);
        let rows = Tensor::from_vec(rows, (60, 24), &Device::Cpu).unwrap();
        let logits = probe.heads.logits(&rows).unwrap();
        for (a, b) in logits.iter().zip(golden.f32s("head.logits")) {
            assert!((a - b).abs() < 1e-3 * b.abs().max(1.0), "{a} against {b}");
        }
        let right = golden.f32s("head.logits");
        let right = right.chunks(5).zip(test.labels());
        let right = right.filter(|(row, label)| rank_of(row, **label) == 0);
        assert_eq!(
            probe.accuracy(&test).unwrap().top1,
            right.count() as f64 / 60.0
        );
    }

    #[test]
    fn a_small_train_set_is_one_batch_and_its_rate_is_in_proportion() {
        let recipe = Recipe::reference(
            &mae_model::MaeConfig::named("mae-base-patch16", (224, 224), 3)
                .unwrap()
                .vit,
        );
        let plan = recipe.plan(1_281_167).unwrap();
        assert_eq!(
            (plan.epochs, plan.batch_size, plan.steps_per_epoch),
            (90, 16_384, 78)
        );
        assert!((plan.schedule.peak - 6.4).abs() < 1e-12);
        assert_eq!(plan.images(), 90 * 78 * 16_384);
        let plan = recipe.plan(6400).unwrap();
        assert_eq!((plan.batch_size, plan.steps_per_epoch), (6400, 1));
        assert!((plan.schedule.peak - 2.5).abs() < 1e-12);
        let large = mae_model::MaeConfig::named("mae-large-patch16", (224, 224), 3).unwrap();
        assert_eq!(Recipe::reference(&large.vit).epochs, 50);
    }

    #[test]
    fn options_out_of_range_are_errors() {
        let good = Recipe {
            epochs: 20,
            warmup_epochs: 2.0,
            batch_size: 8,
            blr: 0.1,
            seed: 0,
        };
        assert!(good.plan(100).is_ok());
        for bad in [
            Recipe {
                epochs: 0,
                ..good.clone()
            },
            Recipe {
                warmup_epochs: 20.0,
                ..good.clone()
            },
            Recipe {
                batch_size: 1,
                ..good.clone()
            },
            Recipe {
                blr: f64::NAN,
                ..good.clone()
            },
        ] {
            assert!(
                matches!(bad.plan(100), Err(EvalError::Option { .. })),
                "{bad:?}"
            );
        }
        assert!(good.plan(1).is_err());
    }
}
