//! Directories that were listed lately: a piece of each, which for most is all of it.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use super::inodes;
use crate::tree::look::{Listing, Seen};

/// A piece of a directory.
#[derive(Debug)]
pub struct Page {
    pub dir: u64,
    /// The directory that it is in.
    pub up: u64,
    pub entries: Vec<Arc<Seen>>,
    /// The directory begins with it.
    pub first: bool,
    /// There is more behind it.
    pub more: bool,
    pub looked: Instant,
    places: OnceLock<HashMap<u64, u32>>,
}

impl Page {
    pub fn new(dir: u64, up: u64, first: bool, listing: Listing, looked: Instant) -> Page {
        let entries = listing.entries.into_iter().map(Arc::new).collect();
        Page { dir, up, entries, first, more: listing.more, looked, places: OnceLock::new() }
    }

    /// It is all of its directory.
    pub fn is_whole(&self) -> bool {
        self.first && !self.more
    }

    pub fn last_name(&self) -> Option<&[u8]> {
        self.entries.last().map(|seen| &*seen.entry.name)
    }

    /// Where an inode stands in it.
    pub fn place(&self, number: u64) -> Option<usize> {
        let places = self.places.get_or_init(|| {
            let numbered = self.entries.iter().enumerate();
            numbered.map(|(at, seen)| (inodes::number(seen), at as u32)).collect()
        });
        places.get(&number).map(|at| *at as usize)
    }

    pub fn find(&self, name: &[u8]) -> Option<&Arc<Seen>> {
        let at = self.entries.binary_search_by(|seen| (*seen.entry.name).cmp(name)).ok()?;
        self.entries.get(at)
    }
}

/// So many entries are kept, and as many directories.
const ENTRIES: usize = 100_000;

#[derive(Debug)]
pub struct Pages {
    state: Mutex<State>,
    fresh: Duration,
}

#[derive(Debug, Default)]
struct State {
    pages: HashMap<u64, Arc<Page>>,
    order: VecDeque<Arc<Page>>,
    entries: usize,
}

impl Pages {
    pub fn new(fresh: Duration) -> Pages {
        Pages { state: Mutex::default(), fresh }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The piece of a directory that was listed last; `may_change` if it can have become another one.
    pub fn find(&self, dir: u64, may_change: bool) -> Option<Arc<Page>> {
        let page = self.state().pages.get(&dir)?.clone();
        (!may_change || page.looked.elapsed() < self.fresh).then_some(page)
    }

    /// It was not what is there: it is listed anew when it is asked for.
    pub fn forget(&self, dir: u64) {
        self.state().pages.remove(&dir);
    }

    pub fn keep(&self, page: &Arc<Page>) {
        let state = &mut *self.state();
        state.entries += page.entries.len() + 1;
        state.pages.insert(page.dir, page.clone());
        state.order.push_back(page.clone());
        while state.entries > ENTRIES
            && state.order.len() > 1
            && let Some(old) = state.order.pop_front()
        {
            state.entries -= old.entries.len() + 1;
            if state.pages.get(&old.dir).is_some_and(|kept| Arc::ptr_eq(kept, &old)) {
                state.pages.remove(&old.dir);
            }
        }
    }
}
