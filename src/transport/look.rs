//! A tree that is looked at over a stream: the end that has the tree, and the end that looks.
//!
//! Many asks are under way at once and are answered in any order, so that a slow one does not hold up the others. What is
//! under way is bounded at the end that has the tree: it takes no further ask before it has room for its answer.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::task::AbortHandle;

use super::pays;
use super::stream::{Receiver, Sender, Stream};
use crate::model::{Error, Result};
use crate::tree::look::Look;
use crate::wire::frame::Limits;
use crate::wire::look::{self as wire, Ask, Tell};
use crate::wire::{nonsense, proto};

/// Asks of one stream that are worked on at once.
const AT_ONCE: usize = 8;
/// An asker that does not take its answer in this time is taken for gone: what it holds is wanted by others.
const TAKEN: Duration = Duration::from_secs(30);

/// Answers what is asked on `stream` until it ends. `room` bounds what is worked on for all streams together.
pub async fn serve(stream: Stream, tree: Arc<dyn Look>, room: Arc<Semaphore>) -> Result<()> {
    let Stream { sender, mut receiver } = stream;
    let own = Arc::new(Semaphore::new(AT_ONCE));
    let (answers, outbox) = mpsc::channel(1);
    let telling = tokio::spawn(tell(sender, outbox));
    let heard = async {
        while let Some((message, _)) = receiver.receive_link::<proto::LookAsk>().await? {
            let (number, ask) = wire::ask_in(message)?;
            let (Ok(mine), Ok(ours)) = (own.clone().acquire_owned().await, room.clone().acquire_owned().await) else {
                break;
            };
            let (tree, answers, connection) = (tree.clone(), answers.clone(), receiver.connection().clone());
            tokio::spawn(async move {
                let worked = tokio::task::spawn_blocking(move || wire::tell_out(number, &ask, answer(&*tree, &ask)));
                // A panic in there drops the answer, and the asker is told by the stream's end.
                let Ok((mut message, mut payload)) = worked.await else { return answers.closed().await };
                let len: usize = payload.iter().map(Bytes::len).sum();
                if len > 0
                    && let Some(level) = pays::level(connection.path())
                {
                    let pieces = payload.clone();
                    if let Ok(Some(smaller)) = tokio::task::spawn_blocking(move || pays::pack(&pieces, level)).await {
                        message.unpacked_len = u32::try_from(len).unwrap_or(u32::MAX);
                        payload = vec![smaller];
                    }
                }
                let _ = answers.send((message, payload)).await;
                drop((mine, ours));
            });
            if telling.is_finished() {
                break;
            }
        }
        Ok(())
    };
    let ended = heard.await;
    drop(answers);
    if ended.is_err() {
        telling.abort();
    }
    let _ = telling.await;
    ended
}

fn answer(tree: &dyn Look, ask: &Ask) -> Tell {
    let one = |seen| Tell::Entries(crate::tree::look::Listing { entries: Vec::from_iter(seen), more: false });
    let told = match ask {
        Ask::Root => tree.root().map(|seen| one(Some(seen))),
        Ask::List { dir, after } => tree.list(dir, after.as_deref()).map(Tell::Entries),
        Ask::Find { dir, name } => tree.find(dir, name).map(one),
        Ask::Again { handle } => tree.again(handle).map(|seen| one(Some(seen))),
        Ask::Read { slices } => Ok(Tell::Pieces(tree.read(slices))),
        Ask::Data { file, offset } => tree.data(file, *offset).map(Tell::Data),
    };
    told.unwrap_or_else(Tell::Failed)
}

async fn tell(mut sender: Sender, mut outbox: mpsc::Receiver<(proto::LookTell, Vec<Bytes>)>) {
    while let Some((message, payload)) = outbox.recv().await {
        match tokio::time::timeout(TAKEN, sender.send_link(&message, payload)).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) | Err(_) => return,
        }
    }
    sender.finish();
}

/// The end that looks. Dropped, it ends the conversation.
#[derive(Debug)]
pub struct Far {
    asks: mpsc::Sender<proto::LookAsk>,
    waiting: Arc<Waiting>,
    numbers: AtomicU64,
    task: AbortHandle,
}

/// Who waits for which answer; `None` once the stream is over.
type Waiting = Mutex<Option<HashMap<u64, (Ask, oneshot::Sender<Result<Tell>>)>>>;

impl Far {
    /// Looks over a stream whose other end serves a tree.
    pub fn over(stream: Stream) -> Far {
        let Stream { sender, receiver } = stream;
        let waiting: Arc<Waiting> = Arc::new(Mutex::new(Some(HashMap::new())));
        let (asks, outbox) = mpsc::channel(64);
        let told = waiting.clone();
        let task = tokio::spawn(async move {
            tokio::select! {
                () = hear(receiver, &told) => {}
                () = ask_all(sender, outbox) => {}
            }
            // All who wait find that nobody will tell them.
            lock(&told).take();
        });
        Far { asks, waiting, numbers: AtomicU64::new(1), task: task.abort_handle() }
    }

    /// Asks and waits for the answer, for as long as the stream lasts; `None` when it is over. An answer of failure is an error, too.
    pub async fn ask(&self, ask: Ask) -> Option<Result<Tell>> {
        let number = self.numbers.fetch_add(1, Ordering::Relaxed);
        let (teller, told) = oneshot::channel();
        let message = wire::ask_out(number, &ask);
        lock(&self.waiting).as_mut()?.insert(number, (ask, teller));
        // Who gives up waiting leaves nothing behind.
        let _gone = Gone { waiting: &self.waiting, number };
        self.asks.send(message).await.ok()?;
        Some(match told.await.ok()? {
            Ok(Tell::Failed(error)) => Err(error),
            told => told,
        })
    }

    /// Waits until the stream is over.
    pub async fn ended(&self) {
        self.asks.closed().await;
    }
}

impl Drop for Far {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Gone<'a> {
    waiting: &'a Waiting,
    number: u64,
}

impl Drop for Gone<'_> {
    fn drop(&mut self) {
        if let Some(waiting) = lock(self.waiting).as_mut() {
            waiting.remove(&self.number);
        }
    }
}

type Guarded<'a> = std::sync::MutexGuard<'a, Option<HashMap<u64, (Ask, oneshot::Sender<Result<Tell>>)>>>;

fn lock(waiting: &Waiting) -> Guarded<'_> {
    waiting.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn ask_all(mut sender: Sender, mut outbox: mpsc::Receiver<proto::LookAsk>) {
    while let Some(ask) = outbox.recv().await {
        if sender.send_link(&ask, Vec::new()).await.is_err() {
            return;
        }
    }
}

async fn hear(mut receiver: Receiver, waiting: &Waiting) {
    while let Ok(Some((message, payload))) = receiver.receive_link::<proto::LookTell>().await {
        let wanted = lock(waiting).as_mut().and_then(|waiting| waiting.remove(&message.number));
        // Nobody waits for it any more.
        let Some((ask, teller)) = wanted else { continue };
        let _ = teller.send(understand(&ask, message, payload).await);
    }
}

async fn understand(ask: &Ask, message: proto::LookTell, payload: Bytes) -> Result<Tell> {
    let payload =
        match message.unpacked_len as usize {
            0 => payload,
            len if len <= Limits::LINK.payload => tokio::task::spawn_blocking(move || pays::unpack(&payload, len))
                .await
                .map_err(|error| Error::failed("a task of the transport broke").because(error))??,
            len => return Err(nonsense(format!("a payload of {len} bytes"))),
        };
    wire::tell_in(ask, message, payload)
}
