//! Things done at a time: the daemon does them with nobody there, once each, and says how they went.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::common::host::{Client, Daemon};
use crate::common::oracle::assert_equal;
use crate::common::scratch;

const DAILY: &str = "0 2 * * *";
const EACH_SECOND: &str = "* * * * * *";

/// A host with a clock that the test sets, and a tenant whose code is a folder that the test sees.
struct Host {
    daemon: Daemon,
    local: Client,
    volume: PathBuf,
    /// By how many seconds its clock is ahead.
    clock: PathBuf,
}

/// The source's host, the target's, and somebody who is enrolled at both.
struct World {
    source: Host,
    target: Host,
    client: Client,
    _dir: tempfile::TempDir,
}

fn host(dir: &Path, name: &str, tenant: &str) -> Host {
    let (home, volume) = (dir.join(name), dir.join(format!("{name}-volume")));
    fs::create_dir(&volume).unwrap();
    let clock = dir.join(format!("{name}-clock"));
    let daemon = Daemon::start_in(&home, None, "127.0.0.1:0", &[clock_in(&clock)]);
    let local = Client::of(&daemon, &dir.join(format!("{name}-local")));
    local.run(&["init", tenant, "--path", volume.to_str().unwrap()]).ok();
    Host { daemon, local, volume, clock }
}

fn clock_in(file: &Path) -> (String, String) {
    ("MCLOUD_CLOCK_FILE".to_owned(), file.to_str().unwrap().to_owned())
}

impl Host {
    /// Has somebody log in here.
    fn enrol(&self, client: &Client, options: &[&str]) {
        let (ok, text) = self.local.plain(&[&["invite"], options].concat());
        assert!(ok, "no invite");
        let line = text.lines().find(|line| line.trim().starts_with("mcloud login ")).expect("a login line");
        let words: Vec<&str> = line.split_whitespace().skip(1).collect();
        client.run(&words).ok();
    }

    fn history(&self) -> Vec<Value> {
        let outcome = self.local.run(&["schedule", "history"]).ok();
        outcome.events.iter().filter(|event| event["event"] == "run").cloned().collect()
    }

    /// The runs, once they are as they should be.
    #[track_caller]
    fn until(&self, what: &str, good: impl Fn(&[Value]) -> bool) -> Vec<Value> {
        let began = Instant::now();
        loop {
            let runs = self.history();
            if good(&runs) {
                return runs;
            }
            assert!(began.elapsed() < Duration::from_secs(90), "never {what}: {runs:#?}\n{}", self.daemon.log());
            std::thread::sleep(Duration::from_millis(30));
        }
    }

    fn clock_ahead(&self, seconds: i64) {
        fs::write(&self.clock, seconds.to_string()).unwrap();
    }
}

fn ended(run: &Value, outcome: &str) -> bool {
    run["outcome"] == outcome
}

impl World {
    fn new() -> World {
        let dir = scratch();
        let (source, target) = (host(dir.path(), "source", "shop"), host(dir.path(), "target", "copy"));
        let client = Client::new(&dir.path().join("client"));
        source.enrol(&client, &["--role", "viewer", "--tenant", "shop"]);
        target.enrol(&client, &["--role", "deployer", "--tenant", "copy"]);
        fs::write(source.volume.join("file"), "one").unwrap();
        World { source, target, client, _dir: dir }
    }

    fn add(&self, cron: &str) {
        self.client.run(&["schedule", "add", cron, &self.from(), &self.to(), "--code", "--name", "nightly"]).ok();
    }

    fn from(&self) -> String {
        self.source.daemon.at("shop")
    }

    fn to(&self) -> String {
        self.target.daemon.at("copy")
    }

    /// What the source's host has granted.
    fn grants(&self) -> Vec<Value> {
        let outcome = self.source.local.run(&["access", "list"]).ok();
        outcome.events.iter().filter(|event| event["event"] == "grant").cloned().collect()
    }
}

#[test]
fn a_copy_between_two_hosts_goes_on_with_its_client_gone_until_it_is_removed() {
    let world = World::new();
    world.add(EACH_SECOND);
    fs::remove_dir_all(&world.client.home).unwrap();
    let grants = world.grants();
    assert_eq!(grants.len(), 1);
    assert_eq!((&grants[0]["role"], &grants[0]["tenant"]), (&"viewer".into(), &"shop".into()));
    let purpose = format!("schedule nightly on {}", world.target.daemon.address);
    assert_eq!(grants[0]["purpose"], purpose.as_str());

    let runs = world.target.until("a run", |runs| runs.iter().any(|run| ended(run, "ok")));
    let first = runs.iter().find(|run| ended(run, "ok")).unwrap();
    assert!(first["slot_unix"].is_u64() && first["report"]["root_source"].is_string(), "{first}");
    assert_eq!(first["report"]["root_source"], first["report"]["root_target"]);
    fs::write(world.source.volume.join("more"), "two").unwrap();
    let began = Instant::now();
    while !world.target.volume.join("more").exists() {
        assert!(began.elapsed() < Duration::from_secs(60), "{:#?}", world.target.history());
        std::thread::sleep(Duration::from_millis(20));
    }
    // Each time once.
    let runs = world.target.history();
    let mut slots: Vec<u64> = runs.iter().filter_map(|run| run["slot_unix"].as_u64()).collect();
    let all = slots.len();
    slots.dedup();
    assert_eq!(slots.len(), all, "{runs:#?}");

    world.target.local.run(&["schedule", "pause", "nightly"]).ok();
    world.target.until("rest", |runs| !runs.iter().any(|run| ended(run, "running")));
    assert_equal(&world.source.volume, &world.target.volume, "copied");
    let removed = world.target.local.run(&["schedule", "remove", "nightly"]).ok();
    assert_eq!(removed.done()["notes"], Value::Array(Vec::new()));
    assert!(world.grants().is_empty(), "given back");
    let audit = world.target.local.run(&["audit", "copy"]).ok();
    for what in ["schedule add", "sync", "schedule pause", "schedule remove"] {
        assert!(audit.events.iter().any(|event| event["what"] == what && event["result"] == "ok"), "{what}: {audit}");
    }
}

#[test]
fn what_may_not_be_any_more_fails_and_is_seen_to_fail() {
    let world = World::new();
    world.add(DAILY);
    let (local, name) = (&world.target.local, ["schedule", "run", "nightly"]);
    local.run(&name).ok();
    assert_equal(&world.source.volume, &world.target.volume, "run by hand");

    // The source was emptied: nobody is there to say that it is meant.
    fs::remove_file(world.source.volume.join("file")).unwrap();
    let outcome = local.run(&name).fails(1, "failed");
    assert!(outcome.last()["message"].as_str().unwrap().contains("empty"), "{outcome}");
    assert!(world.target.volume.join("file").exists());
    fs::write(world.source.volume.join("file"), "again").unwrap();
    local.run(&name).ok();

    // The source's host takes its grant back.
    let grant = world.grants()[0]["grant"].as_str().unwrap().to_owned();
    world.source.local.run(&["access", "revoke", &grant]).ok();
    let outcome = local.run(&name).fails(1, "failed");
    assert!(outcome.last()["message"].as_str().unwrap().contains("revoked"), "{outcome}");
    let list = local.run(&["schedule", "list"]).ok();
    assert_eq!((&list.events[0]["last"]["outcome"], list.count("failed")), (&"failed".into(), 1), "{list}");
    let tenants = local.run(&["list"]).ok();
    assert_eq!(tenants.events[0]["failed_schedules"][0], "nightly", "{tenants}");
    assert!(local.plain(&["list"]).1.contains("schedule nightly failed"));
    local.run(&["schedule", "remove", "nightly"]).ok();
    assert_eq!(local.run(&["list"]).ok().events[0]["failed_schedules"], Value::Array(Vec::new()));

    // Whoever added it loses his key at the target.
    world.add(DAILY);
    local.run(&name).ok();
    let keys = local.run(&["access", "list"]).ok();
    let theirs = keys.events.iter().find(|event| event["role"] == "deployer").unwrap()["key"].as_str().unwrap();
    local.run(&["access", "revoke", theirs]).ok();
    let outcome = local.run(&name).fails(1, "failed");
    assert!(outcome.last()["message"].as_str().unwrap().contains("is not let in any more"), "{outcome}");

    // A source's host that is down keeps its grant, and one is told.
    world.source.local.run(&["access", "list"]).ok();
    let mut world = world;
    world.source.daemon.kill();
    let removed = world.target.local.run(&["schedule", "remove", "nightly"]).ok();
    assert!(removed.done()["notes"][0].as_str().unwrap().contains("access revoke g"), "{removed}");
}

#[test]
fn a_downtime_over_two_runs_is_made_up_for_once() {
    let mut world = World::new();
    world.add(DAILY);
    assert_eq!(world.target.daemon.stop().code(), Some(0));
    world.target.clock_ahead(2 * 86_400);
    world.target.daemon.again();
    let runs = world.target.until("a run", |runs| runs.iter().any(|run| ended(run, "ok")));
    assert_eq!((runs.len(), &runs[0]["missed"]), (1, &1.into()), "{runs:#?}");
    assert_equal(&world.source.volume, &world.target.volume, "made up for");
    // Once is enough, also for a daemon that starts again, and for a clock that goes back.
    for ahead in [2 * 86_400, 2 * 86_400 - 3600, 0] {
        world.target.daemon.stop();
        world.target.clock_ahead(ahead);
        world.target.daemon.again();
        world.target.local.run(&["schedule", "run", "nightly"]).ok();
    }
    let by_time = world.target.history().iter().filter(|run| run["slot_unix"].is_u64()).count();
    assert_eq!(by_time, 1, "{:#?}", world.target.history());
    // The day after, when the clock is right again.
    world.target.daemon.stop();
    world.target.clock_ahead(3 * 86_400);
    world.target.daemon.again();
    world.target.until("the next one", |runs| runs.iter().filter(|run| run["slot_unix"].is_u64()).count() == 2);
}

#[test]
fn a_daemon_killed_in_the_middle_does_the_run_again_and_none_overlaps() {
    let mut world = World::new();
    world.add(DAILY);
    world.target.daemon.stop();
    world.target.clock_ahead(86_400);
    let (home, address) = (world.target.daemon.home.clone(), world.target.daemon.address.clone());
    let clock = clock_in(&world.target.clock);
    let stuck = ("FAILPOINTS".to_owned(), "commit.before_log=sleep(600000)".to_owned());
    world.target.daemon = Daemon::start_in(&home, None, &address, &[clock.clone(), stuck]);
    world.target.until("running", |runs| runs.iter().any(|run| ended(run, "running")));
    let local = world.target.local.clone();
    local.run(&["schedule", "run", "nightly"]).fails(1, "busy");
    local.run(&["schedule", "remove", "nightly"]).fails(1, "busy");
    let tasks = local.run(&["ps"]).ok();
    assert!(tasks.events.iter().any(|event| event["what"] == "schedule nightly"), "{tasks}");
    // Another day has come: it waits for the one that runs.
    world.target.clock_ahead(2 * 86_400);
    local.run(&["schedule", "resume", "nightly"]).ok();
    assert_eq!(world.target.history().len(), 1);

    world.target.clock_ahead(86_400);
    world.target.daemon.kill();
    world.target.daemon = Daemon::start_in(&home, None, &address, &[clock]);
    let runs = world.target.until("done again", |runs| runs.iter().any(|run| ended(run, "ok")));
    let outcomes: Vec<&str> = runs.iter().map(|run| run["outcome"].as_str().unwrap()).collect();
    assert_eq!(outcomes, ["ok", "interrupted"], "{runs:#?}");
    assert_eq!(runs[0]["slot_unix"], runs[1]["slot_unix"]);
    assert!(runs[1]["failure"]["message"].as_str().unwrap().contains("killed"), "{runs:#?}");
    assert_equal(&world.source.volume, &world.target.volume, "done again");
}

#[test]
fn a_host_that_is_not_there_is_tried_again_and_a_daemon_that_stops_goes_on_later() {
    let mut world = World::new();
    world.add(DAILY);
    world.target.daemon.stop();
    world.source.daemon.stop();
    world.target.clock_ahead(86_400);
    world.target.daemon.again();
    world.target.until("running", |runs| runs.iter().any(|run| ended(run, "running")));
    // It waits for the source's host; the daemon does not wait for that.
    assert_eq!(world.target.daemon.stop().code(), Some(0));
    world.source.daemon.again();
    world.target.daemon.again();
    let runs = world.target.until("done", |runs| runs.iter().any(|run| ended(run, "ok")));
    let outcomes: Vec<&str> = runs.iter().map(|run| run["outcome"].as_str().unwrap()).collect();
    assert_eq!(outcomes, ["ok", "interrupted"], "{runs:#?}");

    // And one that comes back in time is reached by a later try.
    world.source.daemon.stop();
    world.target.daemon.stop();
    world.target.clock_ahead(2 * 86_400);
    world.target.daemon.again();
    world.target.until("running", |runs| runs.iter().any(|run| ended(run, "running")));
    let began = Instant::now();
    while !world.target.daemon.log().contains("tried again in") {
        assert!(began.elapsed() < Duration::from_secs(60), "{}", world.target.daemon.log());
        std::thread::sleep(Duration::from_millis(20));
    }
    world.source.daemon.again();
    let runs = world.target.until("done", |runs| ended(&runs[0], "ok"));
    assert!(runs[0]["tries"].as_u64().unwrap() >= 2, "{runs:#?}");
}

#[test]
fn mistakes_are_said_before_anything_is_kept() {
    let world = World::new();
    let (from, to) = (world.from(), world.to());
    let add = |words: &[&str]| world.client.run(&[&["schedule", "add"], words].concat());
    let message = |words: &[&str], code: i32, kind: &str| {
        let outcome = add(words).fails(code, kind);
        format!("{} {}", outcome.last()["message"], outcome.last()["hint"])
    };
    assert!(message(&["0 25 * * *", &from, &to, "--code"], 2, "usage").contains("its hour"));
    assert!(message(&[DAILY, &from, &to, "--code", "--tz", "Europe/Berlni"], 2, "usage").contains("Europe/Berlin?"));
    assert!(message(&[DAILY, "shop", &to], 2, "usage").contains("shop@me"));
    assert!(message(&[DAILY, "/srv/data", &to], 2, "usage").contains("--path"));
    assert!(message(&[DAILY, &from, &to], 1, "failed").contains("--code"));
    assert!(message(&[DAILY, &from, &to, "--code", "--name", "a b"], 2, "usage").contains("a-b"));
    assert!(message(&[DAILY, &world.source.daemon.at("none"), &to], 1, "not_found").contains("shop"));
    // To the source he may not write, and nothing is left behind at the other host.
    assert!(message(&[DAILY, &to, &from, "--code"], 3, "refused").contains("deployer"));
    assert!(world.grants().is_empty());
    let grants = world.target.local.run(&["access", "list"]).ok();
    assert_eq!(grants.count("grants"), 0, "{grants}");
    world.add(DAILY);
    assert!(message(&[DAILY, &from, &to, "--code", "--name", "nightly"], 1, "failed").contains("already"));
    assert_eq!(world.grants().len(), 1);
    let outcome = world.client.run(&["-h", &world.target.daemon.address, "schedule", "show", "nighlty"]);
    assert!(outcome.fails(1, "not_found").last()["hint"].as_str().unwrap().contains("nightly"));
    // A name that is not given is made of the tenants'.
    let outcome = add(&["@daily", &from, &to, "--code"]).ok();
    assert_eq!(outcome.done()["schedule"], "shop-to-copy");
    // A tenant that goes takes its schedules along.
    world.target.local.run(&["remove", "copy"]).ok();
    assert_eq!(world.target.local.run(&["schedule", "list"]).ok().count("schedules"), 0);
}

#[test]
fn snapshots_are_taken_on_time_and_what_no_rule_keeps_goes() {
    let dir = scratch();
    let mut host = host(dir.path(), "host", "shop");
    let local = host.local.clone();
    fs::write(host.volume.join("file"), "0").unwrap();
    let by_hand = local.run(&["snapshot", "create", "shop"]).ok().done()["snapshot"].clone();
    let added = local.run(&["schedule", "add", DAILY, "--snapshot", "shop", "--keep-last", "2", "--force"]).ok();
    assert_eq!(added.done()["schedule"], "snapshot-shop");
    assert_eq!((&added.done()["snapshot_of"], &added.done()["keep"]["keep-last"]), (&"shop".into(), &2.into()));
    let mut taken = Vec::new();
    for round in 1..=3 {
        fs::write(host.volume.join("file"), round.to_string()).unwrap();
        let run = local.run(&["schedule", "run", "snapshot-shop"]).ok();
        taken.push(run.done()["snapshot"].clone());
    }
    host.daemon.stop();
    host.clock_ahead(86_400);
    host.daemon.again();
    let runs = host.until("on time", |runs| runs.iter().any(|run| run["slot_unix"].is_u64() && ended(run, "ok")));
    assert_eq!(runs[0]["kept"]["removed"], serde_json::json!([taken[1]]), "{runs:#?}");
    taken.push(runs[0]["snapshot"].clone());
    let list = local.run(&["snapshot", "list"]).ok();
    let mut there: Vec<&Value> =
        list.events.iter().map(|event| &event["snapshot"]).filter(|id| id.is_string()).collect();
    there.dedup();
    assert_eq!(there, [&by_hand, &taken[2], &taken[3]], "{list}");
    let back = dir.path().join("back");
    local.run(&["snapshot", "restore", taken[3].as_str().unwrap(), back.to_str().unwrap()]).ok();
    assert_equal(&host.volume, &back, "what was kept");

    // What it is of goes: the run fails, and what was kept stays.
    local.run(&["schedule", "add", DAILY, "--snapshot", "none"]).fails(1, "not_found");
    local.run(&["schedule", "add", DAILY, "--snapshot", "shop", "--code"]).fails(2, "usage");
    local.run(&["schedule", "remove", "snapshot-shop"]).ok();
    assert_eq!(local.run(&["snapshot", "list"]).ok().count("snapshots"), 3);
}
