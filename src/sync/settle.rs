//! The last act of a sync: the commit, and what the target is after it. The name of the target's tree that is told is of
//! what is there: where anything did not go as it was written down, the tree is scanned once more.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::commit::{self, Known};
use super::receive::{Site, Staged};
use super::replay::{self, Failed, Lost};
use super::source::{full_scan, index_error, save};
use super::stage::Stage;
use super::target::{Run, Times, restore_time};
use super::want::{How, NONE, Want, children};
use super::{LiveDir, Observer, cancelled};
use crate::model::sync::{Event, LeftOut, Report};
use crate::model::{Error, Kind, Name, Result};
use crate::sys::dir::Dir;
use crate::tree::records::{Row, Rows};
use crate::tree::scan::{Counters, Scan};
use crate::tree::view::{State, View};

/// What came from the source, and what did not.
pub struct Arrived {
    pub source_root: Name,
    pub staged: Staged,
    pub left_out: Vec<LeftOut>,
}

impl Run<'_> {
    /// Makes the tree what is wanted. Returns the root's time, should it have to be set once more.
    pub(super) fn put_in_place(
        &self,
        site: &Site<'_>,
        want: &mut Want,
        arrived: Arrived,
        rows: &Rows,
        report: &mut Report,
    ) -> Result<Times> {
        let failed = |cause| Error::io(format!("the target {} could not be changed", self.dir.label), cause);
        let Arrived { source_root, staged, mut left_out } = arrived;
        left_out.extend(staged.left_out);
        tracing::debug!("giving new folders their metadata");
        left_out.extend(commit::dress_new(site, want)?);
        fail::fail_point!("commit.before_log", |_| Err(Error::failed("fault injected before the log")));
        tracing::debug!("writing the log");
        let summary = commit::write_log(site, want)?;
        let wanted_root = want.view.seal().map_err(|cause| index_error(&cause))?;
        let excused = want.keeps_extra || want.left_views || staged.incomplete || !left_out.is_empty();
        if wanted_root != source_root && !excused {
            return Err(Error::new(
                Kind::Corrupt,
                "what was received does not add up to what the source has; nothing was changed",
            )
            .hint("run the sync again; if it happens again, run it with --checksum"));
        }
        tracing::debug!("making it durable");
        site.stage.dir.sync_fs().map_err(failed)?;
        if self.cancel.load(Ordering::Relaxed) {
            return Err(cancelled());
        }
        self.observer.before_commit()?;
        // Whoever uses the target has stopped by now; what they did before counts.
        let mut unsure = commit::changed_since(site, want)?;
        self.observer.event(Event::Committing);
        tracing::debug!("committing");
        site.stage.enforce_log().map_err(failed)?;
        fail::fail_point!("commit.log_written", |_| Err(Error::failed("fault injected after the log")));
        let log = site.stage.log().map_err(failed)?.ok_or_else(|| Error::failed("the redo log has gone"))?;
        let unfinished = |cause| {
            failed(cause).hint("the change is written down; the next sync to it, or the daemon's start, finishes it")
        };
        let done = replay::replay(log, site.stage, false).map_err(unfinished)?;
        site.stage.end_log().map_err(unfinished)?;
        fail::fail_point!("commit.done", |_| Err(Error::failed("fault injected after the commit")));
        discount(report, site.own, want, &done.failed)?;
        let root = site.stage.root().map_err(failed)?.ok_or_else(|| Error::failed("the target has gone"))?;
        let time = want.view.root.entry.meta.mtime;
        if site.stage.root_name.is_none() && !want.view.dirs[0].implied {
            restore_time(&self.dir.root, time);
        }
        self.tell_folders_that_stay(&summary.folders_stay);
        // A name that is kept may have been one of a file that was replaced: which files it and the others are is seen.
        let kept_links = want.keeps_extra && !site.own.links.folders().is_empty();
        let is_plain = !kept_links
            && !want.left_alone
            && summary.folders_stay.is_empty()
            && done.failed.is_empty()
            && !done.copied;
        unsure.extend(done.failed.into_iter().map(|failed| failed.left_out));
        let paths = |all: &[LeftOut]| all.iter().map(|left_out| left_out.path.clone()).collect::<HashSet<Vec<u8>>>();
        let unsure_paths = paths(&unsure);
        left_out.extend(unsure);
        left_out.extend(done.refused);
        let known = Known { already: paths(&left_out), unsure: unsure_paths, copied: done.copied };
        tracing::debug!("looking again");
        let seen = self.name_what_is_there(want, &root, site, rows, &known, is_plain, &mut left_out);
        report.root_target = seen.unwrap_or_else(|error| {
            // What is done is done; but nothing is claimed of it.
            let reason = format!("what is there now could not be looked at: {}", error.chain());
            left_out.push(LeftOut { path: Vec::new(), reason });
            None
        });
        if report.root_target.is_some_and(|root| root != source_root)
            && left_out.is_empty()
            && !want.keeps_extra
            && !want.left_views
            && summary.folders_stay.is_empty()
        {
            let reason = "the target is not what the source is: somebody changed it during the sync".to_string();
            left_out.push(LeftOut { path: Vec::new(), reason });
        }
        tracing::debug!("done");
        report.left_out = self.tell_left_out(left_out);
        Ok(time)
    }

    /// Looks at what the commit touched, and remembers it. Returns the name of the tree that is there.
    #[expect(clippy::too_many_arguments, reason = "the end of the last act")]
    fn name_what_is_there(
        &self,
        want: &mut Want,
        root: &Dir,
        site: &Site<'_>,
        rows: &Rows,
        known: &Known,
        is_plain: bool,
        left_out: &mut Vec<LeftOut>,
    ) -> Result<Option<Name>> {
        let looked = commit::look_again(want, root, known)?;
        left_out.extend(looked.left_out);
        let name = want.view.seal().map_err(|cause| index_error(&cause))?;
        if is_plain && known.unsure.is_empty() && !looked.unsure {
            save(&want.view, rows, site.filter);
            return Ok(Some(name));
        }
        tracing::debug!("scanning what is there");
        let known_rows = rows_of(&want.view);
        let scan = Scan {
            root,
            filter: site.filter,
            checksum: false,
            counters: &Counters::default(),
            // The commit is made: this is only to say what it made.
            cancel: &AtomicBool::new(false),
        };
        let failed = |cause| Error::io(format!("the target {} cannot be read", self.dir.label), cause);
        let (mut view, findings) =
            full_scan(&scan, Arc::clone(&want.view.records), &known_rows, false).map_err(failed)?;
        if site.stage.root_name.is_none() && !view.dirs[0].implied {
            // The staging folder inside it changes the root's time until it is gone; then that is set once more.
            view.root.entry.meta.mtime = want.view.root.entry.meta.mtime;
        }
        let name = view.seal().map_err(|cause| index_error(&cause))?;
        save(&view, rows, site.filter);
        let is_whole = findings.left_out.is_empty();
        left_out.extend(findings.left_out);
        Ok(is_whole.then_some(name))
    }

    fn tell_folders_that_stay(&self, folders: &[Vec<u8>]) {
        let Some(first) = folders.first() else { return };
        let first = String::from_utf8_lossy(first);
        let others = match folders.len() - 1 {
            0 => " is".to_string(),
            count => format!(" and {count} more folders are"),
        };
        let note = format!("{first}{others} not at the source, but kept for what is left out or left alone there");
        self.observer.event(Event::Note(note));
    }
}

/// What a view says of its directories, as the rows of an index.
fn rows_of(view: &View) -> Rows {
    let rows = view.dirs.iter().filter(|node| !node.implied && node.id != (0, 0));
    rows.map(|node| {
        let row = Row { id: node.id, record: node.record, content: node.content, protected: node.protected };
        (row.id, row)
    })
    .collect()
}

/// Clears the stage up. Returns how many entries could not be removed; each has been told.
pub(super) fn clear_up(stage: Stage, dir: &LiveDir, observer: &dyn Observer) -> u64 {
    let place = stage.shown_place();
    match stage.remove() {
        Ok(left) => {
            let count = left.len() as u64;
            for leftover in left {
                let reason = format!(
                    "it has left the tree but cannot be removed: {}; it waits in {place}, and each later sync tries again",
                    leftover.why()
                );
                observer.event(Event::LeftOut(LeftOut { path: leftover.path, reason }));
            }
            count
        }
        Err(cause) => {
            observer.event(Event::Note(format!("{place} ({}) could not be removed: {cause}", dir.label)));
            0
        }
    }
}

/// Takes what was not done out of the counts.
fn discount(report: &mut Report, own: &View, want: &Want, failed: &[Failed]) -> Result<()> {
    let items = |view: &View, dir: u32| view.items(dir).map_err(|cause| index_error(&cause));
    for Failed { left_out, lost } in failed {
        let (folder, name) = crate::sys::dir::split_last(&left_out.path);
        let view = match lost {
            Lost::Removal => own,
            Lost::Arrival => &want.view,
            Lost::Departure | Lost::Metadata => continue,
        };
        let Some(dir) = view.dir_at(folder) else { continue };
        let all = items(view, dir)?;
        let Ok(at) = all.binary_search_by(|item| (*item.entry.name).cmp(name)) else { continue };
        let item = &all[at];
        if item.entry.is_dir() {
            let Some(child) = view.child(dir, name) else { continue };
            let files = files_below(view, child)?;
            let count = match (lost, item.state) {
                (Lost::Removal, _) => &mut report.files_removed,
                (_, State::MovedDir) => &mut report.files_moved,
                _ => &mut report.files_created,
            };
            *count = count.saturating_sub(files);
            continue;
        }
        let had = match want.dirs.get(dir as usize) {
            Some(place) if *lost == Lost::Arrival && place.how == How::Compare && place.own != NONE => {
                items(own, place.own)?.iter().any(|own| own.entry.name == item.entry.name)
            }
            _ => false,
        };
        let count = match (lost, item.state, had) {
            (Lost::Removal, ..) => &mut report.files_removed,
            (_, State::Moved, _) => &mut report.files_moved,
            (.., true) => &mut report.files_updated,
            _ => &mut report.files_created,
        };
        *count = count.saturating_sub(1);
    }
    Ok(())
}

fn files_below(view: &View, top: u32) -> Result<u64> {
    let (mut queue, mut files) = (vec![top], 0);
    while let Some(dir) = queue.pop() {
        let items = view.items(dir).map_err(|cause| index_error(&cause))?;
        files += items.iter().filter(|item| !item.entry.is_dir()).count() as u64;
        queue.extend(children(view, dir));
    }
    Ok(files)
}
