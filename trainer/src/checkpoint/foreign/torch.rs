//! Files of `torch.save`: a pickle that names tensors, and their storages beside it. Zip archives, since torch 1.6, and the
//! older form, one stream.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{BufReader, Read, Seek as _, SeekFrom};
use std::path::Path;

use zip::{CompressionMethod, ZipArchive};

use super::archive::{About, Place, Stored};
use super::error::{ForeignError, Result, damaged, unsupported};
use super::object::weights;
use super::pickle::{self, Pickle, Value};

/// No checkpoint's pickle comes near: it holds names, shapes and settings.
const MOST_PICKLE: u64 = 64 << 20;
/// How a zip archive begins.
const ZIP_MAGIC: &[u8] = b"PK\x03\x04";
/// How the older form begins: a pickle of this number.
const OLD_MAGIC: &[u8] = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.";

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
        // What the pickle says of a storage's length may be more than there is.
        let numbers = |first: usize, count: usize| {
            let begin = first.checked_mul(width)?;
            storage.get(begin..begin.checked_add(count.checked_mul(width)?)?)
        };
        let cut_short = || damaged("its storage is cut short");
        if count == 0 {
            return Ok(vec![]);
        }
        if contiguous(&stored.shape, strides) {
            let from = numbers(*offset, count).ok_or_else(cut_short)?;
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
            bytes.extend_from_slice(numbers(offset + at, 1).ok_or_else(cut_short)?);
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
                if entry.compression() != CompressionMethod::Stored {
                    return Err(damaged("it is compressed, which torch never does").into());
                }
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
