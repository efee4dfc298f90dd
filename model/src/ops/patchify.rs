//! From bytes to the visible patches, normalised: the only place where the encoder's pixels become
//! floats. A masked patch is never read.

use candle_core::Tensor;
use rayon::prelude::*;

use super::access::{read, write};
use crate::Result;
use crate::config::VitConfig;
#[cfg(any(feature = "cuda", feature = "host-kernels"))]
use crate::kernels;
use crate::profile::span;

/// pixels u8 `[B, H, W, C]` and the patches to take `[B, K]` → `[B, K, C·P·P]` f32 in (channel, row,
/// column) order, the order of a convolution's weight `[D, C, P, P]`, each channel normalised as
/// `(x / 255 - mean) / std`.
///
/// # Errors
/// If a tensor is not a contiguous CPU tensor of its type.
pub fn forward(config: &VitConfig, pixels: &Tensor, ids: &Tensor, patches: &Tensor) -> Result<()> {
    let _span = span("patchify");
    #[cfg(any(feature = "cuda", feature = "host-kernels"))]
    if let Some(engine) = kernels::engine(patches) {
        return kernels::image::patchify(&engine, config, pixels, ids, patches);
    }
    let kept = ids.dims2()?.1;
    let (pixels, ids) = (read(pixels)?, read(ids)?);
    let (pixels, ids) = (pixels.slice::<u8>()?, ids.slice::<u32>()?);
    let (width, channels, side) = (config.image_size.1, config.channels, config.patch_size);
    let image = config.image_size.0 * width * channels;
    let (len, columns) = (config.patch_len(), config.grid().1);
    let tables = channel_tables(config);
    write(patches, |patches| {
        patches
            .par_chunks_mut(kept * len)
            .zip(pixels.par_chunks(image))
            .zip(ids.par_chunks(kept))
            .for_each(|((patches, pixels), ids)| {
                for (patch, &id) in patches.chunks_exact_mut(len).zip(ids) {
                    let id = id as usize;
                    let corner = (id / columns * width + id % columns) * side * channels;
                    for (channel, table) in tables.iter().enumerate() {
                        for row in 0..side {
                            let out = &mut patch[(channel * side + row) * side..][..side];
                            let from = &pixels[corner + row * width * channels..];
                            let from = from[channel..].iter().step_by(channels);
                            for (out, &x) in out.iter_mut().zip(from) {
                                *out = table[usize::from(x)];
                            }
                        }
                    }
                }
            });
        Ok(())
    })
}

/// What each byte becomes in each channel.
pub(super) fn channel_tables(config: &VitConfig) -> Vec<[f32; 256]> {
    config
        .mean
        .iter()
        .zip(&config.std)
        .map(|(mean, std)| std::array::from_fn(|x| (x as f32 / 255.0 - mean) / std))
        .collect()
}
