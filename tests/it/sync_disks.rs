//! Targets on every file system, and on full ones.

use std::fs;
use std::path::Path;

use crate::common::changes::change;
use crate::common::disks::Disk;
use crate::common::host::{Client, Daemon};
use crate::common::oracle::{assert_equal, likeness};
use crate::common::trees::{Shape, grow};
use crate::common::{Rng, scratch};

fn on(kind: &str, mib: u64) {
    let disk = Disk::new(kind, mib);
    // Both ends on the kind under test, so that what a tree can hold is what the target can.
    let (source, target) = (disk.root.join("source"), disk.root.join("target"));
    fs::create_dir(&source).unwrap();
    let dir = scratch();
    let client = Client::new(&dir.path().join("client"));
    let mut rng = Rng::new(21);
    grow(&source, &mut rng, &Shape::SMALL);
    client.sync(&source, &target, &[]).ok().proves();
    assert_equal(&source, &target, kind);
    for round in 0..6 {
        let made: Vec<String> = (0..3).map(|_| change(&source, &mut rng, &Shape::SMALL)).collect();
        client.sync(&source, &target, &["--force"]).ok().proves();
        assert_equal(&source, &target, &format!("{kind}, round {round}: {made:?}"));
    }
}

#[test]
fn trees_on_ext4_are_equal() {
    on("ext4", 200);
}

#[test]
fn trees_on_xfs_are_equal() {
    on("xfs", 320);
}

#[test]
fn trees_on_btrfs_are_equal() {
    on("btrfs", 320);
}

#[test]
fn trees_on_tmpfs_are_equal() {
    on("tmpfs", 200);
}

#[test]
fn on_xfs_a_local_copy_shares_its_blocks() {
    let disk = Disk::new("xfs", 320);
    let (source, target) = (disk.root.join("source"), disk.root.join("target"));
    fs::create_dir(&source).unwrap();
    fs::write(source.join("big"), Rng::new(1).bytes(60 << 20)).unwrap();
    crate::common::sh("sync", &[]);
    let before = disk.free_bytes();
    let dir = scratch();
    Client::new(&dir.path().join("client")).sync(&source, &target, &[]).ok().proves();
    crate::common::sh("sync", &[]);
    assert_equal(&source, &target, "reflinked");
    let used = before.saturating_sub(disk.free_bytes());
    assert!(used < 12 << 20, "{used} bytes for a copy that needs none");
}

fn full(disk: &Disk, target: &Path, reference: &str, client: &Client) {
    let dir = scratch();
    let source = dir.path().join("source");
    fs::create_dir(&source).unwrap();
    for number in 0..30 {
        fs::write(target.join(format!("old{number}")), Rng::new(number).bytes(300_000)).unwrap();
        fs::write(source.join(format!("old{number}")), Rng::new(100 + number).bytes(5_000_000)).unwrap();
    }
    client.sync(target, dir.path().join("copy"), &[]).ok().proves();
    crate::common::sh("sync", &[]);
    let (before, free) = (likeness(target), disk.free_bytes());
    for attempt in 0..2 {
        let outcome = client.sync(&source, reference, &["--force"]).fails(1, "no_space");
        assert!(outcome.last()["hint"].as_str().is_some_and(|hint| !hint.is_empty()), "{outcome}");
        assert_eq!(likeness(target), before, "attempt {attempt}: the old tree was touched\n{outcome}");
        crate::common::sh("sync", &[]);
        let now = disk.free_bytes();
        assert!(now + (2 << 20) >= free, "attempt {attempt}: {} bytes are still taken\n{outcome}", free - now);
    }
    // With less to bring, it fits.
    for number in 5..30 {
        fs::write(source.join(format!("old{number}")), "short").unwrap();
    }
    client.sync(&source, reference, &["--force"]).ok().proves();
    assert_equal(&source, target, "after room was made");
}

#[test]
fn a_full_disk_under_a_folder_leaves_the_old_tree_and_gives_the_room_back() {
    for kind in ["ext4", "tmpfs"] {
        let disk = Disk::new(kind, 64);
        let target = disk.root.join("target");
        fs::create_dir(&target).unwrap();
        let dir = scratch();
        let client = Client::new(&dir.path().join("client"));
        full(&disk, &target, target.to_str().unwrap(), &client);
    }
}

#[test]
fn a_full_disk_under_a_tenant_leaves_the_old_tree_and_gives_the_room_back() {
    let disk = Disk::new("ext4", 64);
    let target = disk.root.join("target");
    fs::create_dir(&target).unwrap();
    let dir = scratch();
    let daemon = Daemon::start(&dir.path().join("host"));
    let client = Client::of(&daemon, &dir.path().join("client"));
    client.run(&["-h", &daemon.address, "init", "shop", "--path", target.to_str().unwrap()]).ok();
    full(&disk, &target, &daemon.at("shop"), &client);
}

#[test]
fn what_a_file_system_cannot_hold_is_listed_and_exit_5() {
    // trusted.* and user.* attributes larger than ext4's block fit tmpfs and xfs, not ext4.
    let disk = Disk::new("ext4", 64);
    let dir = scratch();
    let source = dir.path().join("source");
    fs::create_dir(&source).unwrap();
    fs::write(source.join("loaded"), "1").unwrap();
    fs::write(source.join("plain"), "2").unwrap();
    let value = vec![b'v'; 20_000];
    rustix::fs::setxattr(source.join("loaded"), "user.large", &value, rustix::fs::XattrFlags::empty()).unwrap();
    let target = disk.root.join("target");
    let client = Client::new(&dir.path().join("client"));
    let outcome = client.sync(&source, &target, &[]).exits(5);
    assert!(outcome.text().contains("loaded"), "{outcome}");
    assert_eq!(fs::read(target.join("loaded")).unwrap(), b"1");
    assert_eq!(fs::read(target.join("plain")).unwrap(), b"2");
}
