//! Trees that do not stand still, and owners who mean harm.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::{FileExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::fs::{CWD, Mode, OFlags, RenameFlags, openat, renameat_with};

use crate::common::host::{Client, Outcome, Stage};
use crate::common::oracle::{assert_equal, portrait};
use crate::common::trees::walk;
use crate::common::{Rng, scratch};

/// Somebody who does one thing over and over until told to stop.
struct Busy {
    stop: Arc<AtomicBool>,
    turns: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl Busy {
    fn doing(mut act: impl FnMut(u64) + Send + 'static) -> Busy {
        let (stop, turns) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (stopped, count) = (stop.clone(), turns.clone());
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                act(count.fetch_add(1, Ordering::Relaxed));
            }
        });
        Busy { stop, turns, thread: Some(thread) }
    }

    /// Stops; how many times it was done.
    fn stop(mut self) -> u64 {
        self.end();
        self.turns.load(Ordering::Relaxed)
    }

    fn end(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.end();
    }
}

/// A sync over a moving tree may leave entries out or say that it failed; it never crashes.
#[track_caller]
fn survives(outcome: &Outcome) {
    assert!(matches!(outcome.status.code(), Some(0 | 1 | 3 | 5)), "{outcome}");
    assert!(!outcome.stderr.contains("panicked"), "{outcome}");
    assert!(["done", "error"].contains(&outcome.last()["event"].as_str().unwrap_or("")), "{outcome}");
}

#[test]
fn files_that_change_shrink_grow_and_vanish_while_they_are_read_do_no_harm() {
    let stage = Stage::new();
    let source = stage.folder("source");
    for number in 0..40u64 {
        let len = if number < 4 { 3 << 20 } else { 60_000 };
        fs::write(source.join(format!("f{number}")), Rng::new(number).bytes(len)).unwrap();
    }
    fs::write(source.join("still"), "stands").unwrap();
    let mut rng = Rng::new(1);
    let (root, began) = (source.clone(), Instant::now());
    let writer = Busy::doing(move |turn| {
        let path = root.join(format!("f{}", rng.below(40)));
        let open = || OpenOptions::new().write(true).create(true).truncate(false).open(&path).unwrap();
        match turn % 5 {
            0 => drop(open().write_all_at(&turn.to_le_bytes(), rng.below(50_000))),
            1 => drop(open().set_len(rng.within(10, 50_000))),
            2 => drop(open().set_len(rng.within(50_000, 4 << 20))),
            3 => drop(fs::remove_file(&path)),
            _ => fs::write(&path, rng.bytes(60_000)).unwrap(),
        }
        std::thread::sleep(Duration::from_micros(300));
    });
    let mut runs = 0;
    while began.elapsed() < Duration::from_secs(8) {
        survives(&stage.admin.sync(&source, stage.shop(), &["--force"]));
        runs += 1;
    }
    let turns = writer.stop();
    println!("{runs} syncs over {turns} changes");
    assert!(turns > 500 && runs > 2);
    stage.admin.sync(&source, stage.shop(), &["--force"]).ok().proves();
    assert_equal(&source, &stage.volume, "once it stood still");
}

#[test]
fn a_file_that_never_stands_still_is_reported() {
    let stage = Stage::new();
    let source = stage.folder("source");
    fs::write(source.join("restless"), Rng::new(1).bytes(8 << 20)).unwrap();
    fs::write(source.join("still"), "stands").unwrap();
    let path = source.join("restless");
    let writer = Busy::doing(move |turn| {
        let file = OpenOptions::new().write(true).open(&path).unwrap();
        file.write_all_at(&turn.to_le_bytes(), (turn * 4096) % (8 << 20)).unwrap();
    });
    let outcome = stage.admin.sync(&source, stage.shop(), &[]);
    writer.stop();
    assert_eq!(outcome.status.code(), Some(5), "{outcome}");
    assert!(outcome.text().contains("restless"), "{outcome}");
    assert_eq!(fs::read_to_string(stage.volume.join("still")).unwrap(), "stands");
}

/// Writes of one kind land together or not at all: what came over is one moment of the file, or said not to be.
#[test]
fn a_file_copied_while_it_is_rewritten_is_one_of_its_versions() {
    let dir = scratch();
    let (source, target) = (dir.path().join("source"), dir.path().join("target"));
    fs::create_dir(&source).unwrap();
    let (path, temporary) = (source.join("file"), dir.path().join("next"));
    let version = |v: u64| v.to_le_bytes().repeat(30_000);
    fs::write(&path, version(0)).unwrap();
    let writer = Busy::doing(move |turn| {
        fs::write(&temporary, version(turn)).unwrap();
        fs::rename(&temporary, &path).unwrap();
    });
    let client = Client::new(&dir.path().join("client"));
    for _ in 0..15 {
        survives(&client.sync(&source, &target, &[]));
        if let Ok(bytes) = fs::read(target.join("file")) {
            assert_eq!(bytes.len(), 240_000);
            assert!(bytes.chunks(8).all(|word| word == &bytes[..8]), "two versions in one file");
        }
    }
    writer.stop();
    client.sync(&source, &target, &[]).ok().proves();
}

/// What lies outside of a tree and must neither be read nor written.
fn outside(dir: &Path) -> PathBuf {
    let outside = dir.join("outside");
    for folder in ["", "sub"] {
        fs::create_dir_all(outside.join(folder)).unwrap();
        for number in 0..12 {
            fs::write(outside.join(folder).join(format!("f{number}")), format!("CANARY {folder} {number}")).unwrap();
        }
    }
    outside
}

/// A tree with folders that somebody swaps for links to `outside`, at its top and deeper.
fn swapped_tree(root: &Path, outside: &Path, rng: &mut Rng) -> Vec<(PathBuf, PathBuf)> {
    let mut swaps = Vec::new();
    for number in 0..5 {
        let real = root.join(format!("d{number}"));
        fs::create_dir_all(real.join("sub")).unwrap();
        for file in 0..12 {
            fs::write(real.join(format!("f{file}")), rng.bytes(2000)).unwrap();
            fs::write(real.join(format!("sub/f{file}")), rng.bytes(2000)).unwrap();
        }
        let (link, deep) = (root.join(format!("l{number}")), real.join("m"));
        symlink(outside, &link).unwrap();
        symlink(outside.join("sub"), &deep).unwrap();
        swaps.push((real.clone(), link));
        swaps.push((real.join("sub"), deep));
        let (file, alias) = (real.join("f3"), real.join("g3"));
        symlink(outside.join("f3"), &alias).unwrap();
        swaps.push((file, alias));
    }
    swaps
}

/// Swaps names within one folder, which is opened without following a link: at a moment when it is one, a path would lead this
/// owner himself outside.
fn swapping(root: &Path, swaps: Vec<(PathBuf, PathBuf)>) -> Busy {
    let root = root.to_path_buf();
    Busy::doing(move |turn| {
        let (a, b) = &swaps[(turn % swaps.len() as u64) as usize];
        let (parent, flags) = (a.parent().unwrap(), OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::RDONLY);
        // No folder of these lies deeper than one below the root.
        assert!(parent == root || parent.parent() == Some(&root));
        if let Ok(folder) = openat(CWD, parent, flags, Mode::empty()) {
            let name = |path: &Path| path.file_name().unwrap().to_owned();
            let _ = renameat_with(&folder, name(a), &folder, name(b), RenameFlags::EXCHANGE);
        }
    })
}

fn no_canary_in(root: &Path, context: &str) {
    for path in walk(root) {
        if path.symlink_metadata().is_ok_and(|status| status.is_file()) {
            let bytes = fs::read(&path).unwrap_or_default();
            assert!(!bytes.starts_with(b"CANARY"), "{context}: {path:?} was read from outside of the tree");
        }
    }
}

#[test]
fn an_owner_who_swaps_folders_for_links_in_the_source_gets_nothing_from_outside() {
    let stage = Stage::new();
    let outside = outside(stage.dir.path());
    let swaps = swapped_tree(&stage.volume, &outside, &mut Rng::new(1));
    let owner = swapping(&stage.volume, swaps);
    let target = stage.folder("target");
    let (mut runs, began) = (0, Instant::now());
    while began.elapsed() < Duration::from_secs(10) {
        let copy = if runs % 2 == 0 { target.clone() } else { stage.folder(&format!("fresh{runs}")) };
        survives(&stage.admin.sync(stage.shop(), &copy, &["--force", "--checksum"]));
        no_canary_in(&copy, "the copy");
        if runs % 2 == 1 {
            fs::remove_dir_all(copy).unwrap();
        }
        runs += 1;
    }
    let turns = owner.stop();
    println!("{runs} syncs, {turns} swaps");
    assert!(turns > 5000 && runs > 3, "{runs} syncs, {turns} swaps");
}

#[test]
fn an_owner_who_swaps_folders_for_links_in_the_target_gets_nothing_written_outside() {
    let stage = Stage::new();
    let outside = outside(stage.dir.path());
    let sources = [stage.folder("source-a"), stage.folder("source-b")];
    for (number, source) in sources.iter().enumerate() {
        let mut rng = Rng::new(number as u64);
        swapped_tree(source, &outside, &mut rng);
        for folder in 0..5 {
            // New, changed and removed ones in every folder, so that each is written to in each run.
            fs::write(source.join(format!("d{folder}/new{number}")), rng.bytes(3000)).unwrap();
            fs::write(source.join(format!("d{folder}/sub/new{number}")), rng.bytes(3000)).unwrap();
        }
    }
    let swaps = swapped_tree(&stage.volume, &outside, &mut Rng::new(9));
    let before = portrait(&outside);
    let owner = swapping(&stage.volume, swaps);
    let (mut runs, began) = (0, Instant::now());
    while began.elapsed() < Duration::from_secs(10) {
        let source = &sources[runs % 2];
        survives(&stage.admin.sync(source, stage.shop(), &["--force"]));
        assert_eq!(portrait(&outside), before, "run {runs}: something outside was touched");
        runs += 1;
    }
    let turns = owner.stop();
    println!("{runs} syncs, {turns} swaps");
    assert!(turns > 5000 && runs > 3, "{runs} syncs, {turns} swaps");
    stage.admin.sync(&sources[0], stage.shop(), &["--force"]).ok().proves();
    assert_equal(&sources[0], &stage.volume, "once it stood still");
}

#[test]
fn links_and_special_files_under_a_tenant_are_never_followed_or_opened() {
    // A FIFO that is opened hangs, a device that is read may do anything.
    let stage = Stage::new();
    let outside = outside(stage.dir.path());
    let before = portrait(&outside);
    symlink(&outside, stage.volume.join("linked")).unwrap();
    let kinds = [(rustix::fs::FileType::Fifo, 0), (rustix::fs::FileType::CharacterDevice, 5)];
    for (number, (kind, minor)) in kinds.into_iter().enumerate() {
        let path = stage.volume.join(format!("special{number}"));
        rustix::fs::mknodat(CWD, path, kind, rustix::fs::Mode::from_raw_mode(0o600), rustix::fs::makedev(1, minor))
            .unwrap();
    }
    let source = stage.folder("source");
    fs::create_dir_all(source.join("linked/sub")).unwrap();
    fs::write(source.join("linked/f1"), "from the source").unwrap();
    fs::write(source.join("linked/sub/f1"), "from the source").unwrap();
    fs::write(source.join("special0"), "a file now").unwrap();
    stage.admin.sync(&source, stage.shop(), &["--force"]).ok().proves();
    assert_equal(&source, &stage.volume, "links replaced by folders");
    assert_eq!(portrait(&outside), before);
}
