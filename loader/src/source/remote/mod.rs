//! Shards over the network: HTTP, S3, Google Cloud Storage and Azure, by ranged reads.
//!
//! Everything waits on a small runtime of its own. A read is tried again where that may help ([`RETRIES`]), and gives up at once when the
//! loader that asked for it goes away. What a server says is checked: the bytes are as many as were asked for, of a file of the size and
//! entity tag that it had when it was opened.

mod ahead;
mod download;
mod file;
mod store;

use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, SystemTime};

use object_store::{GetOptions, ObjectStore};
use tokio::runtime::Runtime;
use tokio::sync::Semaphore;

pub(crate) use self::ahead::Block;
pub(crate) use self::file::{Opened, RemoteFile};
use self::store::Location;
use super::without_secrets;
use crate::error::{Error, Result};

/// How long and how often is tried.
#[derive(Debug, Clone, Copy)]
pub struct Retries {
    /// Tries of one request in all, at least 1.
    pub tries: u32,
    /// The pause after the first failure; it doubles with each, up to `longest_pause`, and up to half of it is left to chance.
    pub first_pause: Duration,
    /// The longest pause.
    pub longest_pause: Duration,
    /// A server that sends nothing for so long has failed.
    pub stall: Duration,
}

/// What shards are read with: 10 tries with pauses of 20 to 40 seconds between them in all, each given up after 30 seconds without a byte.
pub const RETRIES: Retries = Retries {
    tries: 10,
    first_pause: Duration::from_millis(100),
    longest_pause: Duration::from_secs(15),
    stall: Duration::from_secs(30),
};

/// Requests in flight, over all threads.
const REQUESTS: usize = 32;
/// How soon a waiting thread sees that nobody wants the bytes any more.
const POLL: Duration = Duration::from_millis(50);
/// The most that is read of an index or a list of classes.
const MAX_SIDE_FILE: u64 = 1 << 30;

/// The network as one dataset sees it: connections by host, and the threads that wait for them. Nothing is started before it is used.
#[derive(Debug)]
pub(crate) struct Remote {
    retries: Retries,
    runtime: OnceLock<Runtime>,
    stores: Mutex<HashMap<String, Arc<dyn ObjectStore>>>,
    requests: Arc<Semaphore>,
}

/// Why a request did not give its bytes.
#[derive(Debug)]
pub(crate) enum Failure {
    /// Another try may do better.
    Passing(String),
    /// The server knows no ranges.
    NoRanges,
    /// There is no such file.
    Missing(String),
    /// Trying again does not help.
    Final(String),
}

impl Failure {
    fn reason(self) -> String {
        match self {
            Self::Passing(reason) | Self::Missing(reason) | Self::Final(reason) => reason,
            Self::NoRanges => "the server does not serve parts of files".into(),
        }
    }
}

impl From<object_store::Error> for Failure {
    fn from(error: object_store::Error) -> Self {
        use object_store::Error as E;
        let reason = describe(&error);
        match error {
            E::NotFound { .. } => Self::Missing(reason),
            E::NotSupported { .. } => Self::NoRanges,
            E::PermissionDenied { .. } | E::Unauthenticated { .. } => Self::Final(format!(
                "{reason}; credentials are taken from the environment (docs/loader.md)"
            )),
            E::Precondition { .. }
            | E::InvalidPath { .. }
            | E::NotImplemented { .. }
            | E::UnknownConfigurationKey { .. } => Self::Final(reason),
            _ => Self::Passing(reason),
        }
    }
}

/// An error with its causes, each once, and without what a URL may hold of secrets.
fn describe(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        let next_text = next.to_string();
        if !text.contains(&next_text) {
            text = format!("{text}: {next_text}");
        }
        cause = next.source();
    }
    without_secrets(&text)
}

impl Remote {
    pub(crate) fn new(retries: Retries) -> Self {
        Self {
            retries,
            runtime: OnceLock::new(),
            stores: Mutex::default(),
            requests: Arc::new(Semaphore::new(REQUESTS)),
        }
    }

    /// Opens the file at `url`: its size, its first bytes, and whether parts of it can be had.
    pub(crate) fn open(self: &Arc<Self>, url: &str) -> Result<Opened> {
        self.ask(url, |remote, location| async move {
            file::open(remote, location).await
        })
    }

    /// The whole of a small file; `None` where there is none, or where it may not be read.
    pub(crate) fn side_file(self: &Arc<Self>, url: &str) -> Result<Option<Vec<u8>>> {
        self.ask(url, |remote, location| async move {
            remote.retrying(|| side_file(&location)).await
        })
    }

    /// The names directly below a folder of an object store, in order.
    pub(crate) fn list(self: &Arc<Self>, folder: &str) -> Result<Vec<String>> {
        if self.location(folder)?.is_http {
            return Err(Error::Spec {
                spec: without_secrets(folder),
                reason: format!(
                    "a folder over HTTP is read by its {}, which it lacks; name the shards, for example with braces",
                    crate::shard::INDEX_FILE
                ),
            });
        }
        self.ask(folder, |remote, location| async move {
            remote.retrying(|| names(&location)).await
        })
    }

    /// Does what `work` says with the file or folder at `url`, and waits for it.
    fn ask<T: Send + 'static, F>(
        self: &Arc<Self>,
        url: &str,
        work: impl FnOnce(Arc<Self>, Location) -> F,
    ) -> Result<T>
    where
        F: Future<Output = std::result::Result<T, Failure>> + Send + 'static,
    {
        let work = work(Arc::clone(self), self.location(url)?);
        let failed = |reason: String| Error::Remote {
            url: without_secrets(url),
            reason,
        };
        self.wait(work, &AtomicBool::new(false))
            .map_err(|e| failed(e.to_string()))?
            .map_err(|failure| failed(failure.reason()))
    }

    fn location(&self, url: &str) -> Result<Location> {
        let mut stores = self.stores.lock().unwrap_or_else(PoisonError::into_inner);
        Location::of(url, &mut stores, self.retries.stall).map_err(|reason| Error::Spec {
            spec: without_secrets(url),
            reason,
        })
    }

    /// Runs `work` and waits for it, until `stop` says that nobody wants it any more.
    fn wait<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
        stop: &AtomicBool,
    ) -> io::Result<T> {
        let (done, result) = sync_channel(1);
        let task = self.runtime()?.spawn(async move {
            let _ = done.send(work.await);
        });
        loop {
            match result.recv_timeout(POLL) {
                Ok(value) => return Ok(value),
                Err(RecvTimeoutError::Timeout) if !stop.load(Ordering::Relaxed) => {}
                Err(RecvTimeoutError::Timeout) => {
                    task.abort();
                    return Err(io::ErrorKind::Interrupted.into());
                }
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(io::Error::other("the request ended unexpectedly"));
                }
            }
        }
    }

    fn runtime(&self) -> io::Result<&Runtime> {
        if let Some(runtime) = self.runtime.get() {
            return Ok(runtime);
        }
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .max_blocking_threads(4)
            .thread_name("mae-net")
            .enable_all()
            .build()?;
        // Two threads may make one each; the second one's is shut down unused.
        if let Err(unused) = self.runtime.set(runtime) {
            unused.shutdown_background();
        }
        self.runtime
            .get()
            .ok_or_else(|| io::Error::other("no runtime"))
    }

    /// Tries `request` until it succeeds, fails for good, or has failed as often as is allowed.
    async fn retrying<T, F: Future<Output = std::result::Result<T, Failure>>>(
        &self,
        mut request: impl FnMut() -> F,
    ) -> std::result::Result<T, Failure> {
        let mut tried = 0;
        loop {
            let Ok(_turn) = self.requests.acquire().await else {
                return Err(Failure::Final("the loader is shutting down".into()));
            };
            let failure = match request().await {
                Err(Failure::Passing(reason)) => reason,
                other => return other,
            };
            drop(_turn);
            tried += 1;
            if tried >= self.retries.tries {
                return Err(Failure::Final(format!("{failure} (tried {tried} times)")));
            }
            let pause = self.pause(tried);
            tracing::debug!("{failure}; trying again in {pause:?}");
            tokio::time::sleep(pause).await;
        }
    }

    fn pause(&self, tried: u32) -> Duration {
        let whole = self
            .retries
            .first_pause
            .saturating_mul(1 << (tried - 1).min(20))
            .min(self.retries.longest_pause);
        // So that threads that failed together do not come again together.
        let chance = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .map_or(0, |now| now.subsec_micros() % 1000);
        whole / 2 + whole * chance / 2000
    }
}

impl Drop for Remote {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

fn cut_short(got: u64, expected: u64) -> Failure {
    Failure::Passing(format!("the answer has {got} bytes of {expected}"))
}

/// The whole of a small file; `None` where there is none, or where it may not be read.
async fn side_file(location: &Location) -> std::result::Result<Option<Vec<u8>>, Failure> {
    use object_store::Error as E;
    let options = GetOptions::default();
    let got = match location.store.get_opts(&location.path, options).await {
        Ok(got) => got,
        Err(E::NotFound { .. } | E::PermissionDenied { .. }) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let size = got.meta.size;
    if size > MAX_SIDE_FILE {
        return Err(Failure::Final(format!(
            "{size} bytes, more than the {MAX_SIDE_FILE} that are read"
        )));
    }
    let bytes = got.bytes().await?;
    if bytes.len() as u64 != size {
        return Err(cut_short(bytes.len() as u64, size));
    }
    Ok(Some(bytes.to_vec()))
}

/// The names directly below a folder, in order.
async fn names(location: &Location) -> std::result::Result<Vec<String>, Failure> {
    let listed = location
        .store
        .list_with_delimiter(Some(&location.path))
        .await?;
    let objects = listed.objects.iter();
    let mut names: Vec<String> = objects
        .filter_map(|object| object.location.filename().map(str::to_owned))
        .collect();
    names.sort();
    Ok(names)
}
