//! One connection: its streams, its peer, what went over the wire, and what its end means to people.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use quinn::ConnectionError;
use rustls::AlertDescription;
use rustls::pki_types::CertificateDer;

use super::identity::PublicKey;
use super::liveness::Liveness;
use super::stream::Stream;
use crate::model::{Error, Kind, Result};
use crate::wire::VERSION;

/// Bytes in UDP datagrams of one connection, as this end counts them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    pub sent: u64,
    pub received: u64,
}

impl Traffic {
    #[must_use]
    pub fn since(self, before: Traffic) -> Traffic {
        Traffic { sent: self.sent - before.sent, received: self.received - before.received }
    }
}

/// How fast a connection's path is, as far as it is known.
#[derive(Clone, Copy, Debug)]
pub(super) struct Path {
    pub rtt: Duration,
    pub min_rtt: Duration,
    pub window_bytes: u64,
    pub sent_bytes: u64,
}

/// Why an application closed a connection: these codes are part of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Close {
    Bye = 0,
    OtherVersion = 1,
    Revoked = 2,
    Stopping = 3,
}

/// A connection whose two ends have proved their keys.
#[derive(Clone, Debug)]
pub struct Connection {
    quic: quinn::Connection,
    peer: PublicKey,
    /// How people know the other end.
    label: String,
    /// A client's endpoint lives as long as its connection.
    endpoint: Option<quinn::Endpoint>,
    liveness: Arc<Liveness>,
}

impl Connection {
    pub(super) fn new(quic: quinn::Connection, label: String, endpoint: Option<quinn::Endpoint>) -> Result<Connection> {
        let shown = quic.peer_identity().and_then(|any| any.downcast::<Vec<CertificateDer<'static>>>().ok());
        let peer = shown.and_then(|certs| PublicKey::from_spki(certs.first()?.as_ref()));
        let peer = peer.ok_or_else(|| Error::new(Kind::Unreachable, format!("{label} proved no key")))?;
        let liveness = Arc::new(Liveness::of(&quic));
        Ok(Connection { quic, peer, label, endpoint, liveness })
    }

    /// The key that the other end proved.
    pub fn peer(&self) -> PublicKey {
        self.peer
    }

    pub fn label(&self) -> &str {
        &self.label
    }

    pub fn remote_address(&self) -> SocketAddr {
        self.quic.remote_address()
    }

    /// The address of this end, where the system tells.
    pub fn local_ip(&self) -> Option<std::net::IpAddr> {
        self.quic.local_ip()
    }

    pub fn traffic(&self) -> Traffic {
        let stats = self.quic.stats();
        Traffic { sent: stats.udp_tx.bytes, received: stats.udp_rx.bytes }
    }

    pub(super) fn path(&self) -> Path {
        let stats = self.quic.stats();
        Path {
            rtt: stats.path.rtt,
            min_rtt: stats.path.min_rtt,
            window_bytes: stats.path.cwnd,
            sent_bytes: stats.udp_tx.bytes,
        }
    }

    /// How long it takes until so many bytes were sent, if nothing but the round trips held them up: what may be under way
    /// doubles with each (slow start; RFC 9002, 7.3.1).
    pub fn ramp(&self, bytes: u64) -> Duration {
        let Path { rtt, window_bytes, .. } = self.path();
        let windows = bytes.div_ceil(window_bytes.max(1));
        rtt * (u64::BITS - windows.leading_zeros() + 1)
    }

    pub async fn open(&self) -> Result<Stream> {
        let (send, recv) = self.quic.open_bi().await.map_err(|error| self.lost(&error))?;
        Ok(Stream::new(self.clone(), send, recv))
    }

    /// The next stream that the other end opens; `None` when the connection is over.
    pub async fn accept(&self) -> Option<Stream> {
        let (send, recv) = self.quic.accept_bi().await.ok()?;
        Some(Stream::new(self.clone(), send, recv))
    }

    /// Waits until the connection is over, and says why.
    pub async fn closed(&self) -> Error {
        let error = self.quic.closed().await;
        self.lost(&error)
    }

    pub fn is_open(&self) -> bool {
        self.quic.close_reason().is_none()
    }

    /// Looks whether a client of this machine that has fallen silent was killed; if so, the connection ends at once rather
    /// than when its patience is over. Takes a few seconds.
    pub async fn look_for_peer(&self) {
        self.liveness.look(&self.quic).await;
    }

    pub fn close_revoked(&self) {
        self.close(Close::Revoked, "the key was revoked");
    }

    pub fn close_stopping(&self) {
        self.close(Close::Stopping, "the daemon stops");
    }

    /// Ends a connection whose other end does not answer.
    pub fn give_up(&self) {
        self.close(Close::Bye, "no answer");
    }

    pub(super) fn close(&self, code: Close, reason: &str) {
        self.quic.close((code as u32).into(), reason.as_bytes());
    }

    /// Says goodbye, and waits until that is on its way.
    pub async fn bye(&self) {
        self.close(Close::Bye, "");
        if let Some(endpoint) = &self.endpoint {
            let _ = tokio::time::timeout(Duration::from_secs(1), endpoint.wait_idle()).await;
        }
    }

    pub(super) fn lost(&self, error: &ConnectionError) -> Error {
        if self.liveness.is_gone() {
            return Error::new(
                Kind::Unreachable,
                format!("{} is gone: nothing listens at {} any more", self.label, self.remote_address()),
            )
            .hint("was it stopped? What was staged is kept: run it again to go on");
        }
        lost(&self.label, error)
    }

    /// Why a stream broke: what ended the connection, if that is what happened.
    pub(super) fn broke(&self, why: impl std::fmt::Display) -> Error {
        match self.quic.close_reason() {
            Some(error) => self.lost(&error),
            None => {
                Error::new(Kind::Failed, format!("{} broke a conversation off", self.label)).because(why.to_string())
            }
        }
    }
}

/// What the end of a connection means.
pub(super) fn lost(label: &str, error: &ConnectionError) -> Error {
    let unreachable = |message: String| Error::new(Kind::Unreachable, message);
    match error {
        ConnectionError::ApplicationClosed(close) => {
            let reason = String::from_utf8_lossy(&close.reason).escape_debug().to_string();
            match close.error_code.into_inner() {
                code if code == Close::OtherVersion as u64 => {
                    unreachable(format!("{label}: {reason}")).hint("use the same version of mcloud on both sides")
                }
                code if code == Close::Revoked as u64 => {
                    unreachable(format!("{label} closed the connection: our key was revoked"))
                        .hint("ask an admin of that host for an invite (`mcloud invite`), then `mcloud login` with it")
                }
                code if code == Close::Stopping as u64 => {
                    unreachable(format!("{label} closed the connection: the daemon stops"))
                        .hint("try again when it is up")
                }
                _ => unreachable(format!("{label} closed the connection")),
            }
        }
        ConnectionError::ConnectionClosed(close) => match alert(u64::from(close.error_code)) {
            Some(AlertDescription::AccessDenied | AlertDescription::CertificateRequired) => {
                unreachable(format!("{label} does not know our key and lets us not in"))
                    .hint("ask an admin of that host for an invite (`mcloud invite`), then `mcloud login` with it")
            }
            Some(AlertDescription::NoApplicationProtocol) => unreachable(format!(
                "{label} speaks another version: this client speaks mcloud/{VERSION}, the host does not"
            ))
            .hint("use the same version of mcloud on both sides"),
            _ => unreachable(format!("{label} ended the connection")).because(error.clone()),
        },
        ConnectionError::TimedOut => unreachable(format!("{label} does not answer any more")).hint(
            "is the network up, and does `mcloud server` run there? What was staged is kept: run it again to go on",
        ),
        ConnectionError::Reset => {
            unreachable(format!("{label} was restarted")).hint("what was staged is kept: run it again to go on")
        }
        ConnectionError::LocallyClosed => Error::new(Kind::Cancelled, format!("the connection to {label} was closed")),
        ConnectionError::VersionMismatch => {
            unreachable(format!("{label} speaks no version of QUIC that is known here"))
        }
        other => unreachable(format!("the connection to {label} broke")).because(other.clone()),
    }
}

/// The TLS alert in a QUIC error code (RFC 9001, 4.8).
pub(super) fn alert(code: u64) -> Option<AlertDescription> {
    (0x100..0x200).contains(&code).then(|| AlertDescription::from(code as u8))
}
