//! The labels of a dataset: found when it is opened, then looked up by sample.

use std::collections::{BTreeSet, HashMap};
use std::path::PathBuf;

use crate::dataset::{Dataset, DatasetOptions};
use crate::error::{Error, Result};
use crate::label::{LabelSource, RawLabel};
use crate::parallel;
use crate::sample::SampleId;
use crate::source::{Ahead, Net};
use crate::spec::{Folder, ShardRef, ShardSet};

/// Name of the list of class names beside shards: a JSON array of strings.
pub const CLASSES_FILE: &str = "classes.json";

#[derive(Debug)]
pub(crate) struct Labels {
    source: LabelSource,
    classes: Option<Vec<String>>,
    by_name: HashMap<String, u32>,
}

impl Labels {
    pub(crate) fn none() -> Self {
        Self {
            source: LabelSource::None,
            classes: None,
            by_name: HashMap::new(),
        }
    }

    /// Decides where labels come from, and numbers string labels: by the names the caller gives, else by `classes.json`
    /// where it lists the first sample's, else by the sorted set of all that occur.
    pub(crate) fn find(
        dataset: &Dataset,
        set: &ShardSet,
        options: &DatasetOptions,
        net: &Net,
    ) -> Result<Self> {
        let classes = match &options.classes {
            Some(classes) => Some(classes.clone()),
            None => read_classes(set, net)?,
        };
        let mut labels = Self {
            source: options.labels.clone(),
            classes,
            by_name: HashMap::new(),
        };
        let Some(suffix) = options.labels.suffix() else {
            return Ok(labels);
        };

        let has_label = |id: &SampleId| dataset.members(*id).iter().any(|m| *m.suffix == *suffix);
        let Some(first) = dataset.ids().find(has_label) else {
            if options.labels != LabelSource::Cls {
                let sample = dataset.shards()[0].name.clone();
                let reason = format!(
                    "no sample has the member .{suffix} that the label field `{}` asks for",
                    options.labels
                );
                return Err(Error::Label { sample, reason });
            }
            // `.cls` is what is looked for unless told otherwise, and labels are optional.
            labels.source = LabelSource::None;
            return Ok(labels);
        };
        if let Ok(RawLabel::Name(name)) =
            labels.raw(dataset, first, &mut Vec::new(), &Ahead::default())
        {
            let listed = labels
                .classes
                .as_ref()
                .is_some_and(|classes| classes.contains(&name));
            if options.classes.is_none() && !listed {
                labels.classes = Some(labels.collect_names(dataset)?);
            }
            let classes = labels.classes.iter().flatten().cloned();
            labels.by_name = classes.zip(0..).collect();
        }
        Ok(labels)
    }

    pub(crate) fn any(&self) -> bool {
        self.source != LabelSource::None
    }

    pub(crate) fn classes(&self) -> Option<&[String]> {
        self.classes.as_deref()
    }

    /// Suffix of the member that holds the label.
    pub(crate) fn suffix(&self) -> Option<&str> {
        self.source.suffix()
    }

    pub(crate) fn get(
        &self,
        dataset: &Dataset,
        id: SampleId,
        ahead: &Ahead,
    ) -> Result<Option<u32>> {
        if !self.any() {
            return Ok(None);
        }
        let failed = |reason: String| Error::Label {
            sample: dataset.describe(id),
            reason,
        };
        let index = match self.raw(dataset, id, &mut Vec::new(), ahead)? {
            RawLabel::Index(index) => index,
            RawLabel::Name(name) => *self
                .by_name
                .get(&name)
                .ok_or_else(|| failed(format!("`{name}` is not a known class")))?,
        };
        match self.classes.as_ref().map(Vec::len) {
            Some(count) if index as usize >= count => Err(failed(format!(
                "class {index}, where {CLASSES_FILE} lists {count} classes"
            ))),
            _ => Ok(Some(index)),
        }
    }

    fn raw(
        &self,
        dataset: &Dataset,
        id: SampleId,
        buffer: &mut Vec<u8>,
        ahead: &Ahead,
    ) -> Result<RawLabel> {
        let failed = |reason: String| Error::Label {
            sample: dataset.describe(id),
            reason,
        };
        let suffix = self.source.suffix().unwrap_or_default();
        let member = dataset.members(id).iter().find(|m| *m.suffix == *suffix);
        let member =
            member.ok_or_else(|| failed(format!("no label: the member .{suffix} is missing")))?;
        dataset.read_ahead(id, member, buffer, ahead)?;
        self.source
            .parse(buffer)
            .map_err(|reason| failed(format!("label in .{suffix}: {reason}")))
    }

    /// The sorted set of names that occur. Samples without a readable label are left for [`get`](Self::get) to name.
    fn collect_names(&self, dataset: &Dataset) -> Result<Vec<String>> {
        let shards: Vec<u32> = (0..)
            .zip(dataset.shards())
            .map(|(shard, _)| shard)
            .collect();
        let found = parallel::try_map(&shards, 1, |_, &shard| {
            let mut buffer = Vec::new();
            let ids = (0..dataset.shard_len(shard)).map(|ordinal| SampleId { shard, ordinal });
            let labels =
                ids.filter_map(|id| self.raw(dataset, id, &mut buffer, &Ahead::default()).ok());
            Ok(labels
                .filter_map(|label| {
                    if let RawLabel::Name(name) = label {
                        Some(name)
                    } else {
                        None
                    }
                })
                .collect::<BTreeSet<_>>())
        })?;
        Ok(found
            .into_iter()
            .flatten()
            .collect::<BTreeSet<_>>()
            .into_iter()
            .collect())
    }
}

/// The class list beside the shards, where there is one.
fn read_classes(set: &ShardSet, net: &Net) -> Result<Option<Vec<String>>> {
    let mut found: Option<(PathBuf, Vec<String>)> = None;
    let folders: BTreeSet<Folder> = set.shards.iter().filter_map(ShardRef::folder).collect();
    for folder in folders {
        let Some((path, text)) = folder.read(CLASSES_FILE, net)? else {
            continue;
        };
        let bad = |reason: String| Error::Index {
            path: path.clone(),
            reason,
        };
        let classes: Vec<String> = serde_json::from_slice(&text)
            .map_err(|e| bad(format!("not a JSON array of class names ({e})")))?;
        match &found {
            Some((other, known)) if *known != classes => {
                return Err(bad(format!(
                    "differs from the class list in {}; their labels do not mix",
                    other.display()
                )));
            }
            Some(_) => {}
            None => found = Some((path, classes)),
        }
    }
    Ok(found.map(|(_, classes)| classes))
}
