//! Datasets: what shards hold, how samples are spread over classes, and what stands out.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Display};
use std::fs;
use std::path::Path;

use anyhow::Result;
use mae_loader::shard::Prepared;
use mae_loader::source::Encoding;
use mae_loader::{Dataset, DatasetOptions, LabelSource};
use serde::Serialize;

use super::InspectArgs;
use super::images::{self, ImageReport, Spread};
use crate::units::{show_bytes, show_count};

/// Rows of a table that are shown without `--all`.
const ROWS: usize = 20;
/// Samples that are named where many share a problem.
const EXAMPLES: usize = 3;

#[derive(Debug, Serialize)]
pub(super) struct DatasetReport {
    kind: &'static str,
    samples: u64,
    bytes: u64,
    shards: Vec<ShardRow>,
    suffixes: BTreeMap<String, u64>,
    labels: Option<LabelReport>,
    images: ImageReport,
    digest: String,
    problems: Vec<String>,
    #[serde(skip)]
    rows: usize,
}

#[derive(Debug, Serialize)]
struct ShardRow {
    name: String,
    samples: u32,
    bytes: u64,
    compression: Option<&'static str>,
    indexed: bool,
    prepared: Option<Prepared>,
}

#[derive(Debug, Serialize)]
struct LabelReport {
    field: String,
    classes: Vec<ClassRow>,
}

#[derive(Debug, Serialize)]
struct ClassRow {
    index: u32,
    name: Option<String>,
    samples: u64,
}

pub(super) fn inspect(specs: &[String], args: &InspectArgs) -> Result<DatasetReport> {
    let options = DatasetOptions {
        labels: args.label_field.clone(),
        cache_dir: args.cache.cache.clone(),
        cache_bytes: args.cache.cache_size.0,
        ..DatasetOptions::default()
    };
    let dataset = Dataset::open(specs, &options)?;
    let mut problems = shard_problems(&dataset);
    let labels = labels(&dataset, &args.label_field, &mut problems);
    let images = images::examine(&dataset, args.images);
    problems.extend(
        images
            .bad
            .iter()
            .map(|bad| format!("does not decode: {bad}")),
    );

    let row = |info: &mae_loader::ShardInfo| ShardRow {
        name: info.name.clone(),
        samples: info.samples,
        bytes: info.bytes,
        compression: match info.encoding {
            Encoding::Plain => None,
            Encoding::Gzip => Some("gzip"),
            Encoding::Zstd => Some("zstd"),
        },
        indexed: info.indexed,
        prepared: info.prepared,
    };
    Ok(DatasetReport {
        kind: "dataset",
        samples: dataset.len(),
        bytes: dataset.shards().iter().map(|info| info.bytes).sum(),
        shards: dataset.shards().iter().map(row).collect(),
        suffixes: suffixes(&dataset),
        labels,
        images,
        digest: dataset.digest().to_owned(),
        problems,
        rows: if args.all { usize::MAX } else { ROWS },
    })
}

fn suffixes(dataset: &Dataset) -> BTreeMap<String, u64> {
    let mut counts: BTreeMap<&str, u64> = BTreeMap::new();
    for (shard, _) in (0..).zip(dataset.shards()) {
        for member in dataset
            .table(shard)
            .samples()
            .flat_map(|sample| sample.members)
        {
            *counts.entry(&member.suffix).or_default() += 1;
        }
    }
    counts
        .into_iter()
        .map(|(suffix, count)| (suffix.to_owned(), count))
        .collect()
}

fn shard_problems(dataset: &Dataset) -> Vec<String> {
    let mut problems = Vec::new();
    for info in dataset.shards() {
        problems.extend(
            info.notes
                .iter()
                .map(|note| format!("{}: {note}", info.name)),
        );
        if info.without_image > 0 {
            problems.push(format!(
                "{}: {} samples have no image",
                info.name, info.without_image
            ));
        } else if info.samples == 0 {
            problems.push(format!("{}: no samples", info.name));
        }
    }
    let folders: BTreeSet<&Path> = dataset
        .shards()
        .iter()
        .filter_map(|info| Path::new(&info.name).parent())
        .collect();
    for folder in folders {
        let entries = fs::read_dir(if folder.as_os_str().is_empty() {
            Path::new(".")
        } else {
            folder
        });
        let partial = entries
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.file_name().to_string_lossy().into_owned());
        for name in partial.filter(|name| name.starts_with('.') && name.ends_with(".partial")) {
            problems.push(format!(
                "{}: left by a run that was interrupted, or is still writing",
                folder.join(name).display()
            ));
        }
    }
    problems
}

fn labels(
    dataset: &Dataset,
    field: &LabelSource,
    problems: &mut Vec<String>,
) -> Option<LabelReport> {
    if !dataset.has_labels() {
        return None;
    }
    let names = dataset.classes().unwrap_or_default();
    let mut counts: BTreeMap<u32, u64> = (0..).zip(names).map(|(index, _)| (index, 0)).collect();
    let (mut bad, mut examples) = (0_u64, Vec::new());
    for id in dataset.ids() {
        match dataset.label(id) {
            Ok(Some(index)) => *counts.entry(index).or_default() += 1,
            Ok(None) => {}
            Err(error) => {
                bad += 1;
                if examples.len() < EXAMPLES {
                    examples.push(error.to_string());
                }
            }
        }
    }
    if bad > 0 {
        problems.push(format!(
            "{bad} samples have no usable label, such as {}",
            examples.join("; ")
        ));
    }
    let empty = counts.values().filter(|count| **count == 0).count();
    if empty > 0 {
        problems.push(format!(
            "{empty} of {} classes have no samples",
            counts.len()
        ));
    }
    let row = |(index, samples)| ClassRow {
        index,
        name: names.get(index as usize).cloned(),
        samples,
    };
    Some(LabelReport {
        field: field.to_string(),
        classes: counts.into_iter().map(row).collect(),
    })
}

impl Display for DatasetReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{} in {}, {}",
            show_count(self.samples, "sample"),
            show_count(self.shards.len() as u64, "shard"),
            show_bytes(self.bytes)
        )?;
        let suffixes: Vec<_> = self
            .suffixes
            .iter()
            .map(|(suffix, count)| format!("{count} .{suffix}"))
            .collect();
        writeln!(f, "members  {}", suffixes.join(", "))?;
        writeln!(f, "digest   {}", self.digest)?;
        if self.images.examined > 0 {
            writeln!(f, "{}", self.images)?;
        }

        writeln!(f, "\nshards")?;
        for shard in self.shards.iter().take(self.rows) {
            let compression = shard
                .compression
                .map_or_else(String::new, |name| format!(", {name}"));
            let indexed = if shard.indexed { "" } else { ", no index" };
            let prepared = shard.prepared.map_or_else(String::new, |prepared| {
                let Prepared {
                    short_side,
                    quality,
                } = prepared;
                format!(", short side {short_side}, quality {quality}")
            });
            writeln!(
                f,
                "  {:>8} samples  {:>9}  {}{compression}{indexed}{prepared}",
                shard.samples,
                show_bytes(shard.bytes),
                shard.name
            )?;
        }
        more(f, self.shards.len(), self.rows)?;

        match &self.labels {
            None => writeln!(f, "\nno labels")?,
            Some(labels) => {
                writeln!(
                    f,
                    "\n{}, labels from {}",
                    show_count(labels.classes.len() as u64, "class"),
                    labels.field
                )?;
                for class in labels.classes.iter().take(self.rows) {
                    let name = class.name.as_deref().unwrap_or_default();
                    writeln!(
                        f,
                        "  {:>8} samples  {:>5}  {name}",
                        class.samples, class.index
                    )?;
                }
                more(f, labels.classes.len(), self.rows)?;
            }
        }

        match self.problems.len() {
            0 => writeln!(f, "\nno problems found"),
            count => {
                writeln!(f, "\n{}", show_count(count as u64, "problem"))?;
                self.problems
                    .iter()
                    .take(self.rows)
                    .try_for_each(|problem| writeln!(f, "  {problem}"))?;
                more(f, count, self.rows)
            }
        }
    }
}

fn more(f: &mut fmt::Formatter<'_>, count: usize, rows: usize) -> fmt::Result {
    match count.checked_sub(rows) {
        Some(hidden @ 1..) => writeln!(f, "  … and {hidden} more (--all shows them)"),
        _ => Ok(()),
    }
}

impl Display for ImageReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let formats: Vec<_> = self
            .formats
            .iter()
            .map(|(format, count)| format!("{count} {format}"))
            .collect();
        write!(
            f,
            "images   {} decoded: {}; width {}, height {}, {} each on average",
            self.examined,
            formats.join(", "),
            self.width,
            self.height,
            show_bytes(self.bytes.mean as u64)
        )
    }
}

impl Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.min == self.max {
            write!(f, "{}", self.min)
        } else {
            write!(f, "{}–{} (mean {:.0})", self.min, self.max, self.mean)
        }
    }
}
