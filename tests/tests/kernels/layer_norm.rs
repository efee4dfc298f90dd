use candle_core::{DType, Device, Tensor};
use mae_model::Accumulate;
use mae_model::kernels::on_host;
use mae_model::ops::layer_norm::{NormGrads, backward, forward, residual_forward};

use crate::{close, copy, flat, numbers, rounding};

/// Rows and width: less than a warp's columns, one warp, several, and more rows than blocks.
const SHAPES: [(usize, usize); 6] = [(1, 4), (3, 36), (5, 128), (37, 192), (7, 1284), (1100, 8)];
const EPS: f32 = 1e-6;

fn zeros(shape: impl Into<candle_core::Shape>, dtype: DType) -> Tensor {
    Tensor::zeros(shape, dtype, &Device::Cpu).unwrap()
}

#[test]
fn forwards_agree() {
    for (rows, dim) in SHAPES {
        for dtype in [DType::F32, DType::BF16] {
            let what = format!("{rows}x{dim} {dtype:?}");
            let (x, residual) = (numbers(&[rows, dim], 1), numbers(&[rows, dim], 2));
            let [weight, bias, added] = [3, 4, 5].map(|seed| numbers(&[dim], seed));
            let outputs = |dtype| (zeros((rows, dim), dtype), zeros((rows, 2), DType::F32));
            let norm = (&weight, &bias);

            let ((y, stats), (y2, stats2)) = (outputs(DType::F32), outputs(dtype));
            forward(&x, norm, EPS, &y, &stats).unwrap();
            on_host(|| forward(&x, norm, EPS, &y2, &stats2)).unwrap();
            close(&format!("y of {what}"), &y2, &y, rounding(dtype));
            close(&format!("stats of {what}"), &stats2, &stats, 4e-6);

            let (x, x2) = (copy(&x), copy(&x));
            let stream = (&residual, &added);
            residual_forward(&x, stream, norm, EPS, &y, &stats).unwrap();
            on_host(|| residual_forward(&x2, stream, norm, EPS, &y2, &stats2)).unwrap();
            close(&format!("stream of {what}"), &x2, &x, 1e-6);
            close(&format!("y behind it of {what}"), &y2, &y, rounding(dtype));
            close(&format!("stats behind it of {what}"), &stats2, &stats, 4e-6);
        }
    }
}

#[test]
fn gradients_agree() {
    for (rows, dim) in SHAPES {
        for dtype in [DType::F32, DType::BF16] {
            for mode in [Accumulate::Replace, Accumulate::Add] {
                let what = format!("{rows}x{dim} {dtype:?} {mode:?}");
                let x = numbers(&[rows, dim], 1);
                let [weight, bias] = [3, 4].map(|seed| numbers(&[dim], seed));
                let (y, stats) = (zeros((rows, dim), DType::F32), zeros((rows, 2), DType::F32));
                forward(&x, (&weight, &bias), EPS, &y, &stats).unwrap();
                // Rounded once, so that both sides take in the same.
                let dy2 = numbers(&[rows, dim], 6).to_dtype(dtype).unwrap();
                let dy = dy2.to_dtype(DType::F32).unwrap();
                let (dx, grads) = (numbers(&[rows, dim], 7), numbers(&[3 * dim + 8], 8));
                let (dx2, grads2) = (copy(&dx), copy(&grads));
                let ranges = NormGrads {
                    weight: 4..4 + dim,
                    bias: 4 + dim..4 + 2 * dim,
                    added: Some(4 + 2 * dim..4 + 3 * dim),
                };
                let saved = (&x, &stats);
                backward(saved, &weight, &dy, &dx, &grads, ranges.clone(), mode).unwrap();
                on_host(|| backward(saved, &weight, &dy2, &dx2, &grads2, ranges, mode)).unwrap();
                close(&format!("dx of {what}"), &dx2, &dx, 4e-6);
                close(&format!("gradients of {what}"), &grads2, &grads, 1e-5);
                // What lies before and behind stays.
                let (kept, now) = (flat(&numbers(&[3 * dim + 8], 8)), flat(&grads2));
                assert_eq!((kept[3], kept[4 + 3 * dim]), (now[3], now[4 + 3 * dim]));
            }
        }
    }
}

#[test]
fn a_width_that_no_kernel_takes_is_an_error() {
    let (x, weight) = (numbers(&[2, 6], 1), numbers(&[6], 2));
    let (y, stats) = (zeros((2, 6), DType::F32), zeros((2, 2), DType::F32));
    let error = on_host(|| forward(&x, (&weight, &weight), EPS, &y, &stats)).unwrap_err();
    assert!(error.to_string().contains("multiples of 4"), "{error}");
}
