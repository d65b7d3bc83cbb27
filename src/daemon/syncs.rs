//! Syncs with an end at this host: their source here, their target here, or both.
//!
//! The engine runs where the target is. What it tells goes to the client as it comes; the client's answer and its wish
//! to stop come back on the same stream. A client that is gone has stopped the sync.

use std::net::SocketAddr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError, mpsc as blocking};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;

use super::access::Principal;
use super::client::Client;
use super::copies::{Copy, From, Linked, Services, Stop, joined, until};
use super::requests::{self, Session};
use super::{Daemon, now_unix, tenants};
use crate::model::host::{Role, VolumeRef};
use crate::model::sync::{Event, Plan, Report};
use crate::model::{Error, Kind, Result};
use crate::sync::{self, Cancel, LiveDir, Observer};
use crate::transport::identity::to_hex;
use crate::transport::{Connection, PublicKey, Receiver, Sender, Stream, dial, source};
use crate::wire::proto::{self, response, sync_control, sync_start};
use crate::wire::{host as wire, nonsense, sync as wire_sync};

/// Events on their way to a client; more make the engine wait.
const EVENTS: usize = 64;
/// How often waiting code looks whether it is to stop.
const LOOK: Duration = Duration::from_millis(50);
/// Addresses of another host that are tried.
const ADDRESSES: usize = 16;

/// Serves a volume as a source on this stream.
pub async fn source(daemon: Arc<Daemon>, who: Principal, mut stream: Stream, open: proto::SourceOpen) {
    let running = daemon.running.clone();
    let found = tokio::task::spawn_blocking({
        let daemon = daemon.clone();
        move || -> Result<(VolumeRef, Served, i64)> {
            let volume = wire::volume_in(open.volume)?;
            let (state, now) = (&daemon.state, now_unix());
            let on = match open.snapshot.is_empty() {
                true => volume.to_string(),
                false => format!("{volume} in the snapshot {}", to_hex(&open.snapshot)),
            };
            let number = state.audit_begin(&who.key, &who.label(), "read", volume.tenant.as_str(), &on, now)?;
            let look = || {
                let secret = super::snapshots::ticket(&open.ticket, &open.snapshot);
                let ticket = !open.ticket.is_empty() && state.redeem_ticket(&secret, &who.key, &volume, now)?;
                if !open.ticket.is_empty() && !ticket {
                    return Err(Error::new(Kind::Refused, format!("the ticket for {volume} is not good (any more)"))
                        .hint("run the sync again: a ticket is good once, for a minute"));
                }
                if !ticket {
                    who.may(Role::Viewer, &volume.tenant)?;
                }
                if !open.snapshot.is_empty() {
                    return super::snapshots::found(&daemon, &open.snapshot, &volume).map(Served::Kept);
                }
                let row = tenants::find(state, &volume.tenant, |name| who.sees(name))?;
                match open.frozen.is_empty() {
                    true => tenants::live(&daemon.home, &row, &volume).map(Served::Live),
                    false => daemon.leases.view(&open.frozen, &volume).map(Served::Live),
                }
            };
            match look() {
                Ok(dir) => Ok((volume, dir, number)),
                Err(error) => {
                    state.audit_end(number, &format!("{}: {}", error.kind.word(), error.chain()))?;
                    Err(error)
                }
            }
        }
    });
    let (volume, dir, number) = match joined(found.await) {
        Ok(found) => found,
        Err(error) => return requests::fail(stream, &error).await,
    };
    let ready = proto::Response { what: Some(response::What::Done(proto::Done {})) };
    if stream.send(&ready).await.is_err() {
        return;
    }
    let (end, cut) = source::remote_target(stream);
    let stopping = daemon.stopping.clone();
    let serving = tokio::task::spawn_blocking(move || match dir {
        Served::Live(dir) => sync::serve(&dir, end),
        Served::Kept(kept) => kept.serve(end),
    });
    let served = until(serving, || stopping.load(Ordering::SeqCst), &cut).await;
    let result = match served {
        Ok(()) => "ok".to_owned(),
        Err(error) => {
            tracing::info!("{volume} as a source: {}", error.chain());
            format!("{}: {}", error.kind.word(), error.chain())
        }
    };
    let _ = tokio::task::spawn_blocking(move || daemon.state.audit_end(number, &result)).await;
    drop(running);
}

/// A source of this host.
enum Served {
    Live(LiveDir),
    Kept(super::snapshots::KeptVolume),
}

/// Runs a sync whose target is here, and tells the client on this stream.
pub async fn target(
    daemon: Arc<Daemon>,
    session: &Arc<Session>,
    who: Principal,
    stream: Stream,
    start: proto::SyncStart,
) {
    let running = daemon.running.clone();
    let attached = match &start.source {
        Some(sync_start::Source::Attached(number)) => Some(*number),
        _ => None,
    };
    let client = stream.connection().clone();
    let Stream { mut sender, receiver } = stream;
    let (events, outbox) = mpsc::channel(EVENTS);
    let cancel = Cancel::default();
    let (answers_in, answers) = blocking::channel();
    let hearing = tokio::spawn(hear(receiver, answers_in, cancel.clone()));
    let telling = async {
        tell(&mut sender, outbox).await;
        sender
    };
    let stop = Stop { cancel, stopping: daemon.stopping.clone() };
    let watcher = Arc::new(Watcher { client, events, answers: Mutex::new(answers), stop });
    let working = async {
        let done = work(&daemon, session, &who, start, watcher.clone()).await;
        drop(watcher);
        done
    };
    let (mut sender, done) = tokio::join!(telling, working);
    hearing.abort();
    if let Some(number) = attached {
        session.end(number);
    }
    let what = match done {
        Ok(report) => response::What::SyncReport(wire_sync::report_out(&report)),
        Err(error) => response::What::Failure(wire_sync::failure_out(&error)),
    };
    if sender.send(&proto::Response { what: Some(what) }).await.is_ok() {
        sender.finish();
        sender.delivered().await;
    }
    drop(running);
}

/// Hears answers and the wish to stop. A stream that ends or breaks is a client that is gone.
async fn hear(mut receiver: Receiver, answers: blocking::Sender<bool>, cancel: Cancel) {
    while let Ok(Some(control)) = receiver.receive::<proto::SyncControl>().await {
        match control.what {
            Some(sync_control::What::Answer(answer)) => drop(answers.send(answer)),
            Some(sync_control::What::Cancel(_)) | None => break,
        }
    }
    cancel.store(true, Ordering::SeqCst);
}

async fn tell(sender: &mut Sender, mut outbox: mpsc::Receiver<response::What>) {
    while let Some(what) = outbox.recv().await {
        if sender.send(&proto::Response { what: Some(what) }).await.is_err() {
            return;
        }
    }
}

/// What is asked for, as a copy.
async fn work(
    daemon: &Arc<Daemon>,
    session: &Arc<Session>,
    who: &Principal,
    start: proto::SyncStart,
    watcher: Arc<Watcher>,
) -> Result<Report> {
    let to = wire::volume_in(start.target)?;
    let (label, from) = match start.source {
        Some(sync_start::Source::Here(here)) => {
            let volume = wire::volume_in(Some(here))?;
            let label = volume.to_string();
            match start.frozen.is_empty() {
                true => (label, From::Volume(volume)),
                false => (label, From::View(daemon.leases.view(&start.frozen, &volume)?, volume)),
            }
        }
        Some(sync_start::Source::Remote(remote)) => {
            let label = format!("{} of another host", wire::volume_in(remote.volume.clone())?);
            (label, From::Link(Box::pin(far(daemon.clone(), remote))))
        }
        Some(sync_start::Source::Attached(number)) => {
            let session = session.clone();
            let link = async move { Ok(Linked::over(session.attached(number).await?, None)) };
            ("the client".to_owned(), From::Link(Box::pin(link)))
        }
        Some(sync_start::Source::Folder(folder)) => {
            let label = folder.label.clone();
            match of_owner(daemon, who, folder) {
                Ok(tree) => (label, From::Tree(tree)),
                // Noted in the audit log like any other refusal.
                Err(error) => (label, From::Link(Box::pin(async { Err(error) }))),
            }
        }
        Some(sync_start::Source::Snapshot(from)) => {
            let (label, link) = super::snapshots::link(daemon, who, from)?;
            (label, From::Link(link))
        }
        None => return Err(nonsense("a sync without a source")),
    };
    let options = wire_sync::options_in(start.options.unwrap_or_default());
    let (client, cancel) = (Some(watcher.client.clone()), watcher.stop.cancel.clone());
    let copy = Copy { label, from, to, options, services: Services::Minded, client };
    copy.run(daemon, who, watcher, cancel).await
}

/// A folder that the daemon is to read. Whoever holds its own key reads its home, and what it reads.
fn of_owner(daemon: &Daemon, who: &Principal, folder: proto::FolderSource) -> Result<LiveDir> {
    if who.key != daemon.local_key {
        return Err(Error::new(Kind::Refused, "only the owner of the daemon's home may have it read a folder"));
    }
    let path = |bytes: &[u8]| PathBuf::from(std::ffi::OsStr::from_bytes(bytes));
    let index = (!folder.index.is_empty()).then(|| path(&folder.index));
    let from = LiveDir { root: path(&folder.path), index, label: folder.label };
    if !from.root.is_absolute() {
        return Err(nonsense("a folder without its whole path"));
    }
    Ok(from)
}

/// A volume of a host that knows us by a grant.
pub fn granted(client: &Client, volume: &VolumeRef, frozen: Bytes) -> Result<proto::RemoteSource> {
    let host_key: PublicKey = client.whoami().host_key.parse()?;
    Ok(proto::RemoteSource {
        volume: Some(wire::volume_out(volume)),
        addresses: vec![client.reached().to_string()],
        host_key: Bytes::copy_from_slice(&host_key.0),
        ticket: Bytes::new(),
        frozen,
        snapshot: Bytes::new(),
    })
}

/// A source at another host, which lets us in because of a ticket or a grant.
pub async fn far(daemon: Arc<Daemon>, remote: proto::RemoteSource) -> Result<Linked> {
    let key = PublicKey::from_slice(&remote.host_key).ok_or_else(|| nonsense("a host's key that is none"))?;
    let addresses: Option<Vec<SocketAddr>> =
        remote.addresses.iter().take(ADDRESSES).map(|address| address.parse().ok()).collect();
    let addresses = addresses.ok_or_else(|| nonsense("a host's address that is none"))?;
    let label = format!("the source's host ({})", remote.addresses.join(", "));
    let connection = dial(&addresses, &label, &daemon.identity, key).await.map_err(|error| {
        let hint =
            "the data goes straight from host to host: the target's host has to reach the source's, at this UDP port";
        if error.message.contains("reach") { error.hint(hint) } else { error }
    })?;
    let proto::RemoteSource { volume, ticket, frozen, snapshot, .. } = remote;
    let open = proto::SourceOpen { volume, ticket, frozen, snapshot };
    let stream = super::client::open_source(&connection, open).await?;
    Ok(Linked::over(stream, Some(connection)))
}

/// The client, as the engine sees it.
struct Watcher {
    client: Connection,
    events: mpsc::Sender<response::What>,
    answers: Mutex<blocking::Receiver<bool>>,
    stop: Stop,
}

impl Observer for Watcher {
    fn event(&self, event: Event) {
        // A client that is gone does not hear it; the engine learns of that through `cancel`.
        let _ = self.events.blocking_send(response::What::SyncEvent(wire_sync::event_out(event)));
    }

    fn confirm(&self, plan: &Plan) -> Result<bool> {
        let question = proto::SyncQuestion { plan: Some(wire_sync::plan_out(plan)) };
        let _ = self.events.blocking_send(response::What::SyncQuestion(question));
        let answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            match answers.recv_timeout(LOOK) {
                Ok(answer) => return Ok(answer),
                Err(blocking::RecvTimeoutError::Timeout) if !self.stop.is_asked() => {}
                Err(_) => return Err(self.stop.why()),
            }
        }
    }
}
