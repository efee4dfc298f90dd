//! Batches copied beside the training: each must be whole when it is used, and its host memory free for others when it is let go.

use std::sync::{Arc, Mutex, PoisonError};

use candle_core::cuda_backend::cudarc::driver::PinnedHostSlice;
use candle_core::{DType, Tensor};

use super::{Place, Session, permutations};
use crate::config::MaeConfig;
use crate::cuda::page_locked;
use crate::feed::{Feeder, HostInput};
use crate::masks::ids_keep;
use crate::ops::linear;
use crate::{Precision, Result};

const BATCHES: usize = 40;
/// Pieces of page-locked memory that batches are in, in turn: more than a feeder holds.
const PIECES: usize = 8;
/// Products that keep the device busy behind each batch, some tens of milliseconds in all, and the side of their matrices.
const PRODUCTS: usize = 10;
const SIDE: usize = 8192;

type Pool = Arc<Mutex<Vec<PinnedHostSlice<u8>>>>;

/// A batch in page-locked memory, which the next one gets when it is dropped.
struct Locked {
    pixels: Option<PinnedHostSlice<u8>>,
    ids_keep: Vec<u32>,
    ids_restore: Vec<u32>,
    pool: Pool,
}

impl Drop for Locked {
    fn drop(&mut self) {
        let mut pool = self.pool.lock().unwrap_or_else(PoisonError::into_inner);
        pool.extend(self.pixels.take());
    }
}

fn view(batch: &Locked) -> HostInput<'_> {
    HostInput {
        // A driver that fails shows as a batch of no length.
        pixels: batch
            .pixels
            .as_ref()
            .and_then(|pixels| pixels.as_slice().ok())
            .unwrap_or_default(),
        ids_keep: &batch.ids_keep,
        ids_restore: &batch.ids_restore,
    }
}

pub(super) fn run(s: &mut Session<'_>) -> Result<()> {
    let Place::Device(device) = s.place else {
        return Ok(());
    };
    let batch = 64;
    let config = MaeConfig::named("mae-tiny-patch4", (32, 32), 3)?;
    let (patches, keep) = (config.patches(), config.keep(0.75));
    let matrix = || Tensor::zeros((SIDE, SIDE), DType::BF16, device);
    let (a, b, product) = (matrix()?, matrix()?, matrix()?);
    let pool = Pool::default();
    for _ in 0..PIECES {
        let piece = page_locked::<u8>(device, batch * 32 * 32 * 3)?;
        pool.lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(piece);
    }
    let mut feeder = Feeder::new(device, view)?;
    let restore = permutations(batch, patches)?
        .flatten_all()?
        .to_vec1::<u32>()?;
    let kept = ids_keep(&restore, patches, keep);
    let byte = |number: usize, i: usize| (i.wrapping_mul(31) + number * 17) as u8;
    let mut used: Vec<Tensor> = vec![];
    for number in 0..BATCHES {
        let piece = pool.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut host = Locked {
            pixels: piece,
            ids_keep: kept.clone(),
            ids_restore: restore.clone(),
            pool: pool.clone(),
        };
        if let Some(Ok(pixels)) = host.pixels.as_mut().map(PinnedHostSlice::as_mut_slice) {
            for (i, pixel) in pixels.iter_mut().enumerate() {
                *pixel = byte(number, i);
            }
        }
        let input = feeder.feed(&config, host)?;
        // Work that keeps the device behind the host, before the batch is looked at.
        for _ in 0..PRODUCTS {
            linear::backward_input(&a, &b, &product, Precision::Bf16)?;
        }
        used.push(input.pixels().copy()?);
        feeder.done()?;
    }
    let mut whole = 0;
    for (number, pixels) in used.iter().enumerate() {
        let pixels = pixels.flatten_all()?.to_vec1::<u8>()?;
        whole += usize::from((0..pixels.len()).all(|i| pixels[i] == byte(number, i)));
    }
    s.truth(
        format!("{BATCHES} batches fed from page-locked memory under load, {whole} whole"),
        whole == BATCHES,
    )
}
