//! Making the changes of a redo log. Each can be made again without harm, so a commit that was interrupted is finished by
//! starting over.
//!
//! A change that fails is tried again. What then still fails is either that path's own trouble, and is listed while the
//! rest goes on ([`Verdict::Skip`]), or that of the whole file system or process: then the log stays in force and the
//! commit is finished later ([`Verdict::Stop`]).

use std::collections::HashSet;
use std::fs::File;
use std::io::{Error, ErrorKind, Result};
use std::time::Duration;

use rustix::io::Errno;

use super::pages::Pages;
use super::place;
use super::redo::{Op, Reader};
use super::stage::{LINK_DRAFT, Stage};
use super::transplant::transplant;
use crate::model::sync::LeftOut;
use crate::sys::dir::{Dir, is_dir, split_last};
use crate::tree::read::kind_of;

/// What became of a log.
#[derive(Default)]
pub struct Replayed {
    /// Changes that could not be made.
    pub failed: Vec<Failed>,
    /// Metadata that the file system, or this user, cannot give.
    pub refused: Vec<LeftOut>,
    /// Something was copied where a rename was planned: what is there now are other inodes than those that were staged.
    pub copied: bool,
}

/// A change that could not be made.
pub struct Failed {
    pub left_out: LeftOut,
    pub lost: Lost,
}

/// What the tree lacks because of a failed change.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Lost {
    /// Something that should have gone is still there.
    Removal,
    /// Something that should have moved did not leave its place; that it did not come is another change.
    Departure,
    /// Something that should have come is not there, or not as it should be.
    Arrival,
    Metadata,
}

/// What to do about a change that fails again and again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Verdict {
    /// It is this path's own trouble: it is listed, the rest goes on.
    Skip,
    /// It may pass, or will hit everything else as well: the log stays in force.
    Stop,
}

/// How long all waiting for passing errors may take in one replay.
const PATIENCE: Duration = Duration::from_secs(3);
/// How often a change is tried, and the first pause between two tries; each is three times the one before.
const TRIES: u32 = 5;
const FIRST_PAUSE: Duration = Duration::from_millis(5);

/// Makes every change of the log, or makes sure that it has been made.
///
/// `again`: an earlier run has stopped at this log already. An error that is not known to pass is then the path's own.
pub fn replay(log: File, stage: &Stage, again: bool) -> Result<Replayed> {
    let mut reader = Reader::open(log)?;
    let mut replayer = Replayer {
        stage,
        root: stage.root()?,
        last: None,
        lost_moves: HashSet::new(),
        patience: PATIENCE,
        done: Replayed::default(),
    };
    while let Some(op) = reader.next_op()? {
        fail::fail_point!("commit.op", |_| Err(Error::other("fault injected in the middle of the commit")));
        if let Err(error) = replayer.make_patiently(&op) {
            if replayer.verdict(&error, again) == Verdict::Stop {
                let path = String::from_utf8_lossy(op.path()).into_owned();
                return Err(Error::new(error.kind(), format!("{path}: {error}")));
            }
            replayer.give_up(&op, &error);
        }
    }
    fail::fail_point!("commit.sync", |_| Err(Error::other("fault injected before the last sync")));
    if let Some(root) = &replayer.root {
        root.sync_fs()?;
    }
    stage.beside().sync()?;
    Ok(replayer.done)
}

/// Whether an error may be gone a moment later.
fn may_pass(error: &Error) -> bool {
    const PASSING: [Errno; 9] = [
        Errno::AGAIN,
        Errno::INTR,
        Errno::NOMEM,
        Errno::MFILE,
        Errno::NFILE,
        Errno::BUSY,
        Errno::TIMEDOUT,
        Errno::NOBUFS,
        Errno::NOLCK,
    ];
    Errno::from_io_error(error).is_some_and(|errno| PASSING.contains(&errno))
}

/// Whether an error says that the tree is not as the plan knew it: somebody else changed it.
fn is_changed(error: &Error) -> bool {
    const CHANGED: [Errno; 6] = [Errno::NOENT, Errno::NOTDIR, Errno::EXIST, Errno::NOTEMPTY, Errno::ISDIR, Errno::LOOP];
    // Without a number it is our own word for it.
    Errno::from_io_error(error).is_none_or(|errno| CHANGED.contains(&errno))
}

/// Whether an error can only be about the path at hand, and will be there the next time as well.
fn is_of_the_path(error: &Error) -> bool {
    const OWN: [Errno; 11] = [
        Errno::PERM,
        Errno::ACCESS,
        Errno::BUSY,
        Errno::XDEV,
        Errno::MLINK,
        Errno::NAMETOOLONG,
        Errno::INVAL,
        Errno::OPNOTSUPP,
        Errno::TXTBSY,
        Errno::FBIG,
        Errno::ILSEQ,
    ];
    Errno::from_io_error(error).is_some_and(|errno| OWN.contains(&errno))
}

/// What makes the changes, with the directory it was in last.
struct Replayer<'a> {
    stage: &'a Stage,
    root: Option<Dir>,
    last: Option<(Vec<u8>, Dir)>,
    /// Places in the stage to which a move did not come.
    lost_moves: HashSet<Vec<u8>>,
    patience: Duration,
    done: Replayed,
}

impl Replayer<'_> {
    fn make_patiently(&mut self, op: &Op) -> Result<()> {
        let mut pause = FIRST_PAUSE;
        for attempt in 1.. {
            let error = match self.make(op) {
                Ok(()) => return Ok(()),
                Err(error) => error,
            };
            // It may have been opened before what is in the way was put there.
            self.last = None;
            // Whatever it is, one more try costs nothing; waiting is for what may pass.
            if attempt > 1 && (!may_pass(&error) || attempt == TRIES || self.patience < pause) {
                return Err(error);
            }
            if may_pass(&error) {
                std::thread::sleep(pause);
                self.patience = self.patience.saturating_sub(pause);
                pause *= 3;
            }
        }
        Ok(())
    }

    fn verdict(&self, error: &Error, again: bool) -> Verdict {
        let errno = Errno::from_io_error(error);
        let full = matches!(errno, Some(Errno::NOSPC | Errno::DQUOT));
        if is_changed(error) || is_of_the_path(error) {
            Verdict::Skip
        } else if errno == Some(Errno::ROFS) {
            // A part of the tree may be mounted read-only; where all of it is, nothing can be done.
            if self.is_read_only() { Verdict::Stop } else { Verdict::Skip }
        } else if again && !full && !may_pass(error) && self.stage.can_be_written() {
            // One bad block must not be in the way of all that comes after it.
            Verdict::Skip
        } else {
            Verdict::Stop
        }
    }

    fn is_read_only(&self) -> bool {
        let dir = self.root.as_ref().unwrap_or(&self.stage.dir);
        rustix::fs::fstatvfs(dir).is_ok_and(|stat| stat.f_flag.contains(rustix::fs::StatVfsMountFlags::RDONLY))
    }

    fn give_up(&mut self, op: &Op, error: &Error) {
        let (lost, what) = match op {
            Op::Detach { to, .. } => {
                self.lost_moves.insert(to.clone());
                (Lost::Departure, "it could not be moved away")
            }
            Op::Unlink { .. } | Op::Discard { .. } => (Lost::Removal, "it could not be removed"),
            Op::Attach { .. } | Op::Patch { .. } | Op::Link { .. } => (Lost::Arrival, "it could not be put in place"),
            Op::Dress { .. } => (Lost::Metadata, "it could not be given its metadata"),
        };
        let left_out = LeftOut { path: op.path().to_vec(), reason: format!("{what}: {error}") };
        self.done.failed.push(Failed { left_out, lost });
    }

    fn make(&mut self, op: &Op) -> Result<()> {
        match op {
            Op::Detach { path, ino, to } => self.detach(path, *ino, to),
            Op::Unlink { path, ino } => {
                let Some((folder, name)) = self.folder_if_there(path)? else { return Ok(()) };
                match folder.stat_if_there(name)? {
                    Some(stat) if stat.st_ino == *ino => writable(folder, |folder| folder.remove_file(name)),
                    _ => Ok(()),
                }
            }
            Op::Discard { path, ino, to } => self.discard(path, *ino, to),
            Op::Attach { from, path } => self.attach(from, path),
            Op::Patch { from, path, ino } => self.patch(from, path, *ino),
            Op::Link { first, path } => self.link(first, path),
            Op::Dress { path, entry } => {
                let refusals = if path.is_empty() {
                    place::dress(self.root()?.open_beneath(b"")?, entry, false)?
                } else {
                    let (folder, name) = self.folder(path)?;
                    let there = kind_of(&folder.stat(name)?);
                    if !there.is_some_and(|kind| kind.is_like(&entry.kind)) {
                        return Err(Error::other("something else stands there"));
                    }
                    place::dress_at(folder, name, entry)?
                };
                let refused = refusals.into_iter().map(|reason| LeftOut { path: path.clone(), reason });
                self.done.refused.extend(refused);
                Ok(())
            }
        }
    }

    fn detach(&mut self, path: &[u8], ino: u64, to: &[u8]) -> Result<()> {
        if let Some((shelf, place)) = self.take_out(path, ino, to)? {
            let (folder, name) = self.folder(path)?;
            let refusals = transplant(folder, name, &shelf, place)?;
            remove_in_place(folder, name)?;
            self.copied(path, refusals);
            self.last = None;
        }
        Ok(())
    }

    fn discard(&mut self, path: &[u8], ino: u64, to: &[u8]) -> Result<()> {
        if self.take_out(path, ino, to)?.is_some() {
            let (folder, name) = self.folder(path)?;
            remove_in_place(folder, name)?;
            self.last = None;
        }
        Ok(())
    }

    /// Moves what stands at `path`, if it still is inode `ino`, to `to` in the stage. Where no rename leads there, returns the
    /// folder and the name that it should have come to.
    fn take_out<'t>(&mut self, path: &[u8], ino: u64, to: &'t [u8]) -> Result<Option<(Dir, &'t [u8])>> {
        let (shelf, place) = split_last(to);
        let shelf = self.stage.dir.open_beneath(shelf)?;
        let Some((folder, name)) = self.folder_if_there(path)? else { return Ok(None) };
        let stat = match folder.stat_if_there(name)? {
            Some(stat) if stat.st_ino == ino => stat,
            _ => return Ok(None),
        };
        if is_dir(&stat) {
            free_to_move(folder, name, &stat)?;
        }
        match writable(folder, |folder| folder.rename(name, &shelf, place)) {
            Err(error) if is_other_device(&error) => return Ok(Some((shelf, place))),
            other => other?,
        }
        self.last = None;
        Ok(None)
    }

    fn attach(&mut self, from: &[u8], path: &[u8]) -> Result<()> {
        if self.lost_moves.contains(from) {
            return Err(Error::other("it could not be moved from where it was"));
        }
        let (shelf, staged) = split_last(from);
        let shelf = self.stage.dir.open_beneath(shelf)?;
        let Some(stat) = shelf.stat_if_there(staged)? else { return Ok(()) };
        if is_dir(&stat) {
            free_to_move(&shelf, staged, &stat)?;
        }
        if path.is_empty() {
            let name = self.stage.root_name.clone().ok_or_else(|| Error::other("the target has no name of its own"))?;
            shelf.rename_new(staged, self.stage.beside(), &name)?;
            self.root = self.stage.root()?;
            return Ok(());
        }
        // A folder never gives way: what the plan knew of has been taken out before, and what is there now holds what is
        // protected, or came since. Nor does a file that came since to a folder.
        let (folder, name) = self.folder(path)?;
        match writable(folder, |folder| shelf.rename(staged, folder, name)) {
            Err(error) if is_other_device(&error) => {
                let refusals = transplant(&shelf, staged, folder, name)?;
                remove_in_place(&shelf, staged)?;
                self.copied(path, refusals);
            }
            other => other?,
        }
        if is_dir(&stat) {
            self.last = None;
        }
        Ok(())
    }

    fn copied(&mut self, path: &[u8], refusals: Vec<String>) {
        self.done.copied = true;
        self.done.refused.extend(refusals.into_iter().map(|reason| LeftOut { path: path.to_vec(), reason }));
    }

    fn patch(&mut self, from: &[u8], path: &[u8], ino: u64) -> Result<()> {
        let (shelf, staged) = split_last(from);
        let staged = match self.stage.dir.open_beneath(shelf).and_then(|shelf| shelf.read(staged)) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            other => other?,
        };
        let (folder, name) = self.folder(path)?;
        let file = folder.write(name)?;
        if crate::sys::meta::stat_file(&file)?.st_ino != ino {
            return Err(Error::other("it was replaced while it was copied"));
        }
        Pages::apply(&staged, &file)
    }

    fn link(&mut self, first: &[u8], path: &[u8]) -> Result<()> {
        let (from, from_name) = split_last(first);
        let from = self.root()?.open_beneath(from)?;
        let stat = from.stat(from_name)?;
        let stage = self.stage;
        let (folder, name) = self.folder(path)?;
        match folder.stat_if_there(name)? {
            Some(there) if there.st_ino == stat.st_ino => return Ok(()),
            Some(there) if is_dir(&there) => return Err(ErrorKind::IsADirectory.into()),
            Some(_) => {}
            None => return writable(folder, |folder| from.link(from_name, folder, name)),
        }
        stage.dir.remove_all(LINK_DRAFT)?;
        from.link(from_name, &stage.dir, LINK_DRAFT)?;
        writable(folder, |folder| stage.dir.rename(LINK_DRAFT, folder, name))
    }

    fn root(&self) -> Result<&Dir> {
        self.root.as_ref().ok_or_else(|| ErrorKind::NotFound.into())
    }

    fn folder<'p>(&mut self, path: &'p [u8]) -> Result<(&Dir, &'p [u8])> {
        let (above, name) = split_last(path);
        if self.last.as_ref().is_none_or(|(last, _)| last != above) {
            self.last = Some((above.to_vec(), self.root()?.open_beneath(above)?));
        }
        let (_, dir) = self.last.as_ref().ok_or(ErrorKind::NotFound)?;
        Ok((dir, name))
    }

    fn folder_if_there<'p>(&mut self, path: &'p [u8]) -> Result<Option<(&Dir, &'p [u8])>> {
        match self.folder(path) {
            Ok(found) => Ok(Some(found)),
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// Whether a rename was refused because it would lead to another file system, or because this one does not rename folders
/// (overlay, of a lower layer).
fn is_other_device(error: &Error) -> bool {
    Errno::from_io_error(error) == Some(Errno::XDEV)
}

/// Removes a file or a folder with all below where it is. What is mounted below it stays.
fn remove_in_place(folder: &Dir, name: &[u8]) -> Result<()> {
    let left = folder.remove_tree(name)?;
    match left.first() {
        None => Ok(()),
        Some(first) => {
            let path = String::from_utf8_lossy(&first.path).into_owned();
            Err(Error::other(format!("{path} could not be removed: {}", first.why())))
        }
    }
}

/// Does something to a directory; one that its owner may not write is opened for it first. Its metadata is set later.
fn writable(folder: &Dir, what: impl Fn(&Dir) -> Result<()>) -> Result<()> {
    match what(folder) {
        Err(error) if error.kind() == ErrorKind::PermissionDenied && !rustix::process::geteuid().is_root() => {
            let mode = folder.stat_self()?.st_mode & 0o7777;
            if mode & 0o700 == 0o700 {
                return Err(error);
            }
            rustix::fs::fchmod(folder, rustix::fs::Mode::from_raw_mode(mode | 0o700))?;
            what(folder)
        }
        other => other,
    }
}

/// A directory that its owner may not write cannot be given another parent, except by root. It is dressed again later.
fn free_to_move(folder: &Dir, name: &[u8], stat: &rustix::fs::Stat) -> Result<()> {
    if stat.st_mode & 0o700 != 0o700 && !rustix::process::geteuid().is_root() {
        let dir = folder.open_beneath(name)?;
        rustix::fs::fchmod(&dir, rustix::fs::Mode::from_raw_mode(stat.st_mode & 0o7777 | 0o700))?;
    }
    Ok(())
}
