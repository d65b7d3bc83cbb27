//! Where a target is built before it is: a folder of our own on the tree's file system, beside the tree where that is
//! possible, else inside it (scans do not see it there). It holds the lock of the target, what is staged, what an earlier
//! try left behind, and the redo log.

use std::fs::File;
use std::io::{ErrorKind, Result};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::sys::dir::{Dir, Leftover};
use crate::tree::filter::{STAGE_PARTS, STAGE_PREFIX};

/// New directories, each in a folder of this under its number.
const NEW: &[u8] = b"new";
/// Single files, by number, a thousand to a folder.
const FILES: &[u8] = b"files";
/// What leaves the tree for good, and what only moves.
const TRASH: &[u8] = b"trash";
/// What left the tree in an earlier sync and could not be removed.
const LEFT: &[u8] = b"left";
/// What earlier tries staged and did not commit.
const SALVAGE: &[u8] = b"salvage";
/// The redo log: under this name it is complete.
const LOG: &[u8] = b"log";
const LOG_DRAFT: &[u8] = b"log.draft";
/// A file that is made to see whether one can be made.
const PROBE: &[u8] = b"probe";
/// A further name of a file on its way to its place.
pub const LINK_DRAFT: &[u8] = b"link.draft";

pub struct Stage {
    pub dir: Dir,
    /// The folder that holds `dir`, and its name there.
    parent: Dir,
    name: Vec<u8>,
    /// The target's own name beside the stage; `None` where the stage is inside the target.
    pub root_name: Option<Vec<u8>>,
    next_slot: AtomicU64,
    next_trash: AtomicU64,
}

impl Stage {
    /// Makes the stage of the target at `root` (which need not exist) and takes its lock; `None` if another sync has it.
    pub fn open(root: &Path) -> Result<Option<Stage>> {
        let (parent, name, root_name) = place(root)?;
        match parent.make_dir(&name, 0o700) {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        let dir = match parent.open_beneath(&name) {
            // Whoever was done with it removed it a moment ago.
            Err(error) if error.kind() == ErrorKind::NotFound => return Stage::open(root),
            other => other?,
        };
        let stat = dir.stat_self()?;
        if !is_ours(&dir, &stat, &parent)? {
            let text = format!("{} belongs to somebody else", String::from_utf8_lossy(&name));
            return Err(std::io::Error::new(ErrorKind::PermissionDenied, text));
        }
        if !dir.try_lock()? {
            return Ok(None);
        }
        // Whoever had the lock before may have removed the folder while we waited for it.
        match parent.stat_if_there(&name)? {
            Some(now) if now.st_ino == stat.st_ino => {}
            _ => return Stage::open(root),
        }
        if let Some(other) = dir.names()?.iter().find(|entry| !STAGE_PARTS.contains(&&*entry.name)) {
            let (name, other) = (String::from_utf8_lossy(&name), String::from_utf8_lossy(&other.name));
            let text = format!("{name} holds {other}, so it is no staging folder: rename it");
            return Err(std::io::Error::new(ErrorKind::AlreadyExists, text));
        }
        dir.inherit_nothing()?;
        let next_slot = AtomicU64::new(1);
        Ok(Some(Stage { dir, parent, name, root_name, next_slot, next_trash: AtomicU64::new(1) }))
    }

    /// Whether a stage of this target is there at all: something may have to be finished or taken up again.
    pub fn exists(root: &Path) -> bool {
        place(root).is_ok_and(|(parent, name, _)| matches!(parent.stat_if_there(&name), Ok(Some(_))))
    }

    /// Whether the stage of this target has a log in force, as far as can be seen without its lock.
    pub fn is_log_in_force(root: &Path) -> bool {
        place(root).is_ok_and(|(parent, name, _)| {
            let stage = parent.open_beneath(&name);
            stage.is_ok_and(|stage| matches!(stage.stat_if_there(LOG), Ok(Some(_))))
        })
    }

    /// The target's root, if it is there.
    pub fn root(&self) -> Result<Option<Dir>> {
        let opened = match &self.root_name {
            None => self.parent.open_beneath(b""),
            Some(name) => self.parent.open_beneath(name),
        };
        match opened {
            Ok(dir) => Ok(Some(dir)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Where the stage is, for people.
    pub fn shown_place(&self) -> String {
        let name = String::from_utf8_lossy(&self.name);
        match &self.root_name {
            Some(_) => format!("{name} beside the target"),
            None => format!("{name} in the target"),
        }
    }

    /// The folder beside the stage, in which the root is a name.
    pub fn beside(&self) -> &Dir {
        &self.parent
    }

    /// Removes what left the tree in earlier syncs. What still cannot be removed waits aside; it is told.
    pub fn clear_trash(&self) -> Result<Vec<Leftover>> {
        if !self.dir.remove_tree(TRASH)?.is_empty() {
            let left = self.dir.ensure_dir(LEFT, 0o700)?;
            // Numbers that are free now may lie between others.
            let taken = left.names()?;
            let name = (0..).map(|number: u64| number.to_string().into_bytes());
            let free = name.into_iter().find(|name| !taken.iter().any(|entry| *entry.name == **name));
            self.dir.rename(TRASH, &left, &free.unwrap_or_default())?;
        }
        self.dir.remove_tree(LEFT)
    }

    /// Puts what an earlier try staged aside as salvage; true if there is any.
    pub fn keep_salvage(&self) -> Result<bool> {
        let salvage = self.dir.ensure_dir(SALVAGE, 0o700)?;
        let mut generation = salvage.names()?.len();
        for part in [NEW, FILES] {
            if self.dir.stat_if_there(part)?.is_some() {
                let mut name = format!("{generation}-").into_bytes();
                name.extend_from_slice(part);
                self.dir.rename(part, &salvage, &name)?;
                generation += 1;
            }
        }
        self.dir.remove_all(LOG_DRAFT)?;
        self.dir.ensure_dir(NEW, 0o700)?;
        self.dir.ensure_dir(FILES, 0o700)?;
        self.dir.ensure_dir(TRASH, 0o700)?;
        Ok(!salvage.is_empty()?)
    }

    /// What earlier tries left.
    pub fn salvage(&self) -> Result<Dir> {
        self.dir.open_beneath(SALVAGE)
    }

    /// The path, from the stage, of the new directory that is staged under this number.
    pub fn new_path(number: u32) -> Vec<u8> {
        format!("new/{number}").into_bytes()
    }

    /// The path, from the stage, of the file in this slot.
    pub fn slot_path(slot: u64) -> Vec<u8> {
        format!("files/{}/{slot}", slot / 1000).into_bytes()
    }

    /// A new slot: its number, its folder, its name there.
    pub fn new_slot(&self) -> Result<(u64, Dir, Vec<u8>)> {
        let slot = self.next_slot.fetch_add(1, Ordering::Relaxed);
        let shard = (slot / 1000).to_string().into_bytes();
        let folder = self.dir.open_beneath(FILES)?.ensure_dir(&shard, 0o700)?;
        Ok((slot, folder, slot.to_string().into_bytes()))
    }

    /// The path, from the stage, of a new place for something that leaves the tree.
    pub fn new_trash(&self) -> Vec<u8> {
        format!("trash/{}", self.next_trash.fetch_add(1, Ordering::Relaxed)).into_bytes()
    }

    /// A new, empty redo log, not yet in force.
    pub fn draft_log(&self) -> Result<File> {
        self.dir.remove_all(LOG_DRAFT)?;
        self.dir.create(LOG_DRAFT, 0o600)
    }

    /// Puts the draft in force, when it is whole and durable: from here on the commit happens.
    pub fn enforce_log(&self) -> Result<()> {
        self.dir.rename(LOG_DRAFT, &self.dir, LOG)?;
        self.dir.sync()
    }

    /// The redo log in force, if a commit was begun.
    pub fn log(&self) -> Result<Option<File>> {
        match self.dir.read(LOG) {
            Ok(file) => Ok(Some(file)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The commit is done: the log has no force any more.
    pub fn end_log(&self) -> Result<()> {
        self.dir.remove_file(LOG)?;
        self.dir.sync()
    }

    /// Removes the stage if nothing in it is worth keeping for another try.
    pub fn tidy(self) -> Result<()> {
        let is_bare = |part: &[u8]| match self.dir.open_beneath(part) {
            Ok(dir) => dir.is_empty(),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(true),
            Err(error) => Err(error),
        };
        if self.log()?.is_none() && is_bare(NEW)? && is_bare(FILES)? && is_bare(SALVAGE)? {
            self.remove()?;
        }
        Ok(())
    }

    /// Forgets all that is staged, and the stage itself. What cannot be removed stays there, and is told.
    pub fn remove(self) -> Result<Vec<Leftover>> {
        self.dir.remove_all(LOG)?;
        self.parent.remove_tree(&self.name)
    }

    /// Whether something can be written here, to disk.
    pub fn can_be_written(&self) -> bool {
        let probe = || {
            self.dir.remove_all(PROBE)?;
            let file = self.dir.create(PROBE, 0o600)?;
            std::os::unix::fs::FileExt::write_all_at(&file, b"probe", 0)?;
            file.sync_all()?;
            self.dir.remove_file(PROBE)
        };
        probe().is_ok()
    }
}

/// Whether the staging folder is one that nobody but this user can have made or written to. What is in it becomes the tree,
/// and its log is done as it says.
///
/// A file system may keep no modes (one mode for all that is mounted), or make another user of this one (a server that does
/// so with root). A file made just now tells: nobody else can have made that. The folder is then ours if it has the owner
/// that all of ours gets, and is open to others only where everything is. Who may write there can as well write to the tree
/// itself.
fn is_ours(dir: &Dir, stat: &rustix::fs::Stat, parent: &Dir) -> Result<bool> {
    static PROBES: AtomicU64 = AtomicU64::new(0);
    let is_private = |stat: &rustix::fs::Stat| stat.st_mode & 0o077 == 0;
    // What somebody mounted there says of owners what it likes.
    if stat.st_dev != parent.stat_self()?.st_dev {
        return Ok(false);
    }
    if stat.st_uid == rustix::process::geteuid().as_raw() && is_private(stat) {
        return Ok(true);
    }
    let probe = format!("owner.{}.{}", std::process::id(), PROBES.fetch_add(1, Ordering::Relaxed)).into_bytes();
    let file = match dir.create(&probe, 0o600) {
        Err(error) if error.kind() == ErrorKind::PermissionDenied => return Ok(false),
        other => other?,
    };
    let made = crate::sys::meta::stat_file(&file);
    dir.remove_file(&probe)?;
    let made = made?;
    Ok(made.st_uid == stat.st_uid && (is_private(stat) || !is_private(&made)))
}

/// The folder for the stage, its name there, and the root's name there if it is beside.
fn place(root: &Path) -> Result<(Dir, Vec<u8>, Option<Vec<u8>>)> {
    let beside = |name: &[u8]| [STAGE_PREFIX, b".", name].concat();
    let found = match Dir::open(root) {
        Ok(found) => found,
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let root = std::path::absolute(root)?;
            let (Some(parent), Some(name)) = (root.parent(), root.file_name()) else { return Err(error) };
            let name = name.as_bytes().to_vec();
            if beside(&name).len() > 255 {
                return Err(ErrorKind::InvalidFilename.into());
            }
            return Ok((Dir::open(parent)?, beside(&name), Some(name)));
        }
        Err(error) => return Err(error),
    };
    // Where an earlier try began inside, it goes on inside.
    if found.stat_if_there(STAGE_PREFIX)?.is_none()
        && let Some((parent, name)) = found.place()?
        && parent.is_mounted_with(&found)?
        && parent.is_writable()
        && beside(&name).len() <= 255
    {
        return Ok((parent, beside(&name), Some(name)));
    }
    Ok((found, STAGE_PREFIX.to_vec(), None))
}
