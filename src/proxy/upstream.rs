//! What a tenant is reached by: how it is dialled, and the connections that wait there for the next request.
//!
//! An HTTP/1 connection is driven by whoever uses it: no task of its own, nothing to be woken. One that waits is looked at
//! before it is used, and thrown away if the other end has closed it.

use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use futures_util::future::BoxFuture;
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;

use super::body::{BoxError, Sent};
use super::routes::Way;
use super::socket::{Probe, Socket};

/// Connections that wait, for each port.
const WAITING: usize = 512;
/// How long one may wait.
const IDLE: Duration = Duration::from_secs(30);
/// A connection that waited longer is not used for a request that cannot be repeated: its server may be closing it just now.
/// The shortest keep-alive that servers have is a second.
const YOUNG: Duration = Duration::from_millis(700);

/// A stream of bytes to an upstream.
pub trait Io: AsyncRead + AsyncWrite + Send + Unpin {
    fn probe(&self) -> Option<Probe> {
        None
    }
}

impl Io for Socket {
    fn probe(&self) -> Option<Probe> {
        Some(Socket::probe(self))
    }
}

/// How to get to an upstream: a container of this host, or something far away.
pub trait Dial: Send + Sync {
    fn dial(&self, port: u16) -> BoxFuture<'_, io::Result<Box<dyn Io>>>;
    /// Where that leads, for people.
    fn address(&self, port: u16) -> String;
}

/// A container's address.
#[derive(Clone, Copy, Debug)]
pub struct Tcp(pub IpAddr);

impl Dial for Tcp {
    fn dial(&self, port: u16) -> BoxFuture<'_, io::Result<Box<dyn Io>>> {
        let to = SocketAddr::new(self.0, port);
        Box::pin(async move { Ok(Box::new(Socket::connect(to).await?) as Box<dyn Io>) })
    }

    fn address(&self, port: u16) -> String {
        SocketAddr::new(self.0, port).to_string()
    }
}

/// What serves a tenant now.
#[derive(Clone, Debug)]
pub enum Serving {
    /// Nothing does; why, as it goes on after the tenant's name: "is stopped".
    Down(String),
    Up(Arc<Upstream>),
}

/// One run of what serves a tenant: another container, or the same one started again, is another upstream.
pub struct Upstream {
    /// What tells one run from another.
    pub key: String,
    /// The service, for messages.
    pub service: String,
    dial: Arc<dyn Dial>,
    /// Where it serves HTTP, and where TLS, unless a route says otherwise.
    pub web: Option<u16>,
    pub ssl: Option<u16>,
    pools: Mutex<HashMap<u16, Pool>>,
}

#[derive(Default)]
struct Pool {
    links: Vec<Link>,
    http2: Option<http2::SendRequest<Sent>>,
}

impl fmt::Debug for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Upstream({})", self.key)
    }
}

impl Upstream {
    pub fn new(key: String, service: String, dial: Arc<dyn Dial>, web: Option<u16>, ssl: Option<u16>) -> Upstream {
        Upstream { key, service, dial, web, ssl, pools: Mutex::default() }
    }

    pub fn is_same(a: &Upstream, b: &Upstream) -> bool {
        (&a.key, &a.service, a.web, a.ssl) == (&b.key, &b.service, b.web, b.ssl)
    }

    fn pools(&self) -> MutexGuard<'_, HashMap<u16, Pool>> {
        self.pools.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The port of one way in, as its service names it.
    pub fn port(&self, way: Way) -> Option<u16> {
        match way {
            Way::Http => self.web,
            // Without a port for TLS it is ended here.
            Way::Tls => self.ssl.or(self.web),
        }
    }

    pub fn address(&self, port: u16) -> String {
        self.dial.address(port)
    }

    pub async fn dial(&self, port: u16) -> io::Result<Box<dyn Io>> {
        self.dial.dial(port).await
    }

    /// A connection that waits. What cannot be repeated gets a young one.
    pub fn take(&self, port: u16, repeatable: bool) -> Option<Link> {
        let mut pools = self.pools();
        let links = &mut pools.get_mut(&port)?.links;
        while let Some(mut link) = links.pop() {
            // The last one that came back is the youngest: older ones are no better.
            let most = if repeatable { IDLE } else { YOUNG };
            if link.idle_since.elapsed() > most {
                if repeatable {
                    links.clear();
                } else {
                    links.push(link);
                }
                return None;
            }
            if link.is_live() {
                return Some(link);
            }
        }
        None
    }

    pub fn put(&self, port: u16, mut link: Link) {
        link.idle_since = Instant::now();
        link.is_used = true;
        let mut pools = self.pools();
        let links = &mut pools.entry(port).or_default().links;
        if links.len() < WAITING {
            links.push(link);
        }
    }

    /// Throws away what waited too long or was closed by the other end.
    pub fn sweep(&self) {
        let keep = |link: &mut Link| link.idle_since.elapsed() < IDLE && link.is_live();
        for pool in self.pools().values_mut() {
            pool.links.retain_mut(keep);
            pool.http2 = pool.http2.take().filter(|link| !link.is_closed());
        }
    }

    pub async fn link(&self, port: u16) -> io::Result<Link> {
        Link::over(self.dial(port).await?).await
    }

    /// The one HTTP/2 connection that all share.
    pub async fn http2(&self, port: u16) -> io::Result<http2::SendRequest<Sent>> {
        if let Some(link) = self.pools().get(&port).and_then(|pool| pool.http2.clone())
            && !link.is_closed()
        {
            return Ok(link);
        }
        let io = TokioIo::new(self.dial(port).await?);
        let mut builder = http2::Builder::new(TokioExecutor::new());
        builder.adaptive_window(true);
        let (sender, driver) = builder.handshake(io).await.map_err(io::Error::other)?;
        tokio::spawn(driver);
        self.pools().entry(port).or_default().http2 = Some(sender.clone());
        Ok(sender)
    }
}

type Driver = http1::Connection<TokioIo<Box<dyn Io>>, Sent>;

/// An HTTP/1 connection and its driver, in one hand.
pub struct Link {
    sender: http1::SendRequest<Sent>,
    driver: Driver,
    probe: Option<Probe>,
    idle_since: Instant,
    /// It has served a request before.
    pub is_used: bool,
    /// Whether the body of the request it is at has been sent; `None`: it has none.
    sent: Option<Arc<AtomicBool>>,
}

/// A request that was not answered.
pub struct Unanswered {
    pub error: BoxError,
    /// The request, if nothing of it was sent.
    pub unsent: Option<Request<Sent>>,
}

impl Link {
    pub async fn over(io: Box<dyn Io>) -> io::Result<Link> {
        let probe = io.probe();
        let (sender, driver) = http1::handshake(TokioIo::new(io)).await.map_err(io::Error::other)?;
        Ok(Link { sender, driver, probe, idle_since: Instant::now(), is_used: false, sent: None })
    }

    fn is_live(&mut self) -> bool {
        if self.sender.is_closed() {
            return false;
        }
        match &self.probe {
            Some(probe) => probe.is_quiet(),
            // The driver sees it when it is asked; whoever uses the connection is woken later.
            None => Pin::new(&mut self.driver).poll(&mut Context::from_waker(Waker::noop())).is_pending(),
        }
    }

    /// Sends a request and gives the head of its answer, driving the connection meanwhile.
    pub async fn exchange(&mut self, request: Request<Sent>) -> Result<Response<Incoming>, Unanswered> {
        self.sent = request.body().sent();
        let Link { sender, driver, .. } = self;
        let mut answer = pin!(sender.try_send_request(request));
        // The answer can only come by the driver, which is driven here: it need not wake anybody.
        let answered = std::future::poll_fn(|cx| {
            let mut unwoken = Context::from_waker(Waker::noop());
            let driven = Pin::new(&mut *driver).poll(cx);
            match (answer.as_mut().poll(&mut unwoken), driven) {
                (Poll::Ready(answer), _) => Poll::Ready(Some(answer)),
                // The driver has ended, and with it every hope of an answer.
                (Poll::Pending, Poll::Ready(_)) => Poll::Ready(None),
                (Poll::Pending, Poll::Pending) => Poll::Pending,
            }
        });
        match answered.await {
            Some(Ok(response)) => Ok(response),
            Some(Err(mut error)) => Err(Unanswered { unsent: error.take_message(), error: error.into_error().into() }),
            None => Err(Unanswered { unsent: None, error: "the connection was closed".into() }),
        }
    }

    /// Drives the connection; true when it has ended.
    pub fn drive(&mut self, cx: &mut Context<'_>) -> bool {
        Pin::new(&mut self.driver).poll(cx).is_ready()
    }

    pub fn is_ready(&self) -> bool {
        self.sender.is_ready()
    }

    /// Leaves the driving to a task.
    pub fn detach(self) {
        let Link { sender, driver, .. } = self;
        tokio::spawn(async move {
            // As long as the sender lives the connection does; the body's end ends both.
            drop(sender);
            let _ = driver.await;
        });
    }

    /// As [`Link::detach`], for a connection that may turn to another protocol.
    pub fn detach_with_upgrades(self) -> http1::SendRequest<Sent> {
        let Link { sender, driver, .. } = self;
        tokio::spawn(driver.with_upgrades());
        sender
    }

    pub fn has_sent(&self) -> bool {
        self.sent.as_ref().is_none_or(|sent| sent.load(Ordering::Acquire))
    }
}
