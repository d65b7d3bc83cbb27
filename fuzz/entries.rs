//! What each fuzz target does with its bytes: take them in as the program would, and check what must hold whatever they are.
//! Used by the fuzzer and by the bounded run of `make test`.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use bytes::Bytes;
use mcloud::model::reference::{Place, Reference};
use mcloud::tree::filter::Filter;
use mcloud::tree::node;
use mcloud::wire::frame::{self, Decoder, Limits};
use mcloud::wire::{host, link, proto, sync};

/// A name and what is done with the bytes.
pub type Entry = (&'static str, fn(&[u8]));

pub const ALL: [Entry; 4] =
    [("wire", wire), ("list_nodes", list_nodes), ("references", references), ("ignore_rules", ignore_rules)];

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
    let _ = frame::message::<proto::Request>(header.clone());
    let _ = frame::message::<proto::Response>(header.clone());
    if let Ok(wire) = frame::message::<proto::SyncEvent>(header.clone()) {
        let _ = sync::event_in(wire);
    }
    if let Ok(wire) = frame::message::<proto::SyncReport>(header.clone()) {
        let _ = sync::report_in(wire);
    }
    if let Ok(wire) = frame::message::<proto::Failure>(header.clone()) {
        let _ = sync::failure_in(wire).chain();
    }
    if let Ok(wire) = frame::message::<proto::Tenant>(header.clone()) {
        let _ = host::tenant_in(wire);
    }
    if let Ok(wire) = frame::message::<proto::TenantInit>(header.clone()) {
        let _ = host::new_tenant_in(wire);
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
