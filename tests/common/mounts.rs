//! Mounts of the product, made and taken away.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::host::Stage;

/// A mount in the background; gone at the end, whatever happened.
pub struct Mount {
    pub dir: PathBuf,
    pid: i32,
}

impl Mount {
    pub fn of(stage: &Stage, what: &str, name: &str, more: &[&str]) -> Mount {
        let dir = stage.folder(name);
        let mut words = vec!["mount"];
        words.extend(more);
        words.extend([what, dir.to_str().unwrap()]);
        let outcome = stage.admin.run(&words).ok();
        let pid = i32::try_from(outcome.count("pid")).unwrap();
        assert!(is_mounted(&dir), "{outcome}");
        Mount { dir, pid }
    }

    pub fn at(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_raw(self.pid).unwrap(), signal).unwrap();
    }

    pub fn is_running(&self) -> bool {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid)).unwrap_or_default();
        !stat.is_empty() && !stat.contains(") Z ")
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        if is_mounted(&self.dir) {
            let _ = rustix::mount::unmount(&self.dir, rustix::mount::UnmountFlags::DETACH);
        }
        if self.is_running() {
            let _ = kill_process(Pid::from_raw(self.pid).unwrap(), Signal::KILL);
        }
    }
}

pub fn is_mounted(dir: &Path) -> bool {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
    table.lines().any(|line| line.split(' ').nth(4) == dir.to_str())
}

pub fn until(what: &str, mut done: impl FnMut() -> bool) {
    let began = Instant::now();
    while !done() {
        assert!(began.elapsed() < Duration::from_secs(60), "{what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}
