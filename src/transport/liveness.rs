//! Learning early that the other end is gone.
//!
//! QUIC does not listen to "port unreachable", since anybody could forge it, and waits for its idle timeout. But a process
//! that was killed should not hold its half of a sync for that long. So a connection on which nothing comes in any more asks
//! the system: a datagram of one byte to the peer's address, which no living end minds. Refused twice in a row, it is over.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::net::UdpSocket;
use tokio::task::AbortHandle;

/// Silence that is looked into.
const SILENCE: Duration = Duration::from_secs(1);
/// How long the system may take to tell that nobody is there.
const PATIENCE: Duration = Duration::from_millis(500);

/// Watches a connection as long as it is held.
#[derive(Debug)]
pub(super) struct Liveness {
    gone: Arc<AtomicBool>,
    watching: Option<AbortHandle>,
}

impl Drop for Liveness {
    fn drop(&mut self) {
        self.watching.iter().for_each(AbortHandle::abort);
    }
}

impl Liveness {
    /// Watches a host. (Not a client: a router that stands before it would answer for a port of its own.)
    pub fn of(quic: &quinn::Connection) -> Liveness {
        let gone = Arc::new(AtomicBool::new(false));
        let is_client = quic.side() == quinn::Side::Client;
        let watching = is_client.then(|| tokio::spawn(watch(quic.clone(), gone.clone())).abort_handle());
        Liveness { gone, watching }
    }

    /// Whether the connection ended because nobody is there.
    pub fn is_gone(&self) -> bool {
        self.gone.load(Ordering::SeqCst)
    }

    /// Looks once, thoroughly, whether a client of this machine is still there, and ends its connection if not.
    pub async fn look(&self, quic: &quinn::Connection) {
        if quic.remote_address().ip().to_canonical().is_loopback() && is_refused(quic).await && is_refused(quic).await {
            end(quic, &self.gone);
        }
    }
}

fn end(quic: &quinn::Connection, gone: &AtomicBool) {
    gone.store(true, Ordering::SeqCst);
    quic.close(0u32.into(), b"");
}

async fn watch(quic: quinn::Connection, gone: Arc<AtomicBool>) {
    let mut refusals = 0;
    while quic.close_reason().is_none() {
        refusals = if is_refused(&quic).await { refusals + 1 } else { 0 };
        if refusals == 2 {
            return end(&quic, &gone);
        }
    }
}

/// After a while of silence: whether the system says that nobody is there.
async fn is_refused(quic: &quinn::Connection) -> bool {
    let received = || quic.stats().udp_rx.datagrams;
    let before = received();
    tokio::time::sleep(SILENCE).await;
    received() == before
        && tokio::time::timeout(PATIENCE, refused(quic.remote_address())).await.is_ok()
        && received() == before
}

/// Comes back only if the system says that nobody listens at `address`.
pub(super) async fn refused(address: SocketAddr) -> io::Error {
    let asked = async {
        let any = if address.is_ipv6() { IpAddr::V6(Ipv6Addr::UNSPECIFIED) } else { IpAddr::V4(Ipv4Addr::UNSPECIFIED) };
        let probe = UdpSocket::bind((any, 0)).await?;
        probe.connect(address).await?;
        // One byte is no QUIC packet: whoever listens drops it.
        probe.send(&[0]).await?;
        probe.recv(&mut [0; 16]).await
    };
    match asked.await {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => error,
        _ => std::future::pending().await,
    }
}
