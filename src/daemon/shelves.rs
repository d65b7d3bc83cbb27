//! Snapshots as they are looked at: one by itself, or all of a tenant side by side, each called by the time it was taken.

use std::sync::Arc;

use super::Daemon;
use super::client::folder_of;
use crate::model::{Error, Kind, Name, Reference, Result};
use crate::store::look::Shown;
use crate::store::snapshot::{Snapshot, Volume};
use crate::store::{Pin, Store};
use crate::tree::entry::Meta;
use crate::tree::look::Look;
use crate::tree::look::shelf::{Book, Books, Shelf};

const DAY: u64 = 86_400;

/// The tree of a snapshot: its only volume, or all of them, each in a folder called as a restore calls it.
pub fn one(daemon: &Daemon, id: Name) -> Result<Arc<dyn Look>> {
    let (store, secret) = (daemon.store()?, secret(daemon));
    let (snapshot, pin) = store.hold(id)?;
    tree(store, snapshot, pin, secret)
}

/// All snapshots of what `of` names: of a tenant, or of a part of it.
pub fn all(daemon: &Daemon, of: Reference) -> Result<Arc<dyn Look>> {
    let (store, secret) = (daemon.store()?, secret(daemon));
    Ok(Arc::new(Shelf::of(Taken { store, of, secret })))
}

/// What handles are proved with: the same after a restart, and nobody else's.
fn secret(daemon: &Daemon) -> [u8; 32] {
    blake3::derive_key("mcloud handles of what is looked at", daemon.identity.seed())
}

fn tree(store: Arc<Store>, snapshot: Snapshot, pin: Pin, secret: [u8; 32]) -> Result<Arc<dyn Look>> {
    match &snapshot.volumes[..] {
        [only] => Ok(Arc::new(Shown::of(store, only, Arc::new(pin), &secret)?)),
        _ => Ok(Arc::new(Shelf::of(Volumes { store, snapshot, pin: Arc::new(pin), secret }))),
    }
}

struct Volumes {
    store: Arc<Store>,
    snapshot: Snapshot,
    pin: Arc<Pin>,
    secret: [u8; 32],
}

fn name(volume: &Volume) -> String {
    folder_of(volume.data.as_ref())
}

impl Books for Volumes {
    fn all(&self) -> Result<Vec<Book>> {
        let numbered = self.snapshot.volumes.iter().zip(0u32..);
        let book = |(volume, number): (&Volume, u32)| Book {
            name: name(volume).into_bytes().into(),
            key: number.to_le_bytes().into(),
            meta: volume.root.meta.clone(),
        };
        Ok(numbered.map(book).collect())
    }

    fn open(&self, key: &[u8]) -> Result<Arc<dyn Look>> {
        let number = key.try_into().map(u32::from_le_bytes).ok();
        let volume = number.and_then(|number| self.snapshot.volumes.get(number as usize));
        let volume = volume.ok_or_else(|| Error::new(Kind::NotFound, "the snapshot has no such volume"))?;
        Ok(Arc::new(Shown::of(self.store.clone(), volume, self.pin.clone(), &self.secret)?))
    }

    fn may_change(&self) -> bool {
        false
    }
}

struct Taken {
    store: Arc<Store>,
    of: Reference,
    secret: [u8; 32],
}

impl Taken {
    fn is_of(&self, snapshot: &Snapshot) -> bool {
        let whole = self.of.service.is_none() && self.of.volume.is_none();
        snapshot.tenant == self.of.tenant && (whole || snapshot.of == self.of.to_string())
    }
}

impl Books for Taken {
    fn all(&self) -> Result<Vec<Book>> {
        let mut books: Vec<Book> = Vec::new();
        for (id, snapshot) in self.store.snapshots()?.iter().filter(|(_, snapshot)| self.is_of(snapshot)) {
            let time = shown(snapshot.taken_ms / 1000);
            let taken = books.iter().rev().any(|book| *book.name == *time.as_bytes());
            let name = if taken { format!("{time}-{}", &id.to_string()[..12]) } else { time };
            let meta = match &snapshot.volumes[..] {
                [only] => only.root.meta.clone(),
                _ => Meta { mode: 0o755, ..Meta::default() },
            };
            books.push(Book { name: name.into_bytes().into(), key: id.0.into(), meta });
        }
        Ok(books)
    }

    fn open(&self, key: &[u8]) -> Result<Arc<dyn Look>> {
        let gone = || Error::new(Kind::NotFound, "there is no such snapshot any more");
        let (snapshot, pin) = self.store.hold(Name::from_slice(key).ok_or_else(gone)?)?;
        // A key comes from outside: only those of this shelf lead anywhere.
        if !self.is_of(&snapshot) {
            return Err(gone());
        }
        tree(self.store.clone(), snapshot, pin, self.secret)
    }

    fn may_change(&self) -> bool {
        true
    }
}

/// `2026-11-23T02:00:00Z`.
fn shown(unix: u64) -> String {
    let time = i64::try_from(unix).ok().and_then(|unix| chrono::DateTime::from_timestamp(unix, 0));
    let Some(time) = time else { return format!("{}d", unix / DAY) };
    use chrono::{Datelike, Timelike};
    let date = format!("{:04}-{:02}-{:02}", time.year(), time.month(), time.day());
    format!("{date}T{:02}:{:02}:{:02}Z", time.hour(), time.minute(), time.second())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_is_called_by_its_time() {
        assert_eq!(shown(1_795_399_200), "2026-11-23T02:00:00Z");
        assert_eq!(shown(0), "1970-01-01T00:00:00Z");
        assert_eq!(shown(u64::MAX), "213503982334601d");
    }
}
