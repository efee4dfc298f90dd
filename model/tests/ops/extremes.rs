//! Very large logits, denormal numbers, and numbers that are none: the first two give what f64 gives, the last comes out as it
//! went in, so that the loss shows it.

use mae_model::Accumulate::Replace;
use mae_model::Precision::F32;
use mae_model::Record;
use mae_model::ops::adamw::{AdamWStep, Group, Groups, adamw_step};
use mae_model::ops::layer_norm::{NormGrads, StreamGradient};
use mae_model::ops::{attention, cross_entropy, gelu, layer_norm, linear, reduce};

use crate::plain::*;

const TOKENS: usize = 21;
const WIDTH: usize = 8;

fn attend(qkv: &[f32]) -> Vec<f32> {
    let bias = tensor(&[0.0; 3 * WIDTH], &[3 * WIDTH]);
    let (out, stats) = (garbage(&[1, TOKENS, WIDTH]), garbage(&[1, 1, TOKENS, 2]));
    attention::forward(
        &tensor(qkv, &[1, TOKENS, 3 * WIDTH]),
        &bias,
        1,
        &out,
        &stats,
    )
    .unwrap();
    values(&out)
}

#[test]
fn attention_with_logits_of_ten_thousand() {
    // Queries and keys of about 60 give logits up to ±1e4 and, mostly, a softmax with one winner.
    let mut qkv = numbers(TOKENS * 3 * WIDTH, 1);
    for row in qkv.chunks_mut(3 * WIDTH) {
        row[..2 * WIDTH].iter_mut().for_each(|x| *x *= 80.0);
    }
    let exact = attention(&wide(&qkv), &[0.0; 3 * WIDTH], TOKENS, 1, WIDTH);
    // A logit of 1e4 is rounded at 1e-3 in f32; where two are close, their shares move by as much.
    close("out", &attend(&qkv), &exact, 5e-3);
    assert!(attend(&qkv).iter().all(|x| x.is_finite()));
}

#[test]
fn denormal_numbers_are_numbers() {
    let tiny = f32::MIN_POSITIVE / 8.0;
    let qkv: Vec<f32> = numbers(TOKENS * 3 * WIDTH, 1)
        .iter()
        .map(|x| x * tiny)
        .collect();
    assert!(
        attend(&qkv)
            .iter()
            .all(|x| x.is_finite() && x.abs() <= tiny)
    );

    let (x, bias, y) = (
        tensor(&[tiny, -tiny, 0.0], &[1, 3]),
        tensor(&[0.0; 3], &[3]),
        garbage(&[1, 3]),
    );
    gelu::forward(&x, &bias, &y).unwrap();
    assert_eq!(values(&y), [tiny / 2.0, -tiny / 2.0, 0.0]);

    let (one, zero) = (tensor(&[1.0; 3], &[3]), tensor(&[0.0; 3], &[3]));
    let stats = garbage(&[1, 2]);
    layer_norm::forward(&x, (&one, &zero), 1e-6, &y, &stats).unwrap();
    assert!(values(&y).iter().all(|y| y.abs() < 1e-30));
}

#[test]
fn gelu_far_out() {
    let x = [1e4f32, -1e4, 40.0, -40.0, f32::MAX, f32::MIN];
    let (xt, bias, y) = (
        tensor(&x, &[1, 6]),
        tensor(&[0.0; 6], &[6]),
        garbage(&[1, 6]),
    );
    gelu::forward(&xt, &bias, &y).unwrap();
    for (x, y) in x.iter().zip(values(&y)) {
        if *x > 0.0 {
            assert_eq!(y, *x);
        } else {
            assert!(y.abs() < 1e-30 || y == 0.0, "gelu({x}) = {y}");
        }
    }
    let (d, grads) = (tensor(&[1.0; 6], &[1, 6]), garbage(&[6]));
    gelu::backward((&xt, &bias), &y, &d, &grads, 0..6, Replace).unwrap();
    for (x, d) in x.iter().zip(values(&d)) {
        let exact = if *x > 0.0 { 1.0 } else { 0.0 };
        assert!((d - exact).abs() < 1e-6, "gelu'({x}) = {d}");
    }
}

#[test]
fn a_nan_anywhere_comes_out() {
    for at in [0, 3, TOKENS * 3 * WIDTH - 1] {
        let mut qkv = numbers(TOKENS * 3 * WIDTH, 1);
        qkv[at] = f32::NAN;
        assert!(attend(&qkv).iter().any(|x| x.is_nan()), "attention, {at}");
    }
    for (m, n) in [(1, 1), (3, 17)] {
        for at in [0, m * n - 1] {
            let mut x = numbers(m * n, 1);
            x[at] = f32::NAN;
            let xt = tensor(&x, &[m, n]);
            let (zero, one) = (tensor(&vec![0.0; n], &[n]), tensor(&vec![1.0; n], &[n]));
            let (y, stats) = (garbage(&[m, n]), garbage(&[m, 2]));

            gelu::forward(&xt, &zero, &y).unwrap();
            assert!(values(&y)[at].is_nan(), "gelu");
            let (d, grads) = (tensor(&vec![1.0; m * n], &[m, n]), garbage(&[3 * n]));
            gelu::backward((&xt, &zero), &y, &d, &grads, 0..n, Replace).unwrap();
            assert!(
                values(&d)[at].is_nan() && values(&grads)[at % n].is_nan(),
                "gelu's gradient"
            );

            layer_norm::forward(&xt, (&one, &zero), 1e-6, &y, &stats).unwrap();
            assert!(values(&y)[at].is_nan(), "layer norm");
            let ranges = NormGrads {
                weight: 0..n,
                bias: n..2 * n,
                added: None,
            };
            let (dy, dx) = (
                tensor(&vec![1.0; m * n], &[m, n]),
                tensor(&vec![0.0; m * n], &[m, n]),
            );
            layer_norm::backward(
                (&xt, &stats),
                &one,
                &dy,
                StreamGradient {
                    dx: &dx,
                    operand: None,
                    factors: None,
                },
                &grads,
                ranges,
                Replace,
            )
            .unwrap();
            assert!(
                values(&dx)[at].is_nan() && values(&grads)[0].is_nan(),
                "layer norm's gradient"
            );

            let out = garbage(&[m, 1]);
            linear::forward(&xt, &tensor(&vec![1.0; n], &[1, n]), &out, F32).unwrap();
            assert!(values(&out)[at / n].is_nan(), "product");
            assert!(reduce::global_norm(&xt).unwrap().is_nan());

            let (losses, targets) = (garbage(&[m]), tensor(&vec![1.0 / n as f32; m * n], &[m, n]));
            cross_entropy::forward_backward(&xt, &targets, &losses).unwrap();
            assert!(values(&losses)[at / n].is_nan(), "cross-entropy");
        }
    }
    let all = |x: f32| tensor(&[x; 5], &[5]);
    let (p, g, m, v) = (all(1.0), all(f32::NAN), all(0.0), all(0.0));
    let step = AdamWStep {
        lr: 0.1,
        beta1: 0.9,
        beta2: 0.95,
        eps: 1e-8,
        step: 1,
    };
    let group = Group {
        range: 0..5,
        weight_decay: 0.0,
        lr_scale: 1.0,
    };
    let record = Record::new(p.device(), None).unwrap();
    record.settle(&g).unwrap();
    let groups = Groups::new(vec![group], 5);
    adamw_step((&p, None), &g, (&m, &v), &groups, &record, &step).unwrap();
    assert!(values(&p).iter().all(|x| x.is_nan()));
}
