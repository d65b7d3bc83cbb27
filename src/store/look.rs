//! A volume of a snapshot that is looked at.
//!
//! A handle says what the entry is made of: its number, of a file or a directory the content's name, and where its holes are told; so nothing
//! has to be remembered between two looks, or after a restart. All volumes of a host share one store, so a handle also proves that it was
//! given out for this volume: its last bytes are a keyed hash of the others.

use std::collections::{HashMap, VecDeque};
use std::ops::Range;
use std::sync::{Arc, LazyLock, Mutex};

use bytes::Bytes;

use super::holes::{self, Holes, Map};
use super::snapshot::Volume;
use super::{Pin, Store, lock};
use crate::model::{Error, Kind, Name, Result, shown};
use crate::tree::chunk::MAX;
use crate::tree::entry::{Entry, EntryKind, put, take, take_name};
use crate::tree::link::ChunkRef;
use crate::tree::look::{
    Handle, LIST_BYTES, LIST_ENTRIES, Listing, Look, Piece, ROOT_ID, Seen, Slice, id_below, id_of,
};

/// Entries of directories, and chunks of files, that are kept unpacked; what was used last is, however large.
const KEPT_ENTRIES: usize = 50_000;
const KEPT_CHUNKS: usize = 200_000;
const KEPT_HOLES: usize = 200_000;
/// Of larger files it is not added up how much of them is holes, where the snapshot does not say.
const COUNTED_BYTES: u64 = 4 << 30;
/// Holes that turn out to be none are passed over so many at a time.
const DOUBTED: usize = 64;
const PROOF: usize = 16;

/// The chunk that a long run of zeros is cut into.
static ZEROS: LazyLock<Name> = LazyLock::new(|| Name::of(&[0; MAX]));

/// A volume of a snapshot that stays readable while this lives.
pub struct Shown {
    store: Arc<Store>,
    root: Entry,
    holes: Holes,
    /// Proves handles.
    key: [u8; 32],
    /// How many further names files have, by the number of the first.
    links: HashMap<u64, u32>,
    dirs: Mutex<Kept<Vec<Entry>>>,
    lists: Mutex<Kept<Chunks>>,
    maps: Mutex<Kept<Vec<Range<u64>>>>,
    _pin: Arc<Pin>,
}

/// The chunks of a file with their places in it.
struct Chunks(Vec<Chunk>);

struct Chunk {
    start: u64,
    chunk: ChunkRef,
    /// All zeros, as a hole is.
    hole: bool,
}

/// A directory that is looked into.
struct Folder {
    id: u64,
    entries: Arc<Vec<Entry>>,
    /// The same directory in the tree of holes; `None`: no file in it or below has any, or that is not known.
    holes: Option<Arc<Vec<Entry>>>,
}

/// What a handle says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Named {
    /// `holes`: the list of the same directory in the tree of holes.
    Dir {
        id: u64,
        list: Name,
        holes: Option<Name>,
    },
    File {
        size: u64,
        content: Name,
        map: Option<Map>,
    },
    Other {
        id: u64,
    },
}

impl Shown {
    /// Looks at a volume. `secret` is this host's; with it handles mean the same after a restart. Reads all directories once, for the names of
    /// files that have several.
    pub fn of(store: Arc<Store>, volume: &Volume, pin: Arc<Pin>, secret: &[u8]) -> Result<Shown> {
        let root = volume.root.clone();
        let mut encoded = Vec::new();
        root.encode(&mut encoded);
        let key = blake3::derive_key("mcloud handle of a snapshot's entry", &[secret, &encoded].concat());
        let links = further_names(&store, volume.content())?;
        let (dirs, lists) = (Mutex::new(Kept::up_to(KEPT_ENTRIES)), Mutex::new(Kept::up_to(KEPT_CHUNKS)));
        let maps = Mutex::new(Kept::up_to(KEPT_HOLES));
        Ok(Shown { store, root, holes: volume.holes, key, links, dirs, lists, maps, _pin: pin })
    }

    fn handle(&self, named: &Named) -> Handle {
        let mut bytes = Vec::with_capacity(1 + 8 + 64 + PROOF);
        match named {
            Named::Dir { id, list, holes } => {
                bytes.push(if holes.is_some() { 4 } else { 1 });
                bytes.extend_from_slice(&id.to_le_bytes());
                bytes.extend_from_slice(&list.0);
                holes.iter().for_each(|list| bytes.extend_from_slice(&list.0));
            }
            Named::File { size, content, map } => {
                bytes.push(if map.is_some() { 5 } else { 2 });
                put(&mut bytes, *size);
                bytes.extend_from_slice(&content.0);
                if let Some(map) = map {
                    put(&mut bytes, map.len);
                    bytes.extend_from_slice(&map.content.0);
                }
            }
            Named::Other { id } => {
                bytes.push(3);
                bytes.extend_from_slice(&id.to_le_bytes());
            }
        }
        let proof = blake3::keyed_hash(&self.key, &bytes);
        bytes.extend_from_slice(&proof.as_bytes()[..PROOF]);
        Handle(bytes.into())
    }

    fn named(&self, handle: &Handle) -> Result<Named> {
        let parse = || {
            let (said, proof) = handle.0.split_last_chunk::<PROOF>()?;
            let whole = blake3::keyed_hash(&self.key, said);
            // Compared in the time of one comparison, whatever they are.
            let differs = whole.as_bytes().iter().zip(proof).fold(0, |all, (one, other)| all | (one ^ other));
            if differs != 0 {
                return None;
            }
            let (tag, mut rest) = said.split_first()?;
            let id = |rest: &mut &[u8]| {
                let (id, after) = rest.split_first_chunk::<8>()?;
                *rest = after;
                Some(u64::from_le_bytes(*id))
            };
            match tag {
                1 => Some(Named::Dir { id: id(&mut rest)?, list: take_name(&mut rest)?, holes: None }),
                2 => Some(Named::File { size: take(&mut rest)?, content: take_name(&mut rest)?, map: None }),
                3 => Some(Named::Other { id: id(&mut rest)? }),
                4 => {
                    let (id, list) = (id(&mut rest)?, take_name(&mut rest)?);
                    Some(Named::Dir { id, list, holes: Some(take_name(&mut rest)?) })
                }
                5 => {
                    let (size, content) = (take(&mut rest)?, take_name(&mut rest)?);
                    let map = Map { len: take(&mut rest)?, content: take_name(&mut rest)? };
                    Some(Named::File { size, content, map: Some(map) })
                }
                _ => None,
            }
        };
        parse().ok_or_else(|| Error::new(Kind::NotFound, "this is no entry of this snapshot"))
    }

    fn dir(&self, handle: &Handle) -> Result<Folder> {
        match self.named(handle)? {
            Named::Dir { id, list, holes } => {
                Ok(Folder { id, entries: self.entries(&list)?, holes: self.beside(holes)? })
            }
            _ => Err(Error::new(Kind::NotFound, "this is no directory")),
        }
    }

    /// A directory of the tree of holes.
    fn beside(&self, list: Option<Name>) -> Result<Option<Arc<Vec<Entry>>>> {
        list.map_or(Ok(None), |list| holes::or_lost(self.entries(&list)))
    }

    fn entries(&self, list: &Name) -> Result<Arc<Vec<Entry>>> {
        if let Some(entries) = lock(&self.dirs).get(list) {
            return Ok(entries);
        }
        let entries = Arc::new(self.store.entries(list)?);
        lock(&self.dirs).put(*list, &entries, entries.len());
        Ok(entries)
    }

    fn chunks(&self, content: &Name, size: u64) -> Result<Arc<Chunks>> {
        if size <= MAX as u64 {
            return Ok(Arc::new(Chunks::of(&self.store.chunks(content, size)?)));
        }
        if let Some(chunks) = lock(&self.lists).get(content) {
            return Ok(chunks);
        }
        let chunks = Arc::new(Chunks::of(&self.store.chunks(content, size)?));
        lock(&self.lists).put(*content, &chunks, chunks.0.len());
        Ok(chunks)
    }

    /// The entry at a path, and the map of its holes.
    fn at(&self, path: &[u8]) -> Result<(Entry, Option<Map>)> {
        let lost = || {
            let path = shown::path(path);
            Error::new(Kind::Corrupt, format!("the snapshot has a further name of `{path}`, and not that itself"))
        };
        let (mut at, mut holes, mut map) = (self.root.clone(), self.holes.list(), None);
        for name in path.split(|byte| *byte == b'/') {
            let EntryKind::Dir { content } = at.kind else { return Err(lost()) };
            let entries = self.entries(&content)?;
            let place = entries.binary_search_by(|entry| (*entry.name).cmp(name)).map_err(|_| lost())?;
            at = entries[place].clone();
            (holes, map) = self.beside(holes)?.map_or((None, None), |beside| holes::below(&beside, name));
        }
        Ok((at, map))
    }

    fn seen(&self, folder: &Folder, entry: &Entry) -> Result<Seen> {
        let mut entry = entry.clone();
        let mut id = id_below(folder.id, &entry.name);
        let beside = folder.holes.as_ref();
        let (holes, mut map) = beside.map_or((None, None), |beside| holes::below(beside, &entry.name));
        if let EntryKind::Link { first } = &entry.kind {
            id = id_of(first);
            let (file, own) = self.at(first)?;
            map = own;
            if matches!(file.kind, EntryKind::Link { .. } | EntryKind::Dir { .. }) {
                return Err(Error::new(Kind::Corrupt, "the snapshot has a further name of what is no file"));
            }
            entry = Entry { name: entry.name, ..file };
        }
        let links = self.links.get(&id).map_or(1, |further| further + 1);
        Ok(self.show(entry, id, links, (holes, map)))
    }

    fn show(&self, entry: Entry, id: u64, links: u32, (holes, map): (Option<Name>, Option<Map>)) -> Seen {
        let named = match entry.kind {
            EntryKind::Dir { content } => Named::Dir { id, list: content, holes },
            EntryKind::File { size, content } => Named::File { size, content, map },
            _ => Named::Other { id },
        };
        Seen {
            handle: self.handle(&named),
            id,
            version: None,
            links,
            disk_bytes: self.disk_bytes(&entry, map),
            changed: entry.meta.mtime,
            entry,
        }
    }

    /// A file's size without its holes, as far as that is cheap to know.
    fn disk_bytes(&self, entry: &Entry, map: Option<Map>) -> u64 {
        let EntryKind::File { size, content } = entry.kind else { return 0 };
        if self.holes != Holes::Unknown {
            // What cannot be read is told when it is asked for.
            let holes = map.and_then(|map| self.map(map, size).ok());
            return size - holes.map_or(0, |holes| holes.iter().map(|hole| hole.end - hole.start).sum());
        }
        if size <= MAX as u64 || size > COUNTED_BYTES {
            return size;
        }
        // What is damaged is told when it is read.
        let Ok(chunks) = self.chunks(&content, size) else { return size };
        chunks.0.iter().filter(|at| !at.hole).map(|at| u64::from(at.chunk.len)).sum()
    }

    fn map(&self, map: Map, size: u64) -> Result<Arc<Vec<Range<u64>>>> {
        let known = lock(&self.maps).get(&map.content);
        if let Some(holes) = known.filter(|holes| holes.last().is_none_or(|last| last.end <= size)) {
            return Ok(holes);
        }
        let holes = Arc::new(self.store.holes(map, size)?);
        lock(&self.maps).put(map.content, &holes, holes.len());
        Ok(holes)
    }

    /// The first range of data at or behind `offset` of a file with a map. What a map says is believed as far as the content agrees: the
    /// file may have changed between the two.
    fn mapped_data(&self, (size, content): (u64, Name), map: Map, offset: u64) -> Result<Option<Range<u64>>> {
        let Some(holes) = holes::or_lost(self.map(map, size))? else { return Ok(Some(offset..size)) };
        let chunks = self.chunks(&content, size)?;
        let mut at = offset;
        let mut ahead = holes[holes.partition_point(|hole| hole.end <= offset)..].iter();
        let mut behind = None;
        for hole in ahead.by_ref() {
            if hole.start > at {
                behind = Some(hole);
                break;
            }
            if !self.is_zeros(&chunks, at..hole.end)? {
                break;
            }
            at = hole.end;
        }
        if at >= size {
            return Ok(None);
        }
        for (doubted, hole) in behind.into_iter().chain(ahead).enumerate() {
            // Where it is given up the range ends early, and the next one goes on from there.
            if doubted == DOUBTED || self.is_zeros(&chunks, hole.clone())? {
                return Ok(Some(at..hole.start));
            }
        }
        Ok(Some(at..size))
    }

    /// Whether a range of a file is nothing but zeros. Of a long one, what is read is the chunks at its two ends.
    fn is_zeros(&self, chunks: &Chunks, range: Range<u64>) -> Result<bool> {
        for at in chunks.from(range.start).iter().take_while(|at| at.start < range.end).filter(|at| !at.hole) {
            let end = (range.end - at.start).min(at.chunk.len.into()) as usize;
            let bytes = self.store.chunk(&at.chunk)?;
            let inside = &bytes[range.start.saturating_sub(at.start) as usize..end];
            if inside.iter().any(|byte| *byte != 0) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn slice(&self, slice: &Slice) -> Result<Piece> {
        let Named::File { size, content, .. } = self.named(&slice.file)? else {
            return Err(Error::new(Kind::NotFound, "this is no file"));
        };
        let end = size.min(slice.offset.saturating_add(slice.len.into()));
        let mut pieces: Vec<Bytes> = Vec::new();
        let mut at = slice.offset;
        if at < end {
            let chunks = self.chunks(&content, size)?;
            for Chunk { start, chunk, .. } in chunks.from(at) {
                if *start >= end {
                    break;
                }
                let bytes = self.store.chunk(chunk)?;
                let from = (at - start) as usize;
                let to = (end - start).min(u64::from(chunk.len)) as usize;
                pieces.push(bytes.slice(from..to));
                at = start + to as u64;
            }
        }
        let data = if pieces.len() == 1 { pieces.remove(0) } else { pieces.concat().into() };
        Ok(Piece { data, version: None })
    }
}

impl Chunks {
    fn of(chunks: &[ChunkRef]) -> Chunks {
        let mut start = 0;
        let mut placed = Vec::with_capacity(chunks.len());
        for chunk in chunks {
            placed.push(Chunk { start, chunk: *chunk, hole: chunk.name == *ZEROS });
            start += u64::from(chunk.len);
        }
        // A hole at the end is cut where the file ends.
        if let [.., before, last] = &mut placed[..]
            && before.hole
        {
            let zeros = vec![0; (last.chunk.len as usize).min(MAX)];
            last.hole |= last.chunk.name == Name::of(&zeros);
        }
        Chunks(placed)
    }

    /// The chunk with this offset in it, and those behind.
    fn from(&self, offset: u64) -> &[Chunk] {
        let behind = self.0.partition_point(|at| at.start <= offset);
        &self.0[behind.saturating_sub(1)..]
    }
}

impl Look for Shown {
    fn root(&self) -> Result<Seen> {
        Ok(self.show(self.root.clone(), ROOT_ID, 1, (self.holes.list(), None)))
    }

    fn list(&self, dir: &Handle, after: Option<&[u8]>) -> Result<Listing> {
        let folder = self.dir(dir)?;
        let start = after.map_or(0, |after| folder.entries.partition_point(|entry| *entry.name <= *after));
        let mut listing = Listing::default();
        let mut bytes = 0;
        for entry in &folder.entries[start..] {
            if listing.entries.len() == LIST_ENTRIES || bytes >= LIST_BYTES {
                listing.more = true;
                break;
            }
            let seen = self.seen(&folder, entry)?;
            let xattrs: usize = seen.entry.meta.xattrs.iter().map(|(key, value)| key.len() + value.len()).sum();
            bytes += 160 + 2 * seen.entry.name.len() + xattrs;
            listing.entries.push(seen);
        }
        Ok(listing)
    }

    fn find(&self, dir: &Handle, name: &[u8]) -> Result<Option<Seen>> {
        let folder = self.dir(dir)?;
        let place = folder.entries.binary_search_by(|entry| (*entry.name).cmp(name));
        place.ok().map(|place| self.seen(&folder, &folder.entries[place])).transpose()
    }

    fn again(&self, _: &Handle) -> Result<Seen> {
        Err(Error::failed("what is in a snapshot does not change"))
    }

    fn read(&self, slices: &[Slice]) -> Vec<Result<Piece>> {
        slices.iter().map(|slice| self.slice(slice)).collect()
    }

    fn data(&self, file: &Handle, offset: u64) -> Result<Option<Range<u64>>> {
        let Named::File { size, content, map } = self.named(file)? else {
            return Err(Error::new(Kind::NotFound, "this is no file"));
        };
        if offset >= size {
            return Ok(None);
        }
        if self.holes != Holes::Unknown {
            return map.map_or(Ok(Some(offset..size)), |map| self.mapped_data((size, content), map, offset));
        }
        let chunks = self.chunks(&content, size)?;
        let mut data = chunks.from(offset).iter().skip_while(|at| at.hole);
        let Some(first) = data.next() else { return Ok(None) };
        let hole = data.find(|at| at.hole);
        Ok(Some(first.start.max(offset)..hole.map_or(size, |at| at.start)))
    }
}

/// Lists that were used lately, the last one at the end, so many items together.
struct Kept<T> {
    lists: VecDeque<(Name, Arc<T>, usize)>,
    room: usize,
}

impl<T> Kept<T> {
    fn up_to(room: usize) -> Kept<T> {
        Kept { lists: VecDeque::new(), room }
    }

    fn get(&mut self, name: &Name) -> Option<Arc<T>> {
        let at = self.lists.iter().rposition(|(kept, ..)| kept == name)?;
        let found = self.lists.remove(at)?;
        let list = found.1.clone();
        self.lists.push_back(found);
        Some(list)
    }

    fn put(&mut self, name: Name, list: &Arc<T>, items: usize) {
        self.lists.retain(|(kept, ..)| *kept != name);
        self.lists.push_back((name, list.clone(), items + 1));
        while self.lists.iter().map(|(.., items)| items).sum::<usize>() > self.room && self.lists.len() > 1 {
            self.lists.pop_front();
        }
    }
}

/// Counts the further names of files below a directory, by the number of the first.
fn further_names(store: &Store, list: Name) -> Result<HashMap<u64, u32>> {
    let mut links = HashMap::new();
    let mut ahead = vec![list];
    while let Some(list) = ahead.pop() {
        for entry in store.entries(&list)? {
            match entry.kind {
                EntryKind::Dir { content } => ahead.push(content),
                EntryKind::Link { first } => *links.entry(id_of(&first)).or_insert(0) += 1,
                _ => {}
            }
        }
    }
    Ok(links)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::FileExt;

    use super::super::tests::{open_store, take};
    use super::*;

    #[test]
    fn a_volume_is_shown_and_only_to_who_was_given_its_handles() {
        let dir = tempfile::tempdir().unwrap();
        let source = dir.path().join("source");
        fs::create_dir_all(source.join("b/deep")).unwrap();
        fs::write(source.join("b/deep/first"), "content").unwrap();
        fs::hard_link(source.join("b/deep/first"), source.join("c")).unwrap();
        let mut long = vec![0; 3 << 20];
        blake3::Hasher::new().finalize_xof().fill(&mut long[..1_000_000]);
        let file = fs::File::create(source.join("long")).unwrap();
        file.write_all_at(&long[..1_000_000], 0).unwrap();
        file.set_len(3 << 20).unwrap();
        let store = Arc::new(open_store(dir.path(), None));
        let (_, snapshot) = take(&store, &source, None, false).unwrap();
        let show = |secret: &[u8]| {
            let pin = Arc::new(store.pin(Vec::new()));
            Shown::of(store.clone(), &snapshot.volumes[0], pin, secret).unwrap()
        };
        let shown = show(b"secret");
        let root = shown.root().unwrap();
        let find = |path: &str| {
            let step = |at: Seen, name: &str| shown.find(&at.handle, name.as_bytes()).unwrap().unwrap();
            path.split('/').fold(root.clone(), step)
        };
        let (first, second, large) = (find("b/deep/first"), find("c"), find("long"));
        assert_eq!((first.id, first.links, &first.handle), (second.id, 2, &second.handle));
        assert_eq!(first.id, id_of(b"b/deep/first"));
        assert_eq!((&*second.entry.name, second.entry.size()), (&b"c"[..], 7));
        assert!(large.disk_bytes < 2 << 20 && large.disk_bytes >= 1_000_000, "{}", large.disk_bytes);
        let slice = |seen: &Seen, offset, len| Slice { file: seen.handle.clone(), offset, len };
        let read = shown.read(&[slice(&first, 3, 100), slice(&large, 700_001, 1 << 20), slice(&large, 9 << 20, 5)]);
        assert_eq!(read[0].as_ref().unwrap().data[..], b"tent"[..]);
        assert!(read[1].as_ref().unwrap().data[..] == long[700_001..700_001 + (1 << 20)]);
        assert!(read[2].as_ref().unwrap().data.is_empty());
        let data = shown.data(&large.handle, 0).unwrap().unwrap();
        assert!(data.start == 0 && (1_000_000..2 << 20).contains(&data.end), "{data:?}");
        assert_eq!(shown.data(&large.handle, data.end).unwrap(), None);
        assert_eq!(shown.list(&root.handle, Some(b"b")).unwrap().entries.len(), 2);

        // The same volume, opened again, takes them; any other, and any that was not given out, does not.
        assert_eq!(show(b"secret").find(&root.handle, b"c").unwrap(), Some(second));
        assert!(show(b"other").find(&root.handle, b"c").is_err());
        for at in 0..first.handle.0.len() {
            let mut forged = first.handle.0.to_vec();
            forged[at] ^= 1;
            let slices = [Slice { file: Handle(forged.into()), offset: 0, len: 9 }];
            assert_eq!(shown.read(&slices)[0].as_ref().unwrap_err().kind, Kind::NotFound, "byte {at}");
        }
        assert!(shown.list(&first.handle, None).is_err() && shown.find(&Handle::default(), b"c").is_err());
    }
}
