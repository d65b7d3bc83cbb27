//! List nodes: long lists (of a directory's entries, of a file's chunks) cut at content-defined places into nodes, and
//! those again into lists of nodes, so that a small change changes few of them (docs/formats.md, List node).
//!
//! The same idea as content-defined chunking of bytes, applied to items; compare prolly trees (Noms, 2015).

use std::sync::LazyLock;

use super::entry::{Entry, put, take, take_name};
use super::link::ChunkRef;
use crate::model::Name;

/// Nodes are named in a space of their own: no file's bytes can pass for a node.
static NODE_KEY: LazyLock<[u8; 32]> = LazyLock::new(|| blake3::derive_key("mcloud v1 list node", b""));

/// A node has no fewer items (unless it is the last), no more, and is cut where six bits of an item's hash are zero.
const ITEMS_MIN: usize = 32;
const ITEMS_MAX: usize = 1024;
const CUT_MASK: u64 = 0x3f;

/// What a list is a list of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ListKind {
    Entries = 1,
    Chunks = 2,
}

/// The name of a node.
pub fn node_name(bytes: &[u8]) -> Name {
    Name(*blake3::keyed_hash(&NODE_KEY, bytes).as_bytes())
}

/// Builds a list bottom up, one item after the other, in memory bounded by the height of its tree.
pub struct ListBuilder<F: FnMut(Name, Vec<u8>), U: FnMut(Name, Vec<u8>) = fn(Name, Vec<u8>)> {
    kind: ListKind,
    items: Vec<u8>,
    count: usize,
    /// For each level above the leaves, the names collected for its next node.
    upper: Vec<Vec<Name>>,
    /// Sees each leaf as it is finished.
    leaf: F,
    /// Sees each node above the leaves as it is finished.
    above: U,
}

impl<F: FnMut(Name, Vec<u8>)> ListBuilder<F> {
    /// `leaf` sees the leaves; of the nodes above them only the names are made.
    pub fn new(kind: ListKind, leaf: F) -> Self {
        ListBuilder::whole(kind, leaf, |_, _| ())
    }
}

impl<F: FnMut(Name, Vec<u8>), U: FnMut(Name, Vec<u8>)> ListBuilder<F, U> {
    /// `leaf` sees the leaves, `above` all other nodes.
    pub fn whole(kind: ListKind, leaf: F, above: U) -> Self {
        ListBuilder { kind, items: Vec::new(), count: 0, upper: Vec::new(), leaf, above }
    }

    pub fn push_entry(&mut self, entry: &Entry) {
        entry.encode(&mut self.items);
        self.after_item(name_hash(&entry.name));
    }

    pub fn push_chunk(&mut self, chunk: ChunkRef) {
        put(&mut self.items, chunk.len.into());
        self.items.extend_from_slice(&chunk.name.0);
        self.after_item(chunk.name.prefix());
    }

    fn after_item(&mut self, hash: u64) {
        self.count += 1;
        if cuts(self.count, hash) {
            self.end_leaf();
        }
    }

    fn end_leaf(&mut self) {
        let bytes = node_bytes(self.kind, 0, self.count, &self.items);
        self.items.clear();
        self.count = 0;
        let name = node_name(&bytes);
        (self.leaf)(name, bytes);
        self.lift(0, name);
    }

    fn lift(&mut self, level: usize, name: Name) {
        if self.upper.len() == level {
            self.upper.push(Vec::new());
        }
        self.upper[level].push(name);
        if cuts(self.upper[level].len(), name.prefix()) {
            self.end_upper(level);
        }
    }

    fn end_upper(&mut self, level: usize) {
        let names = std::mem::take(&mut self.upper[level]);
        let items = names.iter().flat_map(|name| name.0).collect::<Vec<u8>>();
        let bytes = node_bytes(self.kind, level as u8 + 1, names.len(), &items);
        let name = node_name(&bytes);
        (self.above)(name, bytes);
        self.lift(level + 1, name);
    }

    /// Ends the list; returns its root's name. A list of one leaf is that leaf.
    pub fn finish(mut self) -> Name {
        if self.count > 0 || self.upper.is_empty() {
            self.end_leaf();
        }
        let mut level = 0;
        loop {
            let is_top = level + 1 == self.upper.len();
            match (&self.upper[level][..], is_top) {
                ([only], true) => return *only,
                ([], _) => {}
                _ => self.end_upper(level),
            }
            level += 1;
        }
    }
}

fn cuts(count: usize, hash: u64) -> bool {
    count >= ITEMS_MAX || count >= ITEMS_MIN && hash & CUT_MASK == 0
}

/// FNV-1a, folded: entries are cut by their names alone, so that new metadata moves no boundary.
fn name_hash(name: &[u8]) -> u64 {
    let hash = name
        .iter()
        .fold(0xcbf2_9ce4_8422_2325u64, |hash, &byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3));
    hash ^ hash >> 32
}

fn node_bytes(kind: ListKind, level: u8, count: usize, items: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(items.len() + 6);
    bytes.push(kind as u8);
    bytes.push(level);
    put(&mut bytes, count as u64);
    bytes.extend_from_slice(items);
    bytes
}

/// The entries of a leaf; `None` if the bytes are not the canonical encoding of one, with names in order.
pub fn decode_entries(bytes: &[u8]) -> Option<Vec<Entry>> {
    let (mut rest, count) = leaf_header(ListKind::Entries, bytes)?;
    let mut entries: Vec<Entry> = Vec::with_capacity(count);
    for _ in 0..count {
        let entry = Entry::decode(&mut rest)?;
        if !entry.has_plain_name() || entries.last().is_some_and(|last| last.name >= entry.name) {
            return None;
        }
        entries.push(entry);
    }
    rest.is_empty().then_some(entries)
}

/// The chunks of a leaf.
pub fn decode_chunks(bytes: &[u8]) -> Option<Vec<ChunkRef>> {
    let (mut rest, count) = leaf_header(ListKind::Chunks, bytes)?;
    let mut chunks = Vec::with_capacity(count);
    for _ in 0..count {
        let len = u32::try_from(take(&mut rest)?).ok()?;
        chunks.push(ChunkRef { len, name: take_name(&mut rest)? });
    }
    rest.is_empty().then_some(chunks)
}

/// The level of a node; above the leaves also the names of the nodes in it. `None` if the bytes are not one of this kind.
pub fn decode_upper(kind: ListKind, bytes: &[u8]) -> Option<(u8, Vec<Name>)> {
    let [tag, level, rest @ ..] = bytes else { return None };
    if *tag != kind as u8 {
        return None;
    }
    if *level == 0 {
        return Some((0, Vec::new()));
    }
    let mut rest = rest;
    let count = usize::try_from(take(&mut rest)?).ok()?;
    if count > ITEMS_MAX || rest.len() != count * 32 {
        return None;
    }
    Some((*level, rest.chunks_exact(32).filter_map(Name::from_slice).collect()))
}

fn leaf_header(kind: ListKind, bytes: &[u8]) -> Option<(&[u8], usize)> {
    let [tag, 0, rest @ ..] = bytes else { return None };
    let mut rest = rest;
    let count = usize::try_from(take(&mut rest)?).ok()?;
    (*tag == kind as u8 && count <= ITEMS_MAX).then_some((rest, count))
}

/// The name of a whole tree: its root directory as an entry without a name.
pub fn root_name(root: &Entry) -> Name {
    let mut bytes = Vec::new();
    root.encode(&mut bytes);
    node_name(&bytes)
}

/// The content name of a file from its chunks: no chunk, the name of nothing; one, that chunk; more, their list.
pub fn content_name(chunks: &[ChunkRef]) -> Name {
    match chunks {
        [] => Name::of(b""),
        [only] => only.name,
        _ => chunk_leaves(chunks, |_, _| ()),
    }
}

/// Cuts a file's chunks into leaves, handing each the number of chunks in it; returns the list's name.
pub fn chunk_leaves(chunks: &[ChunkRef], mut leaf: impl FnMut(Name, usize)) -> Name {
    let mut builder = ListBuilder::new(ListKind::Chunks, |name, bytes: Vec<u8>| {
        leaf(name, leaf_header(ListKind::Chunks, &bytes).map_or(0, |(_, count)| count));
    });
    chunks.iter().for_each(|chunk| builder.push_chunk(*chunk));
    builder.finish()
}
