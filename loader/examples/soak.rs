//! Reads the same data over and over from everywhere that they may be, while the server misbehaves, and ends with an error as soon as a
//! byte differs from what one thread reads from the disk, or memory, threads or descriptors grow. Linux only.
//!
//! ```text
//! cargo run --release -p mae-loader --example soak -- --minutes 30 [--seed N]
//! ```
//!
//! The server is a process of its own, so that what is counted here is the loader's.

#[path = "../tests/common/mod.rs"]
mod common;
#[path = "../tests/process/mod.rs"]
mod process;
#[path = "../tests/server/mod.rs"]
#[allow(dead_code, reason = "tests ask more of it")]
mod server;

use std::error::Error;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use mae_loader::shard::{BuildOptions, build_index};
use mae_loader::{Cursor, Dataset, DatasetOptions, HostBatch, Loader, Retries, Window};

use process::Usage;
use server::Server;

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

const SHARDS: usize = 4;
const SAMPLES: usize = 24;
const BATCH: usize = 8;
const EPOCHS: u64 = 3;
const STEPS: u64 = (SHARDS * SAMPLES / BATCH) as u64;
/// Tried often, since every fault is made many times over; not patiently, since stalls are.
const RETRIES: Retries = Retries {
    tries: 30,
    first_pause: Duration::from_millis(5),
    longest_pause: Duration::from_millis(100),
    stall: Duration::from_millis(400),
};
/// Threads and descriptors are gone so long after the last of a loader is dropped.
const PATIENCE: Duration = Duration::from_secs(30);
/// Memory may grow so much after the warm-up, the first fifth of the time: what the allocator holds varies.
const TOLERANCE: u64 = 16 << 20;
/// What limits the parts of memory that glibc keeps for threads.
const ARENAS: &str = "MALLOC_ARENA_MAX";
const REPORT_EVERY: Duration = Duration::from_secs(10);

fn main() -> Outcome<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let usage = "usage: soak [--minutes M] [--seed N]";
    let (mut minutes, mut seed) = (30.0, 1);
    for pair in arguments.chunks(2) {
        match pair {
            [name, folder] if name == "--serve" => return serve(Path::new(folder)),
            [name, value] if name == "--minutes" => minutes = value.parse()?,
            [name, value] if name == "--seed" => seed = value.parse()?,
            _ => return Err(usage.into()),
        }
    }
    if std::env::var_os(ARENAS).is_none() {
        // glibc keeps memory apart for eight threads a core, and each part fills up to what one thread ever took: a slow growth with an end.
        let mut again = Command::new(std::env::current_exe()?);
        return Err(again.args(arguments).env(ARENAS, "2").exec().into());
    }
    let folder = tempfile::tempdir()?;
    write_data(folder.path())?;
    let scene = Scene {
        server: Remote::start(folder.path())?,
        expected: expected(folder.path())?,
        shard_bytes: std::fs::metadata(folder.path().join("x-0.tar"))?.len(),
        folder: folder.path().to_path_buf(),
    };
    soak(scene, Duration::from_secs_f64(minutes * 60.0), Chance(seed))
}

/// xorshift64*.
struct Chance(u64);

impl Chance {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % bound
    }
}

/// The samples three times: `x-*.tar` with an index, `bare/x-*.tar` without, and `bare/z-*.tar.zst`. Each shard has a bad one.
fn write_data(folder: &Path) -> Outcome<()> {
    let bare = folder.join("bare");
    std::fs::create_dir(&bare)?;
    for shard in 0..SHARDS {
        let samples = (0..SAMPLES).flat_map(|sample| {
            let number = shard * SAMPLES + sample;
            let side = 40 + number % 37;
            let value = |i: usize| ((i * (number + 3)) as u32).wrapping_mul(2_654_435_761) >> 24;
            let mut jpeg = common::jpeg(
                (side, side + 5),
                |encoder| encoder.set_progressive(number.is_multiple_of(5)),
                |i| value(i) as u8,
            );
            if sample == 7 {
                jpeg.truncate(jpeg.len() / 2);
            }
            let label = (number % 4).to_string().into_bytes();
            [
                (format!("{number:04}.cls"), label),
                (format!("{number:04}.jpg"), jpeg),
            ]
        });
        let path = folder.join(format!("x-{shard}.tar"));
        common::tar(&path, samples);
        let bytes = std::fs::read(&path)?;
        std::fs::write(bare.join(format!("x-{shard}.tar")), &bytes)?;
        let packed = zstd::encode_all(&bytes[..], 3)?;
        std::fs::write(bare.join(format!("z-{shard}.tar.zst")), packed)?;
    }
    build_index(
        &[folder.join("x-*.tar").display().to_string()],
        &BuildOptions::default(),
    )?;
    Ok(())
}

fn loader(dataset: Dataset, threads: usize, prefetch: usize) -> Outcome<Loader> {
    let loader = Loader::builder(Arc::new(dataset))
        .window(Window::All)
        .image_size(32, 32)
        .batch_size(BATCH)
        .masks(16, 4)
        .erasing(0.25)
        .threads(threads)
        .prefetch(prefetch)
        .max_bad_fraction(0.1)
        .epochs(EPOCHS)
        .build()?;
    Ok(loader)
}

/// Everything that a batch holds.
fn content(batch: &HostBatch) -> Vec<u8> {
    let numbers = [batch.ids_keep(), batch.ids_restore(), batch.erase_boxes()];
    let numbers = numbers.into_iter().chain(batch.labels()).flatten();
    let mut content = batch.pixels().to_vec();
    content.extend(numbers.flat_map(|number| number.to_le_bytes()));
    content
}

/// The batches of all epochs, as one thread reads them from the disk.
fn expected(folder: &Path) -> Outcome<Vec<Vec<u8>>> {
    let spec = folder.join(format!("x-{{0..{}}}.tar", SHARDS - 1));
    let dataset = Dataset::open(&[spec.display().to_string()], &DatasetOptions::default())?;
    let batches = loader(dataset, 1, 1)?.batches(Cursor::default());
    let contents: Vec<Vec<u8>> = batches
        .map(|batch| Ok(content(&batch?)))
        .collect::<mae_loader::Result<_>>()?;
    assert_eq!(contents.len() as u64, EPOCHS * STEPS);
    Ok(contents)
}

/// The server, in a process of its own.
struct Remote {
    child: Child,
    orders: ChildStdin,
    answers: BufReader<ChildStdout>,
    /// Of the server that knows ranges, and of the one that does not.
    urls: [String; 2],
}

impl Remote {
    fn start(folder: &Path) -> Outcome<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .arg("--serve")
            .arg(folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let (orders, answers) = (child.stdin.take(), child.stdout.take());
        let mut remote = Self {
            child,
            orders: orders.ok_or("no input to the server")?,
            answers: BufReader::new(answers.ok_or("no output of the server")?),
            urls: [String::new(), String::new()],
        };
        remote.urls = [remote.answer()?, remote.answer()?];
        Ok(remote)
    }

    fn answer(&mut self) -> Outcome<String> {
        let mut line = String::new();
        if self.answers.read_line(&mut line)? == 0 {
            return Err("the server has ended".into());
        }
        Ok(line.trim().to_owned())
    }

    /// From now on one of so many answers goes wrong. Returns how many have so far.
    fn one_in(&mut self, answers: u64) -> Outcome<u64> {
        writeln!(self.orders, "{answers}")?;
        Ok(self.answer()?.parse()?)
    }
}

impl Drop for Remote {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The server's process: says its URLs, and then, for each line with a number, makes one of so many answers go wrong and says how many have.
fn serve(folder: &Path) -> Outcome<()> {
    let servers = [Server::start(folder), Server::start(folder)];
    // Where there are no ranges, there is nothing but the server's word for a file's length.
    servers[1]
        .behaviour
        .no_ranges
        .store(true, Ordering::Relaxed);
    servers[1].behaviour.honest.store(true, Ordering::Relaxed);
    for server in &servers {
        println!("{}", server.url);
    }
    for line in std::io::stdin().lines() {
        let one_in = line?.trim().parse()?;
        let mut faults = 0;
        for server in &servers {
            server.behaviour.one_in.store(one_in, Ordering::Relaxed);
            faults += server.behaviour.faults.load(Ordering::Relaxed);
        }
        println!("{faults}");
    }
    Ok(())
}

struct Scene {
    server: Remote,
    expected: Vec<Vec<u8>>,
    shard_bytes: u64,
    folder: PathBuf,
}

/// Where data are read from.
const PLACES: [&str; 8] = [
    "disk",
    "disk, compressed",
    "disk, by the index",
    "server",
    "server, no index",
    "server, through the cache",
    "server without ranges",
    "server, compressed",
];

impl Scene {
    /// The data set at a place, by number. The cache is too small for all of it.
    fn open(&self, place: usize) -> Outcome<Dataset> {
        let folder = self.folder.display();
        let [ranges, no_ranges] = &self.server.urls;
        let last = SHARDS - 1;
        let spec = match place {
            0 => format!("{folder}/x-{{0..{last}}}.tar"),
            1 => format!("{folder}/bare/z-*.tar.zst"),
            2 => format!("{folder}/index.json"),
            3 => format!("{ranges}/"),
            4 => format!("{ranges}/bare/x-{{0..{last}}}.tar"),
            5 => format!("{ranges}/x-{{0..{last}}}.tar"),
            6 => format!("{no_ranges}/x-{{0..{last}}}.tar"),
            _ => format!("{ranges}/bare/z-{{0..{last}}}.tar.zst"),
        };
        let in_place = matches!(place, 0 | 2 | 3 | 4);
        let options = DatasetOptions {
            cache_dir: (!in_place).then(|| self.folder.join("cache")),
            cache_bytes: self.shard_bytes * 5 / 2,
            retries: RETRIES,
            ..DatasetOptions::default()
        };
        Ok(Dataset::open(&[spec], &options)?)
    }

    /// Reads up to `batches` batches from `from` on, stops there, and returns where. Batches in hand outlive the iterator.
    fn read(&self, loader: &Loader, from: Cursor, batches: u64) -> Outcome<(Cursor, u64)> {
        let (mut cursor, mut read, mut held) = (from, 0, Vec::new());
        for batch in loader.batches(from).take(batches as usize) {
            let batch = batch?;
            let at = batch.cursor();
            if at != cursor {
                return Err(format!("{at:?} came after {cursor:?}").into());
            }
            cursor = batch.next_cursor();
            read += 1;
            held.push(batch);
            if held.len() == 3 {
                self.check(&held.remove(0))?;
            }
        }
        held.iter().try_for_each(|batch| self.check(batch))?;
        Ok((cursor, read))
    }

    fn check(&self, batch: &HostBatch) -> Outcome<()> {
        let at = batch.cursor();
        if self.expected[(at.epoch * STEPS + at.step) as usize] == content(batch) {
            return Ok(());
        }
        Err(format!("the bytes of the batch at {at:?} differ").into())
    }

    /// One loader, stopped and resumed; sometimes used by two threads at once. Returns batches and the most that was held meanwhile.
    fn cycle(&self, place: usize, chance: &mut Chance) -> Outcome<(u64, Usage)> {
        let dataset = self.open(place)?;
        let threads = 1 + chance.below(6) as usize;
        let loader = loader(dataset, threads, 1 + chance.below(4) as usize)?;
        let (mut read, mut most) = (0, Usage::now());
        for _ in 0..1 + chance.below(4) {
            let starts: Vec<(Cursor, u64)> = (0..1 + chance.below(4) / 3)
                .map(|_| {
                    let (epoch, step) = (chance.below(EPOCHS), chance.below(STEPS));
                    (Cursor { epoch, step }, chance.below(10))
                })
                .collect();
            let parts: Vec<Outcome<u64>> = std::thread::scope(|scope| {
                let readers: Vec<_> = starts
                    .iter()
                    .map(|&(from, batches)| {
                        let loader = &loader;
                        scope.spawn(move || {
                            let (at, first) = self.read(loader, from, batches)?;
                            let (_, second) = self.read(loader, at, batches / 2)?;
                            Ok(first + second)
                        })
                    })
                    .collect();
                let now = Usage::now();
                most.threads = most.threads.max(now.threads);
                most.descriptors = most.descriptors.max(now.descriptors);
                readers
                    .into_iter()
                    .map(|reader| reader.join().unwrap_or_else(|_| Err("a panic".into())))
                    .collect()
            });
            for part in parts {
                read += part?;
            }
        }
        Ok((read, most))
    }
}

fn soak(mut scene: Scene, length: Duration, mut chance: Chance) -> Outcome<()> {
    let (started, before) = (Instant::now(), Usage::now());
    let mut reported = started;
    let (mut loaders, mut batches, mut faults) = ([0u64; PLACES.len()], 0, 0);
    let (mut busy_threads, mut busy_descriptors) = (0, 0);
    let (mut warm, mut most) = (0, 0);
    while started.elapsed() < length {
        faults = scene
            .server
            .one_in([0, 3, 5, 10][chance.below(4) as usize])?;
        let place = chance.below(PLACES.len() as u64) as usize;
        let (read, busy) = scene
            .cycle(place, &mut chance)
            .map_err(|error| format!("{}: {error}", PLACES[place]))?;
        let now = Usage::back_to(before, PATIENCE)
            .map_err(|left| format!("{}: {left}, {PATIENCE:?} after the end", PLACES[place]))?;
        loaders[place] += 1;
        batches += read;
        busy_threads = busy_threads.max(busy.threads);
        busy_descriptors = busy_descriptors.max(busy.descriptors);
        if started.elapsed() < length / 5 {
            warm = now.resident.max(warm);
        }
        most = now.resident.max(most);
        if warm > 0 && most > warm + TOLERANCE {
            return Err(format!("{most} bytes are held, {warm} after the warm-up").into());
        }
        if reported.elapsed() >= REPORT_EVERY {
            reported = Instant::now();
            println!(
                "{:>5} s: {} loaders, {batches} batches, {faults} faults; at rest {:.1} MiB, {} threads, {} descriptors; at work up to {} threads, {} descriptors",
                started.elapsed().as_secs(),
                loaders.iter().sum::<u64>(),
                now.resident as f64 / f64::from(1 << 20),
                now.threads,
                now.descriptors,
                std::mem::take(&mut busy_threads),
                std::mem::take(&mut busy_descriptors),
            );
        }
    }
    for (place, loaders) in PLACES.iter().zip(loaders) {
        println!("{place}: {loaders} loaders");
    }
    println!(
        "nothing differed or grew: {batches} batches, {faults} faults, at most {:.1} MiB after {:.1} in the warm-up",
        most as f64 / f64::from(1 << 20),
        warm as f64 / f64::from(1 << 20),
    );
    Ok(())
}
