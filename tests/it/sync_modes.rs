//! Modes, owners and times that a target, or this user, cannot give.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::Path;

use crate::common::disks::Disk;
use crate::common::host::{Client, Outcome};
use crate::common::oracle::assert_equal;
use crate::common::{Rng, scratch, sh};

const NOBODY: u32 = 65534;

/// The paths that were told as left out, and the reasons.
fn left_out(outcome: &Outcome) -> (BTreeSet<String>, BTreeSet<String>) {
    let told = outcome.events.iter().filter(|event| event["event"] == "left_out");
    told.map(|event| (event["path"].as_str().unwrap().to_owned(), event["reason"].as_str().unwrap().to_owned())).unzip()
}

fn set(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

#[test]
fn a_file_system_without_modes_and_owners_takes_all_else_and_what_it_lacks_is_told() {
    let (disk, dir) = (Disk::new("ntfs", 60), scratch());
    let client = Client::new(&dir.path().join("client"));
    let source = dir.path().join("source");
    fs::create_dir_all(source.join("folder/below")).unwrap();
    let mut rng = Rng::new(5);
    for number in 0..40 {
        fs::write(source.join(format!("folder/file{number}")), rng.bytes(100 * number)).unwrap();
    }
    fs::write(source.join("big"), rng.bytes(3 << 20)).unwrap();
    symlink("big", source.join("link")).unwrap();
    chown(source.join("big"), Some(1000), Some(1000)).unwrap();
    // The whole disk, which has the stage inside, and a folder on it, which has it beside.
    for target in [disk.root.join("target"), disk.root.clone()] {
        sh("sh", &["-c", &format!("rm -rf '{}'/*", disk.root.display())]);
        for round in 0..3 {
            fs::write(source.join("folder/file7"), format!("round {round}")).unwrap();
            let outcome = client.sync(&source, &target, &["--force"]).exits(5);
            let same =
                sh("sh", &["-c", &format!("diff -r '{}' '{}' && echo same", source.display(), target.display())]);
            assert_eq!(same.trim(), "same", "{outcome}");
            assert_ne!(outcome.done()["root_source"], outcome.done()["root_target"], "{outcome}");
            let (paths, reasons) = left_out(&outcome);
            assert!(paths.contains("big") && paths.contains("folder/file7") && paths.contains("."), "{outcome}");
            assert!(reasons.len() <= 6, "one reason for all of a kind: {reasons:?}");
            assert!(!disk.root.join(".mcloud-stage").exists() && !disk.root.join(".mcloud-stage.target").exists());
        }
    }
    // People read a line for each reason, not for each file.
    let target = disk.root.join("target");
    let words = [std::ffi::OsStr::new("sync"), source.as_os_str(), target.as_os_str(), "--force".as_ref()];
    let out = client.command(&words).output().unwrap();
    let text = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.code() == Some(5) && text.contains("could not be kept by the target's file system"), "{text}");
    assert!(text.lines().count() < 60, "{text}");
}

#[test]
fn a_file_system_without_links_and_pipes_takes_all_else_and_what_it_lacks_is_told() {
    let (disk, dir) = (Disk::new("exfat", 60), scratch());
    let client = Client::new(&dir.path().join("client"));
    let (source, target) = (dir.path().join("source"), disk.root.join("target"));
    fs::create_dir_all(source.join("folder")).unwrap();
    for path in ["first", "folder/file"] {
        fs::write(source.join(path), path).unwrap();
    }
    fs::hard_link(source.join("first"), source.join("second")).unwrap();
    for folder in ["", "folder"] {
        symlink("first", source.join(folder).join("link")).unwrap();
        sh("mkfifo", &[source.join(folder).join("pipe").to_str().unwrap()]);
    }
    for round in 0..2 {
        let outcome = client.sync(&source, &target, &["--force"]).exits(5);
        for path in ["first", "folder/file"] {
            assert_eq!(fs::read(target.join(path)).unwrap(), path.as_bytes(), "round {round}: {outcome}");
        }
        let there = |folder: &Path| fs::read_dir(folder).unwrap().count();
        assert_eq!((there(&target), there(&target.join("folder"))), (2, 1), "round {round}: {outcome}");
        let paths = left_out(&outcome).0;
        assert!(paths.is_superset(&set(&["link", "pipe", "second", "folder/link", "folder/pipe"])), "{outcome}");
    }
}

/// Where the stage of `target` is.
fn stage_of(target: &Path) -> std::path::PathBuf {
    target.with_file_name(".mcloud-stage.target")
}

#[test]
fn a_stage_that_another_user_put_there_is_not_used() {
    let dir = scratch();
    let client = Client::new(&dir.path().join("client"));
    let (source, target) = (dir.path().join("source"), dir.path().join("target"));
    fs::create_dir(&source).unwrap();
    fs::write(source.join("file"), "1").unwrap();
    for (owner, mode) in [(NOBODY, 0o700), (NOBODY, 0o777), (0, 0o777), (0, 0o750)] {
        let stage = stage_of(&target);
        fs::create_dir(&stage).unwrap();
        fs::set_permissions(&stage, fs::Permissions::from_mode(mode)).unwrap();
        chown(&stage, Some(owner), Some(owner)).unwrap();
        let outcome = client.sync(&source, &target, &[]).exits(1);
        assert!(outcome.text().contains("belongs to somebody else"), "{owner} {mode:o}: {outcome}");
        assert!(!target.exists());
        assert_eq!(fs::read_dir(&stage).unwrap().count(), 0, "nothing of ours is left in it");
        fs::remove_dir(&stage).unwrap();
    }
    // Nor one that somebody mounted, whatever it says of its owner.
    let stage = stage_of(&target);
    fs::create_dir(&stage).unwrap();
    sh("mount", &["-t", "tmpfs", "-o", "mode=700", "tmpfs", stage.to_str().unwrap()]);
    let outcome = client.sync(&source, &target, &[]);
    sh("umount", &[stage.to_str().unwrap()]);
    assert!(outcome.exits(1).text().contains("belongs to somebody else"));
}

#[test]
fn setuid_and_setgid_do_not_come_without_their_owner_and_group() {
    let dir = scratch();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let client = Client::new(&dir.path().join("client")).by_user(NOBODY);
    let (source, home) = (dir.path().join("source"), dir.path().join("home"));
    fs::create_dir_all(source.join("shared")).unwrap();
    fs::create_dir(&home).unwrap();
    chown(&home, Some(NOBODY), Some(NOBODY)).unwrap();
    let entries = [("both", 0o6755), ("user", 0o4755), ("group", 0o2755), ("shared", 0o3777), ("shared/tool", 0o4755)];
    for (name, mode) in entries {
        let path = source.join(name);
        if !path.exists() {
            fs::write(&path, name).unwrap();
        }
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    }
    fs::hard_link(source.join("both"), source.join("second name")).unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        source.join("pipe"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::from_raw_mode(0o644),
        0,
    )
    .unwrap();
    fs::set_permissions(source.join("pipe"), fs::Permissions::from_mode(0o6755)).unwrap();
    // What the user has itself is kept.
    fs::write(source.join("own"), "").unwrap();
    chown(source.join("own"), Some(NOBODY), Some(NOBODY)).unwrap();
    fs::set_permissions(source.join("own"), fs::Permissions::from_mode(0o6755)).unwrap();
    let target = home.join("target");
    for round in ["new", "again", "over one that has them", "changed"] {
        match round {
            "over one that has them" => {
                fs::set_permissions(target.join("user"), fs::Permissions::from_mode(0o4755)).unwrap();
            }
            "changed" => sh(
                "sh",
                &["-c", &format!("cd '{}' && echo x >>shared/tool && chmod 4755 shared/tool", source.display())],
            )
            .clear(),
            _ => {}
        }
        let outcome = client.sync(&source, &target, &["--force"]).exits(5);
        let mode = |name: &str| target.join(name).symlink_metadata().unwrap().mode() & 0o7777;
        for (name, mode_there) in [
            ("both", 0o755),
            ("second name", 0o755),
            ("user", 0o755),
            ("group", 0o755),
            ("shared", 0o1777),
            ("shared/tool", 0o755),
            ("pipe", 0o755),
            ("own", 0o6755),
        ] {
            assert_eq!(mode(name), mode_there, "{round}: {name} {:o}\n{outcome}", mode(name));
        }
        let (_, reasons) = left_out(&outcome);
        assert!(reasons.iter().any(|reason| reason.contains("setuid") && reason.contains("not set")), "{outcome}");
    }
    // Root gives them all.
    let root = Client::new(&dir.path().join("other"));
    root.sync(&source, dir.path().join("whole"), &[]).ok().proves();
    assert_equal(&source, &dir.path().join("whole"), "by root");
}

#[test]
fn setgid_of_a_folder_stays_where_its_group_does() {
    let dir = scratch();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let client = Client::new(&dir.path().join("client")).by_user(NOBODY);
    let (source, home) = (dir.path().join("source"), dir.path().join("home"));
    fs::create_dir_all(source.join("team")).unwrap();
    fs::create_dir(&home).unwrap();
    chown(&home, Some(NOBODY), Some(NOBODY)).unwrap();
    chown(source.join("team"), Some(0), Some(NOBODY)).unwrap();
    fs::set_permissions(source.join("team"), fs::Permissions::from_mode(0o2775)).unwrap();
    client.sync(&source, home.join("target"), &[]).exits(5);
    assert_eq!(home.join("target/team").metadata().unwrap().mode() & 0o7777, 0o2775);
}

#[test]
fn a_time_that_does_not_fit_is_told_of_files_folders_links_and_the_root() {
    let (disk, dir) = (Disk::new("ext4-seconds", 64), scratch());
    let client = Client::new(&dir.path().join("client"));
    let source = dir.path().join("source");
    fs::create_dir_all(source.join("folder/below")).unwrap();
    fs::create_dir(source.join("fits")).unwrap();
    fs::write(source.join("folder/file"), "1").unwrap();
    symlink("x", source.join("link")).unwrap();
    for path in ["folder/file", "folder/below", "folder", "link", ""] {
        sh("touch", &["-h", "-d", "2001-02-03 04:05:06.789", source.join(path).to_str().unwrap()]);
    }
    sh("touch", &["-d", "2001-02-03 04:05:06", source.join("fits").to_str().unwrap()]);
    sh("touch", &["-d", "2001-02-03 04:05:06.789", source.to_str().unwrap()]);
    let odd = set(&[".", "folder", "folder/below", "folder/file", "link"]);
    for target in [disk.root.join("target"), disk.root.clone()] {
        sh("sh", &["-c", &format!("rm -rf '{}'/*", disk.root.display())]);
        for round in 0..2 {
            let outcome = client.sync(&source, &target, &["--force"]).exits(5);
            assert_eq!(left_out(&outcome).0, odd, "{target:?}, round {round}: {outcome}");
            assert_ne!(outcome.done()["root_source"], outcome.done()["root_target"], "{outcome}");
        }
        // The name told is that of what is there.
        let told = client.sync(&source, &target, &["--force"]).exits(5).done()["root_target"].clone();
        let seen = client.sync(&target, dir.path().join("copy"), &["--force"]).ok().proves();
        assert_eq!(told, seen.done()["root_source"]);
    }
    // Only a folder's own time, with nothing else to do.
    let target = disk.root.join("target");
    sh("find", &[source.to_str().unwrap(), "-exec", "touch", "-h", "-d", "2001-02-03 04:05:06", "{}", "+"]);
    client.sync(&source, &target, &["--force"]).ok().proves();
    sh("touch", &["-d", "2001-02-03 04:05:06.5", source.join("fits").to_str().unwrap()]);
    let outcome = client.sync(&source, &target, &["--force"]).exits(5);
    assert_eq!(left_out(&outcome).0, set(&["fits"]), "{outcome}");
}
