//! Making the tree there equal to the tree here.
//!
//! [`serve`] is a live directory as a source, [`run`] makes a live directory equal to whatever is at the other end of
//! its link. Both block; each wants a thread of its own.

mod halt;
pub mod pace;
mod source;
mod stage;

pub use source::serve;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use crate::model::sync::{Event, Plan, Report, SyncOptions};
use crate::model::{Error, Result};
use crate::tree::link::TargetEnd;

/// A live directory: where it is, and where what is remembered of it is kept.
#[derive(Clone, Debug)]
pub struct LiveDir {
    /// The root of the tree. Its parents are trusted; what is below belongs to somebody else.
    pub root: PathBuf,
    /// The index file of this directory; `None` keeps none.
    pub index: Option<PathBuf>,
    /// How people know it, for messages: `shop@host:/data`, or the folder as typed.
    pub label: String,
}

/// Who watches a sync at the target's side: hears its events, answers its question, takes part in its commit.
pub trait Observer: Send + Sync {
    fn event(&self, event: Event);

    /// Whether to go ahead with this plan. Asked once, after `Event::Planned`, unless the plan is empty or the run is dry.
    fn confirm(&self, plan: &Plan) -> Result<bool>;

    /// Everything is staged and verified; the tree changes next. Whoever uses it is to be stopped here.
    fn before_commit(&self) -> Result<()> {
        Ok(())
    }
}

/// Tells a running sync to stop. It stops at the next safe place and leaves the target as it was.
pub type Cancel = Arc<AtomicBool>;

/// Makes `dir` equal to the source at the other end of `link`.
///
/// The report's bytes on the wire are zero; whoever owns the wire fills them in.
pub fn run(
    dir: &LiveDir,
    link: TargetEnd,
    options: &SyncOptions,
    observer: Arc<dyn Observer>,
    cancel: Cancel,
) -> Result<Report> {
    let _ = (dir, link, options, observer, cancel);
    Err(Error::failed("not built yet"))
}
