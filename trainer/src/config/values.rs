//! The small value types of a configuration: each reads the same text from a flag and from TOML.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use mae_model::Precision;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::dist::Launch;

/// Height and width of the model's input, in pixels: `224` or `96x160` (height first).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InputSize {
    /// Rows.
    pub height: usize,
    /// Columns.
    pub width: usize,
}

impl FromStr for InputSize {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let side = |text: &str| {
            text.trim().parse::<usize>().ok().filter(|n| *n > 0).ok_or_else(|| {
                format!("`{text}` is not a number of pixels; write one number (224) or height x width (96x160)")
            })
        };
        Ok(match text.split_once(['x', 'X']) {
            Some((height, width)) => InputSize {
                height: side(height)?,
                width: side(width)?,
            },
            None => {
                let n = side(text)?;
                InputSize {
                    height: n,
                    width: n,
                }
            }
        })
    }
}

impl fmt::Display for InputSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.height == self.width {
            write!(f, "{}", self.height)
        } else {
            write!(f, "{}x{}", self.height, self.width)
        }
    }
}

impl Serialize for InputSize {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.height == self.width {
            serializer.serialize_u64(self.height as u64)
        } else {
            serializer.collect_str(self)
        }
    }
}

/// A number of bytes, as people write it: `50G`, `500MB`, `1.5GiB`, `3e9`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ByteSize(pub u64);

const UNITS: [(&str, u64); 8] = [
    ("TiB", 1 << 40),
    ("TB", 1_000_000_000_000),
    ("GiB", 1 << 30),
    ("GB", 1_000_000_000),
    ("MiB", 1 << 20),
    ("MB", 1_000_000),
    ("KiB", 1 << 10),
    ("kB", 1000),
];

impl FromStr for ByteSize {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || format!("`{text}` is not a size: write bytes, 3e9, 500MB or 2GiB");
        let text = text.trim();
        let unit_at = text
            .find(|c: char| c.is_ascii_alphabetic() && !matches!(c, 'e' | 'E'))
            .unwrap_or(text.len());
        let (number, unit) = text.split_at(unit_at);
        let factor = match unit {
            "" | "b" | "B" => 1,
            _ => {
                UNITS
                    .iter()
                    .find(|(name, _)| {
                        name.eq_ignore_ascii_case(unit)
                            || (unit.len() == 1
                                && name.len() == 2
                                && name[..1].eq_ignore_ascii_case(unit))
                    })
                    .ok_or_else(bad)?
                    .1
            }
        };
        let bytes = number.trim().parse::<f64>().map_err(|_| bad())? * factor as f64;
        // Above 2^53 a float no longer holds every byte, and no disk does either.
        if (1.0..9e15).contains(&bytes) {
            Ok(Self(bytes.round() as u64))
        } else {
            Err(bad())
        }
    }
}

impl fmt::Display for ByteSize {
    /// In the largest unit that gives a whole number.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match UNITS
            .iter()
            .find(|(_, bytes)| self.0.is_multiple_of(*bytes))
        {
            Some((name, bytes)) if self.0 > 0 => write!(f, "{}{name}", self.0 / bytes),
            _ => write!(f, "{}", self.0),
        }
    }
}

impl Serialize for ByteSize {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ByteSize {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        from_scalar(deserializer)
    }
}

/// Over how many shards at a time the samples are shuffled: `auto`, `all` or a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WindowSize {
    /// As many as the cache holds, where shards are kept in one; else all.
    Auto,
    /// One full shuffle of the epoch.
    All,
    /// Windows of this many shards, which bounds what must be at hand at one time.
    Shards(usize),
}

impl From<WindowSize> for mae_loader::Window {
    fn from(size: WindowSize) -> Self {
        match size {
            WindowSize::Auto => Self::Auto,
            WindowSize::All => Self::All,
            WindowSize::Shards(n) => Self::Shards(n as u32),
        }
    }
}

impl FromStr for WindowSize {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(WindowSize::Auto),
            "all" => Ok(WindowSize::All),
            _ => match text.parse() {
                Ok(n) if n > 0 => Ok(WindowSize::Shards(n)),
                _ => Err(format!(
                    "`{text}` is neither `auto`, `all` nor a number of shards"
                )),
            },
        }
    }
}

impl fmt::Display for WindowSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            WindowSize::Auto => f.write_str("auto"),
            WindowSize::All => f.write_str("all"),
            WindowSize::Shards(n) => write!(f, "{n}"),
        }
    }
}

impl Serialize for WindowSize {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            WindowSize::Shards(n) => serializer.serialize_u64(*n as u64),
            word => serializer.collect_str(word),
        }
    }
}

/// What is predicted of a removed patch (paper, table 1d).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TargetKind {
    /// Its pixels, normalised patch by patch where `norm_pix_loss` says so.
    #[default]
    Pixels,
    /// Its coefficients in a basis of principal components that is fitted to the training data.
    Pca,
    /// The token that a trained tokenizer gives it.
    Tokens,
}

impl FromStr for TargetKind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "pixels" => Ok(Self::Pixels),
            "pca" => Ok(Self::Pca),
            "tokens" => Ok(Self::Tokens),
            _ => Err(format!("`{text}` is neither pixels, pca nor tokens")),
        }
    }
}

impl fmt::Display for TargetKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pixels => "pixels",
            Self::Pca => "pca",
            Self::Tokens => "tokens",
        })
    }
}

/// How the patches that an image keeps are chosen (paper, figure 6).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MaskSamplingKind {
    /// Any of them.
    #[default]
    Random,
    /// Blocks are removed, as by BEiT.
    Block,
    /// One of every square of patches is kept.
    Grid,
}

impl FromStr for MaskSamplingKind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "random" => Ok(Self::Random),
            "block" => Ok(Self::Block),
            "grid" => Ok(Self::Grid),
            _ => Err(format!("`{text}` is neither random, block nor grid")),
        }
    }
}

/// Whether a run continues an earlier one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Resume {
    /// Start afresh; an output folder that holds anything is an error.
    Never,
    /// Continue the output folder's newest whole checkpoint, or start afresh where there is none.
    Auto,
    /// Continue this checkpoint folder, or the newest whole checkpoint of this run folder.
    From(PathBuf),
}

impl FromStr for Resume {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "never" => Ok(Resume::Never),
            "auto" => Ok(Resume::Auto),
            "" => Err("give `auto`, `never` or a path".into()),
            path => Ok(Resume::From(path.into())),
        }
    }
}

impl fmt::Display for Resume {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Resume::Never => f.write_str("never"),
            Resume::Auto => f.write_str("auto"),
            Resume::From(path) => write!(f, "{}", path.display()),
        }
    }
}

impl Serialize for Resume {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Where the arithmetic runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceKind {
    /// The processor.
    Cpu,
    /// The NVIDIA GPU of this number.
    Cuda(usize),
}

impl DeviceKind {
    /// That of a process of a job: of several on GPUs, each has the GPU of its number on its machine.
    pub fn of_rank(self, launch: &Launch) -> Self {
        match self {
            DeviceKind::Cuda(0) if launch.world > 1 => DeviceKind::Cuda(launch.local_rank),
            device => device,
        }
    }

    /// What a run on it computes with unless told otherwise.
    pub fn default_precision(self) -> Precision {
        match self {
            DeviceKind::Cpu => Precision::F32,
            DeviceKind::Cuda(_) => Precision::Bf16,
        }
    }
}

impl FromStr for DeviceKind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let gpu = match text.split_once(':') {
            None if text == "cpu" => return Ok(DeviceKind::Cpu),
            None if text == "cuda" => Some(0),
            Some(("cuda", number)) => number.parse().ok(),
            _ => None,
        };
        gpu.map(DeviceKind::Cuda)
            .ok_or_else(|| format!("there is no device `{text}`; devices are cpu, cuda and cuda:N"))
    }
}

impl fmt::Display for DeviceKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DeviceKind::Cpu => f.write_str("cpu"),
            DeviceKind::Cuda(0) => f.write_str("cuda"),
            DeviceKind::Cuda(ordinal) => write!(f, "cuda:{ordinal}"),
        }
    }
}

impl Serialize for DeviceKind {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for DeviceKind {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        from_scalar(deserializer)
    }
}

/// TOML's number or text, turned to text for `FromStr`.
#[derive(Deserialize)]
#[serde(untagged)]
enum Scalar {
    Number(u64),
    Text(String),
}

pub(super) fn from_scalar<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: FromStr<Err = String>,
{
    let text = match Scalar::deserialize(deserializer)? {
        Scalar::Number(n) => n.to_string(),
        Scalar::Text(text) => text,
    };
    text.parse().map_err(de::Error::custom)
}

impl<'de> Deserialize<'de> for InputSize {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        from_scalar(deserializer)
    }
}

impl<'de> Deserialize<'de> for WindowSize {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        from_scalar(deserializer)
    }
}

impl<'de> Deserialize<'de> for Resume {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        from_scalar(deserializer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_read_and_print() {
        for (text, bytes, shown) in [
            ("3e9", 3_000_000_000, "3GB"),
            ("500MB", 500_000_000, "500MB"),
            ("50g", 50_000_000_000, "50GB"),
            ("1.5GiB", 3 << 29, "1536MiB"),
            ("10k", 10_000, "10kB"),
            ("1234567", 1_234_567, "1234567"),
        ] {
            assert_eq!(text.parse(), Ok(ByteSize(bytes)), "{text}");
            assert_eq!(ByteSize(bytes).to_string(), shown);
            assert_eq!(shown.parse(), Ok(ByteSize(bytes)), "{shown}");
        }
        for text in ["", "0", "-1", "x", "3 apples", "1e99", "nan", "GB"] {
            assert!(text.parse::<ByteSize>().is_err(), "{text}");
        }
    }

    #[test]
    fn sizes_read_and_print() {
        assert_eq!(
            "224".parse(),
            Ok(InputSize {
                height: 224,
                width: 224
            })
        );
        assert_eq!(
            "96x160".parse(),
            Ok(InputSize {
                height: 96,
                width: 160
            })
        );
        for bad in ["", "0", "x", "12x", "-3", "1x2x3", "big"] {
            assert!(bad.parse::<InputSize>().is_err(), "{bad}");
        }
        for text in ["32", "96x160"] {
            assert_eq!(text.parse::<InputSize>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn windows_resumes_and_devices_read() {
        assert_eq!("auto".parse(), Ok(WindowSize::Auto));
        assert_eq!("all".parse(), Ok(WindowSize::All));
        assert_eq!("8".parse(), Ok(WindowSize::Shards(8)));
        assert!("0".parse::<WindowSize>().is_err());
        assert_eq!("auto".parse(), Ok(Resume::Auto));
        assert_eq!("runs/a".parse(), Ok(Resume::From("runs/a".into())));
        assert!("gpu".parse::<DeviceKind>().unwrap_err().contains("cpu"));
    }
}
