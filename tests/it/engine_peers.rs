//! A target whose source tells what no honest one would: nothing breaks, nothing is written where it should not be.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use bytes::Bytes;
use mcloud::model::sync::{Event, LeftOut, Plan, Report, SyncOptions};
use mcloud::model::{Kind, Name, Result};
use mcloud::sync::{LiveDir, Observer, run};
use mcloud::tree::entry::{Entry, EntryKind, Meta};
use mcloud::tree::link::{Ask, ChunkRef, FileItem, FileState, ListingNode, Tell, pair};
use mcloud::tree::node::{ListBuilder, ListKind};

use crate::common::engine::forced;
use crate::common::scratch;

struct Quiet;

impl Observer for Quiet {
    fn event(&self, _: Event) {}

    fn confirm(&self, _: &Plan) -> Result<bool> {
        Ok(true)
    }
}

fn entry(name: &str, kind: EntryKind) -> Entry {
    let meta = Meta { mode: 0o755, ..Meta::default() };
    Entry { name: name.as_bytes().into(), meta, kind }
}

fn file(name: &str, size: u64) -> Entry {
    entry(name, EntryKind::File { size, content: Name::UNKNOWN })
}

fn folder(name: &str) -> Entry {
    entry(name, EntryKind::Dir { content: Name::UNKNOWN })
}

fn listing(dir: u32, first_child: u32, entries: &[Entry]) -> Tell {
    let mut nodes = Vec::new();
    let mut list = ListBuilder::new(ListKind::Entries, |_, bytes: Vec<u8>| nodes.push(ListingNode::Raw(bytes.into())));
    entries.iter().for_each(|entry| list.push_entry(entry));
    list.finish();
    Tell::Listing { dir, first_child, nodes, more: false }
}

fn item(dir: u32, entry: u32, content: &[u8], state: FileState) -> FileItem {
    let len = content.len() as u64;
    FileItem { dir, entry, len, content: Name::of(content), now: None, sparse: false, state }
}

/// A sync from a source that opens and scans as any other, and answers the rest as `answer` says.
fn told(
    target: &Path,
    options: &SyncOptions,
    aside: Vec<Tell>,
    mut answer: impl FnMut(Ask) -> Vec<Tell> + Send + 'static,
) -> Result<Report> {
    let (target_end, mut source_end) = pair();
    let source = std::thread::spawn(move || {
        let mut aside = Some(aside);
        while let Some(ask) = source_end.ask.blocking_recv() {
            let tells = match ask {
                Ask::Open(_) => vec![Tell::Opened { rules: Vec::new(), local: None }],
                Ask::Scan => {
                    let mut top = Vec::new();
                    folder("").encode(&mut top);
                    let mut tells = aside.take().unwrap_or_default();
                    tells.push(Tell::Scanned { top: top.into(), entries: 2, bytes: 3 });
                    tells
                }
                Ask::Finish => vec![Tell::Root { root: Name::of(b"x"), entries: 2, bytes: 3, bytes_read: 0 }],
                other => answer(other),
            };
            if tells.into_iter().any(|tell| source_end.tell.blocking_send(tell).is_err()) {
                break;
            }
        }
    });
    let dir = LiveDir { root: target.to_owned(), index: None, label: "target".into() };
    let report = run(&dir, target_end, options, Arc::new(Quiet), Arc::new(AtomicBool::new(false)));
    source.join().expect("the source");
    report
}

fn left_out(path: &str) -> Tell {
    Tell::LeftOut(LeftOut { path: path.into(), reason: "it could not be read".into() })
}

#[test]
fn a_folder_the_source_could_not_read_after_all_is_not_emptied() {
    let dir = scratch();
    fs::create_dir_all(dir.path().join("target/d/deep")).unwrap();
    fs::write(dir.path().join("target/d/deep/file"), "kept").unwrap();
    let report = told(&dir.path().join("target"), &forced(), vec![left_out("d")], |ask| match ask {
        Ask::List { dir: 0, .. } => vec![listing(0, 1, &[folder("d")])],
        Ask::List { dir, .. } => vec![listing(dir, 2, &[])],
        _ => vec![],
    });
    assert_eq!(report.unwrap().left_out, 1);
    assert_eq!(fs::read(dir.path().join("target/d/deep/file")).unwrap(), b"kept");
}

#[test]
fn nothing_stays_of_a_file_that_vanished_while_it_was_read_again() {
    let dir = scratch();
    let data = vec![7u8; 100_000];
    let report = told(&dir.path().join("target"), &forced(), vec![left_out("other")], move |ask| match ask {
        Ask::List { dir: 0, .. } => vec![listing(0, 1, &[folder("d")])],
        Ask::List { dir, .. } => vec![listing(dir, 2, &[file("f", 2 << 20)])],
        Ask::Fetch { dir, .. } => {
            let chunks = vec![ChunkRef { name: Name::of(&data), len: data.len() as u32 }];
            vec![
                Tell::Part { dir, entry: 0, offset: 0, chunks, data: data.clone().into() },
                Tell::Restart { dir, entry: 0 },
                Tell::FileEnd(item(dir, 0, b"", FileState::Gone)),
            ]
        }
        _ => vec![],
    });
    report.unwrap();
    assert!(dir.path().join("target/d").is_dir());
    assert!(!dir.path().join("target/d/f").exists(), "a part of a file came into the tree");
}

/// The sync fails as one whose source talks nonsense, and the target is as it was.
#[track_caller]
fn refused(options: &SyncOptions, answer: impl FnMut(Ask) -> Vec<Tell> + Send + 'static) {
    let dir = scratch();
    let target = dir.path().join("target");
    fs::create_dir(&target).unwrap();
    fs::write(target.join("secret"), "kept").unwrap();
    let error = told(&target, options, vec![left_out("x")], answer).unwrap_err();
    assert_eq!(error.kind, Kind::Corrupt, "{}", error.chain());
    assert_eq!(fs::read(target.join("secret")).unwrap(), b"kept");
    assert_eq!(fs::read_dir(&target).unwrap().count(), 1);
}

#[test]
fn an_entry_that_the_target_excludes_is_refused() {
    let exclude = SyncOptions { exclude: vec!["secret".into()], ..forced() };
    let part = SyncOptions { path: b"part".to_vec(), ..forced() };
    for options in [exclude, part] {
        refused(&options, |ask| match ask {
            Ask::List { dir, .. } => vec![listing(dir, 1, &[file("secret", 3)])],
            Ask::Fetch { dir, .. } => {
                vec![Tell::Files { items: vec![item(dir, 0, b"new", FileState::Ok)], data: Bytes::from_static(b"new") }]
            }
            _ => vec![],
        });
    }
    refused(&forced(), |ask| match ask {
        Ask::List { dir, .. } => vec![listing(dir, 1, &[file(".mcloud-stage", 0)])],
        _ => vec![],
    });
}

#[test]
fn folders_in_a_circle_are_refused() {
    refused(&forced(), |ask| match ask {
        Ask::List { dir, .. } => vec![listing(dir, 1, &[folder("d")])],
        _ => vec![],
    });
    refused(&forced(), |ask| match ask {
        Ask::List { dir, .. } => vec![listing(dir, u32::MAX, &[folder("d"), folder("e")])],
        _ => vec![],
    });
}

#[test]
fn an_answer_given_twice_is_refused() {
    for count in [2, 3, 50] {
        refused(&forced(), move |ask| match ask {
            Ask::List { dir, .. } => vec![listing(dir, 1, &[file("one", 3), file("two", 3)])],
            Ask::Fetch { dir, .. } => {
                let one = || Tell::Files { items: vec![item(dir, 0, b"new", FileState::Ok)], data: b"new"[..].into() };
                (0..count).map(|_| one()).collect()
            }
            _ => vec![],
        });
    }
}

#[test]
fn sizes_that_no_file_has_are_refused() {
    refused(&forced(), |ask| match ask {
        Ask::List { dir, .. } => vec![listing(dir, 1, &[file("one", u64::MAX), file("two", u64::MAX)])],
        _ => vec![],
    });
}

#[test]
fn a_link_that_leads_out_links_to_nothing() {
    let dir = scratch();
    fs::write(dir.path().join("outside"), "secret").unwrap();
    for first in ["../outside", "/etc/passwd", "d", "..", "d/../../outside", ""] {
        let target = dir.path().join(format!("target{}", first.len()));
        let first: Box<[u8]> = first.as_bytes().into();
        let link = entry("link", EntryKind::Link { first });
        let outcome = told(&target, &forced(), vec![left_out("x")], move |ask| match ask {
            Ask::List { dir: 0, .. } => vec![listing(0, 1, &[folder("d"), link.clone()])],
            Ask::List { dir, .. } => vec![listing(dir, 2, &[])],
            _ => vec![],
        });
        assert!(outcome.is_ok_and(|report| report.left_out == 2));
        assert!(!target.join("link").exists());
    }
}

#[test]
fn a_source_that_scans_for_ever_is_not_waited_for() {
    let dir = scratch();
    let (target_end, mut source_end) = pair();
    let cancel = Arc::new(AtomicBool::new(false));
    let stop = cancel.clone();
    let source = std::thread::spawn(move || {
        source_end.ask.blocking_recv();
        source_end.tell.blocking_send(Tell::Opened { rules: Vec::new(), local: None }).unwrap();
        let scanning = || Tell::Scanning { files: 0, bytes_read: 0 };
        let told = (0..400).take_while(|round| {
            stop.store(*round > 3, std::sync::atomic::Ordering::Relaxed);
            std::thread::sleep(std::time::Duration::from_millis(20));
            source_end.tell.blocking_send(scanning()).is_ok()
        });
        assert!(told.count() < 300, "it was waited for");
    });
    let target = LiveDir { root: dir.path().join("target"), index: None, label: "target".into() };
    let error = run(&target, target_end, &forced(), Arc::new(Quiet), cancel).unwrap_err();
    assert_eq!(error.kind, Kind::Cancelled, "{}", error.chain());
    source.join().expect("the source");
}

#[test]
fn attributes_that_only_show_others_are_left_out_of_a_tree_that_was_named_with_them() {
    // Snapshots of xfs by versions before this one have them.
    let dir = scratch();
    let target = dir.path().join("target");
    let with_views = |mut entry: Entry| {
        let both = [("trusted.SGI_ACL_FILE", "x"), ("user.own", "1")];
        entry.meta.xattrs = both.map(|(key, value)| (key.as_bytes().into(), value.as_bytes().into())).to_vec();
        entry
    };
    for round in 0..2 {
        let report = told(&target, &forced(), vec![], move |ask| match ask {
            Ask::List { dir: 0, .. } => vec![listing(0, 1, &[with_views(folder("d")), with_views(file("f", 3))])],
            Ask::List { dir, .. } => vec![listing(dir, 2, &[])],
            Ask::Fetch { dir, entries } => {
                let all = entries.iter().map(|entry| FileItem { entry: *entry, ..item(dir, 0, b"new", FileState::Ok) });
                vec![Tell::Files { items: all.collect(), data: b"new"[..].into() }]
            }
            _ => vec![],
        });
        let report = report.unwrap();
        assert_eq!((report.left_out, report.root_source == report.root_target), (0, false), "round {round}");
        for name in ["d", "f"] {
            let mut names = [0u8; 256];
            let count = rustix::fs::llistxattr(target.join(name), &mut names[..]).unwrap();
            assert_eq!(String::from_utf8_lossy(&names[..count]), "user.own\0", "{name}, round {round}");
        }
    }
}
