//! Shard specs: what a user writes to name shards, resolved to files and commands.
//!
//! | spec | names |
//! | --- | --- |
//! | `data/train-000000.tar` | a file |
//! | `data/` | all shards of a folder, where they are of one set |
//! | `data/train-*.tar` | the files that match, in order of name |
//! | `data/train-{000000..000146}.tar` | each number of the range; `{a,b}` each alternative |
//! | `a.tar::b.tar` | both |
//! | `shards.txt` | a spec a line, relative to the list's folder; `#` starts a comment |
//! | `data/index.json` | the shards of a wids index, in its order |
//! | `https://host/a.tar`, `s3://bucket/a.tar`, `gs://…`, `az://container/…` | a file on a server; braces as above |
//! | `s3://bucket/data/` | the shards of a folder there, by its `index.json`, else by its listing |
//! | `https://host/data/index.json` | the shards of an index there |
//! | `pipe:curl -sL https://host/a.tar` | what a shell command writes |
//!
//! Commands run only where the user writes them: in a list or an index they are refused. Lists and indexes that the user names may name
//! URLs; an index on a server names files in or below its own folder only.

mod expansion;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Component, Path, PathBuf};

use webdataset::core::braceexpand;

use self::expansion::{MAX_SHARDS, check_expansion};
use crate::error::{Error, Result};
use crate::shard::{INDEX_FILE, Index, IndexEntry};
use crate::source::{Net, is_url, without_secrets};

const SHARD_ENDINGS: [&str; 5] = [".tar", ".tar.gz", ".tgz", ".tar.zst", ".tzst"];

/// A shard before it is opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShardRef {
    /// The shard as named by the spec.
    pub name: String,
    /// Where its bytes come from.
    pub place: Place,
}

/// Where a shard's bytes come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// A file.
    File(PathBuf),
    /// A file on a server.
    Url(String),
    /// The standard output of a shell command.
    Pipe(String),
}

impl ShardRef {
    /// The name without the folder.
    pub fn base_name(&self) -> &str {
        match &self.place {
            Place::File(path) => path
                .file_name()
                .and_then(|name| name.to_str())
                .unwrap_or(&self.name),
            Place::Url(_) => self.name.rsplit('/').next().unwrap_or(&self.name),
            Place::Pipe(_) => &self.name,
        }
    }

    /// The folder it stands in, where it has one.
    pub(crate) fn folder(&self) -> Option<Folder> {
        match &self.place {
            Place::File(path) => path.parent().map(|path| Folder::Local(path.to_path_buf())),
            // What has a query is signed by itself: nothing beside it can be read.
            Place::Url(url) if url.contains('?') => None,
            Place::Url(url) => url
                .rsplit_once('/')
                .map(|(folder, _)| Folder::Remote(folder.to_owned())),
            Place::Pipe(_) => None,
        }
    }

    /// The file, where it is one.
    pub fn file(&self) -> Option<&Path> {
        match &self.place {
            Place::File(path) => Some(path),
            Place::Url(_) | Place::Pipe(_) => None,
        }
    }
}

/// A folder of shards, for what stands beside them.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Folder {
    /// On this machine.
    Local(PathBuf),
    /// The URL without the slash at the end.
    Remote(String),
}

impl Folder {
    /// The bytes of a small file in the folder, with what to call it; `None` where there is none.
    pub(crate) fn read(&self, name: &str, net: &Net) -> Result<Option<(PathBuf, Vec<u8>)>> {
        match self {
            Self::Local(folder) => {
                let path = folder.join(name);
                match fs::read(&path) {
                    Ok(bytes) => Ok(Some((path, bytes))),
                    Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
                    Err(e) => Err(Error::io("read", &path)(e)),
                }
            }
            Self::Remote(folder) => {
                let url = format!("{folder}/{name}");
                let found = net.side_file(&url)?;
                Ok(found.map(|bytes| (PathBuf::from(without_secrets(&url)), bytes)))
            }
        }
    }
}

/// What specs resolve to.
#[derive(Debug, Clone, Default)]
pub struct ShardSet {
    /// The shards in order.
    pub shards: Vec<ShardRef>,
    /// Folders whose shards were asked for as a whole.
    pub folders: Vec<PathBuf>,
    /// What an index that was named itself says of shards on servers, by their URLs.
    pub entries: Vec<IndexEntry>,
}

/// Resolves specs, in their order.
///
/// # Errors
/// Where a spec is malformed, names nothing, expands beyond all reason, or names a folder of several sets.
pub fn resolve<S: AsRef<str>>(specs: &[S]) -> Result<ShardSet> {
    resolve_on(specs, &Net::default())
}

/// As [`resolve`], over connections that are used further.
pub(crate) fn resolve_on<S: AsRef<str>>(specs: &[S], net: &Net) -> Result<ShardSet> {
    let mut set = ShardSet::default();
    for spec in specs {
        add(&mut set, spec.as_ref(), None, net)?;
    }
    if set.shards.is_empty() {
        let spec = specs
            .iter()
            .map(|s| s.as_ref())
            .collect::<Vec<_>>()
            .join(" ");
        return Err(Error::NoShards {
            spec,
            reason: "no spec was given".into(),
        });
    }
    Ok(set)
}

/// `list`: the folder of the list the spec stands in, where it is not the user's own.
fn add(set: &mut ShardSet, spec: &str, list: Option<&Path>, net: &Net) -> Result<()> {
    let bad = |reason: String| Error::Spec {
        spec: without_secrets(spec),
        reason,
    };
    // A file may bear any name; one that is there is meant, whatever its characters mean in a spec.
    if !spec.starts_with("pipe:")
        && !is_url(spec)
        && list.unwrap_or(Path::new("")).join(spec).exists()
    {
        return add_one(set, spec, spec, list, net);
    }
    check_expansion(spec).map_err(bad)?;
    // Not the crate's `expand_urls`, which puts the environment's variables in: a list from elsewhere could send them to a server.
    for part in spec.split("::") {
        for name in braceexpand(part).map_err(|e| bad(e.to_string()))? {
            add_one(set, &name, spec, list, net)?;
        }
    }
    if set.shards.len() as u64 > MAX_SHARDS {
        return Err(bad(format!("brings the shards to more than {MAX_SHARDS}")));
    }
    Ok(())
}

fn add_one(
    set: &mut ShardSet,
    name: &str,
    spec: &str,
    list: Option<&Path>,
    net: &Net,
) -> Result<()> {
    let bad = |reason: &str| Error::Spec {
        spec: without_secrets(spec),
        reason: reason.to_owned(),
    };
    let none = |reason: String| Error::NoShards {
        spec: spec.to_owned(),
        reason,
    };
    if let Some(command) = name.strip_prefix("pipe:") {
        if list.is_some() {
            return Err(bad(
                "`pipe:` runs a command and is accepted only from the command line or the configuration",
            ));
        }
        set.shards.push(ShardRef {
            name: name.to_owned(),
            place: Place::Pipe(command.to_owned()),
        });
        return Ok(());
    }
    if is_url(name) {
        return add_url(set, name, list, net);
    }
    let plain = name
        .strip_prefix("file://")
        .or_else(|| name.strip_prefix("file:"))
        .unwrap_or(name);
    if let Some((scheme, _)) = plain.split_once("://") {
        let reason = format!(
            "{scheme}: is not read directly; use `pipe:` with a command that fetches it, such as \
                              `pipe:curl -sL URL`"
        );
        return Err(bad(&reason));
    }
    if plain.is_empty() {
        return Err(bad("an empty name"));
    }
    let path = list.map_or_else(|| PathBuf::from(plain), |folder| folder.join(plain));
    let shown = path.display().to_string();

    if path.is_dir() {
        let shards = folder_shards(&path)?;
        set.shards.extend(shards.into_iter().map(file_ref));
        set.folders.push(path);
    } else if path.exists() {
        match path.extension().and_then(|e| e.to_str()) {
            Some("txt") if list.is_none() => add_list(set, &path, net)?,
            Some("json") if list.is_none() => add_index(set, &path)?,
            _ => set.shards.push(file_ref(path)),
        }
    } else if plain.contains(['*', '?', '[']) {
        let matches = glob::glob(&shown).map_err(|e| bad(&e.to_string()))?;
        let before = set.shards.len();
        for found in matches {
            let found = found.map_err(|e| none(e.to_string()))?;
            let hidden = found
                .file_name()
                .is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
            if found.is_file() && !hidden && !is_companion(&found) {
                set.shards.push(file_ref(found));
            }
        }
        if set.shards.len() == before {
            return Err(none(format!("no file matches {shown}")));
        }
    } else {
        return Err(none(format!("there is no file or folder {shown}")));
    }
    Ok(())
}

fn file_ref(path: PathBuf) -> ShardRef {
    ShardRef {
        name: path.display().to_string(),
        place: Place::File(path),
    }
}

/// `train-*` also matches what stands beside shards.
fn is_companion(path: &Path) -> bool {
    path.extension()
        .is_some_and(|e| e == "json" || e == "txt" || e == "md")
}

fn url_ref(url: &str) -> ShardRef {
    ShardRef {
        name: without_secrets(url),
        place: Place::Url(url.to_owned()),
    }
}

/// A URL: a shard, an index, or a folder.
fn add_url(set: &mut ShardSet, url: &str, list: Option<&Path>, net: &Net) -> Result<()> {
    let none = |reason: String| Error::NoShards {
        spec: without_secrets(url),
        reason,
    };
    let path = url.split('?').next().unwrap_or(url);
    if let Some(folder) = path.strip_suffix('/').filter(|_| list.is_none()) {
        let folder = Folder::Remote(folder.to_owned());
        if let Some((name, bytes)) = folder.read(INDEX_FILE, net)? {
            return add_entries(set, &Index::parse(&bytes, &name)?, &name, &folder);
        }
        let names = net.list(url)?;
        let sets = group(names.into_iter().filter(|name| !name.starts_with('.')));
        let shards = only_set(sets, path.trim_end_matches('/'))?;
        let shards = shards.ok_or_else(|| {
            none(format!(
                "the folder has no file ending in {}",
                SHARD_ENDINGS.join(", ")
            ))
        })?;
        let urls = shards.iter().map(|name| url_ref(&format!("{path}{name}")));
        set.shards.extend(urls);
        return Ok(());
    }
    if path.ends_with(".json") && list.is_none() {
        let (folder, _) = path.rsplit_once('/').unwrap_or(("", path));
        let bytes = net
            .side_file(url)?
            .ok_or_else(|| none("there is no such file".into()))?;
        let name = PathBuf::from(without_secrets(url));
        let index = Index::parse(&bytes, &name)?;
        return add_entries(set, &index, &name, &Folder::Remote(folder.to_owned()));
    }
    if path.contains(['*', '[']) {
        return Err(Error::Spec {
            spec: without_secrets(url),
            reason:
                "servers do not match patterns; write braces, such as train-{000000..000146}.tar"
                    .into(),
        });
    }
    set.shards.push(url_ref(url));
    Ok(())
}

fn add_list(set: &mut ShardSet, path: &Path, net: &Net) -> Result<()> {
    let text = fs::read_to_string(path).map_err(Error::io("read list", path))?;
    let folder = path.parent().unwrap_or(Path::new(""));
    let before = set.shards.len();
    for line in text
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
    {
        add(set, line, Some(folder), net)?;
    }
    if set.shards.len() == before {
        return Err(Error::NoShards {
            spec: path.display().to_string(),
            reason: "the list is empty".into(),
        });
    }
    Ok(())
}

fn add_index(set: &mut ShardSet, path: &Path) -> Result<()> {
    let bad = |reason: String| Error::Index {
        path: path.to_path_buf(),
        reason,
    };
    let index = Index::read(path)?.ok_or_else(|| bad("has gone".into()))?;
    let folder = path.parent().unwrap_or(Path::new(""));
    add_entries(set, &index, path, &Folder::Local(folder.to_path_buf()))
}

/// The shards that an index at `path` in `folder` lists.
fn add_entries(set: &mut ShardSet, index: &Index, path: &Path, folder: &Folder) -> Result<()> {
    let bad = |reason: String| Error::Index {
        path: path.to_path_buf(),
        reason,
    };
    for entry in &index.shardlist {
        let url = Path::new(&entry.url);
        let inside = url
            .components()
            .all(|part| matches!(part, Component::Normal(_) | Component::CurDir));
        if is_url(&entry.url) && matches!(folder, Folder::Local(_)) {
            set.shards.push(url_ref(&entry.url));
            set.entries.push(entry.clone());
            continue;
        }
        if !inside || entry.url.contains("://") || entry.url.starts_with("pipe:") {
            return Err(bad(format!(
                "names `{}`; only files in or below the index's own folder are read",
                entry.url
            )));
        }
        match folder {
            Folder::Local(folder) => {
                let shard = folder.join(url);
                if !shard.is_file() {
                    return Err(bad(missing_shard(&entry.url)));
                }
                set.shards.push(file_ref(shard));
            }
            Folder::Remote(folder) => set.shards.push(url_ref(&format!("{folder}/{}", entry.url))),
        }
    }
    if index.shardlist.is_empty() {
        return Err(bad("lists no shards".into()));
    }
    Ok(())
}

/// What to say of a shard that an index lists and its folder lacks.
pub(crate) fn missing_shard(name: &str) -> String {
    format!(
        "lists {name}, which is not there: the folder was not copied whole, or writing it was interrupted. Complete it, \
         or run `mae index` on the folder to go on with what is there"
    )
}

/// The shards in `folder`, in order of name.
fn folder_shards(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(folder).map_err(Error::io("read folder", folder))? {
        let path = entry.map_err(Error::io("read folder", folder))?.path();
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else {
            continue;
        };
        if !name.starts_with('.') && set_pattern(name).is_some() && path.is_file() {
            names.push(name.to_owned());
        }
    }
    let shown = folder.display().to_string();
    let shards = only_set(group(names), &shown)?.ok_or_else(|| Error::NoShards {
        spec: shown.clone(),
        reason: format!(
            "the folder has no file ending in {}",
            SHARD_ENDINGS.join(", ")
        ),
    })?;
    Ok(shards.iter().map(|name| folder.join(name)).collect())
}

/// Names of shards by the pattern of their set.
fn group(names: impl IntoIterator<Item = String>) -> BTreeMap<String, Vec<String>> {
    let mut sets: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for name in names {
        if let Some(pattern) = set_pattern(&name) {
            sets.entry(pattern).or_default().push(name);
        }
    }
    sets
}

/// The one set that `folder` has, in order of name.
fn only_set(sets: BTreeMap<String, Vec<String>>, folder: &str) -> Result<Option<Vec<String>>> {
    if sets.len() > 1 {
        return Err(Error::MixedPrefixes {
            folder: PathBuf::from(folder),
            choices: sets
                .keys()
                .map(|pattern| format!("{}/{pattern}", folder.trim_end_matches('/')))
                .collect(),
        });
    }
    Ok(sets.into_values().next().map(|mut shards| {
        shards.sort();
        shards
    }))
}

/// `train-000012.tar.gz` → `train-*.tar.gz`; `None` for what is not a shard.
fn set_pattern(name: &str) -> Option<String> {
    let ending = SHARD_ENDINGS
        .iter()
        .find(|ending| name.ends_with(**ending))?;
    let stem = &name[..name.len() - ending.len()];
    let prefix = stem.trim_end_matches(|c: char| c.is_ascii_digit());
    if prefix.len() == stem.len() {
        Some(name.to_owned())
    } else {
        Some(format!("{prefix}*{ending}"))
    }
}

#[cfg(test)]
mod tests;
