//! What is asked of a tree that is looked at and what it tells, to and from messages.

use std::ops::Range;

use bytes::Bytes;
use prost::Message;

use super::proto::{self, look_ask, look_tell};
use super::{nonsense, sync};
use crate::model::{Error, Result};
use crate::sys::clock::Time;
use crate::tree::entry::{Entry, EntryKind};
use crate::tree::look::{Handle, LIST_ENTRIES, Listing, Piece, READ_BYTES, READ_SLICES, Seen, Slice};

/// The longest handle: a path as long as there are any, and a little.
const HANDLE_MAX: usize = (1 << 20) + 64;
const NAME_MAX: usize = 255;

/// A call of [`Look`](crate::tree::look::Look).
#[derive(Clone, Debug, PartialEq)]
pub enum Ask {
    Root,
    List { dir: Handle, after: Option<Bytes> },
    Find { dir: Handle, name: Bytes },
    Again { handle: Handle },
    Read { slices: Vec<Slice> },
    Data { file: Handle, offset: u64 },
}

/// What it came to.
#[derive(Debug)]
pub enum Tell {
    Failed(Error),
    Entries(Listing),
    Pieces(Vec<Result<Piece>>),
    Data(Option<Range<u64>>),
}

impl Ask {
    /// The handle that those in the answer resemble.
    fn base(&self) -> &[u8] {
        match self {
            Ask::List { dir, .. } | Ask::Find { dir, .. } => &dir.0,
            Ask::Again { handle } => &handle.0,
            Ask::Root | Ask::Read { .. } | Ask::Data { .. } => b"",
        }
    }
}

pub fn ask_out(number: u64, ask: &Ask) -> proto::LookAsk {
    let slice = |slice: &Slice| proto::LookSlice { file: slice.file.0.clone(), offset: slice.offset, len: slice.len };
    let what = match ask {
        Ask::Root => look_ask::What::Root(proto::LookRoot {}),
        Ask::List { dir, after } => look_ask::What::List(proto::LookList { dir: dir.0.clone(), after: after.clone() }),
        Ask::Find { dir, name } => look_ask::What::Find(proto::LookFind { dir: dir.0.clone(), name: name.clone() }),
        Ask::Again { handle } => look_ask::What::Again(handle.0.clone()),
        Ask::Read { slices } => look_ask::What::Read(proto::LookRead { slices: slices.iter().map(slice).collect() }),
        Ask::Data { file, offset } => look_ask::What::Data(proto::LookData { file: file.0.clone(), offset: *offset }),
    };
    proto::LookAsk { number, what: Some(what) }
}

/// The number and the ask, within the limits of what one may ask for.
pub fn ask_in(message: proto::LookAsk) -> Result<(u64, Ask)> {
    let handle = |bytes: Bytes| match bytes.len() {
        ..=HANDLE_MAX => Ok(Handle(bytes)),
        len => Err(nonsense(format!("a handle of {len} bytes"))),
    };
    let ask = match message.what.ok_or_else(|| nonsense("a look of an unknown kind"))? {
        look_ask::What::Root(_) => Ask::Root,
        look_ask::What::List(list) => Ask::List { dir: handle(list.dir)?, after: list.after },
        look_ask::What::Find(find) => Ask::Find { dir: handle(find.dir)?, name: find.name },
        look_ask::What::Again(again) => Ask::Again { handle: handle(again)? },
        look_ask::What::Read(read) => {
            let total: u64 = read.slices.iter().map(|slice| u64::from(slice.len)).sum();
            if total > READ_BYTES as u64 || read.slices.len() > READ_SLICES {
                return Err(nonsense(format!("a wish for {total} bytes in {} slices", read.slices.len())));
            }
            let slice =
                |slice: proto::LookSlice| Ok(Slice { file: handle(slice.file)?, offset: slice.offset, len: slice.len });
            Ask::Read { slices: read.slices.into_iter().map(slice).collect::<Result<_>>()? }
        }
        look_ask::What::Data(data) => Ask::Data { file: handle(data.file)?, offset: data.offset },
    };
    Ok((message.number, ask))
}

/// The answer to `ask` as its message and the pieces of its payload.
pub fn tell_out(number: u64, ask: &Ask, tell: Tell) -> (proto::LookTell, Vec<Bytes>) {
    let mut payload = Vec::new();
    let what = match tell {
        Tell::Failed(error) => look_tell::What::Failure(sync::failure_out(&error)),
        Tell::Entries(listing) => {
            let base = ask.base();
            let entries = listing.entries.into_iter().map(|seen| entry_out(seen, base)).collect();
            payload.push(proto::LookEntries { entries, more: listing.more }.encode_to_vec().into());
            look_tell::What::Entries(true)
        }
        Tell::Pieces(pieces) => {
            let piece = |piece| match piece {
                Ok(Piece { data, version }) => {
                    let len = u32::try_from(data.len()).unwrap_or(u32::MAX);
                    payload.push(data);
                    proto::LookPiece { len, version, failure: None }
                }
                Err(error) => proto::LookPiece { failure: Some(sync::failure_out(&error)), ..Default::default() },
            };
            look_tell::What::Pieces(proto::LookPieces { pieces: pieces.into_iter().map(piece).collect() })
        }
        Tell::Data(range) => look_tell::What::Data(proto::LookRange {
            start: range.as_ref().map(|range| range.start),
            end: range.as_ref().map(|range| range.end),
        }),
    };
    (proto::LookTell { number, unpacked_len: 0, what: Some(what) }, payload)
}

/// What a message (with its payload, unpacked) answers to `ask`. What does not answer it is refused.
pub fn tell_in(ask: &Ask, message: proto::LookTell, payload: Bytes) -> Result<Tell> {
    let what = message.what.ok_or_else(|| nonsense("an answer of an unknown kind"))?;
    Ok(match (what, ask) {
        (look_tell::What::Failure(failure), _) => Tell::Failed(sync::failure_in(failure)),
        (look_tell::What::Entries(_), Ask::Root | Ask::List { .. } | Ask::Find { .. } | Ask::Again { .. }) => {
            let told = proto::LookEntries::decode(payload).map_err(|error| nonsense("entries").because(error))?;
            let most = if matches!(ask, Ask::List { .. }) { LIST_ENTRIES } else { 1 };
            if told.entries.len() > most {
                return Err(nonsense(format!("{} entries", told.entries.len())));
            }
            let may_be_root = matches!(ask, Ask::Root | Ask::Again { .. });
            let entries = told.entries.into_iter().map(|entry| entry_in(entry, ask.base(), may_be_root));
            Tell::Entries(Listing { entries: entries.collect::<Result<_>>()?, more: told.more })
        }
        (look_tell::What::Pieces(pieces), Ask::Read { slices }) => {
            if pieces.pieces.len() != slices.len() {
                return Err(nonsense(format!("{} pieces for {} slices", pieces.pieces.len(), slices.len())));
            }
            let mut rest = payload;
            let piece = |(piece, slice): (proto::LookPiece, &Slice)| {
                if let Some(failure) = piece.failure {
                    return Ok(Err(sync::failure_in(failure)));
                }
                if piece.len > slice.len || piece.len as usize > rest.len() {
                    return Err(nonsense(format!("{} bytes for a slice of {}", piece.len, slice.len)));
                }
                Ok(Ok(Piece { data: rest.split_to(piece.len as usize), version: piece.version }))
            };
            Tell::Pieces(pieces.pieces.into_iter().zip(slices).map(piece).collect::<Result<_>>()?)
        }
        (look_tell::What::Data(range), Ask::Data { .. }) => match (range.start, range.end) {
            (Some(start), Some(end)) if start < end => Tell::Data(Some(start..end)),
            (None, None) => Tell::Data(None),
            _ => return Err(nonsense("a range of data that is none")),
        },
        _ => return Err(nonsense("an answer to something else")),
    })
}

fn entry_out(seen: Seen, base: &[u8]) -> proto::LookEntry {
    let mut entry = Vec::new();
    seen.entry.encode(&mut entry);
    let shared = base.iter().zip(&seen.handle.0).take_while(|(one, other)| one == other).count();
    proto::LookEntry {
        entry: entry.into(),
        handle_shared: u32::try_from(shared).unwrap_or(0),
        handle: seen.handle.0.slice(shared..),
        id: seen.id,
        version: seen.version,
        links: seen.links,
        disk_bytes: seen.disk_bytes,
        changed_seconds: seen.changed.seconds,
        changed_nanos: seen.changed.nanos,
    }
}

fn entry_in(told: proto::LookEntry, base: &[u8], may_be_root: bool) -> Result<Seen> {
    let mut bytes = &told.entry[..];
    let entry = Entry::decode(&mut bytes).filter(|_| bytes.is_empty());
    let entry = entry.ok_or_else(|| nonsense("an entry that is none"))?;
    // The root has no name.
    let named = entry.has_plain_name() || may_be_root && entry.name.is_empty() && entry.is_dir();
    if !named || entry.name.len() > NAME_MAX || matches!(entry.kind, EntryKind::Link { .. }) {
        return Err(nonsense("an entry that cannot stand in a directory"));
    }
    let shared = base.get(..told.handle_shared as usize).ok_or_else(|| nonsense("a handle longer than its like"))?;
    let handle = Handle(if shared.is_empty() { told.handle } else { [shared, &told.handle].concat().into() });
    if handle.0.len() > HANDLE_MAX || told.changed_nanos >= 1_000_000_000 {
        return Err(nonsense("an entry with a handle or a time that cannot be"));
    }
    Ok(Seen {
        entry,
        handle,
        id: told.id,
        version: told.version,
        links: told.links,
        disk_bytes: told.disk_bytes,
        changed: Time { seconds: told.changed_seconds, nanos: told.changed_nanos },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Kind, Name};
    use crate::tree::entry::Meta;

    fn handle(text: &'static str) -> Handle {
        Handle(Bytes::from_static(text.as_bytes()))
    }

    fn seen(name: &str, handle: Handle) -> Seen {
        let meta = Meta { mode: 0o644, mtime: Time { seconds: -5, nanos: 7 }, ..Meta::default() };
        let kind = EntryKind::File { size: 3, content: Name::UNKNOWN };
        let entry = Entry { name: name.as_bytes().into(), meta, kind };
        Seen {
            entry,
            handle,
            id: 9,
            version: Some(4),
            links: 2,
            disk_bytes: 512,
            changed: Time { seconds: 1, nanos: 2 },
        }
    }

    fn told(ask: &Ask, tell: Tell) -> Result<Tell> {
        let (message, payload) = tell_out(1, ask, tell);
        tell_in(ask, message, payload.concat().into())
    }

    #[test]
    fn asks_come_out_as_they_went_in_within_their_limits() {
        let slice = Slice { file: handle("f"), offset: 7, len: 100 };
        for ask in [
            Ask::Root,
            Ask::List { dir: handle("d"), after: Some(Bytes::new()) },
            Ask::List { dir: handle("d"), after: None },
            Ask::Find { dir: handle("d"), name: Bytes::from_static(b"n") },
            Ask::Again { handle: handle("x") },
            Ask::Read { slices: vec![slice.clone(); 3] },
            Ask::Data { file: handle("f"), offset: 1 << 40 },
        ] {
            assert_eq!(ask_in(ask_out(5, &ask)).unwrap(), (5, ask));
        }
        let much = Slice { len: READ_BYTES as u32, ..slice.clone() };
        for slices in [vec![much.clone(), slice.clone()], vec![Slice { len: 0, ..slice }; READ_SLICES + 1]] {
            assert!(ask_in(ask_out(1, &Ask::Read { slices })).is_err());
        }
        let long = Handle(vec![0; HANDLE_MAX + 1].into());
        assert!(ask_in(ask_out(1, &Ask::Again { handle: long })).is_err());
    }

    #[test]
    fn answers_come_out_as_they_went_in() {
        let list = Ask::List { dir: handle("some/dir"), after: None };
        let entries = vec![seen("a", handle("some/dir/a")), seen("b", handle("elsewhere"))];
        let listing = Listing { entries: entries.clone(), more: true };
        let Tell::Entries(back) = told(&list, Tell::Entries(listing)).unwrap() else { panic!("entries") };
        assert_eq!((back.entries, back.more), (entries, true));
        let slice = Slice { file: handle("f"), offset: 0, len: 4 };
        let read = Ask::Read { slices: vec![slice.clone(), slice.clone(), slice] };
        let piece = |data: &'static [u8]| Piece { data: Bytes::from_static(data), version: None };
        let gone = Error::new(Kind::NotFound, "gone");
        let pieces = vec![Ok(piece(b"abcd")), Err(gone), Ok(piece(b"e"))];
        let Tell::Pieces(back) = told(&read, Tell::Pieces(pieces)).unwrap() else { panic!("pieces") };
        assert_eq!(back[0].as_ref().unwrap(), &piece(b"abcd"));
        assert_eq!(back[1].as_ref().unwrap_err().kind, Kind::NotFound);
        assert_eq!(back[2].as_ref().unwrap(), &piece(b"e"));
        let data = Ask::Data { file: handle("f"), offset: 0 };
        for range in [None, Some(3..u64::MAX)] {
            let Tell::Data(back) = told(&data, Tell::Data(range.clone())).unwrap() else { panic!("data") };
            assert_eq!(back, range);
        }
    }

    #[test]
    fn what_does_not_answer_is_refused() {
        let find = Ask::Find { dir: handle("d"), name: Bytes::from_static(b"n") };
        let listing = |entries| Tell::Entries(Listing { entries, more: false });
        assert!(told(&find, listing(vec![seen("a", handle("a")), seen("b", handle("b"))])).is_err(), "too many");
        for name in ["", ".", "..", "a/b", "a\0"] {
            assert!(told(&find, listing(vec![seen(name, handle("a"))])).is_err(), "{name:?}");
        }
        let mut further = seen("a", handle("a"));
        further.entry.kind = EntryKind::Link { first: b"x"[..].into() };
        assert!(told(&find, listing(vec![further])).is_err());
        assert!(told(&find, Tell::Data(None)).is_err());
        let read = Ask::Read { slices: vec![Slice { file: handle("f"), offset: 0, len: 2 }] };
        let long = Piece { data: Bytes::from_static(b"abc"), version: None };
        assert!(told(&read, Tell::Pieces(vec![Ok(long.clone())])).is_err(), "longer than its slice");
        assert!(told(&read, Tell::Pieces(vec![])).is_err());
        let (message, _) =
            tell_out(1, &read, Tell::Pieces(vec![Ok(Piece { data: long.data.slice(..2), version: None })]));
        assert!(tell_in(&read, message, Bytes::from_static(b"a")).is_err(), "less than was said");
    }
}
