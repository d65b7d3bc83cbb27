//! Files with holes: a new version is built out of the old one where the file system shares blocks, and is what the source
//! has all the same.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;

use rustix::fs::{FallocateFlags, fallocate};

use crate::common::disks::Disk;
use crate::common::host::Client;
use crate::common::oracle::assert_equal;
use crate::common::{Rng, scratch};

const BLOCK: u64 = 4096;

/// Changes the file in one of the ways in which holes come, go and wander.
fn change(path: &Path, rng: &mut Rng) -> String {
    let file = File::options().read(true).write(true).open(path).unwrap();
    let size = file.metadata().unwrap().len();
    let at = rng.below(size / BLOCK) * BLOCK;
    let len = (1 + rng.below(200)) * BLOCK;
    let inside = len.min(size - at);
    let keep = FallocateFlags::KEEP_SIZE;
    match rng.below(9) {
        0 | 1 => {
            fallocate(&file, FallocateFlags::PUNCH_HOLE | keep, at, inside).unwrap();
            format!("punched {at}+{inside}")
        }
        2 => {
            file.write_all_at(&vec![0; inside as usize], at).unwrap();
            format!("zeros {at}+{inside}")
        }
        3 => {
            file.write_all_at(&rng.bytes(inside as usize), at).unwrap();
            format!("bytes {at}+{inside}")
        }
        // Inserting and cutting out shift all that follows: chunks are found elsewhere in the old version.
        4 => {
            let mut bytes = fs::read(path).unwrap();
            let insert = (1 + rng.below(9000)) as usize;
            bytes.splice(at as usize..at as usize, rng.bytes(insert));
            fs::write(path, bytes).unwrap();
            format!("inserted {insert} at {at}, now dense")
        }
        5 if size > inside + BLOCK
            && fallocate(&file, FallocateFlags::COLLAPSE_RANGE, at.min(size - inside - BLOCK), inside).is_ok() =>
        {
            format!("collapsed about {at}+{inside}")
        }
        6 if fallocate(&file, FallocateFlags::INSERT_RANGE, at, inside).is_ok() => {
            format!("hole inserted {at}+{inside}")
        }
        7 => {
            file.set_len(size + len).unwrap();
            format!("longer by a hole of {len}")
        }
        _ => {
            fallocate(&file, FallocateFlags::ZERO_RANGE | keep, at, inside).ok();
            format!("zero range {at}+{inside}")
        }
    }
}

fn wander(kind: &str, seed: u64) {
    let disk = Disk::new(kind, 400);
    let dir = scratch();
    let client = Client::new(&dir.path().join("client"));
    let (source, target) = (disk.root.join("source"), disk.root.join("target"));
    fs::create_dir(&source).unwrap();
    let mut rng = Rng::new(seed);
    for number in 0..3 {
        let file = File::create(source.join(format!("f{number}"))).unwrap();
        file.write_all_at(&rng.bytes(700_000), 0).unwrap();
        file.set_len(2_500_000).unwrap();
        file.write_all_at(&rng.bytes(150_000), 1_800_000).unwrap();
    }
    client.sync(&source, &target, &[]).ok().proves();
    for round in 0..12 {
        let mut made = Vec::new();
        for number in 0..3 {
            let path = source.join(format!("f{number}"));
            made.push(change(&path, &mut rng));
            // Holes alone are no difference: a byte of content is changed with them.
            let size = fs::metadata(&path).unwrap().len();
            File::options().write(true).open(&path).unwrap().write_all_at(&rng.bytes(1), rng.below(size)).unwrap();
        }
        client.sync(&source, &target, &["--yes"]).ok().proves();
        assert_equal(&source, &target, &format!("{kind}, seed {seed}, round {round}: {made:?}"));
    }
}

#[test]
fn holes_that_come_go_and_wander_leave_no_old_bytes_on_xfs() {
    (0..3).for_each(|seed| wander("xfs", 600 + seed));
}

#[test]
fn holes_that_come_go_and_wander_leave_no_old_bytes_on_btrfs() {
    (0..3).for_each(|seed| wander("btrfs", 700 + seed));
}

#[test]
fn holes_that_come_go_and_wander_leave_no_old_bytes_on_ext4() {
    wander("ext4", 800);
}

#[test]
fn a_whole_file_punched_under_an_old_version_is_all_zeros_at_the_target() {
    let disk = Disk::new("xfs", 400);
    let dir = scratch();
    let client = Client::new(&dir.path().join("client"));
    let (source, target) = (dir.path().join("source"), disk.root.join("target"));
    fs::create_dir(&source).unwrap();
    let path = source.join("f");
    let file = File::create(&path).unwrap();
    file.write_all_at(&Rng::new(5).bytes(200_000), 0).unwrap();
    file.write_all_at(&Rng::new(6).bytes(40_000), 1_000_000).unwrap();
    file.set_len(1_500_000).unwrap();
    client.sync(&source, &target, &[]).ok().proves();
    fallocate(&file, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, 0, 1_500_000).unwrap();
    client.sync(&source, &target, &["--yes"]).ok().proves();
    let there = fs::read(target.join("f")).unwrap();
    assert_eq!(there.len(), 1_500_000);
    assert!(there.iter().all(|byte| *byte == 0), "old bytes under a hole");
    let there = File::open(target.join("f")).unwrap();
    assert!(rustix::fs::seek(&there, rustix::fs::SeekFrom::Data(0)).is_err(), "the hole is a hole");
}
