use std::collections::BTreeSet;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use super::diff::ChangeKind;
use super::tests::{grow, open_store, restore, take, told};
use super::verify::{Problem, Verified};
use super::{Store, pack};
use crate::model::sync::SyncOptions;
use crate::model::{Kind, Name};

fn verify(store: &Store) -> Verified {
    store.verify(true, &|_| (), &AtomicBool::new(false)).unwrap()
}

fn clean(store: &Store, context: &str) {
    let found = verify(store);
    assert!(found.problems.is_empty(), "{context}: {:?}", found.problems);
}

/// All snapshots, each with what its tree was.
struct Kept {
    dir: tempfile::TempDir,
    taken: Vec<(Name, Vec<String>)>,
}

impl Kept {
    fn new() -> Kept {
        Kept { dir: tempfile::tempdir().unwrap(), taken: Vec::new() }
    }

    fn source(&self) -> PathBuf {
        self.dir.path().join("source")
    }

    fn open(&self) -> Store {
        open_store(self.dir.path(), None)
    }

    fn take(&mut self, store: &Store) {
        let (id, _) = take(store, &self.source(), None, self.taken.is_empty()).unwrap();
        self.taken.push((id, told(&self.source())));
    }

    /// Every snapshot that was taken and not removed comes back as it was.
    fn all_come_back(&self, store: &Store, context: &str) {
        let snapshots = store.snapshots().unwrap();
        for (id, tree) in &self.taken {
            let (_, snapshot) =
                snapshots.iter().find(|(own, _)| own == id).unwrap_or_else(|| panic!("{context}: {id} is gone"));
            let back = self.dir.path().join("back");
            let _ = fs::remove_dir_all(&back);
            restore(store, snapshot, &back, &SyncOptions::default()).unwrap();
            assert_eq!(*tree, told(&back), "{context}: {id}");
        }
    }

    fn remove_first(&mut self, store: &Store) {
        store.remove(&[self.taken.remove(0).0]).unwrap();
    }
}

fn files(dir: &Path, below: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut todo = vec![dir.join("store").join(below)];
    while let Some(path) = todo.pop() {
        for entry in fs::read_dir(path).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() { todo.push(path) } else { found.push(path) }
        }
    }
    found.sort();
    found
}

#[test]
fn what_no_snapshot_needs_is_given_back_and_the_rest_is_there() {
    let mut kept = Kept::new();
    let store = kept.open();
    for round in 0..24u8 {
        grow(&kept.source(), round / 4);
        fs::write(kept.source().join("a/each"), [round; 5000]).unwrap();
        kept.take(&store);
    }
    let before = files(kept.dir.path(), "packs").len();
    for _ in 0..20 {
        kept.remove_first(&store);
    }
    let collected = store.collect().unwrap();
    assert!(collected.bytes_freed > 0 && collected.packs_removed > 0, "{collected:?}");
    assert!(files(kept.dir.path(), "packs").len() < before / 2);
    kept.all_come_back(&store, "after a collection");
    clean(&store, "after a collection");
    let again = store.collect().unwrap();
    assert_eq!((again.packs_removed, again.packs_rewritten), (0, 0), "nothing is left to do");
    drop(store);
    let store = kept.open();
    kept.all_come_back(&store, "opened again");
    while !kept.taken.is_empty() {
        kept.remove_first(&store);
    }
    store.collect().unwrap();
    assert!(files(kept.dir.path(), "packs").is_empty(), "an empty store holds nothing");
}

#[test]
fn who_reads_goes_on_reading_while_it_is_collected() {
    let mut kept = Kept::new();
    let store = kept.open();
    for round in 0..6u8 {
        grow(&kept.source(), round);
        kept.take(&store);
    }
    let snapshots = store.snapshots().unwrap();
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let reading = scope.spawn(|| {
            let mut rounds = 0;
            while !over.load(Ordering::Relaxed) || rounds == 0 {
                let back = kept.dir.path().join("read");
                let _ = fs::remove_dir_all(&back);
                restore(&store, &snapshots[5].1, &back, &SyncOptions::default()).unwrap();
                assert_eq!(told(&back), kept.taken[5].1);
                rounds += 1;
            }
        });
        // One that is removed while somebody has it open stays until he is done.
        let (held, pin) = store.hold(snapshots[0].0).unwrap();
        for (id, _) in &snapshots[..5] {
            store.remove(&[*id]).unwrap();
            store.collect().unwrap();
        }
        let back = kept.dir.path().join("held");
        restore(&store, &held, &back, &SyncOptions::default()).unwrap();
        assert_eq!(told(&back), kept.taken[0].1);
        drop(pin);
        store.collect().unwrap();
        over.store(true, Ordering::Relaxed);
        reading.join().unwrap();
        let gone = restore(&store, &held, &kept.dir.path().join("gone"), &SyncOptions::default());
        assert_eq!(gone.unwrap_err().kind, Kind::Corrupt);
    });
    assert!(store.hold(snapshots[0].0).is_err());
}

#[test]
fn a_fault_anywhere_leaves_a_store_that_is_whole() {
    let mut runs = 0;
    let points = [
        ("store.pack_written", 4),
        ("store.before_index", 1),
        ("store.before_snapshot", 1),
        ("store.after_snapshot", 1),
        ("store.remove", 2),
        ("gc.before_index", 1),
        ("gc.before_delete", 1),
        ("gc.delete", 3),
    ];
    let mut kept = Kept::new();
    let mut store = kept.open();
    grow(&kept.source(), 0);
    kept.take(&store);
    for (point, times) in points {
        for time in 0..times {
            for how in ["return", "panic"] {
                runs += 1;
                let context = format!("{point}, time {time}, {how}");
                grow(&kept.source(), runs);
                fs::write(kept.source().join("a/each"), vec![runs; 3000]).unwrap();
                // Something to collect, too.
                kept.take(&store);
                if kept.taken.len() > 2 {
                    kept.remove_first(&store);
                }
                fs::write(kept.source().join("a/new"), vec![runs; 300]).unwrap();
                fail::cfg(point, &format!("{time}*off->1*{how}->off")).unwrap();
                let first = kept.taken[0].0;
                let outcome = catch_unwind(AssertUnwindSafe(|| -> crate::model::Result<()> {
                    take(&store, &kept.source(), None, false)?;
                    store.remove(&[first])?;
                    store.collect().map(drop)
                }));
                fail::remove(point);
                let went_well = matches!(outcome, Ok(Ok(())));
                // The daemon is gone, and comes back.
                drop(store);
                store = kept.open();
                clean(&store, &context);
                let there: BTreeSet<Name> = store.snapshots().unwrap().into_iter().map(|(id, _)| id).collect();
                kept.taken.retain(|(id, _)| there.contains(id));
                assert!(!kept.taken.is_empty() && (went_well || runs > 0), "{context}");
                kept.all_come_back(&store, &context);
                store.collect().unwrap();
                clean(&store, &context);
                kept.all_come_back(&store, &context);
            }
        }
    }
}

#[test]
fn a_lost_or_shortened_pack_is_named_and_the_next_snapshot_puts_back_what_it_still_finds() {
    for (shortened, which) in [(false, 0), (false, 1), (true, 0), (true, 1)] {
        let mut kept = Kept::new();
        let store = kept.open();
        grow(&kept.source(), 1);
        kept.take(&store);
        drop(store);
        let pack = files(kept.dir.path(), "packs").remove(which);
        match shortened {
            true => fs::OpenOptions::new().write(true).open(&pack).unwrap().set_len(100).unwrap(),
            false => fs::remove_file(&pack).unwrap(),
        }
        let store = kept.open();
        let found = store.verify(false, &|_| (), &AtomicBool::new(false)).unwrap();
        let hex = pack.file_name().unwrap().to_str().unwrap().to_owned();
        let named = |problem: &Problem| matches!(problem, Problem::File { file, .. } if file.ends_with(&hex));
        assert!(found.problems.iter().any(named), "{:?}", found.problems);
        let snapshot = kept.taken[0].0;
        let of = |problem: &Problem| matches!(problem, Problem::Path { snapshot: id, .. } if *id == snapshot);
        assert!(found.problems.iter().any(of), "{:?}", found.problems);
        let again = store.verify(false, &|_| (), &AtomicBool::new(false)).unwrap();
        assert!(again.problems.iter().any(of), "it stays known: {:?}", again.problems);
        // Nothing of the source has changed.
        take(&store, &kept.source(), None, false).unwrap();
        let healed = store.verify(false, &|_| (), &AtomicBool::new(false)).unwrap();
        assert!(!healed.problems.iter().any(of), "{:?}", healed.problems);
        kept.all_come_back(&store, "put back");
        // What is left of the pack goes when all that was in it is somewhere else.
        store.collect().unwrap();
        clean(&store, "put back and collected");
    }
}

#[test]
fn a_snapshot_relies_on_no_pack_that_is_gone_or_cut_off() {
    for (shortened, which) in [(false, 0), (false, 1), (true, 0), (true, 1)] {
        let mut kept = Kept::new();
        let store = kept.open();
        grow(&kept.source(), 1);
        kept.take(&store);
        let pack = files(kept.dir.path(), "packs").remove(which);
        match shortened {
            true => fs::OpenOptions::new().write(true).open(&pack).unwrap().set_len(100).unwrap(),
            false => fs::remove_file(&pack).unwrap(),
        }
        // Nobody has verified, and nothing of the source has changed.
        kept.take(&store);
        kept.all_come_back(&store, "put back");
        let found = store.verify(true, &|_| (), &AtomicBool::new(false)).unwrap();
        assert!(!found.problems.iter().any(|problem| matches!(problem, Problem::Path { .. })), "{:?}", found.problems);
    }
}

#[test]
fn packs_that_were_away_for_a_while_are_taken_back_and_not_thrown_away() {
    let mut kept = Kept::new();
    let store = kept.open();
    grow(&kept.source(), 1);
    kept.take(&store);
    let packs = kept.dir.path().join("store/packs");
    let aside = kept.dir.path().join("aside");
    fs::rename(&packs, &aside).unwrap();
    // A snapshot of something else meanwhile: all packs are gone for it.
    fs::rename(kept.source(), kept.dir.path().join("first")).unwrap();
    fs::create_dir(kept.source()).unwrap();
    fs::write(kept.source().join("other"), "other").unwrap();
    kept.take(&store);
    let copied = std::process::Command::new("cp").arg("-a").arg(aside.join(".")).arg(&packs).status();
    assert!(copied.unwrap().success());
    store.collect().unwrap();
    kept.all_come_back(&store, "after they came back");
    clean(&store, "after they came back");
    // A place that is not there at all is an error, and no reason to forget anything.
    fs::rename(&packs, kept.dir.path().join("away")).unwrap();
    fs::rename(kept.dir.path().join("store/format"), kept.dir.path().join("format")).unwrap();
    assert!(take(&store, &kept.source(), None, false).is_err());
    fs::rename(kept.dir.path().join("format"), kept.dir.path().join("store/format")).unwrap();
    fs::rename(kept.dir.path().join("away"), &packs).unwrap();
    kept.all_come_back(&store, "after the disk came back");
}

#[test]
fn a_flipped_bit_anywhere_is_found_and_named() {
    let mut kept = Kept::new();
    let store = kept.open();
    grow(&kept.source(), 1);
    kept.take(&store);
    drop(store);
    let all = [files(kept.dir.path(), "packs"), files(kept.dir.path(), "snapshots")].concat();
    for file in &all {
        let whole = fs::read(file).unwrap();
        for step in 0..12 {
            let mut bytes = whole.clone();
            let at = whole.len() * step / 12;
            bytes[at] ^= 1 << (step % 8);
            fs::write(file, &bytes).unwrap();
            let store = kept.open();
            let found = verify(&store);
            let name = file.file_name().unwrap().to_str().unwrap();
            let named = |problem: &Problem| matches!(problem, Problem::File { file, .. } if file.ends_with(name));
            assert!(found.problems.iter().any(named), "{name} byte {at}: {:?}", found.problems);
            drop(store);
            fs::write(file, &whole).unwrap();
            // What verify forgot is read out of the packs again.
            fs::remove_dir_all(kept.dir.path().join("store/index")).unwrap();
        }
    }
    let store = kept.open();
    clean(&store, "mended");
    let segments = files(kept.dir.path(), "index").into_iter().filter(|file| file.extension().is_some());
    drop(store);
    for segment in segments {
        let whole = fs::read(&segment).unwrap();
        for at in [whole.len() / 2, whole.len() - 40] {
            let mut bytes = whole.clone();
            bytes[at] ^= 1;
            fs::write(&segment, bytes).unwrap();
            let store = kept.open();
            let _ = verify(&store);
            clean(&store, "an index that was damaged is built anew");
            kept.all_come_back(&store, "with its index built anew");
            drop(store);
            if segment.exists() {
                fs::write(&segment, &whole).unwrap();
            }
        }
    }
}

#[test]
fn a_damaged_pack_is_replaced_by_the_collection_after_a_verify() {
    let mut kept = Kept::new();
    let store = kept.open();
    grow(&kept.source(), 1);
    kept.take(&store);
    let file = files(kept.dir.path(), "packs").remove(0);
    let mut bytes = fs::read(&file).unwrap();
    bytes[pack::HEADER + 40] ^= 1;
    fs::write(&file, bytes).unwrap();
    assert!(!verify(&store).problems.is_empty());
    take(&store, &kept.source(), None, false).unwrap();
    store.collect().unwrap();
    clean(&store, "collected");
    kept.all_come_back(&store, "collected");
}

#[test]
fn a_difference_says_what_came_went_moved_and_changed() {
    let mut kept = Kept::new();
    let store = kept.open();
    let source = kept.source();
    grow(&source, 1);
    fs::create_dir(source.join("whole")).unwrap();
    fs::write(source.join("whole/file"), "of a folder").unwrap();
    kept.take(&store);
    fs::write(source.join("a/file-9"), "changed").unwrap();
    fs::write(source.join("added"), "something new").unwrap();
    fs::remove_file(source.join("a/file-11")).unwrap();
    fs::rename(source.join("whole"), source.join("moved")).unwrap();
    fs::rename(source.join("a/file-12"), source.join("elsewhere")).unwrap();
    filetime(&source.join("a/file-20"));
    kept.take(&store);
    let all = store.snapshots().unwrap();
    let found = store.diff(Some(&all[0].1.volumes[0]), Some(&all[1].1.volumes[0])).unwrap();
    let of = |kind: ChangeKind| -> Vec<(String, String)> {
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        found.iter().filter(|change| change.kind == kind).map(|c| (text(&c.path), text(&c.from))).collect()
    };
    let plain = |paths: &[&str]| paths.iter().map(|path| ((*path).to_owned(), String::new())).collect::<Vec<_>>();
    assert_eq!(of(ChangeKind::Added), plain(&["added"]));
    assert_eq!(of(ChangeKind::Removed), plain(&["a/file-11"]));
    assert!(of(ChangeKind::Changed).contains(&("a/file-9".to_owned(), String::new())), "{found:?}");
    let moved = of(ChangeKind::Moved);
    assert!(moved.contains(&("elsewhere".into(), "a/file-12".into())), "{moved:?}");
    assert!(moved.contains(&("moved".into(), "whole".into())), "{moved:?}");
    assert!(of(ChangeKind::Metadata).contains(&("a/file-20".to_owned(), String::new())));
    assert!(store.diff(Some(&all[0].1.volumes[0]), Some(&all[0].1.volumes[0])).unwrap().is_empty());
    assert!(store.diff(None, Some(&all[0].1.volumes[0])).unwrap().len() > 60);
}

/// Other metadata, the same content.
fn filetime(path: &Path) {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
}
