//! A daemon killed at every point of taking, removing and collecting snapshots, and at any moment between: what the store says
//! it has it has, to the last byte, and no snapshot that was acknowledged is lost.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::common::disks::Disk;
use crate::common::host::{Client, Daemon, Outcome, Stage};
use crate::common::oracle::assert_equal;
use crate::common::seed::seeds;
use crate::common::versions::{SMALL, version_of};
use crate::common::{Rng, scratch, sh};

/// Each point, and how often it is come to before the daemon dies there.
const POINTS: [(&str, u32); 12] = [
    ("store.pack_written", 0),
    ("store.pack_written", 1),
    ("store.before_index", 0),
    ("store.before_snapshot", 0),
    ("store.after_snapshot", 0),
    ("store.remove", 0),
    ("store.remove", 1),
    ("gc.before_index", 0),
    ("gc.before_delete", 0),
    ("gc.delete", 0),
    ("gc.delete", 1),
    ("gc.delete", 2),
];

/// How many runs are killed at random; `MCLOUD_STORE_CRASHES` for more.
fn runs() -> u64 {
    std::env::var("MCLOUD_STORE_CRASHES").ok().and_then(|text| text.parse().ok()).unwrap_or(200)
}

/// A tenant, and what its snapshots were.
struct Kept {
    stage: Stage,
    /// Those that were acknowledged and not asked to be removed, each with a copy of its tree.
    snapshots: BTreeMap<u64, (String, PathBuf)>,
    version: u64,
}

impl Kept {
    fn new() -> Kept {
        let mut kept = Kept { stage: Stage::new(), snapshots: BTreeMap::new(), version: 0 };
        for _ in 0..3 {
            kept.take();
        }
        kept
    }

    fn run(&self, words: &[&str]) -> Outcome {
        self.stage.admin.run(&[&["-h", &self.stage.daemon.address], words].concat())
    }

    /// Gives the tree another version, most of which is new to the store.
    fn grow(&mut self) {
        self.version += 1;
        version_of(&self.stage.volume.join("tree"), self.version, SMALL);
    }

    fn take(&mut self) {
        self.grow();
        let taken = self.run(&["snapshot", "create", "shop"]).ok();
        let id = taken.done()["snapshot"].as_str().expect("an id").to_owned();
        let copy = self.stage.folder(&format!("copy-{}", self.version));
        sh("cp", &["-a", self.stage.volume.join(".").to_str().unwrap(), copy.to_str().unwrap()]);
        self.snapshots.insert(self.version, (id, copy));
    }

    /// The oldest so many, which are to go.
    fn oldest(&mut self, count: usize) -> Vec<String> {
        let ids: Vec<String> = self.snapshots.values().take(count).map(|(id, _)| id.clone()).collect();
        for _ in 0..ids.len() {
            if let Some((_, (_, copy))) = self.snapshots.pop_first() {
                std::fs::remove_dir_all(copy).unwrap();
            }
        }
        ids
    }

    fn again(&mut self, fault: Option<String>) {
        self.stage.daemon.kill();
        self.stage.daemon.vars = fault.map(|fault| ("FAILPOINTS".to_owned(), fault)).into_iter().collect();
        self.stage.daemon.again();
    }

    fn is_dead(&self, patience: Duration) -> bool {
        let began = Instant::now();
        while std::net::TcpStream::connect(&self.stage.daemon.http).is_ok() {
            if began.elapsed() > patience {
                return false;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        true
    }

    /// The store is whole to the last byte, and lists all that was acknowledged. Looks at one of them, or at all.
    fn is_whole(&self, all: bool, context: &str) {
        let verified = self.run(&["snapshot", "verify", "--read-data"]);
        assert!(verified.status.success(), "{context}: {verified}");
        let list = self.run(&["snapshot", "list"]).ok();
        let there: Vec<&str> = list.events.iter().filter_map(|event| event["snapshot"].as_str()).collect();
        for (at, (id, copy)) in self.snapshots.values().enumerate() {
            assert!(there.contains(&id.as_str()), "{context}: {id} is lost\n{list}");
            if all || at == 0 {
                let back = self.stage.folder("back");
                self.run(&["snapshot", "restore", id, back.to_str().unwrap(), "--force"]).ok().proves();
                assert_equal(copy, &back, &format!("{context}: {id}"));
            }
        }
    }
}

#[test]
fn a_daemon_killed_at_every_point_of_the_store_loses_no_snapshot() {
    let mut kept = Kept::new();
    for (point, times) in POINTS {
        let context = format!("{point}, time {times}");
        let before = if times == 0 { String::new() } else { format!("{times}*off->") };
        kept.again(Some(format!("{point}={before}return(kill)")));
        // What comes to the point: a snapshot, two that go, and the collection after them.
        kept.grow();
        let _ = kept.run(&["snapshot", "create", "shop"]);
        if !kept.is_dead(Duration::ZERO) {
            let ids = kept.oldest(2);
            let words: Vec<&str> = ["snapshot", "remove"].into_iter().chain(ids.iter().map(String::as_str)).collect();
            let _ = kept.run(&words);
        }
        if !kept.is_dead(Duration::ZERO) {
            let _ = kept.run(&["snapshot", "prune"]);
        }
        assert!(kept.is_dead(Duration::from_secs(10)), "{context} is come to");
        kept.again(None);
        kept.is_whole(true, &context);
        while kept.snapshots.len() < 3 {
            kept.take();
        }
        kept.is_whole(false, &format!("{context}, and more taken"));
    }
}

#[test]
fn a_daemon_killed_at_any_moment_loses_no_snapshot() {
    let seed = *seeds(0).last().unwrap();
    println!("seed {seed} (MCLOUD_SEED={seed} repeats it)");
    let mut rng = Rng::new(seed);
    let mut kept = Kept::new();
    let began = Instant::now();
    kept.take();
    let usual = began.elapsed().as_micros() as u64;
    let mut in_the_middle = 0;
    for run in 1..=runs() {
        let ids = if run % 3 == 1 && kept.snapshots.len() > 3 { kept.oldest(2) } else { Vec::new() };
        let words: Vec<&str> = match run % 3 {
            1 if !ids.is_empty() => ["snapshot", "remove"].into_iter().chain(ids.iter().map(String::as_str)).collect(),
            2 => vec!["snapshot", "prune"],
            _ => vec!["snapshot", "create", "shop"],
        };
        kept.grow();
        let mut running = kept.stage.admin.start(&[&["-h", &kept.stage.daemon.address], &words[..]].concat());
        std::thread::sleep(Duration::from_micros(rng.below(usual)));
        kept.stage.daemon.kill();
        in_the_middle += u64::from(running.is_running());
        drop(running);
        kept.again(None);
        let context = format!("seed {seed}, run {run}, `{}` killed", words[1]);
        kept.is_whole(run % 20 == 0, &context);
        if run % 2 == 0 {
            kept.take();
        }
    }
    kept.is_whole(true, "after all of it");
    println!("{} runs, {in_the_middle} killed in the middle", runs());
    assert!(in_the_middle > runs() / 10, "only {in_the_middle} were killed in the middle");
}

#[test]
fn a_snapshot_that_finds_no_room_says_so_and_the_next_one_is_taken() {
    let disk = Disk::new("ext4", 64);
    let dir = scratch();
    let daemon = Daemon::start(&disk.root.join("host"));
    let admin = Client::of(&daemon, &dir.path().join("admin"));
    let volume = dir.path().join("volume");
    std::fs::create_dir(&volume).unwrap();
    // Nothing of it can be compressed.
    for number in 0..120 {
        std::fs::write(volume.join(number.to_string()), Rng::new(number).bytes(1 << 20)).unwrap();
    }
    let run = |words: &[&str]| admin.run(&[&["-h", &daemon.address], words].concat());
    run(&["init", "shop", "--path", volume.to_str().unwrap()]).ok();
    let began = Instant::now();
    run(&["snapshot", "create", "shop"]).fails(1, "no_space");
    assert!(began.elapsed() < Duration::from_secs(30), "it does not hang");
    for number in 20..120 {
        std::fs::remove_file(volume.join(number.to_string())).unwrap();
    }
    // What was written in vain is given back.
    run(&["snapshot", "prune"]).ok();
    let taken = run(&["snapshot", "create", "shop"]).ok();
    let id = taken.done()["snapshot"].as_str().expect("an id").to_owned();
    run(&["snapshot", "verify", "--read-data"]).ok();
    let back = dir.path().join("back");
    run(&["snapshot", "restore", &id, back.to_str().unwrap()]).ok();
    assert_equal(&volume, &back, "what was taken after it");
}
