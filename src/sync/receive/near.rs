//! What the writers make without content from the source: out of files that are near, or of nothing.

use std::fs::File;
use std::sync::atomic::Ordering;

use super::{OpenDir, Placed, Shared, lock, staging};
use crate::model::Result;
use crate::sync::delta::Delta;
use crate::sync::place;
use crate::sync::source::index_error;
use crate::sync::want::Source;
use crate::tree::link::{Ask, FileItem, SentRange};
use crate::tree::records::{ListWriter, Ptr};
use crate::tree::view::{Item, State, join};

impl Shared<'_> {
    /// Takes a file from elsewhere in the own tree or from what an earlier try left; if that fails, asks for it.
    pub fn local(&self, open: &OpenDir, at: u32, from: Source, entry: u32) -> Result<()> {
        let mut item = lock(&open.inner).items[at as usize].clone();
        let taken = match from {
            Source::Own { dir, at } => self.copy_own(open, &item, dir, at)?,
            Source::Salvage { dir, at } => self.take_salvage(open, &item, dir, at)?,
        };
        match taken {
            Some((file, placed, list)) => {
                item.list = list;
                self.bytes_done.fetch_add(item.entry.size(), Ordering::Relaxed);
                let fresh = matches!(from, Source::Own { .. });
                self.dress(open, &file, &mut item, placed, fresh)?;
                self.settle(open, at, item)
            }
            None => self.fetch_instead(open, at, entry),
        }
    }

    fn copy_own(&self, open: &OpenDir, item: &Item, dir: u32, at: u32) -> Result<Option<(File, Placed, Ptr)>> {
        let own = self.site.own;
        let items = own.items(dir).map_err(|cause| index_error(&cause))?;
        let (Some(from), Some(root)) = (items.get(at as usize), self.site.root) else { return Ok(None) };
        let source = root.open_beneath(&own.path(dir)).and_then(|folder| folder.read(&from.entry.name));
        let Ok(source) = source else { return Ok(None) };
        let list = match from.list.is_some() {
            true => own.records.all_chunks(from.list).map_err(|cause| index_error(&cause))?,
            false => Vec::new(),
        };
        let (file, placed) = self.create(open, item)?;
        if place::copy_unchanged(&source, &file, from, &list)
            .map_err(|cause| staging(&join(&open.path, &item.entry.name), cause))?
        {
            return Ok(Some((file, placed, from.list)));
        }
        self.discard(open, item, placed)?;
        Ok(None)
    }

    fn take_salvage(&self, open: &OpenDir, item: &Item, dir: u32, at: u32) -> Result<Option<(File, Placed, Ptr)>> {
        let Some((view, root)) = self.site.salvage else { return Ok(None) };
        let items = view.items(dir).map_err(|cause| index_error(&cause))?;
        let Some(from) = items.get(at as usize) else { return Ok(None) };
        let Ok(folder) = root.open_beneath(&view.path(dir)) else { return Ok(None) };
        let failed = |cause| staging(&join(&open.path, &item.entry.name), cause);
        let (to, name, placed) = match &open.place {
            Some(place) => (place.open_beneath(b"").map_err(failed)?, item.entry.name.to_vec(), Placed::There),
            None => {
                let (slot, dir, name) = self.site.stage.new_slot().map_err(failed)?;
                (dir, name, Placed::Slot(slot))
            }
        };
        if folder.rename_new(&from.entry.name, &to, &name).is_err() {
            return Ok(None);
        }
        let list = match from.list.is_some() {
            true => self.records.copy_list(&view.records, from.list).map_err(|cause| index_error(&cause))?,
            false => Ptr::default(),
        };
        let file = to.write(&name).map_err(failed)?;
        Ok(Some((file, placed, list)))
    }

    /// A big file of a source in this process: the kernel copies it, or the file system shares it.
    pub fn share(&self, open: &OpenDir, at: u32, entry: u32) -> Result<()> {
        let mut item = lock(&open.inner).items[at as usize].clone();
        let source = self.site.local.as_ref().and_then(|local| local.open(open.src, entry));
        let Some((source, print, list)) = source else { return self.fetch_instead(open, at, entry) };
        let (file, placed) = self.create(open, &item)?;
        let path = join(&open.path, &item.entry.name);
        let from = Item { print, ..item.clone() };
        if !place::copy_unchanged(&source, &file, &from, &list).map_err(|cause| staging(&path, cause))? {
            self.discard(open, &item, placed)?;
            return self.fetch_instead(open, at, entry);
        }
        let mut writer = ListWriter::default();
        let count = list.len();
        for chunk in list {
            writer.push(&self.records, chunk).map_err(|cause| index_error(&cause))?;
        }
        if count > 1 {
            item.list = writer.finish(&self.records).map_err(|cause| index_error(&cause))?;
        }
        self.bytes_done.fetch_add(item.entry.size(), Ordering::Relaxed);
        self.dress(open, &file, &mut item, placed, true)?;
        self.settle(open, at, item)
    }

    /// Makes a link, FIFO, socket or device.
    pub fn make(&self, open: &OpenDir, at: u32) -> Result<()> {
        let mut item = lock(&open.inner).items[at as usize].clone();
        let path = join(&open.path, &item.entry.name);
        let made = match &open.place {
            Some(dir) => place::make(dir, &item.entry.name, &item.entry)
                .and_then(|refusals| Ok((refusals, place::inode_of(dir, &item.entry.name)?, Placed::There))),
            None => self.site.stage.new_slot().and_then(|(slot, dir, name)| {
                Ok((place::make(&dir, &name, &item.entry)?, place::inode_of(&dir, &name)?, Placed::Slot(slot)))
            }),
        };
        match made {
            Ok((refusals, ino, placed)) => {
                item.print.ino = ino;
                self.refused(path, refusals);
                item.state = placed.state();
                item.slot = placed.slot();
            }
            Err(error) if place::is_refusal(&error) => {
                self.refused(path, vec![format!("it could not be made: {error}")]);
                item.state = State::Dropped;
                item.slot = 1;
            }
            Err(cause) => return Err(staging(&path, cause)),
        }
        self.settle(open, at, item)
    }

    pub fn plan_delta(&self, open: &OpenDir, at: u32, delta: &Delta, told: FileItem) -> Result<()> {
        let mut item = lock(&open.inner).items[at as usize].clone();
        let (dir, entry) = (told.dir, told.entry);
        if !self.take_told(open, &mut item, &told)? {
            self.delta_over(dir, entry);
            return self.settle(open, at, item);
        }
        match delta.plan(self, open, item, told)? {
            Some(ranges) if !ranges.is_empty() => self.ask_for(ranges.len() as u64, Ask::Need { dir, entry, ranges }),
            Some(_) => self.end_delta(open, at, delta, entry),
            None => {
                self.delta_over(dir, entry);
                self.fetch_instead(open, at, entry)
            }
        }
    }

    pub fn delta_ranges(
        &self,
        open: &OpenDir,
        at: u32,
        delta: &Delta,
        first: u32,
        ranges: &[SentRange],
        data: &[u8],
    ) -> Result<()> {
        if delta.write_ranges(self, open, first, ranges, data)? {
            let entry = delta.entry();
            return self.end_delta(open, at, delta, entry);
        }
        Ok(())
    }

    fn end_delta(&self, open: &OpenDir, at: u32, delta: &Delta, entry: u32) -> Result<()> {
        let finished = delta.finish(self, open)?;
        self.delta_over(open.src, entry);
        match finished {
            Some(item) => self.settle(open, at, item),
            None => self.fetch_instead(open, at, entry),
        }
    }

    fn delta_over(&self, dir: u32, entry: u32) {
        lock(&self.deltas_over).push((dir, entry));
        self.deltas.fetch_sub(1, Ordering::AcqRel);
    }
}
