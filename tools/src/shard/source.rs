//! Finds the images that are to be packed: by class folder, in one folder, or by a list. Those in shards are the subject of
//! `reshard`.

use std::collections::BTreeSet;
use std::fmt;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, anyhow, bail};
use mae_loader::shard::Prepared;
use mae_loader::{Dataset, SampleId};
use rand_chacha::ChaCha8Rng;
use rand_core::{RngCore, SeedableRng};
use rayon::prelude::*;

use super::format::{Format, HEAD_BYTES};
use super::keys::Keys;

/// Folders deeper than this are a loop of links.
const MAX_DEPTH: usize = 32;

/// A sample to pack.
#[derive(Debug, Clone)]
pub(super) struct Item {
    pub(super) origin: Origin,
    pub(super) key: String,
    /// Bytes of what it is made from.
    pub(super) bytes: u64,
}

/// What a sample is made from.
#[derive(Debug, Clone)]
pub(super) enum Origin {
    /// An image file, and the class that it is to be labelled with.
    File { path: PathBuf, label: Option<u32> },
    /// A sample of a shard, with all of its members.
    Sample(Arc<Dataset>, SampleId),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { path, .. } => write!(f, "{}", path.display()),
            Self::Sample(shards, id) => f.write_str(&shards.describe(*id)),
        }
    }
}

/// What is not packed.
#[derive(Debug, Clone)]
pub(super) struct Skipped {
    pub(super) name: String,
    pub(super) reason: String,
}

impl Item {
    fn label(&self) -> Option<u32> {
        match self.origin {
            Origin::File { label, .. } => label,
            Origin::Sample(..) => None,
        }
    }
}

/// What a source holds.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) items: Vec<Item>,
    /// How images were made smaller before, where all of them were in the same way.
    pub(super) prepared: Option<Prepared>,
    /// Names of the class indices, where there are names.
    pub(super) classes: Option<Vec<String>>,
    pub(super) labelled: bool,
    pub(super) skipped: Vec<Skipped>,
}

/// A file before it is looked into: where it is, its path for the key, its label.
struct Candidate {
    path: PathBuf,
    relative: PathBuf,
    label: Option<u32>,
}

/// The images of `src`, in order of path or of the list. `any_format`: also those that would have to be re-encoded.
pub(super) fn find(src: &Path, any_format: bool) -> Result<Found> {
    let (candidates, classes) = if src.is_dir() {
        in_folder(src)?
    } else {
        in_list(src)?
    };
    let labelled = candidates.iter().any(|candidate| candidate.label.is_some());
    let looked: Vec<Result<(Option<Format>, u64)>> = candidates
        .par_iter()
        .map(|candidate| look(&candidate.path))
        .collect();

    let (mut items, mut skipped, mut keys) = (Vec::new(), Vec::new(), Keys::default());
    for (candidate, looked) in candidates.into_iter().zip(looked) {
        let (format, bytes) = looked?;
        let Candidate {
            path,
            relative,
            label,
        } = candidate;
        let mut skip = |reason: String| {
            skipped.push(Skipped {
                name: path.display().to_string(),
                reason,
            })
        };
        match format {
            None => skip("not an image of a known format".into()),
            Some(format) if format.stored_suffix().is_none() && !any_format => {
                skip(format!(
                    "{} is stored only as JPEG, with --reencode",
                    format.name()
                ));
            }
            Some(_) => items.push(Item {
                key: keys.of(&relative),
                origin: Origin::File { path, label },
                bytes,
            }),
        }
    }
    if items.is_empty() {
        let hint = if skipped.is_empty() {
            "it is empty".into()
        } else {
            format!(
                "{} files are none, such as {}: {}",
                skipped.len(),
                skipped[0].name,
                skipped[0].reason
            )
        };
        bail!("no image to pack in {}: {hint}", src.display());
    }
    if let Some(classes) = &classes {
        let used: BTreeSet<u32> = items.iter().filter_map(Item::label).collect();
        for (name, _) in classes
            .iter()
            .zip(0..)
            .filter(|(_, index)| !used.contains(index))
        {
            tracing::warn!("class `{name}` has no images");
        }
    }
    Ok(Found {
        items,
        prepared: None,
        classes,
        labelled,
        skipped,
    })
}

/// Fisher–Yates with ChaCha8, so that a seed means the same order everywhere.
pub(super) fn shuffle(items: &mut [Item], seed: u64) {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    for last in (1..items.len()).rev() {
        let pick = (u128::from(rng.next_u64()) * (last as u128 + 1)) >> 64;
        items.swap(last, pick as usize);
    }
}

fn look(path: &Path) -> Result<(Option<Format>, u64)> {
    let read = || {
        let mut file = File::open(path)?;
        let bytes = file.metadata()?.len();
        let mut head = Vec::with_capacity(HEAD_BYTES);
        Read::by_ref(&mut file)
            .take(HEAD_BYTES as u64)
            .read_to_end(&mut head)?;
        Ok::<_, std::io::Error>((Format::of(&head), bytes))
    };
    read().with_context(|| format!("cannot read {}", path.display()))
}

fn is_image(path: &Path) -> bool {
    matches!(look(path), Ok((Some(_), _)))
}

/// Whether a folder that holds `path` is a folder of images, or may be one.
pub(super) fn is_image_or_folder(path: &Path) -> bool {
    let hidden = path
        .file_name()
        .is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
    !hidden && (path.is_dir() || is_image(path))
}

type Candidates = (Vec<Candidate>, Option<Vec<String>>);

fn in_folder(src: &Path) -> Result<Candidates> {
    let (folders, files) = list_folder(src)?;
    let images_here = || files.iter().any(|file| is_image(file));
    if folders.is_empty() {
        let flat = files
            .into_iter()
            .map(|path| candidate(src, path, None))
            .collect();
        return Ok((flat, None));
    }
    if images_here() {
        bail!(
            "{} holds both images and folders: put all images into folders by class, or give a text file that lists them",
            src.display()
        );
    }
    let mut candidates = Vec::new();
    let mut classes = Vec::new();
    for (folder, label) in folders.into_iter().zip(0..) {
        let name = folder.file_name().unwrap_or_default();
        let name = name.to_str().ok_or_else(|| {
            anyhow!(
                "the folder name {} is not valid UTF-8, as class names must be",
                folder.display()
            )
        })?;
        classes.push(name.to_owned());
        let mut files = Vec::new();
        walk(&folder, 0, &mut files)?;
        candidates.extend(
            files
                .into_iter()
                .map(|path| candidate(src, path, Some(label))),
        );
    }
    Ok((candidates, Some(classes)))
}

fn candidate(src: &Path, path: PathBuf, label: Option<u32>) -> Candidate {
    let relative = path.strip_prefix(src).unwrap_or(&path).to_path_buf();
    Candidate {
        path,
        relative,
        label,
    }
}

/// All files below `folder`, in order of name.
fn walk(folder: &Path, depth: usize, files: &mut Vec<PathBuf>) -> Result<()> {
    if depth > MAX_DEPTH {
        bail!(
            "{} lies more than {MAX_DEPTH} folders deep; is a link to a folder above it among them?",
            folder.display()
        );
    }
    let (folders, here) = list_folder(folder)?;
    files.extend(here);
    folders
        .iter()
        .try_for_each(|folder| walk(folder, depth + 1, files))
}

/// Folders and files in `folder`, each in order of name, without hidden ones. Links are followed.
fn list_folder(folder: &Path) -> Result<(Vec<PathBuf>, Vec<PathBuf>)> {
    let (mut folders, mut files) = (Vec::new(), Vec::new());
    let read = || format!("cannot read {}", folder.display());
    for entry in fs::read_dir(folder).with_context(read)? {
        let entry = entry.with_context(read)?;
        if entry.file_name().as_encoded_bytes().starts_with(b".") {
            continue;
        }
        let path = entry.path();
        let metadata =
            fs::metadata(&path).with_context(|| format!("cannot read {}", path.display()))?;
        if metadata.is_dir() {
            folders.push(path);
        } else if metadata.is_file() {
            files.push(path);
        }
    }
    folders.sort();
    files.sort();
    Ok((folders, files))
}

fn in_list(list: &Path) -> Result<Candidates> {
    let text = fs::read_to_string(list)
        .with_context(|| format!("cannot read the list {}", list.display()))?;
    let folder = list.parent().unwrap_or(Path::new(""));
    let mut rows: Vec<(usize, PathBuf, Option<&str>)> = Vec::new();
    for (line, number) in text.lines().zip(1..) {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (path, label) = split_line(folder, line);
        if !folder.join(path).is_file() {
            bail!(
                "{}, line {number}: there is no file {}",
                list.display(),
                folder.join(path).display()
            );
        }
        rows.push((number, PathBuf::from(path), label));
    }
    let labelled = rows.iter().filter(|(_, _, label)| label.is_some()).count();
    if let (1.., Some((number, ..))) = (labelled, rows.iter().find(|(_, _, label)| label.is_none()))
    {
        bail!(
            "{}, line {number}: no label, where {labelled} other lines have one",
            list.display()
        );
    }

    let names: BTreeSet<&str> = rows.iter().filter_map(|(_, _, label)| *label).collect();
    // Numbers are class indices already; one name among them makes names of all.
    let indices = names.iter().all(|name| name.parse::<u32>().is_ok());
    let names: Vec<&str> = names.into_iter().collect();
    let index = |label: &str| {
        if indices {
            label.parse().ok()
        } else {
            names.binary_search(&label).ok().map(|place| place as u32)
        }
    };
    let candidates = rows.into_iter().map(|(_, relative, label)| Candidate {
        path: folder.join(&relative),
        label: label.and_then(index),
        relative,
    });
    let candidates = candidates.collect();
    let classes = (!indices).then(|| names.iter().map(ToString::to_string).collect());
    Ok((candidates, classes))
}

/// Path and label of a line. A path may hold spaces: without a tab, a line that is a file's name is all path.
fn split_line<'a>(folder: &Path, line: &'a str) -> (&'a str, Option<&'a str>) {
    let split = match line.rsplit_once('\t') {
        Some(split) => Some(split),
        None if folder.join(line).is_file() => None,
        None => line.rsplit_once(' '),
    };
    split.map_or((line, None), |(path, label)| {
        (
            path.trim_end(),
            Some(label.trim()).filter(|label| !label.is_empty()),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const JPEG: &[u8] = &[0xff, 0xd8, 0xff, 0xe0, 0, 0, 0, 0, 0, 0, 0, 0];

    fn tree(files: &[(&str, &[u8])]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (name, content) in files {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }
        dir
    }

    fn rows(found: &Found) -> Vec<(&str, Option<u32>)> {
        found
            .items
            .iter()
            .map(|item| (item.key.as_str(), item.label()))
            .collect()
    }

    #[test]
    fn class_folders_number_the_labels() {
        let dir = tree(&[
            ("dog/2.jpg", JPEG),
            ("dog/1.jpg", JPEG),
            ("cat/deep/9.JPEG", JPEG),
            ("cat/Thumbs.db", b"x"),
            ("cat/.hidden.jpg", JPEG),
            ("emu/readme.txt", b"none yet"),
        ]);
        let found = find(dir.path(), false).unwrap();
        assert_eq!(found.classes.as_deref().unwrap(), ["cat", "dog", "emu"]);
        assert_eq!(
            rows(&found),
            [
                ("cat/deep/9", Some(0)),
                ("dog/1", Some(1)),
                ("dog/2", Some(1))
            ]
        );
        assert_eq!(found.skipped.len(), 2);

        fs::write(dir.path().join("stray.jpg"), JPEG).unwrap();
        assert!(
            find(dir.path(), false)
                .unwrap_err()
                .to_string()
                .contains("both images and folders")
        );
    }

    #[test]
    fn a_flat_folder_has_no_labels_and_other_formats_wait_for_reencode() {
        let dir = tree(&[
            ("b.jpg", JPEG),
            ("a.gif", b"GIF89a......"),
            ("c.png", b"\x89PNG........"),
        ]);
        let found = find(dir.path(), false).unwrap();
        assert_eq!(rows(&found), [("b", None), ("c", None)]);
        assert!(found.skipped[0].reason.contains("--reencode"));
        assert_eq!(rows(&find(dir.path(), true).unwrap()).len(), 3);
        assert!(
            find(tree(&[("x.txt", b"x")]).path(), false)
                .unwrap_err()
                .to_string()
                .contains("no image")
        );
    }

    #[test]
    fn lists_give_paths_and_labels() {
        let dir = tree(&[("a.jpg", JPEG), ("my cat.jpg", JPEG), ("sub/b.jpg", JPEG)]);
        let list = |text: &str| {
            fs::write(dir.path().join("list.txt"), text).unwrap();
            find(&dir.path().join("list.txt"), false)
        };
        assert_eq!(
            rows(&list("# two\nsub/b.jpg 7\n\nmy cat.jpg 12\n").unwrap()),
            [("sub/b", Some(7)), ("my cat", Some(12))]
        );
        assert_eq!(
            rows(&list("my cat.jpg\na.jpg\n").unwrap()),
            [("my cat", None), ("a", None)]
        );

        let named = list("a.jpg\twild dog\nmy cat.jpg\tcat\n").unwrap();
        assert_eq!(named.classes.as_deref().unwrap(), ["cat", "wild dog"]);
        assert_eq!(rows(&named), [("a", Some(1)), ("my cat", Some(0))]);

        for (text, line) in [
            ("a.jpg 1\nsub/b.jpg\n", "line 2"),
            ("a.jpg 1\ngone.jpg 2\n", "line 2"),
        ] {
            let error = list(text).unwrap_err().to_string();
            assert!(error.contains(line), "{error}");
        }
    }

    #[test]
    fn shuffling_depends_on_the_seed_alone() {
        let dir =
            tree(&["a.jpg", "b.jpg", "c.jpg", "d.jpg", "e.jpg", "f.jpg"].map(|name| (name, JPEG)));
        let order = |seed| {
            let mut found = find(dir.path(), false).unwrap();
            shuffle(&mut found.items, seed);
            found
                .items
                .into_iter()
                .map(|item| item.key)
                .collect::<String>()
        };
        assert_eq!(order(1), order(1));
        assert!((0..4).any(|seed| order(seed) != "abcdef"));
        let mut letters: Vec<char> = order(2).chars().collect();
        letters.sort_unstable();
        assert_eq!(letters, ['a', 'b', 'c', 'd', 'e', 'f']);
    }
}
