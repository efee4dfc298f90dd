//! Shards on a server: the same batches as from the disk, whatever the server does, or a clear error.
#![cfg(feature = "remote")]

mod server;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use jpeg_encoder::{ColorType, Encoder};
use mae_loader::shard::{BuildOptions, build_index};
use mae_loader::{
    Batches, Cursor, Dataset, DatasetOptions, Loader, LoaderBuilder, Result, Retries, Window,
};
use server::Server;

/// Quick ones, so that a test does not wait for minutes.
const RETRIES: Retries = Retries {
    tries: 6,
    first_pause: Duration::from_millis(5),
    longest_pause: Duration::from_millis(50),
    stall: Duration::from_millis(400),
};

fn jpeg(number: u32) -> Vec<u8> {
    let mut bytes = Vec::new();
    let side = 24 + (number % 17) as u16;
    let pixels: Vec<u8> = (0..u32::from(side) * u32::from(side) * 3)
        .map(|i| (i.wrapping_mul(2_654_435_761 + number) >> 24) as u8)
        .collect();
    Encoder::new(&mut bytes, 90)
        .encode(&pixels, side, side, ColorType::Rgb)
        .unwrap();
    bytes
}

/// Three shards of 20 labelled samples.
fn shards(folder: &Path) {
    for shard in 0..3 {
        let mut tar = tar::Builder::new(Vec::new());
        for sample in 0..20 {
            let number = shard * 20 + sample;
            for (suffix, bytes) in [
                ("cls", (number % 4).to_string().into_bytes()),
                ("jpg", jpeg(number)),
            ] {
                let mut header = tar::Header::new_ustar();
                header.set_size(bytes.len() as u64);
                header.set_mode(0o644);
                tar.append_data(&mut header, format!("{number:04}.{suffix}"), &bytes[..])
                    .unwrap();
            }
        }
        let bytes = tar.into_inner().unwrap();
        std::fs::write(folder.join(format!("x-{shard}.tar")), bytes).unwrap();
    }
}

fn options() -> DatasetOptions {
    DatasetOptions {
        retries: RETRIES,
        ..DatasetOptions::default()
    }
}

/// Shuffled over all shards, also those that the cache does not hold.
fn loader(dataset: Dataset, threads: usize) -> Loader {
    builder(dataset, threads)
        .window(Window::All)
        .build()
        .unwrap()
}

fn builder(dataset: Dataset, threads: usize) -> LoaderBuilder {
    Loader::builder(Arc::new(dataset))
        .image_size(16, 16)
        .batch_size(8)
        .masks(16, 4)
        .threads(threads)
        .epochs(2)
}

/// Everything that the batches hold.
fn content(dataset: Dataset) -> Result<Vec<u8>> {
    let mut all = Vec::new();
    for batch in loader(dataset, 3).batches(Cursor::default()) {
        let batch = batch?;
        all.extend_from_slice(batch.pixels());
        all.extend(
            batch
                .labels()
                .into_iter()
                .flatten()
                .flat_map(|label| label.to_le_bytes()),
        );
        all.extend(batch.ids_keep().iter().flat_map(|id| id.to_le_bytes()));
    }
    Ok(all)
}

struct Scene {
    folder: tempfile::TempDir,
    server: Server,
    expected: Vec<u8>,
}

impl Scene {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        shards(folder.path());
        let spec = folder.path().join("x-{0..2}.tar").display().to_string();
        let expected = content(Dataset::open(&[spec], &options()).unwrap()).unwrap();
        Self {
            server: Server::start(folder.path()),
            folder,
            expected,
        }
    }

    fn index(&self) {
        let spec = self.folder.path().join("x-*.tar").display().to_string();
        build_index(&[spec], &BuildOptions::default()).unwrap();
    }

    fn spec(&self) -> String {
        format!("{}/x-{{0..2}}.tar", self.server.url)
    }

    fn open(&self, options: &DatasetOptions) -> Result<Dataset> {
        Dataset::open(&[self.spec()], options)
    }

    fn cached(&self) -> (PathBuf, DatasetOptions) {
        let dir = self.folder.path().join("cache");
        let options = DatasetOptions {
            cache_dir: Some(dir.clone()),
            cache_bytes: 1 << 20,
            ..options()
        };
        (dir, options)
    }
}

#[test]
fn the_same_batches_as_from_the_disk() {
    let scene = Scene::new();
    let scanned = scene.open(&options()).unwrap();
    assert!(scanned.shards().iter().all(|shard| !shard.indexed));
    assert_eq!(
        content(scanned).unwrap(),
        scene.expected,
        "without an index"
    );

    scene.index();
    let before = scene.server.requests("x-1.tar");
    let indexed = scene.open(&options()).unwrap();
    assert!(indexed.shards().iter().all(|shard| shard.indexed));
    assert_eq!(
        scene.server.requests("x-1.tar"),
        before + 1,
        "opening an indexed shard asks once"
    );
    assert_eq!(content(indexed).unwrap(), scene.expected, "with an index");
    // 2 epochs of 8 batches: at most a request a shard and batch, since what lies near is fetched as one.
    let reads = scene.server.requests("x-1.tar") - before - 1;
    assert!((1..=16).contains(&reads), "{reads} requests");

    let by_folder = Dataset::open(&[format!("{}/", scene.server.url)], &options()).unwrap();
    assert_eq!(content(by_folder).unwrap(), scene.expected, "as a folder");
    let by_index = format!("{}/index.json", scene.server.url);
    let by_index = Dataset::open(&[by_index], &options()).unwrap();
    assert_eq!(content(by_index).unwrap(), scene.expected, "by its index");
}

#[test]
fn faults_change_nothing() {
    let scene = Scene::new();
    scene.index();
    for one_in in [3, 2] {
        scene
            .server
            .behaviour
            .one_in
            .store(one_in, Ordering::Relaxed);
        let dataset = scene.open(&DatasetOptions {
            retries: Retries {
                tries: 12,
                ..RETRIES
            },
            ..options()
        });
        assert_eq!(
            content(dataset.unwrap()).unwrap(),
            scene.expected,
            "one in {one_in}"
        );
    }
    let faults = scene.server.behaviour.faults.load(Ordering::Relaxed);
    assert!(faults >= 14, "each kind of fault at least twice: {faults}");
}

#[test]
fn a_server_without_ranges_is_read_whole_once() {
    let scene = Scene::new();
    scene.index();
    scene
        .server
        .behaviour
        .no_ranges
        .store(true, Ordering::Relaxed);
    let (dir, options) = scene.cached();
    let dataset = scene.open(&options).unwrap();
    assert_eq!(content(dataset).unwrap(), scene.expected);
    // Two to open it, of which the first learns that there are no ranges, and one to copy it.
    assert_eq!(scene.server.requests("x-1.tar"), 3);
    assert_eq!(std::fs::read_dir(dir).unwrap().count(), 3);

    // Of the length there is nothing but the server's word here.
    scene.server.behaviour.honest.store(true, Ordering::Relaxed);
    scene.server.behaviour.one_in.store(3, Ordering::Relaxed);
    let (_, options) = scene.cached();
    let fresh = DatasetOptions {
        cache_dir: Some(scene.folder.path().join("fresh")),
        ..options
    };
    assert_eq!(
        content(scene.open(&fresh).unwrap()).unwrap(),
        scene.expected
    );
}

#[test]
fn a_shuffle_keeps_to_what_the_cache_holds() {
    let scene = Scene::new();
    scene.index();
    let shard = |number: usize| format!("x-{number}.tar");
    let size = std::fs::metadata(scene.folder.path().join(shard(0)))
        .unwrap()
        .len();
    let (_, options) = scene.cached();
    let options = DatasetOptions {
        cache_bytes: size * 2 + size / 2,
        ..options
    };
    let loader = builder(scene.open(&options).unwrap(), 3).build().unwrap();
    assert!(
        loader.fingerprint().contains("window=1;"),
        "{}",
        loader.fingerprint()
    );
    let mut seen = BTreeMap::new();
    for batch in loader.batches(Cursor::default()) {
        for sample in batch.unwrap().samples() {
            *seen.entry(*sample).or_insert(0) += 1;
        }
    }
    assert!(seen.values().all(|&times| times <= 2) && seen.len() > 50);
    for number in 0..3 {
        // One to open it, and at most one an epoch to copy it.
        let requests = scene.server.requests(&shard(number));
        assert!(requests <= 3, "{requests} requests for shard {number}");
    }

    let roomy = DatasetOptions {
        cache_bytes: 1 << 30,
        ..options
    };
    let loader = builder(scene.open(&roomy).unwrap(), 3).build().unwrap();
    assert!(loader.fingerprint().contains("window=all;"));
}

#[test]
fn a_cache_too_small_for_all_gives_the_same_batches() {
    let scene = Scene::new();
    scene.index();
    let size = std::fs::metadata(scene.folder.path().join("x-0.tar"))
        .unwrap()
        .len();
    let (dir, options) = scene.cached();
    let options = DatasetOptions {
        cache_bytes: size * 2 + size / 2,
        ..options
    };
    let dataset = scene.open(&options).unwrap();
    assert_eq!(content(dataset).unwrap(), scene.expected);
    let held: u64 = std::fs::read_dir(&dir)
        .unwrap()
        .map(|entry| entry.unwrap().metadata().unwrap().len())
        .sum();
    assert!(
        held <= options.cache_bytes,
        "{held} bytes of {}",
        options.cache_bytes
    );

    // What was cut off by a crash is not taken for an entry, and what is whole is not fetched again.
    let all = DatasetOptions {
        cache_bytes: 1 << 30,
        ..options
    };
    content(scene.open(&all).unwrap()).unwrap();
    std::fs::write(dir.join("0-x-0.tar.1-1.partial"), b"half").unwrap();
    let before = scene.server.requests("x-2.tar");
    assert_eq!(content(scene.open(&all).unwrap()).unwrap(), scene.expected);
    assert_eq!(scene.server.requests("x-2.tar"), before + 1, "opened only");
}

#[test]
fn processes_share_a_cache() {
    let scene = Scene::new();
    scene.index();
    let size = std::fs::metadata(scene.folder.path().join("x-0.tar"))
        .unwrap()
        .len();
    let (_, options) = scene.cached();
    let options = DatasetOptions {
        cache_bytes: size * 5,
        ..options
    };
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                // Each has its own view of the folder, as processes have.
                let dataset = scene.open(&options).unwrap();
                assert_eq!(content(dataset).unwrap(), scene.expected);
            });
        }
    });
}

#[test]
fn a_dead_server_is_an_error_after_the_tries() {
    let scene = Scene::new();
    scene.index();
    let dataset = scene
        .open(&DatasetOptions {
            retries: Retries {
                tries: 2,
                ..RETRIES
            },
            ..options()
        })
        .unwrap();
    scene.server.behaviour.dead.store(true, Ordering::Relaxed);
    let error = content(dataset).unwrap_err().to_string();
    assert!(
        error.contains("x-") && error.contains("tried 2 times"),
        "{error}"
    );
}

#[test]
fn dropping_the_batches_does_not_wait_for_a_dead_server() {
    let scene = Scene::new();
    scene.index();
    let patient = DatasetOptions {
        retries: Retries {
            stall: Duration::from_secs(600),
            ..RETRIES
        },
        ..options()
    };
    let dataset = scene.open(&patient).unwrap();
    scene.server.behaviour.dead.store(true, Ordering::Relaxed);
    let loader = loader(dataset, 2);
    let batches = loader.batches(Cursor::default());
    std::thread::sleep(Duration::from_millis(300));
    drop_soon(batches, loader);
}

/// Drops both, which must not take as long as the server.
fn drop_soon(batches: Batches, loader: Loader) {
    let started = Instant::now();
    drop(batches);
    drop(loader);
    assert!(
        started.elapsed() < Duration::from_secs(60),
        "waited for the server: {:?}",
        started.elapsed()
    );
}

#[test]
fn dropping_the_batches_does_not_wait_for_a_shard_on_its_way_into_the_cache() {
    for no_ranges in [false, true] {
        let scene = Scene::new();
        scene.index();
        let behaviour = &scene.server.behaviour;
        behaviour.no_ranges.store(no_ranges, Ordering::Relaxed);
        let (_, options) = scene.cached();
        let patient = DatasetOptions {
            retries: Retries {
                stall: Duration::from_secs(600),
                ..RETRIES
            },
            ..options
        };
        let dataset = scene.open(&patient).unwrap();
        behaviour.dead.store(true, Ordering::Relaxed);
        let asked = || -> u64 {
            (0..3)
                .map(|n| scene.server.requests(&format!("x-{n}.tar")))
                .sum()
        };
        let before = asked();
        let loader = loader(dataset, 2);
        let batches = loader.batches(Cursor::default());
        while asked() == before {
            std::thread::sleep(Duration::from_millis(5));
        }
        drop_soon(batches, loader);
    }
}

#[test]
fn a_file_that_changes_under_way_is_an_error() {
    let scene = Scene::new();
    scene.index();
    let dataset = scene.open(&options()).unwrap();
    scene
        .server
        .behaviour
        .changed
        .store(true, Ordering::Relaxed);
    let error = content(dataset).unwrap_err().to_string();
    assert!(error.contains("has changed since it was opened"), "{error}");
}

#[test]
fn what_is_not_there_is_named_without_its_signature() {
    let scene = Scene::new();
    for spec in [
        "nothing.tar?key=secret",
        "none/",
        "none.json?key=secret",
        "x-*.tar",
    ] {
        let spec = format!("{}/{spec}", scene.server.url);
        let error = Dataset::open(&[&spec], &options()).unwrap_err().to_string();
        assert!(
            error.contains("http://127.0.0.1") && !error.contains("secret"),
            "{error}"
        );
    }
    let error = Dataset::open(&["http://127.0.0.1:1/x.tar"], &options()).unwrap_err();
    assert!(error.to_string().contains("tried 6 times"), "{error}");
}

#[test]
fn compressed_shards_and_local_indexes_of_servers() {
    let scene = Scene::new();
    let plain = std::fs::read(scene.folder.path().join("x-0.tar")).unwrap();
    let zstd = zstd::encode_all(&plain[..], 3).unwrap();
    std::fs::write(scene.folder.path().join("z-0.tar.zst"), zstd).unwrap();
    let (_, options) = scene.cached();
    let url = format!("{}/z-0.tar.zst", scene.server.url);
    let remote = Dataset::open(&[&url], &options).unwrap();
    let local = scene
        .folder
        .path()
        .join("z-0.tar.zst")
        .display()
        .to_string();
    let local = Dataset::open(&[local], &options).unwrap();
    assert_eq!(content(remote).unwrap(), content(local).unwrap());

    // An index on this machine that names shards by their URLs.
    let elsewhere = tempfile::tempdir().unwrap();
    let path = elsewhere.path().join("mine.json");
    let to = |output: Option<&PathBuf>| BuildOptions {
        output: output.cloned(),
        ..BuildOptions::default()
    };
    assert!(build_index(&[scene.spec()], &to(None)).is_err());
    build_index(&[scene.spec()], &to(Some(&path))).unwrap();
    let dataset = Dataset::open(&[path.display().to_string()], &options).unwrap();
    assert!(dataset.shards().iter().all(|shard| shard.indexed));
    assert_eq!(content(dataset).unwrap(), scene.expected);
}
