//! Jobs at their times: what is due is begun, what was broken off is done again, each run is noted.
//!
//! `schedule::due` says what is to be done; this does it. One loop looks at the jobs whenever something about them changed,
//! when the next one is due, and once a minute whatever happens. A run is noted (and its time settled) before it begins.
//! A run belongs to the daemon: whoever watches it may go.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, broadcast, watch};

use super::copies::joined;
use super::state::{Ended, JobRow, State};
use super::{Daemon, now_unix};
use crate::model::schedule::{Failure, Outcome, Run};
use crate::model::sync::Event;
use crate::model::{Error, Kind, Result};
use crate::schedule::calendar::Calendar;
use crate::schedule::due::{self, Start};
use crate::sys::clock;
use crate::wire::{schedule as wire, sync as wire_sync};

mod keep;
pub mod requests;
mod run;

use run::Receipt;

/// Runs that go on at once; more wait for their turn.
const PLACES: usize = 4;
/// Events that a watcher may be behind.
const EVENTS: usize = 256;

/// The runs that go on.
#[derive(Default)]
pub struct Runner {
    changed: Notify,
    live: Mutex<HashMap<u64, Live>>,
}

/// A run that goes on.
#[derive(Clone)]
struct Live {
    events: broadcast::Sender<Event>,
    /// The run, once it is over.
    over: watch::Receiver<Option<Run>>,
}

impl Runner {
    /// Something about the jobs is not as it was: look again.
    pub fn changed(&self) {
        self.changed.notify_one();
    }

    fn live(&self) -> MutexGuard<'_, HashMap<u64, Live>> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What went on when the daemon was killed did not come to its end.
pub fn recover(state: &State) -> Result<()> {
    let error = Error::failed("the daemon was killed in the middle").hint("a run for a time of its own is done again");
    let count = state.runs_broken_off(&Failure::of(&error), now_unix())?;
    if count > 0 {
        tracing::warn!("{count} scheduled runs were broken off");
    }
    Ok(())
}

/// Does what is due, for as long as the daemon lives.
pub async fn keep(daemon: Arc<Daemon>) {
    loop {
        let looking = daemon.clone();
        let found = joined(tokio::task::spawn_blocking(move || look(&looking)).await);
        let next = match found {
            Ok(found) => {
                for (job, start) in found.starts {
                    if let Err(error) = begin(&daemon, job, Some(start)).await {
                        tracing::error!("{}", error.chain());
                    }
                }
                found.next
            }
            Err(error) => {
                tracing::error!("{}", error.chain());
                now().saturating_add(due::LOOK_SECONDS)
            }
        };
        tokio::select! {
            () = daemon.runner.changed.notified() => {}
            () = tokio::time::sleep(until(next)) => {}
        }
        if daemon.stopping.load(Ordering::SeqCst) {
            return;
        }
    }
}

struct Found {
    starts: Vec<(JobRow, Start)>,
    next: i64,
}

/// One look at all jobs.
fn look(daemon: &Daemon) -> Result<Found> {
    let now = now();
    let (mut rows, running) = (daemon.state.jobs()?, running(daemon));
    let mut calendars = Vec::with_capacity(rows.len());
    // What an older version took and this one does not is no reason not to do the others.
    rows.retain(|row| match Calendar::parse(&row.cron, &row.zone) {
        Ok(calendar) => {
            calendars.push(calendar);
            true
        }
        Err(error) => {
            tracing::error!("schedule {}: {}", row.name, error.chain());
            false
        }
    });
    let ahead = rows
        .iter()
        .map(|row| daemon.state.slots_after(row.number, row.mark.min(now)))
        .collect::<Result<Vec<Vec<i64>>>>()?;
    let jobs: Vec<due::Job> = rows
        .iter()
        .zip(&calendars)
        .zip(&ahead)
        .map(|((row, calendar), ahead)| due::Job {
            number: row.number,
            calendar,
            mark: row.mark,
            done_ahead: ahead,
            again: row.again,
            running: running.contains(&row.number),
            paused: row.paused,
        })
        .collect();
    let found = due::look(now, &jobs, PLACES.saturating_sub(running.len()));
    for (job, mark) in &found.marks {
        daemon.state.mark_job(*job, *mark)?;
    }
    let starts = found
        .starts
        .iter()
        .filter_map(|start| Some((rows.iter().find(|row| row.number == start.number)?.clone(), *start)));
    Ok(Found { starts: starts.collect(), next: found.next })
}

fn running(daemon: &Daemon) -> Vec<u64> {
    daemon.runner.live().keys().copied().collect()
}

/// Begins a run: for a time, or because somebody asked for it.
async fn begin(daemon: &Arc<Daemon>, job: JobRow, start: Option<Start>) -> Result<Live> {
    let (events, _) = broadcast::channel(EVENTS);
    let (said, over) = watch::channel(None);
    let live = Live { events: events.clone(), over };
    // Taken before anything waits: of two who ask at once, one is told.
    match daemon.runner.live().entry(job.number) {
        Entry::Vacant(free) => drop(free.insert(live.clone())),
        Entry::Occupied(_) => {
            return Err(Error::new(Kind::Busy, format!("`{}` runs already", job.name))
                .hint("`mcloud ps` shows it, `mcloud kill` ends it"));
        }
    }
    let (noting, number, slot) = (daemon.clone(), job.number, start.map(|start| start.slot));
    let missed = start.map_or(0, |start| start.missed);
    let noted = tokio::task::spawn_blocking(move || noting.state.begin_run(number, slot, missed, now_unix()));
    let run = match joined(noted.await) {
        Ok(run) => run,
        Err(error) => {
            daemon.runner.live().remove(&number);
            return Err(error);
        }
    };
    // A daemon that stops waits for it, as for a sync.
    let (daemon, held) = (daemon.clone(), daemon.running.clone());
    tokio::spawn(async move {
        let asked = start.is_none();
        let (doing, row) = (daemon.clone(), job.clone());
        let done = tokio::spawn(async move { run::job(&doing, &row, asked, events).await }).await;
        let done = done.unwrap_or_else(|error| run::Done::failed(Error::failed("the run broke").because(error)));
        let (noting, name) = (daemon.clone(), job.name.clone());
        let ended = joined(tokio::task::spawn_blocking(move || note(&noting, run, &done)).await);
        if let Err(error) = &ended {
            tracing::error!("schedule {name}: {}", error.chain());
        }
        daemon.runner.live().remove(&job.number);
        let _ = said.send(ended.ok().flatten());
        daemon.runner.changed();
        drop(held);
    });
    Ok(live)
}

/// Notes how a run ended.
fn note(daemon: &Daemon, run: u64, done: &run::Done) -> Result<Option<Run>> {
    let stopped = daemon.stopping.load(Ordering::SeqCst);
    let failure = done.result.as_ref().err().map(Failure::of);
    let outcome = match &done.result {
        Ok(_) => Outcome::Ok,
        Err(_) if stopped => Outcome::Interrupted,
        Err(_) => Outcome::Failed,
    };
    let (report, kept) = match &done.result {
        Ok(Receipt::Copied(report)) => (Some(wire_sync::report_out(report)), None),
        Ok(Receipt::Kept(kept)) => (None, Some(wire::kept_out(kept))),
        Err(_) => (None, None),
    };
    let ended = Ended { outcome, failure: failure.as_ref(), report, kept, tries: done.tries };
    daemon.state.end_run(run, &ended, now_unix())?;
    daemon.state.run(run)
}

/// Seconds since 1970.
fn now() -> i64 {
    clock::file_clock().seconds + shift()
}

/// How long it is to that moment.
fn until(moment: i64) -> Duration {
    let (now, nanos) = (now(), clock::file_clock().nanos);
    let whole = u64::try_from(moment.saturating_sub(now)).unwrap_or(0);
    // The clock is read in ticks; a moment too late is in time.
    Duration::from_secs(whole).saturating_sub(Duration::from_nanos(nanos.into())) + Duration::from_millis(10)
}

/// The tests' daemons live at other times: `MCLOUD_CLOCK_FILE` holds by how many seconds.
#[cfg(feature = "faults")]
fn shift() -> i64 {
    let file = std::env::var_os("MCLOUD_CLOCK_FILE");
    let text = file.and_then(|file| std::fs::read_to_string(file).ok());
    text.and_then(|text| text.trim().parse().ok()).unwrap_or(0)
}

#[cfg(not(feature = "faults"))]
fn shift() -> i64 {
    0
}
