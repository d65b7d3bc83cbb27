//! A tree cloned beside itself, its files sharing their blocks: the view of a frozen tenant that outlives the freeze.
//!
//! Cloning takes as long as there are files, not bytes; a snapshot of a btrfs subvolume takes as long as neither. What is
//! cloned belongs to a tenant, so it is walked as a scan walks: by descriptors, through no link. Needs rights to give the
//! clone the owners that the tree has.

use std::collections::HashMap;
use std::io::{Error, ErrorKind, Result};
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use rustix::fs::{FileType, Stat};

use crate::sys::clock::{Time, file_clock};
use crate::sys::copy::{copy_data, reflink};
use crate::sys::dir::Dir;
use crate::sys::stamps::Stamps;
use crate::sys::{meta, subvolume};
use crate::tree::entry::{Entry, EntryKind};
use crate::tree::filter::{is_real_stage, is_stage};
use crate::tree::index::{Stamp, Twin};
use crate::tree::read::look_at;
use crate::tree::scan::threads;
use crate::tree::view::join;

/// Files that one thread takes at a time.
const BATCH: usize = 16;

/// Whether files below `from` can be cloned into `to`: both are folders that are there.
pub fn is_possible(from: &Path, to: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    const PROBES: [&[u8]; 2] = [b".probe-a", b".probe-b"];
    let device = |path: &Path| std::fs::metadata(path).map(|meta| meta.dev()).ok();
    if device(from).is_none() || device(from) != device(to) {
        return false;
    }
    let Ok(dir) = Dir::open(to) else { return false };
    let probe = || -> Result<bool> {
        let [a, b] = [dir.create(PROBES[0], 0o600)?, dir.create(PROBES[1], 0o600)?];
        std::os::unix::fs::FileExt::write_all_at(&a, &[1; 4096], 0)?;
        reflink(&a, &b)
    };
    let shares = probe().unwrap_or(false);
    for name in PROBES {
        let _ = dir.remove_file(name);
    }
    shares
}

/// Whether `from` is a subvolume of which a snapshot can be put into the folder `to`.
pub fn is_snapshot_possible(from: &Path, to: &Path) -> bool {
    const PROBE: &[u8] = b".probe";
    let probe = || -> Result<bool> {
        let (from, to) = (Dir::open(from)?, Dir::open(to)?);
        if !subvolume::is_whole(&from)? {
            return Ok(false);
        }
        // This writes what waits to be written, too: the next one has less to wait for.
        subvolume::snapshot(&from, &to, PROBE)?;
        subvolume::destroy(&to, PROBE)?;
        Ok(true)
    };
    probe().unwrap_or(false)
}

/// Makes `to`, which is not there yet, a snapshot of the subvolume `from`.
pub fn snapshot_tree(from: &Path, to: &Path) -> Result<Snapshotted> {
    let (Some(parent), Some(name)) = (to.parent(), to.file_name()) else { return Err(ErrorKind::InvalidInput.into()) };
    let from = Dir::open(from)?;
    // Whoever can write in it can make subvolumes in it, which a snapshot would show as empty folders.
    if !subvolume::is_whole(&from)? {
        return Err(Error::new(ErrorKind::ResourceBusy, "a subvolume was made in it just now"));
    }
    let (device, now) = (from.stat_self()?.st_dev, file_clock());
    subvolume::snapshot(&from, &Dir::open(parent)?, name.as_encoded_bytes())?;
    Ok(Snapshotted { device, now })
}

/// What a snapshot was made of.
pub struct Snapshotted {
    device: u64,
    now: Time,
}

impl Snapshotted {
    /// Which inode of the snapshot stands for which of the subvolume: those with the same number and stamps.
    pub fn finish(self, to: &Path) -> Result<Vec<Twin>> {
        let root = Dir::open(to)?;
        // Of the same file system as what it was made of.
        let stamps = Stamps::of(&root);
        let mut twins = Vec::new();
        let mut add = |stat: &Stat| {
            let mut was = *stat;
            was.st_dev = self.device;
            twins.push(twin(&was, stat, stamps.are_settled(&was, self.now)));
        };
        add(&root.stat_self()?);
        let mut todo = vec![Vec::new()];
        while let Some(path) = todo.pop() {
            let dir = root.open_beneath(&path)?;
            for found in dir.names()? {
                let stat = dir.stat(&found.name)?;
                add(&stat);
                if FileType::from_raw_mode(stat.st_mode).is_dir() {
                    todo.push(join(&path, &found.name));
                }
            }
        }
        Ok(twins)
    }
}

/// Removes `name` in `dir`, where it is a snapshot.
pub fn remove_snapshot(dir: &Dir, name: &[u8]) {
    let is_one = dir.open_beneath(name).and_then(|inner| subvolume::is_subvolume(&inner));
    if let Ok(true) = is_one
        && let Err(error) = subvolume::destroy(dir, name)
    {
        tracing::warn!("the view {} could not be removed: {error}", crate::model::shown::path(name));
    }
}

/// What was cloned. Directories have their times only after [`Cloned::finish`].
#[derive(Default)]
pub struct Cloned {
    twins: Vec<Twin>,
    /// Each with its path, and whether it was settled.
    dirs: Vec<(Vec<u8>, Entry, Stat, bool)>,
}

enum Job {
    Dir(Vec<u8>),
    Entries(Arc<Pair>, Vec<Box<[u8]>>),
}

/// One directory and its clone.
struct Pair {
    from: Dir,
    to: Dir,
    path: Vec<u8>,
}

#[derive(Default)]
struct Shared {
    queue: Vec<Job>,
    busy: usize,
    cloned: Cloned,
    failure: Option<Error>,
}

struct Work<'a> {
    from: &'a Dir,
    stamps: Stamps,
    to: &'a Dir,
    cancel: &'a AtomicBool,
    shared: Mutex<Shared>,
    wake: Condvar,
    /// The first clone of each file that has several names, by device and inode.
    links: Mutex<HashMap<(u64, u64), Vec<u8>>>,
}

/// Clones what is in `from` into the empty folder `to`. Nothing may write to `from` meanwhile. Fails with `Interrupted`
/// when `cancel` is set, and with `PermissionDenied` where an owner or attribute could not be kept.
pub fn clone_tree(from: &Path, to: &Path, cancel: &AtomicBool) -> Result<Cloned> {
    let (from, to) = (Dir::open(from)?, Dir::open(to)?);
    let shared = Shared { queue: vec![Job::Dir(Vec::new())], ..Shared::default() };
    let work = Work {
        from: &from,
        stamps: Stamps::of(&from),
        to: &to,
        cancel,
        shared: Mutex::new(shared),
        wake: Condvar::new(),
        links: Mutex::default(),
    };
    std::thread::scope(|scope| {
        for _ in 0..threads() {
            scope.spawn(|| work.all());
        }
    });
    let shared = work.shared.into_inner().unwrap_or_else(PoisonError::into_inner);
    match shared.failure {
        Some(error) => Err(error),
        None => Ok(shared.cloned),
    }
}

impl Cloned {
    /// Gives the directories their metadata, the deepest first. Needs nothing of the tree that was cloned. The result tells
    /// which inode of the clone stands for which of the tree.
    pub fn finish(mut self, to: &Path) -> Result<Vec<Twin>> {
        let root = Dir::open(to)?;
        self.dirs.sort_by_key(|(path, ..)| std::cmp::Reverse(path.iter().filter(|byte| **byte == b'/').count()));
        self.dirs.sort_by_key(|(path, ..)| path.is_empty());
        for (path, entry, was, settled) in self.dirs {
            let dir = root.open_beneath(&path)?;
            dress(dir.as_fd(), &entry)?;
            self.twins.push(twin(&was, &dir.stat_self()?, settled));
        }
        Ok(self.twins)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn twin(was: &Stat, is: &Stat, settled: bool) -> Twin {
    let stamp = |stat: &Stat| Stamp { device: stat.st_dev, ino: stat.st_ino, ctime: meta::stamps(stat).1 };
    Twin { was: stamp(was), is: stamp(is), settled }
}

fn dress(file: std::os::fd::BorrowedFd<'_>, entry: &Entry) -> Result<()> {
    let mut refusals = Vec::new();
    meta::apply(file, &entry.wanted(), false, &mut refusals)?;
    refused(refusals)
}

fn refused(mut refusals: Vec<String>) -> Result<()> {
    match refusals.pop() {
        None => Ok(()),
        Some(why) => Err(Error::new(ErrorKind::PermissionDenied, why)),
    }
}

impl Work<'_> {
    fn all(&self) {
        loop {
            let mut held = lock(&self.shared);
            let job = loop {
                if held.failure.is_some() || held.queue.is_empty() && held.busy == 0 {
                    self.wake.notify_all();
                    return;
                }
                if let Some(job) = held.queue.pop() {
                    held.busy += 1;
                    break job;
                }
                held = self.wake.wait(held).unwrap_or_else(PoisonError::into_inner);
            };
            drop(held);
            let outcome = match self.cancel.load(Ordering::Relaxed) {
                true => Err(ErrorKind::Interrupted.into()),
                false => self.one(job),
            };
            let mut held = lock(&self.shared);
            held.busy -= 1;
            if let Err(error) = outcome {
                held.failure.get_or_insert(error);
            }
            drop(held);
            self.wake.notify_all();
        }
    }

    fn one(&self, job: Job) -> Result<()> {
        match job {
            Job::Dir(path) => self.dir(path),
            Job::Entries(pair, names) => {
                let mut twins = Vec::with_capacity(names.len());
                for name in names {
                    twins.extend(self.entry(&pair, &name)?);
                }
                lock(&self.shared).cloned.twins.append(&mut twins);
                Ok(())
            }
        }
    }

    fn dir(&self, path: Vec<u8>) -> Result<()> {
        let pair = Pair { from: self.from.open_beneath(&path)?, to: self.to.open_beneath(&path)?, path };
        let now = file_clock();
        let stat = pair.from.stat_self()?;
        let mut entry =
            Entry { name: Box::default(), meta: Default::default(), kind: EntryKind::Dir { content: unknown() } };
        take_meta(&mut entry, &stat, meta::xattrs_of(&pair.from)?);
        let mut jobs = Vec::new();
        let mut names = Vec::new();
        for found in pair.from.names()? {
            // As scans do: in the root, and nowhere else, stages are nobody's.
            if pair.path.is_empty() && is_stage(&found.name) && is_real_stage(&pair.from, &found.name) {
                continue;
            }
            let stat = pair.from.stat(&found.name)?;
            if FileType::from_raw_mode(stat.st_mode).is_dir() {
                pair.to.make_dir(&found.name, 0o700)?;
                jobs.push(Job::Dir(join(&pair.path, &found.name)));
            } else {
                names.push(found.name);
            }
        }
        let path = pair.path.clone();
        let pair = Arc::new(pair);
        let mut names = names.into_iter().peekable();
        while names.peek().is_some() {
            jobs.push(Job::Entries(pair.clone(), names.by_ref().take(BATCH).collect()));
        }
        let mut held = lock(&self.shared);
        held.cloned.dirs.push((path, entry, stat, self.stamps.are_settled(&stat, now)));
        held.queue.append(&mut jobs);
        Ok(())
    }

    /// Clones what is no directory. Nothing for a further name of a file.
    fn entry(&self, pair: &Pair, name: &[u8]) -> Result<Option<Twin>> {
        let now = file_clock();
        let stat = pair.from.stat(name)?;
        if stat.st_nlink > 1 {
            let mut links = lock(&self.links);
            let path = join(&pair.path, name);
            if let Some(first) = links.get(&(stat.st_dev, stat.st_ino)) {
                let (dir, first) = crate::sys::dir::split_last(first);
                // Each link changes its file's stamp: what is known of such a file is not carried over.
                self.to.open_beneath(dir)?.link(first, &pair.to, name)?;
                return Ok(None);
            }
            make(pair, name, &stat)?;
            links.insert((stat.st_dev, stat.st_ino), path);
            return Ok(None);
        }
        make(pair, name, &stat)?;
        Ok(Some(twin(&stat, &pair.to.stat(name)?, self.stamps.are_settled(&stat, now))))
    }
}

/// Makes the clone of one entry that is no directory.
fn make(pair: &Pair, name: &[u8], stat: &Stat) -> Result<()> {
    if FileType::from_raw_mode(stat.st_mode).is_file() {
        let from = pair.from.read(name)?;
        let to = pair.to.create(name, 0o600)?;
        if !reflink(&from, &to)? {
            let size = stat.st_size as u64;
            to.set_len(size)?;
            copy_data(&from, 0, &to, 0, size)?;
        }
        let kind = EntryKind::File { size: 0, content: unknown() };
        let mut entry = Entry { name: Box::default(), meta: Default::default(), kind };
        take_meta(&mut entry, stat, meta::xattrs_of(&from)?);
        return dress(to.as_fd(), &entry);
    }
    let Some(item) = look_at(&pair.from, name, stat, false)? else { return Ok(()) };
    let node = |major, minor| {
        let kind = FileType::from_raw_mode(stat.st_mode).as_raw_mode();
        pair.to.make_node(name, kind | item.entry.meta.mode, major, minor)
    };
    match &item.entry.kind {
        EntryKind::Symlink { target } => pair.to.make_symlink(name, target)?,
        EntryKind::Fifo | EntryKind::Socket => node(0, 0)?,
        EntryKind::Char { major, minor } | EntryKind::Block { major, minor } => node(*major, *minor)?,
        EntryKind::File { .. } | EntryKind::Dir { .. } | EntryKind::Link { .. } => {
            return Err(ErrorKind::InvalidInput.into());
        }
    }
    let mut refusals = Vec::new();
    meta::apply_at(&pair.to, name, &item.entry.wanted(), &mut refusals)?;
    refused(refusals)
}

fn unknown() -> crate::model::Name {
    crate::model::Name::UNKNOWN
}

fn take_meta(entry: &mut Entry, stat: &Stat, xattrs: Vec<meta::Xattr>) {
    entry.meta.mode = stat.st_mode & 0o7777;
    entry.meta.uid = stat.st_uid;
    entry.meta.gid = stat.st_gid;
    entry.meta.mtime = meta::stamps(stat).0;
    entry.meta.xattrs = xattrs;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sync::{Cancel, LiveDir, Observer, local};

    struct Yes;
    impl Observer for Yes {
        fn event(&self, _: crate::model::sync::Event) {}
        fn confirm(&self, _: &crate::model::sync::Plan) -> crate::model::Result<bool> {
            Ok(true)
        }
    }

    /// A tree with a bit of everything, older than a tick.
    fn tree(root: &Path) {
        use std::os::unix::fs::PermissionsExt;
        std::fs::create_dir_all(root.join("a/b")).unwrap();
        for number in 0..40 {
            std::fs::write(root.join(format!("a/f{number}")), vec![number; 1000 * usize::from(number)]).unwrap();
        }
        std::fs::write(root.join("a/b/big"), vec![7; 300_000]).unwrap();
        std::fs::hard_link(root.join("a/b/big"), root.join("other")).unwrap();
        std::os::unix::fs::symlink("a/b", root.join("link")).unwrap();
        std::fs::set_permissions(root.join("a/f1"), std::fs::Permissions::from_mode(0o4750)).unwrap();
        std::fs::set_permissions(root.join("a/b"), std::fs::Permissions::from_mode(0o500)).unwrap();
        std::thread::sleep(std::time::Duration::from_millis(40));
    }

    fn live(dir: &Path, name: &str) -> LiveDir {
        LiveDir { root: dir.join(name), index: Some(dir.join(format!("{name}.idx"))), label: name.to_owned() }
    }

    /// Folders with files that a scan would have to read.
    fn unread(dir: &LiveDir) -> usize {
        use crate::tree::{filter::Filter, records::Records, scan};
        let (records, rows, _) = Records::open(dir.index.as_deref()).unwrap();
        let (filter, root) = (Filter::new(b"", b"", &[]).unwrap(), Dir::open(&dir.root).unwrap());
        let (counters, cancel) = (scan::Counters::default(), AtomicBool::new(false));
        let scan = scan::Scan { root: &root, filter: &filter, checksum: false, counters: &counters, cancel: &cancel };
        scan.walk(Arc::new(records), &rows).unwrap().1.unread.len()
    }

    #[test]
    fn a_clone_is_the_same_tree_and_what_is_known_of_one_is_known_of_the_other() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        tree(&dir.join("tree"));
        let copy =
            |from: &LiveDir, to: &LiveDir| local(from, to, &Default::default(), Arc::new(Yes), Cancel::default());
        let (tree, copied) = (live(dir, "tree"), live(dir, "copied"));
        // What makes the index of the tree.
        let first = copy(&tree, &copied).unwrap();
        std::fs::create_dir(dir.join("clone")).unwrap();
        let cloned = clone_tree(&dir.join("tree"), &dir.join("clone"), &AtomicBool::new(false)).unwrap();
        let twins = cloned.finish(&dir.join("clone")).unwrap();
        let clone = live(dir, "clone");
        crate::tree::index::carry_over(&dir.join("tree.idx"), &dir.join("clone.idx"), &twins, &Default::default())
            .unwrap();
        assert_eq!(unread(&clone), 2, "only the folders of the file with two names are");
        let second = copy(&clone, &copied).unwrap();
        assert_eq!(second.root_source, first.root_source, "content and metadata, links and times");
        assert_eq!(second.files_created + second.files_updated + second.files_removed, 0);
        // And back: a tree whose index is lost learns from its clone's.
        std::fs::remove_file(dir.join("tree.idx")).unwrap();
        let back: Vec<Twin> = twins.iter().filter_map(Twin::back).collect();
        crate::tree::index::carry_over(&dir.join("clone.idx"), &dir.join("tree.idx"), &back, &Default::default())
            .unwrap();
        assert_eq!(unread(&tree), 2);
        assert_eq!(copy(&tree, &copied).unwrap().root_source, first.root_source);
    }

    #[test]
    fn a_clone_lacks_the_stages_in_the_root_and_nothing_else() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        for path in [".mcloud-stage/files", ".mcloud-stage.x/mine", "a/.mcloud-stage/files", "a/.mcloud-stage.x"] {
            std::fs::create_dir_all(dir.join("tree").join(path)).unwrap();
        }
        for path in [".mcloud-stage", ".mcloud-stage.x", "a/.mcloud-stage"] {
            std::fs::set_permissions(dir.join("tree").join(path), std::fs::Permissions::from_mode(0o700)).unwrap();
        }
        std::fs::write(dir.join("tree/a/.mcloud-stage/files/1"), "somebody's").unwrap();
        std::fs::create_dir(dir.join("clone")).unwrap();
        clone_tree(&dir.join("tree"), &dir.join("clone"), &AtomicBool::new(false)).unwrap();
        let has = |path: &str| dir.join("clone").join(path).exists();
        assert!(!has(".mcloud-stage"), "a stage");
        assert!(has(".mcloud-stage.x/mine") && has("a/.mcloud-stage/files/1") && has("a/.mcloud-stage.x"));
    }

    #[test]
    fn what_is_doubted_is_read_again_whatever_its_stamps_say() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        tree(&dir.join("tree"));
        let (tree, copied) = (live(dir, "tree"), live(dir, "copied"));
        let copy = || local(&tree, &copied, &Default::default(), Arc::new(Yes), Cancel::default()).unwrap();
        copy();
        assert_eq!(unread(&tree), 0);
        let stat = Dir::open(&dir.join("tree/a")).unwrap().stat(b"f30").unwrap();
        let mut mapped = crate::sys::mapped::Mapped::default();
        mapped.add(Some(stat.st_dev), stat.st_ino);
        crate::tree::index::doubt(&dir.join("tree.idx"), &mapped).unwrap();
        assert_eq!(unread(&tree), 1);
        assert_eq!(copy().files_updated, 0);
    }

    #[test]
    fn a_clone_that_is_cancelled_says_so() {
        let dir = tempfile::tempdir().unwrap();
        tree(&dir.path().join("tree"));
        std::fs::create_dir(dir.path().join("clone")).unwrap();
        let cloned = clone_tree(&dir.path().join("tree"), &dir.path().join("clone"), &AtomicBool::new(true));
        assert_eq!(cloned.err().map(|error| error.kind()), Some(ErrorKind::Interrupted));
    }
}
