//! A door before an object store that serves one change of a key at a time, and takes its time if told to.
//!
//! The S3 server of the tests looks whether an object is there and then writes: two writers at the same instant may both be
//! told that they created it. Behind this door it keeps what real services promise, so that several writers can be tested.

use std::collections::HashMap;
use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

/// How long one side may say nothing.
const PATIENCE: Duration = Duration::from_secs(60);
/// More than any head of a request that is meant.
const MOST_HEAD: usize = 64 << 10;

/// The door. It closes when the value is dropped.
#[derive(Debug)]
pub struct KeyProxy {
    address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    upstream: String,
    latency: Duration,
    /// One lock for each key that was changed.
    keys: Mutex<HashMap<String, Arc<Mutex<()>>>>,
    requests: AtomicUsize,
    closed: AtomicBool,
}

impl KeyProxy {
    /// Opens a door before a server (`http://host:port`). Every request waits for so long before it is passed on.
    ///
    /// # Errors
    /// When no port of the loopback interface can be had.
    pub fn start(endpoint: &str, latency: Duration) -> io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0))?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            upstream: endpoint.trim_start_matches("http://").trim_end_matches('/').to_owned(),
            latency,
            keys: Mutex::default(),
            requests: AtomicUsize::new(0),
            closed: AtomicBool::new(false),
        });
        let serving = Arc::clone(&shared);
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                if serving.closed.load(Ordering::SeqCst) {
                    break;
                }
                let serving = Arc::clone(&serving);
                // A client that goes away, or a server that does, is the client's business.
                thread::spawn(move || drop(serve(client, &serving)));
            }
        });
        Ok(Self { address, shared })
    }

    /// `http://127.0.0.1:port`
    #[must_use]
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Requests so far.
    #[must_use]
    pub fn requests(&self) -> usize {
        self.shared.requests.load(Ordering::SeqCst)
    }
}

impl Drop for KeyProxy {
    fn drop(&mut self) {
        self.shared.closed.store(true, Ordering::SeqCst);
        // Wakes the listener; where that fails it is gone already.
        drop(TcpStream::connect(self.address));
    }
}

/// One request and its answer. The connection ends with it.
fn serve(mut client: TcpStream, shared: &Shared) -> io::Result<()> {
    client.set_read_timeout(Some(PATIENCE))?;
    let Some((head, mut body)) = head(&mut client)? else { return Ok(()) };
    shared.requests.fetch_add(1, Ordering::SeqCst);
    let mut lines = head.split("\r\n");
    let request = lines.next().unwrap_or_default();
    let mut passed = format!("{request}\r\nConnection: close\r\n");
    let mut length = 0;
    for line in lines.filter(|line| !line.is_empty()) {
        let (name, value) = line.split_once(':').unwrap_or((line, ""));
        if name.eq_ignore_ascii_case("connection") {
            continue;
        }
        if name.eq_ignore_ascii_case("content-length") {
            length = value.trim().parse().map_err(|_| io::Error::other("a length that is no number"))?;
        }
        passed.push_str(line);
        passed.push_str("\r\n");
    }
    passed.push_str("\r\n");
    let there = body.len().min(length);
    body.resize(length, 0);
    client.read_exact(&mut body[there..])?;

    thread::sleep(shared.latency);
    let mut words = request.split(' ');
    let reads = matches!(words.next(), Some("GET" | "HEAD"));
    let key = words.next().unwrap_or_default().split('?').next().unwrap_or_default();
    let lock = (!reads).then(|| {
        let mut keys = shared.keys.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(keys.entry(key.to_owned()).or_default())
    });
    let turn = lock.as_ref().map(|lock| lock.lock().unwrap_or_else(PoisonError::into_inner));
    let mut server = TcpStream::connect(&shared.upstream)?;
    server.set_read_timeout(Some(PATIENCE))?;
    server.write_all(passed.as_bytes())?;
    server.write_all(&body)?;
    let mut answer = Vec::new();
    server.read_to_end(&mut answer)?;
    drop(turn);
    client.write_all(&answer)
}

/// The head of a request, and what of its body came with it; `None` when the client only looked in.
fn head(client: &mut TcpStream) -> io::Result<Option<(String, Vec<u8>)>> {
    let mut read = Vec::new();
    let mut buffer = [0; 8192];
    loop {
        if let Some(end) = read.windows(4).position(|four| four == b"\r\n\r\n") {
            let body = read.split_off(end + 4);
            return Ok(Some((String::from_utf8_lossy(&read).into_owned(), body)));
        }
        let n = client.read(&mut buffer)?;
        if n == 0 || read.len() > MOST_HEAD {
            return Ok(None);
        }
        read.extend_from_slice(&buffer[..n]);
    }
}
