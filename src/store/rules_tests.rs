//! The `.mcignore` that a snapshot holds, where it does not fit what is held beside it.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use super::Store;
use super::snapshot::Snapshot;
use super::tests::{open_store, restore, take};
use crate::model::sync::SyncOptions;

/// A snapshot of what is below `sub` of the source, of which no scan has read the rules.
fn taken_unruled(store: &Store, source: &Path) -> Snapshot {
    let (_, mut snapshot) = take(store, source, None, true).unwrap();
    let volume = &mut snapshot.volumes[0];
    let sub = store.entries(&volume.content()).unwrap().into_iter().find(|entry| *entry.name == *b"sub").unwrap();
    volume.root.set_content(sub.content().unwrap());
    snapshot
}

fn forced() -> SyncOptions {
    SyncOptions { force: true, ..Default::default() }
}

#[test]
fn what_the_rules_of_a_snapshot_leave_out_is_left_alone_and_told_though_it_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let (source, target) = (dir.path().join("source"), dir.path().join("target"));
    fs::create_dir_all(source.join("sub/dir/deep")).unwrap();
    fs::create_dir(&target).unwrap();
    for (name, text) in [(".mcignore", "{a}\ndir/\n"), ("{a}", "kept"), ("dir/deep/x", "kept"), ("f", "kept")] {
        fs::write(source.join("sub").join(name), text).unwrap();
    }
    fs::write(target.join("{a}"), "the target's").unwrap();
    let store = open_store(dir.path(), None);
    let snapshot = taken_unruled(&store, &source);
    for to in [&target, &dir.path().join("new")] {
        restore(&store, &snapshot, to, &forced()).unwrap();
        assert_eq!(fs::read(to.join("f")).unwrap(), b"kept");
        assert!(!to.join("dir").exists());
    }
    assert_eq!(fs::read(target.join("{a}")).unwrap(), b"the target's");
    assert!(!dir.path().join("new/{a}").exists());
}

#[test]
fn a_snapshot_whose_rules_are_none_comes_back_where_nothing_can_be_lost_and_nowhere_else() {
    for how in ["a link", "a folder", "too long"] {
        let dir = tempfile::tempdir().unwrap();
        let (source, target) = (dir.path().join("source"), dir.path().join("target"));
        fs::create_dir_all(source.join("sub")).unwrap();
        fs::create_dir(&target).unwrap();
        let rules = source.join("sub/.mcignore");
        match how {
            "a link" => symlink("f", &rules).unwrap(),
            "a folder" => fs::create_dir(&rules).unwrap(),
            _ => fs::write(&rules, "#".repeat((1 << 20) + 1)).unwrap(),
        }
        fs::write(source.join("sub/f"), "kept").unwrap();
        fs::write(target.join("keep"), "the target's").unwrap();
        let store = open_store(dir.path(), None);
        let snapshot = taken_unruled(&store, &source);
        let error = restore(&store, &snapshot, &target, &forced()).unwrap_err();
        assert!(error.message.contains(".mcignore") && error.hint.is_some(), "{how}: {error:?}");
        assert!(target.join("keep").exists() && !target.join("f").exists(), "{how}");
        restore(&store, &snapshot, &dir.path().join("new"), &forced()).unwrap();
        assert_eq!(fs::read(dir.path().join("new/f")).unwrap(), b"kept", "{how}");
    }
}

#[test]
fn rules_that_have_a_second_name_protect_as_others_do() {
    let dir = tempfile::tempdir().unwrap();
    let (source, target) = (dir.path().join("source"), dir.path().join("target"));
    fs::create_dir_all(&source).unwrap();
    fs::create_dir(&target).unwrap();
    fs::write(source.join(".a-rules"), "keep\n").unwrap();
    fs::hard_link(source.join(".a-rules"), source.join(".mcignore")).unwrap();
    fs::write(target.join("keep"), "the target's").unwrap();
    let store = open_store(dir.path(), None);
    let (_, snapshot) = take(&store, &source, None, true).unwrap();
    restore(&store, &snapshot, &target, &forced()).unwrap();
    assert_eq!(fs::read(target.join("keep")).unwrap(), b"the target's");
    assert!(target.join(".mcignore").exists());
}
