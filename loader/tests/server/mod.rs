//! A file server on loopback that misbehaves on request: the least of HTTP/1.1 that a ranged read needs.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// What goes wrong with an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Status 500.
    Error,
    /// The connection is closed without an answer.
    Drop,
    /// Half of the body, then the connection is closed.
    Truncate,
    /// Nothing, until the client goes away.
    Stall,
    /// Half of the body, then nothing.
    StallInBody,
    /// Says that the body is longer than it is.
    LieLonger,
    /// Another range than was asked for.
    OtherRange,
}

pub(crate) const FAULTS: [Fault; 7] = [
    Fault::Error,
    Fault::Drop,
    Fault::Truncate,
    Fault::Stall,
    Fault::StallInBody,
    Fault::LieLonger,
    Fault::OtherRange,
];

/// What the server does; changed while it runs.
#[derive(Default)]
pub(crate) struct Behaviour {
    /// Whether it knows no ranges.
    pub(crate) no_ranges: AtomicBool,
    /// One of so many answers goes wrong; 0 for none.
    pub(crate) one_in: AtomicU64,
    /// Whether every answer to a ranged request of a shard stalls.
    pub(crate) dead: AtomicBool,
    /// Whether it never says a wrong length.
    pub(crate) honest: AtomicBool,
    /// Another entity tag than before.
    pub(crate) changed: AtomicBool,
    /// Requests by name.
    pub(crate) requests: Mutex<HashMap<String, u64>>,
    /// Answers that went wrong.
    pub(crate) faults: AtomicU64,
    number: AtomicU64,
}

pub(crate) struct Server {
    pub(crate) url: String,
    pub(crate) behaviour: Arc<Behaviour>,
    stop: Arc<AtomicBool>,
}

impl Server {
    /// Serves the files of `folder`.
    pub(crate) fn start(folder: &Path) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (behaviour, stop) = (
            Arc::new(Behaviour::default()),
            Arc::new(AtomicBool::new(false)),
        );
        let (shared, stopped, folder) = (behaviour.clone(), stop.clone(), folder.to_path_buf());
        std::thread::spawn(move || {
            for connection in listener.incoming() {
                if stopped.load(Ordering::Relaxed) {
                    return;
                }
                let (shared, folder, stopped) = (shared.clone(), folder.clone(), stopped.clone());
                if let Ok(connection) = connection {
                    std::thread::spawn(move || {
                        let _ = serve(&connection, &folder, &shared, &stopped);
                    });
                }
            }
        });
        Self {
            url,
            behaviour,
            stop,
        }
    }

    pub(crate) fn requests(&self, name: &str) -> u64 {
        let requests = self.behaviour.requests.lock().unwrap();
        requests.get(name).copied().unwrap_or(0)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = TcpStream::connect(self.url.trim_start_matches("http://"));
    }
}

fn serve(
    connection: &TcpStream,
    folder: &Path,
    behaviour: &Behaviour,
    stop: &AtomicBool,
) -> std::io::Result<()> {
    let mut lines = BufReader::new(connection);
    loop {
        let Some((name, range)) = request(&mut lines)? else {
            return Ok(());
        };
        *behaviour
            .requests
            .lock()
            .unwrap()
            .entry(name.clone())
            .or_default() += 1;
        let mut out = connection;
        let path: PathBuf = folder.join(&name);
        let Ok(body) = std::fs::read(&path) else {
            write!(out, "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")?;
            continue;
        };
        let number = behaviour.number.fetch_add(1, Ordering::Relaxed);
        let one_in = behaviour.one_in.load(Ordering::Relaxed);
        let mut fault = None;
        if one_in > 0 && number % one_in == one_in - 1 {
            fault = Some(FAULTS[(number / one_in) as usize % FAULTS.len()]);
            behaviour.faults.fetch_add(1, Ordering::Relaxed);
        }
        if behaviour.honest.load(Ordering::Relaxed) {
            fault = fault.filter(|fault| *fault != Fault::LieLonger);
        }
        let shard = name.contains(".tar");
        if shard && behaviour.dead.load(Ordering::Relaxed) {
            fault = Some(Fault::Stall);
        }
        let wait = || {
            // The client gives up long before.
            for _ in 0..600 {
                if stop.load(Ordering::Relaxed) {
                    return;
                }
                std::thread::sleep(Duration::from_millis(50));
            }
        };
        match fault {
            Some(Fault::Error) => {
                write!(out, "HTTP/1.1 500 Oops\r\nContent-Length: 4\r\n\r\noops")?;
                continue;
            }
            Some(Fault::Drop) => return Ok(()),
            Some(Fault::Stall) => {
                wait();
                return Ok(());
            }
            _ => {}
        }
        let tag = if behaviour.changed.load(Ordering::Relaxed) {
            "b"
        } else {
            "a"
        };
        let ranges = !behaviour.no_ranges.load(Ordering::Relaxed);
        let (start, end, partial) = match range.filter(|_| ranges) {
            Some((start, end)) => (start.min(body.len()), end.min(body.len()), true),
            None => (0, body.len(), false),
        };
        let part = &body[start..end];
        let said = match fault {
            Some(Fault::LieLonger) => part.len() + 1000,
            _ => part.len(),
        };
        write!(
            out,
            "HTTP/1.1 {}\r\nContent-Length: {said}\r\nETag: \"{tag}{}\"\r\n",
            if partial {
                "206 Partial Content"
            } else {
                "200 OK"
            },
            body.len(),
        )?;
        if partial {
            let shift = usize::from(fault == Some(Fault::OtherRange) && start > 0);
            write!(
                out,
                "Content-Range: bytes {}-{}/{}\r\n",
                start - shift,
                end - 1 - shift,
                body.len()
            )?;
        }
        write!(out, "\r\n")?;
        match fault {
            Some(Fault::Truncate) => {
                out.write_all(&part[..part.len() / 2])?;
                return Ok(());
            }
            Some(Fault::StallInBody) => {
                out.write_all(&part[..part.len() / 2])?;
                wait();
                return Ok(());
            }
            Some(Fault::LieLonger) => {
                out.write_all(part)?;
                return Ok(());
            }
            _ => out.write_all(part)?,
        }
    }
}

/// The file's name and the range of its bytes, start and end; `None` at the end of the connection.
type Request = Option<(String, Option<(usize, usize)>)>;

fn request(lines: &mut impl BufRead) -> std::io::Result<Request> {
    let mut first = String::new();
    if lines.read_line(&mut first)? == 0 {
        return Ok(None);
    }
    let target = first.split(' ').nth(1).unwrap_or("/");
    let name = target.split('?').next().unwrap_or(target);
    let name = name.trim_start_matches('/').replace("%20", " ");
    let mut range = None;
    loop {
        let mut line = String::new();
        if lines.read_line(&mut line)? == 0 || line.trim().is_empty() {
            return Ok(Some((name, range)));
        }
        let line = line.to_ascii_lowercase();
        if let Some(bytes) = line.strip_prefix("range: bytes=") {
            let (start, end) = bytes.trim().split_once('-').unwrap_or(("0", ""));
            let end = end.parse().map_or(usize::MAX, |end: usize| end + 1);
            range = Some((start.parse().unwrap_or(0), end));
        }
    }
}
