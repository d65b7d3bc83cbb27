//! Which inode it is that a path leads to: two folders of one name, one after the other, are told apart.

use std::io::Result;
use std::os::fd::AsFd;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Statx, StatxFlags};

use super::dir::Dir;

/// What tells one inode from all others, also from one that got its number after it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Inode {
    device: (u32, u32),
    number: u64,
    /// Seconds and nanoseconds of its birth; 0 where the file system keeps none.
    born: (i64, u32),
}

impl Inode {
    /// Links on the way and at the end are followed.
    pub fn at(path: &Path) -> Result<Inode> {
        Ok(told(&rustix::fs::statx(CWD, path, AtFlags::empty(), wanted())?))
    }

    pub fn of(dir: &Dir) -> Result<Inode> {
        Ok(told(&rustix::fs::statx(dir.as_fd(), c"", AtFlags::EMPTY_PATH, wanted())?))
    }
}

fn wanted() -> StatxFlags {
    StatxFlags::INO | StatxFlags::BTIME
}

fn told(statx: &Statx) -> Inode {
    let has_birth = StatxFlags::from_bits_retain(statx.stx_mask).contains(StatxFlags::BTIME);
    let born = if has_birth { (statx.stx_btime.tv_sec, statx.stx_btime.tv_nsec) } else { (0, 0) };
    Inode { device: (statx.stx_dev_major, statx.stx_dev_minor), number: statx.stx_ino, born }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_made_anew_is_another() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("it");
        std::fs::create_dir(&path).unwrap();
        let first = Inode::at(&path).unwrap();
        assert_eq!(Inode::of(&Dir::open(&path).unwrap()).unwrap(), first);
        std::fs::write(path.join("in it"), b"").unwrap();
        assert_eq!(Inode::at(&path).unwrap(), first);
        std::fs::remove_dir_all(&path).unwrap();
        super::super::stamps::next_tick();
        std::fs::create_dir(&path).unwrap();
        assert_ne!(Inode::at(&path).unwrap(), first);
    }
}
