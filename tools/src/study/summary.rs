//! What the tasks came to, by variant: each metric over the seeds, what it cost, what failed.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::definition::{Definition, Metric, Variant};
use super::plan::{Plan, Run};
use super::record::{Ended, Record};

/// A number from each seed.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Values(Vec<f64>);

impl Values {
    /// Over the seeds that are there; nothing where none is.
    pub(super) fn mean(&self) -> Option<f64> {
        let count = self.0.len() as f64;
        (!self.0.is_empty()).then(|| self.0.iter().sum::<f64>() / count)
    }

    /// The lowest and the highest, where there are several.
    pub(super) fn range(&self) -> Option<(f64, f64)> {
        let low = self.0.iter().copied().reduce(f64::min)?;
        let high = self.0.iter().copied().reduce(f64::max)?;
        (self.0.len() > 1).then_some((low, high))
    }

    /// The mean and, where there is one, the range, with so many decimals.
    pub(super) fn text(&self, decimals: usize) -> String {
        match (self.mean(), self.range()) {
            (Some(mean), Some((low, high))) => {
                format!("{mean:.decimals$} [{low:.decimals$}, {high:.decimals$}]")
            }
            (Some(mean), None) => format!("{mean:.decimals$}"),
            (None, _) => String::new(),
        }
    }
}

/// A variant and what came of it so far.
#[derive(Debug)]
pub(super) struct Row<'a> {
    pub(super) variant: &'a Variant,
    /// By the study's metrics, in the unit in which they are shown.
    pub(super) measured: Vec<(Metric, Values)>,
    /// Operations for an image in a step of pre-training, forward and backward.
    pub(super) flops: Option<f64>,
    /// Of pre-training.
    pub(super) images_per_second: Values,
    /// Minutes of pre-training and, where it is measured, of fine-tuning.
    pub(super) minutes: Values,
    /// The masked, reconstructed and original pictures' files of the first seed that has them.
    pub(super) pictures: Vec<Pictures>,
    /// What failed, and why.
    pub(super) failures: Vec<(String, String)>,
}

/// An image's files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Pictures {
    pub(super) original: PathBuf,
    pub(super) masked: PathBuf,
    pub(super) reconstructed: PathBuf,
}

/// What is known of each variant; the study's folder is `root`.
pub(super) fn rows<'a>(
    study: &'a Definition,
    plan: &Plan,
    record: &Record,
    root: &Path,
) -> Vec<Row<'a>> {
    let figure = |task: usize, key: &str| match record.of(&plan.tasks[task].folder) {
        Some(Ended::Done { figures }) => figures.get(key).cloned(),
        _ => None,
    };
    let number = |task: usize, key: &str| figure(task, key).as_ref().and_then(Value::as_f64);
    let mut rows = vec![];
    for (variant, runs) in study.variants.iter().zip(&plan.runs) {
        let measured = study.evaluate.iter().enumerate().map(|(column, &metric)| {
            let of_seed = |run: &Run| {
                number(run.measures[column].1, metric.key()).map(|value| metric.shown(value))
            };
            (metric, Values(runs.iter().filter_map(of_seed).collect()))
        });
        let minutes = |run: &Run| {
            let tuned = run
                .measures
                .iter()
                .find(|(metric, _)| *metric == Metric::Finetune)
                .map_or(Some(0.0), |(_, task)| number(*task, "seconds"));
            Some((number(run.pretrain, "seconds")? + tuned?) / 60.0)
        };
        let speed = |run: &Run| number(run.pretrain, "images_per_second");
        let mut failures: Vec<(String, String)> = vec![];
        for run in runs {
            let tasks = plan.tasks[run.pretrain]
                .after
                .into_iter()
                .chain([run.pretrain, run.pictures]);
            for task in tasks.chain(run.measures.iter().map(|(_, task)| *task)) {
                let task = &plan.tasks[task];
                if let Some(Ended::Failed { reason }) = record.of(&task.folder) {
                    failures.push((task.name.clone(), reason.clone()));
                }
            }
        }
        rows.push(Row {
            variant,
            measured: measured.collect(),
            flops: runs
                .iter()
                .find_map(|run| number(run.pretrain, "flops_per_image")),
            images_per_second: Values(runs.iter().filter_map(speed).collect()),
            minutes: Values(runs.iter().filter_map(minutes).collect()),
            pictures: runs
                .iter()
                .find_map(|run| {
                    let files = figure(run.pictures, "files")?;
                    Some(pictures(
                        &files,
                        &root.join(&plan.tasks[run.pictures].folder),
                    ))
                })
                .unwrap_or_default(),
            failures,
        });
    }
    rows
}

/// Groups the files that `mae eval reconstruct --separate` names: all originals, then a masked and a reconstructed one for each.
fn pictures(files: &Value, folder: &Path) -> Vec<Pictures> {
    let files: Vec<&str> = files
        .as_array()
        .map_or(&[][..], Vec::as_slice)
        .iter()
        .filter_map(Value::as_str)
        .collect();
    let count = files.len() / 3;
    let (originals, others) = files.split_at(count);
    originals
        .iter()
        .zip(others.chunks_exact(2))
        .map(|(original, pair)| Pictures {
            original: folder.join(original),
            masked: folder.join(pair[0]),
            reconstructed: folder.join(pair[1]),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn values_over_seeds() {
        let values = Values(vec![70.0, 71.0, 72.5]);
        assert_eq!(values.range(), Some((70.0, 72.5)));
        assert_eq!(values.text(1), "71.2 [70.0, 72.5]");
        assert_eq!(Values(vec![70.04]).text(1), "70.0");
        assert_eq!(Values(vec![70.04]).range(), None);
        assert_eq!(Values::default().text(1), "");
    }

    #[test]
    fn pictures_are_grouped_by_image() {
        let files = json!(["a.o", "b.o", "a.m", "a.r", "b.m", "b.r"]);
        let grouped = pictures(&files, Path::new("p"));
        assert_eq!(grouped.len(), 2);
        assert_eq!(grouped[1].original, Path::new("p/b.o"));
        assert_eq!(grouped[1].masked, Path::new("p/b.m"));
        assert_eq!(grouped[1].reconstructed, Path::new("p/b.r"));
        assert!(pictures(&Value::Null, Path::new("p")).is_empty());
    }
}
