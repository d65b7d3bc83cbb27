//! What differs between two kept trees. Equal lists are never walked.

use std::collections::HashMap;

use super::Store;
use super::snapshot::Volume;
use crate::model::{Name, Result};
use crate::tree::entry::{Entry, EntryKind};
use crate::tree::view::join;

/// One difference. Paths are relative to the volume's root; the empty path is the root itself.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Change {
    pub path: Vec<u8>,
    pub kind: ChangeKind,
    /// Of something that moved: where it was.
    pub from: Vec<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ChangeKind {
    Added = 1,
    Removed = 2,
    /// Other content, or another kind of thing.
    Changed = 3,
    Moved = 4,
    /// The same content with other metadata.
    Metadata = 5,
}

impl ChangeKind {
    pub const ALL: [(ChangeKind, &'static str); 5] = [
        (ChangeKind::Added, "added"),
        (ChangeKind::Removed, "removed"),
        (ChangeKind::Changed, "changed"),
        (ChangeKind::Moved, "moved"),
        (ChangeKind::Metadata, "metadata"),
    ];

    pub fn word(self) -> &'static str {
        ChangeKind::ALL.iter().find(|(kind, _)| *kind == self).map_or("changed", |(_, word)| word)
    }
}

type Found = Vec<(Vec<u8>, Entry)>;

struct Diff<'a> {
    store: &'a Store,
    changes: Vec<Change>,
    added: Found,
    removed: Found,
}

impl Store {
    /// What makes `b` of `a`; in the order of the paths. `None`: the volume was not there.
    pub fn diff(&self, a: Option<&Volume>, b: Option<&Volume>) -> Result<Vec<Change>> {
        let mut diff = Diff { store: self, changes: Vec::new(), added: Vec::new(), removed: Vec::new() };
        match (a, b) {
            (Some(a), Some(b)) => {
                if a.root.meta != b.root.meta {
                    diff.note(Vec::new(), ChangeKind::Metadata);
                }
                diff.dirs(a.content(), b.content())?;
            }
            (Some(a), None) => diff.removed.push((Vec::new(), a.root.clone())),
            (None, Some(b)) => diff.added.push((Vec::new(), b.root.clone())),
            (None, None) => {}
        }
        diff.settle()?;
        diff.changes.sort();
        Ok(diff.changes)
    }
}

impl Diff<'_> {
    fn note(&mut self, path: Vec<u8>, kind: ChangeKind) {
        self.changes.push(Change { path, kind, from: Vec::new() });
    }

    fn dirs(&mut self, a: Name, b: Name) -> Result<()> {
        let mut todo = vec![(Vec::new(), a, b)];
        while let Some((path, a, b)) = todo.pop() {
            if a == b {
                continue;
            }
            let mut old = self.store.entries(&a)?.into_iter().peekable();
            for new in self.store.entries(&b)? {
                while let Some(gone) = old.next_if(|old| old.name < new.name) {
                    self.removed.push((join(&path, &gone.name), gone));
                }
                let below = join(&path, &new.name);
                let Some(was) = old.next_if(|old| old.name == new.name) else {
                    self.added.push((below, new));
                    continue;
                };
                match (&was.kind, &new.kind) {
                    (EntryKind::Dir { content: a }, EntryKind::Dir { content: b }) => {
                        todo.push((below.clone(), *a, *b));
                        if was.meta != new.meta {
                            self.note(below, ChangeKind::Metadata);
                        }
                    }
                    (EntryKind::Dir { .. }, _) | (_, EntryKind::Dir { .. }) => {
                        self.removed.push((below.clone(), was));
                        self.added.push((below, new));
                    }
                    (a, b) if a != b => self.note(below, ChangeKind::Changed),
                    _ if was.meta != new.meta => self.note(below, ChangeKind::Metadata),
                    _ => {}
                }
            }
            for gone in old {
                self.removed.push((join(&path, &gone.name), gone));
            }
        }
        Ok(())
    }

    /// What came and what went: the same content in another place has moved, folders first as wholes, then what is in them.
    fn settle(&mut self) -> Result<()> {
        let (mut added, mut removed) = (std::mem::take(&mut self.added), std::mem::take(&mut self.removed));
        while !added.is_empty() || !removed.is_empty() {
            let mut places: HashMap<Name, Vec<usize>> = HashMap::new();
            for (at, (_, entry)) in removed.iter().enumerate() {
                if let Some(name) = movable(entry) {
                    places.entry(name).or_default().push(at);
                }
            }
            let mut moved = vec![false; removed.len()];
            let (mut more_added, mut more_removed) = (Vec::new(), Vec::new());
            for (path, entry) in added {
                let from = movable(&entry).and_then(|name| places.get_mut(&name)?.pop());
                match from {
                    Some(at) => {
                        moved[at] = true;
                        let from = removed[at].0.clone();
                        self.changes.push(Change { path, kind: ChangeKind::Moved, from });
                    }
                    None => self.expand(path, &entry, ChangeKind::Added, &mut more_added)?,
                }
            }
            for ((path, entry), moved) in removed.into_iter().zip(moved) {
                if !moved {
                    self.expand(path, &entry, ChangeKind::Removed, &mut more_removed)?;
                }
            }
            (added, removed) = (more_added, more_removed);
        }
        Ok(())
    }

    fn expand(&mut self, path: Vec<u8>, entry: &Entry, kind: ChangeKind, more: &mut Found) -> Result<()> {
        if let EntryKind::Dir { content } = entry.kind {
            for entry in self.store.entries(&content)? {
                more.push((join(&path, &entry.name), entry));
            }
        }
        self.note(path, kind);
        Ok(())
    }
}

/// By what something is known again in another place. What is empty is nothing in particular.
fn movable(entry: &Entry) -> Option<Name> {
    match entry.kind {
        EntryKind::File { size, content } if size > 0 => Some(content),
        EntryKind::Dir { content } if content != empty_list() => Some(content),
        _ => None,
    }
}

fn empty_list() -> Name {
    crate::tree::node::ListBuilder::new(crate::tree::node::ListKind::Entries, |_, _| ()).finish()
}
