//! What in the target's tree cannot be removed, moved or replaced: mount points, subvolumes, parts that are mounted
//! read-only, files and folders with the immutable or append-only flag. It is found before the plan is made, left alone and
//! listed, so that it is in the way of nothing else.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use super::source::index_error;
use super::want::{How, NONE, Source, Want, WantDir, children};
use crate::model::Result;
use crate::model::sync::LeftOut;
use crate::sys::dir::Dir;
use crate::sys::mount::mounted_below;
use crate::tree::view::{Item, LastDir, State, View};

/// Magic numbers (linux/magic.h) of file systems that may refuse to rename a folder: overlay does for one of a lower layer,
/// and so may what is behind FUSE (fuse-overlayfs).
const FOLDERS_MAY_NOT_MOVE: [u64; 2] = [0x794c_7630, 0x6573_5546];

/// The obstacles of a target, by the numbers of its own view.
#[derive(Default)]
pub struct Obstacles<'a> {
    root: Option<&'a Dir>,
    /// Directories that are mount points or subvolumes, and whether they are read-only.
    boundaries: HashMap<u32, Boundary>,
    /// Files that something is mounted on, as directory and name.
    files: HashSet<(u32, Box<[u8]>)>,
    /// Directories at or below a boundary: nothing is renamed into them or out of them.
    beyond: HashSet<u32>,
    folders_stay: bool,
    /// The file system knows flags like immutable.
    has_flags: bool,
}

#[derive(Clone, Copy)]
struct Boundary {
    is_mount: bool,
    read_only: bool,
}

impl<'a> Obstacles<'a> {
    /// Looks for mounts and subvolumes. Every directory that holds one is marked as protected: it is neither removed nor
    /// moved whole.
    pub fn find(root: Option<&'a Dir>, path: &Path, own: &mut View) -> std::io::Result<Obstacles<'a>> {
        let Some(dir) = root else { return Ok(Obstacles::default()) };
        let kind = rustix::fs::fstatfs(dir)?.f_type as u64;
        let mut found = Obstacles {
            root,
            folders_stay: FOLDERS_MAY_NOT_MOVE.contains(&kind),
            has_flags: dir.knows_flags(),
            ..Obstacles::default()
        };
        for number in 1..own.dirs.len() {
            let parent = &own.dirs[own.dirs[number].parent as usize];
            if own.dirs[number].id.0 != parent.id.0 {
                found.boundaries.insert(number as u32, Boundary { is_mount: false, read_only: false });
            }
        }
        for mount in mounted_below(&path.canonicalize()?)? {
            let boundary = Boundary { is_mount: true, read_only: mount.read_only };
            match own.dir_at(&mount.path) {
                Some(0) => {}
                Some(dir) => {
                    found.boundaries.insert(dir, boundary);
                }
                None => {
                    let (folder, name) = crate::sys::dir::split_last(&mount.path);
                    if let Some(dir) = own.dir_at(folder) {
                        found.files.insert((dir, name.into()));
                    }
                }
            }
        }
        found.protect(own);
        Ok(found)
    }

    fn protect(&mut self, own: &mut View) {
        let holders = self.boundaries.keys().copied().chain(self.files.iter().map(|(dir, _)| *dir));
        for dir in holders.collect::<Vec<u32>>() {
            protect_chain(own, dir);
        }
        if !self.boundaries.is_empty() {
            // Directories stand behind their parents.
            for dir in 0..own.dirs.len() as u32 {
                if self.boundaries.contains_key(&dir)
                    || dir != 0 && self.beyond.contains(&own.dirs[dir as usize].parent)
                {
                    self.beyond.insert(dir);
                }
            }
        }
    }

    /// Why an own directory has to stay where it is, if it has to.
    pub fn of_dir(&self, dir: u32) -> Option<&'static str> {
        self.boundaries.get(&dir).map(|boundary| match boundary.is_mount {
            true => "something is mounted there; it is left alone",
            false => "it is a subvolume or another file system of its own; it is left alone",
        })
    }

    /// Why an own entry that is no directory has to stay, if it has to.
    pub fn of_file(&self, dir: u32, name: &[u8]) -> Option<&'static str> {
        let is_mounted = !self.files.is_empty() && self.files.contains(&(dir, name.into()));
        is_mounted.then_some("something is mounted on it; it is left alone")
    }

    pub fn is_read_only(&self, dir: u32) -> bool {
        self.boundaries.get(&dir).is_some_and(|boundary| boundary.read_only)
    }

    /// Whether entries of this own directory can be renamed to and from other places of the tree.
    pub fn renames_reach(&self, dir: u32) -> bool {
        !self.beyond.contains(&dir)
    }

    /// Whether an own directory can be given another place as it is.
    pub fn can_move(&self, own: &View, dir: u32) -> bool {
        !self.folders_stay && self.renames_reach(dir) && !self.is_fixed(own, dir, b"")
    }

    /// Whether an entry (an empty name: the directory itself) bears a flag that forbids to change it. What cannot be looked
    /// at is found out when it is changed.
    fn is_fixed(&self, own: &View, dir: u32, name: &[u8]) -> bool {
        let open = self.root.filter(|_| self.has_flags).and_then(|root| root.open_beneath(&own.path(dir)).ok());
        open.is_some_and(|open| open.is_immutable(name).unwrap_or(false))
    }
}

/// Marks a directory and all above it.
fn protect_chain(own: &mut View, dir: u32) {
    let mut at = dir;
    while at != 0 && !own.dirs[at as usize].protected {
        own.dirs[at as usize].protected = true;
        at = own.dirs[at as usize].parent;
    }
}

const FIXED: &str = "it is immutable or append-only (chattr): it is left alone";

/// Takes back what the plan would do to entries that cannot be changed. Returns what is left out for it.
pub fn hold_back(obstacles: &Obstacles<'_>, own: &mut View, want: &mut Want) -> Result<Vec<LeftOut>> {
    let Some(root) = obstacles.root else { return Ok(Vec::new()) };
    let mut held = HoldBack { obstacles, root, flags: None, left_out: Vec::new() };
    held.moves(own, want)?;
    held.removals(own, want)?;
    held.changes(own, want)?;
    want.left_alone |= !held.left_out.is_empty();
    Ok(held.left_out)
}

/// The flags of entries in one directory.
struct Flags {
    dir: u32,
    open: Option<Dir>,
    /// Nothing in it can be made, removed or renamed.
    of_folder: bool,
}

impl Flags {
    fn of(&self, name: &[u8]) -> bool {
        self.open.as_ref().is_some_and(|open| open.is_immutable(name).unwrap_or(false))
    }
}

struct HoldBack<'a> {
    obstacles: &'a Obstacles<'a>,
    root: &'a Dir,
    /// The directory that was looked at last.
    flags: Option<Flags>,
    left_out: Vec<LeftOut>,
}

impl HoldBack<'_> {
    fn leave(&mut self, path: Vec<u8>, reason: &str) {
        self.left_out.push(LeftOut { path, reason: reason.to_string() });
    }

    fn flags(&mut self, own: &View, dir: u32) -> &Flags {
        if self.flags.as_ref().is_none_or(|flags| flags.dir != dir) {
            // A directory that cannot be opened any more is met again by the commit.
            let open = match self.obstacles.has_flags {
                true => self.root.open_beneath(&own.path(dir)).ok(),
                false => None,
            };
            let mut flags = Flags { dir, open, of_folder: false };
            flags.of_folder = flags.of(b"");
            self.flags = Some(flags);
        }
        self.flags.get_or_insert_with(|| Flags { dir, open: None, of_folder: false })
    }

    /// Why an own file cannot be removed or replaced, if it cannot.
    fn why_file_stays(&mut self, own: &View, dir: u32, name: &[u8]) -> Option<&'static str> {
        let mounted = self.obstacles.of_file(dir, name);
        mounted.or_else(|| {
            let flags = self.flags(own, dir);
            (flags.of_folder || flags.of(name)).then_some(FIXED)
        })
    }

    /// A file that cannot leave its place is copied to the other one.
    fn moves(&mut self, own: &View, want: &mut Want) -> Result<()> {
        let mut staying: HashSet<(u32, u32)> = HashSet::new();
        let mut last = LastDir::default();
        // In the order of their folders, so that each is read once.
        let mut moves = want.moves.clone();
        moves.sort_unstable();
        for (dir, at) in moves {
            let items = last.items(own, dir).map_err(|cause| index_error(&cause))?;
            let Some(item) = items.get(at as usize) else { continue };
            if let Some(reason) = self.why_file_stays(own, dir, &item.entry.name) {
                self.leave(own.path_of(dir, &item.entry.name), reason);
                staying.insert((dir, at));
            }
        }
        if staying.is_empty() {
            return Ok(());
        }
        want.moves.retain(|place| !staying.contains(place));
        for &number in &want.pending.clone() {
            let mut items = want.view.items(number).map_err(|cause| index_error(&cause))?;
            let mut changed = false;
            for item in items.iter_mut().filter(|item| item.state == State::Moved) {
                if let Source::Own { dir, at } = want.origins[item.slot as usize].from
                    && staying.contains(&(dir, at))
                {
                    item.state = State::Local;
                    changed = true;
                }
            }
            if changed {
                want.view.set_items(number, &items).map_err(|cause| index_error(&cause))?;
            }
        }
        Ok(())
    }

    fn removals(&mut self, own: &mut View, want: &mut Want) -> Result<()> {
        let mut stays = HashSet::new();
        let twins: HashSet<u32> = want.moved_dirs.iter().map(|&(_, twin)| twin).collect();
        let mut last = LastDir::default();
        let mut removed = want.removed.clone();
        removed.sort_unstable();
        for (dir, at) in removed {
            let items = last.items(own, dir).map_err(|cause| index_error(&cause))?;
            let Some(item) = items.get(at as usize) else { continue };
            if item.entry.is_dir() {
                let Some(child) = own.child(dir, &item.entry.name) else { continue };
                if !twins.contains(&child) {
                    self.removal_below(own, want, child)?;
                }
                continue;
            }
            if let Some(reason) = self.why_file_stays(own, dir, &item.entry.name) {
                self.leave(own.path_of(dir, &item.entry.name), reason);
                stays.insert((dir, at));
            }
        }
        want.removed.retain(|place| !stays.contains(place));
        want.replaced.retain(|place| !stays.contains(place));
        Ok(())
    }

    /// Looks at a directory that is to be removed, and at all below it.
    fn removal_below(&mut self, own: &mut View, want: &mut Want, top: u32) -> Result<()> {
        let mut queue = vec![top];
        while let Some(dir) = queue.pop() {
            let fixed = self.flags(own, dir).of_folder.then_some(FIXED);
            if let Some(reason) = self.obstacles.of_dir(dir).or(fixed) {
                self.leave(own.path(dir), reason);
                protect_chain(own, dir);
                want.stays.insert(dir);
                continue;
            }
            let items: Vec<Item> = own.items(dir).map_err(|cause| index_error(&cause))?;
            for (at, item) in items.iter().enumerate().filter(|(_, item)| !item.entry.is_dir()) {
                if let Some(reason) = self.why_file_stays(own, dir, &item.entry.name) {
                    self.leave(own.path_of(dir, &item.entry.name), reason);
                    protect_chain(own, dir);
                    want.files_stay.insert((dir, at as u32));
                }
            }
            queue.extend(children(own, dir));
        }
        Ok(())
    }

    /// Entries that would be replaced or given other metadata.
    fn changes(&mut self, own: &View, want: &mut Want) -> Result<()> {
        for &number in &want.pending.clone() {
            let WantDir { how: How::Compare, own: own_dir, .. } = want.dirs[number as usize] else { continue };
            if own_dir == NONE {
                continue;
            }
            let own_items = own.items(own_dir).map_err(|cause| index_error(&cause))?;
            let mut items = want.view.items(number).map_err(|cause| index_error(&cause))?;
            let mut changed = false;
            for item in items.iter_mut().filter(|item| item.state.is_work() && !item.entry.is_dir()) {
                let beside = own_items.binary_search_by(|own| own.entry.name.cmp(&item.entry.name));
                let beside = beside.ok().map(|at| &own_items[at]);
                let mounted = beside.and_then(|own| self.obstacles.of_file(own_dir, &own.entry.name));
                let flags = self.flags(own, own_dir);
                let fixed = match beside {
                    // A folder that gives way is among the removals.
                    Some(own) if own.entry.is_dir() => false,
                    Some(own) => flags.of_folder && item.state != State::Touch || flags.of(&own.entry.name),
                    None => flags.of_folder,
                };
                let Some(reason) = mounted.or(fixed.then_some(FIXED)) else { continue };
                self.leave(want.view.path_of(number, &item.entry.name), reason);
                changed = true;
                match beside {
                    Some(own) => *item = Item { state: State::Keep, ..own.clone() },
                    None => (item.state, item.slot) = (State::Dropped, 1),
                }
            }
            if changed {
                want.view.set_items(number, &items).map_err(|cause| index_error(&cause))?;
            }
        }
        Ok(())
    }
}
