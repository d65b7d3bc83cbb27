//! The data of a release: copied while the source lives, and what is left of it while that is frozen.

use std::sync::Mutex;
use std::sync::atomic::Ordering;

use futures_util::future::join_all;

use super::*;
use crate::sync::Observer;

impl Release<'_> {
    /// Copies each volume to its like, all at once. What is live may be torn; the last copy is of a source that stands still.
    pub(super) async fn copy(&mut self, how: &str, cancel: Cancel) -> Result<()> {
        let copies = self.volumes.iter().map(|volumes| {
            let (at, options) = ((self.daemon, self.who), SyncOptions { force: true, ..SyncOptions::default() });
            side::copy(at, (self.from, self.to), volumes, (how, options), Arc::new(Plans::default()), cancel.clone())
        });
        let done = join_all(copies).await;
        let is_last = how == "frozen";
        let (mut sources, mut targets) = (Vec::new(), Vec::new());
        for report in done {
            let report = report.map_err(|error| match error.kind {
                Kind::Cancelled if is_last && !self.is_cancelled() => {
                    Error::failed("what had changed was not copied before the held requests had waited too long")
                        .hint("a longer --hold gives it more time")
                }
                _ => error,
            })?;
            if is_last && report.left_out > 0 {
                return Err(Error::failed(format!("{} entries could not be copied", report.left_out))
                    .hint("`mcloud sync` from the one to the other lists them"));
            }
            sources.push(report.root_source);
            targets.push(report.root_target);
            self.add(&report, is_last);
        }
        if is_last {
            (self.report.root_source, self.report.root_target) = (one_root(&sources), one_root(&targets));
        }
        Ok(())
    }

    fn add(&mut self, more: &Report, is_last: bool) {
        let sum = &mut self.report;
        sum.files_created += more.files_created;
        sum.files_updated += more.files_updated;
        sum.files_moved += more.files_moved;
        sum.files_removed += more.files_removed;
        sum.bytes_read += more.bytes_read;
        sum.bytes_sent += more.bytes_sent;
        sum.bytes_received += more.bytes_received;
        if is_last {
            sum.entries_total += more.entries_total;
            sum.bytes_total += more.bytes_total;
        }
    }

    /// How long requests would be held, as far as can be told without holding any.
    pub(super) async fn estimate(mut self) -> Result<Receipt> {
        let since = difference((self.daemon, self.who), (self.from, self.to), &self.volumes, &self.cancel).await?;
        let bytes: u64 = since.created.bytes + since.updated.bytes;
        let last = self.last_start()?;
        // Hooks, two pauses and the looking; then what is copied, at a rate that disks have, over the way there is.
        let copying = Duration::from_secs_f64(bytes as f64 / COPIED_A_SECOND);
        let over = [self.from, self.to].into_iter().find_map(Side::there).map(|there| there.client().ramp(bytes));
        let copying = copying + over.unwrap_or_default();
        let hold = Duration::from_millis(300) + copying + last.unwrap_or(Duration::from_secs(2));
        let ms = u64::try_from(hold.as_millis()).unwrap_or(u64::MAX);
        let start = match last {
            Some(last) => format!("`{}` took {:.1} s to start the last time", self.row.to, last.as_secs_f64()),
            None => format!("how long `{}` takes to start is not known yet; 2 s are assumed", self.row.to),
        };
        (self.say)(
            None,
            format!(
                "{} files differ by {bytes} bytes as of now, most of which is copied before the hold",
                since.count()
            ),
        );
        (self.say)(None, start);
        (self.say)(
            None,
            format!(
                "requests would wait for about {:.1} s, at the most {:.0} s",
                hold.as_secs_f64(),
                self.limits.hold.as_secs_f64()
            ),
        );
        self.phases.push(("estimated hold".to_owned(), ms));
        let mut receipt = self.receipt(false, None);
        receipt.outcome = "dry run".to_owned();
        receipt.serving = self.row.from.to_string();
        receipt.longest_hold_ms = ms;
        receipt.report.bytes_total = bytes;
        Ok(receipt)
    }

    /// How long the target took to start in its last release.
    fn last_start(&self) -> Result<Option<Duration>> {
        let receipts = super::serve::receipts(self.daemon)?;
        let of_it = receipts.iter().rev().filter(|receipt| receipt.to == self.row.to.to_string());
        let phase = |receipt: &Receipt| {
            receipt
                .phases
                .iter()
                .find(|(name, _)| name == Step::Starting.word())
                .map(|(_, ms)| Duration::from_millis(*ms))
        };
        Ok(of_it.filter_map(phase).next())
    }
}

/// What one machine copies in a second, cautiously.
const COPIED_A_SECOND: f64 = 150e6;

/// Cancels a copy when its time is over, or when the release is to stop.
pub(super) async fn stop_after(late: Duration, copy: Cancel, release: Cancel) {
    let until = Instant::now() + late;
    while Instant::now() < until && !release.load(Ordering::SeqCst) {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    copy.store(true, Ordering::SeqCst);
}

/// The names of several trees as one.
fn one_root(roots: &[Option<Name>]) -> Option<Name> {
    let roots: Option<Vec<&Name>> = roots.iter().map(Option::as_ref).collect();
    match &roots?[..] {
        [] => None,
        [one] => Some(**one),
        several => Some(Name::of(&several.iter().flat_map(|name| name.0).collect::<Vec<u8>>())),
    }
}

/// What would be done to make the second of each pair equal to the first.
pub(super) async fn difference(
    at: (&Arc<Daemon>, &Principal),
    sides: (&Side, &Side),
    volumes: &[(VolumeRef, VolumeRef)],
    cancel: &Cancel,
) -> Result<Since> {
    let mut since = Since::default();
    for pair in volumes {
        let (from, ears) = (&pair.0, Arc::new(Plans::default()));
        let options = SyncOptions { force: true, dry_run: true, ..SyncOptions::default() };
        side::copy(at, sides, pair, ("compared", options), ears.clone(), cancel.clone()).await?;
        let Some(plan) = ears.taken() else { continue };
        for (sum, more) in
            [(&mut since.created, plan.created), (&mut since.updated, plan.updated), (&mut since.removed, plan.removed)]
        {
            sum.count += more.count;
            sum.bytes += more.bytes;
            let path = |path: Vec<u8>| [from.to_string().as_bytes(), b"/", &path[..]].concat();
            sum.first.extend(more.first.into_iter().map(path));
        }
    }
    Ok(since)
}

/// Hears the plan, and agrees with it.
#[derive(Default)]
struct Plans(Mutex<Option<Plan>>);

impl Plans {
    fn taken(&self) -> Option<Plan> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take()
    }
}

impl Observer for Plans {
    fn event(&self, event: Event) {
        if let Event::Planned(plan) = event {
            *self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(plan);
        }
    }

    fn confirm(&self, _plan: &Plan) -> Result<bool> {
        Ok(true)
    }
}
