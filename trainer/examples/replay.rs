//! Updates on given weights, images and masks, to compare the losses with another implementation's.
//!
//!     cargo run --release -p mae-trainer --example replay -- FOLDER
//!
//! FOLDER holds `case.json` (`{"config": …, "keep": …, "lr": …, "weight_decay": …, "threads": …}`, config as a
//! [`mae_model::MaeConfig`]), `weights.safetensors` under the reference code's names, and `batches.safetensors` with
//! `pixels` u8 `[S, B, H, W, C]` and `ids_restore` u32 `[S, B, L]`. Prints the loss of each of the S updates as JSON.
//! `tests/peers/step.py` writes such folders.

use std::path::Path;

use candle_core::Device;
use mae_model::{Activations, Mae, MaeConfig, MaeInput, StateDict, StateTensor, ids_keep};
use mae_trainer::Stepper;
use mae_trainer::optim::{AdamW, AdamWSettings};
use safetensors::{Dtype, SafeTensors};
use serde::Deserialize;

#[derive(Deserialize)]
struct Case {
    config: MaeConfig,
    keep: usize,
    lr: f64,
    weight_decay: f64,
    threads: usize,
}

fn numbers<T, const N: usize>(bytes: &[u8], from: fn([u8; N]) -> T) -> Vec<T> {
    bytes
        .chunks_exact(N)
        .map(|bytes| from(std::array::from_fn(|i| bytes[i])))
        .collect()
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = std::env::args().nth(1).ok_or("usage: replay FOLDER")?;
    let folder = Path::new(&folder);
    let case: Case = serde_json::from_slice(&std::fs::read(folder.join("case.json"))?)?;
    mae_model::set_threads(case.threads)?;

    let content = std::fs::read(folder.join("weights.safetensors"))?;
    let weights: StateDict = SafeTensors::deserialize(&content)?
        .iter()
        .map(|(name, tensor)| {
            let state = StateTensor {
                shape: tensor.shape().to_vec(),
                data: numbers(tensor.data(), f32::from_le_bytes),
            };
            (name.to_owned(), state)
        })
        .collect();
    let content = std::fs::read(folder.join("batches.safetensors"))?;
    let batches = SafeTensors::deserialize(&content)?;
    let (pixels, ids) = (batches.tensor("pixels")?, batches.tensor("ids_restore")?);
    if (pixels.dtype(), ids.dtype()) != (Dtype::U8, Dtype::U32) {
        return Err("pixels must be U8 and ids_restore U32".into());
    }
    let (steps, batch) = (pixels.shape()[0], pixels.shape()[1]);
    let ids = numbers(ids.data(), u32::from_le_bytes);
    let patches = case.config.patches();

    let mut mae = Mae::new(case.config, &Device::Cpu, 0)?;
    mae.load_state_dict(&weights)?;
    let config = mae.config.clone();
    let settings = AdamWSettings {
        beta1: 0.9,
        beta2: 0.95,
        eps: 1e-8,
        weight_decay: case.weight_decay,
    };
    let adamw = AdamW::new(&mae.params, settings)?;
    let shape = (batch, case.keep);
    let mut stepper = Stepper::new(mae, adamw, shape, Activations::Keep, None)?;
    let mut losses = Vec::with_capacity(steps);
    for (step, (pixels, restore)) in pixels
        .data()
        .chunks_exact(pixels.data().len() / steps)
        .zip(ids.chunks_exact(batch * patches))
        .enumerate()
    {
        let kept = ids_keep(restore, patches, case.keep);
        let input = MaeInput::from_host(&config, pixels, &kept, restore, &Device::Cpu)?;
        stepper.forward(&input, 1.0)?;
        stepper.backward(&input, 1.0)?;
        stepper.apply(case.lr, step as u64 + 1)?;
        losses.extend(stepper.outcome(true)?.map(|outcome| outcome.loss));
    }
    println!("{}", serde_json::to_string(&losses)?);
    Ok(())
}
