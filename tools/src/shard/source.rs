//! The samples that are to be packed: what they are made from, which files of a listing are images, their order. Those in shards
//! are the subject of `reshard`.

use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Result, bail};
use mae_loader::shard::Prepared;
use mae_loader::{Dataset, SampleId};
use rand_chacha::ChaCha8Rng;
use rand_core::{RngCore, SeedableRng};
use serde::{Deserialize, Serialize};

use super::keys::Keys;
use super::listing::{Candidate, Listed, Look};

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
#[derive(Debug, Clone, Serialize, Deserialize)]
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
    /// Those of them that no image has.
    pub(super) empty_classes: Vec<String>,
    pub(super) labelled: bool,
    pub(super) skipped: Vec<Skipped>,
}

/// The images among the files of `src`, by what a look into each gave. `any_format`: also those that would have to be re-encoded.
pub(super) fn find(src: &Path, listed: Listed, looks: &[Look], any_format: bool) -> Result<Found> {
    let Listed {
        candidates,
        classes,
    } = listed;
    let labelled = candidates.iter().any(|candidate| candidate.label.is_some());
    let (mut items, mut skipped, mut keys) = (Vec::new(), Vec::new(), Keys::default());
    for (candidate, &(format, bytes)) in candidates.into_iter().zip(looks) {
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
    let used: BTreeSet<u32> = items.iter().filter_map(Item::label).collect();
    let named = classes.iter().flatten().zip(0..);
    let empty = named.filter(|(_, index)| !used.contains(index));
    let empty_classes = empty.map(|(name, _)| name.clone()).collect();
    Ok(Found {
        items,
        prepared: None,
        classes,
        empty_classes,
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

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::shard::listing;

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

    fn find(src: &Path, any_format: bool) -> Result<Found> {
        let listed = listing::list(src)?;
        let looks = listed.look(0..listed.len())?;
        super::find(src, listed, &looks, any_format)
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
        assert_eq!(found.empty_classes, ["emu"]);
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
