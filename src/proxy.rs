//! The way in to the tenants' pages: which host name leads where, who has to wait, and every byte between.
//!
//! It knows tenants by name and what serves them by [`Upstream`]s that it is given; containers, databases and people are
//! the daemon's. Routes are one immutable map that is swapped as a whole: a swap touches no connection.
//!
//! [`Proxy::hold`] makes a tenant's requests wait, [`Proxy::drained`] waits for those under way, [`Proxy::let_go`] lets
//! the waiting go on: each looks its route up again, which may lead to another tenant by then.

mod acme;
mod body;
mod certs;
mod client;
mod forward;
mod gate;
mod headers;
mod inspect;
mod page;
mod routes;
mod serve;
mod socket;
mod tls;
mod tunnel;
mod upstream;
mod validity;
mod watch;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use tokio::sync::watch as watched;

use crate::model::{Result, Seat};

pub use acme::{Acme, Issued, issue};
pub use certs::{Answering, Certificate, Certificates};
pub use gate::{HoldReport, Left, Reason};
pub use routes::{Route, Way};
pub use socket::Probe;
pub use upstream::{Dial, Io, Serving, Tcp, Upstream};
pub use watch::Watch;

use certs::Ends;
use routes::{Routes, Target, Tenant};

/// The path under any host name that the proxy answers itself, with 200, while it serves.
pub const HEALTH_PATH: &str = "/.well-known/mcloud/health";

/// How much of a client is borne.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Requests that wait at a held tenant.
    pub held: usize,
    /// Until the head of the first request, or of the next one.
    pub head: Duration,
    /// A client that neither sends the rest of its request nor takes its answer.
    pub stall: Duration,
    /// The head of a request, bytes.
    pub head_bytes: usize,
    /// Connections at once.
    pub connections: usize,
    /// One try to reach an upstream.
    pub connect: Duration,
    /// How long an upstream that refuses connections is tried again: it may just have been started.
    pub refused: Duration,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            held: 10_000,
            head: Duration::from_secs(60),
            stall: Duration::from_secs(120),
            head_bytes: 64 << 10,
            connections: 20_000,
            connect: Duration::from_secs(5),
            refused: Duration::from_secs(2),
        }
    }
}

/// Called with the tenant whose upstream cannot be reached: its address may be another one by now.
pub type Suspect = dyn Fn(&Seat) + Send + Sync;

/// A tenant as [`Proxy::look`] finds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    pub held: Vec<Reason>,
    pub waiting: usize,
    /// Why nothing serves it.
    pub down: Option<String>,
    /// Where its requests go.
    pub upstream: Option<String>,
    /// It speaks TLS itself.
    pub passes: bool,
}

/// What the daemon's metrics tell of it.
#[derive(Debug, Default)]
pub struct Counters {
    pub requests: AtomicU64,
    /// Answered by the proxy itself because nobody else could.
    pub failed: AtomicU64,
    pub held: AtomicU64,
    pub connections: AtomicU64,
}

pub struct Proxy {
    routes: RwLock<Arc<Routes>>,
    /// Grows with each swap of the routes.
    version: AtomicU64,
    tenants: Mutex<HashMap<Seat, Arc<Tenant>>>,
    limits: Limits,
    suspect: Box<Suspect>,
    pub certificates: Arc<Certificates>,
    ends: Ends,
    pub counters: Counters,
    /// True when connections are to come to their end.
    stopping: watched::Sender<bool>,
}

impl Proxy {
    pub fn new(limits: Limits, suspect: impl Fn(&Seat) + Send + Sync + 'static) -> Result<Proxy> {
        let certificates = Arc::default();
        Ok(Proxy {
            routes: RwLock::default(),
            version: AtomicU64::new(0),
            tenants: Mutex::default(),
            limits,
            suspect: Box::new(suspect),
            ends: Ends::new(&certificates)?,
            certificates,
            counters: Counters::default(),
            stopping: watched::Sender::new(false),
        })
    }

    fn tenants(&self) -> MutexGuard<'_, HashMap<Seat, Arc<Tenant>>> {
        self.tenants.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tenant(&self, name: &Seat) -> Arc<Tenant> {
        let mut tenants = self.tenants();
        tenants.entry(name.clone()).or_insert_with(|| Arc::new(Tenant::new(name.clone()))).clone()
    }

    fn version(&self) -> u64 {
        self.version.load(Ordering::SeqCst)
    }

    fn find(&self, way: Way, name: &str) -> Option<Target> {
        self.routes.read().unwrap_or_else(PoisonError::into_inner).find(way, name).cloned()
    }

    /// Takes another map of routes, whole. Requests that wait look theirs up again.
    pub fn set_routes(&self, routes: Vec<Route>) {
        let routes = Arc::new(Routes::new(routes, |name| self.tenant(name)));
        *self.routes.write().unwrap_or_else(PoisonError::into_inner) = routes;
        self.version.fetch_add(1, Ordering::SeqCst);
        for tenant in self.tenants().values() {
            tenant.gate.wake();
        }
    }

    /// What serves a tenant from now on. Connections to what served it before end with their requests.
    pub fn set_serving(&self, tenant: &Seat, serving: Serving) {
        self.tenant(tenant).set_serving(serving);
    }

    /// Makes the tenant's requests wait, each at most `limit`. Holding what is held for this reason changes the limit alone.
    pub fn hold(&self, tenant: &Seat, reason: Reason, limit: Duration) {
        self.tenant(tenant).gate.hold(reason, limit);
    }

    /// Waits until none of the tenant's requests is under way, at most so long; what has not ended by then. WebSockets
    /// and event streams are not waited for.
    pub async fn drained(&self, tenant: &Seat, patience: Duration) -> Left {
        let tenant = self.tenant(tenant);
        tenant.gate.drained(patience).await
    }

    /// This reason holds the tenant no longer; the requests go on when no other does.
    pub fn let_go(&self, tenant: &Seat, reason: Reason) -> HoldReport {
        self.tenant(tenant).gate.let_go(reason)
    }

    /// Ends the WebSockets and event streams of a tenant, whose clients come again.
    pub fn end_streams(&self, tenant: &Seat) {
        self.tenant(tenant).gate.end_streams();
    }

    /// What serves a tenant.
    pub fn serving(&self, tenant: &Seat) -> Serving {
        self.tenant(tenant).serving()
    }

    /// What becomes of requests for a tenant that come this way, for people.
    pub fn look(&self, tenant: &Seat, way: Way, port: Option<u16>) -> Seen {
        let tenant = self.tenant(tenant);
        let (held, waiting) = tenant.gate.state();
        let serving = tenant.serving();
        let passes = matches!(&serving, Serving::Up(upstream) if upstream.ssl.is_some());
        let (down, upstream) = match serving {
            Serving::Down(why) => (Some(why), None),
            Serving::Up(upstream) => match port.or(upstream.port(way)) {
                Some(port) => (None, Some(upstream.address(port))),
                None => (Some(format!("has no port for it in {}", upstream.service)), None),
            },
        };
        Seen { held, waiting, down, upstream, passes }
    }

    /// Which reasons hold a tenant, and how many of its requests wait.
    pub fn held(&self, tenant: &Seat) -> (Vec<Reason>, usize) {
        self.tenants().get(tenant).map(|tenant| tenant.gate.state()).unwrap_or_default()
    }

    /// Ends: idle connections at once, others with the request they are at.
    pub fn stop(&self) {
        self.stopping.send_replace(true);
    }

    /// Resolves when no connection is left.
    pub async fn stopped(&self) {
        while self.counters.connections.load(Ordering::SeqCst) > 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Throws idle connections to upstreams away, for ever.
    pub async fn sweep(self: Arc<Self>) {
        loop {
            tokio::time::sleep(Duration::from_secs(5)).await;
            let tenants: Vec<Arc<Tenant>> = self.tenants().values().cloned().collect();
            for tenant in tenants {
                if let Serving::Up(upstream) = tenant.serving() {
                    upstream.sweep();
                }
            }
        }
    }
}
