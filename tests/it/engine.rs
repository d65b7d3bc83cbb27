//! The engine alone, in this process: the same properties as from outside, many more trees in the same time.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;

use mcloud::model::Kind;
use mcloud::model::sync::{Event, SyncOptions};

use crate::common::changes::change;
use crate::common::engine::{Engine, forced};
use crate::common::oracle::{assert_equal, portrait};
use crate::common::seed::seeds;
use crate::common::trees::{Shape, grow};
use crate::common::{Rng, scratch};

#[test]
fn random_trees_and_changes_on_both_sides_end_equal() {
    for seed in seeds(12) {
        let dir = scratch();
        let mut engine = Engine::below(dir.path());
        let mut rng = Rng::new(1000 + seed);
        grow(&engine.source, &mut rng, &Shape::SMALL);
        if rng.one_in(3) {
            grow(&engine.target, &mut rng, &Shape::SMALL);
        }
        if rng.one_in(4) {
            engine.indexes = None;
        }
        engine.proves(&forced(), &format!("seed {seed}, first"));
        assert_equal(&engine.source, &engine.target, &format!("seed {seed}, first"));
        for round in 0..8 {
            let mut made = Vec::new();
            for _ in 0..rng.within(1, 8) {
                made.push(change(&engine.source, &mut rng, &Shape::SMALL));
                if rng.one_in(4) {
                    made.push(format!("target: {}", change(&engine.target, &mut rng, &Shape::SMALL)));
                }
            }
            let context = format!("seed {seed} (MCLOUD_SEED={seed}), round {round}:\n  {}", made.join("\n  "));
            engine.proves(&forced(), &context);
            assert_equal(&engine.source, &engine.target, &context);
        }
        let again = engine.proves(&forced(), "again");
        let counts = [again.files_created, again.files_updated, again.files_moved, again.files_removed];
        assert_eq!(counts, [0; 4], "seed {seed}: an unchanged tree");
    }
}

#[test]
fn tiny_trees_after_one_change_each_end_equal() {
    // What fails here is short enough to be read.
    for seed in seeds(60) {
        let dir = scratch();
        let engine = Engine::below(dir.path());
        let mut rng = Rng::new(5000 + seed);
        grow(&engine.source, &mut rng, &Shape::TINY);
        engine.proves(&forced(), &format!("seed {seed}, first"));
        assert_equal(&engine.source, &engine.target, &format!("seed {seed}, first"));
        for round in 0..6 {
            let what = change(&engine.source, &mut rng, &Shape::TINY);
            let context = format!("seed {seed} (MCLOUD_SEED={seed}), round {round}: {what}");
            engine.proves(&forced(), &context);
            assert_equal(&engine.source, &engine.target, &context);
        }
    }
}

/// One tree, one change, both syncs looked at.
fn after(make: impl Fn(&Path), change: impl Fn(&Path)) {
    let dir = scratch();
    let engine = Engine::below(dir.path());
    make(&engine.source);
    engine.proves(&forced(), "first");
    assert_equal(&engine.source, &engine.target, "first");
    change(&engine.source);
    engine.proves(&forced(), "second");
    assert_equal(&engine.source, &engine.target, "second");
}

fn two_folders(root: &Path) {
    fs::create_dir(root.join("a")).unwrap();
    fs::create_dir(root.join("b")).unwrap();
    fs::write(root.join("a/file"), "one").unwrap();
}

#[test]
fn an_edited_file_with_names_in_two_folders_keeps_both_folders_times() {
    let make = |root: &Path| {
        two_folders(root);
        fs::hard_link(root.join("a/file"), root.join("b/other")).unwrap();
        fs::hard_link(root.join("a/file"), root.join("b/third")).unwrap();
    };
    after(make, |root| fs::write(root.join("a/file"), "two, and longer").unwrap());
    after(make, |root| fs::write(root.join("b/third"), "").unwrap());
}

#[test]
fn hard_links_of_things_other_than_files_are_kept() {
    use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};
    let make = |root: &Path| {
        two_folders(root);
        std::os::unix::fs::symlink("there", root.join("a/link")).unwrap();
        mknodat(CWD, root.join("a/fifo"), FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
        mknodat(CWD, root.join("a/socket"), FileType::Socket, Mode::from_raw_mode(0o600), 0).unwrap();
        mknodat(CWD, root.join("a/null"), FileType::CharacterDevice, Mode::from_raw_mode(0o600), makedev(1, 3))
            .unwrap();
        for name in ["link", "fifo", "socket", "null"] {
            fs::hard_link(root.join("a").join(name), root.join("b").join(name)).unwrap();
        }
    };
    after(make, |root| {
        for name in ["link", "fifo", "socket", "null"] {
            fs::rename(root.join("b").join(name), root.join("b").join(format!("{name}2"))).unwrap();
        }
    });
}

#[test]
fn a_hole_added_to_a_small_or_a_big_file_stays_a_hole() {
    for len in [3000, 200_000, 1_000_000, 12_000_000] {
        after(
            |root| fs::write(root.join("file"), Rng::new(1).bytes(len)).unwrap(),
            |root| {
                let file = fs::OpenOptions::new().write(true).open(root.join("file")).unwrap();
                file.set_len(len as u64 + 4_000_000).unwrap();
            },
        );
    }
}

#[test]
fn an_edit_in_a_sparse_file_fills_none_of_its_holes() {
    for (len, at) in [(260_000, 35_101), (4_000_000, 1_000_000), (40_000_000, 9_000_000)] {
        after(
            |root| {
                let file = fs::File::create(root.join("file")).unwrap();
                file.set_len(len).unwrap();
                file.write_all_at(b"some data", len / 2).unwrap();
            },
            |root| {
                let file = fs::OpenOptions::new().write(true).open(root.join("file")).unwrap();
                file.write_all_at(b"an edit", at).unwrap();
            },
        );
    }
}

#[test]
fn a_copy_of_a_folder_is_made_of_what_the_target_has() {
    after(
        |root| {
            grow(root, &mut Rng::new(8), &Shape::SMALL);
            fs::create_dir(root.join("plain")).unwrap();
            for (number, len) in [0, 10, 5000, 400_000].into_iter().enumerate() {
                fs::write(root.join(format!("plain/{number}")), Rng::new(5).bytes(len)).unwrap();
            }
        },
        |root| {
            for number in 0..3 {
                let copy = root.join(format!("copy{number}"));
                crate::common::sh("cp", &["-a", root.join("plain").to_str().unwrap(), copy.to_str().unwrap()]);
            }
        },
    );
}

#[test]
fn progress_never_falls_and_never_passes_its_total() {
    let dir = scratch();
    let engine = Engine::below(dir.path());
    grow(&engine.source, &mut Rng::new(3), &Shape::USUAL);
    engine.proves(&forced(), "first");
    let (mut files, mut bytes, mut planned, mut moving) = (0, 0, 0, 0);
    for event in engine.events() {
        match event {
            Event::Planned(_) => planned += 1,
            Event::Moving { files_done, files_total, bytes_done, bytes_total } => {
                moving += 1;
                assert_eq!(planned, 1, "bytes moved before the plan was told");
                assert!(files_done >= files && bytes_done >= bytes, "progress ran backwards");
                assert!(files_done <= files_total && bytes_done <= bytes_total, "progress passed its total");
                (files, bytes) = (files_done, bytes_done);
            }
            _ => {}
        }
    }
    assert!(planned == 1 && moving > 0, "{planned} plans, {moving} steps");
}

#[test]
fn a_no_to_the_plan_touches_nothing() {
    let dir = scratch();
    let engine = Engine::below(dir.path());
    grow(&engine.source, &mut Rng::new(4), &Shape::SMALL);
    grow(&engine.target, &mut Rng::new(5), &Shape::SMALL);
    let before = portrait(&engine.target);
    engine.refuse(true);
    let error = engine.sync(&SyncOptions { yes: false, force: false, ..SyncOptions::default() }).unwrap_err();
    assert_eq!(error.kind, Kind::Refused, "{}", error.chain());
    assert_eq!(portrait(&engine.target), before);
}

#[test]
fn the_root_name_covers_all_that_is_kept() {
    // Each single change gives another name; undone, the first one comes back.
    let dir = scratch();
    let engine = Engine::below(dir.path());
    let mut rng = Rng::new(6);
    grow(&engine.source, &mut rng, &Shape::SMALL);
    let mut last = engine.proves(&forced(), "first").root_source;
    for round in 0..40 {
        let before = crate::common::oracle::likeness(&engine.source);
        let what = change(&engine.source, &mut rng, &Shape::SMALL);
        let now = engine.proves(&forced(), &what).root_source;
        let changed = crate::common::oracle::likeness(&engine.source) != before;
        let links = what.starts_with("linked") || what.starts_with("unlinked");
        assert!(links || (now != last) == changed, "round {round}: {what}: the name tells otherwise");
        last = now;
    }
}
