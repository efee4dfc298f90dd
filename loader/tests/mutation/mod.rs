//! Inputs that were right once, and how often they are tried.

use std::cell::Cell;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::{Config, FileFailurePersistence, TestRng, TestRunner};

/// Where seeds are kept of inputs that failed once. All targets try them.
const KEPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fuzz.regressions");

/// What one target's inputs may add to the memory of the process at most. They are of a few kilobytes, and pixels are limited.
const MEMORY: u64 = 64 << 20;

/// Tries `cases` inputs, the same ones each time; or with `MAE_FUZZ_SECONDS=N` new ones for N seconds.
///
/// `check` says whether an input was taken for a good one, so that it shows how far inputs get. Targets take turns, so that the memory that is measured is one's own.
pub(crate) fn fuzz<S: Strategy>(
    target: &str,
    cases: u32,
    input: &S,
    check: impl Fn(S::Value) -> Result<bool, TestCaseError>,
) {
    static TURN: Mutex<()> = Mutex::new(());
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let seconds = std::env::var("MAE_FUZZ_SECONDS")
        .ok()
        .map(|text| Duration::from_secs(text.parse().expect("MAE_FUZZ_SECONDS is a number")));
    let config = Config {
        cases,
        failure_persistence: Some(Box::new(FileFailurePersistence::Direct(KEPT))),
        max_shrink_iters: 5000,
        ..Config::default()
    };
    let (started, tried, good) = (Instant::now(), Cell::new(0u64), Cell::new(0u64));
    // A new peak begins here, where the system allows it.
    let _ = std::fs::write("/proc/self/clear_refs", "5");
    let before = resident("VmRSS:");
    loop {
        let mut runner = match seconds {
            Some(_) => TestRunner::new(config.clone()),
            None => TestRunner::new_with_rng(
                config.clone(),
                TestRng::deterministic_rng(config.rng_algorithm),
            ),
        };
        let outcome = runner.run(input, |value| {
            tried.set(tried.get() + 1);
            good.set(good.get() + u64::from(check(value)?));
            Ok(())
        });
        if let Err(failure) = outcome {
            panic!("{target}: {failure}");
        }
        if seconds.is_none_or(|seconds| started.elapsed() >= seconds) {
            break;
        }
    }
    let grown = resident("VmHWM:").saturating_sub(before);
    println!(
        "{target}: {} inputs, {} of them good, in {:.1?}, {:.1} MiB of memory",
        tried.get(),
        good.get(),
        started.elapsed(),
        grown as f64 / f64::from(1 << 20)
    );
    assert!(grown < MEMORY, "{target}: {grown} bytes of memory");
}

/// Bytes of memory; 0 where the system does not tell.
fn resident(field: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(field));
    line.and_then(|line| line.trim().trim_end_matches("kB").trim().parse().ok())
        .map_or(0, |kilobytes: u64| kilobytes * 1024)
}

/// A change to bytes.
#[derive(Clone, Debug)]
enum Edit {
    Set(Index, u8),
    Flip(Index, u8),
    Short(Index, u16),
    Cut(Index),
    Insert(Index, Vec<u8>),
    Remove(Index, usize),
    /// So many bytes from one place to another, where they are put in.
    Copy(Index, Index, usize),
    /// A number in decimal or octal digits becomes another.
    Number(Index, String),
}

fn edit() -> impl Strategy<Value = Edit> {
    let place = any::<Index>;
    let numbers = prop::sample::select(vec![
        "0",
        "1",
        "-1",
        "7777777",
        "77777777777",
        "65535",
        "4294967295",
        "4294967296",
        "9223372036854775807",
        "18446744073709551615",
        "18446744073709551104",
        "1e300",
        "0.5",
        "null",
    ]);
    prop_oneof![
        4 => (place(), any::<u8>()).prop_map(|(at, value)| Edit::Set(at, value)),
        4 => (place(), 0u8..8).prop_map(|(at, bit)| Edit::Flip(at, bit)),
        2 => (place(), any::<u16>()).prop_map(|(at, value)| Edit::Short(at, value)),
        1 => place().prop_map(Edit::Cut),
        2 => (place(), prop::collection::vec(any::<u8>(), 1..9))
            .prop_map(|(at, bytes)| Edit::Insert(at, bytes)),
        2 => (place(), 1usize..700).prop_map(|(at, count)| Edit::Remove(at, count)),
        2 => (place(), place(), 1usize..700)
            .prop_map(|(from, to, count)| Edit::Copy(from, to, count)),
        4 => (place(), numbers).prop_map(|(at, text)| Edit::Number(at, text.to_owned())),
    ]
}

/// One of `originals`, changed in up to a handful of places.
pub(crate) fn mutated(originals: Vec<Vec<u8>>) -> impl Strategy<Value = Vec<u8>> {
    // One alone gets furthest.
    let edits = prop_oneof![
        prop::collection::vec(edit(), 1),
        prop::collection::vec(edit(), 0..6)
    ];
    (prop::sample::select(originals), edits).prop_map(|(mut bytes, edits)| {
        for edit in edits {
            apply(&mut bytes, edit);
        }
        bytes
    })
}

fn apply(bytes: &mut Vec<u8>, edit: Edit) {
    let length = bytes.len();
    if length == 0 {
        return;
    }
    match edit {
        Edit::Set(at, value) => bytes[at.index(length)] = value,
        Edit::Flip(at, bit) => bytes[at.index(length)] ^= 1 << bit,
        Edit::Short(at, value) => {
            for (byte, new) in bytes[at.index(length)..]
                .iter_mut()
                .zip(value.to_be_bytes())
            {
                *byte = new;
            }
        }
        Edit::Cut(at) => bytes.truncate(at.index(length)),
        Edit::Insert(at, new) => {
            let at = at.index(length);
            bytes.splice(at..at, new);
        }
        Edit::Remove(at, count) => {
            let at = at.index(length);
            bytes.drain(at..(at + count).min(length));
        }
        Edit::Copy(from, to, count) => {
            let (from, to) = (from.index(length), to.index(length));
            let part = bytes[from..(from + count).min(length)].to_vec();
            bytes.splice(to..to, part);
        }
        Edit::Number(at, text) => {
            let is_start = |&at: &usize| {
                bytes[at].is_ascii_digit() && (at == 0 || !bytes[at - 1].is_ascii_digit())
            };
            let starts: Vec<usize> = (0..length).filter(is_start).collect();
            if starts.is_empty() {
                return;
            }
            let start = starts[at.index(starts.len())];
            let digits = bytes[start..]
                .iter()
                .take_while(|byte| byte.is_ascii_digit());
            let end = start + digits.count();
            bytes.splice(start..end, text.into_bytes());
        }
    }
}
