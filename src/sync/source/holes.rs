//! Which files have holes, and where: for a target that keeps the tree and has to remember it.

use super::{Source, Stop, index_error, read_lock, tell};
use crate::sys::copy;
use crate::sys::meta;
use crate::tree::entry::EntryKind;
use crate::tree::link::{Holes, Tell};
use crate::tree::view::join;

/// Holes in one tell, about.
const BATCH_HOLES: usize = 32_768;
/// The most holes that are told of one file: what is behind them is told as data.
const MOST: usize = 1 << 18;

impl Source {
    /// Tells the holes of all files that have any. Looks into the folders where the scan saw files that take less room than
    /// their length.
    pub fn tell_holes(&self) -> Result<(), Stop> {
        let (mut files, mut count) = (Vec::new(), 0);
        for &dir in &self.sparse {
            let (items, path) = {
                let view = read_lock(&self.view);
                (view.items(dir).map_err(|cause| index_error(&cause))?, view.path(dir))
            };
            // What is gone by now has no holes to be told.
            let Ok(open) = self.root.open_beneath(&path) else { continue };
            for item in items.iter().filter(|item| matches!(item.entry.kind, EntryKind::File { .. })) {
                let name = &item.entry.name;
                if !open.stat(name).is_ok_and(|stat| meta::has_holes(&stat)) {
                    continue;
                }
                let size = item.entry.size();
                let holes = open.read(name).and_then(|file| copy::holes(&file, size, MOST)).unwrap_or_default();
                if !holes.is_empty() {
                    count += holes.len() + 1;
                    files.push(Holes { path: join(&path, name), holes });
                }
                if count >= BATCH_HOLES {
                    count = 0;
                    tell(&self.tell, Tell::Holes(std::mem::take(&mut files)))?;
                }
            }
        }
        // Told even where there are none: then that is what is known.
        tell(&self.tell, Tell::Holes(files))
    }
}
