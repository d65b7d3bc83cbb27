//! Extended attributes and access lists from one file system to another.

use std::fs;
use std::path::Path;

use mcloud::model::Name;
use mcloud::model::sync::Report;
use mcloud::tree::records::{Found, Records, Row};
use mcloud::tree::view::{decode_items, encode_items};

use crate::common::disks::Disk;
use crate::common::engine::{Engine, forced};
use crate::common::host::Client;
use crate::common::oracle::assert_equal;
use crate::common::{scratch, sh};

/// The access lists of a tree, by another program.
fn lists(root: &Path) -> String {
    sh("sh", &["-c", &format!("cd '{}' && find . | LC_ALL=C sort | xargs getfacl -n", root.display())])
}

/// The names of a tree's attributes, by another program.
fn attributes(root: &Path) -> String {
    sh("sh", &["-c", &format!("cd '{}' && getfattr -R -h -m- . 2>/dev/null || true", root.display())])
}

/// A tree with access lists of each kind on files and folders.
fn with_lists(root: &Path) {
    fs::create_dir_all(root.join("folder/below")).unwrap();
    for (name, list) in [("named", "u:65534:---,u:1000:r"), ("folder/group", "g:1000:rw"), ("plain", "")] {
        fs::write(root.join(name), name).unwrap();
        if !list.is_empty() {
            sh("setfacl", &["-m", list, root.join(name).to_str().unwrap()]);
        }
    }
    sh("setfacl", &["-d", "-m", "u:1000:rwx", root.join("folder").to_str().unwrap()]);
    sh("setfacl", &["-m", "u:1000:rx", root.join("folder/below").to_str().unwrap()]);
    sh("setfacl", &["-m", "u:1000:rx", root.to_str().unwrap()]);
}

#[test]
fn access_lists_come_to_xfs_and_back_and_stay_whatever_else_changes() {
    let (ext4, xfs, dir) = (Disk::new("ext4", 64), Disk::new("xfs", 320), scratch());
    let client = Client::new(&dir.path().join("client"));
    let (source, there, back, again) =
        (ext4.root.join("source"), xfs.root.join("there"), ext4.root.join("back"), xfs.root.join("again"));
    fs::create_dir(&source).unwrap();
    with_lists(&source);
    let path = |name: &str| source.join(name).to_str().unwrap().to_owned();
    let changes: [&dyn Fn(); 6] = [
        &|| (),
        &|| drop(sh("touch", &[&path("named"), &path("folder")])),
        &|| fs::write(source.join("folder/below/new"), "1").unwrap(),
        &|| drop(sh("chmod", &["g+w,o-r", &path("named"), &path("folder")])),
        &|| drop(sh("setfacl", &["-x", "u:1000", &path("named")])),
        &|| drop(sh("setfattr", &["-n", "user.x", "-v", "1", &path("folder/group"), &path("folder")])),
    ];
    for (number, change) in changes.iter().enumerate() {
        change();
        for more in [&[][..], &["--checksum"]] {
            client.sync(&source, &there, more).ok().proves();
            assert_eq!(lists(&source), lists(&there), "change {number}, {more:?}");
        }
    }
    let away = client.sync(&there, &back, &[]).ok().proves();
    assert_equal(&source, &back, "there and back");
    assert!(!attributes(&back).contains("SGI"), "{}", attributes(&back));
    let home = client.sync(&back, &again, &[]).ok().proves();
    assert_eq!(away.done()["root_source"], home.done()["root_target"], "one tree has one name on every file system");
    assert_eq!(lists(&source), lists(&again));
    // A look at all of it finds nothing to do.
    let look = client.sync(&again, &there, &["--checksum"]).ok().proves();
    assert_eq!(look.count("files_updated"), 0, "{look}");
}

#[test]
fn a_property_of_btrfs_is_kept_on_btrfs_and_told_elsewhere() {
    let (btrfs, ext4, dir) = (Disk::new("btrfs", 320), Disk::new("ext4", 64), scratch());
    let client = Client::new(&dir.path().join("client"));
    let source = dir.path().join("source");
    fs::create_dir(&source).unwrap();
    fs::write(source.join("file"), "1").unwrap();
    // What the folder above hands down is not the tree's.
    sh("setfattr", &["-n", "btrfs.compression", "-v", "zstd", btrfs.root.to_str().unwrap()]);
    for target in [btrfs.root.join("target"), btrfs.root.clone()] {
        if target == btrfs.root {
            sh("rm", &["-r", btrfs.root.join("target").to_str().unwrap()]);
        }
        client.sync(&source, &target, &["--force"]).ok().proves();
        fs::write(source.join("file"), format!("{target:?}")).unwrap();
        client.sync(&source, &target, &["--force"]).ok().proves();
        assert_equal(&source, &target, "under a folder with a property");
    }
    let squeezed = btrfs.root.join("file");
    sh("setfattr", &["-n", "btrfs.compression", "-v", "zstd", squeezed.to_str().unwrap()]);
    let outcome = client.sync(&btrfs.root, ext4.root.join("target"), &[]).exits(5);
    let told: Vec<_> = outcome.events.iter().filter(|event| event["event"] == "left_out").collect();
    assert_eq!(told.len(), 1, "{outcome}");
    assert_eq!(told[0]["path"], "file");
    assert!(told[0]["reason"].as_str().unwrap().contains("btrfs.compression"), "{outcome}");
    let here = Disk::new("btrfs", 320);
    client.sync(&btrfs.root, here.root.join("target"), &[]).ok().proves();
    assert_equal(&btrfs.root, &here.root.join("target"), "btrfs to btrfs");
}

/// Puts an attribute that only shows other metadata into all entries of an index, as versions before this one did.
fn spoil(index: &Path) {
    let (records, rows, found) = Records::open(Some(index)).unwrap();
    assert_eq!(found, Found::Whole);
    let rows: Vec<_> = rows
        .values()
        .map(|row| {
            let mut items = decode_items(&records.read(row.record).unwrap()).unwrap();
            for item in &mut items {
                item.entry.meta.xattrs.insert(0, (b"trusted.SGI_ACL_FILE"[..].into(), b"1"[..].into()));
            }
            // The name of the listing covered them.
            let content = Name::of(&encode_items(&items));
            Row { record: records.append(&encode_items(&items)).unwrap(), content, ..*row }
        })
        .collect();
    records.save(&rows).unwrap();
}

#[test]
fn an_index_that_knows_attributes_which_are_none_is_read_without_them() {
    for end in ["source.idx", "target.idx"] {
        let dir = scratch();
        let engine = Engine::below(dir.path());
        fs::create_dir(engine.source.join("folder")).unwrap();
        fs::write(engine.source.join("folder/file"), "1").unwrap();
        // Old enough for the index to be believed.
        std::thread::sleep(std::time::Duration::from_millis(50));
        let before: Report = engine.proves(&forced(), "first");
        engine.proves(&forced(), "second");
        spoil(&dir.path().join("indexes").join(end));
        let after = engine.proves(&forced(), "with the index of before");
        assert_eq!(before.root_target, after.root_target);
        assert_equal(&engine.source, &engine.target, end);
    }
}
