//! Files that are either whole or absent, whatever happens to the process, the disk or the power.
//!
//! A folder is filled under a temporary name, every file and the folder itself are flushed to the disk, and only then
//! is it renamed into place and its parent flushed. This module knows nothing of what the files hold.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// What unfinished files and folders are called at first.
const TEMPORARY: &str = ".tmp-";

/// A file's length and content, to tell later whether it is still the same.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileDigest {
    /// Length.
    pub bytes: u64,
    /// SHA-256 of the content, in hexadecimal.
    pub sha256: String,
}

impl FileDigest {
    /// Of bytes in memory.
    pub fn of(content: &[u8]) -> Self {
        FileDigest {
            bytes: content.len() as u64,
            sha256: hex(&Sha256::digest(content)),
        }
    }

    /// Of a file, read in pieces.
    pub fn of_file(path: &Path) -> io::Result<Self> {
        let mut file = File::open(path)?;
        let mut hash = Sha256::new();
        let mut piece = vec![0; 1 << 20];
        let mut bytes = 0;
        loop {
            let n = file.read(&mut piece)?;
            if n == 0 {
                return Ok(FileDigest {
                    bytes,
                    sha256: hex(&hash.finalize()),
                });
            }
            hash.update(&piece[..n]);
            bytes += n as u64;
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Makes the folder `target` out of what `fill` writes into the temporary folder that it is given.
///
/// On an error nothing is left but, at worst, the temporary folder, which [`sweep`] removes. A folder that stands at
/// `target` already is replaced.
pub fn commit_folder(target: &Path, fill: impl FnOnce(&Path) -> io::Result<()>) -> io::Result<()> {
    let temporary = beside(target)?;
    remove_if_there(&temporary)?;
    fs::create_dir(&temporary)?;
    let written = fill(&temporary).and_then(|()| {
        for entry in fs::read_dir(&temporary)? {
            File::open(entry?.path())?.sync_all()?;
        }
        sync_folder(&temporary)?;
        // Only a folder that is no whole checkpoint, or the same one, is ever in the way.
        remove_if_there(target)?;
        fs::rename(&temporary, target)?;
        sync_folder(parent(target))
    });
    if written.is_err() {
        // The first error is the one to report; a leftover is swept at the next start.
        let _ = fs::remove_dir_all(&temporary);
    }
    written
}

/// Makes the file `target` hold `content`, at once.
pub fn commit_file(target: &Path, content: &[u8]) -> io::Result<()> {
    let temporary = beside(target)?;
    let written = File::create(&temporary).and_then(|mut file| {
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(&temporary, target)?;
        sync_folder(parent(target))
    });
    if written.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    written
}

/// Removes what an interrupted run left unfinished in `folder`. A folder that is not there is clean.
pub fn sweep(folder: &Path) -> io::Result<()> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        if is_temporary(&entry.file_name()) {
            if entry.file_type()?.is_dir() {
                fs::remove_dir_all(entry.path())?;
            } else {
                fs::remove_file(entry.path())?;
            }
        }
    }
    Ok(())
}

/// Whether a name is that of something unfinished.
pub fn is_temporary(name: &OsStr) -> bool {
    name.to_string_lossy().starts_with(TEMPORARY)
}

/// Deletes a folder so that it is never seen half deleted under its own name.
pub fn discard_folder(folder: &Path) -> io::Result<()> {
    let temporary = beside(folder)?;
    remove_if_there(&temporary)?;
    fs::rename(folder, &temporary)?;
    fs::remove_dir_all(&temporary)
}

fn beside(target: &Path) -> io::Result<PathBuf> {
    let name = target
        .file_name()
        .ok_or_else(|| io::Error::other("a path without a name"))?;
    Ok(parent(target).join(format!("{TEMPORARY}{}", name.to_string_lossy())))
}

fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

fn remove_if_there(folder: &Path) -> io::Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Flushes a folder's list of names. Only Unix lets a folder be opened for that.
fn sync_folder(folder: &Path) -> io::Result<()> {
    if cfg!(unix) {
        File::open(folder)?.sync_all()
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(folder)
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn a_failed_fill_leaves_the_former_folder() {
        let root = tempfile::tempdir().unwrap();
        let target = root.path().join("step-1");
        commit_folder(&target, |folder| fs::write(folder.join("a"), "old")).unwrap();
        let failed = commit_folder(&target, |folder| {
            fs::write(folder.join("a"), "half")?;
            Err(io::Error::other("no space left"))
        });
        assert_eq!(failed.unwrap_err().to_string(), "no space left");
        assert_eq!(names(root.path()), ["step-1"]);
        assert_eq!(fs::read_to_string(target.join("a")).unwrap(), "old");
    }

    #[test]
    fn a_folder_replaces_the_one_in_its_place() {
        let root = tempfile::tempdir().unwrap();
        let target = root.path().join("step-1");
        commit_folder(&target, |folder| fs::write(folder.join("a"), "1")).unwrap();
        commit_folder(&target, |folder| fs::write(folder.join("b"), "2")).unwrap();
        assert_eq!(names(&target), ["b"]);
    }

    #[test]
    fn sweeping_takes_only_what_is_unfinished() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join(".tmp-step-2")).unwrap();
        fs::write(root.path().join(".tmp-step-2/model"), "half").unwrap();
        fs::write(root.path().join(".tmp-config.toml"), "half").unwrap();
        fs::create_dir(root.path().join("step-1")).unwrap();
        sweep(root.path()).unwrap();
        assert_eq!(names(root.path()), ["step-1"]);
        sweep(&root.path().join("missing")).unwrap();
    }

    #[test]
    fn a_file_is_replaced_at_once() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("f");
        commit_file(&path, b"one").unwrap();
        commit_file(&path, b"two").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(names(root.path()), ["f"]);
    }

    #[test]
    fn digests_agree() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("f");
        fs::write(&path, b"abc").unwrap();
        let digest = FileDigest::of_file(&path).unwrap();
        assert_eq!(digest, FileDigest::of(b"abc"));
        assert!(digest.sha256.starts_with("ba7816bf"));
    }
}
