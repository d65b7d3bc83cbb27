//! One big file of which the target has something already: an older version at the same path, or pieces that an earlier
//! try left. The chunk lists are compared; only chunks that are nowhere here are asked for, and of those that replace
//! bytes at the same place just the 4 KiB blocks that differ (a database rewrites pages, not chunks).
//!
//! The new version is built in a staged file: a reflink of the old one where the file system can, else a copy. Where
//! neither is cheap, because the file is large and most of it stays in its place, only what changes is staged, to be
//! written into the old file by the commit ([`Pages`]).

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex};

use super::pages::Pages;
use super::place;
use super::receive::{OpenDir, Placed, Shared, lock, staging};
use super::source::{block_sum, blocks_of, index_error};
use super::talk::nonsense;
use crate::model::name::Short;
use crate::model::{Name, Result};
use crate::sys::copy::{reflink, write_sparse};
use crate::sys::dir::Dir;
use crate::sys::meta;
use crate::tree::chunk::MAX;
use crate::tree::entry::EntryKind;
use crate::tree::link::{ChunkNode, ChunkRef, FileItem, NeedRange, SentRange};
use crate::tree::node::{chunk_leaves, content_name};
use crate::tree::read::is_as_printed;
use crate::tree::records::Records;
use crate::tree::scan::keep_list;
use crate::tree::view::{Item, State, View};

/// From this size on a file may be changed in place.
const IN_PLACE_MIN: u64 = 64 << 20;

/// The target's older version of a file.
pub struct Basis {
    item: Item,
    file: Arc<File>,
    chunks: Vec<(ChunkRef, u64)>,
}

impl Basis {
    /// `None` if it is no longer what the scan found.
    pub fn open(root: &Dir, path: &[u8], item: Item, records: &Records) -> Result<Option<Basis>> {
        let Ok(file) = root.open_beneath(path).and_then(|dir| dir.read(&item.entry.name)) else { return Ok(None) };
        if !meta::stat_file(&file).is_ok_and(|stat| is_as_printed(&stat, &item)) {
            return Ok(None);
        }
        let list = match (item.list.is_some(), &item.entry.kind) {
            (true, _) => records.all_chunks(item.list).map_err(|cause| index_error(&cause))?,
            (false, EntryKind::File { size, content }) if *size > 0 => {
                vec![ChunkRef { name: *content, len: *size as u32 }]
            }
            _ => Vec::new(),
        };
        Ok(Some(Basis { item, file: Arc::new(file), chunks: with_offsets(list) }))
    }

    fn is_unchanged(&self) -> bool {
        meta::stat_file(&self.file).is_ok_and(|stat| is_as_printed(&stat, &self.item))
    }
}

fn with_offsets(list: Vec<ChunkRef>) -> Vec<(ChunkRef, u64)> {
    let mut offset = 0;
    let place = |chunk: ChunkRef| {
        offset += u64::from(chunk.len);
        (chunk, offset - u64::from(chunk.len))
    };
    list.into_iter().map(place).collect()
}

/// Leftover files kept open.
const LEFTOVERS_OPEN: usize = 16;

/// The chunks of big files that an earlier try staged in part. There may be any number of such files: each is opened when a
/// chunk of it is wanted.
#[derive(Default)]
pub struct Leftovers<'a> {
    /// The folder in which they lie, with its view.
    place: Option<(&'a View, &'a Dir)>,
    /// Folder and name.
    files: Vec<(u32, Box<[u8]>)>,
    /// By the first bytes of the chunk's name.
    chunks: HashMap<u64, (ChunkRef, u32, u64)>,
    /// Those that were used last, the latest at the end.
    open: Mutex<Vec<(u32, Arc<File>)>>,
}

impl<'a> Leftovers<'a> {
    pub fn of(view: &'a View, root: &'a Dir) -> Result<Leftovers<'a>> {
        let mut found = Leftovers { place: Some((view, root)), ..Leftovers::default() };
        for dir in 0..view.dirs.len() as u32 {
            for item in view.items(dir).map_err(|cause| index_error(&cause))?.iter().filter(|item| item.list.is_some())
            {
                let list = view.records.all_chunks(item.list).map_err(|cause| index_error(&cause))?;
                for (chunk, offset) in with_offsets(list) {
                    found.chunks.insert(chunk.name.prefix(), (chunk, found.files.len() as u32, offset));
                }
                found.files.push((dir, item.entry.name.clone()));
            }
        }
        Ok(found)
    }

    pub fn is_empty(&self) -> bool {
        self.chunks.is_empty()
    }

    /// A file that has this chunk, and where. `None`, too, where the file is there no more: it may have been taken whole.
    fn find(&self, chunk: &ChunkRef) -> Option<(Arc<File>, u64)> {
        let (_, file, offset) = self.chunks.get(&chunk.name.prefix()).filter(|(found, ..)| found == chunk)?;
        Some((self.file(*file)?, *offset))
    }

    fn file(&self, number: u32) -> Option<Arc<File>> {
        let mut open = lock(&self.open);
        if let Some(at) = open.iter().position(|(held, _)| *held == number) {
            let found = open.remove(at);
            let file = Arc::clone(&found.1);
            open.push(found);
            return Some(file);
        }
        let (view, root) = self.place?;
        let (dir, name) = &self.files[number as usize];
        let file = Arc::new(root.open_beneath(&view.path(*dir)).and_then(|folder| folder.read(name)).ok()?);
        if open.len() == LEFTOVERS_OPEN {
            open.remove(0);
        }
        open.push((number, Arc::clone(&file)));
        Some(file)
    }
}

pub struct Delta {
    basis: Option<Basis>,
    /// Of the new version.
    size: u64,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    /// The new version's chunks, as they are told.
    list: Vec<ChunkRef>,
    listed: u64,
    entry: u32,
    work: Option<Work>,
}

/// The building of the new version.
struct Work {
    item: Item,
    file: File,
    placed: Placed,
    pages: Option<Pages>,
    sparse: bool,
    /// The file began as a clone of the old version: what is not written over is that.
    cloned: bool,
    /// What was asked for, in order: the chunk and its place.
    needed: Vec<(ChunkRef, u64)>,
    left: usize,
    /// Something did not fit: the file is to be fetched whole.
    spoilt: bool,
}

/// A staged file in the making, and what is there before a chunk is written.
struct Build<'a> {
    file: &'a File,
    sparse: bool,
    /// It began as a clone of the old version: what is not written over is that.
    cloned: bool,
}

impl Build<'_> {
    /// Writes a chunk over whatever is there. Its zeros become holes where the file has holes at the source.
    fn write(&self, bytes: &[u8], at: u64) -> std::io::Result<()> {
        match self.sparse {
            true => write_sparse(self.file, bytes, at, !self.cloned),
            false => self.file.write_all_at(bytes, at),
        }
    }

    /// Takes a chunk from another file of this machine. False if what is there is not what the chunk's name says.
    fn copy(
        &self,
        from: &File,
        from_at: u64,
        chunk: &ChunkRef,
        at: u64,
        buffer: &mut Vec<u8>,
    ) -> std::io::Result<bool> {
        let is_chunk = place::read_chunk(from, from_at, chunk, buffer)?;
        if is_chunk {
            self.write(buffer, at)?;
        }
        Ok(is_chunk)
    }
}

/// Where a chunk of the new version is found.
enum Found {
    InPlace,
    Own(u64),
    Nowhere,
}

impl Delta {
    pub fn new(basis: Option<Basis>, size: u64) -> Delta {
        Delta { basis, size, inner: Mutex::default() }
    }

    /// The list nodes of the old version, by their half names.
    pub fn leaves(&self) -> Vec<Short> {
        self.leaf_ranges().into_keys().collect()
    }

    fn leaf_ranges(&self) -> HashMap<Short, Range<usize>> {
        let mut ranges = HashMap::new();
        if let Some(basis) = &self.basis {
            let list: Vec<ChunkRef> = basis.chunks.iter().map(|(chunk, _)| *chunk).collect();
            let mut at = 0;
            chunk_leaves(&list, |name, count| {
                ranges.insert(name.short(), at..at + count);
                at += count;
            });
        }
        ranges
    }

    /// Takes a part of the new version's chunk list.
    pub fn push(&self, nodes: Vec<ChunkNode>) -> Result<()> {
        let ranges = match nodes.iter().any(|node| matches!(node, ChunkNode::Have(_))) {
            true => self.leaf_ranges(),
            false => HashMap::new(),
        };
        let mut inner = lock(&self.inner);
        for node in nodes {
            let start = inner.list.len();
            match node {
                ChunkNode::Raw(chunks) => inner.list.extend(chunks),
                ChunkNode::Have(short) => {
                    let (Some(range), Some(basis)) = (ranges.get(&short), &self.basis) else {
                        return Err(nonsense("a chunk list node that the target does not have"));
                    };
                    inner.list.extend(basis.chunks[range.clone()].iter().map(|(chunk, _)| *chunk));
                }
            }
            let is_chunk = |chunk: &ChunkRef| chunk.len > 0 && chunk.len as usize <= MAX;
            if !inner.list[start..].iter().all(is_chunk) {
                return Err(nonsense("chunks of a length that none has"));
            }
            inner.listed += inner.list[start..].iter().map(|chunk| u64::from(chunk.len)).sum::<u64>();
            if inner.listed > self.size {
                return Err(nonsense("a chunk list that is longer than its file"));
            }
        }
        Ok(())
    }

    pub fn entry(&self) -> u32 {
        lock(&self.inner).entry
    }

    /// The whole list is here: decides how the file is built, puts in what is here, and says what has to come. `None` if
    /// the old version is no longer what it was.
    pub(super) fn plan(
        &self,
        shared: &Shared<'_>,
        open: &OpenDir,
        mut item: Item,
        told: FileItem,
    ) -> Result<Option<Vec<NeedRange>>> {
        let mut inner = lock(&self.inner);
        let list = std::mem::take(&mut inner.list);
        let size: u64 = list.iter().map(|chunk| u64::from(chunk.len)).sum();
        if content_name(&list) != told.content || size != told.len {
            return Err(nonsense("a chunk list that is not what its name says"));
        }
        let path = crate::tree::view::join(&open.path, &item.entry.name);
        let failed = |cause| staging(&path, cause);
        keep_list(&mut item, &list, &shared.records).map_err(|cause| index_error(&cause))?;
        let list = with_offsets(list);
        let found = self.locate(&list);
        let (file, placed) = shared.create(open, &item)?;
        let shares = match &self.basis {
            Some(basis) => reflink(&basis.file, &file).map_err(failed)?,
            None => false,
        };
        let pages = self.suits_in_place(&list, &found, size)
            && !shares
            && placed != Placed::There
            && self.may_be_written(shared, open);
        let build = Build { file: &file, sparse: told.sparse, cloned: shares };
        let mut needed = Vec::new();
        let mut buffer = Vec::new();
        for ((chunk, offset), found) in list.iter().zip(&found) {
            let from = match (found, &self.basis) {
                // A clone keeps it, and so does a file that is changed in place: as the index vouches for an unchanged file.
                (Found::InPlace, _) if pages || shares => {
                    shared.add_bytes_done(chunk.len.into());
                    continue;
                }
                (Found::InPlace, Some(basis)) => Some((Arc::clone(&basis.file), *offset)),
                (Found::Own(from), Some(basis)) if !pages => Some((Arc::clone(&basis.file), *from)),
                _ if pages => None,
                _ => shared.leftovers.find(chunk),
            };
            let is_here = match from {
                _ if !pages && place::is_zeros(chunk) => build.write(&place::ZEROS, *offset).map(|()| true),
                Some((from, at)) => build.copy(&from, at, chunk, *offset, &mut buffer),
                None => Ok(false),
            };
            match is_here.map_err(failed)? {
                true => shared.add_bytes_done(chunk.len.into()),
                false => needed.push((*chunk, *offset)),
            }
        }
        let mut ranges = Vec::with_capacity(needed.len());
        for (chunk, offset) in &needed {
            ranges.push(NeedRange { offset: *offset, len: chunk.len, blocks: self.own_blocks(*offset, chunk.len) });
        }
        inner.entry = told.entry;
        inner.work = Some(Work {
            item,
            file,
            placed,
            pages: pages.then(|| Pages { size, sparse: told.sparse, pieces: Vec::new(), end: 0 }),
            sparse: told.sparse,
            cloned: shares,
            left: needed.len(),
            needed,
            spoilt: false,
        });
        Ok(Some(ranges))
    }

    fn locate(&self, list: &[(ChunkRef, u64)]) -> Vec<Found> {
        let Some(basis) = &self.basis else { return list.iter().map(|_| Found::Nowhere).collect() };
        let in_place: HashSet<(Name, u64)> = basis.chunks.iter().map(|(chunk, offset)| (chunk.name, *offset)).collect();
        let anywhere: HashMap<Name, u64> = basis.chunks.iter().map(|(chunk, offset)| (chunk.name, *offset)).collect();
        list.iter()
            .map(|(chunk, offset)| match anywhere.get(&chunk.name) {
                _ if in_place.contains(&(chunk.name, *offset)) => Found::InPlace,
                Some(from) => Found::Own(*from),
                None => Found::Nowhere,
            })
            .collect()
    }

    /// Whether only pages change, in a file so large that copying it would cost more than changing it.
    fn suits_in_place(&self, list: &[(ChunkRef, u64)], found: &[Found], size: u64) -> bool {
        let Some(basis) = &self.basis else { return false };
        let stays: u64 = list
            .iter()
            .zip(found)
            .filter(|(_, found)| matches!(found, Found::InPlace))
            .map(|((chunk, _), _)| u64::from(chunk.len))
            .sum();
        let all_found_in_place = !found.iter().any(|found| matches!(found, Found::Own(_)));
        size >= IN_PLACE_MIN && basis.item.entry.size() >= IN_PLACE_MIN && stays * 2 >= size && all_found_in_place
    }

    /// Whether writing into the old version is allowed, and seen under no other name: that one may be outside of the tree.
    fn may_be_written(&self, shared: &Shared<'_>, open: &OpenDir) -> bool {
        let (Some(basis), Some(root)) = (&self.basis, shared.site.root) else { return false };
        let writable = root.open_beneath(&open.path).and_then(|dir| dir.write(&basis.item.entry.name));
        let single = meta::stat_file(&basis.file).is_ok_and(|stat| stat.st_nlink == 1);
        basis.item.print.trusted && single && writable.is_ok()
    }

    /// What the target has in the blocks of a range, if it has all of it.
    fn own_blocks(&self, offset: u64, len: u32) -> Vec<u64> {
        let Some(basis) = &self.basis else { return Vec::new() };
        let mut bytes = vec![0; len as usize];
        match basis.file.read_exact_at(&mut bytes, offset) {
            Ok(()) => blocks_of(offset, len).map(|block| block_sum(&bytes[block])).collect(),
            Err(_) => Vec::new(),
        }
    }

    /// Writes what came; true when it was the last.
    pub(super) fn write_ranges(
        &self,
        shared: &Shared<'_>,
        open: &OpenDir,
        first: u32,
        ranges: &[SentRange],
        data: &[u8],
    ) -> Result<bool> {
        let mut inner = lock(&self.inner);
        let Some(work) = &mut inner.work else { return Err(nonsense("ranges before their list")) };
        let path = crate::tree::view::join(&open.path, &work.item.entry.name);
        let mut rest = data;
        for (number, sent) in ranges.iter().enumerate() {
            let Some(&(chunk, offset)) = work.needed.get(first as usize + number) else {
                return Err(nonsense("ranges that were not asked for"));
            };
            let bytes = self.put_together(chunk, offset, sent, &mut rest)?;
            work.left = work.left.checked_sub(1).ok_or_else(|| nonsense("a range twice"))?;
            let Some(bytes) = bytes else {
                work.spoilt = true;
                continue;
            };
            let written = match &mut work.pages {
                Some(pages) => pages.add(&work.file, &bytes, offset),
                None => Build { file: &work.file, sparse: work.sparse, cloned: work.cloned }.write(&bytes, offset),
            };
            written.map_err(|cause| staging(&path, cause))?;
            shared.add_bytes_done(chunk.len.into());
        }
        Ok(work.left == 0)
    }

    /// The bytes of one chunk from what came and what is here; `None` if they are not what its name says.
    fn put_together(
        &self,
        chunk: ChunkRef,
        offset: u64,
        sent: &SentRange,
        rest: &mut &[u8],
    ) -> Result<Option<Vec<u8>>> {
        let mut next = |len: usize| {
            let (taken, after) = rest.split_at_checked(len).ok_or_else(|| nonsense("less content than it said"))?;
            *rest = after;
            Ok(taken)
        };
        let bytes = match sent {
            SentRange::Lost => return Ok(None),
            SentRange::Whole => next(chunk.len as usize)?.to_vec(),
            SentRange::Blocks(blocks) => {
                let mut bytes = vec![0; chunk.len as usize];
                let Some(basis) = &self.basis else { return Err(nonsense("blocks of a file that is not here")) };
                if basis.file.read_exact_at(&mut bytes, offset).is_err() {
                    bytes.fill(0);
                }
                let all: Vec<_> = blocks_of(offset, chunk.len).collect();
                for number in blocks {
                    let block =
                        all.get(*number as usize).cloned().ok_or_else(|| nonsense("a block outside its range"))?;
                    let len = block.len();
                    bytes[block].copy_from_slice(next(len)?);
                }
                bytes
            }
        };
        Ok((Name::of(&bytes) == chunk.name).then_some(bytes))
    }

    /// Ends the building; `None` if the file has to be fetched whole after all.
    pub(super) fn finish(&self, shared: &Shared<'_>, open: &OpenDir) -> Result<Option<Item>> {
        let mut inner = lock(&self.inner);
        let Some(work) = inner.work.take() else { return Err(nonsense("the end of a file that never began")) };
        let Work { mut item, file, placed, pages, sparse, spoilt, .. } = work;
        let changed = self.basis.as_ref().is_some_and(|basis| !basis.is_unchanged());
        if spoilt || changed {
            shared.discard(open, &item, placed)?;
            return Ok(None);
        }
        let path = crate::tree::view::join(&open.path, &item.entry.name);
        match pages {
            Some(pages) => {
                pages.seal(&file).map_err(|cause| staging(&path, cause))?;
                item.print.ino = self.basis.as_ref().map_or(0, |basis| basis.item.print.ino);
                item.state = State::Patched;
                item.slot = placed.slot();
            }
            None => {
                let size = item.entry.size();
                file.set_len(size).map_err(|cause| staging(&path, cause))?;
                let whole = if sparse { place::dig_holes(&file, size) } else { place::fill_holes(&file, size) };
                whole.map_err(|cause| staging(&path, cause))?;
                shared.dress(open, &file, &mut item, placed, true)?;
            }
        }
        Ok(Some(item))
    }
}
