//! What ranks tell each other besides numbers on devices, over TCP, by way of rank 0: small values gathered, signs of life, failures.
//!
//! Each message is a line of JSON. A rank that fails says so, and all end; one that dies is noticed by its connection, one that hangs by
//! what it says, or does not say, of itself.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{Shutdown, TcpListener, TcpStream, ToSocketAddrs};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::launch::Launch;
use super::watch::{Looks, Patience, Seen, Standing, Watch, judge};
use crate::error::{Error, Result};

/// How long ranks wait for each other at the start.
const MEETING: Duration = Duration::from_secs(300);
/// How often a rank says how it stands.
const BEAT: Duration = Duration::from_secs(1);

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Message {
    /// The first of a connection.
    Hello {
        rank: usize,
        world: usize,
        version: String,
    },
    Beat(Standing),
    /// A rank's part of a gathering.
    Part {
        round: u64,
        value: Value,
    },
    /// All parts, by rank.
    Parts {
        round: u64,
        values: Vec<Value>,
    },
    /// The rank ends with this error.
    Failed(String),
    /// All end, as this happened.
    End(String),
    /// The rank ends as it should.
    Bye,
}

/// What is to happen when another rank has failed: it is told what.
pub(crate) type OnEnd = Arc<dyn Fn(&str) + Send + Sync>;

/// This rank's connections.
pub(crate) struct Store {
    rank: usize,
    shared: Arc<Shared>,
}

struct Shared {
    world: usize,
    state: Mutex<State>,
    changed: Condvar,
    /// By rank, on rank 0; else that to rank 0.
    links: Vec<(usize, Mutex<TcpStream>)>,
    watch: Arc<Watch>,
    patience: Patience,
    on_end: OnEnd,
}

#[derive(Default)]
struct State {
    round: u64,
    parts: HashMap<u64, Vec<Option<Value>>>,
    whole: HashMap<u64, Vec<Value>>,
    /// By rank: what it said of itself last, and when; those of whom nothing is awaited any more are gone from it.
    seen: HashMap<usize, (Standing, Instant)>,
    ended: Option<String>,
    leaving: bool,
}

impl Store {
    /// Connects to the others at `address`, where rank 0 listens with `listener`.
    ///
    /// # Errors
    /// [`Error::Ranks`] if they do not meet in time.
    pub(crate) fn meet(
        launch: &Launch,
        (address, listener): ((String, u16), Option<TcpListener>),
        watch: Arc<Watch>,
        patience: Patience,
        on_end: OnEnd,
    ) -> Result<Self> {
        let links = match listener {
            Some(listener) => accept_all(&listener, launch)?,
            None => vec![(0, connect(&address, launch)?)],
        };
        let mut readers = vec![];
        let mut seen = HashMap::new();
        let mut writers = vec![];
        for (rank, stream) in links {
            let reader = stream
                .try_clone()
                .map_err(|error| unmet(error.to_string()))?;
            readers.push((rank, reader));
            // Rank 0 says nothing before all have come.
            let first = match launch.is_first() {
                true => Instant::now(),
                false => Instant::now() + MEETING,
            };
            seen.insert(rank, (Standing::default(), first));
            // A rank that takes nothing in any more must not hold up this one.
            let failed = |error: std::io::Error| unmet(error.to_string());
            stream
                .set_write_timeout(Some(patience.silent))
                .map_err(failed)?;
            writers.push((rank, Mutex::new(stream)));
        }
        let shared = Arc::new(Shared {
            world: launch.world,
            state: Mutex::new(State {
                seen,
                ..State::default()
            }),
            changed: Condvar::new(),
            links: writers,
            watch,
            patience,
            on_end,
        });
        for (from, stream) in readers {
            let shared = Arc::clone(&shared);
            spawn("ranks", move || shared.listen(from, stream))?;
        }
        let beating = Arc::clone(&shared);
        let rank = launch.rank;
        spawn("signs-of-life", move || beating.beat(rank))?;
        Ok(Store { rank, shared })
    }

    /// What every rank gives, by rank. Every rank must call it as often as the others.
    ///
    /// # Errors
    /// [`Error::Ranks`] if another rank ends meanwhile.
    pub(crate) fn gather(&self, value: Value) -> Result<Vec<Value>> {
        let shared = &self.shared;
        let mut state = shared.lock();
        let round = state.round;
        state.round += 1;
        if self.rank == 0 {
            drop(state);
            shared.part(0, round, value);
        } else {
            drop(state);
            shared.send(0, &Message::Part { round, value });
        }
        let mut state = shared.lock();
        loop {
            if let Some(values) = state.whole.remove(&round) {
                return Ok(values);
            }
            if let Some(why) = &state.ended {
                return Err(Error::Ranks(why.clone()));
            }
            state = match shared.changed.wait(state) {
                Ok(state) => state,
                Err(poisoned) => poisoned.into_inner(),
            };
        }
    }

    /// Tells the others that this rank ends with an error, so that they end, too.
    pub(crate) fn fail(&self, why: &str) {
        let why = why.replace('\n', " ");
        self.shared.lock().leaving = true;
        let text = format!("rank {} failed: {why}", self.rank);
        if self.rank == 0 {
            self.shared.send_all(&Message::End(text));
        } else {
            self.shared.send(0, &Message::Failed(why));
        }
    }

    /// Tells the others that this rank is done.
    pub(crate) fn leave(&self) {
        self.shared.lock().leaving = true;
        self.shared.send_all(&Message::Bye);
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        match self.state.lock() {
            Ok(state) => state,
            Err(poisoned) => poisoned.into_inner(),
        }
    }

    fn send(&self, to: usize, message: &Message) {
        let Some((_, link)) = self.links.iter().find(|(rank, _)| *rank == to) else {
            return;
        };
        let Ok(mut line) = serde_json::to_vec(message) else {
            return;
        };
        line.push(b'\n');
        let mut link = match link.lock() {
            Ok(link) => link,
            Err(poisoned) => poisoned.into_inner(),
        };
        // Whoever cannot be reached is gone, which its reader notices; a line that was cut short must not be gone on with.
        if link.write_all(&line).is_err() {
            let _ = link.shutdown(Shutdown::Both);
        }
    }

    fn send_all(&self, message: &Message) {
        for (rank, _) in &self.links {
            self.send(*rank, message);
        }
    }

    /// A rank's part of a gathering is here; on rank 0.
    fn part(&self, rank: usize, round: u64, value: Value) {
        let mut state = self.lock();
        let world = self.world;
        let parts = state
            .parts
            .entry(round)
            .or_insert_with(|| vec![None; world]);
        parts[rank] = Some(value);
        if parts.iter().any(Option::is_none) {
            return;
        }
        let values: Vec<Value> = parts.iter_mut().filter_map(Option::take).collect();
        state.parts.remove(&round);
        drop(state);
        // Before anybody here wakes, who may take leave of the others at once.
        self.send_all(&Message::Parts {
            round,
            values: values.clone(),
        });
        self.lock().whole.insert(round, values);
        self.changed.notify_all();
    }

    /// Takes what comes from `rank` until it leaves.
    fn listen(&self, rank: usize, stream: TcpStream) {
        let mut lines = BufReader::new(stream).lines();
        loop {
            let line = match lines.next() {
                Some(Ok(line)) => line,
                // The end of the stream, or an error of it.
                _ => {
                    self.end(format!(
                        "rank {rank} is gone: its process ended without a word"
                    ));
                    return;
                }
            };
            match serde_json::from_str(&line) {
                Ok(Message::Beat(standing)) => {
                    self.lock().seen.insert(rank, (standing, Instant::now()));
                }
                Ok(Message::Part { round, value }) => self.part(rank, round, value),
                Ok(Message::Parts { round, values }) => {
                    self.lock().whole.insert(round, values);
                    self.changed.notify_all();
                }
                Ok(Message::Failed(why)) => {
                    self.end(format!("rank {rank} failed: {why}"));
                    return;
                }
                Ok(Message::End(why)) => {
                    self.end(why);
                    return;
                }
                Ok(Message::Bye) => {
                    self.lock().seen.remove(&rank);
                    return;
                }
                Ok(Message::Hello { .. }) | Err(_) => {
                    self.end(format!(
                        "rank {rank} said something that is not understood: {line:.200}"
                    ));
                    return;
                }
            }
        }
    }

    /// All end, unless this rank is leaving by itself.
    fn end(&self, why: String) {
        let mut state = self.lock();
        if state.leaving || state.ended.is_some() {
            return;
        }
        state.ended = Some(why.clone());
        drop(state);
        self.send_all(&Message::End(why.clone()));
        self.changed.notify_all();
        (self.on_end)(&why);
    }

    /// Says every second how this rank stands, and looks at the others.
    fn beat(&self, rank: usize) {
        let mut looks = Looks::new(BEAT.min(self.patience.silent / 4));
        loop {
            if looks.wait() {
                self.watch.resumed();
                for (_, at) in self.lock().seen.values_mut() {
                    *at = Instant::now();
                }
            }
            let standing = self.watch.standing();
            let state = self.lock();
            if state.leaving || state.ended.is_some() {
                return;
            }
            let mut ranks: Vec<Seen> = state
                .seen
                .iter()
                .map(|(&rank, (standing, at))| Seen {
                    rank,
                    standing: *standing,
                    silent: at.elapsed(),
                })
                .collect();
            drop(state);
            self.send_all(&Message::Beat(standing));
            let verdict = if rank == 0 {
                ranks.push(Seen {
                    rank,
                    standing,
                    silent: Duration::ZERO,
                });
                ranks.sort_by_key(|seen| seen.rank);
                judge(&ranks, self.patience)
            } else {
                // Of rank 0 only whether it is there: it judges.
                ranks.retain(|seen| seen.silent > self.patience.silent);
                judge(&ranks, self.patience)
            };
            if let Some(why) = verdict {
                self.end(why);
                return;
            }
        }
    }
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> Result<()> {
    let spawned = thread::Builder::new().name(name.into()).spawn(work);
    spawned
        .map(|_| ())
        .map_err(|error| unmet(error.to_string()))
}

fn unmet(why: String) -> Error {
    Error::Ranks(format!("the ranks could not meet: {why}"))
}

/// The connections of all other ranks.
fn accept_all(listener: &TcpListener, launch: &Launch) -> Result<Vec<(usize, TcpStream)>> {
    let failed = |error: std::io::Error| unmet(error.to_string());
    listener.set_nonblocking(true).map_err(failed)?;
    let begun = Instant::now();
    let mut links: Vec<(usize, TcpStream)> = vec![];
    while links.len() + 1 < launch.world {
        match listener.accept() {
            Ok((stream, from)) => match greet(stream, launch) {
                Some((rank, stream)) if links.iter().all(|(known, _)| *known != rank) => {
                    links.push((rank, stream));
                }
                _ => tracing::warn!("{from} connected, but is no rank of this job"),
            },
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                if begun.elapsed() > MEETING {
                    let missing = (1..launch.world)
                        .filter(|rank| links.iter().all(|(known, _)| known != rank))
                        .map(|rank| rank.to_string());
                    let missing = missing.collect::<Vec<_>>().join(", ");
                    return Err(unmet(format!(
                        "rank {missing} did not come within {} s",
                        MEETING.as_secs()
                    )));
                }
                thread::sleep(Duration::from_millis(20));
            }
            Err(error) => return Err(failed(error)),
        }
    }
    Ok(links)
}

/// The rank of a connection, if it is one of this job and says so soon.
fn greet(stream: TcpStream, launch: &Launch) -> Option<(usize, TcpStream)> {
    stream.set_nonblocking(false).ok()?;
    stream.set_nodelay(true).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
    let mut line = vec![];
    // A byte at a time: what follows is another reader's.
    let mut byte = [0];
    while line.len() < 4096 {
        std::io::Read::read_exact(&mut &stream, &mut byte).ok()?;
        if byte[0] == b'\n' {
            break;
        }
        line.push(byte[0]);
    }
    stream.set_read_timeout(None).ok()?;
    match serde_json::from_slice(&line).ok()? {
        Message::Hello {
            rank,
            world,
            version,
        } if world == launch.world
            && (1..world).contains(&rank)
            && version == env!("CARGO_PKG_VERSION") =>
        {
            Some((rank, stream))
        }
        _ => None,
    }
}

/// A connection to rank 0, which may not listen yet.
fn connect((host, port): &(String, u16), launch: &Launch) -> Result<TcpStream> {
    let begun = Instant::now();
    loop {
        let connected = (host.as_str(), *port)
            .to_socket_addrs()
            .and_then(|addresses| {
                let mut failure = std::io::Error::other("the name has no address");
                for address in addresses {
                    match TcpStream::connect_timeout(&address, Duration::from_secs(5)) {
                        Ok(stream) => return Ok(stream),
                        Err(error) => failure = error,
                    }
                }
                Err(failure)
            })
            .and_then(|mut stream| {
                stream.set_nodelay(true)?;
                let hello = Message::Hello {
                    rank: launch.rank,
                    world: launch.world,
                    version: env!("CARGO_PKG_VERSION").into(),
                };
                let mut line = serde_json::to_vec(&hello)?;
                line.push(b'\n');
                stream.write_all(&line)?;
                Ok(stream)
            });
        match connected {
            Ok(stream) => return Ok(stream),
            Err(error) if begun.elapsed() > MEETING => {
                return Err(unmet(format!("rank 0 at {host}:{port}: {error}")));
            }
            Err(_) => thread::sleep(Duration::from_millis(50)),
        }
    }
}

#[cfg(test)]
mod tests;
