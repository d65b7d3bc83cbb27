//! Giving back what no snapshot needs: packs in which nothing is needed go, those in which little is are written anew.
//!
//! Whoever reads goes on reading: an object is in the index under its new place before its old pack goes.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::index::{Entry, Index, Pack};
use super::pack::{self, PACK_BYTES, PackKind};
use super::snapshot::Volume;
use super::walk::{Marks, Walk};
use super::writer::{Group, Writer};
use super::{Snapshots, Store, lock, write_lock};
use crate::model::{Error, Kind, Name, Result};

/// A pack of which less than this many hundredths is needed is written anew.
const WORTH_KEEPING: u64 = 60;
/// So many small packs of a kind become big ones: each snapshot of little that is new leaves one.
const SMALL_PACKS: usize = 16;
const SMALL_BYTES: u64 = (PACK_BYTES / 4) as u64;
/// Objects that are written anew in one go; what is left is for the next.
const AT_ONCE: usize = 1 << 20;

/// What was given back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Collected {
    pub packs_removed: u64,
    pub packs_rewritten: u64,
    pub bytes_freed: u64,
    /// What the store's packs take now.
    pub bytes_kept: u64,
}

/// A pack and how much of it is needed.
#[derive(Clone, Copy)]
struct Weight {
    pack: Pack,
    needed: u64,
    all: u64,
}

impl Store {
    /// Collects. Waits for snapshots that are being taken; those that come meanwhile wait for it.
    pub fn collect(&self) -> Result<Collected> {
        let _alone = write_lock(&self.gate);
        let (snapshots, damaged) = self.snapshots_and_damage()?;
        if let Some(file) = damaged.first() {
            return Err(Error::new(Kind::Corrupt, format!("{file} in the store {} is damaged", self.label()))
                .hint("nothing was collected, since what it led to would go; mend it, or remove that file"));
        }
        let mut walk = self.needed(&snapshots)?;
        // What is lost may be in packs that were away for a while: without a look they would go as packs that nobody knows.
        if !walk.lost.is_empty() && self.take_back()? {
            walk = self.needed(&snapshots)?;
        }
        let Walk { index, marks, hurt, lost, .. } = walk;
        let weights = weigh(&index, &marks).map_err(|cause| self.index_error(cause))?;
        let (dead, mut thin) = choose(&weights);
        let sick = std::mem::take(&mut *lock(&self.sick));
        thin.extend(sick.into_iter().filter(|name| weights.contains_key(name) && !dead.contains(name)));
        thin.sort_unstable();
        thin.dedup();
        let before: u64 = weights.values().map(|weight| weight.pack.len).sum();

        let moved = self.rewrite(&index, &marks, &thin)?;
        let mut gone: HashSet<Name> = dead.iter().copied().chain(moved.from.iter().copied()).collect();
        // A pack is named by its bytes: what was written anew may be the very pack that was to go.
        for pack in &moved.packs {
            gone.remove(&pack.name);
        }
        fault!("gc.before_index", "before the new index");
        let after: u64 = before
            - weights.values().filter(|w| gone.contains(&w.pack.name)).map(|w| w.pack.len).sum::<u64>()
            + moved.packs.iter().map(|pack| pack.len).sum::<u64>();
        let rewritten = moved.from.len() as u64;
        self.reindex(&index, &marks, moved, &gone)?;
        *write_lock(&self.hurt) = hurt;
        self.save_hurt()?;
        fault!("gc.before_delete", "before the removal");

        // Nodes first: a list must not outlive what it leads to.
        let mut packs: Vec<Weight> = weights.into_values().filter(|weight| gone.contains(&weight.pack.name)).collect();
        packs.sort_by_key(|weight| std::cmp::Reverse(weight.pack.kind));
        let gone: Vec<Name> = packs.iter().map(|weight| weight.pack.name).collect();
        self.forget(&gone);
        for pack in &gone {
            fault!("gc.delete", "while removing");
            let removed = self.place.delete(&pack::path_of(*pack));
            removed.map_err(|cause| self.place_error("a pack cannot be removed", cause))?;
        }
        self.remove_strays(lost.is_empty())?;
        self.end_unsure()?;
        Ok(Collected {
            packs_removed: (gone.len() as u64).saturating_sub(rewritten),
            packs_rewritten: rewritten,
            bytes_freed: before.saturating_sub(after),
            bytes_kept: after,
        })
    }

    /// Everything that snapshots, and those who read, need.
    fn needed(&self, snapshots: &Snapshots) -> Result<Walk<'_>> {
        // Pins after snapshots: whoever pins looks again whether the snapshot is still there.
        let pinned = lock(&self.pins).clone();
        let mut walk = Walk::new(self);
        let lists = snapshots.iter().flat_map(|(_, snapshot)| &snapshot.volumes).flat_map(Volume::lists);
        lists.chain(pinned).try_for_each(|list| walk.root(list))?;
        Ok(walk)
    }

    /// What is needed of some packs, into new ones.
    fn rewrite(&self, index: &Arc<Index>, marks: &Marks, thin: &[Name]) -> Result<Moved> {
        let mut wanted: HashMap<Name, Vec<Entry>> = thin.iter().map(|name| (*name, Vec::new())).collect();
        for (number, segment) in index.segments.iter().enumerate() {
            for (row, entry) in (0u64..).zip(segment.entries().map_err(|cause| self.index_error(cause))?) {
                let entry = entry.map_err(|cause| self.index_error(cause))?;
                let pack = segment.packs[entry.pack as usize];
                if marks.get(number, row)
                    && let Some(entries) = wanted.get_mut(&pack.name)
                {
                    entries.push(entry);
                }
            }
        }
        let kinds: HashMap<Name, PackKind> =
            index.segments.iter().flat_map(|segment| segment.packs.iter().map(|pack| (pack.name, pack.kind))).collect();
        let (mut from, mut count) = (Vec::new(), 0);
        let written = Writer::gather(self, |writer| {
            for kind in [PackKind::Chunks, PackKind::Nodes] {
                let mut group = Group::new(writer, kind)?;
                for pack in thin.iter().filter(|pack| kinds.get(pack) == Some(&kind)) {
                    if count > AT_ONCE {
                        break;
                    }
                    let mut entries = wanted.remove(pack).unwrap_or_default();
                    entries.sort_by_key(|entry| (entry.offset, entry.at));
                    count += entries.len();
                    let mut whole = true;
                    for entry in entries {
                        match self.object(&entry.name, kind) {
                            Ok(bytes) => group.put_again(entry.name, &bytes)?,
                            // What is damaged stays where it is, for whoever can mend it.
                            Err(error) if error.kind == Kind::Corrupt => whole = false,
                            Err(error) => return Err(error),
                        }
                    }
                    if whole {
                        from.push(*pack);
                    }
                }
                group.flush()?;
            }
            Ok(())
        })?;
        Ok(Moved { from, packs: written.0, entries: written.1 })
    }

    /// The index without what is gone, and with what was moved.
    fn reindex(&self, index: &Arc<Index>, marks: &Marks, moved: Moved, gone: &HashSet<Name>) -> Result<()> {
        let _changing = lock(&self.changing);
        let next = index.replaced(
            &self.cache,
            (moved.packs, moved.entries),
            |segment, row| marks.get(segment, row),
            |pack| !gone.contains(&pack.name),
        );
        *write_lock(&self.index) = Arc::new(next.map_err(|cause| self.index_error(cause))?);
        Ok(())
    }

    /// Packs that the index does not know are left from something that did not end. One that cannot be read stays as long
    /// as something is lost (`all` is false): somebody may mend it.
    fn remove_strays(&self, all: bool) -> Result<()> {
        let known = self.known_packs();
        if all {
            let found =
                self.place.list("packs").map_err(|cause| self.place_error("the packs cannot be listed", cause))?;
            for file in found {
                if pack::name_at(&file.name).is_some_and(|name| !known.contains(&name)) {
                    let removed = self.place.delete(&file.name);
                    removed.map_err(|cause| self.place_error("a pack cannot be removed", cause))?;
                }
            }
            return Ok(());
        }
        let (packs, _) = self.all_contents(|name| !known.contains(&name))?;
        for pack in packs {
            let removed = self.place.delete(&pack::path_of(pack.name));
            removed.map_err(|cause| self.place_error("a pack cannot be removed", cause))?;
        }
        Ok(())
    }
}

/// What was written anew.
struct Moved {
    from: Vec<Name>,
    packs: Vec<Pack>,
    entries: Vec<Entry>,
}

fn weigh(index: &Index, marks: &Marks) -> std::io::Result<HashMap<Name, Weight>> {
    let mut weights: HashMap<Name, Weight> = HashMap::new();
    for (number, segment) in index.segments.iter().enumerate() {
        let mut sums = vec![(0u64, 0u64); segment.packs.len()];
        for (row, entry) in (0u64..).zip(segment.entries()?) {
            let entry = entry?;
            let sum = &mut sums[entry.pack as usize];
            sum.1 += u64::from(entry.len);
            if marks.get(number, row) {
                sum.0 += u64::from(entry.len);
            }
        }
        for (pack, (needed, all)) in segment.packs.iter().zip(sums) {
            let weight = weights.entry(pack.name).or_insert(Weight { pack: *pack, needed: 0, all: 0 });
            weight.needed += needed;
            weight.all += all;
        }
    }
    Ok(weights)
}

/// Packs that go, and packs that are written anew.
fn choose(weights: &HashMap<Name, Weight>) -> (Vec<Name>, Vec<Name>) {
    let (mut dead, mut thin) = (Vec::new(), Vec::new());
    let mut small: HashMap<PackKind, Vec<Name>> = HashMap::new();
    for weight in weights.values() {
        if weight.needed == 0 {
            dead.push(weight.pack.name);
        } else if weight.needed * 100 < weight.all * WORTH_KEEPING {
            thin.push(weight.pack.name);
        } else if weight.pack.len < SMALL_BYTES {
            small.entry(weight.pack.kind).or_default().push(weight.pack.name);
        }
    }
    thin.extend(small.into_values().filter(|packs| packs.len() >= SMALL_PACKS).flatten());
    dead.sort_unstable();
    thin.sort_unstable();
    (dead, thin)
}
