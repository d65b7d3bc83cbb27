//! The fuzz targets' entries over mutated samples, for a bounded time. (`fuzz/` runs them under a fuzzer.)

use std::time::{Duration, Instant};

use bytes::Bytes;
use mcloud::model::Name;
use mcloud::model::name::Short;
use mcloud::store::pack::{Framer, OpenPack, PackKind};
use mcloud::sync::redo::Op;
use mcloud::sys::clock::Time;
use mcloud::tree::entry::{Entry, EntryKind, Meta};
use mcloud::tree::link::{Ask, ChunkRef, FileItem, FileState, Holes, ListingNode, NeedRange, Open, SentRange, Tell};
use mcloud::tree::node::{ListBuilder, ListKind};
use mcloud::wire::frame::{self, Limits};
use mcloud::wire::link::{ask_out, tell_out};

use crate::common::Rng;
use crate::common::seed::seeds;

#[path = "../../fuzz/entries.rs"]
mod entries;

/// Each entry gets this long.
const PATIENCE: Duration = Duration::from_millis(2500);

fn short(n: u64) -> Short {
    Name::of(&n.to_le_bytes()).short()
}

fn asks(rng: &mut Rng) -> Vec<Ask> {
    let ranges = (0..3).map(|n| NeedRange { offset: n * 70_000, len: 65_536, blocks: vec![rng.next(), rng.next()] });
    vec![
        Ask::Open(Open { path: b"sub".to_vec(), exclude: vec!["*.log".into()], checksum: true, ..Open::default() }),
        Ask::Scan,
        Ask::List { dir: 3, have: vec![short(1), short(2)] },
        Ask::Fetch { dir: 70_000, entries: vec![0, 1, 5, 900] },
        Ask::Chunks { dir: 1, entry: 2, have: vec![short(9)] },
        Ask::Need { dir: 1, entry: 2, ranges: ranges.collect() },
        Ask::Finish,
    ]
}

fn tells(rng: &mut Rng) -> Vec<Tell> {
    let name = Name::of(b"x");
    let item = |n: u32| FileItem {
        dir: n,
        entry: 7,
        len: 3,
        content: name,
        now: Some(Bytes::from_static(b"now")),
        sparse: n == 1,
        state: FileState::Ok,
    };
    let raw = Bytes::from(nodes(rng).swap_remove(0));
    vec![
        Tell::Scanning { files: 5, bytes_read: 1 << 40 },
        Tell::Scanned { top: raw.clone(), entries: 9, bytes: 10 },
        Tell::Listing {
            dir: 1,
            first_child: 2,
            nodes: vec![ListingNode::Have(short(1)), ListingNode::Raw(raw.clone())],
            more: false,
        },
        Tell::Files { items: vec![item(0), item(1)], data: Bytes::from_static(b"abcdef") },
        Tell::Part {
            dir: 1,
            entry: 2,
            offset: 3,
            chunks: vec![ChunkRef { name, len: 4 }],
            data: Bytes::from_static(b"abcd"),
        },
        Tell::Restart { dir: 1, entry: 2 },
        Tell::FileEnd(item(2)),
        Tell::ChunksEnd(item(3)),
        Tell::Ranges {
            dir: 1,
            entry: 2,
            first: 0,
            ranges: vec![SentRange::Whole, SentRange::Blocks(vec![0, 3]), SentRange::Lost],
            data: Bytes::from_static(b"0123456789"),
        },
        Tell::Holes(vec![Holes { path: b"a/b".to_vec(), holes: vec![0..4096, 8192..1 << 40] }]),
        Tell::Root { root: name, entries: 1, bytes: 2, bytes_read: 3 },
        Tell::Note("a note".into()),
    ]
}

fn nodes(rng: &mut Rng) -> Vec<Vec<u8>> {
    let mut found = Vec::new();
    let mut builder = ListBuilder::new(ListKind::Entries, |_, bytes| found.push(bytes));
    for number in 0..200u32 {
        let meta = Meta {
            mode: 0o644,
            uid: number,
            gid: 5,
            mtime: Time { seconds: -5, nanos: 7 },
            xattrs: vec![(b"user.a"[..].into(), rng.bytes(5).into())],
        };
        let kind = match number % 7 {
            0 => EntryKind::File { size: 1 << 33, content: Name::of(b"1") },
            1 => EntryKind::Dir { content: Name::of(b"2") },
            2 => EntryKind::Symlink { target: b"to/there"[..].into() },
            3 => EntryKind::Fifo,
            4 => EntryKind::Char { major: 1, minor: 3 },
            5 => EntryKind::Block { major: 259, minor: 70_000 },
            _ => EntryKind::File { size: 0, content: Name::of(b"") },
        };
        builder.push_entry(&Entry { name: format!("{number:05}").into_bytes().into(), meta, kind });
    }
    builder.finish();
    let mut chunks = ListBuilder::new(ListKind::Chunks, |_, bytes| found.push(bytes));
    for number in 0..100u32 {
        chunks.push_chunk(ChunkRef { name: Name::of(&number.to_le_bytes()), len: 70_000 + number });
    }
    chunks.finish();
    found
}

fn redo_log() -> Vec<Vec<u8>> {
    let path = |text: &str| text.as_bytes().to_vec();
    let kind = EntryKind::File { size: 70_000, content: Name::of(b"1") };
    let entry = Entry { name: (*b"f").into(), meta: Meta { mode: 0o640, ..Meta::default() }, kind };
    let ops = [
        Op::Detach { path: path("a"), ino: 7, to: path("trash/1") },
        Op::Unlink { path: path("b/c"), ino: 1 << 40 },
        Op::Attach { from: path("new/1"), path: Vec::new() },
        Op::Patch { from: path("files/0/1"), path: path("db"), ino: 9 },
        Op::Link { first: path("a"), path: path("b") },
        Op::Dress { path: path("f"), entry: Box::new(entry) },
    ];
    let encoded = |op: &Op| {
        let mut bytes = Vec::new();
        op.encode(&mut bytes);
        bytes
    };
    let mut found: Vec<Vec<u8>> = ops.iter().map(encoded).collect();
    let framed = |bytes: &Vec<u8>| [&(bytes.len() as u32).to_le_bytes()[..], bytes].concat();
    found.push([found.iter().flat_map(framed).collect::<Vec<u8>>(), vec![0; 4]].concat());
    found
}

fn packs() -> Vec<Vec<u8>> {
    let mut framer = Framer::new(None).unwrap();
    let mut pack = OpenPack::new(PackKind::Chunks, false);
    let mut found = Vec::new();
    for frame in 0..3u8 {
        let objects: Vec<Vec<u8>> = (0..4u8).map(|at| vec![frame * 16 + at; 10 + usize::from(at)]).collect();
        let named: Vec<_> = objects.iter().map(|bytes| (Name::of(bytes), bytes.len() as u32)).collect();
        let stored = framer.frame(&objects.concat()).unwrap();
        pack.add(&stored, &named);
        found.push(stored);
    }
    let whole = pack.close(None).unwrap().bytes.to_vec();
    // As the entry takes a footer: behind the length of the frames.
    let frames: usize = found.iter().map(Vec::len).sum();
    let footer = &whole[16 + frames..whole.len() - 36];
    found.push([&(frames as u16).to_le_bytes()[..], footer].concat());
    found.push(framer.frame(&[7; 5000]).unwrap());
    for first in ["mcloud snapshot 1\n", "mcloud snapshot 2\n"] {
        let mut record = first.as_bytes().to_vec();
        record.extend_from_slice(b"\x07\x04shop\x04shop\x01\x05\x01\x01a\x03ann\x01\x00\x00\x03\x04\x00");
        let kind = EntryKind::Dir { content: Name::of(b"2") };
        Entry { name: Box::default(), meta: Meta::default(), kind }.encode(&mut record);
        if first.contains('2') {
            record.push(2);
            record.extend_from_slice(&Name::of(b"3").0);
        }
        assert!(mcloud::store::snapshot::Snapshot::decode(&record).is_some());
        found.push(record);
    }
    found.push(whole);
    found
}

fn yaml() -> Vec<Vec<u8>> {
    [
        include_str!("../../examples/flask-redis/mcloud.yml"),
        "web:\n  image: &i nginx\n  cmd: [a, \"b c\"]\n  env: {A: 1, B: \"x\\ty\"}\n  volumes: [.:/app:ro]\n  web: 80\n  wait: 5s\n\
         db:\n  build: ./db\n  image: *i\n",
        "a:\n  dockerfile: |\n    FROM x\n    RUN y\n  data: [/data, /more]\n  snapshot: {before: b, after: c, timeout: 60}\n\
         \"---\": {hosts: {live: a@h}, commands: {ship: [sync . live]}}\nb:\n  extend: a\n  ~prod: {ssl: 443, data: }\n",
        "- 1\n- {a: [!!str b, ~, null]}\n--- x\n...\n? k\n: >-\n  v\n",
    ]
    .map(|text| text.as_bytes().to_vec())
    .to_vec()
}

fn samples(entry: &str, rng: &mut Rng) -> Vec<Vec<u8>> {
    match entry {
        "wire" => {
            let mut found = Vec::new();
            for (message, payload) in asks(rng).into_iter().map(ask_out) {
                let head = frame::head(&message, payload.len(), Limits::LINK).unwrap();
                found.push([&head[frame::PREFIX..]].concat());
                found.push([&head[..], &payload[..]].concat());
            }
            for (message, payload) in tells(rng).into_iter().map(tell_out) {
                let payload = payload.concat();
                let head = frame::head(&message, payload.len(), Limits::LINK).unwrap();
                found.push(head[frame::PREFIX..].to_vec());
                found.push([&head[..], &payload[..]].concat());
            }
            let whole = found.concat();
            found.push(whole);
            found
        }
        "list_nodes" => nodes(rng),
        "redo_log" => redo_log(),
        "packs" => packs(),
        "yaml" => yaml(),
        "references" => {
            ["shop", "web.shop@host:7080:/data", "a@[::1]:1:/x/y", "t@me", "s.t@10.0.0.1", "@", "a.b.c@d:/"]
                .map(|text| text.as_bytes().to_vec())
                .to_vec()
        }
        "ignore_rules" => [
            &b"*.log\n!keep.log\n/build/\nnode_modules\n**/x/**/y\n[a-z]?\n\\#odd\0some/file.log"[..],
            b"{a,b}\n[!a]\n***\n/\n//\n!\0a",
            b"a/../b\0a/b",
        ]
        .map(<[u8]>::to_vec)
        .to_vec(),
        other => panic!("no samples for {other}"),
    }
}

/// What a fuzzer found worth keeping.
fn corpus(entry: &str) -> Vec<Vec<u8>> {
    let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(entry);
    let Ok(files) = std::fs::read_dir(dir) else { return Vec::new() };
    let mut files: Vec<_> = files.map(|file| file.unwrap().path()).collect();
    files.sort();
    files.iter().map(|file| std::fs::read(file).unwrap()).collect()
}

/// One sample, a little or much changed.
fn mutated(samples: &[Vec<u8>], rng: &mut Rng) -> Vec<u8> {
    let mut bytes = rng.pick(samples).clone();
    for _ in 0..rng.below(6) {
        let at = rng.below(bytes.len() as u64 + 1) as usize;
        match rng.below(7) {
            0 if at < bytes.len() => bytes[at] ^= 1 << rng.below(8),
            1 if at < bytes.len() => bytes[at] = *rng.pick(&[0, 1, 0x7f, 0x80, 0xff, b'/', b'.', b':', b'@']),
            2 => bytes.truncate(at),
            3 => {
                let len = rng.within(1, 9) as usize;
                let more = rng.bytes(len);
                bytes.splice(at..at, more);
            }
            4 if at < bytes.len() => {
                let end = (at + rng.within(1, 30) as usize).min(bytes.len());
                bytes.drain(at..end);
            }
            5 => {
                let other = rng.pick(samples);
                let from = rng.below(other.len() as u64 + 1) as usize;
                bytes.splice(at.., other[from..].iter().copied());
            }
            _ if bytes.len() >= at + 4 => bytes[at..at + 4].copy_from_slice(&u32::MAX.to_le_bytes()),
            _ => {}
        }
    }
    bytes
}

#[test]
fn hostile_bytes_neither_crash_nor_are_believed() {
    let seed = *seeds(0).last().unwrap();
    for (name, entry) in entries::ALL {
        let mut rng = Rng::new(seed);
        let mut samples = samples(name, &mut rng);
        samples.extend(corpus(name));
        samples.iter().for_each(|sample| entry(sample));
        let (began, mut runs) = (Instant::now(), 0u64);
        while began.elapsed() < PATIENCE {
            let bytes = mutated(&samples, &mut rng);
            if std::panic::catch_unwind(|| entry(&bytes)).is_err() {
                panic!("{name}, seed {seed}, run {runs}: fails on {}", bytes.escape_ascii());
            }
            runs += 1;
        }
        println!("{name}: {runs} runs, seed {seed}");
        assert!(runs > 200, "{name}: only {runs} runs");
    }
}

#[test]
fn the_samples_are_understood() {
    // Else the mutations would start from nowhere.
    let mut rng = Rng::new(1);
    for node in nodes(&mut rng) {
        let (entries, chunks) = (mcloud::tree::node::decode_entries(&node), mcloud::tree::node::decode_chunks(&node));
        assert!(node[1] != 0 || entries.is_some() || chunks.is_some(), "{}", node.escape_ascii());
    }
    for (message, payload) in tells(&mut rng).into_iter().map(tell_out) {
        mcloud::wire::link::tell_in(message, payload.concat().into()).unwrap();
    }
}
