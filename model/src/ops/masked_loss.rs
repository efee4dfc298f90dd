//! The loss of MAE: mean squared error per removed patch, averaged over the removed patches
//! (reference code, `forward_loss`). Targets come straight from the bytes, and the gradient with
//! respect to the prediction is made in the same pass.

use candle_core::Tensor;
use multiversion::multiversion;
use rayon::prelude::*;

use super::access::{read, write2};
use super::math::sum_by_f64;
use super::patchify::channel_tables;
use super::scratch;
use crate::Result;
use crate::config::{MaeConfig, VitConfig};
#[cfg(any(feature = "cuda", feature = "host-kernels"))]
use crate::kernels;
use crate::profile::span;

/// The reference code's epsilon under the root of a patch's variance.
pub const NORM_PIX_EPS: f32 = 1e-6;

/// prediction `[B, R, P·P·C]` of the removed patches in the order of the shuffled ids, without its bias `[P·P·C]`, bytes
/// `[B, H, W, C]`, `ids_restore` `[B, L]` → each patch's mean squared error into `errors` `[B, R]`;
/// the prediction becomes the gradient of the batch's mean with respect to it.
///
/// # Errors
/// If a tensor is not a contiguous CPU tensor of its type.
pub fn forward_backward(
    config: &MaeConfig,
    pixels: &Tensor,
    ids_restore: &Tensor,
    (prediction, bias): (&Tensor, &Tensor),
    errors: &Tensor,
) -> Result<()> {
    let _span = span("masked loss");
    #[cfg(any(feature = "cuda", feature = "host-kernels"))]
    if let Some(engine) = kernels::engine(errors) {
        return kernels::image::masked_loss(
            &engine,
            config,
            pixels,
            ids_restore,
            (prediction, bias),
            errors,
        );
    }
    let (batch, count, len) = prediction.dims3()?;
    let patches = config.patches();
    let image = pixels.elem_count() / batch;
    let (pixels, ids_restore, bias) = (read(pixels)?, read(ids_restore)?, read(bias)?);
    let (pixels, ids_restore) = (pixels.slice::<u8>()?, ids_restore.slice::<u32>()?);
    let bias = bias.f32()?;
    let target = Target::new(config);
    let scale = 2.0 / (batch * count * len) as f32;
    write2(prediction, errors, |prediction, errors| {
        prediction
            .par_chunks_mut(count * len)
            .zip(errors.par_chunks_mut(count))
            .zip(pixels.par_chunks(image))
            .zip(ids_restore.par_chunks(patches))
            .for_each(|(((prediction, errors), pixels), ids_restore)| {
                let mut patch = scratch::take(len);
                for (id, &place) in ids_restore.iter().enumerate() {
                    let Some(row) = (place as usize).checked_sub(patches - count) else {
                        continue;
                    };
                    target.patch(pixels, id, &mut patch);
                    let prediction = &mut prediction[row * len..][..len];
                    let error = differences(prediction, bias, &patch, scale);
                    errors[row] = (error / len as f64) as f32;
                }
            });
        Ok(())
    })
}

/// The sum of the squared differences; the prediction becomes the differences times `scale`.
#[multiversion(targets = "simd")]
pub(super) fn differences(prediction: &mut [f32], bias: &[f32], target: &[f32], scale: f32) -> f64 {
    for ((p, b), t) in prediction.iter_mut().zip(bias).zip(target) {
        *p = (*p + b) - t;
    }
    let error = sum_by_f64([prediction], |[x]| x * x);
    prediction.iter_mut().for_each(|p| *p *= scale);
    error
}

/// Takes out the mean and divides by the standard deviation; returns both.
#[multiversion(targets = "simd")]
fn normalise(patch: &mut [f32]) -> (f32, f32) {
    let len = patch.len() as f64;
    let mean = sum_by_f64([patch], |[x]| x) / len;
    let squares = sum_by_f64([patch], |[x]| (x - mean) * (x - mean));
    // A patch of one number has no unbiased variance; it is left at zero.
    let variance = if patch.len() > 1 {
        squares / (len - 1.0)
    } else {
        0.0
    };
    let std = (variance + f64::from(NORM_PIX_EPS)).sqrt() as f32;
    let mean = mean as f32;
    patch.iter_mut().for_each(|x| *x = (*x - mean) / std);
    (mean, std)
}

/// What a model whose target is pixels is to predict: patches in (row, column, channel) order, normalised by channel and,
/// if so configured, each by its own mean and unbiased variance.
pub struct Target {
    tables: Vec<[f32; 256]>,
    side: usize,
    columns: usize,
    width: usize,
    norm_pix: bool,
}

impl Target {
    /// The targets of a model.
    pub fn new(config: &MaeConfig) -> Self {
        Self {
            norm_pix: config.norm_pix_loss,
            ..Self::of_pixels(&config.vit)
        }
    }

    /// Patches normalised by channel alone.
    pub fn of_pixels(config: &VitConfig) -> Self {
        Self {
            tables: channel_tables(config),
            side: config.patch_size,
            columns: config.grid().1,
            width: config.image_size.1,
            norm_pix: false,
        }
    }

    /// Writes patch `id` of one image `[H, W, C]` into `out` `[P·P·C]`; returns the mean and
    /// standard deviation that were taken out (0 and 1 without norm-pix).
    pub fn patch(&self, pixels: &[u8], id: usize, out: &mut [f32]) -> (f32, f32) {
        let channels = self.tables.len();
        let corner = (id / self.columns * self.width + id % self.columns) * self.side * channels;
        for (row, out) in out.chunks_exact_mut(self.side * channels).enumerate() {
            let from = &pixels[corner + row * self.width * channels..];
            for (out, from) in out
                .chunks_exact_mut(channels)
                .zip(from.chunks_exact(channels))
            {
                for ((out, &x), table) in out.iter_mut().zip(from).zip(&self.tables) {
                    *out = table[usize::from(x)];
                }
            }
        }
        if self.norm_pix {
            normalise(out)
        } else {
            (0.0, 1.0)
        }
    }
}
