//! The thread that asks the source and takes what comes: hands it to the writers, and keeps count of what is owed.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;

use super::{AHEAD, Big, DELTAS, Job, OpenDir, OpenInner, Shared, lock, stage_path, staging};
use crate::model::{Name, Result};
use crate::sync::cancelled;
use crate::sync::delta::{Basis, Delta};
use crate::sync::source::index_error;
use crate::sync::talk::{Talk, gone, nonsense};
use crate::sync::want::{How, NONE, Want};
use crate::sys::dir::Dir;
use crate::tree::chunk::MAX;
use crate::tree::link::{Ask, ChunkRef, FileItem, FileState, Tell};
use crate::tree::node::{ListBuilder, ListKind};
use crate::tree::records::{ListWriter, Ptr};
use crate::tree::view::{Item, State};

/// The thread that asks and takes.
pub struct Taker<'a, 'b> {
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

impl<'a, 'b> Taker<'a, 'b> {
    pub fn new(shared: &'a Shared<'b>, want: &'a mut Want, jobs: crossbeam_channel::Sender<Job>) -> Taker<'a, 'b> {
        let (open, bigs) = (HashMap::new(), HashMap::new());
        Taker { shared, want, jobs, open, bigs, later: VecDeque::new(), next: 0 }
    }

    pub fn run(&mut self, talk: &mut Talk<'_>) -> Result<()> {
        loop {
            if self.shared.site.cancel.load(Ordering::Relaxed) {
                return Err(cancelled());
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
