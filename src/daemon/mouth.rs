//! What long work says while it goes on, told to whoever asked for it.

use std::sync::Arc;

use tokio::sync::mpsc;

use super::lives::Say;
use crate::model::ServiceName;
use crate::transport::Stream;
use crate::wire::proto::{self, response};

/// Where the notes are heard.
pub type Ear = mpsc::UnboundedReceiver<proto::Note>;

/// What is said, and where it is heard.
pub fn mouth() -> (Arc<Say>, Ear) {
    let (notes, heard) = mpsc::unbounded_channel::<proto::Note>();
    let say = move |service: Option<&ServiceName>, text: String| {
        let service = service.map(ToString::to_string).unwrap_or_default();
        drop(notes.send(proto::Note { service, text }));
    };
    (Arc::new(say), heard)
}

/// Works, and sends what is said meanwhile. A client that is gone does not stop it; `mcloud kill` does.
pub async fn telling<T>(stream: &mut Stream, mut heard: Ear, working: impl Future<Output = T>) -> T {
    tokio::pin!(working);
    let mut listens = true;
    let done = loop {
        tokio::select! {
            biased;
            Some(note) = heard.recv() => listens = listens && tell(stream, note).await,
            done = &mut working => break done,
        }
    };
    while let Ok(note) = heard.try_recv() {
        listens = listens && tell(stream, note).await;
    }
    done
}

async fn tell(stream: &mut Stream, note: proto::Note) -> bool {
    stream.send(&proto::Response { what: Some(response::What::Note(note)) }).await.is_ok()
}
