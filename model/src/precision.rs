//! What numbers a model computes with. Weights, gradients and the optimiser's state are always float32.

use std::str::FromStr;

use candle_core::DType;
use serde::{Deserialize, Serialize};

/// Numbers of activations and of products.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// Everything in float32.
    #[default]
    F32,
    /// As F32, but products take in numbers rounded to TensorFloat-32 (10 bits behind the point). NVIDIA GPUs only.
    Tf32,
    /// Activations, and what products take in, in bfloat16; sums, statistics, losses and the residual stream in float32. NVIDIA GPUs
    /// only.
    Bf16,
}

impl Precision {
    /// The type of activations.
    pub fn activations(self) -> DType {
        match self {
            Precision::F32 | Precision::Tf32 => DType::F32,
            Precision::Bf16 => DType::BF16,
        }
    }
}

impl std::fmt::Display for Precision {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Precision::F32 => "f32",
            Precision::Tf32 => "tf32",
            Precision::Bf16 => "bf16",
        })
    }
}

impl FromStr for Precision {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let all = [Precision::F32, Precision::Tf32, Precision::Bf16];
        all.into_iter()
            .find(|precision| precision.to_string() == text)
            .ok_or_else(|| format!("there is no precision `{text}`; there are f32, tf32 and bf16"))
    }
}
