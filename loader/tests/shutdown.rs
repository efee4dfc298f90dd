//! However a loader ends, nothing of it is left: memory, threads and descriptors of this process stay flat. They are counted for the whole
//! process, so that all of it is one test in a program of its own.
#![cfg(target_os = "linux")]

mod common;
mod process;
#[cfg(feature = "remote")]
#[allow(dead_code, reason = "other tests ask more of it")]
mod server;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mae_loader::{Cursor, Dataset, DatasetOptions, DecoderKind, HostBatch, Loader};

use process::Usage;

/// A hang, not slowness: with right code all of it is gone in milliseconds.
const PATIENCE: Duration = Duration::from_secs(120);
/// What the allocator may keep beyond what it kept after the warm-up. What could leak comes to several times as much, as each part says.
const TOLERANCE: u64 = 16 << 20;

const SAMPLES: usize = 12;
const BATCH: usize = 4;
const STEPS: u64 = (SAMPLES / BATCH) as u64;
const SIDE: u32 = 64;

fn write_shard(path: &Path, bad: impl Fn(usize) -> bool) {
    let samples = (0..SAMPLES).map(|number| {
        let value = |i: usize| (((i ^ number) as u32).wrapping_mul(0x9e37_79b9) >> 27) as u8;
        let mut jpeg = common::jpeg((16 + number, 20), |_| {}, value);
        if bad(number) {
            jpeg.truncate(40);
        }
        (format!("{number:04}.jpg"), jpeg)
    });
    common::tar(path, samples);
}

fn open(spec: &str) -> Arc<Dataset> {
    Arc::new(Dataset::open(&[spec], &DatasetOptions::default()).unwrap())
}

fn loader(dataset: Arc<Dataset>, threads: usize, epochs: u64) -> Loader {
    Loader::builder(dataset)
        .image_size(SIDE, SIDE)
        .batch_size(BATCH)
        .masks(16, 4)
        .threads(threads)
        .epochs(epochs)
        .build()
        .unwrap()
}

fn content(batch: &HostBatch) -> (Vec<u8>, Vec<u32>) {
    (batch.pixels().to_vec(), batch.ids_restore().to_vec())
}

/// Until it holds, which it will with right code however slow the machine is.
fn wait_until(what: &str, holds: impl Fn() -> bool) {
    let started = Instant::now();
    while !holds() {
        assert!(started.elapsed() < PATIENCE, "still not: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Does `round` so often, and checks that nothing has grown since a third of them.
fn repeat(what: &str, rounds: usize, mut round: impl FnMut(usize)) {
    let before = Usage::now();
    let mut warm = before;
    for number in 0..rounds {
        round(number);
        if number == rounds / 3 {
            warm = Usage::now();
        }
    }
    let after = Usage::back_to(before, PATIENCE).unwrap_or_else(|left| panic!("{what}: {left}"));
    println!("{what}: {before:?} before, {warm:?} warm, {after:?} after");
    assert!(
        after.resident <= warm.resident + TOLERANCE,
        "{what}: {after:?} after {warm:?}"
    );
}

#[test]
fn nothing_is_left() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.tar");
    write_shard(&path, |_| false);
    let spec = path.display().to_string();
    thousands_of_epochs(&spec);
    loaders_made_and_dropped(&spec);
    a_consumer_that_stops(&spec);
    many_threads(&spec);
    errors(folder.path());
    images_of_every_kind(folder.path());
    #[cfg(feature = "remote")]
    servers(folder.path());
}

/// A batch's pixels are 48 KiB: to leak one an epoch would come to 100 MiB.
fn thousands_of_epochs(spec: &str) {
    let epochs = 3000;
    let mut batches = loader(open(spec), 2, epochs).batches(Cursor::default());
    let at_work = Usage::now();
    repeat("thousands of epochs", epochs as usize, |epoch| {
        for step in 0..STEPS {
            let batch = batches.next().unwrap().unwrap();
            let epoch = epoch as u64;
            assert_eq!(batch.cursor(), Cursor { epoch, step });
        }
        assert!(Usage::now().threads <= at_work.threads);
    });
    assert!(batches.next().is_none());
}

/// The corpus of bad and odd images, some 130 of them, decoded over and over by each decoder, in one loader: what an image that is refused
/// half-way leaves behind, a few kilobytes each time, would come to 16 MiB in 20 epochs.
fn images_of_every_kind(folder: &Path) {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/reference/golden/corpus");
    let mut files: Vec<_> = std::fs::read_dir(corpus)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|suffix| suffix == "jpg"))
        .collect();
    files.sort();
    assert!(files.len() > 100, "{}", files.len());
    let path = folder.join("corpus.tar");
    let members = (0..).zip(&files).map(|(number, file)| {
        let bytes = std::fs::read(file).unwrap();
        (format!("{number:04}.jpg"), bytes)
    });
    common::tar(&path, members);
    let dataset = open(&path.display().to_string());
    for decoder in [DecoderKind::Zune, DecoderKind::Turbo] {
        if decoder == DecoderKind::Turbo && !DecoderKind::HAS_TURBO {
            continue;
        }
        let epochs = 60;
        let loader = Loader::builder(Arc::clone(&dataset))
            .image_size(SIDE, SIDE)
            .batch_size(1)
            .threads(2)
            .epochs(epochs)
            .decoder(decoder)
            .max_bad_fraction(1.0)
            .build()
            .unwrap();
        let mut batches = loader.batches(Cursor::default());
        let what = format!("images of every kind, {decoder}");
        repeat(&what, epochs as usize, |_| {
            for _ in 0..dataset.len() {
                batches.next().unwrap().unwrap();
            }
        });
        let stats = loader.stats();
        assert!(stats.bad > 0 && stats.bad < stats.samples, "{stats:?}");
    }
}

/// Each has three or more buffers of 48 KiB and opens the shard: 300 of them would come to 40 MiB and 300 descriptors.
fn loaders_made_and_dropped(spec: &str) {
    repeat("loaders made and dropped", 300, |number| {
        let loader = loader(open(spec), 1 + number % 4, 100);
        let mut batches = loader.batches(Cursor::default());
        let taken: Vec<HostBatch> = batches
            .by_ref()
            .take(number % 6)
            .map(|batch| batch.unwrap())
            .collect();
        // In mid-epoch, with and without batches in hand, in either order.
        if number % 2 == 0 {
            drop(batches);
            drop(taken);
        } else {
            drop(taken);
            drop(batches);
        }
    });
}

/// The loader fills the memory that it has, and no more, and ends while nobody reads.
fn a_consumer_that_stops(spec: &str) {
    repeat("a consumer that stops", 30, |number| {
        let loader = loader(open(spec), 3, 1000);
        let mut batches = loader.batches(Cursor::default());
        let held = batches.next().unwrap().unwrap();
        let expected = content(&held);
        // Two batches in preparation, by default, and the one in hand.
        let all = 3 * BATCH as u64;
        wait_until("all buffers are filled", || loader.stats().samples == all);
        if number % 2 == 0 {
            drop(batches);
        } else {
            // By another thread than the one that read.
            std::thread::spawn(move || drop(batches)).join().unwrap();
        }
        assert_eq!(loader.stats().samples, all);
        assert_eq!(content(&held), expected);
    });
}

/// One loader, one data set, many readers at once; batches end in other threads than they were read in.
fn many_threads(spec: &str) {
    let loader = loader(open(spec), 2, 4);
    let expected: Vec<_> = loader
        .batches(Cursor::default())
        .map(|batch| content(&batch.unwrap()))
        .collect();
    repeat("many threads", 12, |_| {
        let (send, receive) = std::sync::mpsc::channel::<(usize, HostBatch)>();
        std::thread::scope(|scope| {
            for reader in 0..8 {
                let (loader, send) = (&loader, send.clone());
                scope.spawn(move || {
                    let from = Cursor {
                        epoch: reader as u64 % 4,
                        step: reader as u64 % STEPS,
                    };
                    let first = reader % 4 * STEPS as usize + reader % STEPS as usize;
                    for (place, batch) in loader.batches(from).take(5).enumerate() {
                        send.send((first + place, batch.unwrap())).unwrap();
                    }
                });
            }
            drop(send);
            for (place, batch) in receive {
                assert!(content(&batch) == expected[place], "batch {place}");
            }
        });
    });
}

/// Threads have ended by the time that the error is told, and descriptors are closed with the loader.
fn errors(folder: &Path) {
    let path = folder.join("bad.tar");
    write_shard(&path, |number| number % 2 == 1);
    let spec = path.display().to_string();
    repeat("errors", 60, |_| {
        let before = Usage::now();
        let mut batches = loader(open(&spec), 4, 1000).batches(Cursor::default());
        let error = batches.find_map(|batch| batch.err()).unwrap();
        assert!(error.to_string().contains("bad.tar"), "{error}");
        // All but the descriptors of the data set, which is still there.
        wait_until("threads have ended", || {
            Usage::now().threads <= before.threads
        });
        assert!(batches.next().is_none());
    });

    let gone = folder.join("gone.tar");
    repeat("a shard that is cut off", 20, |_| {
        write_shard(&gone, |_| false);
        let dataset = open(&gone.display().to_string());
        std::fs::write(&gone, b"no longer a tar").unwrap();
        let mut batches = loader(dataset, 4, 1000).batches(Cursor::default());
        let error = batches.by_ref().find_map(|batch| batch.err()).unwrap();
        assert!(error.to_string().contains("gone.tar"), "{error}");
    });
}

/// The network's threads and sockets go with the data set; the server's own, in this process too, when they are closed.
#[cfg(feature = "remote")]
fn servers(folder: &Path) {
    let before = Usage::now();
    let server = server::Server::start(folder);
    let spec = format!("{}/a.tar", server.url);
    let local = loader(open(&folder.join("a.tar").display().to_string()), 1, 2);
    let expected: Vec<_> = local
        .batches(Cursor::default())
        .map(|batch| content(&batch.unwrap()))
        .collect();
    repeat("servers", 40, |number| {
        let loader = loader(open(&spec), 1 + number % 3, 2);
        let batches = loader.batches(Cursor::default()).take(number % 7);
        for (batch, expected) in batches.zip(&expected) {
            assert!(content(&batch.unwrap()) == *expected);
        }
    });
    drop(local);
    drop(server);
    let after = Usage::back_to(before, PATIENCE);
    assert!(after.is_ok(), "{after:?}");
}
