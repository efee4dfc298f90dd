//! Number formats of weights in files, and how they become `f32`.

use std::fmt;

/// A tensor's number format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Dtype {
    F64,
    F32,
    F16,
    Bf16,
    /// Whole numbers and truth values, of so many bytes: indices and counters, never weights.
    Whole(usize),
}

impl Dtype {
    /// Of a torch storage class such as `FloatStorage`.
    pub(super) fn of_storage(class: &str) -> Option<Self> {
        Some(match class.strip_suffix("Storage")? {
            "Double" => Self::F64,
            "Float" => Self::F32,
            "Half" => Self::F16,
            "BFloat16" => Self::Bf16,
            "Long" => Self::Whole(8),
            "Int" => Self::Whole(4),
            "Short" => Self::Whole(2),
            "Char" | "Byte" | "Bool" => Self::Whole(1),
            _ => return None,
        })
    }

    pub(super) fn of_safetensors(dtype: safetensors::Dtype) -> Option<Self> {
        use safetensors::Dtype as Theirs;
        Some(match dtype {
            Theirs::F64 => Self::F64,
            Theirs::F32 => Self::F32,
            Theirs::F16 => Self::F16,
            Theirs::BF16 => Self::Bf16,
            Theirs::I64 | Theirs::U64 => Self::Whole(8),
            Theirs::I32 | Theirs::U32 => Self::Whole(4),
            Theirs::I16 | Theirs::U16 => Self::Whole(2),
            Theirs::I8 | Theirs::U8 | Theirs::BOOL => Self::Whole(1),
            _ => return None,
        })
    }

    /// Bytes a number.
    pub(super) fn bytes(self) -> usize {
        match self {
            Self::F64 => 8,
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
            Self::Whole(bytes) => bytes,
        }
    }

    /// Little-endian numbers as `f32`, rounded where they have more digits; none of whole numbers.
    pub(super) fn floats(self, bytes: &[u8]) -> Vec<f32> {
        fn each<const N: usize>(bytes: &[u8], number: impl Fn([u8; N]) -> f32) -> Vec<f32> {
            let numbers = bytes.chunks_exact(N);
            numbers
                .map(|bytes| number(std::array::from_fn(|i| bytes[i])))
                .collect()
        }
        match self {
            Self::F64 => each(bytes, |bytes| f64::from_le_bytes(bytes) as f32),
            Self::F32 => each(bytes, f32::from_le_bytes),
            Self::F16 => each(bytes, |bytes| half::f16::from_le_bytes(bytes).to_f32()),
            Self::Bf16 => each(bytes, |bytes| half::bf16::from_le_bytes(bytes).to_f32()),
            Self::Whole(_) => vec![],
        }
    }
}

impl fmt::Display for Dtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::F64 => f.write_str("float64"),
            Self::F32 => f.write_str("float32"),
            Self::F16 => f.write_str("float16"),
            Self::Bf16 => f.write_str("bfloat16"),
            Self::Whole(bytes) => write!(f, "whole numbers of {bytes} bytes"),
        }
    }
}
