//! The removed patches themselves, less a mean patch: what targets other than pixels are made of.

use candle_core::Tensor;
use rayon::prelude::*;

use super::access::{read, write};
use super::masked_loss::Target;
use crate::Result;
use crate::config::VitConfig;
#[cfg(any(feature = "cuda", feature = "host-kernels"))]
use crate::kernels;
use crate::profile::span;

/// Bytes `[B, H, W, C]`, `ids_restore` `[B, L]` and a mean patch `[P·P·C]` → the removed patches in the order of the shuffled ids
/// `[B, R, P·P·C]`, in (row, column, channel) order, each channel normalised as `(x / 255 - mean) / std`, less the mean patch.
///
/// # Errors
/// If a tensor is not a contiguous CPU tensor of its type.
pub fn forward(
    config: &VitConfig,
    pixels: &Tensor,
    ids_restore: &Tensor,
    mean: &Tensor,
    out: &Tensor,
) -> Result<()> {
    let _span = span("removed patches");
    #[cfg(any(feature = "cuda", feature = "host-kernels"))]
    if let Some(engine) = kernels::engine(out) {
        return kernels::image::removed_patches(&engine, config, pixels, ids_restore, mean, out);
    }
    let (batch, count, len) = out.dims3()?;
    let patches = config.patches();
    let image = pixels.elem_count() / batch;
    let (pixels, ids_restore, mean) = (read(pixels)?, read(ids_restore)?, read(mean)?);
    let (pixels, ids_restore) = (pixels.slice::<u8>()?, ids_restore.slice::<u32>()?);
    let mean = mean.f32()?;
    let target = Target::of_pixels(config);
    write(out, |out| {
        out.par_chunks_mut(count * len)
            .zip(pixels.par_chunks(image))
            .zip(ids_restore.par_chunks(patches))
            .for_each(|((out, pixels), ids_restore)| {
                for (id, &place) in ids_restore.iter().enumerate() {
                    let Some(row) = (place as usize).checked_sub(patches - count) else {
                        continue;
                    };
                    let out = &mut out[row * len..][..len];
                    target.patch(pixels, id, out);
                    out.iter_mut().zip(mean).for_each(|(x, mean)| *x -= mean);
                }
            });
        Ok(())
    })
}
