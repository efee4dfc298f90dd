//! Batches copied beside the training: each must be whole when it is used, and its host memory free for others when it is let go.

use candle_core::Tensor;
use candle_core::cuda_backend::cudarc::driver::PinnedHostSlice;

use super::{Place, Session, permutations};
use crate::config::MaeConfig;
use crate::cuda::page_locked;
use crate::feed::{Feeder, HostInput};
use crate::stage::block::Activations;
use crate::{Mae, Precision, Result};

const BATCHES: usize = 40;

/// A batch in page-locked memory, which the driver gets back when it is dropped and may give to the next.
struct Locked {
    pixels: PinnedHostSlice<u8>,
    ids_keep: Vec<u32>,
    ids_restore: Vec<u32>,
}

fn view(batch: &Locked) -> HostInput<'_> {
    HostInput {
        // A driver that fails shows as a batch of no length.
        pixels: batch.pixels.as_slice().unwrap_or_default(),
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
    let mut mae = Mae::new(config.clone(), device, 0)?;
    mae.set_precision(Precision::Bf16)?;
    let (patches, keep) = (config.patches(), config.keep(0.75));
    let mut workspace = mae.workspace(batch, keep, Activations::Keep)?;
    let mut feeder = Feeder::new(device, view)?;
    let restore = permutations(batch, patches)?
        .flatten_all()?
        .to_vec1::<u32>()?;
    let mut kept = vec![0; batch * keep];
    for (kept, restore) in kept
        .chunks_exact_mut(keep)
        .zip(restore.chunks_exact(patches))
    {
        for (patch, &place) in restore.iter().enumerate() {
            if let Some(kept) = kept.get_mut(place as usize) {
                *kept = patch as u32;
            }
        }
    }
    let byte = |number: usize, i: usize| (i.wrapping_mul(31) + number * 17) as u8;
    let mut used: Vec<Tensor> = vec![];
    for number in 0..BATCHES {
        let mut pixels = page_locked::<u8>(device, batch * 32 * 32 * 3)?;
        for (i, pixel) in pixels
            .as_mut_slice()
            .unwrap_or_default()
            .iter_mut()
            .enumerate()
        {
            *pixel = byte(number, i);
        }
        let host = Locked {
            pixels,
            ids_keep: kept.clone(),
            ids_restore: restore.clone(),
        };
        let input = feeder.feed(&config, host)?;
        // Work that keeps the device behind the host.
        for _ in 0..3 {
            mae.forward(&input, &mut workspace)?;
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
