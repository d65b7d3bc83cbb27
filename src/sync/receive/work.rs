//! What the writers do with what came: verify it, write it, give it its metadata, settle it.

use std::fs::File;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::{Big, Job, OpenDir, Placed, Shared, TRIES, lock, staging};
use crate::model::sync::{Event, LeftOut};
use crate::model::{Error, Name, Result};
use crate::sync::place;
use crate::sync::source::index_error;
use crate::sync::stage::Stage;
use crate::sync::talk::{gone, nonsense};
use crate::sync::want::NONE;
use crate::sys::attrs::drop_views;
use crate::tree::chunk::{self, MAX};
use crate::tree::entry::{Entry, EntryKind};
use crate::tree::link::{Ask, ChunkRef, FileItem, FileState};
use crate::tree::node::content_name;
use crate::tree::view::{Item, State, join};

impl Shared<'_> {
    pub(super) fn work(&self, jobs: &crossbeam_channel::Receiver<Job>) {
        /// A writer that dies leaves its work undone: nobody may wait for that.
        struct Alive<'a>(&'a AtomicBool);
        impl Drop for Alive<'_> {
            fn drop(&mut self) {
                if std::thread::panicking() {
                    self.0.store(true, Ordering::Relaxed);
                }
            }
        }
        let _alive = Alive(&self.over);
        while let Ok(job) = jobs.recv() {
            // After a failure the queue is still emptied: whoever fills it must not wait for ever.
            if self.over.load(Ordering::Relaxed) {
                continue;
            }
            if let Err(error) = self.one_job(job) {
                lock(&self.failure).get_or_insert(error);
                self.over.store(true, Ordering::Relaxed);
            }
            self.show(false);
        }
        self.show(true);
    }

    fn one_job(&self, job: Job) -> Result<()> {
        match job {
            Job::Files(work, data) => {
                work.into_iter().try_for_each(|(open, at, item, range)| self.small(&open, at, &item, &data[range]))
            }
            Job::Part(big, offset, chunks, data) => {
                self.write_part(&big, offset, &chunks, &data)?;
                self.end_if_last(&big)
            }
            Job::End(big) => self.end_if_last(&big),
            Job::Local(open, at, from, entry) => self.local(&open, at, from, entry),
            Job::Share(open, at, entry) => self.share(&open, at, entry),
            Job::Make(open, all) => all.into_iter().try_for_each(|at| self.make(&open, at)),
            Job::DeltaPlan(open, at, delta, item) => self.plan_delta(&open, at, &delta, item),
            Job::DeltaRanges(open, at, delta, first, ranges, data) => {
                self.delta_ranges(&open, at, &delta, first, &ranges, &data)
            }
        }
    }

    /// Asks the source for what will bring `answers` answers.
    pub fn ask_for(&self, answers: u64, ask: Ask) -> Result<()> {
        self.awaited.fetch_add(answers, Ordering::AcqRel);
        self.ask.send(ask).map_err(|_| gone())
    }

    /// A new file for an item, where it is to be staged.
    pub fn create(&self, open: &OpenDir, item: &Item) -> Result<(File, Placed)> {
        let created = match &open.place {
            Some(dir) => place::create(dir, &item.entry.name, item.entry.meta.mode).map(|file| (file, Placed::There)),
            None => self.site.stage.new_slot().and_then(|(slot, dir, name)| {
                Ok((place::create(&dir, &name, item.entry.meta.mode)?, Placed::Slot(slot)))
            }),
        };
        created.map_err(|cause| staging(&join(&open.path, &item.entry.name), cause))
    }

    /// Stages a small file, or takes note that it is not there.
    fn small(&self, open: &OpenDir, at: u32, told: &FileItem, data: &[u8]) -> Result<()> {
        let mut item = lock(&open.inner).items[at as usize].clone();
        if !self.take_told(open, &mut item, told)? {
            // An earlier reading of it may have come in part, and stands in the new folder under its name.
            if let Some(dir) = &open.place {
                dir.remove_all(&item.entry.name)
                    .map_err(|cause| staging(&join(&open.path, &item.entry.name), cause))?;
            }
            return self.settle(open, at, item);
        }
        if !self.trusted && content_name(&chunk::all_chunks(data)) != told.content {
            return Err(nonsense("a file that is not what its name says"));
        }
        if data.len() > MAX {
            // It grew since it was listed, and was told whole nonetheless.
            crate::tree::scan::keep_list(&mut item, &chunk::all_chunks(data), &self.records)
                .map_err(|cause| index_error(&cause))?;
        }
        let (file, placed) = self.create(open, &item)?;
        place::write(&file, data, 0, told.sparse)
            .and_then(|()| if told.sparse { file.set_len(data.len() as u64) } else { Ok(()) })
            .map_err(|cause| staging(&join(&open.path, &item.entry.name), cause))?;
        self.bytes_done.fetch_add(data.len() as u64, Ordering::Relaxed);
        self.dress(open, &file, &mut item, placed, true)?;
        self.settle(open, at, item)
    }

    /// Takes over what the source says a file is now. False if there is nothing to stage.
    pub fn take_told(&self, open: &OpenDir, item: &mut Item, told: &FileItem) -> Result<bool> {
        if let Some(now) = &told.now {
            let mut bytes = &now[..];
            let entry = Entry::decode(&mut bytes).filter(|entry| {
                entry.name == item.entry.name && matches!(entry.kind, EntryKind::File { .. }) && bytes.is_empty()
            });
            item.entry = entry.ok_or_else(|| nonsense("an entry that cannot be read"))?;
            if drop_views(&mut item.entry.meta.xattrs) {
                lock(&self.staged).incomplete = true;
            }
        }
        match told.state {
            FileState::Ok => {}
            FileState::Unstable => {
                let path = join(&open.path, &item.entry.name);
                let reason = "it changed while it was read, each time; what is here is one reading of it".to_string();
                lock(&self.staged).left_out.push(LeftOut { path, reason });
            }
            FileState::Gone | FileState::Unreadable => {
                item.state = State::Dropped;
                if told.state == FileState::Unreadable || self.site.no_remove {
                    lock(&self.staged).incomplete = true;
                    // Whatever the target has there is left alone.
                    item.slot = 1;
                } else {
                    item.slot = 0;
                }
                return Ok(false);
            }
        }
        item.entry.kind = EntryKind::File { size: told.len, content: told.content };
        Ok(true)
    }

    fn write_part(&self, big: &Big, offset: u64, chunks: &[ChunkRef], data: &[u8]) -> Result<()> {
        if !self.trusted {
            let mut at = 0;
            for chunk in chunks {
                let end = at + chunk.len as usize;
                if Name::of(&data[at..end]) != chunk.name {
                    return Err(nonsense("a chunk that is not what its name says"));
                }
                at = end;
            }
        }
        self.bytes_done.fetch_add(data.len() as u64, Ordering::Relaxed);
        place::write(&big.file, data, offset, big.sparse).map_err(|cause| {
            let name = lock(&big.open.inner).items[big.at as usize].entry.name.clone();
            staging(&join(&big.open.path, &name), cause)
        })
    }

    fn end_if_last(&self, big: &Big) -> Result<()> {
        if big.left.fetch_sub(1, Ordering::AcqRel) != 1 {
            return Ok(());
        }
        let Some((told, list)) = lock(&big.end).take() else { return Ok(()) };
        let mut item = lock(&big.open.inner).items[big.at as usize].clone();
        self.take_told(&big.open, &mut item, &told)?;
        item.list = list;
        let path = join(&big.open.path, &item.entry.name);
        let filled = if told.sparse { Ok(()) } else { place::fill_holes(&big.file, told.len) };
        filled.and_then(|()| big.file.set_len(told.len)).map_err(|cause| staging(&path, cause))?;
        self.dress(&big.open, &big.file, &mut item, big.placed, true)?;
        self.settle(&big.open, big.at, item)
    }

    /// Gives a staged file its metadata.
    pub fn dress(&self, open: &OpenDir, file: &File, item: &mut Item, placed: Placed, fresh: bool) -> Result<()> {
        let path = join(&open.path, &item.entry.name);
        let refusals = place::dress(file, &item.entry, fresh).map_err(|cause| staging(&path, cause))?;
        item.print.ino = crate::sys::meta::stat_file(file).map_err(|cause| staging(&path, cause))?.st_ino;
        self.refused(path, refusals);
        item.state = placed.state();
        item.slot = placed.slot();
        Ok(())
    }

    pub fn refused(&self, path: Vec<u8>, refusals: Vec<String>) {
        if !refusals.is_empty() {
            let mut staged = lock(&self.staged);
            staged.incomplete = true;
            staged.left_out.extend(refusals.into_iter().map(|reason| LeftOut { path: path.clone(), reason }));
        }
    }

    /// Removes a staged file that came to nothing.
    pub fn discard(&self, open: &OpenDir, item: &Item, placed: Placed) -> Result<()> {
        let removed = match (&open.place, placed) {
            (Some(dir), Placed::There) => dir.remove_file(&item.entry.name),
            (_, Placed::Slot(slot)) => {
                let path = Stage::slot_path(slot);
                let (folder, name) = crate::sys::dir::split_last(&path);
                self.site.stage.dir.open_beneath(folder).and_then(|folder| folder.remove_file(name))
            }
            (None, Placed::There) => Ok(()),
        };
        removed.map_err(|cause| staging(&join(&open.path, &item.entry.name), cause))
    }

    /// Asks for the whole file after all.
    pub fn fetch_instead(&self, open: &OpenDir, at: u32, entry: u32) -> Result<()> {
        let mut inner = lock(&open.inner);
        let tries = inner.tries.entry(at).or_default();
        *tries += 1;
        if *tries > TRIES || entry == NONE || open.src == NONE {
            let path = String::from_utf8_lossy(&join(&open.path, &inner.items[at as usize].entry.name)).into_owned();
            return Err(Error::failed(format!("{path} keeps changing in the target while it is used"))
                .hint("run the sync again"));
        }
        inner.by_src.insert(entry, at);
        drop(inner);
        self.ask_for(1, Ask::Fetch { dir: open.src, entries: vec![entry] })
    }

    pub fn add_bytes_done(&self, bytes: u64) {
        self.bytes_done.fetch_add(bytes, Ordering::Relaxed);
    }

    /// An entry is done with, one way or the other; the directory's record is written with its last.
    pub fn settle(&self, open: &OpenDir, at: u32, item: Item) -> Result<()> {
        if matches!(item.entry.kind, EntryKind::File { .. }) {
            self.files_done.fetch_add(1, Ordering::Relaxed);
        }
        let mut inner = lock(&open.inner);
        inner.items[at as usize] = item;
        inner.left -= 1;
        if inner.left == 0 {
            let items = std::mem::take(&mut inner.items);
            drop(inner);
            let bytes = crate::tree::view::encode_items(&items);
            let record = self.records.append(&bytes).map_err(|cause| index_error(&cause))?;
            lock(&self.finished).push((open.src, open.want, record));
        }
        self.pending.fetch_sub(1, Ordering::AcqRel);
        Ok(())
    }

    /// Tells how far it is, a few times a second.
    fn show(&self, last: bool) {
        let mut shown = lock(&self.shown);
        if !last && shown.is_some_and(|at| at.elapsed() < Duration::from_millis(100)) {
            return;
        }
        *shown = Some(Instant::now());
        let (files_total, bytes_total) = self.site.totals;
        self.site.observer.event(Event::Moving {
            files_done: self.files_done.load(Ordering::Relaxed).min(files_total),
            files_total,
            bytes_done: self.bytes_done.load(Ordering::Relaxed).min(bytes_total),
            bytes_total,
        });
    }
}
