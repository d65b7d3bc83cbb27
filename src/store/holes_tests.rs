//! A snapshot has the holes that its tree had, in the same files and at the same places.

use std::fs::{self, File};
use std::ops::Range;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use super::Store;
use super::holes::Holes;
use super::look::Shown;
use super::snapshot::{Snapshot, Volume};
use super::tests::{open_store, restore, take};
use crate::model::sync::SyncOptions;
use crate::sys::copy;
use crate::tree::look::{Look, Seen};

const MIB: u64 = 1 << 20;

/// A file of `size` bytes with these ranges of data.
fn sparse(path: &Path, size: u64, data: &[Range<u64>]) {
    let file = File::create(path).unwrap();
    file.set_len(size).unwrap();
    for range in data {
        let mut bytes = vec![0; (range.end - range.start) as usize];
        blake3::Hasher::new().update(path.as_os_str().as_encoded_bytes()).finalize_xof().fill(&mut bytes);
        file.write_all_at(&bytes, range.start).unwrap();
    }
    file.sync_all().unwrap();
}

/// Holes of every sort, beside files with the same content and none.
fn grow(root: &Path) {
    fs::create_dir_all(root.join("deep/er")).unwrap();
    sparse(&root.join("deep/er/large"), 80 * MIB, &[5 * MIB + 4096..6 * MIB, 70 * MIB..70 * MIB + 8192]);
    sparse(&root.join("deep/small"), 40_960, &[0..0, 8192..12_288]);
    sparse(&root.join("all"), 3 * MIB, &[]);
    sparse(&root.join("start"), 2 * MIB, &[0..0, 0..4096]);
    let many: Vec<_> = (0..300).map(|at| at * 16_384..at * 16_384 + 4096).collect();
    sparse(&root.join("many"), 6 * MIB, &many);
    fs::hard_link(root.join("start"), root.join("deep/again")).unwrap();
    for (name, like) in [("deep/dense-small", "deep/small"), ("dense-many", "many"), ("dense-all", "all")] {
        fs::write(root.join(name), fs::read(root.join(like)).unwrap()).unwrap();
        File::open(root.join(name)).unwrap().sync_all().unwrap();
    }
    fs::write(root.join("zeros"), vec![0; 100_000]).unwrap();
    File::open(root.join("zeros")).unwrap().sync_all().unwrap();
}

const SPARSE: [&str; 6] = ["deep/er/large", "deep/small", "all", "start", "deep/again", "many"];
const DENSE: [&str; 4] = ["deep/dense-small", "dense-many", "dense-all", "zeros"];

/// The holes of a file, as its file system tells them.
fn holes(path: &Path) -> Vec<Range<u64>> {
    let file = File::open(path).unwrap();
    file.sync_all().unwrap();
    copy::holes(&file, file.metadata().unwrap().len(), usize::MAX).unwrap()
}

fn shown(store: &Arc<Store>, volume: &Volume) -> Shown {
    Shown::of(store.clone(), volume, Arc::new(store.pin(Vec::new())), b"secret").unwrap()
}

fn find(shown: &Shown, path: &str) -> Seen {
    let step = |at: Seen, name: &str| shown.find(&at.handle, name.as_bytes()).unwrap().unwrap();
    path.split('/').fold(shown.root().unwrap(), step)
}

/// The holes of a file, as a mount of the snapshot asks for them.
fn holes_shown(shown: &Shown, seen: &Seen) -> Vec<Range<u64>> {
    let (mut found, mut at, size) = (Vec::new(), 0, seen.entry.size());
    while at < size {
        let data = shown.data(&seen.handle, at).unwrap();
        let start = data.as_ref().map_or(size, |data| data.start);
        if at < start {
            found.push(at..start);
        }
        at = data.map_or(size, |data| data.end);
    }
    found
}

fn assert_shows(store: &Arc<Store>, snapshot: &Snapshot, source: &Path) {
    let shown = shown(store, &snapshot.volumes[0]);
    for path in SPARSE.into_iter().chain(DENSE) {
        let (seen, real) = (find(&shown, path), holes(&source.join(path)));
        assert_eq!(holes_shown(&shown, &seen), real, "{path}");
        let filled = seen.entry.size() - real.iter().map(|hole| hole.end - hole.start).sum::<u64>();
        assert_eq!(seen.disk_bytes, filled, "{path}");
    }
}

fn assert_restores(store: &Store, snapshot: &Snapshot, source: &Path, target: &Path) {
    restore(store, snapshot, target, &SyncOptions::default()).unwrap();
    for path in SPARSE.into_iter().chain(DENSE) {
        assert_eq!(holes(&target.join(path)), holes(&source.join(path)), "{path}");
        let same = fs::read(target.join(path)).unwrap() == fs::read(source.join(path)).unwrap();
        assert!(same, "{path} has another content");
    }
}

#[test]
fn holes_are_kept_shown_and_restored_where_they_were_and_nowhere_else() {
    let dir = tempfile::tempdir().unwrap();
    let (source, index) = (dir.path().join("source"), dir.path().join("index"));
    grow(&source);
    for path in DENSE {
        let meta = source.join(path).metadata().unwrap();
        assert!(meta.blocks() * 512 >= meta.len(), "{path} is dense to begin with");
    }
    let store = Arc::new(open_store(dir.path(), None));
    let (_, first) = take(&store, &source, Some(&index), true).unwrap();
    assert_shows(&store, &first, &source);
    assert_restores(&store, &first, &source, &dir.path().join("restored"));

    // Once more: nothing is new, and what was not read this time is known all the same.
    let packs = || fs::read_dir(dir.path().join("store/packs")).unwrap().count();
    let before = packs();
    let (_, again) = take(&store, &source, Some(&index), false).unwrap();
    assert_eq!((again.volumes[0].holes, packs()), (first.volumes[0].holes, before));
    // Something else changed: what is told of the files that did not is told anew.
    fs::write(source.join("deep/new"), "new").unwrap();
    let (_, third) = take(&store, &source, Some(&index), false).unwrap();
    assert_eq!(third.volumes[0].holes, first.volumes[0].holes);

    // It is needed as the contents are: a collection keeps it, and a verification walks it.
    let removed: Vec<_> = store.snapshots().unwrap().iter().map(|(id, _)| *id).take(2).collect();
    store.remove(&removed).unwrap();
    store.collect().unwrap();
    assert!(store.verify(true, &|_| (), &AtomicBool::new(false)).unwrap().problems.is_empty());
    assert_shows(&store, &third, &source);
    assert_restores(&store, &third, &source, &dir.path().join("restored-later"));
}

#[test]
fn a_tree_without_holes_says_so_and_one_of_the_version_before_is_restored_as_it_was_then() {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("source");
    fs::create_dir(&source).unwrap();
    fs::write(source.join("zeros"), vec![0; 2 << 20]).unwrap();
    let store = Arc::new(open_store(dir.path(), None));
    let (_, mut snapshot) = take(&store, &source, None, true).unwrap();
    assert_eq!(snapshot.volumes[0].holes, Holes::Nowhere);
    restore(&store, &snapshot, &dir.path().join("dense"), &SyncOptions::default()).unwrap();
    assert_eq!(holes(&dir.path().join("dense/zeros")), Vec::new());
    snapshot.volumes[0].holes = Holes::Unknown;
    assert!(snapshot.encode().starts_with(b"mcloud snapshot 1\n"));
    assert_eq!(Snapshot::decode(&snapshot.encode()).as_ref(), Some(&snapshot));
    restore(&store, &snapshot, &dir.path().join("sparse"), &SyncOptions::default()).unwrap();
    assert_eq!(dir.path().join("sparse/zeros").metadata().unwrap().blocks(), 0);
    let shown = shown(&store, &snapshot.volumes[0]);
    assert!(find(&shown, "zeros").disk_bytes < 1 << 20, "long holes are seen in the chunks");
}

#[test]
fn a_map_that_is_not_true_of_the_content_makes_no_hole_of_data() {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("source");
    grow(&source);
    let store = Arc::new(open_store(dir.path(), None));
    let (_, before) = take(&store, &source, None, true).unwrap();
    // As if the files had been written to between the reading and the look for holes.
    for (path, at) in [("deep/er/large", 50 * MIB), ("deep/small", 20_000), ("all", 3 * MIB - 1), ("many", 5 * MIB)] {
        File::options().write(true).open(source.join(path)).unwrap().write_all_at(b"data", at).unwrap();
    }
    let (_, after) = take(&store, &source, None, true).unwrap();
    let volume = Volume { holes: before.volumes[0].holes, ..after.volumes[0].clone() };
    let shown = shown(&store, &volume);
    for path in SPARSE {
        let (content, seen) = (fs::read(source.join(path)).unwrap(), find(&shown, path));
        for hole in holes_shown(&shown, &seen) {
            let zeros = content.get(hole.start as usize..(hole.end as usize).min(content.len())).unwrap();
            assert!(zeros.iter().all(|byte| *byte == 0), "{path}: {hole:?}");
        }
    }
    // A tree of holes that is lost costs the holes.
    let volume = Volume { holes: Holes::Below(crate::model::Name::of(b"lost")), ..after.volumes[0].clone() };
    let shown = self::shown(&store, &volume);
    let seen = find(&shown, "deep/small");
    assert_eq!((holes_shown(&shown, &seen), seen.disk_bytes), (Vec::new(), 40_960));
    let snapshot = Snapshot { volumes: vec![volume], ..after };
    restore(&store, &snapshot, &dir.path().join("restored"), &SyncOptions::default()).unwrap();
    assert!(fs::read(dir.path().join("restored/many")).unwrap() == fs::read(source.join("many")).unwrap());
}
