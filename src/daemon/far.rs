//! Tenants of other hosts to which domains of this one lead: reached there, watched, and what is known of them told to the proxy.

use std::collections::HashSet;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::Daemon;
use super::client::Client;
use crate::model::host::FarHost;
use crate::model::{Error, Kind, Result, Seat};
use crate::proxy::{Dial, Io, Reason, Serving, Upstream};
use crate::transport::{Connection, Identity, Pipe, dial, resolve};
use crate::wire::proto;

/// Addresses of another host that are tried.
const ADDRESSES: usize = 16;
/// Streams on one connection; with more another one is made. The other end takes some more.
const STREAMS: usize = 200;
/// How long requests under way are waited for when the other host wants a tenant to stand still.
const PATIENCE: Duration = Duration::from_secs(10);
/// Between two tries to reach a host.
const AGAIN: Duration = Duration::from_secs(1);
/// How often it is looked whether anybody still wants to know.
const LOOK: Duration = Duration::from_secs(2);
/// How long it is waited until it is known what serves a tenant there.
const KNOWN: Duration = Duration::from_secs(10);

/// The seats that are watched, and those that a release has to do with although no route may lead there.
#[derive(Default)]
pub struct Watched {
    tasks: HashSet<Seat>,
    wanted: HashSet<Seat>,
}

/// A far tenant is watched for as long as this lives.
pub struct Attention {
    daemon: Arc<Daemon>,
    seat: Seat,
}

impl Drop for Attention {
    fn drop(&mut self) {
        watched(&self.daemon).wanted.remove(&self.seat);
    }
}

fn watched(daemon: &Daemon) -> MutexGuard<'_, Watched> {
    daemon.watched.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A connection to the host of a far tenant, as this host.
pub async fn visit(daemon: &Arc<Daemon>, seat: &Seat, far: &FarHost) -> Result<Client> {
    Client::over(reach(&daemon.identity, seat, far).await?).await.map_err(|error| not_let_in(error, seat))
}

/// As [`visit`], of a tenant that is noted.
pub async fn visit_noted(daemon: &Arc<Daemon>, seat: &Seat) -> Result<Client> {
    visit(daemon, seat, &noted(daemon, seat)?).await
}

pub fn noted(daemon: &Daemon, seat: &Seat) -> Result<FarHost> {
    let unknown = || Error::new(Kind::NotFound, format!("how {seat} is reached is not known here"));
    daemon.state.far(seat)?.ok_or_else(unknown)
}

/// Gives back what a host had granted for nothing. If that cannot be reached, whoever granted it sees it there.
pub async fn give_back(daemon: &Arc<Daemon>, seat: &Seat, far: &FarHost) {
    if let Ok(client) = visit(daemon, seat, far).await {
        let _ = client.grant_revoke(far.grant).await;
        client.close().await;
    }
}

fn not_let_in(error: Error, seat: &Seat) -> Error {
    if !error.message.contains("does not know our key") {
        return error;
    }
    let host = seat.host.as_ref().map(ToString::to_string).unwrap_or_default();
    Error::new(Kind::Refused, format!("{host} does not let this host in: what it granted was revoked"))
        .hint(format!("`mcloud release` to {seat} gives a new grant"))
}

/// It is looked for where its name leads now, then where it was.
async fn reach(identity: &Identity, seat: &Seat, far: &FarHost) -> Result<Connection> {
    let mut addresses: Vec<SocketAddr> = match &seat.host {
        Some(host) => resolve(host).await.unwrap_or_default(),
        None => Vec::new(),
    };
    for address in far.addresses.iter().take(ADDRESSES).filter_map(|address| address.parse().ok()) {
        if !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    let label = seat.host.as_ref().map_or_else(|| "the other host".to_owned(), ToString::to_string);
    dial(&addresses, &label, identity, far.host_key.parse()?).await
}

/// Watches a far tenant for as long as a route leads there.
pub fn watch_routes(daemon: &Arc<Daemon>, seats: impl Iterator<Item = Seat>) {
    for seat in seats.filter(|seat| seat.host.is_some()) {
        begin(daemon, &seat);
    }
}

/// Watches a far tenant for as long as the result lives. One release at a time has to do with it.
pub fn attend(daemon: &Arc<Daemon>, seat: &Seat) -> Result<Attention> {
    if !watched(daemon).wanted.insert(seat.clone()) {
        return Err(Error::new(Kind::Busy, format!("another release is at {seat}")).hint("wait for it: `mcloud ps`"));
    }
    begin(daemon, seat);
    Ok(Attention { daemon: daemon.clone(), seat: seat.clone() })
}

fn begin(daemon: &Arc<Daemon>, seat: &Seat) {
    if watched(daemon).tasks.insert(seat.clone()) {
        tokio::spawn(watch(daemon.clone(), seat.clone()));
    }
}

/// Whether it is to be watched on; if not, nothing is known of it from now on. Whoever begins again comes after that.
fn ends(daemon: &Daemon, seat: &Seat) -> bool {
    let mut watched = watched(daemon);
    let routed = daemon.state.routes().is_ok_and(|routes| routes.iter().any(|route| route.tenant == *seat));
    let ends = !routed && !watched.wanted.contains(seat);
    if ends {
        watched.tasks.remove(seat);
        daemon.proxy.set_serving(seat, Serving::Down("is not published here".to_owned()));
        daemon.proxy.let_go(seat, Reason::Pause);
    }
    ends
}

async fn watch(daemon: Arc<Daemon>, seat: Seat) {
    let mut failures = 0;
    loop {
        let unwanted = async {
            loop {
                tokio::time::sleep(LOOK).await;
                let (daemon, seat) = (daemon.clone(), seat.clone());
                if tokio::task::spawn_blocking(move || ends(&daemon, &seat)).await.unwrap_or(false) {
                    return;
                }
            }
        };
        let error = tokio::select! {
            () = unwanted => return,
            error = follow(&daemon, &seat, &mut failures) => error,
        };
        failures += 1;
        // A host whose daemon was started again is there in a moment.
        if failures > 1 {
            let why = error.chain();
            // One that a release is about to note is not known yet.
            if failures == 2 && error.kind != Kind::NotFound {
                tracing::warn!("{seat}: {why}");
            }
            daemon.proxy.set_serving(&seat, Serving::Down(format!("is out of reach: {why}")));
        }
        tokio::time::sleep(AGAIN).await;
    }
}

/// Hears what serves it until that ends, and says why it did.
async fn follow(daemon: &Arc<Daemon>, seat: &Seat, failures: &mut u32) -> Error {
    let followed = async {
        let far = noted(daemon, seat)?;
        let connection = reach(&daemon.identity, seat, &far).await?;
        let way = Arc::new(Way {
            seat: seat.clone(),
            far,
            identity: daemon.identity.clone(),
            links: Mutex::new(vec![Link { connection: connection.clone(), streams: Arc::default() }]),
        });
        let mut heard = Client::over(connection).await?.web_watch(&seat.tenant).await?;
        loop {
            let now = heard.next().await?;
            *failures = 0;
            let port = |port: u32| u16::try_from(port).ok().filter(|port| *port > 0);
            let serving = match now.run.is_empty() {
                true => Serving::Down(now.down),
                false => {
                    let key = format!("{seat} {}", now.run);
                    let (web, ssl) = (port(now.web), port(now.ssl));
                    Serving::Up(Arc::new(Upstream::new(key, now.service, way.clone(), web, ssl)))
                }
            };
            if now.held {
                daemon.proxy.hold(seat, Reason::Pause, daemon.hold);
                daemon.proxy.set_serving(seat, serving);
                daemon.proxy.drained(seat, PATIENCE).await;
                heard.drained().await?;
            } else {
                daemon.proxy.set_serving(seat, serving);
                daemon.proxy.let_go(seat, Reason::Pause);
            }
        }
    };
    let followed: Result<std::convert::Infallible> = followed.await;
    let Err(error) = followed;
    not_let_in(error, seat)
}

/// Waits until it is known that a far tenant is served, and not held by its host.
pub async fn is_served(daemon: &Daemon, seat: &Seat) -> Result<()> {
    let served = async {
        loop {
            let held = daemon.proxy.held(seat).0.contains(&Reason::Pause);
            if !held && matches!(daemon.proxy.serving(seat), Serving::Up(_)) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(KNOWN, served).await.map_err(|_| {
        let why = match daemon.proxy.serving(seat) {
            Serving::Down(why) => why,
            Serving::Up(_) => "is paused".to_owned(),
        };
        Error::new(Kind::Unreachable, format!("{seat} {why}"))
    })
}

/// The way to the host of a far tenant, for as long as it is watched by one connection.
struct Way {
    seat: Seat,
    far: FarHost,
    identity: Arc<Identity>,
    links: Mutex<Vec<Link>>,
}

struct Link {
    connection: Connection,
    streams: Arc<AtomicUsize>,
}

impl Way {
    fn links(&self) -> MutexGuard<'_, Vec<Link>> {
        self.links.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A connection with room for one more stream, which is counted.
    async fn connection(&self) -> Result<(Connection, Counted)> {
        let found = {
            let mut links = self.links();
            links.retain(|link| link.connection.is_open());
            let free = links.iter().find(|link| link.streams.load(Ordering::SeqCst) < STREAMS);
            free.map(|link| (link.connection.clone(), Counted::of(&link.streams)))
        };
        if let Some(found) = found {
            return Ok(found);
        }
        let connection = reach(&self.identity, &self.seat, &self.far).await?;
        let streams = Arc::default();
        let counted = Counted::of(&streams);
        self.links().push(Link { connection: connection.clone(), streams });
        Ok((connection, counted))
    }

    async fn pipe(&self, port: u16) -> Result<Carried> {
        let (connection, counted) = self.connection().await?;
        let wanted = proto::WebDial { tenant: self.seat.tenant.to_string(), port: port.into() };
        Ok(Carried { pipe: super::client::web_dial(&connection, wanted).await?, _counted: counted })
    }
}

impl Dial for Way {
    fn dial(&self, port: u16) -> BoxFuture<'_, io::Result<Box<dyn Io>>> {
        Box::pin(async move {
            let carried = self.pipe(port).await.map_err(|error| io::Error::other(error.chain()))?;
            Ok(Box::new(carried) as Box<dyn Io>)
        })
    }

    fn address(&self, port: u16) -> String {
        format!("{}, port {port}", self.seat)
    }
}

/// One of the streams of a connection, for as long as this lives.
struct Counted(Arc<AtomicUsize>);

impl Counted {
    fn of(streams: &Arc<AtomicUsize>) -> Counted {
        streams.fetch_add(1, Ordering::SeqCst);
        Counted(streams.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// A connection that is carried to a container of the other host.
struct Carried {
    pipe: Pipe,
    _counted: Counted,
}

impl Io for Carried {}

impl AsyncRead for Carried {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.pipe).poll_read(cx, into)
    }
}

impl AsyncWrite for Carried {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.pipe).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.pipe).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.pipe).poll_shutdown(cx)
    }
}
