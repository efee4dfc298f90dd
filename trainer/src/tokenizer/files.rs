//! A trained tokenizer's folder: `tokenizer.json` with the dimensions, `tokenizer.safetensors` with the weights.

use std::io;
use std::path::Path;

use candle_core::Device;
use mae_model::{Tokenizer, TokenizerConfig};

use crate::checkpoint::{files, tensors};
use crate::error::{Error, Result};

const CONFIG: &str = "tokenizer.json";
const WEIGHTS: &str = "tokenizer.safetensors";

/// Writes `tokenizer` into `folder`, which is made if it is not there, each file at once.
///
/// # Errors
/// [`Error::Write`] with the file that could not be written.
pub fn save(folder: &Path, tokenizer: &Tokenizer) -> Result<()> {
    std::fs::create_dir_all(folder).map_err(|source| Error::Write {
        path: folder.into(),
        source,
    })?;
    let config = serde_json::to_vec_pretty(tokenizer.config()).map_err(io::Error::from);
    let weights = tensors::bytes(&tokenizer.state_dict()?);
    for (name, content) in [(CONFIG, config), (WEIGHTS, weights)] {
        let path = folder.join(name);
        content
            .and_then(|content| files::commit_file(&path, &content))
            .map_err(|source| Error::Write { path, source })?;
    }
    Ok(())
}

/// The tokenizer in the folder `path`, on `device`.
///
/// # Errors
/// [`Error::Tokenizer`] if the folder holds none.
pub fn load(path: &Path, device: &Device) -> Result<Tokenizer> {
    let wrong = |reason: String| Error::Tokenizer {
        path: path.into(),
        reason,
    };
    let read = |name: &str| {
        std::fs::read(path.join(name)).map_err(|error| wrong(format!("{name}: {error}")))
    };
    let config: TokenizerConfig = serde_json::from_slice(&read(CONFIG)?)
        .map_err(|error| wrong(format!("{CONFIG}: {error}")))?;
    let state =
        tensors::parse(&read(WEIGHTS)?).map_err(|reason| wrong(format!("{WEIGHTS}: {reason}")))?;
    Tokenizer::from_state_dict(config, &state, device).map_err(|error| wrong(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tokenizer_comes_back_and_anything_else_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let reason = || match load(folder.path(), &Device::Cpu) {
            Err(error) => error.to_string(),
            Ok(_) => String::new(),
        };
        assert!(reason().contains("tokenizer.json"), "{}", reason());
        let config = TokenizerConfig {
            image_size: (8, 8),
            channels: 3,
            patch_size: 4,
            vocabulary: 5,
            hidden: 4,
            blocks: 1,
        };
        let tokenizer = Tokenizer::new(config.clone(), &Device::Cpu, 1).unwrap();
        save(folder.path(), &tokenizer).unwrap();
        let loaded = load(folder.path(), &Device::Cpu).unwrap();
        assert_eq!(loaded.config(), &config);
        assert_eq!(
            loaded.state_dict().unwrap(),
            tokenizer.state_dict().unwrap()
        );
        std::fs::write(folder.path().join(WEIGHTS), "no tensors").unwrap();
        assert!(reason().contains("tokenizer.safetensors"), "{}", reason());
    }
}
