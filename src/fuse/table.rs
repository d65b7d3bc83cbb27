//! What the system knows of mounts, read without touching them: one whose process is gone fails whoever looks at it.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use crate::model::{Error, Kind, Result};
use crate::sys::mount::plain;

/// How the source of our mounts begins, as `findmnt` shows it.
pub const SOURCE: &str = "mcloud:";

/// A line of the mount table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    pub dir: PathBuf,
    pub kind: String,
    pub source: String,
}

impl Mount {
    pub fn is_ours(&self) -> bool {
        self.kind.split('.').next() == Some("fuse") && self.source.starts_with(SOURCE)
    }
}

/// The topmost mount at exactly this folder.
pub fn find(dir: &Path) -> Result<Option<Mount>> {
    let table = std::fs::read("/proc/self/mountinfo").map_err(|error| Error::io("the mounts cannot be read", error))?;
    Ok(parse(&table).into_iter().rev().find(|mount| mount.dir == dir))
}

/// A folder's path without links in it. The folder itself is not looked at if it is a mount: that of a process that is gone does not answer.
pub fn resolve(dir: &Path) -> Result<PathBuf> {
    let cannot = |error| Error::io(format!("there is no folder {}", dir.display()), error);
    let absolute = std::path::absolute(dir).map_err(cannot)?;
    if let (Some(parent), Some(name)) = (absolute.parent(), absolute.file_name())
        && let Ok(parent) = parent.canonicalize()
    {
        let plain = parent.join(name);
        if find(&plain)?.is_some() {
            return Ok(plain);
        }
    }
    absolute.canonicalize().map_err(cannot)
}

/// Takes a mount away; `lazy`: also while it is in use, for those who come after.
pub fn unmount(dir: &Path, lazy: bool) -> Result<()> {
    use rustix::mount::UnmountFlags;
    let flags = if lazy { UnmountFlags::DETACH } else { UnmountFlags::empty() };
    let cannot = |error: std::io::Error| Error::io(format!("cannot unmount {}", dir.display()), error);
    match rustix::mount::unmount(dir, flags | UnmountFlags::NOFOLLOW) {
        Ok(()) => Ok(()),
        Err(rustix::io::Errno::BUSY) => Err(busy(dir)),
        Err(rustix::io::Errno::PERM) => by_helper(dir, lazy),
        Err(error) => Err(cannot(error.into())),
    }
}

fn busy(dir: &Path) -> Error {
    Error::new(Kind::Busy, format!("{} is in use", dir.display()))
        .hint("end what uses it (`fuser -vm DIR` shows it), or `mcloud unmount --force DIR`")
}

/// Only root may unmount; others have FUSE's own program for it.
fn by_helper(dir: &Path, lazy: bool) -> Result<()> {
    let mut command = std::process::Command::new("fusermount3");
    command.arg(if lazy { "-uz" } else { "-u" }).arg("--").arg(dir);
    let done = command.output().map_err(|error| {
        Error::io("fusermount3 cannot be started", error).hint("install the package fuse3, or be root")
    })?;
    let said = String::from_utf8_lossy(&done.stderr).trim().to_owned();
    match (done.status.success(), said.contains("busy")) {
        (true, _) => Ok(()),
        (false, true) => Err(busy(dir)),
        (false, false) => Err(Error::failed(format!("cannot unmount {}", dir.display())).because(said)),
    }
}

/// The lines of /proc/PID/mountinfo (proc(5)), in the order of mounting.
fn parse(table: &[u8]) -> Vec<Mount> {
    let line = |line: &[u8]| {
        let fields: Vec<&[u8]> = line.split(|byte| *byte == b' ').collect();
        let dash = fields.iter().position(|field| *field == b"-")?;
        let text = |at: usize| fields.get(at).map(|field| String::from_utf8_lossy(&plain(field)).into_owned());
        let dir = PathBuf::from(OsString::from_vec(plain(fields.get(4)?)));
        Some(Mount { dir, kind: text(dash + 1)?, source: text(dash + 2)? })
    };
    table.split(|byte| *byte == b'\n').filter_map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_read_with_its_escapes() {
        let table = b"36 35 98:0 /m /mnt/a\\040b rw,noatime shared:1 - ext3 /dev/root rw\n\
            40 35 0:50 / /mnt/x ro,nosuid - fuse.mcloud mcloud:shop@[::1]:7080 ro\n40 35 0:51 / /mnt/x ro - fuse mcloud:2 ro\nshort\n";
        let mounts = parse(table);
        assert_eq!(mounts.len(), 3);
        assert_eq!((mounts[0].dir.to_str(), mounts[0].is_ours()), (Some("/mnt/a b"), false));
        assert!(mounts[1].is_ours() && mounts[2].is_ours());
        assert_eq!(mounts[1].source, "mcloud:shop@[::1]:7080");
        assert!(find(Path::new("/proc")).unwrap().is_some());
    }
}
