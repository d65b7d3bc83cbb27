//! What each option of `sync` promises.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::common::host::{Client, Stage};
use crate::common::oracle::{assert_equal, differences, portrait};
use crate::common::trees::{Shape, grow, set_mtime};
use crate::common::{Rng, scratch};

/// Two folders and somebody to sync them.
struct Pair {
    _dir: tempfile::TempDir,
    client: Client,
    source: PathBuf,
    target: PathBuf,
}

fn pair() -> Pair {
    let dir = scratch();
    let (source, target) = (dir.path().join("source"), dir.path().join("target"));
    fs::create_dir(&source).unwrap();
    fs::create_dir(&target).unwrap();
    let client = Client::new(&dir.path().join("client"));
    Pair { _dir: dir, client, source, target }
}

fn put(root: &Path, path: &str, text: &str) {
    let path = root.join(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

fn read(root: &Path, path: &str) -> Option<String> {
    fs::read_to_string(root.join(path)).ok()
}

#[test]
fn a_dry_run_touches_nothing_and_tells_the_plan() {
    let p = pair();
    let mut rng = Rng::new(1);
    grow(&p.source, &mut rng, &Shape::SMALL);
    grow(&p.target, &mut rng, &Shape::SMALL);
    let (source, target) = (portrait(&p.source), portrait(&p.target));
    let outcome = p.client.sync(&p.source, &p.target, &["--dry-run", "--force"]).ok();
    assert_eq!(portrait(&p.target), target, "the target was touched");
    assert_eq!(portrait(&p.source), source, "the source was touched");
    assert!(outcome.count("files_created") > 0 && outcome.count("files_removed") > 0, "{outcome}");
    // The plan came true.
    let real = p.client.sync(&p.source, &p.target, &["--force"]).ok().proves();
    for field in ["files_created", "files_updated", "files_moved", "files_removed"] {
        assert_eq!(outcome.count(field), real.count(field), "{field}\n{outcome}{real}");
    }
}

#[test]
fn a_dry_run_into_a_tenant_touches_nothing() {
    let stage = Stage::new();
    let source = stage.folder("source");
    grow(&source, &mut Rng::new(1), &Shape::SMALL);
    put(&stage.volume, "old", "old");
    let before = portrait(&stage.volume);
    stage.admin.sync(&source, stage.shop(), &["--dry-run"]).ok();
    assert_eq!(portrait(&stage.volume), before);
}

#[test]
fn no_remove_keeps_what_the_source_lacks() {
    let p = pair();
    put(&p.source, "new/a", "1");
    put(&p.target, "own/b", "2");
    put(&p.target, "new/c", "3");
    p.client.sync(&p.source, &p.target, &["--no-remove"]).ok();
    assert_eq!(read(&p.target, "new/a").as_deref(), Some("1"));
    assert_eq!(read(&p.target, "own/b").as_deref(), Some("2"));
    assert_eq!(read(&p.target, "new/c").as_deref(), Some("3"));
    let again = p.client.sync(&p.source, &p.target, &["--no-remove"]).ok();
    assert_eq!(again.count("files_created") + again.count("files_updated"), 0, "{again}");
}

#[test]
fn excluded_paths_are_neither_copied_nor_removed_at_the_target() {
    let stage = Stage::new();
    let source = stage.folder("source");
    put(&source, "app.py", "1");
    put(&source, "cache/x", "source's");
    put(&source, "deep/in/some.log", "source's");
    put(&stage.volume, "cache/y", "target's");
    put(&stage.volume, "deep/in/other.log", "target's");
    put(&stage.volume, "stale.py", "gone");
    stage.admin.sync(&source, stage.shop(), &["--exclude", "/cache", "--exclude", "*.log"]).ok().proves();
    assert_eq!(read(&stage.volume, "app.py").as_deref(), Some("1"));
    assert_eq!(read(&stage.volume, "cache/x"), None);
    assert_eq!(read(&stage.volume, "cache/y").as_deref(), Some("target's"));
    assert_eq!(read(&stage.volume, "deep/in/some.log"), None);
    assert_eq!(read(&stage.volume, "deep/in/other.log").as_deref(), Some("target's"));
    assert_eq!(read(&stage.volume, "stale.py"), None);
}

#[test]
fn mcignore_of_the_source_rules_both_sides_as_gitignore_would() {
    let p = pair();
    put(&p.source, ".mcignore", "# comment\n*.tmp\n!keep.tmp\n/build/\nnode_modules\n\\!odd\n");
    for path in ["a.tmp", "keep.tmp", "build/x", "sub/build/x", "sub/node_modules/m", "!odd", "plain"] {
        put(&p.source, path, "source's");
    }
    for path in ["t.tmp", "build/mine", "sub/node_modules/mine", "extra"] {
        put(&p.target, path, "target's");
    }
    p.client.sync(&p.source, &p.target, &[]).ok().proves();
    for path in [".mcignore", "keep.tmp", "sub/build/x", "plain"] {
        assert!(read(&p.target, path).is_some(), "{path} was left out");
    }
    for path in ["a.tmp", "build/x", "sub/node_modules/m", "!odd", "extra"] {
        assert_eq!(read(&p.target, path), None, "{path} is there");
    }
    for path in ["t.tmp", "build/mine", "sub/node_modules/mine"] {
        assert_eq!(read(&p.target, path).as_deref(), Some("target's"), "{path} was not protected");
    }
}

#[test]
fn a_folder_that_holds_protected_paths_outlives_its_source() {
    let p = pair();
    put(&p.source, "a", "1");
    put(&p.target, "gone/kept.log", "target's");
    put(&p.target, "gone/other", "x");
    p.client.sync(&p.source, &p.target, &["--exclude", "*.log"]).ok();
    assert_eq!(read(&p.target, "gone/kept.log").as_deref(), Some("target's"));
    assert_eq!(read(&p.target, "gone/other"), None);
}

#[test]
fn path_copies_that_part_and_nothing_else() {
    for inner in ["sub/part", "sub/part/"] {
        let p = pair();
        put(&p.source, "sub/part/a", "new");
        put(&p.source, "sub/part/deep/c", "new");
        put(&p.source, "sub/b", "new");
        put(&p.target, "sub/part/old", "old");
        put(&p.target, "sub/b", "old");
        put(&p.target, "top", "old");
        p.client.sync(&p.source, &p.target, &["--path", inner]).ok().proves();
        assert_equal(&p.source.join("sub/part"), &p.target.join("sub/part"), inner);
        assert_eq!(read(&p.target, "sub/b").as_deref(), Some("old"));
        assert_eq!(read(&p.target, "top").as_deref(), Some("old"));
    }
}

#[test]
fn path_makes_the_folders_above_it() {
    let stage = Stage::new();
    let source = stage.folder("source");
    put(&source, "sub/part/a", "new");
    put(&source, "not", "me");
    stage.admin.sync(&source, stage.shop(), &["--path", "sub/part"]).ok().proves();
    assert_eq!(read(&stage.volume, "sub/part/a").as_deref(), Some("new"));
    assert_eq!(read(&stage.volume, "not"), None);
}

#[test]
fn a_path_that_leads_outside_is_refused_as_usage() {
    let p = pair();
    put(&p.source, "a", "1");
    for bad in ["../x", "a/../../x"] {
        let outcome = p.client.sync(&p.source, &p.target, &["--path", bad]);
        assert!(matches!(outcome.status.code(), Some(2)), "{bad}: {outcome}");
    }
}

#[test]
fn a_path_that_is_not_there_is_not_found_and_removes_nothing() {
    let p = pair();
    put(&p.source, "a", "1");
    put(&p.target, "typo/b", "2");
    for path in ["no/such", "typo"] {
        let outcome = p.client.sync(&p.source, &p.target, &["--path", path]);
        assert!(matches!(outcome.status.code(), Some(1 | 3)), "{path}: {outcome}");
        assert_eq!(read(&p.target, "typo/b").as_deref(), Some("2"), "{path}");
    }
}

#[test]
fn checksum_finds_what_the_index_would_believe() {
    // Bytes that change under an index which says otherwise: the target's disk flips one bit, unseen by any stat. Here the device
    // below a file system does it.
    let disk = crate::common::disks::Disk::new("ext4", 64);
    let dir = scratch();
    let source = dir.path().join("source");
    fs::create_dir(&source).unwrap();
    let needle = Rng::new(77).bytes(8192);
    fs::write(source.join("file"), &needle).unwrap();
    let target = disk.root.join("target");
    let client = Client::new(&dir.path().join("client"));
    client.sync(&source, &target, &[]).ok().proves();
    crate::common::sh("sync", &[]);
    disk.flip(&needle);
    assert_ne!(fs::read(target.join("file")).unwrap(), needle, "the test's own damage");
    let outcome = client.sync(&source, &target, &["--checksum"]).ok().proves();
    assert_eq!(fs::read(target.join("file")).unwrap(), needle, "{outcome}");
    assert!(outcome.count("bytes_read") >= 8192, "{outcome}");
}

#[test]
fn the_same_size_and_mtime_do_not_hide_other_bytes() {
    let p = pair();
    put(&p.source, "file", "one");
    set_mtime(&p.source.join("file"), 1_000_000, 0);
    p.client.sync(&p.source, &p.target, &[]).ok().proves();
    put(&p.source, "file", "two");
    set_mtime(&p.source.join("file"), 1_000_000, 0);
    p.client.sync(&p.source, &p.target, &[]).ok().proves();
    assert_eq!(read(&p.target, "file").as_deref(), Some("two"));
    // At the target just as well.
    put(&p.target, "file", "bad");
    set_mtime(&p.target.join("file"), 1_000_000, 0);
    p.client.sync(&p.source, &p.target, &[]).ok().proves();
    assert_eq!(read(&p.target, "file").as_deref(), Some("two"));
}

#[test]
fn bwlimit_bounds_the_rate() {
    let stage = Stage::new();
    let source = stage.folder("source");
    fs::write(source.join("noise"), Rng::new(1).bytes(8 << 20)).unwrap();
    let began = Instant::now();
    stage.admin.sync(&source, stage.shop(), &["--bwlimit", "2M"]).ok().proves();
    // Four seconds' worth; a burst at the start may be free.
    assert!(began.elapsed() > Duration::from_millis(2500), "{:?} for 8 MiB at 2 MB/s", began.elapsed());
    assert_equal(&source, &stage.volume, "limited");
}

#[test]
fn watch_follows_changes_until_it_is_stopped() {
    let p = pair();
    put(&p.source, "a", "1");
    let mut watch = p.client.start_sync(&p.source, &p.target, &["--watch"]);
    let mut follow = |what: &str| {
        let began = Instant::now();
        while !differences(&p.source, &p.target).is_empty() {
            assert!(began.elapsed() < Duration::from_secs(30), "{what} did not come over");
            std::thread::sleep(Duration::from_millis(50));
        }
        assert!(watch.is_running(), "the watch ended after {what}");
    };
    follow("the first copy");
    put(&p.source, "a", "2");
    follow("an edit");
    put(&p.source, "new/deep/b", "3");
    follow("a new folder");
    put(&p.source, "new/deep/c", "4");
    follow("a file in the new folder");
    fs::rename(p.source.join("new"), p.source.join("moved")).unwrap();
    follow("a move");
    fs::remove_file(p.source.join("a")).unwrap();
    follow("a removal");
    watch.signal(Signal::INT);
    let outcome = watch.finish();
    assert!(outcome.status.code().is_some(), "{outcome}");
}

#[test]
fn interrupted_a_sync_leaves_the_target_as_it_was_and_the_next_sends_what_is_missing() {
    let stage = Stage::new();
    let source = stage.folder("source");
    put(&stage.volume, "old", "old");
    for number in 0..16 {
        fs::write(source.join(format!("f{number}")), Rng::new(number).bytes(1 << 20)).unwrap();
    }
    let before = crate::common::oracle::likeness(&stage.volume);
    let running = stage.admin.start_sync(&source, stage.shop(), &["--bwlimit", "4M"]);
    std::thread::sleep(Duration::from_millis(2500));
    running.signal(Signal::INT);
    let outcome = running.finish();
    assert!(outcome.status.code().is_some_and(|code| code != 0), "{outcome}");
    assert_eq!(crate::common::oracle::likeness(&stage.volume), before);
    let second = stage.admin.sync(&source, stage.shop(), &[]).ok().proves();
    assert_equal(&source, &stage.volume, "second try");
    assert!(second.wire() < 14 << 20, "what had come was sent again\n{second}");
}

#[test]
fn people_see_a_plan_and_a_result_without_json() {
    let p = pair();
    put(&p.source, "a", "1");
    let out = p.client.command(&["--no-color", "sync"]).arg(&p.source).arg(&p.target).output().unwrap();
    assert!(out.status.success());
    assert!(!out.stdout.is_empty() || !out.stderr.is_empty());
    assert!(!out.stdout.contains(&0x1b), "colours in a pipe");
    let quiet = p.client.command(&["-q", "sync"]).arg(&p.source).arg(&p.target).output().unwrap();
    assert!(quiet.status.success() && quiet.stderr.is_empty(), "{}", String::from_utf8_lossy(&quiet.stderr));
}
