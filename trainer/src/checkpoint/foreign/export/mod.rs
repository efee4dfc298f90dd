//! Weights as other programs take them: the reference code's `.pth`, a folder of timm's, a folder of transformers'.

mod hugging_face;
mod reference;
mod timm;

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde_json::Value as Json;

use super::Weights;
use super::error::{ForeignError, Result, unsupported};
use crate::checkpoint::files::commit_folder;

/// Whom weights are for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Client {
    /// The reference code, or any program that reads its `checkpoint["model"]`: `model.pth`, everything in it.
    Reference,
    /// `timm.create_model("local-dir:DIR", pretrained=True)`: the encoder, and its head over classes if it has one.
    Timm,
    /// transformers' `from_pretrained(DIR)`: `ViTMAEForPreTraining` with a decoder, `ViTForImageClassification` with a head over
    /// classes, else `ViTModel`.
    HuggingFace,
}

const NAMES: [(&str, Client); 3] = [
    ("reference", Client::Reference),
    ("timm", Client::Timm),
    ("huggingface", Client::HuggingFace),
];

impl FromStr for Client {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let client = NAMES.iter().find(|(name, _)| *name == text);
        client
            .map(|(_, client)| *client)
            .ok_or_else(|| format!("`{text}` is neither reference, timm nor huggingface"))
    }
}

impl fmt::Display for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = NAMES.iter().find(|(_, client)| client == self);
        f.write_str(name.map_or("", |(name, _)| name))
    }
}

/// Writes the weights into the folder `target`, whole or not at all, and returns how the client loads them.
///
/// # Errors
/// Where the client has no such model, something of the model is not known, or the folder holds files or cannot be written.
pub(in crate::checkpoint) fn export(
    weights: Weights,
    mask_ratio: f64,
    client: Client,
    target: &Path,
) -> Result<String> {
    let in_the_way = |entries: std::fs::ReadDir| entries.count() > 0;
    if target.is_file() || target.read_dir().is_ok_and(in_the_way) {
        return Err(unsupported(format!(
            "{} already holds files; choose another folder",
            target.display()
        )));
    }
    if let Some(parent) = target.parent() {
        std::fs::create_dir_all(parent)?;
    }
    // An absolute path has a name even where the given one is `.` or ends in `..`.
    let target: PathBuf = std::path::absolute(target)?;
    let write = match client {
        Client::Reference => reference::prepare(weights, mask_ratio)?,
        Client::Timm => timm::prepare(weights)?,
        Client::HuggingFace => hugging_face::prepare(weights, mask_ratio)?,
    };
    commit_folder(&target, |folder| (write.files)(folder)).map_err(ForeignError::Read)?;
    Ok((write.usage)(&target))
}

/// What is to be written, and how it is then used.
struct Prepared {
    #[expect(clippy::type_complexity, reason = "one place")]
    files: Box<dyn FnOnce(&Path) -> std::io::Result<()>>,
    usage: Box<dyn Fn(&Path) -> String>,
}

/// The shortest decimal that gives the same number, rather than its widened digits.
fn exact(x: f32) -> Json {
    x.to_string().parse::<f64>().map_or(Json::Null, Json::from)
}

fn exact_all(numbers: &[f32]) -> Json {
    numbers.iter().map(|&x| exact(x)).collect()
}
