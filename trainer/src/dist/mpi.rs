//! Ranks on CPUs: MPI adds up and hands round ranges of flat tensors. A thread of its own holds MPI, so that ranges are added up while the
//! backward computes the next.

use std::ops::Range;
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{self, JoinHandle};

use candle_core::Tensor;
use mae_model::params::write_range;
use mpi::collective::SystemOperation;
use mpi::environment::Universe;
use mpi::traits::{Communicator, CommunicatorCollectives, Root};

use super::Engine;
use super::launch::Launch;
use crate::error::{Error, Result};

/// Numbers that are added up at a time.
const PART: usize = 1 << 21;

enum Job {
    /// Numbers that are added up over the ranks.
    Sum(usize, Vec<f32>),
    /// Numbers that become those of a rank.
    Take(usize, Vec<f32>),
    /// Bytes that become those of rank 0.
    Bytes(Vec<u8>, Sender<Vec<u8>>),
    /// Nothing follows on any rank.
    Leave,
}

/// See the [module](self).
pub(super) struct MpiEngine {
    jobs: Mutex<Sender<Job>>,
    done: Mutex<Receiver<(usize, Vec<f32>)>>,
    /// Where the numbers that are on their way begin in the flat tensor.
    underway: Mutex<usize>,
    thread: Option<JoinHandle<()>>,
    machine: String,
}

impl MpiEngine {
    /// Of the process that `launch` describes.
    pub(super) fn new(launch: &Launch) -> Result<Self> {
        let (jobs, queue) = channel();
        let (results, done) = channel();
        let (say, ready) = channel();
        let thread = thread::Builder::new()
            .name("mpi".into())
            .spawn(move || {
                let level = mpi::Threading::Funneled;
                let Some((universe, _)) = mpi::initialize_with_threading(level) else {
                    return;
                };
                let world = universe.world();
                let machine = mpi::environment::processor_name().unwrap_or_default();
                let found = (world.rank() as usize, world.size() as usize);
                if say.send((found, machine)).is_ok() {
                    serve(universe, &queue, &results);
                }
            })
            .map_err(|error| failed(error.to_string()))?;
        let (found, machine) = ready
            .recv()
            .map_err(|_| failed("MPI was there before".into()))?;
        if found != (launch.rank, launch.world) {
            return Err(failed(format!(
                "the launcher says rank {} of {}, MPI says rank {} of {}: the program was built with another MPI than its launcher's, or srun was not told --mpi",
                launch.rank, launch.world, found.0, found.1
            )));
        }
        Ok(MpiEngine {
            jobs: Mutex::new(jobs),
            done: Mutex::new(done),
            underway: Mutex::new(0),
            thread: Some(thread),
            machine,
        })
    }

    /// The name of this rank's machine.
    pub(super) fn machine(&self) -> &str {
        &self.machine
    }

    /// What rank 0 gives, to all.
    pub(super) fn tell(&self, bytes: Vec<u8>) -> Result<Vec<u8>> {
        let (answer, told) = channel();
        self.ask(Job::Bytes(bytes, answer))?;
        told.recv().map_err(|_| gone())
    }

    fn ask(&self, job: Job) -> Result<()> {
        let jobs = self.jobs.lock().map_err(|_| gone())?;
        jobs.send(job).map_err(|_| gone())
    }
}

impl Engine for MpiEngine {
    fn begin_sum(&self, flat: &Tensor, range: Range<usize>) -> Result<()> {
        let mut underway = self.underway.lock().map_err(|_| gone())?;
        let mut at = range.start;
        while at < range.end {
            let len = PART.min(range.end - at);
            let numbers = flat.narrow(0, at, len)?.to_vec1()?;
            self.ask(Job::Sum(at, numbers))?;
            *underway += 1;
            at += len;
        }
        Ok(())
    }

    fn finish(&self, flat: &Tensor) -> Result<()> {
        let mut underway = self.underway.lock().map_err(|_| gone())?;
        let done = self.done.lock().map_err(|_| gone())?;
        while *underway > 0 {
            let (at, numbers) = done.recv().map_err(|_| gone())?;
            *underway -= 1;
            write_range(flat, at..at + numbers.len(), &numbers)?;
        }
        Ok(())
    }

    fn share(&self, flat: &Tensor, ranges: &[Range<usize>]) -> Result<()> {
        let done = self.done.lock().map_err(|_| gone())?;
        for (rank, range) in ranges.iter().enumerate() {
            let mut at = range.start;
            while at < range.end {
                let len = PART.min(range.end - at);
                self.ask(Job::Take(rank, flat.narrow(0, at, len)?.to_vec1()?))?;
                let (_, numbers) = done.recv().map_err(|_| gone())?;
                write_range(flat, at..at + len, &numbers)?;
                at += len;
            }
        }
        Ok(())
    }

    fn leave(&mut self) {
        if self.ask(Job::Leave).is_ok() {
            if let Some(thread) = self.thread.take() {
                let _ = thread.join();
            }
        }
    }
}

/// Does what is asked until that ends. MPI is only ended where all ranks leave: a rank that fails would wait there for the others.
fn serve(universe: Universe, queue: &Receiver<Job>, results: &Sender<(usize, Vec<f32>)>) {
    let world = universe.world();
    loop {
        match queue.recv() {
            Ok(Job::Sum(at, numbers)) => {
                let mut sums = vec![0f32; numbers.len()];
                world.all_reduce_into(&numbers[..], &mut sums[..], SystemOperation::sum());
                if results.send((at, sums)).is_err() {
                    break;
                }
            }
            Ok(Job::Take(rank, mut numbers)) => {
                world
                    .process_at_rank(rank as i32)
                    .broadcast_into(&mut numbers[..]);
                if results.send((rank, numbers)).is_err() {
                    break;
                }
            }
            Ok(Job::Bytes(mut bytes, answer)) => {
                let first = world.process_at_rank(0);
                let mut len = bytes.len() as u64;
                first.broadcast_into(&mut len);
                bytes.resize(len as usize, 0);
                first.broadcast_into(&mut bytes[..]);
                let _ = answer.send(bytes);
            }
            Ok(Job::Leave) => return,
            Err(_) => break,
        }
    }
    std::mem::forget(universe);
}

fn failed(why: String) -> Error {
    Error::Ranks(format!("MPI could not start: {why}"))
}

fn gone() -> Error {
    Error::Ranks("MPI has ended".into())
}
