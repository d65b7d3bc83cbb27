//! TLS by name: the first message is read and the name in it looked up. Then the connection is passed through to the
//! service, where that speaks TLS itself, or ended here.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;

use rustls::server::{Accepted, Acceptor};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::StartHandshake;

use super::certs::is_challenge;
use super::client::{Client, Patient};
use super::forward::{Admitted, Stopped};
use super::routes::{Way, host_name};
use super::socket::Socket;
use super::upstream::{Serving, Upstream};
use super::{Proxy, tunnel};

/// The longest first message that is read; those of browsers have some hundred bytes, with new key exchanges some thousand.
const HELLO_BYTES: usize = 32 << 10;

/// A fatal alert, as it stands on the wire before there are keys (RFC 8446, 6).
fn alert(description: u8) -> [u8; 7] {
    [0x15, 3, 3, 0, 2, 2, description]
}

const UNRECOGNIZED_NAME: u8 = 112;
const INTERNAL_ERROR: u8 = 80;

/// The first message of a client.
struct Hello {
    /// As it came.
    bytes: Vec<u8>,
    accepted: Accepted,
}

impl Proxy {
    /// Serves one connection of the TLS listener.
    pub(super) async fn tls(self: Arc<Self>, stream: TcpStream, ip: IpAddr) {
        let mut socket = Socket::new(stream);
        let client = Arc::new(Client { ip: ip.to_canonical(), way: Way::Tls, probe: socket.probe() });
        let Ok(Ok(hello)) = tokio::time::timeout(self.limits.head, hello(&mut socket)).await else { return };
        let asked = hello.accepted.client_hello();
        if is_challenge(&asked) {
            let shown = StartHandshake::from_parts(hello.accepted, socket).into_stream(self.ends.challenges.clone());
            let _ = tokio::time::timeout(self.limits.head, shown).await;
            return;
        }
        let name = asked.server_name().and_then(host_name).map(std::borrow::Cow::into_owned);
        let found = name.and_then(|name| Some((self.find(Way::Tls, &name)?, name)));
        let Some((target, name)) = found else { return refused(socket, UNRECOGNIZED_NAME).await };
        let passes = match target.tenant.serving() {
            Serving::Up(upstream) => upstream.ssl.is_some(),
            // Then there is just a page to show, by who can.
            Serving::Down(_) => self.certificates.find(&name).is_none(),
        };
        match passes {
            true => self.pass_through(&client, &name, socket, hello).await,
            false => self.end(client, socket, hello).await,
        }
    }

    /// Waits as long as the tenant is held, then leaves the talking to the service.
    async fn pass_through(&self, client: &Client, name: &str, socket: Socket, hello: Hello) {
        let Admitted { target, passed } = match self.admit(client, name).await {
            Ok(admitted) => admitted,
            Err(Stopped::Unknown) => return refused(socket, UNRECOGNIZED_NAME).await,
            Err(_) => return refused(socket, INTERNAL_ERROR).await,
        };
        let connect = |upstream: Arc<Upstream>, port| async move { upstream.dial(port).await };
        let Ok((_, _, mut upstream)) = self.reach(&target, Way::Tls, connect).await else {
            return refused(socket, INTERNAL_ERROR).await;
        };
        if upstream.write_all(&hello.bytes).await.is_ok() {
            let mut stopping = self.stopping.subscribe();
            tokio::select! {
                () = tunnel::run(Patient::new(socket, self.limits.stall), upstream, passed) => {}
                _ = stopping.wait_for(|stopping| *stopping) => {}
            }
        }
    }

    /// Ends TLS here and speaks HTTP in it; its requests are held, not the connection.
    async fn end(self: Arc<Self>, client: Arc<Client>, socket: Socket, hello: Hello) {
        let shaking = StartHandshake::from_parts(hello.accepted, socket).into_stream(self.ends.pages.clone());
        let Ok(Ok(stream)) = tokio::time::timeout(self.limits.head, shaking).await else { return };
        let is_http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
        let patient = Patient::new(stream, self.limits.stall);
        self.speak(client, patient, is_http2).await;
    }
}

/// Says why, and ends.
async fn refused(mut socket: Socket, description: u8) {
    let _ = socket.write_all(&alert(description)).await;
    let _ = socket.shutdown().await;
}

/// Reads the first message, no more of the stream than it has to be.
async fn hello(socket: &mut Socket) -> io::Result<Hello> {
    let mut acceptor = Acceptor::default();
    let mut bytes = Vec::with_capacity(2048);
    loop {
        let before = bytes.len();
        if before >= HELLO_BYTES || socket.read_buf(&mut bytes).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let mut new = &bytes[before..];
        while !new.is_empty() {
            acceptor.read_tls(&mut new)?;
            match acceptor.accept() {
                Ok(Some(accepted)) => return Ok(Hello { bytes, accepted }),
                Ok(None) => {}
                Err((error, mut alert)) => {
                    let mut out = Vec::new();
                    let _ = alert.write_all(&mut out);
                    let _ = socket.write_all(&out).await;
                    return Err(io::Error::other(error));
                }
            }
        }
    }
}
