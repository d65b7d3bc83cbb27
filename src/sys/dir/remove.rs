//! Removing a folder with all that is in it: in time linear in what there is, with a bounded number of open folders and of
//! names in memory whatever the shape of the tree, and never into anything that is mounted in it.
//!
//! Each name is tried where it stands, from an open folder; nothing is reached by a path. Only the lowest folders of the way
//! down stay open. One further up is opened again as the parent of the one below, and has to be the folder that it was.

use std::collections::HashSet;
use std::io::{Error, Result};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd};

use rustix::fs::{AtFlags, Mode, OFlags, RawDir, ResolveFlags};
use rustix::io::Errno;

use super::{Dir, DirName, is_dir, one_name, open_retrying};

/// Folders kept open on the way down, each with the names of one listing call that wait for their turn.
const OPEN_MAX: usize = 64;
/// Names of one folder that stay before the rest of it is given up: they have to be remembered.
const STAY_MAX: usize = 1024;
/// Things that stay and are told one by one.
const TOLD_MAX: usize = 1000;
/// How often a folder is listed once more because it is not empty at the end: some file systems pass over names while
/// others are removed.
const PASSES: u32 = 64;

/// Something that could not be removed and stays, with the folders above it.
#[derive(Debug)]
pub struct Leftover {
    /// Its path from the folder in which something was to be removed.
    pub path: Vec<u8>,
    /// EBUSY: something is mounted there. EPERM: it, or its folder, must not be changed. EROFS, EACCES: nothing in this
    /// folder can be removed.
    pub reason: Error,
}

impl Leftover {
    /// Why it stays, for people.
    pub fn why(&self) -> String {
        match Errno::from_io_error(&self.reason) {
            Some(Errno::BUSY) => "something is mounted there".to_owned(),
            Some(Errno::PERM) => "it must not be changed (immutable, append-only, or somebody else's)".to_owned(),
            Some(Errno::ROFS) => "it is read-only".to_owned(),
            _ => self.reason.to_string(),
        }
    }
}

impl Dir {
    /// Removes `name` and all below it, as far as that can be removed; fine if it is not there. Tells what stays (the first
    /// thousand of it): a mount point with all below it, what is immutable or read-only, what came meanwhile. Fails only
    /// where it could not go on.
    pub fn remove_tree(&self, name: &[u8]) -> Result<Vec<Leftover>> {
        one_name(name)?;
        let buffer = vec![MaybeUninit::uninit(); 32 * 1024];
        let mut removal = Removal { top: self, levels: Vec::new(), left: Vec::new(), buffer };
        match attempt(self, &DirName { name: name.into(), is_dir: None })? {
            Step::Gone => {}
            Step::Stays(reason, _) => removal.left.push(Leftover { path: name.to_vec(), reason }),
            Step::Enter(dir) => removal.descend(name.into(), dir)?,
        }
        while !removal.levels.is_empty() {
            removal.step()?;
        }
        Ok(removal.left)
    }

    /// Removes `name` and all below it; fine if it is not there. Fails, once the rest is gone, where something stays.
    pub fn remove_all(&self, name: &[u8]) -> Result<()> {
        match self.remove_tree(name)?.into_iter().next() {
            Some(first) => Err(first.reason),
            None => Ok(()),
        }
    }
}

/// What came of trying to remove a name.
enum Step {
    Gone,
    /// The reason, and whether it holds for every name in the folder.
    Stays(Error, bool),
    /// A folder with something in it, open.
    Enter(Dir),
}

/// Removes a name that is a file or an empty folder, or opens the folder.
fn attempt(dir: &Dir, entry: &DirName) -> Result<Step> {
    let stays = |error: Errno| match error {
        // Not this name's trouble: whoever removes has run out of something.
        Errno::MFILE | Errno::NFILE | Errno::NOMEM => Err(error.into()),
        // By another way into the same kind of trouble: what is mounted is busy.
        Errno::XDEV => Ok(Step::Stays(Errno::BUSY.into(), false)),
        _ => Ok(Step::Stays(error.into(), false)),
    };
    let refused = |error: Errno| match error {
        Errno::ACCESS | Errno::ROFS => Ok(Step::Stays(error.into(), true)),
        _ => stays(error),
    };
    if entry.is_dir != Some(true) {
        match rustix::fs::unlinkat(dir, &*entry.name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => return Ok(Step::Gone),
            Err(error) => match dir.stat_if_there(&entry.name) {
                Ok(None) => return Ok(Step::Gone),
                Ok(Some(stat)) if is_dir(&stat) => {}
                _ => return refused(error),
            },
        }
    }
    match rustix::fs::unlinkat(dir, &*entry.name, AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT) => return Ok(Step::Gone),
        Err(Errno::NOTEMPTY | Errno::EXIST) => {}
        Err(error) => return refused(error),
    }
    match enter(dir, &entry.name) {
        Ok(open) => Ok(Step::Enter(open)),
        Err(error) => match Errno::from_io_error(&error) {
            Some(Errno::NOENT) => Ok(Step::Gone),
            Some(error) => stays(error),
            None => Err(error),
        },
    }
}

/// Opens a folder that is to be emptied, unless something is mounted there; one without permission for its owner gets it.
fn enter(dir: &Dir, name: &[u8]) -> Result<Dir> {
    let resolve =
        ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_XDEV;
    let flags = OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    if !rustix::process::geteuid().is_root() {
        // Held by its inode: what is put in its place a moment later gets no other mode.
        let held = open_retrying(dir.0.as_fd(), name, flags | OFlags::PATH, resolve)?;
        let mode = rustix::fs::fstat(&held)?.st_mode;
        if mode & 0o700 != 0o700 {
            let magic = format!("/proc/self/fd/{}", held.as_raw_fd());
            rustix::fs::chmod(magic.as_str(), Mode::from_raw_mode(mode & 0o7777 | 0o700))?;
        }
    }
    Ok(Dir(open_retrying(dir.0.as_fd(), name, flags | OFlags::RDONLY, resolve)?))
}

/// A folder on the way down.
struct Level {
    name: Box<[u8]>,
    /// `None` while it is far above.
    dir: Option<Dir>,
    /// Device and inode, once it is closed: to know it again.
    id: (u64, u64),
    /// Listed and not yet tried.
    names: Vec<DirName>,
    /// The listing has come to its end.
    ended: bool,
    /// What stays in it.
    stays: HashSet<Box<[u8]>>,
    /// Whether something went since the listing began, and how often it was begun again.
    went: bool,
    passes: u32,
}

impl Level {
    /// Remembers a name that stays; `all`: and so does the rest.
    fn keep(&mut self, name: Box<[u8]>, all: bool) {
        self.stays.insert(name);
        if all || self.stays.len() >= STAY_MAX {
            (self.names, self.ended) = (Vec::new(), true);
        }
    }
}

struct Removal<'a> {
    top: &'a Dir,
    /// From the top down; the last is always open.
    levels: Vec<Level>,
    left: Vec<Leftover>,
    buffer: Vec<MaybeUninit<u8>>,
}

impl Removal<'_> {
    fn descend(&mut self, name: Box<[u8]>, dir: Dir) -> Result<()> {
        self.levels.push(Level {
            name,
            dir: Some(dir),
            id: (0, 0),
            names: Vec::new(),
            ended: false,
            stays: HashSet::new(),
            went: false,
            passes: 0,
        });
        if let Some(far) = self.levels.len().checked_sub(OPEN_MAX + 1)
            && let Some(dir) = self.levels[far].dir.take()
        {
            let stat = dir.stat_self()?;
            let level = &mut self.levels[far];
            (level.id, level.names, level.ended) = ((stat.st_dev, stat.st_ino), Vec::new(), false);
        }
        Ok(())
    }

    /// Tries one name of the lowest folder, lists more of it, or leaves it.
    fn step(&mut self) -> Result<()> {
        let Some(level) = self.levels.last_mut() else { return Ok(()) };
        let Some(dir) = &level.dir else { return Err(moved()) };
        let Some(entry) = level.names.pop() else {
            if level.ended {
                return self.ascend();
            }
            return match list(dir, &mut self.buffer) {
                Ok((names, ended)) => {
                    (level.names, level.ended) = (names, ended);
                    Ok(())
                }
                Err(Errno::NOENT) => {
                    level.ended = true;
                    Ok(())
                }
                Err(error) => {
                    self.stay(Box::default(), error.into(), true);
                    Ok(())
                }
            };
        };
        if level.stays.contains(&entry.name) {
            return Ok(());
        }
        match attempt(dir, &entry)? {
            Step::Gone => level.went = true,
            Step::Stays(reason, all) => self.stay(entry.name, reason, all),
            Step::Enter(dir) => self.descend(entry.name, dir)?,
        }
        Ok(())
    }

    /// Takes note that a name of the lowest folder stays; `all`: and so does the rest of the folder.
    fn stay(&mut self, name: Box<[u8]>, reason: Error, all: bool) {
        if self.left.len() < TOLD_MAX {
            let mut path = Vec::new();
            for name in self.levels.iter().map(|level| &level.name).chain((!all).then_some(&name)) {
                if !path.is_empty() {
                    path.push(b'/');
                }
                path.extend_from_slice(name);
            }
            self.left.push(Leftover { path, reason });
        }
        if let Some(level) = self.levels.last_mut() {
            level.keep(name, all);
        }
    }

    /// Leaves the lowest folder, which goes if nothing in it stays.
    fn ascend(&mut self) -> Result<()> {
        let Some(mut done) = self.levels.pop() else { return Ok(()) };
        if let (Some(above), Some(dir)) = (self.levels.last_mut(), &done.dir)
            && above.dir.is_none()
        {
            above.dir = Some(parent_of(dir, above.id)?);
        }
        let above = self.levels.last().map_or(Some(self.top), |level| level.dir.as_ref()).ok_or_else(moved)?;
        if !done.stays.is_empty() {
            if let Some(level) = self.levels.last_mut() {
                level.keep(done.name, false);
            }
            return Ok(());
        }
        match rustix::fs::unlinkat(above, &*done.name, AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => {
                if let Some(level) = self.levels.last_mut() {
                    level.went = true;
                }
            }
            Err(Errno::NOTEMPTY | Errno::EXIST) if done.passes < PASSES && (done.went || done.passes == 0) => {
                if let Some(dir) = &done.dir {
                    rustix::fs::seek(dir, rustix::fs::SeekFrom::Start(0))?;
                }
                (done.ended, done.went, done.passes) = (false, false, done.passes + 1);
                self.levels.push(done);
            }
            Err(error) => self.stay(done.name, error.into(), false),
        }
        Ok(())
    }
}

/// The next names of a folder, as many as one call brings, and whether those were the last.
fn list(dir: &Dir, buffer: &mut [MaybeUninit<u8>]) -> std::result::Result<(Vec<DirName>, bool), Errno> {
    let mut names = Vec::new();
    let mut entries = RawDir::new(dir, buffer);
    while let Some(entry) = entries.next() {
        names.extend(DirName::of(&entry?));
        if entries.is_buffer_empty() {
            return Ok((names, false));
        }
    }
    Ok((names, true))
}

/// The folder above an open one, if it is still the one that it was.
fn parent_of(dir: &Dir, id: (u64, u64)) -> Result<Dir> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let parent = Dir(rustix::fs::openat(dir, "..", flags, Mode::empty())?);
    let stat = parent.stat_self()?;
    if (stat.st_dev, stat.st_ino) == id { Ok(parent) } else { Err(moved()) }
}

fn moved() -> Error {
    Error::other("a folder was moved elsewhere while it was removed")
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;

    fn open(path: &Path) -> Dir {
        Dir::open(path).unwrap()
    }

    #[test]
    fn a_wide_and_a_deep_tree_go_and_what_links_point_to_stays() {
        let place = tempfile::tempdir().unwrap();
        let top = place.path().join("top");
        for folder in 0..300 {
            fs::create_dir_all(top.join(format!("{folder}/in"))).unwrap();
            fs::write(top.join(format!("{folder}/in/file")), "x").unwrap();
        }
        // Some folders of a way much longer than what is kept open have others beside them.
        let mut at = open(&top);
        for depth in 0..500 {
            at.make_dir(b"down", 0o755).unwrap();
            for beside in 0..depth % 3 {
                let name = format!("beside{beside}");
                at.ensure_dir(name.as_bytes(), 0o755).unwrap().create(b"f", 0o644).unwrap();
            }
            at = at.open_beneath(b"down").unwrap();
        }
        fs::create_dir(place.path().join("kept")).unwrap();
        fs::write(place.path().join("kept/file"), "kept").unwrap();
        std::os::unix::fs::symlink("../kept", top.join("link")).unwrap();
        assert!(open(place.path()).remove_tree(b"top").unwrap().is_empty());
        assert!(!top.exists());
        assert_eq!(fs::read(place.path().join("kept/file")).unwrap(), b"kept");
        open(place.path()).remove_all(b"top").unwrap();
        open(place.path()).remove_all(b"kept/file").unwrap_err();
    }
}
