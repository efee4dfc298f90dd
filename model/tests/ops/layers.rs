//! Products, activation, norm and attention.

use mae_model::Accumulate::{Add, Replace};
use mae_model::Precision::F32;
use mae_model::ops::layer_norm::{Joining, NormGrads, StreamGradient};
use mae_model::ops::{attention, gelu, layer_norm, linear, reduce};

use crate::plain::*;

#[test]
fn products() {
    for (m, k, n) in [(1, 1, 1), (3, 5, 7), (37, 24, 17), (70, 41, 33)] {
        let (x, w, dy) = (numbers(m * k, 1), numbers(n * k, 2), numbers(m * n, 3));
        let (xt, wt, dyt) = (
            tensor(&x, &[m, k]),
            tensor(&w, &[n, k]),
            tensor(&dy, &[m, n]),
        );
        let y = garbage(&[m, n]);
        linear::forward(&xt, &wt, &y, F32).unwrap();
        close("y", &values(&y), &linear(&wide(&x), &wide(&w), k), 1e-5);

        let dx = garbage(&[m, k]);
        linear::backward_input(&dyt, &wt, &dx, F32).unwrap();
        let exact = gradient(&x, |x| dot(&linear(x, &wide(&w), k), &dy));
        close("dx", &values(&dx), &exact, 1e-5);

        // Into the middle of the flat gradients, over what was there and on top of it.
        let grads = garbage(&[n * k + 2]);
        linear::backward_weight(&xt, &dyt, &grads, 1..n * k + 1, Replace, F32).unwrap();
        let exact = gradient(&w, |w| dot(&linear(&wide(&x), w, k), &dy));
        close("dw", &values(&grads)[1..n * k + 1], &exact, 1e-5);
        linear::backward_weight(&xt, &dyt, &grads, 1..n * k + 1, Add, F32).unwrap();
        let twice: Vec<f64> = exact.iter().map(|x| 2.0 * x).collect();
        close("dw added", &values(&grads)[1..n * k + 1], &twice, 1e-5);
        assert_eq!(
            (values(&grads)[0], values(&grads)[n * k + 1]),
            (777.0, 777.0)
        );

        let sums: Vec<f64> = (0..n)
            .map(|j| (0..m).map(|i| f64::from(dy[i * n + j])).sum())
            .collect();
        reduce::column_sums(&dyt, &grads, 0..n, Replace).unwrap();
        close("column sums", &values(&grads)[..n], &sums, 1e-5);
    }
}

#[test]
fn gelu_with_its_bias() {
    for (m, n) in [(1, 1), (5, 19), (131, 3)] {
        let x: Vec<f32> = numbers(m * n, 1).iter().map(|x| x * 6.0).collect();
        let (b, dy) = (numbers(n, 2), numbers(m * n, 3));
        let plain = |x: &[f64], b: &[f64]| -> Vec<f64> {
            x.iter()
                .enumerate()
                .map(|(i, x)| crate::plain::gelu(x + b[i % n]))
                .collect()
        };
        let (xt, bt, y) = (tensor(&x, &[m, n]), tensor(&b, &[n]), garbage(&[m, n]));
        gelu::forward(&xt, &bt, &y).unwrap();
        close("y", &values(&y), &plain(&wide(&x), &wide(&b)), 1e-6);

        let (again, d, grads) = (garbage(&[m, n]), tensor(&dy, &[m, n]), garbage(&[n]));
        gelu::backward((&xt, &bt), &again, &d, &grads, 0..n, Replace).unwrap();
        assert_eq!(values(&again), values(&y), "the same bits again");
        let dx = gradient(&x, |x| dot(&plain(x, &wide(&b)), &dy));
        close("dx", &values(&d), &dx, 2e-6);
        let db = gradient(&b, |b| dot(&plain(&wide(&x), b), &dy));
        close("db", &values(&grads), &db, 1e-5);
    }
}

#[test]
fn layer_norm_with_and_without_residual() {
    let eps = 1e-6;
    for (m, n) in [(1, 3), (5, 19), (67, 40), (130, 17)] {
        let (x, r, a) = (numbers(m * n, 1), numbers(m * n, 2), numbers(n, 3));
        let (w, b, dy, dx0) = (
            numbers(n, 4),
            numbers(n, 5),
            numbers(m * n, 6),
            numbers(m * n, 7),
        );
        let sum = |x: &[f64]| -> Vec<f64> {
            x.iter()
                .enumerate()
                .map(|(i, x)| x + f64::from(r[i]) + f64::from(a[i % n]))
                .collect()
        };
        let norm = |x: &[f64], w: &[f64], b: &[f64]| layer_norm(x, w, b, 1e-6);
        let stream = sum(&wide(&x));
        let exact = norm(&stream, &wide(&w), &wide(&b));

        let (xt, wt, bt) = (tensor(&x, &[m, n]), tensor(&w, &[n]), tensor(&b, &[n]));
        let (y, stats) = (garbage(&[m, n]), garbage(&[m, 2]));
        let (rt, at) = (tensor(&r, &[m, n]), tensor(&a, &[n]));
        let joining = Joining {
            residual: &rt,
            bias: &at,
            factors: None,
        };
        layer_norm::residual_forward(&xt, joining, (&wt, &bt), eps, &y, &stats).unwrap();
        close("stream", &values(&xt), &stream, 1e-6);
        close("y", &values(&y), &exact, 1e-5);
        let other = tensor(&x, &[m, n]);
        layer_norm::join(&other, joining).unwrap();
        assert_eq!(values(&other), values(&xt), "the same stream");
        let (again, stats_again) = (garbage(&[m, n]), garbage(&[m, 2]));
        layer_norm::forward(&xt, (&wt, &bt), eps, &again, &stats_again).unwrap();
        assert_eq!(values(&again), values(&y), "the same bits alone");
        assert_eq!(values(&stats_again), values(&stats));

        // The gradient of the stream comes on top of what the residual brought.
        let (dyt, dx, grads) = (
            tensor(&dy, &[m, n]),
            tensor(&dx0, &[m, n]),
            garbage(&[3 * n]),
        );
        let ranges = NormGrads {
            weight: 0..n,
            bias: n..2 * n,
            added: Some(2 * n..3 * n),
        };
        layer_norm::backward(
            (&xt, &stats),
            &wt,
            &dyt,
            without_factors(&dx),
            &grads,
            ranges,
            Replace,
        )
        .unwrap();
        let stream32 = values(&xt);
        let through = gradient(&stream32, |x| dot(&norm(x, &wide(&w), &wide(&b)), &dy));
        let total: Vec<f64> = through
            .iter()
            .zip(&dx0)
            .map(|(a, b)| a + f64::from(*b))
            .collect();
        // With three numbers a row the variance may be small, and the gradient large.
        close("dx", &values(&dx), &total, 5e-5);
        let grads = values(&grads);
        let dw = gradient(&w, |w| dot(&norm(&stream, w, &wide(&b)), &dy));
        close("dw", &grads[..n], &dw, 1e-5);
        let db = gradient(&b, |b| dot(&norm(&stream, &wide(&w), b), &dy));
        close("db", &grads[n..2 * n], &db, 1e-5);
        let da: Vec<f64> = (0..n)
            .map(|j| (0..m).map(|i| total[i * n + j]).sum())
            .collect();
        close("da", &grads[2 * n..], &da, 5e-5);
    }
}

/// Without factors.
fn without_factors(dx: &candle_core::Tensor) -> StreamGradient<'_> {
    StreamGradient {
        dx,
        operand: None,
        factors: None,
    }
}

/// Rows of samples whose branches are dropped or enlarged.
#[test]
fn branches_with_factors() {
    let (samples, rows, n) = (3, 7, 12);
    let m = samples * rows;
    let (x, r, a, factors) = (
        numbers(m * n, 1),
        numbers(m * n, 2),
        numbers(n, 3),
        [0.0f32, 2.0, 1.25],
    );
    let (w, b, dy, dx0) = (
        numbers(n, 4),
        numbers(n, 5),
        numbers(m * n, 6),
        numbers(m * n, 7),
    );
    let factor = |i: usize| f64::from(factors[i / n / rows]);
    let join = |x: &[f64], a: &[f64]| -> Vec<f64> {
        let joined = x.iter().enumerate();
        joined
            .map(|(i, x)| f64::from(r[i]) + factor(i) * (x + a[i % n]))
            .collect()
    };
    let norm = |x: &[f64]| layer_norm(x, &wide(&w), &wide(&b), 1e-6);
    let (xt, wt, bt) = (tensor(&x, &[m, n]), tensor(&w, &[n]), tensor(&b, &[n]));
    let (y, stats, ft) = (
        garbage(&[m, n]),
        garbage(&[m, 2]),
        tensor(&factors, &[samples]),
    );
    let (rt, at) = (tensor(&r, &[m, n]), tensor(&a, &[n]));
    let joining = Joining {
        residual: &rt,
        bias: &at,
        factors: Some(&ft),
    };
    layer_norm::residual_forward(&xt, joining, (&wt, &bt), 1e-6, &y, &stats).unwrap();
    let stream = join(&wide(&x), &wide(&a));
    close("stream", &values(&xt), &stream, 1e-6);
    close("y", &values(&y), &norm(&stream), 1e-5);
    let other = tensor(&x, &[m, n]);
    layer_norm::join(&other, joining).unwrap();
    assert_eq!(values(&other), values(&xt), "the same stream");

    let (dyt, dx, operand) = (
        tensor(&dy, &[m, n]),
        tensor(&dx0, &[m, n]),
        garbage(&[m, n]),
    );
    let grads = garbage(&[3 * n]);
    let ranges = NormGrads {
        weight: 0..n,
        bias: n..2 * n,
        added: Some(2 * n..3 * n),
    };
    let of = StreamGradient {
        dx: &dx,
        operand: Some(&operand),
        factors: Some(&ft),
    };
    layer_norm::backward((&xt, &stats), &wt, &dyt, of, &grads, ranges, Replace).unwrap();
    // The stream's gradient is what it is without factors; the branch's is that times its factor.
    let loss = |x: &[f64], a: &[f64]| {
        let stream = join(x, a);
        dot(&norm(&stream), &dy) + dot(&stream, &dx0)
    };
    let through = gradient(&x, |x| loss(x, &wide(&a)));
    close("operand", &values(&operand), &through, 5e-5);
    let da = gradient(&a, |a| loss(&wide(&x), a));
    close("da", &values(&grads)[2 * n..], &da, 5e-5);
    let scaled: Vec<f32> = values(&dx)
        .iter()
        .enumerate()
        .map(|(i, d)| factors[i / n / rows] * d)
        .collect();
    assert_eq!(values(&operand), scaled);
    let again = garbage(&[m, n]);
    layer_norm::join_backward(&dx.reshape((samples, rows, n)).unwrap(), Some(&ft), &again).unwrap();
    assert_eq!(values(&again), scaled);
}

#[test]
fn attention_of_any_width_and_length() {
    // One token, no multiple of a block of queries, more than one block, odd heads and batches.
    for (batch, tokens, heads, width) in [
        (1, 1, 1, 8),
        (3, 5, 2, 8),
        (1, 17, 3, 24),
        (1, 50, 1, 40),
        (2, 49, 1, 16),
    ] {
        let dim = heads * width;
        let qkv: Vec<f32> = numbers(batch * tokens * 3 * dim, 1)
            .iter()
            .map(|x| 2.0 * x)
            .collect();
        let (bias, dout) = (numbers(3 * dim, 2), numbers(batch * tokens * dim, 3));
        let plain = |qkv: &[f64], bias: &[f64]| attention(qkv, bias, tokens, heads, width);
        let (qkvt, biast) = (
            tensor(&qkv, &[batch, tokens, 3 * dim]),
            tensor(&bias, &[3 * dim]),
        );
        let (out, stats) = (
            garbage(&[batch, tokens, dim]),
            garbage(&[batch, heads, tokens, 2]),
        );
        attention::forward(&qkvt, &biast, heads, &out, &stats).unwrap();
        close(
            "out",
            &values(&out),
            &plain(&wide(&qkv), &wide(&bias)),
            1e-5,
        );

        let (dqkv, grads) = (garbage(&[batch, tokens, 3 * dim]), garbage(&[3 * dim]));
        attention::backward(
            (&qkvt, &biast),
            heads,
            (&out, &stats),
            &tensor(&dout, &[batch, tokens, dim]),
            &dqkv,
            &grads,
            0..3 * dim,
            Replace,
        )
        .unwrap();
        // Each number costs two forward passes: some of them, spread over all parts.
        let dqkv = values(&dqkv);
        let exact = |i: usize| {
            gradient(&qkv[i..=i], |x| {
                let mut qkv = wide(&qkv);
                qkv[i] = x[0];
                dot(&plain(&qkv, &wide(&bias)), &dout)
            })[0]
        };
        let some: Vec<usize> = (0..qkv.len()).step_by(1 + qkv.len() / 97).collect();
        let actual: Vec<f32> = some.iter().map(|&i| dqkv[i]).collect();
        let expected: Vec<f64> = some.iter().map(|&i| exact(i)).collect();
        close("dqkv", &actual, &expected, 2e-5);
        let sums: Vec<f64> = (0..3 * dim)
            .map(|j| {
                dqkv.iter()
                    .skip(j)
                    .step_by(3 * dim)
                    .map(|&x| f64::from(x))
                    .sum()
            })
            .collect();
        close("bias", &values(&grads), &sums, 2e-5);
    }
}

#[test]
fn attention_with_something_added_to_the_scores() {
    // More than one block of queries, and keys that are padded.
    let (batch, tokens, heads, width) = (2, 51, 2, 8);
    let dim = heads * width;
    let (qkv, bias) = (numbers(batch * tokens * 3 * dim, 1), numbers(3 * dim, 2));
    let (added, dout) = (
        numbers(heads * tokens * tokens, 5),
        numbers(batch * tokens * dim, 3),
    );
    let plain = |qkv: &[f64]| {
        let (bias, added) = (wide(&bias), wide(&added));
        attention_with(qkv, &bias, &added, tokens, heads, width)
    };
    let (qkvt, biast) = (
        tensor(&qkv, &[batch, tokens, 3 * dim]),
        tensor(&bias, &[3 * dim]),
    );
    let addedt = tensor(&added, &[heads, tokens, tokens]);
    let with = attention::Heads {
        count: heads,
        added: Some(&addedt),
    };
    let (out, stats) = (
        garbage(&[batch, tokens, dim]),
        garbage(&[batch, heads, tokens, 2]),
    );
    attention::forward(&qkvt, &biast, with, &out, &stats).unwrap();
    close("out", &values(&out), &plain(&wide(&qkv)), 1e-5);

    let (dqkv, grads) = (garbage(&[batch, tokens, 3 * dim]), garbage(&[3 * dim]));
    let dout_tensor = tensor(&dout, &[batch, tokens, dim]);
    let (saved, range) = ((&out, &stats), 0..3 * dim);
    attention::backward(
        (&qkvt, &biast),
        with,
        saved,
        &dout_tensor,
        &dqkv,
        &grads,
        range,
        Replace,
    )
    .unwrap();
    let dqkv = values(&dqkv);
    let some: Vec<usize> = (0..qkv.len()).step_by(1 + qkv.len() / 61).collect();
    let exact = |&i: &usize| {
        gradient(&qkv[i..=i], |x| {
            let mut qkv = wide(&qkv);
            qkv[i] = x[0];
            dot(&plain(&qkv), &dout)
        })[0]
    };
    let actual: Vec<f32> = some.iter().map(|&i| dqkv[i]).collect();
    let expected: Vec<f64> = some.iter().map(exact).collect();
    close("dqkv", &actual, &expected, 2e-5);
}

#[test]
fn attention_of_a_long_sequence() {
    let (tokens, width) = (1025, 8);
    let qkv = numbers(tokens * 3 * width, 1);
    let bias = vec![0.0; 3 * width];
    let (out, stats) = (garbage(&[1, tokens, width]), garbage(&[1, 1, tokens, 2]));
    let (qkvt, biast) = (
        tensor(&qkv, &[1, tokens, 3 * width]),
        tensor(&bias, &[3 * width]),
    );
    attention::forward(&qkvt, &biast, 1, &out, &stats).unwrap();
    close(
        "out",
        &values(&out),
        &attention(&wide(&qkv), &wide(&bias), tokens, 1, width),
        1e-5,
    );
}
