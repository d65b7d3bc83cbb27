//! A TCP socket that can be looked at while somebody else reads from it and writes to it.

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::sockopt;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// A connection whose other end says nothing for so long is asked whether it is there.
const KEEP_ALIVE: Duration = Duration::from_secs(60);

#[derive(Debug)]
pub struct Socket(Arc<Mutex<TcpStream>>);

/// Looks at a socket without taking anything from it.
#[derive(Clone, Debug)]
pub struct Probe(Arc<Mutex<TcpStream>>);

impl Socket {
    /// Without delay for small writes, and with the system's keep-alive: a peer that vanished is noticed.
    pub fn new(stream: TcpStream) -> Socket {
        let _ = stream.set_nodelay(true);
        let _ = sockopt::set_socket_keepalive(&stream, true);
        let _ = sockopt::set_tcp_keepidle(&stream, KEEP_ALIVE);
        Socket(Arc::new(Mutex::new(stream)))
    }

    pub async fn connect(to: SocketAddr) -> io::Result<Socket> {
        TcpStream::connect(to).await.map(Socket::new)
    }

    pub fn probe(&self) -> Probe {
        Probe(self.0.clone())
    }

    fn stream(&self) -> MutexGuard<'_, TcpStream> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Probe {
    fn sees(&self, wanted: PollFlags) -> bool {
        let stream = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut fds = [PollFd::from_borrowed_fd(stream.as_fd(), wanted)];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        // A look that does not come off is no reason to give a connection up.
        matches!(poll(&mut fds, Some(&now)), Ok(1..))
            && fds[0].revents().intersects(wanted | PollFlags::ERR | PollFlags::HUP)
    }

    /// Whether the other end has gone, or will send no more.
    pub fn hung_up(&self) -> bool {
        self.sees(PollFlags::RDHUP)
    }

    /// Whether nothing came: what an idle connection of an upstream has to be.
    pub fn is_quiet(&self) -> bool {
        !self.sees(PollFlags::IN | PollFlags::RDHUP)
    }
}

impl AsyncRead for Socket {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.stream()).poll_read(cx, buf)
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.stream()).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.stream()).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.stream()).poll_shutdown(cx)
    }
}
