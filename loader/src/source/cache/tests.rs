//! What is put there, found again, and removed.

use std::sync::Arc;

use super::super::{CachedFile, Source, Stored};
use super::*;
use crate::shard::testing::gzip;

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(dir)
        .unwrap()
        .map(|e| e.unwrap().file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

fn open(dir: &Path, limit: u64) -> Arc<ShardCache> {
    Arc::new(ShardCache::open(dir, limit).unwrap())
}

fn inflated(cache: &Arc<ShardCache>, shard: &Path) -> Result<Source> {
    let origin = Origin {
        name: shard.display().to_string(),
        stored: Stored::Local(shard.to_path_buf()),
        encoding: Encoding::Gzip,
    };
    CachedFile::open(cache, origin, None, true).map(Source::from)
}

fn content(source: &Source) -> Vec<u8> {
    let mut bytes = vec![0; source.size() as usize];
    source.read_exact_at(&mut bytes, 0).unwrap();
    bytes
}

#[test]
fn a_shard_is_inflated_once_and_again_when_it_changes() {
    let dir = tempfile::tempdir().unwrap();
    let (shard, cache) = (dir.path().join("a.tar.gz"), dir.path().join("cache"));
    fs::write(&shard, gzip(b"first content")).unwrap();
    let inflate = || content(&inflated(&open(&cache, 1000), &shard).unwrap());
    assert_eq!(inflate(), b"first content");
    let entry = cache.join(&names(&cache)[0]);
    assert!(names(&cache)[0].ends_with("-a.tar.gz"));
    fs::write(&entry, b"found in the cache").unwrap();
    assert_eq!(inflate(), b"found in the cache");

    fs::write(&shard, gzip(b"longer content than before")).unwrap();
    assert_eq!(inflate(), b"longer content than before");
}

#[test]
fn the_bound_removes_what_is_longest_unused_and_refuses_what_never_fits() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("cache");
    let shard = |name: &str, size: usize| {
        let path = dir.path().join(name);
        fs::write(&path, gzip(&vec![name.as_bytes()[0]; size])).unwrap();
        path
    };
    let (old, new) = (shard("old.tgz", 600), shard("new.tgz", 700));
    let cache = open(&folder, 1000);
    let first = inflated(&cache, &old).unwrap();
    fs::write(folder.join("not-ours"), [0; 5000]).unwrap();
    let second = inflated(&cache, &new).unwrap();
    let left = names(&folder);
    assert!(
        left.len() == 2
            && left.iter().any(|n| n.ends_with("new.tgz"))
            && left.contains(&"not-ours".into()),
        "{left:?}"
    );
    // Either comes back when it is read, in place of the other.
    for _ in 0..2 {
        assert_eq!(content(&first), vec![b'o'; 600]);
        assert_eq!(content(&second), vec![b'n'; 700]);
    }
    assert_eq!(names(&folder).len(), 2);

    let error = inflated(&cache, &shard("huge.tgz", 1100)).unwrap_err();
    assert!(
        matches!(error, Error::CacheFull { limit: 1000, .. })
            && error.to_string().contains("--cache-size")
    );
    assert!(
        names(&folder)
            .iter()
            .all(|name| !name.ends_with(".partial")),
        "nothing partial is left"
    );
}

#[test]
fn damaged_gzip_names_the_shard() {
    let dir = tempfile::tempdir().unwrap();
    let shard = dir.path().join("a.tar.gz");
    let whole = gzip(&[b'y'; 5000]);
    fs::write(&shard, &whole[..whole.len() - 6]).unwrap();
    let cache = open(&dir.path().join("cache"), 1 << 20);
    let error = inflated(&cache, &shard).unwrap_err().to_string();
    assert!(
        error.contains("a.tar.gz") && error.contains("cut off or damaged"),
        "{error}"
    );
    assert!(names(&dir.path().join("cache")).is_empty());
}

#[test]
fn pipes_are_spooled_and_leave_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let shard = dir.path().join("a.gz");
    fs::write(&shard, gzip(b"from a pipe")).unwrap();
    let cache = open(&dir.path().join("cache"), 1000);
    let content = |command: &str| content(&cache.piped(command).unwrap().into());
    assert_eq!(content("printf hello"), b"hello");
    assert_eq!(content(&format!("cat {}", shard.display())), b"from a pipe");
    assert!(names(&dir.path().join("cache")).is_empty());
    assert!(
        cache
            .piped("printf x; exit 3")
            .unwrap_err()
            .to_string()
            .contains('3')
    );
    assert!(
        matches!(cache.piped("yes"), Err(Error::CacheFull { .. })),
        "an endless pipe ends at the bound"
    );
}

/// Two caches in one folder, as two processes would have them, of four threads each, all of which want another shard than the others.
#[test]
fn those_who_find_the_folder_crowded_wait_for_each_other() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("cache");
    let size = 3 * CHUNK;
    let shards: Vec<PathBuf> = (0..8u8)
        .map(|number| {
            let path = dir.path().join(format!("{number}.tgz"));
            fs::write(&path, gzip(&vec![number; size])).unwrap();
            path
        })
        .collect();
    let caches = [0, 1].map(|_| open(&folder, size as u64 * 6 / 5));
    std::thread::scope(|scope| {
        for (number, cache) in [0, 1, 0, 1, 0, 1, 0, 1].into_iter().enumerate() {
            let (cache, shards) = (&caches[cache], &shards);
            scope.spawn(move || {
                for round in 0..6 {
                    let wanted = (number + round) % shards.len();
                    let source = inflated(cache, &shards[wanted]).unwrap();
                    assert!(content(&source).iter().all(|&byte| byte as usize == wanted));
                }
            });
        }
    });
    assert!(
        names(&folder)
            .iter()
            .all(|name| !name.ends_with(".partial"))
    );
}
