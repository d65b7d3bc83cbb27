//! A live directory as a target: from the first question to the last rename.

use std::cell::RefCell;
use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::compare::compare;
use super::halt::{Weights, halts};
use super::obstacles::{Obstacles, hold_back};
use super::plan::{Tally, plan};
use super::receive::Site;
use super::replay::{self, Replayed};
use super::settle::Arrived;
use super::source::{full_scan, index_error, save};
use super::stage::Stage;
use super::talk::{Aside, Talk, nonsense};
use super::want::How;
use super::{Cancel, LiveDir, Observer, cancelled, led_astray, moves, names, settle};
use crate::model::sync::{Event, LeftOut, Plan, Report, SyncOptions};
use crate::model::{Error, Kind, Result};
use crate::sys::dir::{Dir, clear_umask};
use crate::sys::meta;
use crate::sys::path::is_foreign_link;
use crate::tree::entry::{Entry, EntryKind, Meta};
use crate::tree::filter::Filter;
use crate::tree::link::{Ask, LocalFiles, Open, TargetEnd, Tell};
use crate::tree::node::root_name;
use crate::tree::records::{Found, Records, Rows};
use crate::tree::scan::{Counters, Findings, Scan};
use crate::tree::view::{DirNode, Item, Links, Print, View, encode_items};

/// Makes `dir` equal to the source at the other end of `link`.
///
/// Clears the process's umask: what is staged gets just the modes it is to have. The report's bytes on the wire are zero;
/// whoever owns the wire fills them in.
pub fn run(
    dir: &LiveDir,
    link: TargetEnd,
    options: &SyncOptions,
    observer: Arc<dyn Observer>,
    cancel: Cancel,
) -> Result<Report> {
    run_beside(dir, link, options, observer, cancel, false)
}

/// Like [`run`]; `shares`: the source is on the same file system, and that shares blocks between files.
pub fn run_beside(
    dir: &LiveDir,
    mut link: TargetEnd,
    options: &SyncOptions,
    observer: Arc<dyn Observer>,
    cancel: Cancel,
    shares: bool,
) -> Result<Report> {
    let started = Instant::now();
    clear_umask();
    let observer = &*observer;
    let before = std::fs::symlink_metadata(&dir.root).ok();
    let stage = match options.dry_run {
        true => None,
        false => Some(open_stage(dir, observer, &cancel)?),
    };
    let mut aside = HeardAside::default();
    let outcome =
        Run { dir, options, observer, cancel: &cancel, stage: stage.as_ref(), heard: &mut aside, before, shares }
            .all(&mut link);
    let mut report = match outcome {
        Ok(report) => report,
        Err(error) => {
            let error = last_words(&mut link, error);
            if let Some(stage) = stage {
                // A full disk is given back what was staged; else it is kept for the next try. Once the log is in force
                // the stage is what finishes the commit.
                let may_go = error.kind == Kind::NoSpace && matches!(stage.log(), Ok(None));
                let cleared = if may_go { stage.remove().map(|_| ()) } else { stage.tidy() };
                if let Err(cause) = cleared {
                    tracing::warn!("the staging folder of {} could not be removed: {cause}", dir.label);
                }
            }
            return Err(error);
        }
    };
    if let Some(stage) = stage {
        let inside = stage.root_name.is_none();
        report.0.left_out += settle::clear_up(stage, dir, observer);
        if inside && let Some(time) = report.1 {
            restore_time(&dir.root, time);
        }
    }
    report.0.seconds = started.elapsed().as_secs_f64();
    Ok(report.0)
}

/// Where the source has gone, what it said last says why.
fn last_words(link: &mut TargetEnd, error: Error) -> Error {
    if error.kind == Kind::Unreachable {
        while let Ok(tell) = link.tell.try_recv() {
            if let Tell::Failed(said) = tell {
                return said;
            }
        }
    }
    error
}

/// Finishes a commit that was interrupted, if there is one. True if there was.
pub fn recover(dir: &LiveDir) -> Result<bool> {
    if !Stage::exists(&dir.root) {
        return Ok(false);
    }
    clear_umask();
    let stage = Stage::open(&dir.root).map_err(|cause| stage_error(dir, cause))?;
    let Some(stage) = stage else { return Ok(false) };
    let finished = finish_commit(&stage, dir)?;
    for failed in finished.iter().flat_map(|replayed| &replayed.failed) {
        let path = String::from_utf8_lossy(&failed.left_out.path);
        tracing::warn!("the interrupted commit of {}: {path}: {}", dir.label, failed.left_out.reason);
    }
    Ok(finished.is_some())
}

/// Whether a commit was interrupted that the next sync, or [`recover`], is going to finish. Takes no lock.
pub fn is_unfinished(dir: &LiveDir) -> bool {
    Stage::is_log_in_force(&dir.root)
}

fn finish_commit(stage: &Stage, dir: &LiveDir) -> Result<Option<Replayed>> {
    let failed = |cause: std::io::Error| {
        let is_torn = cause.kind() == std::io::ErrorKind::InvalidData;
        let error = Error::io(format!("the interrupted commit of {} cannot be finished", dir.label), cause);
        let place = stage.shown_place();
        match is_torn {
            true => error.hint(format!("its log is damaged; remove {place} to give that commit up, then sync again")),
            false => error.hint(format!("mend what is in the way and run it again; it is written down in {place}")),
        }
    };
    let Some(log) = stage.log().map_err(failed)? else { return Ok(None) };
    let replayed = replay::replay(log, stage, true).map_err(failed)?;
    stage.end_log().map_err(failed)?;
    Ok(Some(replayed))
}

fn open_stage(dir: &LiveDir, observer: &dyn Observer, cancel: &Cancel) -> Result<Stage> {
    let mut told = false;
    loop {
        match Stage::open(&dir.root).map_err(|cause| stage_error(dir, cause))? {
            Some(stage) => {
                if let Some(replayed) = finish_commit(&stage, dir)? {
                    let note = format!("an interrupted sync of {} was finished first", dir.label);
                    observer.event(Event::Note(note));
                    // What it could not do is in the plan again.
                    if let Some(first) = replayed.failed.first() {
                        let path = String::from_utf8_lossy(&first.left_out.path);
                        let count = replayed.failed.len();
                        let note = format!(
                            "{count} of its changes were not made, the first: {path}: {}",
                            first.left_out.reason
                        );
                        observer.event(Event::Note(note));
                    }
                }
                return Ok(stage);
            }
            None if cancel.load(Ordering::Relaxed) => return Err(cancelled()),
            None => {
                if !std::mem::replace(&mut told, true) {
                    observer.event(Event::Note(format!("another sync writes to {}; waiting for it", dir.label)));
                }
                std::thread::sleep(Duration::from_millis(100));
            }
        }
    }
}

fn stage_error(dir: &LiveDir, cause: std::io::Error) -> Error {
    let kind = cause.kind();
    if is_foreign_link(&cause) {
        return led_astray("target", &dir.label, cause);
    }
    let error = Error::io(format!("the target {} cannot be written", dir.label), cause);
    match kind {
        std::io::ErrorKind::NotFound => error.hint("the folder above it does not exist; make it first"),
        std::io::ErrorKind::NotADirectory => error.hint("the target of a sync is a folder"),
        std::io::ErrorKind::ReadOnlyFilesystem => {
            error.hint("it is mounted read-only; remount it, or choose another target")
        }
        std::io::ErrorKind::PermissionDenied => error.hint("this user may not write there"),
        _ => error,
    }
}

/// What the source said beside its answers.
#[derive(Default)]
struct HeardAside {
    left_out: Vec<LeftOut>,
    unreadable: HashSet<Vec<u8>>,
}

pub(super) struct Run<'a> {
    pub dir: &'a LiveDir,
    options: &'a SyncOptions,
    pub observer: &'a dyn Observer,
    pub cancel: &'a Cancel,
    stage: Option<&'a Stage>,
    heard: &'a mut HeardAside,
    before: Option<std::fs::Metadata>,
    shares: bool,
}

pub(super) type Times = crate::sys::clock::Time;

impl Run<'_> {
    /// Everything but the clearing up. Returns the report, and the root's time if it has to be set once more.
    fn all(self, link: &mut TargetEnd) -> Result<(Report, Option<Times>)> {
        let (observer, stage) = (self.observer, self.stage);
        let heard = RefCell::new(std::mem::take(self.heard));
        let mut aside = |said: Aside| match said {
            Aside::Scanning { files, bytes_read } => observer.event(Event::Scanning { files, bytes_read }),
            Aside::Note(note) => observer.event(Event::Note(note)),
            Aside::LeftOut(left_out) => {
                let mut heard = heard.borrow_mut();
                heard.unreadable.insert(left_out.path.clone());
                heard.left_out.push(left_out);
            }
        };
        let mut talk = Talk { ask: &link.ask, tell: &mut link.tell, aside: &mut aside, cancel: self.cancel };
        let root = match stage {
            Some(stage) => stage.root(),
            None => open_if_there(&self.dir.root),
        };
        let root = root.map_err(|cause| match is_foreign_link(&cause) {
            true => led_astray("target", &self.dir.label, cause),
            false => Error::io(format!("the target {} cannot be opened", self.dir.label), cause),
        })?;
        if let Some(stage) = stage {
            let left = stage.clear_trash().map_err(|cause| stage_error(self.dir, cause))?;
            if let Some(first) = left.first() {
                let place = stage.shown_place();
                let note = format!(
                    "{} entries that earlier syncs took out of {} still cannot be removed ({}); they wait in {place}",
                    left.len(),
                    self.dir.label,
                    first.why()
                );
                observer.event(Event::Note(note));
            }
        }
        let salvaged = match stage {
            Some(stage) => stage.keep_salvage().map_err(|cause| stage_error(self.dir, cause))?,
            None => false,
        };
        let is_bare = match &root {
            Some(root) => is_almost_bare(root)
                .map_err(|cause| Error::io(format!("the target {} cannot be read", self.dir.label), cause))?,
            None => true,
        };
        // A limited rate is kept by what passes through here, not by the kernel's copies.
        let limited = self.options.bytes_per_second > 0;
        let fresh = is_bare && !salvaged && (!self.shares || limited) && !self.options.dry_run;
        let (filter, local) = self.open_source(&mut talk, fresh)?;
        let (records, rows, found) = Records::open(self.dir.index.as_deref()).map_err(|cause| index_error(&cause))?;
        let records = Arc::new(records);
        if found == Found::Damaged {
            observer.event(Event::Note(format!("the index of {} was damaged; it is being rebuilt", self.dir.label)));
        }
        talk.ask(Ask::Scan)?;
        tracing::debug!("scanning");
        let (mut own, top, entries_total, bytes_total) =
            self.scan_both(&mut talk, root.as_ref(), &filter, &records, &rows)?;
        if let (Some(before), true) =
            (&self.before, stage.is_some_and(|stage| stage.root_name.is_none()) && filter.is_whole_tree())
        {
            // The staging folder inside it has just changed the root's time; what counts is the one it had.
            use std::os::unix::fs::MetadataExt;
            own.root.entry.meta.mtime = Times { seconds: before.mtime(), nanos: before.mtime_nsec() as u32 };
        }
        let own_time = own.root.entry.meta.mtime;
        let mut report = Report { entries_total, bytes_total, ..Report::default() };
        let source_root = root_name(&top);
        let is_known = top.content().is_some_and(|content| content.is_known());
        if is_known && root.is_some() && source_root == own.root_name() {
            observer.event(Event::Planned(Plan { entries_total, bytes_total, ..Plan::default() }));
            save(&own, &rows, &filter);
            report.root_source = Some(source_root);
            report.root_target = Some(source_root);
            report.left_out = self.tell_left_out(heard.into_inner().left_out);
            return Ok((report, Some(own_time)));
        }
        let obstacles = Obstacles::find(root.as_ref(), &self.dir.root, &mut own)
            .map_err(|cause| Error::io(format!("what is mounted in {} cannot be told", self.dir.label), cause))?;
        let unreadable = heard.borrow().unreadable.clone();
        let salvage_dir = match (stage, salvaged) {
            (Some(stage), true) => Some(stage.salvage().map_err(|cause| stage_error(self.dir, cause))?),
            _ => None,
        };
        let salvage = salvage_dir.as_ref().map(|dir| self.scan_salvage(dir)).transpose()?;
        let is_new = root.is_none();
        tracing::debug!("comparing");
        let mut want = compare(&own, &top, &mut talk, self.options.no_remove, &filter, &unreadable, &obstacles)?;
        if let (Some(stage), true) = (stage, want.makes_names()) {
            names::settle(&own, &mut want, stage, root.as_ref())?;
        }
        if want.left_views {
            let note = "the source tells attributes that only show other metadata; they are not copied, so the root names differ";
            observer.event(Event::Note(note.to_owned()));
        }
        if is_new {
            want.dirs[0].how = How::New;
            want.pending.push(0);
        }
        want.left_alone |= !want.left_out.is_empty();
        moves::resolve(&own, &mut want, salvage.as_ref(), &obstacles)?;
        let held_back = hold_back(&obstacles, &mut own, &mut want)?;
        want.left_out.extend(held_back);
        heard.borrow_mut().left_out.append(&mut want.left_out);
        tracing::debug!("planning");
        let (mut plan, tally) = plan(&own, &want)?;
        (plan.entries_total, plan.bytes_total) = (entries_total, bytes_total);
        plan.halts = halts(weigh(&own, entries_total, &tally)?, self.options);
        observer.event(Event::Planned(plan.clone()));
        report.files_created = tally.created;
        report.files_updated = tally.updated;
        report.files_moved = tally.moved;
        report.files_removed = tally.removed;
        let Some(stage) = stage else {
            self.refuse_halts(&plan)?;
            report.root_source = is_known.then_some(source_root);
            report.root_target = root.is_some().then(|| own.root_name());
            report.left_out = self.tell_left_out(heard.into_inner().left_out);
            return Ok((report, None));
        };
        self.refuse_halts(&plan)?;
        if !plan.is_empty() && !observer.confirm(&plan)? {
            return Err(Error::new(Kind::Refused, "not confirmed; nothing was changed"));
        }
        let site = Site {
            own: &own,
            root: root.as_ref(),
            stage,
            salvage: salvage.as_ref().zip(salvage_dir.as_ref()),
            filter: &filter,
            local: local.filter(|_| !limited),
            observer,
            cancel: self.cancel,
            no_remove: self.options.no_remove,
            totals: (tally.files_to_move, tally.bytes_to_move),
        };
        tracing::debug!("staging");
        let staged = super::receive::stage(&site, &mut want, &mut talk)?;
        talk.ask(Ask::Finish)?;
        tracing::debug!("staged");
        let (source_root, entries, bytes) = match talk.next()? {
            Tell::Root { root, entries, bytes, bytes_read } => {
                report.bytes_read = bytes_read;
                (root, entries, bytes)
            }
            _ => return Err(nonsense("no root name at the end")),
        };
        (report.entries_total, report.bytes_total) = (entries, bytes);
        report.root_source = Some(source_root);
        let arrived = Arrived { source_root, staged, left_out: heard.into_inner().left_out };
        let time = self.put_in_place(&site, &mut want, arrived, &rows, &mut report)?;
        Ok((report, Some(time)))
    }

    fn open_source(&self, talk: &mut Talk<'_>, fresh: bool) -> Result<(Filter, Option<Arc<dyn LocalFiles>>)> {
        let options = self.options;
        talk.ask(Ask::Open(Open {
            path: options.path.clone(),
            exclude: options.exclude.clone(),
            checksum: options.checksum,
            fresh,
            bytes_per_second: options.bytes_per_second,
            holes: false,
        }))?;
        let Tell::Opened { rules, local } = talk.next()? else { return Err(nonsense("no answer to the opening")) };
        Ok((Filter::new(&options.path, &rules, &options.exclude)?, local))
    }

    /// Scans the own tree while the source scans its own. Returns the own view, and what the source found.
    fn scan_both(
        &self,
        talk: &mut Talk<'_>,
        root: Option<&Dir>,
        filter: &Filter,
        records: &Arc<Records>,
        rows: &Rows,
    ) -> Result<(View, Entry, u64, u64)> {
        let counters = Counters::default();
        let gone = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let own = scope.spawn(|| match root {
                None => empty_view(records, filter).map(|view| (view, Findings::default())),
                Some(root) => {
                    let scan =
                        Scan { root, filter, checksum: self.options.checksum, counters: &counters, cancel: &gone };
                    full_scan(&scan, Arc::clone(records), rows, false)
                }
            });
            let told = match talk.next() {
                Ok(Tell::Scanned { top, entries, bytes }) => Ok((top, entries, bytes)),
                Ok(_) => Err(nonsense("something else than its scan")),
                Err(error) => Err(error),
            };
            if told.is_err() || self.cancel.load(Ordering::Relaxed) {
                gone.store(true, Ordering::Relaxed);
            }
            let own = own.join().unwrap_or_else(|_| Err(std::io::Error::other("the scan panicked")));
            let (top, entries, bytes) = told?;
            if self.cancel.load(Ordering::Relaxed) {
                return Err(cancelled());
            }
            let failed = |cause: std::io::Error| match cause.kind() {
                std::io::ErrorKind::InvalidData | std::io::ErrorKind::UnexpectedEof => index_error(&cause),
                _ => Error::io(format!("the target {} cannot be read", self.dir.label), cause),
            };
            let (mut own, findings) = own.map_err(failed)?;
            if findings.damaged {
                let note = format!("the index of {} was damaged; what was damaged is read again", self.dir.label);
                self.observer.event(Event::Note(note));
            }
            if let Some(first) = findings.left_out.first() {
                let path = String::from_utf8_lossy(&first.path).into_owned();
                return Err(Error::failed(format!("{path} in the target {}: {}", self.dir.label, first.reason))
                    .hint("a sync has to read all of its target; run it as a user who may, or exclude that path"));
            }
            own.seal().map_err(|cause| index_error(&cause))?;
            let mut bytes_of_top = &top[..];
            let top = Entry::decode(&mut bytes_of_top)
                .filter(|top| top.is_dir() && top.name.is_empty() && bytes_of_top.is_empty());
            Ok((own, top.ok_or_else(|| nonsense("a root that cannot be read"))?, entries, bytes))
        })
    }

    fn scan_salvage(&self, dir: &Dir) -> Result<View> {
        let failed = |cause| Error::io("what an earlier sync left cannot be read", cause);
        let filter = Filter::new(b"", b"", &[])?;
        let (records, rows, _) = Records::open(None).map_err(|cause| index_error(&cause))?;
        let counters = Counters::default();
        let scan = Scan { root: dir, filter: &filter, checksum: false, counters: &counters, cancel: self.cancel };
        let (mut view, _) = full_scan(&scan, Arc::new(records), &rows, false).map_err(failed)?;
        view.seal().map_err(failed)?;
        Ok(view)
    }

    fn refuse_halts(&self, plan: &Plan) -> Result<()> {
        let options = self.options;
        let stops = |halt: &&crate::model::sync::Halt| !(options.force || options.yes && halt.yes_overrides);
        match plan.halts.iter().find(stops) {
            Some(halt) => Err(Error::new(Kind::Refused, halt.message.clone()).hint(halt.hint.clone())),
            None => Ok(()),
        }
    }

    pub(super) fn tell_left_out(&self, mut all: Vec<LeftOut>) -> u64 {
        all.sort_by(|a, b| (&a.path, &a.reason).cmp(&(&b.path, &b.reason)));
        all.dedup();
        let count = all.len() as u64;
        all.into_iter().for_each(|left_out| self.observer.event(Event::LeftOut(left_out)));
        count
    }
}

/// Numbers for the halt rules.
fn weigh(own: &View, source_entries: u64, tally: &Tally) -> Result<Weights> {
    let dirs = own.dirs.len() as u64 - 1;
    Ok(Weights {
        source_entries,
        target_files: own.entries.saturating_sub(dirs),
        removed_files: tally.removed,
        target_entries: own.entries,
    })
}

fn open_if_there(path: &Path) -> std::io::Result<Option<Dir>> {
    match Dir::open(path) {
        Ok(dir) => Ok(Some(dir)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// What a new tenant's folder holds before its code comes.
const NEW_TENANT: &[u8] = b"mcloud.yml";

/// Whether there is nothing in the root that is worth comparing first, beside our own staging folder: nothing at all, or
/// what a new tenant begins with. To be sent that again costs less than reading all of a source twice.
fn is_almost_bare(root: &Dir) -> std::io::Result<bool> {
    let names = root.names()?;
    let mut own = names.iter().filter(|entry| !crate::tree::filter::is_stage(&entry.name));
    Ok(own.all(|entry| *entry.name == *NEW_TENANT && entry.is_dir != Some(true)))
}

/// The view of a target that is not there yet.
fn empty_view(records: &Arc<Records>, filter: &Filter) -> std::io::Result<View> {
    let kind = EntryKind::Dir { content: crate::model::Name::UNKNOWN };
    let root = Item::new(Entry { name: Box::default(), meta: Meta::default(), kind }, Print::default());
    let node = DirNode {
        parent: 0,
        name: Box::default(),
        id: (0, 0),
        record: records.append(&encode_items(&[]))?,
        first_child: 1,
        content: crate::model::Name::UNKNOWN,
        protected: false,
        dirty: true,
        implied: !filter.is_whole_tree(),
    };
    Ok(View { records: Arc::clone(records), root, dirs: vec![node], links: Links::default(), entries: 0, bytes: 0 })
}

/// Sets a root's time once more, after the staging folder inside it is gone.
pub(super) fn restore_time(root: &Path, time: Times) {
    if let Ok(dir) = Dir::open(root)
        && let Err(cause) = meta::set_time(&dir, time)
    {
        tracing::warn!("the time of {} could not be set: {cause}", root.display());
    }
}
