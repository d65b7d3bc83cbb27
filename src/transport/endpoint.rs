//! Dialling and listening.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use quinn::crypto::rustls::{HandshakeData, QuicClientConfig, QuicServerConfig};
use quinn::{ConnectionError, EndpointConfig, IdleTimeout, MtuDiscoveryConfig, TokioRuntime, TransportConfig, VarInt};
use rustix::net::sockopt;
use rustls::AlertDescription;

use super::connection::{Close, Connection, alert, lost};
use super::identity::{Identity, PublicKey, random};
use super::liveness::refused;
use super::tls::{self, Admit};
use crate::model::reference::Address;
use crate::model::{Error, Kind, Result};
use crate::wire::VERSION;

/// What may be on its way to us, or wait here until it is read, of one stream: 0.3 GB/s at a round trip of 200 ms.
const FAR_WINDOW_BYTES: u32 = 64 << 20;
/// Within one machine there is no way to fill, so this is only memory.
const NEAR_WINDOW_BYTES: u32 = 16 << 20;
/// A cable pulled for a few seconds is no reason to give up; half a minute is.
const IDLE: Duration = Duration::from_secs(25);
const KEEP_ALIVE: Duration = Duration::from_secs(4);
/// How long one address of a host may take to answer at all.
const DIAL: Duration = Duration::from_secs(8);
/// Room for what arrives while this process does not get to run. Without rights the system gives less.
const SOCKET_BYTES: usize = 8 << 20;
/// The largest datagram that is tried. Where the path takes it (loopback, jumbo frames) a byte costs little more than
/// half of what it does at 1452; beyond this the batches of ten get too big for the kernel's buffers and it turns.
const DATAGRAM_BYTES: u16 = 4400;
/// Streams that a peer may have open at once.
const STREAMS: u32 = 256;

/// Whether a peer is on this machine.
fn is_near(peer: SocketAddr) -> bool {
    peer.ip().to_canonical().is_loopback()
}

/// The settings for a peer. One stream's window leaves room in the connection's for the other streams:
/// a sync whose target does not read must not keep its question from being answered.
fn transport(near: bool) -> Arc<TransportConfig> {
    let window = if near { NEAR_WINDOW_BYTES } else { FAR_WINDOW_BYTES };
    let mut discovery = MtuDiscoveryConfig::default();
    discovery.upper_bound(DATAGRAM_BYTES);
    let mut config = TransportConfig::default();
    config
        .mtu_discovery_config(Some(discovery))
        .stream_receive_window(VarInt::from_u32(window))
        .receive_window(VarInt::from_u32(4 * window))
        .send_window(window.into())
        .max_concurrent_bidi_streams(VarInt::from_u32(STREAMS))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .datagram_receive_buffer_size(None)
        .keep_alive_interval(Some(KEEP_ALIVE))
        .max_idle_timeout(IdleTimeout::try_from(IDLE).ok());
    Arc::new(config)
}

/// Connection ids that mean nothing. (QUIC's own are of one process, and what another one was sent is dropped unread.)
struct Ids;

impl quinn::ConnectionIdGenerator for Ids {
    fn generate_cid(&mut self) -> quinn::ConnectionId {
        // An id that somebody can guess is no harm.
        quinn::ConnectionId::new(&random::<8>().unwrap_or_default())
    }

    fn cid_len(&self) -> usize {
        8
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}

/// A daemon that was restarted tells the peers of the one before it that those connections are over (RFC 9000, 10.3): its
/// tokens come from its identity.
fn server_config(identity: &Identity) -> EndpointConfig {
    let key = blake3::derive_key("mcloud quic stateless reset", identity.seed());
    let mut config = EndpointConfig::new(Arc::new(ring::hmac::Key::new(ring::hmac::HMAC_SHA256, &key)));
    config.cid_generator(|| Box::new(Ids));
    config
}

fn endpoint(
    mut config: EndpointConfig,
    socket: UdpSocket,
    server: Option<quinn::ServerConfig>,
) -> io::Result<quinn::Endpoint> {
    config.max_udp_payload_size(DATAGRAM_BYTES).map_err(io::Error::other)?;
    quinn::Endpoint::new(config, server, socket, Arc::new(TokioRuntime))
}

fn socket(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = UdpSocket::bind(address)?;
    // A buffer smaller than asked for costs speed, not truth.
    if sockopt::set_socket_recv_buffer_size_force(&socket, SOCKET_BYTES).is_err() {
        let _ = sockopt::set_socket_recv_buffer_size(&socket, SOCKET_BYTES);
    }
    if sockopt::set_socket_send_buffer_size_force(&socket, SOCKET_BYTES).is_err() {
        let _ = sockopt::set_socket_send_buffer_size(&socket, SOCKET_BYTES);
    }
    Ok(socket)
}

/// Where a daemon takes connections.
#[derive(Debug)]
pub struct Listener {
    endpoint: quinn::Endpoint,
    address: SocketAddr,
    /// For clients of this machine, and for all others.
    near: Arc<quinn::ServerConfig>,
    far: Arc<quinn::ServerConfig>,
}

impl Listener {
    /// Listens at `address`; port 0 takes a free one.
    pub fn bind(address: SocketAddr, identity: &Identity, admit: Arc<dyn Admit>) -> Result<Listener> {
        let cannot = |error: io::Error| {
            Error::io(format!("cannot listen at {address} (UDP)"), error)
                .hint("another --listen ADDR:PORT, or :0 for a free port")
        };
        let crypto = QuicServerConfig::try_from(tls::server(identity, admit)?)
            .map_err(|error| Error::failed("QUIC cannot be set up").because(error))?;
        let crypto = Arc::new(crypto);
        let config = |near: bool| {
            let mut config = quinn::ServerConfig::with_crypto(crypto.clone());
            config.transport_config(transport(near));
            Arc::new(config)
        };
        let (near, far) = (config(true), config(false));
        let socket = socket(address).map_err(cannot)?;
        let endpoint =
            endpoint(server_config(identity), socket, Some(quinn::ServerConfig::clone(&far))).map_err(cannot)?;
        let address = endpoint.local_addr().map_err(cannot)?;
        Ok(Listener { endpoint, address, near, far })
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The next client that is on its way in, whoever it turns out to be; `None` after [`Listener::close`].
    pub async fn accept(&self) -> Option<Incoming> {
        let incoming = self.endpoint.accept().await?;
        let config = if is_near(incoming.remote_address()) { &self.near } else { &self.far };
        Some(Incoming { incoming, config: config.clone() })
    }

    /// Ends all connections and takes no more.
    pub async fn close(&self) {
        self.endpoint.close((Close::Stopping as u32).into(), b"the daemon stops");
        let _ = tokio::time::timeout(Duration::from_secs(1), self.endpoint.wait_idle()).await;
    }
}

/// A client before its handshake.
#[derive(Debug)]
pub struct Incoming {
    incoming: quinn::Incoming,
    config: Arc<quinn::ServerConfig>,
}

impl Incoming {
    /// The connection, once the client has proved a key that is admitted, and speaks our version.
    pub async fn handshake(self) -> Result<Connection> {
        let label = self.incoming.remote_address().to_string();
        let connecting = self.incoming.accept_with(self.config).map_err(|error| lost(&label, &error))?;
        let quic = connecting.await.map_err(|error| lost(&label, &error))?;
        let data = quic.handshake_data().and_then(|any| any.downcast::<HandshakeData>().ok());
        let spoken = data.and_then(|data| data.protocol).unwrap_or_default();
        if spoken != tls::alpn(VERSION) {
            let theirs = String::from_utf8_lossy(&spoken).into_owned();
            let reason = format!("the host speaks mcloud/{VERSION}, the client {theirs}");
            quic.close((Close::OtherVersion as u32).into(), reason.as_bytes());
            return Err(Error::new(Kind::Unreachable, format!("{label}: {reason}")));
        }
        Connection::new(quic, label, None)
    }
}

/// Connects to the daemon at one of `addresses`, tried in this order, that proves `host`'s key. `label` is how people know it.
pub async fn dial(addresses: &[SocketAddr], label: &str, identity: &Identity, host: PublicKey) -> Result<Connection> {
    let mut last = Error::new(Kind::Unreachable, format!("{label} has no address"));
    for address in addresses {
        match dial_one(*address, label, identity, host, VERSION).await {
            Ok(connection) => return Ok(connection),
            Err(error) => last = error,
        }
    }
    Err(last)
}

async fn dial_one(
    address: SocketAddr,
    label: &str,
    identity: &Identity,
    host: PublicKey,
    version: u32,
) -> Result<Connection> {
    let any = if address.is_ipv6() { IpAddr::V6(Ipv6Addr::UNSPECIFIED) } else { IpAddr::V4(Ipv4Addr::UNSPECIFIED) };
    let cannot =
        |error: io::Error| Error::new(Kind::Unreachable, format!("cannot reach {label} at {address}")).because(error);
    let socket = socket(SocketAddr::new(any, 0)).map_err(cannot)?;
    let endpoint = endpoint(EndpointConfig::default(), socket, None).map_err(cannot)?;
    let (crypto, shown) = tls::client(identity, host, version)?;
    let crypto =
        QuicClientConfig::try_from(crypto).map_err(|error| Error::failed("QUIC cannot be set up").because(error))?;
    let mut config = quinn::ClientConfig::new(Arc::new(crypto));
    config.transport_config(transport(is_near(address)));
    let silent = || {
        Error::new(Kind::Unreachable, format!("cannot reach {label}: {address} does not answer"))
            .hint("is the host up, does `mcloud server` run there, and may UDP through to its port?")
    };
    let connecting = endpoint
        .connect_with(config, address, "mcloud")
        .map_err(|error| Error::new(Kind::Unreachable, format!("cannot reach {label} at {address}")).because(error))?;
    let connected = tokio::select! {
        connected = connecting => connected,
        error = refused(address) => {
            return Err(Error::new(Kind::Unreachable, format!("cannot reach {label}: nothing listens at {address} (UDP)"))
                .hint("does `mcloud server` run there?").because(error));
        }
        () = tokio::time::sleep(DIAL) => return Err(silent()),
    };
    let quic = connected.map_err(|error| match &error {
        ConnectionError::TransportError(transport)
            if alert(transport.code.into()) == Some(AlertDescription::AccessDenied) =>
        {
            let showed = shown.lock().ok().and_then(|shown| *shown).map_or("none".to_owned(), |key| key.short());
            Error::new(
                Kind::Unreachable,
                format!("the key of {label} is not the one pinned for it: expected {}, it has {showed}", host.short()),
            )
            .hint(
                "either somebody stands in between, or the host was set up anew: then get a new invite from its admin",
            )
        }
        ConnectionError::TimedOut => silent(),
        error => lost(label, error),
    })?;
    Connection::new(quic, label.to_owned(), Some(endpoint))
}

/// The addresses of a host, IPv4 first only where the system's resolver says so.
pub async fn resolve(address: &Address) -> Result<Vec<SocketAddr>> {
    let found = tokio::net::lookup_host((address.host.as_str(), address.port_or_default())).await;
    let unknown = || {
        Error::new(Kind::Unreachable, format!("the host `{}` is not known", address.host))
            .hint("is its name spelled right? An IP address works, too")
    };
    match found.map(Iterator::collect::<Vec<_>>) {
        Ok(found) if found.is_empty() => Err(unknown()),
        Ok(found) => Ok(found),
        Err(error) => Err(unknown().because(error)),
    }
}

/// This machine's addresses that others may reach it at; its loopback where there are none.
pub fn local_addresses() -> Vec<IpAddr> {
    let mut found = Vec::new();
    let routes = std::fs::read_to_string("/proc/net/fib_trie").unwrap_or_default();
    let mut last = None;
    for line in routes.lines() {
        let mut words = line.split_whitespace();
        match (words.next(), words.next(), words.next()) {
            (Some("|--"), Some(address), _) => last = address.parse::<Ipv4Addr>().ok(),
            (Some("/32"), Some("host"), Some("LOCAL")) => found.extend(last.map(IpAddr::V4)),
            _ => {}
        }
    }
    // Global scope is 00 in the fourth column.
    let six = std::fs::read_to_string("/proc/net/if_inet6").unwrap_or_default();
    for line in six.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        if let [digits, _, _, "00", ..] = words[..]
            && let Ok(bits) = u128::from_str_radix(digits, 16)
        {
            found.push(IpAddr::V6(Ipv6Addr::from_bits(bits)));
        }
    }
    found.retain(|address| !address.is_loopback());
    found.dedup();
    let mut unique: Vec<IpAddr> = Vec::new();
    for address in found {
        if !unique.contains(&address) {
            unique.push(address);
        }
    }
    if unique.is_empty() { vec![IpAddr::V4(Ipv4Addr::LOCALHOST)] } else { unique }
}

#[cfg(test)]
#[path = "endpoint_tests.rs"]
mod tests;
