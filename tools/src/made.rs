//! Pictures made up for measurements and checks that must not wait for a user's data.

use std::path::Path;

use anyhow::Context as _;
use mae_loader::shard::{Limits, ShardTarget, ShardWriter};
use rayon::prelude::*;

/// What pictures are made as.
#[derive(Clone, Copy)]
pub(crate) struct Form {
    height: usize,
    width: usize,
    /// Of the JPEG.
    quality: u8,
    /// Range of the noise in each pixel, of 256.
    noise: f32,
}

/// As a photograph prepared by `mae shard --short-side 256`.
pub(crate) const PREPARED: Form = Form {
    height: 256,
    width: 341,
    quality: 90,
    noise: 16.0,
};

/// As most photographs of ImageNet-1k, in pixels and in bytes.
pub(crate) const PHOTOGRAPH: Form = Form {
    height: 375,
    width: 500,
    quality: 85,
    noise: 104.0,
};

/// Pictures in shards: waves of many lengths and directions with noise, which a JPEG makes about as large as a photograph of that
/// size.
pub(crate) fn shards(folder: &Path, count: usize, form: Form) -> anyhow::Result<()> {
    let pattern = "made-%06d.tar".parse().map_err(anyhow::Error::msg)?;
    let target = ShardTarget::prepare(folder, pattern, true)?;
    let limits = Limits {
        max_count: 512,
        ..Limits::default()
    };
    let mut writer = ShardWriter::new(target, limits);
    for from in (0..count).step_by(64) {
        let made: Vec<anyhow::Result<Vec<u8>>> = (from..(from + 64).min(count))
            .into_par_iter()
            .map(|index| picture(index as u64, form))
            .collect();
        for (i, jpeg) in made.into_iter().enumerate() {
            writer.write(&format!("{:08}", from + i), &[("jpg", &jpeg?)])?;
        }
    }
    writer.finish(None)?;
    Ok(())
}

fn picture(index: u64, form: Form) -> anyhow::Result<Vec<u8>> {
    let mut state = index.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mut next = move || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1 << 24) as f32
    };
    let Form {
        height,
        width,
        quality,
        noise,
    } = form;
    // Amplitudes fall with frequency, as in nature.
    let waves: Vec<[f32; 6]> = (0..24)
        .map(|i| {
            let frequency = 0.01 * 1.17f32.powi(i);
            let angle = next() * std::f32::consts::TAU;
            let size = 0.45 / frequency.sqrt();
            [
                frequency * angle.cos(),
                frequency * angle.sin(),
                next() * std::f32::consts::TAU,
                size * next(),
                size * next(),
                size * next(),
            ]
        })
        .collect();
    let mut rgb = vec![0u8; height * width * 3];
    for (i, pixel) in rgb.chunks_exact_mut(3).enumerate() {
        let (y, x) = ((i / width) as f32, (i % width) as f32);
        let mut sums = [128.0f32; 3];
        for [fx, fy, phase, sizes @ ..] in &waves {
            let wave = (fx * x + fy * y + phase).sin();
            sums.iter_mut()
                .zip(sizes)
                .for_each(|(sum, size)| *sum += size * wave * 4.0);
        }
        let noise = noise * (next() - 0.5);
        for (out, sum) in pixel.iter_mut().zip(sums) {
            *out = (sum + noise) as u8;
        }
    }
    let mut bytes = Vec::new();
    jpeg_encoder::Encoder::new(&mut bytes, quality)
        .encode(
            &rgb,
            width as u16,
            height as u16,
            jpeg_encoder::ColorType::Rgb,
        )
        .context("cannot encode a picture as JPEG")?;
    Ok(bytes)
}
