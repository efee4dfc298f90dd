//! The loss on held-out data under fixed masks, and reconstructions to look at.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use mae_loader::{Cursor, Dataset, Loader, LoaderBuilder, Mixture, TrainTransform, Transform};
use mae_model::{Activations, Mae, MaeWorkspace};

use crate::config::{PretrainConfig, eval_resize};
use crate::dist::{Group, Stage};
use crate::error::Result;
use crate::picture::{Reconstruction, Visible};
use crate::step::device_input;

/// How many images a picture shows.
pub(crate) const PICTURED: usize = 8;

/// A loader of `dataset` for the held-out loss: every sample once, resized and centre-cropped, masks by its place alone.
pub(crate) fn held_out_loader(dataset: Arc<Dataset>, config: &PretrainConfig) -> Result<Loader> {
    let transform = Transform::Eval {
        resize: eval_resize(config.mae().vit.image_size),
    };
    Ok(common(Loader::builder(dataset), config)
        .batch_size(config.batch_size)
        .rank(config.launch.rank, config.launch.world)
        .transform(transform)
        .build()?)
}

/// A loader whose first batch is the images to draw: drawn from all the data of `builder`, the largest centred part in the
/// input's proportions, always the same.
pub(crate) fn picture_loader(builder: LoaderBuilder, config: &PretrainConfig) -> Result<Loader> {
    Ok(common(builder, config)
        .batch_size(PICTURED)
        .transform(centred(config.mae().vit.image_size))
        .prefetch(1)
        .build()?)
}

/// A loader of the first `images` of the training data in a shuffled order, nothing drawn about them: the largest centred part in the
/// input's proportions.
pub(crate) fn plain_loader(train: Mixture, images: u64, config: &PretrainConfig) -> Result<Loader> {
    Ok(common(Loader::mixture(train), config)
        .epoch_samples(images)
        .batch_size(config.batch_size)
        .transform(centred(config.mae().vit.image_size))
        .window(config.window.into())
        .build()?)
}

/// The training transform for its order alone (the first images of a dataset may all be of one class): of each image the largest centred
/// part in the input's proportions.
pub(crate) fn centred((height, width): (usize, usize)) -> Transform {
    let ratio = width as f64 / height as f64;
    Transform::Train(TrainTransform {
        scale: (1.0, 1.0),
        ratio: (ratio, ratio),
        flip: false,
        ..TrainTransform::default()
    })
}

fn common(builder: LoaderBuilder, config: &PretrainConfig) -> LoaderBuilder {
    let mae = config.mae();
    let (height, width) = mae.vit.image_size;
    config
        .with_masks(builder)
        .image_size(height as u32, width as u32)
        .channels(config.channels)
        .decoder(config.decoder)
        .decode_quality(config.decode_quality)
        .seed(config.seed)
        .threads(config.thread_budget())
        .prefetch(config.prefetch)
        .max_bad_fraction(config.max_bad_fraction)
        .drop_last(false)
}

/// A loss over a dataset.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct HeldOut {
    /// Mean over the samples of the mean over their removed patches.
    pub(crate) loss: f64,
    /// Samples.
    pub(crate) samples: u64,
}

/// The mean loss of one pass over `loader`, of each rank's part of it by all; None if `stop` was raised on any before the end.
/// `workspace` serves the batches of its size.
pub(crate) fn held_out_loss(
    mae: &Mae,
    loader: &Loader,
    workspace: &mut MaeWorkspace,
    keep: usize,
    (stop, group): (&AtomicBool, &Group),
) -> Result<Option<HeldOut>> {
    let (mut sum, mut samples, mut stopped) = (0.0, 0u64, false);
    for batch in loader.batches(Cursor::default()) {
        let batch = batch?;
        if stop.load(Ordering::Relaxed) {
            stopped = true;
            break;
        }
        group.enter(Stage::Evaluating);
        // What is left over may not go round.
        if batch.is_empty() {
            continue;
        }
        let input = device_input(mae, &batch)?;
        let loss = if batch.len() == workspace.batch() {
            mae.forward(&input, workspace)?;
            workspace.loss()?
        } else {
            let mut last = mae.workspace(batch.len(), keep, Activations::Recompute)?;
            mae.forward(&input, &mut last)?;
            last.loss()?
        };
        sum += f64::from(loss) * batch.len() as f64;
        samples += batch.len() as u64;
    }
    let Some((sum, samples)) = group.end_pass(stopped, sum, samples)? else {
        return Ok(None);
    };
    let samples: u64 = samples.iter().sum();
    Ok(Some(HeldOut {
        loss: sum / samples.max(1) as f64,
        samples,
    }))
}

/// Reconstructions of the first batch of `loader`.
pub(crate) fn reconstructions(
    mae: &Mae,
    loader: &Loader,
    keep: usize,
) -> Result<Vec<Reconstruction>> {
    let Some(batch) = loader.batches(Cursor::default()).next() else {
        return Ok(vec![]);
    };
    let batch = batch?;
    let input = device_input(mae, &batch)?;
    let predicted = mae.predict(
        &input,
        &mut mae.workspace(batch.len(), keep, Activations::Recompute)?,
    )?;
    let ids = (input.pixels(), input.ids_restore());
    let predicted = mae.picture(ids, predicted, keep, true)?;
    let each = |all: usize| all / batch.len();
    Ok(batch
        .pixels()
        .chunks_exact(each(batch.pixels().len()))
        .zip(batch.ids_restore().chunks_exact(mae.config.patches()))
        .zip(predicted.chunks_exact(each(predicted.len())))
        .map(|((pixels, ids), predicted)| {
            Reconstruction::new(&mae.config, pixels, ids, keep, predicted, Visible::Pasted)
        })
        .collect())
}
