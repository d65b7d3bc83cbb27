//! Snapshots as folders: each is what its volume was, for as long as it is mounted.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use crate::common::Rng;
use crate::common::changes::change;
use crate::common::host::Stage;
use crate::common::mounts::{Mount, until};
use crate::common::oracle::{differences, likeness};
use crate::common::trees::{Shape, grow};

fn create(stage: &Stage, what: &str) -> String {
    let taken = stage.admin.run(&["-h", &stage.daemon.address, "snapshot", "create", what]).ok();
    taken.done()["snapshot"].as_str().expect("an id").to_owned()
}

/// What a tree is now, kept by somebody else.
fn copy(stage: &Stage, tree: &Path, name: &str) -> PathBuf {
    let copy = stage.folder(name);
    let copied = std::process::Command::new("cp").arg("-a").arg(tree.join(".")).arg(&copy).status();
    assert!(copied.expect("cp runs").success());
    copy
}

/// Data and holes, as `lseek` tells.
fn holes(path: &Path) -> Vec<u64> {
    let file = File::open(path).unwrap();
    let (mut found, mut at) = (Vec::new(), 0);
    while let Ok(data) = rustix::fs::seek(&file, rustix::fs::SeekFrom::Data(at)) {
        at = rustix::fs::seek(&file, rustix::fs::SeekFrom::Hole(data)).unwrap();
        found.extend([data, at]);
    }
    found
}

fn kibibytes(path: &Path) -> u64 {
    path.metadata().unwrap().blocks() / 2
}

#[test]
fn a_large_file_with_holes_is_shown_and_copied_with_them_and_a_dense_one_of_zeros_without() {
    let stage = Stage::new();
    let large = stage.volume.join("large");
    let file = File::create(&large).unwrap();
    file.set_len(256 << 20).unwrap();
    file.write_all_at(&Rng::new(1).bytes(100_000), 7_340_032).unwrap();
    file.write_all_at(b"the end", (256 << 20) - 7).unwrap();
    file.sync_all().unwrap();
    let zeros = stage.volume.join("zeros");
    fs::write(&zeros, vec![0; 70 << 20]).unwrap();
    File::open(&zeros).unwrap().sync_all().unwrap();
    let id = create(&stage, "shop");
    let mount = Mount::of(&stage, &format!("{}@{}", &id[..16], stage.daemon.address), "mount", &[]);
    assert_eq!(holes(&mount.at("large")), holes(&large));
    assert_eq!(kibibytes(&mount.at("large")), kibibytes(&large));
    assert_eq!((holes(&mount.at("zeros")), kibibytes(&mount.at("zeros"))), (vec![0, 70 << 20], 70 << 10));
    // As others copy it.
    let copy = stage.folder("copied");
    let done = std::process::Command::new("cp").arg("--sparse=auto").arg(mount.at("large")).arg(&copy).status();
    assert!(done.unwrap().success());
    assert!(kibibytes(&copy.join("large")) < 1024, "{} KiB", kibibytes(&copy.join("large")));
    let tar = stage.folder("tar").join("tar");
    let done = std::process::Command::new("tar").arg("-cSf").arg(&tar).arg("-C").arg(&mount.dir).arg("large").status();
    assert!(done.unwrap().success());
    assert!(tar.metadata().unwrap().len() < 1 << 20, "{} bytes", tar.metadata().unwrap().len());
    // And as it is restored.
    let restored = stage.folder("restored");
    let from = ["-h", &stage.daemon.address, "snapshot", "restore", &id, restored.to_str().unwrap(), "--force"];
    stage.admin.run(&from).ok();
    assert_eq!(holes(&restored.join("large")), holes(&large));
    assert_eq!(kibibytes(&restored.join("zeros")), 70 << 10);
}

fn assert_equal(source: &Path, target: &Path, seed: u64) {
    let found = differences(source, target);
    assert!(found.is_empty(), "seed {seed}: {found:#?}");
}

#[test]
fn a_mounted_snapshot_is_what_its_volume_was_whatever_happens_since() {
    for seed in 0..3 {
        let mut stage = Stage::new();
        let mut rng = Rng::new(700 + seed);
        grow(&stage.volume, &mut rng, &Shape::USUAL);
        // Cut into chunks, with a hole, and with two names.
        let sparse = File::create(stage.volume.join("sparse")).unwrap();
        sparse.set_len(6 << 20).unwrap();
        sparse.write_all_at(&[1; 4096], 3 << 20).unwrap();
        fs::hard_link(stage.volume.join("sparse"), stage.volume.join("again")).unwrap();
        let id = create(&stage, "shop");
        let kept = copy(&stage, &stage.volume.clone(), "kept");
        let mount =
            Mount::of(&stage, &format!("{}@{}", &id[..16], stage.daemon.address), "mount", &["--timeout", "60"]);
        assert_equal(&kept, &mount.dir, seed);
        let (one, other) = (mount.at("sparse").metadata().unwrap(), mount.at("again").metadata().unwrap());
        assert_eq!((one.ino(), one.nlink(), one.size()), (other.ino(), 2, 6 << 20));
        assert!(one.blocks() * 512 < 2 << 20, "{} blocks", one.blocks());
        let file = File::open(mount.at("sparse")).unwrap();
        let data = rustix::fs::seek(&file, rustix::fs::SeekFrom::Data(0)).unwrap();
        assert_eq!(data, 3 << 20);
        // The volume goes on, the daemon is another process, and the snapshot is removed: those who look see no change.
        for _ in 0..5 {
            change(&stage.volume, &mut rng, &Shape::USUAL);
        }
        stage.daemon.kill();
        stage.daemon.again();
        assert_equal(&kept, &mount.dir, seed);
        assert_eq!(fs::read_dir(&mount.dir).unwrap().count(), fs::read_dir(&kept).unwrap().count());
        let error = fs::write(mount.at("new"), "").unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EROFS));
    }
}

#[test]
fn all_snapshots_of_a_tenant_are_one_tree_by_time() {
    let stage = Stage::new();
    let mut rng = Rng::new(77);
    grow(&stage.volume, &mut rng, &Shape::SMALL);
    let mount = Mount::of(&stage, &format!("all:{}", stage.shop()), "mount", &[]);
    assert_eq!(fs::read_dir(&mount.dir).unwrap().count(), 0);
    let mut kept = Vec::new();
    for round in 0..3 {
        create(&stage, "shop");
        kept.push(likeness(&stage.volume));
        change(&stage.volume, &mut rng, &Shape::SMALL);
        until("it is there", || fs::read_dir(&mount.dir).unwrap().count() == round + 1);
    }
    let mut names: Vec<String> =
        fs::read_dir(&mount.dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    for name in &names {
        let digits = name.bytes().filter(u8::is_ascii_digit).count();
        assert!(name.starts_with("20") && name.contains('T') && name.contains('Z') && digits >= 14, "{name}");
        assert!(kept.contains(&likeness(&mount.at(name))), "{name} is one of those that were taken");
    }
    // Another tenant's are not among them, and one that is removed goes.
    let other = stage.folder("other");
    fs::write(other.join("file"), "other").unwrap();
    stage.init("other", &other);
    let id = create(&stage, "other");
    assert_eq!(fs::read_dir(&mount.dir).unwrap().count(), 3);
    let shown = Mount::of(&stage, &format!("all:{}", stage.daemon.at("other")), "shown", &[]);
    until("it is there", || fs::read_dir(&shown.dir).unwrap().count() == 1);
    stage.admin.run(&["-h", &stage.daemon.address, "snapshot", "remove", &id]).ok();
    until("it is gone", || fs::read_dir(&shown.dir).unwrap().count() == 0);
}

#[test]
fn a_snapshot_of_several_volumes_has_a_folder_for_each() {
    let stage = Stage::new();
    let yml = stage.folder("yml").join("mcloud.yml");
    fs::write(&yml, "redis:\n    image: redis\n    data: [/data]\nweb:\n    image: web\n    data: [/up/loads]\n")
        .unwrap();
    stage.admin.run(&["-h", &stage.daemon.address, "init", "app", yml.to_str().unwrap()]).ok();
    for (what, name) in [("redis.app", "/data"), ("web.app", "/up/loads")] {
        let source = stage.folder(&name[1..].replace('/', "-"));
        fs::write(source.join("file"), what).unwrap();
        stage.admin.sync(&source, format!("{what}@{}:{name}", stage.daemon.address), &[]).ok();
    }
    create(&stage, "app");
    let latest = Mount::of(&stage, &format!("latest:{}", stage.daemon.at("app")), "latest", &[]);
    let found: Vec<String> = likeness(&latest.dir).lines().map(str::to_owned).collect();
    let files = |dir: &Path| -> Vec<String> {
        let mut all: Vec<String> = fs::read_dir(dir)
            .unwrap()
            .filter_map(|entry| fs::read_to_string(entry.unwrap().path().join("file")).ok())
            .collect();
        all.sort();
        all
    };
    assert_eq!(files(&latest.dir), ["redis.app", "web.app"], "{found:?}");
    stage
        .admin
        .run(&["mount", &format!("latest:{}", stage.daemon.at("none")), latest.dir.to_str().unwrap()])
        .fails(1, "busy");
    let empty = stage.folder("empty");
    let empty = empty.to_str().unwrap();
    stage.admin.run(&["mount", &format!("latest:{}", stage.daemon.at("none")), empty]).fails(1, "not_found");
    stage.admin.run(&["mount", &format!("0123456789abcdef@{}", stage.daemon.address), empty]).fails(1, "not_found");
}
