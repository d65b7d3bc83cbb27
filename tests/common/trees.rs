//! Random trees with every kind of entry and every kind of metadata Linux has, from a seed.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FileType, Mode, Timespec, Timestamps, XattrFlags};

use super::Rng;

/// How large a tree grows.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    pub dirs: u64,
    pub entries: u64,
    /// The largest file.
    pub big_bytes: u64,
    /// Devices, foreign owners, trusted attributes: what only root can make.
    pub root_only: bool,
}

impl Shape {
    pub const SMALL: Shape = Shape { dirs: 8, entries: 40, big_bytes: 300_000, root_only: true };
    pub const TINY: Shape = Shape { dirs: 3, entries: 8, big_bytes: 300_000, root_only: true };
    pub const USUAL: Shape = Shape { dirs: 30, entries: 150, big_bytes: 5_000_000, root_only: true };
}

/// Grows a tree below `root`, which exists.
pub fn grow(root: &Path, rng: &mut Rng, shape: &Shape) {
    let mut folders = vec![root.to_path_buf()];
    for _ in 0..shape.dirs {
        let parent = rng.pick(&folders).clone();
        if parent.components().count() > root.components().count() + 7 || parent.as_os_str().len() > 2000 {
            continue;
        }
        let folder = parent.join(OsStr::from_bytes(&name(rng)));
        fs::create_dir(&folder).expect("a folder");
        folders.push(folder);
    }
    let mut made = Vec::new();
    for _ in 0..shape.entries {
        let folder = rng.pick(&folders).clone();
        made.push(add_entry(&folder, rng, shape, &made));
    }
    for path in &made {
        dress(path, rng, shape);
    }
    // What lies in a folder changes its times, so deeper ones are dressed first.
    folders.sort_by_key(|folder| std::cmp::Reverse(folder.components().count()));
    for folder in &folders {
        dress(folder, rng, shape);
    }
}

/// Adds one entry of any kind but a folder to `folder`; `others` are what hard links may name.
pub fn add_entry(folder: &Path, rng: &mut Rng, shape: &Shape, others: &[PathBuf]) -> PathBuf {
    let path = folder.join(OsStr::from_bytes(&name(rng)));
    match rng.below(if shape.root_only { 24 } else { 20 }) {
        0 | 1 => fill(&path, rng, 0),
        2..=8 => {
            let len = rng.within(1, 6000);
            fill(&path, rng, len);
        }
        9..=11 => {
            let most = if rng.one_in(4) { shape.big_bytes } else { shape.big_bytes.min(200_000) };
            let len = rng.within(6000, most);
            fill(&path, rng, len);
        }
        12 => sparse(&path, rng, shape.big_bytes),
        13..=15 => symlink(OsStr::from_bytes(&link_text(rng)), &path).expect("a symlink"),
        16 | 17 => match others.len() {
            0 => fill(&path, rng, 10),
            _ => fs::hard_link(rng.pick(others), &path).expect("a hard link"),
        },
        18 => special(&path, FileType::Fifo, 0, 0),
        19 => special(&path, FileType::Socket, 0, 0),
        20 | 21 => {
            let minor = *rng.pick(&[3, 255, 256, 262_143]);
            special(&path, FileType::CharacterDevice, 1, minor);
        }
        22 => special(&path, FileType::BlockDevice, 259, 70_000),
        _ => fill(&path, rng, 100),
    }
    path
}

fn special(path: &Path, kind: FileType, major: u32, minor: u32) {
    rustix::fs::mknodat(CWD, path, kind, Mode::from_raw_mode(0o640), rustix::fs::makedev(major, minor)).expect("mknod");
}

/// A name no two calls give twice, odd more often than not.
pub fn name(rng: &mut Rng) -> Vec<u8> {
    let unique = format!("{:x}", rng.next() >> 24);
    let around = |before: &[u8], after: &[u8]| [before, unique.as_bytes(), after].concat();
    match rng.below(18) {
        0 => around(b"new\nline", b"\n"),
        1 => around(&rng.bytes(12).iter().map(|byte| byte | 0x80).collect::<Vec<u8>>(), b"\xff"),
        2 => around(b"-", b""),
        3 => around(b" ", b" "),
        4 => {
            let mut long = unique.clone().into_bytes();
            long.resize(255, b'x');
            long
        }
        5 => around(b".", b""),
        6 => around(b"*?[a]", b"{x}"),
        7 => around(b"#", b"~"),
        8 => around(b"!", b"\\"),
        9 => around("é".as_bytes(), "e\u{301}".as_bytes()),
        10 => around(b"\x01\x1b[31m", b"\x7f"),
        11 => around(b"%s\"'", b"`$(x)"),
        12 => around(b"..", b".."),
        _ => around(b"file-", b".txt"),
    }
}

fn link_text(rng: &mut Rng) -> Vec<u8> {
    match rng.below(6) {
        0 => b"/etc/hostname".to_vec(),
        1 => b"../../../../../../../../../../../../etc".to_vec(),
        2 => b"nowhere/at/all".to_vec(),
        3 => b"bytes-\xff\xfe\n".to_vec(),
        4 => [b"long/".repeat(700), b"x".to_vec()].concat(),
        _ => b".".to_vec(),
    }
}

/// A file of `len` bytes: noise, text, zeros, or one pattern that other files share.
pub fn fill(path: &Path, rng: &mut Rng, len: u64) {
    fs::write(path, content(rng, len)).expect("a file");
}

pub fn content(rng: &mut Rng, len: u64) -> Vec<u8> {
    let len = usize::try_from(len).expect("a length");
    match rng.below(6) {
        0 => b"the quick brown fox jumps over the lazy dog\n".iter().copied().cycle().take(len).collect(),
        1 => vec![0; len],
        2 => Rng::new(1).bytes(len),
        _ => rng.bytes(len),
    }
}

/// A file with holes: at its start, between data, at its end, or nothing but one.
pub fn sparse(path: &Path, rng: &mut Rng, most: u64) {
    let file = File::create(path).expect("a file");
    let len = rng.within(200_000, most.max(200_001));
    file.set_len(len).expect("a hole");
    for _ in 0..rng.below(4) {
        let at = rng.below(len);
        let data = rng.within(1, 20_000.min(len - at + 1));
        let data = rng.bytes(usize::try_from(data.min(len - at)).expect("a length"));
        file.write_all_at(&data, at).expect("data between holes");
    }
}

/// Gives an entry random owners, mode, attributes, lists and times.
pub fn dress(path: &Path, rng: &mut Rng, shape: &Shape) {
    let status = fs::symlink_metadata(path).expect("an entry");
    if shape.root_only && rng.one_in(3) {
        own(path, rng);
    }
    if !status.is_symlink() {
        permit(path, rng);
    }
    if rng.one_in(3) {
        attributes(path, rng, shape);
    }
    if !status.is_symlink() && rng.one_in(6) {
        access_list(path, rng);
    }
    if rng.one_in(2) {
        times(path, rng);
    }
}

pub fn own(path: &Path, rng: &mut Rng) {
    let ids = [0, 1, 1000, 65534, 100_000, 3_000_000_000];
    std::os::unix::fs::lchown(path, Some(*rng.pick(&ids)), Some(*rng.pick(&ids))).expect("an owner");
}

pub fn permit(path: &Path, rng: &mut Rng) {
    let dir = path.symlink_metadata().expect("an entry").is_dir();
    let modes: &[u32] = if dir {
        &[0o755, 0o700, 0o555, 0o1777, 0o2775, 0o500, 0o000]
    } else {
        &[0o644, 0o600, 0o755, 0o4755, 0o2755, 0o6711, 0o1644, 0o444, 0o000]
    };
    fs::set_permissions(path, fs::Permissions::from_mode(*rng.pick(modes))).expect("a mode");
}

pub fn attributes(path: &Path, rng: &mut Rng, shape: &Shape) {
    let status = path.symlink_metadata().expect("an entry");
    let plain = status.is_file() || status.is_dir();
    for _ in 0..rng.within(1, 4) {
        let (name, value): (Vec<u8>, Vec<u8>) = match rng.below(6) {
            0 if shape.root_only => (format!("trusted.t{}", rng.below(4)).into_bytes(), rng.bytes(30)),
            1 if shape.root_only && status.is_file() => (b"security.capability".to_vec(), capability(rng)),
            2 if plain => (b"user.\xff\xfe odd".to_vec(), rng.bytes(9)),
            3 if plain => (b"user.empty".to_vec(), Vec::new()),
            4 if plain => {
                let len = rng.within(100, 1500);
                (b"user.long".to_vec(), rng.bytes(usize::try_from(len).expect("a length")))
            }
            _ if plain => (format!("user.u{}", rng.below(4)).into_bytes(), b"value".to_vec()),
            _ => continue,
        };
        match rustix::fs::lsetxattr(path, name.as_slice(), &value, XattrFlags::empty()) {
            // Some file systems have one block for all of them.
            Ok(()) | Err(rustix::io::Errno::NOSPC) => {}
            Err(error) => panic!("an attribute: {error}"),
        }
    }
}

/// `VFS_CAP_REVISION_2` with some permitted bits (linux/capability.h).
fn capability(rng: &mut Rng) -> Vec<u8> {
    let mut value = 0x0200_0001u32.to_le_bytes().to_vec();
    let bits = u32::try_from(1 << rng.below(20)).expect("a bit");
    value.extend_from_slice(&bits.to_le_bytes());
    value.extend_from_slice(&[0; 12]);
    value
}

/// A POSIX access list in the kernel's own form (linux/posix_acl_xattr.h), and for folders perhaps a default one.
pub fn access_list(path: &Path, rng: &mut Rng) {
    let status = path.symlink_metadata().expect("an entry");
    let list = |rng: &mut Rng| {
        let mut raw = 2u32.to_le_bytes().to_vec();
        let mut add = |tag: u16, permissions: u64, id: u32| {
            raw.extend_from_slice(&tag.to_le_bytes());
            raw.extend_from_slice(&(permissions as u16).to_le_bytes());
            raw.extend_from_slice(&id.to_le_bytes());
        };
        add(0x01, 7, u32::MAX);
        add(0x02, rng.below(8), 1000);
        add(0x02, rng.below(8), 2_000_000_000);
        add(0x04, rng.below(8), u32::MAX);
        add(0x08, rng.below(8), 100);
        add(0x10, 7, u32::MAX);
        add(0x20, rng.below(8), u32::MAX);
        raw
    };
    let access = list(rng);
    rustix::fs::setxattr(path, "system.posix_acl_access", &access, XattrFlags::empty()).expect("an access list");
    if status.is_dir() && rng.one_in(2) {
        let default = list(rng);
        rustix::fs::setxattr(path, "system.posix_acl_default", &default, XattrFlags::empty()).expect("a default list");
    }
}

/// A modification time to the nanosecond: today, before 1970, long ago, far ahead.
pub fn times(path: &Path, rng: &mut Rng) {
    let seconds = match rng.below(5) {
        0 => -1,
        1 => -(rng.below(2_000_000_000) as i64),
        2 => 4_294_967_296 + rng.below(1_000_000_000) as i64,
        3 => 0,
        _ => 1_700_000_000 + rng.below(90_000_000) as i64,
    };
    set_mtime(path, seconds, rng.below(1_000_000_000) as i64);
}

pub fn set_mtime(path: &Path, seconds: i64, nanoseconds: i64) {
    let at = Timespec { tv_sec: seconds, tv_nsec: nanoseconds as _ };
    let both = Timestamps { last_access: at, last_modification: at };
    rustix::fs::utimensat(CWD, path, &both, AtFlags::SYMLINK_NOFOLLOW).expect("a time");
}

/// Everything below `root`, parents before their children, in the order of bytes.
pub fn walk(root: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open = vec![root.to_path_buf()];
    while let Some(folder) = open.pop() {
        let mut names: Vec<PathBuf> =
            fs::read_dir(&folder).expect("a folder").map(|entry| entry.expect("an entry").path()).collect();
        names.sort();
        for path in names {
            if path.symlink_metadata().expect("an entry").is_dir() {
                open.push(path.clone());
            }
            found.push(path);
        }
    }
    found.sort();
    found
}

/// Bytes of all regular files below `root`, each inode once.
pub fn content_bytes(root: &Path) -> u64 {
    let mut seen = std::collections::HashSet::new();
    let status = walk(root).into_iter().map(|path| path.symlink_metadata().expect("an entry"));
    status.filter(|status| status.is_file() && seen.insert(status.ino())).map(|status| status.len()).sum()
}
