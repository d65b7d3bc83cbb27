//! Views of frozen volumes, kept at a daemon for as long as somebody here holds on to them.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;

use super::{Client, start, unexpected};
use crate::model::host::VolumeRef;
use crate::model::sync::{Event, Report, SyncOptions};
use crate::model::{Error, Kind, Result};
use crate::sync::{Cancel, Observer};
use crate::transport::Stream;
use crate::wire::proto::{self, request, response};
use crate::wire::{host as wire, sync as wire_sync};

/// How often waiting code looks whether it is to stop.
const LOOK: Duration = Duration::from_millis(50);

/// Views at a daemon. They go with this.
pub struct Lease {
    id: Bytes,
    paused_ms: u64,
    held_requests: u64,
    stream: Option<Stream>,
}

impl Lease {
    /// No views: volumes as they live.
    fn none() -> Lease {
        Lease { id: Bytes::new(), paused_ms: 0, held_requests: 0, stream: None }
    }

    /// What names the views in requests; empty for none.
    pub fn id(&self) -> Bytes {
        self.id.clone()
    }

    /// Gives the views back. The report is of all that was copied from them.
    pub async fn end(mut self, report: Report) -> Report {
        if let Some(stream) = &mut self.stream {
            stream.sender.finish();
            stream.sender.delivered().await;
        }
        Report { paused_ms: self.paused_ms, held_requests: self.held_requests, ..report }
    }
}

/// Has the daemon freeze what can write these volumes, if the options want that. `apart`: another volume of the same tenant
/// is going to be written.
pub async fn freeze(
    client: &Client,
    volumes: &[VolumeRef],
    apart: bool,
    options: &SyncOptions,
    observer: &Arc<dyn Observer>,
    cancel: &Cancel,
) -> Result<Lease> {
    if !options.force || options.dry_run {
        return Ok(Lease::none());
    }
    let wanted = proto::FreezeWanted { volumes: volumes.iter().map(wire::volume_out).collect(), apart };
    let mut stream = start(&client.connection, request::What::Freeze(wanted)).await?;
    loop {
        let stopped = async {
            while !cancel.load(Ordering::SeqCst) {
                tokio::time::sleep(LOOK).await;
            }
        };
        let response = tokio::select! {
            response = stream.receive::<proto::Response>() => response?,
            // The stream that is dropped tells the daemon to stop.
            () = stopped => return Err(Error::new(Kind::Cancelled, "the sync was stopped")),
        };
        match response.and_then(|response| response.what) {
            Some(response::What::Note(note)) => {
                let (ears, event) = (observer.clone(), Event::Note(note.text));
                let _ = tokio::task::spawn_blocking(move || ears.event(event)).await;
            }
            Some(response::What::Frozen(frozen)) => {
                return Ok(Lease {
                    id: frozen.id,
                    paused_ms: frozen.paused_ms,
                    held_requests: frozen.held_requests,
                    stream: Some(stream),
                });
            }
            Some(response::What::Failure(failure)) => return Err(wire_sync::failure_in(failure)),
            _ => return Err(unexpected()),
        }
    }
}
