//! The file system without a kernel: walked as `tar` does, read at random, with a tree that fails.

use std::collections::BTreeMap;
use std::fs;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::AtomicBool;

use super::*;
use crate::tree::look::live::Live;
use crate::tree::look::{Handle, Listing, Piece, READ_BYTES, Slice};

/// A live directory that counts what it is asked, says that it never changes if it is told to, and fails when it is told to.
struct Counted {
    live: Live,
    fixed: bool,
    away: AtomicBool,
    lists: AtomicU64,
    finds: AtomicU64,
    reads: AtomicU64,
    agains: AtomicU64,
}

impl Counted {
    fn at(path: &Path, fixed: bool) -> Arc<Counted> {
        let live = Live::open(path, "here").unwrap();
        let zero = AtomicU64::default;
        let away = AtomicBool::default();
        Arc::new(Counted { live, fixed, away, lists: zero(), finds: zero(), reads: zero(), agains: zero() })
    }

    fn asked(&self, count: &AtomicU64) -> Result<()> {
        count.fetch_add(1, Ordering::SeqCst);
        if self.away.load(Ordering::SeqCst) { Err(Error::new(Kind::Unreachable, "away")) } else { Ok(()) }
    }

    fn still(&self, mut seen: Seen) -> Seen {
        if self.fixed {
            seen.version = None;
        }
        seen
    }
}

impl Look for Counted {
    fn root(&self) -> Result<Seen> {
        self.live.root().map(|seen| self.still(seen))
    }

    fn list(&self, dir: &Handle, after: Option<&[u8]>) -> Result<Listing> {
        self.asked(&self.lists)?;
        let mut listing = self.live.list(dir, after)?;
        listing.entries = listing.entries.into_iter().map(|seen| self.still(seen)).collect();
        Ok(listing)
    }

    fn find(&self, dir: &Handle, name: &[u8]) -> Result<Option<Seen>> {
        self.asked(&self.finds)?;
        Ok(self.live.find(dir, name)?.map(|seen| self.still(seen)))
    }

    fn again(&self, handle: &Handle) -> Result<Seen> {
        self.asked(&self.agains)?;
        assert!(!self.fixed, "what never changes is not looked at again");
        self.live.again(handle)
    }

    fn read(&self, slices: &[Slice]) -> Vec<Result<Piece>> {
        let asked = self.asked(&self.reads);
        assert!(slices.iter().map(|slice| slice.len as usize).sum::<usize>() <= READ_BYTES);
        let still = |piece: Piece| if self.fixed { Piece { version: None, ..piece } } else { piece };
        match asked {
            Ok(()) => self.live.read(slices).into_iter().map(|piece| piece.map(still)).collect(),
            Err(_) => slices.iter().map(|_| Err(Error::new(Kind::Unreachable, "away"))).collect(),
        }
    }

    fn data(&self, file: &Handle, offset: u64) -> Result<Option<Range<u64>>> {
        self.live.data(file, offset)
    }
}

fn bytes(seed: usize, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

/// Folders two deep, with small files and a large one.
fn grow(root: &Path) -> usize {
    let mut files = 0;
    for dir in 0..12 {
        for sub in 0..4 {
            let path = root.join(format!("d{dir:02}/s{sub}"));
            fs::create_dir_all(&path).unwrap();
            for file in 0..20 {
                files += 1;
                fs::write(path.join(format!("f{file:02}")), bytes(files, 100 + files * 7)).unwrap();
            }
        }
        fs::write(root.join(format!("d{dir:02}/zero")), "").unwrap();
    }
    fs::write(root.join("large"), bytes(0, 5 * BLOCK + 77)).unwrap();
    files + 13
}

fn all(fs: &Fs, number: u64) -> Vec<(Vec<u8>, Attr)> {
    let handle = fs.opendir(number, Wait::Gladly).unwrap();
    let mut found: Vec<(Vec<u8>, Attr)> = Vec::new();
    let mut from = 0;
    loop {
        let before = found.len();
        // As little room as the kernel may have.
        let mut room = 30;
        fs.readdir(handle, from, true, Wait::Gladly, &mut |entry| {
            if room == 0 {
                return true;
            }
            room -= 1;
            from = entry.at;
            found.push((entry.name.to_vec(), entry.attr));
            false
        })
        .unwrap();
        if found.len() == before {
            break;
        }
    }
    fs.releasedir(handle);
    found.retain(|(name, _)| name != b"." && name != b"..");
    found
}

/// Reads all there is below a directory as `tar` does: path to content.
fn walk(fs: &Fs, number: u64, path: &str, out: &mut BTreeMap<String, Vec<u8>>) {
    for (name, attr) in all(fs, number) {
        let path = format!("{path}/{}", String::from_utf8(name).unwrap());
        match attr.mode & libc::S_IFMT {
            libc::S_IFDIR => walk(fs, attr.number, &path, out),
            _ => {
                let mut content = Vec::new();
                loop {
                    let data = fs.read(attr.number, content.len() as u64, 128 << 10, Wait::Gladly).unwrap();
                    if data.is_empty() {
                        break;
                    }
                    content.extend_from_slice(&data);
                }
                out.insert(path, content);
            }
        }
        fs.forget(attr.number, 1);
    }
}

#[test]
fn a_tree_that_is_walked_comes_in_few_answers() {
    for fixed in [true, false] {
        let dir = tempfile::tempdir().unwrap();
        let files = grow(dir.path());
        let tree = Counted::at(dir.path(), fixed);
        let fs = Fs::new(tree.clone(), CACHE_BYTES).unwrap();
        let mut found = BTreeMap::new();
        walk(&fs, 1, "", &mut found);
        assert_eq!(found.len(), files);
        for (path, content) in &found {
            assert!(*content == fs::read(dir.path().join(&path[1..])).unwrap(), "{path}");
        }
        let reads = tree.reads.load(Ordering::SeqCst);
        assert!(reads < files as u64 / 5, "{reads} answers for {files} files");
        assert_eq!(tree.finds.load(Ordering::SeqCst), 0, "listed entries are known");
        assert_eq!(fs.inodes(), 1, "all were forgotten");
        if fixed {
            let dirs = 1 + 12 + 48;
            // The walk ahead and its reader may list one at the same moment.
            assert!(tree.lists.load(Ordering::SeqCst) < 2 * dirs, "each directory is listed once");
            let again = tree.lists.load(Ordering::SeqCst);
            walk(&fs, 1, "", &mut found);
            assert_eq!(tree.lists.load(Ordering::SeqCst), again, "and not a second time");
            assert_eq!(tree.reads.load(Ordering::SeqCst), reads, "nor is any content");
        }
    }
}

#[test]
fn a_large_file_is_read_ahead_and_at_random() {
    let dir = tempfile::tempdir().unwrap();
    let content = bytes(1, 40 * BLOCK + 1234);
    fs::write(dir.path().join("large"), &content).unwrap();
    let tree = Counted::at(dir.path(), true);
    let fs = Fs::new(tree.clone(), 16 * BLOCK).unwrap();
    let file = fs.lookup(1, b"large", Wait::Gladly).unwrap().unwrap();
    let mut at = 0;
    while at < content.len() {
        let data = fs.read(file.number, at as u64, 100_000, Wait::Gladly).unwrap();
        assert!(data[..] == content[at..(at + 100_000).min(content.len())], "at {at}");
        at += data.len();
    }
    let reads = tree.reads.load(Ordering::SeqCst);
    assert!(reads <= 12, "{reads} answers for 41 blocks");
    for seed in 0..200u64 {
        let at = (seed * 7_919_333) as usize % content.len();
        let len = (seed * 104_729) as usize % (3 * BLOCK);
        let data = fs.read(file.number, at as u64, len, Wait::Gladly).unwrap();
        assert!(data[..] == content[at..(at + len).min(content.len())], "{len} at {at}");
    }
    assert_eq!(fs.read(file.number, content.len() as u64 + 5, 10, Wait::Gladly).unwrap().len(), 0);
}

#[test]
fn a_large_directory_is_read_whole_and_from_any_place() {
    let dir = tempfile::tempdir().unwrap();
    let names: Vec<String> = (0..10_000).map(|at| format!("{at:05}")).collect();
    names.iter().for_each(|name| fs::write(dir.path().join(name), name).unwrap());
    for fixed in [true, false] {
        let tree = Counted::at(dir.path(), fixed);
        let fs = Fs::new(tree.clone(), CACHE_BYTES).unwrap();
        let found = all(&fs, 1);
        assert!(found.iter().map(|(name, _)| name.as_slice()).eq(names.iter().map(String::as_bytes)));
        let handle = fs.opendir(1, Wait::Gladly).unwrap();
        for from in [9_999u64, 4_100, 2, 7_000, 100, 0] {
            let mut first = Vec::new();
            let skip = from + 2;
            fs.readdir(handle, skip, false, Wait::Gladly, &mut |entry| {
                let full = !first.is_empty();
                if !full {
                    first = entry.name.to_vec();
                }
                full
            })
            .unwrap();
            // A fresh handle begins anywhere, too.
            assert_eq!(first, names[from as usize].as_bytes(), "{from}");
        }
        assert!(fs.lookup(1, b"00000", Wait::Gladly).unwrap().is_some());
        assert!(fs.lookup(1, b"09999", Wait::Gladly).unwrap().is_some());
        assert!(fs.lookup(1, b"none", Wait::Gladly).unwrap().is_none());
    }
}

#[test]
fn who_may_not_wait_is_told_so_and_a_tree_that_fails_is_asked_again() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("file"), "content").unwrap();
    let tree = Counted::at(dir.path(), true);
    let fs = Fs::new(tree.clone(), CACHE_BYTES).unwrap();
    assert_eq!(fs.lookup(1, b"file", Wait::Never), Err(Fault::Later));
    tree.away.store(true, Ordering::SeqCst);
    assert_eq!(fs.lookup(1, b"file", Wait::Gladly), Err(Fault::Errno(Errno::IO)));
    tree.away.store(false, Ordering::SeqCst);
    let file = fs.lookup(1, b"file", Wait::Gladly).unwrap().unwrap();
    assert_eq!(fs.lookup(1, b"file", Wait::Never).unwrap(), Some(file));
    assert_eq!(fs.lookup(1, b"other", Wait::Never).unwrap(), None);
    assert_eq!(fs.read(file.number, 0, 10, Wait::Never), Err(Fault::Later));
    tree.away.store(true, Ordering::SeqCst);
    assert_eq!(fs.read(file.number, 0, 10, Wait::Gladly), Err(Fault::Errno(Errno::IO)));
    tree.away.store(false, Ordering::SeqCst);
    assert_eq!(&fs.read(file.number, 0, 10, Wait::Gladly).unwrap()[..], b"content");
    tree.away.store(true, Ordering::SeqCst);
    assert_eq!(&fs.read(file.number, 3, 10, Wait::Never).unwrap()[..], b"tent", "what was read is known");
    assert_eq!(fs.read(99, 0, 1, Wait::Never), Err(Fault::Errno(Errno::STALE)));
    assert_eq!(fs.lookup(1, &[b'x'; 256], Wait::Never), Err(Fault::Errno(Errno::NAMETOOLONG)));
}

#[test]
fn what_changes_is_seen_when_it_is_opened_again() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("file");
    fs::write(&path, "before").unwrap();
    crate::sys::stamps::next_tick();
    let tree = Counted::at(dir.path(), false);
    let fs = Fs::new(tree.clone(), CACHE_BYTES).unwrap();
    let file = fs.lookup(1, b"file", Wait::Gladly).unwrap().unwrap();
    assert_eq!(fs.open(file.number, Wait::Gladly), Ok(Opened::Anew));
    assert_eq!(&fs.read(file.number, 0, 100, Wait::Gladly).unwrap()[..], b"before");
    assert_eq!(fs.open(file.number, Wait::Gladly), Ok(Opened::Same));
    crate::sys::stamps::next_tick();
    fs::write(&path, "after it").unwrap();
    std::thread::sleep(FRESH);
    assert_eq!(fs.open(file.number, Wait::Gladly), Ok(Opened::Anew));
    assert_eq!(fs.getattr(file.number, Wait::Never).unwrap().size, 8);
    assert_eq!(&fs.read(file.number, 0, 100, Wait::Gladly).unwrap()[..], b"after it");
    fs::remove_file(&path).unwrap();
    std::thread::sleep(FRESH);
    assert_eq!(fs.getattr(file.number, Wait::Gladly).unwrap().size, 8, "who has it open sees it as before");
    assert_eq!(fs.lookup(1, b"file", Wait::Gladly), Ok(None));
}

#[test]
fn what_was_listed_and_replaced_since_is_found_on_the_second_try_whatever_is_believed_of_the_way_there() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir_all(dir.path().join("a/b")).unwrap();
    fs::write(dir.path().join("a/b/file"), "old").unwrap();
    let fs = Fs::new(Counted::at(dir.path(), false), CACHE_BYTES).unwrap();
    let listed = |number: u64, name: &[u8]| all(&fs, number).into_iter().find(|(own, _)| own == name).unwrap().1.number;
    let looked = |number: u64, name: &[u8]| fs.lookup(number, name, Wait::Gladly).map(|attr| attr.unwrap().number);
    let (a, b) = (listed(1, b"a"), listed(listed(1, b"a"), b"b"));
    let file = listed(b, b"file");
    // A file alone: opening it says so.
    fs::write(dir.path().join("next"), "new").unwrap();
    fs::rename(dir.path().join("next"), dir.path().join("a/b/file")).unwrap();
    assert_eq!(fs.open(file, Wait::Gladly), Err(Fault::Errno(Errno::STALE)));
    let found = looked(looked(looked(1, b"a").unwrap(), b"b").unwrap(), b"file").unwrap();
    fs.open(found, Wait::Gladly).unwrap();
    assert_eq!(&fs.read(found, 0, 9, Wait::Gladly).unwrap()[..], b"new");
    // A folder with all in it.
    let (a_again, b_again) = (listed(1, b"a"), listed(a, b"b"));
    assert_eq!((a_again, b_again), (a, b));
    fs::create_dir_all(dir.path().join("c/b")).unwrap();
    fs::write(dir.path().join("c/b/file"), "newest").unwrap();
    fs::rename(dir.path().join("a"), dir.path().join("aside")).unwrap();
    fs::rename(dir.path().join("c"), dir.path().join("a")).unwrap();
    std::thread::sleep(FRESH / 20);
    assert_eq!(fs.lookup(b, b"other", Wait::Gladly), Err(Fault::Errno(Errno::STALE)), "not: there is no such file");
    let found = looked(looked(looked(1, b"a").unwrap(), b"b").unwrap(), b"file").unwrap();
    fs.open(found, Wait::Gladly).unwrap();
    assert_eq!(&fs.read(found, 0, 9, Wait::Gladly).unwrap()[..], b"newest");
    assert_eq!(fs.opendir(a, Wait::Gladly), Err(Fault::Errno(Errno::STALE)));
}

#[test]
fn holes_are_found_from_every_place() {
    let dir = tempfile::tempdir().unwrap();
    let file = fs::File::create(dir.path().join("holes")).unwrap();
    file.set_len(8 << 20).unwrap();
    file.write_all_at(&[1; 65536], 4 << 20).unwrap();
    fs::write(dir.path().join("full"), "full").unwrap();
    let fs = Fs::new(Counted::at(dir.path(), true), CACHE_BYTES).unwrap();
    let number = |name: &[u8]| fs.lookup(1, name, Wait::Gladly).unwrap().unwrap().number;
    let (holes, full) = (number(b"holes"), number(b"full"));
    for offset in [0, 1 << 20, 4 << 20, (4 << 20) + 100, 5 << 20, (8 << 20) - 1, 8 << 20] {
        for hole in [false, true] {
            let want = if hole { rustix::fs::SeekFrom::Hole(offset) } else { rustix::fs::SeekFrom::Data(offset) };
            let want = rustix::fs::seek(&file, want).map_err(Fault::Errno);
            assert_eq!(fs.seek(holes, offset, hole, Wait::Gladly), want, "{offset} {hole}");
        }
    }
    assert_eq!(fs.seek(full, 1, false, Wait::Never), Ok(1));
    assert_eq!(fs.seek(full, 1, true, Wait::Never), Ok(4));
}
