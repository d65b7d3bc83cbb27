//! Trees of a shape that nobody expects: many names of one file, many folders in one, what will not go, what does not stand
//! still. Time and space stay in proportion to them. (The times here are generous: what they guard against took minutes.)

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use mcloud::model::sync::Event;
use mcloud::sys::dir::Dir;

use crate::common::disks::Disk;
use crate::common::engine::{Engine, forced};
use crate::common::host::Client;
use crate::common::oracle::assert_equal;
use crate::common::{scratch, sh};

/// Debug builds on a busy machine.
const SECONDS: Duration = Duration::from_secs(60);

#[track_caller]
fn within<T>(time: Duration, what: &str, act: impl FnOnce() -> T) -> T {
    let began = Instant::now();
    let done = act();
    println!("{what}: {:?}", began.elapsed());
    assert!(began.elapsed() < time, "{what} took {:?}", began.elapsed());
    done
}

#[test]
fn thousands_of_links_cost_what_as_many_files_do() {
    let dir = scratch();
    let engine = Engine::below(dir.path());
    let at = |name: String| engine.source.join(name);
    ["store", "users"].iter().for_each(|name| fs::create_dir(at(name.to_string())).unwrap());
    fs::write(at("one".into()), "one").unwrap();
    for number in 0..5_000 {
        fs::hard_link(at("one".into()), at(format!("one-{number}"))).unwrap();
        // A store of contents and those who use them: many files of two names.
        let (file, user) = (at(format!("store/{number:05}")), at(format!("users/{number:05}")));
        fs::write(&file, number.to_string()).unwrap();
        fs::hard_link(&file, &user).unwrap();
    }
    within(SECONDS, "the first sync", || engine.proves(&forced(), "first"));
    assert_equal(&engine.source, &engine.target, "first");
    let again = within(SECONDS, "a sync of nothing new", || engine.proves(&forced(), "again"));
    assert_eq!([again.files_created, again.files_updated, again.files_removed], [0; 3]);
    // Every file is replaced, and takes its other name along.
    for number in 0..5_000 {
        fs::write(at(format!("users/{number:05}")), format!("{number} is another")).unwrap();
    }
    fs::write(at("one".into()), "another").unwrap();
    within(SECONDS, "all contents anew", || engine.proves(&forced(), "anew"));
    assert_equal(&engine.source, &engine.target, "anew");
    // The first name of every file goes.
    fs::remove_dir_all(at("store".into())).unwrap();
    fs::remove_file(at("one".into())).unwrap();
    within(SECONDS, "all first names gone", || engine.proves(&forced(), "gone"));
    assert_equal(&engine.source, &engine.target, "gone");
    let index = fs::metadata(dir.path().join("indexes/source.idx")).unwrap().len();
    assert!(index < 64 << 20, "an index of {index} bytes");
}

#[test]
fn twenty_thousand_folders_or_files_go_in_seconds() {
    let dir = scratch();
    let engine = Engine::below(dir.path());
    fs::write(engine.source.join("kept"), "kept").unwrap();
    for number in 0..20_000 {
        fs::create_dir_all(engine.target.join(format!("whole/{number}"))).unwrap();
        fs::write(engine.target.join(format!("whole/{number}/file")), "").unwrap();
    }
    for folder in ["files", "folders"] {
        fs::create_dir(engine.source.join(folder)).unwrap();
        fs::create_dir(engine.target.join(folder)).unwrap();
    }
    for number in 0..20_000 {
        fs::write(engine.target.join(format!("files/{number}")), number.to_string()).unwrap();
        fs::create_dir(engine.target.join(format!("folders/{number}"))).unwrap();
    }
    within(SECONDS, "the removal", || engine.proves(&forced(), "removal"));
    assert_equal(&engine.source, &engine.target, "removal");
    assert!(!engine.target.parent().unwrap().join(".mcloud-stage.target").exists());
}

#[test]
fn a_folder_is_listed_once_to_be_removed_however_many_are_in_it() {
    let dir = scratch();
    let (source, target) = (dir.path().join("source"), dir.path().join("target"));
    fs::create_dir(&source).unwrap();
    for number in 0..2000 {
        fs::create_dir_all(target.join(format!("gone/{number}/in"))).unwrap();
    }
    let log = dir.path().join("trace");
    let words = ["strace", "-f", "-e", "trace=getdents64", "-o", log.to_str().unwrap()];
    Client::new(&dir.path().join("client")).under(&words).sync(&source, &target, &["--force"]).ok().proves();
    let text = String::from_utf8_lossy(&fs::read(&log).unwrap()).into_owned();
    let listed: u64 = text.lines().filter_map(|line| line.rsplit_once("= ")?.1.trim().parse::<u64>().ok()).sum();
    // Names and entries of a few dozen bytes each, listed by the scan and by the removal, and one more time at most.
    assert!(listed < 4 * 4000 * 80, "{listed} bytes of names were listed");
}

#[test]
fn what_cannot_be_removed_is_told_and_nothing_mounted_is_touched() {
    for kind in ["ext4", "xfs", "btrfs"] {
        let disk = Disk::new(kind, 320);
        let top = disk.root.join("top");
        for folder in ["free/in", "fixed", "other", "bound", "beside/bound"] {
            fs::create_dir_all(top.join(folder)).unwrap();
        }
        fs::create_dir(disk.root.join("kept")).unwrap();
        for file in ["top/free/in/f", "top/fixed/f", "top/fixed/g", "kept/f", "top/beside/f", "top/file"] {
            fs::write(disk.root.join(file), "x").unwrap();
        }
        let path = |name: &str| top.join(name).to_str().unwrap().to_owned();
        sh("chattr", &["+i", &path("fixed/f")]);
        let kept = disk.root.join("kept");
        sh("mount", &["-t", "tmpfs", "tmpfs", &path("other")]);
        fs::write(top.join("other/f"), "x").unwrap();
        // The same device: only the mount tells them apart.
        sh("mount", &["--bind", kept.to_str().unwrap(), &path("beside/bound")]);
        sh("mount", &["--bind", kept.join("f").to_str().unwrap(), &path("file")]);
        let mut expected = vec!["top/beside/bound", "top/file", "top/fixed/f", "top/other"];
        if kind == "btrfs" {
            sh("btrfs", &["-q", "subvolume", "create", &path("writable")]);
            sh("btrfs", &["-q", "subvolume", "create", &path("bound/sealed")]);
            fs::create_dir(top.join("bound/sealed/in")).unwrap();
            fs::write(top.join("bound/sealed/in/f"), "x").unwrap();
            fs::write(top.join("writable/f"), "x").unwrap();
            sh("btrfs", &["property", "set", &path("bound/sealed"), "ro", "true"]);
            expected.insert(1, "top/bound/sealed");
        }
        let root = Dir::open(&disk.root).unwrap();
        let left = root.remove_tree(b"top").unwrap();
        let stays = [top.join("other/f"), kept.join("f")].iter().all(|file| file.exists());
        let gone = ["free", "fixed/g", "beside/f", "writable"].iter().all(|name| !top.join(name).exists());
        for name in ["other", "beside/bound", "file"] {
            sh("umount", &[&path(name)]);
        }
        sh("chattr", &["-i", &path("fixed/f")]);
        let mut paths: Vec<String> = left.iter().map(|left| String::from_utf8_lossy(&left.path).into_owned()).collect();
        paths.sort();
        assert_eq!(paths, expected, "{kind}: {left:?}");
        assert!(stays && gone, "{kind}: {left:?}");
        if kind == "btrfs" {
            sh("btrfs", &["property", "set", &path("bound/sealed"), "ro", "false"]);
        }
        assert!(root.remove_tree(b"top").unwrap().is_empty(), "{kind}: the second time");
        assert!(kept.join("f").exists() && !top.exists(), "{kind}");
    }
}

#[test]
fn folders_that_come_and_go_are_no_error() {
    let dir = scratch();
    let engine = Engine::below(dir.path());
    for number in 0..200 {
        fs::create_dir(engine.source.join(format!("d{number}"))).unwrap();
        fs::write(engine.source.join(format!("d{number}/f")), "x").unwrap();
    }
    let stop = Arc::new(AtomicBool::new(false));
    let churn = |root: &Path, kind: &'static str| {
        let (root, stop) = (root.to_path_buf(), stop.clone());
        std::thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                for number in 0..40 {
                    let _ = fs::create_dir(root.join(format!("t{kind}{number}")));
                }
                for number in 0..40 {
                    let path = root.join(format!("t{kind}{number}"));
                    let _ = fs::remove_dir(&path);
                    // Another kind of thing, for a moment.
                    if number % 4 == 0 && std::os::unix::fs::symlink("d1", &path).is_ok() {
                        let _ = fs::remove_file(&path);
                    }
                }
            }
        })
    };
    let busy = [churn(&engine.source, "a"), churn(&engine.source, "b")];
    for round in 0..40 {
        let report = engine.sync(&forced()).unwrap_or_else(|error| panic!("round {round}: {}", error.chain()));
        let left_out: Vec<Event> =
            engine.events().into_iter().filter(|event| matches!(event, Event::LeftOut(_))).collect();
        assert_eq!(report.left_out, 0, "round {round}: {left_out:?}");
        assert_eq!(report.root_source, report.root_target, "round {round}");
    }
    stop.store(true, Ordering::Relaxed);
    busy.into_iter().for_each(|thread| thread.join().unwrap());
    engine.proves(&forced(), "at rest");
    assert_equal(&engine.source, &engine.target, "at rest");
}

#[test]
fn a_folder_that_goes_while_it_is_open_and_is_there_again_is_no_error() {
    // What the kernel answers for a folder that was removed while it was open. This one is there when it is looked for again.
    let dir = scratch();
    let (source, target) = (dir.path().join("source"), dir.path().join("target"));
    for folder in 0..6 {
        fs::create_dir_all(source.join(format!("{folder}/in"))).unwrap();
        fs::write(source.join(format!("{folder}/in/f")), "x").unwrap();
    }
    let client = Client::new(&dir.path().join("client"));
    for nth in [3, 5, 8] {
        let inject = format!("inject=getdents64:error=ENOENT:when={nth}");
        let words = ["strace", "-f", "-o", "/dev/null", "-e", "trace=getdents64", "-e", &inject];
        let outcome = client.clone().under(&words).sync(&source, &target, &["--dry-run"]);
        assert_eq!(outcome.status.code(), Some(0), "{nth}: {outcome}");
    }
    client.sync(&source, &target, &[]).ok().proves();
    assert_equal(&source, &target, "at rest");
}

#[test]
fn a_broken_off_sync_of_more_files_than_may_be_open_is_taken_up_again() {
    let dir = scratch();
    let (source, target) = (dir.path().join("source"), dir.path().join("target"));
    fs::create_dir(&source).unwrap();
    // More than one chunk each, and next to nothing on disk.
    for number in 0..1100u32 {
        let file = fs::File::create(source.join(format!("f{number}"))).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&file, &number.to_le_bytes().repeat(100), 0).unwrap();
        file.set_len(299_000).unwrap();
    }
    let client = Client::new(&dir.path().join("client")).under(&["prlimit", "--nofile=1024:1024"]);
    let broken = client.clone().var("FAILPOINTS", "commit.before_log=return").sync(&source, &target, &[]);
    assert_eq!(broken.status.code(), Some(1), "{broken}");
    let outcome = client.sync(&source, &target, &[]).ok().proves();
    assert_equal(&source, &target, "taken up again");
    assert_eq!(outcome.count("files_created"), 1100, "{outcome}");
}
