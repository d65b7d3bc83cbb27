//! Several trees side by side, each a folder of one tree: the volumes of a snapshot, the snapshots of a tenant.
//!
//! A handle is the tree's key with the handle that the tree itself gave out behind it; the shelf's own is empty.

use std::collections::{HashMap, VecDeque};
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;

use super::{Handle, Listing, Look, Piece, ROOT_ID, Seen, Slice, id_below};
use crate::model::{Error, Kind, Name, Result};
use crate::sys::clock::Time;
use crate::tree::entry::{Entry, EntryKind, Meta};

/// Trees that stay open; the others are opened again when they are wanted.
const OPEN: usize = 32;

/// What stands on a shelf.
pub trait Books: Send + Sync {
    /// All of them, in any order. Names and keys are unique; a key has 255 bytes at the most.
    fn all(&self) -> Result<Vec<Book>>;

    /// The tree with this key, if there is one.
    fn open(&self, key: &[u8]) -> Result<Arc<dyn Look>>;

    /// Whether there may come others, or some go.
    fn may_change(&self) -> bool;
}

/// One tree.
#[derive(Clone, Debug)]
pub struct Book {
    pub name: Box<[u8]>,
    pub key: Box<[u8]>,
    /// Of its root.
    pub meta: Meta,
}

pub struct Shelf<B> {
    books: B,
    open: Mutex<Open>,
}

#[derive(Default)]
struct Open {
    trees: HashMap<Box<[u8]>, Arc<dyn Look>>,
    order: VecDeque<Box<[u8]>>,
}

impl<B: Books> Shelf<B> {
    pub fn of(books: B) -> Shelf<B> {
        Shelf { books, open: Mutex::default() }
    }

    fn books(&self) -> Result<Vec<Book>> {
        let mut books = self.books.all()?;
        books.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(books)
    }

    /// The tree that a handle leads into, its key, and the handle as the tree knows it.
    fn inside<'h>(&self, handle: &'h Handle) -> Result<(Arc<dyn Look>, &'h [u8], Handle)> {
        let (len, rest) = handle.0.split_first().ok_or_else(no_handle)?;
        let (key, _) = rest.split_at_checked(*len as usize).ok_or_else(no_handle)?;
        let own = Handle(handle.0.slice(1 + key.len()..));
        let lock = || self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(tree) = lock().trees.get(key) {
            return Ok((tree.clone(), key, own));
        }
        let tree = self.books.open(key)?;
        let open = &mut *lock();
        if open.trees.insert(key.into(), tree.clone()).is_none() {
            open.order.push_back(key.into());
        }
        while open.order.len() > OPEN
            && let Some(old) = open.order.pop_front()
        {
            open.trees.remove(&old);
        }
        Ok((tree, key, own))
    }

    /// An entry of a tree as the shelf shows it.
    fn shown(key: &[u8], mut seen: Seen) -> Seen {
        seen.handle = outside(key, &seen.handle.0);
        seen.id = id_below(id_below(ROOT_ID, key), &seen.id.to_le_bytes());
        seen
    }

    /// What a tree looks like from the shelf. Its root's own handle is not known before it is opened: it is left empty.
    fn cover(&self, book: &Book) -> Seen {
        Seen {
            entry: Entry {
                name: book.name.clone(),
                meta: book.meta.clone(),
                kind: EntryKind::Dir { content: Name::UNKNOWN },
            },
            handle: outside(&book.key, b""),
            id: id_below(ROOT_ID, &book.key),
            // What is in it stays the same, but it may be taken away.
            version: self.books.may_change().then_some(0),
            links: 1,
            disk_bytes: 0,
            changed: book.meta.mtime,
        }
    }

    /// A directory inside a tree; the empty handle is its root.
    fn dir<'h>(&self, handle: &'h Handle) -> Result<(Arc<dyn Look>, &'h [u8], Handle)> {
        let (tree, key, own) = self.inside(handle)?;
        let own = if own.0.is_empty() { tree.root()?.handle } else { own };
        Ok((tree, key, own))
    }
}

fn outside(key: &[u8], own: &[u8]) -> Handle {
    let len = u8::try_from(key.len()).unwrap_or(u8::MAX);
    Handle(Bytes::from([&[len], key, own].concat()))
}

fn no_handle() -> Error {
    Error::new(Kind::NotFound, "this is no entry of a shelf")
}

impl<B: Books> Look for Shelf<B> {
    fn root(&self) -> Result<Seen> {
        let books = self.books()?;
        let mtime = books.iter().map(|book| book.meta.mtime).max().unwrap_or(Time::default());
        let names = books.iter().fold(ROOT_ID, |id, book| id_below(id, &book.name));
        Ok(Seen {
            entry: Entry {
                name: Box::default(),
                meta: Meta { mode: 0o755, mtime, ..Meta::default() },
                kind: EntryKind::Dir { content: Name::UNKNOWN },
            },
            handle: Handle::default(),
            id: ROOT_ID,
            version: self.books.may_change().then_some(names),
            links: 1,
            disk_bytes: 0,
            changed: mtime,
        })
    }

    fn list(&self, dir: &Handle, after: Option<&[u8]>) -> Result<Listing> {
        if dir.0.is_empty() {
            let books = self.books()?;
            let behind = books.iter().filter(|book| after.is_none_or(|after| *book.name > *after));
            let mut entries: Vec<Seen> = behind.take(super::LIST_ENTRIES + 1).map(|book| self.cover(book)).collect();
            let more = entries.len() > super::LIST_ENTRIES;
            entries.truncate(super::LIST_ENTRIES);
            return Ok(Listing { entries, more });
        }
        let (tree, key, own) = self.dir(dir)?;
        let listing = tree.list(&own, after)?;
        let entries = listing.entries.into_iter().map(|seen| Self::shown(key, seen)).collect();
        Ok(Listing { entries, more: listing.more })
    }

    fn find(&self, dir: &Handle, name: &[u8]) -> Result<Option<Seen>> {
        if dir.0.is_empty() {
            return Ok(self.books()?.iter().find(|book| *book.name == *name).map(|book| self.cover(book)));
        }
        let (tree, key, own) = self.dir(dir)?;
        Ok(tree.find(&own, name)?.map(|seen| Self::shown(key, seen)))
    }

    fn again(&self, handle: &Handle) -> Result<Seen> {
        if handle.0.is_empty() {
            return self.root();
        }
        let (tree, key, own) = self.inside(handle)?;
        if own.0.is_empty() {
            let book = self.books()?.into_iter().find(|book| *book.key == *key);
            return book.map(|book| self.cover(&book)).ok_or_else(no_handle);
        }
        tree.again(&own).map(|seen| Self::shown(key, seen))
    }

    fn read(&self, slices: &[Slice]) -> Vec<Result<Piece>> {
        let mut pieces = Vec::with_capacity(slices.len());
        let mut rest = slices;
        // Neighbours are of one tree: it is asked for them together.
        while let Some(first) = rest.first() {
            let opened = self.inside(&first.file);
            let (tree, key, _) = match opened {
                Ok(opened) => opened,
                Err(error) => {
                    pieces.push(Err(error));
                    rest = &rest[1..];
                    continue;
                }
            };
            let start = outside(key, b"");
            let count = rest.iter().take_while(|slice| slice.file.0.starts_with(&start.0)).count();
            let (now, after) = rest.split_at(count);
            let own = |slice: &Slice| Slice { file: Handle(slice.file.0.slice(start.0.len()..)), ..slice.clone() };
            pieces.extend(tree.read(&now.iter().map(own).collect::<Vec<Slice>>()));
            rest = after;
        }
        pieces
    }

    fn data(&self, file: &Handle, offset: u64) -> Result<Option<Range<u64>>> {
        let (tree, _, own) = self.inside(file)?;
        tree.data(&own, offset)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::tree::look::live::Live;

    /// Folders of a folder.
    struct Folders(tempfile::TempDir);

    impl Books for Folders {
        fn all(&self) -> Result<Vec<Book>> {
            let names =
                fs::read_dir(self.0.path()).unwrap().map(|entry| entry.unwrap().file_name().into_encoded_bytes());
            Ok(names.map(|name| Book { key: name.clone().into(), name: name.into(), meta: Meta::default() }).collect())
        }

        fn open(&self, key: &[u8]) -> Result<Arc<dyn Look>> {
            let name = std::str::from_utf8(key).map_err(|_| no_handle())?;
            Ok(Arc::new(Live::open(&self.0.path().join(name), name)?))
        }

        fn may_change(&self) -> bool {
            true
        }
    }

    #[test]
    fn trees_stand_side_by_side_and_each_is_looked_into() {
        let dir = tempfile::tempdir().unwrap();
        for number in 0..2 * OPEN {
            let tree = dir.path().join(format!("{number:03}"));
            fs::create_dir_all(tree.join("sub")).unwrap();
            fs::write(tree.join("sub/file"), format!("of {number}")).unwrap();
        }
        let shelf = Shelf::of(Folders(dir));
        let root = shelf.root().unwrap();
        let trees = shelf.list(&root.handle, None).unwrap().entries;
        assert_eq!(trees.len(), 2 * OPEN);
        let mut ids = std::collections::HashSet::new();
        let mut slices = Vec::new();
        for (number, tree) in trees.iter().enumerate() {
            assert_eq!(*tree.entry.name, *format!("{number:03}").as_bytes());
            assert_eq!(shelf.find(&root.handle, &tree.entry.name).unwrap().as_ref(), Some(tree));
            assert_eq!(shelf.again(&tree.handle).unwrap(), *tree);
            let sub = shelf.list(&tree.handle, None).unwrap().entries.remove(0);
            let file = shelf.find(&sub.handle, b"file").unwrap().unwrap();
            assert_eq!(shelf.again(&file.handle).unwrap(), file);
            assert!(ids.insert(tree.id) && ids.insert(sub.id) && ids.insert(file.id), "each is another one");
            slices.push(Slice { file: file.handle, offset: 0, len: 20 });
        }
        slices.insert(3, Slice { file: Handle(Bytes::from_static(b"\x03no")), offset: 0, len: 1 });
        let mut pieces = shelf.read(&slices);
        assert!(pieces.remove(3).is_err());
        for (number, piece) in pieces.into_iter().enumerate() {
            assert_eq!(piece.unwrap().data, format!("of {number}").as_bytes());
        }
        assert!(shelf.list(&root.handle, Some(b"062")).unwrap().entries.len() == 1);
        let before = root.version;
        fs::create_dir(shelf.books.0.path().join("new")).unwrap();
        assert_ne!(shelf.again(&root.handle).unwrap().version, before);
        assert!(shelf.find(&root.handle, b"none").unwrap().is_none());
    }
}
