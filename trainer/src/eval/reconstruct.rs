//! Reconstructions of a dataset's first images, for people to look at.

use std::sync::Arc;

use mae_loader::Dataset;
use mae_model::{Activations, Mae, MaeInput};

use super::error::Result;
use super::stream::{Input, Masks, StreamOptions, stream};
use crate::picture::Reconstruction;

/// Masks and reconstructs the first `count` images that `stride` picks, every `stride`-th of the dataset's order.
///
/// # Errors
/// Where the data cannot be read, or the ratio leaves nothing visible or removes nothing.
pub fn reconstruct(
    dataset: &Arc<Dataset>,
    mae: &Mae,
    (mask_ratio, seed): (f64, u64),
    (count, stride): (usize, usize),
    options: &StreamOptions,
) -> Result<Vec<Reconstruction>> {
    let config = &mae.config;
    let (patches, keep) = (config.patches(), config.keep(mask_ratio));
    let input = Input {
        size: config.vit.image_size,
        channels: config.vit.channels,
    };
    let mut workspace = mae.workspace(1, keep, Activations::Recompute)?;
    let mut done = Vec::with_capacity(count);
    let mut place = 0;
    stream(
        dataset,
        input,
        Some(Masks {
            patches,
            keep,
            seed,
        }),
        options,
        |batch| {
            let image = batch.pixels().len() / batch.len();
            for slot in 0..batch.len() {
                if place % stride.max(1) == 0 && done.len() < count {
                    let pixels = &batch.pixels()[slot * image..][..image];
                    let ids_keep = &batch.ids_keep()[slot * keep..][..keep];
                    let ids_restore = &batch.ids_restore()[slot * patches..][..patches];
                    let input =
                        MaeInput::from_host(config, pixels, ids_keep, ids_restore, mae.device())?;
                    let predicted = mae.predict(&input, &mut workspace)?;
                    done.push(Reconstruction::new(
                        config,
                        pixels,
                        ids_restore,
                        keep,
                        &predicted,
                    ));
                }
                place += 1;
            }
            Ok(done.len() < count)
        },
    )?;
    Ok(done)
}
