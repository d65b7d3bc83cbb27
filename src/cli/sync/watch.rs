//! `--watch`: sync, wait until the source folder changes, sync again. A round that fails is tried again until it succeeds.

mod eyes;
mod folders;
mod told;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use serde_json::json;
use tokio::time::{Instant, sleep_until};

use crate::cli::show;
use crate::model::sync::Report;
use crate::model::{Error, Kind, Result};
use crate::sys::clock::time_of_day;
use crate::sys::inode::Inode;

use super::Job;
use eyes::{Sight, Signs, Watched};

/// A change is followed by others: wait until nothing came for so long …
const QUIET: Duration = Duration::from_millis(150);
/// … but no longer than this.
const AT_MOST: Duration = Duration::from_secs(2);
/// After a failure: tried again after so long, then after twice as long each time, up to the longest.
const AGAIN: Duration = Duration::from_secs(1);
const AGAIN_MAX: Duration = Duration::from_secs(30);
/// How often is looked where no change is told …
const LOOK_BLIND: Duration = Duration::from_secs(2);
/// … where others may change the tree unseen …
const LOOK_SHARED: Duration = Duration::from_secs(10);
/// … and where all is told but writes through a mapping, which are told when it ends.
const LOOK_CLEAR: Duration = Duration::from_secs(600);
/// Looking unasked takes this part of the time at the most.
const LOOK_SHARE: u32 = 10;

pub async fn run(job: &Job, folder: &Path) -> Result<u8> {
    let signs = eyes::open(Watched {
        folder: folder.to_path_buf(),
        scope: job.options.path.clone(),
        exclude: job.options.exclude.clone(),
        cancel: job.cancel.clone(),
    });
    let mut rounds = Rounds {
        job,
        folder,
        signs,
        sight: Sight::Opening,
        pending: None,
        ended: Instant::now(),
        took: Duration::ZERO,
        failure: None,
        total: None,
        synced: Arc::default(),
        left_out: String::new(),
    };
    rounds.guard();
    // Watched before the first round reads, so that nothing falls in between.
    while rounds.sight == Sight::Opening && !rounds.is_over() {
        if rounds.stopped_before(rounds.signs.heard()).await {
            break;
        }
        rounds.listen();
    }
    while !rounds.is_over() {
        rounds.round().await?;
        if !rounds.is_over() {
            rounds.wait().await;
        }
    }
    rounds.end()
}

/// The rounds so far, and what is known of the next.
struct Rounds<'a> {
    job: &'a Job,
    folder: &'a Path,
    signs: Arc<Signs>,
    sight: Sight,
    /// Changes that no round has begun after: when the first and the last of them were told.
    pending: Option<(Instant, Instant)>,
    /// When the last round ended, and how long it took.
    ended: Instant,
    took: Duration,
    /// That the last round failed.
    failure: Option<Failure>,
    /// What was done in all; `None` before a round succeeded.
    total: Option<Report>,
    /// The source folder that the last round that succeeded found at the path.
    synced: Arc<std::sync::Mutex<Option<Inode>>>,
    /// What was told as left out.
    left_out: String,
}

struct Failure {
    error: Error,
    /// In a row.
    tries: u32,
}

impl Rounds<'_> {
    fn is_over(&self) -> bool {
        self.job.cancel.load(Ordering::Relaxed)
    }

    /// Awaits; true if the user ends it first.
    async fn stopped_before(&self, what: impl Future<Output = ()>) -> bool {
        let mut stopped = std::pin::pin!(self.job.watching.stopped.notified());
        stopped.as_mut().enable();
        if self.is_over() {
            return true;
        }
        tokio::select! {
            () = stopped => true,
            () = what => false,
        }
    }

    /// Until there is reason for another round, or the user ends it.
    async fn wait(&mut self) {
        loop {
            let due = self.due();
            let signs = self.signs.clone();
            let mut told = false;
            let next = async {
                tokio::select! {
                    () = signs.heard() => told = true,
                    () = sleep_until(due) => {}
                }
            };
            if self.stopped_before(next).await || !told {
                return;
            }
            self.listen();
        }
    }

    /// When the next round begins, as far as is known now.
    fn due(&self) -> Instant {
        let failed = self.failure.as_ref().map(|failure| pause(failure.tries));
        let look = look(&self.sight).max(self.took * LOOK_SHARE);
        let due = self.ended + failed.unwrap_or(look);
        match self.pending {
            // After a failure a change is reason to try at once, but not for every one of many.
            Some((first, last)) => {
                let soon = (last + QUIET).min(first + AT_MOST);
                due.min(if failed.is_some() { soon.max(self.ended + AGAIN) } else { soon })
            }
            None => due,
        }
    }

    /// Takes up what the watching thread said.
    fn listen(&mut self) {
        let (changed, sight) = self.signs.take();
        if changed {
            let now = Instant::now();
            self.pending = Some((self.pending.map_or(now, |(first, _)| first), now));
        }
        if sight == self.sight {
            return;
        }
        let was_blind = matches!(self.sight, Sight::Blind(_) | Sight::Partial(..));
        if let Some(words) = in_words(&sight, was_blind) {
            self.job.out.event(&json!({"event": "note", "message": words}));
            self.job.out.say(format!("note: {words}"));
        }
        self.sight = sight;
    }

    /// Syncs once. An error ends it all.
    async fn round(&mut self) -> Result<()> {
        self.listen();
        // What is told from here on may be later than what this round reads.
        self.pending = None;
        let found = Inode::at(self.folder).ok();
        let began = Instant::now();
        let outcome = self.job.round().await;
        (self.ended, self.took) = (Instant::now(), began.elapsed());
        match outcome {
            Ok(report) => {
                *self.synced.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = found;
                self.succeeded(report);
                Ok(())
            }
            Err(_) if self.is_over() => Ok(()),
            Err(error) if self.is_final(&error) => Err(error),
            Err(error) => {
                self.failed(error);
                Ok(())
            }
        }
    }

    /// Whether trying again is of no use: at first, where the command line is wrong, or the question was answered; later,
    /// where a key is no longer the right one.
    fn is_final(&self, error: &Error) -> bool {
        let at_first = matches!(error.kind, Kind::Usage | Kind::NotFound | Kind::Refused | Kind::Cancelled);
        error.is_about_keys() || self.total.is_none() && at_first
    }

    fn succeeded(&mut self, report: Report) {
        let out = &self.job.out;
        let is_first = self.total.is_none();
        let recovered = self.failure.take().is_some();
        let plan = self.job.watching.plan().unwrap_or_default();
        let did = report.files_created + report.files_updated + report.files_moved + report.files_removed > 0;
        let left_out = self.job.watching.left_out_in_words();
        if left_out != self.left_out {
            if !out.json && !left_out.is_empty() {
                out.warn(&left_out);
            }
            self.left_out = left_out;
        }
        if is_first || recovered || did || !plan.is_empty() || report.left_out > 0 {
            let mut event = super::fields(&report);
            event["event"] = json!("synced");
            out.event(&event);
        }
        if (is_first || recovered || did || !plan.is_empty()) && !out.quiet {
            out.line(told::round(time_of_day(), &plan, report.seconds, recovered));
        }
        match &mut self.total {
            Some(total) => add(total, &report),
            None => self.total = Some(report),
        }
        if is_first {
            self.job.watching.agree();
            self.job.out.say(format!("watching {} for changes; Ctrl-C ends", self.folder.display()));
        }
    }

    /// Tells people once what is wrong, however often it is tried; scripts each time.
    fn failed(&mut self, error: Error) {
        let out = &self.job.out;
        let before = self.failure.take();
        let tries = before.as_ref().map_or(0, |failure| failure.tries) + 1;
        let again = pause(tries).as_secs();
        if out.json {
            let (kind, message) = (error.kind.word(), error.chain());
            out.event(&json!({"event": "failed", "kind": kind, "message": message, "hint": error.hint}));
        } else if before.is_none_or(|before| before.error.chain() != error.chain()) {
            out.error(&error);
            out.say(format!(
                "{}trying again, in {again} s at first, then up to every {} s, and after each change",
                told::stamp(time_of_day()),
                AGAIN_MAX.as_secs()
            ));
        } else {
            out.detail(format!("{}as before; trying again in {again} s", told::stamp(time_of_day())));
        }
        self.failure = Some(Failure { error, tries });
    }

    /// A folder that came to the path since (the mount point below one that was unmounted, one made anew) does not empty the
    /// target, whatever was agreed to: that was about another.
    fn guard(&self) {
        let (synced, folder): (_, PathBuf) = (self.synced.clone(), self.folder.to_owned());
        self.job.watching.guard(move || {
            let synced = *synced.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            synced.is_none() || synced == Inode::at(&folder).ok()
        });
    }

    fn end(self) -> Result<u8> {
        if let Some(failure) = self.failure {
            return Err(failure.error);
        }
        let total = self.total.unwrap_or_default();
        self.job.out.done(super::fields(&total));
        Ok(if total.left_out > 0 { 5 } else { 0 })
    }
}

/// How long to wait after so many failures in a row.
fn pause(tries: u32) -> Duration {
    AGAIN.saturating_mul(2u32.saturating_pow(tries.saturating_sub(1))).min(AGAIN_MAX)
}

/// What is to be said of how well changes are seen.
fn in_words(sight: &Sight, was_blind: bool) -> Option<String> {
    let (blind, shared) = (LOOK_BLIND.as_secs(), LOOK_SHARED.as_secs());
    match sight {
        Sight::Blind(why) => Some(format!("changes cannot be watched: {why}; looking every {blind} s instead")),
        Sight::Partial(path, why) => {
            Some(format!("changes in {} cannot be watched: {why}; looking every {shared} s besides", show::path(path)))
        }
        Sight::Shared => {
            Some(format!("others may change this file system without a sign; looking every {shared} s besides"))
        }
        Sight::Clear if was_blind => Some("changes are watched again".to_owned()),
        Sight::Clear | Sight::Gone | Sight::Opening => None,
    }
}

/// How long to wait for a sign.
fn look(sight: &Sight) -> Duration {
    match sight {
        Sight::Blind(_) | Sight::Gone | Sight::Opening => LOOK_BLIND,
        Sight::Shared | Sight::Partial(..) => LOOK_SHARED,
        Sight::Clear => LOOK_CLEAR,
    }
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

#[cfg(test)]
mod tests {
    use super::pause;

    #[test]
    fn tries_are_further_and_further_apart_up_to_a_bound() {
        let pauses: Vec<u64> = (1..9).map(|tries| pause(tries).as_secs()).collect();
        assert_eq!(pauses, [1, 2, 4, 8, 16, 30, 30, 30]);
        assert_eq!(pause(u32::MAX).as_secs(), 30);
    }
}
