//! Changes that leave the stamps as they are: rewritten at the same size within one stamp of the file system, or on one whose stamps
//! are made up. None is missed, whichever end it is at.

use std::fs::{self, FileTimes};
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;
use std::time::{Duration, SystemTime};

use crate::common::disks::Disk;
use crate::common::host::{Client, Daemon, Stage};
use crate::common::mounts::{Mount, is_mounted, until};
use crate::common::oracle::assert_equal;
use crate::common::scratch;

/// How often a test tries to do all it does within one second of a busy machine.
const TRIES: usize = 12;

/// Waits until a second has just begun, and is older than a tick.
fn early_in_a_second() {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
    std::thread::sleep(Duration::from_nanos(1_060_000_000 - u64::try_from(now.tv_nsec).unwrap()));
}

fn stamps(path: &Path) -> (u64, i64, i64, i64, i64) {
    let meta = fs::symlink_metadata(path).unwrap();
    (meta.ino(), meta.ctime(), meta.ctime_nsec(), meta.mtime(), meta.mtime_nsec())
}

/// Does `change` to the tree in the second in which `before` ended; true if the stamps of `path` are what they were.
fn unseen(path: &Path, change: impl FnOnce()) -> bool {
    let before = stamps(path);
    change();
    stamps(path) == before
}

/// Tries it until a change has left no stamp, which it has to at least once.
fn until_unseen(mut once: impl FnMut(usize) -> bool) {
    for number in 0..TRIES {
        early_in_a_second();
        if once(number) {
            return;
        }
    }
    panic!("no sync was ever done within a second: this shows nothing");
}

#[test]
fn a_source_that_is_rewritten_within_its_second_is_copied() {
    let disk = Disk::new("ext4-seconds", 64);
    let source = disk.root.join("source");
    fs::create_dir(&source).unwrap();
    let dir = scratch();
    let client = Client::new(&dir.path().join("client"));
    let target = dir.path().join("target");
    until_unseen(|number| {
        let file = source.join("file");
        fs::write(&file, format!("first {number:02}")).unwrap();
        client.sync(&source, &target, &["--yes"]).ok().proves();
        let unseen = unseen(&file, || fs::write(&file, format!("OTHER {number:02}")).unwrap());
        client.sync(&source, &target, &["--yes"]).ok().proves();
        assert_equal(&source, &target, "at once");
        std::thread::sleep(Duration::from_millis(1200));
        client.sync(&source, &target, &["--yes"]).ok().proves();
        assert_equal(&source, &target, "when the second is over");
        unseen
    });
    // What is older than a second is not read again.
    client.sync(&source, &target, &["--yes"]).ok();
    let last = client.sync(&source, &target, &["--yes"]).ok();
    assert_eq!(last.count("bytes_read"), 0, "{last}");
}

#[test]
fn what_is_no_file_and_changes_within_its_second_is_copied() {
    let disk = Disk::new("ext4-seconds", 64);
    let source = disk.root.join("source");
    fs::create_dir_all(source.join("folder")).unwrap();
    let dir = scratch();
    let client = Client::new(&dir.path().join("client"));
    let target = dir.path().join("target");
    let mark = |path: &Path, value: String| {
        rustix::fs::lsetxattr(path, "user.mark", value.as_bytes(), rustix::fs::XattrFlags::empty()).unwrap();
    };
    until_unseen(|number| {
        let (link, folder) = (source.join("link"), source.join("folder"));
        let point = |to: String| {
            let _ = fs::remove_file(&link);
            symlink(to, &link).unwrap();
        };
        point(format!("first {number:02}"));
        mark(&folder, format!("first {number:02}"));
        client.sync(&source, &target, &["--yes"]).ok().proves();
        let mut all_unseen = unseen(&folder, || mark(&folder, format!("OTHER {number:02}")));
        // The next inode is the one that was free last.
        all_unseen &= unseen(&link, || point(format!("OTHER {number:02}")));
        std::thread::sleep(Duration::from_millis(1200));
        client.sync(&source, &target, &["--yes"]).ok().proves();
        assert_equal(&source, &target, "a link and an attribute");
        all_unseen
    });
}

#[test]
fn a_target_that_is_rewritten_within_the_second_of_its_sync_is_set_right() {
    let disk = Disk::new("ext4-seconds", 64);
    let dir = scratch();
    let (source, target) = (dir.path().join("source"), disk.root.join("target"));
    fs::create_dir(&source).unwrap();
    let client = Client::new(&dir.path().join("client"));
    until_unseen(|number| {
        // New, rewritten, and only touched.
        let names = ["new", "old", "touched"];
        // Whole seconds fit both ends.
        let times = FileTimes::new().set_modified(long_ago(number as u64));
        for name in names {
            fs::write(source.join(name), format!("{name} {}", if name == "touched" { 0 } else { number })).unwrap();
            fs::File::options().write(true).open(source.join(name)).unwrap().set_times(times).unwrap();
        }
        fs::File::open(&source).unwrap().set_times(times).unwrap();
        let _ = fs::remove_file(target.join("new"));
        client.sync(&source, &target, &["--yes"]).ok().proves();
        let mut all_unseen = true;
        for name in names {
            let file = target.join(name);
            let len = fs::metadata(&file).unwrap().len() as usize;
            all_unseen &= unseen(&file, || {
                let modified = fs::metadata(&file).unwrap().modified().unwrap();
                fs::write(&file, vec![b'!'; len]).unwrap();
                let file = fs::File::options().write(true).open(&file).unwrap();
                file.set_times(FileTimes::new().set_modified(modified)).unwrap();
            });
        }
        std::thread::sleep(Duration::from_millis(1200));
        client.sync(&source, &target, &["--yes"]).ok().proves();
        assert_equal(&source, &target, "what somebody wrote at the target right after the sync");
        all_unseen
    });
}

fn long_ago(seconds_later: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000 + seconds_later)
}

#[test]
fn a_tenant_whose_volume_has_stamps_of_whole_seconds_is_copied_and_shown_as_it_is() {
    let disk = Disk::new("ext4-seconds", 64);
    let volume = disk.root.join("volume");
    fs::create_dir(&volume).unwrap();
    let dir = scratch();
    let daemon = Daemon::start(&dir.path().join("host"));
    let client = Client::of(&daemon, &dir.path().join("client"));
    client.run(&["-h", &daemon.address, "init", "shop", "--path", volume.to_str().unwrap()]).ok();
    let target = dir.path().join("target");
    until_unseen(|number| {
        let file = volume.join("file");
        fs::write(&file, format!("first {number:02}")).unwrap();
        client.sync(daemon.at("shop"), &target, &["--yes"]).ok().proves();
        let unseen = unseen(&file, || fs::write(&file, format!("OTHER {number:02}")).unwrap());
        std::thread::sleep(Duration::from_millis(1200));
        client.sync(daemon.at("shop"), &target, &["--yes"]).ok().proves();
        assert_eq!(fs::read(target.join("file")).unwrap(), fs::read(&file).unwrap());
        unseen
    });
}

#[test]
fn a_mount_shows_what_is_rewritten_within_its_second() {
    let mut stage = Stage::new();
    let disk = Disk::new("ext4-seconds", 64);
    stage.init("coarse", &disk.root);
    stage.volume = disk.root.clone();
    let file = disk.root.join("file");
    fs::write(&file, "first 00").unwrap();
    let mount = Mount::of(&stage, &stage.daemon.at("coarse"), "mount", &[]);
    until_unseen(|number| {
        fs::write(&file, format!("first {number:02}")).unwrap();
        until("what is new is shown", || fs::read(mount.at("file")).unwrap() == fs::read(&file).unwrap());
        let unseen = unseen(&file, || fs::write(&file, format!("OTHER {number:02}")).unwrap());
        std::thread::sleep(Duration::from_millis(1200));
        until("what is rewritten is shown", || fs::read(mount.at("file")).unwrap() == fs::read(&file).unwrap());
        unseen
    });
}

#[test]
fn of_two_snapshots_mounted_in_turn_at_one_place_each_is_copied() {
    let stage = Stage::new();
    let file = stage.volume.join("folder/file");
    fs::create_dir(stage.volume.join("folder")).unwrap();
    let mut taken = Vec::new();
    for content in ["first", "OTHER"] {
        fs::write(&file, content).unwrap();
        fs::write(stage.volume.join("same"), "same").unwrap();
        for path in [&file, &stage.volume.join("same"), &stage.volume.join("folder"), &stage.volume] {
            fs::File::open(path).unwrap().set_times(FileTimes::new().set_modified(long_ago(0))).unwrap();
        }
        let created = stage.admin.run(&["-h", &stage.daemon.address, "snapshot", "create", "shop"]).ok();
        taken.push((content, created.done()["snapshot"].as_str().expect("an id").to_owned()));
    }
    let target = stage.dir.path().join("target");
    for round in 0..2 {
        let mut seen = Vec::new();
        for (content, id) in &taken {
            let mount = Mount::of(&stage, &format!("{id}@{}", stage.daemon.address), "mount", &[]);
            seen.push(stamps(&mount.at("folder/file")));
            stage.admin.sync(&mount.dir, &target, &["--yes"]).ok().proves();
            assert_eq!(fs::read(target.join("folder/file")).unwrap(), content.as_bytes(), "round {round}");
            assert_eq!(fs::read(mount.at("folder/file")).unwrap(), content.as_bytes());
            stage.admin.run(&["unmount", mount.dir.to_str().unwrap()]).ok();
            until("it is unmounted", || !is_mounted(&mount.dir) && !mount.is_running());
        }
        assert_eq!(seen[0], seen[1], "the stamps of both are the same, or this shows nothing");
    }
}
