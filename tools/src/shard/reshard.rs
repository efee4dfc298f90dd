//! Shards as a source: their samples are packed anew, all members with them.

use std::path::Path;
use std::sync::Arc;

use anyhow::Result;
use mae_loader::{Dataset, DatasetOptions, LabelSource};

use super::keys::Keys;
use super::source::{Found, Item, Origin, Skipped};
use crate::cli::CacheArgs;

/// The shards that `src` names, as a spec; `None` where it is a folder of images, a list of them, or nothing at all.
pub(super) fn spec(src: &Path) -> Option<&str> {
    let spec = src.to_str()?;
    let shards = if src.is_dir() {
        holds_only_shards(src)
    } else if src.exists() {
        is_shard(src) || src.extension().is_some_and(|ending| ending == "json")
    } else {
        spec.contains(['*', '?', '[', '{']) || spec.contains("::") || spec.starts_with("pipe:")
    };
    shards.then_some(spec)
}

fn is_shard(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let ending = [".tar", ".tar.gz", ".tgz"]
        .iter()
        .any(|ending| name.ends_with(ending));
    ending && !name.starts_with('.') && path.is_file()
}

/// Images, and folders that may hold some, come first: tars beside them are what they were unpacked from.
fn holds_only_shards(folder: &Path) -> bool {
    let Ok(entries) = folder.read_dir() else {
        return false;
    };
    let paths: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
    paths.iter().any(|path| is_shard(path))
        && !paths
            .iter()
            .any(|path| super::listing::is_image_or_folder(path))
}

/// The samples of the shards that `spec` names, in their order, and a digest of names, order and sizes.
pub(super) fn find(spec: &str, cache: &CacheArgs) -> Result<(Found, String)> {
    let options = DatasetOptions {
        labels: LabelSource::None,
        cache_dir: cache.cache.clone(),
        cache_bytes: cache.cache_size.0,
        ..DatasetOptions::default()
    };
    let dataset = Arc::new(Dataset::open(&[spec], &options)?);
    let mut keys = Keys::default();
    let items: Vec<Item> = dataset
        .ids()
        .map(|id| Item {
            origin: Origin::Sample(Arc::clone(&dataset), id),
            key: keys.unique(dataset.key(id).to_owned()),
            bytes: dataset.members(id).iter().map(|member| member.size).sum(),
        })
        .collect();
    let infos = dataset.shards();
    let without = infos.iter().filter(|info| info.without_image > 0);
    let skipped = without.map(|info| Skipped {
        name: info.name.clone(),
        reason: format!("{} of its samples have no image", info.without_image),
    });
    let has_label = |id| {
        dataset
            .members(id)
            .iter()
            .any(|member| &*member.suffix == "cls")
    };
    let found = Found {
        empty_classes: Vec::new(),
        skipped: skipped.collect(),
        classes: dataset.classes().map(<[String]>::to_vec),
        labelled: dataset.ids().any(has_label),
        items,
        prepared: infos[0]
            .prepared
            .filter(|first| infos.iter().all(|info| info.prepared == Some(*first))),
    };
    Ok((found, dataset.digest().to_owned()))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn shards_are_told_from_images() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        fs::create_dir_all(path("shards")).unwrap();
        fs::write(path("shards/a-0.tar"), b"").unwrap();
        fs::write(path("shards/index.json"), b"{}").unwrap();
        fs::create_dir_all(path("classes/cat")).unwrap();
        fs::write(path("classes/cat.tar"), b"").unwrap();
        fs::create_dir_all(path("images")).unwrap();
        fs::write(path("images/1.jpg"), [0xff, 0xd8, 0xff, 0xe0]).unwrap();
        fs::write(path("images/1.tar"), b"").unwrap();
        fs::write(path("list.txt"), b"").unwrap();
        for (name, shards) in [
            ("shards", true),
            ("shards/a-0.tar", true),
            ("shards/index.json", true),
            ("shards/*.tar", true),
            ("shards/a-{0..3}.tar", true),
            ("classes", false),
            ("images", false),
            ("list.txt", false),
            ("not-there", false),
        ] {
            assert_eq!(spec(&path(name)).is_some(), shards, "{name}");
        }
        assert_eq!(spec(Path::new("pipe:cat x")), Some("pipe:cat x"));
    }
}
