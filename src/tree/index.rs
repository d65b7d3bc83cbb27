//! What may be done to an index without looking at its tree: carrying what is known of a tree over to a clone of it, and
//! forgetting what stamps cannot vouch for.

use std::collections::HashMap;
use std::io::Result;
use std::path::Path;

use super::entry::EntryKind;
use super::records::{Found, Records, Row};
use super::view::{Item, decode_items, encode_items};
use crate::model::Name;
use crate::sys::clock::Time;
use crate::sys::mapped::Mapped;

/// An inode as it was at a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    pub device: u64,
    pub ino: u64,
    pub ctime: Time,
}

/// An inode and its clone, both as they were once the clone was made.
#[derive(Clone, Copy, Debug)]
pub struct Twin {
    pub was: Stamp,
    pub is: Stamp,
    /// It had been left alone for so long that any later change bears another stamp.
    pub settled: bool,
}

impl Twin {
    /// The other way round: what is known of a clone is known of the tree as well, as long as its stamps are the same.
    pub fn back(&self) -> Option<Twin> {
        self.settled.then_some(Twin { was: self.is, is: self.was, ..*self })
    }
}

/// Gives the clone of a tree an index: what `from` knows of the entries that were cloned as `from` knows them, less
/// those that are `mapped`. Where `from` is in use or damaged nothing is known.
pub fn carry_over(from: &Path, to: &Path, twins: &[Twin], mapped: &Mapped) -> Result<()> {
    let (old, rows, found) = Records::open(Some(from))?;
    if found != Found::Whole {
        return Ok(());
    }
    let twins: HashMap<(u64, u64), &Twin> = twins.iter().map(|twin| ((twin.was.device, twin.was.ino), twin)).collect();
    let (new, ..) = Records::open(Some(to))?;
    let mut kept = Vec::new();
    for row in rows.values() {
        let Some(dir) = twins.get(&row.id) else { continue };
        let Ok(mut items) = old.read(row.record).and_then(|bytes| decode_items(&bytes)) else { continue };
        for item in &mut items {
            let id = (row.id.0, item.print.ino);
            let twin = twins.get(&id).filter(|twin| twin.was.ctime == item.print.ctime && !mapped.contains(id.0, id.1));
            match twin {
                Some(twin) => (item.print.ino, item.print.ctime) = (twin.is.ino, twin.is.ctime),
                None => item.print.trusted = false,
            }
            if item.list.is_some() {
                item.list = new.copy_list(&old, item.list)?;
            }
        }
        kept.push(Row {
            id: (dir.is.device, dir.is.ino),
            record: new.append(&encode_items(&items))?,
            content: Name::UNKNOWN,
            protected: row.protected,
        });
    }
    new.save(&kept)
}

/// Makes the next scan read these files again, whatever their stamps say.
pub fn doubt(index: &Path, mapped: &Mapped) -> Result<()> {
    if mapped.is_empty() || !index.exists() {
        return Ok(());
    }
    let (records, rows, found) = Records::open(Some(index))?;
    if found != Found::Whole {
        return Ok(());
    }
    let mut kept = Vec::with_capacity(rows.len());
    for row in rows.values() {
        let Ok(mut items) = records.read(row.record).and_then(|bytes| decode_items(&bytes)) else { continue };
        let is_meant = |item: &Item| {
            matches!(item.entry.kind, EntryKind::File { .. } | EntryKind::Link { .. })
                && mapped.contains(row.id.0, item.print.ino)
        };
        if !items.iter().any(is_meant) {
            kept.push(*row);
            continue;
        }
        for item in items.iter_mut().filter(|item| is_meant(item)) {
            item.print.trusted = false;
        }
        kept.push(Row { record: records.append(&encode_items(&items))?, content: Name::UNKNOWN, ..*row });
    }
    records.save(&kept)
}
