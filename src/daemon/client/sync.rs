//! Syncs as a client starts them: it stands at the source (push), at the target (pull), or at neither (between).

use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;

use super::freeze::freeze;
use super::{Client, start, unexpected};
use crate::daemon::copies::until;
use crate::model::between::{Between, Sum, one_volume, pair};
use crate::model::host::{Tenant, VolumeRef};
use crate::model::sync::{Event, Plan, Report, SyncOptions};
use crate::model::{Error, Kind, Reference, Result};
use crate::sync::{self, Cancel, LiveDir, Observer};
use crate::transport::{Stream, source};
use crate::wire::proto::{self, request, response, sync_control, sync_start};
use crate::wire::{host as wire, sync as wire_sync};

/// How often waiting code looks whether it is to stop.
const LOOK: Duration = Duration::from_millis(50);
/// How long a daemon may take to leave a sync that was stopped as it was.
const GRACE: Duration = Duration::from_secs(15);

pub async fn push(
    client: &Client,
    from: &LiveDir,
    to: &Reference,
    options: &SyncOptions,
    observer: Arc<dyn Observer>,
    cancel: Cancel,
) -> Result<Report> {
    push_volume(client, from, &one_volume(to)?, options, observer, cancel).await
}

/// Makes a volume of the daemon equal to a folder of this machine.
pub async fn push_volume(
    client: &Client,
    from: &LiveDir,
    to: &VolumeRef,
    options: &SyncOptions,
    observer: Arc<dyn Observer>,
    cancel: Cancel,
) -> Result<Report> {
    if client.is_neighbour && options.bytes_per_second == 0 {
        return push_to_neighbour(client, from, to, options, observer, cancel).await;
    }
    static NUMBERS: AtomicU64 = AtomicU64::new(1);
    let number = NUMBERS.fetch_add(1, Ordering::Relaxed);
    let before = client.connection.traffic();
    let sync = proto::SyncStart {
        target: Some(wire::volume_out(to)),
        options: Some(wire_sync::options_out(options)),
        source: Some(sync_start::Source::Attached(number)),
        frozen: Bytes::new(),
    };
    let control = start(&client.connection, request::What::SyncStart(sync)).await?;
    let attach = request::What::SourceAttach(proto::SourceAttach { number });
    let (end, cut) = source::remote_target(start(&client.connection, attach).await?);
    let dir = from.clone();
    let serving = tokio::task::spawn_blocking(move || sync::serve(&dir, end));
    let done = watch(control, observer, cancel).await;
    if done.is_err() {
        cut.cut();
    }
    let served = until(serving, || true, &cut).await;
    let mut report = match (done, served) {
        (Ok(report), _) => report,
        // A daemon that only knows that its source hung up knows less than the source.
        (Err(error), Err(served)) if error.kind == Kind::Failed && served.kind != Kind::Failed => return Err(served),
        (Err(error), _) => return Err(error),
    };
    let traffic = client.connection.traffic().since(before);
    (report.bytes_sent, report.bytes_received) = (traffic.sent, traffic.received);
    Ok(report)
}

/// A daemon that sees what we see reads the folder itself: no byte of it has to cross a wire.
pub(super) async fn push_to_neighbour(
    client: &Client,
    from: &LiveDir,
    to: &VolumeRef,
    options: &SyncOptions,
    observer: Arc<dyn Observer>,
    cancel: Cancel,
) -> Result<Report> {
    let bytes = |path: &Path| Bytes::copy_from_slice(path.as_os_str().as_bytes());
    let folder = proto::FolderSource {
        path: bytes(&from.root),
        index: from.index.as_deref().map(bytes).unwrap_or_default(),
        label: from.label.clone(),
    };
    let sync = proto::SyncStart {
        target: Some(wire::volume_out(to)),
        options: Some(wire_sync::options_out(options)),
        source: Some(sync_start::Source::Folder(folder)),
        frozen: Bytes::new(),
    };
    let control = start(&client.connection, request::What::SyncStart(sync)).await?;
    watch(control, observer, cancel).await
}

pub async fn pull(
    client: &Client,
    from: &Reference,
    to: &LiveDir,
    options: &SyncOptions,
    observer: Arc<dyn Observer>,
    cancel: Cancel,
) -> Result<Report> {
    let before = client.connection.traffic();
    let volume = one_volume(from)?;
    let lease = freeze(client, std::slice::from_ref(&volume), false, options, &observer, &cancel).await?;
    let open = proto::SourceOpen { volume: Some(wire::volume_out(&volume)), frozen: lease.id(), ..Default::default() };
    let stream = super::open_source(&client.connection, open).await?;
    let (end, cut) = source::remote_source(stream);
    let (dir, options, stop) = (to.clone(), options.clone(), cancel.clone());
    let engine = tokio::task::spawn_blocking(move || sync::run(&dir, end, &options, observer, cancel));
    let mut report = until(engine, || stop.load(Ordering::SeqCst), &cut).await?;
    let traffic = client.connection.traffic().since(before);
    (report.bytes_sent, report.bytes_received) = (traffic.sent, traffic.received);
    Ok(lease.end(report).await)
}

/// Syncs between tenants, at one daemon or straight from one daemon to another. A reference with a volume is that
/// volume; one without is every data volume, to the one with the same service and path. Several volumes are one sync
/// after the other, each with its own plan and question; their reports are summed (and name roots only when there was one).
/// With `--force` the source is frozen once, and all are copied as of that moment.
///
/// `source` and `target` may be connections to the same daemon.
pub async fn sync_between(
    source: &Client,
    target: &Client,
    between: &Between,
    options: &SyncOptions,
    observer: Arc<dyn Observer>,
    cancel: Cancel,
) -> Result<Report> {
    let pairs = pair(between, &source.tenant(&between.from).await?, &target.tenant(&between.to).await?)?;
    let several = pairs.len() > 1;
    let volumes: Vec<VolumeRef> = pairs.iter().map(|(from, _)| from.clone()).collect();
    let here = source.who.host_key == target.who.host_key;
    let apart = here && between.from.tenant == between.to.tenant;
    let lease = freeze(source, &volumes, apart, options, &observer, &cancel).await?;
    let mut sum = Sum::default();
    for (from, to) in pairs {
        if several {
            observer.event(Event::Note(format!("{from} → {to}")));
        }
        let seen = Seen { frozen: lease.id(), snapshot: Bytes::new() };
        let one = one_between((source, target), (&from, &to), seen, options, observer.clone(), cancel.clone());
        sum.add(one.await?);
    }
    Ok(lease.end(sum.report).await)
}

impl Client {
    /// The tenant that a reference names.
    pub(super) async fn tenant(&self, reference: &Reference) -> Result<Tenant> {
        let tenants = self.tenant_list().await?;
        let names: Vec<String> = tenants.iter().map(|tenant| tenant.name.to_string()).collect();
        tenants.into_iter().find(|tenant| tenant.name == reference.tenant).ok_or_else(|| {
            let there =
                if names.is_empty() { "it shows us none".to_owned() } else { format!("it has {}", names.join(", ")) };
            Error::new(Kind::NotFound, format!("{} has no tenant `{}`", self.connection.label(), reference.tenant))
                .hint(there)
        })
    }
}

/// How a source volume is seen: as it lives, where both are empty; in a frozen view, or in a snapshot, by its id.
#[derive(Default)]
pub(super) struct Seen {
    pub frozen: Bytes,
    pub snapshot: Bytes,
}

/// One volume to one volume.
pub(super) async fn one_between(
    (source, target): (&Client, &Client),
    (from, to): (&VolumeRef, &VolumeRef),
    seen: Seen,
    options: &SyncOptions,
    observer: Arc<dyn Observer>,
    cancel: Cancel,
) -> Result<Report> {
    let from_out = wire::volume_out(from);
    let here = source.who.host_key == target.who.host_key;
    let from_where = if here && !seen.snapshot.is_empty() {
        sync_start::Source::Snapshot(proto::SnapshotSource { id: seen.snapshot, volume: Some(from_out) })
    } else if here {
        sync_start::Source::Here(from_out)
    } else {
        let host_key = target.connection.peer();
        let host_key = Bytes::copy_from_slice(&host_key.0);
        let wanted = proto::TicketWanted { source: Some(from_out.clone()), host_key, snapshot: seen.snapshot.clone() };
        let response::What::Ticket(ticket) = source.ask(request::What::TicketWanted(wanted)).await? else {
            return Err(unexpected());
        };
        sync_start::Source::Remote(proto::RemoteSource {
            volume: Some(from_out),
            addresses: source.reachable(ticket.addresses),
            host_key: Bytes::copy_from_slice(&source.connection.peer().0),
            ticket: ticket.secret,
            frozen: seen.frozen.clone(),
            snapshot: seen.snapshot,
        })
    };
    let sync = proto::SyncStart {
        target: Some(wire::volume_out(to)),
        options: Some(wire_sync::options_out(options)),
        source: Some(from_where),
        frozen: seen.frozen,
    };
    let control = start(&target.connection, request::What::SyncStart(sync)).await?;
    watch(control, observer, cancel).await
}

/// Hears a running sync: events, its question, and how it ended; tells it to stop when `cancel` says so.
async fn watch(control: Stream, observer: Arc<dyn Observer>, cancel: Cancel) -> Result<Report> {
    let Stream { mut sender, mut receiver } = control;
    let (heard, mut responses) = mpsc::channel(64);
    let hearing = tokio::spawn(async move {
        loop {
            let response = receiver.receive::<proto::Response>().await.transpose();
            let Some(response) = response else { return };
            let over = response.is_err();
            if heard.send(response).await.is_err() || over {
                return;
            }
        }
    });
    let (answered, mut answers) = mpsc::channel::<Result<bool>>(1);
    let mut failure = None;
    let mut deadline = None;
    let done = loop {
        let response = tokio::select! {
            response = responses.recv() => response,
            Some(answer) = answers.recv() => {
                let what = match answer {
                    Ok(answer) => sync_control::What::Answer(answer),
                    Err(error) => {
                        failure = Some(error);
                        deadline.get_or_insert(tokio::time::Instant::now() + GRACE);
                        sync_control::What::Cancel(true)
                    }
                };
                // If the stream broke, the other direction says so.
                let _ = sender.send(&proto::SyncControl { what: Some(what) }).await;
                continue;
            }
            () = tokio::time::sleep(LOOK) => {
                if cancel.load(Ordering::SeqCst) && deadline.is_none() {
                    deadline = Some(tokio::time::Instant::now() + GRACE);
                    let _ = sender.send(&proto::SyncControl { what: Some(sync_control::What::Cancel(true)) }).await;
                }
                if deadline.is_some_and(|deadline| deadline < tokio::time::Instant::now()) {
                    break Err(Error::new(Kind::Cancelled, "the sync was stopped"));
                }
                continue;
            }
        };
        let what = match response {
            Some(Ok(proto::Response { what: Some(what) })) => what,
            Some(Ok(_)) => continue,
            Some(Err(error)) => break Err(error),
            None => break Err(unexpected()),
        };
        match what {
            response::What::SyncEvent(event) => match wire_sync::event_in(event) {
                Ok(event) => observer.event(event),
                Err(error) => tracing::debug!("{error}"),
            },
            response::What::SyncQuestion(question) => {
                let plan: Plan = wire_sync::plan_in(question.plan.unwrap_or_default());
                let (observer, answered) = (observer.clone(), answered.clone());
                tokio::task::spawn_blocking(move || answered.blocking_send(observer.confirm(&plan)));
            }
            response::What::SyncReport(report) => break wire_sync::report_in(report),
            response::What::Failure(error) => break Err(wire_sync::failure_in(error)),
            _ => break Err(unexpected()),
        }
    };
    hearing.abort();
    sender.finish();
    match failure {
        Some(failure) => Err(failure),
        None => done,
    }
}
