//! Files of `torch.save`: a pickle that names tensors, and their storages beside it. Zip archives, since torch 1.6, and the
//! older form, one stream.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::fs::File;
use std::io::{BufReader, Read, Seek as _, SeekFrom};
use std::path::Path;

use serde_json::Value as Json;
use zip::ZipArchive;

use super::archive::{About, Place, Stored};
use super::dtype::Dtype;
use super::error::{ForeignError, Result, damaged, unsupported};
use super::pickle::{self, Id, Pickle, Value};

/// No checkpoint's pickle comes near: it holds names, shapes and settings.
const MOST_PICKLE: u64 = 64 << 20;
/// How a zip archive begins.
const ZIP_MAGIC: &[u8] = b"PK\x03\x04";
/// How the older form begins: a pickle of this number.
const OLD_MAGIC: &[u8] = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.";
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

/// An open file and its storages.
pub(super) struct TorchFile {
    storages: Storages,
    /// The storage that was read last.
    last: Option<(String, Vec<u8>)>,
}

enum Storages {
    Zip {
        archive: ZipArchive<BufReader<File>>,
        folder: String,
    },
    /// The older form: first byte and length of each.
    Stream {
        file: File,
        places: HashMap<String, (u64, u64)>,
    },
}

/// An error about one tensor.
pub(super) struct TensorError(ForeignError);

impl TensorError {
    pub(super) fn of(self, name: &str) -> ForeignError {
        match self.0 {
            ForeignError::Damaged(what) => damaged(format!("tensor {name}: {what}")),
            other => other,
        }
    }
}

impl<E: Into<ForeignError>> From<E> for TensorError {
    fn from(error: E) -> Self {
        Self(error.into())
    }
}

impl TorchFile {
    /// Whether a file that begins so may be one of torch's.
    pub(super) fn recognises(begin: &[u8]) -> bool {
        begin.starts_with(ZIP_MAGIC) || begin.starts_with(OLD_MAGIC)
    }

    /// Finds the weights in a file: at `key` (`a`, or `a.b` for one inside of the other), or where they are.
    pub(super) fn open(
        path: &Path,
        key: Option<&str>,
    ) -> Result<(Self, BTreeMap<String, Stored>, About)> {
        let mut file = File::open(path)?;
        let mut begin = vec![];
        (&mut file)
            .take(OLD_MAGIC.len() as u64)
            .read_to_end(&mut begin)?;
        file.seek(SeekFrom::Start(0))?;
        let (storages, pickle) = if begin.starts_with(ZIP_MAGIC) {
            open_zip(file)?
        } else if begin == OLD_MAGIC {
            open_stream(file)?
        } else {
            return Err(unsupported(
                "it is neither a safetensors file nor one of torch.save (.pth, .pt, .bin)",
            ));
        };
        let (tensors, about) = weights(&pickle, key)?;
        let file = Self {
            storages,
            last: None,
        };
        Ok((file, tensors, about))
    }

    /// A tensor's numbers, row-major.
    pub(super) fn read(&mut self, stored: &Stored) -> Result<Vec<f32>, TensorError> {
        let Place::Storage {
            key,
            offset,
            strides,
        } = &stored.place
        else {
            return Ok(vec![]);
        };
        if self.last.as_ref().is_none_or(|(last, _)| last != key) {
            self.last = Some((key.clone(), self.storages.read(key)?));
        }
        let storage = self.last.as_ref().map_or(&[][..], |(_, bytes)| bytes);
        let (width, count) = (stored.dtype.bytes(), stored.numbers());
        if contiguous(&stored.shape, strides) {
            let from = storage.get(offset * width..(offset + count) * width);
            let from = from.ok_or_else(|| damaged("its storage is cut short"))?;
            return Ok(stored.dtype.floats(from));
        }
        let mut bytes = Vec::with_capacity(count * width);
        let mut index = vec![0; stored.shape.len()];
        for _ in 0..count {
            let at: usize = index
                .iter()
                .zip(strides)
                .map(|(i, stride)| i * stride)
                .sum();
            let at = (offset + at) * width;
            let from = storage.get(at..at + width);
            bytes.extend_from_slice(from.ok_or_else(|| damaged("its storage is cut short"))?);
            for (i, &size) in index.iter_mut().zip(&stored.shape).rev() {
                *i += 1;
                if *i < size {
                    break;
                }
                *i = 0;
            }
        }
        Ok(stored.dtype.floats(&bytes))
    }
}

fn contiguous(shape: &[usize], strides: &[usize]) -> bool {
    let mut next = 1;
    shape.iter().zip(strides).rev().all(|(&size, &stride)| {
        let fits = size == 1 || stride == next;
        next *= size;
        fits
    })
}

impl Storages {
    fn read(&mut self, key: &str) -> Result<Vec<u8>, TensorError> {
        match self {
            Self::Zip { archive, folder } => {
                let name = format!("{folder}/data/{key}");
                let mut entry = archive.by_name(&name).map_err(zip_error)?;
                // What the header claims is reserved only as it is read.
                let mut bytes = vec![];
                entry.read_to_end(&mut bytes)?;
                Ok(bytes)
            }
            Self::Stream { file, places } => {
                let no_storage = || damaged("its storage is not in the file");
                let &(begin, length) = places.get(key).ok_or_else(no_storage)?;
                let mut bytes = vec![];
                file.seek(SeekFrom::Start(begin))?;
                file.take(length).read_to_end(&mut bytes)?;
                Ok(bytes)
            }
        }
    }
}

fn zip_error(error: zip::result::ZipError) -> ForeignError {
    match error {
        zip::result::ZipError::Io(error) => error.into(),
        other => damaged(format!("its zip archive is damaged: {other}")),
    }
}

fn open_zip(file: File) -> Result<(Storages, Pickle)> {
    let mut archive = ZipArchive::new(BufReader::new(file)).map_err(zip_error)?;
    let names: Vec<String> = archive
        .file_names()
        .filter_map(|name| Some(name.ok()?.into_owned()))
        .collect();
    let folder = names
        .iter()
        .find_map(|name| name.strip_suffix("/data.pkl"))
        .ok_or_else(|| unsupported("it is a zip archive, but not one of torch.save"))?
        .to_owned();
    if names.contains(&format!("{folder}/constants.pkl")) {
        return Err(unsupported(
            "it is a TorchScript archive; save the model's state_dict() with torch.save instead",
        ));
    }
    let mut read = |name: &str| -> Result<Vec<u8>> {
        let entry = archive.by_name(&format!("{folder}/{name}"));
        let mut bytes = vec![];
        entry
            .map_err(zip_error)?
            .take(MOST_PICKLE + 1)
            .read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    if names.contains(&format!("{folder}/byteorder")) && read("byteorder")? != b"little" {
        return Err(unsupported(
            "its numbers are big-endian; load and save it with torch on a little-endian machine",
        ));
    }
    let pickle = parse(&read("data.pkl")?)?;
    Ok((Storages::Zip { archive, folder }, pickle))
}

fn parse(bytes: &[u8]) -> Result<Pickle> {
    if bytes.len() as u64 > MOST_PICKLE {
        return Err(unsupported(format!(
            "what it holds beside its tensors takes more than {} MiB; save only the state_dict()",
            MOST_PICKLE >> 20
        )));
    }
    pickle::parse(bytes).map_err(|error| damaged(error.to_string()))
}

/// The older form: pickles of a magic number, a version, facts of the machine, the object, and the storages' keys; then each
/// storage, its count of numbers in front.
fn open_stream(mut file: File) -> Result<(Storages, Pickle)> {
    let mut begin = vec![];
    (&mut file).take(MOST_PICKLE).read_to_end(&mut begin)?;
    let mut at = 0;
    let mut next = || -> Result<Pickle> {
        let pickle = parse(&begin[at..])?;
        at += pickle.length;
        Ok(pickle)
    };
    let [_magic, _version, machine, object, keys] = [next()?, next()?, next()?, next()?, next()?];
    let little = machine.get(machine.root, "little_endian");
    if little.is_some_and(|id| *machine.value(id) == Value::Bool(false)) {
        return Err(unsupported(
            "its numbers are big-endian; load and save it with torch on a little-endian machine",
        ));
    }
    let widths = object.storages();
    let mut places = HashMap::new();
    let mut place = at as u64;
    for &id in keys.sequence(keys.root).unwrap_or_default() {
        let Some((key, &width)) = keys.text(id).and_then(|key| widths.get_key_value(key)) else {
            let what = "a storage is not that of any tensor; load and save it with a newer torch";
            return Err(unsupported(what));
        };
        let mut count = [0; 8];
        file.seek(SeekFrom::Start(place))?;
        file.read_exact(&mut count)?;
        let length = u64::from_le_bytes(count).checked_mul(width as u64);
        let length = length.ok_or_else(|| damaged("a storage's length overflows"))?;
        places.insert(key.clone(), (place + 8, length));
        place = place
            .checked_add(8)
            .and_then(|place| place.checked_add(length))
            .ok_or_else(|| damaged("a storage's length overflows"))?;
    }
    Ok((Storages::Stream { file, places }, object))
}

/// The weights at `key`, or those that are found, and what stands beside them.
fn weights(pickle: &Pickle, key: Option<&str>) -> Result<(BTreeMap<String, Stored>, About)> {
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
    let mut seen = std::collections::HashSet::new();
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
    fn storages(&self) -> HashMap<String, usize> {
        self.ids()
            .filter_map(|id| self.storage(id).ok())
            .map(|(key, dtype, _)| (key.to_owned(), dtype.bytes()))
            .collect()
    }
}
