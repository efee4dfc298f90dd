//! A file of named tensors, described but not yet read: torch's or safetensors'.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};

use mae_model::{StateDict, StateTensor};
use safetensors::SafeTensors;
use serde_json::Value as Json;

use super::dtype::Dtype;
use super::error::{Result, damaged, unsupported};
use super::torch::TorchFile;

/// A tensor in a file.
#[derive(Debug, Clone)]
pub(super) struct Stored {
    pub(super) dtype: Dtype,
    pub(super) shape: Vec<usize>,
    pub(super) place: Place,
}

/// Where a tensor's numbers stand.
#[derive(Debug, Clone)]
pub(super) enum Place {
    /// In row-major order from this byte of the file.
    Bytes(u64),
    /// Element by element in one of torch's storages, which tensors may share.
    Storage {
        key: String,
        offset: usize,
        strides: Vec<usize>,
    },
}

impl Stored {
    pub(super) fn numbers(&self) -> usize {
        self.shape.iter().product()
    }
}

/// Named tensors, and what the file says beside them.
pub(super) struct Archive {
    path: PathBuf,
    pub(super) tensors: BTreeMap<String, Stored>,
    pub(super) about: About,
    torch: Option<TorchFile>,
}

/// What a file says besides its tensors.
#[derive(Debug, Default)]
pub(super) struct About {
    /// The way to the weights inside of the file, such as `teacher`; other ways that hold weights, too.
    pub(super) key: Option<String>,
    pub(super) other_keys: Vec<String>,
    /// Settings of the program that trained the model (`args`), by name: texts, numbers and truth values.
    pub(super) settings: BTreeMap<String, Json>,
    /// What `mae export` said of the model.
    pub(super) described: Option<String>,
}

impl Archive {
    /// Opens a `.pth` (`.pt`, `.bin`, `.tar`) or `.safetensors` file; which one it is is told by its content. `key` is the
    /// way to the weights inside of a torch file, where it holds several.
    pub(super) fn open(path: &Path, key: Option<&str>) -> Result<Self> {
        let mut file = File::open(path)?;
        let mut begin = vec![];
        (&mut file).take(9).read_to_end(&mut begin)?;
        if is_safetensors(&begin) {
            return Self::safetensors(path, &mut file);
        }
        let (torch, tensors, about) = TorchFile::open(path, key)?;
        Ok(Self {
            path: path.into(),
            tensors,
            about,
            torch: Some(torch),
        })
    }

    /// Whether a file that begins so is one that [`Archive::open`] may read.
    pub(super) fn recognises(begin: &[u8]) -> bool {
        is_safetensors(begin) || TorchFile::recognises(begin)
    }

    fn safetensors(path: &Path, file: &mut File) -> Result<Self> {
        // All of it: the crate checks a header only against its whole file.
        file.seek(SeekFrom::Start(0))?;
        let mut content = vec![];
        file.read_to_end(&mut content)?;
        let not_whole = |error| damaged(format!("it is no whole safetensors file: {error}"));
        let (header, metadata) = SafeTensors::read_metadata(&content).map_err(not_whole)?;
        let tensors = metadata
            .tensors()
            .into_iter()
            .filter_map(|(name, info)| {
                let stored = Stored {
                    dtype: Dtype::of_safetensors(info.dtype)?,
                    shape: info.shape.clone(),
                    // Offsets count from behind the header and its length.
                    place: Place::Bytes((8 + header + info.data_offsets.0) as u64),
                };
                Some((name, stored))
            })
            .collect();
        Ok(Self {
            path: path.into(),
            tensors,
            about: About::default(),
            torch: None,
        })
    }

    /// Reads tensors, each under another name: (name in the file, name to give).
    ///
    /// # Errors
    /// If one is no tensor of floating-point numbers, or the file is damaged.
    pub(super) fn read(&mut self, names: &[(&str, &str)]) -> Result<StateDict> {
        let mut wanted = vec![];
        let mut bytes = 0u64;
        for (name, to) in names {
            let stored = self
                .tensors
                .get(*name)
                .ok_or_else(|| damaged(format!("{name} is not in the file")))?;
            if let Dtype::Whole(_) = stored.dtype {
                let dtype = stored.dtype;
                return Err(unsupported(format!("{name} holds {dtype}, not weights")));
            }
            let size = stored.numbers().saturating_mul(stored.dtype.bytes());
            bytes = bytes.saturating_add(size as u64);
            wanted.push((*name, *to, stored.clone()));
        }
        // Tensors may share numbers, but not so often that a small file fills the memory.
        let most = self.path.metadata()?.len().saturating_mul(4) + (1 << 20);
        if bytes > most {
            return Err(damaged("its tensors repeat each other's numbers too often"));
        }
        let mut state = StateDict::new();
        match &mut self.torch {
            Some(torch) => {
                // One storage after the other, so that each is read once.
                let storage = |stored: &Stored| match &stored.place {
                    Place::Storage { key, .. } => key.clone(),
                    Place::Bytes(_) => String::new(),
                };
                wanted.sort_by_cached_key(|(_, _, stored)| storage(stored));
                for (name, to, stored) in wanted {
                    let data = torch.read(&stored).map_err(|error| error.of(name))?;
                    let shape = stored.shape;
                    state.insert(to.to_owned(), StateTensor { shape, data });
                }
            }
            None => {
                let mut file = File::open(&self.path)?;
                for (_, to, stored) in wanted {
                    let Place::Bytes(begin) = stored.place else {
                        continue;
                    };
                    let mut bytes = vec![0; stored.numbers() * stored.dtype.bytes()];
                    file.seek(SeekFrom::Start(begin))?;
                    file.read_exact(&mut bytes)?;
                    let (shape, data) = (stored.shape, stored.dtype.floats(&bytes));
                    state.insert(to.to_owned(), StateTensor { shape, data });
                }
            }
        }
        Ok(state)
    }
}

/// A safetensors file begins with the length of a JSON object, and that object.
fn is_safetensors(begin: &[u8]) -> bool {
    begin.len() >= 9 && begin[8] == b'{' && begin[5..8] == [0; 3]
}
