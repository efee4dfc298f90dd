//! Trained tokenizers' files: a folder with `tokenizer.safetensors` and `tokenizer.json`. A stand-in of the interface until the trainer of
//! tokenizers is merged.

use std::path::Path;

use candle_core::Device;
use mae_model::{StateDict, StateTensor, Tokenizer};

use crate::error::{Error, Result};

/// Reads a trained tokenizer's folder.
///
/// # Errors
/// If a file is missing or not what it should be.
pub fn load(folder: &Path, device: &Device) -> Result<Tokenizer> {
    let read = |name: &str| {
        let path = folder.join(name);
        std::fs::read(&path).map_err(|source| Error::Read { path, source })
    };
    let bad = |message: String| {
        let path = folder.display();
        Error::Config(format!("{path} is no tokenizer: {message}"))
    };
    let config = serde_json::from_slice(&read("tokenizer.json")?);
    let config = config.map_err(|error| bad(error.to_string()))?;
    let content = read("tokenizer.safetensors")?;
    let file = safetensors::SafeTensors::deserialize(&content);
    let file = file.map_err(|error| bad(error.to_string()))?;
    let state: StateDict = file
        .iter()
        .map(|(name, view)| {
            let words = view.data().chunks_exact(4);
            let data = words.map(|w| f32::from_le_bytes([w[0], w[1], w[2], w[3]]));
            let (shape, data) = (view.shape().to_vec(), data.collect());
            (name.to_owned(), StateTensor { shape, data })
        })
        .collect();
    Ok(Tokenizer::from_state_dict(config, &state, device)?)
}

/// Writes a tokenizer's folder.
///
/// # Errors
/// If it cannot be written.
pub fn save(folder: &Path, tokenizer: &Tokenizer) -> Result<()> {
    let failed = |source| Error::Write {
        path: folder.into(),
        source,
    };
    std::fs::create_dir_all(folder).map_err(failed)?;
    let config = serde_json::to_vec(tokenizer.config()).map_err(|error| failed(error.into()))?;
    std::fs::write(folder.join("tokenizer.json"), config).map_err(failed)?;
    let state = tokenizer.state_dict()?;
    let bytes: Vec<(String, Vec<usize>, Vec<u8>)> = state
        .into_iter()
        .map(|(name, t)| {
            let bytes = t.data.iter().flat_map(|x| x.to_le_bytes()).collect();
            (name, t.shape, bytes)
        })
        .collect();
    let views = bytes.iter().map(|(name, shape, bytes)| {
        let view =
            safetensors::tensor::TensorView::new(safetensors::Dtype::F32, shape.clone(), bytes);
        view.map(|view| (name, view))
    });
    let views: std::result::Result<Vec<_>, _> = views.collect();
    let content = views.and_then(|views| safetensors::serialize(views, None));
    let content = content.map_err(|error| failed(std::io::Error::other(error.to_string())))?;
    std::fs::write(folder.join("tokenizer.safetensors"), content).map_err(failed)
}
