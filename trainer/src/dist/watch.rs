//! What a process is doing, and since when: what tells one that works from one that stands still.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use mae_loader::Activity;
use serde::{Deserialize, Serialize};

/// What a training does at a time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stage {
    /// Opens its data, makes the model.
    #[default]
    Starting,
    /// Waits for a batch.
    Data,
    /// Waits for a batch, while images of it are being read.
    Reading,
    /// Waits for a batch, while images of it are being decoded.
    Decoding,
    /// Copies a batch to the device.
    Copying,
    /// Computes an update.
    Computing,
    /// Adds gradients up over the ranks, or waits for the others in another way.
    AllReduce,
    /// Goes through held-out data, or draws a picture.
    Evaluating,
    /// Writes a checkpoint.
    Saving,
}

impl Stage {
    /// Whether a rank in it may stand still because of another.
    pub(crate) fn waits_for_others(self) -> bool {
        self == Stage::AllReduce
    }
}

impl std::fmt::Display for Stage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Stage::Starting => "starting",
            Stage::Data => "waiting for data",
            Stage::Reading => "waiting for data, which is being read",
            Stage::Decoding => "waiting for data, which is being decoded",
            Stage::Copying => "copying a batch to the device",
            Stage::Computing => "computing",
            Stage::AllReduce => "all-reduce",
            Stage::Evaluating => "evaluating",
            Stage::Saving => "saving a checkpoint",
        })
    }
}

/// What a process says of itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Standing {
    pub(crate) stage: Stage,
    /// Updates begun.
    pub(crate) step: u64,
    /// Milliseconds since it last went on.
    pub(crate) still_ms: u64,
}

/// The clock of a process.
pub(crate) struct Watch {
    at: Mutex<(Stage, u64, Instant)>,
    /// Of the loader of the training data.
    loader: Mutex<Option<Activity>>,
}

impl Watch {
    pub(crate) fn new() -> Self {
        Watch {
            at: Mutex::new((Stage::Starting, 0, Instant::now())),
            loader: Mutex::new(None),
        }
    }

    /// Batches come from this loader.
    pub(crate) fn loader(&self, activity: Activity) {
        if let Ok(mut loader) = self.loader.lock() {
            *loader = Some(activity);
        }
    }

    /// From now on it does this; again and again, where that has parts.
    pub(crate) fn enter(&self, stage: Stage) {
        if let Ok(mut at) = self.at.lock() {
            *at = (stage, at.1, Instant::now());
        }
    }

    /// The whole process was stopped for a while, as by Ctrl-Z: that does not count.
    pub(crate) fn resumed(&self) {
        self.enter(self.stage());
    }

    /// Update number `step` has begun.
    pub(crate) fn step(&self, step: u64) {
        if let Ok(mut at) = self.at.lock() {
            at.1 = step;
        }
    }

    /// What was entered last.
    pub(crate) fn stage(&self) -> Stage {
        match self.at.lock() {
            Ok(at) => at.0,
            Err(poisoned) => poisoned.into_inner().0,
        }
    }

    pub(crate) fn standing(&self) -> Standing {
        let (stage, step, since) = match self.at.lock() {
            Ok(at) => *at,
            Err(poisoned) => *poisoned.into_inner(),
        };
        let loader = match self.loader.lock() {
            Ok(loader) => loader.clone(),
            Err(poisoned) => poisoned.into_inner().clone(),
        };
        let stage = match (stage, loader) {
            (Stage::Data, Some(loader)) if loader.reading() > 0 => Stage::Reading,
            (Stage::Data, Some(loader)) if loader.decoding() > 0 => Stage::Decoding,
            _ => stage,
        };
        Standing {
            stage,
            step,
            still_ms: since.elapsed().as_millis() as u64,
        }
    }
}

/// Tells a process that was stopped and goes on from one that looked again in time.
pub(crate) struct Looks {
    every: Duration,
    last: Instant,
}

impl Looks {
    pub(crate) fn new(every: Duration) -> Self {
        Looks {
            every,
            last: Instant::now(),
        }
    }

    /// Waits until the next look. True if it took so long that the process was stopped meanwhile.
    pub(crate) fn wait(&mut self) -> bool {
        std::thread::sleep(self.every);
        let late = self.last.elapsed() > self.every + Duration::from_secs(10);
        self.last = Instant::now();
        late
    }
}

/// What is known of a rank: what it said last, and how long ago.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seen {
    pub(crate) rank: usize,
    pub(crate) standing: Standing,
    pub(crate) silent: Duration,
}

/// How long a rank may be silent, and how long it may stand still.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Patience {
    pub(crate) silent: Duration,
    pub(crate) still: Duration,
}

impl Patience {
    /// A process says every second how it stands, so one that is silent for half a minute is frozen or cut off.
    pub(crate) fn new(still: Duration) -> Self {
        Patience {
            silent: still.min(Duration::from_secs(30)),
            still,
        }
    }
}

/// What is wrong with the ranks, if anything is: the one to blame is named.
pub(crate) fn judge(ranks: &[Seen], patience: Patience) -> Option<String> {
    if let Some(lost) = ranks.iter().find(|seen| seen.silent > patience.silent) {
        return Some(format!(
            "rank {} has given no sign of life for {} s: it is frozen, or its machine is cut off. It was {} at step {}",
            lost.rank,
            lost.silent.as_secs(),
            lost.standing.stage,
            lost.standing.step
        ));
    }
    // Opening data and fitting a basis may take any time.
    let still = |seen: &&Seen| {
        seen.standing.stage != Stage::Starting
            && Duration::from_millis(seen.standing.still_ms) + seen.silent > patience.still
    };
    let stuck: Vec<&Seen> = ranks.iter().filter(still).collect();
    let first = stuck.first()?;
    let blamed = stuck
        .iter()
        .find(|seen| !seen.standing.stage.waits_for_others());
    match blamed {
        Some(seen) => Some(format!(
            "rank {} stands still at step {}: {}, for {} s",
            seen.rank,
            seen.standing.step,
            seen.standing.stage,
            seen.standing.still_ms / 1000
        )),
        // Some wait, and those that they wait for still move: give them the time.
        None if stuck.len() < ranks.len() => None,
        None => Some(format!(
            "all ranks stand still at step {}: all-reduce, for {} s; is the network between them there?",
            first.standing.step,
            first.standing.still_ms / 1000
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(rank: usize, stage: Stage, still: u64, silent: u64) -> Seen {
        Seen {
            rank,
            standing: Standing {
                stage,
                step: 7,
                still_ms: still * 1000,
            },
            silent: Duration::from_secs(silent),
        }
    }

    fn verdict(ranks: &[Seen]) -> Option<String> {
        judge(ranks, Patience::new(Duration::from_secs(60)))
    }

    #[test]
    fn who_works_is_left_alone() {
        let ranks = [
            seen(0, Stage::Computing, 1, 0),
            seen(1, Stage::AllReduce, 59, 1),
        ];
        assert_eq!(verdict(&ranks), None);
    }

    #[test]
    fn the_one_that_others_wait_for_is_blamed() {
        let ranks = [
            seen(0, Stage::AllReduce, 61, 0),
            seen(1, Stage::AllReduce, 61, 0),
            seen(2, Stage::Data, 62, 0),
        ];
        let said = verdict(&ranks).unwrap();
        assert!(
            said.starts_with("rank 2 stands still at step 7: waiting for data"),
            "{said}"
        );
        // One that starts may take its time.
        let ranks = [
            seen(0, Stage::AllReduce, 900, 0),
            seen(1, Stage::Starting, 900, 0),
        ];
        assert_eq!(verdict(&ranks), None);
        // So may one that evaluates, and moves.
        let ranks = [
            seen(0, Stage::Evaluating, 2, 0),
            seen(1, Stage::AllReduce, 900, 0),
        ];
        assert_eq!(verdict(&ranks), None);
    }

    #[test]
    fn silence_and_a_dead_network_are_told_apart() {
        let frozen = [
            seen(0, Stage::AllReduce, 31, 0),
            seen(1, Stage::Computing, 0, 31),
        ];
        let said = verdict(&frozen).unwrap();
        assert!(
            said.starts_with("rank 1 has given no sign of life for 31 s"),
            "{said}"
        );
        let all = [
            seen(0, Stage::AllReduce, 61, 0),
            seen(1, Stage::AllReduce, 61, 0),
        ];
        assert!(verdict(&all).unwrap().starts_with("all ranks stand still"));
    }

    #[test]
    fn the_clock_starts_again_with_each_stage() {
        let watch = Watch::new();
        watch.step(3);
        watch.enter(Stage::Saving);
        let standing = watch.standing();
        assert_eq!((standing.stage, standing.step), (Stage::Saving, 3));
        assert!(standing.still_ms < 10_000);
    }
}
