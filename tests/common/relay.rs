//! A way to Docker that can be cut, and on which some requests get other answers than Docker's: what a daemon sees when its
//! engine dies, refuses or lies, without one that does.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

const DOCKER: &str = "/var/run/docker.sock";

pub struct Relay {
    dir: tempfile::TempDir,
    open: Arc<AtomicBool>,
    streams: Arc<Mutex<Vec<UnixStream>>>,
    faults: Faults,
}

type Faults = Arc<Mutex<Vec<Fault>>>;

/// An answer in Docker's place.
struct Fault {
    /// What the request's first line has in it.
    part: String,
    status: u16,
    says: String,
    times: usize,
    /// It waits for a request with this in it.
    after: Option<String>,
}

impl Relay {
    pub fn new() -> Relay {
        let open = Arc::new(AtomicBool::new(true));
        let relay = Relay { dir: super::scratch(), open, streams: Arc::default(), faults: Arc::default() };
        let listener = UnixListener::bind(relay.socket()).expect("a socket");
        let (open, streams, faults) = (relay.open.clone(), relay.streams.clone(), relay.faults.clone());
        // It ends with the test's process.
        std::thread::spawn(move || {
            for near in listener.incoming().flatten() {
                let mut known = streams.lock().expect("streams");
                if !open.load(Ordering::SeqCst) {
                    continue;
                }
                let far = UnixStream::connect(DOCKER).expect("Docker");
                let handle = |stream: &UnixStream| stream.try_clone().expect("a handle");
                let (from, to, faults) = (handle(&near), handle(&far), faults.clone());
                std::thread::spawn(move || ask(from, to, &faults));
                let (from, to) = (handle(&far), handle(&near));
                std::thread::spawn(move || copy(from, to));
                known.extend([near, far]);
            }
        });
        relay
    }

    fn socket(&self) -> PathBuf {
        self.dir.path().join("docker.sock")
    }

    /// For a daemon's environment.
    pub fn vars(&self) -> [(String, String); 1] {
        [("MCLOUD_DOCKER".to_owned(), format!("unix://{}", self.socket().display()))]
    }

    /// From now on this many requests whose first line has `part` in it are not Docker's to answer.
    pub fn answer(&self, part: &str, times: usize, status: u16, says: &str) {
        let fault = Fault { part: part.to_owned(), status, says: says.to_owned(), times, after: None };
        self.faults.lock().expect("faults").push(fault);
    }

    /// The same, for all that come after a request with `first` in its first line.
    pub fn answer_after(&self, first: &str, part: &str, status: u16) {
        let (part, says, after) = (part.to_owned(), "a fault".to_owned(), Some(first.to_owned()));
        self.faults.lock().expect("faults").push(Fault { part, status, says, times: usize::MAX, after });
    }

    /// All is Docker's to answer again.
    pub fn be_honest(&self) {
        self.faults.lock().expect("faults").clear();
    }

    /// Docker is gone.
    pub fn cut(&self) {
        let mut streams = self.streams.lock().expect("streams");
        self.open.store(false, Ordering::SeqCst);
        for stream in streams.drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    /// Docker is back.
    pub fn mend(&self) {
        self.open.store(true, Ordering::SeqCst);
    }
}

/// Requests on their way. A request comes when the answer to the one before has gone, so a piece begins with it.
fn ask(mut from: UnixStream, mut to: UnixStream, faults: &Faults) {
    let mut piece = [0; 16 << 10];
    while let Ok(len) = from.read(&mut piece) {
        let done = match instead(&piece[..len], faults) {
            _ if len == 0 => break,
            None => to.write_all(&piece[..len]),
            Some(answer) => from.write_all(answer.as_bytes()),
        };
        if done.is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Write);
}

fn instead(asked: &[u8], faults: &Faults) -> Option<String> {
    let line = String::from_utf8_lossy(asked).lines().next()?.to_owned();
    if !line.ends_with("HTTP/1.1") {
        return None;
    }
    let mut faults = faults.lock().expect("faults");
    let counts = |fault: &&mut Fault| fault.times > 0 && fault.after.is_none() && line.contains(&fault.part);
    let found = faults.iter_mut().find(counts);
    let Some(fault) = found else {
        faults
            .iter_mut()
            .filter(|fault| fault.after.as_ref().is_some_and(|first| line.contains(first)))
            .for_each(|fault| fault.after = None);
        return None;
    };
    fault.times -= 1;
    let body = if fault.status == 204 { String::new() } else { format!("{{\"message\":\"{}\"}}", fault.says) };
    let head = format!("HTTP/1.1 {} So\r\nContent-Type: application/json\r\n", fault.status);
    let length = if fault.status == 204 { String::new() } else { format!("Content-Length: {}\r\n", body.len()) };
    Some(format!("{head}{length}\r\n{body}"))
}

fn copy(mut from: UnixStream, mut to: UnixStream) {
    let mut piece = [0; 16 << 10];
    while let Ok(len) = from.read(&mut piece) {
        if len == 0 || to.write_all(&piece[..len]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Write);
}
