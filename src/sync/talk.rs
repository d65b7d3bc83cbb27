//! The target's side of the conversation with a source: asks go out, answers come in, the rest is heard aside.

use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::mpsc;

use super::cancelled;
use crate::model::sync::LeftOut;
use crate::model::{Error, Kind, Result};
use crate::tree::link::{Ask, Tell};

/// A sender and receiver of the link with what the target remembers of it.
pub struct Talk<'a> {
    pub ask: &'a mpsc::UnboundedSender<Ask>,
    pub tell: &'a mut mpsc::Receiver<Tell>,
    /// Hears of everything that is not an answer.
    pub aside: &'a mut dyn FnMut(Aside),
    /// Nothing is waited for any more once this is set.
    pub cancel: &'a AtomicBool,
}

/// What a source says on the side.
pub enum Aside {
    Scanning { files: u64, bytes_read: u64 },
    LeftOut(LeftOut),
    Note(String),
}

impl Talk<'_> {
    pub fn ask(&self, ask: Ask) -> Result<()> {
        self.ask.send(ask).map_err(|_| gone())
    }

    /// The next answer.
    pub fn next(&mut self) -> Result<Tell> {
        loop {
            let told = self.tell.blocking_recv().ok_or_else(gone)?;
            if self.cancel.load(Ordering::Relaxed) {
                return Err(cancelled());
            }
            match told {
                Tell::Scanning { files, bytes_read } => (self.aside)(Aside::Scanning { files, bytes_read }),
                Tell::LeftOut(left_out) => (self.aside)(Aside::LeftOut(left_out)),
                Tell::Note(note) => (self.aside)(Aside::Note(note)),
                Tell::Failed(error) => return Err(error),
                answer => return Ok(answer),
            }
        }
    }
}

/// The source went away without a word.
pub fn gone() -> Error {
    Error::new(Kind::Unreachable, "the source went away in the middle of the sync")
        .hint("run it again: what has been received is kept, only the rest is sent")
}

/// The source said something that makes no sense.
pub fn nonsense(what: &str) -> Error {
    Error::new(Kind::Corrupt, format!("the source sent {what}"))
        .hint("run the sync again; if it happens again, update both ends")
}
