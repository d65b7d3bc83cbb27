//! Which folders hold further names of files. What is kept is the folder, not the names: four bytes, however many they are
//! and however long their paths.

/// The folders with further names.
#[derive(Default)]
pub struct Links {
    folders: Vec<u32>,
}

impl Links {
    /// `dir` holds a further name of some file.
    pub fn add(&mut self, dir: u32) {
        // Names in one folder come one after the other.
        if self.folders.last() != Some(&dir) {
            self.folders.push(dir);
        }
    }

    /// All are added: from here on they are found.
    pub fn close(&mut self) {
        self.folders.sort_unstable();
        self.folders.dedup();
        self.folders.shrink_to_fit();
    }

    /// The folders that hold further names, ascending.
    pub fn folders(&self) -> &[u32] {
        &self.folders
    }
}
