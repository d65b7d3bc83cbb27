//! Making the tree there equal to the tree here.
//!
//! [`serve`] is a live directory as a source, [`run`] makes a live directory equal to whatever is at the other end of
//! its link. Both block; each wants a thread of its own. [`local`] is both of them on one machine.

mod commit;
mod compare;
mod delta;
mod halt;
mod moves;
mod names;
mod obstacles;
pub mod pace;
mod pages;
mod place;
mod plan;
mod receive;
pub mod redo;
mod replay;
mod settle;
mod source;
mod stage;
mod talk;
mod target;
mod transplant;
mod want;

pub use source::serve;
pub use target::{is_unfinished, recover, run};

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use crate::model::sync::{Event, Plan, Report, SyncOptions};
use crate::model::{Error, Kind, Result};

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

/// Makes one folder of this machine equal to another: both ends in this process, no network between them.
pub fn local(
    source: &LiveDir,
    target: &LiveDir,
    options: &SyncOptions,
    observer: Arc<dyn Observer>,
    cancel: Cancel,
) -> Result<Report> {
    check_apart(source, target)?;
    let shares = shares_blocks(&source.root, &target.root);
    let (target_end, source_end) = crate::tree::link::pair();
    std::thread::scope(|scope| {
        let serving = scope.spawn(|| serve(source, source_end));
        let outcome = target::run_beside(target, target_end, options, observer, cancel, shares);
        // What the source has to say it has told the target, too.
        let _ = serving.join();
        outcome
    })
}

/// One inside the other would copy itself into itself, or remove what it copies.
fn check_apart(source: &LiveDir, target: &LiveDir) -> Result<()> {
    let real = |path: &Path| {
        let whole = path.canonicalize();
        let named = || Some(path.parent()?.canonicalize().ok()?.join(path.file_name()?));
        whole.ok().or_else(named).unwrap_or_else(|| path.to_owned())
    };
    let (from, to) = (real(&source.root), real(&target.root));
    let message = if from == to {
        format!("{} and {} are the same folder", source.label, target.label)
    } else if to.starts_with(&from) {
        format!("the target {} lies inside the source {}", target.label, source.label)
    } else if from.starts_with(&to) {
        format!("the source {} lies inside the target {}", source.label, target.label)
    } else {
        return Ok(());
    };
    Err(Error::new(Kind::Refused, message)
        .hint("name two folders of which neither holds the other; no option overrides this"))
}

/// Whether files can be copied between two folders without copying their blocks: then there is nothing to gain from
/// passing their content through.
fn shares_blocks(source: &Path, target: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    /// Magic numbers of xfs and btrfs (linux/magic.h).
    const SHARING: [u64; 2] = [0x5846_5342, 0x9123_683e];
    let target = if target.exists() { target } else { target.parent().unwrap_or(target) };
    let device = |path: &Path| std::fs::metadata(path).map(|meta| meta.dev()).ok();
    let kind = rustix::fs::statfs(source).map(|stat| stat.f_type as u64);
    device(source).is_some() && device(source) == device(target) && kind.is_ok_and(|kind| SHARING.contains(&kind))
}

/// The error of an end that another user's link leads to.
fn led_astray(end: &str, label: &str, cause: std::io::Error) -> Error {
    Error::new(Kind::Refused, format!("the {end} {label} is not opened"))
        .because(cause)
        .hint(crate::sys::path::FOREIGN_LINK_HINT)
}

/// The error of a sync that was told to stop.
fn cancelled() -> Error {
    Error::new(Kind::Cancelled, "stopped before anything was changed")
        .hint("run it again to go on; what was received is kept")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neither_folder_holds_the_other() {
        let apart = |from: &str, to: &str| {
            let dir = |path: &str| LiveDir { root: path.into(), index: None, label: path.to_owned() };
            check_apart(&dir(from), &dir(to)).is_ok()
        };
        assert!(apart("/a/b", "/a/bc") && apart("/a", "/b"));
        assert!(!apart("/a", "/a") && !apart("/a", "/a/b") && !apart("/a/b", "/a") && !apart("/", "/a"));
    }
}
