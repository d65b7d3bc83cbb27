//! Chunk lists and ranges, for a target that has another version of a file.

use std::collections::HashSet;
use std::os::unix::fs::FileExt;
use std::sync::atomic::Ordering;

use super::{BATCH_BYTES, Source, Stop, index_error, read_lock, tell, told};
use crate::model::name::Short;
use crate::model::{Error, Name};
use crate::tree::chunk::MAX;
use crate::tree::entry::EntryKind;
use crate::tree::link::{ChunkNode, ChunkRef, FileState, NeedRange, SentRange, Tell};
use crate::tree::node::chunk_leaves;
use crate::tree::view::Item;

/// Side of the blocks in which a changed chunk is compared with what the target has.
pub const BLOCK: u64 = 4096;

impl Source {
    /// Tells the chunk list of a file as it was scanned, less the nodes the target has.
    pub fn chunk_list(&self, dir: u32, entry: u32, have: &[Short]) -> Result<(), Stop> {
        let items = self.items(dir)?;
        let item = items
            .get(entry as usize)
            .filter(|item| matches!(item.entry.kind, EntryKind::File { .. }))
            .ok_or_else(|| Error::failed("the target asked for the chunks of what is no file"))?;
        let have: HashSet<Short> = have.iter().copied().collect();
        if item.list.is_some() {
            let view = read_lock(&self.view);
            let chunks = view.records.all_chunks(item.list).map_err(|cause| index_error(&cause))?;
            drop(view);
            let mut nodes = Vec::new();
            let mut rest = &chunks[..];
            chunk_leaves(&chunks, |name, count| {
                let (leaf, after) = rest.split_at(count);
                rest = after;
                nodes.push(match have.contains(&name.short()) {
                    true => ChunkNode::Have(name.short()),
                    false => ChunkNode::Raw(leaf.to_vec()),
                });
            });
            for part in nodes.chunks(64) {
                tell(&self.tell, Tell::Chunks { dir, entry, nodes: part.to_vec() })?;
            }
        } else if let EntryKind::File { size, content } = item.entry.kind
            && size > 0
        {
            let node = ChunkNode::Raw(vec![ChunkRef { name: content, len: size as u32 }]);
            tell(&self.tell, Tell::Chunks { dir, entry, nodes: vec![node] })?;
        }
        let sparse = self.is_sparse(dir, item);
        tell(&self.tell, Tell::ChunksEnd(told(dir, entry, &item.entry, item, item.entry.size(), sparse, FileState::Ok)))
    }

    fn is_sparse(&self, dir: u32, item: &Item) -> bool {
        let path = read_lock(&self.view).path(dir);
        let open = self.root.open_beneath(&path);
        open.is_ok_and(|open| open.stat(&item.entry.name).is_ok_and(|stat| crate::sys::meta::has_holes(&stat)))
    }

    /// Tells ranges of a big file, each just so far as the target's blocks differ.
    pub fn need(&self, dir: u32, entry: u32, ranges: &[NeedRange]) -> Result<(), Stop> {
        let items = self.items(dir)?;
        let path = read_lock(&self.view).path(dir);
        let name = items.get(entry as usize).map(|item| item.entry.name.clone());
        let file = name.and_then(|name| self.root.open_beneath(&path).and_then(|open| open.read(&name)).ok());
        let (mut sent, mut data, mut first) = (Vec::new(), Vec::new(), 0u32);
        let mut buffer = Vec::new();
        for (number, range) in ranges.iter().enumerate() {
            if range.len as usize > MAX {
                return Err(Error::failed("the target asked for a range that is no chunk").into());
            }
            buffer.resize(range.len as usize, 0);
            let read = file.as_ref().is_some_and(|file| file.read_exact_at(&mut buffer, range.offset).is_ok());
            self.counters.bytes_read.fetch_add(u64::from(range.len), Ordering::Relaxed);
            sent.push(match read {
                true => send_range(range, &buffer, &mut data),
                false => SentRange::Lost,
            });
            if data.len() as u64 >= BATCH_BYTES || number + 1 == ranges.len() {
                self.pace.spend(data.len() as u64);
                let ranges = std::mem::take(&mut sent);
                tell(&self.tell, Tell::Ranges { dir, entry, first, ranges, data: std::mem::take(&mut data).into() })?;
                first = number as u32 + 1;
            }
        }
        Ok(())
    }
}

/// Appends to `data` what the target lacks of a range, and says what that is.
fn send_range(range: &NeedRange, bytes: &[u8], data: &mut Vec<u8>) -> SentRange {
    let blocks: Vec<_> = blocks_of(range.offset, range.len).collect();
    if range.blocks.len() != blocks.len() {
        data.extend_from_slice(bytes);
        return SentRange::Whole;
    }
    let mut differing = Vec::new();
    for (number, (block, theirs)) in blocks.iter().zip(&range.blocks).enumerate() {
        if block_sum(&bytes[block.clone()]) != *theirs {
            data.extend_from_slice(&bytes[block.clone()]);
            differing.push(number as u32);
        }
    }
    SentRange::Blocks(differing)
}

/// The blocks of the file that a range touches, as parts of the range.
pub fn blocks_of(offset: u64, len: u32) -> impl Iterator<Item = std::ops::Range<usize>> {
    let lead = ((BLOCK - offset % BLOCK) % BLOCK) as usize;
    let len = len as usize;
    let starts = (lead.min(len) > 0).then_some(0).into_iter().chain((lead..len).step_by(BLOCK as usize));
    starts.map(move |start| {
        let end = if start < lead { lead } else { start + BLOCK as usize };
        start..end.min(len)
    })
}

/// What tells two blocks apart. Short, since the chunk is verified whole when it has been put together.
pub fn block_sum(block: &[u8]) -> u64 {
    Name::of(block).prefix()
}
