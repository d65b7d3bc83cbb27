//! A way to Docker that can be cut: what a daemon sees when its engine dies, without one that dies.

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
}

impl Relay {
    pub fn new() -> Relay {
        let relay = Relay { dir: super::scratch(), open: Arc::new(AtomicBool::new(true)), streams: Arc::default() };
        let listener = UnixListener::bind(relay.socket()).expect("a socket");
        let (open, streams) = (relay.open.clone(), relay.streams.clone());
        // It ends with the test's process.
        std::thread::spawn(move || {
            for near in listener.incoming().flatten() {
                let mut known = streams.lock().expect("streams");
                if !open.load(Ordering::SeqCst) {
                    continue;
                }
                let far = UnixStream::connect(DOCKER).expect("Docker");
                for (from, to) in [(&near, &far), (&far, &near)] {
                    let (from, to) = (from.try_clone().expect("a handle"), to.try_clone().expect("a handle"));
                    std::thread::spawn(move || copy(from, to));
                }
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

fn copy(mut from: UnixStream, mut to: UnixStream) {
    let mut piece = [0; 16 << 10];
    while let Ok(len) = from.read(&mut piece) {
        if len == 0 || to.write_all(&piece[..len]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Write);
}
