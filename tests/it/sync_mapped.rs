//! Files that are written through memory: such writes leave no stamp, and are copied all the same.

use std::fs;
use std::os::unix::fs::{MetadataExt, chown};
use std::path::Path;
use std::time::{Duration, Instant};

use crate::common::disks::{Disk, Overlay};
use crate::common::host::{Client, Daemon};
use crate::common::mapper::Mapper;
use crate::common::oracle::assert_equal;
use crate::common::{scratch, sh};

/// Longer ago than any margin.
fn settle() {
    std::thread::sleep(Duration::from_millis(60));
}

fn stamp(file: &Path) -> (i64, i64) {
    let meta = fs::metadata(file).unwrap();
    (meta.ctime(), meta.ctime_nsec())
}

/// Writes through memory; true if that left no stamp.
fn unseen(mapper: &mut Mapper, file: &Path, text: &str) -> bool {
    let before = stamp(file);
    mapper.write(text);
    stamp(file) == before
}

/// Tries it until no write has left a stamp. The machine writes dirty pages to disk when it likes, and `sync` of whoever else runs makes
/// it like to: the next write to them is stamped then, and shows nothing.
fn until_unseen(what: &str, mut once: impl FnMut(usize) -> bool) {
    let began = Instant::now();
    let mut tries = 0..;
    while !tries.next().is_some_and(&mut once) {
        assert!(began.elapsed() < Duration::from_secs(90), "{what}: each time some write left a stamp");
    }
}

/// A tree below `root` with a file that is written through memory before, between and after syncs.
fn is_followed(root: &Path, what: &str, client: &Client, dir: &Path, user: Option<u32>) {
    until_unseen(what, |number| followed(root, &format!("{what} {number}"), client, dir, user));
}

fn followed(root: &Path, what: &str, client: &Client, dir: &Path, user: Option<u32>) -> bool {
    let (source, target) = (root.join(what), dir.join(format!("target of {what}")));
    fs::create_dir(&source).unwrap();
    let file = source.join("data.mdb");
    fs::write(&file, vec![b'x'; 300_000]).unwrap();
    fs::write(source.join("plain"), "plain").unwrap();
    if let Some(user) = user {
        for path in [root, &source, &file, &source.join("plain")] {
            chown(path, Some(user), Some(user)).unwrap();
        }
    }
    sh("sync", &["-f", file.to_str().unwrap()]);
    let mut mapper = user.map_or_else(|| Mapper::of(&file), |user| Mapper::by_user(user, &file));
    mapper.write("first");
    settle();
    client.sync(&source, &target, &["--yes"]).ok().proves();
    let mut all_unseen = unseen(&mut mapper, &file, "other");
    client.sync(&source, &target, &[]).ok().proves();
    // The oracle looks for holes, and has what is dirty written for it.
    assert!(fs::read(&file).unwrap() == fs::read(target.join("data.mdb")).unwrap(), "{what}, while it is mapped");
    assert_eq!(&fs::read(target.join("data.mdb")).unwrap()[..5], b"other");
    // What was written after the reading is in the file, and the one who wrote it is gone.
    all_unseen &= unseen(&mut mapper, &file, "third");
    mapper.end();
    client.sync(&source, &target, &[]).ok().proves();
    assert_equal(&source, &target, &format!("{what}, after it was mapped"));
    assert_eq!(&fs::read(target.join("data.mdb")).unwrap()[..5], b"third");
    let again = client.sync(&source, &target, &[]).ok();
    assert_eq!(again.count("bytes_read"), 0, "{what}: nobody writes any more: {again}");
    all_unseen
}

fn is_followed_on(root: &Path, what: &str) {
    let dir = scratch();
    is_followed(root, what, &Client::new(&dir.path().join("client")), dir.path(), None);
}

#[test]
fn what_is_written_through_memory_is_copied_on_every_file_system() {
    for kind in ["ext4", "xfs", "btrfs", "tmpfs"] {
        is_followed_on(&Disk::new(kind, 320).root, kind);
    }
}

#[test]
fn what_is_written_through_memory_is_copied_from_a_subvolume() {
    // There `stat` tells another device than /proc/PID/maps.
    let disk = Disk::new("btrfs", 320);
    let volume = disk.root.join("volume");
    sh("btrfs", &["subvolume", "create", volume.to_str().unwrap()]);
    is_followed_on(&volume, "a subvolume");
}

#[test]
fn what_is_written_through_memory_is_copied_from_an_overlay() {
    let (lower, upper) = (Disk::new("ext4", 64), Disk::new("xfs", 320));
    fs::create_dir(lower.root.join("lower")).unwrap();
    let apart = Overlay::over(&lower.root.join("lower"), &upper.root.join("upper"));
    is_followed_on(&apart.root, "an overlay of two file systems");
    let together = Overlay::over(&lower.root.join("lower"), &lower.root.join("upper"));
    is_followed_on(&together.root, "an overlay of one file system");
}

#[test]
fn what_is_written_through_memory_to_a_file_of_a_lower_layer_is_copied() {
    let disk = Disk::new("ext4", 64);
    let lower = disk.root.join("lower");
    fs::create_dir(&lower).unwrap();
    fs::write(lower.join("data.mdb"), vec![b'x'; 100_000]).unwrap();
    let overlay = Overlay::over(&lower, &disk.root.join("upper"));
    let file = overlay.root.join("data.mdb");
    // Opened for writing it comes up, and keeps the number that it had below.
    let mut mapper = Mapper::of(&file);
    sh("sync", &["-f", file.to_str().unwrap()]);
    mapper.write("first");
    settle();
    let dir = scratch();
    let client = Client::new(&dir.path().join("client"));
    let target = dir.path().join("target");
    until_unseen("a lower file", |number| {
        let mut all_unseen = true;
        for round in 0..3 {
            let text = format!("{number}:{round}");
            all_unseen &= unseen(&mut mapper, &file, &text);
            client.sync(&overlay.root, &target, &["--yes"]).ok().proves();
            assert_eq!(&fs::read(target.join("data.mdb")).unwrap()[..3], text.as_bytes());
        }
        all_unseen
    });
}

#[test]
fn a_tenant_that_is_written_through_memory_is_copied_and_snapshotted_as_it_is() {
    let disk = Disk::new("btrfs", 320);
    let volume = disk.root.join("volume");
    sh("btrfs", &["subvolume", "create", volume.to_str().unwrap()]);
    let file = volume.join("data.mdb");
    fs::write(&file, vec![b'x'; 300_000]).unwrap();
    sh("sync", &["-f", file.to_str().unwrap()]);
    let dir = scratch();
    let daemon = Daemon::start(&dir.path().join("host"));
    let client = Client::of(&daemon, &dir.path().join("client"));
    client.run(&["-h", &daemon.address, "init", "shop", "--path", volume.to_str().unwrap()]).ok();
    let is_now = |from: String, way: &str, text: &str| {
        let target = dir.path().join(way);
        client.sync(from, &target, &["--force"]).ok().proves();
        assert_eq!(&fs::read(target.join("data.mdb")).unwrap()[..3], text.as_bytes(), "{way}");
    };
    until_unseen("a tenant", |number| {
        let mut mapper = Mapper::of(&file);
        mapper.write("begin");
        settle();
        let mut all_unseen = true;
        for round in 0..3 {
            let text = format!("{number}:{round}");
            all_unseen &= unseen(&mut mapper, &file, &text);
            is_now(daemon.at("shop"), "copied", &text);
            let taken = client.run(&["-h", &daemon.address, "snapshot", "create", "shop"]).ok();
            is_now(format!("{}@{}", taken.done()["snapshot"].as_str().unwrap(), daemon.address), "taken", &text);
        }
        all_unseen &= unseen(&mut mapper, &file, "end");
        mapper.end();
        is_now(daemon.at("shop"), "copied", "end");
        all_unseen
    });
}

#[test]
fn a_user_sees_what_his_own_processes_write_through_memory() {
    const SOMEBODY: u32 = 65534;
    for kind in ["ext4", "btrfs"] {
        let disk = Disk::new(kind, 320);
        let dir = tempfile::tempdir_in("/dev/shm").unwrap();
        chown(dir.path(), Some(SOMEBODY), Some(SOMEBODY)).unwrap();
        let root = disk.root.join("root");
        fs::create_dir(&root).unwrap();
        open_up(&disk.root);
        let client = Client::new(&dir.path().join("client")).by_user(SOMEBODY);
        chown(&client.home, Some(SOMEBODY), Some(SOMEBODY)).unwrap();
        is_followed(&root, kind, &client, dir.path(), Some(SOMEBODY));
    }
}

/// Lets everybody through to a disk.
fn open_up(root: &Path) {
    use std::os::unix::fs::PermissionsExt;
    for folder in [root, root.parent().unwrap()] {
        fs::set_permissions(folder, fs::Permissions::from_mode(0o755)).unwrap();
    }
}

#[test]
fn a_target_that_is_written_through_memory_is_set_right_again() {
    // In memory nothing goes to disk, so that a page that is dirty once leaves no stamp ever again.
    let (source, disk) = (scratch(), Disk::new("tmpfs", 64));
    let (source, target) = (source.path(), disk.root.join("target"));
    fs::write(source.join("data.mdb"), vec![b'x'; 300_000]).unwrap();
    let dir = scratch();
    let client = Client::new(&dir.path().join("client"));
    client.sync(source, &target, &["--yes"]).ok().proves();
    let file = target.join("data.mdb");
    let mut mapper = Mapper::of(&file);
    mapper.write("xxxxx");
    settle();
    // Only its times and rights are set: the file stays, and stays mapped.
    let ino = fs::metadata(&file).unwrap().ino();
    sh("chmod", &["600", source.join("data.mdb").to_str().unwrap()]);
    client.sync(source, &target, &[]).ok().proves();
    assert_eq!(fs::metadata(&file).unwrap().ino(), ino);
    settle();
    assert!(unseen(&mut mapper, &file, "wrong"), "this is about writes that leave no stamp");
    mapper.end();
    client.sync(source, &target, &[]).ok().proves();
    assert_equal(source, &target, "the target's own writer is gone");
}
