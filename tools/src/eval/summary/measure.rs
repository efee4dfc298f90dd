//! Measures one model after the other on the same data.

use std::path::Path;
use std::sync::Arc;

use candle_core::Device;
use mae_loader::{Dataset, LabelSource};
use mae_model::{Encoder, Mae};
use mae_trainer::checkpoint::{Source, load_encoder, load_mae};
use mae_trainer::eval::Features;
use mae_trainer::eval::features::{Extractor, features};
use mae_trainer::eval::knn::{KnnOptions, knn};
use mae_trainer::eval::linear_probe::{SweepOptions, sweep};
use mae_trainer::eval::loss::masked_loss;
use mae_trainer::eval::reconstruct::{Chosen, Masking, Shown, reconstruct};
use mae_trainer::picture::Visible;

use super::args::{Protocol, SummaryArgs};
use super::figure::{Figure, Judged};
use crate::eval::frozen::held_out;
use crate::eval::{RANDOM, open};

/// What all models are measured on.
pub(super) struct Measure<'a> {
    pub(super) args: &'a SummaryArgs,
    pub(super) mask_ratio: f64,
    /// What features are fitted on or compared with, and what all else is done on where there is no test set.
    train: Arc<Dataset>,
    test: Option<Arc<Dataset>>,
    images: Vec<Chosen>,
}

/// A network and, where it has one, its decoder.
struct Model {
    encoder: Encoder,
    mae: anyhow::Result<Mae>,
}

impl<'a> Measure<'a> {
    /// Opens the data, and finds the images to show.
    ///
    /// # Errors
    /// Where the data cannot be read or do not hold an image asked for.
    pub(super) fn open(args: &'a SummaryArgs, mask_ratio: f64) -> anyhow::Result<Self> {
        mae_model::set_threads(args.stream().threads.unwrap_or(1))?;
        let labels = match args.protocols.iter().any(|p| p.needs_labels()) {
            true => args.label_field.clone(),
            false => LabelSource::None,
        };
        let train = open(&args.cache, &args.data, labels.clone(), None)?;
        let test = match args.val_data.as_slice() {
            [] => None,
            specs => {
                let classes = train.classes().map(<[String]>::to_vec);
                Some(open(&args.cache, specs, labels, classes)?)
            }
        };
        let mut measure = Self {
            args,
            mask_ratio,
            train,
            test,
            images: vec![],
        };
        if args.runs(Protocol::Reconstruct) {
            measure.images = args.images.choice().of(measure.judged_on())?;
        }
        Ok(measure)
    }

    /// The images of the protocols without labels.
    pub(super) fn judged_on(&self) -> &Arc<Dataset> {
        self.test.as_ref().unwrap_or(&self.train)
    }

    /// What the checkpoint at `path` is worth.
    ///
    /// # Errors
    /// Where it cannot be loaded.
    pub(super) fn trained(&self, path: &Path) -> anyhow::Result<Judged> {
        let options = self.args.import.options();
        let (encoder, source) = load_encoder(path, &options, &Device::Cpu)?;
        let mae = load_mae(path, &options, &Device::Cpu);
        let model = Model {
            encoder,
            mae: mae.map(|(mae, _)| mae).map_err(anyhow::Error::from),
        };
        Ok(self.judge(path.display().to_string(), &source, source.step(), &model))
    }

    /// What the network of the checkpoint at `path` is worth before training.
    ///
    /// # Errors
    /// Where it cannot be loaded.
    pub(super) fn untrained(&self, path: &Path) -> anyhow::Result<Judged> {
        let options = self.args.import.options();
        let (trained, source) = load_encoder(path, &options, &Device::Cpu)?;
        let encoder = source.untrained(&trained)?;
        let mae = load_mae(path, &options, &Device::Cpu)
            .map_err(anyhow::Error::from)
            .and_then(|(mae, source)| Ok(Mae::new(mae.config, encoder.device(), source.seed())?));
        Ok(self.judge(RANDOM.to_owned(), &source, None, &Model { encoder, mae }))
    }

    fn judge(&self, name: String, source: &Source, step: Option<u64>, model: &Model) -> Judged {
        let mut judged = Judged {
            name,
            checkpoint: source.path().display().to_string(),
            step,
            parameters: model.encoder.params.count(),
            norm_pix_loss: model.mae.as_ref().ok().map(|mae| mae.config.norm_pix_loss),
            figures: vec![],
            shown: vec![],
            failures: vec![],
        };
        // Encoded once, however many protocols judge them.
        let mut features: Option<anyhow::Result<(Features, Features)>> = None;
        for &protocol in &self.args.protocols {
            tracing::info!("{}: {}", judged.name, protocol.name());
            let figures = match protocol {
                Protocol::Loss => self.loss(model),
                Protocol::Reconstruct => self.pictures(model).map(|shown| {
                    judged.shown = shown;
                    vec![]
                }),
                Protocol::Knn | Protocol::LinearProbe => features
                    .get_or_insert_with(|| self.features(&model.encoder))
                    .as_ref()
                    .map_err(|error| anyhow::anyhow!("{error:#}"))
                    .and_then(|(train, test)| by_labels(protocol, train, test)),
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

    fn loss(&self, model: &Model) -> anyhow::Result<Vec<Figure>> {
        let (args, data) = (self.args, self.judged_on());
        let models = [model.mae()?];
        let losses = masked_loss(data, &models, self.mask_ratio, args.seed, &args.stream())?;
        Ok(losses.iter().map(Figure::of_loss).collect())
    }

    fn pictures(&self, model: &Model) -> anyhow::Result<Vec<Shown>> {
        let masking = Masking {
            ratio: self.mask_ratio,
            seed: self.args.seed,
            visible: Visible::Pasted,
        };
        let (data, stream) = (self.judged_on(), self.args.stream());
        Ok(reconstruct(
            data,
            model.mae()?,
            &self.images,
            &masking,
            &stream,
        )?)
    }

    /// Train and test features.
    fn features(&self, encoder: &Encoder) -> anyhow::Result<(Features, Features)> {
        let extractors = [Extractor::Encoder(encoder, self.args.pooling)];
        let of = |data| -> anyhow::Result<Features> {
            let one = features(data, &extractors, &self.args.stream(), &mut |_| ())?.pop();
            one.ok_or_else(|| anyhow::anyhow!("the encoder gave no features"))
        };
        let train = of(&self.train)?;
        Ok(match &self.test {
            Some(test) => (train, of(test)?),
            None => train.split(held_out),
        })
    }
}

impl Model {
    fn mae(&self) -> anyhow::Result<&Mae> {
        self.mae
            .as_ref()
            .map_err(|error| anyhow::anyhow!("{error:#}"))
    }
}

/// What `protocol` says of features.
fn by_labels(protocol: Protocol, train: &Features, test: &Features) -> anyhow::Result<Vec<Figure>> {
    let accuracy = match protocol {
        Protocol::LinearProbe => Some(sweep(train, test, &SweepOptions::default())?.accuracy),
        _ => knn(train, test, &KnnOptions::default())?.pop(),
    };
    let figures = accuracy.map(|accuracy| Figure::of_accuracy(protocol, &accuracy).to_vec());
    Ok(figures.unwrap_or_default())
}
