//! The object that torch saved: where in its dictionaries the weights are, and what a tensor in it is.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};

use serde_json::Value as Json;

use super::archive::{About, Place, Stored};
use super::dtype::Dtype;
use super::error::{ForeignError, Result, damaged, unsupported};
use super::pickle::{Id, Pickle, Value};

/// How deep in dictionaries weights are looked for.
const DEPTH: usize = 3;
/// Which of several sets of weights to take: what is meant for use, before what trains. As timm and DINO do.
const PREFERRED: &[&str] = &[
    "teacher",
    "state_dict_ema",
    "model_ema",
    "state_dict",
    "model",
];
/// How a set of weights of a vision transformer is recognised.
pub(super) const PATCH_EMBEDDINGS: [&str; 2] = [
    "patch_embed.proj.weight",
    "embeddings.patch_embeddings.projection.weight",
];

/// The weights at `key`, or those that are found, and what stands beside them.
pub(super) fn weights(
    pickle: &Pickle,
    key: Option<&str>,
) -> Result<(BTreeMap<String, Stored>, About)> {
    let mut about = beside(pickle);
    let mut found = sets_of_weights(pickle);
    let position = match key {
        Some(key) => found.iter().position(|(path, _)| path == key),
        None => {
            let rank = |path: &str| PREFERRED.iter().position(|name| *name == path);
            // The outermost first, then by preference, then in the file's order.
            (0..found.len()).min_by_key(|&i| {
                let path = found[i].0.as_str();
                (!path.is_empty(), rank(path).unwrap_or(PREFERRED.len()), i)
            })
        }
    };
    let paths: Vec<String> = found.iter().map(|(path, _)| path.clone()).collect();
    let Some(position) = position else {
        return Err(match key {
            Some(key) if !found.is_empty() => unsupported(format!(
                "no weights of a vision transformer stand at {key}; they stand at: {}",
                paths.join(", ")
            )),
            _ => no_weights(pickle),
        });
    };
    let (path, id) = found.swap_remove(position);
    about.other_keys = paths.into_iter().filter(|other| *other != path).collect();
    about.key = Some(path).filter(|path| !path.is_empty());
    let mut tensors = BTreeMap::new();
    for (name, id) in pickle.entries(id) {
        match pickle.tensor(id, 0) {
            Some(Ok(stored)) => drop(tensors.insert(name.to_owned(), stored)),
            Some(Err(what)) => return Err(damaged(format!("tensor {name}: {what}"))),
            None => {}
        }
    }
    Ok((tensors, about))
}

/// Every dictionary that holds a vision transformer's weights, by the way to it, outermost first.
fn sets_of_weights(pickle: &Pickle) -> Vec<(String, Id)> {
    let mut found = vec![];
    let mut queue = VecDeque::from([(String::new(), pickle.root, 0)]);
    let mut seen = HashSet::new();
    while let Some((path, id, depth)) = queue.pop_front() {
        // The same dictionary may stand in several places, or in itself.
        if !seen.insert(id) {
            continue;
        }
        let is_patch_embedding =
            |name: &str| PATCH_EMBEDDINGS.iter().any(|end| name.ends_with(end));
        if pickle.entries(id).any(|(name, _)| is_patch_embedding(name)) {
            found.push((path, id));
        } else if depth < DEPTH {
            for (name, id) in pickle.entries(id) {
                if matches!(pickle.value(id), Value::Dict(_)) {
                    let point = if path.is_empty() { "" } else { "." };
                    queue.push_back((format!("{path}{point}{name}"), id, depth + 1));
                }
            }
        }
    }
    found
}

fn no_weights(pickle: &Pickle) -> ForeignError {
    if pickle.get(pickle.root, "_modules").is_some() {
        return unsupported(
            "it holds a whole module, which only its own program can load; save its state_dict() instead",
        );
    }
    let mut names: Vec<&str> = pickle.entries(pickle.root).map(|(name, _)| name).collect();
    let more = names.len().saturating_sub(12);
    names.truncate(12);
    let more = if more > 0 {
        format!(" and {more} more")
    } else {
        String::new()
    };
    unsupported(format!(
        "it holds no weights of a vision transformer (no {}); at its top stand: {}{more}",
        PATCH_EMBEDDINGS[0],
        names.join(", ")
    ))
}

/// Settings and descriptions at the top of a file.
fn beside(pickle: &Pickle) -> About {
    let plain = |(name, id): (&str, Id)| {
        let value = match pickle.value(id) {
            Value::Text(text) => Json::from(text.as_str()),
            Value::Int(number) => Json::from(*number),
            Value::Float(number) => Json::from(*number),
            Value::Bool(truth) => Json::from(*truth),
            _ => return None,
        };
        Some((name.to_owned(), value))
    };
    let settings = ["args", "hyper_parameters"]
        .iter()
        .filter_map(|name| pickle.get(pickle.root, name))
        .flat_map(|id| pickle.entries(id).filter_map(plain))
        .chain(pickle.entries(pickle.root).filter_map(plain))
        .collect();
    let described = pickle.get(pickle.root, super::DESCRIPTION);
    About {
        settings,
        described: described.and_then(|id| pickle.text(id)).map(str::to_owned),
        ..About::default()
    }
}

impl Pickle {
    /// A tensor's place, if `id` is one; an error in words if it is one that contradicts itself.
    fn tensor(&self, id: Id, depth: usize) -> Option<Result<Stored, String>> {
        let (module, name, args) = self.call(id)?;
        match (module, name, args) {
            ("torch._utils", "_rebuild_tensor_v2", [storage, offset, shape, strides, ..]) => {
                Some(self.rebuilt(*storage, *offset, *shape, *strides))
            }
            (
                "torch._utils",
                "_rebuild_parameter" | "_rebuild_parameter_with_state",
                [data, ..],
            ) if depth < DEPTH => self.tensor(*data, depth + 1),
            // A subclass of tensors: what it is rebuilt by, its type, and with what.
            ("torch._tensor", "_rebuild_from_type_v2", [by, _, with, ..]) => {
                match (self.value(*by), self.sequence(*with)?) {
                    (Value::Global(_, by), [storage, offset, shape, strides, ..])
                        if by == "_rebuild_tensor_v2" =>
                    {
                        Some(self.rebuilt(*storage, *offset, *shape, *strides))
                    }
                    _ => None,
                }
            }
            _ => None,
        }
    }

    fn rebuilt(&self, storage: Id, offset: Id, shape: Id, strides: Id) -> Result<Stored, String> {
        let (key, dtype, length) = self.storage(storage)?;
        let sizes = |id| {
            let ids = self.sequence(id)?.iter();
            ids.map(|id| self.size(*id)).collect::<Option<Vec<usize>>>()
        };
        let (shape, strides) = (sizes(shape), sizes(strides));
        let (Some(offset), Some(shape), Some(strides)) = (self.size(offset), shape, strides) else {
            return Err("its shape is no list of numbers".into());
        };
        // The last number of the tensor must be within the storage, and none may stand for two.
        let numbers = shape
            .iter()
            .try_fold(1usize, |n, &size| n.checked_mul(size));
        let extent = shape
            .iter()
            .zip(&strides)
            .try_fold(offset, |last, (size, stride)| {
                last.checked_add(size.saturating_sub(1).checked_mul(*stride)?)
            });
        let fits = match (numbers, extent) {
            (Some(0), _) => true,
            (Some(numbers), Some(last)) => numbers <= length && last < length,
            _ => false,
        };
        if !fits || shape.len() != strides.len() {
            return Err("its shape does not fit its storage".into());
        }
        let place = Place::Storage {
            key: key.to_owned(),
            offset,
            strides,
        };
        Ok(Stored {
            dtype,
            shape,
            place,
        })
    }

    /// A storage's key, number format, and count of numbers.
    fn storage(&self, id: Id) -> Result<(&str, Dtype, usize), String> {
        let no_storage = || "its storage is not as torch.save writes it".to_owned();
        let Value::Persistent(id) = self.value(id) else {
            return Err(no_storage());
        };
        let [kind, class, key, _device, length, ..] = self.sequence(*id).ok_or_else(no_storage)?
        else {
            return Err(no_storage());
        };
        let (Value::Global(_, class), Some("storage"), Some(key), Some(length)) = (
            self.value(*class),
            self.text(*kind),
            self.text(*key),
            self.size(*length),
        ) else {
            return Err(no_storage());
        };
        let dtype = Dtype::of_storage(class);
        let dtype = dtype.ok_or_else(|| format!("{class} is not among the formats read here"))?;
        Ok((key, dtype, length))
    }

    /// Bytes a number of every storage, by key.
    pub(super) fn storages(&self) -> HashMap<String, usize> {
        self.ids()
            .filter_map(|id| self.storage(id).ok())
            .map(|(key, dtype, _)| (key.to_owned(), dtype.bytes()))
            .collect()
    }
}
