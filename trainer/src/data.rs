//! The data of a training run: opened, and with a loader for each use.

use std::sync::Arc;

use mae_loader::{Dataset, DatasetOptions, LabelSource, Loader, Mixture, Transform};

use crate::config::{self, PretrainConfig, Sources};
use crate::error::{Error, Result};
use crate::observer::MixedPart;
use crate::validate;

/// The data of a run, opened.
pub(crate) struct Data {
    pub(crate) train: Mixture,
    /// Where several data sets are mixed.
    pub(crate) parts: Vec<MixedPart>,
    pub(crate) loader: Loader,
    pub(crate) held_out: Option<Loader>,
    pub(crate) pictured: Loader,
    /// Samples of an epoch, those included that fill no batch.
    pub(crate) epoch_samples: u64,
    /// Updates of an epoch.
    pub(crate) steps_per_epoch: u64,
}

impl Data {
    pub(crate) fn open(config: &PretrainConfig) -> Result<Self> {
        let options = DatasetOptions {
            labels: LabelSource::None,
            cache_dir: config.cache.clone(),
            cache_bytes: config.cache_size.0,
            ..DatasetOptions::default()
        };
        let (train, parts) = open_training(config, &options)?;
        let val = match config.val_data.as_slice() {
            [] => None,
            specs => Some(Arc::new(Dataset::open(specs, &options)?)),
        };
        let mae = config.mae();
        let (height, width) = mae.vit.image_size;
        // The last batches of an epoch that fill no update are left out, as the reference code's are.
        let epoch_samples = config.epoch_samples.unwrap_or_else(|| train.len());
        let world = config.launch.world;
        let batches = epoch_samples / (config.batch_size / config.repeats * world) as u64;
        let steps_per_epoch = batches / config.accum_iter as u64;
        if steps_per_epoch == 0 {
            return Err(Error::EpochTooShort {
                samples: epoch_samples,
                batches,
                batch_size: config.batch_size * world,
                accum_iter: config.accum_iter,
            });
        }
        let mut training = Loader::mixture(train.clone());
        if let Some(samples) = config.epoch_samples {
            training = training.epoch_samples(samples);
        }
        // What the GPU copies from; the other loaders' batches it gets once.
        #[cfg(feature = "cuda")]
        let training = match config.device.of_rank(&config.launch) {
            config::DeviceKind::Cuda(ordinal) => training.page_locked(ordinal),
            config::DeviceKind::Cpu => training,
        };
        let loader = config
            .with_masks(training.clone())
            .image_size(height as u32, width as u32)
            .channels(config.channels)
            .batch_size(config.batch_size)
            .rank(config.launch.rank, world)
            .transform(Transform::Train(config.train_transform()))
            .repeats(config.repeats)
            .decoder(config.decoder)
            .decode_quality(config.decode_quality)
            .seed(config.seed)
            .threads(config.thread_budget())
            .epochs(config.epochs)
            .window(config.window.into())
            .prefetch(config.prefetch)
            .max_bad_fraction(config.max_bad_fraction)
            .drop_last(true)
            .build()?;
        Ok(Data {
            held_out: val
                .clone()
                .map(|val| validate::held_out_loader(val, config))
                .transpose()?,
            pictured: validate::picture_loader(val.map_or(training, Loader::builder), config)?,
            train,
            parts,
            loader,
            epoch_samples,
            steps_per_epoch,
        })
    }
}

/// The training data, and what to call its parts where there are several.
fn open_training(
    config: &PretrainConfig,
    options: &DatasetOptions,
) -> Result<(Mixture, Vec<MixedPart>)> {
    let sources = match config.sources()? {
        Sources::Weighted(sources) => sources,
        Sources::Whole(specs) => {
            let dataset = Arc::new(Dataset::open(&specs, options)?);
            return Ok((Mixture::new([(dataset, 1.0)])?, vec![]));
        }
    };
    let mut opened = Vec::with_capacity(sources.len());
    for (spec, weight) in &sources {
        if let Some(hint) = config::misread(spec, *weight) {
            return Err(Error::Config(hint));
        }
        opened.push((Arc::new(Dataset::open(&[spec], options)?), *weight));
    }
    let mixture = Mixture::new(opened)?;
    let parts = sources
        .into_iter()
        .zip(mixture.datasets())
        .zip(mixture.shares())
        .map(|(((name, _), dataset), share)| MixedPart {
            name,
            samples: dataset.len(),
            share,
        })
        .collect();
    Ok((mixture, parts))
}
