//! Reading a file so that what is told of it is true: metadata, chunks and bytes of one moment, or the word that it never
//! stood still.

use std::fs::File;
use std::io::{ErrorKind, Result};
use std::os::unix::fs::FileExt;

use super::chunk;
use super::entry::{Entry, EntryKind};
use super::link::ChunkRef;
use super::view::{Item, Print};
use crate::sys::clock::{Time, file_clock};
use crate::sys::dir::Dir;
use crate::sys::memory::append_at;
use crate::sys::meta;
use crate::sys::stamps::Stamps;

/// How often a file that changes under the reading is read again.
pub const TRIES: u32 = 3;

/// An open regular file whose item says what it is now.
pub struct Open {
    pub file: File,
    pub size: u64,
    pub sparse: bool,
    opened: Time,
}

/// Opens `item`'s file; if it is not what the item says, the item is told what it is now.
pub fn open(dir: &Dir, item: &mut Item) -> Result<Open> {
    let opened = file_clock();
    let file = dir.read(&item.entry.name)?;
    let stat = meta::stat_file(&file)?;
    if !is_as_printed(&stat, item) {
        refresh(&file, &stat, item)?;
    } else if item.is_unread() {
        // The walk leaves these to whoever opens the file.
        item.entry.meta.xattrs = meta::xattrs_of(&file)?;
    }
    Ok(Open { size: stat.st_size as u64, sparse: meta::has_holes(&stat), file, opened })
}

fn refresh(file: &File, stat: &rustix::fs::Stat, item: &mut Item) -> Result<()> {
    item.entry.meta.xattrs = meta::xattrs_of(file)?;
    take_stat(stat, item);
    item.entry.kind = EntryKind::File { size: stat.st_size as u64, content: crate::model::Name::UNKNOWN };
    Ok(())
}

impl Open {
    /// Whether the file stood still since it was opened. If so, the item's fingerprint is as good as this reading.
    pub fn stood_still(&self, item: &mut Item) -> Result<bool> {
        let stat = meta::stat_file(&self.file)?;
        if !is_as_printed(&stat, item) {
            refresh(&self.file, &stat, item)?;
            return Ok(false);
        }
        item.print.trusted = Stamps::of(&self.file).are_settled(&stat, self.opened);
        Ok(true)
    }

    /// Appends up to `len` bytes at `offset` to `out`; less only at the end of the file. Returns how many.
    pub fn append(&self, out: &mut Vec<u8>, len: usize, offset: u64) -> Result<usize> {
        append_at(&self.file, out, len, offset)
    }

    /// Reads up to `buffer`'s length at `offset`; less only at the end of the file.
    pub fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<usize> {
        let mut done = 0;
        while done < buffer.len() {
            match self.file.read_at(&mut buffer[done..], offset + done as u64) {
                Ok(0) => break,
                Ok(count) => done += count,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(done)
    }
}

/// What a small file was when it was read whole.
pub struct Whole {
    pub chunks: Vec<ChunkRef>,
    pub sparse: bool,
    pub stable: bool,
}

/// Appends a small file's content to `out`, again until it stands still or the tries are used up, and names it in `item`.
pub fn read_whole(dir: &Dir, item: &mut Item, out: &mut Vec<u8>) -> Result<Whole> {
    let start = out.len();
    let mut tries = 0;
    loop {
        out.truncate(start);
        let open = open(dir, item)?;
        let size = usize::try_from(open.size).unwrap_or(usize::MAX);
        // One byte more than it should have shows that it grew.
        let count = open.append(out, size + 1, 0)?;
        tries += 1;
        let stable = count == size && open.stood_still(item)?;
        if stable || tries == TRIES {
            let chunks = chunk::all_chunks(&out[start..]);
            item.entry.kind = EntryKind::File { size: count as u64, content: super::node::content_name(&chunks) };
            item.print.trusted &= stable;
            return Ok(Whole { chunks, sparse: open.sparse, stable });
        }
    }
}

/// Whether `stat` bears the fingerprint in `item`.
pub fn is_as_printed(stat: &rustix::fs::Stat, item: &Item) -> bool {
    let (mtime, ctime) = meta::stamps(stat);
    item.print.ino == stat.st_ino
        && item.print.ctime == ctime
        && item.entry.meta.mtime == mtime
        && match item.entry.kind {
            EntryKind::File { size, .. } => size == stat.st_size as u64,
            _ => true,
        }
}

/// Takes what a stat tells of the metadata and the fingerprint (not yet trusted). Attributes are not in a stat.
pub fn take_stat(stat: &rustix::fs::Stat, item: &mut Item) {
    let (mtime, ctime) = meta::stamps(stat);
    item.entry.meta.mode = stat.st_mode & 0o7777;
    item.entry.meta.uid = stat.st_uid;
    item.entry.meta.gid = stat.st_gid;
    item.entry.meta.mtime = mtime;
    item.print = Print { ino: stat.st_ino, ctime, trusted: false };
}

/// The kind of entry a stat tells of; content, link target and the like are not in it. `None`: not a kind we know.
pub fn kind_of(stat: &rustix::fs::Stat) -> Option<EntryKind> {
    use rustix::fs::FileType;
    let content = crate::model::Name::UNKNOWN;
    let (major, minor) = (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev));
    Some(match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile if stat.st_size == 0 => EntryKind::File { size: 0, content: crate::model::Name::of(b"") },
        FileType::RegularFile => EntryKind::File { size: stat.st_size as u64, content },
        FileType::Directory => EntryKind::Dir { content },
        FileType::Symlink => EntryKind::Symlink { target: Box::default() },
        FileType::Fifo => EntryKind::Fifo,
        FileType::Socket => EntryKind::Socket,
        FileType::CharacterDevice => EntryKind::Char { major, minor },
        FileType::BlockDevice => EntryKind::Block { major, minor },
        FileType::Unknown => return None,
    })
}

/// A new item for what stands at `name` in `dir`. A file's content is left unknown, and with it its extended attributes:
/// they are read when it is opened. `settled`: whatever is done to it from now on shows in its stamps.
pub fn look_at(dir: &Dir, name: &[u8], stat: &rustix::fs::Stat, settled: bool) -> Result<Option<Item>> {
    let Some(mut kind) = kind_of(stat) else { return Ok(None) };
    if let EntryKind::Symlink { target } = &mut kind {
        *target = dir.read_link(name)?.into_bytes().into();
    }
    let mut item = Item::new(Entry { name: name.into(), meta: super::entry::Meta::default(), kind }, Print::default());
    take_stat(stat, &mut item);
    if !item.is_unread() {
        item.entry.meta.xattrs = meta::xattrs_at(dir, name)?;
    }
    item.print.trusted = settled;
    Ok(Some(item))
}
