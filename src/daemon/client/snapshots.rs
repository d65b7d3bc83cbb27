//! Snapshots of a daemon, as its clients ask for them; and their trees as sources of syncs.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;

use super::sync::{Seen, one_between};
use super::{Client, answer, open_source, start, unexpected};
use crate::daemon::copies::until;
use crate::model::between::{Sum, one_volume};
use crate::model::host::{DataVolume, Tenant, VolumeRef};
use crate::model::sync::{Event, Report, SyncOptions};
use crate::model::{Error, Kind, Name, Reference, Result};
use crate::store::snapshot::{Snapshot, Volume};
use crate::sync::{Cancel, LiveDir, Observer};
use crate::transport::source;
use crate::wire::proto::{self, request, response, sync_control};
use crate::wire::{host as wire, nonsense, sync as wire_sync};

/// How often waiting code looks whether it is to stop.
const LOOK: Duration = Duration::from_millis(50);

/// A snapshot that was taken, and what it cost.
#[derive(Clone, Debug)]
pub struct Created {
    pub id: Name,
    pub snapshot: Snapshot,
    pub bytes_new: u64,
    pub bytes_stored: u64,
    pub bytes_read: u64,
    pub seconds: f64,
}

/// Which volume of a snapshot goes where.
#[derive(Clone, Debug)]
pub struct Restore {
    pub id: Name,
    pub snapshot: Snapshot,
    /// Just this one of its volumes: `root`, or `SERVICE:/PATH`.
    pub volume: Option<String>,
    /// To a tenant: the root volume, too.
    pub code: bool,
}

impl Client {
    /// Takes a snapshot of what the reference names. `hear` hears how it goes.
    pub async fn snapshot_create(
        &self,
        of: &Reference,
        force: bool,
        tags: &[String],
        hear: impl Fn(Event),
        cancel: Cancel,
    ) -> Result<Created> {
        let create = proto::SnapshotCreate {
            tenant: of.tenant.to_string(),
            service: of.service.as_ref().map(ToString::to_string).unwrap_or_default(),
            path: of.volume.as_ref().map(ToString::to_string).unwrap_or_default(),
            force,
            tags: tags.to_vec(),
        };
        let mut stream = start(&self.connection, request::What::SnapshotCreate(create)).await?;
        let sender = &mut stream.sender;
        let receiver = &mut stream.receiver;
        let stop = async {
            while !cancel.load(Ordering::SeqCst) {
                tokio::time::sleep(LOOK).await;
            }
            let _ = sender.send(&proto::SyncControl { what: Some(sync_control::What::Cancel(true)) }).await;
            std::future::pending::<()>().await;
        };
        let listen = async {
            loop {
                match receiver.receive::<proto::Response>().await?.and_then(|response| response.what) {
                    Some(response::What::SyncEvent(event)) => match wire_sync::event_in(event) {
                        Ok(event) => hear(event),
                        Err(error) => tracing::debug!("{error}"),
                    },
                    Some(response::What::Snapshots(made)) => return Ok(made),
                    Some(response::What::Failure(error)) => return Err(wire_sync::failure_in(error)),
                    _ => return Err(unexpected()),
                }
            }
        };
        let made = tokio::select! {
            made = listen => made?,
            () = stop => return Err(unexpected()),
        };
        let proto::Snapshots { snapshots, bytes_new, bytes_stored, bytes_read, seconds } = made;
        let (id, snapshot) = super::only(snapshots).and_then(entry_in)?;
        Ok(Created { id, snapshot, bytes_new, bytes_stored, bytes_read, seconds })
    }

    /// The snapshots that we may see, the oldest first.
    pub async fn snapshot_list(&self) -> Result<Vec<(Name, Snapshot)>> {
        self.snapshots(request::What::SnapshotList(proto::SnapshotList {})).await
    }

    /// The snapshots that these words mean, in their order.
    pub async fn snapshot_find(&self, words: &[String]) -> Result<Vec<(Name, Snapshot)>> {
        let found =
            self.snapshots(request::What::SnapshotFind(proto::SnapshotFind { snapshots: words.to_vec() })).await?;
        if found.len() == words.len() { Ok(found) } else { Err(unexpected()) }
    }

    /// Removes the snapshots that these words mean; returns them.
    pub async fn snapshot_remove(&self, words: &[String]) -> Result<Vec<(Name, Snapshot)>> {
        self.snapshots(request::What::SnapshotRemove(proto::SnapshotRemove { snapshots: words.to_vec() })).await
    }

    /// Compares two snapshots.
    pub async fn snapshot_diff(&self, a: &str, b: &str) -> Result<proto::SnapshotChanges> {
        let diff = proto::SnapshotDiff { a: a.to_owned(), b: b.to_owned() };
        let mut stream = start(&self.connection, request::What::SnapshotDiff(diff)).await?;
        let mut all: Option<proto::SnapshotChanges> = None;
        loop {
            let response::What::SnapshotChanges(part) = answer(&mut stream).await? else { return Err(unexpected()) };
            let more = part.more;
            match &mut all {
                Some(all) => all.changes.extend(part.changes),
                None => all = Some(part),
            }
            if !more {
                return all.ok_or_else(unexpected);
            }
        }
    }

    /// Removes what no rule keeps, and gives back what nothing needs any more.
    pub async fn snapshot_prune(&self, prune: proto::SnapshotPrune) -> Result<proto::Pruned> {
        let mut stream = start(&self.connection, request::What::SnapshotPrune(prune)).await?;
        match answer(&mut stream).await? {
            response::What::Pruned(pruned) => Ok(pruned),
            _ => Err(unexpected()),
        }
    }

    /// Looks whether the store is what it says.
    pub async fn snapshot_verify(&self, read_data: bool) -> Result<proto::Verified> {
        let verify = proto::SnapshotVerify { read_data };
        let mut stream = start(&self.connection, request::What::SnapshotVerify(verify)).await?;
        match answer(&mut stream).await? {
            response::What::Verified(verified) => Ok(verified),
            _ => Err(unexpected()),
        }
    }

    async fn snapshots(&self, what: request::What) -> Result<Vec<(Name, Snapshot)>> {
        match self.ask(what).await? {
            response::What::Snapshots(found) => found.snapshots.into_iter().map(entry_in).collect(),
            _ => Err(unexpected()),
        }
    }

    /// Makes a folder of this machine equal to one volume of a snapshot.
    pub async fn snapshot_pull(
        &self,
        id: Name,
        volume: &VolumeRef,
        to: &LiveDir,
        options: &SyncOptions,
        observer: Arc<dyn Observer>,
        cancel: Cancel,
    ) -> Result<Report> {
        let before = self.connection.traffic();
        let open = proto::SourceOpen {
            volume: Some(wire::volume_out(volume)),
            snapshot: Bytes::copy_from_slice(&id.0),
            ..Default::default()
        };
        let stream = open_source(&self.connection, open).await?;
        let (end, cut) = source::remote_source(stream);
        let (dir, options, stop) = (to.clone(), options.clone(), cancel.clone());
        let engine = tokio::task::spawn_blocking(move || crate::sync::run(&dir, end, &options, observer, cancel));
        let mut report = until(engine, || stop.load(Ordering::SeqCst), &cut).await?;
        let traffic = self.connection.traffic().since(before);
        (report.bytes_sent, report.bytes_received) = (traffic.sent, traffic.received);
        Ok(report)
    }
}

impl Restore {
    fn volumes(&self) -> Result<Vec<&Volume>> {
        let all = &self.snapshot.volumes;
        let Some(wanted) = &self.volume else { return Ok(all.iter().collect()) };
        let found: Vec<_> = all.iter().filter(|volume| volume.label() == *wanted).collect();
        if found.is_empty() {
            let there = all.iter().map(Volume::label).collect::<Vec<_>>().join(", ");
            return Err(Error::new(Kind::NotFound, format!("the snapshot has no volume `{}`", wanted.escape_debug()))
                .hint(format!("it has {there}")));
        }
        Ok(found)
    }

    fn source(&self, volume: &Volume) -> VolumeRef {
        VolumeRef { tenant: self.snapshot.tenant.clone(), data: volume.data.clone() }
    }

    /// Which volume goes into which folder below the one that is named: one alone is that folder itself.
    pub fn folders(&self) -> Result<Vec<(VolumeRef, Option<String>)>> {
        let volumes = self.volumes()?;
        let alone = volumes.len() == 1;
        Ok(volumes
            .into_iter()
            .map(|volume| (self.source(volume), (!alone).then(|| folder_of(volume.data.as_ref()))))
            .collect())
    }

    /// Which volume goes to which volume of a tenant.
    fn pairs(&self, reference: &Reference, to: &Tenant) -> Result<Vec<(VolumeRef, VolumeRef)>> {
        let volumes = self.volumes()?;
        let target = |data: Option<DataVolume>| VolumeRef { tenant: to.name.clone(), data };
        if reference.volume.is_some() || reference.service.is_some() {
            let one = one_volume(reference)?;
            let likes: Vec<_> = volumes.iter().filter(|volume| volume.data == one.data).collect();
            let from = match (&volumes[..], &likes[..]) {
                ([only], _) => *only,
                (_, [like]) => **like,
                _ => {
                    let there = volumes.iter().map(|volume| volume.label()).collect::<Vec<_>>().join(", ");
                    return Err(Error::usage(format!("the snapshot has several volumes, and none like {one}"))
                        .hint(format!("say with --volume which one it is to be: {there}")));
                }
            };
            return Ok(vec![(self.source(from), one)]);
        }
        let only_code = volumes.iter().all(|volume| volume.data.is_none());
        let wanted: Vec<_> =
            volumes.into_iter().filter(|volume| volume.data.is_some() || self.code || only_code).collect();
        let missing: Vec<String> = wanted
            .iter()
            .filter_map(|volume| volume.data.as_ref())
            .filter(|data| !to.volumes.contains(data))
            .map(ToString::to_string)
            .collect();
        if !missing.is_empty() {
            return Err(Error::new(
                Kind::NotFound,
                format!("`{}` lacks volumes that the snapshot has: {}", to.name, missing.join(", ")),
            )
            .hint("give it an mcloud.yml with them, or restore one by one: --volume SERVICE:/PATH to S.T@HOST:/x"));
        }
        Ok(wanted.into_iter().map(|volume| (self.source(volume), target(volume.data.clone()))).collect())
    }
}

/// The folder in which a volume is put beside others.
pub fn folder_of(data: Option<&DataVolume>) -> String {
    data.map_or_else(
        || "root".to_owned(),
        |data| {
            let path = data.path.as_str().trim_start_matches('/').replace('%', "%25").replace('/', "%2F");
            format!("{}.{path}", data.service)
        },
    )
}

/// Restores volumes of a snapshot of `source` to volumes of a tenant of `target`, which may be the same daemon.
pub async fn restore_to_tenant(
    source: &Client,
    target: &Client,
    restore: &Restore,
    to: &Reference,
    options: &SyncOptions,
    observer: Arc<dyn Observer>,
    cancel: Cancel,
) -> Result<Report> {
    let pairs = restore.pairs(to, &target.tenant(to).await?)?;
    let several = pairs.len() > 1;
    let mut sum = Sum::default();
    for (from, to) in pairs {
        if several {
            observer.event(Event::Note(format!("{from} → {to}")));
        }
        let seen = Seen { snapshot: Bytes::copy_from_slice(&restore.id.0), ..Seen::default() };
        let one = one_between((source, target), (&from, &to), seen, options, observer.clone(), cancel.clone());
        sum.add(one.await?);
    }
    Ok(sum.report)
}

pub fn entry_in(entry: proto::SnapshotEntry) -> Result<(Name, Snapshot)> {
    let id = Name::from_slice(&entry.id);
    let snapshot = Snapshot::decode(&entry.record);
    id.zip(snapshot).ok_or_else(|| nonsense("a snapshot that cannot be read"))
}
