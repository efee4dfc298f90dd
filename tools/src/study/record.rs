//! `results.jsonl`: what each task came to, a line as each ends. Started again, a study takes from it what is done.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use toml::Table;

use super::plan::Plan;

/// How a task ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "lowercase")]
pub(super) enum Ended {
    /// With these figures; accuracies are shares.
    Done {
        figures: Map<String, Value>,
    },
    Failed {
        reason: String,
    },
}

/// A line.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Line {
    pub(super) task: String,
    /// From the study's folder.
    pub(super) folder: PathBuf,
    #[serde(flatten)]
    pub(super) ended: Ended,
    /// How long the last attempt took.
    pub(super) seconds: f64,
    /// When it ended, in seconds since 1970.
    pub(super) time: u64,
    /// All that the result depends on.
    pub(super) settings: Table,
}

/// The record of a study's folder.
#[derive(Debug)]
pub(super) struct Record {
    path: PathBuf,
    file: File,
    /// The last line of each folder.
    lines: HashMap<PathBuf, Line>,
}

impl Record {
    /// Opens the record in `folder`, which may have none yet. A last line that was cut short is removed.
    ///
    /// # Errors
    /// Where it cannot be read or written, or has lines that are none of ours.
    pub(super) fn open(folder: &Path) -> anyhow::Result<Self> {
        let path = folder.join("results.jsonl");
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => String::new(),
            Err(error) => {
                return Err(error).with_context(|| format!("cannot read {}", path.display()));
            }
        };
        let whole = text.rfind('\n').map_or(0, |end| end + 1);
        let mut lines = HashMap::new();
        for (number, line) in text[..whole].lines().enumerate() {
            let line: Line = serde_json::from_str(line).with_context(|| {
                format!(
                    "{}, line {}: no result of a study",
                    path.display(),
                    number + 1
                )
            })?;
            lines.insert(line.folder.clone(), line);
        }
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&path)
            .and_then(|file| file.set_len(whole as u64).map(|()| file))
            .with_context(|| format!("cannot write {}", path.display()))?;
        Ok(Self { path, file, lines })
    }

    /// What is known of the task whose output lies in `folder`.
    pub(super) fn of(&self, folder: &Path) -> Option<&Ended> {
        self.lines.get(folder).map(|line| &line.ended)
    }

    /// Checks that what is done of `plan` was done by the same settings. What has lost its folder under `root` is forgotten.
    ///
    /// # Errors
    /// Naming a task whose settings are others now, and what of them.
    pub(super) fn suit(&mut self, plan: &Plan, root: &Path) -> anyhow::Result<()> {
        self.lines.retain(|folder, _| root.join(folder).exists());
        for (index, task) in plan.tasks.iter().enumerate() {
            let Some(line) = self.lines.get(&task.folder) else {
                continue;
            };
            let now = plan.identity(index);
            if line.settings != now {
                bail!(
                    "{} holds results of \"{}\" by other settings ({}); take another --output-dir, or remove {} to have it done again",
                    root.display(),
                    line.task,
                    differences("", &line.settings, &now).join(", "),
                    root.join(&task.folder).display()
                );
            }
        }
        Ok(())
    }

    /// Adds a line, on the disk before it returns.
    ///
    /// # Errors
    /// Where it cannot be written.
    pub(super) fn add(&mut self, line: Line) -> anyhow::Result<()> {
        let mut text = serde_json::to_string(&line)?;
        text.push('\n');
        self.file
            .write_all(text.as_bytes())
            .and_then(|()| self.file.sync_data())
            .with_context(|| format!("cannot write {}", self.path.display()))?;
        self.lines.insert(line.folder.clone(), line);
        Ok(())
    }
}

/// What differs, key by key.
fn differences(within: &str, then: &Table, now: &Table) -> Vec<String> {
    let keys = then
        .keys()
        .chain(now.keys().filter(|key| !then.contains_key(*key)));
    let mut all = vec![];
    for key in keys {
        let told =
            |value: Option<&toml::Value>| value.map_or("not set".into(), toml::Value::to_string);
        match (then.get(key), now.get(key)) {
            (Some(toml::Value::Table(then)), Some(toml::Value::Table(now))) => {
                all.extend(differences(&format!("{key} "), then, now));
            }
            (then, now) if then != now => {
                all.push(format!("{within}{key}: {}, now {}", told(then), told(now)));
            }
            _ => {}
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::study::definition::Definition;

    fn plan(epochs: u64) -> Plan {
        let text = format!(
            "title = 'T'\nknob = 'k'\nevaluate = ['knn']\ndata = 'd.tar'\n[pretrain]\nmodel = 'mae-micro-patch4'\nepochs = {epochs}\n\
             [[variant]]\nname = 'a'\n"
        );
        Plan::of(&Definition::parse(&text).unwrap()).unwrap()
    }

    fn line(plan: &Plan, index: usize) -> Line {
        Line {
            task: plan.tasks[index].name.clone(),
            folder: plan.tasks[index].folder.clone(),
            ended: Ended::Done {
                figures: Map::from_iter([("top1".to_owned(), 0.5.into())]),
            },
            seconds: 1.5,
            time: 7,
            settings: plan.identity(index),
        }
    }

    #[test]
    fn what_is_done_is_known_after_a_line_cut_short() {
        let root = tempfile::tempdir().unwrap();
        let plan = plan(2);
        let mut record = Record::open(root.path()).unwrap();
        for index in 0..2 {
            std::fs::create_dir_all(root.path().join(&plan.tasks[index].folder)).unwrap();
            record.add(line(&plan, index)).unwrap();
        }
        let path = root.path().join("results.jsonl");
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, &text[..text.len() - 5]).unwrap();

        let mut record = Record::open(root.path()).unwrap();
        record.suit(&plan, root.path()).unwrap();
        assert_eq!(
            record.of(&plan.tasks[0].folder),
            Some(&line(&plan, 0).ended)
        );
        assert_eq!(record.of(&plan.tasks[1].folder), None);
        record.add(line(&plan, 1)).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
    }

    #[test]
    fn results_by_other_settings_are_refused_until_they_are_removed() {
        let root = tempfile::tempdir().unwrap();
        let done = plan(2);
        let folder = root.path().join(&done.tasks[0].folder);
        std::fs::create_dir_all(&folder).unwrap();
        let mut record = Record::open(root.path()).unwrap();
        record.add(line(&done, 0)).unwrap();
        let said = record.suit(&plan(3), root.path()).unwrap_err().to_string();
        assert!(
            said.contains("epochs: 2, now 3") && said.contains("seed-0/pretrain"),
            "{said}"
        );
        std::fs::remove_dir(&folder).unwrap();
        record.suit(&plan(3), root.path()).unwrap();
        assert_eq!(record.of(&done.tasks[0].folder), None);
    }

    #[test]
    fn what_is_no_record_is_left_alone() {
        let root = tempfile::tempdir().unwrap();
        std::fs::write(root.path().join("results.jsonl"), "{}\n").unwrap();
        let said = format!("{:#}", Record::open(root.path()).unwrap_err());
        assert!(said.contains("line 1"), "{said}");
    }
}
