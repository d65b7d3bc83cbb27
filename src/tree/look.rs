//! A tree that is looked at: entry by entry, at any place, in any order, by many at once, without a walk over all of it.
//!
//! [`Look`] is what a mount needs of a tree and all that it needs, be the tree a live directory ([`live::Live`]) or a
//! snapshot in a store. Each call may cross a network, so each brings much: a directory comes with all that `stat` tells of
//! its entries, many small files come in one answer. Calls change nothing and depend on none before them: whoever is
//! cut off asks again, also at another process, and goes on.
//!
//! An entry is named by the [`Handle`] that the tree gave it.

mod held;
pub mod live;
pub mod shelf;

use std::ops::Range;

use bytes::Bytes;

use super::entry::Entry;
use crate::model::Result;
use crate::sys::clock::Time;

/// How a tree names one of its entries: bytes that mean something to that tree only, and go on meaning the same. Those of a
/// directory's entries best begin as the directory's own does: what they share crosses the wire once.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Handle(pub Bytes);

/// One answer to [`Look::list`] has no more entries than this, and about as many bytes.
pub const LIST_ENTRIES: usize = 4096;
pub const LIST_BYTES: usize = 1 << 20;
/// The slices of one [`Look::read`] are no more than this together.
pub const READ_BYTES: usize = 4 << 20;
pub const READ_SLICES: usize = 1024;

/// An entry with what there is to know of it besides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Each name of a file with several bears the file's whole metadata and kind: never [`EntryKind::Link`](super::entry::EntryKind).
    /// The content's name may be unknown. The root's own name is empty.
    pub entry: Entry,
    pub handle: Handle,
    /// A number that no other entry of the tree has but the other names of the same file. For a tree without numbers of
    /// its own there is [`id_below`].
    pub id: u64,
    /// Changes whenever the entry does, as far as that can be seen; `None`: what the handle names never changes.
    pub version: Option<u64>,
    /// Names of this file. 1 for a directory that does not count them.
    pub links: u32,
    /// What it takes up; less than its size where a file has holes.
    pub disk_bytes: u64,
    /// When anything of it was changed last. A tree that does not know tells the time of last modification.
    pub changed: Time,
}

/// A part of a directory, in the order of its names as bytes.
#[derive(Clone, Debug, Default)]
pub struct Listing {
    pub entries: Vec<Seen>,
    /// There is more, behind the last of these.
    pub more: bool,
}

/// A range of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slice {
    pub file: Handle,
    pub offset: u64,
    pub len: u32,
}

/// What was in a slice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Shorter than the slice only where the file ends.
    pub data: Bytes,
    /// Of the file, as it was when this was read.
    pub version: Option<u64>,
}

/// A tree that is looked at.
///
/// Errors: what is not there, or not any more what its handle named, is a [`Kind::NotFound`](crate::model::Kind); a host that does not
/// answer a [`Kind::Unreachable`](crate::model::Kind); a damaged object a [`Kind::Corrupt`](crate::model::Kind). A handle that this tree
/// never gave out is an error like any other: it may come from outside.
pub trait Look: Send + Sync {
    fn root(&self) -> Result<Seen>;

    /// The entries of a directory behind the name `after`; from its start where that is `None`.
    fn list(&self, dir: &Handle, after: Option<&[u8]>) -> Result<Listing>;

    /// One entry of a directory by its name.
    fn find(&self, dir: &Handle, name: &[u8]) -> Result<Option<Seen>>;

    /// What an entry is by now. Never asked of one without a version.
    fn again(&self, handle: &Handle) -> Result<Seen>;

    /// The contents of slices, each with its own success: as many answers as slices. Slices of small files of one directory stand
    /// in the order of their names. Within [`READ_BYTES`] and [`READ_SLICES`].
    fn read(&self, slices: &[Slice]) -> Vec<Result<Piece>>;

    /// The first range of a file at or behind `offset` that is data, holes around it; `None`: from there on there is only a hole.
    /// A tree that knows no holes says that all is data, up to however far.
    fn data(&self, file: &Handle, offset: u64) -> Result<Option<Range<u64>>> {
        let _ = file;
        Ok(Some(offset..u64::MAX))
    }
}

/// The number of the root of a tree without numbers of its own.
pub const ROOT_ID: u64 = 1;

/// The number of `name` in the directory with the number `dir`, for a tree without numbers of its own: the same at each look. A file with
/// several names has the number of its first.
pub fn id_below(dir: u64, name: &[u8]) -> u64 {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&dir.to_le_bytes()).update(name);
    let mut id = [0; 8];
    hasher.finalize_xof().fill(&mut id);
    // 0 is no number, 1 is the root's.
    u64::from_le_bytes(id).max(2)
}

/// The number of the entry at a path.
pub fn id_of(path: &[u8]) -> u64 {
    path.split(|byte| *byte == b'/').filter(|name| !name.is_empty()).fold(ROOT_ID, id_below)
}
