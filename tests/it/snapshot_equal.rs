//! What is kept is what was there: random trees, random changes, snapshots of each, every one of them restored and looked at.

use std::fs;

use crate::common::Rng;
use crate::common::changes::change;
use crate::common::host::{Outcome, Stage};
use crate::common::oracle::assert_equal;
use crate::common::seed::seeds;
use crate::common::trees::{Shape, grow};

fn create(stage: &Stage, more: &[&str]) -> Outcome {
    let mut words = vec!["-h", &stage.daemon.address, "snapshot", "create", "shop"];
    words.extend(more);
    stage.admin.run(&words)
}

fn restore(stage: &Stage, word: &str, target: &std::path::Path) -> Outcome {
    let target = target.to_str().expect("a plain path");
    stage.admin.run(&["-h", &stage.daemon.address, "snapshot", "restore", word, target, "--force"])
}

#[test]
fn every_snapshot_of_a_changing_tree_comes_back_as_it_was() {
    for seed in seeds(3) {
        println!("seed {seed} (MCLOUD_SEED={seed} repeats it)");
        let stage = Stage::new();
        let mut rng = Rng::new(500 + seed);
        grow(&stage.volume, &mut rng, &Shape::USUAL);
        let mut kept = Vec::new();
        for round in 0..6 {
            let taken = create(&stage, &[]).ok();
            let id = taken.done()["snapshot"].as_str().expect("an id").to_owned();
            // What it was, kept by somebody else.
            let copy = stage.folder(&format!("copy-{round}"));
            let copied = std::process::Command::new("cp").arg("-a").arg(stage.volume.join(".")).arg(&copy).status();
            assert!(copied.expect("cp runs").success());
            let again = create(&stage, &[]).ok();
            assert_eq!(again.count("bytes_new"), 0, "seed {seed}: an unchanged tree\n{again}");
            kept.push((id, copy));
            for _ in 0..rng.within(1, 6) {
                println!("{}", change(&stage.volume, &mut rng, &Shape::USUAL));
            }
        }
        for (round, (id, copy)) in kept.iter().enumerate() {
            let back = stage.folder("back");
            restore(&stage, &id[..16], &back).ok().proves();
            assert_equal(copy, &back, &format!("seed {seed}, snapshot {round}"));
        }
        // Back into the tenant, over what it has become.
        let (id, copy) = &kept[2];
        let shop = stage.shop();
        stage.admin.run(&["-h", &stage.daemon.address, "snapshot", "restore", id, &shop, "--force"]).ok().proves();
        assert_equal(copy, &stage.volume, &format!("seed {seed}, back in its tenant"));
        stage.admin.sync(format!("latest:{shop}"), stage.folder("latest"), &["--force"]).ok().proves();
    }
}

#[test]
fn snapshots_are_found_listed_tagged_and_removed_and_outlive_their_tenant() {
    let stage = Stage::new();
    fs::write(stage.volume.join("file"), "one").unwrap();
    let host = ["-h", &stage.daemon.address];
    let run = |words: &[&str]| stage.admin.run(&[&host[..], words].concat());
    run(&["snapshot", "show", "latest:shop"]).fails(1, "not_found");
    let first = create(&stage, &["--tag", "b", "--tag", "a", "--tag", "b"]).ok();
    assert_eq!(first.done()["tags"], serde_json::json!(["a", "b"]));
    assert_eq!(first.done()["how"], "live");
    fs::write(stage.volume.join("file"), "two").unwrap();
    let second = create(&stage, &[]).ok();
    let ids: Vec<&str> = [&first, &second].map(|taken| taken.done()["snapshot"].as_str().expect("an id")).to_vec();
    let list = run(&["snapshot", "list"]).ok();
    assert_eq!(list.count("snapshots"), 2);
    assert_eq!(run(&["snapshot", "list", "--tag", "a"]).ok().events[0]["snapshot"], ids[0]);
    assert_eq!(run(&["snapshot", "show", "latest:shop"]).ok().done()["snapshot"], ids[1]);
    run(&["snapshot", "show", "nonsense"]).fails(2, "usage");
    run(&["snapshot", "create", "blog"]).fails(1, "not_found");
    run(&["snapshot", "create", "web.shop"]).fails(1, "not_found");
    let (done, text) = stage.admin.plain(&[&host[..], &["snapshot", "create", "shop"]].concat());
    assert!(done && text.trim().len() == 64, "the id, last and alone: {text:?}");

    run(&["remove", "shop"]).ok();
    let back = stage.folder("back");
    restore(&stage, ids[0], &back).ok().proves();
    assert_eq!(fs::read(back.join("file")).unwrap(), b"one");
    assert_eq!(run(&["snapshot", "remove", ids[0], ids[1]]).ok().done()["removed"].as_array().map(Vec::len), Some(2));
    assert_eq!(run(&["snapshot", "list"]).ok().count("snapshots"), 1);
    restore(&stage, ids[0], &back).fails(1, "not_found");
}
