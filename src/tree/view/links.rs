//! Where the further names of a file are, found by its first path. What is kept is the folder, not the name: sixteen bytes
//! for a file and a folder with names of it, however many they are and however long their paths.

use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};
use std::io::Result;

use super::{Item, View};
use crate::tree::entry::EntryKind;

/// Folders with further names, by a hash of the first path. Two paths may share one: who looks into the folder sees which
/// of its entries are meant. The hash has a key of this process, so that nobody makes many paths share one.
#[derive(Default)]
pub struct Links {
    hash: RandomState,
    rows: Vec<(u64, u32)>,
}

impl Links {
    /// `dir` holds a further name of the file at `first`.
    pub fn add(&mut self, first: &[u8], dir: u32) {
        let row = (self.hash.hash_one(first), dir);
        // Names of one file in one folder come one after the other.
        if self.rows.last() != Some(&row) {
            self.rows.push(row);
        }
    }

    /// All are added: from here on they are found.
    pub fn close(&mut self) {
        self.rows.sort_unstable();
        self.rows.dedup();
        self.rows.shrink_to_fit();
    }

    /// Whether no file has more than one name.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The folders that may hold further names of the file at `first`.
    fn dirs(&self, first: &[u8]) -> impl Iterator<Item = u32> + '_ {
        let hash = self.hash.hash_one(first);
        let start = self.rows.partition_point(|(other, _)| *other < hash);
        self.rows[start..].iter().take_while(move |(other, _)| *other == hash).map(|(_, dir)| *dir)
    }
}

impl View {
    /// The paths of the further names of the file at `first`. Reads the folders that hold them: for many files at once
    /// there is [`View::each_link`].
    pub fn links_to(&self, first: &[u8]) -> Result<Vec<Vec<u8>>> {
        let mut paths = Vec::new();
        self.each_link(&HashSet::from([first.to_vec()]), |dir, _, item| {
            paths.push(self.path_of(dir, &item.entry.name));
            Ok(())
        })?;
        Ok(paths)
    }

    /// Tells every further name of the files at these paths: its directory, its position there and its entry, in the order
    /// of directories. Each folder is read once.
    pub fn each_link(
        &self,
        firsts: &HashSet<Vec<u8>>,
        mut each: impl FnMut(u32, u32, &Item) -> Result<()>,
    ) -> Result<()> {
        let mut dirs: Vec<u32> = firsts.iter().flat_map(|first| self.links.dirs(first)).collect();
        dirs.sort_unstable();
        dirs.dedup();
        for dir in dirs {
            for (at, item) in (0u32..).zip(&self.items(dir)?) {
                if let EntryKind::Link { first } = &item.entry.kind
                    && firsts.contains(&**first)
                {
                    each(dir, at, item)?;
                }
            }
        }
        Ok(())
    }
}
