//! Launches of `kernels/augment.cu`.

use candle_core::{DType, Tensor};

use super::address::{input, output};
use super::elementwise::over;
use super::{Engine, Launch, suffix};
use crate::Result;
use crate::config::VitConfig;
use crate::ops::augment::PixelBox;

/// As [`crate::ops::augment::erase`].
pub(crate) fn erase(
    engine: &Engine,
    config: &VitConfig,
    patches: &Tensor,
    boxes: &Tensor,
    seed: u64,
) -> Result<()> {
    let (count, batch) = (patches.elem_count(), patches.dims3()?.0);
    let launch = over(format!("erase_{}", suffix(patches)?), count, 1)
        .pointer(output(patches, patches.dtype(), count)?)
        .pointer(input(boxes, DType::U32, 4 * batch)?)
        .long(seed as usize)
        .count(batch)?;
    shape(launch, config)?.run(engine)
}

/// As [`crate::ops::augment::mix`].
pub(crate) fn mix(
    engine: &Engine,
    config: &VitConfig,
    patches: &Tensor,
    share: f32,
    cut: Option<PixelBox>,
) -> Result<()> {
    let (count, batch) = (patches.elem_count(), patches.dims3()?.0);
    let area = cut.unwrap_or(PixelBox {
        top: 0,
        left: 0,
        height: 0,
        width: 0,
    });
    let launch = over(format!("mix_{}", suffix(patches)?), count, 2)
        .pointer(output(patches, patches.dtype(), count)?)
        .float(share)
        .count(cut.is_some().into())?
        .count(area.top)?
        .count(area.left)?
        .count(area.height)?
        .count(area.width)?
        .count(batch)?;
    shape(launch, config)?.run(engine)
}

fn shape(launch: Launch, config: &VitConfig) -> Result<Launch> {
    launch
        .count(config.image_size.0)?
        .count(config.image_size.1)?
        .count(config.channels)?
        .count(config.patch_size)
}
