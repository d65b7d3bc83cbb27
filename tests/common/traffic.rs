//! People who ask for a tenant's page without a pause, over connections that they keep: what they were answered.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

/// What all of them saw.
#[derive(Debug, Default)]
pub struct Seen {
    pub ok: AtomicU64,
    /// Connections that could not be made or broke: there is nobody, or nobody any more.
    pub cut: AtomicU64,
    /// Answers other than 200, in words.
    pub failed: Mutex<Vec<String>>,
    /// The last page.
    pub last: Mutex<String>,
}

impl Seen {
    pub fn ok(&self) -> u64 {
        self.ok.load(Ordering::SeqCst)
    }

    pub fn cut(&self) -> u64 {
        self.cut.load(Ordering::SeqCst)
    }

    pub fn failures(&self) -> Vec<String> {
        self.failed.lock().expect("no panic").clone()
    }
}

/// Dropped, they stop.
pub struct Traffic {
    pub seen: Arc<Seen>,
    stop: Arc<AtomicBool>,
    people: Vec<JoinHandle<()>>,
}

impl Traffic {
    /// So many people at the proxy at `address`, for `path` of `host`.
    pub fn start(address: &str, host: &str, path: &str, people: usize) -> Traffic {
        let (seen, stop) = (Arc::<Seen>::default(), Arc::<AtomicBool>::default());
        let people = (0..people)
            .map(|_| {
                let (seen, stop) = (seen.clone(), stop.clone());
                let (address, host, path) = (address.to_owned(), host.to_owned(), path.to_owned());
                std::thread::spawn(move || ask(&address, &host, &path, &seen, &stop))
            })
            .collect();
        Traffic { seen, stop, people }
    }

    /// Lets each have its last answer.
    pub fn stop(mut self) -> Arc<Seen> {
        self.stop.store(true, Ordering::SeqCst);
        self.people.drain(..).for_each(|person| person.join().expect("no panic"));
        self.seen.clone()
    }

    /// Waits until so many more were answered.
    pub fn answers(&self, more: u64) {
        let (until, began) = (self.seen.ok() + more, std::time::Instant::now());
        while self.seen.ok() < until {
            assert!(began.elapsed() < Duration::from_secs(60), "nobody is answered: {:?}", self.seen);
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Traffic {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
    }
}

fn ask(address: &str, host: &str, path: &str, seen: &Seen, stop: &AtomicBool) {
    let mut kept: Option<BufReader<TcpStream>> = None;
    while !stop.load(Ordering::SeqCst) {
        let stream = match kept.take() {
            Some(stream) => Ok(stream),
            None => TcpStream::connect(address).map(BufReader::new),
        };
        match stream.and_then(|stream| one(stream, host, path)) {
            Ok((status, body, stream)) => {
                if status == 200 {
                    seen.ok.fetch_add(1, Ordering::SeqCst);
                    *seen.last.lock().expect("no panic") = body;
                } else {
                    seen.failed.lock().expect("no panic").push(format!("{status}: {}", body.trim()));
                }
                kept = Some(stream);
                std::thread::sleep(Duration::from_millis(5));
            }
            Err(_) => {
                seen.cut.fetch_add(1, Ordering::SeqCst);
                std::thread::sleep(Duration::from_millis(50));
            }
        }
    }
}

/// One request and its answer.
fn one(
    mut stream: BufReader<TcpStream>,
    host: &str,
    path: &str,
) -> std::io::Result<(u16, String, BufReader<TcpStream>)> {
    stream.get_ref().set_read_timeout(Some(Duration::from_secs(60)))?;
    write!(stream.get_mut(), "GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n")?;
    let (mut status, mut length) = (0, 0);
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line)? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        let line = line.trim_end().to_ascii_lowercase();
        if let Some(rest) = line.strip_prefix("http/1.1 ") {
            status = rest.split(' ').next().and_then(|word| word.parse().ok()).unwrap_or(0);
        } else if let Some(rest) = line.strip_prefix("content-length:") {
            length = rest.trim().parse().unwrap_or(0);
        } else if line.is_empty() {
            break;
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body)?;
    Ok((status, String::from_utf8_lossy(&body).into_owned(), stream))
}

/// One page.
pub fn page(address: &str, host: &str, path: &str) -> std::io::Result<(u16, String)> {
    let stream = BufReader::new(TcpStream::connect(address)?);
    one(stream, host, path).map(|(status, body, _)| (status, body))
}
