//! The listeners: connections taken, HTTP/1 or HTTP/2 spoken, each for as long as it behaves.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use super::Proxy;
use super::client::{Client, Patient};
use super::forward;
use super::routes::Way;
use super::socket::Socket;

/// Requests at once over one HTTP/2 connection.
const STREAMS: u32 = 256;
/// An HTTP/2 connection on which nothing comes is asked whether it is there.
const PING: Duration = Duration::from_secs(30);
/// A client that is to leave gets so long to end what it is at when the proxy stops.
const LAST_WORDS: Duration = Duration::from_secs(10);

impl Proxy {
    /// Serves HTTP on a listener until the proxy stops.
    pub async fn serve_http(self: Arc<Self>, listener: TcpListener) {
        self.serve(listener, Way::Http).await;
    }

    /// Serves TLS on a listener until the proxy stops.
    pub async fn serve_tls(self: Arc<Self>, listener: TcpListener) {
        self.serve(listener, Way::Tls).await;
    }

    async fn serve(self: Arc<Self>, listener: TcpListener, way: Way) {
        let room = Arc::new(Semaphore::new(self.limits.connections));
        let mut stopping = self.stopping.subscribe();
        loop {
            let Ok(permit) = room.clone().acquire_owned().await else { return };
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                _ = stopping.wait_for(|stopping| *stopping) => return,
            };
            let Ok((stream, from)) = accepted else {
                // Out of descriptors, most likely: others have to end first.
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            };
            let proxy = self.clone();
            tokio::spawn(async move {
                let _counted = Counted::new(&proxy);
                match way {
                    Way::Http => proxy.clone().http(stream, from.ip()).await,
                    Way::Tls => proxy.clone().tls(stream, from.ip()).await,
                }
                drop(permit);
            });
        }
    }

    async fn http(self: Arc<Self>, stream: TcpStream, ip: std::net::IpAddr) {
        let socket = Socket::new(stream);
        let client = Arc::new(Client { ip: ip.to_canonical(), way: Way::Http, probe: socket.probe() });
        let mut stream = Patient::new(socket, self.limits.stall);
        if let Ok(Ok(is_http2)) = tokio::time::timeout(self.limits.head, stream.begins_with_http2()).await {
            self.speak(client, stream, is_http2).await;
        }
    }

    /// Serves one connection.
    pub async fn speak<S>(self: Arc<Self>, client: Arc<Client>, stream: Patient<S>, is_http2: bool)
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let mut stopping = self.stopping.subscribe();
        let limits = self.limits;
        let service = service_fn(move |request| {
            let answered = forward::answer(self.clone(), client.clone(), request);
            async move { Ok::<_, Infallible>(answered.await) }
        });
        match is_http2 {
            true => {
                let io = TokioIo::new(stream);
                let mut builder = http2::Builder::new(TokioExecutor::new());
                builder
                    .timer(TokioTimer::new())
                    .max_concurrent_streams(STREAMS)
                    .max_header_list_size(u32::try_from(limits.head_bytes).unwrap_or(u32::MAX))
                    .keep_alive_interval(PING)
                    .keep_alive_timeout(PING)
                    .adaptive_window(true);
                let mut connection = std::pin::pin!(builder.serve_connection(io, service));
                tokio::select! {
                    _ = &mut connection => return,
                    _ = stopping.wait_for(|stopping| *stopping) => connection.as_mut().graceful_shutdown(),
                }
                let _ = tokio::time::timeout(LAST_WORDS, connection).await;
            }
            false => {
                let io = TokioIo::new(stream.inspected());
                let mut builder = http1::Builder::new();
                builder
                    .timer(TokioTimer::new())
                    .header_read_timeout(limits.head)
                    .max_header_size(limits.head_bytes)
                    .max_buf_size(limits.head_bytes.max(64 << 10));
                let mut connection = std::pin::pin!(builder.serve_connection(io, service).with_upgrades());
                tokio::select! {
                    _ = &mut connection => return,
                    _ = stopping.wait_for(|stopping| *stopping) => connection.as_mut().graceful_shutdown(),
                }
                let _ = tokio::time::timeout(LAST_WORDS, connection).await;
            }
        }
    }
}

/// A connection that is counted for as long as this lives.
struct Counted<'p>(&'p Proxy);

impl<'p> Counted<'p> {
    fn new(proxy: &'p Proxy) -> Counted<'p> {
        proxy.counters.connections.fetch_add(1, Ordering::SeqCst);
        Counted(proxy)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.counters.connections.fetch_sub(1, Ordering::SeqCst);
    }
}
