//! A tree that is kept: snapshots, and all they are made of, in packs in a folder or a bucket (docs/design/store.md).
//!
//! A snapshot is a sync into the store ([`save`]), a restore is one out of it ([`serve`]). Neither side of the link knows
//! that the other one is no live directory.

/// A place at which tests have what is done fail (`NAME=return`), or the process die as by `kill -9` (`NAME=return(kill)`).
/// Nothing outside of tests.
macro_rules! fault {
    ($name:literal, $what:literal) => {
        fail::fail_point!($name, |how| match how.as_deref() {
            Some("kill") => std::process::abort(),
            _ => Err($crate::model::Error::failed(concat!("fault injected ", $what))),
        })
    };
}

pub mod diff;
pub mod gc;
pub mod holes;
mod index;
pub mod look;
mod lru;
pub mod pack;
pub mod place;
mod read;
mod rebuild;
pub mod save;
pub mod seal;
mod serve;
pub mod snapshot;
pub mod verify;
mod walk;
mod writer;

pub use serve::serve;
pub use writer::Writer;

use std::collections::HashSet;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use bytes::Bytes;

use crate::model::{Error, Kind, Name, Result};
use crate::sys::dir::lock_file;
use index::{Hit, Index};
use place::Place;
use seal::Key;
use snapshot::Snapshot;

/// The store of a host, open. One process has it open at a time.
pub struct Store {
    place: Place,
    /// The index, and for a bucket what of it is kept here to be read again.
    cache: PathBuf,
    key: Option<Key>,
    index: RwLock<Arc<Index>>,
    /// Whoever makes another index of the one there is.
    changing: Mutex<()>,
    /// Lists below which something is lost: they are there, and a snapshot may still not rely on them.
    hurt: RwLock<HashSet<Name>>,
    files: Mutex<lru::Lru<Name, Arc<File>>>,
    frames: Mutex<lru::Lru<(Name, u32), Bytes>>,
    windows: Mutex<lru::Lru<(Name, u64), Bytes>>,
    /// How many writers there are whose packs the index may not know.
    writers: Mutex<usize>,
    /// Snapshots being taken share it; what removes packs has it alone.
    gate: RwLock<()>,
    /// Packs that were found damaged: the next collection writes anew what is whole in them.
    sick: Mutex<HashSet<Name>>,
    /// Roots in use beside those of the snapshots there are.
    pins: Arc<Mutex<Vec<Name>>>,
    _lock: File,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Store({})", self.place.label())
    }
}

/// Snapshots with their ids, the oldest first.
pub type Snapshots = Vec<(Name, Snapshot)>;

/// What a store says of itself: format, whether it is sealed and with which key.
const SAYS: &str = "mcloud store 1";
/// It stands while packs are written that no index knows yet.
const UNSURE: &str = "unsure";

/// Keeps a tree readable while it lives, whatever is removed.
pub struct Pin {
    pins: Arc<Mutex<Vec<Name>>>,
    roots: Vec<Name>,
}

impl Drop for Pin {
    fn drop(&mut self) {
        let mut pins = lock(&self.pins);
        for root in &self.roots {
            if let Some(at) = pins.iter().position(|pinned| pinned == root) {
                pins.swap_remove(at);
            }
        }
    }
}

impl Store {
    /// Opens the store at `place`, which is made if there is none. `cache`: a folder of this machine for its index.
    pub fn open(place: Place, cache: &Path, key: Option<Key>) -> Result<Store> {
        let label = place.label();
        let cannot =
            |what: &str, cause: std::io::Error| Error::io(format!("the store {label} cannot be {what}"), cause);
        place::make_folder(cache).map_err(|cause| cannot("opened", cause))?;
        let lock = lock_file(&cache.join("lock")).map_err(|cause| cannot("locked", cause))?;
        let Some(lock) = lock else {
            return Err(Error::new(Kind::Busy, format!("another process has the store {label} open")));
        };
        check_format(&place, key.as_ref())?;
        let found = Index::open(cache).map_err(|cause| cannot("opened", cause))?;
        let known = found.is_some();
        let mut store = Store {
            place,
            cache: cache.to_owned(),
            key,
            index: RwLock::new(Arc::new(found.unwrap_or_default())),
            changing: Mutex::default(),
            hurt: RwLock::default(),
            files: Mutex::new(lru::Lru::new(64)),
            frames: Mutex::new(lru::Lru::new(256)),
            windows: Mutex::new(lru::Lru::new(16)),
            writers: Mutex::default(),
            gate: RwLock::default(),
            sick: Mutex::default(),
            pins: Arc::default(),
            _lock: lock,
        };
        store.hurt = RwLock::new(store.read_hurt()?);
        if !known {
            store.rebuild()?;
        } else if store.cache.join(UNSURE).exists() {
            store.adopt()?;
        }
        Ok(store)
    }

    /// How people know it.
    pub fn label(&self) -> String {
        self.place.label()
    }

    pub fn is_sealed(&self) -> bool {
        self.key.is_some()
    }

    /// Keeps these trees readable while the pin lives.
    pub fn pin(&self, roots: Vec<Name>) -> Pin {
        lock(&self.pins).extend(roots.iter().copied());
        Pin { pins: self.pins.clone(), roots }
    }

    fn index(&self) -> Arc<Index> {
        read_lock(&self.index).clone()
    }

    fn find(&self, name: &Name) -> Result<Option<Hit>> {
        self.index().find(name).map_err(|cause| self.index_error(cause))
    }

    /// Whether an object is there, and for a list: with all that is below it.
    fn has(&self, name: &Name) -> Result<bool> {
        Ok(!read_lock(&self.hurt).contains(name) && self.find(name)?.is_some())
    }

    fn index_error(&self, cause: std::io::Error) -> Error {
        let damaged = matches!(cause.kind(), std::io::ErrorKind::InvalidData | std::io::ErrorKind::UnexpectedEof);
        let error = Error::io(format!("the index of the store {} cannot be used", self.label()), cause);
        match damaged {
            true => Error { kind: Kind::Corrupt, ..error }.hint(format!(
                "stop the daemon, remove {} and start it again: the index is built anew from the packs",
                self.cache.display()
            )),
            false => error.hint("check that the folder it is kept in can be written and has room"),
        }
    }

    fn no_sense(&self, name: &Name) -> Error {
        Error::new(Kind::Corrupt, format!("{name} in the store {} makes no sense", self.label()))
    }

    fn place_error(&self, what: &str, cause: std::io::Error) -> Error {
        let error = Error::io(format!("{what} in the store {}", self.label()), cause);
        if self.place.is_remote() && error.kind == Kind::Failed {
            return error.hint("check that the bucket can be reached and written with the credentials the daemon has");
        }
        error
    }

    /// Puts these objects into the index.
    fn learn(&self, packs: Vec<index::Pack>, entries: Vec<index::Entry>) -> Result<()> {
        if entries.is_empty() {
            return Ok(());
        }
        let _changing = lock(&self.changing);
        let next = self.index().with(&self.cache, packs, entries).map_err(|cause| self.index_error(cause))?;
        *write_lock(&self.index) = Arc::new(next);
        Ok(())
    }

    /// Takes a snapshot: `work` writes its trees and makes its record, which comes last. `hear` is told what people should know.
    pub fn snapshot(
        &self,
        hear: &dyn Fn(String),
        work: impl FnOnce(&Writer<'_>) -> Result<Snapshot>,
    ) -> Result<(Name, Snapshot)> {
        let _shared = read_lock(&self.gate);
        let lost = self.notice_losses()?;
        if lost > 0 {
            hear(format!(
                "{lost} packs of the store {} are gone or cut off: what was in them is stored again as far as it is still \
                 there; `mcloud snapshot verify` says which older snapshots are hurt",
                self.label()
            ));
        }
        let record = Writer::run(self, work)?;
        fault!("store.before_snapshot", "before the snapshot");
        let id = self.put_snapshot(&record)?;
        fault!("store.after_snapshot", "after the snapshot");
        Ok((id, record))
    }

    fn put_snapshot(&self, record: &Snapshot) -> Result<Name> {
        let bytes = record.encode();
        let id = Name::of(&bytes);
        let bytes = match &self.key {
            Some(key) => key.seal(b"mcloud snapshot", &bytes)?,
            None => bytes,
        };
        let put = self.place.put(&snapshot::path_of(id), &bytes.into());
        put.map_err(|cause| self.place_error("the snapshot cannot be written", cause))?;
        Ok(id)
    }

    /// All snapshots, the oldest first, and the files that should be ones and are damaged.
    pub fn snapshots_and_damage(&self) -> Result<(Snapshots, Vec<String>)> {
        let found = self.place.list("snapshots");
        let found = found.map_err(|cause| self.place_error("the snapshots cannot be listed", cause))?;
        let (mut all, mut damaged) = (Vec::new(), Vec::new());
        for file in found {
            let bytes = match self.place.get(&file.name, None) {
                Ok(bytes) => bytes,
                // Removed meanwhile.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
                Err(cause) => return Err(self.place_error(&format!("{} cannot be read", file.name), cause)),
            };
            let opened = match &self.key {
                Some(key) => key.open(b"mcloud snapshot", &bytes),
                None => Some(bytes.to_vec()),
            };
            let id = pack::name_at(&file.name);
            match opened.filter(|bytes| Some(Name::of(bytes)) == id).and_then(|bytes| Snapshot::decode(&bytes)).zip(id)
            {
                Some((snapshot, id)) => all.push((id, snapshot)),
                None => damaged.push(file.name),
            }
        }
        all.sort_by_key(|(id, snapshot)| (snapshot.taken_ms, *id));
        Ok((all, damaged))
    }

    /// All snapshots, the oldest first.
    pub fn snapshots(&self) -> Result<Snapshots> {
        let (all, damaged) = self.snapshots_and_damage()?;
        damaged.iter().for_each(|file| tracing::error!("{file} in the store {} is damaged", self.label()));
        Ok(all)
    }

    /// One snapshot, which stays readable while the pin lives.
    pub fn hold(&self, id: Name) -> Result<(Snapshot, Pin)> {
        let find = || {
            let found = self.snapshots()?.into_iter().find(|(own, _)| *own == id);
            found.map(|(_, snapshot)| snapshot).ok_or_else(|| {
                Error::new(Kind::NotFound, format!("there is no snapshot {id}"))
                    .hint("`mcloud snapshot list` shows those there are")
            })
        };
        let pin = self.pin(find()?.volumes.iter().flat_map(snapshot::Volume::lists).collect());
        // Whoever removed it before the pin was set did not see the pin.
        Ok((find()?, pin))
    }

    /// Removes snapshots. What only they held stays until it is collected.
    pub fn remove(&self, ids: &[Name]) -> Result<()> {
        for id in ids {
            fault!("store.remove", "while removing");
            let gone = self.place.delete(&snapshot::path_of(*id));
            gone.map_err(|cause| self.place_error(&format!("the snapshot {id} cannot be removed"), cause))?;
        }
        self.place.settle("snapshots").map_err(|cause| self.place_error("removals cannot be made durable", cause))
    }
}

/// Reads what the store says of itself, or says it where it is new.
fn check_format(place: &Place, key: Option<&Key>) -> Result<()> {
    let label = place.label();
    let cannot = |what: &str, cause: std::io::Error| {
        let error = Error::io(format!("the store {label} cannot be {what}"), cause);
        match place.is_remote() {
            true => error.hint("check its address, and the AWS_ variables of the daemon"),
            false => error,
        }
    };
    let sealed = match key {
        Some(key) => {
            format!("sealed {}", key.check().iter().map(|byte| format!("{byte:02x}")).collect::<String>())
        }
        None => "plain".to_owned(),
    };
    let mine = format!("{SAYS}\n{sealed}\n");
    let said = match place.get("format", None) {
        Ok(said) => said,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let kept = place.list("packs").map_err(|cause| cannot("listed", cause))?;
            if !kept.is_empty() {
                return Err(Error::new(Kind::Corrupt, format!("the store {label} lacks its file `format`"))
                    .hint("put it back: docs/formats.md says what stands in it"));
            }
            return place.put("format", &Bytes::from(mine)).map_err(|cause| cannot("made", cause));
        }
        Err(cause) => return Err(cannot("opened", cause)),
    };
    if said == mine {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&said).into_owned();
    let mut lines = said.lines();
    if lines.next() != Some(SAYS) {
        return Err(Error::failed(format!("the store {label} is of another format than this mcloud's"))
            .hint("run the mcloud that made it, or a newer one"));
    }
    Err(match (lines.next(), key) {
        (Some("plain"), Some(_)) => Error::new(Kind::Refused, format!("the store {label} is not sealed"))
            .hint("start the daemon with --store-plain, or name another store"),
        (_, None) => Error::new(Kind::Refused, format!("the store {label} is sealed, and no key is given"))
            .hint("start the daemon with --store-key FILE"),
        _ => Error::new(Kind::Refused, format!("the store {label} is sealed with another key"))
            .hint("start the daemon with the --store-key FILE with which it was made"),
    })
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn read_lock<T>(lock: &RwLock<T>) -> RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(PoisonError::into_inner)
}

fn write_lock<T>(lock: &RwLock<T>) -> RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod bucket_tests;
#[cfg(test)]
mod holes_tests;
#[cfg(test)]
mod rules_tests;
#[cfg(test)]
mod tests;
#[cfg(all(test, feature = "faults"))]
mod upkeep_tests;
