//! Single entries, built as they are wanted: the one place that creates files, links and nodes at a target.

use std::fs::File;
use std::io::{Error, ErrorKind, Result};
use std::os::unix::fs::FileExt;

use crate::model::Name;
use crate::sys::copy::{dig, next_data, reflink, write_sparse};
use crate::sys::dir::Dir;
use crate::sys::meta;
use crate::tree::chunk::MAX;
use crate::tree::entry::{Entry, EntryKind};
use crate::tree::link::ChunkRef;
use crate::tree::read::is_as_printed;
use crate::tree::view::Item;

/// Creates a staged file; what an earlier reading of the same file left there gives way. A file of another name that the
/// file system takes for this one does not.
pub fn create(dir: &Dir, name: &[u8], mode: u32) -> Result<File> {
    match dir.create(name, mode & 0o777) {
        Err(error)
            if error.kind() == ErrorKind::AlreadyExists && dir.names()?.iter().any(|entry| *entry.name == *name) =>
        {
            dir.remove_file(name)?;
            dir.create(name, mode & 0o777)
        }
        other => other,
    }
}

/// Writes into a new file, which is all hole yet.
pub fn write(file: &File, data: &[u8], offset: u64, sparse: bool) -> Result<()> {
    if sparse { write_sparse(file, data, offset, true) } else { file.write_all_at(data, offset) }
}

/// Writes the zeros that were left out of a file that is to have no holes.
pub fn fill_holes(file: &File, len: u64) -> Result<()> {
    let zeros = vec![0; 64 * 1024];
    let mut at = 0;
    while at < len {
        let data = next_data(file, at)?.unwrap_or(len).min(len);
        if data > at {
            let step = (data - at).min(zeros.len() as u64);
            file.write_all_at(&zeros[..step as usize], at)?;
            at += step;
            continue;
        }
        at = rustix::fs::seek(file, rustix::fs::SeekFrom::Hole(at)).map_or(len, |hole| hole.max(at + 1));
    }
    Ok(())
}

/// Makes holes of the blocks of zeros that came into a file by copying.
pub fn dig_holes(file: &File, len: u64) -> Result<()> {
    let mut buffer = vec![0; 256 * 1024];
    let mut at = 0;
    while at < len
        && let Some(data) = next_data(file, at)?.filter(|data| *data < len)
    {
        let step = (len - data).min(buffer.len() as u64) as usize;
        file.read_exact_at(&mut buffer[..step], data)?;
        dig(file, &buffer[..step], data)?;
        at = data + step as u64;
    }
    Ok(())
}

/// Which inode a staged entry is: by it the look after the commit knows it again.
pub fn inode_of(dir: &Dir, name: &[u8]) -> Result<u64> {
    Ok(dir.stat(name)?.st_ino)
}

/// Gives an open file or directory the metadata of `entry`; returns what was refused.
pub fn dress(file: impl std::os::fd::AsFd, entry: &Entry, fresh: bool) -> Result<Vec<String>> {
    let mut refusals = Vec::new();
    meta::apply(file.as_fd(), &entry.wanted(), fresh, &mut refusals)?;
    Ok(refusals)
}

/// Gives an entry in place its metadata.
pub fn dress_at(dir: &Dir, name: &[u8], entry: &Entry) -> Result<Vec<String>> {
    let mut refusals = Vec::new();
    meta::apply_at(dir, name, &entry.wanted(), &mut refusals)?;
    Ok(refusals)
}

/// Makes a symbolic link, FIFO, socket or device.
pub fn make(dir: &Dir, name: &[u8], entry: &Entry) -> Result<Vec<String>> {
    let node = |kind: rustix::fs::FileType, major, minor| {
        let made = dir.make_node(name, kind.as_raw_mode() | entry.meta.mode, major, minor);
        // Some file systems make a plain file instead, whether they call that an error or not.
        match dir.stat_if_there(name)? {
            Some(stat) if rustix::fs::FileType::from_raw_mode(stat.st_mode) != kind => {
                dir.remove_file(name)?;
                Err(Error::new(ErrorKind::Unsupported, "the file system makes something else of it"))
            }
            _ => made,
        }
    };
    match &entry.kind {
        EntryKind::Symlink { target } => dir.make_symlink(name, target)?,
        EntryKind::Fifo => node(rustix::fs::FileType::Fifo, 0, 0)?,
        EntryKind::Socket => node(rustix::fs::FileType::Socket, 0, 0)?,
        EntryKind::Char { major, minor } => node(rustix::fs::FileType::CharacterDevice, *major, *minor)?,
        EntryKind::Block { major, minor } => node(rustix::fs::FileType::BlockDevice, *major, *minor)?,
        EntryKind::File { .. } | EntryKind::Dir { .. } | EntryKind::Link { .. } => {
            return Err(Error::new(ErrorKind::InvalidInput, "not made in one piece"));
        }
    }
    dress_at(dir, name, entry)
}

/// Whether the file system or our rights, not the moment, forbid making something.
pub fn is_refusal(error: &Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::PermissionDenied | ErrorKind::Unsupported | ErrorKind::InvalidInput | ErrorKind::InvalidFilename
    )
}

/// The longest chunk of zeros, which is what a long hole is made of.
pub static ZEROS: [u8; MAX] = [0; MAX];

/// Whether a chunk is known to be all zeros: it need not be read, or sent.
pub fn is_zeros(chunk: &ChunkRef) -> bool {
    static NAME: std::sync::LazyLock<Name> = std::sync::LazyLock::new(|| Name::of(&ZEROS));
    chunk.len as usize == MAX && chunk.name == *NAME
}

/// Reads one chunk. False if the file has other bytes there, or ends before.
pub fn read_chunk(from: &File, at: u64, chunk: &ChunkRef, buffer: &mut Vec<u8>) -> Result<bool> {
    buffer.resize(chunk.len as usize, 0);
    match from.read_exact_at(buffer, at) {
        Ok(()) => Ok(Name::of(buffer) == chunk.name),
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    }
}

/// Copies `from`, of which `item` says what it is, into the empty `to`: by sharing its blocks where the file system can,
/// else chunk by chunk, each verified against its name in `list`. False if it is no longer what the item says.
pub fn copy_unchanged(from: &File, to: &File, item: &Item, list: &[ChunkRef]) -> Result<bool> {
    let before = meta::stat_file(from)?;
    if !is_as_printed(&before, item) {
        return Ok(false);
    }
    let size = item.entry.size();
    let whole = [ChunkRef { name: item.entry.content().unwrap_or(Name::UNKNOWN), len: size as u32 }];
    let list = if size <= MAX as u64 { &whole } else { list };
    if list.iter().map(|chunk| u64::from(chunk.len)).sum::<u64>() != size {
        return Ok(false);
    }
    if size <= MAX as u64 || !reflink(from, to)? {
        let (mut at, mut buffer, sparse) = (0, Vec::new(), meta::has_holes(&before));
        for chunk in list.iter().filter(|chunk| chunk.len > 0) {
            if is_zeros(chunk) {
                write(to, &ZEROS, at, sparse)?;
            } else if read_chunk(from, at, chunk, &mut buffer)? {
                write(to, &buffer, at, sparse)?;
            } else {
                return Ok(false);
            }
            at += u64::from(chunk.len);
        }
        to.set_len(size)?;
    }
    Ok(is_as_printed(&meta::stat_file(from)?, item))
}
