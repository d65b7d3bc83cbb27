//! The file system: what the kernel asks, answered out of what is known of a tree, or by looking at it.
//!
//! Each answer is given at once where it is known ([`Wait::Never`] says [`Fault::Later`] where it is not), so that whoever asks needs a thread
//! that may block only for what has to be fetched. What never changes is known for good; what may is looked at again after
//! [`FRESH`].

mod fetch;

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use rustix::io::Errno;

use super::ahead::{Known, Streams, Walks};
use super::blocks::{BLOCK, Blocks, Found, Key};
use super::inodes::{Inode, Inodes, number};
use super::pages::{Page, Pages};
use super::pool::Pool;
use crate::model::{Error, Kind, Result};
use crate::sys::attrs::is_view;
use crate::sys::clock::Time;
use crate::tree::entry::EntryKind;
use crate::tree::look::{Look, Seen};

/// How long what may change is believed, here and by the kernel.
pub const FRESH: Duration = Duration::from_secs(1);
/// How long what never changes is.
const FOREVER: Duration = Duration::from_secs(365 * 86_400);
/// Contents that are kept.
pub const CACHE_BYTES: usize = 256 << 20;
const NAME_MAX: usize = 255;
/// Files of which it is remembered how they were opened.
const OPENED: usize = 100_000;
/// How deep below its root something may be for what is believed of all above it to be looked at again.
const DEEP: usize = 1000;

/// Whether an answer may take as long as the tree does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    Never,
    Gladly,
}

/// Why there is no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It has to be waited for.
    Later,
    Errno(Errno),
}

impl From<Errno> for Fault {
    fn from(errno: Errno) -> Fault {
        Fault::Errno(errno)
    }
}

type Answer<T> = std::result::Result<T, Fault>;

/// What `stat` tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attr {
    pub number: u64,
    /// With the bits of its type.
    pub mode: u32,
    pub size: u64,
    /// Units of 512 bytes.
    pub blocks: u64,
    pub mtime: Time,
    pub changed: Time,
    pub links: u32,
    pub uid: u32,
    pub gid: u32,
    pub device: (u32, u32),
    /// How long this may be believed.
    pub good_for: Duration,
}

/// An entry of a directory that is read; `at` is where to go on behind it.
#[derive(Clone, Debug)]
pub struct DirEntry<'a> {
    pub name: &'a [u8],
    pub at: u64,
    pub attr: Attr,
}

/// How an open file's pages are to be treated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opened {
    /// What the kernel has of it is as good as what we would tell.
    Same,
    /// It may have changed.
    Anew,
}

#[derive(Clone)]
pub struct Fs(Arc<Inner>);

struct Inner {
    look: Arc<dyn Look>,
    /// Nothing in the tree ever changes.
    fixed: bool,
    inodes: Inodes,
    pages: Pages,
    blocks: Arc<Blocks>,
    walks: Mutex<Walks>,
    streams: Mutex<Streams>,
    dirs: Mutex<HashMap<u64, Arc<OpenDir>>>,
    /// The versions under which files were opened last.
    opened: Mutex<HashMap<u64, u64>>,
    /// Files whose beginning was fetched when they were opened, and not read yet.
    begun: Mutex<HashSet<u64>>,
    handles: AtomicU64,
    pool: Pool,
}

/// Where a reading of a directory stands.
struct OpenDir {
    number: u64,
    state: Mutex<Reading>,
}

#[derive(Default)]
struct Reading {
    page: Option<Arc<Page>>,
    /// The position of the page's first entry.
    start: u64,
    /// Where further pieces begin: the position, and the name before it.
    starts: Vec<(u64, Box<[u8]>)>,
}

/// Takes an entry, with what was seen of it and when, unless there is no room any more.
type Room<'r> = dyn FnMut(&DirEntry<'_>, Option<&Arc<Seen>>, Instant) -> bool + 'r;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Fs {
    /// Blocks for the first look.
    pub fn new(look: Arc<dyn Look>, cache_bytes: usize) -> Result<Fs> {
        let root = look.root()?;
        Ok(Fs(Arc::new(Inner {
            look,
            fixed: root.version.is_none(),
            inodes: Inodes::new(root, FRESH),
            pages: Pages::new(FRESH),
            blocks: Arc::new(Blocks::new(cache_bytes)),
            walks: Mutex::default(),
            streams: Mutex::default(),
            dirs: Mutex::default(),
            opened: Mutex::default(),
            begun: Mutex::default(),
            handles: AtomicU64::new(1),
            pool: Pool::new(),
        })))
    }

    /// Nothing in the tree ever changes.
    pub fn is_fixed(&self) -> bool {
        self.0.fixed
    }

    /// Runs what may block.
    pub fn later(&self, job: impl FnOnce() + Send + 'static) {
        self.0.pool.run(job);
    }

    /// Inodes that the kernel knows of.
    pub fn inodes(&self) -> usize {
        self.0.inodes.len()
    }

    /// An entry by its name. `Ok(None)`: there is none, and that is so for [`Fs::absence`].
    pub fn lookup(&self, dir: u64, name: &[u8], wait: Wait) -> Answer<Option<Attr>> {
        self.0.or_doubted(dir, self.look_up(dir, name, wait))
    }

    fn look_up(&self, dir: u64, name: &[u8], wait: Wait) -> Answer<Option<Attr>> {
        let fs = &*self.0;
        if name.len() > NAME_MAX {
            return Err(Errno::NAMETOOLONG.into());
        }
        let inode = fs.inode(dir)?;
        let page = fs.pages.find(dir, inode.seen.version.is_some()).filter(|page| page.first);
        let (found, looked) = match page {
            Some(page) if page.is_whole() || page.find(name).is_some() => (page.find(name).cloned(), page.looked),
            // A directory that never changes is known as a whole after one look, if it is not large.
            None if inode.seen.version.is_none() => {
                let page = fs.list(dir, &inode, None, wait)?;
                match page.find(name) {
                    Some(found) => (Some(found.clone()), page.looked),
                    None if page.is_whole() => (None, page.looked),
                    None => fs.find(&inode, name, wait)?,
                }
            }
            _ => fs.find(&inode, name, wait)?,
        };
        Ok(found.map(|seen| {
            fs.inodes.tell(dir, [(&seen, looked)].into_iter());
            attr(&seen, number(&seen))
        }))
    }

    /// How long it may be believed that something is not there.
    pub fn absence(&self) -> Duration {
        if self.0.fixed { FOREVER } else { FRESH }
    }

    pub fn forget(&self, number: u64, count: u64) {
        self.0.inodes.forget(number, count);
    }

    pub fn getattr(&self, number: u64, wait: Wait) -> Answer<Attr> {
        let inode = self.0.current(number, wait)?;
        Ok(attr(&inode.seen, number))
    }

    pub fn readlink(&self, number: u64) -> Answer<Bytes> {
        match &self.0.inode(number)?.seen.entry.kind {
            EntryKind::Symlink { target } => Ok(Bytes::copy_from_slice(target)),
            _ => Err(Errno::INVAL.into()),
        }
    }

    /// The names of the extended attributes, each with a zero behind it.
    pub fn list_xattrs(&self, number: u64, wait: Wait) -> Answer<Vec<u8>> {
        let inode = self.0.current(number, wait)?;
        // A snapshot of a version before this one may have attributes that say nothing here.
        let own = inode.seen.entry.meta.xattrs.iter().filter(|xattr| !is_view(xattr));
        Ok(own.flat_map(|(name, _)| name.iter().copied().chain([0])).collect())
    }

    pub fn xattr(&self, number: u64, name: &[u8], wait: Wait) -> Answer<Bytes> {
        let inode = self.0.current(number, wait)?;
        let xattrs = &inode.seen.entry.meta.xattrs;
        let at = xattrs.binary_search_by(|(key, _)| (**key).cmp(name)).map_err(|_| Errno::NODATA)?;
        match is_view(&xattrs[at]) {
            true => Err(Errno::NODATA.into()),
            false => Ok(Bytes::copy_from_slice(&xattrs[at].1)),
        }
    }

    /// A file is opened: what may have changed is looked at, and its beginning fetched. Where another file has taken its place, the
    /// kernel hears so now, when it can still look for that one.
    pub fn open(&self, number: u64, wait: Wait) -> Answer<Opened> {
        let fs = &*self.0;
        let inode = fs.current(number, wait)?;
        let Some(version) = inode.seen.version else { return Ok(Opened::Same) };
        if lock(&fs.opened).get(&number) != Some(&version) && inode.seen.entry.size() > 0 {
            let key = Key { file: number, version: Some(version), number: 0 };
            if !matches!(fs.blocks.find(&key), Found::Here(_)) {
                fs.or_doubted(number, self.block(&inode, number, 0, wait))?;
                lock(&fs.begun).insert(number);
            }
        }
        let mut opened = lock(&fs.opened);
        if opened.len() > OPENED {
            opened.clear();
            lock(&fs.begun).clear();
        }
        Ok(if opened.insert(number, version) == Some(version) { Opened::Same } else { Opened::Anew })
    }

    /// Up to `len` bytes at `offset`; less only at the end of the file.
    pub fn read(&self, number: u64, offset: u64, len: usize, wait: Wait) -> Answer<Bytes> {
        let inode = self.0.inode(number)?;
        let EntryKind::File { size, .. } = inode.seen.entry.kind else { return Err(Errno::INVAL.into()) };
        // A live file may have grown.
        let end = offset.saturating_add(len as u64);
        let end = if inode.seen.version.is_none() { end.min(size) } else { end };
        let mut pieces: Vec<Bytes> = Vec::new();
        let mut at = offset;
        while at < end {
            let (block, within) = (at / BLOCK as u64, (at % BLOCK as u64) as usize);
            let data = self.0.or_doubted(number, self.block(&inode, number, block, wait))?;
            let step = ((end - at) as usize).min(BLOCK - within);
            let piece = data.slice(within.min(data.len())..(within + step).min(data.len()));
            at += piece.len() as u64;
            let short = piece.len() < step;
            pieces.push(piece);
            if short {
                break;
            }
        }
        Ok(match pieces.len() {
            0 => Bytes::new(),
            1 => pieces.remove(0),
            _ => pieces.concat().into(),
        })
    }

    /// Where the next data or the next hole begins at or behind `offset`.
    pub fn seek(&self, number: u64, offset: u64, hole: bool, wait: Wait) -> Answer<u64> {
        let inode = self.0.current(number, wait)?;
        let size = inode.seen.entry.size();
        if offset >= size {
            return Err(Errno::NXIO.into());
        }
        if inode.seen.disk_bytes >= size {
            return Ok(if hole { size } else { offset });
        }
        if wait == Wait::Never {
            return Err(Fault::Later);
        }
        let data = self.0.look.data(&inode.seen.handle, offset).map_err(|error| fault(&error, Errno::STALE).into());
        let data = self.0.or_doubted(number, data)?;
        match (data, hole) {
            (Some(data), false) if data.start < size => Ok(data.start.max(offset)),
            (Some(data), true) if data.start <= offset => Ok(data.end.min(size)),
            (_, false) => Err(Errno::NXIO.into()),
            (_, true) => Ok(offset),
        }
    }

    /// A directory is opened. One that may have changed is listed, so that the kernel hears now that another one has taken its place.
    pub fn opendir(&self, number: u64, wait: Wait) -> Answer<u64> {
        let inode = self.0.inode(number)?;
        if inode.seen.version.is_some() {
            self.0.or_doubted(number, self.0.list(number, &inode, None, wait))?;
        }
        let handle = self.0.handles.fetch_add(1, Ordering::Relaxed);
        lock(&self.0.dirs).insert(handle, Arc::new(OpenDir { number, state: Mutex::default() }));
        Ok(handle)
    }

    pub fn releasedir(&self, handle: u64) {
        lock(&self.0.dirs).remove(&handle);
    }

    /// The entries of an open directory behind position `from` (0 at its start), until `room` says that it wants no more: `.`, `..`, and the
    /// others in order. `known`: the kernel remembers each entry that it took.
    pub fn readdir(
        &self,
        handle: u64,
        from: u64,
        known: bool,
        wait: Wait,
        room: &mut dyn FnMut(&DirEntry<'_>) -> bool,
    ) -> Answer<()> {
        let fs = &*self.0;
        let open = lock(&fs.dirs).get(&handle).cloned().ok_or(Errno::BADF)?;
        let inode = fs.inode(open.number)?;
        // Two readers of one handle take turns.
        let mut reading = lock(&open.state);
        if from == 0 {
            *reading = Reading::default();
        }
        if reading.page.is_none() {
            reading.page = Some(fs.list(open.number, &inode, None, wait)?);
            reading.start = 0;
        }
        let mut took: Vec<(Arc<Seen>, Instant)> = Vec::new();
        let mut any = false;
        let done = self.entries(&open, &inode, &mut reading, from, wait, &mut |entry, seen, looked| {
            let full = room(entry);
            any |= !full;
            if let (false, true, Some(seen)) = (full, known, seen) {
                took.push((seen.clone(), looked));
            }
            full
        });
        if known {
            fs.inodes.tell(open.number, took.iter().map(|(seen, looked)| (seen, *looked)));
        }
        match done {
            // What was found before it had to be waited for is an answer.
            Err(_) if any => Ok(()),
            done => done,
        }
    }

    fn entries(
        &self,
        open: &OpenDir,
        inode: &Inode,
        reading: &mut Reading,
        from: u64,
        wait: Wait,
        room: &mut Room<'_>,
    ) -> Answer<()> {
        let fs = &*self.0;
        let looked = Instant::now();
        for (at, name) in [(0, b".".as_slice()), (1, b"..")] {
            let attr = attr(&inode.seen, if at == 0 { open.number } else { inode.dir });
            if at >= from && room(&DirEntry { name, at: at + 1, attr }, None, looked) {
                return Ok(());
            }
        }
        let mut position = from.max(2) - 2;
        loop {
            let Some(page) = reading.page.clone() else { return Ok(()) };
            let end = reading.start + page.entries.len() as u64;
            if position < reading.start {
                // Somebody went back: to the last piece that began before.
                let start = reading.starts.iter().rev().find(|(start, _)| *start <= position).cloned();
                reading.starts.retain(|(start, _)| *start <= position);
                let after = start.as_ref().map(|(_, name)| &**name);
                reading.page = Some(fs.list(open.number, inode, after, wait)?);
                reading.start = start.as_ref().map_or(0, |(start, _)| *start);
                continue;
            }
            if position >= end {
                let (true, Some(last)) = (page.more, page.last_name()) else { return Ok(()) };
                reading.page = Some(fs.list(open.number, inode, Some(last), wait)?);
                reading.starts.push((end, last.into()));
                reading.start = end;
                continue;
            }
            for seen in &page.entries[(position - reading.start) as usize..] {
                position += 1;
                let attr = attr(seen, number(seen));
                if room(&DirEntry { name: &seen.entry.name, at: position + 2, attr }, Some(seen), page.looked) {
                    return Ok(());
                }
            }
        }
    }
}

impl Known for Inner {
    fn page(&self, dir: u64) -> Option<Arc<Page>> {
        self.pages.find(dir, self.may_change(dir))
    }
}

impl Inner {
    fn inode(&self, number: u64) -> Answer<Inode> {
        self.inodes.find(number).ok_or(Errno::STALE.into())
    }

    /// Where another entry has taken the place of this one, or of a directory above it, nothing of the way there is believed any
    /// more: the kernel goes it again, and is to find what is there now.
    fn or_doubted<T>(&self, number: u64, answer: Answer<T>) -> Answer<T> {
        if let Err(Fault::Errno(Errno::STALE)) = answer {
            let mut at = number;
            for _ in 0..DEEP {
                self.inodes.expire(at);
                self.pages.forget(at);
                let Some(inode) = self.inodes.find(at).filter(|inode| inode.dir != at) else { break };
                at = inode.dir;
            }
        }
        answer
    }

    /// An inode as it is now, as far as that has to be known.
    fn current(&self, number: u64, wait: Wait) -> Answer<Inode> {
        let inode = self.inode(number)?;
        if self.inodes.is_fresh(&inode) {
            return Ok(inode);
        }
        if wait == Wait::Never {
            return Err(Fault::Later);
        }
        let seen = self.look.again(&inode.seen.handle).map_err(|error| fault(&error, Errno::STALE).into());
        let seen = Arc::new(self.or_doubted(number, seen)?);
        self.inodes.refresh(number, &seen);
        Ok(self.inode(number).unwrap_or(inode))
    }

    fn may_change(&self, dir: u64) -> bool {
        !self.fixed && self.inodes.find(dir).is_none_or(|inode| inode.seen.version.is_some())
    }

    fn find(&self, dir: &Inode, name: &[u8], wait: Wait) -> Answer<(Option<Arc<Seen>>, Instant)> {
        if wait == Wait::Never {
            return Err(Fault::Later);
        }
        let looked = Instant::now();
        // It is the directory that is not there any more: what is said of the name is said by the one in its place.
        let found = self.look.find(&dir.seen.handle, name).map_err(|error| fault(&error, Errno::STALE))?;
        Ok((found.map(Arc::new), looked))
    }

    /// A piece of a directory: from its start out of what is known, if it is.
    fn list(&self, number: u64, inode: &Inode, after: Option<&[u8]>, wait: Wait) -> Answer<Arc<Page>> {
        if after.is_none()
            && let Some(page) = self.pages.find(number, inode.seen.version.is_some()).filter(|page| page.first)
        {
            return Ok(page);
        }
        if wait == Wait::Never {
            return Err(Fault::Later);
        }
        Ok(self.list_of(number, inode.dir, &inode.seen, after)?)
    }

    fn list_of(&self, number: u64, up: u64, dir: &Seen, after: Option<&[u8]>) -> std::result::Result<Arc<Page>, Errno> {
        let looked = Instant::now();
        let mut listing = self.look.list(&dir.handle, after).map_err(|error| fault(&error, Errno::STALE))?;
        // A tree that says that there is more and tells nothing would be asked forever.
        listing.more &= !listing.entries.is_empty();
        let page = Arc::new(Page::new(number, up, after.is_none(), listing, looked));
        self.pages.keep(&page);
        Ok(page)
    }
}

/// What a failure is to whoever reads; `gone` is what it is that something is not there any more.
fn fault(error: &Error, gone: Errno) -> Errno {
    match error.kind {
        Kind::NotFound => gone,
        Kind::Refused => Errno::ACCESS,
        _ => {
            tracing::warn!("{}", error.chain());
            Errno::IO
        }
    }
}

fn attr(seen: &Seen, number: u64) -> Attr {
    let meta = &seen.entry.meta;
    let (kind, size, device) = match &seen.entry.kind {
        EntryKind::File { size, .. } => (libc::S_IFREG, *size, (0, 0)),
        EntryKind::Dir { .. } => (libc::S_IFDIR, 4096, (0, 0)),
        EntryKind::Symlink { target } => (libc::S_IFLNK, target.len() as u64, (0, 0)),
        EntryKind::Fifo => (libc::S_IFIFO, 0, (0, 0)),
        EntryKind::Socket | EntryKind::Link { .. } => (libc::S_IFSOCK, 0, (0, 0)),
        EntryKind::Char { major, minor } => (libc::S_IFCHR, 0, (*major, *minor)),
        EntryKind::Block { major, minor } => (libc::S_IFBLK, 0, (*major, *minor)),
    };
    Attr {
        number,
        mode: kind | meta.mode & 0o7777,
        size,
        blocks: seen.disk_bytes.div_ceil(512),
        mtime: meta.mtime,
        changed: seen.changed,
        links: seen.links.max(1),
        uid: meta.uid,
        gid: meta.gid,
        device,
        good_for: if seen.version.is_none() { FOREVER } else { FRESH },
    }
}

#[cfg(test)]
#[path = "fs_tests.rs"]
mod tests;
