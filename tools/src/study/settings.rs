//! Settings of a study's tables: what is given on the command line, and how one table goes over another.

use std::fmt;

use anyhow::Context;
use mae_trainer::tokenizer::RawTokenizer;
use mae_trainer::{RawFinetune, RawPretrain};
use serde::de::DeserializeOwned;
use toml::Table;

/// A table of the base that a variant's settings go over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    Pretrain,
    Finetune,
    Tokenizer,
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pretrain => "pretrain",
            Self::Finetune => "finetune",
            Self::Tokenizer => "tokenizer",
        })
    }
}

/// `pretrain.epochs=20`: a setting of the base from the command line.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Setting {
    pub(super) part: Part,
    pub(super) key: String,
    pub(super) value: toml::Value,
}

impl std::str::FromStr for Setting {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let form = "PART.KEY=VALUE, for example pretrain.epochs=20, with pretrain, finetune or tokenizer before the point";
        let (name, value) = text
            .split_once('=')
            .ok_or_else(|| format!("expected {form}"))?;
        let (part, key) = name
            .split_once('.')
            .ok_or_else(|| format!("expected {form}"))?;
        let part = match part.trim() {
            "pretrain" => Part::Pretrain,
            "finetune" => Part::Finetune,
            "tokenizer" => Part::Tokenizer,
            other => return Err(format!("no part `{other}`: expected {form}")),
        };
        // What is no TOML is a word.
        let value = value.trim();
        let parsed = format!("value = {value}").parse::<Table>().ok();
        let value = parsed
            .and_then(|mut table| table.remove("value"))
            .unwrap_or_else(|| value.into());
        Ok(Self {
            part,
            key: key.trim().to_owned(),
            value,
        })
    }
}

/// The settings `over`, with those of `base` where they are silent, as the flags of a command go over its file.
///
/// # Errors
/// Where one of them is none of `part`'s.
pub(super) fn merged(part: Part, base: &Table, over: &Table) -> anyhow::Result<Table> {
    fn read<T: DeserializeOwned>(settings: &Table) -> anyhow::Result<T> {
        let read = settings.clone().try_into();
        read.map_err(|error: toml::de::Error| anyhow::anyhow!("{}", error.message().trim()))
    }
    let merged = match part {
        Part::Pretrain => Table::try_from(read::<RawPretrain>(over)?.over(read(base)?)?),
        Part::Finetune => Table::try_from(read::<RawFinetune>(over)?.over(read(base)?)?),
        Part::Tokenizer => Table::try_from(read::<RawTokenizer>(over)?.over(read(base)?)?),
    };
    merged.with_context(|| format!("{part}: settings that cannot be written"))
}
