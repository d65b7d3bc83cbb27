//! What a scan makes of links, and of folders that have gone.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use super::gone::{self, Amend};
use super::links::LinkName;
use super::{Counters, Findings, Scan};
use crate::model::Name;
use crate::sys::dir::Dir;
use crate::tree::entry::EntryKind;
use crate::tree::filter::Filter;
use crate::tree::read::look_at;
use crate::tree::records::{Records, Rows};
use crate::tree::view::{Item, View};

/// Walks a tree, lets `between` do something before it is read, and names it.
fn scanned(root: &Path, index: Option<&Path>, between: impl FnOnce(&Dir, &mut View, &mut Findings)) -> View {
    let (records, rows, _) = Records::open(index).unwrap();
    let (filter, dir) = (Filter::new(b"", b"", &[]).unwrap(), Dir::open(root).unwrap());
    let (counters, cancel) = (Counters::default(), AtomicBool::new(false));
    let scan = Scan { root: &dir, filter: &filter, checksum: false, counters: &counters, cancel: &cancel };
    let (mut view, mut findings) = scan.walk(Arc::new(records), &rows).unwrap();
    between(&dir, &mut view, &mut findings);
    scan.read(&mut view, &mut findings).unwrap();
    view.seal().unwrap();
    view.save(Rows::new().into_values()).unwrap();
    view
}

fn name_of(root: &Path) -> Name {
    scanned(root, None, |_, _, _| ()).root_name()
}

/// Does something to a tree and gives its root its time back.
fn quietly(root: &Path, act: impl FnOnce()) {
    let dir = Dir::open(root).unwrap();
    let before = crate::sys::meta::stamps(&dir.stat_self().unwrap()).0;
    act();
    crate::sys::meta::set_time(&dir, before).unwrap();
}

#[test]
fn a_folder_that_went_while_its_tree_was_read_is_in_no_listing_and_what_stands_there_now_is() {
    let place = tempfile::tempdir().unwrap();
    let root = place.path().join("root");
    for folder in ["a/in", "b", "c", "d/in", "e"] {
        fs::create_dir_all(root.join(folder)).unwrap();
    }
    for file in ["a/f", "d/in/f", "z"] {
        fs::write(root.join(file), file).unwrap();
    }
    // Their places come behind those of folders that go.
    fs::hard_link(root.join("a/f"), root.join("x")).unwrap();
    fs::hard_link(root.join("a/f"), root.join("y")).unwrap();
    let amended = scanned(&root, None, |dir, view, findings| {
        let number = |name: &[u8]| view.child(0, name).unwrap();
        let (b, c, e) = (number(b"b"), number(b"c"), number(b"e"));
        quietly(&root, || {
            ["b", "c", "e"].iter().for_each(|name| fs::remove_dir(root.join(name)).unwrap());
            fs::write(root.join("c"), "a file by now").unwrap();
        });
        let item = look_at(dir, b"c", &dir.stat(b"c").unwrap(), false).unwrap().unwrap();
        let gone = || Amend::Gone { protected: false };
        let amends = vec![(e, gone()), (c, Amend::Became(Box::new(item), None)), (b, gone())];
        // The one that was listed last, in a folder of which the names have moved up.
        let x = LinkName { id: (0, 0), dir: 0, at: 5 };
        let mut links = vec![x];
        gone::amend(view, amends, &mut links, &mut findings.unread).unwrap();
        assert_eq!((links[0].dir, links[0].at), (0, 3));
    });
    assert_eq!(amended.root_name(), name_of(&root));
    assert_eq!(amended.entries, 10);
    assert!(amended.dirs.iter().all(|node| *node.name != *b"b" && *node.name != *b"e"));
    assert_eq!(amended.dir_at(b"d/in").map(|dir| amended.path(dir)), Some(b"d/in".to_vec()));
}

/// The further names of the file at `first`.
fn links_to(view: &View, first: &[u8]) -> Vec<Vec<u8>> {
    let is_one = |item: &Item| matches!(&item.entry.kind, EntryKind::Link { first: other } if **other == *first);
    let in_folder = |&dir: &u32| {
        let items = view.items(dir).unwrap();
        items.iter().filter(|item| is_one(item)).map(|item| view.path_of(dir, &item.entry.name)).collect::<Vec<_>>()
    };
    view.links.folders().iter().flat_map(in_folder).collect()
}

#[test]
fn further_names_are_found_by_the_first_and_cost_their_folder_only() {
    let place = tempfile::tempdir().unwrap();
    let root = place.path().join("root");
    for folder in ["a/deep", "b"] {
        fs::create_dir_all(root.join(folder)).unwrap();
    }
    for file in 0..300 {
        fs::write(root.join(format!("b/f{file:03}")), "content").unwrap();
        fs::hard_link(root.join(format!("b/f{file:03}")), root.join(format!("a/deep/l{file:03}"))).unwrap();
        fs::hard_link(root.join("b/f000"), root.join(format!("b/same{file:03}"))).unwrap();
    }
    let index = place.path().join("index");
    let view = scanned(&root, Some(&index), |_, _, _| ());
    // The smallest path is the first, wherever the file was made.
    assert_eq!(links_to(&view, b"a/deep/l007"), [b"b/f007".to_vec()]);
    assert_eq!(links_to(&view, b"a/deep/l000").len(), 301);
    assert!(links_to(&view, b"b/f007").is_empty());
    // When the first name goes, another stands for the file, and is as known as that was.
    fs::remove_file(root.join("a/deep/l007")).unwrap();
    fs::remove_file(root.join("a/deep/l000")).unwrap();
    let view = scanned(&root, Some(&index), |_, _, _| ());
    assert_eq!(view.root_name(), name_of(&root));
    assert_eq!(links_to(&view, b"b/f000").len(), 300);
    assert!(links_to(&view, b"a/deep/l000").is_empty());
}

#[test]
fn an_index_grows_with_the_links_of_a_folder_and_not_with_their_square() {
    let size = |links: u32, pairs: bool, again: bool| {
        let place = tempfile::tempdir().unwrap();
        let root = place.path().join("root");
        ["a", "b"].iter().for_each(|name| fs::create_dir_all(root.join(name)).unwrap());
        fs::write(root.join("a/first"), "content").unwrap();
        for link in 0..links {
            let first = if pairs { format!("a/f{link}") } else { "a/first".to_owned() };
            if pairs {
                fs::write(root.join(&first), "content").unwrap();
            }
            fs::hard_link(root.join(first), root.join(format!("b/l{link}"))).unwrap();
        }
        let index = place.path().join("index");
        // Stamps are believed from 20 ms on: a scan of what was made just before would be written once more by the next.
        std::thread::sleep(std::time::Duration::from_millis(60));
        (0..=u32::from(again)).for_each(|_| drop(scanned(&root, Some(&index), |_, _, _| ())));
        fs::metadata(&index).unwrap().size()
    };
    for pairs in [false, true] {
        let (few, many) = (size(200, pairs, false), size(1600, pairs, false));
        assert!(many < 10 * few, "pairs: {pairs}: {few} bytes for 200 links, {many} for 1,600");
        // All that is written for a name: its entry as found, as settled and as read, a few hundred bytes each.
        assert!(many < 1600 * 1000, "pairs: {pairs}: {many} bytes for 1,600 links");
        let twice = size(1600, pairs, true);
        assert!(twice < 2 * many, "pairs: {pairs}: {many} bytes, {twice} after a scan of the same");
    }
}
