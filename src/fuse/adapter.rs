//! Between the kernel and [`Fs`], with fuser's types on the one side and ours on the other. What is known is answered on the
//! thread that heard the question; what has to be waited for by one that may wait.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use fuser::{
    Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo, InitFlags,
    KernelConfig, LockOwner, MountOption, OpenAccMode, OpenFlags, ReplyAttr, ReplyData, ReplyDirectory,
    ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyLseek, ReplyOpen, ReplyStatfs, ReplyXattr, Request, SessionACL,
};

use tokio::sync::oneshot;

use super::fs::{Attr, DirEntry, Fault, Fs, Opened, Wait};
use super::table;
use crate::model::{Error, Kind, Result};
use crate::sys::clock::Time;

/// Threads that hear the kernel's questions.
const THREADS: usize = 2;
/// Read-ahead requests that the kernel may have under way.
const BACKGROUND: u16 = 64;

/// A mount. Dropped, it is unmounted.
pub struct Mounted {
    session: Option<fuser::BackgroundSession>,
    dir: PathBuf,
    /// Closed when the session ends.
    over: oneshot::Receiver<()>,
}

/// Mounts `fs` at the folder `dir`, which is shown as coming from `source`.
pub fn mount(fs: Fs, dir: &Path, source: &str) -> Result<Mounted> {
    let is_root = rustix::process::geteuid().is_root();
    let mut config = Config::default();
    config.mount_options = vec![
        MountOption::RO,
        MountOption::NoSuid,
        MountOption::NoDev,
        MountOption::NoAtime,
        MountOption::DefaultPermissions,
        // Commas separate options.
        MountOption::FSName(format!("{}{}", table::SOURCE, source.replace([',', '\\'], "_"))),
    ];
    config.n_threads = Some(THREADS);
    config.acl = if is_root { SessionACL::All } else { SessionACL::Owner };
    // fusermount3 stays beside us and unmounts when we are gone, even killed. It does so only for mounts that all may see.
    if is_root && has_helper() {
        config.mount_options.push(MountOption::Subtype("mcloud".into()));
        config.mount_options.push(MountOption::AutoUnmount);
    }
    let (serves, over) = oneshot::channel();
    let adapter = Adapter { fs, _serves: serves };
    let session = fuser::spawn_mount(adapter, dir, &config).map_err(|error| cannot(dir, error))?;
    Ok(Mounted { session: Some(session), dir: dir.to_owned(), over })
}

fn has_helper() -> bool {
    let paths = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&paths).any(|dir| dir.join("fusermount3").is_file())
}

fn cannot(dir: &Path, error: std::io::Error) -> Error {
    let said = error.to_string();
    let hint = if !Path::new("/dev/fuse").exists() {
        "this system has no FUSE: `modprobe fuse` loads it; a container needs --device /dev/fuse --cap-add SYS_ADMIN"
    } else if error.kind() == std::io::ErrorKind::NotFound {
        "install the package fuse3 (fusermount3), or be root"
    } else if error.kind() == std::io::ErrorKind::PermissionDenied || said.contains("not permitted") {
        "does this user have rights on /dev/fuse and on the folder?"
    } else {
        "`mcloud unmount DIR` takes away what is mounted there"
    };
    Error::new(Kind::Failed, format!("cannot mount at {}", dir.display())).hint(hint).because(error)
}

impl Mounted {
    /// Waits until it does not serve any more: somebody has unmounted it.
    pub async fn over(&mut self) {
        let _ = (&mut self.over).await;
    }

    /// Unmounts; where it is in use, for those who come after.
    pub fn unmount(mut self) -> Result<()> {
        self.take_away()
    }

    fn take_away(&mut self) -> Result<()> {
        let Some(session) = self.session.take() else { return Ok(()) };
        let there = || matches!(table::find(&self.dir), Ok(Some(mount)) if mount.is_ours());
        let mut done = Ok(());
        if !session.guard.is_finished() && there() {
            done = table::unmount(&self.dir, false).or_else(|_| table::unmount(&self.dir, true));
        }
        // What is in use still has its session; it ends with this process.
        drop(session);
        done
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if let Err(error) = self.take_away() {
            tracing::warn!("{}", error.chain());
        }
    }
}

struct Adapter {
    fs: Fs,
    /// Dropped with it.
    _serves: oneshot::Sender<()>,
}

/// Answers now, or as soon as it is known.
macro_rules! answer {
    ($self:ident, $reply:ident, |$fs:ident, $wait:ident| $ask:expr, |$value:pat_param| $tell:expr) => {{
        let $fs = &$self.fs;
        let $wait = Wait::Never;
        match $ask {
            Ok($value) => $tell,
            Err(Fault::Errno(errno)) => $reply.error(errno_out(errno)),
            Err(Fault::Later) => {
                let owned = $self.fs.clone();
                $self.fs.later(move || {
                    let $fs = &owned;
                    let $wait = Wait::Gladly;
                    match $ask {
                        Ok($value) => $tell,
                        Err(Fault::Errno(errno)) => $reply.error(errno_out(errno)),
                        Err(Fault::Later) => $reply.error(Errno::EIO),
                    }
                });
            }
        }
    }};
}

impl Filesystem for Adapter {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> std::io::Result<()> {
        let mut wanted = vec![
            InitFlags::FUSE_DO_READDIRPLUS,
            InitFlags::FUSE_PARALLEL_DIROPS,
            InitFlags::FUSE_ASYNC_DIO,
            // The kernel judges by access lists, too.
            InitFlags::FUSE_POSIX_ACL,
        ];
        if self.fs.is_fixed() {
            wanted.push(InitFlags::FUSE_CACHE_SYMLINKS);
            wanted.push(InitFlags::FUSE_NO_OPEN_SUPPORT);
        } else {
            // Pages of a file that turns out to have another size or time are dropped.
            wanted.push(InitFlags::FUSE_AUTO_INVAL_DATA);
        }
        for flag in wanted {
            // An older kernel does without.
            let _ = config.add_capabilities(flag);
        }
        let _ = config.set_max_background(BACKGROUND);
        Ok(())
    }

    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let (dir, name) = (parent.0, name.as_bytes().to_vec());
        answer!(self, reply, |fs, wait| fs.lookup(dir, &name, wait), |found| match found {
            Some(attr) => reply.entry(&attr.good_for, &attr_out(&attr), Generation(0)),
            // Number 0 is how the kernel is told that it may remember that there is nothing.
            None => reply.entry(&fs.absence(), &attr_out(&nothing()), Generation(0)),
        });
    }

    fn forget(&self, _: &Request, ino: INodeNo, nlookup: u64) {
        self.fs.forget(ino.0, nlookup);
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        answer!(self, reply, |fs, wait| fs.getattr(ino.0, wait), |attr| reply.attr(&attr.good_for, &attr_out(&attr)));
    }

    fn readlink(&self, _: &Request, ino: INodeNo, reply: ReplyData) {
        answer!(
            self,
            reply,
            |fs, _wait| {
                let _ = _wait;
                fs.readlink(ino.0)
            },
            |target| reply.data(&target)
        );
    }

    fn open(&self, _: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        if flags.acc_mode() != OpenAccMode::O_RDONLY {
            return reply.error(Errno::EROFS);
        }
        if self.fs.is_fixed() {
            // The kernel then opens by itself, and keeps what it has.
            return reply.error(Errno::ENOSYS);
        }
        answer!(self, reply, |fs, wait| fs.open(ino.0, wait), |opened| {
            let keep = if opened == Opened::Same { FopenFlags::FOPEN_KEEP_CACHE } else { FopenFlags::empty() };
            reply.opened(FileHandle(0), keep | FopenFlags::FOPEN_NOFLUSH);
        });
    }

    fn read(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        answer!(self, reply, |fs, wait| fs.read(ino.0, offset, size as usize, wait), |data| reply.data(&data));
    }

    fn lseek(&self, _: &Request, ino: INodeNo, _: FileHandle, offset: i64, whence: i32, reply: ReplyLseek) {
        let (Ok(from), hole) = (u64::try_from(offset), whence == libc::SEEK_HOLE) else {
            return reply.error(Errno::EINVAL);
        };
        if !hole && whence != libc::SEEK_DATA {
            return reply.error(Errno::EINVAL);
        }
        answer!(self, reply, |fs, wait| fs.seek(ino.0, from, hole, wait), |at| {
            reply.offset(i64::try_from(at).unwrap_or(i64::MAX));
        });
    }

    fn opendir(&self, _: &Request, ino: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        let keep = if self.fs.is_fixed() {
            FopenFlags::FOPEN_CACHE_DIR | FopenFlags::FOPEN_KEEP_CACHE
        } else {
            FopenFlags::empty()
        };
        answer!(self, reply, |fs, wait| fs.opendir(ino.0, wait), |handle| reply.opened(FileHandle(handle), keep));
    }

    fn readdir(&self, _: &Request, _: INodeNo, fh: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        answer!(
            self,
            reply,
            |fs, wait| {
                let room = &mut |entry: &DirEntry<'_>| {
                    let (number, kind) = (INodeNo(entry.attr.number), kind_out(entry.attr.mode));
                    reply.add(number, entry.at, kind, OsStr::from_bytes(entry.name))
                };
                fs.readdir(fh.0, offset, false, wait, room)
            },
            |()| reply.ok()
        );
    }

    fn readdirplus(&self, _: &Request, _: INodeNo, fh: FileHandle, offset: u64, mut reply: ReplyDirectoryPlus) {
        answer!(
            self,
            reply,
            |fs, wait| {
                let room = &mut |entry: &DirEntry<'_>| {
                    let (attr, name) = (attr_out(&entry.attr), OsStr::from_bytes(entry.name));
                    reply.add(attr.ino, entry.at, name, &entry.attr.good_for, &attr, Generation(0))
                };
                fs.readdir(fh.0, offset, true, wait, room)
            },
            |()| reply.ok()
        );
    }

    fn releasedir(&self, _: &Request, _: INodeNo, fh: FileHandle, _: OpenFlags, reply: ReplyEmpty) {
        self.fs.releasedir(fh.0);
        reply.ok();
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        reply.statfs(0, 0, 0, 0, 0, 4096, 255, 4096);
    }

    fn getxattr(&self, _: &Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        let name = name.as_bytes().to_vec();
        answer!(self, reply, |fs, wait| fs.xattr(ino.0, &name, wait), |value| tell_sized(reply, &value, size));
    }

    fn listxattr(&self, _: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        answer!(self, reply, |fs, wait| fs.list_xattrs(ino.0, wait), |names| tell_sized(reply, &names, size));
    }
}

/// The protocol of attributes: without room only the length is wanted.
fn tell_sized(reply: ReplyXattr, value: &[u8], room: u32) {
    match (room, u32::try_from(value.len())) {
        (0, Ok(len)) => reply.size(len),
        (room, Ok(len)) if len <= room => reply.data(value),
        _ => reply.error(Errno::ERANGE),
    }
}

fn errno_out(errno: rustix::io::Errno) -> Errno {
    Errno::from_i32(errno.raw_os_error())
}

fn kind_out(mode: u32) -> FileType {
    match mode & libc::S_IFMT {
        libc::S_IFDIR => FileType::Directory,
        libc::S_IFLNK => FileType::Symlink,
        libc::S_IFIFO => FileType::NamedPipe,
        libc::S_IFSOCK => FileType::Socket,
        libc::S_IFCHR => FileType::CharDevice,
        libc::S_IFBLK => FileType::BlockDevice,
        _ => FileType::RegularFile,
    }
}

fn time_out(time: Time) -> SystemTime {
    let seconds = Duration::from_secs(time.seconds.unsigned_abs());
    let whole = if time.seconds < 0 {
        SystemTime::UNIX_EPOCH.checked_sub(seconds)
    } else {
        SystemTime::UNIX_EPOCH.checked_add(seconds)
    };
    let nanos = Duration::from_nanos(time.nanos.into());
    whole.and_then(|whole| whole.checked_add(nanos)).unwrap_or(SystemTime::UNIX_EPOCH)
}

/// As the kernel writes a device's number to user space in 32 bits.
fn device_out((major, minor): (u32, u32)) -> u32 {
    minor & 0xff | (major & 0xfff) << 8 | (minor & 0xfff00) << 12
}

fn attr_out(attr: &Attr) -> FileAttr {
    let mtime = time_out(attr.mtime);
    FileAttr {
        ino: INodeNo(attr.number),
        size: attr.size,
        blocks: attr.blocks,
        atime: mtime,
        mtime,
        ctime: time_out(attr.changed),
        crtime: mtime,
        kind: kind_out(attr.mode),
        perm: (attr.mode & 0o7777) as u16,
        nlink: attr.links,
        uid: attr.uid,
        gid: attr.gid,
        rdev: device_out(attr.device),
        blksize: 4096,
        flags: 0,
    }
}

fn nothing() -> Attr {
    Attr {
        number: 0,
        mode: libc::S_IFREG,
        size: 0,
        blocks: 0,
        mtime: Time::default(),
        changed: Time::default(),
        links: 0,
        uid: 0,
        gid: 0,
        device: (0, 0),
        good_for: Duration::ZERO,
    }
}
