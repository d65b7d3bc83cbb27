//! Staging: everything the target lacks is built beside it. One thread asks and takes what comes, a few others verify and
//! write. Directories that are new are built as they will be, with their files in them; files of directories that are
//! there wait in numbered slots.

mod near;
mod take;
mod work;

use std::collections::HashMap;
use std::fs::File;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use bytes::Bytes;
use tokio::sync::mpsc::UnboundedSender;

use take::Taker;

use super::delta::{Delta, Leftovers};
use super::stage::Stage;
use super::talk::Talk;
use super::want::{How, Source, Want};
use super::{Cancel, Observer};
use crate::model::sync::LeftOut;
use crate::model::{Error, Kind, Result};
use crate::sys::dir::Dir;
use crate::tree::filter::{Filter, Stand};
use crate::tree::link::{Ask, ChunkRef, FileItem, LocalFiles, SentRange};
use crate::tree::records::{Ptr, Records};
use crate::tree::scan::threads;
use crate::tree::view::{Item, State, View};

/// Answers outstanding from the source, at most.
const AHEAD: u64 = 16 * 1024;
/// Files compared chunk by chunk at the same time, at most: each keeps two files open, and its chunk lists in memory.
const DELTAS: u64 = 64;
/// How often a file is asked for when what came does not fit together.
const TRIES: u32 = 3;

/// What staging works on.
pub struct Site<'a> {
    pub own: &'a View,
    /// The target's root; `None` if there is none yet.
    pub root: Option<&'a Dir>,
    pub stage: &'a Stage,
    pub salvage: Option<(&'a View, &'a Dir)>,
    pub filter: &'a Filter,
    pub local: Option<Arc<dyn LocalFiles>>,
    pub observer: &'a dyn Observer,
    pub cancel: &'a Cancel,
    /// What the source lacks is kept.
    pub no_remove: bool,
    /// Files and bytes that have to be staged.
    pub totals: (u64, u64),
}

/// What staging had to leave out, and what it noticed.
#[derive(Default, Debug)]
pub struct Staged {
    pub left_out: Vec<LeftOut>,
    /// Not all that was wanted is there: the root names will differ.
    pub incomplete: bool,
}

/// Stages all that `want` lacks.
pub fn stage(site: &Site<'_>, want: &mut Want, talk: &mut Talk<'_>) -> Result<Staged> {
    let leftovers = match site.salvage {
        Some((view, dir)) => Leftovers::of(view, dir)?,
        None => Leftovers::default(),
    };
    let shared = Shared {
        site,
        leftovers,
        records: Arc::clone(&want.view.records),
        ask: talk.ask.clone(),
        awaited: AtomicU64::new(0),
        pending: AtomicU64::new(0),
        deltas: AtomicU64::new(0),
        deltas_over: Mutex::default(),
        over: AtomicBool::new(false),
        failure: Mutex::default(),
        staged: Mutex::default(),
        finished: Mutex::default(),
        files_done: AtomicU64::new(0),
        bytes_done: AtomicU64::new(0),
        shown: Mutex::default(),
        trusted: site.local.is_some(),
    };
    let (jobs_in, jobs_out) = crossbeam_channel::bounded::<Job>(threads() * 2);
    std::thread::scope(|scope| {
        for _ in 0..threads() {
            let (jobs, shared) = (jobs_out.clone(), &shared);
            scope.spawn(move || shared.work(&jobs));
        }
        drop(jobs_out);
        let mut taker = Taker::new(&shared, want, jobs_in);
        let outcome = taker.run(talk);
        drop(taker);
        // What stopped the writers explains more than that they stopped.
        lock(&shared.failure).take().map_or(outcome, Err)
    })?;
    Ok(shared.staged.into_inner().unwrap_or_else(PoisonError::into_inner))
}

/// What all threads share.
pub(super) struct Shared<'a> {
    pub site: &'a Site<'a>,
    pub leftovers: Leftovers<'a>,
    pub records: Arc<Records>,
    ask: UnboundedSender<Ask>,
    /// Answers the source still owes.
    awaited: AtomicU64,
    /// Entries started and not yet settled.
    pending: AtomicU64,
    /// Files being compared chunk by chunk, and those of them that are done with, by the source's numbers.
    deltas: AtomicU64,
    deltas_over: Mutex<Vec<(u32, u32)>>,
    /// Something failed: no more work is done.
    over: AtomicBool,
    failure: Mutex<Option<Error>>,
    staged: Mutex<Staged>,
    /// Directories all of whose entries are settled: the source's number, the wanted one, their new record.
    finished: Mutex<Vec<(u32, u32, Ptr)>>,
    files_done: AtomicU64,
    bytes_done: AtomicU64,
    shown: Mutex<Option<Instant>>,
    /// The data comes from this process's own memory, where it was named.
    trusted: bool,
}

/// A directory with work in it.
pub(super) struct OpenDir {
    want: u32,
    src: u32,
    pub path: Vec<u8>,
    /// Where its files are staged if it is new.
    pub place: Option<Dir>,
    inner: Mutex<OpenInner>,
}

struct OpenInner {
    items: Vec<Item>,
    /// Positions of the files whose whole content the source still owes, by its number.
    by_src: HashMap<u32, u32>,
    tries: HashMap<u32, u32>,
    left: usize,
}

/// A file that comes in parts.
struct Big {
    open: Arc<OpenDir>,
    at: u32,
    file: File,
    placed: Placed,
    sparse: bool,
    /// Parts handed out and not yet written, and one for the end that is yet to come.
    left: AtomicU64,
    end: Mutex<Option<(FileItem, Ptr)>>,
}

/// Where a staged file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Placed {
    /// In its staged directory, under its own name.
    There,
    Slot(u64),
}

impl Placed {
    fn state(self) -> State {
        match self {
            Placed::There => State::Placed,
            Placed::Slot(_) => State::Staged,
        }
    }

    pub fn slot(self) -> u64 {
        match self {
            Placed::There => 0,
            Placed::Slot(slot) => slot,
        }
    }
}

enum Job {
    Files(Vec<(Arc<OpenDir>, u32, FileItem, Range<usize>)>, Bytes),
    Part(Arc<Big>, u64, Vec<ChunkRef>, Bytes),
    End(Arc<Big>),
    /// A file that is in the target's reach.
    Local(Arc<OpenDir>, u32, Source, u32),
    /// A big file of a source on this machine: shared or copied by the kernel.
    Share(Arc<OpenDir>, u32, u32),
    Make(Arc<OpenDir>, Vec<u32>),
    DeltaPlan(Arc<OpenDir>, u32, Arc<Delta>, FileItem),
    DeltaRanges(Arc<OpenDir>, u32, Arc<Delta>, u32, Vec<SentRange>, Bytes),
}

/// The path, from the stage, of a new directory: below the number of the uppermost new directory above it.
pub fn stage_path(want: &Want, dir: u32) -> Vec<u8> {
    let mut names = Vec::new();
    let mut at = dir;
    loop {
        let parent = want.view.dirs[at as usize].parent;
        if at == 0 || want.dirs[parent as usize].how != How::New {
            break;
        }
        names.push(&want.view.dirs[at as usize].name);
        at = parent;
    }
    let mut path = Stage::new_path(at);
    for name in names.iter().rev() {
        path.push(b'/');
        path.extend_from_slice(name);
    }
    path
}

/// Whether a directory is only there because of what is asked for below it.
pub fn is_implied(filter: &Filter, path: &[u8]) -> bool {
    !filter.is_whole_tree() && (path.is_empty() || filter.stand(path, true) == Stand::Above)
}

/// The error for something that could not be staged.
pub fn staging(path: &[u8], cause: std::io::Error) -> Error {
    let error = Error::io(format!("{} could not be staged at the target", String::from_utf8_lossy(path)), cause);
    match error.kind {
        Kind::NoSpace => error.hint("make room at the target and run it again; the target is as it was"),
        _ => error.hint("the target is as it was"),
    }
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
