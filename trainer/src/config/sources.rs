//! What the values of `--data` say: specs alone, or each with a weight.
//!
//! `SPEC@WEIGHT` is a spec with a weight where a number stands after the last `@`, whatever lies on the disk; any other `@` is part
//! of the spec. A spec that itself ends so takes a weight of its own, as in `photos@2@1`, or a slash, as in `photos@2/`.

use std::path::Path;

use crate::error::{Error, Result};

/// The training data by name.
#[derive(Clone, Debug, PartialEq)]
pub enum Sources {
    /// One data set, of all these specs.
    Whole(Vec<String>),
    /// A data set for each spec, drawn from by weight.
    Weighted(Vec<(String, f64)>),
}

impl Sources {
    /// Reads the values of `--data`.
    ///
    /// # Errors
    /// [`Error::Config`] where some values have a weight and others none, or a weight is not a number above 0.
    pub fn parse(values: &[String]) -> Result<Self> {
        let mut weighted = Vec::new();
        let mut plain = None;
        for value in values {
            match split(value) {
                Some((spec, weight)) => {
                    weighted.push((spec.to_owned(), check(value, spec, weight)?))
                }
                None => plain = plain.or(Some(value)),
            }
        }
        match (plain, weighted.first()) {
            (Some(plain), Some((spec, _))) => Err(Error::Config(format!(
                "--data gives {spec} a weight and {plain} none; give all of them one (SPEC@WEIGHT) or none of them"
            ))),
            (None, Some(_)) => Ok(Sources::Weighted(weighted)),
            _ => Ok(Sources::Whole(values.to_vec())),
        }
    }

    /// Each data set's share of the samples; together 1.
    pub(crate) fn shares(&self) -> Vec<f64> {
        match self {
            Sources::Whole(_) => vec![1.0],
            Sources::Weighted(parts) => {
                let sum: f64 = parts.iter().map(|(_, weight)| weight).sum();
                parts.iter().map(|(_, weight)| weight / sum).collect()
            }
        }
    }
}

/// A hint where `spec` names nothing and `spec@weight`, as the user wrote it, is a path.
pub(crate) fn misread(spec: &str, weight: f64) -> Option<String> {
    let whole = format!("{spec}@{weight}");
    (!Path::new(spec).exists() && Path::new(&whole).exists()).then(|| {
        format!("--data {whole} names {spec} with the weight {weight}; for the path {whole}, write {whole}@1 (or {whole}/ for a folder)")
    })
}

/// The spec and the weight, where the value ends in one.
fn split(value: &str) -> Option<(&str, f64)> {
    let (spec, weight) = value.rsplit_once('@')?;
    // `inf` and `nan` are numbers to Rust and words to everybody else.
    let numeric = weight.starts_with(|c: char| c.is_ascii_digit() || ".+-".contains(c));
    Some((spec, weight.parse().ok().filter(|_| numeric)?))
}

fn check(value: &str, spec: &str, weight: f64) -> Result<f64> {
    let wrong = |what: &str| Err(Error::Config(format!("--data {value}: {what}")));
    if spec.is_empty() {
        return wrong("names no data before the weight");
    }
    if !(weight.is_finite() && weight > 0.0) {
        return wrong("the weight must be a number above 0; leave out what is not to be drawn");
    }
    // In a command `::` and `@` may mean anything.
    let joined = spec.split("::").collect::<Vec<_>>();
    if !spec.starts_with("pipe:")
        && joined[..joined.len() - 1]
            .iter()
            .any(|part| split(part).is_some())
    {
        return wrong(
            "weights of specs that are joined by `::`; give each as a value of its own: --data A@0.7 B@0.3",
        );
    }
    Ok(weight)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(values: &[&str]) -> Result<Sources> {
        Sources::parse(
            &values
                .iter()
                .map(|value| (*value).to_owned())
                .collect::<Vec<_>>(),
        )
    }

    #[test]
    fn weights_stand_after_the_last_at() {
        let weighted = |parts: &[(&str, f64)]| {
            Sources::Weighted(
                parts
                    .iter()
                    .map(|(spec, weight)| ((*spec).to_owned(), *weight))
                    .collect(),
            )
        };
        for (values, expected) in [
            (
                &["a@0.7", "b/*.tar@3e-1"][..],
                &[("a", 0.7), ("b/*.tar", 0.3)][..],
            ),
            (&["a::b@2"], &[("a::b", 2.0)]),
            (&["me@home/a@1"], &[("me@home/a", 1.0)]),
            (&["photos@2@.5"], &[("photos@2", 0.5)]),
            (&["pipe:ssh a@1::b@5@+1"], &[("pipe:ssh a@1::b@5", 1.0)]),
        ] {
            assert_eq!(parse(values).unwrap(), weighted(expected));
        }
        for values in [
            &["a", "b"][..],
            &["me@home"],
            &["a@inf", "b@nan"],
            &["photos@2/"],
            &["a@v2.tar"],
            &[],
        ] {
            let whole = values.iter().map(|value| (*value).to_owned()).collect();
            assert_eq!(parse(values).unwrap(), Sources::Whole(whole));
        }
    }

    #[test]
    fn mistakes_are_named() {
        for (values, part) in [
            (&["a@0.7", "b"][..], "all of them"),
            (&["a", "b@0.3"], "b a weight and a none"),
            (&["a@0"], "above 0"),
            (&["a@-1"], "above 0"),
            (&["a@1e999"], "above 0"),
            (&["@0.5"], "names no data"),
            (&["a@0.7::b@0.3"], "of its own"),
        ] {
            let message = parse(values).unwrap_err().to_string();
            assert!(message.contains(part), "{values:?}: {message}");
        }
    }

    #[test]
    fn a_path_that_looks_weighted_is_pointed_out() {
        let folder = tempfile::tempdir().unwrap();
        let photos = folder.path().join("photos");
        let spec = photos.display().to_string();
        assert_eq!(misread(&spec, 2.0), None);
        std::fs::create_dir(folder.path().join("photos@2")).unwrap();
        assert!(misread(&spec, 2.0).unwrap().contains("photos@2/"));
        std::fs::create_dir(photos).unwrap();
        assert_eq!(misread(&spec, 2.0), None);
    }
}
