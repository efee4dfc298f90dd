//! One training on several processes: each rank computes a part of every batch, gradients are added up, and every rank makes the same update.
//!
//! A [`Group`] is this process among the others. An engine adds up numbers where they are: `mpi` between CPUs, `nccl` between GPUs. Small
//! values, signs of life and failures go by `store`. A single process has neither, and the same code runs.

mod launch;
#[cfg(feature = "mpi")]
mod mpi;
#[cfg(feature = "nccl")]
mod nccl;
#[cfg_attr(
    not(any(feature = "mpi", feature = "nccl")),
    allow(dead_code, reason = "a build with neither joins nobody")
)]
mod store;
mod watch;

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use candle_core::{Device, Tensor};
use mae_loader::Activity;
use serde::Serialize;
use serde::de::DeserializeOwned;

use self::store::{OnEnd, Store};
use self::watch::{Looks, Patience, Seen, Watch, judge};
use crate::error::{Error, Result};
use crate::observer::{Observer, Unobserved};

pub use launch::{Launch, Launcher};
pub use watch::Stage;

/// How long nothing may move before a run ends by itself.
pub const HANG_TIMEOUT: Duration = Duration::from_secs(600);

/// Adds up and hands round ranges of flat f32 tensors over the ranks. Every rank must ask the same in the same order.
trait Engine: Send + Sync {
    /// Begins to replace a range by its sum over the ranks, the same to the bit on each.
    fn begin_sum(&self, flat: &Tensor, range: Range<usize>) -> Result<()>;
    /// All that was begun, of this tensor, is done; on a GPU, for what is queued behind it.
    fn finish(&self, flat: &Tensor) -> Result<()>;
    /// Range number `r` becomes that of rank `r`.
    fn share(&self, flat: &Tensor, ranges: &[Range<usize>]) -> Result<()>;
    /// All ranks are done.
    fn leave(&mut self);
}

/// This process among those that train one model.
pub struct Group {
    launch: Launch,
    engine: Option<Box<dyn Engine>>,
    store: Option<Store>,
    watch: Arc<Watch>,
    /// Nanoseconds; see [`Group::waited`].
    waited: AtomicU64,
}

impl Group {
    /// Meets the others, each of which computes on a device of its own. A rank that fails, dies or stands still for `patience` ends all: they say which and why, and exit with code 1.
    ///
    /// # Errors
    /// [`Error::Ranks`] if they do not meet, [`Error::Config`] if this build has nothing to join them with.
    pub fn join(launch: &Launch, device: &Device, patience: Duration) -> Result<Self> {
        let on_end: OnEnd = Arc::new(end);
        let (watch, patience) = (Arc::new(Watch::new()), Patience::new(patience));
        if launch.world == 1 {
            look_after(Arc::clone(&watch), patience, on_end)?;
            return Ok(Self::of_one(watch));
        }
        let (engine, store) = match device {
            Device::Cpu => join_on_cpus(launch, &watch, patience, on_end)?,
            _ => join_on_gpus(launch, device, &watch, patience, on_end)?,
        };
        Ok(Group {
            launch: launch.clone(),
            engine: Some(engine),
            store: Some(store),
            watch,
            waited: AtomicU64::new(0),
        })
    }

    /// A process that has no others, and that nobody watches.
    pub(crate) fn alone() -> Self {
        Self::of_one(Arc::new(Watch::new()))
    }

    fn of_one(watch: Arc<Watch>) -> Self {
        Group {
            launch: Launch::default(),
            engine: None,
            store: None,
            watch,
            waited: AtomicU64::new(0),
        }
    }

    /// This process's number.
    pub fn rank(&self) -> usize {
        self.launch.rank
    }

    /// How many there are.
    pub fn world(&self) -> usize {
        self.launch.world
    }

    /// Whether this process writes what there is one of.
    pub fn is_first(&self) -> bool {
        self.launch.is_first()
    }

    /// From now on this process does `stage`; to be said again and again, where that has parts.
    pub fn enter(&self, stage: Stage) {
        self.watch.enter(stage);
    }

    /// Batches come from a loader whose threads do this.
    pub(crate) fn loader(&self, activity: Activity) {
        self.watch.loader(activity);
    }

    /// Update number `step` has begun.
    pub fn step(&self, step: u64) {
        self.watch.step(step);
    }

    /// How long this process has been held up by exchanges with the others so far: handing numbers over, waiting, taking them back. What
    /// is added up beside the computing does not count.
    pub fn waited(&self) -> Duration {
        Duration::from_nanos(self.waited.load(Ordering::Relaxed))
    }

    /// Does an exchange, whose time counts as [`Group::waited`].
    fn timed<T>(&self, exchange: impl FnOnce() -> Result<T>) -> Result<T> {
        let began = Instant::now();
        let came = exchange();
        let nanoseconds = began.elapsed().as_nanos() as u64;
        self.waited.fetch_add(nanoseconds, Ordering::Relaxed);
        came
    }

    /// [`Group::timed`] for what waits for the others; after it the process is at what it was at before.
    fn among_others<T>(&self, exchange: impl FnOnce() -> Result<T>) -> Result<T> {
        let before = self.watch.stage();
        self.enter(Stage::AllReduce);
        let came = self.timed(exchange);
        self.enter(before);
        came
    }

    /// What every rank gives, by rank.
    ///
    /// # Errors
    /// [`Error::Ranks`] if another rank ends meanwhile.
    pub fn gather<T: Serialize + DeserializeOwned>(&self, value: T) -> Result<Vec<T>> {
        let Some(store) = &self.store else {
            return Ok(vec![value]);
        };
        let misread = |error: serde_json::Error| Error::Ranks(format!("a rank's value: {error}"));
        let value = serde_json::to_value(value).map_err(misread)?;
        let values = self.among_others(|| store.gather(value))?.into_iter();
        let values = values.map(|value| serde_json::from_value(value).map_err(misread));
        values.collect()
    }

    /// That every rank has the same `value`: what the ranks must have in common, and can only have got wrong from outside.
    ///
    /// # Errors
    /// [`Error::Ranks`] naming `what` differs, and on which rank.
    pub(crate) fn agree<T>(&self, what: &str, value: T) -> Result<()>
    where
        T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug,
    {
        let all = self.gather(value)?;
        match all.iter().position(|other| *other != all[0]) {
            None => Ok(()),
            Some(rank) => Err(Error::Disagreement(format!(
                "{what}: rank 0 has {:?}, rank {rank} {:?}",
                all[0], all[rank]
            ))),
        }
    }

    /// What a pass over held-out data came to, each rank having gone through its part of it: the sum over all, and what else each found.
    /// None if any was stopped.
    pub(crate) fn end_pass<T>(
        &self,
        stopped: bool,
        sum: f64,
        found: T,
    ) -> Result<Option<(f64, Vec<T>)>>
    where
        T: Serialize + DeserializeOwned,
    {
        // A sum that is no number is none in JSON, either.
        let ranks = self.gather((stopped, sum.is_finite().then_some(sum), found))?;
        if ranks.iter().any(|(stopped, _, _)| *stopped) {
            return Ok(None);
        }
        let sum = ranks
            .iter()
            .map(|(_, sum, _)| sum.unwrap_or(f64::NAN))
            .sum();
        Ok(Some((
            sum,
            ranks.into_iter().map(|(_, _, found)| found).collect(),
        )))
    }

    /// Begins to replace a range of a flat tensor by its sum over the ranks. [`Group::finish`] ends it.
    pub(crate) fn begin_sum(&self, flat: &Tensor, range: Range<usize>) -> Result<()> {
        match &self.engine {
            Some(engine) if !range.is_empty() => self.timed(|| engine.begin_sum(flat, range)),
            _ => Ok(()),
        }
    }

    /// What [`Group::begin_sum`] began on this tensor is done.
    pub(crate) fn finish(&self, flat: &Tensor) -> Result<()> {
        let Some(engine) = &self.engine else {
            return Ok(());
        };
        self.enter(Stage::AllReduce);
        self.timed(|| engine.finish(flat))
    }

    /// A flat tensor becomes that of the first rank.
    pub(crate) fn take_first(&self, flat: &Tensor) -> Result<()> {
        let whole = 0..flat.elem_count();
        self.share(flat, std::slice::from_ref(&whole))
    }

    /// Range number `r` of a flat tensor becomes that of rank `r`.
    pub(crate) fn share(&self, flat: &Tensor, ranges: &[Range<usize>]) -> Result<()> {
        let Some(engine) = &self.engine else {
            return Ok(());
        };
        self.among_others(|| engine.share(flat, ranges))
    }

    /// Takes leave of the others: with the error that this rank ends with, so that they end, or in peace, when all are done.
    fn leave<T, E: From<Error> + std::fmt::Display>(
        mut self,
        outcome: Result<T, E>,
    ) -> Result<T, E> {
        let Some(store) = &self.store else {
            return outcome;
        };
        match outcome {
            Ok(value) => {
                // Nobody goes while another may still ask.
                self.gather(())?;
                if let Some(store) = &self.store {
                    store.leave();
                }
                if let Some(engine) = &mut self.engine {
                    engine.leave();
                }
                Ok(value)
            }
            Err(error) => {
                // Harmless where the others know already.
                store.fail(&error.to_string());
                Err(error)
            }
        }
    }
}

/// A training on the processes of a job, of which this one computes on `device`: meets the others, does its part of the work, and takes leave
/// of them. Of all ranks the first alone has an observer.
pub(crate) fn together<T>(
    launch: &Launch,
    device: &Device,
    patience: Duration,
    observer: &mut dyn Observer,
    work: impl FnOnce(&Arc<Group>, &mut dyn Observer) -> Result<T>,
) -> Result<T> {
    let group = Arc::new(Group::join(launch, device, patience)?);
    let outcome = match group.is_first() {
        true => work(&group, observer),
        false => work(&group, &mut Unobserved),
    };
    leave(group, outcome)
}

/// Takes leave of the others: with the error that this rank ends with, so that they end, or in peace, when all are done.
///
/// # Errors
/// That of `outcome`, or [`Error::Ranks`] if another rank ends first.
pub fn leave<T, E: From<Error> + std::fmt::Display>(
    group: Arc<Group>,
    outcome: Result<T, E>,
) -> Result<T, E> {
    match Arc::try_unwrap(group) {
        Ok(group) => group.leave(outcome),
        // Whoever still holds it has failed to end with the run.
        Err(_) => outcome,
    }
}

/// Another rank has failed: nothing that this one waits for will come.
fn end(why: &str) {
    tracing::error!(
        "{why}. This process ends; checkpoints that stand are good, and --resume auto goes on from the last"
    );
    std::process::exit(1);
}

/// Ends a single process that stands still.
fn look_after(watch: Arc<Watch>, patience: Patience, on_end: OnEnd) -> Result<()> {
    // As long as the run lasts: the other end is the run's own.
    let watch = Arc::downgrade(&watch);
    let look = move || {
        let mut looks = Looks::new(Duration::from_secs(1).min(patience.silent / 4));
        while let Some(watch) = watch.upgrade() {
            let seen = Seen {
                rank: 0,
                standing: watch.standing(),
                silent: Duration::ZERO,
            };
            if let Some(why) = judge(&[seen], patience) {
                on_end(&why);
                return;
            }
            if looks.wait() {
                watch.resumed();
            }
        }
    };
    let spawned = std::thread::Builder::new()
        .name("watchdog".into())
        .spawn(look);
    let failed = |error: std::io::Error| Error::Ranks(format!("no watchdog: {error}"));
    spawned.map(|_| ()).map_err(failed)
}

#[cfg(feature = "mpi")]
fn join_on_cpus(
    launch: &Launch,
    watch: &Arc<Watch>,
    patience: Patience,
    on_end: OnEnd,
) -> Result<(Box<dyn Engine>, Store)> {
    if launch.launcher == Launcher::Torchrun {
        return Err(Error::Config(
            "torchrun starts processes for GPUs (--device cuda); on CPUs start them with mpirun (docs/distributed.md)".into(),
        ));
    }
    let engine = mpi::MpiEngine::new(launch)?;
    let meeting = meeting_place(&engine, launch)?;
    let store = Store::meet(launch, meeting, Arc::clone(watch), patience, on_end)?;
    Ok((Box::new(engine), store))
}

#[cfg(not(feature = "mpi"))]
fn join_on_cpus(
    launch: &Launch,
    _: &Arc<Watch>,
    _: Patience,
    _: OnEnd,
) -> Result<(Box<dyn Engine>, Store)> {
    Err(Error::Config(format!(
        "this is one of {} processes, and this mae was built without MPI, which joins processes on CPUs; build with `cargo build --release --features mpi` (docs/distributed.md)",
        launch.world
    )))
}

#[cfg(feature = "nccl")]
fn join_on_gpus(
    launch: &Launch,
    device: &Device,
    watch: &Arc<Watch>,
    patience: Patience,
    on_end: OnEnd,
) -> Result<(Box<dyn Engine>, Store)> {
    let Some(master) = launch.master.clone() else {
        return Err(Error::Config(
            "the launcher did not say where the processes meet: set MASTER_ADDR to the address of the machine of rank 0, and MASTER_PORT to a free port there".into(),
        ));
    };
    let listener = match launch.is_first() {
        true => Some(listen(master.1)?),
        false => None,
    };
    let store = Store::meet(
        launch,
        (master, listener),
        Arc::clone(watch),
        patience,
        on_end,
    )?;
    let engine = nccl::NcclEngine::new(launch, device, &store)?;
    Ok((Box::new(engine), store))
}

#[cfg(not(feature = "nccl"))]
fn join_on_gpus(
    launch: &Launch,
    _: &Device,
    _: &Arc<Watch>,
    _: Patience,
    _: OnEnd,
) -> Result<(Box<dyn Engine>, Store)> {
    Err(Error::Config(format!(
        "this is one of {} processes, and this mae was built without NCCL, which joins processes on GPUs; build with `cargo build --release --features nccl` (docs/distributed.md)",
        launch.world
    )))
}

/// At a port of all addresses of this machine; 0 is any that is free.
#[cfg(any(feature = "mpi", feature = "nccl"))]
fn listen(port: u16) -> Result<std::net::TcpListener> {
    std::net::TcpListener::bind(("0.0.0.0", port)).map_err(|error| {
        Error::Ranks(format!(
            "rank 0 cannot listen at port {port}: {error}. MAE_MASTER_PORT names another"
        ))
    })
}

/// Where rank 0 listens, and with what: a port that was free, told by MPI.
#[cfg(feature = "mpi")]
fn meeting_place(
    engine: &mpi::MpiEngine,
    launch: &Launch,
) -> Result<((String, u16), Option<std::net::TcpListener>)> {
    let failed = |error: std::io::Error| Error::Ranks(format!("rank 0 cannot listen: {error}"));
    let mut listener = None;
    let mut place = (String::new(), 0);
    if launch.is_first() {
        let bound = listen(0)?;
        place = (
            engine.machine().to_owned(),
            bound.local_addr().map_err(failed)?.port(),
        );
        listener = Some(bound);
    }
    let told = engine.tell(format!("{} {}", place.1, place.0).into_bytes())?;
    let told = String::from_utf8_lossy(&told);
    let (port, host) = told.split_once(' ').unwrap_or_default();
    let port = port.parse().unwrap_or_default();
    // On one machine its name need not have an address.
    let host = match launch.local_rank == launch.rank && host == engine.machine() {
        true => "127.0.0.1",
        false => host,
    };
    Ok(((host.to_owned(), port), listener))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_single_process_is_a_group() {
        let group = Group::join(&Launch::default(), &Device::Cpu, HANG_TIMEOUT).unwrap();
        assert_eq!(
            (group.rank(), group.world(), group.is_first()),
            (0, 1, true)
        );
        assert_eq!(group.gather(5u32).unwrap(), [5]);
        group.agree("nothing", 1).unwrap();
        assert_eq!(group.waited(), Duration::ZERO);
        let outcome: Result<u8> = Ok(3);
        assert_eq!(leave(Arc::new(group), outcome).unwrap(), 3);
    }
}
