//! `--watch`: sync, wait until the source folder changes, sync again.

use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::Duration;

use notify::{EventKind, RecursiveMode, Watcher, event::AccessKind, event::AccessMode};
use serde_json::json;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};

use crate::model::sync::Report;
use crate::model::{Error, Result};

use super::Job;

/// A change is followed by others: wait until nothing came for so long …
const QUIET: Duration = Duration::from_millis(150);
/// … but no longer than this.
const AT_MOST: Duration = Duration::from_secs(2);
/// How often is looked where changes are not told.
const POLL: Duration = Duration::from_secs(2);
/// After a failure that may pass by itself.
const AGAIN: Duration = Duration::from_secs(5);

/// What the watcher says.
enum Sign {
    Changed,
    /// It misses changes from now on.
    Blind(String),
}

pub async fn run(job: &Job, folder: &Path) -> Result<u8> {
    // Watched before the first sync, so that nothing falls in between.
    let (signs, mut changes) = mpsc::channel(1024);
    let mut watcher = match start(folder, signs) {
        Ok(watcher) => Some(watcher),
        Err(why) => {
            blind(job, &why);
            None
        }
    };
    let mut total = job.once().await?;
    tell(job, &total);
    job.watching.agree();
    job.out.say(format!("watching {} for changes; Ctrl-C ends", folder.display()));
    while !job.cancel.load(Ordering::Relaxed) {
        let mut stopped = std::pin::pin!(job.watching.stopped.notified());
        stopped.as_mut().enable();
        if job.cancel.load(Ordering::Relaxed) {
            break;
        }
        tokio::select! {
            () = stopped.as_mut() => break,
            sign = next(&mut changes, watcher.is_some()) => if let Err(why) = sign {
                blind(job, &why);
                watcher = None;
            },
        }
        match job.once().await {
            Ok(report) => {
                if is_change(&report) {
                    tell(job, &report);
                }
                add(&mut total, &report);
            }
            Err(_) if job.cancel.load(Ordering::Relaxed) => break,
            Err(error) => {
                failed_once(job, &error);
                tokio::select! {
                    () = stopped.as_mut() => break,
                    () = sleep(AGAIN) => {}
                }
            }
        }
    }
    job.out.done(super::fields(&total));
    Ok(if total.left_out > 0 { 5 } else { 0 })
}

fn start(folder: &Path, signs: mpsc::Sender<Sign>) -> Result<notify::RecommendedWatcher, String> {
    let handler = move |event: notify::Result<notify::Event>| {
        let sign = match event {
            Ok(event) if event.need_rescan() || matters(&event.kind) => Sign::Changed,
            Ok(_) => return,
            Err(error) => Sign::Blind(in_words(&error)),
        };
        // A full channel already says that something changed; that it is blind must get through.
        match sign {
            Sign::Changed => drop(signs.try_send(sign)),
            Sign::Blind(_) => drop(signs.blocking_send(sign)),
        }
    };
    let mut watcher = notify::recommended_watcher(handler).map_err(|error| in_words(&error))?;
    let root = folder.canonicalize().unwrap_or_else(|_| folder.to_path_buf());
    watcher.watch(&root, RecursiveMode::Recursive).map_err(|error| in_words(&error))?;
    Ok(watcher)
}

/// Reading changes nothing; our own scan reads.
fn matters(kind: &EventKind) -> bool {
    match kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write)) => true,
        EventKind::Access(_) => false,
        _ => true,
    }
}

fn in_words(error: &notify::Error) -> String {
    match &error.kind {
        notify::ErrorKind::MaxFilesWatch => "the limit of watches is reached (fs.inotify.max_user_watches)".to_owned(),
        notify::ErrorKind::Io(cause) if cause.raw_os_error() == Some(rustix::io::Errno::MFILE.raw_os_error()) => {
            "the limit of watchers is reached (fs.inotify.max_user_instances)".to_owned()
        }
        _ => error.to_string(),
    }
}

/// The next time to sync; an error when changes are not told any more.
async fn next(changes: &mut mpsc::Receiver<Sign>, watched: bool) -> Result<(), String> {
    if !watched {
        sleep(POLL).await;
        return Ok(());
    }
    match changes.recv().await {
        Some(Sign::Changed) => {}
        Some(Sign::Blind(why)) => return Err(why),
        None => return Err("the watcher ended".to_owned()),
    }
    let until = Instant::now() + AT_MOST;
    while Instant::now() < until {
        match timeout(QUIET, changes.recv()).await {
            Ok(Some(Sign::Changed)) => {}
            Ok(Some(Sign::Blind(why))) => return Err(why),
            Ok(None) => return Err("the watcher ended".to_owned()),
            Err(_) => break,
        }
    }
    Ok(())
}

fn blind(job: &Job, why: &str) {
    let message = format!("changes cannot be watched: {why}; looking every {} s instead", POLL.as_secs());
    job.out.event(&json!({"event": "note", "message": message}));
    job.out.say(format!("note: {message}"));
}

/// A round that failed: told, and tried again; the last line for scripts is still to come.
fn failed_once(job: &Job, error: &Error) {
    if job.out.json {
        let (kind, message) = (error.kind.word(), error.chain());
        job.out.event(&json!({"event": "failed", "kind": kind, "message": message, "hint": error.hint}));
    } else {
        job.out.error(error);
        job.out.say("trying again");
    }
}

fn tell(job: &Job, report: &Report) {
    let mut event = super::fields(report);
    event["event"] = json!("synced");
    job.out.event(&event);
}

fn is_change(report: &Report) -> bool {
    report.files_created + report.files_updated + report.files_moved + report.files_removed > 0 || report.left_out > 0
}

/// All rounds together: what was done is summed, what is there is the last one's.
fn add(total: &mut Report, round: &Report) {
    let before = std::mem::replace(total, round.clone());
    total.files_created += before.files_created;
    total.files_updated += before.files_updated;
    total.files_moved += before.files_moved;
    total.files_removed += before.files_removed;
    total.bytes_read += before.bytes_read;
    total.bytes_sent += before.bytes_sent;
    total.bytes_received += before.bytes_received;
    total.seconds += before.seconds;
    total.paused_ms += before.paused_ms;
    total.held_requests += before.held_requests;
}
