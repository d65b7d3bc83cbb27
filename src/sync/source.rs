//! A live directory as a source: scans, then answers what the target asks until it hangs up.
//!
//! One thread takes the asks; a few others read files, in batches of about a mebibyte, and tell them in whatever order
//! they are done. What is read is remembered in the view, so that the root name told at the end is that of what was told.

mod holes;
mod local;
mod ranges;
mod readers;

pub use ranges::{block_sum, blocks_of};

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, RwLock};

use bytes::Bytes;
use tokio::sync::mpsc;

use local::Local;

use super::pace::Pace;
use super::{LiveDir, led_astray};
use crate::model::name::Short;
use crate::model::{Error, Kind, Name, Result, shown};
use crate::sys::dir::Dir;
use crate::sys::mapped::Mapped;
use crate::sys::path::is_foreign_link;
use crate::tree::chunk::MAX;
use crate::tree::entry::{Entry, EntryKind};
use crate::tree::filter::{Filter, read_rules};
use crate::tree::link::{Ask, FileItem, FileState, ListingNode, NeedRange, Open, SourceEnd, Tell};
use crate::tree::node::{ListBuilder, ListKind};
use crate::tree::records::{Found, Records, Row, Rows};
use crate::tree::scan::{Counters, Findings, Scan, distrust, threads};
use crate::tree::view::{Item, View};

/// Content in one batch, about.
const BATCH_BYTES: u64 = 1 << 20;
const BATCH_FILES: usize = 256;
/// Files up to this size, those of one chunk, are told whole, in batches.
pub const SMALL_BYTES: u64 = MAX as u64;

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
    /// What was written through memory when the scan began.
    mapped: Mapped,
    /// Directories with files that were read since.
    read: Mutex<HashSet<u32>>,
    tell: mpsc::Sender<Tell>,
    counters: Counters,
    pace: Pace,
    /// The target has hung up, or something failed.
    over: AtomicBool,
    failure: Mutex<Option<Error>>,
    /// Directories with files that take less room than their length.
    sparse: Vec<u32>,
    /// The target wants to know of holes.
    tells_holes: bool,
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
    let root = Dir::open(&dir.root).map_err(|cause| match is_foreign_link(&cause) {
        true => led_astray("source", &dir.label, cause),
        false => Error::io(format!("the source {} cannot be opened", dir.label), cause)
            .hint("check that the folder exists and may be read"),
    })?;
    let root = Arc::new(root);
    let rules = read_rules(&root, &dir.label)?;
    let filter = Filter::new(&open.path, &rules, &open.exclude)?;
    let (records, rows, found) = Records::open(dir.index.as_deref()).map_err(|cause| index_error(&cause))?;
    let local = Arc::new(Local { root: root.clone(), view: RwLock::new(None) });
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
    let doubted = source.distrust();
    if let Err(error) = &doubted {
        tracing::warn!("the index is not saved: {error}");
    }
    let view = read_lock(&source.view);
    if outcome.is_ok() && doubted.is_ok() && view.root_name().is_known() {
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
    Err(Error::new(Kind::NotFound, format!("there is no `{}` in {label}", shown::path(&scope)))
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
    for left_out in findings.left_out.into_iter().chain(findings.reserved) {
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
        mapped: findings.mapped,
        read: Mutex::default(),
        tell: link.tell.clone(),
        counters,
        pace: Pace::new(open.bytes_per_second),
        over: AtomicBool::new(false),
        failure: Mutex::new(None),
        sparse: findings.sparse,
        tells_holes: open.holes,
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
            let (root, entries, bytes) = {
                let mut view = write_lock(&self.view);
                (view.seal().map_err(|cause| index_error(&cause))?, view.entries, view.bytes)
            };
            if self.tells_holes {
                self.tell_holes()?;
            }
            let bytes_read = self.counters.bytes_read.load(Ordering::Relaxed);
            tell(&self.tell, Tell::Root { root, entries, bytes, bytes_read })
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

    /// Files that were read while somebody wrote them through memory are read again by the next scan.
    fn distrust(&self) -> std::io::Result<()> {
        let read = std::mem::take(&mut *lock(&self.read));
        if read.is_empty() {
            return Ok(());
        }
        distrust(&self.root, &mut write_lock(&self.view), read, &Mapped::now().and(&self.mapped))
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
        let have: HashSet<Short> = have.iter().copied().collect();
        let (first_child, content_known) = {
            let view = read_lock(&self.view);
            (view.dirs[dir as usize].first_child, view.root_name().is_known())
        };
        let mut child = first_child;
        // A part is told as soon as the next one begins: a long listing is not held as a whole.
        let (mut part, mut size, mut told) = (Vec::new(), 0, Ok(()));
        let mut list = ListBuilder::new(ListKind::Entries, |name: Name, bytes: Vec<u8>| {
            if size >= BATCH_BYTES && told.is_ok() {
                let nodes = std::mem::take(&mut part);
                told = tell(&self.tell, Tell::Listing { dir, first_child, nodes, more: true });
                size = 0;
            }
            let node = match have.contains(&name.short()) {
                true => ListingNode::Have(name.short()),
                false => ListingNode::Raw(bytes.into()),
            };
            size += if let ListingNode::Raw(bytes) = &node { bytes.len() as u64 } else { 16 };
            part.push(node);
        });
        for item in items {
            let mut entry = item.entry;
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
        told?;
        tell(&self.tell, Tell::Listing { dir, first_child, nodes: part, more: false })
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
