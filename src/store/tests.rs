use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use super::place::Place;
use super::save::{Saved, save};
use super::seal::Key;
use super::snapshot::{How, Snapshot, Volume};
use super::{Store, serve};
use crate::model::sync::{Event, Plan, SyncOptions};
use crate::model::{Name, Result, TenantName};
use crate::sync::{LiveDir, Observer};
use crate::tree::link::{Open, pair};

struct Quiet;

impl Observer for Quiet {
    fn event(&self, _: Event) {}

    fn confirm(&self, _: &Plan) -> Result<bool> {
        Ok(true)
    }
}

pub fn open_store(dir: &Path, key: Option<Key>) -> Store {
    Store::open(Place::Folder(dir.join("store")), &dir.join("store/index"), key).unwrap()
}

fn live(root: &Path, index: Option<&Path>) -> LiveDir {
    LiveDir { root: root.to_owned(), index: index.map(Path::to_owned), label: "it".into() }
}

/// Takes a snapshot of a folder.
pub fn take(store: &Store, source: &Path, index: Option<&Path>, fresh: bool) -> Result<(Name, Snapshot)> {
    let mut taken_ms = 0;
    store.snapshot(&|_| (), |writer| {
        let (target, source_end) = pair();
        let dir = live(source, index);
        let saved: Saved = std::thread::scope(|scope| {
            let serving = scope.spawn(|| crate::sync::serve(&dir, source_end));
            let saved =
                save(writer, target, Open { fresh, holes: true, ..Open::default() }, &|_| (), &AtomicBool::new(false));
            let _ = serving.join();
            saved
        })?;
        taken_ms += store.snapshots()?.len() as u64 + 1;
        Ok(Snapshot {
            taken_ms,
            tenant: TenantName::new("shop")?,
            of: "shop".into(),
            how: How::Live,
            tags: Vec::new(),
            by: "me".into(),
            volumes: vec![Volume {
                data: None,
                root: saved.root,
                entries: saved.entries,
                bytes: saved.bytes,
                left_out: saved.left_out.len() as u64,
                holes: saved.holes,
            }],
        })
    })
}

pub fn restore(store: &Store, snapshot: &Snapshot, target: &Path, options: &SyncOptions) -> Result<()> {
    let (end, source) = pair();
    std::thread::scope(|scope| {
        let serving = scope.spawn(|| serve(store, &snapshot.volumes[0], "it", source));
        let done = crate::sync::run(&live(target, None), end, options, Arc::new(Quiet), Default::default());
        serving.join().unwrap()?;
        done.map(drop)
    })
}

/// What a tree is, in words.
pub fn told(root: &Path) -> Vec<String> {
    let mut all = Vec::new();
    let mut todo = vec![root.to_owned()];
    while let Some(path) = todo.pop() {
        let meta = path.symlink_metadata().unwrap();
        let content = match meta.file_type() {
            kind if kind.is_symlink() => format!("{:?}", fs::read_link(&path).unwrap()),
            kind if kind.is_file() => Name::of(&fs::read(&path).unwrap()).to_string(),
            _ => String::new(),
        };
        if meta.is_dir() {
            todo.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        }
        let name = path.strip_prefix(root).unwrap().display().to_string();
        all.push(format!("{name} {:o} {} {} {content}", meta.mode(), meta.mtime(), meta.mtime_nsec()));
    }
    all.sort();
    all
}

/// A small tree with one of each.
pub fn grow(root: &Path, seed: u8) {
    let noise = |len: usize, salt: u8| -> Vec<u8> {
        let mut out = vec![0; len];
        blake3::Hasher::new().update(&[seed, salt]).finalize_xof().fill(&mut out);
        out
    };
    fs::create_dir_all(root.join("a/b/c")).unwrap();
    fs::create_dir_all(root.join("empty")).unwrap();
    for number in 0..60u8 {
        fs::write(root.join(format!("a/file-{number}")), vec![number ^ seed; 40 * usize::from(number)]).unwrap();
    }
    fs::write(root.join("a/b/big"), noise(900_000, 1)).unwrap();
    fs::write(root.join("a/b/c/medium"), noise(200_000, 2)).unwrap();
    // Grown again they are there.
    let _ = fs::hard_link(root.join("a/file-7"), root.join("a/b/c/link"));
    let _ = symlink("../nowhere", root.join("a/b/symlink"));
    fs::set_permissions(root.join("a/file-3"), fs::Permissions::from_mode(0o4711)).unwrap();
}

#[test]
fn what_is_taken_is_what_comes_back_sealed_or_not_first_and_again() {
    for key in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let source = dir.path().join("source");
        grow(&source, 1);
        let key = || key.then(|| Key::new(&[3; 32]));
        let store = open_store(dir.path(), key());
        let index = dir.path().join("live.idx");
        let (first, snapshot) = take(&store, &source, Some(&index), true).unwrap();
        restore(&store, &snapshot, &dir.path().join("back"), &SyncOptions::default()).unwrap();
        assert_eq!(told(&source), told(&dir.path().join("back")));

        // Nothing new: nothing is written but the record.
        let before = store.place.list("packs").unwrap();
        let (second, _) = take(&store, &source, Some(&index), false).unwrap();
        assert_eq!(before, store.place.list("packs").unwrap());
        assert_ne!(first, second);

        fs::write(source.join("a/file-9"), "changed").unwrap();
        fs::remove_file(source.join("a/file-10")).unwrap();
        let mut big = fs::read(source.join("a/b/big")).unwrap();
        big[400_000] ^= 1;
        fs::write(source.join("a/b/big"), big).unwrap();
        let (_, third) = take(&store, &source, Some(&index), false).unwrap();
        drop(store);
        let store = open_store(dir.path(), key());
        restore(&store, &third, &dir.path().join("back"), &SyncOptions { force: true, ..Default::default() }).unwrap();
        assert_eq!(told(&source), told(&dir.path().join("back")));
        assert_eq!(store.snapshots().unwrap().len(), 3);
    }
}

#[test]
fn a_part_of_a_snapshot_comes_back_and_what_is_excluded_does_not() {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("source");
    grow(&source, 2);
    let store = open_store(dir.path(), None);
    let (_, snapshot) = take(&store, &source, None, true).unwrap();
    let back = dir.path().join("back");
    let options = SyncOptions { path: b"a/b".to_vec(), exclude: vec!["medium".into()], ..Default::default() };
    restore(&store, &snapshot, &back, &options).unwrap();
    assert!(back.join("a/b/big").exists() && !back.join("a/b/c/medium").exists() && !back.join("a/file-9").exists());
    let missing = SyncOptions { path: b"a/x".to_vec(), ..Default::default() };
    assert!(restore(&store, &snapshot, &dir.path().join("none"), &missing).is_err());
}

#[test]
fn a_lost_index_is_built_anew_from_the_packs() {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("source");
    grow(&source, 3);
    let store = open_store(dir.path(), None);
    let (_, snapshot) = take(&store, &source, None, true).unwrap();
    drop(store);
    fs::remove_dir_all(dir.path().join("store/index")).unwrap();
    let store = open_store(dir.path(), None);
    restore(&store, &snapshot, &dir.path().join("back"), &SyncOptions::default()).unwrap();
    assert_eq!(told(&source), told(&dir.path().join("back")));
    let before = store.place.list("packs").unwrap();
    take(&store, &source, None, true).unwrap();
    assert_eq!(before, store.place.list("packs").unwrap(), "what is there is not written again");
}

#[test]
fn a_store_is_opened_once_and_with_its_own_key() {
    let dir = tempfile::tempdir().unwrap();
    let store = open_store(dir.path(), Some(Key::new(&[1; 32])));
    let open = |key| Store::open(Place::Folder(dir.path().join("store")), &dir.path().join("store/index"), key);
    assert_eq!(open(None).unwrap_err().kind, crate::model::Kind::Busy);
    drop(store);
    assert_eq!(open(None).unwrap_err().kind, crate::model::Kind::Refused);
    assert_eq!(open(Some(Key::new(&[2; 32]))).unwrap_err().kind, crate::model::Kind::Refused);
    assert!(open(Some(Key::new(&[1; 32]))).is_ok());
}

/// What each format that was in use holds is read for ever. (Version 1: before snapshots kept holes.)
#[test]
fn stores_of_every_released_format_are_read() {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    for (name, key) in
        [("store-1-plain", None), ("store-1-sealed", Some("store-1-sealed.key")), ("store-2-plain", None)]
    {
        let dir = tempfile::tempdir().unwrap();
        let mut todo = vec![(fixtures.join(name), dir.path().join("store"))];
        while let Some((from, to)) = todo.pop() {
            fs::create_dir_all(&to).unwrap();
            for entry in fs::read_dir(from).unwrap().map(|entry| entry.unwrap()) {
                let to = to.join(entry.file_name());
                match entry.path().is_dir() {
                    true => todo.push((entry.path(), to)),
                    false => drop(fs::copy(entry.path(), to).unwrap()),
                }
            }
        }
        let store = open_store(dir.path(), key.map(|key| Key::in_file(&fixtures.join(key)).unwrap()));
        let all = store.snapshots().unwrap();
        assert_eq!(all.len(), 1, "{name}");
        assert_eq!((all[0].1.of.as_str(), &all[0].1.tags[..]), ("shop", &["fixture".to_owned()][..]));
        let found = store.verify(true, &|_| (), &AtomicBool::new(false)).unwrap();
        assert!(found.problems.is_empty(), "{name}: {:?}", found.problems);
        let back = dir.path().join("back");
        restore(&store, &all[0].1, &back, &SyncOptions::default()).unwrap();
        assert_eq!(fs::read(back.join("other")).unwrap(), b"plain text\n");
        assert_eq!(fs::read_link(back.join("link")).unwrap(), Path::new("folder/text"));
        let big = back.join("big").metadata().unwrap();
        assert_eq!((big.len(), big.mtime(), big.mtime_nsec()), (320_000, 1_767_323_045, 678_901_234), "{name}");
        assert_eq!(back.join("other").metadata().unwrap().nlink(), 2);
        if name.starts_with("store-2") {
            let blocks = |name: &str| back.join(name).metadata().unwrap().blocks();
            assert!(blocks("holes") <= 24 && blocks("zeros") >= 40, "{} and {}", blocks("holes"), blocks("zeros"));
        }
    }
}
