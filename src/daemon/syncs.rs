//! Syncs with an end at this host: their source here, their target here, or both.
//!
//! The engine runs where the target is. What it tells goes to the client as it comes; the client's answer and its wish
//! to stop come back on the same stream. A client that is gone has stopped the sync.

use std::net::SocketAddr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, mpsc as blocking};
use std::time::Duration;

use tokio::sync::mpsc;

use super::access::Principal;
use super::requests::{self, Session};
use super::users::Users;
use super::{Daemon, WriteLock, now_unix, tenants};
use crate::model::host::{Role, VolumeRef};
use crate::model::sync::{Event, Plan, Report, SyncOptions};
use crate::model::{Error, Kind, Result};
use crate::sync::{self, Cancel, LiveDir, Observer};
use crate::transport::source::{self, Cut};
use crate::transport::{Connection, PublicKey, Receiver, Sender, Stream, dial};
use crate::tree::link::TargetEnd;
use crate::wire::proto::{self, response, sync_control, sync_start};
use crate::wire::{host as wire, nonsense, sync as wire_sync};

/// Events on their way to a client; more make the engine wait.
const EVENTS: usize = 64;
/// How often waiting code looks whether it is to stop.
const LOOK: Duration = Duration::from_millis(50);
/// How long a cancelled sync may take to end by itself before its source is taken away.
const GRACE: Duration = Duration::from_secs(5);
/// Addresses of another host that are tried.
const ADDRESSES: usize = 16;

/// Serves a volume as a source on this stream.
pub async fn source(daemon: Arc<Daemon>, who: Principal, mut stream: Stream, open: proto::SourceOpen) {
    let running = daemon.running.clone();
    let found = tokio::task::spawn_blocking({
        let daemon = daemon.clone();
        move || -> Result<(VolumeRef, LiveDir, i64)> {
            let volume = wire::volume_in(open.volume)?;
            let (state, now) = (&daemon.state, now_unix());
            let number =
                state.audit_begin(&who.key, &who.label(), "read", volume.tenant.as_str(), &volume.to_string(), now)?;
            let look = || {
                let ticket = !open.ticket.is_empty() && state.redeem_ticket(&open.ticket, &who.key, &volume, now)?;
                if !open.ticket.is_empty() && !ticket {
                    return Err(Error::new(Kind::Refused, format!("the ticket for {volume} is not good (any more)"))
                        .hint("run the sync again: a ticket is good once, for a minute"));
                }
                if !ticket {
                    who.may(Role::Viewer, &volume.tenant)?;
                }
                let row = tenants::find(state, &volume.tenant, |name| who.sees(name))?;
                tenants::live(&daemon.home, &row, &volume)
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
    let serving = tokio::task::spawn_blocking(move || sync::serve(&dir, end));
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

/// Runs a sync whose target is here, and tells the client on this stream.
pub async fn target(daemon: Arc<Daemon>, session: &Session, who: Principal, stream: Stream, start: proto::SyncStart) {
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
    let stopping = daemon.stopping.clone();
    let watcher =
        Arc::new(Watcher { client, events, answers: Mutex::new(answers), cancel, stopping, users: OnceLock::new() });
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
    daemon.counters.syncs.fetch_add(1, Ordering::Relaxed);
    let what = match done {
        Ok(report) => response::What::SyncReport(wire_sync::report_out(&report)),
        Err(error) => {
            daemon.counters.syncs_failed.fetch_add(1, Ordering::Relaxed);
            response::What::Failure(wire_sync::failure_out(&error))
        }
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

async fn work(
    daemon: &Arc<Daemon>,
    session: &Session,
    who: &Principal,
    start: proto::SyncStart,
    watcher: Arc<Watcher>,
) -> Result<Report> {
    let target = wire::volume_in(start.target)?;
    let from = match &start.source {
        Some(sync_start::Source::Here(here)) => format!("{} ← {}", target, wire::volume_in(Some(here.clone()))?),
        Some(sync_start::Source::Remote(remote)) => {
            format!("{target} ← {} of another host", wire::volume_in(remote.volume.clone())?)
        }
        Some(sync_start::Source::Attached(_)) => format!("{target} ← the client"),
        Some(sync_start::Source::Folder(folder)) => format!("{target} ← {}", folder.label),
        None => return Err(nonsense("a sync without a source")),
    };
    let (noting, key, label, tenant) = (daemon.clone(), who.key, who.label(), target.tenant.to_string());
    let number = joined(
        tokio::task::spawn_blocking(move || noting.state.audit_begin(&key, &label, "sync", &tenant, &from, now_unix()))
            .await,
    )?;
    let options = wire_sync::options_in(start.options.unwrap_or_default());
    let cancel = watcher.cancel.clone();
    let kill = move || cancel.store(true, Ordering::SeqCst);
    let _listed = daemon.tasks.begin("sync", &target.to_string(), &who.label(), kill);
    let _ = watcher.users.set(Users::new(daemon.clone(), target.clone(), options.no_restart, watcher.events.clone()));
    let done = run(daemon, session, who, target, start.source, options, watcher.clone()).await;
    let done = match watcher.users.get() {
        Some(users) => users.release(done).await,
        None => done,
    };
    let result = match &done {
        Ok(_) => "ok".to_owned(),
        Err(error) => format!("{}: {}", error.kind.word(), error.chain()),
    };
    let noting = daemon.clone();
    joined(tokio::task::spawn_blocking(move || noting.state.audit_end(number, &result)).await)?;
    done
}

async fn run(
    daemon: &Arc<Daemon>,
    session: &Session,
    who: &Principal,
    target: VolumeRef,
    from: Option<sync_start::Source>,
    options: SyncOptions,
    watcher: Arc<Watcher>,
) -> Result<Report> {
    who.may(Role::Deployer, &target.tenant)?;
    let dir = live(daemon, who, &target).await?;

    // Two syncs into one volume: the second one waits, and says so.
    let lock = daemon.write_lock(&dir.root);
    let _held = match lock.lock.clone().try_lock_owned() {
        Ok(held) => held,
        Err(_) => {
            watcher.send(Event::Note(format!("waiting: another sync into {target} is under way"))).await;
            tokio::select! {
                held = lock.lock.clone().lock_owned() => held,
                () = stopped(&watcher) => return Err(watcher.why()),
                () = look_for_holder(&lock) => return Err(watcher.why()),
            }
        }
    };
    let _noted = lock.held_by(watcher.client.clone());
    // It may have been removed meanwhile.
    let dir = if dir.root.is_dir() { dir } else { live(daemon, who, &target).await? };

    let stop = watcher.clone();
    let (engine, cut, far) = match from {
        Some(sync_start::Source::Attached(number)) => {
            let stream = tokio::select! {
                stream = session.attached(number) => stream?,
                () = stopped(&watcher) => return Err(watcher.why()),
            };
            let (end, cut) = source::remote_source(stream);
            (engine(dir, end, options, watcher), cut, None)
        }
        Some(sync_start::Source::Remote(remote)) => {
            let (connection, stream) = tokio::select! {
                found = far(daemon, remote) => found?,
                () = stopped(&watcher) => return Err(watcher.why()),
            };
            let (end, cut) = source::remote_source(stream);
            (engine(dir, end, options, watcher), cut, Some(connection))
        }
        Some(sync_start::Source::Folder(folder)) => {
            // Whoever holds this key reads the daemon's home, and what the daemon reads.
            if who.key != daemon.local_key {
                return Err(Error::new(Kind::Refused, "only the owner of the daemon's home may have it read a folder"));
            }
            let path = |bytes: &[u8]| PathBuf::from(std::ffi::OsStr::from_bytes(bytes));
            let index = (!folder.index.is_empty()).then(|| path(&folder.index));
            let from = LiveDir { root: path(&folder.path), index, label: folder.label };
            if !from.root.is_absolute() {
                return Err(nonsense("a folder without its whole path"));
            }
            let local = move || {
                let cancel = watcher.cancel.clone();
                sync::local(&from, &dir, &options, watcher, cancel)
            };
            (tokio::task::spawn_blocking(local), Cut::default(), None)
        }
        Some(sync_start::Source::Here(here)) => {
            let here = wire::volume_in(Some(here))?;
            who.may(Role::Viewer, &here.tenant)?;
            if here == target {
                return Err(Error::new(Kind::Refused, format!("{target} is both source and target")));
            }
            let from = live(daemon, who, &here).await?;
            let local = move || {
                let cancel = watcher.cancel.clone();
                sync::local(&from, &dir, &options, watcher, cancel)
            };
            (tokio::task::spawn_blocking(local), Cut::default(), None)
        }
        None => return Err(nonsense("a sync without a source")),
    };
    let mut done = until(engine, || stop.is_over(), &cut).await;
    if let Err(error) = &done
        && error.kind == Kind::Cancelled
        && stop.stopping.load(Ordering::SeqCst)
    {
        done = Err(stop.why());
    }
    if let Some(connection) = far {
        let traffic = connection.traffic();
        if let Ok(report) = &mut done {
            // As the source saw it.
            (report.bytes_sent, report.bytes_received) = (traffic.received, traffic.sent);
        }
        connection.bye().await;
    }
    done
}

/// A client that was killed would hold its volume until its connection's patience is over: this looks for it. Never ends.
async fn look_for_holder(lock: &WriteLock) {
    loop {
        tokio::time::sleep(LOOK).await;
        let holder = lock.holder().clone();
        if let Some(client) = holder {
            client.look_for_peer().await;
        }
    }
}

fn engine(
    dir: LiveDir,
    end: TargetEnd,
    options: SyncOptions,
    watcher: Arc<Watcher>,
) -> tokio::task::JoinHandle<Result<Report>> {
    let cancel = watcher.cancel.clone();
    tokio::task::spawn_blocking(move || sync::run(&dir, end, &options, watcher, cancel))
}

/// A source at another host, which let us in because of a ticket.
async fn far(daemon: &Daemon, remote: proto::RemoteSource) -> Result<(Connection, Stream)> {
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
    let open = proto::SourceOpen { volume: remote.volume, ticket: remote.ticket };
    let stream = super::client::open_source(&connection, open).await?;
    Ok((connection, stream))
}

async fn live(daemon: &Arc<Daemon>, who: &Principal, volume: &VolumeRef) -> Result<LiveDir> {
    let (daemon, who, volume) = (daemon.clone(), who.clone(), volume.clone());
    let found = tokio::task::spawn_blocking(move || {
        let row = tenants::find(&daemon.state, &volume.tenant, |name| who.sees(name))?;
        tenants::live(&daemon.home, &row, &volume)
    });
    joined(found.await)
}

/// What a blocking task came to. Once it is over, it has a while to end by itself before its link is cut.
pub async fn until<T>(
    mut task: tokio::task::JoinHandle<Result<T>>,
    is_over: impl Fn() -> bool,
    cut: &Cut,
) -> Result<T> {
    let late = async {
        while !is_over() {
            tokio::time::sleep(LOOK).await;
        }
        tokio::time::sleep(GRACE).await;
    };
    tokio::select! {
        done = &mut task => return joined(done),
        () = late => cut.cut(),
    }
    joined(task.await)
}

fn joined<T>(done: Result<Result<T>, tokio::task::JoinError>) -> Result<T> {
    done.unwrap_or_else(|error| Err(Error::failed("a task of the daemon broke").because(error)))
}

/// The client, as the engine sees it.
struct Watcher {
    client: Connection,
    events: mpsc::Sender<response::What>,
    answers: Mutex<blocking::Receiver<bool>>,
    cancel: Cancel,
    stopping: Arc<AtomicBool>,
    /// The services that use the target.
    users: OnceLock<Users>,
}

impl Watcher {
    /// The plan, which says what becomes of services as well.
    fn with_notes(&self, mut plan: Plan) -> Plan {
        if !plan.is_empty() {
            plan.notes.extend(self.users.get().and_then(Users::note));
        }
        plan
    }

    async fn send(&self, event: Event) {
        let _ = self.events.send(response::What::SyncEvent(wire_sync::event_out(event))).await;
    }

    /// Whether the sync is to end; a daemon that stops cancels it.
    fn is_over(&self) -> bool {
        if self.stopping.load(Ordering::SeqCst) {
            self.cancel.store(true, Ordering::SeqCst);
        }
        self.cancel.load(Ordering::SeqCst)
    }

    fn why(&self) -> Error {
        match self.stopping.load(Ordering::SeqCst) {
            true => Error::new(Kind::Unreachable, "the daemon stops")
                .hint("run it again when it is up; what was staged is kept"),
            false => Error::new(Kind::Cancelled, "the sync was stopped"),
        }
    }
}

async fn stopped(watcher: &Watcher) {
    while !watcher.is_over() {
        tokio::time::sleep(LOOK).await;
    }
}

impl Observer for Watcher {
    fn event(&self, event: Event) {
        // A client that is gone does not hear it; the engine learns of that through `cancel`.
        let event = match event {
            Event::Planned(plan) => Event::Planned(self.with_notes(plan)),
            event => event,
        };
        let _ = self.events.blocking_send(response::What::SyncEvent(wire_sync::event_out(event)));
    }

    fn before_commit(&self) -> Result<()> {
        self.users.get().map_or(Ok(()), Users::stop)
    }

    fn confirm(&self, plan: &Plan) -> Result<bool> {
        let question = proto::SyncQuestion { plan: Some(wire_sync::plan_out(&self.with_notes(plan.clone()))) };
        let _ = self.events.blocking_send(response::What::SyncQuestion(question));
        let answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            match answers.recv_timeout(LOOK) {
                Ok(answer) => return Ok(answer),
                Err(blocking::RecvTimeoutError::Timeout) if !self.is_over() => {}
                Err(_) => return Err(self.why()),
            }
        }
    }
}
