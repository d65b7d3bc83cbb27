//! What snapshots lead to: every object below their roots once, those that are lost, and the lists above these.

use std::collections::HashSet;
use std::sync::Arc;

use super::index::Index;
use super::snapshot::Volume;
use super::{Store, lock, write_lock};
use crate::model::{Kind, Name, Result};
use crate::tree::chunk::MAX;
use crate::tree::entry::EntryKind;
use crate::tree::node::{ListKind, decode_chunks, decode_entries, decode_upper};

/// A bit for each entry of an index.
pub struct Marks(Vec<Vec<u64>>);

impl Marks {
    pub fn of(index: &Index) -> Marks {
        Marks(index.segments.iter().map(|segment| vec![0; segment.count as usize / 64 + 1]).collect())
    }

    pub fn get(&self, segment: usize, row: u64) -> bool {
        self.0[segment][row as usize / 64] >> (row % 64) & 1 == 1
    }

    /// Whether it was set before.
    fn set(&mut self, segment: usize, row: u64) -> bool {
        let word = &mut self.0[segment][row as usize / 64];
        let was = *word >> (row % 64) & 1 == 1;
        *word |= 1 << (row % 64);
        was
    }
}

/// What an object is, seen from the one that leads to it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Below {
    List(Name, ListKind),
    Chunk(Name),
}

/// A walk over everything that roots lead to.
pub struct Walk<'a> {
    store: &'a Store,
    pub index: Arc<Index>,
    pub marks: Marks,
    /// Objects that are led to and cannot be had.
    pub lost: HashSet<Name>,
    /// Lists above them.
    pub hurt: HashSet<Name>,
    pub objects: u64,
}

/// A list on the way down.
struct Step {
    name: Name,
    below: Vec<Below>,
    hurt: bool,
}

impl<'a> Walk<'a> {
    pub fn new(store: &'a Store) -> Walk<'a> {
        let index = store.index();
        let marks = Marks::of(&index);
        Walk { store, index, marks, lost: HashSet::new(), hurt: HashSet::new(), objects: 0 }
    }

    /// Walks what is below a root directory's list and was not walked before.
    pub fn root(&mut self, list: Name) -> Result<()> {
        let mut way: Vec<Step> = Vec::new();
        let mut hurt = self.enter(Below::List(list, ListKind::Entries), &mut way)?;
        loop {
            let Some(step) = way.last_mut() else { return Ok(()) };
            step.hurt |= hurt;
            match step.below.pop() {
                Some(next) => hurt = self.enter(next, &mut way)?,
                None => {
                    hurt = step.hurt;
                    let name = step.name;
                    if hurt {
                        self.hurt.insert(name);
                    }
                    way.pop();
                }
            }
        }
    }

    /// Marks an object; a list that was not seen before is gone on with. Whether it, or something below, is lost.
    fn enter(&mut self, next: Below, way: &mut Vec<Step>) -> Result<bool> {
        let (Below::List(name, _) | Below::Chunk(name)) = next;
        if self.lost.contains(&name) {
            return Ok(true);
        }
        let hit = self.index.find(&name).map_err(|cause| self.store.index_error(cause))?;
        let Some(hit) = hit else {
            self.lost.insert(name);
            return Ok(true);
        };
        if self.marks.set(hit.segment, hit.row) {
            return Ok(self.hurt.contains(&name));
        }
        self.objects += 1;
        let Below::List(_, kind) = next else { return Ok(false) };
        match self.store.below(&name, kind) {
            Ok(below) => {
                way.push(Step { name, below, hurt: false });
                Ok(false)
            }
            Err(error) if error.kind == Kind::Corrupt => {
                self.lost.insert(name);
                Ok(true)
            }
            Err(error) => Err(error),
        }
    }
}

impl Store {
    /// What a list leads to.
    fn below(&self, list: &Name, kind: ListKind) -> Result<Vec<Below>> {
        let bytes = self.node(list)?;
        let sense = || self.no_sense(list);
        let (level, names) = decode_upper(kind, &bytes).ok_or_else(sense)?;
        if level > 0 {
            return Ok(names.into_iter().map(|name| Below::List(name, kind)).collect());
        }
        if kind == ListKind::Chunks {
            let chunks = decode_chunks(&bytes).ok_or_else(sense)?;
            return Ok(chunks.into_iter().map(|chunk| Below::Chunk(chunk.name)).collect());
        }
        let entries = decode_entries(&bytes).ok_or_else(sense)?;
        Ok(entries.iter().filter_map(|entry| content_of(&entry.kind)).collect())
    }

    /// After the index was built anew: nodes to which no snapshot leads may lead to what is gone, and are forgotten.
    pub(super) fn trust_reached(&self) -> Result<()> {
        let mut walk = Walk::new(self);
        for (_, snapshot) in self.snapshots()? {
            snapshot.volumes.iter().flat_map(Volume::lists).try_for_each(|list| walk.root(list))?;
        }
        let _changing = lock(&self.changing);
        let is_node = |index: &Index, segment: usize, pack: u32| {
            index.segments[segment].packs[pack as usize].kind == super::pack::PackKind::Nodes
        };
        let keeps = |segment: usize, row: u64, entry: &super::index::Entry| {
            walk.marks.get(segment, row) || !is_node(&walk.index, segment, entry.pack)
        };
        let index = walk.index.only(&self.cache, keeps, |_| true).map_err(|cause| self.index_error(cause))?;
        *write_lock(&self.index) = Arc::new(index);
        *write_lock(&self.hurt) = std::mem::take(&mut walk.hurt);
        self.save_hurt()
    }
}

/// What holds an entry's content.
pub fn content_of(kind: &EntryKind) -> Option<Below> {
    match *kind {
        EntryKind::Dir { content } => Some(Below::List(content, ListKind::Entries)),
        EntryKind::File { size: 0, .. } => None,
        EntryKind::File { size, content } if size <= MAX as u64 => Some(Below::Chunk(content)),
        EntryKind::File { content, .. } => Some(Below::List(content, ListKind::Chunks)),
        _ => None,
    }
}
