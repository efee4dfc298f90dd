//! Checkpoints of other programs: the reference code's, timm's, Hugging Face's, and encoders of MoCo v3, DINO, BEiT and
//! supervised training, as far as their blocks are this model's.
//!
//! A file becomes [`Weights`] in steps: its container is opened without executing anything in it (`archive`, `torch`,
//! `pickle`, `object`); its names are told apart and given ours (`names`); what it keeps apart is joined (`fold`); its model's
//! dimensions follow from the shapes and from what is said beside them (`dimensions`, `facts`); and position embeddings
//! are brought to another image size where that is asked for (`positions`). docs/checkpoints.md is for users.

mod archive;
mod dimensions;
mod dtype;
mod error;
mod export;
mod facts;
mod fold;
mod inspect;
mod names;
mod object;
mod pickle;
mod positions;
mod torch;
mod weights;

use std::fmt;
use std::path::{Path, PathBuf};

use mae_model::stage::mask_tokens::ENCODER_MASK_TOKEN;
use serde::Deserialize;

pub use dimensions::{DecoderDimensions, Dimensions};
pub use error::ForeignError;
pub use export::Client;
pub(super) use export::export;
pub(super) use inspect::inspect;
pub use inspect::{ForeignInspection, is_recognised};
pub use weights::Weights;

use self::archive::Archive;
use self::error::{Result, unsupported};
use self::facts::Facts;
use self::names::{Meaning, Naming};

/// Under which name `mae export` describes the model in a torch file.
const DESCRIPTION: &str = "mae";

/// Files of weights in a folder, in the order in which they are looked for.
const FILES: &[&str] = &["model.safetensors", "pytorch_model.bin"];

/// What a user says of a checkpoint that does not say it itself, or says something else.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ImportOptions {
    /// Attention heads of the encoder.
    pub heads: Option<usize>,
    /// Attention heads of the decoder.
    pub decoder_heads: Option<usize>,
    /// Height and width of the images that the model is to take; position embeddings are interpolated where the model was
    /// trained at another size.
    pub image_size: Option<(usize, usize)>,
    /// Whether the decoder predicts patches normalised one by one.
    pub norm_pix_loss: Option<bool>,
    /// Mean of each channel that images are normalised with, on a scale of 0 to 1.
    pub mean: Option<Vec<f32>>,
    /// Standard deviation of each channel.
    pub std: Option<Vec<f32>>,
    /// Where in a torch file the weights stand, `student` for example.
    pub key: Option<String>,
}

impl ImportOptions {
    /// The flag of something said that a run of ours says itself.
    pub(super) fn stated(&self) -> Option<&'static str> {
        [
            ("--heads", self.heads.is_some()),
            ("--decoder-heads", self.decoder_heads.is_some()),
            ("--norm-pix-loss", self.norm_pix_loss.is_some()),
            ("--mean", self.mean.is_some()),
            ("--std", self.std.is_some()),
            ("--checkpoint-key", self.key.is_some()),
        ]
        .into_iter()
        .find_map(|(flag, given)| given.then_some(flag))
    }
}

/// Whose weights they are, as far as names tell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Format {
    /// The reference code's names, which timm and DINO's released encoders have, too.
    Reference,
    /// A folder of timm's.
    Timm,
    /// transformers', with its `model_type` where that is known.
    HuggingFace(Option<String>),
    /// MoCo v3's two encoders.
    MocoV3,
    /// A training checkpoint of DINO's: student and teacher.
    Dino,
    /// BEiT.
    Beit,
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Reference => f.write_str("names of the reference code and timm"),
            Self::Timm => f.write_str("timm"),
            Self::HuggingFace(Some(kind)) => write!(f, "Hugging Face transformers, {kind}"),
            Self::HuggingFace(None) => f.write_str("Hugging Face transformers"),
            Self::MocoV3 => f.write_str("MoCo v3"),
            Self::Dino => f.write_str("DINO"),
            Self::Beit => f.write_str("BEiT"),
        }
    }
}

/// Where another program's weights come from.
#[derive(Debug)]
pub struct Origin {
    /// The file of weights.
    pub path: PathBuf,
    /// Whose it is.
    pub format: Format,
    /// Where in a torch file the weights stood.
    pub key: Option<String>,
    /// Where in it others stand.
    pub other_keys: Vec<String>,
    /// Names in the file that were not taken, as parts of other models.
    pub left_out: Vec<String>,
    /// Share of the patches that were removed in training, as far as known, else the paper's.
    pub mask_ratio: f64,
}

/// Beside weights that are in several files.
const SHARDED: &[&str] = &[
    "model.safetensors.index.json",
    "pytorch_model.bin.index.json",
];

/// Whether `path` may be another program's checkpoint: a file, or a folder with a file of weights in it.
pub(super) fn is_one(path: &Path) -> bool {
    let mut names = FILES.iter().chain(SHARDED);
    path.is_file() || names.any(|name| path.join(name).is_file())
}

/// Reads the checkpoint at `path`.
///
/// # Errors
/// Where the file cannot be read, or its model is not of this kind; each says what is missing, extra or of another shape.
pub(super) fn open(path: &Path, options: &ImportOptions) -> Result<(Weights, Origin)> {
    let file = locate(path)?;
    let mut archive = Archive::open(&file, options.key.as_deref())?;
    let facts = Facts::gather(&file, &archive.about)?;
    let naming = Naming::of(archive.tensors.keys().map(String::as_str))?;
    let format = format(&naming, &archive, &facts);
    let (mut taken, mut left_out, mut unknown) = (vec![], vec![], vec![]);
    for name in archive.tensors.keys() {
        match naming.meaning(name) {
            Meaning::Ours(ours) => taken.push((name.clone(), ours)),
            Meaning::LeftOut => left_out.push(name.clone()),
            Meaning::Unknown => unknown.push(name.clone()),
        }
    }
    // BEiT and DINO v2 have a mask token in the encoder.
    if !taken.iter().any(|(_, ours)| ours == "decoder_embed.weight") {
        let is_token = |(_, ours): &(String, String)| {
            ["mask_token", ENCODER_MASK_TOKEN].contains(&ours.as_str())
        };
        left_out.extend(
            taken
                .iter()
                .filter(|pair| is_token(pair))
                .map(|(name, _)| name.clone()),
        );
        taken.retain(|pair| !is_token(pair));
    }
    let pairs: Vec<(&str, &str)> = taken
        .iter()
        .map(|(a, b)| (a.as_str(), b.as_str()))
        .collect();
    let state = archive.read(&pairs)?;
    let names = (unknown, &mut left_out);
    let weights = Weights::assemble(state, (&naming, &format), &facts, options, names)?;
    let origin = Origin {
        path: file,
        format,
        key: archive.about.key,
        other_keys: archive.about.other_keys,
        left_out,
        mask_ratio: facts.mask_ratio.unwrap_or(0.75),
    };
    Ok((weights, origin))
}

/// The file of weights that `path` is or holds.
fn locate(path: &Path) -> Result<PathBuf> {
    if path.is_file() {
        return Ok(path.into());
    }
    let mut files = FILES.iter().map(|name| path.join(name));
    files.find(|file| file.is_file()).ok_or_else(|| {
        unsupported(
            "its weights are in several files; write them into one, with save_pretrained(…, max_shard_size=\"100GB\")",
        )
    })
}

fn format(naming: &Naming, archive: &Archive, facts: &Facts) -> Format {
    let has = |part: &str| archive.tensors.keys().any(|name| name.contains(part));
    if naming.hugging_face {
        return match facts.model_type.as_deref() {
            Some("beit") => Format::Beit,
            None if has(".lambda_1") || has("relative_position_bias") => Format::Beit,
            kind => Format::HuggingFace(kind.map(str::to_owned)),
        };
    }
    if has("relative_position_bias_table") || has(".attn.q_bias") {
        Format::Beit
    } else if facts.architecture.is_some() {
        Format::Timm
    } else if naming.prefix.contains("base_encoder.") || naming.prefix.contains("momentum_encoder.")
    {
        Format::MocoV3
    } else if naming.prefix.ends_with("backbone.") {
        Format::Dino
    } else {
        Format::Reference
    }
}
