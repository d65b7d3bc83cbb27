//! Looking at a live directory: one walk by several threads, each directory compared with what the index remembers of it;
//! then, where wanted, the reading of every file that is new or changed.

mod contents;
mod gone;
mod links;
mod mapped;

pub use contents::keep_list;
use gone::{Amend, Listed};
use links::LinkName;
pub use mapped::distrust;

use std::io::{ErrorKind, Result};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use rustix::fs::Stat;

use super::entry::EntryKind;
use super::filter::{Filter, Stand, is_real_stage};
use super::read::{self, is_as_printed, look_at};
use super::records::{Ptr, Records, Rows};
use super::view::{DirNode, Item, Links, State, View, encode_items, join};
use crate::model::Name;
use crate::model::sync::LeftOut;
use crate::sys::attrs::drop_views;
use crate::sys::clock::file_clock;
use crate::sys::dir::{Dir, DirName, is_dir, is_gone};
use crate::sys::mapped::Mapped;
use crate::sys::meta;
use crate::sys::stamps::Stamps;

/// Files from this size on are cut by all threads together.
const BIG_BYTES: u64 = 8 << 20;
/// Directories waiting to be read keep their descriptors open, up to this many in all, and of those a thread has just
/// found up to this many: a thousand open files are all that a process may count on.
const OPEN_MAX: usize = 128;
const OPEN_FOUND: usize = 16;

/// How a scan is done, and what it counts while it runs.
pub struct Scan<'a> {
    pub root: &'a Dir,
    pub filter: &'a Filter,
    /// Believe no fingerprint of a file: read everything.
    pub checksum: bool,
    pub counters: &'a Counters,
    pub cancel: &'a AtomicBool,
}

/// The work done, as it is done.
#[derive(Default, Debug)]
pub struct Counters {
    pub files: AtomicU64,
    pub bytes_read: AtomicU64,
}

/// What a scan found beside the view.
#[derive(Default)]
pub struct Findings {
    pub left_out: Vec<LeftOut>,
    /// What is in no view because it has a stage's name, without being one.
    pub reserved: Vec<LeftOut>,
    /// Directories with files that have to be read.
    pub unread: Vec<u32>,
    /// What was written through memory when the walk began: no index vouches for it.
    pub mapped: Mapped,
    /// Directories with files that take less room than their length.
    pub sparse: Vec<u32>,
    /// The index turned out to be damaged; what was damaged has been looked at anew.
    pub damaged: bool,
}

struct Job {
    dir: u32,
    path: Vec<u8>,
    /// Device and inode, as its parent told.
    id: (u64, u64),
    open: Option<Dir>,
}

struct Shared {
    queue: Vec<Job>,
    busy: usize,
    dirs: Vec<DirNode>,
    findings: Findings,
    links: Vec<LinkName>,
    /// What the parents of some directories have to say of them now, by the number of the directory.
    amends: Vec<(u32, Amend)>,
    entries: u64,
    bytes: u64,
    failure: Option<std::io::Error>,
}

impl Scan<'_> {
    /// Walks the tree. Contents of files that the index does not vouch for are left unknown.
    pub fn walk(&self, records: Arc<Records>, old: &Rows) -> Result<(View, Findings)> {
        let stat = self.root.stat_self()?;
        let kind = EntryKind::Dir { content: Name::UNKNOWN };
        let meta = super::entry::Meta { xattrs: meta::xattrs_of(self.root)?, ..Default::default() };
        let mut root = Item::new(super::entry::Entry { name: Box::default(), meta, kind }, Default::default());
        read::take_stat(&stat, &mut root);
        let implied = !self.filter.is_whole_tree();
        if implied {
            root.entry.meta = super::entry::Meta::default();
        }
        let mut node = new_node(0, b"", &stat);
        node.implied = implied;
        let shared = Mutex::new(Shared {
            queue: vec![Job { dir: 0, path: Vec::new(), id: (stat.st_dev, stat.st_ino), open: None }],
            busy: 0,
            dirs: vec![node],
            findings: Findings::default(),
            links: Vec::new(),
            amends: Vec::new(),
            entries: 0,
            bytes: 0,
            failure: None,
        });
        let wake = Condvar::new();
        let mapped = Mapped::now();
        std::thread::scope(|scope| {
            for _ in 0..threads() {
                scope.spawn(|| self.work(&shared, &wake, &records, (old, &mapped)));
            }
        });
        let shared = shared.into_inner().unwrap_or_else(PoisonError::into_inner);
        if let Some(error) = shared.failure {
            return Err(error);
        }
        let mut view = View {
            records,
            root,
            dirs: shared.dirs,
            links: Links::default(),
            entries: shared.entries,
            bytes: shared.bytes,
        };
        let (mut findings, mut links) = (Findings { mapped, ..shared.findings }, shared.links);
        gone::amend(&mut view, shared.amends, &mut links, &mut findings.unread)?;
        self.settle_links(&mut view, links, &mut findings.unread)?;
        spread_protection(&mut view);
        Ok((view, findings))
    }

    fn work(&self, shared: &Mutex<Shared>, wake: &Condvar, records: &Records, before: (&Rows, &Mapped)) {
        loop {
            let mut held = lock(shared);
            let job = loop {
                if held.failure.is_some() || held.queue.is_empty() && held.busy == 0 {
                    wake.notify_all();
                    return;
                }
                if let Some(job) = held.queue.pop() {
                    held.busy += 1;
                    break job;
                }
                held = wake.wait(held).unwrap_or_else(PoisonError::into_inner);
            };
            drop(held);
            let outcome = if self.cancel.load(Ordering::Relaxed) {
                Err(ErrorKind::Interrupted.into())
            } else {
                self.one_dir(job, shared, records, before)
            };
            let mut held = lock(shared);
            held.busy -= 1;
            if let Err(error) = outcome {
                held.failure.get_or_insert(error);
            }
            drop(held);
            wake.notify_all();
        }
    }

    /// What a directory holds, compared with what is remembered of it.
    fn entries(&self, job: &Job, listed: &Listed, records: &Records, (old, mapped): (&Rows, &Mapped)) -> Result<Found> {
        let (dir, own) = (&listed.dir, &listed.own);
        let now = file_clock();
        let stamps = Stamps::of(dir);
        let row = old.get(&(own.st_dev, own.st_ino));
        let mut damaged = false;
        let remembered = match row
            .map(|row| records.read(row.record).and_then(|bytes| super::view::decode_items(&bytes)))
        {
            Some(Ok(items)) => items,
            Some(Err(error)) if error.kind() == ErrorKind::InvalidData || error.kind() == ErrorKind::UnexpectedEof => {
                damaged = true;
                Vec::new()
            }
            Some(Err(error)) => return Err(error),
            None => Vec::new(),
        };
        let mut found = Found::default();
        let mut names: Vec<&DirName> = listed.names.iter().collect();
        names.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        let mut missed = false;
        let mut before = remembered.into_iter().peekable();
        let mut same = row.is_some() && !damaged;
        for entry in names {
            let path = join(&job.path, &entry.name);
            let known_dir = match entry.is_dir {
                Some(is_dir) => is_dir,
                None => dir.stat_if_there(&entry.name).is_ok_and(|stat| stat.as_ref().is_some_and(is_dir)),
            };
            let stand = self.filter.stand(&path, known_dir);
            match stand {
                Stand::Outside => {
                    if self.filter.hides(&path, known_dir) && !is_real_stage(dir, &entry.name) {
                        let reason = "names like this are kept for mcloud's own staging folders".into();
                        found.reserved.push(LeftOut { path, reason });
                    }
                    continue;
                }
                Stand::Protected => {
                    found.protected = true;
                    continue;
                }
                Stand::Above if !known_dir => continue,
                Stand::Above | Stand::In => {}
            }
            let stat = match dir.stat_if_there(&entry.name) {
                Ok(Some(stat)) => stat,
                Ok(None) => {
                    missed = true;
                    continue;
                }
                Err(error) => {
                    found.left_out.push(LeftOut { path, reason: reason("read", &error) });
                    continue;
                }
            };
            while before.peek().is_some_and(|item| item.entry.name < entry.name) {
                before.next();
                same = false;
            }
            let known = before.next_if(|item| item.entry.name == entry.name);
            let is_implied = stand == Stand::Above;
            let stamps = if stat.st_dev == own.st_dev { stamps } else { Stamps::at(dir, &entry.name) };
            let is_told = stamps.vouch(&stat, now) && !mapped.contains(stat.st_dev, stat.st_ino);
            let item = match known {
                Some(mut item)
                    if !is_implied
                        && is_told
                        && self.vouches(&item, &stat)
                        && is_whole(&item, records, &mut damaged) =>
                {
                    // An index of a version before this one may have them.
                    same &= !drop_views(&mut item.entry.meta.xattrs);
                    item
                }
                _ => {
                    same = false;
                    match look_at(dir, &entry.name, &stat, stamps.are_settled(&stat, now)) {
                        Ok(Some(item)) => item,
                        Ok(None) => {
                            found
                                .left_out
                                .push(LeftOut { path, reason: "it is of a kind that cannot be copied".into() });
                            continue;
                        }
                        Err(error) if is_gone(&error) => continue,
                        Err(error) => {
                            found.left_out.push(LeftOut { path, reason: reason("read", &error) });
                            continue;
                        }
                    }
                }
            };
            found.take(item, &stat, path, is_implied, dir);
        }
        same &= before.peek().is_none();
        found.is_removed = missed && !job.path.is_empty() && dir.stat_self()?.st_nlink == 0;
        found.damaged = damaged;
        found.record = match row {
            Some(row) if same => row.record,
            _ => records.append(&encode_items(&found.items))?,
        };
        found.content = row.filter(|_| same).map(|row| row.content);
        Ok(found)
    }

    /// Puts what a directory holds into the view that comes into being; `amend`: what its parent has to say of it.
    fn put(&self, job: &Job, own: &Stat, mut found: Found, amend: Option<Amend>, shared: &Mutex<Shared>) {
        self.counters.files.fetch_add(found.items.len() as u64, Ordering::Relaxed);
        let mut held = lock(shared);
        let first_child = held.dirs.len() as u32;
        for (at, child) in found.children.into_iter().enumerate() {
            let mut node = new_node(job.dir, &child.name, &child.stat);
            node.implied = child.implied;
            let id = node.id;
            held.dirs.push(node);
            let open = if held.queue.len() < OPEN_MAX { child.open } else { None };
            held.queue.push(Job { dir: first_child + at as u32, path: child.path, id, open });
        }
        let node = &mut held.dirs[job.dir as usize];
        node.id = (own.st_dev, own.st_ino);
        node.first_child = first_child;
        node.record = found.record;
        node.protected = found.protected;
        node.content = found.content.unwrap_or(Name::UNKNOWN);
        node.dirty = !node.content.is_known();
        held.entries += found.items.len() as u64;
        held.bytes += found.bytes;
        held.findings.damaged |= found.damaged;
        held.findings.left_out.append(&mut found.left_out);
        held.findings.reserved.append(&mut found.reserved);
        if found.unread {
            held.findings.unread.push(job.dir);
        }
        if found.sparse {
            held.findings.sparse.push(job.dir);
        }
        held.links.extend(found.links.into_iter().map(|(id, at)| LinkName { id, dir: job.dir, at }));
        held.amends.extend(amend.map(|amend| (job.dir, amend)));
    }

    /// Whether what the index says of an entry is still true by its fingerprint.
    fn vouches(&self, item: &Item, stat: &Stat) -> bool {
        let same_kind = read::kind_of(stat).is_some_and(|kind| {
            kind.is_like(&item.entry.kind)
                || matches!(item.entry.kind, EntryKind::Link { .. }) && !matches!(kind, EntryKind::Dir { .. })
        });
        let is_file = matches!(item.entry.kind, EntryKind::File { .. } | EntryKind::Link { .. });
        let is_link = matches!(item.entry.kind, EntryKind::Link { .. });
        item.print.trusted
            && same_kind
            // A further link has no size and time of its own; its inode's change time covers them.
            && (is_link && item.print.ino == stat.st_ino && item.print.ctime == meta::stamps(stat).1
                || !is_link && is_as_printed(stat, item))
            && !(self.checksum && is_file)
            && !item.is_unread()
            && (is_link || item.entry.meta.mode == stat.st_mode & 0o7777)
            && (!is_link || stat.st_nlink > 1)
    }
}

/// What one directory turned out to hold.
#[derive(Default)]
struct Found {
    items: Vec<Item>,
    children: Vec<Child>,
    /// Files with several names: device and inode, position.
    links: Vec<((u64, u64), u32)>,
    left_out: Vec<LeftOut>,
    reserved: Vec<LeftOut>,
    bytes: u64,
    protected: bool,
    unread: bool,
    damaged: bool,
    /// It was removed while it was read.
    is_removed: bool,
    record: Ptr,
    /// Where nothing in it has changed.
    content: Option<Name>,
    sparse: bool,
}

impl Found {
    /// Takes up an entry.
    fn take(&mut self, mut item: Item, stat: &Stat, path: Vec<u8>, implied: bool, dir: &Dir) {
        match item.entry.kind {
            EntryKind::Dir { .. } => {
                // Opened now, so that one that cannot be read is known before its parent is told.
                let open = match dir.open_beneath(&item.entry.name) {
                    Ok(open) => Some(open).filter(|_| self.children.len() < OPEN_FOUND),
                    // It is looked for once more when it is its turn.
                    Err(error) if is_gone(&error) => None,
                    Err(error) => {
                        self.left_out.push(LeftOut { path, reason: reason("opened", &error) });
                        return;
                    }
                };
                if implied {
                    item.entry.meta = super::entry::Meta::default();
                }
                let name = item.entry.name.clone();
                self.children.push(Child { name, path, stat: *stat, implied, open });
            }
            EntryKind::File { size, .. } => {
                self.bytes += size;
                self.unread |= item.is_unread();
                self.sparse |= meta::has_holes(stat);
            }
            // It may yet turn out to be the name that stands for its file.
            EntryKind::Link { .. } => self.sparse |= meta::has_holes(stat),
            _ => {}
        }
        if stat.st_nlink > 1 && !item.entry.is_dir() {
            self.links.push(((stat.st_dev, stat.st_ino), self.items.len() as u32));
        }
        item.state = State::Keep;
        self.items.push(item);
    }
}

struct Child {
    name: Box<[u8]>,
    path: Vec<u8>,
    stat: Stat,
    implied: bool,
    open: Option<Dir>,
}

/// Whether the chunk list that the index has for an item is there and undamaged.
fn is_whole(item: &Item, records: &Records, damaged: &mut bool) -> bool {
    let whole = !item.list.is_some() || records.each_chunk(item.list, |_| ()).is_ok();
    *damaged |= !whole;
    whole
}

fn reason(what: &str, error: &std::io::Error) -> String {
    format!("it could not be {what}: {error}")
}

/// A directory above something protected is protected, too.
fn spread_protection(view: &mut View) {
    for dir in (1..view.dirs.len()).rev() {
        if view.dirs[dir].protected {
            let parent = view.dirs[dir].parent as usize;
            view.dirs[parent].protected = true;
        }
    }
}

fn new_node(parent: u32, name: &[u8], stat: &Stat) -> DirNode {
    DirNode {
        parent,
        name: name.into(),
        id: (stat.st_dev, stat.st_ino),
        record: Default::default(),
        first_child: 0,
        content: Name::UNKNOWN,
        protected: false,
        dirty: true,
        implied: false,
    }
}

/// As many as there are cores for us.
pub fn threads() -> usize {
    std::thread::available_parallelism().map_or(2, |count| count.get().min(16))
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
