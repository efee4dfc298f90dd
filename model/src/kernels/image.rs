//! Launches of `kernels/image.cu`.

use candle_core::{DType, Tensor};

use super::address::{input, output};
use super::{Channels, Engine, Launch, message, suffix};
use crate::Result;
use crate::config::{MaeConfig, VitConfig};
use crate::ops::masked_loss::NORM_PIX_EPS;

const THREADS: usize = 256;
/// Blocks of a launch for each multiprocessor, several times what it runs at once; more patches are dealt out in turn.
const BLOCKS: usize = 32;

fn channels(config: &VitConfig) -> Result<Channels> {
    let mut channels = Channels {
        mean: [0.0; 16],
        deviation: [1.0; 16],
    };
    if config.channels > channels.mean.len() {
        return Err(message(format!(
            "a GPU takes images of at most 16 channels; these have {}",
            config.channels
        )));
    }
    channels.mean[..config.channels].copy_from_slice(&config.mean);
    channels.deviation[..config.channels].copy_from_slice(&config.std);
    Ok(channels)
}

impl Launch {
    /// The five numbers of the kernels' `Shape`.
    fn shape(self, config: &VitConfig, batch: usize) -> Result<Self> {
        self.count(batch)?
            .count(config.image_size.0)?
            .count(config.image_size.1)?
            .count(config.channels)?
            .count(config.patch_size)
    }
}

/// As [`crate::ops::patchify::forward`].
pub(crate) fn patchify(
    engine: &Engine,
    config: &VitConfig,
    pixels: &Tensor,
    ids: &Tensor,
    patches: &Tensor,
) -> Result<()> {
    let (batch, kept) = ids.dims2()?;
    let bytes = batch * config.image_size.0 * config.image_size.1 * config.channels;
    let kernel = format!("patchify_{}", suffix(patches)?);
    let len = batch * kept * config.patch_len();
    let blocks = (batch * kept).min(BLOCKS * engine.processors()?);
    Launch::new(kernel, blocks, THREADS)
        .pointer(input(pixels, DType::U8, bytes)?)
        .pointer(input(ids, DType::U32, batch * kept)?)
        .pointer(output(patches, patches.dtype(), len)?)
        .channels(channels(config)?)
        .shape(config, batch)?
        .count(kept)?
        .run(engine)
}

/// As [`crate::ops::masked_loss::forward_backward`].
pub(crate) fn masked_loss(
    engine: &Engine,
    config: &MaeConfig,
    pixels: &Tensor,
    ids_restore: &Tensor,
    (prediction, bias): (&Tensor, &Tensor),
    errors: &Tensor,
) -> Result<()> {
    let (vit, (batch, count, len)) = (&config.vit, prediction.dims3()?);
    let (patches, bytes) = (config.patches(), batch * vit.patches() * vit.patch_len());
    let kernel = format!("masked_loss_{}", suffix(prediction)?);
    let blocks = (batch * patches).min(BLOCKS * engine.processors()?);
    Launch::new(kernel, blocks, THREADS)
        .pointer(input(pixels, DType::U8, bytes)?)
        .pointer(input(ids_restore, DType::U32, batch * patches)?)
        .pointer(output(prediction, prediction.dtype(), batch * count * len)?)
        .pointer(input(bias, DType::F32, len)?)
        .pointer(output(errors, DType::F32, batch * count)?)
        .channels(channels(vit)?)
        .shape(vit, batch)?
        .count(count)?
        .count(config.norm_pix_loss.into())?
        .float(NORM_PIX_EPS)
        .float(2.0 / (batch * count * len) as f32)
        .run(engine)
}

/// As [`crate::ops::removed_patches::forward`].
pub(crate) fn removed_patches(
    engine: &Engine,
    config: &VitConfig,
    pixels: &Tensor,
    ids_restore: &Tensor,
    mean: &Tensor,
    out: &Tensor,
) -> Result<()> {
    let (batch, count, len) = out.dims3()?;
    let (patches, bytes) = (config.patches(), batch * config.patches() * len);
    let blocks = (batch * patches).min(BLOCKS * engine.processors()?);
    Launch::new("removed_patches", blocks, THREADS)
        .pointer(input(pixels, DType::U8, bytes)?)
        .pointer(input(ids_restore, DType::U32, batch * patches)?)
        .pointer(input(mean, DType::F32, len)?)
        .pointer(output(out, DType::F32, batch * count * len)?)
        .channels(channels(config)?)
        .shape(config, batch)?
        .count(count)?
        .run(engine)
}
