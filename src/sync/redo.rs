//! The redo log: every change a commit makes to the tree, written down and durable before the first is made
//! (docs/formats.md, Redo log). [`replay`](super::replay) makes the changes.

use std::fs::File;
use std::io::{BufReader, BufWriter, Error, ErrorKind, Read, Result, Seek, SeekFrom, Write};

use crate::tree::entry::{Entry, put, put_bytes, take, take_bytes};

/// One change. Paths in the tree are relative to the root, paths in the stage to the stage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// What stands at `path`, if it still is inode `ino`, goes to `to` in the stage.
    Detach { path: Vec<u8>, ino: u64, to: Vec<u8> },
    /// The file at `path`, if it still is inode `ino`, is removed.
    Unlink { path: Vec<u8>, ino: u64 },
    /// What is at `from` in the stage goes to `path`, in place of a file that is there. An empty path is the root.
    Attach { from: Vec<u8>, path: Vec<u8> },
    /// The staged pages at `from` are written into the file at `path`, if it still is inode `ino`.
    Patch { from: Vec<u8>, path: Vec<u8>, ino: u64 },
    /// `path` becomes a further name of the file at `first`.
    Link { first: Vec<u8>, path: Vec<u8> },
    /// `path` (empty: the root) gets the metadata of this entry.
    Dress { path: Vec<u8>, entry: Box<Entry> },
    /// The folder at `path`, if it still is inode `ino`, leaves the tree for good: to `to` in the stage, or, where folders
    /// cannot be renamed, by being emptied and removed where it is.
    Discard { path: Vec<u8>, ino: u64, to: Vec<u8> },
}

const MAGIC: &[u8; 16] = b"mcloud redo 2\n\0\0";
/// The format before, which lacks `Discard`.
const MAGIC_1: &[u8; 16] = b"mcloud redo 1\n\0\0";
const OP_MAX: usize = 64 << 20;

impl Op {
    pub fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Op::Detach { path, ino, to } => {
                out.push(1);
                put_bytes(out, path);
                put(out, *ino);
                put_bytes(out, to);
            }
            Op::Unlink { path, ino } => {
                out.push(2);
                put_bytes(out, path);
                put(out, *ino);
            }
            Op::Attach { from, path } => {
                out.push(3);
                put_bytes(out, from);
                put_bytes(out, path);
            }
            Op::Patch { from, path, ino } => {
                out.push(4);
                put_bytes(out, from);
                put_bytes(out, path);
                put(out, *ino);
            }
            Op::Link { first, path } => {
                out.push(5);
                put_bytes(out, first);
                put_bytes(out, path);
            }
            Op::Dress { path, entry } => {
                out.push(6);
                put_bytes(out, path);
                entry.encode(out);
            }
            Op::Discard { path, ino, to } => {
                out.push(7);
                put_bytes(out, path);
                put(out, *ino);
                put_bytes(out, to);
            }
        }
    }

    /// Reads one change; `None` if the bytes are none.
    pub fn decode(mut bytes: &[u8]) -> Option<Op> {
        let (&tag, rest) = bytes.split_first()?;
        bytes = rest;
        let bytes = &mut bytes;
        let path = |bytes: &mut &[u8]| take_bytes(bytes, OP_MAX).map(<[u8]>::to_vec);
        let op = match tag {
            1 => Op::Detach { path: path(bytes)?, ino: take(bytes)?, to: path(bytes)? },
            2 => Op::Unlink { path: path(bytes)?, ino: take(bytes)? },
            3 => Op::Attach { from: path(bytes)?, path: path(bytes)? },
            4 => Op::Patch { from: path(bytes)?, path: path(bytes)?, ino: take(bytes)? },
            5 => Op::Link { first: path(bytes)?, path: path(bytes)? },
            6 => Op::Dress { path: path(bytes)?, entry: Box::new(Entry::decode(bytes)?) },
            7 => Op::Discard { path: path(bytes)?, ino: take(bytes)?, to: path(bytes)? },
            _ => return None,
        };
        bytes.is_empty().then_some(op)
    }
}

/// Writes the log.
pub struct Writer {
    file: BufWriter<File>,
    hash: blake3::Hasher,
    ops: u64,
}

impl Writer {
    pub fn new(file: File) -> Result<Writer> {
        let mut writer = Writer { file: BufWriter::new(file), hash: blake3::Hasher::new(), ops: 0 };
        writer.write(MAGIC)?;
        Ok(writer)
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.hash.update(bytes);
        self.file.write_all(bytes)
    }

    pub fn push(&mut self, op: &Op) -> Result<()> {
        let mut bytes = Vec::new();
        op.encode(&mut bytes);
        self.ops += 1;
        self.write(&(bytes.len() as u32).to_le_bytes())?;
        self.write(&bytes)
    }

    /// Ends the log with its checksum and makes it durable; returns the number of changes.
    pub fn finish(mut self) -> Result<u64> {
        self.write(&0u32.to_le_bytes())?;
        let hash = self.hash.finalize();
        self.file.write_all(hash.as_bytes())?;
        let file = self.file.into_inner().map_err(std::io::IntoInnerError::into_error)?;
        file.sync_all()?;
        Ok(self.ops)
    }
}

/// Reads a log, checked as a whole before its first change is handed out.
pub struct Reader(BufReader<File>);

impl Reader {
    pub fn open(mut file: File) -> Result<Reader> {
        let len = file.seek(SeekFrom::End(0))?.checked_sub(32).ok_or_else(torn)?;
        file.rewind()?;
        let mut reader = BufReader::with_capacity(1 << 16, file);
        let mut hash = blake3::Hasher::new();
        std::io::copy(&mut (&mut reader).take(len), &mut hash)?;
        let mut sum = [0; 32];
        reader.read_exact(&mut sum)?;
        if hash.finalize() != blake3::Hash::from_bytes(sum) {
            return Err(torn());
        }
        reader.rewind()?;
        let mut magic = [0; 16];
        reader.read_exact(&mut magic)?;
        if &magic != MAGIC && &magic != MAGIC_1 {
            return Err(torn());
        }
        Ok(Reader(reader))
    }

    pub fn next_op(&mut self) -> Result<Option<Op>> {
        let mut len = [0; 4];
        self.0.read_exact(&mut len)?;
        let len = u32::from_le_bytes(len) as usize;
        if len == 0 {
            return Ok(None);
        }
        if len > OP_MAX {
            return Err(torn());
        }
        let mut bytes = vec![0; len];
        self.0.read_exact(&mut bytes)?;
        Op::decode(&bytes).map(Some).ok_or_else(torn)
    }
}

fn torn() -> Error {
    Error::new(ErrorKind::InvalidData, "the redo log is damaged")
}

impl Op {
    /// The path in the tree that is changed.
    pub fn path(&self) -> &[u8] {
        match self {
            Op::Detach { path, .. }
            | Op::Unlink { path, .. }
            | Op::Attach { path, .. }
            | Op::Patch { path, .. }
            | Op::Link { path, .. }
            | Op::Dress { path, .. }
            | Op::Discard { path, .. } => path,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::entry::{EntryKind, Meta};

    #[test]
    fn a_log_comes_back_as_it_was_and_damage_is_seen() {
        let entry = Entry { name: (*b"f").into(), meta: Meta::default(), kind: EntryKind::Fifo };
        let ops = [
            Op::Detach { path: b"a".into(), ino: 7, to: b"trash/1".into() },
            Op::Unlink { path: b"b/c".into(), ino: 1 << 40 },
            Op::Attach { from: b"new/1".into(), path: Vec::new() },
            Op::Patch { from: b"files/0/1".into(), path: b"db".into(), ino: 9 },
            Op::Link { first: b"a".into(), path: b"z".into() },
            Op::Dress { path: b"f".into(), entry: Box::new(entry) },
            Op::Discard { path: b"d".into(), ino: 8, to: b"trash/2".into() },
        ];
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("log");
        let mut writer = Writer::new(File::create(&path).unwrap()).unwrap();
        ops.iter().for_each(|op| writer.push(op).unwrap());
        assert_eq!(writer.finish().unwrap(), 7);
        let mut reader = Reader::open(File::open(&path).unwrap()).unwrap();
        for op in &ops {
            assert_eq!(reader.next_op().unwrap().as_ref(), Some(op));
        }
        assert_eq!(reader.next_op().unwrap(), None);
        let whole = std::fs::read(&path).unwrap();
        for cut in [0, 10, whole.len() / 2, whole.len() - 1] {
            std::fs::write(&path, &whole[..cut]).unwrap();
            assert!(Reader::open(File::open(&path).unwrap()).is_err(), "cut at {cut}");
        }
        for at in 0..whole.len() {
            let mut bent = whole.clone();
            bent[at] ^= 1;
            std::fs::write(&path, &bent).unwrap();
            assert!(Reader::open(File::open(&path).unwrap()).is_err(), "bit flipped at {at}");
        }
    }
}
