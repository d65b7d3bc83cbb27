//! Killed at any moment, then run again: equal trees, no torn file, no litter.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::common::host::{Client, Stage};
use crate::common::oracle::{assert_equal, likeness};
use crate::common::seed::seeds;
use crate::common::trees::walk;
use crate::common::versions::{nothing_is_torn, version};
use crate::common::{Rng, scratch};

/// How long a test of random crashes goes on; `MCLOUD_CRASH_SECONDS` for more.
fn patience() -> Duration {
    let seconds = std::env::var("MCLOUD_CRASH_SECONDS").ok().and_then(|text| text.parse().ok());
    Duration::from_secs(seconds.unwrap_or(20))
}

#[test]
fn killed_at_random_moments_a_local_sync_tears_nothing_and_the_next_is_equal() {
    let seed = *seeds(0).last().unwrap();
    println!("seed {seed} (MCLOUD_SEED={seed} repeats it)");
    let mut rng = Rng::new(seed);
    let dir = scratch();
    let (source, target) = (dir.path().join("source"), dir.path().join("target"));
    let client = Client::new(&dir.path().join("client"));
    version(&source, 1);
    client.sync(&source, &target, &[]).ok().proves();
    version(&source, 2);
    let began = Instant::now();
    client.sync(&source, &target, &["--force"]).ok().proves();
    let usual = began.elapsed().as_micros() as u64;

    let (mut runs, mut killed) = (0, 0);
    let began = Instant::now();
    // On a busy machine some runs are over before they are killed: then there are more of them.
    while (began.elapsed() < patience() || killed < 10) && runs < 400 {
        runs += 1;
        version(&source, 2 + runs);
        let mut running = client.start_sync(&source, &target, &["--force"]);
        std::thread::sleep(Duration::from_micros(rng.below(usual * 11 / 10)));
        killed += u64::from(running.is_running());
        drop(running);
        nothing_is_torn(&target, &format!("seed {seed}, run {runs}, killed"));
        client.sync(&source, &target, &["--force"]).ok().proves();
        assert_equal(&source, &target, &format!("seed {seed}, run {runs}, after the kill"));
    }
    println!("{runs} runs, {killed} killed in the middle");
    assert!(killed >= 10, "only {killed} of {runs} runs were killed in the middle");
}

#[test]
fn a_daemon_killed_at_random_moments_tears_nothing_and_the_next_sync_is_equal() {
    let seed = *seeds(0).last().unwrap();
    println!("seed {seed} (MCLOUD_SEED={seed} repeats it)");
    let mut rng = Rng::new(seed);
    let mut stage = Stage::new();
    let source = stage.dir.path().join("source");
    version(&source, 1);
    stage.admin.sync(&source, stage.shop(), &[]).ok().proves();
    version(&source, 2);
    let began = Instant::now();
    stage.admin.sync(&source, stage.shop(), &["--force"]).ok().proves();
    let usual = began.elapsed().as_micros() as u64;

    let mut runs = 0;
    let began = Instant::now();
    while began.elapsed() < patience() && runs < 200 {
        runs += 1;
        version(&source, 2 + runs);
        let running = stage.admin.start_sync(&source, stage.shop(), &["--force"]);
        std::thread::sleep(Duration::from_micros(rng.below(usual * 11 / 10)));
        let what = if rng.one_in(3) { "client" } else { "daemon" };
        if what == "daemon" {
            stage.daemon.kill();
            // The client is not waited for: it may try for a while to get through again.
            drop(running);
            nothing_is_torn(&stage.volume, &format!("seed {seed}, run {runs}, {what} killed"));
            stage.daemon.again();
        } else {
            drop(running);
        }
        nothing_is_torn(&stage.volume, &format!("seed {seed}, run {runs}, {what} killed, recovered"));
        stage.admin.sync(&source, stage.shop(), &["--force"]).ok().proves();
        assert_equal(&source, &stage.volume, &format!("seed {seed}, run {runs}, {what} killed"));
    }
    println!("{runs} runs");
}

#[test]
fn what_was_sent_before_a_kill_is_not_sent_again() {
    let stage = Stage::new();
    let source = stage.folder("source");
    for number in 0..24 {
        fs::write(source.join(format!("f{number}")), Rng::new(number).bytes(1 << 20)).unwrap();
    }
    // About a second of six at this rate.
    let mut running = stage.admin.start_sync(&source, stage.shop(), &["--bwlimit", "4M"]);
    std::thread::sleep(Duration::from_millis(3500));
    assert!(running.is_running(), "it was too fast to be killed");
    drop(running);
    let second = stage.admin.sync(&source, stage.shop(), &[]).ok().proves();
    assert_equal(&source, &stage.volume, "second try");
    assert!(second.wire() < 20 << 20, "what had come was sent again\n{second}");
}

#[test]
fn one_big_file_goes_on_where_it_was_cut() {
    let stage = Stage::new();
    let source = stage.folder("source");
    fs::write(source.join("big"), Rng::new(1).bytes(24 << 20)).unwrap();
    let mut running = stage.admin.start_sync(&source, stage.shop(), &["--bwlimit", "4M"]);
    std::thread::sleep(Duration::from_millis(3500));
    assert!(running.is_running(), "it was too fast to be killed");
    drop(running);
    let second = stage.admin.sync(&source, stage.shop(), &[]).ok().proves();
    assert_equal(&source, &stage.volume, "second try");
    assert!(second.wire() < 20 << 20, "what had come was sent again\n{second}");
}

#[test]
fn nothing_is_left_beside_the_tree_after_a_sync() {
    let dir = scratch();
    let (source, parent) = (dir.path().join("source"), dir.path().join("parent"));
    fs::create_dir(&parent).unwrap();
    version(&source, 1);
    let client = Client::new(&dir.path().join("client"));
    let names = |root: &Path| fs::read_dir(root).unwrap().map(|entry| entry.unwrap().file_name()).collect::<Vec<_>>();
    client.sync(&source, parent.join("target"), &[]).ok().proves();
    assert_eq!(names(&parent), ["target"]);
    version(&source, 2);
    let running = client.start_sync(&source, parent.join("target"), &["--force"]);
    std::thread::sleep(Duration::from_millis(40));
    drop(running);
    client.sync(&source, parent.join("target"), &["--force"]).ok().proves();
    assert_eq!(names(&parent), ["target"]);
    assert_equal(&source, &parent.join("target"), "nothing inside it either");
}

#[test]
fn two_syncs_into_one_target_do_not_mix() {
    let stage = Stage::new();
    let (one, two) = (stage.folder("one"), stage.folder("two"));
    let other = Client::of(&stage.daemon, &stage.dir.path().join("other"));
    version(&one, 1);
    version(&two, 2);
    for _ in 0..5 {
        let a = stage.admin.start_sync(&one, stage.shop(), &["--force"]);
        let b = other.start_sync(&two, stage.shop(), &["--force"]);
        let ends = [a.finish(), b.finish()];
        for end in &ends {
            let busy = end.last()["kind"] == "busy";
            assert!(end.status.code() == Some(0) || busy, "{end}");
        }
        assert!(ends.iter().any(|end| end.status.code() == Some(0)), "{}{}", ends[0], ends[1]);
        let now = likeness(&stage.volume);
        assert!(now == likeness(&one) || now == likeness(&two), "a mixture of both sources");
    }
}

#[test]
fn two_local_syncs_into_one_folder_do_not_mix() {
    let dir = scratch();
    let (one, two, target) = (dir.path().join("one"), dir.path().join("two"), dir.path().join("target"));
    let clients = [Client::new(&dir.path().join("c1")), Client::new(&dir.path().join("c2"))];
    version(&one, 1);
    version(&two, 2);
    for _ in 0..5 {
        let a = clients[0].start_sync(&one, &target, &["--force"]);
        let b = clients[1].start_sync(&two, &target, &["--force"]);
        for end in [a.finish(), b.finish()] {
            assert!(end.status.code() == Some(0) || end.last()["kind"] == "busy", "{end}");
        }
        let now = likeness(&target);
        assert!(now == likeness(&one) || now == likeness(&two), "a mixture of both sources");
    }
}

/// Files that hold an index, below `root`.
fn indexes(root: &Path) -> Vec<std::path::PathBuf> {
    if !root.is_dir() {
        return Vec::new();
    }
    walk(root).into_iter().filter(|path| path.extension().is_some_and(|end| end == "idx")).collect()
}

#[test]
fn a_corrupt_index_is_found_said_and_rebuilt() {
    let seed = *seeds(0).last().unwrap();
    println!("seed {seed} (MCLOUD_SEED={seed} repeats it)");
    let mut rng = Rng::new(seed);
    let stage = Stage::new();
    let source = stage.folder("source");
    version(&source, 1);
    stage.admin.sync(&source, stage.shop(), &[]).ok().proves();
    stage.admin.sync(&source, stage.shop(), &[]).ok().proves();
    for round in 0..12 {
        let side = if round % 2 == 0 { stage.admin.home.clone() } else { stage.daemon.home.clone() };
        let found = indexes(&side);
        assert!(!found.is_empty(), "no index below {side:?}");
        for path in &found {
            let mut bytes = fs::read(path).unwrap();
            match round % 3 {
                0 => bytes.truncate(rng.below(bytes.len() as u64) as usize),
                1 => bytes.fill(0xa5),
                _ => {
                    for _ in 0..3 {
                        let at = rng.below(bytes.len() as u64) as usize;
                        bytes[at] ^= 1 << rng.below(8);
                    }
                }
            }
            fs::write(path, bytes).unwrap();
        }
        fs::write(source.join("changed"), round.to_string()).unwrap();
        let outcome = stage.admin.sync(&source, stage.shop(), &[]).ok().proves();
        assert_equal(&source, &stage.volume, &format!("seed {seed}, round {round}"));
        // A flipped bit may lie where nothing was read.
        let said = outcome.text() + &stage.daemon.log();
        assert!(
            round % 3 == 2 || said.to_lowercase().contains("index"),
            "round {round}: nothing was said of it\n{outcome}"
        );
    }
}

#[cfg(feature = "faults")]
mod faults {
    use super::*;
    use crate::common::engine::{Engine, forced};

    /// The names of the fault points in the source, found as a reader would.
    fn fault_points() -> Vec<String> {
        let mut names = Vec::new();
        for path in walk(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src")) {
            if path.extension().is_some_and(|end| end == "rs") {
                let text = fs::read_to_string(&path).unwrap();
                for part in text.split("fail_point!(").skip(1) {
                    if let Some(name) = part.trim_start().strip_prefix('"').and_then(|rest| rest.split('"').next()) {
                        names.push(name.to_owned());
                    }
                }
            }
        }
        names.sort();
        names.dedup();
        assert!(!names.is_empty(), "no fault points");
        names
    }

    /// The first time the point is reached, and some later ones.
    fn moments(rng: &mut Rng) -> Vec<String> {
        ["", "1*off->", "3*off->"]
            .map(str::to_owned)
            .into_iter()
            .chain((0..2).map(|_| format!("{}*off->", rng.within(4, 90))))
            .collect()
    }

    #[test]
    fn a_crash_at_any_fault_point_leaves_old_or_new_files_and_the_next_sync_is_equal() {
        let seed = *seeds(0).last().unwrap();
        println!("seed {seed} (MCLOUD_SEED={seed} repeats it)");
        let mut rng = Rng::new(seed);
        let mut crashed = 0;
        for name in fault_points() {
            for moment in moments(&mut rng) {
                let dir = scratch();
                let (source, target) = (dir.path().join("source"), dir.path().join("target"));
                let client = Client::new(&dir.path().join("client"));
                version(&source, 1);
                client.sync(&source, &target, &[]).ok().proves();
                version(&source, 2);
                let hurt = client.clone().var("FAILPOINTS", &format!("{name}={moment}panic"));
                let outcome = hurt.sync(&source, &target, &["--force"]);
                let context = format!("{name}={moment}panic\n{outcome}");
                crashed += u32::from(outcome.status.code() != Some(0));
                nothing_is_torn(&target, &context);
                if outcome.status.code() == Some(0) {
                    assert_equal(&source, &target, &context);
                }
                client.sync(&source, &target, &["--force"]).ok().proves();
                assert_equal(&source, &target, &format!("after {context}"));
            }
        }
        assert!(crashed > 2, "hardly any fault point was reached");
    }

    #[test]
    fn an_error_at_any_fault_point_before_the_commit_leaves_the_old_tree() {
        let seed = *seeds(0).last().unwrap();
        println!("seed {seed} (MCLOUD_SEED={seed} repeats it)");
        let mut rng = Rng::new(seed);
        let scenario = fail::FailScenario::setup();
        let mut failed = 0;
        for name in fault_points() {
            for moment in moments(&mut rng) {
                let dir = scratch();
                let engine = Engine::below(dir.path());
                version(&engine.source, 1);
                engine.proves(&forced(), "first");
                let before = likeness(&engine.target);
                version(&engine.source, 2);
                fail::cfg(&name, &format!("{moment}return")).unwrap();
                let result = engine.sync(&forced());
                fail::remove(&name);
                let context =
                    format!("{name}={moment}return: {:?}", result.as_ref().map_err(mcloud::model::Error::chain));
                nothing_is_torn(&engine.target, &context);
                match result {
                    Ok(_) => assert_equal(&engine.source, &engine.target, &context),
                    Err(_) => {
                        failed += 1;
                        let after = likeness(&engine.target);
                        let committing = name.starts_with("commit");
                        assert!(committing || after == before, "{context}: the old tree is not what it was");
                    }
                }
                engine.proves(&forced(), &format!("after {context}"));
                assert_equal(&engine.source, &engine.target, &format!("after {context}"));
            }
        }
        scenario.teardown();
        assert!(failed > 2, "hardly any fault point was reached");
    }
}
