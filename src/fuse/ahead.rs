//! What will be read next: files of a tree that is walked, blocks of a file that is read through. Fetched before they are
//! asked for, in few large answers, several of them under way at once.
//!
//! Whoever reads file after file (`tar`, `cp -r`, `grep -r`) reads them in the order in which the directories list them, each directory
//! where it stands in its parent. A [`Walk`] goes ahead of such a reader, further the longer it was right, and lists directories before the
//! reader comes to them. Pure bookkeeping: the fetching is `fs`'s.

use std::collections::{HashMap, VecDeque};
use std::ops::Range;
use std::sync::Arc;

use super::blocks::BLOCK;
use super::inodes;
use super::pages::Page;
use crate::tree::entry::EntryKind;
use crate::tree::look::Seen;

/// How far a walk may be ahead of its reader: at its start, and when it was right for a while.
const WINDOW_BYTES: usize = 128 << 10;
const WINDOW_MAX_BYTES: usize = 8 << 20;
/// One answer on the way brings about so much, of so many files.
const BATCH_BYTES: usize = 1 << 20;
const BATCH_FILES: usize = 256;
/// Readers that are told apart.
const WALKS: usize = 4;
/// Blocks of a file that is read through: at once, at the most.
const STREAM_BLOCKS: u64 = 16;
const STREAMS: usize = 256;

/// Consecutive blocks of one file.
#[derive(Clone, Debug)]
pub struct Run {
    pub seen: Arc<Seen>,
    pub blocks: Range<u64>,
}

/// The place in a walk: behind it everything is still to come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cursor {
    pub dir: u64,
    pub at: usize,
}

/// What a walk meets next.
#[derive(Debug)]
pub enum Step {
    /// Files to be fetched, not many at once.
    Fetch(Vec<Run>),
    /// The directory has to be listed, and given to [`Walks::found`].
    List { dir: Arc<Seen>, up: u64, after: Option<Box<[u8]>> },
    /// The walk is far enough ahead, or at its end.
    Rest,
}

#[derive(Debug, Default)]
struct Walk {
    /// What was fetched and is not read yet.
    queue: VecDeque<(u64, usize)>,
    ahead_bytes: usize,
    window_bytes: usize,
    cursor: Option<Cursor>,
    /// Somebody takes its steps.
    running: bool,
    used: u64,
    /// Another one when it begins anew.
    generation: u64,
}

#[derive(Debug, Default)]
pub struct Walks {
    walks: [Walk; WALKS],
    clock: u64,
}

/// A walk that somebody is to take the steps of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket {
    walk: usize,
    generation: u64,
}

/// The directories as far as they are known.
pub trait Known {
    fn page(&self, dir: u64) -> Option<Arc<Page>>;
}

fn size(seen: &Seen) -> u64 {
    match seen.entry.kind {
        EntryKind::File { size, .. } => size,
        _ => 0,
    }
}

/// Of a small file all, of a large one its first block.
fn head(seen: &Arc<Seen>) -> Option<(Run, usize)> {
    let bytes = usize::try_from(size(seen)).unwrap_or(usize::MAX).min(BLOCK);
    (bytes > 0).then(|| (Run { seen: seen.clone(), blocks: 0..1 }, bytes))
}

impl Walks {
    /// A file's first block was read, and was here. Says whether there is to be more ahead.
    pub fn hit(&mut self, file: u64) -> Option<Ticket> {
        self.clock += 1;
        for (at, walk) in self.walks.iter_mut().enumerate() {
            let Some(place) = walk.queue.iter().position(|(queued, _)| *queued == file) else { continue };
            walk.used = self.clock;
            let read: usize = walk.queue.drain(..=place).map(|(_, bytes)| bytes).sum();
            walk.ahead_bytes -= read;
            if walk.running || walk.cursor.is_none() || walk.ahead_bytes > walk.window_bytes / 2 {
                return None;
            }
            walk.window_bytes = (walk.window_bytes * 2).min(WINDOW_MAX_BYTES);
            walk.running = true;
            return Some(Ticket { walk: at, generation: walk.generation });
        }
        None
    }

    /// A file's first block is not here: the start of a walk, if its directory is known. What is to be fetched with it.
    pub fn miss(&mut self, seen: &Arc<Seen>, page: Option<&Page>) -> Vec<Run> {
        let mut runs: Vec<Run> = head(seen).into_iter().map(|(run, _)| run).collect();
        let Some((page, place)) = page.and_then(|page| Some((page, page.place(inodes::number(seen))?))) else {
            return runs;
        };
        self.clock += 1;
        let Some(walk) = self.walks.iter_mut().min_by_key(|walk| walk.used) else { return runs };
        let generation = walk.generation + 1;
        *walk = Walk { window_bytes: WINDOW_BYTES, used: self.clock, generation, ..Walk::default() };
        let mut at = place + 1;
        // Further files of the same directory cost next to nothing.
        while let Some(next) = page.entries.get(at)
            && !next.entry.is_dir()
            && runs.len() < BATCH_FILES
        {
            if let Some((run, bytes)) = head(next) {
                if walk.ahead_bytes + bytes > WINDOW_BYTES {
                    break;
                }
                walk.queue.push_back((inodes::number(next), bytes));
                walk.ahead_bytes += bytes;
                runs.push(run);
            }
            at += 1;
        }
        walk.cursor = Some(Cursor { dir: page.dir, at });
        // Nothing to be right about: the next file in the walk's order shows whether it is one.
        if walk.queue.is_empty() {
            walk.queue.push_back((inodes::number(seen), 0));
        }
        runs
    }

    /// The next step of a walk. After [`Step::Rest`] the ticket is used up.
    pub fn step(&mut self, ticket: Ticket, known: &impl Known) -> Step {
        let walk = &mut self.walks[ticket.walk];
        if walk.generation != ticket.generation {
            return Step::Rest;
        }
        let mut runs = Vec::new();
        let mut batch_bytes = 0;
        while walk.ahead_bytes < walk.window_bytes
            && batch_bytes < BATCH_BYTES
            && runs.len() < BATCH_FILES
            && let Some(cursor) = walk.cursor
        {
            let Some(page) = known.page(cursor.dir) else {
                walk.cursor = None;
                break;
            };
            let Some(next) = page.entries.get(cursor.at) else {
                if page.more {
                    // Only the directory's own page knows how it is listed on.
                    let dir = known.page(page.up).and_then(|up| Some(up.entries[up.place(page.dir)?].clone()));
                    walk.cursor = dir.as_ref().map(|_| Cursor { dir: cursor.dir, at: 0 });
                    let Some(dir) = dir else { break };
                    if runs.is_empty() {
                        return Step::List { dir, up: page.up, after: page.last_name().map(Into::into) };
                    }
                    walk.cursor = Some(cursor);
                    break;
                }
                let up = (page.up != page.dir).then(|| known.page(page.up)).flatten();
                walk.cursor = up.and_then(|up| Some(Cursor { dir: up.dir, at: up.place(page.dir)? + 1 }));
                continue;
            };
            if next.entry.is_dir() {
                let number = inodes::number(next);
                let listed = known.page(number);
                if listed.is_none() && !runs.is_empty() {
                    // What was found is fetched while the directory is listed.
                    break;
                }
                walk.cursor = Some(Cursor { dir: cursor.dir, at: cursor.at + 1 });
                match listed {
                    Some(child) if child.up == cursor.dir && child.first => {
                        walk.cursor = Some(Cursor { dir: number, at: 0 });
                    }
                    Some(_) => {}
                    None => {
                        walk.cursor = Some(Cursor { dir: number, at: 0 });
                        return Step::List { dir: next.clone(), up: cursor.dir, after: None };
                    }
                }
                continue;
            }
            if let Some((run, bytes)) = head(next) {
                walk.queue.push_back((inodes::number(next), bytes));
                walk.ahead_bytes += bytes;
                batch_bytes += bytes;
                runs.push(run);
            }
            walk.cursor = Some(Cursor { dir: cursor.dir, at: cursor.at + 1 });
        }
        if runs.is_empty() {
            walk.running = false;
            return Step::Rest;
        }
        Step::Fetch(runs)
    }

    /// A walk whose directory could not be listed ends.
    pub fn end(&mut self, ticket: Ticket) {
        let walk = &mut self.walks[ticket.walk];
        if walk.generation == ticket.generation {
            walk.cursor = None;
            walk.running = false;
        }
    }
}

/// How files of several blocks are read.
#[derive(Debug, Default)]
pub struct Streams(HashMap<u64, Stream>);

#[derive(Clone, Copy, Debug, Default)]
struct Stream {
    /// The block behind the one that was read last.
    next: u64,
    /// Up to here it was fetched.
    ahead: u64,
    window: u64,
}

impl Streams {
    /// Block `at` of `count` is not here: what to fetch with it.
    pub fn miss(&mut self, file: u64, at: u64, count: u64) -> Range<u64> {
        let stream = self.of(file);
        let follows = at == stream.next || at + 1 == stream.next;
        stream.window = if follows { (stream.window * 2).clamp(2, STREAM_BLOCKS) } else { 1 };
        let end = (at + stream.window).min(count).max(at + 1);
        stream.next = at + 1;
        stream.ahead = end;
        at..end
    }

    /// Block `at` of `count` was here: what to fetch ahead, if anything.
    pub fn hit(&mut self, file: u64, at: u64, count: u64) -> Option<Range<u64>> {
        let stream = self.of(file);
        let follows = at == stream.next || at + 1 == stream.next;
        stream.next = at + 1;
        if !follows {
            // Here from an earlier reading; nothing is known of what is behind it.
            stream.ahead = at + 1;
            stream.window = 1;
            return None;
        }
        stream.ahead = stream.ahead.max(at + 1);
        let near = stream.ahead - at <= stream.window.div_ceil(2);
        if !near || stream.ahead >= count {
            return None;
        }
        stream.window = (stream.window * 2).clamp(2, STREAM_BLOCKS);
        let start = stream.ahead;
        stream.ahead = (start + stream.window).min(count);
        Some(start..stream.ahead)
    }

    fn of(&mut self, file: u64) -> &mut Stream {
        if self.0.len() >= STREAMS && !self.0.contains_key(&file) {
            self.0.clear();
        }
        self.0.entry(file).or_default()
    }
}
