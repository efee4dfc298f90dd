//! Settings as TOML: either spelling of a key, one table over another, lone values where lists are taken.

use std::path::Path;

use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// Reads a TOML file of settings, with `-` or `_` between a key's words.
pub(crate) fn read_toml<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let text = std::fs::read_to_string(path).map_err(|source| Error::Read {
        path: path.into(),
        source,
    })?;
    from_toml(&text).map_err(|error| Error::ConfigFile {
        path: path.into(),
        message: error.message().trim().to_owned(),
    })
}

fn from_toml<T: DeserializeOwned>(text: &str) -> std::result::Result<T, toml::de::Error> {
    underscored(text.parse()?)?.try_into()
}

/// The settings with `_` between the words of their keys, where `-` may stand, too.
///
/// # Errors
/// Naming a key that is given with both.
pub fn underscored(settings: toml::Table) -> std::result::Result<toml::Table, toml::de::Error> {
    let mut table = toml::Table::new();
    for (key, value) in settings {
        let name = key.replace('-', "_");
        if table.insert(name, value).is_some() {
            return Err(toml::de::Error::custom(format!(
                "`{key}` is given twice, with `-` and with `_`"
            )));
        }
    }
    Ok(table)
}

/// `given`, with `base` where it is silent.
pub(crate) fn over<T: Serialize + DeserializeOwned>(given: T, base: T) -> Result<T> {
    let unwritable = |error: toml::ser::Error| Error::Config(error.to_string());
    let mut table = toml::Table::try_from(base).map_err(unwritable)?;
    table.extend(toml::Table::try_from(given).map_err(unwritable)?);
    table
        .try_into()
        .map_err(|error: toml::de::Error| Error::Config(error.message().to_owned()))
}

/// TOML lets a lone spec stand without brackets.
///
/// # Errors
/// Where it is neither a text nor a list of them.
pub fn one_or_many<'de, D: serde::Deserializer<'de>>(
    deserializer: D,
) -> std::result::Result<Option<Vec<String>>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum OneOrMany {
        One(String),
        Many(Vec<String>),
    }
    Ok(Some(match OneOrMany::deserialize(deserializer)? {
        OneOrMany::One(one) => vec![one],
        OneOrMany::Many(many) => many,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{InputSize, RawPretrain, WindowSize};

    #[test]
    fn toml_takes_either_spelling_and_lone_specs() {
        let raw = from_toml::<RawPretrain>(
            "data = 'a.tar'\nbatch-size = 8\nwarmup_epochs = 2\ninput_size = '32x64'\nmean = [0.5, 0.5, 0.5]\nwindow = 3",
        );
        let raw = raw.unwrap();
        assert_eq!(raw.data, Some(vec!["a.tar".to_owned()]));
        assert_eq!(raw.batch_size, Some(8));
        assert_eq!(raw.warmup_epochs, Some(2.0));
        assert_eq!(
            raw.input_size,
            Some(InputSize {
                height: 32,
                width: 64
            })
        );
        assert_eq!(raw.window, Some(WindowSize::Shards(3)));
    }

    #[test]
    fn toml_names_what_it_does_not_know() {
        let unknown = from_toml::<RawPretrain>("epoch = 3")
            .unwrap_err()
            .to_string();
        assert!(
            unknown.contains("epoch") && unknown.contains("epochs"),
            "{unknown}"
        );
        let twice = from_toml::<RawPretrain>("min-lr = 0.0\nmin_lr = 0.0")
            .unwrap_err()
            .to_string();
        assert!(twice.contains("twice"), "{twice}");
    }

    #[test]
    fn flags_win_over_the_file() {
        let file = RawPretrain {
            batch_size: Some(8),
            epochs: Some(3),
            lr: Some(1.0),
            ..Default::default()
        };
        let flags = RawPretrain {
            batch_size: Some(16),
            blr: Some(2.0),
            ..Default::default()
        };
        let merged = flags.over(file).unwrap();
        assert_eq!((merged.batch_size, merged.epochs), (Some(16), Some(3)));
        assert_eq!((merged.lr, merged.blr), (None, Some(2.0)));
    }
}
