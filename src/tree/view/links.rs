//! Where the further names of a file are, found by its first path. What is kept is the folder, not the name: sixteen bytes
//! for a file and a folder with names of it, however many they are and however long their paths.

use std::hash::{BuildHasher, RandomState};

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

    /// The folders that hold further names.
    pub fn folders(&self) -> Vec<u32> {
        let mut folders: Vec<u32> = self.rows.iter().map(|(_, dir)| *dir).collect();
        folders.sort_unstable();
        folders.dedup();
        folders
    }
}
