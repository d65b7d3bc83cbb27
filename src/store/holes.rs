//! Where the files of a snapshot had holes: a tree beside the snapshot's own, of just the files with holes and the folders
//! above them. It is made of the same nodes, so it is kept, shared and collected as they are. The content of such a file is
//! its map: where the holes are.
//!
//! A map says where there was no data when the tree was taken. It is never the reason that a byte is taken for a zero:
//! who shows a hole looks at the content as well.

use std::ops::Range;

use super::Store;
use super::snapshot::Volume;
use crate::model::{Kind, Name, Result};
use crate::tree::entry::{Entry, EntryKind, Meta, put, take};
use crate::tree::node::{ListBuilder, ListKind};

/// What a snapshot knows of the holes in a volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Holes {
    /// Nothing: it was taken by a version that kept none, or of a source that tells none.
    #[default]
    Unknown,
    /// No file has any.
    Nowhere,
    /// The list of the root of the tree of files with holes.
    Below(Name),
}

impl Holes {
    pub fn list(self) -> Option<Name> {
        match self {
            Holes::Below(list) => Some(list),
            Holes::Unknown | Holes::Nowhere => None,
        }
    }
}

/// A map in the store: its length, and the name of its content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Map {
    pub len: u64,
    pub content: Name,
}

/// The holes as bytes: of each how far it is from the end of the last one, and its length.
pub fn encode(holes: &[Range<u64>]) -> Vec<u8> {
    let (mut out, mut end) = (Vec::new(), 0);
    for hole in holes {
        put(&mut out, hole.start - end);
        put(&mut out, hole.end - hole.start);
        end = hole.end;
    }
    out
}

/// Reads a map of a file of `size` bytes; `None` if it is none.
pub fn decode(mut bytes: &[u8], size: u64) -> Option<Vec<Range<u64>>> {
    let (mut holes, mut end) = (Vec::new(), 0u64);
    while !bytes.is_empty() {
        let start = end.checked_add(take(&mut bytes)?)?;
        end = start.checked_add(take(&mut bytes)?)?;
        if start == end || end > size {
            return None;
        }
        holes.push(start..end);
    }
    Some(holes)
}

/// Whether a file can be at this path.
pub fn is_path(path: &[u8]) -> bool {
    let mut names = path.split(|byte| *byte == b'/');
    names.all(|name| !name.is_empty() && name != b"." && name != b".." && !name.contains(&0))
}

/// Whether these are ranges in order, none of them empty, that do not touch.
pub fn are_apart(holes: &[Range<u64>]) -> bool {
    holes.iter().all(|hole| hole.start < hole.end) && holes.windows(2).all(|pair| pair[0].end < pair[1].start)
}

/// Makes the tree of these files, and hands out its nodes. The name of its root's list.
pub fn tree(mut files: Vec<(Vec<u8>, Map)>, mut keep: impl FnMut(Name, Vec<u8>)) -> Holes {
    let names = |path: &[u8]| path.split(|byte| *byte == b'/').map(<[u8]>::to_vec).collect::<Vec<_>>();
    files.sort_by(|(one, _), (other, _)| one.split(|byte| *byte == b'/').cmp(other.split(|byte| *byte == b'/')));
    files.dedup_by(|one, other| one.0 == other.0);
    if files.is_empty() {
        return Holes::Nowhere;
    }
    // The folders from the root down to the last file, each with what is in it so far.
    let mut way: Vec<(Vec<u8>, Vec<Entry>)> = vec![(Vec::new(), Vec::new())];
    for (path, map) in files {
        let mut path = names(&path);
        let Some(name) = path.pop() else { continue };
        let shared = way[1..].iter().zip(&path).take_while(|((own, _), name)| own == *name).count();
        up_to(&mut way, shared + 1, &mut keep);
        way.extend(path.drain(shared..).map(|name| (name, Vec::new())));
        let kind = EntryKind::File { size: map.len, content: map.content };
        if let Some((_, entries)) = way.last_mut() {
            entries.push(Entry { name: name.into(), meta: Meta::default(), kind });
        }
    }
    up_to(&mut way, 1, &mut keep);
    Holes::Below(list(&way[0].1, &mut keep))
}

/// Ends the folders at the end of the way, until so many are left.
fn up_to(way: &mut Vec<(Vec<u8>, Vec<Entry>)>, left: usize, keep: &mut impl FnMut(Name, Vec<u8>)) {
    while way.len() > left
        && let Some((name, entries)) = way.pop()
    {
        let kind = EntryKind::Dir { content: list(&entries, keep) };
        if let Some((_, above)) = way.last_mut() {
            above.push(Entry { name: name.into(), meta: Meta::default(), kind });
        }
    }
}

fn list(entries: &[Entry], keep: &mut impl FnMut(Name, Vec<u8>)) -> Name {
    let keep = std::cell::RefCell::new(keep);
    let kept = |name: Name, bytes: Vec<u8>| (*keep.borrow_mut())(name, bytes);
    let mut list = ListBuilder::whole(ListKind::Entries, kept, kept);
    entries.iter().for_each(|entry| list.push_entry(entry));
    list.finish()
}

/// What stands for `name` in a folder of the tree of holes: for a folder its list, for a file its map.
pub fn below(entries: &[Entry], name: &[u8]) -> (Option<Name>, Option<Map>) {
    let Ok(at) = entries.binary_search_by(|entry| (*entry.name).cmp(name)) else { return (None, None) };
    match entries[at].kind {
        EntryKind::Dir { content } => (Some(content), None),
        EntryKind::File { size, content } => (None, Some(Map { len: size, content })),
        _ => (None, None),
    }
}

/// What is lost of this costs no byte of content: where it is, there are no holes.
pub fn or_lost<T>(found: Result<T>) -> Result<Option<T>> {
    match found {
        Err(error) if error.kind == Kind::Corrupt => {
            tracing::warn!("holes of a snapshot are not known any more: {}", error.chain());
            Ok(None)
        }
        found => found.map(Some),
    }
}

impl Store {
    /// The holes of a file of `size` bytes.
    pub(super) fn holes(&self, map: Map, size: u64) -> Result<Vec<Range<u64>>> {
        let mut bytes = Vec::new();
        for chunk in self.chunks(&map.content, map.len)? {
            bytes.extend_from_slice(&self.chunk(&chunk)?);
        }
        decode(&bytes, size).ok_or_else(|| self.no_sense(&map.content))
    }
}

impl Volume {
    /// The lists that lead to all that the volume is made of.
    pub fn lists(&self) -> impl Iterator<Item = Name> + use<> {
        [Some(self.content()), self.holes.list()].into_iter().flatten()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;
    use crate::tree::node::decode_entries;

    #[test]
    fn a_map_reads_back_within_its_file_and_is_nothing_else() {
        let holes = vec![0..4096, 8192..1 << 40, (1 << 40) + 1..(1 << 40) + 2];
        let bytes = encode(&holes);
        assert_eq!(decode(&bytes, 1 << 41), Some(holes.clone()));
        assert_eq!(decode(&bytes, 1 << 40), None);
        assert_eq!(decode(&bytes[..bytes.len() - 1], 1 << 41), None);
        assert_eq!(decode(&[0, 0], 9), None, "an empty hole");
        assert_eq!(decode(&encode(&[0..1, u64::MAX - 1..u64::MAX]), 9), None);
        assert!(are_apart(&holes) && !are_apart(&[0..1, 1..2]) && !are_apart(&[0..1, 3..3]));
    }

    #[test]
    fn the_tree_has_each_file_at_its_path() {
        let paths = ["a", "a-b/c", "a.d/e/f", "b/a", "b/a-/x", "b/b", "b/b.c", "z/y/x/w"];
        let map = |path: &str| Map { len: path.len() as u64, content: Name::of(path.as_bytes()) };
        let files = paths.iter().rev().map(|path| (path.as_bytes().to_vec(), map(path))).collect();
        let mut nodes = HashMap::new();
        let Holes::Below(root) = tree(files, |name, bytes| drop(nodes.insert(name, bytes))) else { panic!("a tree") };
        for path in paths {
            let mut at = root;
            let mut names = path.split('/').peekable();
            while let Some(name) = names.next() {
                let entries = decode_entries(&nodes[&at]).unwrap();
                assert!(entries.is_sorted_by(|one, other| one.name < other.name));
                match (below(&entries, name.as_bytes()), names.peek()) {
                    ((Some(list), None), Some(_)) => at = list,
                    ((None, found), None) => assert_eq!(found, Some(map(path))),
                    other => panic!("{path}: {other:?}"),
                }
            }
        }
        assert_eq!(tree(Vec::new(), |_, _| panic!("nothing is kept")), Holes::Nowhere);
    }
}
