//! A study as its file says: a base, variants of it, what is measured. Nothing here knows of folders or of what is done already.

use std::path::Path;

use anyhow::{Context, bail};
use clap::ValueEnum;
use mae_trainer::config::table::{one_or_many, underscored};
use serde::{Deserialize, Deserializer};
use toml::Table;

use super::ready;
use super::settings::{Part, Setting, merged};
use crate::Usage;

/// A study file.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Definition {
    /// Over the page.
    pub(super) title: String,
    /// Under it: what the study asks.
    #[serde(default)]
    pub(super) about: String,
    /// What distinguishes the variants, as the first column and the axis call it.
    pub(super) knob: String,
    /// Where published values come from, and for which model.
    #[serde(default)]
    pub(super) source: String,
    /// Shards; flags win over them.
    #[serde(default, deserialize_with = "specs")]
    pub(super) data: Vec<String>,
    /// Held-out shards.
    #[serde(default, deserialize_with = "specs")]
    pub(super) val_data: Vec<String>,
    /// Where labels come from, as `mae finetune --label-field` takes it.
    #[serde(default)]
    pub(super) label_field: Option<String>,
    /// Every variant is trained once from each.
    #[serde(default = "one_seed")]
    pub(super) seeds: Vec<u64>,
    /// What is measured, in the order of the columns.
    pub(super) evaluate: Vec<Metric>,
    /// Settings of `mae pretrain` that all variants share.
    #[serde(default)]
    pub(super) pretrain: Table,
    /// Settings of `mae finetune` that all variants share.
    #[serde(default)]
    pub(super) finetune: Table,
    /// Settings of `mae tokenizer train`: of the tokenizer for variants whose target is tokens and that name none.
    #[serde(default)]
    pub(super) tokenizer: Option<Table>,
    /// The variants one by one.
    #[serde(default, rename = "variant")]
    pub(super) variants: Vec<Variant>,
    /// Or every combination of these values.
    #[serde(default)]
    pub(super) grid: Grid,
}

/// One choice among those that are compared.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Variant {
    /// As the table calls it; no two alike.
    pub(super) name: String,
    /// Its place on the axis, where the knob is a number.
    #[serde(default)]
    pub(super) at: Option<f64>,
    /// Settings of `mae pretrain` over the base's.
    #[serde(default)]
    pub(super) pretrain: Table,
    /// Settings of `mae finetune` over the base's.
    #[serde(default)]
    pub(super) finetune: Table,
    /// What was published of it, in the metric's own unit (accuracies in percent).
    #[serde(default)]
    pub(super) published: Published,
}

/// Published values of a variant.
#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct Published {
    #[serde(default)]
    finetune: Option<f64>,
    #[serde(default)]
    linear_probe: Option<f64>,
    #[serde(default)]
    knn: Option<f64>,
}

impl Published {
    pub(super) fn of(&self, metric: Metric) -> Option<f64> {
        match metric {
            Metric::Finetune => self.finetune,
            Metric::LinearProbe => self.linear_probe,
            Metric::Knn => self.knn,
            Metric::Loss => None,
        }
    }
}

/// Lists of values by key.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Grid {
    #[serde(default)]
    pretrain: Table,
    #[serde(default)]
    finetune: Table,
}

/// What can be measured of a variant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Metric {
    /// Accuracy after `mae finetune`, of its last epoch
    Finetune,
    /// As `mae eval linear-probe --cached`
    LinearProbe,
    /// As `mae eval knn`
    Knn,
    /// As `mae eval loss`, by the masks of the variant's own training
    Loss,
}

impl Metric {
    /// As people call it, with its unit.
    pub(super) fn label(self) -> &'static str {
        match self {
            Self::Finetune => "fine-tuned, top-1 %",
            Self::LinearProbe => "linear probe, top-1 %",
            Self::Knn => "kNN, top-1 %",
            Self::Loss => "masked loss",
        }
    }

    /// As files call it.
    pub(super) fn key(self) -> &'static str {
        match self {
            Self::Finetune => "finetune",
            Self::LinearProbe => "linear-probe",
            Self::Knn => "knn",
            Self::Loss => "loss",
        }
    }

    /// A value as the table shows it; accuracies are kept as shares and shown in percent.
    pub(super) fn shown(self, value: f64) -> f64 {
        match self {
            Self::Loss => value,
            _ => 100.0 * value,
        }
    }

    /// Decimals that are worth showing.
    pub(super) fn decimals(self) -> usize {
        match self {
            Self::Loss => 4,
            _ => 1,
        }
    }
}

fn one_seed() -> Vec<u64> {
    vec![0]
}

/// A lone spec stands without brackets, as in the trainings' settings.
fn specs<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    Ok(one_or_many(deserializer)?.unwrap_or_default())
}

/// Settings that the study gives each run itself.
const OWN: &[&str] = &[
    "data",
    "val_data",
    "output_dir",
    "resume",
    "seed",
    "threads",
    "device",
    "label_field",
    "checkpoint",
];

impl Definition {
    /// Reads the file at `name`, or else the ready-made study of that name.
    ///
    /// # Errors
    /// Where there is neither, or the text is no study.
    pub(super) fn load(name: &Path) -> anyhow::Result<Self> {
        let text = match (name.is_file(), name.to_str().and_then(ready::text)) {
            (false, Some(text)) => text.to_owned(),
            (true, _) => std::fs::read_to_string(name)
                .with_context(|| format!("cannot read the study {}", name.display()))?,
            (false, None) => {
                return Err(Usage(format!(
                    "no study {}: it is no file, and of the ready-made ones there are {}",
                    name.display(),
                    ready::names().collect::<Vec<_>>().join(", ")
                ))
                .into());
            }
        };
        Self::parse(&text)
            .map_err(|error| Usage(format!("the study {}: {error:#}", name.display())).into())
    }

    /// Reads a study's text.
    ///
    /// # Errors
    /// Where it is not TOML, has keys that no study has, or is not complete in itself.
    pub(super) fn parse(text: &str) -> anyhow::Result<Self> {
        let mut study: Self = toml::from_str(text).map_err(|error| {
            let line = error
                .span()
                .map_or(0, |span| text[..span.start].matches('\n').count() + 1);
            anyhow::anyhow!("line {line}: {}", error.message().trim())
        })?;
        let tables = [&mut study.pretrain, &mut study.finetune]
            .into_iter()
            .chain(&mut study.tokenizer)
            .chain([&mut study.grid.pretrain, &mut study.grid.finetune])
            .chain(
                study
                    .variants
                    .iter_mut()
                    .flat_map(|variant| [&mut variant.pretrain, &mut variant.finetune]),
            );
        for table in tables {
            *table = underscored(std::mem::take(table))?;
        }
        if !study.grid.is_empty() {
            if !study.variants.is_empty() {
                bail!("give [[variant]] tables or a [grid], not both");
            }
            study.variants = study.grid.variants()?;
        }
        study.check()?;
        Ok(study)
    }

    /// Puts `settings` into the base.
    ///
    /// # Errors
    /// Where one is the study's own to give, or for a tokenizer that the study does not have.
    pub(super) fn set(&mut self, settings: &[Setting]) -> anyhow::Result<()> {
        for Setting { part, key, value } in settings {
            let table = match part {
                Part::Pretrain => &mut self.pretrain,
                Part::Finetune => &mut self.finetune,
                Part::Tokenizer => self.tokenizer.as_mut().context(
                    "this study trains no tokenizer, so that there is nothing to set of it",
                )?,
            };
            let mut given = Table::new();
            given.insert(key.clone(), value.clone());
            *table = merged(*part, table, &underscored(given)?)?;
        }
        self.check()
    }

    fn check(&self) -> anyhow::Result<()> {
        if self.variants.is_empty() {
            bail!("nothing to compare: it has neither [[variant]] tables nor a [grid]");
        }
        if self.evaluate.is_empty() {
            bail!("nothing to measure: `evaluate` is empty");
        }
        if self.seeds.is_empty() {
            bail!("no seed: `seeds` is empty");
        }
        for (index, seed) in self.seeds.iter().enumerate() {
            if self.seeds[..index].contains(seed) {
                bail!("seed {seed} stands twice");
            }
        }
        let of_base = [
            (Part::Pretrain, Some(&self.pretrain)),
            (Part::Finetune, Some(&self.finetune)),
            (Part::Tokenizer, self.tokenizer.as_ref()),
        ];
        let of_variants = self.variants.iter().flat_map(|variant| {
            [
                (Part::Pretrain, Some(&variant.pretrain)),
                (Part::Finetune, Some(&variant.finetune)),
            ]
        });
        for (part, table) in of_base.into_iter().chain(of_variants) {
            if let Some(key) =
                table.and_then(|table| OWN.iter().find(|key| table.contains_key(**key)))
            {
                bail!(
                    "`{part}` has `{key}`, which the study gives each run itself: set it for the whole study, outside the tables or by a flag"
                );
            }
        }
        for (index, variant) in self.variants.iter().enumerate() {
            let name = &variant.name;
            if name.trim().is_empty() {
                bail!("a variant has no name");
            }
            if variant.at.is_some_and(|at| !at.is_finite()) {
                bail!("variant {name}: `at` is no place on an axis");
            }
            for other in &self.variants[..index] {
                if other.name == *name {
                    bail!("two variants are called {name}");
                }
                if (&other.pretrain, &other.finetune) == (&variant.pretrain, &variant.finetune) {
                    bail!("variants {} and {name} have the same settings", other.name);
                }
            }
            if !variant.finetune.is_empty() && !self.measures(Metric::Finetune) {
                bail!(
                    "variant {name} has settings of fine-tuning, and `evaluate` does not ask for it"
                );
            }
        }
        Ok(())
    }

    /// Whether `metric` is among those asked for.
    pub(super) fn measures(&self, metric: Metric) -> bool {
        self.evaluate.contains(&metric)
    }

    /// Keeps the variants of these names alone.
    ///
    /// # Errors
    /// Where there is none of a name.
    pub(super) fn keep(&mut self, names: &[String]) -> anyhow::Result<()> {
        if let Some(unknown) = names
            .iter()
            .find(|name| self.variants.iter().all(|variant| variant.name != **name))
        {
            let known: Vec<&str> = self.variants.iter().map(|v| v.name.as_str()).collect();
            bail!("no variant {unknown:?}: there are {}", known.join(", "));
        }
        if !names.is_empty() {
            self.variants
                .retain(|variant| names.contains(&variant.name));
        }
        Ok(())
    }
}

impl Grid {
    fn is_empty(&self) -> bool {
        self.pretrain.is_empty() && self.finetune.is_empty()
    }

    /// Every combination, the last key's values changing fastest.
    fn variants(&self) -> anyhow::Result<Vec<Variant>> {
        let of_part = |part, table: &Table| {
            table
                .iter()
                .map(move |(key, values)| (part, key.clone(), values.clone()))
                .collect::<Vec<_>>()
        };
        let mut axes = of_part(Part::Pretrain, &self.pretrain);
        axes.extend(of_part(Part::Finetune, &self.finetune));
        let single = axes.len() == 1;
        let mut all = vec![Variant {
            name: String::new(),
            at: None,
            pretrain: Table::new(),
            finetune: Table::new(),
            published: Published::default(),
        }];
        for (part, key, values) in axes {
            let Some(values) = values.as_array().filter(|values| !values.is_empty()) else {
                bail!("grid.{part}.{key} is no list of values");
            };
            let mut more = vec![];
            for variant in &all {
                for value in values {
                    let mut next = variant.clone();
                    let told = match value {
                        toml::Value::String(word) => word.clone(),
                        value => value.to_string(),
                    };
                    if !next.name.is_empty() {
                        next.name.push_str(", ");
                    }
                    next.name += &format!("{key} {told}");
                    if single {
                        next.at = value
                            .as_float()
                            .or_else(|| value.as_integer().map(|number| number as f64));
                    }
                    let table = match part {
                        Part::Finetune => &mut next.finetune,
                        Part::Pretrain | Part::Tokenizer => &mut next.pretrain,
                    };
                    table.insert(key.clone(), value.clone());
                    more.push(next);
                }
            }
            all = more;
        }
        Ok(all)
    }
}

#[cfg(test)]
mod tests;
