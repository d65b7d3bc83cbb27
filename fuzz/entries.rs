//! What each fuzz target does with its bytes: take them in as the program would, and check what must hold whatever they are.
//! Used by the fuzzer and by the bounded run of `make test`.

use std::ffi::OsStr;
use std::fs::File;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;

use bytes::Bytes;
use mcloud::model::Name;
use mcloud::model::reference::{Place, Reference};
use mcloud::store::pack;
use mcloud::store::snapshot::Snapshot;
use mcloud::sync::redo;
use mcloud::tenant::config;
use mcloud::tree::filter::Filter;
use mcloud::tree::look::{Handle, Slice};
use mcloud::tree::node;
use mcloud::wire::frame::{self, Decoder, Limits};
use mcloud::wire::{grants, host, link, look, proto, publish, release, running, schedule, sync};
use prost::Message;

/// A name and what is done with the bytes.
pub type Entry = (&'static str, fn(&[u8]));

pub const ALL: [Entry; 7] = [
    ("wire", wire),
    ("list_nodes", list_nodes),
    ("redo_log", redo_log),
    ("packs", packs),
    ("yaml", yaml),
    ("references", references),
    ("ignore_rules", ignore_rules),
];

/// Bytes of a peer: frames out of them, each taken for every message it could be.
pub fn wire(data: &[u8]) {
    // Whole, and again byte by byte: where the network cuts must not matter.
    let frames = |piece: usize| {
        let mut decoder = Decoder::new(Limits { header: 1 << 20, payload: 1 << 20 });
        let mut found = Vec::new();
        for part in data.chunks(piece.max(1)) {
            decoder.push(part);
            loop {
                match decoder.next_frame() {
                    Ok(Some(frame)) => found.push(frame),
                    Ok(None) => break,
                    Err(_) => return found,
                }
            }
        }
        found
    };
    let found = frames(data.len());
    if data.len() < 4096 {
        assert_eq!(found, frames(1), "cut elsewhere, frames differ");
    }
    for (header, payload) in found {
        message(&header, &payload);
    }
    message(&Bytes::copy_from_slice(data), &Bytes::from_static(b"payload"));
}

fn message(header: &Bytes, payload: &Bytes) {
    if let Ok(wire) = frame::message::<proto::Ask>(header.clone())
        && let Ok(ask) = link::ask_in(wire, payload.clone())
    {
        let shown = format!("{ask:?}");
        let (again, payload) = link::ask_out(ask);
        let back = link::ask_in(again, payload).expect("what was understood is understood again");
        assert_eq!(format!("{back:?}"), shown);
    }
    if let Ok(wire) = frame::message::<proto::Tell>(header.clone())
        && let Ok(tell) = link::tell_in(wire, payload.clone())
    {
        let shown = format!("{tell:?}");
        let (again, parts) = link::tell_out(tell);
        let back = link::tell_in(again, parts.concat().into()).expect("what was understood is understood again");
        assert_eq!(format!("{back:?}"), shown);
    }
    looked_at(header, payload);
    let _ = frame::message::<proto::Request>(header.clone());
    let _ = frame::message::<proto::Response>(header.clone());
    taken(header, sync::event_in);
    taken(header, sync::report_in);
    taken(header, |failure| Ok(sync::failure_in(failure).chain()));
    taken(header, |options| Ok(sync::options_in(options)));
    taken(header, |plan| Ok(sync::plan_in(plan)));
    taken(header, host::tenant_in);
    taken(header, host::new_tenant_in);
    taken(header, |volume: proto::VolumeRef| host::volume_in(Some(volume)));
    taken(header, publish::publish_in);
    taken(header, publish::published_in);
    taken(header, publish::cert_in);
    taken(header, |start: proto::ReleaseStart| release::wanted_in(&start));
    taken(header, release::receipt_in);
    taken(header, running::act_in);
    taken(header, running::status_in);
    taken(header, running::command_in);
    taken(header, |task| Ok(running::task_in(task)));
    taken(header, schedule::new_job_in);
    taken(header, schedule::kept_in);
    taken(header, schedule::job_in);
    taken(header, schedule::run_in);
    taken(header, |grant| grants::grant_in(grant, (String::new(), String::new())));
    taken(header, |far| Ok(grants::far_in(far)));
}

/// A message that is one, taken into the words of the model.
fn taken<M: Message + Default, T>(header: &Bytes, take: impl Fn(M) -> mcloud::model::Result<T>) {
    if let Ok(message) = frame::message::<M>(header.clone()) {
        let _ = take(message);
    }
}

/// The asks of whoever looks at a tree, and the answers to each kind of them.
fn looked_at(header: &Bytes, payload: &Bytes) {
    if let Ok(ask) = frame::message::<proto::LookAsk>(header.clone())
        && let Ok((number, ask)) = look::ask_in(ask)
    {
        let back = look::ask_in(look::ask_out(number, &ask)).expect("what was understood is understood again");
        assert_eq!(back, (number, ask));
    }
    let handle = || Handle(Bytes::from_static(b"a/b"));
    for ask in [
        look::Ask::Root,
        look::Ask::List { dir: handle(), after: None },
        look::Ask::Find { dir: handle(), name: Bytes::from_static(b"c") },
        look::Ask::Read { slices: vec![Slice { file: handle(), offset: 0, len: 5 }; 2] },
        look::Ask::Data { file: handle(), offset: 1 },
    ] {
        // The payload of entries is a message, too: the same bytes are tried as one.
        for payload in [payload, header] {
            let Ok(tell) = frame::message::<proto::LookTell>(header.clone()) else { break };
            let Ok(tell) = look::tell_in(&ask, tell, payload.clone()) else { continue };
            let shown = format!("{tell:?}");
            let (again, parts) = look::tell_out(1, &ask, tell);
            let back = look::tell_in(&ask, again, parts.concat().into()).expect("it is understood again");
            assert_eq!(format!("{back:?}"), shown);
        }
        let entries = proto::LookTell { number: 1, unpacked_len: 0, what: Some(proto::look_tell::What::Entries(true)) };
        let _ = look::tell_in(&ask, entries, header.clone());
    }
}

/// Bytes of a peer or of an index: a list node, or not. One that is, is the canonical encoding of what it says.
pub fn list_nodes(data: &[u8]) {
    if let Some(entries) = node::decode_entries(data) {
        let mut items = Vec::new();
        entries.iter().for_each(|entry| entry.encode(&mut items));
        assert!(data.ends_with(&items), "not the canonical encoding");
        for pair in entries.windows(2) {
            assert!(pair[0].name < pair[1].name, "names out of order");
        }
        for entry in &entries {
            let name = &entry.name;
            let plain =
                !name.is_empty() && !name.contains(&b'/') && !name.contains(&0) && **name != *b"." && **name != *b"..";
            assert!(plain, "a name that leads elsewhere: {name:?}");
        }
    }
    if let Some(chunks) = node::decode_chunks(data) {
        node::content_name(&chunks);
    }
}

thread_local! {
    /// A file without a name, used again and again.
    static SCRATCH: File = {
        let path = std::env::temp_dir().join(format!("mcloud-fuzz-{}-{:?}", std::process::id(), std::thread::current().id()));
        let file = File::options().read(true).write(true).create(true).truncate(true).open(&path).expect("a file");
        std::fs::remove_file(&path).expect("its name goes");
        file
    };
}

/// A redo log after a crash, or a damaged one. What is read is what was written, and a torn log is no log.
pub fn redo_log(data: &[u8]) {
    let one = |op: &redo::Op| {
        let mut bytes = Vec::new();
        op.encode(&mut bytes);
        assert_eq!(redo::Op::decode(&bytes).as_ref(), Some(op));
    };
    redo::Op::decode(data).iter().for_each(one);
    let read = |bytes: &[u8]| {
        SCRATCH.with(|file| {
            file.set_len(0).expect("it is emptied");
            let mut file = file.try_clone().expect("its handle");
            std::io::Seek::rewind(&mut file).expect("its start");
            file.write_all(bytes).expect("its bytes");
            let mut log = redo::Reader::open(file)?;
            let mut ops = Vec::new();
            while let Some(op) = log.next_op()? {
                one(&op);
                ops.push(op);
            }
            std::io::Result::Ok(ops)
        })
    };
    let _ = read(data);
    // With the first bytes and the sum of a whole one, so that what stands in it is looked at: of each format there may be.
    for first in [b"mcloud redo 1\n\0\0", b"mcloud redo 2\n\0\0"] {
        let mut whole = [&first[..], data].concat();
        whole.extend_from_slice(&Name::of(&whole).0);
        let ops = read(&whole);
        if let (Some(last), Ok(_)) = (whole.len().checked_sub(33), &ops) {
            whole[last] ^= 1;
            assert!(read(&whole).is_err(), "a flipped bit is not noticed");
        }
    }
}

/// A file of a store: a pack, a frame of one, the record of a snapshot.
pub fn packs(data: &[u8]) {
    pack_file(data);
    // A footer under a sum that is right, behind as many bytes of frames as the first two say.
    if let Some((len, footer)) = data.split_first_chunk::<2>() {
        let mut file = [&b"mcloud pack 1\n"[..], &[1 + (len[1] & 1), 0]].concat();
        let sum = Name::of(&[&file[..], footer].concat());
        file.resize(file.len() + usize::from(u16::from_le_bytes(*len)), 7);
        file.extend_from_slice(footer);
        file.extend_from_slice(&(footer.len() as u32).to_le_bytes());
        file.extend_from_slice(&sum.0);
        pack_file(&file);
    }
    if let Some(raw) = pack::unframe(data, None) {
        let again = pack::Framer::new(None).and_then(|mut framer| framer.frame(&raw)).expect("it can be packed");
        assert!(pack::unframe(&again, None).expect("and unpacked") == raw);
    }
    if let Some(snapshot) = Snapshot::decode(data) {
        assert_eq!(Snapshot::decode(&snapshot.encode()), Some(snapshot));
    }
}

fn pack_file(file: &[u8]) {
    let read = |offset: u64, len: u64| {
        let end = offset.checked_add(len).and_then(|end| usize::try_from(end).ok());
        let piece = end.and_then(|end| file.get(offset as usize..end)).expect("nothing outside of the file is read");
        Ok(Bytes::copy_from_slice(piece))
    };
    let Ok(Some((_, entries))) = pack::contents(file.len() as u64, None, read) else { return };
    for entry in entries {
        let end = u64::from(entry.offset) + u64::from(entry.stored);
        assert!(end <= file.len() as u64, "an object behind the end of its pack: {entry:?}");
        assert!(entry.at.checked_add(entry.len).is_some(), "an object without an end: {entry:?}");
    }
}

/// A tenant's description, which may come from anybody.
pub fn yaml(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    for env in [None, Some("prod")] {
        match config::parse(text, env) {
            Ok(read) => {
                assert_eq!(config::parse(text, env).expect("it is read again"), read);
                for service in &read.services {
                    let folder = match &service.origin {
                        config::Origin::Build(folder) => Some(folder),
                        _ => None,
                    };
                    for path in service.volumes.iter().map(|mount| &mount.local).chain(folder) {
                        let path = path.as_str();
                        let plain = !path.starts_with('/') && path.split('/').all(|name| name != ".." && name != ".");
                        assert!(plain, "a path that leads elsewhere: {path:?}");
                    }
                }
            }
            Err(error) => {
                let said = [Some(&error.message), error.hint.as_ref()];
                let odd = said.into_iter().flatten().find(|text| text.chars().any(|c| c.is_control() && c != '\n'));
                assert!(odd.is_none(), "{odd:?}");
            }
        }
    }
}

/// What people type: a reference, or a folder, or neither. One that is, shows as itself.
pub fn references(data: &[u8]) {
    if let Ok(Place::Tenant(reference)) = Place::parse(OsStr::from_bytes(data)) {
        let shown = reference.to_string();
        assert_eq!(shown.parse::<Reference>().expect("what is shown can be typed"), reference, "{shown}");
    }
    if let Ok(text) = std::str::from_utf8(data) {
        match text.parse::<Reference>() {
            Ok(reference) => {
                let shown = reference.to_string();
                assert_eq!(shown.parse::<Reference>().expect("what is shown can be typed"), reference, "{shown}");
            }
            Err(error) => assert!(!error.message.chars().any(|c| c.is_control() && c != '\n'), "{:?}", error.message),
        }
    }
}

/// The source's rules, which another's daemon applies to its own paths.
pub fn ignore_rules(data: &[u8]) {
    let (rules, path) = match data.iter().position(|byte| *byte == 0) {
        Some(at) => (&data[..at], &data[at + 1..]),
        None => (data, &b"some/path.log"[..]),
    };
    if let Ok(filter) = Filter::new(b"", rules, &[]) {
        let plain = !path.is_empty() && !path.starts_with(b"/") && !path.contains(&0);
        if plain {
            let stand = filter.stand(path, false);
            assert_eq!(stand, filter.stand(path, false));
            filter.stand(path, true);
        }
    }
    if let Ok(filter) = Filter::new(rules, b"", &[]) {
        filter.stand(b"a/b", true);
    }
}
