//! btrfs subvolumes: told apart, snapshotted, removed. The shapes and numbers are those of the kernel's `linux/btrfs.h`.
#![expect(unsafe_code, reason = "each use says why it holds")]

use std::io::{Error, ErrorKind, Result};
use std::os::fd::{AsFd, AsRawFd};

use rustix::ioctl::{Opcode, Setter, Updater, ioctl, opcode};

use super::dir::Dir;

/// The inode of every subvolume's root.
const ROOT: u64 = 256;
const MAGIC: u8 = 0x94;
const NAME_V1: usize = 4088;
const NAME_V2: usize = 4040;
const READ_ONLY: u64 = 1 << 1;

/// `btrfs_ioctl_vol_args`.
#[repr(C)]
struct Args {
    fd: i64,
    name: [u8; NAME_V1],
}

/// `btrfs_ioctl_vol_args_v2`.
#[repr(C)]
struct ArgsV2 {
    fd: i64,
    transid: u64,
    flags: u64,
    unused: [u64; 4],
    name: [u8; NAME_V2],
}

/// `btrfs_ioctl_get_subvol_rootref_args`.
#[repr(C)]
struct Inner {
    min_treeid: u64,
    refs: [[u64; 2]; 255],
    num_items: u8,
    align: [u8; 7],
}

const DESTROY: Opcode = opcode::write::<Args>(MAGIC, 15);
const SNAPSHOT: Opcode = opcode::write::<ArgsV2>(MAGIC, 23);
const INNER: Opcode = opcode::read_write::<Inner>(MAGIC, 61);

/// Whether a directory is the root of a btrfs subvolume.
pub fn is_subvolume(dir: &Dir) -> Result<bool> {
    const BTRFS: i64 = 0x9123_683e;
    let is_btrfs = rustix::fs::fstatfs(dir)?.f_type == BTRFS;
    Ok(is_btrfs && dir.stat_self()?.st_ino == ROOT)
}

/// Whether it is a subvolume that has no other one in it: a snapshot of it lacks nothing.
pub fn is_whole(dir: &Dir) -> Result<bool> {
    if !is_subvolume(dir)? {
        return Ok(false);
    }
    let mut inner = Inner { min_treeid: 0, refs: [[0; 2]; 255], num_items: 0, align: [0; 7] };
    // SAFETY: INNER is the number of the request whose argument has the shape of `Inner`, and the kernel fills it in.
    unsafe { ioctl(dir, Updater::<INNER, Inner>::new(&mut inner))? };
    Ok(inner.num_items == 0)
}

/// Makes `name` in `to` the subvolume `from` as it is now, read-only. Both are of one file system.
pub fn snapshot(from: &Dir, to: &Dir, name: &[u8]) -> Result<()> {
    let fd = i64::from(from.as_fd().as_raw_fd());
    let args = ArgsV2 { fd, transid: 0, flags: READ_ONLY, unused: [0; 4], name: named(name)? };
    // SAFETY: SNAPSHOT is the number of the request whose argument has the shape of `ArgsV2`; the descriptor in it is open.
    unsafe { ioctl(to, Setter::<SNAPSHOT, ArgsV2>::new(args))? };
    Ok(())
}

/// Removes the subvolume `name` in `dir`, with all that is in it.
pub fn destroy(dir: &Dir, name: &[u8]) -> Result<()> {
    let args = Args { fd: 0, name: named(name)? };
    // SAFETY: DESTROY is the number of the request whose argument has the shape of `Args`.
    unsafe { ioctl(dir, Setter::<DESTROY, Args>::new(args))? };
    Ok(())
}

/// A single name, with its end.
fn named<const N: usize>(name: &[u8]) -> Result<[u8; N]> {
    if name.len() >= N || name.contains(&0) || name.contains(&b'/') {
        return Err(Error::from(ErrorKind::InvalidInput));
    }
    let mut padded = [0; N];
    padded[..name.len()].copy_from_slice(name);
    Ok(padded)
}
