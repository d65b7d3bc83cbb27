//! The tests' own tools are tested: an oracle that finds nothing is worth nothing until it has found each sort of difference.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

use rustix::fs::{CWD, FileType, Mode, XattrFlags};

use crate::common::changes::change;
use crate::common::oracle::{assert_equal, differences};
use crate::common::trees::{Shape, grow, set_mtime};
use crate::common::{Rng, scratch};

/// A right copy by somebody else.
fn copy(source: &Path, target: &Path) {
    // Without the window, rsync takes times of the same second for equal.
    let out = Command::new("rsync")
        .args(["-aHAXS", "--checksum", "--delete", "--modify-window=-1"])
        .arg(source.join(""))
        .arg(target.join(""))
        .output()
        .expect("rsync runs");
    assert!(out.status.success(), "rsync ended with {}: {}", out.status, String::from_utf8_lossy(&out.stderr));
}

#[test]
fn the_oracle_finds_nothing_between_random_trees_and_right_copies_of_them() {
    let dir = scratch();
    for seed in 1..=3 {
        let (a, b) = (dir.path().join(format!("a{seed}")), dir.path().join(format!("b{seed}")));
        fs::create_dir(&a).unwrap();
        let mut rng = Rng::new(seed);
        grow(&a, &mut rng, &Shape::USUAL);
        copy(&a, &b);
        assert_equal(&a, &b, &format!("seed {seed}"));
        for step in 0..15 {
            let what = change(&a, &mut rng, &Shape::USUAL);
            // A copy from nothing: rsync does not take apart the link groups of an older one.
            fs::remove_dir_all(&b).unwrap();
            copy(&a, &b);
            assert_equal(&a, &b, &format!("seed {seed}, step {step}: {what}"));
        }
    }
}

#[test]
fn random_changes_are_of_every_kind() {
    let dir = scratch();
    let mut rng = Rng::new(5);
    grow(dir.path(), &mut rng, &Shape::SMALL);
    let mut kinds = std::collections::BTreeSet::new();
    for _ in 0..400 {
        let what = change(dir.path(), &mut rng, &Shape::SMALL);
        kinds.insert(what.split_whitespace().next().unwrap().to_owned());
    }
    let expected = "64 a access added appended attribute attributes chmod chown copied edited linked moved removed renamed replaced \
                    swapped touched truncated unlinked";
    assert_eq!(kinds.into_iter().collect::<Vec<_>>().join(" "), expected);
}

/// A tree with one of everything, known by name.
fn sample(root: &Path) {
    fs::create_dir(root.join("dir")).unwrap();
    fs::create_dir(root.join("dir/empty")).unwrap();
    fs::write(root.join("dir/file"), vec![7; 100_000]).unwrap();
    fs::write(root.join("dir/same"), vec![7; 100_000]).unwrap();
    fs::hard_link(root.join("dir/file"), root.join("linked")).unwrap();
    symlink("dir/file", root.join("link")).unwrap();
    fs::File::create(root.join("holes")).unwrap().set_len(4 << 20).unwrap();
    for (name, kind, minor) in [("fifo", FileType::Fifo, 0), ("device", FileType::CharacterDevice, 3)] {
        rustix::fs::mknodat(CWD, root.join(name), kind, Mode::from_raw_mode(0o600), rustix::fs::makedev(0, minor))
            .unwrap();
    }
    rustix::fs::setxattr(root.join("dir/file"), "user.a", b"1", XattrFlags::empty()).unwrap();
    rustix::fs::lsetxattr(root.join("link"), "trusted.a", b"1", XattrFlags::empty()).unwrap();
    for name in ["dir/file", "dir/same", "dir/empty", "dir", "link", "holes", "fifo", "device"] {
        set_mtime(&root.join(name), 1_000_000, 500);
    }
    set_mtime(root, 1_000_000, 500);
}

#[test]
fn the_oracle_catches_each_sort_of_difference() {
    type Damage = (&'static str, fn(&Path));
    let damages: &[Damage] = &[
        ("a flipped byte under the same size and mtime", |r| {
            let mut bytes = fs::read(r.join("dir/same")).unwrap();
            bytes[77_777] ^= 1;
            fs::write(r.join("dir/same"), bytes).unwrap();
            set_mtime(&r.join("dir/same"), 1_000_000, 500);
        }),
        ("a file's time, by a nanosecond", |r| set_mtime(&r.join("dir/same"), 1_000_000, 501)),
        ("a folder's time, by a nanosecond", |r| set_mtime(&r.join("dir"), 1_000_000, 499)),
        ("a symlink's time", |r| set_mtime(&r.join("link"), 1_000_001, 500)),
        ("the root's time", |r| set_mtime(r, 1_000_000, 501)),
        ("a symlink's text", |r| {
            fs::remove_file(r.join("link")).unwrap();
            symlink("dir/same", r.join("link")).unwrap();
            rustix::fs::lsetxattr(r.join("link"), "trusted.a", b"1", XattrFlags::empty()).unwrap();
            set_mtime(&r.join("link"), 1_000_000, 500);
            set_mtime(r, 1_000_000, 500);
        }),
        ("a sticky bit", |r| fs::set_permissions(r.join("dir"), fs::Permissions::from_mode(0o1755)).unwrap()),
        ("an owner", |r| std::os::unix::fs::lchown(r.join("link"), Some(12), None).unwrap()),
        ("a group", |r| std::os::unix::fs::lchown(r.join("fifo"), None, Some(12)).unwrap()),
        ("an attribute's value", |r| {
            rustix::fs::setxattr(r.join("dir/file"), "user.a", b"2", XattrFlags::empty()).unwrap();
        }),
        ("an attribute too few", |r| rustix::fs::removexattr(r.join("dir/file"), "user.a").unwrap()),
        ("a symlink's attribute", |r| rustix::fs::lremovexattr(r.join("link"), "trusted.a").unwrap()),
        ("an empty attribute too many", |r| {
            rustix::fs::setxattr(r.join("dir/empty"), "user.b", b"", XattrFlags::empty()).unwrap();
        }),
        ("an access list", |r| {
            let path = r.join("dir/same");
            crate::common::trees::access_list(&path, &mut Rng::new(1));
            fs::set_permissions(&path, r.join("dir/file").metadata().unwrap().permissions()).unwrap();
        }),
        ("a hard link that became a copy", |r| {
            fs::copy(r.join("dir/file"), r.join("new")).unwrap();
            rustix::fs::setxattr(r.join("new"), "user.a", b"1", XattrFlags::empty()).unwrap();
            set_mtime(&r.join("new"), 1_000_000, 500);
            fs::rename(r.join("new"), r.join("linked")).unwrap();
            set_mtime(r, 1_000_000, 500);
        }),
        ("two equal files that became one", |r| {
            rustix::fs::removexattr(r.join("dir/file"), "user.a").unwrap();
            fs::remove_file(r.join("dir/same")).unwrap();
            fs::hard_link(r.join("dir/file"), r.join("dir/same")).unwrap();
            set_mtime(&r.join("dir"), 1_000_000, 500);
        }),
        ("a hole that was filled", |r| {
            fs::write(r.join("holes"), vec![0; 4 << 20]).unwrap();
            set_mtime(&r.join("holes"), 1_000_000, 500);
        }),
        ("a device's number", |r| {
            fs::remove_file(r.join("device")).unwrap();
            let number = rustix::fs::makedev(0, 4);
            rustix::fs::mknodat(CWD, r.join("device"), FileType::CharacterDevice, Mode::from_raw_mode(0o600), number)
                .unwrap();
            set_mtime(&r.join("device"), 1_000_000, 500);
            set_mtime(r, 1_000_000, 500);
        }),
        ("a FIFO that became a socket", |r| {
            fs::remove_file(r.join("fifo")).unwrap();
            rustix::fs::mknodat(CWD, r.join("fifo"), FileType::Socket, Mode::from_raw_mode(0o600), 0).unwrap();
            set_mtime(&r.join("fifo"), 1_000_000, 500);
            set_mtime(r, 1_000_000, 500);
        }),
        ("an empty folder missing", |r| {
            fs::remove_dir(r.join("dir/empty")).unwrap();
            set_mtime(&r.join("dir"), 1_000_000, 500);
        }),
        ("a file too many", |r| {
            fs::write(r.join("dir/more"), "").unwrap();
            set_mtime(&r.join("dir"), 1_000_000, 500);
        }),
    ];
    let dir = scratch();
    let source = dir.path().join("source");
    fs::create_dir(&source).unwrap();
    sample(&source);
    for (number, (what, damage)) in damages.iter().enumerate() {
        let target = dir.path().join(format!("target{number}"));
        copy(&source, &target);
        assert_equal(&source, &target, &format!("before {what}"));
        damage(&target);
        let found = differences(&source, &target);
        assert!(!found.is_empty(), "the oracle does not see {what}");
        // Seen by the walk, where rsync alone is known to be blind.
        assert!(found.iter().any(|line| !line.starts_with("rsync")), "only rsync sees {what}: {found:?}");
    }
}

#[test]
fn a_bad_disk_changes_bytes_and_no_stat() {
    use std::os::unix::fs::MetadataExt;
    let disk = crate::common::disks::Disk::new("ext4", 32);
    let bytes = Rng::new(3).bytes(8192);
    let path = disk.root.join("file");
    fs::write(&path, &bytes).unwrap();
    let before = path.metadata().unwrap();
    disk.flip(&bytes);
    let after = path.metadata().unwrap();
    assert_eq!((before.ino(), before.ctime_nsec(), before.len()), (after.ino(), after.ctime_nsec(), after.len()));
    assert_ne!(fs::read(&path).unwrap(), bytes);
}

#[test]
fn hosts_reach_each_other_until_a_cable_is_pulled() {
    let net = crate::common::nets::Net::new(2);
    // A datagram to a closed port comes back as a refusal (ICMP), which tells that it arrived.
    let reaches = || {
        let script = "exec 3<>/dev/udp/10.77.0.2/9; echo a >&3; sleep 0.2; echo b >&3";
        let out = Command::new("ip").args(["netns", "exec", &net.host(1), "bash", "-c", script]).output().unwrap();
        String::from_utf8_lossy(&out.stderr).contains("refused")
    };
    let before = net.bytes(2);
    assert!(reaches());
    assert!(net.bytes(2) > before);
    net.cable(2, false);
    assert!(!reaches());
    net.cable(2, true);
    std::thread::sleep(std::time::Duration::from_millis(300));
    assert!(reaches());
}
