//! One page over HTTP/1.1, for one reader at a time.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Time that a reader has for its request, and for each piece of the answer.
const PATIENCE: Duration = Duration::from_secs(2);
/// How often it is looked whether someone has come.
const PAUSE: Duration = Duration::from_millis(50);
/// Bytes of a request at most; Prometheus sends some three hundred.
const REQUEST: usize = 8 << 10;

/// What is served.
pub(super) struct Answer {
    pub(super) kind: &'static str,
    pub(super) text: String,
}

/// A thread that answers `GET /metrics` until this is dropped.
#[derive(Debug)]
pub(super) struct Server {
    address: SocketAddr,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Listens at `address`; `page` is made anew for each reader.
    pub(super) fn start(
        address: SocketAddr,
        page: impl Fn() -> Option<Answer> + Send + 'static,
    ) -> io::Result<Self> {
        let listener = TcpListener::bind(address)?;
        let address = listener.local_addr()?;
        // Nobody can wake a thread that waits for a reader.
        listener.set_nonblocking(true)?;
        let stop = Arc::<AtomicBool>::default();
        let stopped = Arc::clone(&stop);
        let serve = move || {
            while !stopped.load(Ordering::Relaxed) {
                let served = match listener.accept() {
                    Ok((stream, _)) => serve(stream, &page),
                    Err(error) => Err(error),
                };
                match served {
                    Ok(()) => {}
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        std::thread::sleep(PAUSE);
                    }
                    Err(error) => {
                        tracing::debug!("someone who asked for the metrics got none: {error}");
                        std::thread::sleep(PAUSE);
                    }
                }
            }
        };
        let thread = std::thread::Builder::new()
            .name("mae-metrics".into())
            .spawn(serve)?;
        Ok(Server {
            address,
            stop,
            thread: Some(thread),
        })
    }

    /// Where it listens, the port that was free included.
    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // A panic there was printed, and the run has not missed it.
            let _ = thread.join();
        }
    }
}

/// Reads a request, answers it and hangs up.
fn serve(mut stream: TcpStream, page: impl Fn() -> Option<Answer>) -> io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let deadline = Instant::now() + PATIENCE;
    let mut request = Vec::new();
    let mut piece = [0; 1024];
    while !request.windows(4).any(|bytes| bytes == b"\r\n\r\n") {
        if request.len() > REQUEST {
            return answer(&mut stream, "431 Request Header Fields Too Large", None);
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        stream.set_read_timeout(Some(left))?;
        match stream.read(&mut piece)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            read => request.extend_from_slice(&piece[..read]),
        }
    }
    match is_for_the_page(&request) {
        true => answer(&mut stream, "200 OK", page()),
        false => answer(&mut stream, "404 Not Found", None),
    }
}

/// Whether the request's first line is `GET /metrics HTTP/…`; what follows a `?` says nothing.
fn is_for_the_page(request: &[u8]) -> bool {
    let line = request.split(|byte| *byte == b'\r').next();
    let line = std::str::from_utf8(line.unwrap_or_default()).unwrap_or_default();
    let mut words = line.split(' ');
    let (method, target) = (words.next(), words.next().unwrap_or_default());
    method == Some("GET") && target.split('?').next() == Some("/metrics")
}

fn answer(stream: &mut TcpStream, status: &str, answer: Option<Answer>) -> io::Result<()> {
    let Answer { kind, text } = answer.unwrap_or_else(|| Answer {
        kind: "text/plain; charset=utf-8",
        text: format!("{status}; the metrics are at /metrics\n"),
    });
    let length = text.len();
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(format!("{head}{text}").as_bytes())
}
