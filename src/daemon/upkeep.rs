//! What keeps the store in order, and what compares its snapshots: prune, verify, diff.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;

use super::access::Principal;
use super::copies::joined;
use super::snapshots::{entries, hear_stop};
use super::{Daemon, now_unix, requests};
use crate::model::host::Role;
use crate::model::keep::Keep;
use crate::model::{Name, Result};
use crate::schedule::retention::keep;
use crate::store::Snapshots;
use crate::store::diff::Change;
use crate::store::snapshot::{Snapshot, Volume, meant};
use crate::store::verify::Problem;
use crate::sync::Cancel;
use crate::transport::Stream;
use crate::wire::proto::{self, response};

/// Changes in one message.
const CHANGES: usize = 2000;

/// Does work that may take long, and answers on this stream. A client that is gone ends what can be ended.
async fn long<T: Send + 'static>(
    daemon: &Arc<Daemon>,
    mut stream: Stream,
    what: &str,
    label: String,
    work: impl FnOnce(&Daemon, &Cancel) -> Result<T> + Send + 'static,
    answer: impl FnOnce(T) -> Vec<response::What>,
) {
    let running = daemon.running.clone();
    let cancel = Cancel::default();
    let kill = cancel.clone();
    let _listed = daemon.tasks.begin(what, "", &label, move || kill.store(true, Ordering::SeqCst));
    let hearing = tokio::spawn(hear_stop(stream.receiver, cancel.clone()));
    let working = daemon.clone();
    let done = joined(tokio::task::spawn_blocking(move || work(&working, &cancel)).await);
    hearing.abort();
    let answers = match done {
        Ok(done) => answer(done),
        Err(error) => vec![response::What::Failure(crate::wire::sync::failure_out(&error))],
    };
    for what in answers {
        if stream.sender.send(&proto::Response { what: Some(what) }).await.is_err() {
            break;
        }
    }
    stream.sender.finish();
    stream.sender.delivered().await;
    drop(running);
}

/// What rules keep and what they do not.
pub struct Chosen {
    pub kept: Vec<(Name, Snapshot, String)>,
    pub removed: Snapshots,
}

/// Chooses among snapshots, those of each reference on their own.
pub fn choose(all: Snapshots, rules: &Keep, zone: chrono_tz::Tz, tags: &[String]) -> Chosen {
    let mut by_reference: BTreeMap<String, Snapshots> = BTreeMap::new();
    for (id, snapshot) in all {
        by_reference.entry(snapshot.of.clone()).or_default().push((id, snapshot));
    }
    let mut chosen = Chosen { kept: Vec::new(), removed: Vec::new() };
    for snapshots in by_reference.into_values() {
        let taken: Vec<i64> = snapshots.iter().map(|(_, snapshot)| (snapshot.taken_ms / 1000) as i64).collect();
        for ((id, snapshot), reasons) in snapshots.into_iter().zip(keep(rules, zone, &taken)) {
            let mut why: Vec<String> = reasons.iter().map(ToString::to_string).collect();
            why.extend(snapshot.tags.iter().filter(|tag| tags.contains(tag)).map(|tag| format!("tag {tag}")));
            match why.is_empty() && !(rules.is_empty() && tags.is_empty()) {
                true => chosen.removed.push((id, snapshot)),
                false => chosen.kept.push((id, snapshot, why.join(", "))),
            }
        }
    }
    chosen
}

pub async fn prune(daemon: Arc<Daemon>, who: Principal, stream: Stream, prune: proto::SnapshotPrune) {
    let label = who.label();
    let work = move |daemon: &Daemon, _: &Cancel| prune_now(daemon, &who, &prune);
    long(&daemon, stream, "prune", label, work, |pruned| vec![response::What::Pruned(pruned)]).await;
}

fn prune_now(daemon: &Daemon, who: &Principal, prune: &proto::SnapshotPrune) -> Result<proto::Pruned> {
    who.is_enrolled()?;
    let rules = Keep {
        last: prune.keep_last,
        hourly: prune.keep_hourly,
        daily: prune.keep_daily,
        weekly: prune.keep_weekly,
        monthly: prune.keep_monthly,
    };
    let mut all = daemon.snapshots_for(who)?;
    all.retain(|(_, snapshot)| who.may(Role::Deployer, &snapshot.tenant).is_ok());
    if !prune.of.is_empty() {
        all.retain(|(_, snapshot)| snapshot.of == prune.of);
    }
    if all.is_empty() {
        who.may_administrate()?;
    }
    let chosen = choose(all, &rules, chrono_tz::UTC, &prune.keep_tags);
    let mut pruned = proto::Pruned { removed: entries(&chosen.removed), ..Default::default() };
    for (id, snapshot, why) in chosen.kept {
        pruned.kept.extend(entries(&[(id, snapshot)]));
        pruned.reasons.push(why);
    }
    if prune.dry_run {
        return Ok(pruned);
    }
    let store = daemon.store()?;
    let ids: Vec<Name> = chosen.removed.iter().map(|(id, _)| *id).collect();
    let on = format!("{} snapshots", ids.len());
    let collected = requests::note(daemon, who, "snapshot prune", "", &on, &mut || {
        store.remove(&ids)?;
        store.collect()
    })?;
    pruned.packs_removed = collected.packs_removed;
    pruned.packs_rewritten = collected.packs_rewritten;
    pruned.bytes_freed = collected.bytes_freed;
    pruned.bytes_kept = collected.bytes_kept;
    Ok(pruned)
}

pub async fn verify(daemon: Arc<Daemon>, who: Principal, stream: Stream, verify: proto::SnapshotVerify) {
    let label = who.label();
    let work = move |daemon: &Daemon, cancel: &Cancel| {
        // It names paths of all tenants.
        who.may_administrate()?;
        let found = daemon.store()?.verify(verify.read_data, &|_| (), cancel)?;
        let what = format!("{} problems", found.problems.len());
        let number = daemon.state.audit_begin(&who.key, &who.label(), "snapshot verify", "", "", now_unix())?;
        daemon.state.audit_end(number, &what)?;
        Ok(found)
    };
    let answer = |found: crate::store::verify::Verified| {
        vec![response::What::Verified(proto::Verified {
            snapshots: found.snapshots,
            objects: found.objects,
            packs: found.packs,
            bytes_read: found.bytes_read,
            problems: found.problems.into_iter().map(problem_out).collect(),
        })]
    };
    long(&daemon, stream, "verify", label, work, answer).await;
}

fn problem_out(problem: Problem) -> proto::StoreProblem {
    match problem {
        Problem::File { file, what } => proto::StoreProblem { file, what, ..Default::default() },
        Problem::Path { snapshot, volume, path } => proto::StoreProblem {
            snapshot: Bytes::copy_from_slice(&snapshot.0),
            volume,
            path: path.into(),
            ..Default::default()
        },
    }
}

pub async fn diff(daemon: Arc<Daemon>, who: Principal, stream: Stream, diff: proto::SnapshotDiff) {
    let label = who.label();
    let work = move |daemon: &Daemon, _: &Cancel| {
        let all = daemon.snapshots_for(&who)?;
        let (a, b) = (meant(&diff.a, &all)?.clone(), meant(&diff.b, &all)?.clone());
        let store = daemon.store()?;
        let _pins = [store.hold(a.0)?.1, store.hold(b.0)?.1];
        let mut changes = Vec::new();
        for (volume, of_a, of_b) in beside(&a.1, &b.1) {
            let found = store.diff(of_a, of_b)?;
            changes.extend(found.into_iter().map(|change| change_out(&volume, change)));
        }
        Ok((a, b, changes))
    };
    let answer = |(a, b, changes): ((Name, Snapshot), (Name, Snapshot), Vec<proto::SnapshotChange>)| {
        let mut parts: Vec<Vec<proto::SnapshotChange>> = changes.chunks(CHANGES).map(<[_]>::to_vec).collect();
        if parts.is_empty() {
            parts.push(Vec::new());
        }
        let last = parts.len() - 1;
        let entry = |of: &(Name, Snapshot)| entries(std::slice::from_ref(of)).pop();
        let part = |(at, changes)| {
            let (a, b) = if at == 0 { (entry(&a), entry(&b)) } else { (None, None) };
            response::What::SnapshotChanges(proto::SnapshotChanges { a, b, changes, more: at < last })
        };
        parts.into_iter().enumerate().map(part).collect()
    };
    long(&daemon, stream, "diff", label, work, answer).await;
}

/// The volumes of two snapshots beside one another: those with the same service and path, or the only one of each.
fn beside<'s>(a: &'s Snapshot, b: &'s Snapshot) -> Vec<(String, Option<&'s Volume>, Option<&'s Volume>)> {
    if let ([only_a], [only_b]) = (&a.volumes[..], &b.volumes[..]) {
        return vec![(only_b.label(), Some(only_a), Some(only_b))];
    }
    let in_b = |volume: &Volume| b.volumes.iter().find(|other| other.data == volume.data);
    let both = a.volumes.iter().map(|volume| (volume.label(), Some(volume), in_b(volume)));
    let new = b.volumes.iter().filter(|volume| !a.volumes.iter().any(|other| other.data == volume.data));
    both.chain(new.map(|volume| (volume.label(), None, Some(volume)))).collect()
}

fn change_out(volume: &str, change: Change) -> proto::SnapshotChange {
    proto::SnapshotChange {
        volume: volume.to_owned(),
        kind: change.kind as u32,
        path: change.path.into(),
        from: change.from.into(),
    }
}
