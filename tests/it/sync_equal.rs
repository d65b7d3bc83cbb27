//! The target becomes equal to the source: random trees, random changes, an oracle after each sync.

use std::ffi::OsString;
use std::fs;
use std::path::Path;

use crate::common::changes::change;
use crate::common::host::{Client, Outcome, Stage};
use crate::common::oracle::assert_equal;
use crate::common::seed::seeds;
use crate::common::trees::{Shape, grow};
use crate::common::{Rng, scratch};

/// What an unchanged tree may cost on the wire.
const UNCHANGED_WIRE_BYTES: u64 = 64 * 1024;

/// A random tree, then rounds of changes; `sync` copies after each, the oracle looks after each.
fn property(seed: u64, rounds: u32, source: &Path, target: &Path, sync: &dyn Fn() -> Outcome) {
    println!("seed {seed} (MCLOUD_SEED={seed} repeats it)");
    let mut rng = Rng::new(seed);
    grow(source, &mut rng, &Shape::USUAL);
    sync().ok().proves();
    assert_equal(source, target, &format!("seed {seed}, first copy"));

    let again = sync().ok().proves();
    for field in ["files_created", "files_updated", "files_moved", "files_removed"] {
        assert_eq!(again.count(field), 0, "seed {seed}: {field} of an unchanged tree\n{again}");
    }
    assert!(again.wire() < UNCHANGED_WIRE_BYTES, "seed {seed}: {again}");

    for round in 0..rounds {
        let many = if rng.one_in(4) { 12 } else { rng.within(1, 4) };
        let made: Vec<String> = (0..many).map(|_| change(source, &mut rng, &Shape::USUAL)).collect();
        let context = format!("seed {seed}, round {round}:\n  {}", made.join("\n  "));
        println!("{context}");
        sync().ok().proves();
        assert_equal(source, target, &context);
    }
}

#[test]
fn a_folder_becomes_equal_to_a_folder() {
    for seed in seeds(4) {
        let dir = scratch();
        let (source, target) = (dir.path().join("source"), dir.path().join("target"));
        fs::create_dir(&source).unwrap();
        fs::create_dir(&target).unwrap();
        let client = Client::new(&dir.path().join("client"));
        property(seed, 8, &source, &target, &|| client.sync(&source, &target, &[]));
    }
}

#[test]
fn a_tenant_becomes_equal_to_a_folder() {
    for seed in seeds(3) {
        let stage = Stage::new();
        let source = stage.folder("source");
        property(100 + seed, 8, &source, &stage.volume, &|| stage.admin.sync(&source, stage.shop(), &[]));
    }
}

#[test]
fn a_folder_becomes_equal_to_a_tenant() {
    for seed in seeds(3) {
        let stage = Stage::new();
        let target = stage.folder("target");
        property(200 + seed, 8, &stage.volume, &target, &|| stage.admin.sync(stage.shop(), &target, &[]));
    }
}

#[test]
fn a_target_changed_by_others_becomes_equal_again() {
    // The target is not as the last sync left it: what is remembered of it must not be believed.
    for seed in seeds(3) {
        let dir = scratch();
        let (source, target) = (dir.path().join("source"), dir.path().join("target"));
        fs::create_dir(&source).unwrap();
        fs::create_dir(&target).unwrap();
        let client = Client::new(&dir.path().join("client"));
        let mut rng = Rng::new(300 + seed);
        grow(&source, &mut rng, &Shape::SMALL);
        client.sync(&source, &target, &[]).ok().proves();
        for round in 0..10 {
            let mut made = Vec::new();
            for _ in 0..rng.within(1, 4) {
                made.push(change(&target, &mut rng, &Shape::SMALL));
                if rng.one_in(2) {
                    made.push(change(&source, &mut rng, &Shape::SMALL));
                }
            }
            client.sync(&source, &target, &["--force"]).ok().proves();
            assert_equal(&source, &target, &format!("seed {seed}, round {round}:\n  {}", made.join("\n  ")));
        }
    }
}

#[test]
fn a_tree_of_something_else_becomes_equal() {
    // Two trees that know nothing of one another, with names in common and other kinds under them.
    for seed in seeds(3) {
        let dir = scratch();
        let (source, target) = (dir.path().join("source"), dir.path().join("target"));
        fs::create_dir(&source).unwrap();
        let mut rng = Rng::new(400 + seed);
        grow(&source, &mut rng, &Shape::SMALL);
        crate::common::sh("cp", &["-a", source.to_str().unwrap(), target.to_str().unwrap()]);
        for _ in 0..60 {
            change(&target, &mut rng, &Shape::SMALL);
        }
        let client = Client::new(&dir.path().join("client"));
        client.sync(&source, &target, &["--force"]).ok().proves();
        assert_equal(&source, &target, &format!("seed {seed}"));
    }
}

#[test]
fn a_target_that_does_not_exist_is_made() {
    let dir = scratch();
    let (source, target) = (dir.path().join("source"), dir.path().join("new"));
    fs::create_dir(&source).unwrap();
    grow(&source, &mut Rng::new(1), &Shape::SMALL);
    let client = Client::new(&dir.path().join("client"));
    client.sync(&source, &target, &[]).ok().proves();
    assert_equal(&source, &target, "a new folder");
}

#[test]
fn what_a_tenant_was_given_comes_back_equal() {
    let stage = Stage::new();
    let (source, back) = (stage.folder("source"), stage.folder("back"));
    grow(&source, &mut Rng::new(9), &Shape::USUAL);
    stage.admin.sync(&source, stage.shop(), &[]).ok().proves();
    stage.admin.sync(stage.shop(), &back, &[]).ok().proves();
    assert_equal(&source, &back, "there and back");
}

#[test]
fn paths_deeper_than_4096_bytes_are_copied() {
    use rustix::fs::{CWD, Mode, OFlags, mkdirat, openat};
    let dir = scratch();
    let (source, target) = (dir.path().join("source"), dir.path().join("target"));
    fs::create_dir(&source).unwrap();
    fs::create_dir(&target).unwrap();
    let name = "n".repeat(250);
    let levels = 24;
    let open = OFlags::RDONLY | OFlags::DIRECTORY;
    let mut at = openat(CWD, &source, open, Mode::empty()).unwrap();
    for _ in 0..levels {
        mkdirat(&at, name.as_str(), Mode::from_raw_mode(0o755)).unwrap();
        at = openat(&at, name.as_str(), open, Mode::empty()).unwrap();
    }
    let file = openat(&at, "leaf", OFlags::WRONLY | OFlags::CREATE, Mode::from_raw_mode(0o600)).unwrap();
    rustix::io::write(&file, b"down here").unwrap();

    let client = Client::new(&dir.path().join("client"));
    client.sync(&source, &target, &[]).ok().proves();
    let mut at = openat(CWD, &target, open, Mode::empty()).unwrap();
    for _ in 0..levels {
        at = openat(&at, name.as_str(), open, Mode::empty()).unwrap();
    }
    let file = openat(&at, "leaf", OFlags::RDONLY, Mode::empty()).unwrap();
    let mut bytes = [0; 32];
    let len = rustix::io::read(&file, &mut bytes).unwrap();
    assert_eq!(&bytes[..len], b"down here");

    // And the same through a daemon, then everything removed again.
    let stage = Stage::new();
    stage.admin.sync(&source, stage.shop(), &[]).ok().proves();
    fs::remove_dir_all(source.join(&name)).unwrap();
    fs::write(source.join("shallow"), "").unwrap();
    stage.admin.sync(&source, stage.shop(), &["--force"]).ok().proves();
    assert_equal(&source, &stage.volume, "the deep folders removed");
}

#[test]
fn folders_of_many_names_and_files_of_many_chunks_are_copied() {
    // More than one list node of either sort, and changes in their middle.
    let stage = Stage::new();
    let source = stage.folder("source");
    let wide = stage.folder("source/wide");
    let mut rng = Rng::new(11);
    for number in 0..6000 {
        fs::write(wide.join(format!("{number:05}")), number.to_string()).unwrap();
    }
    let mut bytes = rng.bytes(40 << 20);
    fs::write(source.join("big"), &bytes).unwrap();
    stage.admin.sync(&source, stage.shop(), &[]).ok().proves();
    assert_equal(&source, &stage.volume, "first");
    fs::remove_file(wide.join("03000")).unwrap();
    fs::write(wide.join("01500x"), "new").unwrap();
    bytes.splice(20_000_000..20_000_100, *b"something else");
    fs::write(source.join("big"), &bytes).unwrap();
    let second = stage.admin.sync(&source, stage.shop(), &[]).ok().proves();
    assert_equal(&source, &stage.volume, "second");
    assert!(second.wire() < 1_000_000, "{second}");
}

#[test]
fn relative_and_trailing_slash_paths_mean_the_folder() {
    let dir = scratch();
    let client = Client::new(&dir.path().join("client"));
    fs::create_dir_all(client.home.join("here/sub")).unwrap();
    fs::write(client.home.join("here/sub/file"), "1").unwrap();
    client.run(&["sync", "here/", "./there/"].map(OsString::from)).ok().proves();
    assert_equal(&client.home.join("here"), &client.home.join("there"), "relative");
}
