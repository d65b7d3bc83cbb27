//! What the kernel knows of: numbers of entries, as long as it remembers them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::tree::look::Seen;

/// The number of a mount's root, FUSE's own.
pub const ROOT: u64 = 1;

/// One entry of the tree. A file with several names is one, whatever name it was found by.
#[derive(Clone, Debug)]
pub struct Inode {
    pub seen: Arc<Seen>,
    /// The directory in which it was found.
    pub dir: u64,
    looked: Instant,
}

#[derive(Debug)]
struct Known {
    inode: Inode,
    /// How often the kernel was told of it and has not forgotten it since.
    count: u64,
}

#[derive(Debug)]
pub struct Inodes {
    known: Mutex<HashMap<u64, Known>>,
    /// How long what can change is believed.
    fresh: Duration,
}

impl Inodes {
    pub fn new(root: Seen, fresh: Duration) -> Inodes {
        let inode = Inode { seen: Arc::new(root), dir: ROOT, looked: Instant::now() };
        Inodes { known: Mutex::new(HashMap::from([(ROOT, Known { inode, count: 1 })])), fresh }
    }

    fn known(&self) -> MutexGuard<'_, HashMap<u64, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn find(&self, number: u64) -> Option<Inode> {
        self.known().get(&number).map(|known| known.inode.clone())
    }

    /// Whether what is known of an inode can be told without another look.
    pub fn is_fresh(&self, inode: &Inode) -> bool {
        inode.seen.version.is_none() || inode.looked.elapsed() < self.fresh
    }

    /// The kernel is told of these entries of `dir`.
    pub fn tell<'a>(&self, dir: u64, entries: impl Iterator<Item = (&'a Arc<Seen>, Instant)>) {
        let mut known = self.known();
        for (seen, looked) in entries {
            let number = number(seen);
            let known = known
                .entry(number)
                .or_insert_with(|| Known { inode: Inode { seen: seen.clone(), dir, looked }, count: 0 });
            known.count += 1;
            if known.inode.looked < looked {
                known.inode = Inode { seen: seen.clone(), dir, looked };
            }
        }
    }

    /// It was looked at again.
    pub fn refresh(&self, number: u64, seen: &Arc<Seen>) {
        if let Some(known) = self.known().get_mut(&number) {
            known.inode.seen = seen.clone();
            known.inode.looked = Instant::now();
        }
    }

    /// It has changed since it was looked at last.
    pub fn expire(&self, number: u64) {
        if let Some(known) = self.known().get_mut(&number)
            && let Some(before) = Instant::now().checked_sub(self.fresh)
        {
            known.inode.looked = before;
        }
    }

    pub fn forget(&self, number: u64, count: u64) {
        let mut known = self.known();
        if let Some(found) = known.get_mut(&number) {
            found.count = found.count.saturating_sub(count);
            if found.count == 0 && number != ROOT {
                known.remove(&number);
            }
        }
    }

    pub fn len(&self) -> usize {
        self.known().len()
    }
}

/// The number that the kernel and its users know an entry by: the tree's own, but for those that FUSE keeps for itself.
pub fn number(seen: &Seen) -> u64 {
    if seen.id <= ROOT { seen.id | 1 << 63 } else { seen.id }
}
