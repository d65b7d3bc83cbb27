//! A kept tree as a source: answers at the link what a live directory would.
//!
//! Of a file that had holes the blocks of zeros become holes again; so they do where it is not known whether it had any.

mod rules;

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, RwLock};

use tokio::sync::mpsc;

use rules::{read_all, rules};

use super::holes::{self, Holes};
use super::snapshot::Volume;
use super::{Store, lock, read_lock, write_lock};
use crate::model::name::Short;
use crate::model::sync::LeftOut;
use crate::model::{Error, Kind, Name, Result, shown};
use crate::tree::chunk::MAX;
use crate::tree::entry::{Entry, EntryKind, Meta};
use crate::tree::filter::{Filter, Stand};
use crate::tree::link::{
    Ask, ChunkNode, FileItem, FileState, ListingNode, NeedRange, Open, SentRange, SourceEnd, Tell,
};
use crate::tree::node::{ListBuilder, ListKind, decode_chunks, root_name};
use crate::tree::scan::threads;
use crate::tree::view::join;

/// Content in one tell, about.
const BATCH_BYTES: usize = 1 << 20;
const BATCH_FILES: usize = 256;

/// Serves a volume of a snapshot until the target hangs up. What stops it is told to the target, too.
pub fn serve(store: &Store, volume: &Volume, label: &str, mut link: SourceEnd) -> Result<()> {
    let Some(Ask::Open(open)) = link.next_ask() else { return Ok(()) };
    match serve_opened(store, volume, label, &open, &mut link) {
        Err(Stop::Failed(error)) => {
            let told = Error { kind: error.kind, message: error.chain(), hint: error.hint.clone(), cause: None };
            let _ = link.tell.blocking_send(Tell::Failed(told));
            Err(error)
        }
        Ok(()) | Err(Stop::HungUp) => Ok(()),
    }
}

enum Stop {
    HungUp,
    Failed(Error),
}

impl From<Error> for Stop {
    fn from(error: Error) -> Stop {
        Stop::Failed(error)
    }
}

/// A directory under its number.
#[derive(Clone)]
struct Row {
    path: Box<[u8]>,
    /// The list that is kept, and the name of the one that is shown: another one where something is left out.
    kept: Name,
    shown: Name,
    /// The list of the same directory in the tree of holes.
    holes: Option<Name>,
    first_child: Option<u32>,
}

struct Kept<'a> {
    store: &'a Store,
    holes: Holes,
    filter: Filter,
    /// Without what the caller left out.
    own_rules: Filter,
    /// Something may be left out: lists are made anew.
    partial: bool,
    dirs: RwLock<Vec<Row>>,
    tell: mpsc::Sender<Tell>,
    bytes_read: AtomicU64,
    bytes_per_second: u64,
    started: std::time::Instant,
    over: AtomicBool,
    failure: Mutex<Option<Error>>,
}

enum Job {
    Files { dir: u32, files: Vec<(u32, Entry, bool)> },
    Big { dir: u32, at: u32, entry: Entry, sparse: bool },
    Need { dir: u32, at: u32, ranges: Vec<NeedRange> },
}

fn serve_opened(store: &Store, volume: &Volume, label: &str, open: &Open, link: &mut SourceEnd) -> Result<(), Stop> {
    let _pin = store.pin(volume.lists().collect());
    let rules = rules(store, volume, label, open.fresh)?;
    let filter = Filter::new(&open.path, &rules, &open.exclude)?;
    let own_rules = Filter::new(&open.path, &rules, &[])?;
    tell(&link.tell, Tell::Opened { rules, local: None })?;
    match link.next_ask() {
        Some(Ask::Scan) => {}
        Some(_) => return Err(Error::failed("the target asked before the scan").into()),
        None => return Err(Stop::HungUp),
    }
    // The rules of the tree may leave out of it, too: it was taken while they changed, or by a version that read them
    // differently. The target goes by them.
    let partial = !filter.is_whole_tree() || filter.has_rules();
    let content = volume.content();
    let implied = !filter.is_whole_tree();
    let holes = volume.holes.list();
    let row = Row { path: Box::default(), kept: content, shown: content, holes, first_child: None };
    let kept = Kept {
        store,
        holes: volume.holes,
        filter,
        own_rules,
        partial,
        dirs: RwLock::new(vec![row]),
        tell: link.tell.clone(),
        bytes_read: AtomicU64::new(0),
        bytes_per_second: open.bytes_per_second,
        started: std::time::Instant::now(),
        over: AtomicBool::new(false),
        failure: Mutex::default(),
    };
    let (mut entries, mut bytes) = (volume.entries, volume.bytes);
    if partial {
        let left_out;
        (entries, bytes, left_out) = kept.number_all()?;
        let scope = crate::tree::filter::clean_scope(&open.path)?;
        if !scope.is_empty() && entries <= scope.iter().filter(|byte| **byte == b'/').count() as u64 {
            return Err(Error::new(Kind::NotFound, format!("there is no `{}` in {label}", shown::path(&scope)))
                .hint("--path names a file or folder inside the snapshot")
                .into());
        }
        for left_out in left_out {
            tell(&link.tell, Tell::LeftOut(left_out))?;
        }
    }
    let mut root = volume.root.clone();
    root.set_content(read_lock(&kept.dirs)[0].shown);
    if implied {
        root.meta = Meta::default();
    }
    let mut top = Vec::new();
    root.encode(&mut top);
    tell(&link.tell, Tell::Scanned { top: top.into(), entries, bytes })?;
    kept.answer(link)?;
    let bytes_read = kept.bytes_read.load(Ordering::Relaxed);
    tell(&kept.tell, Tell::Root { root: root_name(&root), entries, bytes, bytes_read })
}

impl Kept<'_> {
    /// What a directory shows: the entries in the view.
    fn shown(&self, path: &[u8], kept: &Name) -> Result<Vec<Entry>> {
        let mut shown = Vec::new();
        for mut entry in self.store.entries(kept)? {
            if !self.partial {
                shown.push(entry);
                continue;
            }
            match self.filter.stand(&join(path, &entry.name), entry.is_dir()) {
                Stand::In => shown.push(entry),
                Stand::Above if entry.is_dir() => {
                    entry.meta = Meta::default();
                    shown.push(entry);
                }
                Stand::Above | Stand::Outside | Stand::Protected => {}
            }
        }
        Ok(shown)
    }

    /// What of a directory is kept, and left out by the rules that are kept with it.
    fn left_out(&self, path: &[u8], kept: &Name) -> Result<Vec<LeftOut>> {
        let mut left_out = Vec::new();
        for entry in self.store.entries(kept)? {
            let (path, is_dir) = (join(path, &entry.name), entry.is_dir());
            let protected = |filter: &Filter| filter.stand(&path, is_dir) == Stand::Protected;
            if protected(&self.own_rules) && protected(&self.filter) {
                let reason = "the snapshot has it, and its .mcignore leaves it out: mount the snapshot to get at it";
                left_out.push(LeftOut { path, reason: reason.to_owned() });
            }
        }
        Ok(left_out)
    }

    /// Numbers all directories of a view from which something may be left out, and names their lists. Returns the
    /// entries and bytes in it, and what its own rules leave out.
    fn number_all(&self) -> Result<(u64, u64, Vec<LeftOut>)> {
        let mut dirs = write_lock(&self.dirs);
        let (mut entries, mut bytes, mut at) = (0, 0, 0);
        let mut left_out = Vec::new();
        let mut parents: Vec<usize> = vec![0];
        while at < dirs.len() {
            let (path, kept) = (dirs[at].path.clone(), dirs[at].kept);
            dirs[at].first_child = Some(dirs.len() as u32);
            if self.own_rules.has_rules() {
                left_out.append(&mut self.left_out(&path, &kept)?);
            }
            let beside = self.beside(dirs[at].holes)?;
            for entry in self.shown(&path, &kept)? {
                entries += 1;
                bytes += entry.size();
                if let EntryKind::Dir { content } = entry.kind {
                    let path = join(&path, &entry.name).into();
                    let holes = holes::below(&beside, &entry.name).0;
                    dirs.push(Row { path, kept: content, shown: Name::UNKNOWN, holes, first_child: None });
                    parents.push(at);
                }
            }
            at += 1;
        }
        for at in (0..dirs.len()).rev() {
            let row = dirs[at].clone();
            let mut child = row.first_child.unwrap_or_default() as usize;
            let mut list = ListBuilder::new(ListKind::Entries, |_, _| ());
            for mut entry in self.shown(&row.path, &row.kept)? {
                if entry.is_dir() {
                    entry.set_content(dirs[child].shown);
                    child += 1;
                }
                list.push_entry(&entry);
            }
            dirs[at].shown = list.finish();
        }
        Ok((entries, bytes, left_out))
    }

    fn answer(&self, link: &mut SourceEnd) -> Result<(), Stop> {
        let (jobs, work) = crossbeam_channel::bounded::<Job>(threads() * 2);
        std::thread::scope(|scope| {
            let readers: Vec<_> = (0..threads())
                .map(|_| {
                    let work = work.clone();
                    scope.spawn(move || self.read_jobs(&work))
                })
                .collect();
            drop(work);
            let mut outcome = Ok(());
            while let Some(ask) = link.next_ask() {
                if matches!(ask, Ask::Finish) {
                    break;
                }
                outcome = self.one_ask(ask, &jobs);
                if outcome.is_err() || self.over.load(Ordering::Relaxed) {
                    break;
                }
            }
            drop(jobs);
            for reader in readers {
                let _ = reader.join();
            }
            if let Some(error) = lock(&self.failure).take() {
                return Err(Stop::Failed(error));
            }
            outcome?;
            if self.over.load(Ordering::Relaxed) || link.tell.is_closed() { Err(Stop::HungUp) } else { Ok(()) }
        })
    }

    fn one_ask(&self, ask: Ask, jobs: &crossbeam_channel::Sender<Job>) -> Result<(), Stop> {
        let send = |job| jobs.send(job).map_err(|_| Stop::HungUp);
        match ask {
            Ask::List { dir, have } => self.list(dir, &have.into_iter().collect()),
            Ask::Fetch { dir, entries } => {
                let (all, sparse) = (self.files_of(dir)?, self.sparse(dir)?);
                let (mut files, mut bytes) = (Vec::new(), 0);
                for at in entries {
                    let entry = file_at(&all, at)?;
                    let sparse = sparse.has(&entry.name);
                    if entry.size() > MAX as u64 {
                        send(Job::Big { dir, at, entry, sparse })?;
                        continue;
                    }
                    bytes += entry.size() as usize;
                    files.push((at, entry, sparse));
                    if bytes >= BATCH_BYTES || files.len() >= BATCH_FILES {
                        send(Job::Files { dir, files: std::mem::take(&mut files) })?;
                        bytes = 0;
                    }
                }
                if files.is_empty() { Ok(()) } else { send(Job::Files { dir, files }) }
            }
            Ask::Chunks { dir, entry, have } => self.chunk_list(dir, entry, &have.into_iter().collect()),
            Ask::Need { dir, entry, ranges } => send(Job::Need { dir, at: entry, ranges }),
            Ask::Open(_) | Ask::Scan | Ask::Finish => Err(Error::failed("the target asked out of turn").into()),
        }
    }

    fn row(&self, dir: u32) -> Result<Row> {
        let dirs = read_lock(&self.dirs);
        let row = dirs.get(dir as usize).cloned();
        row.ok_or_else(|| Error::failed("the target asked for a directory that is not there"))
    }

    /// A directory of the tree of holes; empty where there is none.
    fn beside(&self, list: Option<Name>) -> Result<Vec<Entry>> {
        let entries = list.map_or(Ok(None), |list| holes::or_lost(self.store.entries(&list)));
        Ok(entries?.unwrap_or_default())
    }

    /// Which files of a directory had holes.
    fn sparse(&self, dir: u32) -> Result<Sparse> {
        Ok(match self.holes {
            Holes::Unknown => Sparse::Perhaps,
            _ => Sparse::These(self.beside(self.row(dir)?.holes)?),
        })
    }

    fn files_of(&self, dir: u32) -> Result<Vec<Entry>> {
        let row = self.row(dir)?;
        self.shown(&row.path, &row.kept)
    }

    fn list(&self, dir: u32, have: &HashSet<Short>) -> Result<(), Stop> {
        let row = self.row(dir)?;
        let shown = self.shown(&row.path, &row.kept)?;
        let first_child = match row.first_child {
            Some(first) => first,
            None => {
                let mut dirs = write_lock(&self.dirs);
                let first = dirs.len() as u32;
                dirs[dir as usize].first_child = Some(first);
                let beside = self.beside(row.holes)?;
                for entry in &shown {
                    if let EntryKind::Dir { content } = entry.kind {
                        let path = join(&row.path, &entry.name).into();
                        let holes = holes::below(&beside, &entry.name).0;
                        dirs.push(Row { path, kept: content, shown: content, holes, first_child: None });
                    }
                }
                first
            }
        };
        let mut child = first_child as usize;
        let mut nodes = Vec::new();
        let mut list = ListBuilder::new(ListKind::Entries, |name: Name, bytes: Vec<u8>| {
            nodes.push(match have.contains(&name.short()) {
                true => ListingNode::Have(name.short()),
                false => ListingNode::Raw(bytes.into()),
            });
        });
        for mut entry in shown {
            if entry.is_dir() {
                entry.set_content(read_lock(&self.dirs)[child].shown);
                child += 1;
            }
            list.push_entry(&entry);
        }
        if list.finish() != row.shown {
            return Err(Error::new(Kind::Corrupt, "a folder in the store is not what its name says").into());
        }
        let mut nodes = nodes.into_iter().peekable();
        loop {
            let (mut part, mut size) = (Vec::new(), 0);
            while let Some(node) = nodes.next_if(|_| size < BATCH_BYTES) {
                size += if let ListingNode::Raw(bytes) = &node { bytes.len() } else { 16 };
                part.push(node);
            }
            let more = nodes.peek().is_some();
            tell(&self.tell, Tell::Listing { dir, first_child, nodes: part, more })?;
            if !more {
                return Ok(());
            }
        }
    }

    fn chunk_list(&self, dir: u32, at: u32, have: &HashSet<Short>) -> Result<(), Stop> {
        let entry = file_at(&self.files_of(dir)?, at)?;
        let (size, content) = (entry.size(), entry.content().unwrap_or(Name::UNKNOWN));
        let mut nodes = Vec::new();
        if size > MAX as u64 {
            self.store.each_leaf(&content, ListKind::Chunks, |name, bytes| {
                nodes.push(match have.contains(&name.short()) {
                    true => ChunkNode::Have(name.short()),
                    false => ChunkNode::Raw(
                        decode_chunks(&bytes)
                            .ok_or_else(|| Error::new(Kind::Corrupt, "a chunk list in the store makes no sense"))?,
                    ),
                });
                Ok(())
            })?;
        } else if size > 0 {
            nodes.push(ChunkNode::Raw(self.store.chunks(&content, size)?));
        }
        for part in nodes.chunks(64) {
            tell(&self.tell, Tell::Chunks { dir, entry: at, nodes: part.to_vec() })?;
        }
        let sparse = self.sparse(dir)?.has(&entry.name);
        tell(&self.tell, Tell::ChunksEnd(item(dir, at, &entry, sparse, FileState::Ok)))
    }

    fn read_jobs(&self, work: &crossbeam_channel::Receiver<Job>) {
        for job in work {
            if self.over.load(Ordering::Relaxed) {
                continue;
            }
            if let Err(stop) = self.one_job(job) {
                if let Stop::Failed(error) = stop {
                    lock(&self.failure).get_or_insert(error);
                }
                self.over.store(true, Ordering::Relaxed);
            }
        }
    }

    fn one_job(&self, job: Job) -> Result<(), Stop> {
        match job {
            Job::Files { dir, files } => {
                let (mut items, mut data) = (Vec::new(), Vec::new());
                for (at, entry, sparse) in files {
                    let start = data.len();
                    let state = match self.append(&entry, &mut data) {
                        Ok(()) => FileState::Ok,
                        Err(error) => {
                            data.truncate(start);
                            self.lost(dir, &entry, &error)?
                        }
                    };
                    items.push(item(dir, at, &entry, sparse, state));
                }
                self.keep_pace(data.len());
                tell(&self.tell, Tell::Files { items, data: data.into() })
            }
            Job::Big { dir, at, entry, sparse } => self.big(dir, at, &entry, sparse),
            Job::Need { dir, at, ranges } => self.need(dir, at, &ranges),
        }
    }

    fn append(&self, entry: &Entry, data: &mut Vec<u8>) -> Result<()> {
        data.append(&mut read_all(self.store, &entry.content().unwrap_or(Name::UNKNOWN), entry.size())?);
        Ok(())
    }

    /// A file whose content the store has lost: it is told, and the rest comes. Other errors end the serving.
    fn lost(&self, dir: u32, entry: &Entry, error: &Error) -> Result<FileState, Stop> {
        if error.kind != Kind::Corrupt {
            let again = Error { kind: error.kind, message: error.chain(), hint: error.hint.clone(), cause: None };
            return Err(again.into());
        }
        let path = join(&self.row(dir)?.path, &entry.name);
        tell(&self.tell, Tell::LeftOut(LeftOut { path, reason: error.message.clone() }))?;
        Ok(FileState::Unreadable)
    }

    fn big(&self, dir: u32, at: u32, entry: &Entry, sparse: bool) -> Result<(), Stop> {
        let done = self.parts(dir, at, entry);
        let state = match done {
            Ok(()) => FileState::Ok,
            Err(Stop::Failed(error)) => self.lost(dir, entry, &error)?,
            Err(stop) => return Err(stop),
        };
        tell(&self.tell, Tell::FileEnd(item(dir, at, entry, sparse, state)))
    }

    fn parts(&self, dir: u32, at: u32, entry: &Entry) -> Result<(), Stop> {
        let chunks = self.store.chunks(&entry.content().unwrap_or(Name::UNKNOWN), entry.size())?;
        let (mut offset, mut part, mut data) = (0, Vec::new(), Vec::new());
        for (number, chunk) in chunks.iter().enumerate() {
            data.extend_from_slice(&self.store.chunk(chunk)?);
            part.push(*chunk);
            if data.len() >= BATCH_BYTES || number + 1 == chunks.len() {
                self.keep_pace(data.len());
                let next = offset + data.len() as u64;
                let (chunks, data) = (std::mem::take(&mut part), std::mem::take(&mut data).into());
                tell(&self.tell, Tell::Part { dir, entry: at, offset, chunks, data })?;
                offset = next;
            }
        }
        Ok(())
    }

    fn need(&self, dir: u32, at: u32, ranges: &[NeedRange]) -> Result<(), Stop> {
        let entry = file_at(&self.files_of(dir)?, at)?;
        let chunks = self.store.chunks(&entry.content().unwrap_or(Name::UNKNOWN), entry.size())?;
        let mut starts = Vec::with_capacity(chunks.len());
        let mut offset = 0u64;
        for chunk in &chunks {
            starts.push(offset);
            offset += u64::from(chunk.len);
        }
        let (mut sent, mut data, mut first) = (Vec::new(), Vec::new(), 0u32);
        for (number, range) in ranges.iter().enumerate() {
            let chunk = starts.binary_search(&range.offset).ok().map(|at| chunks[at]);
            let Some(chunk) = chunk.filter(|chunk| chunk.len == range.len) else {
                return Err(Error::failed("the target asked for a range that is no chunk").into());
            };
            sent.push(match self.store.chunk(&chunk) {
                Ok(bytes) => {
                    data.extend_from_slice(&bytes);
                    SentRange::Whole
                }
                Err(error) if error.kind == Kind::Corrupt => SentRange::Lost,
                Err(error) => return Err(error.into()),
            });
            if data.len() >= BATCH_BYTES || number + 1 == ranges.len() {
                self.keep_pace(data.len());
                let (ranges, data) = (std::mem::take(&mut sent), std::mem::take(&mut data).into());
                tell(&self.tell, Tell::Ranges { dir, entry: at, first, ranges, data })?;
                first = number as u32 + 1;
            }
        }
        Ok(())
    }

    /// Counts what goes out, and waits where that is more than it may be.
    fn keep_pace(&self, bytes: usize) {
        let sent = self.bytes_read.fetch_add(bytes as u64, Ordering::Relaxed) + bytes as u64;
        if self.bytes_per_second > 0 {
            let due = std::time::Duration::from_secs_f64(sent as f64 / self.bytes_per_second as f64);
            while self.started.elapsed() < due && !self.tell.is_closed() {
                let left = due.saturating_sub(self.started.elapsed());
                std::thread::sleep(left.min(std::time::Duration::from_millis(50)));
            }
        }
    }
}

fn file_at(entries: &[Entry], at: u32) -> Result<Entry> {
    let file = entries.get(at as usize).filter(|entry| matches!(entry.kind, EntryKind::File { .. }));
    file.cloned().ok_or_else(|| Error::failed("the target asked for the content of what is no file"))
}

/// Which files of a directory had holes.
enum Sparse {
    /// That is not known: each may have had some.
    Perhaps,
    These(Vec<Entry>),
}

impl Sparse {
    fn has(&self, name: &[u8]) -> bool {
        match self {
            Sparse::Perhaps => true,
            Sparse::These(entries) => holes::below(entries, name).1.is_some(),
        }
    }
}

fn item(dir: u32, at: u32, entry: &Entry, sparse: bool, state: FileState) -> FileItem {
    let len = if state == FileState::Ok { entry.size() } else { 0 };
    FileItem { dir, entry: at, len, content: entry.content().unwrap_or(Name::UNKNOWN), now: None, sparse, state }
}

fn tell(to: &mpsc::Sender<Tell>, what: Tell) -> Result<(), Stop> {
    to.blocking_send(what).map_err(|_| Stop::HungUp)
}
