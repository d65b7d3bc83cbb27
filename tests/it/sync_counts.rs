//! Work is counted, not timed: what moves, what is read, what crosses the wire.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use crate::common::host::{Client, Outcome, Stage};
use crate::common::oracle::assert_equal;
use crate::common::trees::content_bytes;
use crate::common::{Rng, scratch};

fn counts(outcome: &Outcome) -> [u64; 4] {
    ["files_created", "files_updated", "files_moved", "files_removed"].map(|field| outcome.count(field))
}

/// Files of some hundred KiB in folders.
fn folders(root: &Path, rng: &mut Rng) {
    for folder in 0..10 {
        fs::create_dir_all(root.join(format!("d{folder}/sub"))).unwrap();
        for file in 0..6 {
            let len = rng.within(100_000, 300_000) as usize;
            fs::write(root.join(format!("d{folder}/sub/f{file}")), rng.bytes(len)).unwrap();
        }
    }
}

fn inodes(root: &Path) -> Vec<u64> {
    let mut found: Vec<u64> = crate::common::trees::walk(root)
        .iter()
        .map(|path| path.symlink_metadata().unwrap())
        .filter(fs::Metadata::is_file)
        .map(|status| status.ino())
        .collect();
    found.sort_unstable();
    found
}

#[test]
fn the_plan_counts_what_a_reference_model_counts() {
    // Plain files of unique content, so that a model of a few lines knows what is new, changed, moved and gone.
    let dir = scratch();
    let (source, target) = (dir.path().join("source"), dir.path().join("target"));
    for folder in ["a", "b", "c"] {
        fs::create_dir_all(source.join(folder)).unwrap();
    }
    fs::create_dir(&target).unwrap();
    let client = Client::new(&dir.path().join("client"));
    let mut rng = Rng::new(3);
    let mut model: BTreeMap<String, u64> = BTreeMap::new();
    let mut before = model.clone();
    for round in 0..25 {
        for _ in 0..rng.within(1, 12) {
            let at =
                (!model.is_empty()).then(|| model.keys().nth(rng.below(model.len() as u64) as usize).unwrap().clone());
            match (rng.below(6), at) {
                (0, Some(name)) if before.contains_key(&name) => {
                    fs::write(source.join(&name), rng.bytes(5000)).unwrap();
                    model.insert(name, rng.next());
                }
                (1, Some(name)) if model.len() > 5 => {
                    fs::remove_file(source.join(&name)).unwrap();
                    model.remove(&name);
                }
                (2, Some(name)) if before.get(&name) == model.get(&name) => {
                    let to = format!("{}/m{}", rng.pick(&["a", "b", "c"]), rng.next());
                    fs::rename(source.join(&name), source.join(&to)).unwrap();
                    let content = model.remove(&name).unwrap();
                    model.insert(to, content);
                }
                _ => {
                    let name = format!("{}/n{}", rng.pick(&["a", "b", "c"]), rng.next());
                    fs::write(source.join(&name), rng.bytes(5000)).unwrap();
                    model.insert(name, rng.next());
                }
            }
        }
        let gone: Vec<u64> = before.iter().filter(|(name, _)| !model.contains_key(*name)).map(|(_, c)| *c).collect();
        let fresh: Vec<u64> = model.iter().filter(|(name, _)| !before.contains_key(*name)).map(|(_, c)| *c).collect();
        let moved = fresh.iter().filter(|content| gone.contains(content)).count() as u64;
        let updated = model.iter().filter(|(name, c)| before.get(*name).is_some_and(|old| old != *c)).count() as u64;
        let expected = [fresh.len() as u64 - moved, updated, moved, gone.len() as u64 - moved];
        let outcome = client.sync(&source, &target, &["--force"]).ok().proves();
        assert_eq!(counts(&outcome), expected, "round {round}: created, updated, moved, removed\n{outcome}");
        assert_equal(&source, &target, &format!("round {round}"));
        before = model.clone();
    }
}

#[test]
fn an_unchanged_tree_is_neither_read_nor_sent_again() {
    let stage = Stage::new();
    let source = stage.folder("source");
    folders(&source, &mut Rng::new(1));
    // What changed a moment ago may be looked at twice.
    std::thread::sleep(Duration::from_millis(2100));
    let first = stage.admin.sync(&source, stage.shop(), &[]).ok().proves();
    assert_eq!(first.count("bytes_total"), content_bytes(&source), "{first}");
    assert!(first.count("bytes_read") >= content_bytes(&source), "{first}");
    std::thread::sleep(Duration::from_millis(2100));
    stage.admin.sync(&source, stage.shop(), &[]).ok().proves();
    let third = stage.admin.sync(&source, stage.shop(), &[]).ok().proves();
    assert_eq!(third.count("bytes_read"), 0, "{third}");
    assert_eq!(counts(&third), [0; 4], "{third}");
    // Most of it is the handshake, and what QUIC sends to learn how large a packet may be.
    assert!(third.wire() < 64 * 1024, "{third}");
}

#[test]
fn one_changed_file_is_the_only_one_read() {
    let stage = Stage::new();
    let source = stage.folder("source");
    folders(&source, &mut Rng::new(1));
    std::thread::sleep(Duration::from_millis(2100));
    stage.admin.sync(&source, stage.shop(), &[]).ok().proves();
    stage.admin.sync(&source, stage.shop(), &[]).ok().proves();
    fs::write(source.join("d3/sub/f3"), Rng::new(7).bytes(50_000)).unwrap();
    let outcome = stage.admin.sync(&source, stage.shop(), &[]).ok().proves();
    assert_eq!(counts(&outcome), [0, 1, 0, 0], "{outcome}");
    assert!(outcome.count("bytes_read") <= 200_000, "{outcome}");
    assert!(outcome.wire() < 120_000, "{outcome}");
}

#[test]
fn a_moved_folder_sends_no_content_and_rewrites_no_file() {
    let stage = Stage::new();
    let source = stage.folder("source");
    folders(&source, &mut Rng::new(1));
    stage.admin.sync(&source, stage.shop(), &[]).ok().proves();
    let before = inodes(&stage.volume);
    fs::create_dir(source.join("elsewhere")).unwrap();
    for folder in 0..8 {
        fs::rename(source.join(format!("d{folder}")), source.join(format!("elsewhere/was{folder}"))).unwrap();
    }
    let outcome = stage.admin.sync(&source, stage.shop(), &[]).ok().proves();
    assert_equal(&source, &stage.volume, "moved");
    assert_eq!(inodes(&stage.volume), before, "files were written anew\n{outcome}");
    assert!(outcome.wire() < 100_000, "{outcome}");
    assert_eq!(outcome.count("files_created") + outcome.count("files_removed"), 0, "{outcome}");
    assert_eq!(outcome.count("files_moved"), 48, "{outcome}");
}

#[test]
fn renamed_swapped_and_rotated_files_send_no_content() {
    // A ring of names is the hard case: no move is possible before another.
    let stage = Stage::new();
    let source = stage.folder("source");
    folders(&source, &mut Rng::new(2));
    stage.admin.sync(&source, stage.shop(), &[]).ok().proves();
    let at = |name: &str| source.join("d0/sub").join(name);
    for (from, to) in [("f0", "t"), ("f1", "f0"), ("f2", "f1"), ("t", "f2"), ("f3", "g3")] {
        fs::rename(at(from), at(to)).unwrap();
    }
    for (from, to) in [("d1", "t"), ("d2", "d1"), ("t", "d2")] {
        fs::rename(source.join(from), source.join(to)).unwrap();
    }
    let outcome = stage.admin.sync(&source, stage.shop(), &[]).ok().proves();
    assert_equal(&source, &stage.volume, "rotated");
    assert!(outcome.wire() < 200_000, "{outcome}");
}

#[test]
fn bytes_inserted_at_the_start_of_a_big_file_send_a_few_chunks() {
    let stage = Stage::new();
    let source = stage.folder("source");
    let mut bytes = Rng::new(5).bytes(64 << 20);
    fs::write(source.join("big"), &bytes).unwrap();
    stage.admin.sync(&source, stage.shop(), &[]).ok().proves();
    bytes.splice(0..0, *b"0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef");
    fs::write(source.join("big"), &bytes).unwrap();
    let outcome = stage.admin.sync(&source, stage.shop(), &[]).ok().proves();
    assert_equal(&source, &stage.volume, "inserted");
    assert!(outcome.wire() < 1_000_000, "{outcome}");
}

#[test]
fn rewritten_pages_of_a_big_file_send_little_more_than_the_pages() {
    let stage = Stage::new();
    let source = stage.folder("source");
    let mut rng = Rng::new(6);
    let mut bytes = rng.bytes(64 << 20);
    fs::write(source.join("big"), &bytes).unwrap();
    stage.admin.sync(&source, stage.shop(), &[]).ok().proves();
    for _ in 0..80 {
        let at = rng.below((64 << 20) / 8192) as usize * 8192;
        bytes.splice(at..at + 8192, rng.bytes(8192));
    }
    fs::write(source.join("big"), &bytes).unwrap();
    let outcome = stage.admin.sync(&source, stage.shop(), &[]).ok().proves();
    assert_equal(&source, &stage.volume, "pages");
    // rsync sends about eight times the changed bytes here; 0.4 of that is the bar.
    assert!(outcome.wire() < 3 * 80 * 8192, "{outcome}");
}

#[test]
fn noise_is_not_made_larger() {
    let stage = Stage::new();
    let source = stage.folder("source");
    fs::write(source.join("noise"), Rng::new(8).bytes(20 << 20)).unwrap();
    let noise = stage.admin.sync(&source, stage.shop(), &[]).ok().proves();
    assert!(noise.wire() < (20 << 20) * 104 / 100, "{noise}");
}

#[test]
fn a_copied_file_is_not_sent_when_the_target_has_its_content() {
    let stage = Stage::new();
    let source = stage.folder("source");
    fs::write(source.join("one"), Rng::new(8).bytes(8 << 20)).unwrap();
    stage.admin.sync(&source, stage.shop(), &[]).ok().proves();
    fs::copy(source.join("one"), source.join("two")).unwrap();
    let outcome = stage.admin.sync(&source, stage.shop(), &[]).ok().proves();
    assert_equal(&source, &stage.volume, "copied");
    assert!(outcome.wire() < 1_000_000, "{outcome}");
}
