//! What another program's checkpoint holds, for people and programs.

use std::fmt;
use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use mae_model::FinalNorm;
use serde::Serialize;

use super::dimensions::{DecoderDimensions, Dimensions};
use super::error::Result;
use super::{Archive, FILES, ImportOptions, open};

/// What `mae inspect` says of another program's checkpoint.
#[derive(Debug, Clone, Serialize)]
pub struct ForeignInspection {
    /// The file of weights.
    pub path: PathBuf,
    /// Whose it is.
    pub format: String,
    /// Where in a torch file the weights stand.
    #[serde(rename = "checkpoint_key")]
    pub key: Option<String>,
    /// Where in it others stand.
    pub other_keys: Vec<String>,
    /// The encoder's dimensions.
    pub encoder: Dimensions,
    /// Where its last norm stands.
    pub final_norm: FinalNorm,
    /// The decoder's dimensions.
    pub decoder: Option<DecoderDimensions>,
    /// Classes of the head.
    pub classes: Option<usize>,
    /// Numbers, position embeddings not counted.
    pub parameters: usize,
    /// Names in the file that are not taken.
    pub left_out: Vec<String>,
}

/// Whether `path` is, or holds, a file of torch's or safetensors', by its first bytes.
pub fn is_recognised(path: &Path) -> bool {
    let starts = |file: &Path| {
        let mut begin = vec![];
        let read = File::open(file).and_then(|file| file.take(64).read_to_end(&mut begin));
        read.is_ok() && Archive::recognises(&begin)
    };
    if path.is_file() {
        return starts(path);
    }
    FILES.iter().any(|name| starts(&path.join(name)))
}

pub(in crate::checkpoint) fn inspect(
    path: &Path,
    options: &ImportOptions,
) -> Result<ForeignInspection> {
    let (weights, origin) = open(path, options)?;
    Ok(ForeignInspection {
        path: origin.path,
        format: origin.format.to_string(),
        key: origin.key,
        other_keys: origin.other_keys,
        parameters: weights.parameters(),
        final_norm: weights.final_norm,
        decoder: weights.decoder,
        classes: weights.classes,
        encoder: weights.encoder,
        left_out: origin.left_out,
    })
}

impl fmt::Display for ForeignInspection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "checkpoint   {}", self.path.display())?;
        writeln!(f, "format       {}", self.format)?;
        if let Some(key) = &self.key {
            let others = self.other_keys.join(", ");
            let also = if others.is_empty() {
                String::new()
            } else {
                format!(" (also there: {others})")
            };
            writeln!(f, "key          {key}{also}")?;
        }
        let e = &self.encoder;
        let (height, width) = e.image_size;
        writeln!(
            f,
            "encoder      {} of width {}, {}, MLPs of {}",
            count(e.depth, "block"),
            e.dim,
            heads(e.heads, "--heads"),
            e.hidden
        )?;
        let tables = if e.relative_positions {
            ", relative position biases"
        } else {
            ""
        };
        writeln!(
            f,
            "images       {height}x{width} in {} channels, patches of {}{tables}",
            e.channels, e.patch_size
        )?;
        let guess = if e.guessed_statistics {
            " (a guess by the format)"
        } else {
            ""
        };
        writeln!(
            f,
            "normalised   mean {:?}, standard deviation {:?}{guess}",
            e.mean, e.std
        )?;
        let norm = match self.final_norm {
            FinalNorm::Tokens => "of each token, before pooling",
            FinalNorm::Pooled => "of the pooled vector",
        };
        writeln!(f, "last norm    {norm}, epsilon {:e}", e.norm_eps)?;
        if let Some(d) = &self.decoder {
            let target = match d.norm_pix_loss {
                Some(true) => "target normalised patch by patch",
                Some(false) => "target not normalised",
                None => "target not known (give --norm-pix-loss)",
            };
            let heads = heads(d.heads, "--decoder-heads");
            let tokens = if d.encoder_mask_tokens {
                ", mask tokens in the encoder"
            } else {
                ""
            };
            writeln!(
                f,
                "decoder      {} of width {}, {heads}, {target}{tokens}",
                count(d.depth, "block"),
                d.dim
            )?;
        }
        if let Some(classes) = self.classes {
            writeln!(f, "head         {classes} classes")?;
        }
        writeln!(f, "parameters   {}", self.parameters)?;
        if !self.left_out.is_empty() {
            const SHOWN: usize = 6;
            let shown = self.left_out[..self.left_out.len().min(SHOWN)].join(", ");
            let more = match self.left_out.len().saturating_sub(SHOWN) {
                0 => String::new(),
                more => format!(" and {more} more"),
            };
            writeln!(f, "left out     {shown}{more}")?;
        }
        Ok(())
    }
}

fn heads(known: Option<usize>, flag: &str) -> String {
    match known {
        Some(heads) => count(heads, "head"),
        None => format!("heads not known (give {flag})"),
    }
}

fn count(number: usize, what: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {what}{plural}")
}
