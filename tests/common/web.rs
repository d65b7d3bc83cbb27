//! A proxy of the test's own and upstreams behind it, in this process: no daemon, no Docker.

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::Command;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use mcloud::model::{Domain, Seat};
use mcloud::proxy::{Limits, Proxy, Route, Serving, Tcp, Upstream, Way};
use tokio::net::TcpListener;

/// Long enough for anything that a test waits for.
pub const PATIENCE: Duration = Duration::from_secs(30);

pub type Body = BoxBody<Bytes, std::io::Error>;

pub fn full(text: impl Into<Bytes>) -> Body {
    Full::new(text.into()).map_err(|never: Infallible| match never {}).boxed()
}

/// A body that is told piece by piece, with trailers at its end.
pub fn pieces(from: tokio::sync::mpsc::Receiver<Frame<Bytes>>) -> Body {
    let pieces = futures_util::stream::unfold(from, |mut from| async move {
        from.recv().await.map(|frame| (Ok::<_, std::io::Error>(frame), from))
    });
    BodyExt::boxed(StreamBody::new(pieces))
}

/// A service that says what it saw of each request, and does as its path asks.
pub struct Web {
    pub address: SocketAddr,
    pub requests: Arc<AtomicUsize>,
    pub connections: Arc<AtomicUsize>,
    /// Request bodies' bytes seen so far.
    pub received: Arc<AtomicU64>,
}

impl Web {
    pub async fn start(name: &'static str) -> Web {
        Web::with(name, |_| {}).await
    }

    pub async fn with(name: &'static str, set: impl Fn(&mut auto::Builder<TokioExecutor>) + Send + 'static) -> Web {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let [requests, connections] = [Arc::<AtomicUsize>::default(), Arc::default()];
        let received = Arc::<AtomicU64>::default();
        let web =
            Web { address, requests: requests.clone(), connections: connections.clone(), received: received.clone() };
        tokio::spawn(async move {
            let mut builder = auto::Builder::new(TokioExecutor::new());
            set(&mut builder);
            while let Ok((stream, _)) = listener.accept().await {
                connections.fetch_add(1, Ordering::SeqCst);
                let (requests, received, builder) = (requests.clone(), received.clone(), builder.clone());
                tokio::spawn(async move {
                    let service = service_fn(move |request| {
                        requests.fetch_add(1, Ordering::SeqCst);
                        let received = received.clone();
                        async move { Ok::<_, Infallible>(serve(name, request, &received).await) }
                    });
                    let _ = builder.serve_connection_with_upgrades(TokioIo::new(stream), service).await;
                });
            }
        });
        web
    }
}

async fn serve(name: &str, mut request: Request<Incoming>, received: &AtomicU64) -> Response<Body> {
    let path = request.uri().path().to_owned();
    match path.as_str() {
        "/slow" => tokio::time::sleep(Duration::from_millis(400)).await,
        // Never answers.
        "/never" => std::future::pending().await,
        "/echo" => {
            let mut body = request.into_body();
            let (sender, pieces_in) = tokio::sync::mpsc::channel(4);
            tokio::spawn(async move {
                while let Some(Ok(frame)) = body.frame().await {
                    if sender.send(frame).await.is_err() {
                        return;
                    }
                }
            });
            return Response::new(pieces(pieces_in));
        }
        "/events" => {
            let (sender, events) = tokio::sync::mpsc::channel(4);
            tokio::spawn(async move {
                for number in 0.. {
                    let event = Frame::data(Bytes::from(format!("data: {number}\n\n")));
                    if sender.send(event).await.is_err() {
                        return;
                    }
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            });
            let mut response = Response::new(pieces(events));
            response.headers_mut().insert("content-type", "text/event-stream".parse().unwrap());
            return response;
        }
        "/trailers" => {
            let (sender, frames) = tokio::sync::mpsc::channel(4);
            let mut trailers = hyper::HeaderMap::new();
            trailers.insert("x-sum", "42".parse().unwrap());
            sender.send(Frame::data(Bytes::from_static(b"body"))).await.unwrap();
            sender.send(Frame::trailers(trailers)).await.unwrap();
            let mut response = Response::new(pieces(frames));
            response.headers_mut().insert("trailer", "x-sum".parse().unwrap());
            return response;
        }
        "/hop" => {
            let mut response = Response::new(full("hop"));
            for (name, value) in
                [("connection", "x-secret"), ("x-secret", "1"), ("keep-alive", "timeout=9"), ("x-kept", "1")]
            {
                response.headers_mut().insert(name, value.parse().unwrap());
            }
            return response;
        }
        "/empty" => {
            let mut response = Response::new(full(""));
            *response.status_mut() = hyper::StatusCode::NO_CONTENT;
            return response;
        }
        "/big" => return Response::new(full(vec![b'x'; 4 << 20])),
        _ => {}
    }
    let mut said = format!("{name}\n{} {} {:?}\n", request.method(), request.uri(), request.version());
    let mut headers: Vec<String> =
        request.headers().iter().map(|(key, value)| format!("{key}: {}", value.to_str().unwrap_or("?"))).collect();
    headers.sort();
    let mut body = 0;
    while let Some(frame) = request.body_mut().frame().await {
        match frame {
            Ok(frame) => {
                if let Some(data) = frame.data_ref() {
                    body += data.len();
                    received.fetch_add(data.len() as u64, Ordering::SeqCst);
                }
                if let Some(trailers) = frame.trailers_ref() {
                    said.push_str(&format!("trailers: {trailers:?}\n"));
                }
            }
            Err(_) => break,
        }
    }
    said.push_str(&headers.join("\n"));
    said.push_str(&format!("\nbody: {body}\n"));
    Response::new(full(said))
}

/// A proxy that listens, and what it knows.
pub struct Gateway {
    pub proxy: Arc<Proxy>,
    pub http: SocketAddr,
    pub https: SocketAddr,
    /// Tenants by their domains, and whether that is the way for TLS.
    routes: Mutex<HashMap<(String, bool), String>>,
}

pub fn tenant(name: &str) -> Seat {
    name.parse().unwrap()
}

impl Gateway {
    pub async fn start() -> Gateway {
        Gateway::with(Limits::default()).await
    }

    pub async fn with(limits: Limits) -> Gateway {
        let proxy = Arc::new(Proxy::new(limits, |_| {}).unwrap());
        let [http, https] =
            [TcpListener::bind("127.0.0.1:0").await.unwrap(), TcpListener::bind("127.0.0.1:0").await.unwrap()];
        let addresses = [http.local_addr().unwrap(), https.local_addr().unwrap()];
        tokio::spawn(proxy.clone().serve_http(http));
        tokio::spawn(proxy.clone().serve_tls(https));
        Gateway { proxy, http: addresses[0], https: addresses[1], routes: Mutex::default() }
    }

    /// A proxy with one tenant, `shop`, published as `shop.test`.
    pub async fn to(web: &Web) -> Gateway {
        let gateway = Gateway::start().await;
        gateway.serve("shop", web.address, "1");
        gateway.publish("shop.test", "shop");
        gateway
    }

    /// Says what serves a tenant: `run` tells one of its lives from another.
    pub fn serve(&self, name: &str, at: SocketAddr, run: &str) {
        let dial = Arc::new(Tcp(at.ip()));
        let (key, port) = (format!("{run} {at}"), Some(at.port()));
        let upstream = Upstream::new(key, "web".to_owned(), dial, port, None);
        self.proxy.set_serving(&tenant(name), Serving::Up(Arc::new(upstream)));
    }

    /// As [`Gateway::serve`], of a service that speaks TLS itself.
    pub fn serve_tls(&self, name: &str, at: SocketAddr, run: &str) {
        let (key, dial) = (format!("{run} {at}"), Arc::new(Tcp(at.ip())));
        let upstream = Upstream::new(key, "web".to_owned(), dial, None, Some(at.port()));
        self.proxy.set_serving(&tenant(name), Serving::Up(Arc::new(upstream)));
    }

    pub fn publish(&self, domain: &str, name: &str) {
        self.publish_way(domain, name, false);
    }

    pub fn publish_way(&self, domain: &str, name: &str, ssl: bool) {
        let mut routes = self.routes.lock().unwrap();
        routes.insert((domain.to_owned(), ssl), name.to_owned());
        let route = |((domain, ssl), name): (&(String, bool), &String)| Route {
            domain: Domain::new(domain).unwrap(),
            way: if *ssl { Way::Tls } else { Way::Http },
            tenant: tenant(name),
            port: None,
        };
        self.proxy.set_routes(routes.iter().map(route).collect());
    }

    /// Waits until so many of a tenant's requests wait.
    pub async fn waiting(&self, name: &str, many: usize) {
        until(&format!("{many} requests of {name} wait"), || self.proxy.held(&tenant(name)).1 == many).await;
    }

    /// `http://DOMAIN:PORT/PATH`, and what makes curl find it here.
    pub fn curl(&self, domain: &str, path: &str, more: &[&str]) -> Command {
        let mut command = Command::new("curl");
        command.args(["-sS", "--max-time", "60", "--resolve"]);
        command.arg(format!("{domain}:{}:{}", self.http.port(), IpAddr::from(Ipv4Addr::LOCALHOST)));
        command.args(more).arg(format!("http://{domain}:{}{path}", self.http.port()));
        command
    }

    /// Sends bytes as they are and gives all that comes back until the other end closes.
    pub async fn raw(&self, bytes: &[u8]) -> String {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let mut stream = tokio::net::TcpStream::connect(self.http).await.unwrap();
        let _ = stream.write_all(bytes).await;
        let mut answer = Vec::new();
        let read = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await;
        assert!(read.is_ok(), "the connection stays open after {:?}", String::from_utf8_lossy(&answer));
        String::from_utf8_lossy(&answer).into_owned()
    }
}

/// Runs a command off the threads that serve; its standard output.
pub async fn ran(mut command: Command) -> String {
    let out = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    assert!(out.status.success(), "{}: {}", out.status, String::from_utf8_lossy(&out.stderr));
    String::from_utf8_lossy(&out.stdout).into_owned()
}

/// Waits for something to be so.
pub async fn until(what: &str, is: impl Fn() -> bool) {
    let began = Instant::now();
    while !is() {
        assert!(began.elapsed() < PATIENCE, "never: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
