//! A tree of a daemon that is looked at from here, whatever happens to the connection.
//!
//! What is asked while the host is away waits for it, up to the patience that was given, and then fails. Once the host has been
//! away for longer than that, everything fails at once, until it is back: whoever reads is never stuck.

use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::runtime::Handle as Runtime;
use tokio::sync::watch;
use tokio::task::AbortHandle;

use super::{Client, ClientConfig, answer, start, unexpected};
use crate::model::between::one_volume;
use crate::model::reference::Address;
use crate::model::{Error, Kind, Reference, Result};
use crate::transport::look::Far;
use crate::tree::look::{Handle, Listing, Look, Piece, Seen, Slice};
use crate::wire::look::{Ask, Tell};
use crate::wire::proto::{self, look_open, request, response};
use crate::wire::{host as wire, nonsense};

/// How long to wait before the host is dialled again: the first time, and the longest.
const REDIAL: Duration = Duration::from_millis(100);
const REDIAL_MAX: Duration = Duration::from_secs(2);

/// What is looked at.
#[derive(Clone, Debug)]
pub enum Tree {
    /// A volume, as it is at each moment. Its host does not matter here.
    Volume(Reference),
    /// A snapshot: its id, cut to where it is unique, or `latest:REF`.
    Snapshot(String),
    /// All snapshots of a tenant, or of what else this names, by time. Its host does not matter here.
    Snapshots(Reference),
}

impl Tree {
    fn open(&self) -> Result<proto::LookOpen> {
        let tree = match self {
            Tree::Volume(reference) => look_open::Tree::Volume(wire::volume_out(&one_volume(reference)?)),
            Tree::Snapshot(word) => look_open::Tree::Snapshot(word.clone()),
            Tree::Snapshots(reference) => {
                look_open::Tree::Snapshots(Reference { host: None, ..reference.clone() }.to_string())
            }
        };
        Ok(proto::LookOpen { tree: Some(tree) })
    }
}

/// A tree at a daemon. Its calls block; they must not be made on the runtime's own threads.
pub struct Looking {
    link: watch::Receiver<Link>,
    runtime: Runtime,
    patience: Duration,
    label: String,
    keeper: AbortHandle,
}

/// How things stand with the host.
#[derive(Clone)]
enum Link {
    Up(Arc<Connected>),
    /// Away since then; the last try came to this.
    Down(Instant, Arc<Error>),
}

struct Connected {
    far: Far,
    client: Client,
}

impl Client {
    /// Looks at a tree of the daemon at `host`, which has to answer now; later it is waited for, up to `patience` each time.
    pub async fn look(
        config: &ClientConfig,
        host: Option<&Address>,
        tree: Tree,
        patience: Duration,
    ) -> Result<Looking> {
        let connected = Arc::new(connect(config, host, &tree).await?);
        let label = connected.client.connection.label().to_owned();
        let (state, link) = watch::channel(Link::Up(connected));
        let keeping = keep(state, config.clone(), host.cloned(), tree);
        let keeper = tokio::spawn(keeping).abort_handle();
        Ok(Looking { link, runtime: Runtime::current(), patience, label, keeper })
    }
}

async fn connect(config: &ClientConfig, host: Option<&Address>, tree: &Tree) -> Result<Connected> {
    let client = Client::connect(config, host).await?;
    let mut stream = start(&client.connection, request::What::LookOpen(tree.open()?)).await?;
    match answer(&mut stream).await? {
        response::What::Done(_) => Ok(Connected { far: Far::over(stream), client }),
        _ => Err(unexpected()),
    }
}

/// Keeps the connection up.
async fn keep(state: watch::Sender<Link>, config: ClientConfig, host: Option<Address>, tree: Tree) {
    loop {
        let up = match &*state.borrow() {
            Link::Up(connected) => Some(connected.clone()),
            Link::Down(..) => None,
        };
        if let Some(connected) = up {
            let lost = connected.over().await;
            tracing::info!("{}", lost.chain());
            state.send_replace(Link::Down(Instant::now(), Arc::new(lost)));
        }
        let mut pause = REDIAL;
        loop {
            match connect(&config, host.as_ref(), &tree).await {
                Ok(connected) => {
                    tracing::info!("{} is back", connected.client.connection.label());
                    state.send_replace(Link::Up(Arc::new(connected)));
                    break;
                }
                Err(error) => state.send_modify(|link| {
                    tracing::debug!("{}", error.chain());
                    if let Link::Down(_, why) = link {
                        *why = Arc::new(error);
                    }
                }),
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(REDIAL_MAX);
        }
    }
}

impl Connected {
    /// Waits until the connection or the conversation on it is over.
    async fn over(&self) -> Error {
        tokio::select! {
            lost = self.client.connection.closed() => lost,
            () = self.far.ended() => {
                // Of a connection that is closed the stream may hear first.
                match tokio::time::timeout(REDIAL, self.client.connection.closed()).await {
                    Ok(lost) => lost,
                    Err(_) => Error::new(Kind::Unreachable, format!("{} ended the conversation", self.client.connection.label())),
                }
            }
        }
    }
}

impl Looking {
    fn ask(&self, ask: Ask) -> Result<Tell> {
        self.runtime.block_on(self.ask_patiently(ask))
    }

    async fn ask_patiently(&self, ask: Ask) -> Result<Tell> {
        let deadline = Instant::now() + self.patience;
        let mut link = self.link.clone();
        loop {
            let connected = self.connected(&mut link, deadline).await?;
            match tokio::time::timeout_at(deadline.into(), connected.far.ask(ask.clone())).await {
                Ok(Some(told)) => return told,
                // Asked again over the next connection; the keeper hears of the end of this one, too.
                Ok(None) => {
                    let gone = |now: &Link| !matches!(now, Link::Up(up) if Arc::ptr_eq(up, &connected));
                    if tokio::time::timeout_at(deadline.into(), link.wait_for(gone)).await.is_err() {
                        return Err(self.silent());
                    }
                }
                Err(_) => {
                    // Whoever does not answer in this time is to be dialled anew.
                    connected.client.connection.give_up();
                    return Err(self.silent());
                }
            }
        }
    }

    async fn connected(&self, link: &mut watch::Receiver<Link>, deadline: Instant) -> Result<Arc<Connected>> {
        loop {
            let why = match &*link.borrow_and_update() {
                Link::Up(connected) => return Ok(connected.clone()),
                Link::Down(since, why) if since.elapsed() >= self.patience => Some(why.clone()),
                Link::Down(..) => None,
            };
            if let Some(why) = why {
                return Err(Error::new(Kind::Unreachable, format!("{} is away", self.label)).because(why.chain()));
            }
            match tokio::time::timeout_at(deadline.into(), link.changed()).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) | Err(_) => return Err(self.silent()),
            }
        }
    }

    fn silent(&self) -> Error {
        let seconds = self.patience.as_secs_f64();
        Error::new(Kind::Unreachable, format!("{} did not answer within {seconds} s", self.label))
    }

    fn one(&self, ask: Ask) -> Result<Option<Seen>> {
        match self.ask(ask)? {
            Tell::Entries(mut listing) => Ok(listing.entries.pop()),
            _ => Err(unexpected()),
        }
    }
}

impl Drop for Looking {
    fn drop(&mut self) {
        self.keeper.abort();
    }
}

impl Look for Looking {
    fn root(&self) -> Result<Seen> {
        self.one(Ask::Root)?.ok_or_else(|| nonsense("a tree without a root"))
    }

    fn list(&self, dir: &Handle, after: Option<&[u8]>) -> Result<Listing> {
        match self.ask(Ask::List { dir: dir.clone(), after: after.map(Bytes::copy_from_slice) })? {
            Tell::Entries(listing) => Ok(listing),
            _ => Err(unexpected()),
        }
    }

    fn find(&self, dir: &Handle, name: &[u8]) -> Result<Option<Seen>> {
        self.one(Ask::Find { dir: dir.clone(), name: Bytes::copy_from_slice(name) })
    }

    fn again(&self, handle: &Handle) -> Result<Seen> {
        self.one(Ask::Again { handle: handle.clone() })?.ok_or_else(|| nonsense("an entry that is none"))
    }

    fn read(&self, slices: &[Slice]) -> Vec<Result<Piece>> {
        match self.ask(Ask::Read { slices: slices.to_vec() }) {
            Ok(Tell::Pieces(pieces)) => pieces,
            Ok(_) => slices.iter().map(|_| Err(unexpected())).collect(),
            Err(error) => {
                let again = || Error::new(error.kind, error.chain());
                slices.iter().map(|_| Err(again())).collect()
            }
        }
    }

    fn data(&self, file: &Handle, offset: u64) -> Result<Option<Range<u64>>> {
        match self.ask(Ask::Data { file: file.clone(), offset })? {
            Tell::Data(range) => Ok(range),
            _ => Err(unexpected()),
        }
    }
}
