//! Losses of coefficients and of tokens, and whole models with these targets.

use candle_core::{DType, Device, Tensor};

use super::{Session, numbers, permutations, pixels, rounding};
use crate::Result;
use crate::config::{MaeConfig, Target};
use crate::ops::{removed_patches, squared_error, token_loss};
use crate::target::PcaBasis;
use crate::{Accumulate, Activations, Mae, MaeInput, ids_keep};

/// Batch, patches, visible patches, numbers of a row; in the last more rows than blocks.
const SHAPES: [(usize, usize, usize, usize); 5] = [
    (1, 2, 1, 1),
    (2, 9, 4, 96),
    (3, 6, 1, 7),
    (1, 5, 2, 300),
    (20, 16, 4, 10),
];
/// More rows than a GPU has blocks, and DALL-E's vocabulary.
const LARGE: [(usize, usize, usize, usize); 1] = [(64, 196, 49, 8192)];

pub(super) fn run(s: &mut Session<'_>) -> Result<()> {
    for &shape in SHAPES.iter().chain(s.large(&LARGE)) {
        for dtype in [DType::F32, DType::BF16] {
            losses(s, shape, dtype)?;
        }
    }
    patches(s)?;
    model(s)
}

fn losses(
    s: &mut Session<'_>,
    (batch, patches, keep, len): (usize, usize, usize, usize),
    dtype: DType,
) -> Result<()> {
    let count = patches - keep;
    let shape = [batch, count, len];
    let what = format!("{batch}x{count}x{len} {dtype:?}");
    let tolerance = rounding(dtype).max(1e-5);
    let (targets, bias) = (numbers(&shape, 2)?, numbers(&[len], 3)?);
    let (targets2, bias2) = (s.put(&targets)?, s.put(&bias)?);
    let errors = Tensor::zeros((batch, count), DType::F32, &Device::Cpu)?;
    let ids = permutations(batch, patches)?;
    let draw = numbers(&[batch * patches], 4)?.to_vec1::<f32>()?;
    let tokens = draw.iter().map(|x| ((x + 1.0) / 2.0 * len as f32) as u32);
    let tokens: Vec<u32> = tokens.map(|token| token.min(len as u32 - 1)).collect();
    let tokens = Tensor::from_vec(tokens, (batch, patches), &Device::Cpu)?;
    let (ids2, tokens2) = (s.put(&ids)?, s.put(&tokens)?);
    for of_tokens in [false, true] {
        let name = match of_tokens {
            true => format!("token loss {what}"),
            false => format!("squared error {what}"),
        };
        let rounded = numbers(&shape, 1)?.affine(3.0, 0.0)?.to_dtype(dtype)?;
        let prediction2 = s.put(&rounded)?;
        let prediction = rounded.to_dtype(DType::F32)?.copy()?;
        let errors2 = s.output((batch, count), DType::F32)?;
        if of_tokens {
            token_loss::forward_backward((&prediction, &bias), &tokens, &ids, &errors)?;
            s.on(|| {
                token_loss::forward_backward((&prediction2, &bias2), &tokens2, &ids2, &errors2)
            })?;
        } else {
            squared_error::forward_backward((&prediction, &bias), &targets, &errors)?;
            s.on(|| squared_error::forward_backward((&prediction2, &bias2), &targets2, &errors2))?;
        }
        s.compare(name.clone(), &errors2, &errors, 1e-5)?;
        let name = format!("{name}, gradient");
        s.compare(name, &prediction2, &prediction, tolerance.max(1e-4))?;
    }
    Ok(())
}

fn patches(s: &mut Session<'_>) -> Result<()> {
    for (batch, height, width, channels, side, keep) in [
        (1, 4, 4, 1, 2, 1),
        (2, 12, 20, 3, 4, 14),
        (3, 28, 14, 2, 7, 1),
    ] {
        let mut vit = MaeConfig::named("mae-micro-patch4", (32, 32), 3)?.vit;
        (vit.image_size, vit.channels, vit.patch_size) = ((height, width), channels, side);
        vit.mean = vec![0.4, 0.5, 0.6][..channels].to_vec();
        vit.std = vec![0.2, 0.3, 0.25][..channels].to_vec();
        let (patches, len) = (vit.patches(), vit.patch_len());
        let bytes = pixels(batch * height * width * channels)?;
        let bytes = Tensor::from_vec(bytes, (batch, height, width, channels), &Device::Cpu)?;
        let (ids, mean) = (permutations(batch, patches)?, numbers(&[len], 6)?);
        let (bytes2, ids2, mean2) = (s.put(&bytes)?, s.put(&ids)?, s.put(&mean)?);
        let shape = (batch, patches - keep, len);
        let out = Tensor::zeros(shape, DType::F32, &Device::Cpu)?;
        let out2 = s.output(shape, DType::F32)?;
        removed_patches::forward(&vit, &bytes, &ids, &mean, &out)?;
        s.on(|| removed_patches::forward(&vit, &bytes2, &ids2, &mean2, &out2))?;
        let name = format!("removed patches {batch}x{height}x{width}x{channels}/{side}");
        s.compare(name, &out2, &out, 2e-6)?;
    }
    Ok(())
}

/// Loss and gradient of a model of coefficients. (One of tokens differs in what makes the tokens, which candle computes.)
fn model(s: &mut Session<'_>) -> Result<()> {
    let mut config = MaeConfig::named("mae-micro-patch4", (16, 16), 3)?;
    config.target = Target::Pca { components: 8 };
    let (patches, keep, len) = (config.patches(), config.keep(0.75), config.vit.patch_len());
    let basis = PcaBasis {
        mean: numbers(&[len], 7)?.to_vec1()?,
        basis: numbers(&[8 * len], 8)?.to_vec1()?,
    };
    let bytes = pixels(2 * 16 * 16 * 3)?;
    let restore = permutations(2, patches)?;
    let restore = restore.flatten_all()?.to_vec1::<u32>()?;
    let kept = ids_keep(&restore, patches, keep);
    let step = |device: &Device| -> Result<(f32, Tensor, Mae)> {
        let mut mae = Mae::new(config.clone(), device, 3)?;
        mae.set_pca(&basis)?;
        let input = MaeInput::from_host(&config, &bytes, &kept, &restore, device)?;
        let mut workspace = mae.workspace(2, keep, Activations::Keep)?;
        let grads = mae.params.zeros_like_flat()?;
        mae.forward(&input, &mut workspace)?;
        mae.backward(&input, &mut workspace, &grads, 1.0, Accumulate::Replace)?;
        Ok((workspace.loss()?, grads, mae))
    };
    let device = s.device();
    let (loss, grads, mae) = step(&Device::Cpu)?;
    let (loss2, grads2, _) = s.on(|| step(&device))?;
    let name = "model of coefficients";
    let off = (loss2 / loss - 1.0).abs();
    s.push(format!("{name}, loss"), off, 1e-5);
    let (a, b) = (s.fetch(&grads2)?, grads.to_vec1::<f32>()?);
    s.compare_gradients(name, mae.params.specs(), &a, &b, 1e-4);
    Ok(())
}
