//! TLS by name: the first message is read, the name in it looked up, and the connection passed through to the service.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;

use rustls::server::{Accepted, Acceptor};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::client::{Client, Patient};
use super::forward::Admitted;
use super::routes::{Way, host_name};
use super::socket::Socket;
use super::upstream::Upstream;
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
        let client = Client { ip: ip.to_canonical(), way: Way::Tls, probe: socket.probe() };
        let Ok(Ok(hello)) = tokio::time::timeout(self.limits.head, hello(&mut socket)).await else { return };
        let name = hello.accepted.client_hello().server_name().and_then(host_name).map(std::borrow::Cow::into_owned);
        let refuse = |description| alert(description);
        let Some(name) = name else { return refused(socket, refuse(UNRECOGNIZED_NAME)).await };
        match self.admit(&client, &name).await {
            Ok(admitted) => self.pass_through(socket, hello, admitted).await,
            Err(super::forward::Stopped::Unknown) => refused(socket, refuse(UNRECOGNIZED_NAME)).await,
            Err(_) => refused(socket, refuse(INTERNAL_ERROR)).await,
        }
    }

    async fn pass_through(&self, socket: Socket, hello: Hello, admitted: Admitted) {
        let Admitted { target, passed } = admitted;
        let connect = |upstream: Arc<Upstream>, port| async move { upstream.dial(port).await };
        let Ok((_, _, mut upstream)) = self.reach(&target, Way::Tls, connect).await else {
            return refused(socket, alert(INTERNAL_ERROR)).await;
        };
        if upstream.write_all(&hello.bytes).await.is_ok() {
            tunnel::run(Patient::new(socket, self.limits.stall), upstream, passed).await;
        }
    }
}

/// Says why, and ends.
async fn refused(mut socket: Socket, alert: [u8; 7]) {
    let _ = socket.write_all(&alert).await;
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
