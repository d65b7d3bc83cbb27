//! What is to be done now, of the jobs there are.
//!
//! A job's times are its calendar's; each is known by its moment. The job's *mark* is the moment up to which its times are
//! settled, so what is due is what lies between the mark and now:
//!
//! - *Late, but once*: of several times that went by (the daemon was down, the run before took long, there was no
//!   free place) the newest is done, as soon as it can be, and settles those before it.
//! - *Never twice*: the mark is moved before a run begins, and times that were done under a clock that was ahead are
//!   remembered by the caller (`done_ahead`).
//! - *A clock that was set back* by a little is waited for. Where the mark lies further ahead than
//!   [`CORRECTION_SECONDS`], the clock was wrong before, and the mark comes back to now.
//! - *Nothing is slept over*: the clock may be set, the machine may sleep, so one looks again after
//!   [`LOOK_SECONDS`] at the latest.

use super::calendar::Calendar;

/// How long one may wait before one looks again.
pub const LOOK_SECONDS: i64 = 60;
/// By how much a clock is set back without having been wrong for long: as cron has it, three hours.
pub const CORRECTION_SECONDS: i64 = 3 * 3600;

/// A job as it stands. All moments are seconds since 1970.
#[derive(Clone, Copy, Debug)]
pub struct Job<'a> {
    pub number: u64,
    pub calendar: &'a Calendar,
    /// Its times up to here are settled.
    pub mark: i64,
    /// Later times than now that are done already.
    pub done_ahead: &'a [i64],
    /// A time whose run was broken off and is to be done again.
    pub again: Option<i64>,
    pub running: bool,
    pub paused: bool,
}

/// A run that is to begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Start {
    pub number: u64,
    /// The time for which it is done; it becomes the job's mark.
    pub slot: i64,
    /// Times before it that nothing was done for.
    pub missed: u32,
}

/// What one look found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Look {
    /// Runs that are to begin now, those that wait longest first.
    pub starts: Vec<Start>,
    /// Other marks that are to be moved: job and moment.
    pub marks: Vec<(u64, i64)>,
    /// When to look again, if nothing ends before.
    pub next: i64,
}

/// What is to be done at `now`, with `free` places for runs.
pub fn look(now: i64, jobs: &[Job], free: usize) -> Look {
    let mut found = Look { starts: Vec::new(), marks: Vec::new(), next: now.saturating_add(LOOK_SECONDS) };
    for job in jobs.iter().filter(|job| !job.paused) {
        let mut mark = job.mark;
        if mark > now.saturating_add(CORRECTION_SECONDS) {
            mark = now;
            found.marks.push((job.number, mark));
        }
        if let Some(next) = job.calendar.next(mark.max(now)) {
            found.next = found.next.min(next);
        }
        if job.running {
            continue;
        }
        let missed = job.calendar.missed(mark, now);
        match (missed, job.again) {
            // What came later settles what was broken off.
            (Some(missed), _) if !job.done_ahead.contains(&missed.newest) => {
                found.starts.push(Start { number: job.number, slot: missed.newest, missed: missed.earlier });
            }
            (Some(missed), None) => found.marks.push((job.number, missed.newest)),
            (_, Some(slot)) => found.starts.push(Start { number: job.number, slot, missed: 0 }),
            (None, None) => {}
        }
    }
    found.starts.sort_by_key(|start| (start.slot, start.number));
    found.starts.truncate(free);
    found
}

#[cfg(test)]
#[path = "due_tests.rs"]
mod tests;
