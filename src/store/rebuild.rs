//! The index out of the packs: after it was lost, and after a writer that did not end.

use std::collections::HashSet;

use bytes::Bytes;

use super::index::{Entry, Index, Pack};
use super::pack::{self, PackKind};
use super::{Store, UNSURE, lock, write_lock};
use crate::model::{Name, Result};

impl Store {
    /// Builds the index anew. Of nodes only those count to which a snapshot leads, and what is lost below them is noted.
    pub(super) fn rebuild(&self) -> Result<()> {
        let (packs, entries) = self.all_contents(|_| true)?;
        let _changing = lock(&self.changing);
        let index = Index::default().with(&self.cache, packs, entries).map_err(|cause| self.index_error(cause))?;
        *write_lock(&self.index) = std::sync::Arc::new(index);
        drop(_changing);
        self.trust_reached()?;
        self.sure()
    }

    /// Takes up the chunks of packs that a writer left which did not end. Its nodes may lead to what never came: they go.
    pub(super) fn adopt(&self) -> Result<()> {
        let known = self.known_packs();
        let (packs, entries) = self.all_contents(|name| !known.contains(&name))?;
        let nodes = packs.iter().filter(|pack| pack.kind == PackKind::Nodes);
        for pack in nodes {
            let gone = self.place.delete(&pack::path_of(pack.name));
            gone.map_err(|cause| self.place_error("a pack that nothing leads to cannot be removed", cause))?;
        }
        let (mut kept, mut numbers) = (Vec::new(), Vec::new());
        for pack in &packs {
            numbers.push(kept.len() as u32);
            if pack.kind == PackKind::Chunks {
                kept.push(*pack);
            }
        }
        let is_chunk = |entry: &Entry| packs[entry.pack as usize].kind == PackKind::Chunks;
        let chunks = entries.into_iter().filter(is_chunk);
        let chunks = chunks.map(|entry| Entry { pack: numbers[entry.pack as usize], ..entry }).collect();
        self.learn(kept, chunks)?;
        self.sure()
    }

    /// Takes up packs that are there and that the index does not know: they were away for a while. Whether there were any.
    pub(super) fn take_back(&self) -> Result<bool> {
        let known = self.known_packs();
        let (packs, entries) = self.all_contents(|name| !known.contains(&name))?;
        if packs.is_empty() {
            return Ok(false);
        }
        self.learn(packs, entries)?;
        self.trust_reached()?;
        Ok(true)
    }

    fn sure(&self) -> Result<()> {
        match std::fs::remove_file(self.cache.join(UNSURE)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(self.index_error(error)),
            _ => Ok(()),
        }
    }

    pub(super) fn known_packs(&self) -> HashSet<Name> {
        self.index().segments.iter().flat_map(|segment| segment.packs.iter().map(|pack| pack.name)).collect()
    }

    /// What the packs say is in them. One that says nothing sensible is left out, and stays.
    pub(super) fn all_contents(&self, wanted: impl Fn(Name) -> bool) -> Result<(Vec<Pack>, Vec<Entry>)> {
        let found = self.place.list("packs").map_err(|cause| self.place_error("the packs cannot be listed", cause))?;
        let (mut packs, mut entries) = (Vec::new(), Vec::new());
        for file in found {
            let Some(name) = pack::name_at(&file.name).filter(|name| wanted(*name)) else { continue };
            let read = |offset, len| -> std::io::Result<Bytes> { self.place.get(&file.name, Some((offset, len))) };
            let contents = pack::contents(file.len, self.key.as_ref(), read);
            let Some((kind, inside)) = contents.map_err(|cause| self.place_error("a pack cannot be read", cause))?
            else {
                tracing::error!("{} in the store {} is damaged", file.name, self.label());
                continue;
            };
            let number = packs.len() as u32;
            packs.push(Pack { name, len: file.len, kind });
            entries.extend(inside.into_iter().map(|entry| Entry { pack: number, ..entry }));
        }
        Ok((packs, entries))
    }
}
