//! What stands in the way in a target: mounts, subvolumes, read-only parts, immutable files, folders that overlay does not
//! rename. It is left alone and listed, all else is done, and no later sync is held up by it.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::common::disks::Disk;
use crate::common::host::{Client, Outcome};
use crate::common::oracle::{assert_equal, differences};
use crate::common::{scratch, sh};

struct Place {
    dir: tempfile::TempDir,
    source: PathBuf,
    target: PathBuf,
    client: Client,
}

impl Place {
    fn new() -> Place {
        let dir = scratch();
        let (source, target) = (dir.path().join("source"), dir.path().join("target"));
        fs::create_dir(&source).unwrap();
        fs::create_dir(&target).unwrap();
        let client = Client::new(&dir.path().join("client"));
        Place { dir, source, target, client }
    }

    fn sync(&self) -> Outcome {
        self.client.sync(&self.source, &self.target, &["--force"])
    }

    /// A sync that leaves something out, and claims no more than is so.
    fn leaves(&self, paths: &[&str]) -> Outcome {
        let outcome = self.sync().exits(5);
        let mut told: Vec<String> = left_out(&outcome);
        told.sort();
        assert_eq!(told, paths, "{outcome}");
        let is_equal = differences(&self.source, &self.target).is_empty();
        let claims = outcome.done()["root_source"] == outcome.done()["root_target"];
        assert_eq!(claims, is_equal, "what is told of the roots\n{outcome}");
        outcome
    }
}

fn left_out(outcome: &Outcome) -> Vec<String> {
    let paths = outcome.events.iter().filter(|line| line["event"] == "left_out");
    paths.map(|line| line["path"].as_str().unwrap_or_default().to_owned()).collect()
}

/// Something that is mounted as long as it is held.
struct Mounted(PathBuf);

impl Mounted {
    fn new(arguments: &[&str], at: &Path) -> Mounted {
        sh("mount", &[arguments, &[at.to_str().unwrap()]].concat());
        Mounted(at.to_owned())
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        sh("umount", &["-l", self.0.to_str().unwrap()]);
    }
}

fn write(path: impl AsRef<Path>, text: &str) {
    let path = path.as_ref();
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

#[test]
fn a_mount_that_the_source_has_as_a_folder_is_synced_into() {
    let place = Place::new();
    let inside = place.target.join("m");
    fs::create_dir(&inside).unwrap();
    let _mounted = Mounted::new(&["-t", "tmpfs", "-o", "size=8m", "none"], &inside);
    for (path, text) in [
        ("m/stays", "s"),
        ("m/changes", "old"),
        ("m/goes", "g"),
        ("m/folder/x", "x"),
        ("moves-in", "a file that moves in"),
    ] {
        write(place.target.join(path), text);
    }
    for (path, text) in [
        ("m/stays", "s"),
        ("m/changes", "new"),
        ("m/comes", "c"),
        ("m/new/deep/y", "y"),
        ("m/moved-in", "a file that moves in"),
    ] {
        write(place.source.join(path), text);
    }
    fs::hard_link(place.source.join("m/comes"), place.source.join("m/new/link")).unwrap();
    place.sync().ok().proves();
    assert_equal(&place.source, &place.target, "into the mount");
    place.sync().ok().proves();
}

#[test]
fn a_mount_that_the_source_lacks_stays_with_all_that_is_in_it() {
    let place = Place::new();
    for (path, text) in [("goes/a", "a"), ("goes/deep/m/.keep", ""), ("goes/other/b", "b")] {
        write(place.target.join(path), text);
    }
    let inside = place.target.join("goes/deep/m");
    let _mounted = Mounted::new(&["-t", "tmpfs", "-o", "size=8m", "none"], &inside);
    write(inside.join("precious"), "only copy");
    write(place.source.join("new"), "n");
    place.leaves(&["goes/deep/m"]);
    assert_eq!(fs::read_to_string(inside.join("precious")).unwrap(), "only copy");
    assert_eq!(fs::read_to_string(place.target.join("new")).unwrap(), "n");
    assert!(!place.target.join("goes/a").exists() && !place.target.join("goes/other").exists(), "all else goes");
    write(place.source.join("later"), "l");
    place.leaves(&["goes/deep/m"]);
    assert!(place.target.join("later").exists());
    drop(_mounted);
    place.sync().ok().proves();
    assert_equal(&place.source, &place.target, "once nothing is mounted");
}

#[test]
fn a_bind_mount_of_the_same_file_system_is_a_mount_too_and_so_is_one_of_a_file() {
    let place = Place::new();
    let other = place.dir.path().join("other");
    write(other.join("theirs"), "theirs");
    write(place.target.join("m/.keep"), "");
    write(place.target.join("file"), "below");
    let _folder = Mounted::new(&["--bind", other.to_str().unwrap()], &place.target.join("m"));
    let _file = Mounted::new(&["--bind", other.join("theirs").to_str().unwrap()], &place.target.join("file"));
    write(place.source.join("file"), "changed");
    write(place.source.join("x"), "x");
    place.leaves(&["file", "m"]);
    assert_eq!(fs::read_to_string(other.join("theirs")).unwrap(), "theirs");
    assert_eq!(fs::read_to_string(place.target.join("x")).unwrap(), "x");
    // A folder of the source in whose place a file would come is no way out either.
    write(place.source.join("m"), "a file now");
    place.leaves(&["file", "m"]);
    assert_eq!(fs::read_to_string(other.join("theirs")).unwrap(), "theirs");
}

#[test]
fn a_part_that_is_mounted_read_only_is_left_alone_and_wedges_nothing() {
    let place = Place::new();
    let other = place.dir.path().join("other");
    write(other.join("extra"), "x");
    fs::create_dir(place.target.join("ro")).unwrap();
    write(place.target.join("z/old"), "1");
    write(place.source.join("ro/mine"), "m");
    write(place.source.join("z/new"), "new");
    let at = place.target.join("ro");
    let _mounted = Mounted::new(&["--bind", other.to_str().unwrap()], &at);
    sh("mount", &["-o", "remount,ro,bind", at.to_str().unwrap()]);
    place.leaves(&["ro"]);
    assert!(place.target.join("z/new").exists() && !place.target.join("z/old").exists());
    write(place.source.join("more"), "more");
    place.leaves(&["ro"]);
    assert!(place.target.join("more").exists());
    assert!(!place.dir.path().join(".mcloud-stage.target").exists(), "nothing is left to be finished");
}

#[test]
fn a_subvolume_stays_and_one_that_the_source_has_as_a_folder_is_synced_into() {
    let disk = Disk::new("btrfs", 320);
    let mut place = Place::new();
    place.target = disk.root.join("target");
    fs::create_dir(&place.target).unwrap();
    for name in ["kept", "goes/sub"] {
        let path = place.target.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        sh("btrfs", &["-q", "subvolume", "create", path.to_str().unwrap()]);
        write(path.join("old"), "old");
    }
    write(place.source.join("kept/new"), "new");
    place.leaves(&["goes/sub"]);
    assert_equal(&place.source.join("kept"), &place.target.join("kept"), "in the subvolume");
    assert!(place.target.join("goes/sub/old").exists());
    place.leaves(&["goes/sub"]);
}

#[test]
fn what_is_immutable_is_listed_and_stays_and_all_else_is_done() {
    let disk = Disk::new("ext4", 64);
    let mut place = Place::new();
    place.target = disk.root.join("target");
    for (path, text) in [
        ("changes", "old"),
        ("gone", "g"),
        ("folder/fixed", "f"),
        ("folder/other", "o"),
        ("closed/a", "a"),
        ("moves", "a file that moves"),
    ] {
        write(place.target.join(path), text);
    }
    let fixed = ["changes", "gone", "folder/fixed", "closed", "moves"].map(|path| place.target.join(path));
    let fixed: Vec<&str> = fixed.iter().map(|path| path.to_str().unwrap()).collect();
    sh("chattr", &[&["+i"], &fixed[..]].concat());
    for (path, text) in [
        ("changes", "new and longer"),
        ("closed/a", "a"),
        ("closed/b", "b"),
        ("moved", "a file that moves"),
        ("plain", "p"),
    ] {
        write(place.source.join(path), text);
    }
    let told = place.sync().exits(5);
    let mut paths = left_out(&told);
    paths.sort();
    paths.dedup();
    assert_eq!(paths, ["changes", "closed", "closed/b", "folder/fixed", "gone", "moves"], "{told}");
    assert_ne!(told.done()["root_source"], told.done()["root_target"], "{told}");
    let read = |path: &str| fs::read_to_string(place.target.join(path)).unwrap();
    assert_eq!((read("changes"), read("gone"), read("folder/fixed")), ("old".into(), "g".into(), "f".into()));
    assert_eq!(
        (read("plain"), read("moved"), read("moves")),
        ("p".into(), "a file that moves".into(), "a file that moves".into())
    );
    assert!(!place.target.join("folder/other").exists());
    write(place.source.join("plain"), "later");
    place.sync().exits(5);
    assert_eq!(read("plain"), "later");
    sh("chattr", &[&["-i"], &fixed[..]].concat());
    place.sync().ok().proves();
    assert_equal(&place.source, &place.target, "once it may be changed");
}

#[test]
fn an_overlay_that_renames_no_folder_is_synced_all_the_same() {
    let place = Place::new();
    let on = |name: &str| place.dir.path().join(name);
    for (path, text) in
        [("t/goes/deep/a", "a"), ("t/moves/b", "b"), ("t/moves/c", "c"), ("t/changes/d", "old"), ("t/stays", "s")]
    {
        write(on("lower").join(path), text);
    }
    for name in ["upper", "work", "merged"] {
        fs::create_dir(on(name)).unwrap();
    }
    let layers = ["lower", "upper", "work"].map(|name| format!("{name}dir={}", on(name).display()));
    let _mounted = Mounted::new(&["-t", "overlay", "-o", &layers.join(","), "none"], &on("merged"));
    let target = on("merged").join("t");
    for (path, text) in [("moved/b", "b"), ("moved/c", "c"), ("changes/d", "new"), ("stays", "s"), ("new/e", "e")] {
        write(place.source.join(path), text);
    }
    place.client.sync(&place.source, &target, &["--force"]).ok().proves();
    assert_equal(&place.source, &target, "on the overlay");
    place.client.sync(&place.source, &target, &["--force"]).ok().proves();
}

#[test]
fn a_further_name_in_a_folder_that_moves_or_stays_follows_its_file() {
    let place = Place::new();
    for folder in ["moves/sub", "stays", "swap-a", "swap-b"] {
        fs::create_dir_all(place.source.join(folder)).unwrap();
    }
    write(place.source.join("a"), "old");
    for name in ["moves/l", "moves/sub/l", "stays/l"] {
        fs::hard_link(place.source.join("a"), place.source.join(name)).unwrap();
    }
    write(place.source.join("swap-a/f"), "of a");
    write(place.source.join("swap-b/f"), "of b");
    fs::hard_link(place.source.join("swap-a/f"), place.source.join("z-of-a")).unwrap();
    fs::hard_link(place.source.join("swap-b/f"), place.source.join("z-of-b")).unwrap();
    place.sync().ok().proves();
    assert_equal(&place.source, &place.target, "first");
    fs::rename(place.source.join("moves"), place.source.join("moved")).unwrap();
    write(place.source.join("a"), "new and longer");
    place.sync().ok().proves();
    assert_equal(&place.source, &place.target, "moved, and its first name replaced");
    // The folders change places, and the names outside follow the other file each: their entries are what they were.
    fs::rename(place.source.join("swap-a"), place.source.join("swap")).unwrap();
    fs::rename(place.source.join("swap-b"), place.source.join("swap-a")).unwrap();
    fs::rename(place.source.join("swap"), place.source.join("swap-b")).unwrap();
    fs::rename(place.source.join("z-of-a"), place.source.join("z")).unwrap();
    fs::rename(place.source.join("z-of-b"), place.source.join("z-of-a")).unwrap();
    fs::rename(place.source.join("z"), place.source.join("z-of-b")).unwrap();
    place.sync().ok().proves();
    assert_equal(&place.source, &place.target, "swapped");
}

#[test]
fn a_name_that_only_the_target_has_keeps_its_file_when_another_name_of_it_is_replaced() {
    let place = Place::new();
    write(place.target.join("d/a"), "old");
    write(place.target.join("own/x"), "x");
    fs::hard_link(place.target.join("d/a"), place.target.join("kept")).unwrap();
    fs::hard_link(place.target.join("d/a"), place.target.join("own/kept")).unwrap();
    write(place.source.join("d/a"), "new and longer");
    let outcome = place.client.sync(&place.source, &place.target, &["--no-remove", "--yes"]).ok();
    let read = |path: &str| fs::read_to_string(place.target.join(path)).unwrap();
    assert_eq!([read("d/a"), read("kept"), read("own/kept")], ["new and longer", "old", "old"], "{outcome}");
    assert_ne!(outcome.done()["root_source"], outcome.done()["root_target"], "{outcome}");
}

#[test]
fn what_cannot_be_removed_after_a_commit_waits_aside_and_holds_nothing_up() {
    let place = Place::new();
    write(place.source.join("a"), "a");
    write(place.target.join("gone/deep/x"), "x");
    // It is mounted by the time the folder has left the tree: between the plan and the end nobody looks.
    let trash = place.dir.path().join(".mcloud-stage.target/trash/9/m");
    write(trash.join(".keep"), "");
    fs::set_permissions(
        place.dir.path().join(".mcloud-stage.target"),
        std::os::unix::fs::PermissionsExt::from_mode(0o700),
    )
    .unwrap();
    let mut mounted = Mounted::new(&["-t", "tmpfs", "-o", "size=1m", "none"], &trash);
    write(trash.join("precious"), "p");
    let outcome = place.sync();
    assert!(outcome.status.code() == Some(5) || outcome.status.code() == Some(0), "{outcome}");
    assert_equal(&place.source, &place.target, "the change is made");
    write(place.source.join("b"), "b");
    let outcome = place.sync();
    assert!(outcome.status.code() == Some(5) || outcome.status.code() == Some(0), "{outcome}");
    assert_equal(&place.source, &place.target, "and the next");
    let told = outcome
        .events
        .iter()
        .any(|line: &Value| line["message"].as_str().is_some_and(|text| text.contains("cannot be removed")));
    assert!(told || !left_out(&outcome).is_empty(), "it is told\n{outcome}");
    // It has gone aside with what it is mounted in, and is as it was.
    mounted.0 = place.dir.path().join(".mcloud-stage.target/left/0/9/m");
    assert_eq!(fs::read_to_string(mounted.0.join("precious")).unwrap(), "p");
    drop(mounted);
    place.sync().ok().proves();
    assert!(!place.dir.path().join(".mcloud-stage.target").exists(), "once it can be removed, it is");
}
