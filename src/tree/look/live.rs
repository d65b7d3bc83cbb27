//! A live directory that is looked at, as it is at each moment.
//!
//! A handle is the entry's path and its inode: what stands at the path is only taken for the entry if it has that inode still. A
//! file that another one has taken the place of can be read on for a while ([`Held`]). Paths are walked beneath the root by [`Dir`], which follows no link, whatever a tenant puts in the way.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, ErrorKind};
use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use rustix::fs::Stat;

use super::held::Held;
use super::{Handle, LIST_BYTES, LIST_ENTRIES, Listing, Look, Piece, Seen, Slice};
use crate::model::{Error, Kind, Result, shown};
use crate::sys::clock::{Time, file_clock};
use crate::sys::dir::{Dir, split_last};
use crate::sys::memory::append_at;
use crate::sys::stamps::Stamps;
use crate::sys::{copy, meta};
use crate::tree::entry::{Entry, EntryKind, Meta};
use crate::tree::filter::is_stage;
use crate::tree::read::kind_of;

/// Directories whose names are kept while somebody pages through them, and how many names that may be in all.
const KEPT_LISTS: usize = 8;
const KEPT_NAMES: usize = 2_000_000;
/// How often a file that is replaced while it is looked at is looked at again.
const TRIES: u32 = 16;

/// The directory at a path, which is trusted.
#[derive(Debug)]
pub struct Live {
    root: Dir,
    device: u64,
    stamps: Stamps,
    /// How people know it.
    label: String,
    lists: Mutex<VecDeque<Names>>,
    held: Held,
}

/// The sorted names of a large directory, as they were at one moment.
#[derive(Clone, Debug)]
struct Names {
    dir: Handle,
    version: u64,
    names: Arc<Vec<Box<[u8]>>>,
}

impl Live {
    pub fn open(path: &Path, label: &str) -> Result<Live> {
        let cannot = |error: io::Error| Error::io(format!("cannot look at {label}"), error);
        let root = Dir::open(path).map_err(cannot)?;
        let device = root.stat_self().map_err(cannot)?.st_dev;
        let (stamps, lists, held) = (Stamps::of(&root), Mutex::default(), Held::default());
        Ok(Live { root, device, stamps, label: label.to_owned(), lists, held })
    }

    /// The directory that a handle names, and what it is.
    fn dir(&self, handle: &Handle) -> Result<(Dir, Stat)> {
        let (path, inode) = parse(handle)?;
        let opened = self.root.open_beneath(path).and_then(|dir| Ok((dir.stat_self()?, dir)));
        match opened {
            Ok((stat, dir)) if path.is_empty() || stat.st_ino == inode => Ok((dir, stat)),
            Ok(_) => Err(self.gone(path)),
            Err(error) => Err(self.failed(path, error)),
        }
    }

    fn seen(&self, dir: &Dir, below: &[u8], name: &[u8]) -> io::Result<Option<Seen>> {
        let now = file_clock();
        let stat = dir.stat(name)?;
        let Some(mut kind) = kind_of(&stat) else { return Ok(None) };
        if let EntryKind::Symlink { target } = &mut kind {
            *target = dir.read_link(name)?.into_bytes().into();
        }
        let xattrs = meta::xattrs_at(dir, name)?;
        Ok(Some(self.describe(&join(below, name), name, kind, xattrs, (&stat, now))))
    }

    /// `now`: a time before the stat.
    fn describe(
        &self,
        path: &[u8],
        name: &[u8],
        kind: EntryKind,
        xattrs: Vec<meta::Xattr>,
        (stat, now): (&Stat, Time),
    ) -> Seen {
        let (mtime, changed) = meta::stamps(stat);
        let (uid, gid) = (stat.st_uid, stat.st_gid);
        let meta = Meta { mode: stat.st_mode & 0o7777, uid, gid, mtime, xattrs };
        // Inodes of something mounted below the root are another file system's.
        let id = if stat.st_dev == self.device { stat.st_ino } else { mix([stat.st_dev, stat.st_ino, 0, 0]) };
        Seen {
            entry: Entry { name: name.into(), meta, kind },
            handle: handle(path, stat.st_ino),
            id,
            version: Some(self.version(stat, now)),
            links: u32::try_from(stat.st_nlink).unwrap_or(u32::MAX),
            disk_bytes: u64::try_from(stat.st_blocks).unwrap_or(0) * 512,
            changed,
        }
    }

    /// As long as a change would leave the same stamps, each moment is a version of its own: what is read is not kept.
    fn version(&self, stat: &Stat, now: Time) -> u64 {
        let stamped = stamped(stat);
        match stat.st_dev == self.device && self.stamps.are_past(stat, now) {
            true => stamped,
            false => mix([stamped, bits(now), 0, 0]),
        }
    }

    /// The names of a directory, sorted; read again only when it has changed since.
    fn names(&self, handle: &Handle, dir: &Dir, stat: &Stat, paging: bool) -> io::Result<Arc<Vec<Box<[u8]>>>> {
        let version = stamped(stat);
        if paging {
            let lists = self.lists();
            if let Some(kept) = lists.iter().find(|kept| kept.dir == *handle && kept.version == version) {
                return Ok(kept.names.clone());
            }
        }
        let at_root = parse(handle).is_ok_and(|(path, _)| path.is_empty());
        let mut names: Vec<Box<[u8]>> = dir.names()?.into_iter().map(|found| found.name).collect();
        names.retain(|name| !at_root || !is_stage(name));
        names.sort_unstable();
        let names = Arc::new(names);
        if names.len() > LIST_ENTRIES && names.len() <= KEPT_NAMES {
            let mut lists = self.lists();
            lists.retain(|kept| kept.dir != *handle);
            lists.push_back(Names { dir: handle.clone(), version, names: names.clone() });
            while lists.len() > KEPT_LISTS || lists.iter().map(|kept| kept.names.len()).sum::<usize>() > KEPT_NAMES {
                lists.pop_front();
            }
        }
        Ok(names)
    }

    fn lists(&self) -> std::sync::MutexGuard<'_, VecDeque<Names>> {
        self.lists.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Holds a file that was seen; false if it is not there any more.
    fn hold(&self, dir: &Dir, name: &[u8], seen: &Seen) -> bool {
        let is_it = |file: &File| {
            let inode = parse(&seen.handle).map(|(_, inode)| inode);
            meta::stat_file(file).is_ok_and(|stat| inode.is_ok_and(|inode| inode == stat.st_ino))
        };
        match dir.read(name) {
            Ok(file) if is_it(&file) => {
                self.held.put(&seen.handle, Arc::new(file));
                true
            }
            Ok(_) => false,
            // One that cannot be opened is not held, and shown all the same.
            Err(error) => error.kind() != ErrorKind::NotFound,
        }
    }

    /// A file that another one has taken the place of.
    fn held(&self, handle: &Handle) -> Option<Result<Seen>> {
        let (path, _) = parse(handle).ok()?;
        let file = self.held.find(handle)?;
        let now = file_clock();
        let looked = meta::stat_file(&file).and_then(|stat| Ok((stat, meta::xattrs_of(&*file)?)));
        Some(looked.map_err(|error| self.failed(path, error)).and_then(|(stat, xattrs)| {
            let kind = kind_of(&stat).ok_or_else(|| self.gone(path))?;
            Ok(self.describe(path, split_last(path).1, kind, xattrs, (&stat, now)))
        }))
    }

    fn file(&self, handle: &Handle, near: &mut Option<(Vec<u8>, Dir)>) -> Result<(Arc<File>, Stat)> {
        match self.file_there(handle, near) {
            Err(error) if error.kind == Kind::NotFound => {
                let file = self.held.find(handle).ok_or(error)?;
                let stat = meta::stat_file(&file).map_err(|error| self.failed(b"", error))?;
                Ok((file, stat))
            }
            there => there,
        }
    }

    fn file_there(&self, handle: &Handle, near: &mut Option<(Vec<u8>, Dir)>) -> Result<(Arc<File>, Stat)> {
        let (path, inode) = parse(handle)?;
        let (parent, name) = split_last(path);
        if near.as_ref().is_none_or(|(open, _)| open != parent) {
            let dir = self.root.open_beneath(parent).map_err(|error| self.failed(path, error))?;
            *near = Some((parent.to_vec(), dir));
        }
        let Some((_, dir)) = near else { return Err(self.gone(path)) };
        let opened = dir.read(name).and_then(|file| Ok((meta::stat_file(&file)?, file)));
        match opened {
            Ok((stat, file)) if stat.st_ino == inode => Ok((Arc::new(file), stat)),
            Ok(_) => Err(self.gone(path)),
            Err(error) => Err(self.failed(path, error)),
        }
    }

    fn slice(&self, slice: &Slice, near: &mut Option<(Vec<u8>, Dir)>) -> Result<Piece> {
        let now = file_clock();
        let ((file, before), is_there) = match self.file_there(&slice.file, near) {
            Err(error) if error.kind == Kind::NotFound => {
                let file = self.held.find(&slice.file).ok_or(error)?;
                let before = meta::stat_file(&file).map_err(|error| self.failed(b"", error))?;
                ((file, before), false)
            }
            there => (there?, true),
        };
        let mut data = Vec::new();
        let read = append_at(&file, &mut data, slice.len as usize, slice.offset).and_then(|_| meta::stat_file(&file));
        match read {
            Ok(after) => {
                let is_part = slice.offset > 0 || (data.len() as u64) < u64::try_from(after.st_size).unwrap_or(0);
                match is_there {
                    // Somebody is in the middle of it: what is still to come is to be of the same file.
                    true if is_part => self.held.put(&slice.file, file),
                    // Not what was written to it elsewhere while it was read.
                    false if self.held.find(&slice.file).is_none() => return Err(self.gone(parse(&slice.file)?.0)),
                    _ => {}
                }
                // What changed while it was read is of no version.
                let version = self.version(&before, now);
                let still = stamped(&before) == stamped(&after);
                Ok(Piece { data: data.into(), version: Some(if still { version } else { !version }) })
            }
            Err(error) => Err(self.failed(parse(&slice.file)?.0, error)),
        }
    }

    fn gone(&self, path: &[u8]) -> Error {
        let path = shown::path(path);
        Error::new(Kind::NotFound, format!("{}: `{path}` is no longer there", self.label))
    }

    fn failed(&self, path: &[u8], error: io::Error) -> Error {
        use rustix::io::Errno;
        // A link or another thing stands where a directory was, or the walk was kept from leaving the root.
        let moved = [Errno::LOOP, Errno::NOTDIR, Errno::XDEV, Errno::NOENT, Errno::STALE];
        if error.kind() == ErrorKind::NotFound || Errno::from_io_error(&error).is_some_and(|no| moved.contains(&no)) {
            return self.gone(path);
        }
        Error::io(format!("{}: cannot read `{}`", self.label, shown::path(path)), error)
    }
}

impl Look for Live {
    fn root(&self) -> Result<Seen> {
        let now = file_clock();
        let looked = self.root.stat_self().and_then(|stat| Ok(((stat, now), meta::xattrs_of(&self.root)?)));
        let ((stat, now), xattrs) = looked.map_err(|error| self.failed(b"", error))?;
        let kind = EntryKind::Dir { content: crate::model::Name::UNKNOWN };
        Ok(self.describe(b"", b"", kind, xattrs, (&stat, now)))
    }

    fn list(&self, handle: &Handle, after: Option<&[u8]>) -> Result<Listing> {
        let (dir, stat) = self.dir(handle)?;
        let (path, _) = parse(handle)?;
        let failed = |error| self.failed(path, error);
        let names = self.names(handle, &dir, &stat, after.is_some()).map_err(failed)?;
        let start = after.map_or(0, |after| names.partition_point(|name| **name <= *after));
        let mut listing = Listing::default();
        let mut bytes = 0;
        for (at, name) in names.iter().enumerate().skip(start) {
            match self.seen(&dir, path, name) {
                Ok(Some(seen)) => {
                    bytes += size(&seen);
                    listing.entries.push(seen);
                }
                Ok(None) => {}
                // Gone since its name was read.
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(self.failed(&join(path, name), error)),
            }
            if listing.entries.len() == LIST_ENTRIES || bytes >= LIST_BYTES {
                listing.more = at + 1 < names.len();
                break;
            }
        }
        Ok(listing)
    }

    fn find(&self, handle: &Handle, name: &[u8]) -> Result<Option<Seen>> {
        let (dir, _) = self.dir(handle)?;
        let (path, _) = parse(handle)?;
        if path.is_empty() && is_stage(name) {
            return Ok(None);
        }
        let mut seen = self.seen(&dir, path, name);
        for _ in 0..TRIES {
            match &seen {
                Ok(Some(found)) if matches!(found.entry.kind, EntryKind::File { .. }) => {
                    if self.hold(&dir, name, found) {
                        break;
                    }
                }
                // Nothing is there while one is taken away and the other put there by two steps: that is how it is.
                _ => break,
            }
            seen = self.seen(&dir, path, name);
        }
        match seen {
            Ok(seen) => Ok(seen),
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::InvalidInput) => Ok(None),
            Err(error) => Err(self.failed(&join(path, name), error)),
        }
    }

    fn again(&self, handle: &Handle) -> Result<Seen> {
        let (path, inode) = parse(handle)?;
        if path.is_empty() {
            return self.root();
        }
        let (parent, name) = split_last(path);
        let seen = self.root.open_beneath(parent).and_then(|dir| self.seen(&dir, parent, name));
        match seen {
            Ok(Some(seen)) if parse(&seen.handle)?.1 == inode => Ok(seen),
            Ok(_) => self.held(handle).unwrap_or_else(|| Err(self.gone(path))),
            Err(error) => match self.failed(path, error) {
                gone if gone.kind == Kind::NotFound => self.held(handle).unwrap_or(Err(gone)),
                error => Err(error),
            },
        }
    }

    fn read(&self, slices: &[Slice]) -> Vec<Result<Piece>> {
        let mut near = None;
        slices.iter().map(|slice| self.slice(slice, &mut near)).collect()
    }

    fn data(&self, handle: &Handle, offset: u64) -> Result<Option<Range<u64>>> {
        let (file, stat) = self.file(handle, &mut None)?;
        if offset >= u64::try_from(stat.st_size).unwrap_or(0) {
            return Ok(None);
        }
        let (path, _) = parse(handle)?;
        copy::data_from(&file, offset).map_err(|error| self.failed(path, error))
    }
}

fn join(dir: &[u8], name: &[u8]) -> Vec<u8> {
    if dir.is_empty() { name.to_vec() } else { [dir, b"/", name].concat() }
}

fn handle(path: &[u8], inode: u64) -> Handle {
    Handle(Bytes::from([path, &inode.to_le_bytes()].concat()))
}

/// Path and inode. A handle from outside may be anything; its path is walked by what takes no step outside.
fn parse(handle: &Handle) -> Result<(&[u8], u64)> {
    let no_handle = || Error::new(Kind::NotFound, "this is no entry of a live directory");
    let (path, inode) = handle.0.split_last_chunk::<8>().ok_or_else(no_handle)?;
    if path.first() == Some(&b'/') || path.contains(&0) {
        return Err(no_handle());
    }
    Ok((path, u64::from_le_bytes(*inode)))
}

/// About what it takes up in an answer.
fn size(seen: &Seen) -> usize {
    let xattrs: usize = seen.entry.meta.xattrs.iter().map(|(key, value)| key.len() + value.len()).sum();
    let target = if let EntryKind::Symlink { target } = &seen.entry.kind { target.len() } else { 0 };
    120 + 2 * seen.entry.name.len() + xattrs + target
}

fn bits(time: Time) -> u64 {
    time.seconds.cast_unsigned().wrapping_mul(1_000_000_000).wrapping_add(time.nanos.into())
}

fn stamped(stat: &Stat) -> u64 {
    let (mtime, changed) = meta::stamps(stat);
    mix([bits(mtime), bits(changed), stat.st_size.cast_unsigned(), stat.st_ino])
}

/// One number for several: FNV-1a over their bytes.
fn mix(numbers: [u64; 4]) -> u64 {
    let bytes = numbers.iter().flat_map(|number| number.to_le_bytes());
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{FileExt, MetadataExt, symlink};

    use super::*;

    fn tree() -> (tempfile::TempDir, Live) {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root");
        fs::create_dir_all(root.join("sub")).unwrap();
        fs::write(root.join("sub/a"), "aaa").unwrap();
        fs::hard_link(root.join("sub/a"), root.join("b")).unwrap();
        symlink("../secret", root.join("link")).unwrap();
        fs::write(dir.path().join("secret"), "outside").unwrap();
        fs::create_dir(root.join(".mcloud-stage")).unwrap();
        let live = Live::open(&root, "shop").unwrap();
        crate::sys::stamps::next_tick();
        (dir, live)
    }

    fn slice(seen: &Seen) -> Slice {
        Slice { file: seen.handle.clone(), offset: 0, len: 100 }
    }

    fn names(listing: &Listing) -> Vec<&[u8]> {
        listing.entries.iter().map(|seen| &*seen.entry.name).collect()
    }

    #[test]
    fn a_directory_comes_with_all_that_stat_tells() {
        let (dir, live) = tree();
        let root = live.root().unwrap();
        let listing = live.list(&root.handle, None).unwrap();
        assert_eq!(names(&listing), [b"b".as_slice(), b"link", b"sub"]);
        let b = &listing.entries[0];
        let stat = fs::metadata(dir.path().join("root/b")).unwrap();
        assert_eq!((b.id, u64::from(b.links), b.disk_bytes), (stat.ino(), 2, stat.blocks() * 512));
        assert_eq!(b.entry.kind, EntryKind::File { size: 3, content: crate::model::Name::UNKNOWN });
        assert_eq!(listing.entries[1].entry.kind, EntryKind::Symlink { target: b"../secret"[..].into() });
        let sub = &listing.entries[2];
        let a = live.find(&sub.handle, b"a").unwrap().unwrap();
        assert_eq!((a.id, a.handle == b.handle), (b.id, false), "one file, two names");
        assert_eq!(live.again(&a.handle).unwrap(), a);
        let read = live.read(&[slice(&a), slice(b), slice(sub)]);
        assert_eq!(&read[0].as_ref().unwrap().data[..], b"aaa");
        assert_eq!(read[1].as_ref().unwrap().version, b.version);
        assert!(read[2].is_err(), "a directory has no content");
        assert!(live.find(&root.handle, b"none").unwrap().is_none());
        assert!(live.find(&root.handle, b"..").unwrap().is_none());
    }

    #[test]
    fn what_is_replaced_is_gone_and_what_is_written_has_another_version() {
        let (dir, live) = tree();
        let root = live.root().unwrap();
        let listed = live.list(&root.handle, None).unwrap().entries;
        let b = listed.into_iter().find(|seen| *seen.entry.name == *b"b").unwrap();
        crate::sys::stamps::next_tick();
        fs::write(dir.path().join("root/b"), "more").unwrap();
        crate::sys::stamps::next_tick();
        let now = live.again(&b.handle).unwrap();
        assert_ne!(now.version, b.version);
        assert_eq!(live.read(&[slice(&b)])[0].as_ref().unwrap().version, now.version);
        fs::write(dir.path().join("root/new"), "other").unwrap();
        fs::rename(dir.path().join("root/new"), dir.path().join("root/b")).unwrap();
        let errors = [live.again(&b.handle).unwrap_err(), live.read(&[slice(&b)]).remove(0).unwrap_err()];
        assert!(errors.iter().all(|error| error.kind == Kind::NotFound), "{errors:?}");
    }

    #[test]
    fn no_handle_leads_outside() {
        let (dir, live) = tree();
        let secret = fs::metadata(dir.path().join("secret")).unwrap().ino();
        let outside = fs::metadata(dir.path()).unwrap().ino();
        for path in ["../secret", "/etc/passwd", "link", "sub/../../secret", "sub\0", ""] {
            for inode in [secret, outside, 0] {
                let handle = handle(path.as_bytes(), inode);
                let file = Slice { file: handle.clone(), offset: 0, len: 9 };
                assert!(live.read(&[file])[0].is_err(), "{path}");
                assert!(path.is_empty() || live.list(&handle, None).is_err(), "{path}");
                assert!(live.data(&handle, 0).is_err(), "{path}");
            }
        }
        assert!(live.list(&Handle(Bytes::from_static(b"short")), None).is_err());
        // A directory that becomes a link to the outside after it was found.
        let root = live.root().unwrap();
        let sub = live.find(&root.handle, b"sub").unwrap().unwrap();
        let a = live.find(&sub.handle, b"a").unwrap().unwrap();
        fs::rename(dir.path().join("root/sub"), dir.path().join("sub")).unwrap();
        symlink("../sub", dir.path().join("root/sub")).unwrap();
        // Whoever had it open has what was in the tree, and nothing that comes to be in it outside.
        assert_eq!(live.read(&[slice(&a)])[0].as_ref().unwrap().data[..], b"aaa"[..]);
        assert_eq!(live.again(&a.handle).unwrap().entry.size(), 3);
        crate::sys::stamps::next_tick();
        fs::write(dir.path().join("sub/a"), "new").unwrap();
        assert_eq!(live.read(&[slice(&a)])[0].as_ref().unwrap_err().kind, Kind::NotFound);
        assert_eq!(live.again(&a.handle).unwrap_err().kind, Kind::NotFound);
        assert!(live.data(&a.handle, 0).is_err());
        assert_eq!(live.list(&sub.handle, None).unwrap_err().kind, Kind::NotFound);
    }

    #[test]
    fn a_large_directory_comes_in_pieces_while_it_changes() {
        let (dir, live) = tree();
        let count = 2 * LIST_ENTRIES + 10;
        for at in 0..count {
            fs::write(dir.path().join(format!("root/sub/{at:05}")), "").unwrap();
        }
        let root = live.root().unwrap();
        let sub = live.find(&root.handle, b"sub").unwrap().unwrap();
        let mut found: Vec<Box<[u8]>> = Vec::new();
        loop {
            let listing = live.list(&sub.handle, found.last().map(|name| &**name)).unwrap();
            assert!(listing.entries.len() <= LIST_ENTRIES);
            found.extend(listing.entries.into_iter().map(|seen| seen.entry.name));
            if !listing.more {
                break;
            }
            let _ = fs::remove_file(dir.path().join("root/sub/08000"));
        }
        assert_eq!(found.len(), count, "with `a`, and without the one that was removed");
        assert!(found.is_sorted());
    }

    #[test]
    fn a_file_that_is_replaced_is_read_on_by_who_looked_at_it_and_the_new_one_by_who_looks_again() {
        let (dir, live) = tree();
        let root = live.root().unwrap();
        let replace = |name: &str, content: &[u8]| {
            fs::write(dir.path().join("root/next"), content).unwrap();
            fs::rename(dir.path().join("root/next"), dir.path().join("root").join(name)).unwrap();
        };
        replace("one", b"old");
        let old = live.find(&root.handle, b"one").unwrap().unwrap();
        replace("one", b"newer");
        let new = live.find(&root.handle, b"one").unwrap().unwrap();
        let read = |seen: &Seen| live.read(&[slice(seen)]).remove(0).map(|piece| piece.data);
        assert_eq!((read(&old).unwrap(), read(&new).unwrap()), (b"old"[..].into(), b"newer"[..].into()));
        assert_eq!(live.again(&old.handle).unwrap().entry.size(), 3);
        // Found in a listing and read in part, a large one is read to its end; one that was not read at all is gone.
        replace("one", &[1; 100_000]);
        let listed = live.list(&root.handle, None).unwrap().entries;
        let found = |name: &[u8]| listed.iter().find(|seen| *seen.entry.name == *name).unwrap().clone();
        let (large, small) = (found(b"one"), found(b"b"));
        let part = |offset| Slice { file: large.handle.clone(), offset, len: 50_000 };
        assert_eq!(live.read(&[part(0)])[0].as_ref().unwrap().data[..], [1; 50_000]);
        replace("one", &[2; 100_000]);
        replace("b", b"other");
        assert_eq!(live.read(&[part(50_000)])[0].as_ref().unwrap().data[..], [1; 50_000]);
        assert_eq!(read(&small).unwrap_err().kind, Kind::NotFound);
        assert_eq!(live.again(&small.handle).unwrap_err().kind, Kind::NotFound);
    }

    #[test]
    fn holes_are_told() {
        let (dir, live) = tree();
        let file = fs::File::create(dir.path().join("root/holes")).unwrap();
        file.set_len(4 << 20).unwrap();
        file.write_all_at(&[1; 4096], 1 << 20).unwrap();
        let root = live.root().unwrap();
        let holes = live.find(&root.handle, b"holes").unwrap().unwrap();
        assert!(holes.disk_bytes < 4 << 20);
        let first = live.data(&holes.handle, 0).unwrap().unwrap();
        assert!(first.contains(&(1 << 20)) && first.end <= 2 << 20, "{first:?}");
        assert_eq!(live.data(&holes.handle, first.end).unwrap(), None);
        assert_eq!(live.data(&holes.handle, 5 << 20).unwrap(), None);
    }
}
