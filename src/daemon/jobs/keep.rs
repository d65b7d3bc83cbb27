//! Snapshots at their times: one is taken, then those of the same schedule that no rule keeps are removed.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::daemon::access::Principal;
use crate::daemon::copies::joined;
use crate::daemon::requests::note;
use crate::daemon::state::JobRow;
use crate::daemon::{Daemon, snapshots};
use crate::model::host::Role;
use crate::model::schedule::{JobSnapshot, Kept};
use crate::model::sync::Event;
use crate::model::{Error, JobName, Name, Result};
use crate::schedule::{calendar, retention};
use crate::sync::Cancel;

/// A tag has 64 bytes at the most (`snapshots`).
const NAME_BYTES: usize = 64 - "schedule:".len();

/// What a schedule's snapshots are known by.
fn tag(name: &JobName) -> String {
    format!("schedule:{name}")
}

/// Refuses what could not be done when its time comes.
pub fn checked(name: &JobName, snapshot: &JobSnapshot) -> Result<()> {
    if name.as_str().len() > NAME_BYTES {
        return Err(Error::usage(format!("the name of a schedule of snapshots has {NAME_BYTES} bytes at the most"))
            .hint("its snapshots are tagged schedule:NAME"));
    }
    if snapshot.of.host.is_some() || (snapshot.of.volume.is_some() && snapshot.of.service.is_none()) {
        return Err(Error::usage(format!("a snapshot of `{}`", snapshot.of))
            .hint("write TENANT, SERVICE.TENANT or SERVICE.TENANT:/VOLUME"));
    }
    Ok(())
}

/// Takes a snapshot, then removes what the rules do not keep.
pub async fn snapshot(
    daemon: &Arc<Daemon>,
    who: &Principal,
    job: &JobRow,
    work: &JobSnapshot,
    hear: Arc<dyn Fn(Event) + Send + Sync>,
    cancel: Cancel,
) -> Result<Kept> {
    let of = &work.of;
    let wanted = snapshots::Wanted {
        tenant: of.tenant.clone(),
        service: of.service.clone(),
        volume: of.volume.clone(),
        tags: vec![tag(&job.name)],
        frozen: work.force,
    };
    let stopping = {
        let (daemon, cancel) = (daemon.clone(), cancel.clone());
        tokio::spawn(async move {
            while !daemon.stopping.load(Ordering::SeqCst) {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            cancel.store(true, Ordering::SeqCst);
        })
    };
    let taken = snapshots::take(daemon, who, wanted, hear, cancel).await;
    stopping.abort();
    let taken = taken?;
    let (pruning, who, row, work) = (daemon.clone(), who.clone(), job.clone(), work.clone());
    let removed = tokio::task::spawn_blocking(move || prune(&pruning, &who, &row, &work));
    let removed = joined(removed.await).map_err(|error| {
        let hint = error.hint.clone().unwrap_or_else(|| "the next run tries it again".to_owned());
        Error::new(error.kind, format!("the snapshot {} is taken, but older ones could not be removed", taken.id))
            .hint(hint)
            .because(error)
    })?;
    Ok(Kept {
        id: taken.id,
        entries: taken.snapshot.entries(),
        bytes: taken.snapshot.bytes(),
        bytes_new: taken.bytes_new,
        bytes_stored: taken.bytes_stored,
        bytes_read: taken.bytes_read,
        seconds: taken.seconds,
        left_out: taken.snapshot.volumes.iter().map(|volume| volume.left_out).sum(),
        removed,
    })
}

/// Removes those of this schedule that no rule keeps, as its zone counts days.
fn prune(daemon: &Daemon, who: &Principal, job: &JobRow, work: &JobSnapshot) -> Result<Vec<Name>> {
    if work.keep.is_empty() {
        return Ok(Vec::new());
    }
    let (zone, tag, of) = (calendar::zone_named(&job.zone)?, tag(&job.name), work.of.to_string());
    let mut own = daemon.snapshots_for(who)?;
    own.retain(|(_, snapshot)| snapshot.tags.contains(&tag) && snapshot.of == of);
    let taken: Vec<i64> =
        own.iter().map(|(_, snapshot)| i64::try_from(snapshot.taken_ms / 1000).unwrap_or(i64::MAX)).collect();
    let reasons = retention::keep(&work.keep, zone, &taken);
    let gone: Vec<Name> =
        own.iter().zip(reasons).filter(|(_, reasons)| reasons.is_empty()).map(|((id, _), _)| *id).collect();
    for id in &gone {
        let on = format!("{id} of {of}, by schedule {}", job.name);
        note(daemon, who, "snapshot remove", work.of.tenant.as_str(), &on, &mut || {
            who.may(Role::Deployer, &work.of.tenant)?;
            daemon.store()?.remove(&[*id])
        })?;
    }
    Ok(gone)
}
