//! Where labels come from and how a member's bytes become a class index.

use std::fmt;
use std::str::FromStr;

/// The member that holds a sample's label. Written as `none`, `cls`, or `json:FIELD` (also `meta.json:FIELD`).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum LabelSource {
    /// No labels are read.
    None,
    /// The class index as text in the member `.cls`.
    #[default]
    Cls,
    /// A field of a JSON object: a class index, or a string that the class list maps to one.
    Json {
        /// The member's suffix, ending in `json`.
        suffix: String,
        /// The field of the top-level object.
        field: String,
    },
}

impl FromStr for LabelSource {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            None if text == "none" => Ok(Self::None),
            None if text == "cls" => Ok(Self::Cls),
            Some((suffix, field)) if suffix.ends_with("json") && !field.is_empty() => {
                Ok(Self::Json {
                    suffix: suffix.to_lowercase(),
                    field: field.to_owned(),
                })
            }
            _ => Err(format!(
                "`{text}` is not a label field: write none, cls, or json:FIELD (for example json:wnid)"
            )),
        }
    }
}

impl fmt::Display for LabelSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("none"),
            Self::Cls => f.write_str("cls"),
            Self::Json { suffix, field } => write!(f, "{suffix}:{field}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn label_sources_round_trip_through_text() {
        for text in ["none", "cls", "json:wnid", "meta.json:a:b"] {
            assert_eq!(text.parse::<LabelSource>().unwrap().to_string(), text);
        }
        for text in ["", "json", "json:", "cls:x", "txt:a"] {
            assert!(text.parse::<LabelSource>().is_err(), "{text}");
        }
    }
}
