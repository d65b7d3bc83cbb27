//! A live directory as a source: scans, then answers what the target asks until it hangs up.
//!
//! One thread takes the asks; a few others read files, in batches of about a mebibyte, and tell them in whatever order
//! they are done. What is read is remembered in the view, so that the root name told at the end is that of what was told.

use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, RwLock};

use bytes::Bytes;
use tokio::sync::mpsc;

use super::LiveDir;
use super::pace::Pace;
use crate::model::name::Short;
use crate::model::sync::LeftOut;
use crate::model::{Error, Kind, Name, Result};
use crate::sys::dir::Dir;
use crate::tree::chunk::{self, MAX};
use crate::tree::entry::{Entry, EntryKind};
use crate::tree::filter::{Filter, RULES_FILE, RULES_MAX};
use crate::tree::link::{
    Ask, ChunkNode, ChunkRef, FileItem, FileState, ListingNode, LocalFiles, NeedRange, Open, SentRange, SourceEnd, Tell,
};
use crate::tree::node::{ListBuilder, ListKind, chunk_leaves};
use crate::tree::read;
use crate::tree::records::{Found, ListWriter, Records, Row, Rows};
use crate::tree::scan::{Counters, Findings, Scan, keep_list, threads};
use crate::tree::view::{Item, Print, State, View, join};

/// Content in one batch, about.
const BATCH_BYTES: u64 = 1 << 20;
const BATCH_FILES: usize = 256;
/// Files up to this size, those of one chunk, are told whole, in batches.
pub const SMALL_BYTES: u64 = MAX as u64;
/// Side of the blocks in which a changed chunk is compared with what the target has.
pub const BLOCK: u64 = 4096;

/// Serves `dir` until the target hangs up. What stops it is told to the target, too.
pub fn serve(dir: &LiveDir, mut link: SourceEnd) -> Result<()> {
    let Some(first) = link.next_ask() else { return Ok(()) };
    let Ask::Open(open) = first else { return Err(Error::failed("the target did not open the tree first")) };
    let outcome = serve_opened(dir, &open, &mut link);
    match outcome {
        Err(Stop::Failed(error)) => {
            let told =
                Error { kind: error.kind, message: error.message.clone(), hint: error.hint.clone(), cause: None };
            let told = match error.cause.as_ref().map(|_| error.chain()) {
                Some(chain) => Error { message: chain, ..told },
                None => told,
            };
            let _ = link.tell.blocking_send(Tell::Failed(told));
            Err(error)
        }
        Ok(()) | Err(Stop::HungUp) => Ok(()),
    }
}

/// Why serving ended.
enum Stop {
    HungUp,
    Failed(Error),
}

impl From<Error> for Stop {
    fn from(error: Error) -> Stop {
        Stop::Failed(error)
    }
}

/// The source once it has been scanned.
struct Source {
    root: Arc<Dir>,
    view: RwLock<View>,
    tell: mpsc::Sender<Tell>,
    counters: Counters,
    pace: Pace,
    /// The target has hung up, or something failed.
    over: AtomicBool,
    failure: Mutex<Option<Error>>,
}

/// A piece of reading for one of the threads.
enum Job {
    Small(Arc<Batch>, Vec<u32>),
    Big(Arc<Batch>, u32),
    Need { dir: u32, entry: u32, ranges: Vec<NeedRange> },
}

/// The files of one directory that were asked for together.
struct Batch {
    dir: u32,
    path: Vec<u8>,
    open: std::io::Result<Dir>,
    inner: Mutex<BatchInner>,
}

struct BatchInner {
    items: Vec<Item>,
    left: usize,
    changed: Vec<u32>,
}

fn serve_opened(dir: &LiveDir, open: &Open, link: &mut SourceEnd) -> Result<(), Stop> {
    let root = Dir::open(&dir.root).map_err(|cause| {
        Error::io(format!("the source {} cannot be opened", dir.label), cause)
            .hint("check that the folder exists and may be read")
    })?;
    let root = Arc::new(root);
    let rules = read_rules(&root, &dir.label)?;
    let filter = Filter::new(&open.path, &rules, &open.exclude)?;
    let (records, rows, found) = Records::open(dir.index.as_deref()).map_err(|cause| index_error(&cause))?;
    let local = Local { root: root.clone(), view: RwLock::new(None) };
    let local = Arc::new(local);
    tell(&link.tell, Tell::Opened { rules, local: Some(local.clone()) })?;
    if found == Found::Damaged {
        tell(&link.tell, Tell::Note(format!("the index of {} was damaged; it is being rebuilt", dir.label)))?;
    }
    match link.next_ask() {
        Some(Ask::Scan) => {}
        Some(_) => return Err(Error::failed("the target asked before the scan").into()),
        None => return Err(Stop::HungUp),
    }
    check_scope(&root, open, &dir.label)?;
    let source = scan(dir, open, root, &filter, Arc::new(records), &rows, link)?;
    *local.view.write().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(Arc::downgrade(&source));
    let outcome = source.answer(link);
    let view = read_lock(&source.view);
    if outcome.is_ok() && view.root_name().is_known() {
        save(&view, &rows, &filter);
    }
    outcome
}

/// What is asked for with `--path` has to be there: nothing is removed at a target because of a slip of the pen.
fn check_scope(root: &Dir, open: &Open, label: &str) -> Result<()> {
    let scope = crate::tree::filter::clean_scope(&open.path)?;
    let (parent, last) = crate::sys::dir::split_last(&scope);
    let found =
        scope.is_empty() || root.open_beneath(parent).is_ok_and(|dir| matches!(dir.stat_if_there(last), Ok(Some(_))));
    if found {
        return Ok(());
    }
    let path = String::from_utf8_lossy(&scope).into_owned();
    Err(Error::new(Kind::NotFound, format!("there is no {path:?} in {label}"))
        .hint("--path names a file or folder inside the source"))
}

/// Remembers a view; failing to is no failure of the sync.
pub(super) fn save(view: &View, rows: &Rows, filter: &Filter) {
    let whole = filter.is_whole_tree();
    let seen: std::collections::HashMap<_, _> = view.dirs.iter().map(|dir| (dir.id, dir.implied)).collect();
    let rest = rows.values().filter(|_| !whole).filter_map(|row| match seen.get(&row.id) {
        None => Some(*row),
        // Above what was looked at: what its files are is still known, its own name is not, which covers what is below.
        Some(true) => Some(Row { content: Name::UNKNOWN, ..*row }),
        Some(false) => None,
    });
    if let Err(error) = view.save(rest) {
        tracing::warn!("the index could not be saved: {error}");
    }
}

fn scan(
    dir: &LiveDir,
    open: &Open,
    root: Arc<Dir>,
    filter: &Filter,
    records: Arc<Records>,
    rows: &Rows,
    link: &SourceEnd,
) -> Result<Arc<Source>, Stop> {
    let cancel = AtomicBool::new(false);
    let counters = Counters::default();
    let scan = Scan { root: &root, filter, checksum: open.checksum, counters: &counters, cancel: &cancel };
    let done = AtomicBool::new(false);
    let outcome = std::thread::scope(|scope| {
        // Tells how far the scan is, and notices when nobody wants to know any more.
        let ticker = scope.spawn(|| {
            let mut ticks = 0u32;
            while !done.load(Ordering::Relaxed) {
                std::thread::park_timeout(std::time::Duration::from_millis(100));
                ticks += 1;
                if link.tell.is_closed() {
                    cancel.store(true, Ordering::Relaxed);
                } else if ticks.is_multiple_of(2) && !done.load(Ordering::Relaxed) {
                    let files = counters.files.load(Ordering::Relaxed);
                    let bytes_read = counters.bytes_read.load(Ordering::Relaxed);
                    let _ = link.tell.try_send(Tell::Scanning { files, bytes_read });
                }
            }
        });
        let outcome = full_scan(&scan, records, rows, open.fresh);
        done.store(true, Ordering::Relaxed);
        ticker.thread().unpark();
        outcome
    });
    let (mut view, findings) = match outcome {
        Ok(found) => found,
        Err(_) if cancel.load(Ordering::Relaxed) => return Err(Stop::HungUp),
        Err(cause) => return Err(Error::io(format!("the source {} cannot be read", dir.label), cause).into()),
    };
    if findings.damaged {
        tell(
            &link.tell,
            Tell::Note(format!("the index of {} was damaged; what was damaged is read again", dir.label)),
        )?;
    }
    for left_out in findings.left_out {
        tell(&link.tell, Tell::LeftOut(left_out))?;
    }
    if !open.fresh || findings.unread.is_empty() {
        view.seal().map_err(|cause| index_error(&cause))?;
        save(&view, rows, filter);
    }
    let mut top = Vec::new();
    view.root.entry.encode(&mut top);
    tell(&link.tell, Tell::Scanned { top: top.into(), entries: view.entries, bytes: view.bytes })?;
    Ok(Arc::new(Source {
        root,
        view: RwLock::new(view),
        tell: link.tell.clone(),
        counters,
        pace: Pace::new(open.bytes_per_second),
        over: AtomicBool::new(false),
        failure: Mutex::new(None),
    }))
}

/// Walks and, unless the target is empty and takes everything anyway, reads.
pub(super) fn full_scan(
    scan: &Scan<'_>,
    records: Arc<Records>,
    rows: &Rows,
    fresh: bool,
) -> std::io::Result<(View, Findings)> {
    let (mut view, mut findings) = scan.walk(records, rows)?;
    if !fresh {
        scan.read(&mut view, &mut findings)?;
    }
    Ok((view, findings))
}

impl Source {
    /// Answers asks until there are no more.
    fn answer(self: &Arc<Source>, link: &mut SourceEnd) -> Result<(), Stop> {
        let (jobs_in, jobs_out) = crossbeam_channel::bounded::<Job>(threads() * 2);
        std::thread::scope(|scope| {
            let readers: Vec<_> = (0..threads())
                .map(|_| {
                    let jobs = jobs_out.clone();
                    scope.spawn(move || self.read_jobs(&jobs))
                })
                .collect();
            let jobs_in = jobs_in;
            drop(jobs_out);
            let mut outcome = Ok(());
            while let Some(ask) = link.next_ask() {
                let finish = matches!(ask, Ask::Finish);
                if finish {
                    break;
                }
                if let Err(stop) = self.one_ask(ask, &jobs_in) {
                    outcome = Err(stop);
                    break;
                }
                if self.over.load(Ordering::Relaxed) {
                    break;
                }
            }
            drop(jobs_in);
            for reader in readers {
                let _ = reader.join();
            }
            if let Some(error) = self.failure.lock().ok().and_then(|mut failure| failure.take()) {
                return Err(Stop::Failed(error));
            }
            outcome?;
            if self.over.load(Ordering::Relaxed) || link.tell.is_closed() {
                return Err(Stop::HungUp);
            }
            let mut view = write_lock(&self.view);
            let root = view.seal().map_err(|cause| index_error(&cause))?;
            let bytes_read = self.counters.bytes_read.load(Ordering::Relaxed);
            tell(&self.tell, Tell::Root { root, entries: view.entries, bytes: view.bytes, bytes_read })
        })
    }

    fn one_ask(self: &Arc<Source>, ask: Ask, jobs: &crossbeam_channel::Sender<Job>) -> Result<(), Stop> {
        match ask {
            Ask::List { dir, have } => self.list(dir, &have),
            Ask::Fetch { dir, entries } => self.fetch(dir, &entries, jobs),
            Ask::Chunks { dir, entry, have } => self.chunk_list(dir, entry, &have),
            Ask::Need { dir, entry, ranges } => jobs.send(Job::Need { dir, entry, ranges }).map_err(|_| Stop::HungUp),
            Ask::Open(_) | Ask::Scan | Ask::Finish => Err(Error::failed("the target asked out of turn").into()),
        }
    }

    fn items(&self, dir: u32) -> Result<Vec<Item>> {
        let view = read_lock(&self.view);
        if dir as usize >= view.dirs.len() {
            return Err(Error::failed("the target asked for a directory that is not there"));
        }
        view.items(dir).map_err(|cause| index_error(&cause))
    }

    fn list(&self, dir: u32, have: &[Short]) -> Result<(), Stop> {
        let items = self.items(dir)?;
        let (first_child, content_known) = {
            let view = read_lock(&self.view);
            (view.dirs[dir as usize].first_child, view.root_name().is_known())
        };
        let mut child = first_child;
        let mut nodes = Vec::new();
        let mut list = ListBuilder::new(ListKind::Entries, |name: Name, bytes: Vec<u8>| {
            let node = match have.contains(&name.short()) {
                true => ListingNode::Have(name.short()),
                false => ListingNode::Raw(bytes.into()),
            };
            nodes.push(node);
        });
        for item in &items {
            let mut entry = item.entry.clone();
            if entry.is_dir() {
                if content_known {
                    entry.set_content(read_lock(&self.view).dirs[child as usize].content);
                } else {
                    entry.set_content(Name::UNKNOWN);
                }
                child += 1;
            }
            list.push_entry(&entry);
        }
        list.finish();
        let mut nodes = nodes.into_iter().peekable();
        loop {
            let (mut part, mut size) = (Vec::new(), 0);
            while let Some(node) = nodes.next_if(|_| size < BATCH_BYTES) {
                size += if let ListingNode::Raw(bytes) = &node { bytes.len() as u64 } else { 16 };
                part.push(node);
            }
            let more = nodes.peek().is_some();
            tell(&self.tell, Tell::Listing { dir, first_child, nodes: part, more })?;
            if !more {
                return Ok(());
            }
        }
    }

    fn fetch(self: &Arc<Source>, dir: u32, entries: &[u32], jobs: &crossbeam_channel::Sender<Job>) -> Result<(), Stop> {
        let items = self.items(dir)?;
        let path = read_lock(&self.view).path(dir);
        let open = self.root.open_beneath(&path);
        let mut small = Vec::new();
        let mut bytes = 0;
        let inner = Mutex::new(BatchInner { left: entries.len(), changed: Vec::new(), items });
        let batch = Arc::new(Batch { dir, path, open, inner });
        for &entry in entries {
            let size = {
                let inner = lock(&batch.inner);
                let item = inner.items.get(entry as usize);
                let file = item.filter(|item| matches!(item.entry.kind, EntryKind::File { .. }));
                file.ok_or_else(|| Error::failed("the target asked for the content of what is no file"))?.entry.size()
            };
            if size > SMALL_BYTES {
                jobs.send(Job::Big(batch.clone(), entry)).map_err(|_| Stop::HungUp)?;
                continue;
            }
            small.push(entry);
            bytes += size;
            if bytes >= BATCH_BYTES || small.len() >= BATCH_FILES {
                bytes = 0;
                jobs.send(Job::Small(batch.clone(), std::mem::take(&mut small))).map_err(|_| Stop::HungUp)?;
            }
        }
        if !small.is_empty() {
            jobs.send(Job::Small(batch, small)).map_err(|_| Stop::HungUp)?;
        }
        Ok(())
    }

    fn read_jobs(&self, jobs: &crossbeam_channel::Receiver<Job>) {
        let mut gather = Gather::default();
        loop {
            // Small directories are gathered into one tell, as long as there is more to gather at once.
            let job = match jobs.try_recv() {
                Ok(job) => job,
                Err(_) => {
                    if self.note(self.flush(&mut gather)).is_err() {
                        break;
                    }
                    match jobs.recv() {
                        Ok(job) => job,
                        Err(_) => return,
                    }
                }
            };
            if self.note(self.one_job(job, &mut gather)).is_err() {
                break;
            }
        }
        // Whoever hands out jobs must not wait for a reader that has stopped.
        self.over.store(true, Ordering::Relaxed);
        while jobs.recv().is_ok() {}
    }

    /// Keeps the first failure for the thread that answers.
    fn note(&self, outcome: Result<(), Stop>) -> Result<(), ()> {
        match outcome {
            Ok(()) => Ok(()),
            Err(stop) => {
                if let Stop::Failed(error) = stop {
                    lock(&self.failure).get_or_insert(error);
                }
                Err(())
            }
        }
    }

    fn one_job(&self, job: Job, gather: &mut Gather) -> Result<(), Stop> {
        if self.over.load(Ordering::Relaxed) || self.tell.is_closed() {
            return Err(Stop::HungUp);
        }
        match job {
            Job::Small(batch, entries) => {
                for entry in entries {
                    self.small(&batch, entry, gather)?;
                    if gather.data.len() as u64 >= BATCH_BYTES || gather.items.len() >= BATCH_FILES {
                        self.flush(gather)?;
                    }
                }
                Ok(())
            }
            Job::Big(batch, entry) => {
                self.flush(gather)?;
                self.big(&batch, entry)
            }
            Job::Need { dir, entry, ranges } => {
                self.flush(gather)?;
                self.need(dir, entry, &ranges)
            }
        }
    }

    fn flush(&self, gather: &mut Gather) -> Result<(), Stop> {
        if gather.items.is_empty() {
            return Ok(());
        }
        let full = std::mem::replace(
            gather,
            Gather { items: Vec::new(), data: Vec::with_capacity(BATCH_BYTES as usize + MAX) },
        );
        self.pace.spend(full.data.len() as u64);
        tell(&self.tell, Tell::Files { items: full.items, data: full.data.into() })
    }

    fn small(&self, batch: &Batch, entry: u32, gather: &mut Gather) -> Result<(), Stop> {
        let mut item = lock(&batch.inner).items[entry as usize].clone();
        let before = item.entry.clone();
        let start = gather.data.len();
        let outcome = match &batch.open {
            Ok(open) => read::read_whole(open, &mut item, &mut gather.data),
            Err(error) => Err(error.kind().into()),
        };
        match outcome {
            Ok(whole) => {
                let len = (gather.data.len() - start) as u64;
                self.counters.bytes_read.fetch_add(len, Ordering::Relaxed);
                let view = read_lock(&self.view);
                keep_list(&mut item, &whole.chunks, &view.records).map_err(|cause| index_error(&cause))?;
                drop(view);
                let state = if whole.stable { FileState::Ok } else { FileState::Unstable };
                gather.items.push(told(batch.dir, entry, &before, &item, len, whole.sparse, state));
            }
            Err(error) => {
                gather.data.truncate(start);
                let state = self.lost(batch, &mut item, &error)?;
                gather.items.push(told(batch.dir, entry, &before, &item, 0, false, state));
            }
        }
        self.done(batch, entry, item)
    }

    /// Drops a file that is gone or cannot be read; the latter is told.
    fn lost(&self, batch: &Batch, item: &mut Item, error: &std::io::Error) -> Result<FileState, Stop> {
        item.state = State::Dropped;
        item.entry.set_content(Name::of(b""));
        if matches!(error.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory) {
            return Ok(FileState::Gone);
        }
        let path = join(&batch.path, &item.entry.name);
        tell(&self.tell, Tell::LeftOut(LeftOut { path, reason: format!("it could not be read: {error}") }))?;
        Ok(FileState::Unreadable)
    }

    /// Puts what is now known of a file into the batch, and the batch into the view when it was the last.
    fn done(&self, batch: &Batch, entry: u32, item: Item) -> Result<(), Stop> {
        let mut inner = lock(&batch.inner);
        let place = &mut inner.items[entry as usize];
        let changed = place.entry != item.entry || place.state != item.state || !place.print.trusted;
        *place = item;
        if changed {
            inner.changed.push(entry);
        }
        inner.left -= 1;
        if inner.left == 0 && !inner.changed.is_empty() {
            let mut view = write_lock(&self.view);
            // Another batch of the same directory may have been put there meanwhile: only what this one read is new.
            let mut items = view.items(batch.dir).map_err(|cause| index_error(&cause))?;
            for &entry in &inner.changed {
                items[entry as usize] = inner.items[entry as usize].clone();
            }
            view.set_items(batch.dir, &items).map_err(|cause| index_error(&cause))?;
            inner.items = Vec::new();
        }
        Ok(())
    }

    /// Tells a big file in parts, again from its start if it changes meanwhile.
    fn big(&self, batch: &Batch, entry: u32) -> Result<(), Stop> {
        let mut item = lock(&batch.inner).items[entry as usize].clone();
        let before = item.entry.clone();
        let dir = batch.dir;
        let mut tries = 0;
        loop {
            tries += 1;
            let read = match &batch.open {
                Ok(open) => self.big_once(open, dir, entry, &mut item),
                Err(error) => Ok(Err(error.kind().into())),
            };
            let item_told = match read? {
                Ok((true, len, sparse)) => told(dir, entry, &before, &item, len, sparse, FileState::Ok),
                Ok((false, len, sparse)) if tries == read::TRIES => {
                    told(dir, entry, &before, &item, len, sparse, FileState::Unstable)
                }
                Ok((false, ..)) => {
                    tell(&self.tell, Tell::Restart { dir, entry })?;
                    continue;
                }
                Err(error) => {
                    let state = self.lost(batch, &mut item, &error)?;
                    told(dir, entry, &before, &item, 0, false, state)
                }
            };
            tell(&self.tell, Tell::FileEnd(item_told))?;
            return self.done(batch, entry, item);
        }
    }

    /// One reading of a big file: whether it stood still, its length, whether it has holes.
    fn big_once(
        &self,
        dir: &Dir,
        number: u32,
        entry: u32,
        item: &mut Item,
    ) -> Result<std::io::Result<(bool, u64, bool)>, Stop> {
        let open = match read::open(dir, item) {
            Ok(open) => open,
            Err(error) => return Ok(Err(error)),
        };
        let mut writer = ListWriter::default();
        let mut list = ListBuilder::new(ListKind::Chunks, |_, _| ());
        let (mut first, mut count) = (None, 0u64);
        let (mut offset, mut carried) = (0u64, Vec::new());
        loop {
            let mut data = Vec::with_capacity(carried.len() + BATCH_BYTES as usize);
            data.append(&mut carried);
            let kept = data.len() as u64;
            let got = match open.append(&mut data, BATCH_BYTES as usize, offset + kept) {
                Ok(got) => got,
                Err(error) => return Ok(Err(error)),
            };
            self.counters.bytes_read.fetch_add(got as u64, Ordering::Relaxed);
            let last = got < BATCH_BYTES as usize;
            let mut chunks = Vec::new();
            let used = if last && offset == 0 && data.len() <= MAX {
                chunks = chunk::all_chunks(&data);
                data.len()
            } else {
                chunk::chunks(&data, last, &mut chunks)
            };
            carried.extend_from_slice(&data[used..]);
            data.truncate(used);
            for chunk in &chunks {
                first.get_or_insert(chunk.name);
                count += 1;
                list.push_chunk(*chunk);
                let view = read_lock(&self.view);
                writer.push(&view.records, *chunk).map_err(|cause| index_error(&cause))?;
            }
            self.pace.spend(used as u64);
            let at = offset;
            offset += used as u64;
            if used > 0 {
                tell(&self.tell, Tell::Part { dir: number, entry, offset: at, chunks, data: data.into() })?;
            }
            if last {
                break;
            }
        }
        let content = match (count, first) {
            (0, _) | (_, None) => Name::of(b""),
            (1, Some(only)) => only,
            _ => list.finish(),
        };
        let stable = match open.stood_still(item) {
            Ok(still) => still && offset == open.size,
            Err(error) => return Ok(Err(error)),
        };
        item.entry.kind = EntryKind::File { size: offset, content };
        item.print.trusted &= stable;
        item.list = Default::default();
        if count > 1 {
            let view = read_lock(&self.view);
            item.list = writer.finish(&view.records).map_err(|cause| index_error(&cause))?;
        }
        Ok(Ok((stable, offset, open.sparse)))
    }

    /// Tells the chunk list of a file as it was scanned, less the nodes the target has.
    fn chunk_list(&self, dir: u32, entry: u32, have: &[Short]) -> Result<(), Stop> {
        let items = self.items(dir)?;
        let item = items
            .get(entry as usize)
            .filter(|item| matches!(item.entry.kind, EntryKind::File { .. }))
            .ok_or_else(|| Error::failed("the target asked for the chunks of what is no file"))?;
        let have: std::collections::HashSet<Short> = have.iter().copied().collect();
        if item.list.is_some() {
            let view = read_lock(&self.view);
            let chunks = view.records.all_chunks(item.list).map_err(|cause| index_error(&cause))?;
            drop(view);
            let mut nodes = Vec::new();
            let mut rest = &chunks[..];
            chunk_leaves(&chunks, |name, count| {
                let (leaf, after) = rest.split_at(count);
                rest = after;
                nodes.push(match have.contains(&name.short()) {
                    true => ChunkNode::Have(name.short()),
                    false => ChunkNode::Raw(leaf.to_vec()),
                });
            });
            for part in nodes.chunks(64) {
                tell(&self.tell, Tell::Chunks { dir, entry, nodes: part.to_vec() })?;
            }
        } else if let EntryKind::File { size, content } = item.entry.kind
            && size > 0
        {
            let node = ChunkNode::Raw(vec![ChunkRef { name: content, len: size as u32 }]);
            tell(&self.tell, Tell::Chunks { dir, entry, nodes: vec![node] })?;
        }
        let sparse = self.is_sparse(dir, item);
        tell(&self.tell, Tell::ChunksEnd(told(dir, entry, &item.entry, item, item.entry.size(), sparse, FileState::Ok)))
    }

    fn is_sparse(&self, dir: u32, item: &Item) -> bool {
        let path = read_lock(&self.view).path(dir);
        let open = self.root.open_beneath(&path);
        open.is_ok_and(|open| open.stat(&item.entry.name).is_ok_and(|stat| crate::sys::meta::has_holes(&stat)))
    }

    /// Tells ranges of a big file, each just so far as the target's blocks differ.
    fn need(&self, dir: u32, entry: u32, ranges: &[NeedRange]) -> Result<(), Stop> {
        let items = self.items(dir)?;
        let path = read_lock(&self.view).path(dir);
        let name = items.get(entry as usize).map(|item| item.entry.name.clone());
        let file = name.and_then(|name| self.root.open_beneath(&path).and_then(|open| open.read(&name)).ok());
        let (mut sent, mut data, mut first) = (Vec::new(), Vec::new(), 0u32);
        let mut buffer = Vec::new();
        for (number, range) in ranges.iter().enumerate() {
            if range.len as usize > MAX {
                return Err(Error::failed("the target asked for a range that is no chunk").into());
            }
            buffer.resize(range.len as usize, 0);
            let read = file.as_ref().is_some_and(|file| file.read_exact_at(&mut buffer, range.offset).is_ok());
            self.counters.bytes_read.fetch_add(u64::from(range.len), Ordering::Relaxed);
            sent.push(match read {
                true => send_range(range, &buffer, &mut data),
                false => SentRange::Lost,
            });
            if data.len() as u64 >= BATCH_BYTES || number + 1 == ranges.len() {
                self.pace.spend(data.len() as u64);
                let ranges = std::mem::take(&mut sent);
                tell(&self.tell, Tell::Ranges { dir, entry, first, ranges, data: std::mem::take(&mut data).into() })?;
                first = number as u32 + 1;
            }
        }
        Ok(())
    }
}

/// Appends to `data` what the target lacks of a range, and says what that is.
fn send_range(range: &NeedRange, bytes: &[u8], data: &mut Vec<u8>) -> SentRange {
    let blocks: Vec<_> = blocks_of(range.offset, range.len).collect();
    if range.blocks.len() != blocks.len() {
        data.extend_from_slice(bytes);
        return SentRange::Whole;
    }
    let mut differing = Vec::new();
    for (number, (block, theirs)) in blocks.iter().zip(&range.blocks).enumerate() {
        if block_sum(&bytes[block.clone()]) != *theirs {
            data.extend_from_slice(&bytes[block.clone()]);
            differing.push(number as u32);
        }
    }
    SentRange::Blocks(differing)
}

/// The blocks of the file that a range touches, as parts of the range.
pub fn blocks_of(offset: u64, len: u32) -> impl Iterator<Item = std::ops::Range<usize>> {
    let lead = ((BLOCK - offset % BLOCK) % BLOCK) as usize;
    let len = len as usize;
    let starts = (lead.min(len) > 0).then_some(0).into_iter().chain((lead..len).step_by(BLOCK as usize));
    starts.map(move |start| {
        let end = if start < lead { lead } else { start + BLOCK as usize };
        start..end.min(len)
    })
}

/// What tells two blocks apart. Short, since the chunk is verified whole when it has been put together.
pub fn block_sum(block: &[u8]) -> u64 {
    Name::of(block).prefix()
}

#[derive(Default)]
struct Gather {
    items: Vec<FileItem>,
    data: Vec<u8>,
}

/// What became of a file, with its entry if that is not what the listing said.
fn told(dir: u32, entry: u32, before: &Entry, item: &Item, len: u64, sparse: bool, state: FileState) -> FileItem {
    let content = item.entry.content().unwrap_or(Name::UNKNOWN);
    let mut expected = before.clone();
    if let EntryKind::File { size, .. } = before.kind {
        expected.kind = EntryKind::File { size, content };
    }
    let now = (expected != item.entry).then(|| {
        let mut bytes = Vec::new();
        item.entry.encode(&mut bytes);
        Bytes::from(bytes)
    });
    FileItem { dir, entry, len, content, now, sparse, state }
}

/// The source's files for a target in the same process.
struct Local {
    root: Arc<Dir>,
    view: RwLock<Option<std::sync::Weak<Source>>>,
}

impl std::fmt::Debug for Local {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Local")
    }
}

impl LocalFiles for Local {
    fn open(&self, dir: u32, entry: u32) -> Option<(std::fs::File, Print, Vec<ChunkRef>)> {
        let source = read_lock(&self.view).as_ref()?.upgrade()?;
        let items = source.items(dir).ok()?;
        let item = items.get(entry as usize)?;
        let path = read_lock(&source.view).path(dir);
        let file = self.root.open_beneath(&path).ok()?.read(&item.entry.name).ok()?;
        let stat = crate::sys::meta::stat_file(&file).ok()?;
        if !read::is_as_printed(&stat, item) || !item.list.is_some() {
            return None;
        }
        let chunks = read_lock(&source.view).records.all_chunks(item.list).ok()?;
        Some((file, item.print, chunks))
    }
}

fn read_rules(root: &Dir, label: &str) -> Result<Vec<u8>> {
    let failed = |cause| Error::io(format!("the ignore rules of {label} cannot be read"), cause);
    match root.stat_if_there(RULES_FILE).map_err(failed)? {
        Some(stat) if rustix::fs::FileType::from_raw_mode(stat.st_mode).is_file() => {}
        _ => return Ok(Vec::new()),
    }
    let file = match root.read(RULES_FILE) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed(error).hint("the rules protect paths, so nothing is copied without them")),
    };
    let mut rules = Vec::new();
    std::io::Read::read_to_end(&mut std::io::Read::take(file, RULES_MAX as u64 + 1), &mut rules).map_err(failed)?;
    if rules.len() > RULES_MAX {
        return Err(
            Error::usage(format!("the .mcignore of {label} is larger than 1 MiB")).hint("use fewer, wider patterns")
        );
    }
    Ok(rules)
}

pub(super) fn index_error(cause: &std::io::Error) -> Error {
    let error = Error::io("the index cannot be used", std::io::Error::new(cause.kind(), cause.to_string()));
    match cause.kind() {
        std::io::ErrorKind::InvalidData | std::io::ErrorKind::UnexpectedEof => Error { kind: Kind::Corrupt, ..error },
        _ => error.hint("check that the folder it is kept in can be written and has room"),
    }
}

fn tell(to: &mpsc::Sender<Tell>, what: Tell) -> Result<(), Stop> {
    to.blocking_send(what).map_err(|_| Stop::HungUp)
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn read_lock<T>(lock: &RwLock<T>) -> std::sync::RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn write_lock<T>(lock: &RwLock<T>) -> std::sync::RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(std::sync::PoisonError::into_inner)
}
