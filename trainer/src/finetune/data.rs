//! The data of a fine-tuning run: opened, checked, and with a loader for each use.

use std::sync::Arc;

use mae_loader::{Dataset, DatasetOptions, Loader, TrainTransform, Transform};

use super::FinetuneConfig;
use crate::config::eval_resize;
use crate::error::{Error, Result};

/// The data of a run, opened.
pub(super) struct Data {
    pub(super) train: Arc<Dataset>,
    pub(super) loader: Loader,
    pub(super) val: Option<(Arc<Dataset>, Loader)>,
    pub(super) classes: usize,
    /// Updates of an epoch.
    pub(super) steps_per_epoch: u64,
}

impl Data {
    pub(super) fn open(config: &FinetuneConfig) -> Result<Self> {
        let options = DatasetOptions {
            labels: config.label_field.clone(),
            cache_dir: config.cache.clone(),
            cache_bytes: config.cache_size.0,
            ..DatasetOptions::default()
        };
        let train = Arc::new(Dataset::open(&config.data, &options)?);
        if !train.has_labels() {
            return Err(Error::Config(
                "the training data have no labels; --label-field says where to look for them"
                    .into(),
            ));
        }
        let classes = classes(&train, config.classes)?;
        let world = config.launch.world;
        let batches = train.len() / (config.batch_size * world) as u64;
        let steps_per_epoch = batches / config.accum_iter as u64;
        if steps_per_epoch == 0 {
            return Err(Error::EpochTooShort {
                samples: train.len(),
                batches,
                batch_size: config.batch_size * world,
                accum_iter: config.accum_iter,
            });
        }
        let val = match config.val_data.as_slice() {
            [] => None,
            specs => {
                let options = DatasetOptions {
                    classes: train.classes().map(<[String]>::to_vec),
                    ..options
                };
                let val = Arc::new(Dataset::open(specs, &options)?);
                if !val.has_labels() {
                    return Err(Error::Config(
                        "the validation data have no labels; --label-field says where to look for them".into(),
                    ));
                }
                Some(val)
            }
        };
        let common = |dataset: &Arc<Dataset>| {
            let size = config.image_size();
            Loader::builder(Arc::clone(dataset))
                .image_size(size.height, size.width)
                .channels(config.channels)
                .batch_size(config.batch_size)
                .rank(config.launch.rank, world)
                .decoder(config.decoder)
                .decode_quality(config.decode_quality)
                .seed(config.seed)
                .threads(config.thread_budget())
                .prefetch(config.prefetch)
                .max_bad_fraction(config.max_bad_fraction)
        };
        let byte = |mean: f32| (mean * 255.0).round() as u8;
        let fill = match config.mean[..] {
            [gray] => [byte(gray); 3],
            [r, g, b, ..] => [byte(r), byte(g), byte(b)],
            _ => [128; 3],
        };
        let mut training = common(&train)
            .transform(Transform::Train(TrainTransform {
                scale: config.crop_scale.into(),
                flip: config.flip,
                augment: config.aa.0,
                fill,
                ..TrainTransform::default()
            }))
            .epochs(config.epochs)
            .drop_last(true);
        if config.reprob > 0.0 {
            training = training.erasing(config.reprob);
        }
        let resize = eval_resize((config.input_size.height, config.input_size.width));
        Ok(Data {
            val: val
                .map(|val| {
                    let loader = common(&val)
                        .transform(Transform::Eval { resize })
                        .drop_last(false)
                        .build()?;
                    Ok::<_, Error>((val, loader))
                })
                .transpose()?,
            loader: training.build()?,
            train,
            classes,
            steps_per_epoch,
        })
    }
}

/// The number of classes: what is said, or what the training labels name. Each must have a sample; otherwise a class that is only in the
/// validation data would be held against the model.
fn classes(train: &Dataset, given: Option<usize>) -> Result<usize> {
    let mut counts: Vec<u64> = Vec::new();
    for id in train.ids() {
        // One without a readable label is a bad sample, which the loader counts.
        let Ok(Some(label)) = train.label(id) else {
            continue;
        };
        let label = label as usize;
        if let Some(classes) = given.filter(|&classes| label >= classes) {
            return Err(Error::Config(format!(
                "{} is of class {label}, where --classes says there are {classes} (counted from 0)",
                train.describe(id)
            )));
        }
        // A label that is far off is a mistake, not a reason to count to it.
        if label as u64 >= 16 * train.len().max(64) {
            return Err(Error::Config(format!(
                "{} is of class {label}, in a data set of {} samples; is it a class index? --label-field json:FIELD reads names",
                train.describe(id),
                train.len()
            )));
        }
        if label >= counts.len() {
            counts.resize(label + 1, 0);
        }
        counts[label] += 1;
    }
    let named = train.classes().map_or(0, <[String]>::len);
    let classes = given.unwrap_or(named.max(counts.len()));
    if classes < 2 {
        return Err(Error::Config(format!(
            "the training data are of {classes} class; there must be two at least"
        )));
    }
    if train.len() < classes as u64 {
        return Err(Error::Config(format!(
            "the training data have {} samples for {classes} classes",
            train.len()
        )));
    }
    let empty: Vec<String> = (0..classes)
        .filter(|&class| counts.get(class).is_none_or(|&count| count == 0))
        .map(
            |class| match train.classes().and_then(|names| names.get(class)) {
                Some(name) => format!("{class} ({name})"),
                None => class.to_string(),
            },
        )
        .collect();
    if !empty.is_empty() {
        let shown = empty.iter().take(5).cloned().collect::<Vec<_>>().join(", ");
        tracing::warn!(
            "{} of {classes} classes have no training sample, so they will not be learnt: {shown}{}",
            empty.len(),
            if empty.len() > 5 { ", …" } else { "" }
        );
    }
    Ok(classes)
}
