//! Visible patches from bytes, and the loss of the removed ones.

use candle_core::{DType, Device, Tensor};

use super::{Session, numbers, permutations, rounding};
use crate::Result;
use crate::config::MaeConfig;
use crate::ops::{masked_loss, patchify};

/// Batch, height, width, channels, patch side, visible patches; in the last more patches than blocks.
const SHAPES: [(usize, usize, usize, usize, usize, usize); 5] = [
    (1, 4, 4, 1, 2, 1),
    (2, 12, 20, 3, 4, 14),
    (3, 28, 14, 2, 7, 1),
    (2, 32, 32, 3, 16, 2),
    (10, 16, 16, 2, 4, 5),
];
/// More patches than a GPU has blocks.
const LARGE: [(usize, usize, usize, usize, usize, usize); 1] = [(160, 112, 112, 3, 16, 12)];

pub(super) fn run(s: &mut Session<'_>) -> Result<()> {
    for &(batch, height, width, channels, side, keep) in SHAPES.iter().chain(s.large(&LARGE)) {
        let mut config = MaeConfig::named("mae-micro-patch4", (32, 32), 3)?;
        (
            config.vit.image_size,
            config.vit.channels,
            config.vit.patch_size,
        ) = ((height, width), channels, side);
        config.vit.mean = vec![0.4, 0.5, 0.6][..channels].to_vec();
        config.vit.std = vec![0.2, 0.3, 0.25][..channels].to_vec();
        for norm_pix in [false, true] {
            config.norm_pix_loss = norm_pix;
            for dtype in [DType::F32, DType::BF16] {
                check(s, &config, batch, keep, dtype)?;
            }
        }
    }
    Ok(())
}

fn check(
    s: &mut Session<'_>,
    config: &MaeConfig,
    batch: usize,
    keep: usize,
    dtype: DType,
) -> Result<()> {
    let (vit, patches) = (&config.vit, config.patches());
    let (len, count) = (vit.patch_len(), patches - keep);
    let (height, width) = vit.image_size;
    let shape = (batch, height, width, vit.channels);
    let draw = numbers(&[batch * height * width * vit.channels], 1)?.to_vec1::<f32>()?;
    let bytes: Vec<u8> = draw.iter().map(|x| (x * 127.0 + 128.0) as u8).collect();
    let pixels = Tensor::from_vec(bytes, shape, &Device::Cpu)?;
    let ids = permutations(batch, patches)?;
    let (pixels2, ids2) = (s.put(&pixels)?, s.put(&ids)?);
    let what = format!(
        "{batch}x{height}x{width}x{}/{} {dtype:?}",
        vit.channels, vit.patch_size
    );

    if !config.norm_pix_loss {
        let kept = ids.narrow(1, 0, keep)?.contiguous()?;
        let kept2 = s.put(&kept)?;
        let out = Tensor::zeros((batch, keep, len), DType::F32, &Device::Cpu)?;
        let out2 = s.output((batch, keep, len), dtype)?;
        patchify::forward(vit, &pixels, &kept, &out)?;
        s.on(|| patchify::forward(vit, &pixels2, &kept2, &out2))?;
        s.compare(
            format!("visible patches {what}"),
            &out2,
            &out,
            rounding(dtype),
        )?;
    }

    let name = format!("masked loss {what}, norm-pix {}", config.norm_pix_loss);
    let (rounded, bias) = (
        numbers(&[batch, count, len], 2)?.to_dtype(dtype)?,
        numbers(&[len], 3)?,
    );
    let (prediction2, bias2) = (s.put(&rounded)?, s.put(&bias)?);
    let prediction = rounded.to_dtype(DType::F32)?.copy()?;
    let errors = Tensor::zeros((batch, count), DType::F32, &Device::Cpu)?;
    let errors2 = s.put(&errors)?;
    masked_loss::forward_backward(config, &pixels, &ids, (&prediction, &bias), &errors)?;
    s.on(|| {
        masked_loss::forward_backward(config, &pixels2, &ids2, (&prediction2, &bias2), &errors2)
    })?;
    s.compare(name.clone(), &errors2, &errors, 1e-5)?;
    let tolerance = rounding(dtype).max(1e-5);
    s.compare(
        format!("{name}, gradient"),
        &prediction2,
        &prediction,
        tolerance,
    )
}
