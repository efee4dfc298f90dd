//! What is asked for: timm's policy string, checked.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::config::bad;
use crate::error::{Error, Result};

/// The magnitude that an operation's full strength belongs to, and the greatest one unless another is given.
const FULL: u32 = 10;
/// Operations an image, unless another number is given.
const LAYERS: u32 = 2;
/// Probability of an operation, unless another is given.
const PROBABILITY: f64 = 0.5;

/// RandAugment (Cubuk et al. 2020, arXiv 1909.13719) as timm applies it: a few random operations an image, each with a
/// probability and at a random strength.
///
/// Written and read as timm's policy string, such as `rand-m9-mstd0.5-inc1`, the default:
///
/// | part | meaning | unless given |
/// | --- | --- | --- |
/// | `mN` | mean magnitude, 0 to 100; 10 is an operation's full strength | 10 |
/// | `nN` | operations an image, 1 to 16, drawn with replacement | 2 |
/// | `pX` | probability that a drawn operation is applied | 0.5 |
/// | `mstdX` | standard deviation of the magnitude, 0 to 100 | 0 |
/// | `mmaxN` | greatest magnitude, 1 to 100; a magnitude out of bounds counts as the bound | 10 |
/// | `inc1` | the operations that get stronger with the magnitude: always given | |
///
/// timm's other sets of operations (`t…`, `inc0`) and its uniform magnitudes (`mstd` above 100) are not there.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RandAugment {
    magnitude: u32,
    layers: u32,
    probability: f64,
    deviation: f64,
    greatest: u32,
}

impl Default for RandAugment {
    /// The fine-tuning recipe: `rand-m9-mstd0.5-inc1`.
    fn default() -> Self {
        RandAugment {
            magnitude: 9,
            layers: LAYERS,
            probability: PROBABILITY,
            deviation: 0.5,
            greatest: FULL,
        }
    }
}

impl RandAugment {
    /// Operations an image.
    pub(crate) fn layers(&self) -> u32 {
        self.layers
    }

    /// Probability of each.
    pub(super) fn probability(&self) -> f64 {
        self.probability
    }

    /// The strength, 1 being full, of an operation: of the magnitude that is `deviations` standard deviations above the mean.
    pub(super) fn level(&self, deviations: f64) -> f64 {
        let magnitude = f64::from(self.magnitude) + self.deviation * deviations;
        magnitude.min(f64::from(self.greatest)).max(0.0) / f64::from(FULL)
    }

    /// Whether the strength is random.
    pub(super) fn varies(&self) -> bool {
        self.deviation > 0.0
    }
}

impl fmt::Display for RandAugment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "rand-m{}", self.magnitude)?;
        if self.layers != LAYERS {
            write!(f, "-n{}", self.layers)?;
        }
        if self.probability != PROBABILITY {
            write!(f, "-p{}", self.probability)?;
        }
        if self.deviation != 0.0 {
            write!(f, "-mstd{}", self.deviation)?;
        }
        if self.greatest != FULL {
            write!(f, "-mmax{}", self.greatest)?;
        }
        f.write_str("-inc1")
    }
}

impl FromStr for RandAugment {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let wrong = |part: &str, why: &str| {
            bad(
                "augmentation policy",
                format!("`{text}`: `{part}` {why}; for example, `rand-m9-mstd0.5-inc1`"),
            )
        };
        let mut policy = RandAugment {
            magnitude: FULL,
            deviation: 0.0,
            ..RandAugment::default()
        };
        let mut parts = text.split('-');
        let first = parts.next().unwrap_or_default();
        if first != "rand" {
            return wrong(first, "is not `rand`, the only kind of policy there is");
        }
        let mut seen = Vec::new();
        for part in parts {
            let digits = part
                .find(|c: char| !c.is_ascii_lowercase())
                .unwrap_or(part.len());
            let (key, value) = part.split_at(digits);
            if seen.contains(&key) {
                return wrong(part, "comes after another one of its kind");
            }
            seen.push(key);
            let done = match key {
                "m" => whole(value, 0, 100).map(|value| policy.magnitude = value),
                "n" => whole(value, 1, 16).map(|value| policy.layers = value),
                "mmax" => whole(value, 1, 100).map(|value| policy.greatest = value),
                "p" => real(value, 1.0).map(|value| policy.probability = value),
                "mstd" => real(value, 100.0).map(|value| policy.deviation = value),
                "inc" => match value {
                    "1" => Ok(()),
                    _ => Err(
                        "is not `inc1`: operations that do not get stronger with the magnitude are not there"
                            .to_owned(),
                    ),
                },
                _ if key.starts_with('t') => {
                    Err("asks for a set of operations by name; there is only that of `inc1`".to_owned())
                }
                _ => Err("is none of m, n, p, mstd, mmax, inc and a number".to_owned()),
            };
            if let Err(why) = done {
                return wrong(part, &why);
            }
        }
        if !seen.contains(&"inc") {
            return wrong(
                text,
                "has no part `inc1`: operations that do not get stronger with the magnitude, which timm takes without it, are \
                 not there",
            );
        }
        Ok(policy)
    }
}

fn whole(value: &str, least: u32, greatest: u32) -> std::result::Result<u32, String> {
    match value.parse() {
        Ok(number) if (least..=greatest).contains(&number) => Ok(number),
        _ => Err(format!("needs a whole number within {least} to {greatest}")),
    }
}

fn real(value: &str, greatest: f64) -> std::result::Result<f64, String> {
    match value.parse() {
        Ok(number) if (0.0..=greatest).contains(&number) => Ok(number),
        _ => Err(format!("needs a number within 0 to {greatest}")),
    }
}

impl TryFrom<String> for RandAugment {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<RandAugment> for String {
    fn from(policy: RandAugment) -> String {
        policy.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policies_are_written_as_they_are_read() {
        for text in [
            "rand-m9-mstd0.5-inc1",
            "rand-m0-inc1",
            "rand-m5-n3-p0.7-mstd2-mmax12-inc1",
            "rand-m10-n16-p1-inc1",
        ] {
            let policy: RandAugment = text.parse().unwrap();
            assert_eq!(policy.to_string(), text);
            let json = serde_json::to_string(&policy).unwrap();
            assert_eq!(json, format!("\"{text}\""));
            assert_eq!(serde_json::from_str::<RandAugment>(&json).unwrap(), policy);
        }
        let recipe: RandAugment = "rand-inc1-n2-mstd0.5-mmax10-m9-p.5".parse().unwrap();
        assert_eq!(recipe, RandAugment::default());
        assert_eq!(
            "rand-inc1".parse::<RandAugment>().unwrap().to_string(),
            "rand-m10-inc1"
        );
        assert!(serde_json::from_str::<RandAugment>("\"rand-m9\"").is_err());
    }

    #[test]
    fn the_part_that_is_wrong_is_named() {
        for (text, part) in [
            ("", "``"),
            ("augmix-m9", "`augmix`"),
            ("rand-m9", "`rand-m9`"),
            ("rand-m9.5-inc1", "`m9.5`"),
            ("rand-m101-inc1", "`m101`"),
            ("rand-m-inc1", "`m`"),
            ("rand-m9-inc0", "`inc0`"),
            ("rand-m9-n0-inc1", "`n0`"),
            ("rand-m9-p1.5-inc1", "`p1.5`"),
            ("rand-m9-pnan-inc1", "`pnan`"),
            ("rand-m9-mstd101-inc1", "`mstd101`"),
            ("rand-m9-mstdinf-inc1", "`mstdinf`"),
            ("rand-m9-mmax0-inc1", "`mmax0`"),
            ("rand-m9-m8-inc1", "`m8`"),
            ("rand-m9-tweights-inc1", "`tweights`"),
            ("rand-m9-w0-inc1", "`w0`"),
            ("rand-m9--inc1", "``"),
            ("rand-M9-inc1", "`M9`"),
        ] {
            let error = text.parse::<RandAugment>().unwrap_err().to_string();
            assert!(error.contains(&format!("{part} ")), "{text}: {error}");
        }
    }

    #[test]
    fn levels_stay_within_bounds() {
        let policy: RandAugment = "rand-m9-mstd0.5-inc1".parse().unwrap();
        assert_eq!(policy.level(0.0), 0.9);
        assert_eq!(policy.level(5.0), 1.0);
        assert_eq!(policy.level(-40.0), 0.0);
        let wide: RandAugment = "rand-m9-mstd2-mmax12-inc1".parse().unwrap();
        assert_eq!(wide.level(5.0), 1.2);
    }
}
