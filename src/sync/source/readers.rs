//! The readers: files that were asked for whole, small ones in batches, big ones in parts.

use std::sync::atomic::Ordering;

use super::{BATCH_BYTES, BATCH_FILES, Batch, Job, Source, Stop, lock, read_lock, tell, told, write_lock};
use crate::model::sync::LeftOut;
use crate::model::{Name, Result};
use crate::sync::source::index_error;
use crate::sys::dir::{Dir, copy_of, is_gone};
use crate::tree::chunk::{self, MAX};
use crate::tree::entry::EntryKind;
use crate::tree::link::{FileItem, FileState, Tell};
use crate::tree::node::{ListBuilder, ListKind};
use crate::tree::read;
use crate::tree::records::ListWriter;
use crate::tree::scan::keep_list;
use crate::tree::view::{Item, State, join};

impl Source {
    pub fn read_jobs(&self, jobs: &crossbeam_channel::Receiver<Job>) {
        let mut gather = Gather::default();
        loop {
            // Small directories are gathered into one tell, as long as there is more to gather at once.
            let job = match jobs.try_recv() {
                Ok(job) => job,
                Err(_) => {
                    if self.note(self.flush(&mut gather)).is_err() {
                        break;
                    }
                    match jobs.recv() {
                        Ok(job) => job,
                        Err(_) => return,
                    }
                }
            };
            if self.note(self.one_job(job, &mut gather)).is_err() {
                break;
            }
        }
        // Whoever hands out jobs must not wait for a reader that has stopped.
        self.over.store(true, Ordering::Relaxed);
        while jobs.recv().is_ok() {}
    }

    /// Keeps the first failure for the thread that answers.
    fn note(&self, outcome: Result<(), Stop>) -> Result<(), ()> {
        match outcome {
            Ok(()) => Ok(()),
            Err(stop) => {
                if let Stop::Failed(error) = stop {
                    lock(&self.failure).get_or_insert(error);
                }
                Err(())
            }
        }
    }

    fn one_job(&self, job: Job, gather: &mut Gather) -> Result<(), Stop> {
        if self.over.load(Ordering::Relaxed) || self.tell.is_closed() {
            return Err(Stop::HungUp);
        }
        match job {
            Job::Small(batch, entries) => {
                for entry in entries {
                    self.small(&batch, entry, gather)?;
                    if gather.data.len() as u64 >= BATCH_BYTES || gather.items.len() >= BATCH_FILES {
                        self.flush(gather)?;
                    }
                }
                Ok(())
            }
            Job::Big(batch, entry) => {
                self.flush(gather)?;
                self.big(&batch, entry)
            }
            Job::Need { dir, entry, ranges } => {
                self.flush(gather)?;
                self.need(dir, entry, &ranges)
            }
        }
    }

    fn flush(&self, gather: &mut Gather) -> Result<(), Stop> {
        if gather.items.is_empty() {
            return Ok(());
        }
        let full = std::mem::replace(
            gather,
            Gather { items: Vec::new(), data: Vec::with_capacity(BATCH_BYTES as usize + MAX) },
        );
        self.pace.spend(full.data.len() as u64);
        tell(&self.tell, Tell::Files { items: full.items, data: full.data.into() })
    }

    fn small(&self, batch: &Batch, entry: u32, gather: &mut Gather) -> Result<(), Stop> {
        let mut item = lock(&batch.inner).items[entry as usize].clone();
        let before = item.entry.clone();
        let start = gather.data.len();
        let outcome = match &batch.open {
            Ok(open) => read::read_whole(open, &mut item, &mut gather.data),
            Err(error) => Err(copy_of(error)),
        };
        match outcome {
            Ok(whole) => {
                let len = (gather.data.len() - start) as u64;
                self.counters.bytes_read.fetch_add(len, Ordering::Relaxed);
                let view = read_lock(&self.view);
                keep_list(&mut item, &whole.chunks, &view.records).map_err(|cause| index_error(&cause))?;
                drop(view);
                let state = if whole.stable { FileState::Ok } else { FileState::Unstable };
                gather.items.push(told(batch.dir, entry, &before, &item, len, whole.sparse, state));
            }
            Err(error) => {
                gather.data.truncate(start);
                let state = self.lost(batch, &mut item, &error)?;
                gather.items.push(told(batch.dir, entry, &before, &item, 0, false, state));
            }
        }
        self.done(batch, entry, item)
    }

    /// Drops a file that is gone or cannot be read; the latter is told.
    fn lost(&self, batch: &Batch, item: &mut Item, error: &std::io::Error) -> Result<FileState, Stop> {
        item.state = State::Dropped;
        item.entry.set_content(Name::of(b""));
        if is_gone(error) {
            return Ok(FileState::Gone);
        }
        let path = join(&batch.path, &item.entry.name);
        tell(&self.tell, Tell::LeftOut(LeftOut { path, reason: format!("it could not be read: {error}") }))?;
        Ok(FileState::Unreadable)
    }

    /// Puts what is now known of a file into the batch, and the batch into the view when it was the last.
    fn done(&self, batch: &Batch, entry: u32, item: Item) -> Result<(), Stop> {
        let mut inner = lock(&batch.inner);
        let place = &mut inner.items[entry as usize];
        let changed = place.entry != item.entry || place.state != item.state || !place.print.trusted;
        *place = item;
        if changed {
            inner.changed.push(entry);
        }
        inner.left -= 1;
        if inner.left == 0 && !inner.changed.is_empty() {
            let mut view = write_lock(&self.view);
            // Another batch of the same directory may have been put there meanwhile: only what this one read is new.
            let mut items = view.items(batch.dir).map_err(|cause| index_error(&cause))?;
            for &entry in &inner.changed {
                items[entry as usize] = inner.items[entry as usize].clone();
            }
            view.set_items(batch.dir, &items).map_err(|cause| index_error(&cause))?;
            lock(&self.read).insert(batch.dir);
            inner.items = Vec::new();
        }
        Ok(())
    }

    /// Tells a big file in parts, again from its start if it changes meanwhile.
    fn big(&self, batch: &Batch, entry: u32) -> Result<(), Stop> {
        let mut item = lock(&batch.inner).items[entry as usize].clone();
        let before = item.entry.clone();
        let dir = batch.dir;
        let mut tries = 0;
        loop {
            tries += 1;
            let read = match &batch.open {
                Ok(open) => self.big_once(open, dir, entry, &mut item),
                Err(error) => Ok(Err(copy_of(error))),
            };
            let item_told = match read? {
                Ok((true, len, sparse)) => told(dir, entry, &before, &item, len, sparse, FileState::Ok),
                Ok((false, len, sparse)) if tries == read::TRIES => {
                    told(dir, entry, &before, &item, len, sparse, FileState::Unstable)
                }
                Ok((false, ..)) => {
                    tell(&self.tell, Tell::Restart { dir, entry })?;
                    continue;
                }
                Err(error) => {
                    let state = self.lost(batch, &mut item, &error)?;
                    told(dir, entry, &before, &item, 0, false, state)
                }
            };
            tell(&self.tell, Tell::FileEnd(item_told))?;
            return self.done(batch, entry, item);
        }
    }

    /// One reading of a big file: whether it stood still, its length, whether it has holes.
    fn big_once(
        &self,
        dir: &Dir,
        number: u32,
        entry: u32,
        item: &mut Item,
    ) -> Result<std::io::Result<(bool, u64, bool)>, Stop> {
        let open = match read::open(dir, item) {
            Ok(open) => open,
            Err(error) => return Ok(Err(error)),
        };
        let mut writer = ListWriter::default();
        let mut list = ListBuilder::new(ListKind::Chunks, |_, _| ());
        let (mut first, mut count) = (None, 0u64);
        let (mut offset, mut carried) = (0u64, Vec::new());
        loop {
            let mut data = Vec::with_capacity(carried.len() + BATCH_BYTES as usize);
            data.append(&mut carried);
            let kept = data.len() as u64;
            let got = match open.append(&mut data, BATCH_BYTES as usize, offset + kept) {
                Ok(got) => got,
                Err(error) => return Ok(Err(error)),
            };
            self.counters.bytes_read.fetch_add(got as u64, Ordering::Relaxed);
            let last = got < BATCH_BYTES as usize;
            let mut chunks = Vec::new();
            let used = if last && offset == 0 && data.len() <= MAX {
                chunks = chunk::all_chunks(&data);
                data.len()
            } else {
                chunk::chunks(&data, last, &mut chunks)
            };
            carried.extend_from_slice(&data[used..]);
            data.truncate(used);
            for chunk in &chunks {
                first.get_or_insert(chunk.name);
                count += 1;
                list.push_chunk(*chunk);
                let view = read_lock(&self.view);
                writer.push(&view.records, *chunk).map_err(|cause| index_error(&cause))?;
            }
            self.pace.spend(used as u64);
            let at = offset;
            offset += used as u64;
            if used > 0 {
                tell(&self.tell, Tell::Part { dir: number, entry, offset: at, chunks, data: data.into() })?;
            }
            if last {
                break;
            }
        }
        let content = match (count, first) {
            (0, _) | (_, None) => Name::of(b""),
            (1, Some(only)) => only,
            _ => list.finish(),
        };
        let stable = match open.stood_still(item) {
            Ok(still) => still && offset == open.size,
            Err(error) => return Ok(Err(error)),
        };
        item.entry.kind = EntryKind::File { size: offset, content };
        item.print.trusted &= stable;
        item.list = Default::default();
        if count > 1 {
            let view = read_lock(&self.view);
            item.list = writer.finish(&view.records).map_err(|cause| index_error(&cause))?;
        }
        Ok(Ok((stable, offset, open.sparse)))
    }
}

#[derive(Default)]
struct Gather {
    items: Vec<FileItem>,
    data: Vec<u8>,
}
