//! The conversation of a sync's two ends ([`crate::tree::link`]) as messages with payloads.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::proto::{self, ask, chunk_node, listing_node, sent_range, tell};
use super::{nonsense, sync};
use crate::model::name::Short;
use crate::model::{Name, Result};
use crate::tree::link::{
    Ask, ChunkNode, ChunkRef, FileItem, FileState, Holes, ListingNode, NeedRange, Open, SentRange, Tell,
};

/// An ask as its message and payload.
pub fn ask_out(ask: Ask) -> (proto::Ask, Bytes) {
    let mut payload = Bytes::new();
    let what = match ask {
        Ask::Open(open) => ask::What::Open(proto::AskOpen {
            path: open.path.into(),
            exclude: open.exclude,
            checksum: open.checksum,
            fresh: open.fresh,
            bytes_per_second: open.bytes_per_second,
            holes: open.holes,
        }),
        Ask::Scan => ask::What::Scan(true),
        Ask::List { dir, have } => ask::What::List(proto::AskList { dir, have: shorts_out(&have) }),
        Ask::Fetch { dir, entries } => ask::What::Fetch(proto::AskFetch { dir, entries }),
        Ask::Chunks { dir, entry, have } => ask::What::Chunks(proto::AskChunks { dir, entry, have: shorts_out(&have) }),
        Ask::Need { dir, entry, ranges } => {
            let count: usize = ranges.iter().map(|range| range.blocks.len()).sum();
            let mut blocks = BytesMut::with_capacity(count * 8);
            ranges.iter().flat_map(|range| &range.blocks).for_each(|block| blocks.put_u64_le(*block));
            payload = blocks.freeze();
            let range_out = |range: &NeedRange| proto::NeedRange {
                offset: range.offset,
                len: range.len,
                blocks: range.blocks.len() as u32,
            };
            ask::What::Need(proto::AskNeed { dir, entry, ranges: ranges.iter().map(range_out).collect() })
        }
        Ask::Finish => ask::What::Finish(true),
    };
    (proto::Ask { what: Some(what) }, payload)
}

/// The ask that a message and its payload are.
pub fn ask_in(message: proto::Ask, mut payload: Bytes) -> Result<Ask> {
    Ok(match message.what.ok_or_else(|| nonsense("an ask of an unknown kind"))? {
        ask::What::Open(open) => Ask::Open(Open {
            path: open.path.to_vec(),
            exclude: open.exclude,
            checksum: open.checksum,
            fresh: open.fresh,
            bytes_per_second: open.bytes_per_second,
            holes: open.holes,
        }),
        ask::What::Scan(_) => Ask::Scan,
        ask::What::List(list) => Ask::List { dir: list.dir, have: shorts_in(&list.have)? },
        ask::What::Fetch(fetch) => Ask::Fetch { dir: fetch.dir, entries: fetch.entries },
        ask::What::Chunks(chunks) => {
            Ask::Chunks { dir: chunks.dir, entry: chunks.entry, have: shorts_in(&chunks.have)? }
        }
        ask::What::Need(need) => {
            let count: u64 = need.ranges.iter().map(|range| u64::from(range.blocks)).sum();
            if count * 8 != payload.len() as u64 {
                return Err(nonsense(format!("{count} blocks in {} bytes", payload.len())));
            }
            let range_in = |range: proto::NeedRange| NeedRange {
                offset: range.offset,
                len: range.len,
                blocks: (0..range.blocks).map(|_| payload.get_u64_le()).collect(),
            };
            Ask::Need { dir: need.dir, entry: need.entry, ranges: need.ranges.into_iter().map(range_in).collect() }
        }
        ask::What::Finish(_) => Ask::Finish,
    })
}

/// A tell as its message, and the pieces of its payload.
pub fn tell_out(tell: Tell) -> (proto::Tell, Vec<Bytes>) {
    let mut payload = Vec::new();
    let mut carry = |bytes: Bytes| {
        if !bytes.is_empty() {
            payload.push(bytes);
        }
    };
    let what = match tell {
        Tell::Opened { rules, local: _ } => {
            carry(rules.into());
            tell::What::Opened(true)
        }
        Tell::Scanning { files, bytes_read } => tell::What::Scanning(proto::Scanning { files, bytes_read }),
        Tell::Scanned { top, entries, bytes } => {
            carry(top);
            tell::What::Scanned(proto::TellScanned { entries, bytes })
        }
        Tell::LeftOut(left) => tell::What::LeftOut(sync::left_out_out(left)),
        Tell::Listing { dir, first_child, nodes, more } => {
            let node_out = |node| proto::ListingNode {
                what: Some(match node {
                    ListingNode::Have(short) => listing_node::What::Have(Bytes::copy_from_slice(&short.0)),
                    ListingNode::Raw(raw) => {
                        let len = raw.len() as u32;
                        carry(raw);
                        listing_node::What::RawLen(len)
                    }
                }),
            };
            tell::What::Listing(proto::TellListing {
                dir,
                first_child,
                more,
                nodes: nodes.into_iter().map(node_out).collect(),
            })
        }
        Tell::Files { items, data } => {
            carry(data);
            tell::What::Files(proto::TellFiles { items: items.into_iter().map(item_out).collect() })
        }
        Tell::Part { dir, entry, offset, chunks, data } => {
            carry(data);
            let proto::ChunkRefs { names, lens } = chunks_out(&chunks);
            tell::What::Part(proto::TellPart { dir, entry, offset, names, lens })
        }
        Tell::Restart { dir, entry } => tell::What::Restart(proto::TellRestart { dir, entry }),
        Tell::FileEnd(item) => tell::What::FileEnd(item_out(item)),
        Tell::Chunks { dir, entry, nodes } => {
            let node_out = |node| proto::ChunkNode {
                what: Some(match node {
                    ChunkNode::Have(short) => chunk_node::What::Have(Bytes::copy_from_slice(&short.0)),
                    ChunkNode::Raw(chunks) => chunk_node::What::Raw(chunks_out(&chunks)),
                }),
            };
            tell::What::Chunks(proto::TellChunks { dir, entry, nodes: nodes.into_iter().map(node_out).collect() })
        }
        Tell::ChunksEnd(item) => tell::What::ChunksEnd(item_out(item)),
        Tell::Ranges { dir, entry, first, ranges, data } => {
            carry(data);
            let range_out = |range| proto::SentRange {
                what: Some(match range {
                    SentRange::Whole => sent_range::What::Whole(true),
                    SentRange::Blocks(numbers) => sent_range::What::Blocks(proto::BlockNumbers { numbers }),
                    SentRange::Lost => sent_range::What::Lost(true),
                }),
            };
            tell::What::Ranges(proto::TellRanges {
                dir,
                entry,
                first,
                ranges: ranges.into_iter().map(range_out).collect(),
            })
        }
        Tell::Holes(files) => tell::What::Holes(proto::TellHoles { files: files.into_iter().map(holes_out).collect() }),
        Tell::Root { root, entries, bytes, bytes_read } => {
            tell::What::Root(proto::TellRoot { root: sync::name_out(Some(root)), entries, bytes, bytes_read })
        }
        Tell::Failed(error) => tell::What::Failed(sync::failure_out(&error)),
        Tell::Note(note) => tell::What::Note(note),
    };
    (proto::Tell { what: Some(what), unpacked_len: 0 }, payload)
}

/// The tell that a message and its (unpacked) payload are.
pub fn tell_in(message: proto::Tell, mut payload: Bytes) -> Result<Tell> {
    Ok(match message.what.ok_or_else(|| nonsense("a tell of an unknown kind"))? {
        tell::What::Opened(_) => Tell::Opened { rules: payload.to_vec(), local: None },
        tell::What::Scanning(scanning) => Tell::Scanning { files: scanning.files, bytes_read: scanning.bytes_read },
        tell::What::Scanned(scanned) => Tell::Scanned { top: payload, entries: scanned.entries, bytes: scanned.bytes },
        tell::What::LeftOut(left) => Tell::LeftOut(sync::left_out_in(left)),
        tell::What::Listing(listing) => {
            let node_in = |node: proto::ListingNode| {
                Ok(match node.what.ok_or_else(|| nonsense("a list node of an unknown kind"))? {
                    listing_node::What::Have(short) => ListingNode::Have(short_in(&short)?),
                    listing_node::What::RawLen(len) if len as usize <= payload.len() => {
                        ListingNode::Raw(payload.split_to(len as usize))
                    }
                    listing_node::What::RawLen(len) => {
                        return Err(nonsense(format!("a list node of {len} bytes in {} bytes", payload.len())));
                    }
                })
            };
            let nodes = listing.nodes.into_iter().map(node_in).collect::<Result<_>>()?;
            Tell::Listing { dir: listing.dir, first_child: listing.first_child, nodes, more: listing.more }
        }
        tell::What::Files(files) => {
            Tell::Files { items: files.items.into_iter().map(item_in).collect::<Result<_>>()?, data: payload }
        }
        tell::What::Part(part) => Tell::Part {
            dir: part.dir,
            entry: part.entry,
            offset: part.offset,
            chunks: chunks_in(&proto::ChunkRefs { names: part.names, lens: part.lens })?,
            data: payload,
        },
        tell::What::Restart(restart) => Tell::Restart { dir: restart.dir, entry: restart.entry },
        tell::What::FileEnd(item) => Tell::FileEnd(item_in(item)?),
        tell::What::Chunks(chunks) => {
            let node_in = |node: proto::ChunkNode| {
                Ok(match node.what.ok_or_else(|| nonsense("a chunk node of an unknown kind"))? {
                    chunk_node::What::Have(short) => ChunkNode::Have(short_in(&short)?),
                    chunk_node::What::Raw(chunks) => ChunkNode::Raw(chunks_in(&chunks)?),
                })
            };
            let nodes = chunks.nodes.into_iter().map(node_in).collect::<Result<_>>()?;
            Tell::Chunks { dir: chunks.dir, entry: chunks.entry, nodes }
        }
        tell::What::ChunksEnd(item) => Tell::ChunksEnd(item_in(item)?),
        tell::What::Ranges(ranges) => {
            let range_in = |range: proto::SentRange| {
                Ok(match range.what.ok_or_else(|| nonsense("a range of an unknown kind"))? {
                    sent_range::What::Whole(_) => SentRange::Whole,
                    sent_range::What::Blocks(blocks) => SentRange::Blocks(blocks.numbers),
                    sent_range::What::Lost(_) => SentRange::Lost,
                })
            };
            Tell::Ranges {
                dir: ranges.dir,
                entry: ranges.entry,
                first: ranges.first,
                ranges: ranges.ranges.into_iter().map(range_in).collect::<Result<_>>()?,
                data: payload,
            }
        }
        tell::What::Holes(told) => Tell::Holes(told.files.into_iter().map(holes_in).collect::<Result<_>>()?),
        tell::What::Root(root) => Tell::Root {
            root: known_or_not(&root.root)?,
            entries: root.entries,
            bytes: root.bytes,
            bytes_read: root.bytes_read,
        },
        tell::What::Failed(failure) => Tell::Failed(sync::failure_in(failure)),
        tell::What::Note(note) => Tell::Note(note),
    })
}

fn known_or_not(bytes: &[u8]) -> Result<Name> {
    Ok(sync::name_in(bytes)?.unwrap_or(Name::UNKNOWN))
}

fn item_out(item: FileItem) -> proto::FileItem {
    let state = match item.state {
        FileState::Ok => proto::FileState::Ok,
        FileState::Gone => proto::FileState::Gone,
        FileState::Unstable => proto::FileState::Unstable,
        FileState::Unreadable => proto::FileState::Unreadable,
    };
    proto::FileItem {
        dir: item.dir,
        entry: item.entry,
        len: item.len,
        content: sync::name_out(Some(item.content)),
        now: item.now,
        sparse: item.sparse,
        state: state.into(),
    }
}

fn item_in(item: proto::FileItem) -> Result<FileItem> {
    let state = match proto::FileState::try_from(item.state) {
        Ok(proto::FileState::Ok) => FileState::Ok,
        Ok(proto::FileState::Gone) => FileState::Gone,
        Ok(proto::FileState::Unstable) => FileState::Unstable,
        Ok(proto::FileState::Unreadable) => FileState::Unreadable,
        Err(_) => return Err(nonsense(format!("a file in state {}", item.state))),
    };
    Ok(FileItem {
        dir: item.dir,
        entry: item.entry,
        len: item.len,
        content: known_or_not(&item.content)?,
        now: item.now,
        sparse: item.sparse,
        state,
    })
}

fn holes_out(file: Holes) -> proto::FileHoles {
    let (mut holes, mut end) = (Vec::with_capacity(file.holes.len() * 2), 0);
    for hole in file.holes {
        holes.extend([hole.start - end, hole.end - hole.start]);
        end = hole.end;
    }
    proto::FileHoles { path: file.path.into(), holes }
}

fn holes_in(told: proto::FileHoles) -> Result<Holes> {
    let (pairs, rest) = told.holes.as_chunks::<2>();
    let mut end = 0u64;
    let mut hole_in = |[gap, len]: &[u64; 2]| {
        let start = end.checked_add(*gap)?;
        end = start.checked_add(*len).filter(|end| *end > start)?;
        Some(start..end)
    };
    let holes = pairs.iter().map(&mut hole_in).collect::<Option<Vec<_>>>().filter(|_| rest.is_empty());
    Ok(Holes { path: told.path.to_vec(), holes: holes.ok_or_else(|| nonsense("holes that cannot be"))? })
}

fn chunks_out(chunks: &[ChunkRef]) -> proto::ChunkRefs {
    let mut names = BytesMut::with_capacity(chunks.len() * 32);
    chunks.iter().for_each(|chunk| names.extend_from_slice(&chunk.name.0));
    proto::ChunkRefs { names: names.freeze(), lens: chunks.iter().map(|chunk| chunk.len).collect() }
}

fn chunks_in(chunks: &proto::ChunkRefs) -> Result<Vec<ChunkRef>> {
    let (names, rest) = chunks.names.as_chunks::<32>();
    if names.len() != chunks.lens.len() || !rest.is_empty() {
        return Err(nonsense(format!("{} lengths for {} bytes of names", chunks.lens.len(), chunks.names.len())));
    }
    Ok(names.iter().zip(&chunks.lens).map(|(name, len)| ChunkRef { name: Name(*name), len: *len }).collect())
}

fn shorts_out(shorts: &[Short]) -> Bytes {
    let mut bytes = BytesMut::with_capacity(shorts.len() * 16);
    shorts.iter().for_each(|short| bytes.extend_from_slice(&short.0));
    bytes.freeze()
}

fn shorts_in(bytes: &[u8]) -> Result<Vec<Short>> {
    let (shorts, rest) = bytes.as_chunks::<16>();
    if !rest.is_empty() {
        return Err(nonsense(format!("half names in {} bytes", bytes.len())));
    }
    Ok(shorts.iter().map(|short| Short(*short)).collect())
}

fn short_in(bytes: &[u8]) -> Result<Short> {
    bytes.try_into().map(Short).map_err(|_| nonsense(format!("a half name of {} bytes", bytes.len())))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use prost::Message;

    use super::*;
    use crate::model::sync::LeftOut;
    use crate::model::{Error, Kind};
    use crate::wire::frame::{self, Limits};

    fn name() -> impl Strategy<Value = Name> {
        any::<[u8; 32]>().prop_map(Name)
    }

    fn short() -> impl Strategy<Value = Short> {
        any::<[u8; 16]>().prop_map(Short)
    }

    fn bytes(most: usize) -> impl Strategy<Value = Bytes> {
        prop::collection::vec(any::<u8>(), 0..most).prop_map(Bytes::from)
    }

    fn chunks() -> impl Strategy<Value = Vec<ChunkRef>> {
        prop::collection::vec((name(), any::<u32>()).prop_map(|(name, len)| ChunkRef { name, len }), 0..5)
    }

    fn item() -> impl Strategy<Value = FileItem> {
        let state = prop_oneof![
            Just(FileState::Ok),
            Just(FileState::Gone),
            Just(FileState::Unstable),
            Just(FileState::Unreadable)
        ];
        (any::<(u32, u32, u64, bool)>(), name(), prop::option::of(bytes(9)), state).prop_map(
            |((dir, entry, len, sparse), content, now, state)| FileItem {
                dir,
                entry,
                len,
                content,
                now,
                sparse,
                state,
            },
        )
    }

    fn any_ask() -> impl Strategy<Value = Ask> {
        let range = (any::<(u64, u32)>(), prop::collection::vec(any::<u64>(), 0..4))
            .prop_map(|((offset, len), blocks)| NeedRange { offset, len, blocks });
        prop_oneof![
            (bytes(9), prop::collection::vec(".{0,9}", 0..3), any::<(bool, bool, u64, bool)>()).prop_map(
                |(path, exclude, (checksum, fresh, bytes_per_second, holes))| Ask::Open(Open {
                    path: path.to_vec(),
                    exclude,
                    checksum,
                    fresh,
                    bytes_per_second,
                    holes
                })
            ),
            proptest::strategy::LazyJust::new(|| Ask::Scan),
            (any::<u32>(), prop::collection::vec(short(), 0..4)).prop_map(|(dir, have)| Ask::List { dir, have }),
            (any::<u32>(), prop::collection::vec(any::<u32>(), 0..9))
                .prop_map(|(dir, entries)| Ask::Fetch { dir, entries }),
            (any::<(u32, u32)>(), prop::collection::vec(short(), 0..4)).prop_map(|((dir, entry), have)| Ask::Chunks {
                dir,
                entry,
                have
            }),
            (any::<(u32, u32)>(), prop::collection::vec(range, 0..4)).prop_map(|((dir, entry), ranges)| Ask::Need {
                dir,
                entry,
                ranges
            }),
            proptest::strategy::LazyJust::new(|| Ask::Finish),
        ]
    }

    fn any_tell() -> impl Strategy<Value = Tell> {
        let listing_node = prop_oneof![short().prop_map(ListingNode::Have), bytes(50).prop_map(ListingNode::Raw)];
        let chunk_node = prop_oneof![short().prop_map(ChunkNode::Have), chunks().prop_map(ChunkNode::Raw)];
        let range = prop_oneof![
            Just(SentRange::Whole),
            prop::collection::vec(any::<u32>(), 0..4).prop_map(SentRange::Blocks),
            Just(SentRange::Lost)
        ];
        prop_oneof![
            bytes(50).prop_map(|rules| Tell::Opened { rules: rules.to_vec(), local: None }),
            any::<(u64, u64)>().prop_map(|(files, bytes_read)| Tell::Scanning { files, bytes_read }),
            (bytes(50), any::<(u64, u64)>()).prop_map(|(top, (entries, bytes))| Tell::Scanned { top, entries, bytes }),
            (bytes(9), ".{0,9}").prop_map(|(path, reason)| Tell::LeftOut(LeftOut { path: path.to_vec(), reason })),
            (any::<(u32, u32, bool)>(), prop::collection::vec(listing_node, 0..4))
                .prop_map(|((dir, first_child, more), nodes)| Tell::Listing { dir, first_child, nodes, more }),
            (prop::collection::vec(item(), 0..4), bytes(99)).prop_map(|(items, data)| Tell::Files { items, data }),
            (any::<(u32, u32, u64)>(), chunks(), bytes(99))
                .prop_map(|((dir, entry, offset), chunks, data)| { Tell::Part { dir, entry, offset, chunks, data } }),
            any::<(u32, u32)>().prop_map(|(dir, entry)| Tell::Restart { dir, entry }),
            item().prop_map(Tell::FileEnd),
            (any::<(u32, u32)>(), prop::collection::vec(chunk_node, 0..4))
                .prop_map(|((dir, entry), nodes)| Tell::Chunks { dir, entry, nodes }),
            item().prop_map(Tell::ChunksEnd),
            (any::<(u32, u32, u32)>(), prop::collection::vec(range, 0..4), bytes(99))
                .prop_map(|((dir, entry, first), ranges, data)| Tell::Ranges { dir, entry, first, ranges, data }),
            prop::collection::vec((bytes(9), prop::collection::vec(1u64..1 << 40, 0..5)), 0..3).prop_map(|files| {
                let file = |(path, lens): (Bytes, Vec<u64>)| {
                    let mut end = 0;
                    let mut hole = |len| {
                        let start = end + len / 3;
                        end = start + len;
                        start..end
                    };
                    Holes { path: path.to_vec(), holes: lens.into_iter().map(&mut hole).collect() }
                };
                Tell::Holes(files.into_iter().map(file).collect())
            }),
            (name(), any::<(u64, u64, u64)>()).prop_map(|(root, (entries, bytes, bytes_read))| Tell::Root {
                root,
                entries,
                bytes,
                bytes_read
            }),
            (".{0,9}", prop::option::of(".{1,9}")).prop_map(|(message, hint)| {
                let error = Error::new(Kind::Busy, message).because(std::io::Error::other("why"));
                Tell::Failed(Error { hint, ..error })
            }),
            ".{0,9}".prop_map(Tell::Note),
        ]
    }

    /// A failure's cause comes back as text, which is all that is compared.
    fn shown(tell: &Tell) -> String {
        match tell {
            Tell::Failed(error) => format!("{} {} {:?}", error.kind.word(), error.chain(), error.hint),
            tell => format!("{tell:?}"),
        }
    }

    proptest! {
        #[test]
        fn asks_come_out_as_they_went_in(ask in any_ask()) {
            let before = format!("{ask:?}");
            let (message, payload) = ask_out(ask);
            let head = frame::head(&message, payload.len(), Limits::LINK).unwrap();
            let back = ask_in(frame::message(head.slice(frame::PREFIX..)).unwrap(), payload).unwrap();
            prop_assert_eq!(format!("{back:?}"), before);
        }

        #[test]
        fn tells_come_out_as_they_went_in(tell in any_tell()) {
            let before = shown(&tell);
            let (message, payload) = tell_out(tell);
            let payload = Bytes::from(payload.concat());
            let head = frame::head(&message, payload.len(), Limits::LINK).unwrap();
            let back = tell_in(frame::message(head.slice(frame::PREFIX..)).unwrap(), payload).unwrap();
            prop_assert_eq!(shown(&back), before);
        }

        #[test]
        fn a_damaged_message_is_an_error_or_another_message(
            tell in any_tell(), ask in any_ask(), at in any::<prop::sample::Index>(), value in any::<u8>(), cut in 0usize..40,
        ) {
            let damage = |header: Vec<u8>| {
                let mut header = header;
                if !header.is_empty() {
                    let at = at.index(header.len());
                    header[at] = value;
                }
                Bytes::from(header)
            };
            let (message, payload) = tell_out(tell);
            let payload = Bytes::from(payload.concat());
            let payload = payload.slice(..payload.len().saturating_sub(cut));
            if let Ok(message) = frame::message::<proto::Tell>(damage(message.encode_to_vec())) {
                let _ = tell_in(message, payload);
            }
            let (message, payload) = ask_out(ask);
            let payload = payload.slice(..payload.len().saturating_sub(cut));
            if let Ok(message) = frame::message::<proto::Ask>(damage(message.encode_to_vec())) {
                let _ = ask_in(message, payload);
            }
        }
    }
}
