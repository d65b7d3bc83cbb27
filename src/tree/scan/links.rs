//! Hard links: which name stands for a file that has several.

use std::collections::HashMap;
use std::io::{ErrorKind, Result};

use super::Scan;
use crate::sys::clock::file_clock;
use crate::sys::stamps::Stamps;
use crate::tree::entry::{EntryKind, Meta};
use crate::tree::read::look_at;
use crate::tree::view::{Item, View};

/// One name of a file that has several.
pub struct LinkMember {
    pub path: Vec<u8>,
    pub dir: u32,
    pub at: u32,
}

impl Scan<'_> {
    /// Of each file with several names in the tree, the smallest path stands for it and the others point there.
    pub(super) fn settle_links(
        &self,
        view: &mut View,
        groups: HashMap<(u64, u64), Vec<LinkMember>>,
        unread: &mut Vec<u32>,
    ) -> Result<()> {
        for mut members in groups.into_values() {
            members.sort_unstable_by(|a, b| a.path.cmp(&b.path));
            let first_path: Box<[u8]> = members[0].path.clone().into();
            // Whichever member the index knew as more than a link, all are the same inode and the same content.
            let mut known: Option<Item> = None;
            for member in &members {
                let item = view.items(member.dir)?.swap_remove(member.at as usize);
                if !matches!(item.entry.kind, EntryKind::Link { .. }) && known.as_ref().is_none_or(Item::is_unread) {
                    known = Some(item);
                }
            }
            for (rank, member) in members.iter().enumerate() {
                let mut items = view.items(member.dir)?;
                let item = &mut items[member.at as usize];
                if rank == 0 {
                    if !matches!(item.entry.kind, EntryKind::Link { .. }) && !item.is_unread() {
                        continue;
                    }
                    // All may be remembered as links to a name that is in the view no more.
                    let known = match known.take() {
                        Some(known) => known,
                        None => self.look_anew(view, member.dir, item)?,
                    };
                    if matches!(item.entry.kind, EntryKind::Link { .. }) {
                        view.bytes += known.entry.size();
                    }
                    let name = std::mem::replace(item, known).entry.name;
                    item.entry.name = name;
                    if item.is_unread() {
                        unread.push(member.dir);
                    }
                } else {
                    let kind = EntryKind::Link { first: first_path.clone() };
                    view.links.entry(first_path.clone()).or_default().push(member.path.clone().into());
                    if item.entry.kind == kind {
                        continue;
                    }
                    view.bytes = view.bytes.saturating_sub(item.entry.size());
                    item.entry.kind = kind;
                    item.entry.meta = Meta::default();
                    item.list = Default::default();
                }
                view.set_items(member.dir, &items)?;
            }
        }
        unread.sort_unstable();
        unread.dedup();
        Ok(())
    }

    fn look_anew(&self, view: &View, dir: u32, item: &Item) -> Result<Item> {
        let open = self.root.open_beneath(&view.path(dir))?;
        let now = file_clock();
        let stat = open.stat(&item.entry.name)?;
        let settled = Stamps::at(&open, &item.entry.name).are_settled(&stat, now);
        look_at(&open, &item.entry.name, &stat, settled)?.ok_or_else(|| ErrorKind::NotFound.into())
    }
}
