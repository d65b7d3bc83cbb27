//! Files that were looked at a short while ago, open: whoever is about to read one, or in the middle of it, goes on with it
//! when another one is put in its place, as with a file that is open here.
//!
//! One that was moved elsewhere is held as long as it is what it was in the tree: what is written to it there is not the tree's.

use std::collections::VecDeque;
use std::fs::File;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::Handle;
use crate::sys::clock::Time;
use crate::sys::meta;

/// So many are held.
const MOST: usize = 128;
/// So long after the last look. A file that is removed takes up its room as long as it is held.
const FOR: Duration = Duration::from_secs(60);

#[derive(Debug, Default)]
pub struct Held(Arc<Mutex<Files>>);

#[derive(Debug, Default)]
struct Files {
    /// The one that was looked at last at the end.
    files: VecDeque<One>,
    /// Somebody closes those that were held for long enough.
    is_swept: bool,
}

#[derive(Debug)]
struct One {
    handle: Handle,
    file: Arc<File>,
    /// Time of the last change of its content, and its size, when it was in the tree.
    was: (Time, i64),
    looked: Instant,
}

fn print(stat: &rustix::fs::Stat) -> (Time, i64) {
    (meta::stamps(stat).0, stat.st_size)
}

fn lock(files: &Mutex<Files>) -> MutexGuard<'_, Files> {
    files.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Held {
    /// A file that is not at its place in the tree any more.
    pub fn find(&self, handle: &Handle) -> Option<Arc<File>> {
        let mut held = lock(&self.0);
        let at = held.files.iter().rposition(|one| one.handle == *handle)?;
        let one = held.files.remove(at)?;
        let stat = meta::stat_file(&one.file).ok()?;
        if stat.st_nlink > 0 && print(&stat) != one.was {
            return None;
        }
        let file = one.file.clone();
        held.files.push_back(One { looked: Instant::now(), ..one });
        Some(file)
    }

    /// Holds a file that is at its place.
    pub fn put(&self, handle: &Handle, file: Arc<File>) {
        let Ok(stat) = meta::stat_file(&file) else { return };
        let mut held = lock(&self.0);
        held.files.retain(|one| one.handle != *handle);
        held.files.push_back(One { handle: handle.clone(), file, was: print(&stat), looked: Instant::now() });
        if held.files.len() > MOST {
            held.files.pop_front();
        }
        if !std::mem::replace(&mut held.is_swept, true) {
            self.sweep();
        }
    }

    /// Closes them in time, on a thread that ends when nothing is held, or nobody looks any more.
    fn sweep(&self) {
        let held = Arc::downgrade(&self.0);
        std::thread::spawn(move || {
            let mut rest = FOR;
            loop {
                std::thread::sleep(rest);
                let Some(held) = held.upgrade() else { return };
                let mut held = lock(&held);
                held.files.retain(|one| one.looked.elapsed() < FOR);
                let Some(oldest) = held.files.front() else {
                    held.is_swept = false;
                    return;
                };
                rest = FOR.saturating_sub(oldest.looked.elapsed()).max(Duration::from_secs(1));
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_are_held_as_may_be_and_those_that_were_looked_at_last() {
        let held = Held::default();
        let handle = |n: usize| Handle(n.to_le_bytes().to_vec().into());
        let file = Arc::new(tempfile::tempfile().unwrap());
        for n in 0..MOST + 50 {
            held.put(&handle(n), file.clone());
            assert!(held.find(&handle(0)).is_some());
        }
        assert!(held.find(&handle(50)).is_none() && held.find(&handle(52)).is_some());
        assert_eq!(Arc::strong_count(&file), MOST + 1);
        drop(held);
        assert_eq!(Arc::strong_count(&file), 1, "whoever looks no more holds nothing");
    }
}
