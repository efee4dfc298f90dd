//! The processes that write one set of shards together, started by a launcher on one machine or several.
//!
//! They meet in the folder that the shards go to, which all of them share anyway; no network is needed. A rank that fails says why. One
//! that dies is told by a notice that it does not renew any more. Rank 0 puts together what the ranks have, and the others wait for it.

mod board;
#[cfg(test)]
mod tests;
mod watch;

use std::ops::Range;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use mae_loader::shard::ShardPattern;
use mae_trainer::dist::Launch;
use serde::Serialize;
use serde::de::DeserializeOwned;

pub(super) use self::board::Stage;
use self::board::{Board, Notice, process_name};
use self::watch::{Other, Watch};

/// How long ranks wait for each other.
#[derive(Debug, Clone, Copy)]
struct Patience {
    /// Until all are there.
    meet: Duration,
    /// Without a sign of life, until a rank is given up.
    silence: Duration,
    /// For those that still work on something, after rank 0 has failed.
    leave: Duration,
    /// Between two looks at the others' notices.
    poll: Duration,
}

const PATIENCE: Patience = Patience {
    meet: Duration::from_secs(300),
    silence: Duration::from_secs(60),
    leave: Duration::from_secs(10),
    poll: Duration::from_millis(200),
};

impl Patience {
    /// Between two signs of life.
    fn beat(&self) -> Duration {
        self.silence / 30
    }
}

/// This process among those of its job.
pub(super) struct Ranks {
    rank: usize,
    world: usize,
    /// None where there is one process.
    meeting: Option<Meeting>,
}

struct Meeting {
    board: Board,
    watch: Watch,
    patience: Patience,
}

impl Ranks {
    /// Waits until all ranks are there.
    ///
    /// # Errors
    /// Where some do not come, or their folder cannot be written to.
    pub(super) fn meet(launch: &Launch, target: &Path, pattern: &ShardPattern) -> Result<Self> {
        Self::meet_within(launch, target, pattern, PATIENCE)
    }

    fn meet_within(
        launch: &Launch,
        target: &Path,
        pattern: &ShardPattern,
        patience: Patience,
    ) -> Result<Self> {
        let &Launch { rank, world, .. } = launch;
        let board = Board::new(target, pattern);
        if world == 1 {
            // What a job left that was interrupted.
            board.remove();
            return Ok(Self {
                rank,
                world,
                meeting: None,
            });
        }
        tracing::info!(
            "rank {rank} of {world}, by the launcher's variables; the ranks meet in {}",
            target.display()
        );
        let mut mine = Notice::new(process_name());
        let (others, missing) = if rank == 0 {
            meet_all(&board, &mut mine, world, patience)?
        } else {
            let first = meet_first(&board, &mine, rank, world, target, patience)?;
            (vec![first], Vec::new())
        };
        let ranks = Self {
            rank,
            world,
            meeting: Some(Meeting {
                watch: Watch::start(rank, board.clone(), mine, others, patience)?,
                board,
                patience,
            }),
        };
        if missing.is_empty() {
            return Ok(ranks);
        }
        ranks.leave(Err(never_came(&missing, world, target, patience)))
    }

    pub(super) fn is_first(&self) -> bool {
        self.rank == 0
    }

    /// This rank's part of `len` things.
    pub(super) fn part(&self, len: usize) -> Range<usize> {
        let end = |rank: usize| (len as u128 * rank as u128 / self.world as u128) as usize;
        end(self.rank)..end(self.rank + 1)
    }

    /// Whether this rank writes shard `number`. In turn, so that all have about as much to do.
    pub(super) fn writes(&self, number: usize) -> bool {
        number % self.world == self.rank
    }

    /// Says where there are fewer shards than ranks.
    pub(super) fn say_if_idle(&self, shards: usize) {
        if self.is_first() && shards < self.world {
            tracing::warn!(
                "there is work for {shards} of {} ranks: a shard is written by one (--max-count, --max-size make smaller ones)",
                self.world
            );
        }
    }

    /// Images packed since the last call.
    pub(super) fn count(&self, images: u64) {
        if let Some(meeting) = &self.meeting {
            meeting.watch.count(images);
        }
    }

    /// Fails where another rank has.
    pub(super) fn check(&self) -> Result<()> {
        self.meeting
            .as_ref()
            .map_or(Ok(()), |meeting| meeting.watch.check())
    }

    /// What rank 0 makes of the parts of all ranks, on all of them; parts come in order of rank.
    ///
    /// # Errors
    /// Where a rank has failed or died, or `merge` fails.
    pub(super) fn reduce<P, R>(
        &self,
        stage: Stage,
        part: P,
        merge: impl FnOnce(Vec<P>) -> Result<R>,
    ) -> Result<R>
    where
        P: Serialize + DeserializeOwned,
        R: Serialize + DeserializeOwned,
    {
        let Some(Meeting { watch, .. }) = &self.meeting else {
            return merge(vec![part]);
        };
        if self.is_first() {
            let mut parts = vec![part];
            parts.extend(watch.receive(stage)?);
            let merged = merge(parts)?;
            watch.send(stage, &merged)?;
            return Ok(merged);
        }
        watch.send(stage, &part)?;
        match watch.receive(stage)?.pop() {
            Some(merged) => Ok(merged),
            None => bail!("rank 0 has sent nothing"),
        }
    }

    /// Ends the meeting, and tells the others how it went here.
    pub(super) fn leave<T>(self, result: Result<T>) -> Result<T> {
        let Some(meeting) = self.meeting else {
            return result;
        };
        let Meeting {
            board,
            watch,
            patience,
        } = meeting;
        let wait = match (self.rank, &result) {
            (0, Ok(_)) => patience.silence,
            (0, Err(_)) => patience.leave,
            _ => Duration::ZERO,
        };
        watch.leave(result.as_ref().err().map(|e| format!("{e:#}")), wait);
        drop(watch);
        if self.rank == 0 {
            board.remove();
        }
        result
    }
}

/// Rank 0: those that came, and the numbers of those that did not.
fn meet_all(
    board: &Board,
    mine: &mut Notice,
    world: usize,
    patience: Patience,
) -> Result<(Vec<Other>, Vec<usize>)> {
    // Those that came before put theirs up again.
    board.clear()?;
    let started = Instant::now();
    let mut met: Vec<Option<String>> = vec![None; world];
    met[0] = Some(mine.process.clone());
    while met.contains(&None) && started.elapsed() < patience.meet {
        thread::sleep(patience.poll);
        for (rank, met) in met.iter_mut().enumerate().skip(1) {
            // The last one that came, should it have been started again meanwhile.
            *met = board.read(rank).map(|notice| notice.process);
        }
    }
    mine.met.clone_from(&met);
    board.put_up(0, mine)?;
    let missing = (0..world).filter(|&rank| met[rank].is_none()).collect();
    let others = met.into_iter().enumerate().skip(1);
    let others = others.filter_map(|(rank, process)| Some(Other::new(rank, process?)));
    Ok((others.collect(), missing))
}

/// The others: rank 0, once it says that it has met this one.
fn meet_first(
    board: &Board,
    mine: &Notice,
    rank: usize,
    world: usize,
    target: &Path,
    patience: Patience,
) -> Result<Other> {
    let started = Instant::now();
    while started.elapsed() < patience.meet {
        if board.read(rank).is_none() {
            board.put_up(rank, mine)?;
        }
        if let Some(first) = board.read(0) {
            let met = first.met.get(rank).and_then(Option::as_ref);
            if met == Some(&mine.process) {
                return Ok(Other::new(0, first.process));
            }
        }
        thread::sleep(patience.poll);
    }
    board.take_down(rank);
    Err(never_came(&[0], world, target, patience))
}

fn never_came(ranks: &[usize], world: usize, target: &Path, patience: Patience) -> anyhow::Error {
    let ranks: Vec<String> = ranks.iter().map(usize::to_string).collect();
    anyhow::anyhow!(
        "of {world} ranks, rank {} did not come to {} within {} s: is this folder the same one on all machines, and have all processes \
         started? (To run one process alone in a job, unset the launcher's variable: RANK, OMPI_COMM_WORLD_RANK or SLURM_PROCID.)",
        ranks.join(", "),
        target.display(),
        patience.meet.as_secs_f64()
    )
}
