//! Contents on their way: what is here, what is fetched now, and what is fetched ahead.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use rustix::io::Errno;

use super::{Answer, Fault, Fs, Inner, Wait, fault, lock};
use crate::fuse::ahead::{Run, Step, Ticket};
use crate::fuse::blocks::{BLOCK, Fetch, Found, Key};
use crate::fuse::inodes::{Inode, number};
use crate::tree::look::{Piece, READ_BYTES, READ_SLICES, Seen, Slice};

impl Fs {
    /// A block of a file.
    pub(super) fn block(&self, inode: &Inode, number: u64, at: u64, wait: Wait) -> Answer<Bytes> {
        let fs = &*self.0;
        let key = Key { file: number, version: inode.seen.version, number: at };
        let count = inode.seen.entry.size().div_ceil(BLOCK as u64);
        match fs.blocks.find(&key) {
            Found::Here(data) if at == 0 && lock(&fs.begun).remove(&number) => Ok(data),
            Found::Here(data) => {
                if at == 0
                    && let Some(ticket) = lock(&fs.walks).hit(number)
                {
                    self.walk(ticket);
                }
                if count > 1
                    && let Some(blocks) = lock(&fs.streams).hit(number, at, count)
                {
                    let (this, run) = (self.clone(), Run { seen: inode.seen.clone(), blocks });
                    fs.pool.run(move || this.0.fetch(&[run]));
                }
                Ok(data)
            }
            _ if wait == Wait::Never => Err(Fault::Later),
            Found::Coming(coming) => {
                let data = coming.wait()?;
                if at == 0
                    && let Some(ticket) = lock(&fs.walks).hit(number)
                {
                    self.walk(ticket);
                }
                Ok(data)
            }
            Found::Nowhere => {
                let runs = if at == 0 && count <= 1 {
                    let page = fs.pages.find(inode.dir, fs.may_change(inode.dir));
                    lock(&fs.walks).miss(&inode.seen, page.as_deref())
                } else {
                    let blocks = lock(&fs.streams).miss(number, at, count);
                    vec![Run { seen: inode.seen.clone(), blocks }]
                };
                Ok(fs.fetch_now(&key, runs, &inode.seen)?)
            }
        }
    }

    /// Goes on with a walk on a thread of its own.
    fn walk(&self, ticket: Ticket) {
        let this = self.clone();
        self.0.pool.run(move || {
            let fs = &*this.0;
            loop {
                let step = lock(&fs.walks).step(ticket, fs);
                match step {
                    Step::Fetch(runs) => {
                        let this = this.clone();
                        fs.pool.run(move || this.0.fetch(&runs));
                    }
                    Step::List { dir, up, after } => {
                        if fs.list_of(number(&dir), up, &dir, after.as_deref()).is_err() {
                            return lock(&fs.walks).end(ticket);
                        }
                    }
                    Step::Rest => return,
                }
            }
        });
    }
}

impl Inner {
    /// Fetches runs, and of these the block that is waited for.
    fn fetch_now(&self, key: &Key, runs: Vec<Run>, seen: &Arc<Seen>) -> std::result::Result<Bytes, Errno> {
        let with_it = runs.iter().any(|run| number(&run.seen) == key.file && run.blocks.contains(&key.number));
        let runs = if with_it { runs } else { vec![Run { seen: seen.clone(), blocks: key.number..key.number + 1 }] };
        let fetch = self.blocks.begin(keys(&runs));
        let waiting = match self.blocks.find(key) {
            Found::Here(data) => Ok(data),
            Found::Coming(coming) => Err(coming),
            // Not taken on with the others: a file of another version than the one in the runs.
            Found::Nowhere => return Err(Errno::IO),
        };
        self.fetch_taken(fetch, &runs);
        match waiting {
            Ok(data) => Ok(data),
            Err(coming) => coming.wait(),
        }
    }

    fn fetch(&self, runs: &[Run]) {
        self.fetch_taken(self.blocks.begin(keys(runs)), runs);
    }

    fn fetch_taken(&self, fetch: Fetch, runs: &[Run]) {
        let mut slices: Vec<Slice> = Vec::new();
        let mut wanted: HashMap<u64, (usize, u64)> = HashMap::new();
        for run in runs.iter().filter(|run| keys(std::slice::from_ref(run)).any(|key| fetch.is_wanted(&key))) {
            let offset = run.blocks.start * BLOCK as u64;
            let mut len = (run.blocks.end - run.blocks.start) * BLOCK as u64;
            if run.seen.version.is_none() {
                len = len.min(run.seen.entry.size().saturating_sub(offset));
            } else if run.blocks == (0..1) {
                // A live file may have grown since, but most did not: room for a little more shows it.
                len = len.min(run.seen.entry.size() + 1);
            }
            let len = u32::try_from(len.min(READ_BYTES as u64)).unwrap_or(u32::MAX);
            wanted.insert(number(&run.seen), (slices.len(), run.blocks.start));
            slices.push(Slice { file: run.seen.handle.clone(), offset, len });
        }
        if fetch.is_empty() {
            return;
        }
        let pieces = self.read_all(&slices);
        for (run, piece) in runs.iter().filter_map(|run| {
            let (at, _) = wanted.get(&number(&run.seen))?;
            Some((run, pieces.get(*at)?.as_ref().ok()?))
        }) {
            if piece.version != run.seen.version {
                self.inodes.expire(number(&run.seen));
            }
        }
        fetch.finish(|key| {
            let (at, first) = wanted.get(&key.file).ok_or(Errno::IO)?;
            let piece = pieces.get(*at).ok_or(Errno::IO)?.as_ref().map_err(|errno| *errno)?;
            let start = ((key.number - first) as usize * BLOCK).min(piece.data.len());
            Ok((piece.data.slice(start..(start + BLOCK).min(piece.data.len())), piece.version))
        });
    }

    /// Reads slices within what one answer may bring.
    fn read_all(&self, slices: &[Slice]) -> Vec<std::result::Result<Piece, Errno>> {
        let mut pieces = Vec::with_capacity(slices.len());
        let mut rest = slices;
        while !rest.is_empty() {
            let mut bytes = 0;
            let fits = |slice: &&Slice| {
                bytes += slice.len as usize;
                bytes <= READ_BYTES
            };
            let count = rest.iter().take_while(fits).count().clamp(1, READ_SLICES);
            let (now, after) = rest.split_at(count);
            pieces.extend(
                self.look.read(now).into_iter().map(|piece| piece.map_err(|error| fault(&error, Errno::STALE))),
            );
            rest = after;
        }
        pieces
    }
}

fn keys(runs: &[Run]) -> impl Iterator<Item = Key> {
    runs.iter().flat_map(|run| {
        let (file, version) = (number(&run.seen), run.seen.version);
        run.blocks.clone().map(move |number| Key { file, version, number })
    })
}
