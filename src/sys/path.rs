//! Paths from outside, to where a tree begins. Links on the way are followed, but not whoever's: a person, or root, who
//! syncs to a folder must not be led elsewhere by a link that another user put there.

use std::fmt;
use std::io::{Error, ErrorKind, Result};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

/// As many links as the kernel follows in one path.
const LINKS_MAX: usize = 40;

/// `PROC_SUPER_MAGIC` of linux/magic.h.
const PROC_MAGIC: u64 = 0x9fa0;

/// A link on the way to a folder is neither root's nor this user's.
#[derive(Debug)]
pub struct ForeignLink {
    /// Its own name, and who owns it.
    name: PathBuf,
    owner: u32,
}

impl fmt::Display for ForeignLink {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.name.display().to_string();
        write!(to, "{:?} on the way is a symbolic link of user {}, who may lead it anywhere", name, self.owner)
    }
}

impl std::error::Error for ForeignLink {}

/// What to do about it.
pub const FOREIGN_LINK_HINT: &str = "links of root and of this user are followed, no others; name the folder that it leads to, or have the link made by root";

/// Whether an error is that of a link that is not followed.
pub fn is_foreign_link(error: &Error) -> bool {
    error.get_ref().is_some_and(<dyn std::error::Error + Send + Sync>::is::<ForeignLink>)
}

/// Opens a directory.
pub fn open_dir(path: &Path) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    match rustix::fs::openat2(CWD, path, flags, Mode::empty(), ResolveFlags::NO_SYMLINKS) {
        // There is a link in it.
        Err(Errno::LOOP) => Ok(rustix::fs::openat(walk(path)?, ".", flags, Mode::empty())?),
        other => Ok(other?),
    }
}

/// The path of a folder without links, as [`open_dir`] finds it.
pub fn real(path: &Path) -> Result<PathBuf> {
    of(&walk(path)?)
}

/// The path of an open file, as the kernel knows it.
pub fn of(file: impl AsFd) -> Result<PathBuf> {
    let magic = format!("/proc/self/fd/{}", file.as_fd().as_raw_fd());
    let path = rustix::fs::readlink(magic, Vec::new())?.into_bytes();
    Ok(std::ffi::OsString::from_vec(path).into())
}

/// Goes a path name by name, each from the directory before: what was looked at is what is gone through.
fn walk(path: &Path) -> Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let start = |path: &[u8]| {
        let from = if path.starts_with(b"/") { "/" } else { "." };
        rustix::fs::open(from, flags | OFlags::DIRECTORY, Mode::empty())
    };
    let mut at = start(path.as_os_str().as_bytes())?;
    let mut ahead = Vec::new();
    push_names(&mut ahead, path.as_os_str().as_bytes());
    let mut links = 0;
    while let Some(name) = ahead.pop() {
        let next = rustix::fs::openat(&at, &name[..], flags | OFlags::NOFOLLOW, Mode::empty())?;
        let stat = rustix::fs::fstat(&next)?;
        if !FileType::from_raw_mode(stat.st_mode).is_symlink() {
            at = next;
            continue;
        }
        if rustix::fs::fstatfs(&next)?.f_type as u64 == PROC_MAGIC {
            // The kernel's own, which lead where no path does. Nobody makes them.
            at = rustix::fs::openat(&at, &name[..], flags, Mode::empty())?;
            continue;
        }
        links += 1;
        if links > LINKS_MAX {
            return Err(Errno::LOOP.into());
        }
        if stat.st_uid != 0 && stat.st_uid != rustix::process::geteuid().as_raw() {
            let name = std::ffi::OsString::from_vec(name).into();
            return Err(Error::new(ErrorKind::PermissionDenied, ForeignLink { name, owner: stat.st_uid }));
        }
        let leads_to = rustix::fs::readlinkat(&next, "", Vec::new())?.into_bytes();
        if leads_to.starts_with(b"/") {
            at = start(&leads_to)?;
        }
        push_names(&mut ahead, &leads_to);
    }
    Ok(at)
}

/// Puts the names of a path on a stack, the first on top.
fn push_names(ahead: &mut Vec<Vec<u8>>, path: &[u8]) {
    let names = path.split(|&byte| byte == b'/').filter(|name| !name.is_empty() && *name != b".");
    let first = ahead.len();
    ahead.extend(names.map(<[u8]>::to_vec));
    ahead[first..].reverse();
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{lchown, symlink};

    #[test]
    fn a_path_leads_where_the_kernel_says() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        std::fs::create_dir_all(root.join("a/b/c")).unwrap();
        symlink("a/b", root.join("short")).unwrap();
        symlink("../../a", root.join("a/b/up")).unwrap();
        symlink(root.join("short"), root.join("chain")).unwrap();
        symlink("loop", root.join("loop")).unwrap();
        std::fs::write(root.join("file"), "").unwrap();
        symlink("file", root.join("to_file")).unwrap();
        for path in ["a", "a/b/c", "short/c", "chain/c", "chain/up/b", "short/../b/./c/", "short/up/../chain/c"] {
            let path = root.join(path);
            assert_eq!(real(&path).unwrap(), path.canonicalize().unwrap(), "{path:?}");
            assert_eq!(of(open_dir(&path).unwrap()).unwrap(), path.canonicalize().unwrap(), "{path:?}");
        }
        for path in ["loop", "short/none", "to_file", "file/x", "to_file/x"] {
            let path = root.join(path);
            let told = std::fs::read_dir(&path).map(|_| ()).unwrap_err();
            assert_eq!(open_dir(&path).unwrap_err().raw_os_error(), told.raw_os_error(), "{path:?}");
        }
        assert!(open_dir(Path::new("/proc/self/cwd")).is_ok());
    }

    #[test]
    fn a_link_of_another_user_is_not_followed_wherever_it_is_in_the_path() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("there/below")).unwrap();
        for (link, leads_to) in [("theirs", "there"), ("ours", "theirs/below"), ("plain", "there")] {
            symlink(leads_to, dir.path().join(link)).unwrap();
        }
        lchown(dir.path().join("theirs"), Some(65534), Some(65534)).unwrap();
        for path in ["theirs", "theirs/below", "ours", "plain/../theirs/", "theirs/none"] {
            let error = open_dir(&dir.path().join(path)).unwrap_err();
            assert!(is_foreign_link(&error) && error.to_string().contains("65534"), "{path}: {error}");
            assert!(real(&dir.path().join(path)).is_err());
        }
        assert!(open_dir(&dir.path().join("plain/below")).is_ok());
    }
}
