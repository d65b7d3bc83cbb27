//! Targets that take two names for one, and names that a target does not take.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::common::disks::Disk;
use crate::common::host::{Client, Outcome};
use crate::common::scratch;

/// Writes files, each with its own path in it.
fn write(root: &Path, names: &[&str]) {
    for name in names {
        fs::create_dir_all(root.join(name).parent().unwrap()).unwrap();
        fs::write(root.join(name), name).unwrap();
    }
}

/// All files below a root, with their content.
fn files(root: &Path) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut todo = vec![root.to_owned()];
    while let Some(dir) = todo.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => todo.push(path),
                false => {
                    let name = path.strip_prefix(root).unwrap().to_string_lossy().into_owned();
                    found.insert(name, fs::read_to_string(path).unwrap());
                }
            }
        }
    }
    found
}

fn named(names: &[&str]) -> BTreeMap<String, String> {
    names.iter().map(|name| ((*name).to_owned(), (*name).to_owned())).collect()
}

/// The paths told as left out for their names, in order.
fn left_out(outcome: &Outcome) -> Vec<String> {
    let names = |reason: &str| reason.contains("its name") || reason.contains("hard link to an entry");
    let told = outcome.events.iter().filter(|event| event["event"] == "left_out");
    told.filter(|event| names(event["reason"].as_str().unwrap()))
        .map(|event| event["path"].as_str().unwrap().to_owned())
        .collect()
}

#[test]
fn of_names_that_a_target_takes_for_one_the_first_comes_and_the_others_are_told() {
    let (disk, dir) = (Disk::new("exfat", 60), scratch());
    let client = Client::new(&dir.path().join("client"));
    let (source, target) = (dir.path().join("source"), disk.root.join("target"));
    let twins = ["new/A", "new/a", "new/b", "D/one", "D/both", "d/two", "d/both", "x/Mixed/f", "x/mixed"];
    write(&source, &twins);
    fs::hard_link(source.join("new/a"), source.join("new/z")).unwrap();
    let lost = ["d", "new/a", "new/z", "x/mixed"];
    let came = named(&["new/A", "new/b", "D/one", "D/both", "x/Mixed/f"]);
    for round in 0..2 {
        let outcome = client.sync(&source, &target, &["--force"]).exits(5);
        assert_eq!(left_out(&outcome), lost, "round {round}: {outcome}");
        assert_eq!(files(&target), came, "round {round}: {outcome}");
        assert_ne!(outcome.done()["root_source"], outcome.done()["root_target"], "{outcome}");
    }
    // Into a folder that is there, beside what has its name, and two at once.
    write(&source, &["new/B", "new/Two", "new/two"]);
    let outcome = client.sync(&source, &target, &["--force"]).exits(5);
    assert_eq!(left_out(&outcome), ["d", "new/B", "new/a", "new/two", "new/z", "x/mixed"], "{outcome}");
    let mut now = came.clone();
    now.extend(named(&["new/Two"]));
    assert_eq!(files(&target), now, "{outcome}");
    // What was in the way goes: the other takes its place.
    fs::remove_dir_all(source.join("D")).unwrap();
    for name in ["new/b", "new/Two", "new/A", "new/z", "x/mixed"] {
        fs::remove_file(source.join(name)).unwrap();
    }
    let outcome = client.sync(&source, &target, &["--force"]).exits(5);
    assert_eq!(left_out(&outcome), Vec::<String>::new(), "{outcome}");
    let all = named(&["new/B", "new/a", "new/two", "d/two", "d/both", "x/Mixed/f"]);
    assert_eq!(files(&target), all, "{outcome}");
}

#[test]
fn what_is_kept_at_a_target_does_not_give_way_to_a_name_that_is_taken_for_its_own() {
    let (disk, dir) = (Disk::new("exfat", 60), scratch());
    let client = Client::new(&dir.path().join("client"));
    let (source, target) = (dir.path().join("source"), disk.root.join("target"));
    write(&target, &["Kept", "folder/Cache", "Folded/f"]);
    write(&source, &["kept", "folder/cache", "folder/other", "folded/g"]);
    let options = ["--force", "--no-remove", "--exclude", "Cache"];
    for _ in 0..2 {
        let outcome = client.sync(&source, &target, &options).exits(5);
        assert_eq!(left_out(&outcome), ["folded", "folder/cache", "kept"], "{outcome}");
        assert_eq!(files(&target), named(&["Kept", "folder/Cache", "folder/other", "Folded/f"]), "{outcome}");
    }
    // Without either, each is replaced by what the source has.
    client.sync(&source, &target, &["--force"]).exits(5);
    assert_eq!(files(&target), named(&["kept", "folder/cache", "folder/other", "folded/g"]));
}

#[test]
fn a_name_that_a_target_does_not_take_is_told_and_all_others_come() {
    let (disk, dir) = (Disk::new("ntfs", 60), scratch());
    let client = Client::new(&dir.path().join("client"));
    let (source, target) = (dir.path().join("source"), disk.root.join("target"));
    write(&source, &["fine", "deep/fine", "\u{e9}", "e\u{301}", "A", "a"]);
    let bad = std::ffi::OsStr::from_bytes(b"bad\xff");
    for folder in ["", "deep"] {
        fs::write(source.join(folder).join(bad), "1").unwrap();
        fs::create_dir(source.join(folder).join("d").with_file_name(std::ffi::OsStr::from_bytes(b"dir\xff"))).unwrap();
    }
    write(&target, &["there"]);
    for round in 0..2 {
        let outcome = client.sync(&source, &target, &["--force"]).exits(5);
        assert_eq!(left_out(&outcome).len(), 4, "round {round}: {outcome}");
        assert_eq!(files(&target), named(&["fine", "deep/fine", "\u{e9}", "e\u{301}", "A", "a"]), "{outcome}");
    }
}

#[test]
fn a_name_that_a_target_would_change_is_told() {
    let (disk, dir) = (Disk::new("ntfs-lower", 60), scratch());
    let client = Client::new(&dir.path().join("client"));
    let (source, target) = (dir.path().join("source"), disk.root.join("target"));
    write(&source, &["small", "Large", "Folder/f", "folder/Large", "folder/small"]);
    for round in 0..2 {
        let outcome = client.sync(&source, &target, &["--force"]).exits(5);
        assert_eq!(left_out(&outcome), ["Folder", "Large", "folder/Large"], "round {round}: {outcome}");
        assert_eq!(files(&target), named(&["small", "folder/small"]), "{outcome}");
    }
}
