//! Whether the store is what it says: its packs there and whole, every snapshot's every object in them. What is hurt is
//! named by snapshot and path, and from then on not relied on: the next snapshot that still finds it puts it back.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::index::{Entry, Pack};
use super::pack;
use super::snapshot::Volume;
use super::walk::{Below, Walk, content_of};
use super::{Store, lock, read_lock, write_lock};
use crate::model::{Error, Kind, Name, Result};
use crate::tree::scan::threads;
use crate::tree::view::join;

/// The most paths that are named of one volume: where a root is lost, all below it is.
const PATHS: usize = 1000;

/// What was looked at, and what is wrong.
#[derive(Clone, Debug, Default)]
pub struct Verified {
    pub snapshots: u64,
    pub objects: u64,
    pub packs: u64,
    pub bytes_read: u64,
    pub problems: Vec<Problem>,
}

/// Something that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Problem {
    /// A file of the store, and what is the matter with it.
    File { file: String, what: String },
    /// Something that cannot be restored from a snapshot as it was.
    Path { snapshot: Name, volume: String, path: Vec<u8> },
}

/// A pack that cannot be relied on, and what is the matter with it.
type Lost = (Pack, String);

impl Store {
    /// Verifies. With `read_data` every byte is read, else what is there is believed to be whole. `hear` is told bytes
    /// read; `cancel` ends it.
    pub fn verify(&self, read_data: bool, hear: &(dyn Fn(u64) + Sync), cancel: &AtomicBool) -> Result<Verified> {
        let _shared = read_lock(&self.gate);
        let mut found = Verified::default();
        let (snapshots, damaged) = self.snapshots_and_damage()?;
        for file in damaged {
            found.problems.push(Problem::File { file, what: "is damaged: the snapshot cannot be read".into() });
        }
        self.check_index(&mut found)?;
        let lost_packs = self.check_packs(&mut found)?;
        let lost_objects = match read_data {
            true => self.read_all(&mut found, &lost_packs, hear, cancel)?,
            false => HashSet::new(),
        };
        self.forget_lost(&lost_packs, &lost_objects)?;

        let mut walk = Walk::new(self);
        for (_, snapshot) in &snapshots {
            for volume in &snapshot.volumes {
                if cancel.load(Ordering::Relaxed) {
                    return Err(cancelled());
                }
                volume.lists().try_for_each(|list| walk.root(list))?;
            }
        }
        found.snapshots = snapshots.len() as u64;
        found.objects = walk.objects;
        if !walk.lost.is_empty() {
            for (id, snapshot) in &snapshots {
                for volume in &snapshot.volumes {
                    let mut paths = BTreeSet::new();
                    for list in volume.lists() {
                        paths.extend(self.hurt_paths(&walk, list)?);
                    }
                    for path in paths {
                        found.problems.push(Problem::Path { snapshot: *id, volume: volume.label(), path });
                    }
                }
            }
        }
        // A list that a snapshot being taken has just written is whole, and not in this walk.
        *write_lock(&self.hurt) = walk.hurt;
        self.save_hurt()?;
        Ok(found)
    }

    fn check_index(&self, found: &mut Verified) -> Result<()> {
        for segment in &self.index().segments {
            if !segment.is_whole().map_err(|cause| self.index_error(cause))? {
                let file = format!("index/{}", segment.name());
                found.problems.push(Problem::File { file, what: "was damaged; the index is built anew".into() });
                return self.rebuild();
            }
        }
        Ok(())
    }

    /// The packs of the index that are gone or cut off, and what is the matter with each; and all packs that are there.
    fn lost_packs(&self) -> Result<(Vec<Lost>, HashMap<Name, u64>)> {
        // The index first: what a snapshot writes meanwhile is there before the index knows it.
        let known = self.packs();
        let there = self.place.list("packs").map_err(|cause| self.place_error("the packs cannot be listed", cause))?;
        let there: HashMap<Name, u64> =
            there.into_iter().filter_map(|file| Some((pack::name_at(&file.name)?, file.len))).collect();
        let is_lost = |pack: Pack| match there.get(&pack.name) {
            None => Some((pack, "is gone".to_owned())),
            Some(len) if *len != pack.len => Some((pack, format!("has {len} bytes, and had {}", pack.len))),
            Some(_) => None,
        };
        Ok((known.into_iter().filter_map(is_lost).collect(), there))
    }

    /// Looks whether the packs of the index are there, since a snapshot is about to rely on them. What is lost is not relied on
    /// any more: what of it is still found is stored again. How many packs that are.
    pub(super) fn notice_losses(&self) -> Result<usize> {
        let (lost, _) = self.lost_packs()?;
        if lost.is_empty() {
            return Ok(0);
        }
        // Of a place that is not there at all, nothing is lost.
        self.place.get("format", None).map_err(|cause| {
            self.place_error("`format` cannot be read", cause)
                .hint("packs are not where they were: is the disk mounted that they are on?")
        })?;
        for (pack, what) in &lost {
            tracing::error!("{} of the store {} {what}", pack::path_of(pack.name), self.label());
        }
        self.forget_lost(&lost.iter().map(|(pack, _)| pack.name).collect(), &HashSet::new())?;
        let mut walk = Walk::new(self);
        for (_, snapshot) in self.snapshots()? {
            snapshot.volumes.iter().flat_map(Volume::lists).try_for_each(|list| walk.root(list))?;
        }
        write_lock(&self.hurt).extend(walk.hurt);
        self.save_hurt()?;
        Ok(lost.len())
    }

    /// Packs of the index that are gone or cut off.
    fn check_packs(&self, found: &mut Verified) -> Result<HashSet<Name>> {
        let (lost, there) = self.lost_packs()?;
        found.packs = there.len() as u64;
        let known = self.known_packs();
        for (name, len) in there.iter().filter(|(name, _)| !known.contains(name)) {
            // One that is being written is whole; what cannot be read was in no index that was built since.
            let file = pack::path_of(*name);
            let read = |offset, len| self.place.get(&file, Some((offset, len)));
            if matches!(pack::contents(*len, self.key.as_ref(), read), Ok(None)) {
                let what = "is damaged: there is no telling what is in it".to_owned();
                found.problems.push(Problem::File { file, what });
            }
        }
        let problem = |(pack, what): Lost| {
            found.problems.push(Problem::File { file: pack::path_of(pack.name), what });
            pack.name
        };
        Ok(lost.into_iter().map(problem).collect())
    }

    fn packs(&self) -> Vec<Pack> {
        let mut packs: Vec<Pack> =
            self.index().segments.iter().flat_map(|segment| segment.packs.iter().copied()).collect();
        packs.sort_by_key(|pack| pack.name);
        packs.dedup_by_key(|pack| pack.name);
        packs
    }

    /// Reads all packs; the objects in them that are not what their names say.
    fn read_all(
        &self,
        found: &mut Verified,
        lost: &HashSet<Name>,
        hear: &(dyn Fn(u64) + Sync),
        cancel: &AtomicBool,
    ) -> Result<HashSet<(Name, Name)>> {
        let mut entries: HashMap<Name, Vec<Entry>> = HashMap::new();
        let packs: Vec<Pack> = self.packs().into_iter().filter(|pack| !lost.contains(&pack.name)).collect();
        let (work, bytes_read) = (Mutex::new(packs), AtomicU64::new(0));
        let outcome = Mutex::new((HashSet::new(), Vec::new()));
        // Only packs that are not whole are looked into: their entries are found when the first one is.
        let by_pack = Mutex::new(&mut entries);
        std::thread::scope(|scope| {
            let readers: Vec<_> = (0..threads())
                .map(|_| {
                    scope.spawn(|| -> Result<()> {
                        loop {
                            if cancel.load(Ordering::Relaxed) {
                                return Err(cancelled());
                            }
                            let Some(pack) = lock(&work).pop() else { return Ok(()) };
                            let path = pack::path_of(pack.name);
                            let bytes = self.place.get(&path, None);
                            let bytes =
                                bytes.map_err(|cause| self.place_error(&format!("{path} cannot be read"), cause))?;
                            hear(bytes_read.fetch_add(bytes.len() as u64, Ordering::Relaxed) + bytes.len() as u64);
                            if Name::of(&bytes) == pack.name {
                                continue;
                            }
                            let inside = {
                                let mut by_pack = lock(&by_pack);
                                if by_pack.is_empty() {
                                    **by_pack = self.entries_by_pack()?;
                                }
                                by_pack.get(&pack.name).cloned().unwrap_or_default()
                            };
                            let bad: Vec<Name> = inside
                                .iter()
                                .filter(|entry| !is_whole(entry, &bytes, &pack, self.key.as_ref()))
                                .map(|entry| entry.name)
                                .collect();
                            let what = match bad.len() {
                                0 => "is damaged; the objects in it are whole".to_owned(),
                                count => format!("is damaged; {count} of the {} objects in it are lost", inside.len()),
                            };
                            lock(&self.sick).insert(pack.name);
                            let mut outcome = lock(&outcome);
                            outcome.0.extend(bad.into_iter().map(|name| (pack.name, name)));
                            outcome.1.push(Problem::File { file: path, what });
                        }
                    })
                })
                .collect();
            readers.into_iter().try_for_each(|reader| {
                reader.join().unwrap_or_else(|_| Err(Error::failed("a thread that verifies the store broke")))
            })
        })?;
        let (bad, problems) = outcome.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
        found.problems.extend(problems);
        found.bytes_read = bytes_read.into_inner();
        Ok(bad)
    }

    fn entries_by_pack(&self) -> Result<HashMap<Name, Vec<Entry>>> {
        let mut all: HashMap<Name, Vec<Entry>> = HashMap::new();
        for segment in &self.index().segments {
            for entry in segment.entries().map_err(|cause| self.index_error(cause))? {
                let entry = entry.map_err(|cause| self.index_error(cause))?;
                all.entry(segment.packs[entry.pack as usize].name).or_default().push(entry);
            }
        }
        Ok(all)
    }

    /// Takes what is lost out of the index: what is not there is not to be relied on.
    fn forget_lost(&self, packs: &HashSet<Name>, objects: &HashSet<(Name, Name)>) -> Result<()> {
        if packs.is_empty() && objects.is_empty() {
            return Ok(());
        }
        let _changing = lock(&self.changing);
        let index = self.index();
        let keeps = |segment: usize, _: u64, entry: &Entry| {
            let pack = index.segments[segment].packs[entry.pack as usize].name;
            objects.is_empty() || !objects.contains(&(pack, entry.name))
        };
        let next = index.only(&self.cache, keeps, |pack| !packs.contains(&pack.name));
        *write_lock(&self.index) = Arc::new(next.map_err(|cause| self.index_error(cause))?);
        let forgotten: Vec<Name> = packs.iter().copied().chain(objects.iter().map(|(pack, _)| *pack)).collect();
        self.forget(&forgotten);
        lock(&self.frames).clear();
        lock(&self.windows).clear();
        Ok(())
    }

    /// The paths below a root of which something is lost.
    fn hurt_paths(&self, walk: &Walk<'_>, root: Name) -> Result<Vec<Vec<u8>>> {
        let mut paths = BTreeSet::new();
        let mut todo = vec![(root, Vec::new())];
        while let Some((list, path)) = todo.pop() {
            if paths.len() >= PATHS {
                break;
            }
            if walk.lost.contains(&list) {
                paths.insert(path);
                continue;
            }
            if !walk.hurt.contains(&list) {
                continue;
            }
            let entries = match self.entries(&list) {
                Ok(entries) => entries,
                Err(error) if error.kind == Kind::Corrupt => {
                    paths.insert(path);
                    continue;
                }
                Err(error) => return Err(error),
            };
            for entry in entries {
                let below = join(&path, &entry.name);
                match content_of(&entry.kind) {
                    Some(Below::List(list, _)) if entry.is_dir() => todo.push((list, below)),
                    Some(Below::List(name, _) | Below::Chunk(name))
                        if walk.lost.contains(&name) || walk.hurt.contains(&name) =>
                    {
                        paths.insert(below);
                    }
                    _ => {}
                }
            }
        }
        Ok(paths.into_iter().collect())
    }
}

/// Whether an object is in these bytes of its pack.
fn is_whole(entry: &Entry, bytes: &[u8], pack: &Pack, key: Option<&super::seal::Key>) -> bool {
    let object = || {
        let stored = bytes.get(entry.offset as usize..entry.offset as usize + entry.stored as usize)?;
        let raw = pack::unframe(stored, key)?;
        let object = raw.get(entry.at as usize..entry.at as usize + entry.len as usize)?;
        Some(pack.kind.name_of(object) == entry.name)
    };
    object().unwrap_or(false)
}

fn cancelled() -> Error {
    Error::new(Kind::Cancelled, "stopped; nothing was changed")
}
