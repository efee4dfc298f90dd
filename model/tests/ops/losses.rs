//! The two losses, each with its gradient.

use candle_core::{Device, Tensor};
use mae_model::MaeConfig;
use mae_model::ops::{cross_entropy, masked_loss};

use crate::plain::*;

fn bytes(count: usize) -> Vec<u8> {
    numbers(count, 9)
        .iter()
        .map(|x| ((x + 1.0) * 127.9) as u8)
        .collect()
}

/// A random order of the patches of each image: place by patch.
fn places(batch: usize, patches: usize) -> Vec<u32> {
    (0..batch)
        .flat_map(|image| {
            let keys = numbers(patches, 31 + image as u64);
            let mut order: Vec<usize> = (0..patches).collect();
            order.sort_by(|&a, &b| keys[a].total_cmp(&keys[b]));
            let mut places = vec![0; patches];
            for (place, patch) in order.into_iter().enumerate() {
                places[patch] = place as u32;
            }
            places
        })
        .collect()
}

/// The reference code's `forward_loss`: patches in (row, column, channel) order.
fn masked(
    config: &MaeConfig,
    pixels: &[u8],
    places: &[u32],
    keep: usize,
    prediction: &[f64],
) -> f64 {
    let (vit, patches) = (&config.vit, config.patches());
    let (p, c, width) = (vit.patch_size, vit.channels, vit.image_size.1);
    let (image, len) = (vit.image_size.0 * width * c, vit.patch_len());
    let removed = patches - keep;
    let mut sum = 0.0;
    for (sample, places) in places.chunks(patches).enumerate() {
        for (patch, &place) in places.iter().enumerate() {
            let Some(row) = (place as usize).checked_sub(keep) else {
                continue;
            };
            let (top, left) = (patch / (width / p) * p, patch % (width / p) * p);
            let mut target: Vec<f64> = (0..len)
                .map(|i| {
                    let (y, x, channel) = (top + i / (p * c), left + i / c % p, i % c);
                    let byte = pixels[sample * image + (y * width + x) * c + channel];
                    (f64::from(byte) / 255.0 - f64::from(vit.mean[channel]))
                        / f64::from(vit.std[channel])
                })
                .collect();
            if config.norm_pix_loss {
                let mean = target.iter().sum::<f64>() / len as f64;
                let variance =
                    target.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / (len - 1) as f64;
                target
                    .iter_mut()
                    .for_each(|x| *x = (*x - mean) / (variance + 1e-6).sqrt());
            }
            let prediction = &prediction[(sample * removed + row) * len..][..len];
            sum += prediction
                .iter()
                .zip(&target)
                .map(|(p, t)| (p - t).powi(2))
                .sum::<f64>()
                / len as f64;
        }
    }
    sum / (places.len() / patches * removed) as f64
}

#[test]
fn masked_loss_of_one_and_of_all_but_one_removed_patch() {
    for (batch, keep, norm_pix) in [(1, 5, true), (3, 1, false), (3, 1, true), (2, 3, true)] {
        let mut config = MaeConfig::named("mae-micro-patch4", (8, 12), 3).unwrap();
        config.norm_pix_loss = norm_pix;
        let (patches, len) = (config.patches(), config.vit.patch_len());
        let removed = patches - keep;
        let (pixels, places) = (bytes(batch * 8 * 12 * 3), places(batch, patches));
        let (prediction, bias) = (numbers(batch * removed * len, 1), numbers(len, 2));

        let pixelst = Tensor::from_slice(&pixels, (batch, 8, 12, 3), &Device::Cpu).unwrap();
        let placest = Tensor::from_slice(&places, (batch, patches), &Device::Cpu).unwrap();
        let predictiont = tensor(&prediction, &[batch, removed, len]);
        let errors = garbage(&[batch, removed]);
        let with_bias = (&predictiont, &tensor(&bias, &[len]));
        masked_loss::forward_backward(&config, &pixelst, &placest, with_bias, &errors).unwrap();

        let plain = |prediction: &[f64]| {
            let whole: Vec<f64> = prediction
                .iter()
                .enumerate()
                .map(|(i, x)| x + f64::from(bias[i % len]))
                .collect();
            masked(&config, &pixels, &places, keep, &whole)
        };
        let errors = values(&errors);
        let loss = errors.iter().map(|&x| f64::from(x)).sum::<f64>() / errors.len() as f64;
        let exact = plain(&wide(&prediction));
        assert!((loss / exact - 1.0).abs() < 1e-6, "{loss} {exact}");
        close(
            "gradient",
            &values(&predictiont),
            &gradient(&prediction, plain),
            1e-5,
        );
    }
}

fn soft_cross_entropy(logits: &[f64], targets: &[f32], classes: usize) -> f64 {
    let rows = logits.chunks(classes).zip(targets.chunks(classes));
    let sum: f64 = rows
        .map(|(logits, targets)| {
            let top = logits.iter().copied().fold(f64::MIN, f64::max);
            let log_sum = top + logits.iter().map(|x| (x - top).exp()).sum::<f64>().ln();
            logits
                .iter()
                .zip(targets)
                .map(|(x, &t)| f64::from(t) * (log_sum - x))
                .sum::<f64>()
        })
        .sum();
    sum / (logits.len() / classes) as f64
}

#[test]
fn cross_entropy_with_soft_targets() {
    for (batch, classes, scale) in [(1, 2, 1.0), (3, 10, 5.0), (7, 33, 1e4)] {
        let logits: Vec<f32> = numbers(batch * classes, 1)
            .iter()
            .map(|x| x * scale)
            .collect();
        let mut targets: Vec<f32> = numbers(batch * classes, 2)
            .iter()
            .map(|x| x + 1.1)
            .collect();
        for row in targets.chunks_mut(classes) {
            let sum: f32 = row.iter().sum();
            row.iter_mut().for_each(|x| *x /= sum);
        }
        let (logitst, losses) = (tensor(&logits, &[batch, classes]), garbage(&[batch]));
        cross_entropy::forward_backward(&logitst, &tensor(&targets, &[batch, classes]), &losses)
            .unwrap();
        let plain = |logits: &[f64]| soft_cross_entropy(logits, &targets, classes);
        let losses = values(&losses);
        let loss = losses.iter().map(|&x| f64::from(x)).sum::<f64>() / batch as f64;
        assert!((loss / plain(&wide(&logits)) - 1.0).abs() < 1e-6);
        close(
            "gradient",
            &values(&logitst),
            &gradient(&logits, plain),
            1e-5,
        );
    }
}
