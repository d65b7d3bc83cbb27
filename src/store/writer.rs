//! Objects into packs. Whoever writes has a writer of his own; what he wrote counts for others when it is durable.
//!
//! The order that keeps every crash harmless: packs, then the index, then the snapshot. Nodes enter the index only when
//! all that they lead to is in it: so a list that the index has is whole.

use std::collections::HashSet;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;

use super::index::{Entry, Pack};
use super::pack::{self, FRAME_BYTES, Framer, OpenPack, PackKind, Packed};
use super::{Store, UNSURE, lock, read_lock, write_lock};
use crate::model::{Error, Name, Result};

/// Entries that wait to be put into the index.
const WAITING: usize = 200_000;
/// Packs being written at a time.
const WRITERS: usize = 2;
const WRITERS_REMOTE: usize = 6;

/// Names are random as they are.
#[derive(Default)]
pub struct FirstBytes(u64);

impl Hasher for FirstBytes {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        if let Some(first) = bytes.first_chunk::<8>() {
            self.0 = u64::from_le_bytes(*first);
        }
    }
}

pub type Names = HashSet<Name, BuildHasherDefault<FirstBytes>>;

pub struct Writer<'s> {
    pub(super) store: &'s Store,
    /// What is durable is put into the index as it comes.
    learns: bool,
    /// What this writer has taken on itself and the index does not know.
    claimed: Mutex<Names>,
    chunks: Mutex<OpenPack>,
    nodes: Mutex<OpenPack>,
    full: Mutex<Option<crossbeam_channel::Sender<Packed>>>,
    ready: Mutex<Ready>,
    failure: Mutex<Option<Error>>,
    /// Bytes of objects that were new, and the bytes of packs they became.
    raw_bytes: AtomicU64,
    stored_bytes: AtomicU64,
    /// Packs handed to the writing threads that are not durable.
    unwritten: AtomicU64,
}

struct End<'w, 's>(&'w Writer<'s>);

impl Drop for End<'_, '_> {
    fn drop(&mut self) {
        lock(&self.0.full).take();
    }
}

/// What is durable and waits for the index.
#[derive(Default)]
struct Ready {
    chunks: (Vec<Pack>, Vec<Entry>),
    nodes: (Vec<Pack>, Vec<Entry>),
}

impl Ready {
    fn joined(self) -> (Vec<Pack>, Vec<Entry>) {
        let (mut packs, mut entries) = self.chunks;
        let base = packs.len() as u32;
        packs.extend(self.nodes.0);
        entries.extend(self.nodes.1.into_iter().map(|entry| Entry { pack: entry.pack + base, ..entry }));
        (packs, entries)
    }
}

impl<'s> Writer<'s> {
    /// Does `work` with a writer. When this returns well, all that was written is durable and in the index.
    pub fn run<T>(store: &'s Store, work: impl FnOnce(&Writer<'s>) -> Result<T>) -> Result<T> {
        store.begin_unsure()?;
        let (done, ready, claimed) = Writer::write(store, true, work);
        match done {
            Ok(value) => {
                let (packs, entries) = ready.joined();
                fault!("store.before_index", "before the index");
                store.learn(packs, entries)?;
                store.healed(&claimed)?;
                store.end_unsure()?;
                Ok(value)
            }
            Err(error) => {
                // The chunks are good for the next try; the nodes lead to what may not be there.
                let kept = store.learn(ready.chunks.0, ready.chunks.1);
                // A pack is named by its bytes: what was written may be one that is in use.
                let known = store.known_packs();
                let nodes = ready.nodes.0.iter().filter(|pack| !known.contains(&pack.name));
                let dropped =
                    nodes.map(|pack| store.place.delete(&pack::path_of(pack.name))).find(std::io::Result::is_err);
                if kept.is_ok() && dropped.is_none() {
                    store.end_unsure()?;
                }
                Err(error)
            }
        }
    }

    /// Does `work` with a writer, and returns what was written, which is durable and not in the index. The store is
    /// unsure until the caller ends that.
    pub(super) fn gather(
        store: &'s Store,
        work: impl FnOnce(&Writer<'s>) -> Result<()>,
    ) -> Result<(Vec<Pack>, Vec<Entry>)> {
        store.begin_unsure()?;
        let (done, ready, _) = Writer::write(store, false, work);
        done.map(|()| ready.joined())
    }

    fn write<T>(
        store: &'s Store,
        learns: bool,
        work: impl FnOnce(&Writer<'s>) -> Result<T>,
    ) -> (Result<T>, Ready, Names) {
        let count = if store.place.is_remote() { WRITERS_REMOTE } else { WRITERS };
        let (full, to_write) = crossbeam_channel::bounded(count);
        let open = |kind| Mutex::new(OpenPack::new(kind, store.is_sealed()));
        let writer = Writer {
            store,
            learns,
            claimed: Mutex::default(),
            chunks: open(PackKind::Chunks),
            nodes: open(PackKind::Nodes),
            full: Mutex::new(Some(full)),
            ready: Mutex::default(),
            failure: Mutex::default(),
            raw_bytes: AtomicU64::new(0),
            stored_bytes: AtomicU64::new(0),
            unwritten: AtomicU64::new(0),
        };
        let done = std::thread::scope(|scope| {
            let shared = &writer;
            for _ in 0..count {
                let to_write = to_write.clone();
                scope.spawn(move || {
                    for packed in to_write {
                        let done = shared.write_pack(packed);
                        shared.note(done);
                        shared.unwritten.fetch_sub(1, Ordering::Release);
                    }
                });
            }
            drop(to_write);
            // However the work ends, the threads hear that nothing more comes.
            let _end = End(shared);
            let done = work(shared);
            shared.close(PackKind::Chunks)?;
            shared.close(PackKind::Nodes)?;
            done
        });
        let failure = lock(&writer.failure).take();
        let ready = std::mem::take(&mut *lock(&writer.ready));
        let claimed = std::mem::take(&mut *lock(&writer.claimed));
        (failure.map_or(done, Err), ready, claimed)
    }

    fn note(&self, done: Result<()>) {
        if let Err(error) = done {
            lock(&self.failure).get_or_insert(error);
        }
    }

    /// Waits until what was written is durable, so that it can be counted.
    pub fn settle(&self) -> Result<()> {
        self.close(PackKind::Chunks)?;
        self.close(PackKind::Nodes)?;
        while self.unwritten.load(Ordering::Acquire) > 0 {
            self.check()?;
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        Ok(())
    }

    /// Bytes of objects that were new, and the bytes of packs that they became.
    pub fn bytes(&self) -> (u64, u64) {
        (self.raw_bytes.load(Ordering::Relaxed), self.stored_bytes.load(Ordering::Relaxed))
    }

    /// What stopped the writing, if anything did.
    pub fn check(&self) -> Result<()> {
        // It stays there, with its cause, for whoever ends the writing.
        match &*lock(&self.failure) {
            Some(error) => {
                Err(Error { kind: error.kind, message: error.message.clone(), hint: error.hint.clone(), cause: None })
            }
            None => Ok(()),
        }
    }

    /// Whether the caller is to write this object: nobody has it, and nobody else of this writer does.
    pub fn claim(&self, name: &Name) -> Result<bool> {
        if lock(&self.claimed).contains(name) || self.store.has(name)? {
            return Ok(false);
        }
        Ok(lock(&self.claimed).insert(*name))
    }

    /// Whether the object is there, or is on its way there; a list: with all below it.
    pub fn has(&self, name: &Name) -> Result<bool> {
        Ok(lock(&self.claimed).contains(name) || self.store.has(name)?)
    }

    fn open(&self, kind: PackKind) -> &Mutex<OpenPack> {
        match kind {
            PackKind::Chunks => &self.chunks,
            PackKind::Nodes => &self.nodes,
        }
    }

    fn add(&self, kind: PackKind, stored: &[u8], objects: &[(Name, u32)]) -> Result<()> {
        self.check()?;
        let full = {
            let mut open = lock(self.open(kind));
            open.add(stored, objects);
            match open.is_full() {
                true => Some(std::mem::replace(&mut *open, OpenPack::new(kind, self.store.is_sealed()))),
                false => None,
            }
        };
        full.map_or(Ok(()), |full| self.send(full))
    }

    fn close(&self, kind: PackKind) -> Result<()> {
        let open = std::mem::replace(&mut *lock(self.open(kind)), OpenPack::new(kind, self.store.is_sealed()));
        if open.is_empty() { Ok(()) } else { self.send(open) }
    }

    fn send(&self, pack: OpenPack) -> Result<()> {
        let packed = pack.close(self.store.key.as_ref())?;
        let full = lock(&self.full).clone();
        self.unwritten.fetch_add(1, Ordering::Relaxed);
        let sent = full.is_some_and(|full| full.send(packed).is_ok());
        if sent { Ok(()) } else { Err(Error::failed("the store's writers have stopped")) }
    }

    fn write_pack(&self, packed: Packed) -> Result<()> {
        if lock(&self.failure).is_some() {
            return Ok(());
        }
        let store = self.store;
        let Packed { name, kind, bytes, mut entries } = packed;
        let path = pack::path_of(name);
        store.place.put(&path, &bytes).map_err(|cause| store.place_error("a pack cannot be written", cause))?;
        if store.place.is_remote() && kind == PackKind::Nodes {
            let kept = super::place::put_durably(&store.cache.join(&path), &bytes);
            kept.map_err(|cause| Error::io("a pack cannot be kept in the store's cache", cause))?;
        }
        fault!("store.pack_written", "after a pack");
        self.stored_bytes.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        let full = {
            let mut ready = lock(&self.ready);
            let (packs, waiting) = match kind {
                PackKind::Chunks => &mut ready.chunks,
                PackKind::Nodes => &mut ready.nodes,
            };
            let number = packs.len() as u32;
            packs.push(Pack { name, len: bytes.len() as u64, kind });
            entries.iter_mut().for_each(|entry| entry.pack = number);
            waiting.append(&mut entries);
            match self.learns && kind == PackKind::Chunks && waiting.len() >= WAITING {
                true => Some((std::mem::take(packs), std::mem::take(waiting))),
                false => None,
            }
        };
        let Some((packs, entries)) = full else { return Ok(()) };
        let names: Vec<Name> = entries.iter().map(|entry| entry.name).collect();
        store.learn(packs, entries)?;
        let mut claimed = lock(&self.claimed);
        for name in names {
            claimed.remove(&name);
        }
        Ok(())
    }
}

/// Objects that are to be compressed together, in the hands of one thread.
pub struct Group<'w, 's> {
    writer: &'w Writer<'s>,
    kind: PackKind,
    framer: Framer<'s>,
    raw: Vec<u8>,
    objects: Vec<(Name, u32)>,
}

impl<'w, 's> Group<'w, 's> {
    pub fn new(writer: &'w Writer<'s>, kind: PackKind) -> Result<Group<'w, 's>> {
        let framer = Framer::new(writer.store.key.as_ref())?;
        Ok(Group { writer, kind, framer, raw: Vec::new(), objects: Vec::new() })
    }

    /// Adds an object, if the store lacks it.
    pub fn put(&mut self, name: Name, bytes: &[u8]) -> Result<()> {
        if bytes.is_empty() || !self.writer.claim(&name)? {
            return Ok(());
        }
        self.put_again(name, bytes)
    }

    /// Adds an object, whether the store has it or not.
    pub fn put_again(&mut self, name: Name, bytes: &[u8]) -> Result<()> {
        self.raw.extend_from_slice(bytes);
        self.objects.push((name, bytes.len() as u32));
        if self.raw.len() >= FRAME_BYTES { self.flush() } else { Ok(()) }
    }

    pub fn flush(&mut self) -> Result<()> {
        if self.objects.is_empty() {
            return Ok(());
        }
        self.writer.raw_bytes.fetch_add(self.raw.len() as u64, Ordering::Relaxed);
        let stored = self.framer.frame(&self.raw)?;
        self.writer.add(self.kind, &stored, &self.objects)?;
        self.raw.clear();
        self.objects.clear();
        Ok(())
    }
}

impl Store {
    /// From here on there may be packs that the index does not know.
    pub(super) fn begin_unsure(&self) -> Result<()> {
        let mut writers = lock(&self.writers);
        if *writers == 0 {
            let put = super::place::put_durably(&self.cache.join(UNSURE), b"");
            put.map_err(|cause| self.index_error(cause))?;
        }
        *writers += 1;
        Ok(())
    }

    /// A writer has left nothing that the index does not know.
    pub(super) fn end_unsure(&self) -> Result<()> {
        let mut writers = lock(&self.writers);
        *writers -= 1;
        if *writers > 0 {
            return Ok(());
        }
        std::fs::remove_file(self.cache.join(UNSURE)).map_err(|cause| self.index_error(cause))
    }

    /// Lists that were written anew are whole again.
    fn healed(&self, written: &Names) -> Result<()> {
        if read_lock(&self.hurt).iter().all(|name| !written.contains(name)) {
            return Ok(());
        }
        write_lock(&self.hurt).retain(|name| !written.contains(name));
        self.save_hurt()
    }

    const HURT: &str = "hurt";

    pub(super) fn save_hurt(&self) -> Result<()> {
        let bytes: Vec<u8> = read_lock(&self.hurt).iter().flat_map(|name| name.0).collect();
        let saved = super::place::put_durably(&self.cache.join(Store::HURT), &bytes);
        saved.map_err(|cause| self.index_error(cause))
    }

    pub(super) fn read_hurt(&self) -> Result<HashSet<Name>> {
        match std::fs::read(self.cache.join(Store::HURT)) {
            Ok(bytes) => Ok(Bytes::from(bytes).chunks_exact(32).filter_map(Name::from_slice).collect()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(HashSet::new()),
            Err(cause) => Err(self.index_error(cause)),
        }
    }
}
