//! Contents of files that were fetched, bounded in bytes, and those that are on their way: what two readers want is
//! fetched once.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use rustix::io::Errno;

/// A block of a file: `number` counts in units of [`BLOCK`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    pub file: u64,
    pub version: Option<u64>,
    pub number: u64,
}

/// The unit of what is kept. Most files are smaller, and come and go whole.
pub const BLOCK: usize = 256 << 10;

/// How it stands with a block.
pub enum Found {
    Here(Bytes),
    Coming(Arc<Coming>),
    Nowhere,
}

/// A block that somebody fetches.
#[derive(Debug, Default)]
pub struct Coming {
    done: Mutex<Option<Result<Bytes, Errno>>>,
    woken: Condvar,
}

impl Coming {
    /// Waits for it. Whoever fetches it is bounded in time by the tree it comes from.
    pub fn wait(&self) -> Result<Bytes, Errno> {
        let mut done = self.done.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            match &*done {
                Some(done) => return done.clone(),
                None => done = self.woken.wait(done).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }

    fn arrive(&self, result: Result<Bytes, Errno>) {
        self.done.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(result);
        self.woken.notify_all();
    }
}

#[derive(Debug)]
pub struct Blocks {
    state: Mutex<State>,
    limit_bytes: usize,
}

#[derive(Debug, Default)]
struct State {
    blocks: HashMap<Key, Slot>,
    /// What came in one answer is one piece of memory, and goes together. Oldest first.
    batches: VecDeque<Batch>,
    first: u64,
    bytes: usize,
}

#[derive(Debug)]
enum Slot {
    Here { data: Bytes, batch: u64 },
    Coming(Arc<Coming>),
}

#[derive(Debug)]
struct Batch {
    keys: Vec<Key>,
    bytes: usize,
    /// Read since it came or was spared: it is spared once more.
    used: bool,
}

impl Blocks {
    pub fn new(limit_bytes: usize) -> Blocks {
        Blocks { state: Mutex::default(), limit_bytes }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn find(&self, key: &Key) -> Found {
        let state = &mut *self.state();
        match state.blocks.get(key) {
            Some(Slot::Here { data, batch }) => {
                if let Some(batch) = state.batches.get_mut((batch - state.first) as usize) {
                    batch.used = true;
                }
                Found::Here(data.clone())
            }
            Some(Slot::Coming(coming)) => Found::Coming(coming.clone()),
            None => Found::Nowhere,
        }
    }

    /// Takes it on to fetch those of `keys` that are neither here nor on their way.
    pub fn begin(self: &Arc<Self>, keys: impl IntoIterator<Item = Key>) -> Fetch {
        let mut state = self.state();
        let mut wanted = Vec::new();
        for key in keys {
            state.blocks.entry(key).or_insert_with(|| {
                let coming = Arc::new(Coming::default());
                wanted.push((key, coming.clone()));
                Slot::Coming(coming)
            });
        }
        Fetch { blocks: self.clone(), wanted }
    }

    #[cfg(test)]
    pub fn bytes(&self) -> usize {
        self.state().bytes
    }
}

/// Blocks that are to be fetched. Whoever waits for them is told in any case: dropped, it is told of a failure.
pub struct Fetch {
    blocks: Arc<Blocks>,
    wanted: Vec<(Key, Arc<Coming>)>,
}

impl Fetch {
    pub fn is_wanted(&self, key: &Key) -> bool {
        self.wanted.iter().any(|(wanted, _)| wanted == key)
    }

    pub fn is_empty(&self) -> bool {
        self.wanted.is_empty()
    }

    /// What came, in the order of the keys as they were taken on: each block with the version it turned out to have.
    pub fn finish(mut self, mut came: impl FnMut(&Key) -> Result<(Bytes, Option<u64>), Errno>) {
        let wanted = std::mem::take(&mut self.wanted);
        let mut arrived = Vec::with_capacity(wanted.len());
        {
            let state = &mut *self.blocks.state();
            let number = state.first + state.batches.len() as u64;
            let mut batch = Batch { keys: Vec::with_capacity(wanted.len()), bytes: 0, used: false };
            for (key, coming) in wanted {
                let result = came(&key);
                state.blocks.remove(&key);
                if let Ok((data, version)) = &result {
                    let key = Key { version: *version, ..key };
                    batch.bytes += data.len() + size_of::<(Key, Slot)>();
                    // Another reading may have brought this version meanwhile, or wait for it.
                    if let std::collections::hash_map::Entry::Vacant(vacant) = state.blocks.entry(key) {
                        vacant.insert(Slot::Here { data: data.clone(), batch: number });
                        batch.keys.push(key);
                    }
                }
                arrived.push((coming, result.map(|(data, _)| data)));
            }
            state.bytes += batch.bytes;
            state.batches.push_back(batch);
            state.shrink(self.blocks.limit_bytes);
        }
        for (coming, result) in arrived {
            coming.arrive(result);
        }
    }
}

impl Drop for Fetch {
    fn drop(&mut self) {
        let wanted = std::mem::take(&mut self.wanted);
        if wanted.is_empty() {
            return;
        }
        let mut state = self.blocks.state();
        for (key, _) in &wanted {
            state.blocks.remove(key);
        }
        drop(state);
        for (_, coming) in wanted {
            coming.arrive(Err(Errno::IO));
        }
    }
}

impl State {
    fn shrink(&mut self, limit_bytes: usize) {
        while self.bytes > limit_bytes
            && self.batches.len() > 1
            && let Some(mut batch) = self.batches.pop_front()
        {
            self.first += 1;
            if batch.used {
                batch.used = false;
                let number = self.first + self.batches.len() as u64;
                for key in &batch.keys {
                    if let Some(Slot::Here { batch, .. }) = self.blocks.get_mut(key) {
                        *batch = number;
                    }
                }
                self.batches.push_back(batch);
                continue;
            }
            self.bytes -= batch.bytes;
            for key in &batch.keys {
                self.blocks.remove(key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(file: u64) -> Key {
        Key { file, version: None, number: 0 }
    }

    fn here(blocks: &Blocks, file: u64) -> bool {
        matches!(blocks.find(&key(file)), Found::Here(_))
    }

    #[test]
    fn memory_is_bounded_and_what_was_read_stays_longer() {
        let blocks = Arc::new(Blocks::new(10_000));
        let data = Bytes::from(vec![7; 1000]);
        for file in 0..100 {
            blocks.begin([key(file)]).finish(|_| Ok((data.clone(), None)));
            assert!(blocks.bytes() <= 10_000 + 2000, "{}", blocks.bytes());
            assert!(here(&blocks, 0), "what is read all the time");
        }
        assert!(!here(&blocks, 50) && here(&blocks, 99), "the newest stays, an old one goes");
    }

    #[test]
    fn a_block_is_fetched_once_and_everybody_who_waits_is_told() {
        let blocks = Arc::new(Blocks::new(1 << 20));
        let fetch = blocks.begin([key(1), key(2)]);
        let second = blocks.begin([key(1), key(3)]);
        assert!(!second.is_wanted(&key(1)) && second.is_wanted(&key(3)));
        let Found::Coming(one) = blocks.find(&key(1)) else { panic!("it is on its way") };
        let Found::Coming(three) = blocks.find(&key(3)) else { panic!("it is on its way") };
        let waiting = std::thread::spawn(move || one.wait());
        fetch.finish(|key| if key.file == 1 { Ok((Bytes::from_static(b"x"), Some(5))) } else { Err(Errno::STALE) });
        assert_eq!(waiting.join().unwrap(), Ok(Bytes::from_static(b"x")));
        assert!(matches!(blocks.find(&key(1)), Found::Nowhere), "it turned out to be another version");
        assert!(matches!(blocks.find(&Key { version: Some(5), ..key(1) }), Found::Here(_)));
        assert!(matches!(blocks.find(&key(2)), Found::Nowhere), "what failed is tried again");
        drop(second);
        assert_eq!(three.wait(), Err(Errno::IO));
        assert!(matches!(blocks.find(&key(3)), Found::Nowhere));
    }
}
