//! Metadata: owners, modes, times and extended attributes ([`attrs`]), read and written without following anything.

use std::fs::File;
use std::io::{Error, Result};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, Gid, Mode, OFlags, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;

pub use super::attrs::{Refusals, Xattr, xattrs_at, xattrs_of};

use super::attrs;
use super::clock::Time;
use super::dir::Dir;

/// What is to be true of an entry's metadata.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    /// Permission bits with setuid, setgid and sticky; `None` for a link, which has none.
    pub mode: Option<u32>,
    pub uid: u32,
    pub gid: u32,
    pub mtime: Time,
    pub xattrs: &'a [Xattr],
}

/// Gives an open file or directory its metadata. `fresh`: it was just made by us with this mode and has no attributes yet.
pub fn apply(file: BorrowedFd<'_>, wanted: &Wanted<'_>, fresh: bool, refusals: &mut Refusals) -> Result<()> {
    Held::Open(file).give(wanted, fresh, refusals)
}

/// Gives `name` in `dir` its metadata, whatever kind of entry it is.
pub fn apply_at(dir: &Dir, name: &[u8], wanted: &Wanted<'_>, refusals: &mut Refusals) -> Result<()> {
    // O_PATH holds on to the very inode that was looked at; a file put in its place a moment later is not touched.
    let held = rustix::fs::openat(dir, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
    let magic = format!("/proc/self/fd/{}", held.as_raw_fd());
    Held::Named { dir, name, held, magic }.give(wanted, false, refusals)
}

/// What is given its metadata.
enum Held<'a> {
    Open(BorrowedFd<'a>),
    /// An entry that is not opened: the inode, and the path by which calls that take no such descriptor reach it.
    Named {
        dir: &'a Dir,
        name: &'a [u8],
        held: OwnedFd,
        magic: String,
    },
}

impl Held<'_> {
    fn give(&self, wanted: &Wanted<'_>, fresh: bool, refusals: &mut Refusals) -> Result<()> {
        let (me, mine) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        let now = if fresh { None } else { Some(self.stat()?) };
        let (uid, gid) = now.map_or((me, mine), |stat| (stat.st_uid, stat.st_gid));
        let is_link = now.is_some_and(|stat| rustix::fs::FileType::from_raw_mode(stat.st_mode).is_symlink());
        let owned = (uid, gid) == (wanted.uid, wanted.gid);
        if !owned {
            self.own(wanted, uid, gid, refusals)?;
        }
        let mode = match wanted.mode.filter(|_| !is_link) {
            Some(mode) if mode & 0o6000 != 0 => Some(self.harmless(mode, wanted, refusals)?),
            other => other,
        };
        if let Some(mode) = mode {
            // The kernel drops setuid and setgid when an owner changes; a fresh file has all but these.
            let lost = !owned && mode & 0o6000 != 0;
            let differs = now.map_or(mode & 0o7000 != 0, |stat| stat.st_mode & 0o7777 != mode);
            if lost || differs {
                self.set_mode(mode, refusals)?;
            }
        }
        if !fresh || !wanted.xattrs.is_empty() {
            let old = if fresh { Vec::new() } else { self.xattrs()? };
            if old != wanted.xattrs {
                self.change_xattrs(&old, wanted.xattrs, refusals)?;
                // With an access list the mode is a part of it: the list says the same, what took its place may not.
                if let Some(mode) = mode
                    && self.stat()?.st_mode & 0o7777 != mode
                {
                    self.set_mode(mode, refusals)?;
                }
            }
        }
        match self.set_time(wanted.mtime) {
            Ok(()) => Ok(()),
            Err(error) if is_refusal(error) => {
                refusals.push(format!("the time could not be kept: {}", Error::from(error)));
                Ok(())
            }
            Err(error) => Err(error.into()),
        }
    }

    fn own(&self, wanted: &Wanted<'_>, uid: u32, gid: u32, refusals: &mut Refusals) -> Result<()> {
        match self.chown(Some(Uid::from_raw(wanted.uid)), Some(Gid::from_raw(wanted.gid))) {
            Ok(()) => return Ok(()),
            Err(error) if is_refusal(error) => {}
            Err(error) => return Err(error.into()),
        }
        let is_root = rustix::process::geteuid().is_root();
        let why = |user: &'static str| if is_root { "the target's file system does not take it" } else { user };
        if uid != wanted.uid {
            refusals.push(format!("the owner could not be kept: {}", why("only root may give files away")));
        }
        if gid != wanted.gid {
            match self.chown(None, Some(Gid::from_raw(wanted.gid))) {
                Ok(()) => {}
                Err(error) if is_refusal(error) => {
                    refusals.push(format!("the group could not be kept: {}", why("this user is not in it")));
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// The mode without what would give the rights of somebody else than at the source: setuid and setgid are for the owner
    /// and the group that go with them (POSIX, `cp -p`). Looked at rather than concluded, since some file systems take a
    /// change of owner and forget it. On a directory setgid only hands down the group.
    fn harmless(&self, mode: u32, wanted: &Wanted<'_>, refusals: &mut Refusals) -> Result<u32> {
        let now = self.stat()?;
        let (other_user, other_group) = (now.st_uid != wanted.uid, now.st_gid != wanted.gid);
        let is_dir = super::dir::is_dir(&now);
        let lost = match is_dir {
            true if other_group => mode & 0o2000,
            false if other_user || other_group => mode & 0o6000,
            _ => 0,
        };
        if lost != 0 {
            let names = match lost {
                0o2000 => "setgid was",
                0o4000 => "setuid was",
                _ => "setuid and setgid were",
            };
            refusals.push(format!("{names} not set: without its owner and group it would give other rights"));
        }
        Ok(mode & !lost)
    }

    fn set_mode(&self, mode: u32, refusals: &mut Refusals) -> Result<()> {
        match self.chmod(Mode::from_raw_mode(mode)) {
            Ok(()) => Ok(()),
            Err(error) if is_refusal(error) => {
                refusals.push(format!("the mode could not be kept: {}", Error::from(error)));
                Ok(())
            }
            Err(error) => Err(error.into()),
        }
    }

    fn stat(&self) -> Result<rustix::fs::Stat> {
        Ok(match self {
            Held::Open(file) => rustix::fs::fstat(file)?,
            Held::Named { held, .. } => rustix::fs::fstat(held)?,
        })
    }

    fn chown(&self, uid: Option<Uid>, gid: Option<Gid>) -> rustix::io::Result<()> {
        match self {
            Held::Open(file) => rustix::fs::fchown(file, uid, gid),
            Held::Named { held, .. } => rustix::fs::chownat(held, "", uid, gid, AtFlags::EMPTY_PATH),
        }
    }

    fn chmod(&self, mode: Mode) -> rustix::io::Result<()> {
        match self {
            Held::Open(file) => rustix::fs::fchmod(file, mode),
            Held::Named { magic, .. } => rustix::fs::chmod(magic.as_str(), mode),
        }
    }

    fn xattrs(&self) -> Result<Vec<Xattr>> {
        match self {
            Held::Open(file) => xattrs_of(file),
            Held::Named { magic, .. } => attrs::read_all(
                |buffer| rustix::fs::listxattr(magic.as_str(), buffer),
                |key, buffer| rustix::fs::getxattr(magic.as_str(), key, buffer),
            ),
        }
    }

    fn change_xattrs(&self, old: &[Xattr], wanted: &[Xattr], refusals: &mut Refusals) -> Result<()> {
        let flags = XattrFlags::empty();
        match self {
            Held::Open(file) => attrs::change(
                old,
                wanted,
                refusals,
                |key, value| rustix::fs::fsetxattr(file, key, value, flags),
                |key| rustix::fs::fremovexattr(file, key),
            ),
            Held::Named { magic, .. } => attrs::change(
                old,
                wanted,
                refusals,
                |key, value| rustix::fs::setxattr(magic.as_str(), key, value, flags),
                |key| rustix::fs::removexattr(magic.as_str(), key),
            ),
        }
    }

    fn set_time(&self, mtime: Time) -> rustix::io::Result<()> {
        match self {
            Held::Open(file) => rustix::fs::futimens(file, &times(mtime)),
            Held::Named { dir, name, .. } => {
                rustix::fs::utimensat(dir, *name, &times(mtime), AtFlags::SYMLINK_NOFOLLOW)
            }
        }
    }
}

/// Whether the file system, or our rights, forbid it rather than the moment: a file system without modes or owners, an owner
/// that cannot be told there.
fn is_refusal(error: Errno) -> bool {
    matches!(
        error,
        Errno::PERM | Errno::ACCESS | Errno::INVAL | Errno::OPNOTSUPP | Errno::NOSYS | Errno::OVERFLOW | Errno::NOTTY
    )
}

fn times(mtime: Time) -> Timestamps {
    Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_OMIT },
        last_modification: Timespec { tv_sec: mtime.seconds, tv_nsec: mtime.nanos.into() },
    }
}

/// The time of last modification, and of last change of anything.
pub fn stamps(stat: &rustix::fs::Stat) -> (Time, Time) {
    let time = |seconds, nanos: u64| Time { seconds, nanos: u32::try_from(nanos).unwrap_or(0) };
    (time(stat.st_mtime, stat.st_mtime_nsec), time(stat.st_ctime, stat.st_ctime_nsec))
}

/// Whether a file takes less room than its length: it has holes.
pub fn has_holes(stat: &rustix::fs::Stat) -> bool {
    u64::try_from(stat.st_blocks).unwrap_or(0) * 512 < u64::try_from(stat.st_size).unwrap_or(0)
}

/// What an open file is now.
pub fn stat_file(file: &File) -> Result<rustix::fs::Stat> {
    Ok(rustix::fs::fstat(file)?)
}

/// Sets just the time of last modification.
pub fn set_time(file: impl AsFd, mtime: Time) -> Result<()> {
    Ok(rustix::fs::futimens(file, &times(mtime))?)
}
