//! Pack files: many objects in one file, in frames that are compressed (and sealed) on their own (docs/formats.md, Pack).
//!
//! A frame holds several small objects, so that they are compressed together: files of one folder are alike. It is small
//! enough to be unpacked for one of them.

use bytes::Bytes;

use super::index::Entry;
use super::seal::{Key, OVERHEAD};
use crate::model::{Error, Name, Result};
use crate::tree::chunk::MAX;
use crate::tree::entry::{put, take, take_name};

const MAGIC: &[u8; 14] = b"mcloud pack 1\n";
/// Magic, kind, and whether it is sealed.
pub const HEADER: usize = 16;
/// Length of the footer, and BLAKE3 of header and footer.
const TRAILER: usize = 36;
/// A frame is ended when its objects have so many bytes, unpacked.
pub const FRAME_BYTES: usize = 128 << 10;
/// The most that one frame can have, unpacked: one that lacked a byte, and then the longest chunk (a node is shorter).
const FRAME_MAX: usize = FRAME_BYTES + NODE_MAX;
/// The longest object: a list node full of the longest entries would be longer, and no tree has one.
pub const NODE_MAX: usize = 64 << 20;
/// A pack is ended when it has so many bytes, or so many objects: they wait in memory until it is written.
pub const PACK_BYTES: usize = 16 << 20;
const PACK_OBJECTS: usize = 1 << 16;
/// No pack is longer: one that lacked a byte of being full, the longest frame, and a footer.
pub const LONGEST: u64 =
    (PACK_BYTES + FRAME_MAX + FRAME_MAX / 128 + (PACK_OBJECTS + FRAME_BYTES) * 64 + (1 << 20)) as u64;
/// zstd's own default.
const LEVEL: i32 = 3;

const RAW: u8 = 0;
const ZSTD: u8 = 1;

/// What is in a pack. Nodes have packs of their own, so that a walk over a tree reads little else.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, PartialOrd, Ord)]
pub enum PackKind {
    Chunks = 1,
    Nodes = 2,
}

impl PackKind {
    pub fn from_byte(byte: u8) -> Option<PackKind> {
        [PackKind::Chunks, PackKind::Nodes].into_iter().find(|kind| *kind as u8 == byte)
    }

    /// The name that an object of this kind has by its bytes.
    pub fn name_of(self, bytes: &[u8]) -> Name {
        match self {
            PackKind::Chunks => Name::of(bytes),
            PackKind::Nodes => crate::tree::node::node_name(bytes),
        }
    }
}

/// Where a pack lies in its place.
pub fn path_of(pack: Name) -> String {
    let hex = pack.to_string();
    format!("packs/{}/{hex}", &hex[..2])
}

/// The pack that lies there.
pub fn name_at(path: &str) -> Option<Name> {
    name_from_hex(path.rsplit('/').next()?)
}

pub fn name_from_hex(hex: &str) -> Option<Name> {
    if hex.len() != 64 || !hex.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')) {
        return None;
    }
    let mut bytes = [0; 32];
    for (at, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&hex[at * 2..at * 2 + 2], 16).ok()?;
    }
    Some(Name(bytes))
}

/// Compresses frames, and seals them where there is a key.
pub struct Framer<'a> {
    zstd: zstd::bulk::Compressor<'static>,
    key: Option<&'a Key>,
}

impl<'a> Framer<'a> {
    pub fn new(key: Option<&'a Key>) -> Result<Framer<'a>> {
        let zstd = zstd::bulk::Compressor::new(LEVEL).map_err(|cause| Error::io("zstd cannot be started", cause))?;
        Ok(Framer { zstd, key })
    }

    /// A frame as it is stored. What zstd makes hardly smaller is kept as it is.
    pub fn frame(&mut self, raw: &[u8]) -> Result<Vec<u8>> {
        let failed = |cause| Error::io("zstd cannot compress a frame", cause);
        let mut stored = Vec::with_capacity(1 + zstd::zstd_safe::compress_bound(raw.len()));
        stored.push(ZSTD);
        let mut rest = vec![0; zstd::zstd_safe::compress_bound(raw.len())];
        let len = self.zstd.compress_to_buffer(raw, &mut rest).map_err(failed)?;
        if len < raw.len() - raw.len() / 32 {
            stored.extend_from_slice(&rest[..len]);
        } else {
            stored[0] = RAW;
            stored.extend_from_slice(raw);
        }
        match self.key {
            Some(key) => key.seal(b"mcloud frame", &stored),
            None => Ok(stored),
        }
    }
}

/// A frame's objects, one behind the other; `None` if it is damaged.
pub fn unframe(stored: &[u8], key: Option<&Key>) -> Option<Vec<u8>> {
    let opened;
    let plain = match key {
        Some(key) => {
            opened = key.open(b"mcloud frame", stored)?;
            &opened[..]
        }
        None => stored,
    };
    match plain.split_first()? {
        (&RAW, raw) => Some(raw.to_vec()),
        (&ZSTD, packed) => {
            let len = zstd::zstd_safe::get_frame_content_size(packed).ok()??;
            let len = usize::try_from(len).ok().filter(|len| *len <= FRAME_MAX)?;
            zstd::bulk::decompress(packed, len).ok().filter(|raw| raw.len() == len)
        }
        _ => None,
    }
}

/// A pack being filled.
pub struct OpenPack {
    pub kind: PackKind,
    bytes: Vec<u8>,
    footer: Vec<u8>,
    entries: Vec<Entry>,
}

/// A pack that is full, with where each object in it is (`Entry::pack` is 0).
pub struct Packed {
    pub name: Name,
    pub kind: PackKind,
    pub bytes: Bytes,
    pub entries: Vec<Entry>,
}

impl OpenPack {
    pub fn new(kind: PackKind, sealed: bool) -> OpenPack {
        OpenPack { kind, bytes: header(kind, sealed).to_vec(), footer: Vec::new(), entries: Vec::new() }
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub fn is_full(&self) -> bool {
        self.bytes.len() >= PACK_BYTES || self.entries.len() >= PACK_OBJECTS
    }

    /// Adds a frame with these objects in it, in this order.
    pub fn add(&mut self, stored: &[u8], objects: &[(Name, u32)]) {
        let offset = self.bytes.len() as u32;
        self.bytes.extend_from_slice(stored);
        put(&mut self.footer, stored.len() as u64);
        put(&mut self.footer, objects.len() as u64);
        let mut at = 0;
        for (name, len) in objects {
            put(&mut self.footer, (*len).into());
            self.footer.extend_from_slice(&name.0);
            self.entries.push(Entry { name: *name, pack: 0, offset, stored: stored.len() as u32, at, len: *len });
            at += len;
        }
    }

    pub fn close(self, key: Option<&Key>) -> Result<Packed> {
        let OpenPack { kind, mut bytes, footer, entries } = self;
        let footer = match key {
            Some(key) => key.seal(b"mcloud footer", &footer)?,
            None => footer,
        };
        let check = check(&bytes[..HEADER], &footer);
        bytes.extend_from_slice(&footer);
        bytes.extend_from_slice(&(footer.len() as u32).to_le_bytes());
        bytes.extend_from_slice(&check);
        Ok(Packed { name: Name::of(&bytes), kind, bytes: bytes.into(), entries })
    }
}

fn header(kind: PackKind, sealed: bool) -> [u8; HEADER] {
    let mut header = [0; HEADER];
    header[..14].copy_from_slice(MAGIC);
    header[14] = kind as u8;
    header[15] = u8::from(sealed);
    header
}

fn check(header: &[u8], footer: &[u8]) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(header).update(footer);
    *hasher.finalize().as_bytes()
}

/// What a pack says is in it. `read(offset, len)` gives a piece of the file, which is `len` long.
pub fn contents(
    len: u64,
    key: Option<&Key>,
    mut read: impl FnMut(u64, u64) -> std::io::Result<Bytes>,
) -> std::io::Result<Option<(PackKind, Vec<Entry>)>> {
    if len < (HEADER + TRAILER) as u64 || len > u64::from(u32::MAX) {
        return Ok(None);
    }
    let head = read(0, HEADER as u64)?;
    let tail = read(len - TRAILER as u64, TRAILER as u64)?;
    let Some((footer_len, sum)) = tail.split_first_chunk::<4>() else { return Ok(None) };
    let footer_len = u64::from(u32::from_le_bytes(*footer_len));
    let Some(start) = (len - TRAILER as u64).checked_sub(footer_len).filter(|start| *start >= HEADER as u64) else {
        return Ok(None);
    };
    let footer = read(start, footer_len)?;
    Ok(parse(&head, &footer, sum, start as u32, key))
}

fn parse(head: &[u8], footer: &[u8], sum: &[u8], end: u32, key: Option<&Key>) -> Option<(PackKind, Vec<Entry>)> {
    let kind = PackKind::from_byte(*head.get(14)?)?;
    if head != header(kind, key.is_some()) || check(head, footer) != sum {
        return None;
    }
    let opened;
    let mut rest = match key {
        Some(key) => {
            opened = key.open(b"mcloud footer", footer)?;
            &opened[..]
        }
        None => footer,
    };
    let mut entries = Vec::new();
    let mut offset = HEADER as u32;
    while !rest.is_empty() {
        let stored = u32::try_from(take(&mut rest)?).ok()?;
        let count = take(&mut rest)?;
        let mut at = 0u32;
        for _ in 0..count {
            let len = u32::try_from(take(&mut rest)?).ok()?;
            entries.push(Entry { name: take_name(&mut rest)?, pack: 0, offset, stored, at, len });
            at = at.checked_add(len)?;
        }
        offset = offset.checked_add(stored)?;
    }
    (offset == end).then_some((kind, entries))
}

/// Whether a frame of this length, as stored, is one that may be read at all.
pub fn is_plausible(stored: u32) -> bool {
    stored as usize <= FRAME_MAX + OVERHEAD + 1024 + MAX
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(key: Option<&Key>) -> Packed {
        let mut framer = Framer::new(key).unwrap();
        let mut pack = OpenPack::new(PackKind::Chunks, key.is_some());
        for frame in 0..3u8 {
            let objects: Vec<Vec<u8>> = (0..4u8).map(|at| vec![frame * 16 + at; 1000 + usize::from(at)]).collect();
            let raw = objects.concat();
            let named: Vec<_> = objects.iter().map(|bytes| (Name::of(bytes), bytes.len() as u32)).collect();
            pack.add(&framer.frame(&raw).unwrap(), &named);
        }
        pack.close(key).unwrap()
    }

    #[test]
    fn a_pack_says_what_is_in_it_and_gives_it_back() {
        for key in [None, Some(Key::new(&[7; 32]))] {
            let packed = filled(key.as_ref());
            let read = |offset: u64, len: u64| Ok(packed.bytes.slice(offset as usize..(offset + len) as usize));
            let (kind, entries) = contents(packed.bytes.len() as u64, key.as_ref(), read).unwrap().unwrap();
            assert_eq!((kind, &entries), (PackKind::Chunks, &packed.entries));
            assert_eq!(entries.len(), 12);
            for entry in entries {
                let stored = &packed.bytes[entry.offset as usize..(entry.offset + entry.stored) as usize];
                let raw = unframe(stored, key.as_ref()).unwrap();
                assert_eq!(Name::of(&raw[entry.at as usize..(entry.at + entry.len) as usize]), entry.name);
            }
        }
    }

    #[test]
    fn a_flipped_bit_of_header_footer_or_trailer_is_noticed() {
        let packed = filled(None);
        let frames = packed.entries.last().map(|entry| (entry.offset + entry.stored) as usize).unwrap();
        for at in (0..HEADER).chain(frames..packed.bytes.len()) {
            let mut bytes = packed.bytes.to_vec();
            bytes[at] ^= 4;
            let bytes = Bytes::from(bytes);
            let read = |offset: u64, len: u64| Ok(bytes.slice(offset as usize..(offset + len) as usize));
            assert!(!matches!(contents(bytes.len() as u64, None, read), Ok(Some(_))), "byte {at}");
        }
    }

    #[test]
    fn what_does_not_compress_is_stored_as_it_is() {
        let noise: [u8; 4096] = super::super::seal::random().unwrap();
        let stored = Framer::new(None).unwrap().frame(&noise).unwrap();
        assert_eq!(stored.len(), noise.len() + 1);
        assert_eq!(unframe(&stored, None).unwrap(), noise);
        assert!(unframe(&[], None).is_none() && unframe(&[9, 9], None).is_none());
    }
}
