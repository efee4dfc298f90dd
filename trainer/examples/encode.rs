//! What a checkpoint's model makes of given images, to compare with another implementation's.
//!
//!     cargo run --release -p mae-trainer --example encode -- FOLDER
//!
//! FOLDER holds `case.json` (`{"checkpoint": PATH, "options": {…}, "logits": false, "keep": null}`, options as a
//! [`ImportOptions`]) and `inputs.safetensors` with `pixels` u8 `[B, H, W, C]` and, where `keep` is a number of visible patches,
//! `ids_restore` u32 `[B, L]`. Writes `outputs.safetensors`: `tokens` `[B, 1 + L, D]`, `token` and `mean` `[B, D]`, behind the last
//! norm; with `logits` `[B, classes]`; with `keep` `loss` `[1]` and `prediction` `[B, L, P·P·C]`. `tests/peers/clients.py` writes
//! such folders.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use candle_core::Device;
use mae_model::{Activations, MaeInput, Pooling, VitInput, ids_keep};
use mae_trainer::checkpoint::foreign::ImportOptions;
use mae_trainer::checkpoint::{load_classifier, load_encoder, load_mae};
use safetensors::tensor::{Dtype, SafeTensors, TensorView, serialize_to_file};
use serde::Deserialize;

#[derive(Deserialize)]
struct Case {
    checkpoint: PathBuf,
    options: ImportOptions,
    logits: bool,
    keep: Option<usize>,
}

type Outputs = BTreeMap<&'static str, (Vec<usize>, Vec<u8>)>;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = std::env::args().nth(1).ok_or("usage: encode FOLDER")?;
    let folder = Path::new(&folder);
    let case: Case = serde_json::from_slice(&std::fs::read(folder.join("case.json"))?)?;
    let content = std::fs::read(folder.join("inputs.safetensors"))?;
    let inputs = SafeTensors::deserialize(&content)?;
    let pixels = inputs.tensor("pixels")?;
    let batch = pixels.shape()[0];

    let mut outputs = Outputs::new();
    let mut put = |name, shape: &[usize], numbers: &[f32]| {
        let bytes = numbers.iter().flat_map(|x| x.to_le_bytes()).collect();
        outputs.insert(name, (shape.to_vec(), bytes));
    };

    let (encoder, _) = load_encoder(&case.checkpoint, &case.options, &Device::Cpu)?;
    let mut workspace = encoder.workspace(batch)?;
    let tokens = encoder.encode(pixels.data(), &mut workspace)?;
    let shape = tokens.dims().to_vec();
    put("tokens", &shape, &tokens.flatten_all()?.to_vec1()?);
    for (name, pooling) in [("token", Pooling::Token), ("mean", Pooling::Avg)] {
        let features = encoder.features(pixels.data(), pooling, &mut workspace)?;
        put(name, &[batch, encoder.config.dim], &features);
    }
    if case.logits {
        let (vit, _) = load_classifier(&case.checkpoint, &case.options, &Device::Cpu)?;
        let input = VitInput::images(&vit, pixels.data())?;
        let mut workspace = vit.workspace(batch, Activations::Recompute, false)?;
        put(
            "logits",
            &[batch, vit.classes()],
            &vit.logits(&input, &mut workspace)?,
        );
    }
    if let Some(keep) = case.keep {
        let (mae, _) = load_mae(&case.checkpoint, &case.options, &Device::Cpu)?;
        let ids = inputs.tensor("ids_restore")?;
        let restore: Vec<u32> = ids
            .data()
            .chunks_exact(4)
            .map(|bytes| u32::from_le_bytes(std::array::from_fn(|i| bytes[i])))
            .collect();
        let patches = mae.config.patches();
        let kept = ids_keep(&restore, patches, keep);
        let input = MaeInput::from_host(&mae.config, pixels.data(), &kept, &restore, &Device::Cpu)?;
        let mut workspace = mae.workspace(batch, keep, Activations::Recompute)?;
        mae.forward(&input, &mut workspace)?;
        put("loss", &[1], &[workspace.loss()?]);
        let prediction = mae.predict(&input, &mut workspace)?;
        put(
            "prediction",
            &[batch, patches, mae.config.vit.patch_len()],
            &prediction,
        );
    }

    let views = outputs
        .iter()
        .map(|(name, (shape, bytes))| {
            Ok((*name, TensorView::new(Dtype::F32, shape.clone(), bytes)?))
        })
        .collect::<Result<Vec<_>, safetensors::SafeTensorError>>()?;
    serialize_to_file(views, None, &folder.join("outputs.safetensors"))?;
    Ok(())
}
