//! A tree into the store: the target's end of a link whose content goes into packs.
//!
//! Lists are asked for from the root down, but not below a list that the store has; contents that it lacks are fetched.
//! A directory is done when all in it is, so lists are made from the leaves up, and what the source says at the end of
//! the whole tree has to be what came out here.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;

use super::holes::{self, Holes, Map};
use super::pack::PackKind;
use super::writer::{Group, Writer};
use crate::model::sync::{Event, LeftOut};
use crate::model::{Error, Kind, Name, Result};
use crate::tree::chunk::{MAX, all_chunks};
use crate::tree::entry::{Entry, EntryKind};
use crate::tree::link::{
    Ask, ChunkNode, ChunkRef, FileItem, FileState, Holes as FileHoles, ListingNode, NeedRange, Open, SentRange,
    TargetEnd, Tell,
};
use crate::tree::node::{ListBuilder, ListKind, content_name, decode_entries, root_name};
use crate::tree::scan::threads;

/// Listings awaited at a time, and files: each answer waits in memory at most as long as it is not taken.
const LISTS_AHEAD: usize = 32;
const FILES_AHEAD: usize = 8192;

/// A tree that was taken.
#[derive(Clone, Debug)]
pub struct Saved {
    /// The root directory, without a name.
    pub root: Entry,
    pub entries: u64,
    pub bytes: u64,
    /// Content read at the source; unknown, and 0, when nothing had to be asked for.
    pub bytes_read: u64,
    pub left_out: Vec<LeftOut>,
    pub holes: Holes,
}

/// Takes the tree at the other end of `link`.
///
/// `hear` hears events; `cancel` ends it. Nothing that came is in the store for good before the writer is done.
pub fn save(
    writer: &Writer<'_>,
    link: TargetEnd,
    open: Open,
    hear: &(dyn Fn(Event) + Sync),
    cancel: &AtomicBool,
) -> Result<Saved> {
    let (jobs, work) = crossbeam_channel::bounded::<Job>(threads() * 2);
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads())
            .map(|_| {
                let work = work.clone();
                scope.spawn(move || store_all(writer, &work))
            })
            .collect();
        drop(work);
        let take = Take {
            writer,
            nodes: Group::new(writer, PackKind::Nodes)?,
            link,
            hear,
            cancel,
            jobs,
            dirs: HashMap::new(),
            todo: Vec::new(),
            bigs: HashMap::new(),
            deltas: HashMap::new(),
            lists_awaited: 0,
            files_awaited: 0,
            left_out: Vec::new(),
            root: None,
            totals: (0, 0),
            done: (0, 0),
            told: 0,
        };
        let taken = take.all(open);
        let stored = workers.into_iter().try_for_each(|worker| {
            worker.join().unwrap_or_else(|_| Err(Error::failed("a thread that writes to the store broke")))
        });
        // What stopped the workers explains more than that they stopped.
        stored.and(taken)
    })
}

/// Content to be stored: pieces of some bytes with their names.
struct Job(Vec<ChunkRef>, Bytes);

fn store_all(writer: &Writer<'_>, work: &crossbeam_channel::Receiver<Job>) -> Result<()> {
    let mut group = Group::new(writer, PackKind::Chunks)?;
    let mut store = || -> Result<()> {
        for Job(chunks, data) in work {
            let mut rest = &data[..];
            for chunk in chunks {
                let (bytes, after) =
                    rest.split_at_checked(chunk.len as usize).ok_or_else(|| nonsense("half a file"))?;
                rest = after;
                group.put(chunk.name, bytes)?;
            }
        }
        group.flush()
    };
    let done = store();
    // Whoever hands out jobs must not wait for a worker that has stopped.
    for _ in work {}
    done
}

/// A directory whose listing is known and of which something is not done.
struct OpenDir {
    /// The directory it is in, and its place there; `None` is the root.
    above: Option<(u32, u32)>,
    entries: Vec<Entry>,
    dropped: HashSet<u32>,
    /// Entries that are not done.
    waiting: usize,
}

/// A directory whose listing is to be asked for, or was.
struct Wanted {
    dir: u32,
    above: Option<(u32, u32)>,
    nodes: Vec<ListingNode>,
}

/// A file that comes in parts.
#[derive(Default)]
struct Big {
    chunks: Vec<ChunkRef>,
}

/// A file of which only some chunks are lacking.
#[derive(Default)]
struct Delta {
    chunks: Vec<ChunkRef>,
    /// The ranges that were asked for and are yet to come.
    needed: VecDeque<ChunkRef>,
    item: Option<FileItem>,
    /// Something came that is not what it should be: it is fetched whole.
    spoilt: bool,
}

struct Take<'a, 's> {
    writer: &'a Writer<'s>,
    nodes: Group<'a, 's>,
    link: TargetEnd,
    hear: &'a (dyn Fn(Event) + Sync),
    cancel: &'a AtomicBool,
    jobs: crossbeam_channel::Sender<Job>,
    dirs: HashMap<u32, OpenDir>,
    /// The next one last, so that a tree is gone through branch by branch and few directories are open at once.
    todo: Vec<Wanted>,
    bigs: HashMap<(u32, u32), Big>,
    deltas: HashMap<(u32, u32), Delta>,
    lists_awaited: usize,
    files_awaited: usize,
    left_out: Vec<LeftOut>,
    root: Option<Name>,
    totals: (u64, u64),
    done: (u64, u64),
    told: u64,
}

impl Take<'_, '_> {
    fn all(mut self, open: Open) -> Result<Saved> {
        let fresh = open.fresh;
        self.ask(Ask::Open(open))?;
        let Tell::Opened { .. } = self.next()? else { return Err(nonsense("no answer to the opening")) };
        self.ask(Ask::Scan)?;
        let Tell::Scanned { top, entries, bytes } = self.next()? else {
            return Err(nonsense("something else than its scan"));
        };
        let mut rest = &top[..];
        let top = Entry::decode(&mut rest).filter(|top| top.is_dir() && top.name.is_empty() && rest.is_empty());
        let mut top = top.ok_or_else(|| nonsense("a root that cannot be read"))?;
        self.totals = (entries, bytes);
        let content = top.content().unwrap_or(Name::UNKNOWN);
        let is_here = content.is_known() && self.writer.has(&content)?;
        match is_here {
            true => self.root = Some(content),
            false => self.todo.push(Wanted { dir: 0, above: None, nodes: Vec::new() }),
        }
        let mut asked: HashMap<u32, Wanted> = HashMap::new();
        loop {
            while self.lists_awaited < LISTS_AHEAD
                && self.files_awaited < FILES_AHEAD
                && let Some(wanted) = self.todo.pop()
            {
                self.ask(Ask::List { dir: wanted.dir, have: Vec::new() })?;
                self.lists_awaited += 1;
                if asked.insert(wanted.dir, wanted).is_some() {
                    return Err(nonsense("one folder in two places"));
                }
            }
            if self.lists_awaited == 0 && self.files_awaited == 0 {
                break;
            }
            match self.next()? {
                Tell::Listing { dir, first_child, nodes, more } => {
                    let wanted = asked.get_mut(&dir).ok_or_else(|| nonsense("a listing that was not asked for"))?;
                    wanted.nodes.extend(nodes);
                    if !more && let Some(wanted) = asked.remove(&dir) {
                        self.lists_awaited -= 1;
                        self.listing(wanted, first_child)?;
                    }
                }
                tell => self.content(tell)?,
            }
        }
        let Some(content) = self.root else { return Err(nonsense("a tree without an end")) };
        top.set_content(content);
        self.ask(Ask::Finish)?;
        let mut maps: Option<Vec<(Vec<u8>, Map)>> = None;
        let (root, entries, bytes, bytes_read) = loop {
            match self.next()? {
                Tell::Holes(files) => {
                    let maps = maps.get_or_insert_default();
                    for file in files {
                        let map = self.map(&file)?;
                        maps.push((file.path, map));
                    }
                }
                Tell::Root { root, entries, bytes, bytes_read } => break (root, entries, bytes, bytes_read),
                _ => return Err(nonsense("no root name at the end")),
            }
        };
        let holes = maps.map_or(Ok(Holes::Unknown), |maps| self.holes(maps))?;
        self.nodes.flush()?;
        if root != root_name(&top) {
            let hint = if fresh { "try again" } else { "try again; if it happens again, try with --checksum" };
            return Err(
                Error::new(Kind::Corrupt, "what was received does not add up to what the source has").hint(hint)
            );
        }
        let bytes_read = if is_here { 0 } else { bytes_read };
        Ok(Saved { root: top, entries, bytes, bytes_read, left_out: self.left_out, holes })
    }

    fn ask(&self, ask: Ask) -> Result<()> {
        self.link.ask.send(ask).map_err(|_| gone())
    }

    /// The next answer.
    fn next(&mut self) -> Result<Tell> {
        loop {
            let told = self.link.tell.blocking_recv().ok_or_else(gone)?;
            if self.cancel.load(Ordering::Relaxed) {
                return Err(Error::new(Kind::Cancelled, "stopped; no snapshot was taken")
                    .hint("what was read of it is kept for the next one"));
            }
            match told {
                Tell::Scanning { files, bytes_read } => (self.hear)(Event::Scanning { files, bytes_read }),
                Tell::LeftOut(left_out) => self.left_out.push(left_out),
                Tell::Note(note) => (self.hear)(Event::Note(note)),
                Tell::Failed(error) => return Err(error),
                answer => return Ok(answer),
            }
        }
    }

    /// A whole listing: asks for what the store lacks of it.
    fn listing(&mut self, wanted: Wanted, first_child: u32) -> Result<()> {
        let mut entries: Vec<Entry> = Vec::new();
        for node in wanted.nodes {
            let part = match &node {
                ListingNode::Raw(bytes) => decode_entries(bytes),
                ListingNode::Have(_) => None,
            };
            let part = part.ok_or_else(|| nonsense("a listing that cannot be read"))?;
            if entries.last().zip(part.first()).is_some_and(|(last, first)| last.name >= first.name) {
                return Err(nonsense("a listing out of order"));
            }
            entries.extend(part);
        }
        let dir = wanted.dir;
        let (mut fetch, mut waiting, mut child) = (Vec::new(), 0, first_child);
        for (at, entry) in (0u32..).zip(&entries) {
            match entry.kind {
                EntryKind::Dir { content } => {
                    if !content.is_known() || !self.writer.has(&content)? {
                        if child <= dir {
                            return Err(nonsense("folders under numbers that cannot be theirs"));
                        }
                        waiting += 1;
                        self.todo.push(Wanted { dir: child, above: Some((dir, at)), nodes: Vec::new() });
                    }
                    child += 1;
                }
                EntryKind::File { size, content } if size > 0 || !content.is_known() => {
                    if content.is_known() && self.writer.has(&content)? {
                        continue;
                    }
                    waiting += 1;
                    if content.is_known() && size > MAX as u64 {
                        self.ask(Ask::Chunks { dir, entry: at, have: Vec::new() })?;
                        self.files_awaited += 1;
                        self.deltas.insert((dir, at), Delta::default());
                    } else {
                        fetch.push(at);
                    }
                }
                _ => {}
            }
        }
        self.files_awaited += fetch.len();
        if !fetch.is_empty() {
            self.ask(Ask::Fetch { dir, entries: fetch })?;
        }
        self.dirs.insert(dir, OpenDir { above: wanted.above, entries, dropped: HashSet::new(), waiting });
        self.finish(dir)
    }

    /// Whatever is done in a directory that has nothing left to wait for, and in those above it.
    fn finish(&mut self, dir: u32) -> Result<()> {
        let mut at = dir;
        while self.dirs.get(&at).is_some_and(|open| open.waiting == 0)
            && let Some(open) = self.dirs.remove(&at)
        {
            let list = self.list(&open)?;
            match open.above {
                None => {
                    self.root = Some(list);
                    return Ok(());
                }
                Some((above, entry)) => {
                    let parent = self.dirs.get_mut(&above).ok_or_else(|| nonsense("a folder in none"))?;
                    parent.entries[entry as usize].set_content(list);
                    parent.waiting -= 1;
                    at = above;
                }
            }
        }
        Ok(())
    }

    /// Stores the list of a directory.
    fn list(&mut self, open: &OpenDir) -> Result<Name> {
        let nodes = std::cell::RefCell::new(Vec::new());
        let keep = |name: Name, bytes: Vec<u8>| nodes.borrow_mut().push((name, bytes));
        let mut list = ListBuilder::whole(ListKind::Entries, keep, keep);
        for (at, entry) in (0u32..).zip(&open.entries) {
            if !open.dropped.contains(&at) {
                list.push_entry(entry);
            }
        }
        let name = list.finish();
        self.put_nodes(nodes.into_inner())?;
        Ok(name)
    }

    /// Stores where a file has holes.
    fn map(&mut self, file: &FileHoles) -> Result<Map> {
        if !holes::are_apart(&file.holes) || !holes::is_path(&file.path) {
            return Err(nonsense("holes that cannot be"));
        }
        let bytes = holes::encode(&file.holes);
        let chunks = all_chunks(&bytes);
        let map = Map { len: bytes.len() as u64, content: content_name(&chunks) };
        self.chunk_list(&chunks)?;
        self.store(chunks, bytes.into())?;
        Ok(map)
    }

    fn holes(&mut self, maps: Vec<(Vec<u8>, Map)>) -> Result<Holes> {
        let mut nodes = Vec::new();
        let holes = holes::tree(maps, |name, bytes| nodes.push((name, bytes)));
        self.put_nodes(nodes)?;
        Ok(holes)
    }

    fn put_nodes(&mut self, nodes: Vec<(Name, Vec<u8>)>) -> Result<()> {
        nodes.iter().try_for_each(|(name, bytes)| self.nodes.put(*name, bytes))
    }

    fn content(&mut self, tell: Tell) -> Result<()> {
        match tell {
            Tell::Files { items, data } => {
                let whole = |item: &FileItem| ChunkRef { name: item.content, len: item.len as u32 };
                let chunks = items.iter().map(whole).collect();
                self.store(chunks, data)?;
                items.into_iter().try_for_each(|item| self.file(item))
            }
            Tell::Part { dir, entry, chunks, data, .. } => {
                self.bigs.entry((dir, entry)).or_default().chunks.extend(&chunks);
                self.store(chunks, data)
            }
            Tell::Restart { dir, entry } => {
                self.bigs.remove(&(dir, entry));
                Ok(())
            }
            Tell::FileEnd(item) => {
                let big = self.bigs.remove(&(item.dir, item.entry)).unwrap_or_default();
                if matches!(item.state, FileState::Ok | FileState::Unstable) {
                    if content_name(&big.chunks) != item.content {
                        return Err(nonsense("a file that is not what its name says"));
                    }
                    self.chunk_list(&big.chunks)?;
                }
                self.file(item)
            }
            Tell::Chunks { dir, entry, nodes } => {
                let delta = self.deltas.get_mut(&(dir, entry)).ok_or_else(|| nonsense("chunks not asked for"))?;
                for node in nodes {
                    let ChunkNode::Raw(chunks) = node else { return Err(nonsense("a node nobody has")) };
                    delta.chunks.extend(chunks);
                }
                Ok(())
            }
            Tell::ChunksEnd(item) => self.need(item),
            Tell::Ranges { dir, entry, ranges, data, .. } => self.ranges((dir, entry), ranges, &data),
            _ => Err(nonsense("an answer that nothing was asked for")),
        }
    }

    fn store(&self, chunks: Vec<ChunkRef>, data: Bytes) -> Result<()> {
        if data.is_empty() {
            return Ok(());
        }
        self.jobs.send(Job(chunks, data)).map_err(|_| Error::failed("the store's workers have stopped"))?;
        self.writer.check()
    }

    fn chunk_list(&mut self, chunks: &[ChunkRef]) -> Result<()> {
        if chunks.len() < 2 {
            return Ok(());
        }
        let nodes = std::cell::RefCell::new(Vec::new());
        let keep = |name: Name, bytes: Vec<u8>| nodes.borrow_mut().push((name, bytes));
        let mut list = ListBuilder::whole(ListKind::Chunks, keep, keep);
        chunks.iter().for_each(|chunk| list.push_chunk(*chunk));
        list.finish();
        self.put_nodes(nodes.into_inner())
    }

    /// Asks for those chunks of a file that the store lacks.
    fn need(&mut self, item: FileItem) -> Result<()> {
        let key = (item.dir, item.entry);
        let mut delta = self.deltas.remove(&key).ok_or_else(|| nonsense("chunks not asked for"))?;
        if content_name(&delta.chunks) != item.content {
            return Err(nonsense("a chunk list that is not what its name says"));
        }
        let (mut ranges, mut offset) = (Vec::new(), 0);
        let mut seen = HashSet::new();
        for chunk in &delta.chunks {
            if !self.writer.has(&chunk.name)? && seen.insert(chunk.name) {
                ranges.push(NeedRange { offset, len: chunk.len, blocks: Vec::new() });
                delta.needed.push_back(*chunk);
            }
            offset += u64::from(chunk.len);
        }
        delta.item = Some(item);
        if ranges.is_empty() {
            return self.delta_done(key, delta);
        }
        self.ask(Ask::Need { dir: key.0, entry: key.1, ranges })?;
        self.deltas.insert(key, delta);
        Ok(())
    }

    fn ranges(&mut self, key: (u32, u32), ranges: Vec<SentRange>, data: &Bytes) -> Result<()> {
        let mut delta = self.deltas.remove(&key).ok_or_else(|| nonsense("ranges not asked for"))?;
        let mut at = 0;
        for range in ranges {
            let chunk = delta.needed.pop_front().ok_or_else(|| nonsense("ranges not asked for"))?;
            let bytes = match range {
                SentRange::Whole if data.len() >= at + chunk.len as usize => data.slice(at..at + chunk.len as usize),
                SentRange::Lost => {
                    delta.spoilt = true;
                    continue;
                }
                _ => return Err(nonsense("less of a range than was asked for")),
            };
            at += chunk.len as usize;
            // The file may have changed since it was scanned.
            if Name::of(&bytes) == chunk.name {
                self.store(vec![chunk], bytes)?;
            } else {
                delta.spoilt = true;
            }
        }
        if delta.needed.is_empty() {
            return self.delta_done(key, delta);
        }
        self.deltas.insert(key, delta);
        Ok(())
    }

    fn delta_done(&mut self, (dir, entry): (u32, u32), delta: Delta) -> Result<()> {
        let Some(item) = delta.item else { return Err(nonsense("a chunk list without an end")) };
        if delta.spoilt {
            return self.ask(Ask::Fetch { dir, entries: vec![entry] });
        }
        self.chunk_list(&delta.chunks)?;
        self.file(item)
    }

    /// A file is done.
    fn file(&mut self, item: FileItem) -> Result<()> {
        let open = self.dirs.get_mut(&item.dir).ok_or_else(|| nonsense("a file of a folder that was not asked for"))?;
        let entry = open.entries.get_mut(item.entry as usize);
        let entry = entry.ok_or_else(|| nonsense("a file that was not asked for"))?;
        self.done.0 += 1;
        self.done.1 += item.len;
        let name = entry.name.clone();
        match item.state {
            FileState::Gone | FileState::Unreadable => drop(open.dropped.insert(item.entry)),
            FileState::Ok | FileState::Unstable => {
                if let Some(now) = &item.now {
                    let mut rest = &now[..];
                    let now = Entry::decode(&mut rest).filter(|now| rest.is_empty() && now.name == name);
                    *entry = now.ok_or_else(|| nonsense("an entry that cannot be read"))?;
                }
                entry.set_content(item.content);
            }
        }
        open.waiting = open.waiting.checked_sub(1).ok_or_else(|| nonsense("a file twice"))?;
        self.files_awaited = self.files_awaited.checked_sub(1).ok_or_else(|| nonsense("a file twice"))?;
        if item.state == FileState::Unstable {
            let path = self.path_of(item.dir, &name);
            self.left_out.push(LeftOut { path, reason: "it changed while it was read".to_owned() });
        }
        if self.done.1 >= self.told + (8 << 20) || self.done.0.is_multiple_of(2048) {
            self.told = self.done.1;
            let ((files_total, bytes_total), (files_done, bytes_done)) = (self.totals, self.done);
            let files_total = files_total.max(files_done);
            let bytes_total = bytes_total.max(bytes_done);
            (self.hear)(Event::Moving { files_done, files_total, bytes_done, bytes_total });
        }
        self.finish(item.dir)
    }

    fn path_of(&self, dir: u32, name: &[u8]) -> Vec<u8> {
        let mut names = vec![name];
        let mut at = self.dirs.get(&dir);
        while let Some((above, entry)) = at.and_then(|open| open.above)
            && let Some(open) = self.dirs.get(&above)
        {
            names.push(&open.entries[entry as usize].name);
            at = Some(open);
        }
        names.reverse();
        names.join(&b'/')
    }
}

fn gone() -> Error {
    Error::new(Kind::Unreachable, "the source went away in the middle of the snapshot")
        .hint("try again: what has been received is kept")
}

fn nonsense(what: &str) -> Error {
    Error::new(Kind::Corrupt, format!("the source sent {what}")).hint("try again; if it happens again, report it")
}
