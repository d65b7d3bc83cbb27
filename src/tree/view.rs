//! A directory tree as it was found, or as it is wanted: a table of directories in memory, their entries in records on
//! disk. Memory grows with the directories, not with the files.

mod links;

pub use links::Links;

use std::io::Result;
use std::sync::Arc;

use super::entry::{Entry, EntryKind, put, take};
use super::node::{ListBuilder, ListKind, root_name};
use super::records::{Ptr, Records, Row, damaged};
use crate::model::Name;
use crate::sys::clock::Time;

/// An entry with what is known of it beside its canonical form.
#[derive(Clone, Debug)]
pub struct Item {
    pub entry: Entry,
    pub print: Print,
    pub state: State,
    /// What a target keeps of an item while it works: where it is staged.
    pub slot: u64,
    /// The chunk list of a file of more than one chunk.
    pub list: Ptr,
}

/// The fingerprint under which the rest was true. Size and mtime are in the entry itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Print {
    pub ino: u64,
    pub ctime: Time,
    /// False if a later change could bear the same stamps: the file was changed shortly before it was read, is written through
    /// memory, or is on a file system whose stamps say nothing.
    pub trusted: bool,
}

/// What is to be done about an item, or was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[repr(u8)]
pub enum State {
    /// As it is (in a view of what is: all is well).
    #[default]
    Keep = 0,
    /// Not there after all, or not readable: in no listing.
    Dropped = 1,
    /// Only its metadata changes.
    Touch = 2,
    /// A file whose content has to come from the source.
    Fetch = 3,
    /// A file whose content is somewhere in the target's own tree, or left from an earlier try.
    Local = 4,
    /// A link, FIFO, socket or device to be made.
    Make = 5,
    /// A file to be moved here from elsewhere in the target's tree.
    Moved = 6,
    /// A further hard link, to be made when its first name is in place.
    Hardlink = 7,
    /// A directory that the target has; it is compared on its own.
    Descend = 8,
    /// A directory to be made.
    NewDir = 9,
    /// A directory to be moved here whole.
    MovedDir = 10,
    /// Staged, to be renamed into place.
    Staged = 11,
    /// Staged as pages to be written into the file in place.
    Patched = 12,
    /// Staged in its place within a staged directory: moves with it.
    Placed = 13,
}

impl State {
    fn from_byte(byte: u8) -> Option<State> {
        use State::*;
        [Keep, Dropped, Touch, Fetch, Local, Make, Moved, Hardlink, Descend, NewDir, MovedDir, Staged, Patched, Placed]
            .into_iter()
            .find(|state| *state as u8 == byte)
    }
}

impl Item {
    pub fn new(entry: Entry, print: Print) -> Item {
        Item { entry, print, state: State::Keep, slot: 0, list: Ptr::default() }
    }

    /// A regular file whose content has not been read.
    pub fn is_unread(&self) -> bool {
        matches!(self.entry.kind, EntryKind::File { content, .. } if !content.is_known())
    }
}

/// One directory of a view.
#[derive(Clone, Debug)]
pub struct DirNode {
    pub parent: u32,
    pub name: Box<[u8]>,
    /// Device and inode; zeros in a view that is only wanted.
    pub id: (u64, u64),
    pub record: Ptr,
    /// Number of the first directory in it; the others follow in the order of their entries.
    pub first_child: u32,
    /// Unknown until the view is sealed.
    pub content: Name,
    /// Something in it or below is left out by the rules.
    pub protected: bool,
    /// Its record is new: its content name has to be made anew.
    pub dirty: bool,
    /// Only here because something below it is in the view: its own metadata does not count.
    pub implied: bool,
}

pub struct View {
    pub records: Arc<Records>,
    /// The root directory, without a name.
    pub root: Item,
    pub dirs: Vec<DirNode>,
    /// For each file with more than one name in this tree: where the others are.
    pub links: Links,
    /// Entries below the root, and bytes of files.
    pub entries: u64,
    pub bytes: u64,
}

impl View {
    /// The path of a directory relative to the root; empty for the root.
    pub fn path(&self, dir: u32) -> Vec<u8> {
        let mut names = Vec::new();
        let mut at = dir;
        while at != 0 {
            let node = &self.dirs[at as usize];
            names.push(&node.name);
            at = node.parent;
        }
        let mut path = Vec::with_capacity(names.iter().map(|name| name.len() + 1).sum());
        for name in names.iter().rev() {
            if !path.is_empty() {
                path.push(b'/');
            }
            path.extend_from_slice(name);
        }
        path
    }

    /// The path of an entry in a directory.
    pub fn path_of(&self, dir: u32, name: &[u8]) -> Vec<u8> {
        join(&self.path(dir), name)
    }

    /// The directory in `dir` whose entry there has this name. (The children of a directory have consecutive numbers in the
    /// order of their names.)
    pub fn child(&self, dir: u32, name: &[u8]) -> Option<u32> {
        let first = (self.dirs[dir as usize].first_child as usize).max(1);
        let rest = self.dirs.get(first..)?;
        let at = rest.partition_point(|node| node.parent == dir && *node.name < *name);
        let found = rest.get(at).is_some_and(|node| node.parent == dir && *node.name == *name);
        found.then(|| (first + at) as u32)
    }

    /// The directory at a path.
    pub fn dir_at(&self, path: &[u8]) -> Option<u32> {
        let mut names = path.split(|&byte| byte == b'/').filter(|name| !name.is_empty());
        names.try_fold(0, |dir, name| self.child(dir, name))
    }

    pub fn items(&self, dir: u32) -> Result<Vec<Item>> {
        decode_items(&self.records.read(self.dirs[dir as usize].record)?)
    }

    /// Replaces the entries of a directory.
    pub fn set_items(&mut self, dir: u32, items: &[Item]) -> Result<()> {
        let record = self.records.append(&encode_items(items))?;
        let node = &mut self.dirs[dir as usize];
        node.record = record;
        node.dirty = true;
        Ok(())
    }

    /// Names every directory whose entries changed, bottom up, and the root. All contents must be known by now.
    pub fn seal(&mut self) -> Result<Name> {
        for dir in (0..self.dirs.len()).rev() {
            if self.dirs[dir].dirty {
                self.seal_one(dir as u32)?;
                if dir != 0 {
                    let parent = self.dirs[dir].parent;
                    self.dirs[parent as usize].dirty = true;
                }
            }
        }
        self.dirs.iter_mut().for_each(|node| node.dirty = false);
        let content = self.dirs[0].content;
        self.root.entry.set_content(content);
        Ok(self.root_name())
    }

    fn seal_one(&mut self, dir: u32) -> Result<()> {
        let mut items = self.items(dir)?;
        let mut child = self.dirs[dir as usize].first_child;
        let mut changed = false;
        items.retain(|item| {
            changed |= item.state == State::Dropped;
            item.state != State::Dropped
        });
        let mut list = ListBuilder::new(ListKind::Entries, |_, _| ());
        for item in &mut items {
            if item.entry.is_dir() {
                // A folder that was dropped keeps its place in the table.
                while self
                    .dirs
                    .get(child as usize)
                    .is_some_and(|node| node.parent == dir && node.name != item.entry.name)
                {
                    child += 1;
                }
                let content = self.dirs[child as usize].content;
                changed |= item.entry.content() != Some(content);
                item.entry.set_content(content);
                child += 1;
            }
            list.push_entry(&item.entry);
        }
        let content = list.finish();
        if changed {
            self.set_items(dir, &items)?;
        }
        self.dirs[dir as usize].content = content;
        Ok(())
    }

    /// The name of the whole tree; known when the view is sealed.
    pub fn root_name(&self) -> Name {
        match self.root.entry.content() {
            Some(content) if content.is_known() => root_name(&self.root.entry),
            _ => Name::UNKNOWN,
        }
    }

    /// Remembers this view in its index file. `rest`: rows of directories outside the view's scope, to be kept.
    pub fn save(&self, rest: impl Iterator<Item = Row>) -> Result<()> {
        if !self.records.is_kept() {
            return Ok(());
        }
        let mut rows: Vec<Row> = rest.collect();
        rows.extend(self.dirs.iter().filter(|node| !node.implied && node.id != (0, 0)).map(|node| Row {
            id: node.id,
            record: node.record,
            content: node.content,
            protected: node.protected,
        }));
        let live: u64 = rows.iter().map(|row| u64::from(row.record.len)).sum();
        // Chunk lists are live too and not in the sum: they are a two-thousandth of the bytes they stand for.
        let live = live + self.bytes / 1600;
        if self.records.len_bytes() > 4 * live + (16 << 20) {
            return compact(&self.records, &rows);
        }
        self.records.save(&rows)
    }
}

/// The entries of the folder that was asked for last, kept: who takes one entry after the other does not read the whole
/// folder for each.
#[derive(Default)]
pub struct LastDir {
    held: Option<u32>,
    items: Vec<Item>,
}

impl LastDir {
    /// The entries of a directory; always of the same view, whose records do not change meanwhile.
    pub fn items(&mut self, view: &View, dir: u32) -> Result<&[Item]> {
        if self.held != Some(dir) {
            // Two long folders need not be in memory at once.
            (self.held, self.items) = (None, Vec::new());
            self.items = view.items(dir)?;
            self.held = Some(dir);
        }
        Ok(&self.items)
    }

    /// The entry of this name in a directory.
    pub fn find(&mut self, view: &View, dir: u32, name: &[u8]) -> Result<Option<&Item>> {
        let items = self.items(view, dir)?;
        Ok(items.binary_search_by(|item| (*item.entry.name).cmp(name)).ok().map(|at| &items[at]))
    }
}

/// Writes what is live into a new index file.
fn compact(old: &Records, rows: &[Row]) -> Result<()> {
    let Some(fresh) = old.successor()? else { return Ok(()) };
    let mut kept = Vec::with_capacity(rows.len());
    for row in rows {
        let mut items = decode_items(&old.read(row.record)?)?;
        for item in items.iter_mut().filter(|item| item.list.is_some()) {
            item.list = fresh.copy_list(old, item.list)?;
        }
        kept.push(Row { record: fresh.append(&encode_items(&items))?, ..*row });
    }
    fresh.save(&kept)?;
    fresh.replace(old)
}

/// A path below another.
pub fn join(path: &[u8], name: &[u8]) -> Vec<u8> {
    let mut joined = Vec::with_capacity(path.len() + name.len() + 1);
    joined.extend_from_slice(path);
    if !path.is_empty() {
        joined.push(b'/');
    }
    joined.extend_from_slice(name);
    joined
}

/// How an index says that a fingerprint is trusted. One of an earlier version says it 20 ms after the stamp, which is too soon for a
/// stamp of a whole second.
const TRUSTED: u8 = 2;
const TRUSTED_AT_ONCE: u8 = 1;

pub fn encode_items(items: &[Item]) -> Vec<u8> {
    let mut out = Vec::with_capacity(items.len() * 112 + 8);
    put(&mut out, items.len() as u64);
    for item in items {
        item.entry.encode(&mut out);
        put(&mut out, item.print.ino);
        put(&mut out, item.print.ctime.seconds.cast_unsigned());
        put(&mut out, item.print.ctime.nanos.into());
        out.push(if item.print.trusted { TRUSTED } else { 0 });
        out.push(item.state as u8);
        put(&mut out, item.slot);
        item.list.encode(&mut out);
    }
    out
}

pub fn decode_items(bytes: &[u8]) -> Result<Vec<Item>> {
    let mut rest = bytes;
    let mut decode = || -> Option<Vec<Item>> {
        let count = usize::try_from(take(&mut rest)?).ok()?;
        let mut items = Vec::with_capacity(count.min(rest.len()));
        for _ in 0..count {
            let entry = Entry::decode(&mut rest)?;
            let ino = take(&mut rest)?;
            let ctime = Time { seconds: take(&mut rest)?.cast_signed(), nanos: u32::try_from(take(&mut rest)?).ok()? };
            let ([trusted, state], after) = rest.split_first_chunk::<2>()?;
            rest = after;
            let trusted = *trusted == TRUSTED || *trusted == TRUSTED_AT_ONCE && ctime.nanos != 0;
            let print = Print { ino, ctime, trusted };
            let state = State::from_byte(*state)?;
            items.push(Item { entry, print, state, slot: take(&mut rest)?, list: Ptr::decode(&mut rest)? });
        }
        Some(items)
    };
    decode().ok_or_else(damaged)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An index with one item, and how it says that the item is trusted.
    fn kept(nanos: u32, trusted: u8) -> Vec<u8> {
        let kind = EntryKind::File { size: 3, content: Name::of(b"abc") };
        let print = Print { ino: 77, ctime: Time { seconds: 1000, nanos }, trusted: true };
        let item = Item::new(Entry { name: b"a"[..].into(), meta: Default::default(), kind }, print);
        let mut bytes = encode_items(std::slice::from_ref(&item));
        let mut before = Vec::new();
        put(&mut before, 1);
        item.entry.encode(&mut before);
        for number in [77, 1000, u64::from(nanos)] {
            put(&mut before, number);
        }
        assert!(bytes.starts_with(&before));
        bytes[before.len()] = trusted;
        bytes
    }

    #[test]
    fn what_an_earlier_version_trusted_is_read_again_where_it_did_too_soon() {
        let is_trusted = |nanos, trusted| decode_items(&kept(nanos, trusted)).unwrap()[0].print.trusted;
        assert!(is_trusted(5, 2) && is_trusted(0, 2), "as this version says it");
        assert!(is_trusted(5, 1) && !is_trusted(0, 1), "as an earlier one said it");
        assert!(!is_trusted(5, 0) && !is_trusted(0, 0));
    }
}
