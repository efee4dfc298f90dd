//! Results do not depend on the number of threads, bit for bit.

use candle_core::{Device, Tensor};
use mae_model::Precision::F32;
use mae_model::ops::linear;
use mae_model::{Accumulate, Activations, Mae, MaeConfig, MaeInput};

fn step(threads: usize) -> (f32, Vec<f32>) {
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(threads)
        .build()
        .unwrap();
    pool.install(|| {
        let config = MaeConfig::named("mae-micro-patch4", (32, 24), 3).unwrap();
        let mae = Mae::new(config, &Device::Cpu, 7).unwrap();
        let (batch, patches, keep) = (37, mae.config.patches(), mae.config.keep(0.75));
        let pixels: Vec<u8> = (0..batch * 32 * 24 * 3)
            .map(|i: usize| (i.wrapping_mul(2654435761) >> 7) as u8)
            .collect();
        let restore: Vec<u32> = (0..batch).flat_map(|_| (0..patches as u32).rev()).collect();
        let kept: Vec<u32> = (0..batch)
            .flat_map(|_| (0..keep).map(|i| (patches - 1 - i) as u32))
            .collect();
        let input =
            MaeInput::from_host(&mae.config, &pixels, &kept, &restore, &Device::Cpu).unwrap();
        let mut w = mae.workspace(batch, keep, Activations::Keep).unwrap();
        let grads = mae.params.zeros_like_flat().unwrap();
        mae.forward(&input, &mut w).unwrap();
        mae.backward(&input, &mut w, &grads, 1.0, Accumulate::Replace)
            .unwrap();
        (w.loss().unwrap(), grads.to_vec1().unwrap())
    })
}

#[test]
fn one_two_and_five_threads_agree() {
    let one = step(1);
    assert!(one.0 > 0.0 && one.1.iter().any(|&x| x != 0.0));
    assert!(one == step(2));
    assert!(one == step(5));
}

/// Products of shapes that are cut into tiles, more or fewer by the number of threads.
#[test]
fn tiles_of_a_product_do_not_show() {
    let numbers = |count: usize, step: f32| -> Vec<f32> {
        (0..count).map(|i| (i as f32 * step).sin()).collect()
    };
    let (m, k, n) = (67, 1300, 801);
    let x = Tensor::from_vec(numbers(m * k, 0.7), (m, k), &Device::Cpu).unwrap();
    let w = Tensor::from_vec(numbers(n * k, 0.3), (n, k), &Device::Cpu).unwrap();
    let product = |threads: usize| -> Vec<f32> {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .unwrap();
        let y = Tensor::zeros((m, n), x.dtype(), &Device::Cpu).unwrap();
        pool.install(|| linear::forward(&x, &w, &y, F32)).unwrap();
        y.flatten_all().unwrap().to_vec1().unwrap()
    };
    let one = product(1);
    assert!(one.iter().any(|&x| x != 0.0));
    for threads in [2, 3, 4, 16] {
        assert!(product(threads) == one, "{threads} threads");
    }

    // A weight's gradient from many rows.
    let (rows, n, k) = (1900, 210, 470);
    let x = Tensor::from_vec(numbers(rows * k, 0.7), (rows, k), &Device::Cpu).unwrap();
    let dy = Tensor::from_vec(numbers(rows * n, 0.3), (rows, n), &Device::Cpu).unwrap();
    let gradient = |threads: usize| -> Vec<f32> {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .unwrap();
        let grads = Tensor::zeros(n * k, x.dtype(), &Device::Cpu).unwrap();
        let made = pool.install(|| {
            linear::backward_weight(&x, &dy, &grads, 0..n * k, Accumulate::Replace, F32)
        });
        made.unwrap();
        grads.to_vec1().unwrap()
    };
    let one = gradient(1);
    for threads in [2, 3, 4, 16] {
        assert!(gradient(threads) == one, "{threads} threads");
    }
}
