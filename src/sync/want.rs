//! The target as it is to become: what comparing finds out, and what staging and the commit work on.

use std::collections::HashSet;

use crate::model::sync::LeftOut;
use crate::tree::entry::EntryKind;
use crate::tree::view::{State, View};

/// No directory.
pub const NONE: u32 = u32::MAX;

/// The target as it is to become.
pub struct Want {
    pub view: View,
    /// Beside each directory of `view`.
    pub dirs: Vec<WantDir>,
    /// Directories of which some entry needs work, ascending.
    pub pending: Vec<u32>,
    /// Where items in state `Moved` or `Local` come from; an item's slot is its place in here.
    pub origins: Vec<Origin>,
    /// Own entries that go, as directory and position; whole directories by their entry in the parent.
    pub removed: Vec<(u32, u32)>,
    /// Those of `removed`, none of them directories, at whose path something else comes that is no directory either: it
    /// takes their place in one step.
    pub replaced: HashSet<(u32, u32)>,
    /// Own files that are moved on their own, as directory and position.
    pub moves: Vec<(u32, u32)>,
    /// Directories that are moved whole: wanted and own directory.
    pub moved_dirs: Vec<(u32, u32)>,
    /// Directories that stand in the target with the very content wanted elsewhere: wanted and own directory.
    pub mirrors: Vec<(u32, u32)>,
    /// Something of the target's own stays although the source lacks it.
    pub keeps_extra: bool,
    /// Own directories, and files by directory and position, that stay where they are although a folder above goes.
    pub stays: HashSet<u32>,
    pub files_stay: HashSet<(u32, u32)>,
    /// Something in the target's tree is not as it is wanted, and is left alone: what the target is in the end has to be
    /// seen.
    pub left_alone: bool,
    /// The source's tree has attributes that are none of a tree's own: what is wanted is that tree without them.
    pub left_views: bool,
    /// What does not come because something that is to be kept stands in its place.
    pub left_out: Vec<LeftOut>,
}

#[derive(Clone, Copy, Debug)]
pub struct WantDir {
    /// The source's number, or `NONE`.
    pub src: u32,
    /// The own directory at the same path, or `NONE`.
    pub own: u32,
    pub how: How,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum How {
    /// As it is, with all below.
    Same,
    /// There, with other entries or metadata.
    Compare,
    /// To be made.
    New,
    /// Comes as it is from another place in the own tree, with all below.
    Moved,
}

/// Where an item in state `Moved` or `Local` comes from.
#[derive(Clone, Copy, Debug)]
pub struct Origin {
    pub from: Source,
    /// Its number in the source's listing, should it have to be fetched after all; `NONE` if it has none.
    pub src_entry: u32,
}

/// Where in the target's reach a file is that is wanted elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    Own { dir: u32, at: u32 },
    Salvage { dir: u32, at: u32 },
}

impl Want {
    /// Whether entries come under names that are not there yet.
    pub fn makes_names(&self) -> bool {
        !self.pending.is_empty() || !self.mirrors.is_empty()
    }

    /// The own files that move on their own, as directory and position.
    pub fn moved_files(&self) -> impl Iterator<Item = (u32, u32)> + '_ {
        self.moves.iter().copied()
    }
}

/// What becomes of an entry that is not there.
pub fn fresh_state(kind: &EntryKind) -> State {
    match kind {
        EntryKind::File { .. } => State::Fetch,
        EntryKind::Dir { .. } => State::NewDir,
        EntryKind::Link { .. } => State::Hardlink,
        _ => State::Make,
    }
}

impl State {
    /// Whether something has to be done for an entry in this state, beyond its directory's own work.
    pub fn is_work(self) -> bool {
        !matches!(self, State::Keep | State::Dropped | State::Descend)
    }
}

/// The directories in a directory of a view.
pub fn children(view: &View, dir: u32) -> impl Iterator<Item = u32> + '_ {
    let first = view.dirs[dir as usize].first_child;
    (first.max(1)..view.dirs.len() as u32).take_while(move |&child| view.dirs[child as usize].parent == dir)
}
