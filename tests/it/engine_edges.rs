//! The engine at its edges: what is written down is done twice, others change the target in the middle of it, the disk is
//! full at the worst moment, what is protected stands in the way.

use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use mcloud::model::Kind;
use mcloud::model::sync::{Event, Plan, Report, SyncOptions};
use mcloud::sync::{LiveDir, Observer, recover, run, serve};
use mcloud::tree::link::pair;

use crate::common::changes::change;
use crate::common::disks::Disk;
use crate::common::engine::{Engine, forced};
use crate::common::oracle::{assert_equal, likeness};
use crate::common::seed::seeds;
use crate::common::trees::{Shape, grow};
use crate::common::{Rng, scratch, sh};

/// Does something when all is staged and nothing is in place yet.
struct Then<F: Fn() + Send + Sync>(F);

impl<F: Fn() + Send + Sync> Observer for Then<F> {
    fn event(&self, _: Event) {}

    fn confirm(&self, _: &Plan) -> mcloud::model::Result<bool> {
        Ok(true)
    }

    fn before_commit(&self) -> mcloud::model::Result<()> {
        (self.0)();
        Ok(())
    }
}

fn target_of(engine: &Engine) -> LiveDir {
    let index = engine.indexes.as_ref().map(|dir| dir.join("target.idx"));
    LiveDir { root: engine.target.clone(), index, label: "target".into() }
}

/// A sync of `engine` that is met by `act` just before its commit.
fn sync_then(engine: &Engine, act: impl Fn() + Send + Sync + 'static) -> mcloud::model::Result<Report> {
    let (target_end, source_end) = pair();
    let index = engine.indexes.as_ref().map(|dir| dir.join("source.idx"));
    let source = LiveDir { root: engine.source.clone(), index, label: "source".into() };
    let serving = std::thread::spawn(move || serve(&source, source_end));
    let cancel = Arc::new(AtomicBool::new(false));
    let report = run(&target_of(engine), target_end, &forced(), Arc::new(Then(act)), cancel);
    serving.join().expect("the source").ok();
    report
}

/// Long enough for what was written before to be told from what is written after.
fn settle() {
    std::thread::sleep(std::time::Duration::from_millis(60));
}

fn stage_of(engine: &Engine) -> PathBuf {
    engine.target.with_file_name(".mcloud-stage.target")
}

/// Syncs, and then makes all changes of the commit's log a second time, as after a crash at its very end.
fn sync_and_replay(engine: &Engine, context: &str) {
    let (stage, log) = (stage_of(engine), engine.target.with_file_name("kept.log"));
    let (from, to) = (stage.join("log.draft"), log.clone());
    sync_then(engine, move || assert!(fs::copy(&from, &to).unwrap() > 0)).expect(context);
    assert_equal(&engine.source, &engine.target, context);
    if !log.exists() {
        return;
    }
    let before = likeness(&engine.target);
    fs::create_dir_all(stage.join("trash")).unwrap();
    fs::set_permissions(&stage, PermissionsExt::from_mode(0o700)).unwrap();
    fs::rename(&log, stage.join("log")).unwrap();
    assert!(recover(&target_of(engine)).unwrap(), "{context}: no log found");
    assert!(likeness(&engine.target) == before, "{context}: doing it again did something else");
    fs::remove_dir_all(&stage).unwrap();
}

#[test]
fn a_commit_that_is_done_again_changes_nothing() {
    for seed in seeds(12) {
        let dir = scratch();
        let engine = Engine::below(dir.path());
        let mut rng = Rng::new(9000 + seed);
        grow(&engine.source, &mut rng, &Shape::SMALL);
        engine.proves(&forced(), "first");
        for round in 0..6 {
            let made: Vec<_> = (0..5).map(|_| change(&engine.source, &mut rng, &Shape::SMALL)).collect();
            sync_and_replay(&engine, &format!("seed {seed}, round {round}: {made:#?}"));
        }
    }
}

#[test]
fn a_file_that_lost_its_first_name_outlives_a_commit_done_again() {
    let dir = scratch();
    let engine = Engine::below(dir.path());
    fs::write(engine.source.join("a"), "one").unwrap();
    fs::create_dir(engine.source.join("folder")).unwrap();
    fs::hard_link(engine.source.join("a"), engine.source.join("b")).unwrap();
    fs::hard_link(engine.source.join("a"), engine.source.join("c")).unwrap();
    engine.proves(&forced(), "first");
    fs::remove_file(engine.source.join("a")).unwrap();
    sync_and_replay(&engine, "the first of three names");
    fs::remove_file(engine.source.join("b")).unwrap();
    sync_and_replay(&engine, "the first of two names");
    fs::hard_link(engine.source.join("c"), engine.source.join("a")).unwrap();
    sync_and_replay(&engine, "a new first name");
}

#[test]
fn a_disk_that_is_full_in_the_middle_of_the_commit_keeps_what_finishes_it() {
    let disk = Disk::new("tmpfs", 9);
    let mut engine = Engine::below(&disk.root);
    for root in [&engine.source, &engine.target] {
        fs::File::create(root.join("big")).unwrap().set_len(80 << 20).unwrap();
    }
    fs::write(engine.target.join("gone"), "x").unwrap();
    sh("mv", &[engine.source.to_str().unwrap(), disk.root.with_file_name("source").to_str().unwrap()]);
    engine.source = disk.root.with_file_name("source");
    engine.proves(&forced(), "first");
    let file = fs::OpenOptions::new().write(true).open(engine.source.join("big")).unwrap();
    file.write_all_at(&Rng::new(1).bytes(5 << 20), 75 << 20).unwrap();
    // Staged once it fits, once more in place it does not.
    let error = engine.sync(&forced()).unwrap_err();
    assert_eq!(error.kind, Kind::NoSpace, "{}", error.chain());
    assert!(stage_of(&engine).join("log").exists(), "the log of a commit under way was thrown away");
    sh("mount", &["-o", "remount,size=64m", disk.root.to_str().unwrap()]);
    assert!(recover(&target_of(&engine)).unwrap());
    assert_equal(&engine.source, &engine.target, "finished when there was room");
}

#[test]
fn a_sync_of_a_part_does_not_make_the_whole_look_unchanged() {
    let (one, two) = (scratch(), scratch());
    let first = Engine::below(one.path());
    let mut second = Engine::below(two.path());
    second.source = first.source.clone();
    second.indexes = first.indexes.clone();
    fs::create_dir_all(first.source.join("a/b")).unwrap();
    fs::write(first.source.join("a/b/x"), "one").unwrap();
    settle();
    first.proves(&forced(), "first");
    first.proves(&forced(), "again");
    fs::write(first.source.join("a/b/x"), "two").unwrap();
    settle();
    second.proves(&SyncOptions { path: b"a/b".to_vec(), ..forced() }, "a part, elsewhere");
    first.proves(&forced(), "the whole");
    assert_equal(&first.source, &first.target, "the change came with the whole, too");
}

#[test]
fn what_is_protected_outlives_what_comes_in_its_place() {
    let excluding = |pattern: &str| SyncOptions { exclude: vec![pattern.to_owned()], ..forced() };
    type Make = fn(&Path);
    let comes: [Make; 2] = [|at| fs::write(at, "file").unwrap(), |at| symlink("elsewhere", at).unwrap()];
    for come in comes {
        for pattern in ["*.log", "logs/"] {
            let dir = scratch();
            let engine = Engine::below(dir.path());
            fs::create_dir(engine.target.join("logs")).unwrap();
            fs::write(engine.target.join("logs/keep.log"), "kept").unwrap();
            fs::write(engine.target.join("other"), "kept").unwrap();
            come(&engine.source.join("logs"));
            engine.sync(&excluding(pattern)).unwrap();
            let kept = fs::read_to_string(engine.target.join("logs/keep.log"));
            assert_eq!(kept.ok().as_deref(), Some("kept"), "{pattern}: a protected file was removed");
            let told = engine.events().iter().any(|event| matches!(event, Event::LeftOut(out) if out.path == b"logs"));
            assert!(told, "{pattern}: nothing was said of it");
        }
    }
}

/// A file large enough to be changed in place, the same on both sides, with one page changed at the source.
fn big_and_rewritten(engine: &Engine) {
    fs::write(engine.source.join("big"), Rng::new(2).bytes(70 << 20)).unwrap();
    engine.proves(&forced(), "first");
    settle();
    let file = fs::OpenOptions::new().write(true).open(engine.source.join("big")).unwrap();
    file.write_all_at(&[7; 4096], 20 << 20).unwrap();
}

#[test]
fn a_name_outside_of_the_tree_keeps_its_content() {
    let dir = scratch();
    let engine = Engine::below(dir.path());
    big_and_rewritten(&engine);
    let outside = dir.path().join("outside");
    fs::hard_link(engine.target.join("big"), &outside).unwrap();
    let before = blake3::hash(&fs::read(&outside).unwrap());
    engine.proves(&forced(), "second");
    assert!(blake3::hash(&fs::read(&outside).unwrap()) == before, "a file outside of the target was written to");
    assert_equal(&engine.source, &engine.target, "second");
}

#[test]
fn a_file_to_be_changed_in_place_that_others_wrote_to_is_not_mixed_up() {
    let dir = scratch();
    let engine = Engine::below(dir.path());
    big_and_rewritten(&engine);
    let big = engine.target.join("big");
    let outcome = sync_then(&engine, move || {
        settle();
        let file = fs::OpenOptions::new().write(true).open(&big).unwrap();
        file.write_all_at(&[9; 100], 50 << 20).unwrap();
    });
    let error = outcome.expect_err("it was mixed up");
    assert!(error.chain().contains("big"), "{}", error.chain());
    engine.proves(&forced(), "again");
    assert_equal(&engine.source, &engine.target, "again");
}

#[test]
fn what_others_wrote_before_the_commit_is_seen_by_the_next_sync() {
    let dir = scratch();
    let engine = Engine::below(dir.path());
    for name in ["touched", "moved"] {
        fs::write(engine.source.join(name), format!("{name} one")).unwrap();
    }
    // With a folder in it the target is compared and not written anew.
    fs::create_dir(engine.source.join("folder")).unwrap();
    engine.proves(&forced(), "first");
    settle();
    fs::set_permissions(engine.source.join("touched"), PermissionsExt::from_mode(0o600)).unwrap();
    fs::rename(engine.source.join("moved"), engine.source.join("away")).unwrap();
    let target = engine.target.clone();
    let report = sync_then(&engine, move || {
        settle();
        for name in ["touched", "moved"] {
            let file = fs::OpenOptions::new().write(true).open(target.join(name)).unwrap();
            file.write_all_at(b"else", 0).unwrap();
        }
    });
    assert_eq!(report.unwrap().left_out, 2, "it was not told");
    engine.proves(&forced(), "again");
    assert_equal(&engine.source, &engine.target, "again");
}

#[test]
fn a_folder_that_hands_down_its_group_and_its_access_list_hands_nothing_to_what_is_copied() {
    for acl in [false, true] {
        let dir = scratch();
        let engine = Engine::below(dir.path());
        if acl {
            sh("setfacl", &["-d", "-m", "u:1234:rwx", dir.path().to_str().unwrap()]);
        } else {
            std::os::unix::fs::chown(dir.path(), None, Some(4321)).unwrap();
            fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o2755)).unwrap();
        }
        grow(&engine.source, &mut Rng::new(3), &Shape::SMALL);
        fs::write(engine.source.join("plain"), "x").unwrap();
        fs::create_dir(engine.source.join("folder")).unwrap();
        fs::write(engine.source.join("folder/plain"), "x").unwrap();
        engine.proves(&forced(), "first");
        assert_equal(&engine.source, &engine.target, "first");
        assert_eq!(engine.target.join("plain").metadata().unwrap().gid(), 0);
    }
}

#[test]
fn a_folder_of_more_folders_than_files_may_be_open_is_copied() {
    let dir = scratch();
    let (source, target) = (dir.path().join("source"), dir.path().join("target"));
    for number in 0..700 {
        fs::create_dir_all(source.join(format!("{number}/in"))).unwrap();
    }
    for round in ["first", "again"] {
        let out = std::process::Command::new("prlimit")
            .args(["--nofile=400:400", "--"])
            .arg(crate::common::host::binary())
            .args(["sync", "--yes"])
            .args([&source, &target])
            .env("XDG_CACHE_HOME", dir.path().join("cache"))
            .env("MCLOUD_CONFIG_DIR", dir.path().join("config"))
            .output()
            .unwrap();
        assert!(out.status.success(), "{round}: {}", String::from_utf8_lossy(&out.stderr));
        assert_equal(&source, &target, round);
    }
}

#[test]
fn a_folder_is_not_removed_for_a_file_when_nothing_is_to_be_removed() {
    let dir = scratch();
    let engine = Engine::below(dir.path());
    for name in ["full", "empty"] {
        fs::create_dir(engine.target.join(name)).unwrap();
        fs::write(engine.source.join(name), "file").unwrap();
    }
    fs::write(engine.target.join("full/kept"), "kept").unwrap();
    let report = engine.sync(&SyncOptions { no_remove: true, ..forced() }).unwrap();
    assert_eq!(report.left_out, 1);
    assert_eq!(fs::read(engine.target.join("full/kept")).unwrap(), b"kept");
    assert_eq!(fs::read(engine.target.join("empty")).unwrap(), b"file");
}
