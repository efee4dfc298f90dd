//! A thread that keeps a rank's notice fresh and reads those of others, while the rank works.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use std::{io, thread};

use anyhow::{Context, Result, bail};

use super::Patience;
use super::board::{Board, Notice, Stage};

/// How often a rank that waits for others says so.
const REPORT: Duration = Duration::from_secs(60);

/// A rank's own notice, and those it heeds: rank 0 those of all others, the others that of rank 0.
pub(super) struct Watch {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    rank: usize,
    board: Board,
    patience: Patience,
    state: Mutex<State>,
    changed: Condvar,
    images: AtomicU64,
}

struct State {
    mine: Notice,
    /// Whether `mine` says something that was not written yet.
    news: bool,
    others: Vec<Other>,
    /// Why the job cannot go on.
    trouble: Option<String>,
    ending: bool,
}

/// Another rank as it was seen last.
pub(super) struct Other {
    pub(super) rank: usize,
    pub(super) process: String,
    notice: Option<Notice>,
    /// Time without a change of its notice, as far as this rank looked.
    silent: Duration,
}

impl Other {
    pub(super) fn new(rank: usize, process: String) -> Self {
        Self {
            rank,
            process,
            notice: None,
            silent: Duration::ZERO,
        }
    }

    fn has_ended(&self) -> bool {
        let ended = |notice: &Notice| notice.failed.is_some() || notice.stage == Stage::Left;
        self.notice.as_ref().is_some_and(ended)
    }

    fn has_reached(&self, stage: Stage) -> bool {
        let reached = |notice: &Notice| notice.failed.is_none() && notice.stage >= stage;
        self.notice.as_ref().is_some_and(reached)
    }

    /// Takes a look at its notice into account. What is wrong with it, if anything is.
    fn seen(
        &mut self,
        notice: Option<Notice>,
        since: Duration,
        patience: Patience,
    ) -> Option<String> {
        if self.has_ended() {
            return None;
        }
        match notice.filter(|notice| notice.process == self.process) {
            Some(notice) if self.notice.as_ref() != Some(&notice) => {
                self.silent = Duration::ZERO;
                self.notice = Some(notice);
            }
            // A look that took long, as where the file system hung, says nothing about the other: it counts as a short one.
            _ => self.silent += since.min(patience.poll * 5),
        }
        if let Some(reason) = self
            .notice
            .as_ref()
            .and_then(|notice| notice.failed.as_ref())
        {
            return Some(match self.rank {
                0 => format!("rank 0 ended the job: {reason}"),
                rank => format!("rank {rank} failed: {reason}"),
            });
        }
        (self.silent >= patience.silence).then(|| {
            format!(
                "rank {} has given no sign of life for {} s: its process has died, or does not reach the folder of the shards any more",
                self.rank,
                patience.silence.as_secs_f64()
            )
        })
    }
}

impl Watch {
    /// `mine` is on the board already.
    pub(super) fn start(
        rank: usize,
        board: Board,
        mine: Notice,
        others: Vec<Other>,
        patience: Patience,
    ) -> Result<Self> {
        let shared = Arc::new(Shared {
            rank,
            board,
            patience,
            state: Mutex::new(State {
                mine,
                news: false,
                others,
                trouble: None,
                ending: false,
            }),
            changed: Condvar::new(),
            images: AtomicU64::new(0),
        });
        let thread = thread::Builder::new().name("ranks".into());
        let watching = Arc::clone(&shared);
        let thread = thread.spawn(move || watching.run());
        Ok(Self {
            thread: Some(thread.context("cannot start a thread")?),
            shared,
        })
    }

    pub(super) fn count(&self, images: u64) {
        self.shared.images.fetch_add(images, Ordering::Relaxed);
    }

    /// Fails where the job cannot go on.
    pub(super) fn check(&self) -> Result<()> {
        match &self.shared.lock().trouble {
            Some(trouble) => bail!("{trouble}"),
            None => Ok(()),
        }
    }

    pub(super) fn send<T: serde::Serialize>(&self, stage: Stage, what: &T) -> Result<()> {
        let process = self.shared.lock().mine.process.clone();
        self.shared.board.send(&process, stage, what)?;
        self.say(|mine| mine.stage = stage);
        Ok(())
    }

    /// What the others send, once all have.
    pub(super) fn receive<T: serde::de::DeserializeOwned>(&self, stage: Stage) -> Result<Vec<T>> {
        let mut reported = Instant::now();
        let mut state = self.shared.lock();
        loop {
            let missing: Vec<&Other> = state
                .others
                .iter()
                .filter(|o| !o.has_reached(stage))
                .collect();
            if missing.is_empty() {
                break;
            }
            if let Some(trouble) = &state.trouble {
                bail!("{trouble}");
            }
            if reported.elapsed() >= REPORT {
                let ranks: Vec<String> = missing.iter().map(|o| o.rank.to_string()).collect();
                let images: u64 = state
                    .others
                    .iter()
                    .flat_map(|o| &o.notice)
                    .map(|n| n.images)
                    .sum();
                tracing::info!(
                    "waiting for {} of the ranks: {}; the others have packed {images} images",
                    missing.len(),
                    ranks.join(", ")
                );
                reported = Instant::now();
            }
            state = self.shared.wait(state);
        }
        let processes: Vec<String> = state.others.iter().map(|o| o.process.clone()).collect();
        drop(state);
        let sent = processes
            .iter()
            .map(|process| self.shared.board.receive(process, stage));
        sent.collect()
    }

    /// Says how this rank ends, and, where others are to read it, waits for a while until they have.
    pub(super) fn leave(&self, failed: Option<String>, wait: Duration) {
        self.say(|mine| match failed {
            Some(_) => mine.failed = failed,
            None => mine.stage = Stage::Left,
        });
        let started = Instant::now();
        let silence = self.shared.patience.silence;
        let mut state = self.shared.lock();
        while started.elapsed() < wait
            && !state
                .others
                .iter()
                .all(|o| o.has_ended() || o.silent >= silence)
        {
            state = self.shared.wait(state);
        }
    }

    fn say(&self, change: impl FnOnce(&mut Notice)) {
        let mut state = self.shared.lock();
        change(&mut state.mine);
        state.news = true;
        drop(state);
        self.shared.changed.notify_all();
    }
}

impl Drop for Watch {
    /// What was said last is written before.
    fn drop(&mut self) {
        self.shared.lock().ending = true;
        self.shared.changed.notify_all();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        let waited = self.changed.wait_timeout(state, self.patience.poll);
        waited.unwrap_or_else(PoisonError::into_inner).0
    }

    fn run(&self) {
        let (mut written, mut looked) = (Instant::now(), Instant::now());
        let ranks: Vec<usize> = self.lock().others.iter().map(|other| other.rank).collect();
        loop {
            let mut state = self.lock();
            let ending = state.ending;
            if state.news || (!ending && written.elapsed() >= self.patience.beat()) {
                state.mine.images = self.images.load(Ordering::Relaxed);
                state.mine.beat += 1;
                state.news = false;
                let mine = state.mine.clone();
                drop(state);
                let renewed = self.board.renew(self.rank, &mine);
                written = Instant::now();
                if renewed.is_err_and(|e| e.kind() == io::ErrorKind::NotFound) {
                    let trouble = "this rank's notice was taken away: another run has begun in the same folder, or the others gave this rank up";
                    self.lock().trouble.get_or_insert(trouble.into());
                }
            } else {
                drop(state);
            }
            if ending {
                return;
            }
            let notices: Vec<_> = ranks.iter().map(|&rank| self.board.read(rank)).collect();
            let since = looked.elapsed();
            looked = Instant::now();
            let mut state = self.lock();
            let State {
                others, trouble, ..
            } = &mut *state;
            for (other, notice) in others.iter_mut().zip(notices) {
                if let Some(seen) = other.seen(notice, since, self.patience) {
                    trouble.get_or_insert(seen);
                }
            }
            self.changed.notify_all();
            if !state.news && !state.ending {
                drop(self.wait(state));
            }
        }
    }
}
