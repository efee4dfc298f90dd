//! The GPU's kernels, compiled for the host, against the CPU's operations: forward and gradients, in f32 and with bfloat16 where a GPU
//! has it, over sizes that are no multiple of a warp.

mod layer_norm;

use candle_core::{DType, Device, Tensor};

/// Numbers in [-1, 1] that no formula of the operations knows.
fn numbers(shape: &[usize], seed: u32) -> Tensor {
    let count = shape.iter().product();
    let numbers: Vec<f32> = (0..count)
        .map(|i| {
            let mixed = (i as u32 + 1).wrapping_mul(2_654_435_761) ^ seed.wrapping_mul(40_503);
            (mixed.wrapping_mul(2_246_822_519) >> 8) as f32 / f32::from_bits(0x4b00_0000) - 1.0
        })
        .collect();
    Tensor::from_vec(numbers, shape, &Device::Cpu).unwrap()
}

fn copy(x: &Tensor) -> Tensor {
    x.copy().unwrap()
}

fn flat(x: &Tensor) -> Vec<f32> {
    let x = x.to_dtype(DType::F32).unwrap();
    x.flatten_all().unwrap().to_vec1().unwrap()
}

/// Checks that numbers agree to `tolerance` of the largest of them.
fn close(what: &str, got: &Tensor, wanted: &Tensor, tolerance: f32) {
    let (got, wanted) = (flat(got), flat(wanted));
    assert_eq!(got.len(), wanted.len(), "{what}");
    let largest = wanted.iter().fold(0f32, |top, x| top.max(x.abs()));
    for (i, (got, wanted)) in got.iter().zip(&wanted).enumerate() {
        assert!(
            (got - wanted).abs() <= tolerance * largest.max(1e-3),
            "{what}, number {i}: {got}, wanted {wanted}"
        );
    }
}

/// What a tensor of this type may lose by rounding once.
fn rounding(dtype: DType) -> f32 {
    match dtype {
        DType::BF16 => 1.0 / 256.0,
        _ => 2e-6,
    }
}
