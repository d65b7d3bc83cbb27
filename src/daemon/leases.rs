//! Views of frozen volumes for clients: taken at a request, kept for as long as its stream is open, and named by whoever
//! starts a sync from them.

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use tokio::sync::mpsc;

use super::access::Principal;
use super::frozen::{self, Frozen};
use super::{Daemon, requests};
use crate::model::host::VolumeRef;
use crate::model::{Error, Kind, Result, ServiceName, TenantName};
use crate::sync::{Cancel, LiveDir};
use crate::transport::Stream;
use crate::transport::identity::random;
use crate::wire::proto::{self, response};
use crate::wire::{host as wire, nonsense};

/// Volumes that may be asked for at once.
const VOLUMES: usize = 1024;

/// The views that are there, by their names. A name is as good as a ticket: nobody guesses it.
#[derive(Default)]
pub struct Leases(Mutex<HashMap<[u8; 16], Arc<Frozen>>>);

impl Leases {
    /// The view of a volume that was taken under this name.
    pub fn view(&self, name: &[u8], volume: &VolumeRef) -> Result<LiveDir> {
        let gone = || {
            Error::new(Kind::NotFound, format!("the frozen view of {volume} is not there (any more)"))
                .hint("run the sync again")
        };
        let name: [u8; 16] = name.try_into().map_err(|_| nonsense("a view's name that is none"))?;
        let leases = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        leases.get(&name).ok_or_else(gone)?.view(volume)
    }

    fn keep(&self, name: [u8; 16], views: Frozen) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(name, Arc::new(views));
    }

    fn end(&self, name: &[u8; 16]) {
        drop(self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(name));
    }
}

/// Takes views and keeps them until the client's stream ends.
pub async fn serve(daemon: Arc<Daemon>, who: Principal, stream: Stream, wanted: proto::FreezeWanted) {
    let Stream { mut sender, mut receiver } = stream;
    let (notes, mut heard) = mpsc::unbounded_channel::<String>();
    let say = move |service: Option<&ServiceName>, text: String| {
        let text = service.map_or(text.clone(), |service| format!("{service}: {text}"));
        drop(notes.send(text));
    };
    let cancel = Cancel::default();
    let (stop, mut listens) = (cancel.clone(), true);
    let working = take(&daemon, &who, wanted, Arc::new(say), cancel.clone());
    tokio::pin!(working);
    let taken = loop {
        tokio::select! {
            biased;
            Some(text) = heard.recv() => {
                let note = proto::Note { service: String::new(), text };
                listens = listens && sender.send(&proto::Response { what: Some(response::What::Note(note)) }).await.is_ok();
            }
            taken = &mut working => break taken,
            // The client says nothing more: its end of the stream, or of itself, is the end of the lease.
            _ = receiver.receive::<proto::Request>(), if listens => {
                listens = false;
                stop.store(true, Ordering::SeqCst);
            }
        }
    };
    let (name, frozen) = match taken {
        Ok(taken) => taken,
        Err(error) => return requests::fail(Stream { sender, receiver }, &error).await,
    };
    let ready = proto::Frozen {
        id: Bytes::copy_from_slice(&name),
        paused_ms: u64::try_from(frozen.paused.as_millis()).unwrap_or(u64::MAX),
        held_requests: frozen.held.requests,
    };
    daemon.leases.keep(name, frozen);
    if listens && sender.send(&proto::Response { what: Some(response::What::Frozen(ready)) }).await.is_ok() {
        let _ = receiver.receive::<proto::Request>().await;
    }
    daemon.leases.end(&name);
}

async fn take(
    daemon: &Arc<Daemon>,
    who: &Principal,
    wanted: proto::FreezeWanted,
    say: Arc<super::lives::Say>,
    cancel: Cancel,
) -> Result<([u8; 16], Frozen)> {
    if wanted.volumes.is_empty() || wanted.volumes.len() > VOLUMES {
        return Err(nonsense("a freeze of no volume, or of too many"));
    }
    let volumes: Vec<VolumeRef> =
        wanted.volumes.into_iter().map(|volume| wire::volume_in(Some(volume))).collect::<Result<_>>()?;
    let tenant: TenantName = volumes[0].tenant.clone();
    if volumes.iter().any(|volume| volume.tenant != tenant) {
        return Err(nonsense("a freeze of several tenants"));
    }
    let on = tenant.to_string();
    let kill = cancel.clone();
    let kill = move || kill.store(true, Ordering::SeqCst);
    let _listed = daemon.tasks.begin("freeze", &on, &who.label(), kill);
    let taken = frozen::frozen(daemon, who, &tenant, volumes, wanted.apart, say, cancel).await?;
    Ok((random::<16>()?, taken))
}
