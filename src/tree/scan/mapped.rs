//! Files that are written through memory: what was read of them is as it was, and no stamp will tell when it no longer is.

use std::io::Result;

use crate::sys::dir::Dir;
use crate::sys::mapped::Mapped;
use crate::tree::entry::EntryKind;
use crate::tree::view::{Item, View, encode_items};

/// Has the next scan read again what is `mapped` in these directories of a view of `root`. What was mapped when the reading began
/// and what was when it had ended: a page that was dirty while it was read is of a file that is in either.
pub fn distrust(root: &Dir, view: &mut View, dirs: impl IntoIterator<Item = u32>, mapped: &Mapped) -> Result<()> {
    if mapped.is_empty() {
        return Ok(());
    }
    let may_be_meant = |item: &Item| {
        item.print.trusted
            && matches!(item.entry.kind, EntryKind::File { .. } | EntryKind::Link { .. })
            && mapped.may_contain(item.print.ino)
    };
    for dir in dirs {
        let mut items = view.items(dir)?;
        let mut some = false;
        for item in items.iter_mut().filter(|item| may_be_meant(item)) {
            // An inode alone may be another device's.
            let stat = root.open_beneath(&view.path(dir)).and_then(|open| open.stat(&item.entry.name));
            if stat.map_or(true, |stat| mapped.contains(stat.st_dev, stat.st_ino)) {
                item.print.trusted = false;
                some = true;
            }
        }
        if some {
            // No name depends on what is trusted.
            view.dirs[dir as usize].record = view.records.append(&encode_items(&items))?;
        }
    }
    Ok(())
}
