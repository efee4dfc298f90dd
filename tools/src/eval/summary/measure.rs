//! Measures one model after the other on the same data.

use std::path::Path;
use std::sync::Arc;

use mae_loader::{Dataset, LabelSource};
use mae_model::{Encoder, Mae};
use mae_trainer::checkpoint::Source;
use mae_trainer::checkpoint::foreign::ImportOptions;
use mae_trainer::eval::features::{Extractor, FeaturePooling};
use mae_trainer::eval::loss::masked_loss;
use mae_trainer::eval::reconstruct::{Chosen, Shown, reconstruct};
use mae_trainer::eval::{Features, Masking};
use mae_trainer::picture::Visible;

use super::args::{Protocol, SummaryArgs};
use super::figure::{Figure, Judged};
use crate::eval::frozen::Judge;
use crate::eval::report::Figures;
use crate::eval::sets::Sets;
use crate::eval::subject::Machine;
use crate::eval::{RANDOM, images, open};

/// What all models are measured on.
pub(super) struct Measure<'a> {
    pub(super) args: &'a SummaryArgs,
    pub(super) mask_ratio: f64,
    machine: &'a Machine,
    /// What features are learnt from and judged on, where a protocol asks for labels.
    sets: Option<Sets>,
    /// The images of the protocols without labels.
    judged_on: Arc<Dataset>,
    images: Vec<Chosen>,
}

/// A network and, where it has one, its decoder.
struct Model {
    encoder: Encoder,
    mae: anyhow::Result<Mae>,
}

/// Features to learn from and to be judged on.
struct Pair {
    pooling: FeaturePooling,
    train: Features,
    test: Features,
}

impl<'a> Measure<'a> {
    /// Opens the data, looks through their labels, and finds the images to show.
    ///
    /// # Errors
    /// Where the data cannot be read, have labels that do not suit, or do not hold an image asked for.
    pub(super) fn open(
        args: &'a SummaryArgs,
        mask_ratio: f64,
        machine: &'a Machine,
    ) -> anyhow::Result<Self> {
        let mut sets: Option<Sets> = None;
        for (protocol, judge) in args.judges() {
            let sets = match sets.take() {
                Some(open) => sets.insert(open),
                None => sets.insert(Sets::open(
                    protocol.name(),
                    &args.data.specs,
                    &args.labels,
                    &args.encode,
                )?),
            };
            judge.check(sets.train_samples)?;
        }
        let judged_on = match (&sets, args.labels.val_data.as_slice()) {
            (Some(sets), _) => Arc::clone(sets.test.as_ref().unwrap_or(&sets.train)),
            (None, []) => open(
                &args.encode.cache,
                &args.data.specs,
                LabelSource::None,
                None,
            )?,
            (None, test) => open(&args.encode.cache, test, LabelSource::None, None)?,
        };
        let images = match args.runs(Protocol::Reconstruct) {
            true => args.images.choice().of(&judged_on)?,
            false => vec![],
        };
        Ok(Self {
            args,
            mask_ratio,
            machine,
            sets,
            judged_on,
            images,
        })
    }

    /// What the checkpoint at `path` is worth.
    ///
    /// # Errors
    /// Where it cannot be loaded.
    pub(super) fn trained(&self, path: &Path, options: &ImportOptions) -> anyhow::Result<Judged> {
        let (model, source) = self.load(path, options)?;
        Ok(self.judge(path.display().to_string(), &source, source.step(), &model))
    }

    /// What the network of the checkpoint at `path` is worth before training.
    ///
    /// # Errors
    /// Where it cannot be loaded.
    pub(super) fn untrained(&self, path: &Path, options: &ImportOptions) -> anyhow::Result<Judged> {
        let (trained, source) = self.load(path, options)?;
        let model = Model {
            encoder: self.machine.untrained(&trained.encoder, &source)?,
            mae: trained
                .mae
                .and_then(|mae| self.machine.untrained(&mae, &source)),
        };
        Ok(self.judge(RANDOM.to_owned(), &source, None, &model))
    }

    fn load(&self, path: &Path, options: &ImportOptions) -> anyhow::Result<(Model, Source)> {
        let (encoder, source) = self.machine.load(path, options)?;
        let mae = self.machine.load(path, options).map(|(mae, _)| mae);
        Ok((Model { encoder, mae }, source))
    }

    fn judge(&self, name: String, source: &Source, step: Option<u64>, model: &Model) -> Judged {
        let mut judged = Judged {
            name,
            checkpoint: source.path().display().to_string(),
            step,
            parameters: model.encoder.params.count(),
            target: model.mae.as_ref().ok().map(|mae| mae.config.target_name()),
            norm_pix_loss: model.mae.as_ref().ok().map(|mae| mae.config.norm_pix_loss),
            mask_sampling: (model.mae.as_ref().ok())
                .map(|mae| self.masking(mae, source).sampling.to_string()),
            figures: vec![],
            shown: vec![],
            failures: vec![],
        };
        // Encoded once, however many protocols judge them.
        let mut features: Option<anyhow::Result<Vec<Pair>>> = None;
        for protocol in self.args.protocols() {
            tracing::info!("{}: {}", judged.name, protocol.name());
            let figures = match (protocol, self.args.judge(protocol)) {
                (_, Some(judge)) => features
                    .get_or_insert_with(|| self.features(&model.encoder))
                    .as_ref()
                    .map_err(|error| anyhow::anyhow!("{error:#}"))
                    .and_then(|pairs| self.by_labels(protocol, &judge, pairs)),
                (Protocol::Reconstruct, None) => self.pictures(model, source).map(|shown| {
                    judged.shown = shown;
                    vec![]
                }),
                (_, None) => self.loss(model, source),
            };
            match figures {
                Ok(figures) => judged.figures.extend(figures),
                Err(error) => {
                    tracing::error!("{} of {}: {error:#}", protocol.name(), judged.name);
                    judged.failures.push((protocol, format!("{error:#}")));
                }
            }
        }
        judged
    }

    /// What is removed of the images of `mae`, which comes from `source`.
    fn masking(&self, mae: &Mae, source: &Source) -> Masking {
        self.args.masking(source, &mae.config, self.mask_ratio)
    }

    fn loss(&self, model: &Model, source: &Source) -> anyhow::Result<Vec<Figure>> {
        let (mae, stream) = (model.mae()?, self.args.encode.stream());
        let (data, masking) = (&self.judged_on, self.masking(mae, source));
        let bar = images(data.len());
        let progress = &mut |images| bar.inc(images as u64);
        let losses = masked_loss(data, &[mae], &masking, &stream, progress);
        bar.finish_and_clear();
        Ok(losses?.iter().map(Figure::of_loss).collect())
    }

    fn pictures(&self, model: &Model, source: &Source) -> anyhow::Result<Vec<Shown>> {
        let (mae, stream) = (model.mae()?, self.args.encode.stream());
        Ok(reconstruct(
            &self.judged_on,
            mae,
            &self.images,
            &self.masking(mae, source),
            Visible::Pasted,
            &stream,
        )?)
    }

    /// Train and test features, of each pooling that a protocol takes.
    fn features(&self, encoder: &Encoder) -> anyhow::Result<Vec<Pair>> {
        let Some(sets) = &self.sets else {
            return Ok(vec![]);
        };
        let mut poolings: Vec<FeaturePooling> = vec![];
        for (_, judge) in self.args.judges() {
            let pooling = judge.pooling(&self.args.labels);
            if !poolings.contains(&pooling) {
                poolings.push(pooling);
            }
        }
        let extractors = poolings.iter();
        let extractors: Vec<Extractor<'_>> = extractors
            .map(|&pooling| Extractor::Encoder(encoder, pooling))
            .collect();
        let pairs = sets.features(&extractors, &self.args.encode)?;
        let pairs = poolings.into_iter().zip(pairs);
        Ok(pairs
            .map(|(pooling, (train, test))| Pair {
                pooling,
                train,
                test,
            })
            .collect())
    }

    /// What `judge` says of the features that it takes.
    fn by_labels(
        &self,
        protocol: Protocol,
        judge: &Judge,
        pairs: &[Pair],
    ) -> anyhow::Result<Vec<Figure>> {
        let pooling = judge.pooling(&self.args.labels);
        let Some(pair) = pairs.iter().find(|pair| pair.pooling == pooling) else {
            return Ok(vec![]);
        };
        let accuracy = match judge.figures(&pair.train, &pair.test)? {
            Figures::Knn(by_k) => by_k.first().map(|(_, accuracy)| *accuracy),
            Figures::Sweep(sweep) => Some(sweep.accuracy),
            Figures::Loss(_) | Figures::Probe(_) => None,
        };
        let figures = accuracy.map(|accuracy| Figure::of_accuracy(protocol, &accuracy).to_vec());
        Ok(figures.unwrap_or_default())
    }
}

impl Model {
    fn mae(&self) -> anyhow::Result<&Mae> {
        self.mae
            .as_ref()
            .map_err(|error| anyhow::anyhow!("{error:#}"))
    }
}
