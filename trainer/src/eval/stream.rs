//! A dataset for an evaluation, batch by batch: in its own order, every sample once, centre crop, the last batch partial; or, for
//! training a head, shuffled and augmented.

use std::sync::Arc;

use mae_loader::{Cursor, Dataset, HostBatch, Loader, LoaderBuilder, Transform};
use mae_model::MaeConfig;

use super::error::Result;
use super::masking::Masking;
use crate::config::eval_resize;

/// How a dataset is read for an evaluation. None of it changes a result but `resize`, which only the centre crop asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamOptions {
    /// Images encoded at a time.
    pub batch_size: usize,
    /// Threads that read and decode; `None` takes one for each core.
    pub threads: Option<usize>,
    /// Short side that images are resized to before the centre crop; `None` takes [`eval_resize`]'s.
    pub resize: Option<u32>,
}

impl Default for StreamOptions {
    fn default() -> Self {
        Self {
            batch_size: 64,
            threads: None,
            resize: None,
        }
    }
}

/// What an encoder sees of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Input {
    /// Height and width.
    pub(super) size: (usize, usize),
    /// 3 or 1.
    pub(super) channels: usize,
}

/// Calls `each` with every batch until it returns `false` or the data ends.
pub(super) fn stream(
    dataset: &Arc<Dataset>,
    input: Input,
    masks: Option<(&Masking, &MaeConfig)>,
    options: &StreamOptions,
    mut each: impl FnMut(&HostBatch) -> Result<bool>,
) -> Result<()> {
    let resize = options.resize.unwrap_or_else(|| eval_resize(input.size));
    let mut builder = builder(dataset, input, options).transform(Transform::Eval { resize });
    if let Some((masking, config)) = masks {
        builder = masking.of(builder, config)?;
    }
    for batch in builder.build()?.batches(Cursor::default()) {
        if !each(&batch?)? {
            break;
        }
    }
    Ok(())
}

/// Passes over shuffled and augmented data.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Augmented {
    pub(super) transform: Transform,
    pub(super) epochs: u64,
    /// Samples of an epoch, the last batch partial; what is left over opens the next epoch.
    pub(super) epoch_samples: u64,
    pub(super) seed: u64,
}

/// Calls `each` with every batch of all epochs.
pub(super) fn stream_augmented(
    dataset: &Arc<Dataset>,
    input: Input,
    augmented: &Augmented,
    options: &StreamOptions,
    mut each: impl FnMut(&HostBatch) -> Result<()>,
) -> Result<()> {
    let loader = builder(dataset, input, options)
        .transform(augmented.transform)
        .epochs(augmented.epochs)
        .epoch_samples(augmented.epoch_samples)
        .seed(augmented.seed)
        .drop_last(false)
        .build()?;
    for batch in loader.batches(Cursor::default()) {
        each(&batch?)?;
    }
    Ok(())
}

fn builder(dataset: &Arc<Dataset>, input: Input, options: &StreamOptions) -> LoaderBuilder {
    let (height, width) = input.size;
    let builder = Loader::builder(Arc::clone(dataset))
        .image_size(height as u32, width as u32)
        .channels(input.channels)
        .batch_size(options.batch_size);
    match options.threads {
        Some(threads) => builder.threads(threads),
        None => builder,
    }
}
