//! Lists the files that may be images, in order: by class folder, in one folder, or by a list; and looks into them.
//!
//! A listing costs little; looking into the files opens each, which is why the ranks of a job share that out.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Read;
use std::ops::Range;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use rayon::prelude::*;
use sha2::{Digest, Sha256};

use super::format::{Format, HEAD_BYTES};

/// Folders deeper than this are a loop of links.
const MAX_DEPTH: usize = 32;

/// The files of a source, before they are looked into.
pub(super) struct Listed {
    pub(super) candidates: Vec<Candidate>,
    /// Names of the class indices, where there are names.
    pub(super) classes: Option<Vec<String>>,
}

/// What a file holds by its first bytes, and its length.
pub(super) type Look = (Option<Format>, u64);

/// A file before it is looked into: where it is, its path for the key, its label.
pub(super) struct Candidate {
    pub(super) path: PathBuf,
    pub(super) relative: PathBuf,
    pub(super) label: Option<u32>,
}

/// The files of `src`, in order of path or of the list.
pub(super) fn list(src: &Path) -> Result<Listed> {
    if src.is_dir() {
        in_folder(src)
    } else {
        in_list(src)
    }
}

impl Listed {
    pub(super) fn len(&self) -> usize {
        self.candidates.len()
    }

    /// Looks into some of the files.
    pub(super) fn look(&self, part: Range<usize>) -> Result<Vec<Look>> {
        let part = self.candidates[part].par_iter();
        part.map(|candidate| look(&candidate.path)).collect()
    }

    /// Equal where names below the source, labels and order are.
    pub(super) fn digest(&self) -> String {
        let mut hash = Sha256::new();
        for Candidate {
            relative, label, ..
        } in &self.candidates
        {
            hash.update(relative.as_os_str().as_encoded_bytes());
            hash.update(format!("\0{label:?}\n"));
        }
        hash.update(format!("{:?}", self.classes));
        format!("{:x}", hash.finalize())
    }
}

fn look(path: &Path) -> Result<Look> {
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

fn in_folder(src: &Path) -> Result<Listed> {
    let (folders, files) = list_folder(src)?;
    let images_here = || files.iter().any(|file| is_image(file));
    if folders.is_empty() {
        let flat = files.into_iter().map(|path| candidate(src, path, None));
        return Ok(Listed {
            candidates: flat.collect(),
            classes: None,
        });
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
    Ok(Listed {
        candidates,
        classes: Some(classes),
    })
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
        // The folder itself tells what its entries are, but for where a link leads to.
        let mut kind = entry.file_type().with_context(read)?;
        if kind.is_symlink() {
            let target = fs::metadata(&path);
            kind = target
                .with_context(|| format!("cannot read {}", path.display()))?
                .file_type();
        }
        if kind.is_dir() {
            folders.push(path);
        } else if kind.is_file() {
            files.push(path);
        }
    }
    folders.sort();
    files.sort();
    Ok((folders, files))
}

fn in_list(list: &Path) -> Result<Listed> {
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
    Ok(Listed {
        candidates: candidates.collect(),
        classes: (!indices).then(|| names.iter().map(ToString::to_string).collect()),
    })
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
