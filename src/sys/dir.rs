//! Directories as descriptors. Whatever lies below a root is reached from here and nowhere else: by `openat2` that stays
//! beneath it and follows no symbolic link, or by a single name in an open directory.

mod remove;

pub use remove::Leftover;

use std::ffi::CString;
use std::fs::File;
use std::io::{Error, ErrorKind, Result};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags, RawDir, RenameFlags, ResolveFlags, Stat};
use rustix::io::Errno;

/// An open directory.
#[derive(Debug)]
pub struct Dir(OwnedFd);

/// `FS_CASEFOLD_FL` of linux/fs.h.
const CASEFOLD: rustix::fs::IFlags = rustix::fs::IFlags::from_bits_retain(0x4000_0000);

/// The longest path the kernel takes in one call, with room for its end.
const PATH_STEP: usize = 4000;

/// One name in a directory, with the type if the file system tells.
#[derive(Debug)]
pub struct DirName {
    pub name: Box<[u8]>,
    pub is_dir: Option<bool>,
}

impl DirName {
    /// `None` for the directory itself and the one above it.
    fn of(entry: &rustix::fs::RawDirEntry<'_>) -> Option<DirName> {
        let name = entry.file_name().to_bytes();
        let is_dir = match entry.file_type() {
            rustix::fs::FileType::Unknown => None,
            kind => Some(kind.is_dir()),
        };
        (name != b"." && name != b"..").then(|| DirName { name: name.into(), is_dir })
    }
}

impl Dir {
    /// Opens a directory by a path from outside (typed by the user, or our own): links in it are followed where nobody but
    /// root or this user made them.
    pub fn open(path: &Path) -> Result<Dir> {
        Ok(Dir(super::path::open_dir(path)?))
    }

    /// The folder that this directory is in, and its name there. `None` for the root of all, and where this directory
    /// cannot be found again by that name.
    pub fn place(&self) -> Result<Option<(Dir, Vec<u8>)>> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let above = match rustix::fs::openat(&self.0, "..", flags, Mode::empty()) {
            Ok(above) => Dir(above),
            Err(Errno::ACCESS | Errno::PERM) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let path = super::path::of(&self.0)?;
        let Some(name) = path.file_name().map(OsStrExt::as_bytes) else { return Ok(None) };
        let here = self.stat_self()?;
        let found =
            above.stat_if_there(name)?.is_some_and(|stat| (stat.st_dev, stat.st_ino) == (here.st_dev, here.st_ino));
        Ok(found.then(|| (above, name.to_vec())))
    }

    /// Whether both are seen through one mount, so that names can be moved from one to the other: a file system may be
    /// mounted in more than one place, or a part of it.
    pub fn is_mounted_with(&self, other: &Dir) -> Result<bool> {
        use rustix::fs::{StatxFlags, statx};
        let mount = |dir: &Dir| -> Result<Option<u64>> {
            let found = statx(&dir.0, "", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID)?;
            Ok((found.stx_mask & StatxFlags::MNT_ID.bits() != 0).then_some(found.stx_mnt_id))
        };
        Ok(self.stat_self()?.st_dev == other.stat_self()?.st_dev && mount(self)? == mount(other)?)
    }

    /// Whether this process may make and remove names in it.
    pub fn is_writable(&self) -> bool {
        use rustix::fs::Access;
        rustix::fs::accessat(&self.0, ".", Access::WRITE_OK | Access::EXEC_OK, AtFlags::EACCESS).is_ok()
    }

    /// Whether names in it are compared without case, by a property of this one directory (ext4, f2fs, tmpfs). What is made
    /// in it inherits that.
    pub fn folds_names(&self) -> bool {
        rustix::fs::ioctl_getflags(&self.0).is_ok_and(|flags| flags.contains(CASEFOLD))
    }

    /// Gives an empty directory that property.
    pub fn fold_names(&self) -> Result<()> {
        Ok(rustix::fs::ioctl_setflags(&self.0, rustix::fs::ioctl_getflags(&self.0)? | CASEFOLD)?)
    }

    /// Opens a directory below this one; `path` is relative and may be empty (this directory again). Never leaves it,
    /// never follows a link. Works for paths of any length.
    pub fn open_beneath(&self, path: &[u8]) -> Result<Dir> {
        let mut rest = path;
        let mut at: Option<Dir> = None;
        loop {
            let (step, after) = split_path(rest);
            let step: &[u8] = if step.is_empty() { b"." } else { step };
            let from = at.as_ref().map_or(self.0.as_fd(), |dir| dir.0.as_fd());
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
            let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
            let next = Dir(open_retrying(from, step, flags, resolve)?);
            if after.is_empty() {
                return Ok(next);
            }
            rest = after;
            at = Some(next);
        }
    }

    /// Every name but `.` and `..`, in no order.
    pub fn names(&self) -> Result<Vec<DirName>> {
        let mut names = Vec::new();
        let mut buffer = vec![MaybeUninit::uninit(); 32 * 1024];
        rustix::fs::seek(&self.0, rustix::fs::SeekFrom::Start(0))?;
        let mut entries = RawDir::new(&self.0, &mut buffer);
        while let Some(entry) = entries.next() {
            names.extend(DirName::of(&entry?));
        }
        Ok(names)
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> Result<bool> {
        let mut buffer = vec![MaybeUninit::uninit(); 4096];
        rustix::fs::seek(&self.0, rustix::fs::SeekFrom::Start(0))?;
        let mut entries = RawDir::new(&self.0, &mut buffer);
        while let Some(entry) = entries.next() {
            if !matches!(entry?.file_name().to_bytes(), b"." | b"..") {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// What `name` in this directory is; a link is looked at, not followed.
    pub fn stat(&self, name: &[u8]) -> Result<Stat> {
        one_name(name)?;
        Ok(rustix::fs::statat(&self.0, name, AtFlags::SYMLINK_NOFOLLOW)?)
    }

    /// Like [`Dir::stat`], `None` where there is nothing.
    pub fn stat_if_there(&self, name: &[u8]) -> Result<Option<Stat>> {
        match self.stat(name) {
            Ok(stat) => Ok(Some(stat)),
            // A server's word for the same: the directory itself has gone.
            Err(error) if is_gone(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Whether `name` (empty: this directory itself) bears a flag that forbids changing or removing it: immutable, or
    /// append-only. False where the file system has no such flags.
    pub fn is_immutable(&self, name: &[u8]) -> Result<bool> {
        use rustix::fs::{StatxAttributes, StatxFlags};
        let flags = match name {
            b"" => AtFlags::EMPTY_PATH,
            name => {
                one_name(name)?;
                AtFlags::SYMLINK_NOFOLLOW
            }
        };
        let stat = rustix::fs::statx(&self.0, name, flags, StatxFlags::TYPE)?;
        let fixed = StatxAttributes::IMMUTABLE | StatxAttributes::APPEND;
        Ok((stat.stx_attributes & stat.stx_attributes_mask).intersects(fixed))
    }

    /// Whether the file system has such flags at all.
    pub fn knows_flags(&self) -> bool {
        use rustix::fs::{StatxAttributes, StatxFlags};
        rustix::fs::statx(&self.0, "", AtFlags::EMPTY_PATH, StatxFlags::TYPE)
            .is_ok_and(|stat| stat.stx_attributes_mask.contains(StatxAttributes::IMMUTABLE))
    }

    pub fn stat_self(&self) -> Result<Stat> {
        Ok(rustix::fs::fstat(&self.0)?)
    }

    /// Opens a regular file for reading. Anything else that stands there now is an error, and is not waited for.
    pub fn read(&self, name: &[u8]) -> Result<File> {
        one_name(name)?;
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY;
        // Reading must not change access times where we may ask for that; only an owner may.
        let file = match rustix::fs::openat(&self.0, name, flags | OFlags::NOATIME, Mode::empty()) {
            Err(Errno::PERM) => rustix::fs::openat(&self.0, name, flags, Mode::empty()),
            other => other,
        };
        let file = file.map_err(not_a_file)?;
        let stat = rustix::fs::fstat(&file)?;
        if !rustix::fs::FileType::from_raw_mode(stat.st_mode).is_file() {
            return Err(not_a_file(Errno::ISDIR));
        }
        Ok(File::from(file))
    }

    /// Opens an existing regular file for writing in place.
    pub fn write(&self, name: &[u8]) -> Result<File> {
        one_name(name)?;
        let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY;
        let file = rustix::fs::openat(&self.0, name, flags, Mode::empty()).map_err(not_a_file)?;
        if !rustix::fs::FileType::from_raw_mode(rustix::fs::fstat(&file)?.st_mode).is_file() {
            return Err(not_a_file(Errno::ISDIR));
        }
        Ok(File::from(file))
    }

    /// Creates a regular file that must not be there yet. `mode` is taken as it is (the process has no umask).
    pub fn create(&self, name: &[u8], mode: u32) -> Result<File> {
        one_name(name)?;
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(File::from(rustix::fs::openat(&self.0, name, flags, Mode::from_raw_mode(mode))?))
    }

    pub fn make_dir(&self, name: &[u8], mode: u32) -> Result<()> {
        one_name(name)?;
        Ok(rustix::fs::mkdirat(&self.0, name, Mode::from_raw_mode(mode))?)
    }

    /// A directory of this name, made if it is not there.
    pub fn ensure_dir(&self, name: &[u8], mode: u32) -> Result<Dir> {
        match self.make_dir(name, mode) {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => Err(error),
            _ => self.open_beneath(name),
        }
    }

    /// Makes that what is created in this directory of ours gets the group of this process and just the mode it is given:
    /// the folder above may hand down its own group (setgid), access list or properties.
    pub fn inherit_nothing(&self) -> Result<()> {
        let gid = rustix::process::getegid();
        match rustix::fs::fchown(&self.0, None, Some(gid)) {
            // A file system without owners.
            Ok(()) | Err(Errno::PERM | Errno::INVAL | Errno::OPNOTSUPP) => {}
            Err(error) => return Err(error.into()),
        }
        super::attrs::remove_inherited(self)?;
        match rustix::fs::fchmod(&self.0, Mode::RWXU) {
            // A file system without modes: whether it is private has been looked at.
            Ok(()) | Err(Errno::PERM | Errno::INVAL | Errno::OPNOTSUPP | Errno::NOSYS) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    pub fn make_symlink(&self, name: &[u8], target: &[u8]) -> Result<()> {
        one_name(name)?;
        Ok(rustix::fs::symlinkat(target, &self.0, name)?)
    }

    /// FIFO, socket or device, by the type bits of `mode`.
    pub fn make_node(&self, name: &[u8], mode: u32, major: u32, minor: u32) -> Result<()> {
        one_name(name)?;
        let kind = rustix::fs::FileType::from_raw_mode(mode);
        let device = rustix::fs::makedev(major, minor);
        Ok(rustix::fs::mknodat(&self.0, name, kind, Mode::from_raw_mode(mode & 0o7777), device)?)
    }

    pub fn read_link(&self, name: &[u8]) -> Result<CString> {
        one_name(name)?;
        Ok(rustix::fs::readlinkat(&self.0, name, Vec::new())?)
    }

    /// A second name, in `to`, for the file `name` here.
    pub fn link(&self, name: &[u8], to: &Dir, to_name: &[u8]) -> Result<()> {
        one_name(name)?;
        one_name(to_name)?;
        Ok(rustix::fs::linkat(&self.0, name, &to.0, to_name, AtFlags::empty())?)
    }

    /// Moves `name` to `to_name` in `to`, in one step, replacing a file that is there.
    pub fn rename(&self, name: &[u8], to: &Dir, to_name: &[u8]) -> Result<()> {
        one_name(name)?;
        one_name(to_name)?;
        Ok(rustix::fs::renameat(&self.0, name, &to.0, to_name)?)
    }

    /// Like [`Dir::rename`], but fails where something is there already.
    pub fn rename_new(&self, name: &[u8], to: &Dir, to_name: &[u8]) -> Result<()> {
        one_name(name)?;
        one_name(to_name)?;
        match rustix::fs::renameat_with(&self.0, name, &to.0, to_name, RenameFlags::NOREPLACE) {
            // Some file systems do not know the flag; a look first is the best there is.
            Err(Errno::INVAL) => {
                if to.stat_if_there(to_name)?.is_some() {
                    return Err(Errno::EXIST.into());
                }
                self.rename(name, to, to_name)
            }
            other => Ok(other?),
        }
    }

    pub fn remove_file(&self, name: &[u8]) -> Result<()> {
        one_name(name)?;
        Ok(rustix::fs::unlinkat(&self.0, name, AtFlags::empty())?)
    }

    pub fn remove_empty_dir(&self, name: &[u8]) -> Result<()> {
        one_name(name)?;
        Ok(rustix::fs::unlinkat(&self.0, name, AtFlags::REMOVEDIR)?)
    }

    /// Makes what was done to this directory itself durable.
    pub fn sync(&self) -> Result<()> {
        Ok(rustix::fs::fsync(&self.0)?)
    }

    /// Makes everything written to this directory's file system durable.
    pub fn sync_fs(&self) -> Result<()> {
        Ok(rustix::fs::syncfs(&self.0)?)
    }

    /// Takes the exclusive lock on this directory; held until it is closed. False if somebody else has it.
    pub fn try_lock(&self) -> Result<bool> {
        match rustix::fs::flock(&self.0, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(true),
            Err(Errno::WOULDBLOCK) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// The path by which the kernel shows `name` in this directory, for calls that take no descriptor. The last part is
    /// never followed by the calls that use it.
    pub(super) fn proc_path(&self, name: &[u8]) -> Vec<u8> {
        use std::os::fd::AsRawFd;
        let mut path = format!("/proc/self/fd/{}/", self.0.as_raw_fd()).into_bytes();
        path.extend_from_slice(name);
        path
    }
}

impl AsFd for Dir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// A lock file of our own, held until the value is dropped. `None` if somebody else holds it.
pub fn lock_file(path: &Path) -> Result<Option<File>> {
    let file = private_file().create(true).open(path)?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Some(file)),
        Err(Errno::WOULDBLOCK) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// How our own files are opened: nobody else may read or write them, whatever the umask is.
pub fn private_file() -> std::fs::OpenOptions {
    let mut options = File::options();
    std::os::unix::fs::OpenOptionsExt::mode(options.read(true).write(true).truncate(false), 0o600);
    options
}

/// New files get just the mode they are given. Call once, before threads start.
pub fn clear_umask() {
    rustix::process::umask(Mode::empty());
}

pub fn is_dir(stat: &Stat) -> bool {
    rustix::fs::FileType::from_raw_mode(stat.st_mode).is_dir()
}

/// The parent path (empty for the root) and the last name.
pub fn split_last(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|&byte| byte == b'/') {
        Some(at) => (&path[..at], &path[at + 1..]),
        None => (b"", path),
    }
}

/// As much of a relative path as one call takes, and the rest.
fn split_path(path: &[u8]) -> (&[u8], &[u8]) {
    if path.len() <= PATH_STEP {
        return (path, b"");
    }
    match path[..PATH_STEP].iter().rposition(|&byte| byte == b'/') {
        Some(at) => (&path[..at], &path[at + 1..]),
        None => (path, b""),
    }
}

fn open_retrying(from: BorrowedFd<'_>, path: &[u8], flags: OFlags, resolve: ResolveFlags) -> Result<OwnedFd> {
    // The kernel answers EAGAIN when a rename raced with the walk and it cannot be sure that it stayed beneath.
    for _ in 0..64 {
        match rustix::fs::openat2(from, path, flags, Mode::empty(), resolve) {
            Err(Errno::AGAIN | Errno::INTR) => {}
            other => return Ok(other?),
        }
    }
    Err(Errno::AGAIN.into())
}

/// The error for a file that could not be opened: a link, a socket, a device without a driver or a folder in its place is
/// no file any more.
fn not_a_file(error: Errno) -> Error {
    match error {
        Errno::LOOP | Errno::NXIO | Errno::ISDIR => Error::new(ErrorKind::NotFound, "is no longer a regular file"),
        other => other.into(),
    }
}

/// Whether an error says that what was known to be there is not there any more, or is another kind of thing by now.
pub fn is_gone(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory | ErrorKind::StaleNetworkFileHandle)
        || Errno::from_io_error(error) == Some(Errno::LOOP)
}

/// The same error once more.
pub fn copy_of(error: &Error) -> Error {
    error.raw_os_error().map_or_else(|| error.kind().into(), Error::from_raw_os_error)
}

/// A name that stands for an entry of a directory and nothing else.
fn one_name(name: &[u8]) -> Result<()> {
    if name.is_empty() || name == b"." || name == b".." || name.contains(&b'/') || name.contains(&0) {
        return Err(Error::new(ErrorKind::InvalidInput, "not a plain file name"));
    }
    Ok(())
}
