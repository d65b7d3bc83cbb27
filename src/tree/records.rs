//! The index file: an append-only file of checked records, with a table of directories at its end (docs/formats.md, Index).
//!
//! It is a memory, never the truth: whatever in it is damaged is found by its checksum and read from the tree again. While
//! a scan runs, its new records go behind the old ones; they count when [`Records::save`] points the header at a new table.

use std::collections::HashMap;
use std::fs::File;
use std::io::{Error, ErrorKind, Result};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use super::entry::{put, take, take_name};
use super::link::ChunkRef;
use crate::model::Name;
use crate::sys::dir::{lock_file, private_file};

/// Where a record is: its place in the file and the length of its payload. Length 0 is no record.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Ptr {
    pub offset: u64,
    pub len: u32,
}

impl Ptr {
    pub fn is_some(self) -> bool {
        self.len > 0
    }

    pub fn encode(self, out: &mut Vec<u8>) {
        put(out, self.offset);
        put(out, self.len.into());
    }

    pub fn decode(bytes: &mut &[u8]) -> Option<Ptr> {
        Some(Ptr { offset: take(bytes)?, len: u32::try_from(take(bytes)?).ok()? })
    }
}

/// What the table remembers of a directory.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// Device and inode of the directory.
    pub id: (u64, u64),
    pub record: Ptr,
    pub content: Name,
    /// Something below it is left out by the rules under which it was scanned.
    pub protected: bool,
}

/// The rows of an index by the device and inode of their directory.
pub type Rows = HashMap<(u64, u64), Row>;

pub struct Records {
    file: File,
    end: AtomicU64,
    /// Where it lives, if it is kept.
    path: Option<PathBuf>,
}

const MAGIC: &[u8; 16] = b"mcloud index 1\n\0";
const HEADER: u64 = 4096;
/// Two header slots, written in turn, so that one of them is always whole.
const SLOTS: [u64; 2] = [512, 1024];
const CHECK: usize = 8;
/// Records up to this size are copied, to be written with their checksum in one call; larger ones are not held twice.
const COPIED: usize = 1 << 20;
/// Chunks in one segment of a chunk list.
const SEGMENT: usize = 4096;

/// What became of the index file when it was opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Found {
    Whole,
    Missing,
    /// Somebody else writes it: this run remembers nothing.
    InUse,
    Damaged,
}

impl Records {
    /// Opens or makes the index at `path`; reads its table. `None` keeps nothing beyond this run.
    pub fn open(path: Option<&Path>) -> Result<(Records, Rows, Found)> {
        let Some(path) = path else {
            return Ok((Records::unnamed(&std::env::temp_dir())?, HashMap::new(), Found::Missing));
        };
        let folder = path.parent().unwrap_or(Path::new("."));
        std::os::unix::fs::DirBuilderExt::mode(std::fs::DirBuilder::new().recursive(true), 0o700).create(folder)?;
        let Some(file) = lock_file(path)? else {
            return Ok((Records::unnamed(folder)?, HashMap::new(), Found::InUse));
        };
        let len = file.metadata()?.len();
        let mut records = Records { file, end: AtomicU64::new(HEADER), path: Some(path.to_owned()) };
        if len == 0 {
            records.file.write_all_at(MAGIC, 0)?;
            return Ok((records, HashMap::new(), Found::Missing));
        }
        match records.load(len) {
            Ok((rows, end)) => {
                records.end = AtomicU64::new(end);
                Ok((records, rows, Found::Whole))
            }
            Err(error) if error.kind() == ErrorKind::InvalidData || error.kind() == ErrorKind::UnexpectedEof => {
                records.reset()?;
                Ok((records, HashMap::new(), Found::Damaged))
            }
            Err(error) => Err(error),
        }
    }

    fn unnamed(folder: &Path) -> Result<Records> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let name = format!(".mcloud-index-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let path = folder.join(name);
        let file = private_file().create_new(true).open(&path)?;
        std::fs::remove_file(&path)?;
        Ok(Records { file, end: AtomicU64::new(HEADER), path: None })
    }

    /// Forgets everything, after damage.
    pub fn reset(&self) -> Result<()> {
        self.file.set_len(0)?;
        self.file.write_all_at(MAGIC, 0)?;
        self.end.store(HEADER, Ordering::Relaxed);
        Ok(())
    }

    fn load(&self, len: u64) -> Result<(Rows, u64)> {
        let mut magic = [0; 16];
        self.file.read_exact_at(&mut magic, 0)?;
        let newest = self.slots()?.into_iter().max_by_key(|(sequence, _)| *sequence);
        let Some((_, table)) = newest.filter(|_| &magic == MAGIC) else { return Err(damaged()) };
        if table.offset + u64::from(table.len) > len {
            return Err(damaged());
        }
        let bytes = self.read(table)?;
        let mut rest = &bytes[..];
        let rows = decode_rows(&mut rest).ok_or_else(damaged)?;
        Ok((rows.into_iter().map(|row| (row.id, row)).collect(), table.offset + u64::from(table.len) + CHECK as u64))
    }

    fn slots(&self) -> Result<Vec<(u64, Ptr)>> {
        let mut found = Vec::new();
        for at in SLOTS {
            let mut slot = [0; 28];
            if self.file.read_exact_at(&mut slot, at).is_err() {
                continue;
            }
            let number = |range: std::ops::Range<usize>| {
                slot[range].iter().rev().fold(0u64, |value, &byte| value << 8 | u64::from(byte))
            };
            if check(&slot[..20]) == slot[20..] {
                found.push((number(0..8), Ptr { offset: number(8..16), len: number(16..20) as u32 }));
            }
        }
        Ok(found)
    }

    /// Appends a record.
    pub fn append(&self, payload: &[u8]) -> Result<Ptr> {
        let len = u32::try_from(payload.len()).map_err(|_| Error::new(ErrorKind::InvalidInput, "record too large"))?;
        let offset = self.end.fetch_add((payload.len() + CHECK) as u64, Ordering::Relaxed);
        if payload.len() > COPIED {
            self.file.write_all_at(payload, offset)?;
            self.file.write_all_at(&check(payload), offset + payload.len() as u64)?;
            return Ok(Ptr { offset, len });
        }
        let mut bytes = Vec::with_capacity(payload.len() + CHECK);
        bytes.extend_from_slice(payload);
        bytes.extend_from_slice(&check(payload));
        self.file.write_all_at(&bytes, offset)?;
        Ok(Ptr { offset, len })
    }

    /// Reads a record and checks it; `InvalidData` if it is not what was written.
    pub fn read(&self, at: Ptr) -> Result<Vec<u8>> {
        let mut bytes = vec![0; at.len as usize + CHECK];
        self.file.read_exact_at(&mut bytes, at.offset)?;
        if check(&bytes[..at.len as usize]) != bytes[at.len as usize..] {
            return Err(damaged());
        }
        bytes.truncate(at.len as usize);
        Ok(bytes)
    }

    /// Makes these rows the remembered state. Not synced to disk: what a power cut tears is found by its checksum.
    pub fn save(&self, rows: &[Row]) -> Result<()> {
        let mut bytes = Vec::new();
        put(&mut bytes, rows.len() as u64);
        for row in rows {
            put(&mut bytes, row.id.0);
            put(&mut bytes, row.id.1);
            row.record.encode(&mut bytes);
            bytes.extend_from_slice(&row.content.0);
            bytes.push(u8::from(row.protected));
        }
        let table = self.append(&bytes)?;
        let sequence = self.slots()?.into_iter().map(|(sequence, _)| sequence).max().unwrap_or(0) + 1;
        let mut slot = Vec::with_capacity(28);
        slot.extend_from_slice(&sequence.to_le_bytes());
        slot.extend_from_slice(&table.offset.to_le_bytes());
        slot.extend_from_slice(&table.len.to_le_bytes());
        slot.extend_from_slice(&check(&slot[..20]));
        self.file.write_all_at(&slot, SLOTS[(sequence % 2) as usize])
    }

    /// Bytes in the file so far.
    pub fn len_bytes(&self) -> u64 {
        self.end.load(Ordering::Relaxed)
    }

    /// Whether what is saved is found again by a later run.
    pub fn is_kept(&self) -> bool {
        self.path.is_some()
    }

    /// A new, empty index file that takes this one's place when [`Records::replace`] is called on it.
    pub fn successor(&self) -> Result<Option<Records>> {
        let Some(path) = &self.path else { return Ok(None) };
        let mut fresh = path.clone().into_os_string();
        fresh.push(".new");
        let file = private_file().create(true).truncate(true).open(&fresh)?;
        file.write_all_at(MAGIC, 0)?;
        Ok(Some(Records { file, end: AtomicU64::new(HEADER), path: Some(fresh.into()) }))
    }

    /// Puts this successor in `old`'s place.
    pub fn replace(self, old: &Records) -> Result<()> {
        match (&self.path, &old.path) {
            (Some(from), Some(to)) => std::fs::rename(from, to),
            _ => Ok(()),
        }
    }

    /// Reads a chunk list segment by segment.
    pub fn each_chunk(&self, list: Ptr, mut each: impl FnMut(ChunkRef)) -> Result<()> {
        for segment in self.segments(list)? {
            let bytes = self.read(segment)?;
            let mut rest = &bytes[..];
            while !rest.is_empty() {
                let len = take(&mut rest).and_then(|len| u32::try_from(len).ok()).ok_or_else(damaged)?;
                each(ChunkRef { len, name: take_name(&mut rest).ok_or_else(damaged)? });
            }
        }
        Ok(())
    }

    pub fn all_chunks(&self, list: Ptr) -> Result<Vec<ChunkRef>> {
        let mut chunks = Vec::new();
        self.each_chunk(list, |chunk| chunks.push(chunk))?;
        Ok(chunks)
    }

    fn segments(&self, list: Ptr) -> Result<Vec<Ptr>> {
        let bytes = self.read(list)?;
        let mut rest = &bytes[..];
        let mut segments = Vec::new();
        while !rest.is_empty() {
            segments.push(Ptr::decode(&mut rest).ok_or_else(damaged)?);
        }
        Ok(segments)
    }

    /// Copies a chunk list from another index file into this one; returns its place and the bytes it takes.
    pub fn copy_list(&self, from: &Records, list: Ptr) -> Result<Ptr> {
        let mut top = Vec::new();
        for segment in from.segments(list)? {
            self.append(&from.read(segment)?)?.encode(&mut top);
        }
        self.append(&top)
    }
}

/// Writes a chunk list as it becomes known, in bounded memory.
#[derive(Default)]
pub struct ListWriter {
    segment: Vec<u8>,
    count: usize,
    top: Vec<u8>,
}

impl ListWriter {
    pub fn push(&mut self, records: &Records, chunk: ChunkRef) -> Result<()> {
        put(&mut self.segment, chunk.len.into());
        self.segment.extend_from_slice(&chunk.name.0);
        self.count += 1;
        if self.count == SEGMENT {
            self.flush(records)?;
        }
        Ok(())
    }

    fn flush(&mut self, records: &Records) -> Result<()> {
        if self.count > 0 {
            records.append(&self.segment)?.encode(&mut self.top);
            self.segment.clear();
            self.count = 0;
        }
        Ok(())
    }

    pub fn finish(mut self, records: &Records) -> Result<Ptr> {
        self.flush(records)?;
        records.append(&self.top)
    }
}

fn decode_rows(bytes: &mut &[u8]) -> Option<Vec<Row>> {
    let count = take(bytes)?;
    let mut rows = Vec::with_capacity(usize::try_from(count).ok()?.min(bytes.len()));
    for _ in 0..count {
        let id = (take(bytes)?, take(bytes)?);
        let record = Ptr::decode(bytes)?;
        let content = take_name(bytes)?;
        let (&flag, rest) = bytes.split_first()?;
        *bytes = rest;
        rows.push(Row { id, record, content, protected: flag != 0 });
    }
    Some(rows)
}

fn check(bytes: &[u8]) -> [u8; CHECK] {
    let mut short = [0; CHECK];
    short.copy_from_slice(&blake3::hash(bytes).as_bytes()[..CHECK]);
    short
}

/// The error for a record that is not what was written.
pub fn damaged() -> Error {
    Error::new(ErrorKind::InvalidData, "the index is damaged")
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn an_index_is_its_owners_alone_whatever_the_umask() {
        crate::sys::dir::clear_umask();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("in/index");
        let (records, ..) = Records::open(Some(&path)).unwrap();
        let fresh = records.successor().unwrap().unwrap();
        let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&path), 0o600);
        assert_eq!(mode(fresh.path.as_ref().unwrap()), 0o600);
        assert_eq!(mode(&dir.path().join("in")), 0o700);
    }
}
