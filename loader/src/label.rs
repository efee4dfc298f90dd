//! Where labels come from and how a member's bytes become a class index.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

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

/// As its text.
impl Serialize for LabelSource {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for LabelSource {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// A label as it stands in a sample.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum RawLabel {
    Index(u32),
    Name(String),
}

impl LabelSource {
    /// Suffix of the member that holds the label.
    pub(crate) fn suffix(&self) -> Option<&str> {
        match self {
            Self::None => None,
            Self::Cls => Some("cls"),
            Self::Json { suffix, .. } => Some(suffix),
        }
    }

    /// Reads the label out of the member's bytes.
    pub(crate) fn parse(&self, bytes: &[u8]) -> Result<RawLabel, String> {
        let Self::Json { field, .. } = self else {
            return parse_index(bytes);
        };
        let value: serde_json::Value =
            serde_json::from_slice(bytes).map_err(|e| format!("not JSON ({e})"))?;
        match value.get(field) {
            Some(serde_json::Value::String(name)) => Ok(RawLabel::Name(name.clone())),
            Some(serde_json::Value::Number(number)) => {
                let index = number.as_u64().and_then(|n| u32::try_from(n).ok());
                index
                    .map(RawLabel::Index)
                    .ok_or_else(|| format!("`{field}` is {number}, not a class index"))
            }
            Some(_) => Err(format!("`{field}` is neither a string nor a class index")),
            None => Err(format!("it has no field `{field}`")),
        }
    }
}

fn parse_index(bytes: &[u8]) -> Result<RawLabel, String> {
    let text = std::str::from_utf8(bytes).unwrap_or_default().trim();
    text.parse().map(RawLabel::Index).map_err(|_| {
        let shown: String = String::from_utf8_lossy(bytes).chars().take(20).collect();
        format!("`{shown}` is not a class index")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn label_sources_round_trip_through_text() {
        for text in ["none", "cls", "json:wnid", "meta.json:a:b"] {
            let source: LabelSource = text.parse().unwrap();
            assert_eq!(source.to_string(), text);
            let stored = serde_json::to_value(&source).unwrap();
            assert_eq!(stored, text);
            assert_eq!(
                serde_json::from_value::<LabelSource>(stored).unwrap(),
                source
            );
        }
        for text in ["", "json", "json:", "cls:x", "txt:a"] {
            assert!(text.parse::<LabelSource>().is_err(), "{text}");
            assert!(serde_json::from_value::<LabelSource>(text.into()).is_err());
        }
    }

    #[test]
    fn labels_are_read_from_text_and_json() {
        let cls = LabelSource::Cls;
        assert_eq!(cls.parse(b" 7\n"), Ok(RawLabel::Index(7)));
        for bad in [&b""[..], b"-1", b"cat", b"4294967296", b"\xff"] {
            assert!(cls.parse(bad).is_err(), "{bad:?}");
        }
        let json: LabelSource = "json:wnid".parse().unwrap();
        assert_eq!(
            json.parse(br#"{"wnid": "n01"}"#),
            Ok(RawLabel::Name("n01".into()))
        );
        assert_eq!(json.parse(br#"{"wnid": 3}"#), Ok(RawLabel::Index(3)));
        for bad in [
            &b"{"[..],
            b"{}",
            b"[]",
            br#"{"wnid": null}"#,
            br#"{"wnid": 1.5}"#,
            br#"{"wnid": -1}"#,
        ] {
            assert!(json.parse(bad).is_err(), "{bad:?}");
        }
    }
}
