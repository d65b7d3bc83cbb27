//! One entry of a directory, and its canonical encoding (docs/formats.md, Entry).

use crate::model::Name;
use crate::sys::clock::Time;
use crate::sys::meta::{Wanted, Xattr};

/// A name in a directory, with all that a sync keeps of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub name: Box<[u8]>,
    pub meta: Meta,
    pub kind: EntryKind,
}

/// What all kinds of entries have, but a further hard link, whose metadata is its first name's.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Meta {
    /// Permission bits with setuid, setgid and sticky. 0777 for symbolic links.
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub mtime: Time,
    /// Sorted by name.
    pub xattrs: Vec<Xattr>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EntryKind {
    File {
        size: u64,
        content: Name,
    },
    Dir {
        content: Name,
    },
    Symlink {
        target: Box<[u8]>,
    },
    Fifo,
    Socket,
    Char {
        major: u32,
        minor: u32,
    },
    Block {
        major: u32,
        minor: u32,
    },
    /// A further name of the file at this path (relative to the root): the smallest of its paths in byte order.
    Link {
        first: Box<[u8]>,
    },
}

impl EntryKind {
    fn tag(&self) -> u8 {
        match self {
            EntryKind::File { .. } => 1,
            EntryKind::Dir { .. } => 2,
            EntryKind::Symlink { .. } => 3,
            EntryKind::Fifo => 4,
            EntryKind::Socket => 5,
            EntryKind::Char { .. } => 6,
            EntryKind::Block { .. } => 7,
            EntryKind::Link { .. } => 8,
        }
    }

    /// Same kind of thing, whatever is in it.
    pub fn is_like(&self, other: &EntryKind) -> bool {
        self.tag() == other.tag()
    }
}

impl Entry {
    pub fn is_dir(&self) -> bool {
        matches!(self.kind, EntryKind::Dir { .. })
    }

    /// The name of the content, for files and directories.
    pub fn content(&self) -> Option<Name> {
        match self.kind {
            EntryKind::File { content, .. } | EntryKind::Dir { content } => Some(content),
            _ => None,
        }
    }

    pub fn set_content(&mut self, name: Name) {
        if let EntryKind::File { content, .. } | EntryKind::Dir { content } = &mut self.kind {
            *content = name;
        }
    }

    /// Bytes of content: of a file its size, else 0.
    pub fn size(&self) -> u64 {
        match self.kind {
            EntryKind::File { size, .. } => size,
            _ => 0,
        }
    }

    /// What is to be made true of this entry's metadata at a target.
    pub fn wanted(&self) -> Wanted<'_> {
        let mode = (!matches!(self.kind, EntryKind::Symlink { .. })).then_some(self.meta.mode);
        Wanted { mode, uid: self.meta.uid, gid: self.meta.gid, mtime: self.meta.mtime, xattrs: &self.meta.xattrs }
    }

    /// Appends the canonical encoding.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.push(self.kind.tag());
        put_bytes(out, &self.name);
        if let EntryKind::Link { first } = &self.kind {
            put_bytes(out, first);
            return;
        }
        put(out, self.meta.mode.into());
        put(out, self.meta.uid.into());
        put(out, self.meta.gid.into());
        // Zigzag: small numbers of either sign stay short.
        put(out, ((self.meta.mtime.seconds << 1) ^ (self.meta.mtime.seconds >> 63)).cast_unsigned());
        put(out, self.meta.mtime.nanos.into());
        put(out, self.meta.xattrs.len() as u64);
        for (key, value) in &self.meta.xattrs {
            put_bytes(out, key);
            put_bytes(out, value);
        }
        match &self.kind {
            EntryKind::File { size, content } => {
                put(out, *size);
                out.extend_from_slice(&content.0);
            }
            EntryKind::Dir { content } => out.extend_from_slice(&content.0),
            EntryKind::Symlink { target } => put_bytes(out, target),
            EntryKind::Char { major, minor } | EntryKind::Block { major, minor } => {
                put(out, (*major).into());
                put(out, (*minor).into());
            }
            EntryKind::Fifo | EntryKind::Socket | EntryKind::Link { .. } => {}
        }
    }

    /// Reads one entry; `None` if the bytes are not the canonical encoding of one.
    pub fn decode(bytes: &mut &[u8]) -> Option<Entry> {
        let (&tag, rest) = bytes.split_first()?;
        *bytes = rest;
        let name: Box<[u8]> = take_bytes(bytes, NAME_MAX)?.into();
        if tag == 8 {
            let first = take_bytes(bytes, PATH_MAX)?.into();
            return Some(Entry { name, meta: Meta::default(), kind: EntryKind::Link { first } });
        }
        let mode = take_u32(bytes)?;
        let uid = take_u32(bytes)?;
        let gid = take_u32(bytes)?;
        let zigzag = take(bytes)?;
        let seconds = (zigzag >> 1).cast_signed() ^ -((zigzag & 1).cast_signed());
        let nanos = take_u32(bytes)?;
        let count = take(bytes)?;
        if nanos >= 1_000_000_000 || mode > 0o7777 || count > 65_536 {
            return None;
        }
        let mut xattrs: Vec<Xattr> = Vec::new();
        for _ in 0..count {
            let key: Box<[u8]> = take_bytes(bytes, NAME_MAX)?.into();
            if key.is_empty() || key.contains(&0) || xattrs.last().is_some_and(|(last, _)| *last >= key) {
                return None;
            }
            xattrs.push((key, take_bytes(bytes, XATTR_MAX)?.into()));
        }
        let kind = match tag {
            1 => EntryKind::File { size: take(bytes).filter(|size| *size <= SIZE_MAX)?, content: take_name(bytes)? },
            2 => EntryKind::Dir { content: take_name(bytes)? },
            3 => EntryKind::Symlink { target: take_bytes(bytes, PATH_MAX)?.into() },
            4 => EntryKind::Fifo,
            5 => EntryKind::Socket,
            6 => EntryKind::Char { major: take_u32(bytes)?, minor: take_u32(bytes)? },
            7 => EntryKind::Block { major: take_u32(bytes)?, minor: take_u32(bytes)? },
            _ => return None,
        };
        let mtime = Time { seconds, nanos };
        Some(Entry { name, meta: Meta { mode, uid, gid, mtime, xattrs }, kind })
    }

    /// Whether the name can stand in a directory: what a listing from elsewhere must be checked for.
    pub fn has_plain_name(&self) -> bool {
        let name = &self.name;
        !name.is_empty() && **name != *b"." && **name != *b".." && !name.contains(&b'/') && !name.contains(&0)
    }
}

/// The longest file name, the longest symbolic link, the largest attribute that Linux knows. Paths have no such limit
/// here (a walk goes name by name), only one against nonsense.
const NAME_MAX: usize = 255;
const PATH_MAX: usize = 1 << 20;
const XATTR_MAX: usize = 64 * 1024;
/// The end of the largest file there can be.
const SIZE_MAX: u64 = i64::MAX as u64;

/// Appends a number: seven bits a byte, lowest first, the high bit set on all but the last.
pub fn put(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

pub fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// Reads a number; only its shortest form is one.
pub fn take(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        let bits = u64::from(byte & 0x7f);
        if shift == 63 && bits > 1 {
            return None;
        }
        value |= bits << shift;
        if byte & 0x80 == 0 {
            return (byte != 0 || shift == 0).then_some(value);
        }
    }
    None
}

pub fn take_u32(bytes: &mut &[u8]) -> Option<u32> {
    u32::try_from(take(bytes)?).ok()
}

pub fn take_bytes<'a>(bytes: &mut &'a [u8], max: usize) -> Option<&'a [u8]> {
    let len = usize::try_from(take(bytes)?).ok()?;
    if len > max {
        return None;
    }
    let (taken, rest) = bytes.split_at_checked(len)?;
    *bytes = rest;
    Some(taken)
}

pub fn take_name(bytes: &mut &[u8]) -> Option<Name> {
    let (taken, rest) = bytes.split_at_checked(32)?;
    *bytes = rest;
    Name::from_slice(taken)
}
