//! Metadata: owners, modes, times and extended attributes, read and written without following anything.

use std::fs::File;
use std::io::{Error, Result};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use rustix::fs::{AtFlags, Gid, Mode, OFlags, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;

use super::clock::Time;
use super::dir::Dir;

/// An extended attribute: name and value.
pub type Xattr = (Box<[u8]>, Box<[u8]>);

/// The largest list of names, and the largest value, that Linux keeps.
const XATTR_MAX: usize = 64 * 1024;

/// Reads the extended attributes of `name` in `dir`, sorted by name. An empty list where the file system has none.
pub fn xattrs_at(dir: &Dir, name: &[u8]) -> Result<Vec<Xattr>> {
    let path = dir.proc_path(name);
    read_all(
        |buffer| rustix::fs::llistxattr(&path[..], buffer),
        |key, buffer| rustix::fs::lgetxattr(&path[..], key, buffer),
    )
}

/// Reads the extended attributes of an open file or directory, sorted by name.
pub fn xattrs_of(file: impl AsFd) -> Result<Vec<Xattr>> {
    let file = file.as_fd();
    read_all(|buffer| rustix::fs::flistxattr(file, buffer), |key, buffer| rustix::fs::fgetxattr(file, key, buffer))
}

fn read_all(
    list: impl Fn(&mut [u8]) -> rustix::io::Result<usize>,
    value: impl Fn(&[u8], &mut [u8]) -> rustix::io::Result<usize>,
) -> Result<Vec<Xattr>> {
    let mut small = [0; 512];
    let mut large = Vec::new();
    let names = match list(&mut small) {
        Ok(count) => &small[..count],
        Err(Errno::RANGE) => {
            large.resize(XATTR_MAX, 0);
            let count = list(&mut large)?;
            &large[..count]
        }
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => &[],
        Err(error) => return Err(error.into()),
    };
    let mut found = Vec::new();
    for key in names.split(|&byte| byte == 0).filter(|key| !key.is_empty()) {
        let mut buffer = vec![0; 256];
        let count = match value(key, &mut buffer) {
            Err(Errno::RANGE) => {
                buffer.resize(XATTR_MAX, 0);
                value(key, &mut buffer)
            }
            other => other,
        };
        match count {
            Ok(count) => {
                buffer.truncate(count);
                found.push((key.into(), buffer.into_boxed_slice()));
            }
            // Gone since it was listed, or not for us to see.
            Err(Errno::NODATA | Errno::PERM | Errno::ACCESS | Errno::OPNOTSUPP) => {}
            Err(error) => return Err(error.into()),
        }
    }
    found.sort();
    Ok(found)
}

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

/// What could not be made true, in a few words each.
pub type Refusals = Vec<String>;

/// Gives an open file or directory its metadata. `fresh`: it was just made by us with this mode and has no attributes yet.
pub fn apply(file: BorrowedFd<'_>, wanted: &Wanted<'_>, fresh: bool, refusals: &mut Refusals) -> Result<()> {
    let (me, mine) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    let now = if fresh { None } else { Some(rustix::fs::fstat(file)?) };
    let (uid, gid) = now.map_or((me, mine), |stat| (stat.st_uid, stat.st_gid));
    let mut mode_lost = false;
    if (uid, gid) != (wanted.uid, wanted.gid) {
        own(wanted, uid, gid, refusals, |uid, gid| rustix::fs::fchown(file, uid, gid))?;
        // The kernel drops setuid and setgid when an owner changes.
        mode_lost = wanted.mode.is_some_and(|mode| mode & 0o6000 != 0);
    }
    if let Some(mode) = wanted.mode
        && (mode_lost || now.is_none_or(|stat| stat.st_mode & 0o7777 != mode) && !(fresh && mode & 0o7000 == 0))
    {
        rustix::fs::fchmod(file, Mode::from_raw_mode(mode))?;
    }
    if !fresh || !wanted.xattrs.is_empty() {
        let old = if fresh { Vec::new() } else { xattrs_of(file)? };
        // With an access list the mode is a part of it: set the list last, it says the same.
        apply_xattrs(
            &old,
            wanted.xattrs,
            refusals,
            |key, value| rustix::fs::fsetxattr(file, key, value, XattrFlags::empty()),
            |key| rustix::fs::fremovexattr(file, key),
        )?;
        if let (Some(mode), false) = (wanted.mode, old == wanted.xattrs)
            && rustix::fs::fstat(file)?.st_mode & 0o7777 != mode
        {
            rustix::fs::fchmod(file, Mode::from_raw_mode(mode))?;
        }
    }
    rustix::fs::futimens(file, &times(wanted.mtime))?;
    Ok(())
}

/// Gives `name` in `dir` its metadata, whatever kind of entry it is.
pub fn apply_at(dir: &Dir, name: &[u8], wanted: &Wanted<'_>, refusals: &mut Refusals) -> Result<()> {
    // O_PATH holds on to the very inode that was looked at; a file put in its place a moment later is not touched.
    let held = rustix::fs::openat(dir, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
    let stat = rustix::fs::fstat(&held)?;
    let is_link = rustix::fs::FileType::from_raw_mode(stat.st_mode).is_symlink();
    let magic = format!("/proc/self/fd/{}", held.as_raw_fd());
    let mut mode_lost = false;
    if (stat.st_uid, stat.st_gid) != (wanted.uid, wanted.gid) {
        own(wanted, stat.st_uid, stat.st_gid, refusals, |uid, gid| {
            rustix::fs::chownat(&held, "", uid, gid, AtFlags::EMPTY_PATH)
        })?;
        mode_lost = true;
    }
    if let (Some(mode), false) = (wanted.mode, is_link)
        && (mode_lost || stat.st_mode & 0o7777 != mode)
    {
        rustix::fs::chmod(magic.as_str(), Mode::from_raw_mode(mode))?;
    }
    let old = xattrs_at(dir, name)?;
    if old != wanted.xattrs {
        let path = dir.proc_path(name);
        apply_xattrs(
            &old,
            wanted.xattrs,
            refusals,
            |key, value| rustix::fs::lsetxattr(&path[..], key, value, XattrFlags::empty()),
            |key| rustix::fs::lremovexattr(&path[..], key),
        )?;
        if let (Some(mode), false) = (wanted.mode, is_link)
            && rustix::fs::fstat(&held)?.st_mode & 0o7777 != mode
        {
            rustix::fs::chmod(magic.as_str(), Mode::from_raw_mode(mode))?;
        }
    }
    rustix::fs::utimensat(dir, name, &times(wanted.mtime), AtFlags::SYMLINK_NOFOLLOW)?;
    Ok(())
}

fn own(
    wanted: &Wanted<'_>,
    uid: u32,
    gid: u32,
    refusals: &mut Refusals,
    chown: impl Fn(Option<Uid>, Option<Gid>) -> rustix::io::Result<()>,
) -> Result<()> {
    match chown(Some(Uid::from_raw(wanted.uid)), Some(Gid::from_raw(wanted.gid))) {
        Ok(()) => return Ok(()),
        Err(Errno::PERM | Errno::INVAL | Errno::OPNOTSUPP) => {}
        Err(error) => return Err(error.into()),
    }
    if uid != wanted.uid {
        refusals.push("the owner could not be kept: only root may give files away".to_string());
    }
    if gid != wanted.gid {
        match chown(None, Some(Gid::from_raw(wanted.gid))) {
            Ok(()) => {}
            Err(Errno::PERM | Errno::INVAL | Errno::OPNOTSUPP) => {
                refusals.push("the group could not be kept: this user is not in it".to_string());
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

fn apply_xattrs(
    old: &[Xattr],
    wanted: &[Xattr],
    refusals: &mut Refusals,
    set: impl Fn(&[u8], &[u8]) -> rustix::io::Result<()>,
    remove: impl Fn(&[u8]) -> rustix::io::Result<()>,
) -> Result<()> {
    let mut refuse = |key: &[u8], error: Errno| match error {
        Errno::OPNOTSUPP | Errno::PERM | Errno::ACCESS | Errno::INVAL | Errno::NOSPC | Errno::TOOBIG | Errno::RANGE => {
            let key = String::from_utf8_lossy(key);
            refusals.push(format!("the attribute {key} could not be kept: {}", Error::from(error)));
            Ok(())
        }
        other => Err(Error::from(other)),
    };
    for (key, _) in old.iter().filter(|(key, _)| !wanted.iter().any(|(other, _)| other == key)) {
        match remove(key) {
            Ok(()) | Err(Errno::NODATA) => {}
            Err(error) => refuse(key, error)?,
        }
    }
    for (key, value) in wanted.iter().filter(|pair| !old.contains(pair)) {
        set(key, value).or_else(|error| refuse(key, error))?;
    }
    Ok(())
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
