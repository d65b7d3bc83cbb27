//! The kernel's word on what changes in a directory. One watch is one directory: neither what lies below it nor what its
//! links lead to.

use std::fs::File;
use std::io::Result;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags};
use rustix::io::Errno;

use super::dir::Dir;

/// Events taken in one go, about.
const BATCH: usize = 8192;

/// A queue of events. Closed, it gives all its watches back.
#[derive(Debug)]
pub struct Inotify(OwnedFd);

/// A directory that is watched, as its events name it.
pub type Watch = i32;

/// Something that happened.
#[derive(Debug)]
pub struct Event {
    pub watch: Watch,
    /// The entry it happened to; empty: the directory itself.
    pub name: Box<[u8]>,
    pub kind: Kind,
    /// The entry is a directory.
    pub is_dir: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// The entry came or went, or another took its name.
    Entry,
    /// Its content or its metadata is another.
    Changed,
    /// The directory itself was moved or removed.
    Gone,
    /// What the directory lies on was unmounted.
    Unmounted,
    /// The watch has ended.
    Ended,
    /// Events were lost: which, nobody knows.
    Overflow,
}

impl Inotify {
    pub fn new() -> Result<Inotify> {
        Ok(Inotify(inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?))
    }

    /// Watches an open directory. One that is watched already keeps its watch.
    pub fn watch(&self, dir: &Dir) -> Result<Watch> {
        let flags = WatchFlags::CREATE
            | WatchFlags::DELETE
            | WatchFlags::MOVED_FROM
            | WatchFlags::MOVED_TO
            | WatchFlags::MODIFY
            | WatchFlags::CLOSE_WRITE
            | WatchFlags::ATTRIB
            | WatchFlags::DELETE_SELF
            | WatchFlags::MOVE_SELF
            | WatchFlags::EXCL_UNLINK
            | WatchFlags::ONLYDIR;
        // The link of a descriptor leads to what is open, whatever has become of its name.
        Ok(inotify::add_watch(&self.0, format!("/proc/self/fd/{}", dir.as_fd().as_raw_fd()), flags)?)
    }

    pub fn unwatch(&self, watch: Watch) {
        // It may have ended by itself.
        let _ = inotify::remove_watch(&self.0, watch);
    }

    /// What has happened since; does not wait.
    pub fn read(&self) -> Result<Vec<Event>> {
        let mut events = Vec::new();
        let mut buffer = vec![MaybeUninit::uninit(); 64 * 1024];
        let mut reader = Reader::new(&self.0, &mut buffer);
        // What was taken from the kernel is told, too.
        while events.len() < BATCH || !reader.is_buffer_empty() {
            match reader.next() {
                Ok(event) => events.push(Event {
                    watch: event.wd(),
                    name: event.file_name().map_or(&b""[..], |name| name.to_bytes()).into(),
                    kind: kind(event.events()),
                    is_dir: event.events().contains(ReadFlags::ISDIR),
                }),
                Err(Errno::AGAIN) => break,
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(events)
    }

    /// Waits until there are events, `also` (the table of mounts) says that it changed, or the time is over. True if it is
    /// `also`.
    pub fn wait(&self, also: Option<&File>, time: Duration) -> Result<bool> {
        let mut ends = vec![PollFd::new(&self.0, PollFlags::IN)];
        ends.extend(also.map(|file| PollFd::new(file, PollFlags::PRI)));
        let time = Timespec { tv_sec: time.as_secs().cast_signed(), tv_nsec: time.subsec_nanos().into() };
        match rustix::event::poll(&mut ends, Some(&time)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(ends.get(1).is_some_and(|end| !end.revents().is_empty()))
    }
}

fn kind(flags: ReadFlags) -> Kind {
    let entry = ReadFlags::CREATE | ReadFlags::DELETE | ReadFlags::MOVED_FROM | ReadFlags::MOVED_TO;
    match flags {
        _ if flags.contains(ReadFlags::QUEUE_OVERFLOW) => Kind::Overflow,
        _ if flags.contains(ReadFlags::UNMOUNT) => Kind::Unmounted,
        _ if flags.contains(ReadFlags::IGNORED) => Kind::Ended,
        _ if flags.intersects(ReadFlags::DELETE_SELF | ReadFlags::MOVE_SELF) => Kind::Gone,
        _ if flags.intersects(entry) => Kind::Entry,
        _ => Kind::Changed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_happens_in_a_directory_is_told_and_what_happens_below_is_not() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("sub")).unwrap();
        let inotify = Inotify::new().unwrap();
        let watch = inotify.watch(&Dir::open(dir.path()).unwrap()).unwrap();
        assert!(inotify.read().unwrap().is_empty());
        std::fs::write(dir.path().join("sub/deep"), b"x").unwrap();
        assert!(inotify.read().unwrap().is_empty());
        std::fs::create_dir(dir.path().join("new")).unwrap();
        let events = inotify.read().unwrap();
        assert_eq!(events.len(), 1, "{events:?}");
        let event = &events[0];
        assert_eq!((event.watch, &*event.name, event.kind, event.is_dir), (watch, &b"new"[..], Kind::Entry, true));
        std::fs::remove_dir_all(dir.path()).unwrap();
        assert!(inotify.read().unwrap().iter().any(|event| event.kind == Kind::Gone));
    }
}
