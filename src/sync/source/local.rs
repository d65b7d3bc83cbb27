//! A source's files for a target in the same process.

use std::sync::{Arc, RwLock, Weak};

use super::{Source, read_lock};
use crate::sys::dir::Dir;
use crate::tree::link::{ChunkRef, LocalFiles};
use crate::tree::read;
use crate::tree::view::Print;

pub struct Local {
    pub root: Arc<Dir>,
    pub view: RwLock<Option<Weak<Source>>>,
}

impl std::fmt::Debug for Local {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Local")
    }
}

impl LocalFiles for Local {
    fn open(&self, dir: u32, entry: u32) -> Option<(std::fs::File, Print, Vec<ChunkRef>)> {
        let source = read_lock(&self.view).as_ref()?.upgrade()?;
        let items = source.items(dir).ok()?;
        let item = items.get(entry as usize)?;
        let path = read_lock(&source.view).path(dir);
        let file = self.root.open_beneath(&path).ok()?.read(&item.entry.name).ok()?;
        let stat = crate::sys::meta::stat_file(&file).ok()?;
        if !read::is_as_printed(&stat, item) || !item.list.is_some() {
            return None;
        }
        let chunks = read_lock(&source.view).records.all_chunks(item.list).ok()?;
        Some((file, item.print, chunks))
    }
}
