//! The composition root of a host: its state, what may be asked of it, and the syncs it runs. And its client side.

use std::collections::HashMap;
use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::Semaphore;

use crate::model::host::Role;
use crate::model::{Error, Result, TenantName};
use crate::proxy::{Acme, Limits, Proxy};
use crate::sys::clock;
use crate::tenant::docker::Docker;
use crate::tenant::runtime::Runtime;
use crate::transport::{Admit, Connection, Identity, Listener, PublicKey};

mod access;
mod binds;
mod certs;
pub mod client;
mod commands;
mod copies;
mod door;
mod far;
mod folders;
mod frozen;
mod grants;
mod guests;
mod home;
mod http;
mod invitation;
mod jobs;
mod keep;
mod leases;
mod lives;
mod looking;
mod looks;
mod mouth;
mod publishing;
mod releases;
mod requests;
mod shelves;
mod snapshots;
mod state;
mod syncs;
mod tasks;
mod tenants;
mod upkeep;
mod users;
mod uses;

#[cfg(test)]
mod grants_tests;
#[cfg(test)]
mod sync_tests;
#[cfg(test)]
mod tests;

use access::Principal;
use binds::Binds;
use home::{Home, Running};
use state::{Standing, State};
use tasks::Tasks;

/// What a daemon is started with.
#[derive(Clone, Debug)]
pub struct ServerConfig {
    /// Where all its state lives; made with mode 0700.
    pub home: PathBuf,
    /// QUIC, over UDP.
    pub listen: SocketAddr,
    pub http: SocketAddr,
    pub https: SocketAddr,
    pub admin: SocketAddr,
    /// Where Docker listens: `unix:///var/run/docker.sock`.
    pub docker: String,
    /// A freeze that lasts longer is broken off.
    pub freeze_limit: Duration,
    /// The longest that a request for a paused tenant waits.
    pub hold: Duration,
    /// Who makes certificates for domains.
    pub acme: Acme,
    pub store: StoreConfig,
}

/// Where a daemon keeps its snapshots.
#[derive(Clone, Debug, Default)]
pub struct StoreConfig {
    /// `s3://BUCKET/PREFIX`; `None`: in the home.
    pub url: Option<String>,
    /// The file with the key by which it is sealed.
    pub key: Option<PathBuf>,
    /// A bucket is not sealed, either.
    pub plain: bool,
}

/// How long running syncs may take to come to a safe place when the daemon stops.
const DRAIN: Duration = Duration::from_secs(10);

/// How the key of the home itself is called.
const LOCAL_LABEL: &str = "this-host";

/// A running daemon, as its requests see it.
struct Daemon {
    home: Home,
    state: Arc<State>,
    identity: Arc<Identity>,
    /// The key of whoever can read the home.
    local_key: PublicKey,
    listen: SocketAddr,
    /// Where tenants are published.
    http_port: u16,
    https_port: u16,
    connections: Mutex<HashMap<u64, Connection>>,
    numbers: AtomicU64,
    /// One for each volume that was ever written to: who holds it writes.
    write_locks: Mutex<HashMap<PathBuf, WriteLock>>,
    /// As many as there are syncs with an end here, and one more.
    running: Arc<()>,
    stopping: Arc<AtomicBool>,
    counters: Counters,
    /// Where Docker finds what lies in root volumes.
    binds: Arc<Binds>,
    /// What runs the tenants' containers.
    runtime: Arc<dyn Runtime>,
    /// One for each tenant that was ever acted on: who holds it brings its services to another state.
    life_locks: Mutex<HashMap<TenantName, Arc<tokio::sync::Mutex<()>>>>,
    tasks: Tasks,
    leases: leases::Leases,
    proxy: Arc<Proxy>,
    /// The far tenants that the proxy is told of.
    watched: Mutex<far::Watched>,
    /// What is still to be done at other hosts.
    errands: releases::errands::Errands,
    /// How long a request may be held, and a freeze may last.
    hold: Duration,
    freeze_limit: Duration,
    /// Held while the proxy's routes are made of the table's.
    routing: Mutex<()>,
    /// Held while it is looked what serves the tenants.
    refreshing: tokio::sync::Mutex<()>,
    /// Bounds what is worked on for mounts, all together.
    looks: Arc<Semaphore>,
    store: snapshots::Kept,
    /// The schedules that run.
    runner: jobs::Runner,
    /// Who makes certificates.
    acme: Acme,
    /// Held while one is made.
    issuing: tokio::sync::Mutex<()>,
}

/// Who holds the lock writes; `holder` is the connection of the client that wants it so.
#[derive(Clone, Default)]
struct WriteLock {
    lock: Arc<tokio::sync::Mutex<()>>,
    holder: Arc<Mutex<Option<Connection>>>,
}

impl WriteLock {
    /// Notes who holds the lock, for as long as the result lives.
    fn held_by(&self, client: Connection) -> impl Drop + use<> {
        struct Held(WriteLock);
        impl Drop for Held {
            fn drop(&mut self) {
                *self.0.holder() = None;
            }
        }
        *self.holder() = Some(client);
        Held(self.clone())
    }

    fn holder(&self) -> std::sync::MutexGuard<'_, Option<Connection>> {
        self.holder.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Default)]
struct Counters {
    syncs: AtomicU64,
    syncs_failed: AtomicU64,
}

/// Seconds since 1970.
fn now_unix() -> u64 {
    clock::file_clock().seconds.try_into().unwrap_or(0)
}

/// The handshake's question. A database that does not answer lets nobody in.
struct Admission(Arc<State>);

impl Admit for Admission {
    fn admits(&self, key: &PublicKey) -> bool {
        match self.0.standing(key, now_unix()) {
            Ok(standing) => standing != Standing::Unknown,
            Err(error) => {
                tracing::error!("{}", error.chain());
                false
            }
        }
    }
}

impl Daemon {
    fn principal(&self, key: PublicKey) -> Result<Principal> {
        let now = now_unix();
        Ok(Principal { key, standing: self.state.standing(&key, now)?, grants: self.state.grants_of(&key, now)? })
    }

    /// The lock that whoever writes to this folder holds.
    fn write_lock(&self, root: &Path) -> WriteLock {
        let mut locks = self.write_locks.lock().unwrap_or_else(PoisonError::into_inner);
        locks.entry(root.to_owned()).or_default().clone()
    }

    /// The lock that whoever changes the state of a tenant's services holds.
    fn life_lock(&self, tenant: &TenantName) -> Arc<tokio::sync::Mutex<()>> {
        let mut locks = self.life_locks.lock().unwrap_or_else(PoisonError::into_inner);
        locks.entry(tenant.clone()).or_default().clone()
    }

    /// How containers say whose they are, where daemons share a Docker.
    fn owner(&self) -> String {
        self.identity.public().short()
    }

    fn connections(&self) -> std::sync::MutexGuard<'_, HashMap<u64, Connection>> {
        self.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn metrics(&self) -> String {
        let tenants = self.state.tenants().map_or(0, |tenants| tenants.len());
        let gauges = [
            ("mcloud_tenants", "gauge", "Tenants of this host.", tenants as u64),
            ("mcloud_connections", "gauge", "Open connections of clients and hosts.", self.connections().len() as u64),
            ("mcloud_syncs_running", "gauge", "Syncs with an end here.", Arc::strong_count(&self.running) as u64 - 1),
            (
                "mcloud_syncs_total",
                "counter",
                "Syncs into this host that came to an end.",
                self.counters.syncs.load(Ordering::Relaxed),
            ),
            (
                "mcloud_syncs_failed_total",
                "counter",
                "Of these, those that failed.",
                self.counters.syncs_failed.load(Ordering::Relaxed),
            ),
            (
                "mcloud_http_connections",
                "gauge",
                "Open connections of the tenants' clients.",
                self.proxy.counters.connections.load(Ordering::Relaxed),
            ),
            (
                "mcloud_http_requests_total",
                "counter",
                "Requests for the tenants' pages.",
                self.proxy.counters.requests.load(Ordering::Relaxed),
            ),
            (
                "mcloud_http_held_total",
                "counter",
                "Of these and of TLS connections, those that waited for a held tenant.",
                self.proxy.counters.held.load(Ordering::Relaxed),
            ),
            (
                "mcloud_http_failed_total",
                "counter",
                "Requests that the proxy had to answer itself with an error.",
                self.proxy.counters.failed.load(Ordering::Relaxed),
            ),
        ];
        gauges
            .iter()
            .map(|(name, kind, help, value)| format!("# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}\n"))
            .collect()
    }
}

/// Runs a daemon until it is told to stop (SIGTERM, SIGINT). Prints its `ready` line to standard output.
pub async fn serve(config: ServerConfig) -> Result<()> {
    let Signals { mut term, mut int, mut hup } = Signals::hear()?;
    let home = Home::at(&config.home);
    let _lock = home.take()?;
    let started = start(home.clone(), &config).await?;
    let Started { daemon, listener, line, .. } = &started;
    let running =
        Running { pid: std::process::id(), listen: daemon.listen, host_key: daemon.identity.public().to_string() };
    home.say_running(&running)?;
    let mut out = std::io::stdout();
    writeln!(out, "{line}")
        .and_then(|()| out.flush())
        .map_err(|error| Error::io("cannot say that I am ready", error))?;
    loop {
        tokio::select! {
            _ = term.recv() => break,
            _ = int.recv() => break,
            _ = hup.recv() => match certs::load(daemon) {
                Ok(many) => tracing::info!("SIGHUP: certificates are read again: {many}"),
                Err(error) => tracing::error!("SIGHUP: {}", error.chain()),
            },
        }
    }
    home.say_stopped();
    tracing::info!("stopping");
    drain(daemon).await;
    for connection in daemon.connections().values() {
        connection.close_stopping();
    }
    listener.close().await;
    Ok(())
}

/// SIGTERM and SIGINT stop, SIGHUP reloads.
struct Signals {
    term: Signal,
    int: Signal,
    hup: Signal,
}

impl Signals {
    fn hear() -> Result<Signals> {
        let hear = |kind| signal(kind).map_err(|error| Error::io("cannot listen to signals", error));
        Ok(Signals {
            term: hear(SignalKind::terminate())?,
            int: hear(SignalKind::interrupt())?,
            hup: hear(SignalKind::hangup())?,
        })
    }
}

/// A daemon whose listeners serve.
struct Started {
    daemon: Arc<Daemon>,
    listener: Arc<Listener>,
    line: String,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

impl Drop for Started {
    fn drop(&mut self) {
        self.tasks.iter().for_each(tokio::task::JoinHandle::abort);
    }
}

async fn start(home: Home, config: &ServerConfig) -> Result<Started> {
    crate::transport::provide_crypto();
    // First: in a home of a newer program nothing is made or changed.
    let state = Arc::new(State::open(&home.database())?);
    let identity = Arc::new(Identity::load_or_create(&home.host_key())?);
    let local_key = Identity::load_or_create(&home.admin_key())?.public();
    state.enrol(&local_key, LOCAL_LABEL, Role::Admin, &[], now_unix())?;
    recover(&home, &state)?;
    jobs::recover(&state)?;

    let listener = Arc::new(Listener::bind(config.listen, &identity, Arc::new(Admission(state.clone())))?);
    let http = http::bind("http", config.http).await?;
    let https = http::bind("https", config.https).await?;
    let admin = http::bind("admin", config.admin).await?;
    let local = |listener: &tokio::net::TcpListener| {
        listener.local_addr().map_err(|error| Error::io("cannot learn where I listen", error))
    };
    let line = format!(
        "ready listen={} http={} https={} admin={}",
        listener.address(),
        local(&http)?,
        local(&https)?,
        local(&admin)?
    );
    // More suspects than these are looked at anyway, a moment later.
    let (suspect, suspects) = tokio::sync::mpsc::channel(64);
    let proxy = Arc::new(Proxy::new(Limits::default(), move |tenant| drop(suspect.try_send(tenant.clone())))?);
    let binds = Arc::new(Binds::of(&identity.public().short()));
    let rows = state.tenants()?;
    binds.keep_only(&rows.iter().map(|row| &row.tenant.name).collect::<Vec<_>>());
    let daemon = Arc::new(Daemon {
        home,
        state,
        identity,
        local_key,
        listen: listener.address(),
        http_port: local(&http)?.port(),
        https_port: local(&https)?.port(),
        connections: Mutex::default(),
        numbers: AtomicU64::new(1),
        write_locks: Mutex::default(),
        running: Arc::new(()),
        stopping: Arc::default(),
        counters: Counters::default(),
        binds,
        runtime: Arc::new(Docker::at(&config.docker)?),
        life_locks: Mutex::default(),
        tasks: Tasks::default(),
        leases: leases::Leases::default(),
        proxy: proxy.clone(),
        watched: Mutex::default(),
        errands: releases::errands::Errands::default(),
        hold: config.hold,
        freeze_limit: config.freeze_limit,
        routing: Mutex::default(),
        refreshing: tokio::sync::Mutex::default(),
        looks: Arc::new(Semaphore::new(looking::AT_ONCE)),
        store: snapshots::Kept::at(config.store.clone()),
        runner: jobs::Runner::default(),
        acme: config.acme.clone(),
        issuing: tokio::sync::Mutex::default(),
    });
    frozen::clear(&daemon);
    certs::load(&daemon)?;
    releases::recover(&daemon, |_| true)?;
    publishing::begin(&daemon).await?;
    let watched = daemon.clone();
    let tasks = vec![
        tokio::spawn(accept(daemon.clone(), listener.clone())),
        tokio::spawn(keep::keep(daemon.clone())),
        tokio::spawn(publishing::keep(daemon.clone(), suspects)),
        tokio::spawn(proxy.clone().serve_http(http)),
        tokio::spawn(proxy.clone().serve_tls(https)),
        tokio::spawn(proxy.sweep()),
        tokio::spawn(jobs::keep(daemon.clone())),
        tokio::spawn(certs::keep(daemon.clone())),
        tokio::spawn(releases::errands::keep(daemon.clone())),
        tokio::spawn(http::serve(admin, move |path| match path {
            "/healthz" => (200, "OK", "ok\n".to_owned()),
            "/metrics" => (200, "OK", watched.metrics()),
            _ => (404, "Not Found", "there is /healthz and /metrics\n".to_owned()),
        })),
    ];
    Ok(Started { daemon, listener, line, tasks })
}

/// Rolls forward what a crash left in the middle of its commit. A volume that cannot be is no reason not to serve the others.
fn recover(home: &Home, state: &State) -> Result<()> {
    for row in state.tenants()? {
        for volume in tenants::all_volumes(&row.tenant) {
            let done = tenants::live(home, &row, &volume).and_then(|dir| crate::sync::recover(&dir));
            match done {
                Ok(true) => tracing::info!("{volume}: a commit that was interrupted is completed"),
                Ok(false) => {}
                Err(error) => tracing::error!("{volume}: {}", error.chain()),
            }
        }
    }
    Ok(())
}

async fn accept(daemon: Arc<Daemon>, listener: Arc<Listener>) {
    while let Some(incoming) = listener.accept().await {
        let daemon = daemon.clone();
        tokio::spawn(async move {
            match incoming.handshake().await {
                Ok(connection) => requests::serve(daemon, connection).await,
                Err(error) => tracing::info!("not let in: {}", error.chain()),
            }
        });
    }
}

/// Tells running syncs to stop at the next safe place, and pages to be the last; waits for them.
async fn drain(daemon: &Daemon) {
    daemon.stopping.store(true, Ordering::SeqCst);
    daemon.proxy.stop();
    let drained = async {
        while Arc::strong_count(&daemon.running) > 1 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let (syncs, pages) =
        tokio::join!(tokio::time::timeout(DRAIN, drained), tokio::time::timeout(DRAIN, daemon.proxy.stopped()));
    if syncs.is_err() {
        tracing::warn!("a sync did not come to its end in time; it is resumed by running it again");
    }
    if pages.is_err() {
        tracing::warn!("connections of pages did not come to their end in time, and are cut");
    }
}
