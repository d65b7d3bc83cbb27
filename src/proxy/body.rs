//! Bodies on their way: a request's to the upstream, an answer's to the client. Nothing is gathered; each piece goes on as it came.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::time::{Sleep, sleep};

use super::gate::Passed;
use super::upstream::{Link, Upstream};

pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// The body of a request. A client that goes quiet in the middle of it is given up.
pub struct Sent {
    body: Option<Incoming>,
    sent: Option<Arc<AtomicBool>>,
    patience: Duration,
    late: Option<Pin<Box<Sleep>>>,
}

impl Sent {
    pub fn nothing() -> Sent {
        Sent { body: None, sent: None, patience: Duration::MAX, late: None }
    }

    pub fn new(body: Incoming, patience: Duration) -> Sent {
        match body.is_end_stream() {
            true => Sent::nothing(),
            false => Sent { body: Some(body), sent: Some(Arc::default()), patience, late: None },
        }
    }

    pub fn is_nothing(&self) -> bool {
        self.body.is_none()
    }

    /// Becomes true when all of it is sent; `None` where there is nothing to send.
    pub fn sent(&self) -> Option<Arc<AtomicBool>> {
        self.sent.clone()
    }
}

impl Body for Sent {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = &mut *self;
        let Some(body) = &mut this.body else { return Poll::Ready(None) };
        match Pin::new(&mut *body).poll_frame(cx) {
            Poll::Ready(frame) => {
                this.late = None;
                let ended = frame.is_none() || body.is_end_stream();
                if let Some(sent) = this.sent.as_ref().filter(|_| ended) {
                    sent.store(true, Ordering::Release);
                }
                Poll::Ready(frame.map(|frame| frame.map_err(Into::into)))
            }
            Poll::Pending => {
                let late = this.late.get_or_insert_with(|| Box::pin(sleep(this.patience)));
                match late.as_mut().poll(cx) {
                    Poll::Ready(()) => Poll::Ready(Some(Err("the client sends no more of its request".into()))),
                    Poll::Pending => Poll::Pending,
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map_or_else(|| SizeHint::with_exact(0), Body::size_hint)
    }
}

/// The body of an answer.
pub enum Answer {
    Text(Option<Bytes>),
    /// Over a connection that is driven here and goes back to wait when the body has ended.
    Linked(Box<Linked>),
    /// Over a connection that drives itself.
    Driven {
        body: Incoming,
        _passed: Option<Passed>,
    },
    /// One that has no end of its own, until it is to have one.
    Stream {
        answer: Box<Answer>,
        cut: BoxFuture<'static, ()>,
    },
}

pub struct Linked {
    pub body: Incoming,
    pub link: Option<Link>,
    pub home: Arc<Upstream>,
    pub port: u16,
    pub passed: Option<Passed>,
}

impl Linked {
    /// Puts the connection back to where others wait, if it can serve another request; and the request is over.
    pub fn end(&mut self, cx: &mut Context<'_>) {
        if let Some(mut link) = self.link.take() {
            let ended = !link.is_ready() && link.drive(cx);
            if !ended && link.is_ready() && link.has_sent() {
                self.home.put(self.port, link);
            }
        }
        self.passed = None;
    }
}

impl Answer {
    pub fn text(text: impl Into<Bytes>) -> Answer {
        Answer::Text(Some(text.into()).filter(|text| !text.is_empty()))
    }
}

impl Body for Answer {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let linked = match &mut *self {
            Answer::Text(text) => return Poll::Ready(text.take().map(|text| Ok(Frame::data(text)))),
            Answer::Driven { body, .. } => return Pin::new(body).poll_frame(cx).map_err(Into::into),
            Answer::Linked(linked) => linked,
            Answer::Stream { answer, cut } => {
                let frame = Pin::new(&mut **answer).poll_frame(cx);
                if frame.is_pending() && cut.as_mut().poll(cx).is_ready() {
                    *self = Answer::Text(None);
                    return Poll::Ready(None);
                }
                return frame;
            }
        };
        // Only the driver can bring more, and it is driven here: it need not wake anybody.
        let mut unwoken = Context::from_waker(Waker::noop());
        let mut frame = Pin::new(&mut linked.body).poll_frame(&mut unwoken);
        if frame.is_pending()
            && let Some(link) = &mut linked.link
        {
            if link.drive(cx) {
                linked.link = None;
            }
            frame = Pin::new(&mut linked.body).poll_frame(&mut unwoken);
            if frame.is_pending() && linked.link.is_none() {
                return Poll::Ready(Some(Err("the upstream ended in the middle of its answer".into())));
            }
        }
        match &frame {
            Poll::Ready(None) => linked.end(cx),
            Poll::Ready(Some(Ok(_))) if linked.body.is_end_stream() => linked.end(cx),
            Poll::Ready(Some(Err(_))) => linked.link = None,
            _ => {}
        }
        frame.map_err(Into::into)
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Answer::Text(text) => text.is_none(),
            Answer::Linked(linked) => linked.body.is_end_stream(),
            Answer::Driven { body, .. } => body.is_end_stream(),
            Answer::Stream { answer, .. } => answer.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Answer::Text(text) => SizeHint::with_exact(text.as_ref().map_or(0, |text| text.len() as u64)),
            Answer::Linked(linked) => linked.body.size_hint(),
            Answer::Driven { body, .. } => body.size_hint(),
            Answer::Stream { answer, .. } => answer.size_hint(),
        }
    }
}
