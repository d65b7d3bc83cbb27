//! Staging: everything the target lacks is built beside it. One thread asks and takes what comes, a few others verify and
//! write. Directories that are new are built as they will be, with their files in them; files of directories that are
//! there wait in numbered slots.

use std::collections::{HashMap, VecDeque};
use std::fs::File;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::mpsc::UnboundedSender;

use super::compare::{How, NONE, Source, Talk, Want, gone, nonsense};
use super::delta::{Basis, Delta, Leftovers};
use super::source::index_error;
use super::stage::Stage;
use super::{Cancel, Observer, place};
use crate::model::sync::{Event, LeftOut};
use crate::model::{Error, Kind, Name, Result};
use crate::sys::dir::Dir;
use crate::tree::chunk::{self, MAX};
use crate::tree::entry::{Entry, EntryKind};
use crate::tree::filter::{Filter, Stand};
use crate::tree::link::{Ask, ChunkRef, FileItem, FileState, LocalFiles, SentRange, Tell};
use crate::tree::node::{ListBuilder, ListKind, content_name};
use crate::tree::records::{ListWriter, Ptr, Records};
use crate::tree::scan::threads;
use crate::tree::view::{Item, State, View, join};

/// Answers outstanding from the source, at most.
const AHEAD: u64 = 16 * 1024;
/// Files compared chunk by chunk at the same time, at most: each keeps two files open, and its chunk lists in memory.
const DELTAS: u64 = 64;
/// How often a file is asked for when what came does not fit together.
const TRIES: u32 = 3;

/// What staging works on.
pub struct Site<'a> {
    pub own: &'a View,
    /// The target's root; `None` if there is none yet.
    pub root: Option<&'a Dir>,
    pub stage: &'a Stage,
    pub salvage: Option<(&'a View, &'a Dir)>,
    pub filter: &'a Filter,
    pub local: Option<Arc<dyn LocalFiles>>,
    pub observer: &'a dyn Observer,
    pub cancel: &'a Cancel,
    /// What the source lacks is kept.
    pub no_remove: bool,
    /// Files and bytes that have to be staged.
    pub totals: (u64, u64),
}

/// What staging had to leave out, and what it noticed.
#[derive(Default, Debug)]
pub struct Staged {
    pub left_out: Vec<LeftOut>,
    /// Not all that was wanted is there: the root names will differ.
    pub incomplete: bool,
}

/// Stages all that `want` lacks.
pub fn stage(site: &Site<'_>, want: &mut Want, talk: &mut Talk<'_>) -> Result<Staged> {
    let leftovers = match site.salvage {
        Some((view, dir)) => Leftovers::of(view, dir)?,
        None => Leftovers::default(),
    };
    let shared = Shared {
        site,
        leftovers,
        records: Arc::clone(&want.view.records),
        ask: talk.ask.clone(),
        awaited: AtomicU64::new(0),
        pending: AtomicU64::new(0),
        deltas: AtomicU64::new(0),
        deltas_over: Mutex::default(),
        over: AtomicBool::new(false),
        failure: Mutex::default(),
        staged: Mutex::default(),
        finished: Mutex::default(),
        files_done: AtomicU64::new(0),
        bytes_done: AtomicU64::new(0),
        shown: Mutex::default(),
        trusted: site.local.is_some(),
    };
    let (jobs_in, jobs_out) = crossbeam_channel::bounded::<Job>(threads() * 2);
    std::thread::scope(|scope| {
        for _ in 0..threads() {
            let (jobs, shared) = (jobs_out.clone(), &shared);
            scope.spawn(move || shared.work(&jobs));
        }
        drop(jobs_out);
        let mut taker = Taker {
            shared: &shared,
            want,
            jobs: jobs_in,
            open: HashMap::new(),
            bigs: HashMap::new(),
            later: VecDeque::new(),
            next: 0,
        };
        let outcome = taker.run(talk);
        drop(taker);
        // What stopped the writers explains more than that they stopped.
        lock(&shared.failure).take().map_or(outcome, Err)
    })?;
    Ok(shared.staged.into_inner().unwrap_or_else(PoisonError::into_inner))
}

/// What all threads share.
pub(super) struct Shared<'a> {
    pub site: &'a Site<'a>,
    pub leftovers: Leftovers,
    pub records: Arc<Records>,
    ask: UnboundedSender<Ask>,
    /// Answers the source still owes.
    awaited: AtomicU64,
    /// Entries started and not yet settled.
    pending: AtomicU64,
    /// Files being compared chunk by chunk, and those of them that are done with, by the source's numbers.
    deltas: AtomicU64,
    deltas_over: Mutex<Vec<(u32, u32)>>,
    /// Something failed: no more work is done.
    over: AtomicBool,
    failure: Mutex<Option<Error>>,
    staged: Mutex<Staged>,
    /// Directories all of whose entries are settled: the source's number, the wanted one, their new record.
    finished: Mutex<Vec<(u32, u32, Ptr)>>,
    files_done: AtomicU64,
    bytes_done: AtomicU64,
    shown: Mutex<Option<Instant>>,
    /// The data comes from this process's own memory, where it was named.
    trusted: bool,
}

/// A directory with work in it.
pub(super) struct OpenDir {
    want: u32,
    src: u32,
    pub path: Vec<u8>,
    /// Where its files are staged if it is new.
    pub place: Option<Dir>,
    inner: Mutex<OpenInner>,
}

struct OpenInner {
    items: Vec<Item>,
    /// Positions of the files whose whole content the source still owes, by its number.
    by_src: HashMap<u32, u32>,
    tries: HashMap<u32, u32>,
    left: usize,
}

/// A file that comes in parts.
struct Big {
    open: Arc<OpenDir>,
    at: u32,
    file: File,
    placed: Placed,
    sparse: bool,
    /// Parts handed out and not yet written, and one for the end that is yet to come.
    left: AtomicU64,
    end: Mutex<Option<(FileItem, Ptr)>>,
}

/// Where a staged file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Placed {
    /// In its staged directory, under its own name.
    There,
    Slot(u64),
}

impl Placed {
    fn state(self) -> State {
        match self {
            Placed::There => State::Placed,
            Placed::Slot(_) => State::Staged,
        }
    }

    pub fn slot(self) -> u64 {
        match self {
            Placed::There => 0,
            Placed::Slot(slot) => slot,
        }
    }
}

enum Job {
    Files(Vec<(Arc<OpenDir>, u32, FileItem, Range<usize>)>, Bytes),
    Part(Arc<Big>, u64, Vec<ChunkRef>, Bytes),
    End(Arc<Big>),
    /// A file that is in the target's reach.
    Local(Arc<OpenDir>, u32, Source, u32),
    /// A big file of a source on this machine: shared or copied by the kernel.
    Share(Arc<OpenDir>, u32, u32),
    Make(Arc<OpenDir>, Vec<u32>),
    DeltaPlan(Arc<OpenDir>, u32, Arc<Delta>, FileItem),
    DeltaRanges(Arc<OpenDir>, u32, Arc<Delta>, u32, Vec<SentRange>, Bytes),
}

/// The thread that asks and takes.
struct Taker<'a, 'b> {
    shared: &'a Shared<'b>,
    want: &'a mut Want,
    jobs: crossbeam_channel::Sender<Job>,
    /// By the source's number.
    open: HashMap<u32, Arc<OpenDir>>,
    /// By the source's numbers of directory and entry.
    bigs: HashMap<(u32, u32), InParts>,
    later: VecDeque<Later>,
    next: usize,
}

/// What the taker keeps of a file that comes in parts, or first as a chunk list.
enum InParts {
    Whole(Whole),
    Delta(InDelta),
}

struct InDelta {
    delta: Arc<Delta>,
    at: u32,
    /// Once its list has ended, the number of the range that comes next.
    next: Option<u32>,
}

/// A file to be compared chunk by chunk, when it is its turn.
struct Later {
    open: Arc<OpenDir>,
    at: u32,
    entry: u32,
    basis: Option<Item>,
}

struct Whole {
    big: Arc<Big>,
    list: ListBuilder<fn(Name, Vec<u8>)>,
    writer: ListWriter,
    first: Option<Name>,
    count: u64,
    offset: u64,
}

impl Taker<'_, '_> {
    fn run(&mut self, talk: &mut Talk<'_>) -> Result<()> {
        loop {
            if self.shared.site.cancel.load(Ordering::Relaxed) {
                return Err(super::cancelled());
            }
            if self.shared.over.load(Ordering::Relaxed) {
                return Err(gone());
            }
            self.take_finished();
            while self.shared.awaited.load(Ordering::Acquire) < AHEAD && self.next < self.want.pending.len() {
                self.next += 1;
                self.start(self.want.pending[self.next - 1])?;
            }
            while self.shared.deltas.load(Ordering::Acquire) < DELTAS
                && let Some(later) = self.later.pop_front()
            {
                self.start_delta(later)?;
            }
            if self.shared.awaited.load(Ordering::Acquire) == 0 {
                if self.shared.pending.load(Ordering::Acquire) == 0 && self.next == self.want.pending.len() {
                    self.take_finished();
                    return Ok(());
                }
                // The writers are at it, and may find that something is to be asked for.
                std::thread::sleep(Duration::from_micros(100));
                continue;
            }
            self.take(talk.next()?)?;
        }
    }

    fn take_finished(&mut self) {
        for key in lock(&self.shared.deltas_over).drain(..) {
            // It may come whole by now.
            if matches!(self.bigs.get(&key), Some(InParts::Delta(_))) {
                self.bigs.remove(&key);
            }
        }
        for (src, want, record) in lock(&self.shared.finished).drain(..) {
            if src != NONE {
                self.open.remove(&src);
            }
            let node = &mut self.want.view.dirs[want as usize];
            (node.record, node.dirty) = (record, true);
        }
    }

    fn take(&mut self, tell: Tell) -> Result<()> {
        match tell {
            Tell::Files { items, data } => self.files(items, data),
            Tell::Part { dir, entry, offset, chunks, data } => self.part(dir, entry, offset, chunks, data),
            Tell::Restart { dir, entry } => {
                if matches!(self.bigs.get(&(dir, entry)), Some(InParts::Whole(_))) {
                    self.bigs.remove(&(dir, entry));
                }
                Ok(())
            }
            Tell::FileEnd(item) => self.file_end(item),
            Tell::Chunks { dir, entry, nodes } => match self.delta(dir, entry)? {
                InDelta { delta, next: None, .. } => delta.push(nodes),
                _ => Err(nonsense("a chunk list that goes on after its end")),
            },
            Tell::ChunksEnd(item) => {
                let InDelta { delta, at, next } = self.delta(item.dir, item.entry)?;
                if next.replace(0).is_some() {
                    return Err(nonsense("a chunk list that ends twice"));
                }
                let (delta, at) = (delta.clone(), *at);
                let open = self.opened(item.dir)?;
                self.answered(1)?;
                self.job(Job::DeltaPlan(open, at, delta, item))
            }
            Tell::Ranges { dir, entry, first, ranges, data } => {
                let InDelta { delta, at, next } = self.delta(dir, entry)?;
                let count = u32::try_from(ranges.len()).ok();
                let Some(after) = next.filter(|next| *next == first).and_then(|next| next.checked_add(count?)) else {
                    return Err(nonsense("ranges that were not asked for"));
                };
                *next = Some(after);
                let (delta, at) = (delta.clone(), *at);
                let open = self.opened(dir)?;
                self.answered(ranges.len() as u64)?;
                self.job(Job::DeltaRanges(open, at, delta, first, ranges, data))
            }
            _ => Err(nonsense("an answer to nothing that was asked")),
        }
    }

    fn job(&self, job: Job) -> Result<()> {
        self.jobs.send(job).map_err(|_| gone())
    }

    fn answered(&self, count: u64) -> Result<()> {
        let before = self.shared.awaited.fetch_sub(count, Ordering::AcqRel);
        if before < count { Err(nonsense("more answers than it was asked for")) } else { Ok(()) }
    }

    fn opened(&self, src: u32) -> Result<Arc<OpenDir>> {
        self.open.get(&src).cloned().ok_or_else(|| nonsense("content that was not asked for"))
    }

    fn delta(&mut self, dir: u32, entry: u32) -> Result<&mut InDelta> {
        match self.bigs.get_mut(&(dir, entry)) {
            Some(InParts::Delta(delta)) => Ok(delta),
            _ => Err(nonsense("a chunk list that was not asked for")),
        }
    }

    /// Starts on a directory: makes it if it is new, asks for what has to come, hands out what can be done here.
    fn start(&mut self, number: u32) -> Result<()> {
        let shared = self.shared;
        let dir = self.want.dirs[number as usize];
        let path = self.want.view.path(number);
        let mut items = self.want.view.items(number).map_err(|cause| index_error(&cause))?;
        let place = match dir.how {
            How::New => Some(self.make_dir(number)?),
            _ => None,
        };
        let mut by_src = HashMap::new();
        let own_items = match dir.own {
            NONE => Vec::new(),
            own => shared.site.own.items(own).map_err(|cause| index_error(&cause))?,
        };
        let (mut fetch, mut make, mut jobs, mut chunks) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let mut empty = Vec::new();
        for (at, item) in (0u32..).zip(&mut items) {
            match item.state {
                // Nothing has to come for a file with nothing in it.
                State::Fetch if item.entry.size() == 0 => empty.push(at),
                State::Fetch => {
                    let entry = item.slot as u32;
                    let size = item.entry.size();
                    let basis = own_items.binary_search_by(|own| own.entry.name.cmp(&item.entry.name));
                    let basis = basis.ok().map(|at| &own_items[at]).filter(|own| own.entry.size() > 0);
                    let knows = item.entry.content().is_some_and(|content| content.is_known());
                    if size > MAX as u64 && knows && (basis.is_some() || !shared.leftovers.is_empty()) {
                        chunks.push((at, entry, basis.cloned()));
                    } else if size > MAX as u64 && knows && shared.site.local.is_some() {
                        jobs.push((at, None, entry));
                    } else {
                        fetch.push(entry);
                        by_src.insert(entry, at);
                    }
                }
                State::Local => {
                    let origin = self.want.origins[item.slot as usize];
                    jobs.push((at, Some(origin.from), origin.src_entry));
                }
                State::Make => make.push(at),
                _ => {}
            }
        }
        let left = fetch.len() + make.len() + jobs.len() + chunks.len() + empty.len();
        let inner = Mutex::new(OpenInner { items, by_src, tries: HashMap::new(), left });
        let open = Arc::new(OpenDir { want: number, src: dir.src, path, place, inner });
        if left == 0 {
            return Ok(());
        }
        shared.pending.fetch_add(left as u64, Ordering::AcqRel);
        if dir.src != NONE {
            self.open.insert(dir.src, open.clone());
        }
        if !fetch.is_empty() {
            fetch.sort_unstable();
            shared.ask_for(fetch.len() as u64, Ask::Fetch { dir: dir.src, entries: fetch })?;
        }
        self.later.extend(chunks.into_iter().map(|(at, entry, basis)| Later { open: open.clone(), at, entry, basis }));
        if !make.is_empty() {
            self.job(Job::Make(open.clone(), make))?;
        }
        if !empty.is_empty() {
            let told = FileItem {
                dir: dir.src,
                entry: NONE,
                len: 0,
                content: Name::of(b""),
                now: None,
                sparse: false,
                state: FileState::Ok,
            };
            self.job(Job::Files(
                empty.into_iter().map(|at| (open.clone(), at, told.clone(), 0..0)).collect(),
                Bytes::new(),
            ))?;
        }
        for (at, from, entry) in jobs {
            match from {
                Some(from) => self.job(Job::Local(open.clone(), at, from, entry))?,
                None => self.job(Job::Share(open.clone(), at, entry))?,
            }
        }
        Ok(())
    }

    /// Starts on a file of which something is here already.
    fn start_delta(&mut self, later: Later) -> Result<()> {
        let Later { open, at, entry, basis } = later;
        let (shared, src) = (self.shared, open.src);
        let basis = match (basis, shared.site.root) {
            (Some(item), Some(root)) => Basis::open(root, &open.path, item, &shared.records)?,
            _ => None,
        };
        let size = lock(&open.inner).items[at as usize].entry.size();
        let delta = Arc::new(Delta::new(basis, size));
        let have = delta.leaves();
        self.bigs.insert((src, entry), InParts::Delta(InDelta { delta, at, next: None }));
        shared.deltas.fetch_add(1, Ordering::AcqRel);
        shared.ask_for(1, Ask::Chunks { dir: src, entry, have })
    }

    /// Makes a staged directory. Its parents came before it.
    fn make_dir(&self, number: u32) -> Result<Dir> {
        let path = stage_path(self.want, number);
        let (above, name) = crate::sys::dir::split_last(&path);
        let stage = &self.shared.site.stage.dir;
        stage
            .open_beneath(above)
            .and_then(|above| above.ensure_dir(name, 0o700))
            .map_err(|cause| staging(&self.want.view.path(number), cause))
    }

    fn files(&mut self, items: Vec<FileItem>, data: Bytes) -> Result<()> {
        self.answered(items.len() as u64)?;
        let mut at = 0usize;
        let mut work = Vec::with_capacity(items.len());
        for item in items {
            let open = self.opened(item.dir)?;
            let position = take_owed(&open, item.entry)?;
            let end =
                usize::try_from(item.len).ok().and_then(|len| at.checked_add(len)).filter(|end| *end <= data.len());
            let end = end.ok_or_else(|| nonsense("less content than it said"))?;
            work.push((open, position, item, at..end));
            at = end;
        }
        self.job(Job::Files(work, data))
    }

    fn begin_big(&mut self, dir: u32, entry: u32) -> Result<()> {
        let open = self.opened(dir)?;
        let at = lock(&open.inner).by_src.get(&entry).copied();
        let at = at.ok_or_else(|| nonsense("a file that was not asked for"))?;
        let item = lock(&open.inner).items[at as usize].clone();
        let (file, placed) = self.shared.create(&open, &item)?;
        // Holes are found by looking: a block of zeros in a big file is one where the source has few blocks.
        let big = Big { open, at, file, placed, sparse: true, left: AtomicU64::new(1), end: Mutex::default() };
        let list: ListBuilder<fn(Name, Vec<u8>)> = ListBuilder::new(ListKind::Chunks, |_, _| ());
        let whole = Whole { big: Arc::new(big), list, writer: ListWriter::default(), first: None, count: 0, offset: 0 };
        self.bigs.insert((dir, entry), InParts::Whole(whole));
        Ok(())
    }

    fn part(&mut self, dir: u32, entry: u32, offset: u64, chunks: Vec<ChunkRef>, data: Bytes) -> Result<()> {
        if !matches!(self.bigs.get(&(dir, entry)), Some(InParts::Whole(_))) {
            self.begin_big(dir, entry)?;
        }
        let Some(InParts::Whole(whole)) = self.bigs.get_mut(&(dir, entry)) else { return Ok(()) };
        let len: u64 = chunks.iter().map(|chunk| u64::from(chunk.len)).sum();
        let is_chunk = |chunk: &ChunkRef| chunk.len > 0 && chunk.len as usize <= MAX;
        if offset != whole.offset || len != data.len() as u64 || !chunks.iter().all(is_chunk) {
            return Err(nonsense("parts of a file that do not fit together"));
        }
        whole.offset += len;
        for chunk in &chunks {
            whole.first.get_or_insert(chunk.name);
            whole.count += 1;
            whole.list.push_chunk(*chunk);
            whole.writer.push(&self.shared.records, *chunk).map_err(|cause| index_error(&cause))?;
        }
        whole.big.left.fetch_add(1, Ordering::AcqRel);
        let big = whole.big.clone();
        self.job(Job::Part(big, offset, chunks, data))
    }

    fn file_end(&mut self, item: FileItem) -> Result<()> {
        let key = (item.dir, item.entry);
        self.answered(1)?;
        if item.state == FileState::Gone || item.state == FileState::Unreadable || item.len == 0 {
            self.bigs.remove(&key);
            let open = self.opened(item.dir)?;
            let at = take_owed(&open, item.entry)?;
            return self.job(Job::Files(vec![(open, at, item, 0..0)], Bytes::new()));
        }
        let Some(InParts::Whole(whole)) = self.bigs.remove(&key) else {
            return Err(nonsense("the end of a file that never began"));
        };
        take_owed(&whole.big.open, item.entry)?;
        let content = match (whole.count, whole.first) {
            (1, Some(only)) => only,
            _ => whole.list.finish(),
        };
        if content != item.content || whole.offset != item.len {
            return Err(nonsense("a file that is not what its name says"));
        }
        let list = match whole.count {
            1 => Ptr::default(),
            _ => whole.writer.finish(&self.shared.records).map_err(|cause| index_error(&cause))?,
        };
        *lock(&whole.big.end) = Some((item, list));
        self.job(Job::End(whole.big))
    }
}

/// The position of a file whose content comes now, all of it: it is owed no longer.
fn take_owed(open: &OpenDir, entry: u32) -> Result<u32> {
    lock(&open.inner).by_src.remove(&entry).ok_or_else(|| nonsense("a file that was not asked for"))
}

impl Shared<'_> {
    fn work(&self, jobs: &crossbeam_channel::Receiver<Job>) {
        /// A writer that dies leaves its work undone: nobody may wait for that.
        struct Alive<'a>(&'a AtomicBool);
        impl Drop for Alive<'_> {
            fn drop(&mut self) {
                if std::thread::panicking() {
                    self.0.store(true, Ordering::Relaxed);
                }
            }
        }
        let _alive = Alive(&self.over);
        while let Ok(job) = jobs.recv() {
            // After a failure the queue is still emptied: whoever fills it must not wait for ever.
            if self.over.load(Ordering::Relaxed) {
                continue;
            }
            if let Err(error) = self.one_job(job) {
                lock(&self.failure).get_or_insert(error);
                self.over.store(true, Ordering::Relaxed);
            }
            self.show(false);
        }
        self.show(true);
    }

    fn one_job(&self, job: Job) -> Result<()> {
        match job {
            Job::Files(work, data) => {
                work.into_iter().try_for_each(|(open, at, item, range)| self.small(&open, at, &item, &data[range]))
            }
            Job::Part(big, offset, chunks, data) => {
                self.write_part(&big, offset, &chunks, &data)?;
                self.end_if_last(&big)
            }
            Job::End(big) => self.end_if_last(&big),
            Job::Local(open, at, from, entry) => self.local(&open, at, from, entry),
            Job::Share(open, at, entry) => self.share(&open, at, entry),
            Job::Make(open, all) => all.into_iter().try_for_each(|at| self.make(&open, at)),
            Job::DeltaPlan(open, at, delta, item) => self.plan_delta(&open, at, &delta, item),
            Job::DeltaRanges(open, at, delta, first, ranges, data) => {
                self.delta_ranges(&open, at, &delta, first, &ranges, &data)
            }
        }
    }

    /// Asks the source for what will bring `answers` answers.
    fn ask_for(&self, answers: u64, ask: Ask) -> Result<()> {
        self.awaited.fetch_add(answers, Ordering::AcqRel);
        self.ask.send(ask).map_err(|_| gone())
    }

    /// A new file for an item, where it is to be staged.
    pub fn create(&self, open: &OpenDir, item: &Item) -> Result<(File, Placed)> {
        let created = match &open.place {
            Some(dir) => place::create(dir, &item.entry.name, item.entry.meta.mode).map(|file| (file, Placed::There)),
            None => self.site.stage.new_slot().and_then(|(slot, dir, name)| {
                Ok((place::create(&dir, &name, item.entry.meta.mode)?, Placed::Slot(slot)))
            }),
        };
        created.map_err(|cause| staging(&join(&open.path, &item.entry.name), cause))
    }

    /// Stages a small file, or takes note that it is not there.
    fn small(&self, open: &OpenDir, at: u32, told: &FileItem, data: &[u8]) -> Result<()> {
        let mut item = lock(&open.inner).items[at as usize].clone();
        if !self.take_told(open, &mut item, told)? {
            // An earlier reading of it may have come in part, and stands in the new folder under its name.
            if let Some(dir) = &open.place {
                dir.remove_all(&item.entry.name)
                    .map_err(|cause| staging(&join(&open.path, &item.entry.name), cause))?;
            }
            return self.settle(open, at, item);
        }
        if !self.trusted && content_name(&chunk::all_chunks(data)) != told.content {
            return Err(nonsense("a file that is not what its name says"));
        }
        if data.len() > MAX {
            // It grew since it was listed, and was told whole nonetheless.
            crate::tree::scan::keep_list(&mut item, &chunk::all_chunks(data), &self.records)
                .map_err(|cause| index_error(&cause))?;
        }
        let (file, placed) = self.create(open, &item)?;
        place::write(&file, data, 0, told.sparse)
            .and_then(|()| if told.sparse { file.set_len(data.len() as u64) } else { Ok(()) })
            .map_err(|cause| staging(&join(&open.path, &item.entry.name), cause))?;
        self.bytes_done.fetch_add(data.len() as u64, Ordering::Relaxed);
        self.dress(open, &file, &mut item, placed, true)?;
        self.settle(open, at, item)
    }

    /// Takes over what the source says a file is now. False if there is nothing to stage.
    pub fn take_told(&self, open: &OpenDir, item: &mut Item, told: &FileItem) -> Result<bool> {
        if let Some(now) = &told.now {
            let mut bytes = &now[..];
            let entry = Entry::decode(&mut bytes).filter(|entry| {
                entry.name == item.entry.name && matches!(entry.kind, EntryKind::File { .. }) && bytes.is_empty()
            });
            item.entry = entry.ok_or_else(|| nonsense("an entry that cannot be read"))?;
        }
        match told.state {
            FileState::Ok => {}
            FileState::Unstable => {
                let path = join(&open.path, &item.entry.name);
                let reason = "it changed while it was read, each time; what is here is one reading of it".to_string();
                lock(&self.staged).left_out.push(LeftOut { path, reason });
            }
            FileState::Gone | FileState::Unreadable => {
                item.state = State::Dropped;
                if told.state == FileState::Unreadable || self.site.no_remove {
                    lock(&self.staged).incomplete = true;
                    // Whatever the target has there is left alone.
                    item.slot = 1;
                } else {
                    item.slot = 0;
                }
                return Ok(false);
            }
        }
        item.entry.kind = EntryKind::File { size: told.len, content: told.content };
        Ok(true)
    }

    fn write_part(&self, big: &Big, offset: u64, chunks: &[ChunkRef], data: &[u8]) -> Result<()> {
        if !self.trusted {
            let mut at = 0;
            for chunk in chunks {
                let end = at + chunk.len as usize;
                if Name::of(&data[at..end]) != chunk.name {
                    return Err(nonsense("a chunk that is not what its name says"));
                }
                at = end;
            }
        }
        self.bytes_done.fetch_add(data.len() as u64, Ordering::Relaxed);
        place::write(&big.file, data, offset, big.sparse).map_err(|cause| {
            let name = lock(&big.open.inner).items[big.at as usize].entry.name.clone();
            staging(&join(&big.open.path, &name), cause)
        })
    }

    fn end_if_last(&self, big: &Big) -> Result<()> {
        if big.left.fetch_sub(1, Ordering::AcqRel) != 1 {
            return Ok(());
        }
        let Some((told, list)) = lock(&big.end).take() else { return Ok(()) };
        let mut item = lock(&big.open.inner).items[big.at as usize].clone();
        self.take_told(&big.open, &mut item, &told)?;
        item.list = list;
        let path = join(&big.open.path, &item.entry.name);
        let filled = if told.sparse { Ok(()) } else { place::fill_holes(&big.file, told.len) };
        filled.and_then(|()| big.file.set_len(told.len)).map_err(|cause| staging(&path, cause))?;
        self.dress(&big.open, &big.file, &mut item, big.placed, true)?;
        self.settle(&big.open, big.at, item)
    }

    /// Gives a staged file its metadata.
    pub fn dress(&self, open: &OpenDir, file: &File, item: &mut Item, placed: Placed, fresh: bool) -> Result<()> {
        let path = join(&open.path, &item.entry.name);
        let refusals = place::dress(file, &item.entry, fresh).map_err(|cause| staging(&path, cause))?;
        item.print.ino = crate::sys::meta::stat_file(file).map_err(|cause| staging(&path, cause))?.st_ino;
        self.refused(path, refusals);
        item.state = placed.state();
        item.slot = placed.slot();
        Ok(())
    }

    pub fn refused(&self, path: Vec<u8>, refusals: Vec<String>) {
        if !refusals.is_empty() {
            let mut staged = lock(&self.staged);
            staged.incomplete = true;
            staged.left_out.extend(refusals.into_iter().map(|reason| LeftOut { path: path.clone(), reason }));
        }
    }

    /// Takes a file from elsewhere in the own tree or from what an earlier try left; if that fails, asks for it.
    fn local(&self, open: &OpenDir, at: u32, from: Source, entry: u32) -> Result<()> {
        let mut item = lock(&open.inner).items[at as usize].clone();
        let taken = match from {
            Source::Own { dir, at } => self.copy_own(open, &item, dir, at)?,
            Source::Salvage { dir, at } => self.take_salvage(open, &item, dir, at)?,
        };
        match taken {
            Some((file, placed, list)) => {
                item.list = list;
                self.bytes_done.fetch_add(item.entry.size(), Ordering::Relaxed);
                let fresh = matches!(from, Source::Own { .. });
                self.dress(open, &file, &mut item, placed, fresh)?;
                self.settle(open, at, item)
            }
            None => self.fetch_instead(open, at, entry),
        }
    }

    fn copy_own(&self, open: &OpenDir, item: &Item, dir: u32, at: u32) -> Result<Option<(File, Placed, Ptr)>> {
        let own = self.site.own;
        let items = own.items(dir).map_err(|cause| index_error(&cause))?;
        let (Some(from), Some(root)) = (items.get(at as usize), self.site.root) else { return Ok(None) };
        let source = root.open_beneath(&own.path(dir)).and_then(|folder| folder.read(&from.entry.name));
        let Ok(source) = source else { return Ok(None) };
        let (file, placed) = self.create(open, item)?;
        if place::copy_unchanged(&source, &file, from)
            .map_err(|cause| staging(&join(&open.path, &item.entry.name), cause))?
        {
            return Ok(Some((file, placed, from.list)));
        }
        self.discard(open, item, placed)?;
        Ok(None)
    }

    fn take_salvage(&self, open: &OpenDir, item: &Item, dir: u32, at: u32) -> Result<Option<(File, Placed, Ptr)>> {
        let Some((view, root)) = self.site.salvage else { return Ok(None) };
        let items = view.items(dir).map_err(|cause| index_error(&cause))?;
        let Some(from) = items.get(at as usize) else { return Ok(None) };
        let Ok(folder) = root.open_beneath(&view.path(dir)) else { return Ok(None) };
        let failed = |cause| staging(&join(&open.path, &item.entry.name), cause);
        let (to, name, placed) = match &open.place {
            Some(place) => (place.open_beneath(b"").map_err(failed)?, item.entry.name.to_vec(), Placed::There),
            None => {
                let (slot, dir, name) = self.site.stage.new_slot().map_err(failed)?;
                (dir, name, Placed::Slot(slot))
            }
        };
        if folder.rename_new(&from.entry.name, &to, &name).is_err() {
            return Ok(None);
        }
        let list = match from.list.is_some() {
            true => self.records.copy_list(&view.records, from.list).map_err(|cause| index_error(&cause))?,
            false => Ptr::default(),
        };
        let file = to.write(&name).map_err(failed)?;
        Ok(Some((file, placed, list)))
    }

    /// A big file of a source in this process: the kernel copies it, or the file system shares it.
    fn share(&self, open: &OpenDir, at: u32, entry: u32) -> Result<()> {
        let mut item = lock(&open.inner).items[at as usize].clone();
        let source = self.site.local.as_ref().and_then(|local| local.open(open.src, entry));
        let Some((source, print, list)) = source else { return self.fetch_instead(open, at, entry) };
        let (file, placed) = self.create(open, &item)?;
        let path = join(&open.path, &item.entry.name);
        let from = Item { print, ..item.clone() };
        if !place::copy_unchanged(&source, &file, &from).map_err(|cause| staging(&path, cause))? {
            self.discard(open, &item, placed)?;
            return self.fetch_instead(open, at, entry);
        }
        let mut writer = ListWriter::default();
        let count = list.len();
        for chunk in list {
            writer.push(&self.records, chunk).map_err(|cause| index_error(&cause))?;
        }
        if count > 1 {
            item.list = writer.finish(&self.records).map_err(|cause| index_error(&cause))?;
        }
        self.bytes_done.fetch_add(item.entry.size(), Ordering::Relaxed);
        self.dress(open, &file, &mut item, placed, true)?;
        self.settle(open, at, item)
    }

    /// Removes a staged file that came to nothing.
    pub fn discard(&self, open: &OpenDir, item: &Item, placed: Placed) -> Result<()> {
        let removed = match (&open.place, placed) {
            (Some(dir), Placed::There) => dir.remove_file(&item.entry.name),
            (_, Placed::Slot(slot)) => {
                let path = Stage::slot_path(slot);
                let (folder, name) = crate::sys::dir::split_last(&path);
                self.site.stage.dir.open_beneath(folder).and_then(|folder| folder.remove_file(name))
            }
            (None, Placed::There) => Ok(()),
        };
        removed.map_err(|cause| staging(&join(&open.path, &item.entry.name), cause))
    }

    /// Asks for the whole file after all.
    pub fn fetch_instead(&self, open: &OpenDir, at: u32, entry: u32) -> Result<()> {
        let mut inner = lock(&open.inner);
        let tries = inner.tries.entry(at).or_default();
        *tries += 1;
        if *tries > TRIES || entry == NONE || open.src == NONE {
            let path = String::from_utf8_lossy(&join(&open.path, &inner.items[at as usize].entry.name)).into_owned();
            return Err(Error::failed(format!("{path} keeps changing in the target while it is used"))
                .hint("run the sync again"));
        }
        inner.by_src.insert(entry, at);
        drop(inner);
        self.ask_for(1, Ask::Fetch { dir: open.src, entries: vec![entry] })
    }

    /// Makes a link, FIFO, socket or device.
    fn make(&self, open: &OpenDir, at: u32) -> Result<()> {
        let mut item = lock(&open.inner).items[at as usize].clone();
        let path = join(&open.path, &item.entry.name);
        let made = match &open.place {
            Some(dir) => place::make(dir, &item.entry.name, &item.entry)
                .and_then(|refusals| Ok((refusals, place::inode_of(dir, &item.entry.name)?, Placed::There))),
            None => self.site.stage.new_slot().and_then(|(slot, dir, name)| {
                Ok((place::make(&dir, &name, &item.entry)?, place::inode_of(&dir, &name)?, Placed::Slot(slot)))
            }),
        };
        match made {
            Ok((refusals, ino, placed)) => {
                item.print.ino = ino;
                self.refused(path, refusals);
                item.state = placed.state();
                item.slot = placed.slot();
            }
            Err(error) if place::is_refusal(&error) => {
                self.refused(path, vec![format!("it could not be made: {error}")]);
                item.state = State::Dropped;
                item.slot = 1;
            }
            Err(cause) => return Err(staging(&path, cause)),
        }
        self.settle(open, at, item)
    }

    fn plan_delta(&self, open: &OpenDir, at: u32, delta: &Delta, told: FileItem) -> Result<()> {
        let mut item = lock(&open.inner).items[at as usize].clone();
        let (dir, entry) = (told.dir, told.entry);
        if !self.take_told(open, &mut item, &told)? {
            self.delta_over(dir, entry);
            return self.settle(open, at, item);
        }
        match delta.plan(self, open, item, told)? {
            Some(ranges) if !ranges.is_empty() => self.ask_for(ranges.len() as u64, Ask::Need { dir, entry, ranges }),
            Some(_) => self.end_delta(open, at, delta, entry),
            None => {
                self.delta_over(dir, entry);
                self.fetch_instead(open, at, entry)
            }
        }
    }

    fn delta_ranges(
        &self,
        open: &OpenDir,
        at: u32,
        delta: &Delta,
        first: u32,
        ranges: &[SentRange],
        data: &[u8],
    ) -> Result<()> {
        if delta.write_ranges(self, open, first, ranges, data)? {
            let entry = delta.entry();
            return self.end_delta(open, at, delta, entry);
        }
        Ok(())
    }

    fn end_delta(&self, open: &OpenDir, at: u32, delta: &Delta, entry: u32) -> Result<()> {
        let finished = delta.finish(self, open)?;
        self.delta_over(open.src, entry);
        match finished {
            Some(item) => self.settle(open, at, item),
            None => self.fetch_instead(open, at, entry),
        }
    }

    fn delta_over(&self, dir: u32, entry: u32) {
        lock(&self.deltas_over).push((dir, entry));
        self.deltas.fetch_sub(1, Ordering::AcqRel);
    }

    pub fn add_bytes_done(&self, bytes: u64) {
        self.bytes_done.fetch_add(bytes, Ordering::Relaxed);
    }

    /// An entry is done with, one way or the other; the directory's record is written with its last.
    fn settle(&self, open: &OpenDir, at: u32, item: Item) -> Result<()> {
        if matches!(item.entry.kind, EntryKind::File { .. }) {
            self.files_done.fetch_add(1, Ordering::Relaxed);
        }
        let mut inner = lock(&open.inner);
        inner.items[at as usize] = item;
        inner.left -= 1;
        if inner.left == 0 {
            let items = std::mem::take(&mut inner.items);
            drop(inner);
            let bytes = crate::tree::view::encode_items(&items);
            let record = self.records.append(&bytes).map_err(|cause| index_error(&cause))?;
            lock(&self.finished).push((open.src, open.want, record));
        }
        self.pending.fetch_sub(1, Ordering::AcqRel);
        Ok(())
    }

    /// Tells how far it is, a few times a second.
    fn show(&self, last: bool) {
        let mut shown = lock(&self.shown);
        if !last && shown.is_some_and(|at| at.elapsed() < Duration::from_millis(100)) {
            return;
        }
        *shown = Some(Instant::now());
        let (files_total, bytes_total) = self.site.totals;
        self.site.observer.event(Event::Moving {
            files_done: self.files_done.load(Ordering::Relaxed).min(files_total),
            files_total,
            bytes_done: self.bytes_done.load(Ordering::Relaxed).min(bytes_total),
            bytes_total,
        });
    }
}

/// The path, from the stage, of a new directory: below the number of the uppermost new directory above it.
pub fn stage_path(want: &Want, dir: u32) -> Vec<u8> {
    let mut names = Vec::new();
    let mut at = dir;
    loop {
        let parent = want.view.dirs[at as usize].parent;
        if at == 0 || want.dirs[parent as usize].how != How::New {
            break;
        }
        names.push(&want.view.dirs[at as usize].name);
        at = parent;
    }
    let mut path = Stage::new_path(at);
    for name in names.iter().rev() {
        path.push(b'/');
        path.extend_from_slice(name);
    }
    path
}

/// Whether a directory is only there because of what is asked for below it.
pub fn is_implied(filter: &Filter, path: &[u8]) -> bool {
    !filter.is_whole_tree() && (path.is_empty() || filter.stand(path, true) == Stand::Above)
}

/// The error for something that could not be staged.
pub fn staging(path: &[u8], cause: std::io::Error) -> Error {
    let error = Error::io(format!("{} could not be staged at the target", String::from_utf8_lossy(path)), cause);
    match error.kind {
        Kind::NoSpace => error.hint("make room at the target and run it again; the target is as it was"),
        _ => error.hint("the target is as it was"),
    }
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
