//! The two losses, each with its gradient.

use candle_core::{Device, Tensor};
use mae_model::MaeConfig;
use mae_model::ops::{cross_entropy, masked_loss, removed_patches, squared_error, token_loss};

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

/// Mean over the rows of the mean of the squared differences.
fn squares(prediction: &[f64], bias: &[f32], targets: &[f32]) -> f64 {
    let terms = prediction.iter().zip(targets).enumerate();
    let terms = terms.map(|(i, (p, &t))| p + f64::from(bias[i % bias.len()]) - f64::from(t));
    terms.map(|x| x * x).sum::<f64>() / targets.len() as f64
}

#[test]
fn squared_error_against_given_targets() {
    for (batch, count, len) in [(1, 1, 1), (2, 3, 5), (3, 4, 33)] {
        let all = batch * count * len;
        let (prediction, bias) = (numbers(all, 1), numbers(len, 2));
        let (targets, shape) = (numbers(all, 3), [batch, count, len]);
        let (got, errors) = (tensor(&prediction, &shape), garbage(&[batch, count]));
        let with_bias = (&got, &tensor(&bias, &[len]));
        squared_error::forward_backward(with_bias, &tensor(&targets, &shape), &errors).unwrap();
        let plain = |prediction: &[f64]| squares(prediction, &bias, &targets);
        let errors = values(&errors);
        let loss = errors.iter().map(|&x| f64::from(x)).sum::<f64>() / errors.len() as f64;
        assert!((loss / plain(&wide(&prediction)) - 1.0).abs() < 1e-6);
        close(
            "gradient",
            &values(&got),
            &gradient(&prediction, plain),
            1e-5,
        );
    }
}

/// Mean over the removed patches of the surprise at their token.
fn surprise(logits: &[f64], bias: &[f32], tokens: &[u32], places: &[u32], keep: usize) -> f64 {
    let vocabulary = bias.len();
    let removed = logits.len() / vocabulary;
    let images = (tokens.len() - removed) / keep;
    let (patches, count) = (tokens.len() / images, removed / images);
    let mut sum = 0.0;
    for (i, (&token, &place)) in tokens.iter().zip(places).enumerate() {
        let Some(row) = (place as usize).checked_sub(keep) else {
            continue;
        };
        let row = i / patches * count + row;
        let logits = &logits[row * vocabulary..][..vocabulary];
        let logits: Vec<f64> = logits
            .iter()
            .zip(bias)
            .map(|(x, &b)| x + f64::from(b))
            .collect();
        sum += logits.iter().map(|x| x.exp()).sum::<f64>().ln() - logits[token as usize];
    }
    sum / removed as f64
}

#[test]
fn token_loss_of_the_removed_patches() {
    for (batch, patches, keep, vocabulary) in [(1, 2, 1, 2), (3, 6, 2, 7), (2, 9, 8, 65)] {
        let count = patches - keep;
        let places = places(batch, patches);
        let tokens: Vec<u32> = numbers(batch * patches, 5)
            .iter()
            .map(|x| ((x + 1.0) / 2.0 * vocabulary as f32) as u32 % vocabulary as u32)
            .collect();
        let logits: Vec<f32> = numbers(batch * count * vocabulary, 1)
            .iter()
            .map(|x| 4.0 * x)
            .collect();
        let bias = numbers(vocabulary, 2);
        let (got, losses) = (
            tensor(&logits, &[batch, count, vocabulary]),
            garbage(&[batch, count]),
        );
        let ids = |ids: &[u32]| Tensor::from_slice(ids, (batch, patches), &Device::Cpu).unwrap();
        let with_bias = (&got, &tensor(&bias, &[vocabulary]));
        token_loss::forward_backward(with_bias, &ids(&tokens), &ids(&places), &losses).unwrap();
        let plain = |logits: &[f64]| surprise(logits, &bias, &tokens, &places, keep);
        let losses = values(&losses);
        let loss = losses.iter().map(|&x| f64::from(x)).sum::<f64>() / losses.len() as f64;
        assert!((loss / plain(&wide(&logits)) - 1.0).abs() < 1e-6);
        close("gradient", &values(&got), &gradient(&logits, plain), 1e-5);
    }
}

#[test]
fn a_token_beyond_the_vocabulary_is_no_loss() {
    let (logits, losses) = (tensor(&[1.0, 2.0], &[1, 1, 2]), garbage(&[1, 1]));
    let ids = |ids: &[u32]| Tensor::from_slice(ids, (1, 2), &Device::Cpu).unwrap();
    let with_bias = (&logits, &tensor(&[0.0, 0.0], &[2]));
    token_loss::forward_backward(with_bias, &ids(&[2, 2]), &ids(&[0, 1]), &losses).unwrap();
    assert!(values(&losses)[0].is_nan());
}

#[test]
fn removed_patches_are_the_targets_of_pixels_less_the_mean() {
    let config = MaeConfig::named("mae-micro-patch4", (8, 12), 3).unwrap();
    let (batch, keep, patches, len) = (2, 2, config.patches(), config.vit.patch_len());
    let removed = patches - keep;
    let (pixels, places) = (bytes(batch * 8 * 12 * 3), places(batch, patches));
    let mean = numbers(len, 4);
    let pixelst = Tensor::from_slice(&pixels, (batch, 8, 12, 3), &Device::Cpu).unwrap();
    let placest = Tensor::from_slice(&places, (batch, patches), &Device::Cpu).unwrap();
    let out = garbage(&[batch, removed, len]);
    let meant = tensor(&mean, &[len]);
    removed_patches::forward(&config.vit, &pixelst, &placest, &meant, &out).unwrap();
    // With the mean as its bias and these as its prediction, the loss of pixels is nothing.
    let errors = garbage(&[batch, removed]);
    masked_loss::forward_backward(&config, &pixelst, &placest, (&out, &meant), &errors).unwrap();
    assert!(values(&errors).iter().all(|&x| x.abs() < 1e-11));
}
