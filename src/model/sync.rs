//! What a sync is asked to do, what it tells while it runs, and what it reports at the end.

use super::Name;

/// How one sync is to be done. Both ends get the same value.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SyncOptions {
    /// `--force`: no question, halt rules overridden.
    pub force: bool,
    /// `--yes`: no question, halt rules that a yes can answer overridden.
    pub yes: bool,
    /// `--dry-run`: stop after the plan.
    pub dry_run: bool,
    /// `--no-remove`: keep what the source lacks.
    pub no_remove: bool,
    /// `--checksum`: read every file again, whatever the index remembers.
    pub checksum: bool,
    /// `--path SUB`: only this part of both trees; relative, no leading slash; empty is the whole.
    pub path: Vec<u8>,
    /// `--exclude PAT`, in the order given, gitignore syntax.
    pub exclude: Vec<String>,
    /// `--bwlimit`, bytes of content a second; 0 is no limit.
    pub bytes_per_second: u64,
    /// `--no-restart`: services that are stopped before the target changes stay so.
    pub no_restart: bool,
}

/// The plan in numbers, with the first paths of each kind.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    pub created: Class,
    pub updated: Class,
    /// Same content, other metadata.
    pub touched: Class,
    pub moved: Class,
    pub removed: Class,
    /// Bytes of content that have to come from somewhere else than where they are.
    pub bytes_to_move: u64,
    /// Halt rules that this plan breaks, in words; empty when all is well.
    pub halts: Vec<Halt>,
    /// Entries in the source, and the bytes of its files.
    pub entries_total: u64,
    pub bytes_total: u64,
    /// Things the plan does beside the files, in words ("stops redis, starts it after").
    pub notes: Vec<String>,
}

impl Plan {
    /// Nothing to do at all.
    pub fn is_empty(&self) -> bool {
        [&self.created, &self.updated, &self.touched, &self.moved, &self.removed].iter().all(|class| class.count == 0)
    }
}

/// One kind of change.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Class {
    pub count: u64,
    pub bytes: u64,
    /// The first few paths, as bytes, relative to the root. For a move: old path, NUL, new path.
    pub first: Vec<Vec<u8>>,
}

/// A rule that stops a plan before it destroys something.
#[derive(Clone, Debug, PartialEq)]
pub struct Halt {
    pub message: String,
    pub hint: String,
    /// Whether `--yes` is enough to go on; `--force` always is.
    pub yes_overrides: bool,
}

/// What a running sync tells whoever watches.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// Both sides are being looked at.
    Scanning { files: u64, bytes_read: u64 },
    /// The plan, once, before anything moves.
    Planned(Plan),
    /// Bytes of content in place at the target, of those that have to move. `done` never falls and never passes `total`.
    Moving { files_done: u64, files_total: u64, bytes_done: u64, bytes_total: u64 },
    /// Everything is staged and verified; the renames are under way.
    Committing,
    /// An entry that could not be copied, or not wholly.
    LeftOut(LeftOut),
    /// Something worth saying once ("the index was damaged and is rebuilt", "waiting for another sync").
    Note(String),
}

/// An entry that the target does not hold exactly as the source does, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeftOut {
    pub path: Vec<u8>,
    pub reason: String,
}

/// What a sync did.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Report {
    pub files_created: u64,
    pub files_updated: u64,
    pub files_moved: u64,
    pub files_removed: u64,
    pub entries_total: u64,
    pub bytes_total: u64,
    /// Content read from disk at the source.
    pub bytes_read: u64,
    /// On the wire, as the end that the client stands at saw it (the source's end when it stands at neither).
    pub bytes_sent: u64,
    pub bytes_received: u64,
    pub seconds: f64,
    pub paused_ms: u64,
    pub held_requests: u64,
    pub root_source: Option<Name>,
    pub root_target: Option<Name>,
    /// How many entries were left out; each was told as an event.
    pub left_out: u64,
}
