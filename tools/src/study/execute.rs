//! Runs what is left of a plan, several tasks at a time, and keeps the record.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::child::{End, Workshop};
use super::plan::{Plan, Stage};
use super::record::{Ended, Line, Record};
use crate::terminal::bars;
use crate::units::duration;

/// Where a task stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Not begun, or stopped.
    Left,
    Running,
    Done,
    /// Failed, or waits for one that has.
    Failed,
}

/// What the workers share.
struct Shared {
    states: Vec<State>,
    record: Record,
    /// What kept the record from being written, or a process from being started.
    broken: Option<anyhow::Error>,
}

/// How it ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Tally {
    pub(super) failed: usize,
    /// Not done, since it was stopped.
    pub(super) left: usize,
}

/// What is called with the record whenever a task has ended.
pub(super) type Each<'a> = dyn Fn(&Record) -> anyhow::Result<()> + Sync + 'a;

/// Runs what is not done yet, `jobs` tasks at a time.
///
/// # Errors
/// Where the record cannot be written or a process not be started. A task that fails is in the record, and no error.
pub(super) fn execute(
    plan: &Plan,
    record: Record,
    workshop: &Workshop,
    jobs: usize,
    stop: &AtomicBool,
    each: &Each<'_>,
) -> anyhow::Result<(Record, Tally)> {
    let states: Vec<State> = plan
        .tasks
        .iter()
        .map(|task| match record.of(&task.folder) {
            Some(Ended::Done { .. }) => State::Done,
            Some(Ended::Failed { .. }) | None => State::Left,
        })
        .collect();
    let done = states.iter().filter(|&&state| state == State::Done).count();
    if done > 0 {
        tracing::info!("{done} of {} tasks are done already", states.len());
    }
    let crew = Crew {
        plan,
        workshop,
        stop,
        each,
        bar: bar(states.len(), done),
        shared: Mutex::new(Shared {
            states,
            record,
            broken: None,
        }),
        changed: Condvar::new(),
    };
    std::thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(|| crew.work());
        }
    });
    crew.bar.finish_and_clear();
    let shared = crew.shared.into_inner();
    let shared = shared.unwrap_or_else(PoisonError::into_inner);
    if let Some(error) = shared.broken {
        return Err(error);
    }
    let count = |wanted| {
        shared
            .states
            .iter()
            .filter(|&&state| state == wanted)
            .count()
    };
    let tally = Tally {
        failed: count(State::Failed),
        left: count(State::Left),
    };
    Ok((shared.record, tally))
}

struct Crew<'a> {
    plan: &'a Plan,
    workshop: &'a Workshop,
    stop: &'a AtomicBool,
    each: &'a Each<'a>,
    bar: ProgressBar,
    shared: Mutex<Shared>,
    changed: Condvar,
}

impl Crew<'_> {
    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes one task after the other until none is left.
    fn work(&self) {
        let mut shared = self.lock();
        while !self.stop.load(Ordering::Relaxed) && shared.broken.is_none() {
            if let Some(index) = self.ready(&shared) {
                shared.states[index] = State::Running;
                self.tell(&shared);
                drop(shared);
                let began = Instant::now();
                let end = self.workshop.run(self.plan, index, self.stop);
                shared = self.lock();
                if let Err(error) =
                    self.ended(&mut shared, index, end, began.elapsed().as_secs_f64())
                {
                    shared.broken.get_or_insert(error);
                }
                self.tell(&shared);
                self.changed.notify_all();
            } else if shared.states.contains(&State::Running) {
                // What is running may be what others wait for.
                let woken = self.changed.wait(shared);
                shared = woken.unwrap_or_else(PoisonError::into_inner);
            } else {
                break;
            }
        }
    }

    /// The first task that can be begun; a tokenizer before all, as a pre-training waits for it.
    fn ready(&self, shared: &Shared) -> Option<usize> {
        let tasks = &self.plan.tasks;
        let is_done = |after: usize| shared.states[after] == State::Done;
        (0..tasks.len())
            .filter(|&index| shared.states[index] == State::Left)
            .filter(|&index| tasks[index].after.is_none_or(is_done))
            .min_by_key(|&index| (tasks[index].stage != Stage::Tokenizer, index))
    }

    /// Notes how the task at `index` ended.
    fn ended(
        &self,
        shared: &mut Shared,
        index: usize,
        end: anyhow::Result<End>,
        seconds: f64,
    ) -> anyhow::Result<()> {
        let task = &self.plan.tasks[index];
        let ended = match end {
            Ok(End::Stopped) => {
                shared.states[index] = State::Left;
                return Ok(());
            }
            Ok(End::Done(figures)) => {
                shared.states[index] = State::Done;
                tracing::info!("{}: done in {}", task.name, duration(seconds));
                Ended::Done { figures }
            }
            Ok(End::Failed(reason)) => {
                self.fail(shared, index);
                tracing::error!("{}: {reason}", task.name);
                Ended::Failed { reason }
            }
            Err(error) => {
                shared.states[index] = State::Left;
                return Err(error);
            }
        };
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        shared.record.add(Line {
            task: task.name.clone(),
            folder: task.folder.clone(),
            ended,
            seconds,
            time: now.map_or(0, |now| now.as_secs()),
            settings: self.plan.identity(index),
        })?;
        (self.each)(&shared.record)
    }

    /// With the task at `index`, all that wait for it fail.
    fn fail(&self, shared: &mut Shared, index: usize) {
        shared.states[index] = State::Failed;
        for (next, task) in self.plan.tasks.iter().enumerate() {
            if task.after == Some(index) {
                self.fail(shared, next);
            }
        }
    }

    fn tell(&self, shared: &Shared) {
        let tasks = self.plan.tasks.iter().zip(&shared.states);
        let running: Vec<&str> = tasks
            .filter(|(_, state)| **state == State::Running)
            .map(|(task, _)| task.name.as_str())
            .collect();
        self.bar.set_message(running.join(" | "));
        let ended = |state: &&State| matches!(state, State::Done | State::Failed);
        let ended = shared.states.iter().filter(ended).count();
        self.bar.set_position(ended as u64);
    }
}

/// A bar that counts tasks.
fn bar(tasks: usize, done: usize) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(tasks as u64), ProgressDrawTarget::stderr())
        .with_position(done as u64);
    if let Ok(style) = ProgressStyle::with_template("[{bar:24}] {pos}/{len} {elapsed} {wide_msg}") {
        bar.set_style(style.progress_chars("=> "));
    }
    bar.enable_steady_tick(Duration::from_secs(1));
    bars().add(bar)
}
