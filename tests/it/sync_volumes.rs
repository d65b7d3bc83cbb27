//! Every direction of the table: volumes, tenants to tenants on one host.

use std::fs;
use std::path::PathBuf;

use crate::common::disks::Disk;
use crate::common::host::{Client, Daemon, Stage};
use crate::common::oracle::assert_equal;
use crate::common::trees::{Shape, grow};
use crate::common::{Rng, scratch};

const YML: &str =
    "redis:\n    image: redis\n    data: [/data]\nweb:\n    image: python:3.12\n    data: [/uploads, /state]\n";

/// A tenant described by an mcloud.yml with three data volumes.
fn tenant(stage: &Stage, name: &str) {
    let yml = stage.folder(&format!("{name}-yml")).join("mcloud.yml");
    fs::write(&yml, YML).unwrap();
    stage.admin.run(&["-h", &stage.daemon.address, "init", name, yml.to_str().unwrap()]).ok();
}

fn grown(stage: &Stage, name: &str, seed: u64) -> PathBuf {
    let path = stage.folder(name);
    grow(&path, &mut Rng::new(seed), &Shape::SMALL);
    path
}

#[test]
fn a_folder_and_one_data_volume_are_copied_both_ways() {
    let stage = Stage::new();
    tenant(&stage, "app");
    for (number, (service, volume)) in
        [("redis", "/data"), ("web", "/uploads"), ("web", "/state")].into_iter().enumerate()
    {
        let source = grown(&stage, &format!("source{number}"), number as u64);
        let back = stage.folder(&format!("back{number}"));
        let reference = format!("{service}.app@{}:{volume}", stage.daemon.address);
        stage.admin.sync(&source, &reference, &[]).ok().proves();
        stage.admin.sync(&reference, &back, &[]).ok().proves();
        assert_equal(&source, &back, &reference);
    }
    let none = format!("redis.app@{}:/novolume", stage.daemon.address);
    let outcome = stage.admin.sync(stage.folder("source0"), &none, &[]).fails(1, "not_found");
    assert!(outcome.text().contains("novolume"), "{outcome}");
    // They did not mix, and the root volume is another.
    let code = grown(&stage, "code", 50);
    let root = stage.folder("root");
    stage.admin.sync(&code, stage.daemon.at("app"), &["--force"]).ok().proves();
    stage.admin.sync(stage.daemon.at("app"), &root, &["--force"]).ok().proves();
    assert_equal(&code, &root, "the root volume");
    let back = stage.folder("back9");
    stage.admin.sync(format!("redis.app@{}:/data", stage.daemon.address), &back, &[]).ok().proves();
    assert_equal(&stage.dir.path().join("source0"), &back, "redis after the code");
}

#[test]
fn a_tenant_to_a_tenant_copies_the_data_and_leaves_the_code_unless_told() {
    let stage = Stage::new();
    tenant(&stage, "one");
    tenant(&stage, "two");
    let at = |reference: &str| format!("{reference}@{}", stage.daemon.address);
    let data = grown(&stage, "data", 1);
    let uploads = grown(&stage, "uploads", 2);
    let (code1, code2) = (grown(&stage, "code1", 3), grown(&stage, "code2", 4));
    stage.admin.sync(&data, format!("{}:/data", at("redis.one")), &[]).ok();
    stage.admin.sync(&uploads, format!("{}:/uploads", at("web.one")), &[]).ok();
    stage.admin.sync(&code1, at("one"), &["--force"]).ok();
    stage.admin.sync(&code2, at("two"), &["--force"]).ok();

    // Several volumes: each is proved, there is no one name for all.
    let outcome = stage.admin.sync(at("one"), at("two"), &[]).ok();
    assert_eq!(outcome.wire(), 0, "on one host nothing crosses a wire\n{outcome}");
    let pull = |reference: String, name: &str| {
        let path = stage.folder(name);
        stage.admin.sync(reference, &path, &["--force"]).ok().proves();
        path
    };
    assert_equal(&data, &pull(format!("{}:/data", at("redis.two")), "got1"), "redis' data");
    assert_equal(&uploads, &pull(format!("{}:/uploads", at("web.two")), "got2"), "web's uploads");
    assert_equal(&code2, &pull(at("two"), "got3"), "two's code stays");

    stage.admin.sync(at("one"), at("two"), &["--code", "--force"]).ok();
    assert_equal(&code1, &pull(at("two"), "got4"), "one's code with --code");
}

#[test]
fn a_volume_to_another_volume_is_copied() {
    let stage = Stage::new();
    tenant(&stage, "one");
    tenant(&stage, "two");
    let data = grown(&stage, "data", 1);
    let from = format!("redis.one@{}:/data", stage.daemon.address);
    let to = format!("web.two@{}:/state", stage.daemon.address);
    stage.admin.sync(&data, &from, &[]).ok().proves();
    stage.admin.sync(&from, &to, &[]).ok().proves();
    let got = stage.folder("got");
    stage.admin.sync(&to, &got, &[]).ok().proves();
    assert_equal(&data, &got, "volume to volume");
}

#[test]
fn tenants_on_one_xfs_share_their_blocks() {
    let disk = Disk::new("xfs", 320);
    let dir = scratch();
    let daemon = Daemon::start(&disk.root.join("home"));
    let client = Client::of(&daemon, &dir.path().join("client"));
    for (name, folder) in [("one", "v1"), ("two", "v2")] {
        let path = disk.root.join(folder);
        fs::create_dir(&path).unwrap();
        client.run(&["-h", &daemon.address, "init", name, "--path", path.to_str().unwrap()]).ok();
    }
    fs::write(disk.root.join("v1/big"), Rng::new(1).bytes(60 << 20)).unwrap();
    crate::common::sh("sync", &[]);
    let before = disk.free_bytes();
    client.sync(daemon.at("one"), daemon.at("two"), &["--code"]).ok().proves();
    crate::common::sh("sync", &[]);
    assert_equal(&disk.root.join("v1"), &disk.root.join("v2"), "shared");
    let used = before.saturating_sub(disk.free_bytes());
    assert!(used < 16 << 20, "{used} bytes for a copy that needs none");
}

#[test]
fn a_daemon_that_starts_again_knows_its_tenants_and_their_data() {
    let mut stage = Stage::new();
    tenant(&stage, "app");
    let data = grown(&stage, "data", 1);
    let reference = format!("redis.app@{}:/data", stage.daemon.address);
    stage.admin.sync(&data, &reference, &[]).ok().proves();
    assert!(stage.daemon.stop().success());
    stage.daemon.again();
    let got = stage.folder("got");
    stage.admin.sync(&reference, &got, &[]).ok().proves();
    assert_equal(&data, &got, "after a restart");
    let again = stage.admin.sync(&data, &reference, &[]).ok().proves();
    assert_eq!(again.count("files_created") + again.count("files_updated"), 0, "{again}");
}

#[test]
fn a_folder_of_the_daemons_own_machine_needs_no_wire() {
    let stage = Stage::new();
    tenant(&stage, "app");
    let neighbour = stage.admin.clone().var("MCLOUD_WIRE", "");
    let source = grown(&stage, "source", 7);
    let report = neighbour.sync(&source, stage.daemon.at("app"), &["--force"]).ok().proves();
    assert_eq!((report.done()["bytes_sent"].as_u64(), report.done()["bytes_received"].as_u64()), (Some(0), Some(0)));
    // What came without a wire is equal to what comes with one.
    let back = stage.folder("back");
    stage.admin.sync(stage.daemon.at("app"), &back, &["--force"]).ok().proves();
    assert_equal(&source, &back, "there and back");
    // A halt rule, an error and a dry run are told as over the wire.
    let empty = stage.folder("empty");
    neighbour.sync(&empty, stage.daemon.at("app"), &[]).fails(3, "refused");
    neighbour.sync(stage.dir.path().join("nowhere"), stage.daemon.at("app"), &[]).fails(1, "not_found");
    neighbour.sync(&source, stage.daemon.at("app"), &["--dry-run"]).ok();
}
