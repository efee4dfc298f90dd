//! Rows moved between sequences: each forward against its plain version, each backward against the rule that a linear map's
//! gradient is its transpose, `⟨y, A x⟩ = ⟨Aᵀ y, x⟩`.

use candle_core::{Device, Tensor};
use mae_model::Accumulate::Replace;
use mae_model::ops::tokens;
use mae_model::ops::{patchify, pool};
use mae_model::{MaeConfig, Pooling};

use crate::plain::*;

const BATCH: usize = 3;
const PATCHES: usize = 7;
const DIM: usize = 19;

/// Place by patch, and the visible patches by place.
fn masks(keep: usize) -> (Vec<u32>, Vec<u32>) {
    let (mut places, mut visible) = (vec![], vec![]);
    for image in 0..BATCH {
        let order: Vec<usize> = (0..PATCHES).map(|i| (i * 3 + image) % PATCHES).collect();
        let mut of = [0; PATCHES];
        order
            .iter()
            .enumerate()
            .for_each(|(place, &patch)| of[patch] = place as u32);
        places.extend(of);
        visible.extend(order[..keep].iter().map(|&patch| patch as u32));
    }
    (places, visible)
}

fn ids(ids: &[u32]) -> Tensor {
    Tensor::from_slice(ids, (BATCH, ids.len() / BATCH), &Device::Cpu).unwrap()
}

fn inner(a: &[f32], b: &[f32]) -> f64 {
    a.iter()
        .zip(b)
        .map(|(a, b)| f64::from(*a) * f64::from(*b))
        .sum()
}

#[track_caller]
fn same(a: f64, b: f64) {
    assert!((a - b).abs() <= 1e-5 * a.abs().max(1.0), "{a} {b}");
}

#[test]
fn embedding() {
    for keep in [1, 4, PATCHES - 1] {
        let (_, visible) = masks(keep);
        let (x, bias, class) = (
            numbers(BATCH * keep * DIM, 1),
            numbers(DIM, 2),
            numbers(DIM, 3),
        );
        let positions = numbers((1 + PATCHES) * DIM, 4);
        let out = garbage(&[BATCH, 1 + keep, DIM]);
        let xt = tensor(&x, &[BATCH, keep, DIM]);
        let positionst = tensor(&positions, &[1 + PATCHES, DIM]);
        let (biast, classt) = (tensor(&bias, &[DIM]), tensor(&class, &[DIM]));
        tokens::embed_forward((&xt, &biast), &ids(&visible), &classt, &positionst, &out).unwrap();
        let out = values(&out);
        for image in 0..BATCH {
            for row in 0..=keep {
                for c in 0..DIM {
                    let exact = match row.checked_sub(1) {
                        None => class[c] + positions[c],
                        Some(i) => {
                            let patch = visible[image * keep + i] as usize;
                            x[(image * keep + i) * DIM + c]
                                + bias[c]
                                + positions[(1 + patch) * DIM + c]
                        }
                    };
                    assert_eq!(out[(image * (1 + keep) + row) * DIM + c], exact);
                }
            }
        }

        let d = numbers(BATCH * (1 + keep) * DIM, 5);
        let (dx, grads) = (garbage(&[BATCH, keep, DIM]), garbage(&[2 * DIM]));
        let dt = tensor(&d, &[BATCH, 1 + keep, DIM]);
        tokens::embed_backward(&dt, &dx, &grads, (0..DIM, DIM..2 * DIM), Replace).unwrap();
        // Less the positions, which are constants, the output is linear in x, bias and class token.
        let constant: Vec<f32> = {
            let (zero_x, zero) = (
                tensor(&vec![0.0; x.len()], &[BATCH, keep, DIM]),
                tensor(&[0.0; DIM], &[DIM]),
            );
            let out = garbage(&[BATCH, 1 + keep, DIM]);
            tokens::embed_forward((&zero_x, &zero), &ids(&visible), &zero, &positionst, &out)
                .unwrap();
            values(&out)
        };
        let grads = values(&grads);
        let right =
            inner(&values(&dx), &x) + inner(&grads[..DIM], &bias) + inner(&grads[DIM..], &class);
        same(inner(&d, &out) - inner(&d, &constant), right);
    }
}

#[test]
fn unshuffling() {
    for (keep, biased) in [1, 4, PATCHES - 1]
        .map(|keep| [(keep, true), (keep, false)])
        .concat()
    {
        let (places, _) = masks(keep);
        let (x, bias, mask) = (
            numbers(BATCH * (1 + keep) * DIM, 1),
            numbers(DIM, 2),
            numbers(DIM, 3),
        );
        let positions = numbers((1 + PATCHES) * DIM, 4);
        let run = |x: &[f32], bias: &[f32], mask: &[f32]| {
            let out = garbage(&[BATCH, 1 + PATCHES, DIM]);
            let bias = biased.then(|| tensor(bias, &[DIM]));
            let visible = (&tensor(x, &[BATCH, 1 + keep, DIM]), bias.as_ref());
            let positions = tensor(&positions, &[1 + PATCHES, DIM]);
            tokens::unshuffle_forward(
                visible,
                &ids(&places),
                &tensor(mask, &[DIM]),
                &positions,
                &out,
            )
            .unwrap();
            values(&out)
        };
        let out = run(&x, &bias, &mask);
        for image in 0..BATCH {
            for token in 0..=PATCHES {
                for c in 0..DIM {
                    let row = match token.checked_sub(1) {
                        None => Some(0),
                        Some(patch) => Some(1 + places[image * PATCHES + patch] as usize)
                            .filter(|&row| row <= keep),
                    };
                    let position = positions[token * DIM + c];
                    let given = |row: usize| x[(image * (1 + keep) + row) * DIM + c];
                    let expected = match row {
                        None => mask[c] + position,
                        Some(row) if biased => given(row) + bias[c] + position,
                        Some(row) => given(row),
                    };
                    assert_eq!(out[(image * (1 + PATCHES) + token) * DIM + c], expected);
                }
            }
        }

        let d = numbers(BATCH * (1 + PATCHES) * DIM, 5);
        let (dx, grads) = (garbage(&[BATCH, 1 + keep, DIM]), garbage(&[2 * DIM]));
        let before = values(&grads);
        let dt = tensor(&d, &[BATCH, 1 + PATCHES, DIM]);
        tokens::unshuffle_backward(
            &dt,
            &ids(&places),
            &dx,
            &grads,
            (0..DIM, biased.then_some(DIM..2 * DIM)),
            Replace,
        )
        .unwrap();
        let constant = run(&vec![0.0; x.len()], &[0.0; DIM], &[0.0; DIM]);
        let grads = values(&grads);
        let mut right = inner(&values(&dx), &x) + inner(&grads[..DIM], &mask);
        if biased {
            right += inner(&grads[DIM..], &bias);
        } else {
            assert!(grads[DIM..] == before[DIM..]);
        }
        same(inner(&d, &out) - inner(&d, &constant), right);
    }
}

#[test]
fn removed_rows() {
    for keep in [1, 4, PATCHES - 1] {
        let (places, _) = masks(keep);
        let count = PATCHES - keep;
        let (x, d) = (
            numbers(BATCH * (1 + PATCHES) * DIM, 1),
            numbers(BATCH * count * DIM, 2),
        );
        let (out, dx) = (
            garbage(&[BATCH, count, DIM]),
            garbage(&[BATCH, 1 + PATCHES, DIM]),
        );
        tokens::removed_forward(&tensor(&x, &[BATCH, 1 + PATCHES, DIM]), &ids(&places), &out)
            .unwrap();
        tokens::removed_backward(&tensor(&d, &[BATCH, count, DIM]), &ids(&places), &dx).unwrap();
        let out = values(&out);
        for (image, places) in places.chunks(PATCHES).enumerate() {
            for (patch, &place) in places.iter().enumerate() {
                let Some(row) = (place as usize).checked_sub(keep) else {
                    continue;
                };
                let from = &x[(image * (1 + PATCHES) + 1 + patch) * DIM..][..DIM];
                assert_eq!(&out[(image * count + row) * DIM..][..DIM], from);
            }
        }
        same(inner(&d, &out), inner(&values(&dx), &x));
    }
}

#[test]
fn patches_are_normalised_in_the_order_of_a_convolution() {
    let config = MaeConfig::named("mae-micro-patch4", (8, 12), 3)
        .unwrap()
        .vit;
    let pixels: Vec<u8> = (0..8 * 12 * 3).map(|i| (i * 37 % 256) as u8).collect();
    let pixelst = Tensor::from_slice(&pixels, (1, 8, 12, 3), &Device::Cpu).unwrap();
    let chosen = Tensor::from_slice(&[4u32, 0], (1, 2), &Device::Cpu).unwrap();
    let patches = garbage(&[1, 2, 48]);
    patchify::forward(&config, &pixelst, &chosen, &patches).unwrap();
    let patches = values(&patches);
    for (i, (top, left)) in [(4, 4), (0, 0)].into_iter().enumerate() {
        for (at, value) in patches[i * 48..][..48].iter().enumerate() {
            let (channel, y, x) = (at / 16, top + at / 4 % 4, left + at % 4);
            let byte = f64::from(pixels[(y * 12 + x) * 3 + channel]);
            let exact =
                (byte / 255.0 - f64::from(config.mean[channel])) / f64::from(config.std[channel]);
            assert!((f64::from(*value) - exact).abs() < 1e-6);
        }
    }
}

#[test]
fn pooling() {
    for pooling in [Pooling::Token, Pooling::Avg] {
        let (x, d) = (numbers(BATCH * PATCHES * DIM, 1), numbers(BATCH * DIM, 2));
        let (out, dx) = (garbage(&[BATCH, DIM]), garbage(&[BATCH, PATCHES, DIM]));
        pool::forward(pooling, &tensor(&x, &[BATCH, PATCHES, DIM]), &out).unwrap();
        pool::backward(pooling, &tensor(&d, &[BATCH, DIM]), &dx).unwrap();
        let rows = match pooling {
            Pooling::Token => 0..1,
            Pooling::Avg => 1..PATCHES,
        };
        let exact: Vec<f64> = (0..BATCH * DIM)
            .map(|i| {
                let at = |row: usize| f64::from(x[(i / DIM * PATCHES + row) * DIM + i % DIM]);
                rows.clone().map(at).sum::<f64>() / rows.len() as f64
            })
            .collect();
        close("pooled", &values(&out), &exact, 1e-6);
        same(inner(&d, &values(&out)), inner(&values(&dx), &x));
    }
}
