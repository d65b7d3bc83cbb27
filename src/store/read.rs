//! Objects back out of their packs, each checked against its name.

use std::fs::File;
use std::io::{ErrorKind, Result as IoResult};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use bytes::Bytes;

use super::index::{Hit, Pack};
use super::pack::{self, NODE_MAX, PackKind};
use super::place::Place;
use super::{Store, lock};
use crate::model::{Error, Kind, Name, Result};
use crate::tree::chunk::MAX;
use crate::tree::entry::Entry;
use crate::tree::link::ChunkRef;
use crate::tree::node::{ListKind, decode_chunks, decode_entries, decode_upper};

/// How often an object is looked up again when its pack has just gone: it was moved to another one.
const TRIES: u32 = 3;
/// What is fetched of a bucket in one go, where more than one frame may be wanted.
const WINDOW: u64 = 2 << 20;
/// The deepest list: each level has 32 items a node at least.
const LEVELS: u8 = 16;

impl Store {
    /// An object's bytes.
    pub fn object(&self, name: &Name, kind: PackKind) -> Result<Bytes> {
        for attempt in 1.. {
            let Some(hit) = self.find(name)? else {
                return Err(lost(format!("the store {} has lost {name}", self.label())));
            };
            match self.frame(&hit) {
                Ok(frame) => {
                    let (at, len) = (hit.entry.at as usize, hit.entry.len as usize);
                    let bytes = frame.filter(|frame| frame.len() >= at + len).map(|frame| frame.slice(at..at + len));
                    if let Some(bytes) = bytes.filter(|bytes| kind.name_of(bytes) == *name) {
                        return Ok(bytes);
                    }
                    // What is kept here of a bucket may be what is damaged, not the bucket.
                    if !self.place.is_remote() || attempt >= TRIES {
                        return Err(lost(format!("{name} in {} is damaged", pack::path_of(hit.pack.name))));
                    }
                    self.forget_frame(&hit);
                }
                Err(error) if error.kind() == ErrorKind::NotFound && attempt < TRIES => {}
                Err(error) if error.kind() == ErrorKind::UnexpectedEof && self.place.is_remote() && attempt < TRIES => {
                    self.forget_frame(&hit);
                }
                Err(error) if error.kind() == ErrorKind::InvalidData => {
                    return Err(lost(format!("{name} cannot be read from the store {}", self.label())).because(error));
                }
                Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::UnexpectedEof) => {
                    let path = pack::path_of(hit.pack.name);
                    return Err(lost(format!("{path} of the store {} is gone or cut off", self.label())));
                }
                Err(cause) => return Err(self.place_error(&format!("{name} cannot be read"), cause)),
            }
        }
        unreachable!("the last try returns")
    }

    fn forget_frame(&self, hit: &Hit) {
        lock(&self.frames).remove(&(hit.pack.name, hit.entry.offset));
        lock(&self.windows).clear();
        self.forget(&[hit.pack.name]);
    }

    /// The unpacked frame; `None` if it is damaged.
    fn frame(&self, hit: &Hit) -> IoResult<Option<Bytes>> {
        let id = (hit.pack.name, hit.entry.offset);
        if let Some(frame) = lock(&self.frames).get(&id) {
            return Ok(Some(frame));
        }
        if !pack::is_plausible(hit.entry.stored) {
            return Ok(None);
        }
        let stored = self.stored(&hit.pack, hit.entry.offset.into(), hit.entry.stored.into())?;
        let Some(raw) = pack::unframe(&stored, self.key.as_ref()) else { return Ok(None) };
        let frame = Bytes::from(raw);
        lock(&self.frames).put(id, frame.clone());
        Ok(Some(frame))
    }

    /// Bytes of a pack as they are stored.
    pub(super) fn stored(&self, pack: &Pack, offset: u64, len: u64) -> IoResult<Bytes> {
        let path = pack::path_of(pack.name);
        let kept = match (&self.place, pack.kind) {
            (Place::Folder(dir), _) => Some(dir.join(&path)),
            // What a walk reads is kept here: it is little, and read again and again.
            (Place::Bucket(_), PackKind::Nodes) => {
                let kept = self.cache.join(&path);
                if !kept.exists() {
                    super::place::put_durably(&kept, &self.whole(pack, &path)?)?;
                }
                Some(kept)
            }
            (Place::Bucket(_), PackKind::Chunks) => None,
        };
        let Some(kept) = kept else { return self.window(pack, &path, offset, len) };
        let opened = lock(&self.files).get(&pack.name);
        let file = match opened {
            Some(file) => file,
            None => {
                let file = Arc::new(File::open(kept)?);
                lock(&self.files).put(pack.name, file.clone());
                file
            }
        };
        let mut bytes = vec![0; len as usize];
        file.read_exact_at(&mut bytes, offset)?;
        Ok(bytes.into())
    }

    /// All of a pack, as long as the index says, and what its name says. Who can write to the bucket can put anything there.
    fn whole(&self, pack: &Pack, path: &str) -> IoResult<Bytes> {
        let wrong = |why: &str| Error::new(Kind::Corrupt, format!("{path} in the bucket {why}"));
        if pack.len > pack::LONGEST {
            return Err(std::io::Error::new(ErrorKind::InvalidData, wrong("is longer than any pack")));
        }
        let bytes = self.place.get(path, Some((0, pack.len)))?;
        match Name::of(&bytes) == pack.name {
            true => Ok(bytes),
            false => Err(std::io::Error::new(ErrorKind::InvalidData, wrong("is not what its name says"))),
        }
    }

    /// From a bucket: more than is asked for, since what lies behind is most often wanted next.
    fn window(&self, pack: &Pack, path: &str, offset: u64, len: u64) -> IoResult<Bytes> {
        let start = offset / WINDOW * WINDOW;
        if offset + len > start + 2 * WINDOW {
            return self.place.get(path, Some((offset, len)));
        }
        let part = |start: u64| -> IoResult<Bytes> {
            let id = (pack.name, start);
            if let Some(window) = lock(&self.windows).get(&id) {
                return Ok(window);
            }
            let window = self.place.get(path, Some((start, WINDOW.min(pack.len.saturating_sub(start)))))?;
            lock(&self.windows).put(id, window.clone());
            Ok(window)
        };
        let first = part(start)?;
        let (from, to) = ((offset - start) as usize, (offset + len - start) as usize);
        if to <= first.len() {
            return Ok(first.slice(from..to));
        }
        let second = part(start + WINDOW)?;
        let joined = [&first[from.min(first.len())..], &second[..(to - first.len()).min(second.len())]].concat();
        if joined.len() as u64 == len { Ok(joined.into()) } else { Err(ErrorKind::UnexpectedEof.into()) }
    }

    /// Forgets what was read of packs that are gone.
    pub(super) fn forget(&self, packs: &[Name]) {
        let mut files = lock(&self.files);
        packs.iter().for_each(|pack| files.remove(pack));
        if self.place.is_remote() {
            for pack in packs {
                let _ = std::fs::remove_file(self.cache.join(pack::path_of(*pack)));
            }
        }
    }

    /// A list node.
    pub fn node(&self, name: &Name) -> Result<Bytes> {
        self.object(name, PackKind::Nodes)
    }

    /// Hands out the leaves of a list, in order.
    pub fn each_leaf(
        &self,
        list: &Name,
        kind: ListKind,
        mut each: impl FnMut(Name, Bytes) -> Result<()>,
    ) -> Result<()> {
        // The names still to be read, the next one last, each with the level it has to be on.
        let mut ahead: Vec<(Name, Option<u8>)> = vec![(*list, None)];
        while let Some((name, expected)) = ahead.pop() {
            let bytes = self.node(&name)?;
            let node = decode_upper(kind, &bytes)
                .filter(|(level, _)| *level < LEVELS && expected.is_none_or(|expected| *level == expected));
            let Some((level, names)) = node else {
                return Err(lost(format!("the list {list} in the store {} makes no sense", self.label())));
            };
            match level.checked_sub(1) {
                None => each(name, bytes)?,
                Some(below) => ahead.extend(names.into_iter().rev().map(|name| (name, Some(below)))),
            }
        }
        Ok(())
    }

    /// The entries of a directory, by the name of its list.
    pub fn entries(&self, list: &Name) -> Result<Vec<Entry>> {
        let mut all = Vec::new();
        self.each_leaf(list, ListKind::Entries, |_, bytes| {
            let part = decode_entries(&bytes);
            all.extend(part.ok_or_else(|| lost(format!("the folder {list} in the store makes no sense")))?);
            Ok(())
        })?;
        Ok(all)
    }

    /// The chunks of a file's content.
    pub fn chunks(&self, content: &Name, size: u64) -> Result<Vec<ChunkRef>> {
        if size == 0 {
            return Ok(Vec::new());
        }
        if size <= MAX as u64 {
            return Ok(vec![ChunkRef { name: *content, len: size as u32 }]);
        }
        let mut all = Vec::new();
        self.each_leaf(content, ListKind::Chunks, |_, bytes| {
            let part = decode_chunks(&bytes);
            all.extend(part.ok_or_else(|| lost(format!("the chunk list {content} in the store makes no sense")))?);
            Ok(())
        })?;
        if all.iter().map(|chunk| u64::from(chunk.len)).sum::<u64>() != size {
            return Err(lost(format!("the chunk list {content} in the store is not as long as its file")));
        }
        Ok(all)
    }

    /// A chunk's bytes.
    pub fn chunk(&self, chunk: &ChunkRef) -> Result<Bytes> {
        let bytes = self.object(&chunk.name, PackKind::Chunks)?;
        if bytes.len() != chunk.len as usize {
            return Err(lost(format!("{} in the store is not as long as it should be", chunk.name)));
        }
        Ok(bytes)
    }
}

const _: () = assert!(NODE_MAX > MAX);

fn lost(message: String) -> Error {
    Error::new(Kind::Corrupt, message)
        .hint("`mcloud snapshot verify` says what is hurt; the next snapshot puts back what it still finds")
}
