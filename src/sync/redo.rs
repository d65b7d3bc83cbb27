//! The redo log: every change a commit makes to the tree, written down and durable before the first is made. Each can be
//! made again without harm, so a commit that was interrupted is finished by starting over (docs/formats.md, Redo log).

use std::fs::File;
use std::io::{BufReader, BufWriter, Error, ErrorKind, Read, Result, Seek, SeekFrom, Write};

use super::pages::Pages;
use super::place;
use super::stage::Stage;
use crate::model::sync::LeftOut;
use crate::sys::dir::{Dir, is_dir, split_last};
use crate::tree::entry::{Entry, put, put_bytes, take, take_bytes};
use crate::tree::read::kind_of;

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
}

const MAGIC: &[u8; 16] = b"mcloud redo 1\n\0\0";
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
        if &magic != MAGIC {
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

/// What became of a log.
#[derive(Default)]
pub struct Done {
    /// What could not be done because somebody else changed the tree meanwhile.
    pub failed: Vec<LeftOut>,
    /// Metadata that the file system, or this user, cannot give.
    pub refused: Vec<LeftOut>,
}

/// Makes every change of the log, or makes sure that it has been made.
pub fn replay(log: File, stage: &Stage) -> Result<Done> {
    let mut reader = Reader::open(log)?;
    let mut hand = Hand { stage, root: stage.root()?, last: None, refused: Vec::new() };
    let mut failed = Vec::new();
    while let Some(op) = reader.next_op()? {
        fail::fail_point!("commit.op", |_| Err(Error::other("fault injected in the middle of the commit")));
        if let Err(error) = hand.make(&op) {
            match error.kind() {
                ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::ReadOnlyFilesystem => return Err(error),
                _ if error.raw_os_error() == Some(5) => return Err(error),
                _ => failed.push(LeftOut {
                    path: op.path().to_vec(),
                    reason: format!("it could not be put in place: {error}"),
                }),
            }
        }
    }
    fail::fail_point!("commit.sync", |_| Err(Error::other("fault injected before the last sync")));
    if let Some(root) = &hand.root {
        root.sync_fs()?;
    }
    stage.beside().sync()?;
    Ok(Done { failed, refused: hand.refused })
}

impl Op {
    fn path(&self) -> &[u8] {
        match self {
            Op::Detach { path, .. }
            | Op::Unlink { path, .. }
            | Op::Attach { path, .. }
            | Op::Patch { path, .. }
            | Op::Link { path, .. }
            | Op::Dress { path, .. } => path,
        }
    }
}

/// What makes the changes, with the directory it was in last.
struct Hand<'a> {
    stage: &'a Stage,
    root: Option<Dir>,
    last: Option<(Vec<u8>, Dir)>,
    refused: Vec<LeftOut>,
}

impl Hand<'_> {
    fn make(&mut self, op: &Op) -> Result<()> {
        match op {
            Op::Detach { path, ino, to } => self.detach(path, *ino, to),
            Op::Unlink { path, ino } => {
                let Some((folder, name)) = self.folder_if_there(path)? else { return Ok(()) };
                match folder.stat_if_there(name)? {
                    Some(stat) if stat.st_ino == *ino => writable(folder, |folder| folder.remove_file(name)),
                    _ => Ok(()),
                }
            }
            Op::Attach { from, path } => self.attach(from, path),
            Op::Patch { from, path, ino } => {
                let (shelf, staged) = split_last(from);
                let staged = match self.stage.dir.open_beneath(shelf).and_then(|shelf| shelf.read(staged)) {
                    Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
                    other => other?,
                };
                let (folder, name) = self.folder(path)?;
                let file = folder.write(name)?;
                if crate::sys::meta::stat_file(&file)?.st_ino != *ino {
                    return Err(Error::other("it was replaced while it was copied"));
                }
                Pages::apply(&staged, &file)
            }
            Op::Link { first, path } => self.link(first, path),
            Op::Dress { path, entry } => {
                let refusals = if path.is_empty() {
                    place::dress(self.root()?.open_beneath(b"")?, entry, false)?
                } else {
                    let (folder, name) = self.folder(path)?;
                    let there = kind_of(&folder.stat(name)?);
                    if !there.is_some_and(|kind| kind.is_like(&entry.kind)) {
                        return Err(Error::other("something else stands there"));
                    }
                    place::dress_at(folder, name, entry)?
                };
                self.refused.extend(refusals.into_iter().map(|reason| LeftOut { path: path.clone(), reason }));
                Ok(())
            }
        }
    }

    fn detach(&mut self, path: &[u8], ino: u64, to: &[u8]) -> Result<()> {
        let (shelf, place) = split_last(to);
        let shelf = self.stage.dir.open_beneath(shelf)?;
        let Some((folder, name)) = self.folder_if_there(path)? else { return Ok(()) };
        match folder.stat_if_there(name)? {
            Some(stat) if stat.st_ino == ino => {
                if is_dir(&stat) {
                    free_to_move(folder, name, &stat)?;
                }
                writable(folder, |folder| folder.rename(name, &shelf, place))?;
            }
            _ => return Ok(()),
        }
        self.last = None;
        Ok(())
    }

    fn attach(&mut self, from: &[u8], path: &[u8]) -> Result<()> {
        let (shelf, staged) = split_last(from);
        let shelf = self.stage.dir.open_beneath(shelf)?;
        let Some(stat) = shelf.stat_if_there(staged)? else { return Ok(()) };
        if is_dir(&stat) {
            free_to_move(&shelf, staged, &stat)?;
        }
        if path.is_empty() {
            let name = self.stage.root_name.clone().ok_or_else(|| Error::other("the target has no name of its own"))?;
            shelf.rename_new(staged, self.stage.beside(), &name)?;
            self.root = self.stage.root()?;
            return Ok(());
        }
        // A folder never gives way: what the plan knew of has been taken out before, and what is there now holds what is
        // protected, or came since. Nor does a file that came since to a folder.
        let (folder, name) = self.folder(path)?;
        writable(folder, |folder| shelf.rename(staged, folder, name))?;
        if is_dir(&stat) {
            self.last = None;
        }
        Ok(())
    }

    fn link(&mut self, first: &[u8], path: &[u8]) -> Result<()> {
        let (from, from_name) = split_last(first);
        let from = self.root()?.open_beneath(from)?;
        let stat = from.stat(from_name)?;
        let stage = self.stage;
        let (folder, name) = self.folder(path)?;
        match folder.stat_if_there(name)? {
            Some(there) if there.st_ino == stat.st_ino => return Ok(()),
            Some(there) if is_dir(&there) => return Err(ErrorKind::IsADirectory.into()),
            _ => {}
        }
        let draft = b"link.draft";
        stage.dir.remove_all(draft)?;
        from.link(from_name, &stage.dir, draft)?;
        writable(folder, |folder| stage.dir.rename(draft, folder, name))
    }

    fn root(&self) -> Result<&Dir> {
        self.root.as_ref().ok_or_else(|| ErrorKind::NotFound.into())
    }

    fn folder<'p>(&mut self, path: &'p [u8]) -> Result<(&Dir, &'p [u8])> {
        let (above, name) = split_last(path);
        if self.last.as_ref().is_none_or(|(last, _)| last != above) {
            self.last = Some((above.to_vec(), self.root()?.open_beneath(above)?));
        }
        let (_, dir) = self.last.as_ref().ok_or(ErrorKind::NotFound)?;
        Ok((dir, name))
    }

    fn folder_if_there<'p>(&mut self, path: &'p [u8]) -> Result<Option<(&Dir, &'p [u8])>> {
        match self.folder(path) {
            Ok(found) => Ok(Some(found)),
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// Does something to a directory; one that its owner may not write is opened for it first. Its metadata is set later.
fn writable(folder: &Dir, what: impl Fn(&Dir) -> Result<()>) -> Result<()> {
    match what(folder) {
        Err(error) if error.kind() == ErrorKind::PermissionDenied && !rustix::process::geteuid().is_root() => {
            let mode = folder.stat_self()?.st_mode & 0o7777;
            if mode & 0o700 == 0o700 {
                return Err(error);
            }
            rustix::fs::fchmod(folder, rustix::fs::Mode::from_raw_mode(mode | 0o700))?;
            what(folder)
        }
        other => other,
    }
}

/// A directory that its owner may not write cannot be given another parent, except by root. It is dressed again later.
fn free_to_move(folder: &Dir, name: &[u8], stat: &rustix::fs::Stat) -> Result<()> {
    if stat.st_mode & 0o700 != 0o700 && !rustix::process::geteuid().is_root() {
        let dir = folder.open_beneath(name)?;
        rustix::fs::fchmod(&dir, rustix::fs::Mode::from_raw_mode(stat.st_mode & 0o7777 | 0o700))?;
    }
    Ok(())
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
        ];
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("log");
        let mut writer = Writer::new(File::create(&path).unwrap()).unwrap();
        ops.iter().for_each(|op| writer.push(op).unwrap());
        assert_eq!(writer.finish().unwrap(), 6);
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
