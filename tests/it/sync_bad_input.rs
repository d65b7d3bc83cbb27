//! What is wrong is said, with its own exit status, and nothing is touched.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crate::common::host::{Client, Outcome, Stage};
use crate::common::oracle::{assert_equal, likeness, portrait};
use crate::common::{disks::Disk, scratch};

fn put(root: &Path, path: &str, text: &str) {
    let path = root.join(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

/// Every error says something and what to do about it.
#[track_caller]
fn says(outcome: &Outcome, word: &str) {
    let error = outcome.last();
    let text = format!("{} {}", error["message"].as_str().unwrap_or(""), error["hint"].as_str().unwrap_or(""));
    assert!(text.to_lowercase().contains(word), "nothing about {word:?} in the error\n{outcome}");
    assert!(error["hint"].as_str().is_some_and(|hint| !hint.is_empty()), "no hint\n{outcome}");
}

#[test]
fn an_empty_source_over_a_full_target_is_refused_until_forced() {
    let stage = Stage::new();
    let source = stage.folder("source");
    put(&stage.volume, "data", "precious");
    let before = portrait(&stage.volume);
    let outcome = stage.admin.sync(&source, stage.shop(), &[]).fails(3, "refused");
    says(&outcome, "empty");
    assert_eq!(portrait(&stage.volume), before);
    stage.admin.sync(&source, stage.shop(), &["--force"]).ok().proves();
    assert_equal(&source, &stage.volume, "forced");
}

#[test]
fn an_empty_source_over_an_empty_target_is_no_cause_for_alarm() {
    let dir = scratch();
    let (source, target) = (dir.path().join("source"), dir.path().join("target"));
    fs::create_dir(&source).unwrap();
    fs::create_dir(&target).unwrap();
    Client::new(&dir.path().join("client")).sync(&source, &target, &[]).ok().proves();
}

#[test]
fn removing_more_than_half_and_over_a_hundred_is_refused_until_told() {
    let dir = scratch();
    let (source, target) = (dir.path().join("source"), dir.path().join("target"));
    let client = Client::new(&dir.path().join("client"));
    let fill = |root: &Path, files: u32| {
        let _ = fs::remove_dir_all(root);
        (0..files).for_each(|number| put(root, &format!("f{number}"), "x"));
    };
    fill(&target, 300);
    fill(&source, 149);
    let before = portrait(&target);
    let outcome = client.sync(&source, &target, &[]).fails(3, "refused");
    says(&outcome, "151");
    assert_eq!(portrait(&target), before, "touched");
    client.sync(&source, &target, &["--no-remove"]).ok();
    let told = client.sync(&source, &target, &["--yes"]);
    if told.status.code() != Some(0) {
        says(&told, "--force");
        client.sync(&source, &target, &["--force"]).ok().proves();
    }
    assert_equal(&source, &target, "told");
    // At the limits it goes ahead: exactly half, and exactly a hundred.
    fill(&target, 300);
    fill(&source, 150);
    client.sync(&source, &target, &[]).ok().proves();
    fill(&target, 101);
    fill(&source, 1);
    client.sync(&source, &target, &[]).ok().proves();
}

#[test]
fn source_and_target_inside_one_another_are_refused() {
    let dir = scratch();
    let outer = dir.path().join("outer");
    put(&outer, "inner/file", "1");
    put(&outer, "top", "1");
    std::os::unix::fs::symlink(outer.join("inner"), dir.path().join("alias")).unwrap();
    let client = Client::new(&dir.path().join("client"));
    let before = portrait(&outer);
    let pairs = [
        ("outer", "outer/inner"),
        ("outer/inner", "outer"),
        ("outer", "outer"),
        ("outer", "alias"),
        ("alias", "outer"),
        ("outer", "outer/inner/../new"),
    ];
    for (source, target) in pairs {
        let outcome = client.sync(dir.path().join(source), dir.path().join(target), &[]);
        assert_eq!(outcome.status.code(), Some(3), "{source} into {target}\n{outcome}");
        assert_eq!(portrait(&outer), before, "{source} into {target}");
    }
}

#[test]
fn a_source_that_is_not_there_is_named() {
    let stage = Stage::new();
    let missing = stage.dir.path().join("missing");
    let outcome = stage.admin.sync(&missing, stage.shop(), &[]).fails(1, "not_found");
    says(&outcome, "missing");
    let file = stage.dir.path().join("file");
    fs::write(&file, "").unwrap();
    let outcome = stage.admin.sync(&file, stage.shop(), &[]);
    assert!(matches!(outcome.status.code(), Some(1 | 2)), "{outcome}");
}

#[test]
fn unknown_names_are_each_told_apart() {
    let stage = Stage::new();
    let source = stage.folder("source");
    put(&source, "a", "1");
    let address = &stage.daemon.address;
    let unknown = |target: &str| stage.admin.sync(&source, target, &[]).fails(1, "not_found");
    says(&unknown(&format!("nobody@{address}")), "nobody");
    says(&unknown(&format!("ghost.shop@{address}:/data")), "ghost");
}

#[test]
fn an_unreachable_host_is_exit_4_and_soon() {
    let stage = Stage::new();
    let source = stage.folder("source");
    put(&source, "a", "1");
    let began = std::time::Instant::now();
    let outcome = stage.admin.sync(&source, "shop@127.0.0.1:1", &[]).fails(4, "unreachable");
    says(&outcome, "127.0.0.1:1");
    assert!(began.elapsed() < std::time::Duration::from_secs(40), "{:?}", began.elapsed());
    let outcome = stage.admin.sync(&source, "shop@no-such-host.invalid", &[]);
    assert_eq!(outcome.status.code(), Some(4), "{outcome}");
}

#[test]
fn a_command_line_that_makes_no_sense_is_exit_2() {
    let dir = scratch();
    let client = Client::new(&dir.path().join("client"));
    let lines: &[&[&str]] = &[
        &["sync"],
        &["sync", "onlyone"],
        &["sync", "a", "b", "c"],
        &["sync", "a", "b", "--no-such-option"],
        &["sync", "a", "-bad-.name@host"],
        &["sync", "a", "x@"],
        &["sync", "a", "b", "--bwlimit", "fast"],
        &["nonsense"],
    ];
    for line in lines {
        let out = client.command(line).output().unwrap();
        assert_eq!(out.status.code(), Some(2), "{line:?}: {}", String::from_utf8_lossy(&out.stderr));
        assert!(!out.stderr.is_empty(), "{line:?} says nothing");
    }
}

#[test]
fn an_unreadable_file_is_left_out_listed_and_exit_5() {
    let dir = scratch();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let (source, target) = (dir.path().join("source"), dir.path().join("target"));
    put(&source, "readable", "1");
    put(&source, "secret", "root's");
    put(&source, "closed/inside", "root's");
    fs::create_dir(&target).unwrap();
    for path in [&source, &target, &source.join("readable"), &source.join("closed")] {
        std::os::unix::fs::chown(path, Some(65534), Some(65534)).unwrap();
    }
    fs::set_permissions(source.join("secret"), fs::Permissions::from_mode(0o600)).unwrap();
    std::os::unix::fs::chown(source.join("closed"), Some(0), Some(0)).unwrap();
    fs::set_permissions(source.join("closed"), fs::Permissions::from_mode(0o700)).unwrap();
    put(&target, "secret", "mine stays");
    std::os::unix::fs::chown(target.join("secret"), Some(65534), Some(65534)).unwrap();

    let client = Client::new(&dir.path().join("client")).by_user(65534);
    let outcome = client.sync(&source, &target, &[]).exits(5);
    assert_eq!(outcome.last()["event"], "done", "{outcome}");
    let text = outcome.text();
    assert!(text.contains("secret") && text.contains("closed"), "the listing lacks a path\n{text}");
    assert_eq!(fs::read_to_string(target.join("readable")).unwrap(), "1");
    assert_eq!(fs::read_to_string(target.join("secret")).unwrap(), "mine stays");
    // Nothing to complain of, nothing complained of.
    fs::remove_file(source.join("secret")).unwrap();
    fs::remove_dir_all(source.join("closed")).unwrap();
    client.sync(&source, &target, &[]).ok();
}

#[test]
fn what_a_user_may_not_make_is_listed_and_the_rest_is_there() {
    let dir = scratch();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let (source, target) = (dir.path().join("source"), dir.path().join("target"));
    put(&source, "plain", "1");
    put(&source, "theirs", "2");
    fs::create_dir(&target).unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        source.join("device"),
        rustix::fs::FileType::CharacterDevice,
        rustix::fs::Mode::from_raw_mode(0o644),
        rustix::fs::makedev(1, 3),
    )
    .unwrap();
    for path in [&source, &target, &source.join("plain")] {
        std::os::unix::fs::chown(path, Some(65534), Some(65534)).unwrap();
    }
    let client = Client::new(&dir.path().join("client")).by_user(65534);
    let outcome = client.sync(&source, &target, &[]).exits(5);
    assert!(outcome.text().contains("device"), "{outcome}");
    assert_eq!(fs::read_to_string(target.join("plain")).unwrap(), "1");
    assert_eq!(fs::read_to_string(target.join("theirs")).unwrap(), "2");
}

#[test]
fn a_read_only_target_is_an_error_that_says_so() {
    let disk = Disk::new("ext4", 32);
    let target = disk.root.join("target");
    put(&target, "old", "old");
    disk.read_only(true);
    let dir = scratch();
    put(&dir.path().join("source"), "a", "1");
    let client = Client::new(&dir.path().join("client"));
    let outcome = client.sync(dir.path().join("source"), &target, &[]).exits(1);
    says(&outcome, "read-only");
    disk.read_only(false);
    client.sync(dir.path().join("source"), &target, &[]).ok().proves();
}

#[test]
fn a_target_that_is_a_file_is_an_error_and_stays() {
    let dir = scratch();
    put(&dir.path().join("source"), "a", "1");
    put(dir.path(), "target", "a file");
    let before = likeness(dir.path());
    let elsewhere = scratch();
    let client = Client::new(&elsewhere.path().join("client"));
    let outcome = client.sync(dir.path().join("source"), dir.path().join("target"), &[]);
    assert!(matches!(outcome.status.code(), Some(1..=3)), "{outcome}");
    assert_eq!(likeness(dir.path()), before);
}

#[test]
fn a_bad_ignore_pattern_is_told_not_ignored() {
    let dir = scratch();
    put(&dir.path().join("source"), "a", "1");
    let client = Client::new(&dir.path().join("client"));
    let outcome = client.sync(dir.path().join("source"), dir.path().join("target"), &["--exclude", "a[z-"]);
    assert!(outcome.text().contains("a[z-"), "{outcome}");
}
