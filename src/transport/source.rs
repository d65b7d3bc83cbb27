//! A sync's link over a stream: the target's end where the source is far away, and the source's end where the target is.
//!
//! Both are a pair of channels like those within one process, and two tasks that carry between the channels and the
//! stream. Compressing and unpacking is done off the async threads.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinHandle};

use super::connection::Connection;
use super::pays;
use super::stream::{Receiver, Sender, Stream};
use crate::model::{Error, Result};
use crate::tree::link::{self, Ask, AskWindow, SourceEnd, TargetEnd, Tell};
use crate::wire::{frame::Limits, link as wire, nonsense, proto};

/// The end of a target here whose source is at the other end of `stream`. When the stream breaks the source is told to
/// have failed, with what broke it.
pub fn remote_source(stream: Stream) -> (TargetEnd, Cut) {
    let (target, source) = link::pair();
    let Stream { sender, receiver } = stream;
    let tasks = [tokio::spawn(asks_out(source.ask, sender)), tokio::spawn(tells_in(receiver, source.tell))];
    (target, Cut::of(&tasks))
}

/// The end of a source here whose target is at the other end of `stream`. When the stream breaks the target has hung up.
pub fn remote_target(stream: Stream) -> (SourceEnd, Cut) {
    let (target, mut source) = link::pair();
    let window = Arc::new(AskWindow::new());
    source.window = Some(window.clone());
    let Stream { sender, receiver } = stream;
    let tasks = [tokio::spawn(asks_in(receiver, target.ask, window)), tokio::spawn(tells_out(target.tell, sender))];
    (source, Cut::of(&tasks))
}

/// Cuts a link off its stream, for an end that has to be made to stop: it finds that the other one has hung up.
#[derive(Debug, Default)]
pub struct Cut(Vec<AbortHandle>);

impl Cut {
    fn of(tasks: &[JoinHandle<()>]) -> Cut {
        Cut(tasks.iter().map(JoinHandle::abort_handle).collect())
    }

    pub fn cut(&self) {
        self.0.iter().for_each(AbortHandle::abort);
    }
}

async fn asks_out(mut asks: mpsc::UnboundedReceiver<Ask>, mut sender: Sender) {
    while let Some(ask) = asks.recv().await {
        let (message, payload) = wire::ask_out(ask);
        // If the stream is broken the reader of the tells finds out, and says so.
        if sender.send_link(&message, vec![payload]).await.is_err() {
            return;
        }
    }
    sender.finish();
    sender.delivered().await;
}

async fn asks_in(mut receiver: Receiver, asks: mpsc::UnboundedSender<Ask>, window: Arc<AskWindow>) {
    while let Ok(Some((message, payload))) = receiver.receive_link::<proto::Ask>().await {
        tokio::select! {
            () = window.enter(prost::Message::encoded_len(&message) + payload.len()) => {}
            () = asks.closed() => break,
        }
        match wire::ask_in(message, payload).map(|ask| asks.send(ask)) {
            Ok(Ok(())) => {}
            Ok(Err(_)) => break,
            Err(error) => {
                tracing::warn!("{}: {error}", receiver.connection().label());
                break;
            }
        }
    }
    receiver.stop();
}

async fn tells_in(mut receiver: Receiver, tells: mpsc::Sender<Tell>) {
    loop {
        let tell = match next_tell(&mut receiver, &tells).await {
            Ok(Some(tell)) => tell,
            Ok(None) => return,
            Err(error) => Tell::Failed(error),
        };
        let over = matches!(tell, Tell::Failed(_));
        if tells.send(tell).await.is_err() || over {
            receiver.stop();
            return;
        }
    }
}

/// `None` when the source has finished, or nobody listens to it any more.
async fn next_tell(receiver: &mut Receiver, tells: &mpsc::Sender<Tell>) -> Result<Option<Tell>> {
    let received = tokio::select! {
        received = receiver.receive_link::<proto::Tell>() => received?,
        () = tells.closed() => {
            receiver.stop();
            return Ok(None);
        }
    };
    let Some((message, payload)) = received else { return Ok(None) };
    let payload = match message.unpacked_len as usize {
        0 => payload,
        len if len <= Limits::LINK.payload => {
            blocking(move || pays::unpack(&payload, len)).await.and_then(|unpacked| unpacked)?
        }
        len => return Err(nonsense(format!("a payload of {len} bytes, {} is the most", Limits::LINK.payload))),
    };
    wire::tell_in(message, payload).map(Some)
}

/// A tell, ready to be sent.
type Packed = (proto::Tell, Vec<Bytes>);

async fn tells_out(tells: mpsc::Receiver<Tell>, mut sender: Sender) {
    // One is packed while another one is sent.
    let (packed_in, mut packed) = mpsc::channel::<Packed>(1);
    // Ends by itself when `packed` is dropped.
    tokio::spawn(pack_all(tells, packed_in, sender.connection().clone()));
    while let Some((message, payload)) = packed.recv().await {
        if let Err(error) = sender.send_link(&message, payload).await {
            tracing::debug!("a source's conversation ends: {error}");
            return;
        }
    }
    sender.finish();
    sender.delivered().await;
}

async fn pack_all(mut tells: mpsc::Receiver<Tell>, packed: mpsc::Sender<Packed>, connection: Connection) {
    let mut given = 0;
    loop {
        let tell = tokio::select! {
            tell = tells.recv() => tell,
            () = packed.closed() => return,
        };
        let Some(tell) = tell else { return };
        let (mut message, mut payload) = wire::tell_out(tell);
        let len: usize = payload.iter().map(Bytes::len).sum();
        if len > 0
            && let Some(level) = pays::level_after(&connection, given).await
        {
            let pieces = payload.clone();
            if let Ok(Some(smaller)) = blocking(move || pays::pack(&pieces, level)).await {
                message.unpacked_len = len as u32;
                payload = vec![smaller];
            }
        }
        given += len as u64;
        if packed.send((message, payload)).await.is_err() {
            return;
        }
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| Error::failed("a task of the transport broke").because(error))
}

#[cfg(test)]
#[path = "source_tests.rs"]
mod tests;
