//! A client's connection as the server end of HTTP sees it: the first bytes looked at, and nobody waited for without end.

use std::future::Future;
use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

use super::inspect::{Inspector, Refused};
use super::routes::Way;
use super::socket::Probe;

/// What HTTP/2 begins with.
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// The end of a head that no parser takes.
const REFUSED: &[u8] = b"\0\r\n\r\n";

/// Who is at the other end.
#[derive(Clone, Debug)]
pub struct Client {
    pub ip: IpAddr,
    pub way: Way,
    pub probe: Probe,
}

impl Client {
    pub fn scheme(&self) -> &'static str {
        match self.way {
            Way::Http => "http",
            Way::Tls => "https",
        }
    }

    /// Resolves when the client has gone. Its request may be unread, so the end cannot be read: it is looked for.
    pub async fn gone(&self) {
        loop {
            tokio::time::sleep(Duration::from_millis(500)).await;
            if self.probe.hung_up() {
                return;
            }
        }
    }
}

/// A stream whose first bytes have been read already, and whose other end has to take what is written to it in time.
pub struct Patient<S> {
    stream: S,
    first: [u8; PREFACE.len()],
    first_at: usize,
    first_end: usize,
    patience: Duration,
    late: Option<Pin<Box<Sleep>>>,
    /// Looks at what is read, where it is HTTP/1.
    inspector: Option<Inspector>,
    is_refused: bool,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Patient<S> {
    pub fn new(stream: S, patience: Duration) -> Patient<S> {
        Patient {
            stream,
            first: [0; 24],
            first_at: 0,
            first_end: 0,
            patience,
            late: None,
            inspector: None,
            is_refused: false,
        }
    }

    /// Whether the client begins with HTTP/2.
    pub async fn begins_with_http2(&mut self) -> io::Result<bool> {
        loop {
            let read = self.stream.read(&mut self.first[self.first_end..]).await?;
            self.first_end += read;
            let begun = &self.first[..self.first_end];
            if read == 0 || !PREFACE.starts_with(begun) {
                return Ok(false);
            }
            if begun.len() == PREFACE.len() {
                return Ok(true);
            }
        }
    }

    /// What is read from now on is HTTP/1 that can be read in one way only.
    pub fn inspected(mut self) -> Patient<S> {
        self.inspector = Some(Inspector::default());
        self
    }

    /// Looks at what was read since `before`. What must not be parsed becomes something that no parser takes, so that
    /// the client is told, and what came before it is answered.
    fn inspect(&mut self, buf: &mut ReadBuf<'_>, before: usize) {
        let Some(inspector) = &mut self.inspector else { return };
        if let Err(Refused(at)) = inspector.look(&buf.filled()[before..]) {
            buf.set_filled(before + at);
            // The parser looks at a head when it seems complete.
            let most = buf.remaining().min(REFUSED.len());
            buf.put_slice(&REFUSED[..most]);
            self.is_refused = true;
        }
    }

    fn in_time<T>(&mut self, cx: &mut Context<'_>, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.late = None;
            return written;
        }
        let late = self.late.get_or_insert_with(|| Box::pin(sleep(self.patience)));
        ready!(late.as_mut().poll(cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Patient<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        if self.is_refused {
            return Poll::Ready(Ok(()));
        }
        if self.first_at < self.first_end {
            let take = buf.remaining().min(self.first_end - self.first_at);
            buf.put_slice(&self.first[self.first_at..self.first_at + take]);
            self.first_at += take;
        } else {
            ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        }
        self.inspect(buf, before);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Patient<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.in_time(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.in_time(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(cx);
        self.in_time(cx, flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
