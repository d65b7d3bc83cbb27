//! Reading what the index does not vouch for.

use std::io::{ErrorKind, Result};
use std::sync::atomic::Ordering;
use std::sync::{Mutex, PoisonError};

use super::{BIG_BYTES, Findings, Scan, distrust, lock, reason, threads};
use crate::model::Name;
use crate::model::sync::LeftOut;
use crate::sys::dir::{Dir, copy_of, is_gone};
use crate::sys::mapped::Mapped;
use crate::tree::entry::EntryKind;
use crate::tree::link::ChunkRef;
use crate::tree::records::{ListWriter, Records};
use crate::tree::view::{Item, State, View, encode_items, join};
use crate::tree::{big, node, read};

impl Scan<'_> {
    /// Reads every file of the view that is unread, and names it.
    pub fn read(&self, view: &mut View, findings: &mut Findings) -> Result<()> {
        if findings.unread.is_empty() {
            return Ok(());
        }
        let unread = findings.unread.clone();
        let work = Mutex::new((std::mem::take(&mut findings.unread), Vec::new(), Vec::new(), Vec::new()));
        let shown: &View = view;
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..threads())
                .map(|_| {
                    scope.spawn(|| -> Result<()> {
                        let mut buffer = Vec::new();
                        loop {
                            let Some(dir) = lock(&work).0.pop() else { return Ok(()) };
                            let (items, mut left_out, big) = self.read_dir(shown, dir, &mut buffer)?;
                            let record = shown.records.append(&encode_items(&items))?;
                            let mut held = lock(&work);
                            held.1.push((dir, record));
                            held.2.append(&mut left_out);
                            held.3.extend(big.into_iter().map(|at| (dir, at)));
                        }
                    })
                })
                .collect();
            threads.into_iter().try_for_each(|thread| {
                thread.join().unwrap_or_else(|_| Err(std::io::Error::other("a reading thread panicked")))
            })
        })?;
        let (_, records, left_out, big) = work.into_inner().unwrap_or_else(PoisonError::into_inner);
        for (dir, record) in records {
            let node = &mut view.dirs[dir as usize];
            (node.record, node.dirty) = (record, true);
        }
        findings.left_out.extend(left_out);
        // Those of one folder come one after the other, and their folder is written once.
        for big in big.chunk_by(|(a, _), (b, _)| a == b) {
            let Some(&(dir, _)) = big.first() else { continue };
            let (mut items, path) = (view.items(dir)?, view.path(dir));
            for &(_, at) in big {
                let item = &mut items[at as usize];
                let outcome = self.root.open_beneath(&path).and_then(|open| self.read_big(&open, item, &view.records));
                note_failure(outcome, item, &path, &mut findings.left_out)?;
            }
            view.set_items(dir, &items)?;
        }
        distrust(self.root, view, unread, &Mapped::now().and(&findings.mapped))
    }

    /// Reads the small unread files of one directory; tells which of its items are big.
    fn read_dir(&self, view: &View, dir: u32, buffer: &mut Vec<u8>) -> Result<(Vec<Item>, Vec<LeftOut>, Vec<u32>)> {
        let mut items = view.items(dir)?;
        let (mut left_out, mut big) = (Vec::new(), Vec::new());
        let path = view.path(dir);
        let open = self.root.open_beneath(&path);
        for (at, item) in items.iter_mut().enumerate().filter(|(_, item)| item.is_unread()) {
            if self.cancel.load(Ordering::Relaxed) {
                return Err(ErrorKind::Interrupted.into());
            }
            if item.entry.size() >= BIG_BYTES {
                big.push(at as u32);
                continue;
            }
            let outcome = match &open {
                Ok(open) => {
                    buffer.clear();
                    read::read_whole(open, item, buffer).and_then(|whole| {
                        self.counters.bytes_read.fetch_add(buffer.len() as u64, Ordering::Relaxed);
                        keep_list(item, &whole.chunks, &view.records)
                    })
                }
                Err(error) => Err(copy_of(error)),
            };
            note_failure(outcome, item, &path, &mut left_out)?;
        }
        Ok((items, left_out, big))
    }

    /// Cuts a big file with all threads, again if it changes meanwhile, and names it.
    pub fn read_big(&self, dir: &Dir, item: &mut Item, records: &Records) -> Result<()> {
        for attempt in 1..=read::TRIES {
            let open = read::open(dir, item)?;
            let mut writer = ListWriter::default();
            let mut list = node::ListBuilder::new(node::ListKind::Chunks, |_, _| ());
            let (mut size, mut count, mut first) = (0u64, 0u64, None);
            big::chunk_file(&open, threads(), self.cancel, &self.counters.bytes_read, |chunk: ChunkRef| {
                size += u64::from(chunk.len);
                count += 1;
                first.get_or_insert(chunk.name);
                list.push_chunk(chunk);
                writer.push(records, chunk)
            })?;
            let content = match (count, first) {
                (0, _) | (_, None) => Name::of(b""),
                (1, Some(only)) => only,
                _ => list.finish(),
            };
            let stable = size == open.size && open.stood_still(item)?;
            if stable || attempt == read::TRIES {
                item.entry.kind = EntryKind::File { size, content };
                item.print.trusted &= stable;
                if count > 1 {
                    item.list = writer.finish(records)?;
                }
                return Ok(());
            }
        }
        Ok(())
    }
}

/// Remembers the chunk list of a file that has more than one.
pub fn keep_list(item: &mut Item, chunks: &[ChunkRef], records: &Records) -> Result<()> {
    item.list = Default::default();
    if chunks.len() > 1 {
        let mut writer = ListWriter::default();
        chunks.iter().try_for_each(|chunk| writer.push(records, *chunk))?;
        item.list = writer.finish(records)?;
    }
    Ok(())
}

/// A file that is gone, or cannot be read, is dropped; only other failures stop the scan.
fn note_failure(outcome: Result<()>, item: &mut Item, dir: &[u8], left_out: &mut Vec<LeftOut>) -> Result<()> {
    let Err(error) = outcome else { return Ok(()) };
    match error.kind() {
        ErrorKind::Interrupted | ErrorKind::StorageFull | ErrorKind::InvalidData => return Err(error),
        _ if is_gone(&error) => {}
        _ => left_out.push(LeftOut { path: join(dir, &item.entry.name), reason: reason("read", &error) }),
    }
    item.state = State::Dropped;
    // A name of its own, so that it counts as read; it stands in no listing.
    item.entry.set_content(Name::of(b""));
    Ok(())
}
