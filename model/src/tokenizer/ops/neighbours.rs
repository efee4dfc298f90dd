//! The neighbourhoods that a 3 × 3 convolution sees.

use candle_core::{DType, Tensor};
use rayon::prelude::*;

use super::beside;
use crate::Result;
use crate::ops::access::{read, write};

/// `[B, H, W, C]` as `[B · H · W, 9 · C]`: each place's 3 × 3 neighbourhood, row by row, zero beyond the edge.
pub(in super::super) fn neighbourhoods(x: &Tensor) -> Result<Tensor> {
    if !x.device().is_cpu() {
        return defined(x);
    }
    let (batch, height, width, channels) = x.dims4()?;
    let image = height * width * channels;
    let all = beside(x, (batch * height * width, 9 * channels))?;
    let x = read(x)?;
    let x = x.f32()?;
    write(&all, |all| {
        all.par_chunks_mut(9 * image)
            .zip(x.par_chunks(image))
            .for_each(|(all, x)| {
                each_neighbour(height, width, |place, near, other| {
                    all[(9 * place + near) * channels..][..channels]
                        .copy_from_slice(&x[other * channels..][..channels]);
                });
            });
        Ok(())
    })?;
    Ok(all)
}

/// The gradient `[B · H · W, C]` of images of (height, width), given that of their neighbourhoods.
pub(in super::super) fn neighbourhoods_back(
    grad: &Tensor,
    (height, width): (usize, usize),
) -> Result<Tensor> {
    let (rows, near) = grad.dims2()?;
    let channels = near / 9;
    if !grad.device().is_cpu() {
        return defined_back(grad, (height, width));
    }
    let image = height * width * channels;
    let sums = beside(grad, (rows, channels))?;
    let grad = read(grad)?;
    let grad = grad.f32()?;
    write(&sums, |sums| {
        sums.par_chunks_mut(image)
            .zip(grad.par_chunks(9 * image))
            .for_each(|(sums, grad)| {
                each_neighbour(height, width, |place, near, other| {
                    let grad = &grad[(9 * place + near) * channels..][..channels];
                    let sums = &mut sums[other * channels..][..channels];
                    sums.iter_mut().zip(grad).for_each(|(sum, x)| *sum += x);
                });
            });
        Ok(())
    })?;
    Ok(sums)
}

/// Calls `each` with a place, the number of a neighbour (0 to 8), and the neighbour's place, for all that lie inside.
fn each_neighbour(height: usize, width: usize, mut each: impl FnMut(usize, usize, usize)) {
    for place in 0..height * width {
        let (row, column) = (place / width, place % width);
        for near in 0..9 {
            // Both one too many, so that they are not negative.
            let (other_row, other_column) = (row + near / 3, column + near % 3);
            if (1..=height).contains(&other_row) && (1..=width).contains(&other_column) {
                each(place, near, (other_row - 1) * width + other_column - 1);
            }
        }
    }
}

pub(super) fn defined(x: &Tensor) -> Result<Tensor> {
    let (batch, height, width, channels) = x.dims4()?;
    let padded = x.pad_with_zeros(1, 1, 1)?.pad_with_zeros(2, 1, 1)?;
    Ok(padded
        .reshape((batch, (height + 2) * (width + 2), channels))?
        .index_select(&places(x, (height, width))?, 1)?
        .reshape((batch * height * width, 9 * channels))?)
}

pub(super) fn defined_back(grad: &Tensor, (height, width): (usize, usize)) -> Result<Tensor> {
    let (rows, near) = grad.dims2()?;
    let (batch, channels) = (rows / (height * width), near / 9);
    let padded = (batch, (height + 2) * (width + 2), channels);
    let grad = grad.reshape((batch, height * width * 9, channels))?;
    Ok(Tensor::zeros(padded, DType::F32, grad.device())?
        .index_add(&places(&grad, (height, width))?, &grad, 1)?
        .reshape((batch, height + 2, width + 2, channels))?
        .narrow(1, 1, height)?
        .narrow(2, 1, width)?
        .reshape((rows, channels))?)
}

/// Where in an image with a border of one each place's nine neighbours are.
fn places(beside: &Tensor, (height, width): (usize, usize)) -> Result<Tensor> {
    let at = |row: usize, column: usize| (row * (width + 2) + column) as u32;
    let places: Vec<u32> = (0..height * width * 9)
        .map(|i| {
            let (place, near) = (i / 9, i % 9);
            at(place / width + near / 3, place % width + near % 3)
        })
        .collect();
    Ok(Tensor::new(places, beside.device())?)
}
