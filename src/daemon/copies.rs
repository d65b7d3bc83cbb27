//! A sync into a volume of this host, whoever wants it: a client, a schedule, a release. The one mechanism for all.
//!
//! It is noted in the audit log and listed as a task. It waits for its volume, since one sync at a time writes to it. The
//! services that use the volume are stopped before it changes and started after. Who asks has to be allowed both: to
//! change the target, and to read a source of this host.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc as blocking};
use std::time::Duration;

use futures_util::future::BoxFuture;

use super::access::Principal;
use super::users::Users;
use super::{Daemon, WriteLock, now_unix, tenants};
use crate::model::host::{Role, VolumeRef};
use crate::model::sync::{Event, Plan, Report, SyncOptions};
use crate::model::{Error, Kind, Result};
use crate::sync::{self, Cancel, LiveDir, Observer};
use crate::transport::source::Cut;
use crate::transport::{Connection, Stream, source};
use crate::tree::link::TargetEnd;

/// How often waiting code looks whether it is to stop.
const LOOK: Duration = Duration::from_millis(50);
/// How long a cancelled sync may take to end by itself before its source is taken away.
const GRACE: Duration = Duration::from_secs(5);

/// What is to be copied where.
pub struct Copy {
    /// As the audit log calls it.
    pub label: String,
    pub from: From,
    pub to: VolumeRef,
    pub options: SyncOptions,
    pub services: Services,
    /// The client that waits for it: when that one is gone, others need not wait for this sync.
    pub client: Option<Connection>,
}

/// Where a copy comes from.
pub enum From {
    /// A volume of this host, as it lives.
    Volume(VolumeRef),
    /// A frozen view of a volume of this host.
    View(LiveDir, VolumeRef),
    /// A folder of this machine that the caller vouches for.
    Tree(LiveDir),
    /// Whatever serves the other end of a link: a client, another host, a store. The link is made once the target is ours.
    Link(BoxFuture<'static, Result<Linked>>),
}

/// A link to a source.
pub struct Linked {
    pub end: TargetEnd,
    /// Takes the source away when the sync has to end and does not.
    pub cut: Cut,
    /// The connection that carries nothing but this link: it is counted, and closed at the end.
    pub connection: Option<Connection>,
}

impl Linked {
    /// A source at the other end of a stream.
    pub fn over(stream: Stream, connection: Option<Connection>) -> Linked {
        let (end, cut) = source::remote_source(stream);
        Linked { end, cut, connection }
    }
}

/// What becomes of the services that use the target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Services {
    /// Stopped before it changes and started after it, or left stopped with `--no-restart`.
    Minded,
    /// The caller has stopped them, and holds the tenant's life lock.
    Stopped,
}

impl Copy {
    /// Does it. `observer` hears its events, is asked, and takes part in its commit; it is called on threads that may block.
    pub async fn run(
        self,
        daemon: &Arc<Daemon>,
        who: &Principal,
        observer: Arc<dyn Observer>,
        cancel: Cancel,
    ) -> Result<Report> {
        let running = daemon.running.clone();
        let (noting, key, label) = (daemon.clone(), who.key, who.label());
        let (tenant, what) = (self.to.tenant.to_string(), format!("{} ← {}", self.to, self.label));
        let number = joined(
            tokio::task::spawn_blocking(move || {
                noting.state.audit_begin(&key, &label, "sync", &tenant, &what, now_unix())
            })
            .await,
        )?;
        let kill = cancel.clone();
        let kill = move || kill.store(true, Ordering::SeqCst);
        let _listed = daemon.tasks.begin("sync", &self.to.to_string(), &who.label(), kill);
        let done = self.minding(daemon, who, observer, cancel).await;
        let result = match &done {
            Ok(_) => "ok".to_owned(),
            Err(error) => format!("{}: {}", error.kind.word(), error.chain()),
        };
        daemon.counters.syncs.fetch_add(1, Ordering::Relaxed);
        if done.is_err() {
            daemon.counters.syncs_failed.fetch_add(1, Ordering::Relaxed);
        }
        let noting = daemon.clone();
        joined(tokio::task::spawn_blocking(move || noting.state.audit_end(number, &result)).await)?;
        drop(running);
        done
    }

    /// With the services that use the target.
    async fn minding(
        self,
        daemon: &Arc<Daemon>,
        who: &Principal,
        observer: Arc<dyn Observer>,
        cancel: Cancel,
    ) -> Result<Report> {
        // What is said of services is said while others wait for it, and an observer may block.
        let (notes, said) = blocking::channel();
        let ears = observer.clone();
        let telling = tokio::task::spawn_blocking(move || said.into_iter().for_each(|event| ears.event(event)));
        let (to, services, no_restart) = (self.to.clone(), self.services, self.options.no_restart);
        let users = Arc::new(Users::new(daemon.clone(), to.clone(), services, no_restart, notes));
        let minding = Arc::new(Minding { inner: observer, users: users.clone() });
        let done = self.into_target(daemon, who, minding, cancel).await;
        let is_torn = done.is_err() && live(daemon, who, &to).await.is_ok_and(|dir| sync::is_unfinished(&dir));
        let done = users.release(done, is_torn).await;
        drop(users);
        let _ = telling.await;
        done
    }

    async fn into_target(
        self,
        daemon: &Arc<Daemon>,
        who: &Principal,
        observer: Arc<Minding>,
        cancel: Cancel,
    ) -> Result<Report> {
        let Copy { from, to, options, client, .. } = self;
        let stop = Stop { cancel: cancel.clone(), stopping: daemon.stopping.clone() };
        who.may(Role::Deployer, &to.tenant)?;
        let dir = live(daemon, who, &to).await?;

        // Two syncs into one volume: the second one waits, and says so.
        let lock = daemon.write_lock(&dir.root);
        let _held = match lock.lock.clone().try_lock_owned() {
            Ok(held) => held,
            Err(_) => {
                let note = Event::Note(format!("waiting: another sync into {to} is under way"));
                let ears = observer.clone();
                let _ = tokio::task::spawn_blocking(move || ears.event(note)).await;
                tokio::select! {
                    held = lock.lock.clone().lock_owned() => held,
                    () = stop.asked() => return Err(stop.why()),
                    () = look_for_holder(&lock) => return Err(stop.why()),
                }
            }
        };
        let _noted = client.map(|client| lock.held_by(client));
        // It may have been removed meanwhile.
        let dir = if dir.root.is_dir() { dir } else { live(daemon, who, &to).await? };
        if !options.dry_run && sync::is_unfinished(&dir) {
            let users = observer.users.clone();
            joined(tokio::task::spawn_blocking(move || users.finish_first()).await)?;
        }
        let from = match from {
            From::Volume(volume) | From::View(_, volume) if volume == to => {
                return Err(Error::new(Kind::Refused, format!("{to} is both source and target")));
            }
            From::Volume(volume) => {
                who.may(Role::Viewer, &volume.tenant)?;
                From::Tree(live(daemon, who, &volume).await?)
            }
            From::View(view, volume) => {
                who.may(Role::Viewer, &volume.tenant)?;
                From::Tree(view)
            }
            from => from,
        };
        let (engine, cut, connection) = match from {
            From::Link(link) => {
                let linked = tokio::select! {
                    linked = link => linked?,
                    () = stop.asked() => return Err(stop.why()),
                };
                let end = linked.end;
                let engine = tokio::task::spawn_blocking(move || sync::run(&dir, end, &options, observer, cancel));
                (engine, linked.cut, linked.connection)
            }
            From::Tree(tree) => {
                let local = move || sync::local(&tree, &dir, &options, observer, cancel);
                (tokio::task::spawn_blocking(local), Cut::default(), None)
            }
            From::Volume(_) | From::View(..) => return Err(Error::failed("a volume without its folder")),
        };
        let mut done = until(engine, || stop.is_asked(), &cut).await;
        if let Err(error) = &done
            && error.kind == Kind::Cancelled
            && stop.stopping.load(Ordering::SeqCst)
        {
            done = Err(stop.why());
        }
        if let Some(connection) = connection {
            let traffic = connection.traffic();
            if let Ok(report) = &mut done {
                // As the source saw it.
                (report.bytes_sent, report.bytes_received) = (traffic.received, traffic.sent);
            }
            connection.bye().await;
        }
        done
    }
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

/// The folder of a volume, for somebody who may see it.
pub async fn live(daemon: &Arc<Daemon>, who: &Principal, volume: &VolumeRef) -> Result<LiveDir> {
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

/// What a task came to, where its own end is a failure of ours.
pub fn joined<T>(done: Result<Result<T>, tokio::task::JoinError>) -> Result<T> {
    done.unwrap_or_else(|error| Err(Error::failed("a task of the daemon broke").because(error)))
}

/// Whether a sync is to end: because somebody wants it so, or because the daemon stops.
#[derive(Clone)]
pub struct Stop {
    pub cancel: Cancel,
    pub stopping: Arc<AtomicBool>,
}

impl Stop {
    /// A daemon that stops cancels its syncs.
    pub fn is_asked(&self) -> bool {
        if self.stopping.load(Ordering::SeqCst) {
            self.cancel.store(true, Ordering::SeqCst);
        }
        self.cancel.load(Ordering::SeqCst)
    }

    pub async fn asked(&self) {
        while !self.is_asked() {
            tokio::time::sleep(LOOK).await;
        }
    }

    pub fn why(&self) -> Error {
        match self.stopping.load(Ordering::SeqCst) {
            true => Error::new(Kind::Unreachable, "the daemon stops")
                .hint("run it again when it is up; what was staged is kept"),
            false => Error::new(Kind::Cancelled, "the sync was stopped"),
        }
    }
}

/// Whoever watches, with the services that use the target: the plan says what becomes of them, the commit stops them.
struct Minding {
    inner: Arc<dyn Observer>,
    users: Arc<Users>,
}

impl Minding {
    fn with_notes(&self, mut plan: Plan) -> Plan {
        if !plan.is_empty() {
            plan.notes.extend(self.users.note());
        }
        plan
    }
}

impl Observer for Minding {
    fn event(&self, event: Event) {
        self.inner.event(match event {
            Event::Planned(plan) => Event::Planned(self.with_notes(plan)),
            event => event,
        });
    }

    fn confirm(&self, plan: &Plan) -> Result<bool> {
        self.inner.confirm(&self.with_notes(plan.clone()))
    }

    fn before_commit(&self) -> Result<()> {
        self.inner.before_commit()?;
        self.users.stop()
    }
}
