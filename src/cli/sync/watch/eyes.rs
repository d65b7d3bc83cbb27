//! A thread that keeps an eye on a folder by its path, and says when to sync. Whatever it does not see it says, too.
//!
//! Whenever folders come to be watched, a change is told after it: the round that follows sees what came before the watch.

use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::sync::Cancel;
use crate::sys::dir::Dir;
use crate::sys::inode::Inode;
use crate::sys::inotify::Inotify;
use crate::sys::mount;
use crate::tree::filter::Filter;

use super::folders::{Folders, Trouble};

/// How often is looked whether the path still leads to the folder that is watched: neither a link that is switched nor a
/// mount nor a parent that moves is an event of the folder.
const TICK: Duration = Duration::from_secs(1);
/// The same while there is no folder.
const LOOK: Duration = Duration::from_millis(250);
/// After lost events: the watches are renewed when it has been quiet for so long, at the latest after so long.
const QUIET: Duration = Duration::from_millis(150);
const AT_MOST: Duration = Duration::from_secs(2);
/// Without watches: how often is tried to have some.
const AGAIN: Duration = Duration::from_secs(30);

/// How well changes are seen.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Sight {
    /// Not yet at all.
    Opening,
    /// All changes are told.
    Clear,
    /// Changes from here are told; others may change it, too.
    Shared,
    /// Those of this folder are not told, for this reason.
    Partial(Vec<u8>, String),
    /// There is no folder at the path.
    Gone,
    /// None is told, for this reason.
    Blind(String),
}

/// What the thread has to say, for one who listens.
pub struct Signs {
    said: Mutex<(bool, Sight)>,
    wake: tokio::sync::Notify,
}

impl Signs {
    /// Whether something changed since it was asked last, and how well changes are seen.
    pub fn take(&self) -> (bool, Sight) {
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        (std::mem::take(&mut said.0), said.1.clone())
    }

    /// Until there is something to [`Signs::take`].
    pub async fn heard(&self) {
        self.wake.notified().await;
    }

    fn changed(&self, sight: Option<Sight>) {
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        said.0 = true;
        said.1 = sight.unwrap_or_else(|| said.1.clone());
        drop(said);
        self.wake.notify_one();
    }
}

/// What is to be watched.
pub struct Watched {
    pub folder: PathBuf,
    /// `--path` and `--exclude`.
    pub scope: Vec<u8>,
    pub exclude: Vec<String>,
    pub cancel: Cancel,
}

/// Opens the eyes: until `cancel`, or the end of the program.
pub fn open(watched: Watched) -> Arc<Signs> {
    let signs = Arc::new(Signs { said: Mutex::new((false, Sight::Opening)), wake: tokio::sync::Notify::new() });
    let says = signs.clone();
    let spawned = std::thread::Builder::new().name("watch".to_owned()).spawn(move || watched.watch(&says));
    if let Err(error) = spawned {
        signs.changed(Some(Sight::Blind(error.to_string())));
    }
    signs
}

/// The folder as it is watched now.
struct Armed {
    folders: Folders,
    root: Inode,
    /// Without links, for the table of mounts.
    place: PathBuf,
    mounts: Vec<Vec<u8>>,
}

impl Watched {
    fn watch(&self, signs: &Signs) {
        let mut mounts = mount::Table::open().ok();
        // The last that made sense: ones that are being written may not.
        let mut rules = Vec::new();
        while !self.is_over() {
            match self.arm(&mut rules, mounts.as_mut()) {
                Ok(armed) => {
                    tracing::debug!("{} folders of {} are watched", armed.folders.len(), self.folder.display());
                    signs.changed(Some(sight(&armed.folders)));
                    if let Err(trouble) = self.follow(armed, mounts.as_mut(), signs) {
                        self.rest(trouble, signs);
                    }
                }
                Err(trouble) => self.rest(trouble, signs),
            }
        }
    }

    fn is_over(&self) -> bool {
        self.cancel.load(Ordering::Relaxed)
    }

    /// Says what is wrong, and waits until it may be better.
    fn rest(&self, trouble: Trouble, signs: &Signs) {
        let began = Instant::now();
        match trouble {
            Trouble::Blind(why) => {
                signs.changed(Some(Sight::Blind(why)));
                while !self.is_over() && began.elapsed() < AGAIN {
                    std::thread::sleep(TICK);
                }
            }
            Trouble::Gone => {
                signs.changed(Some(Sight::Gone));
                std::thread::sleep(LOOK);
                while !self.is_over() && Dir::open(&self.folder).is_err() {
                    std::thread::sleep(LOOK);
                }
            }
        }
    }

    /// Watches all of what is at the path now.
    fn arm(&self, rules: &mut Vec<u8>, mounts: Option<&mut mount::Table>) -> Result<Armed, Trouble> {
        let inotify = Inotify::new().map_err(|error| Trouble::Blind(no_instance(&error)))?;
        let place = self.folder.canonicalize().map_err(|_| Trouble::Gone)?;
        let mounts = mounts_of(mounts, &place);
        let root = Dir::open(&self.folder).map_err(|_| Trouble::Gone)?;
        let inode = Inode::of(&root).map_err(|_| Trouble::Gone)?;
        // The root alone first: rules that change after they were read are told.
        let _ = inotify.watch(&root);
        let now = crate::tree::filter::read_rules(&root, "the source").unwrap_or_else(|_| rules.clone());
        let filter = match Filter::new(&self.scope, &now, &self.exclude) {
            Ok(filter) => {
                *rules = now;
                filter
            }
            Err(_) => Filter::new(&self.scope, rules, &self.exclude).map_err(|error| Trouble::Blind(error.chain()))?,
        };
        let mut folders = Folders::new(inotify, filter, self.cancel.clone());
        folders.watch(&root, b"")?;
        match folders.len() {
            0 if !self.is_over() => {
                Err(Trouble::Blind(format!("{} lets itself not be watched (is /proc mounted?)", self.folder.display())))
            }
            _ => Ok(Armed { folders, root: inode, place, mounts }),
        }
    }

    /// Tells changes, until the watches have to be renewed.
    fn follow(&self, mut armed: Armed, mut mounts: Option<&mut mount::Table>, signs: &Signs) -> Result<(), Trouble> {
        let mut looked = Instant::now();
        loop {
            let table = mounts.as_ref().map(|table| table.file());
            let mounted =
                armed.folders.inotify().wait(table, TICK).map_err(|error| Trouble::Blind(error.to_string()))?;
            if self.is_over() {
                return Ok(());
            }
            let events = armed.folders.inotify().read().map_err(|error| Trouble::Blind(error.to_string()))?;
            let seen = armed.folders.weigh(&events);
            if seen.lost {
                settle(armed.folders.inotify());
            }
            if seen.lost || seen.rules || seen.uprooted {
                return Ok(());
            }
            if mounted && mounts_of(mounts.as_deref_mut(), &armed.place) != armed.mounts {
                return Ok(());
            }
            if seen.changed || looked.elapsed() >= TICK {
                looked = Instant::now();
                let Ok(root) = Dir::open(&self.folder) else { return Ok(()) };
                if Inode::of(&root).ok() != Some(armed.root) {
                    return Ok(());
                }
                armed.folders.renew(&root, &seen)?;
            }
            if seen.changed {
                signs.changed(Some(sight(&armed.folders)));
            }
        }
    }
}

fn sight(folders: &Folders) -> Sight {
    match &folders.missed {
        Some((path, why)) => Sight::Partial(path.clone(), why.clone()),
        None if folders.is_shared => Sight::Shared,
        None => Sight::Clear,
    }
}

fn mounts_of(table: Option<&mut mount::Table>, place: &Path) -> Vec<Vec<u8>> {
    table.and_then(|table| table.below(place).ok()).unwrap_or_default()
}

/// Waits until few events come; all that was watched is watched anew then.
fn settle(inotify: &Inotify) {
    let began = Instant::now();
    while began.elapsed() < AT_MOST {
        if inotify.wait(None, QUIET).is_err() || !matches!(inotify.read(), Ok(events) if !events.is_empty()) {
            return;
        }
    }
}

fn no_instance(error: &std::io::Error) -> String {
    match error.raw_os_error() {
        Some(code) if code == rustix::io::Errno::MFILE.raw_os_error() => {
            "the limit of watchers is reached (fs.inotify.max_user_instances)".to_owned()
        }
        _ => error.to_string(),
    }
}
