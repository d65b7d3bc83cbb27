//! Two daemons and a client, each on a machine of its own as far as the network goes.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::common::host::{Client, Daemon, Outcome};
use crate::common::nets::Net;
use crate::common::oracle::assert_equal;
use crate::common::trees::{Shape, grow};
use crate::common::{Rng, scratch};

/// Host 1 and host 2 with a tenant `shop` each, and a client on host 3 who may do all on both.
struct World {
    client: Client,
    hosts: Vec<Daemon>,
    volumes: Vec<PathBuf>,
    net: Net,
    dir: tempfile::TempDir,
}

const CLIENT: u32 = 3;

impl World {
    fn new() -> World {
        let dir = scratch();
        let net = Net::new(3);
        let (mut hosts, mut volumes) = (Vec::new(), Vec::new());
        for number in 1..=2 {
            let volume = dir.path().join(format!("volume{number}"));
            fs::create_dir(&volume).unwrap();
            let home = dir.path().join(format!("host{number}"));
            let daemon = Daemon::start_in(&home, Some(&net.host(number)), &format!("{}:7080", net.ip(number)), &[]);
            let local = Client::of(&daemon, &dir.path().join(format!("local{number}")));
            local.run(&["-h", &daemon.address, "init", "shop", "--path", volume.to_str().unwrap()]).ok();
            hosts.push(daemon);
            volumes.push(volume);
        }
        let client = Client { net: Some(net.host(CLIENT)), ..Client::new(&dir.path().join("client")) };
        let world = World { client, hosts, volumes, net, dir };
        for number in 1..=2 {
            world.enrol(&world.client, number, &["--role", "admin"]);
        }
        world
    }

    /// An admin's shell on host `number`.
    fn local(&self, number: usize) -> Client {
        Client::of(&self.hosts[number - 1], &self.dir.path().join(format!("local{number}")))
    }

    /// The `mcloud login …` line that host `number` gives out, as words.
    fn invite(&self, number: usize, options: &[&str]) -> Vec<String> {
        let words = [&["-h", self.hosts[number - 1].address.as_str(), "invite"], options].concat();
        let (ok, text) = self.local(number).plain(&words);
        assert!(ok, "no invite");
        let line = text.lines().find(|line| line.trim().starts_with("mcloud login ")).expect("a login line");
        line.split_whitespace().skip(1).map(str::to_owned).collect()
    }

    fn enrol(&self, client: &Client, number: usize, options: &[&str]) {
        client.run(&self.invite(number, options)).ok();
    }

    fn someone(&self, name: &str) -> Client {
        Client { net: Some(self.net.host(CLIENT)), ..Client::new(&self.dir.path().join(name)) }
    }

    fn shop(&self, number: usize) -> String {
        self.hosts[number - 1].at("shop")
    }

    fn folder(&self, name: &str) -> PathBuf {
        let path = self.dir.path().join(name);
        fs::create_dir_all(&path).unwrap();
        path
    }
}

#[test]
fn push_and_pull_between_machines_are_equal() {
    let world = World::new();
    let (source, back) = (world.folder("source"), world.folder("back"));
    grow(&source, &mut Rng::new(1), &Shape::USUAL);
    world.client.sync(&source, world.shop(1), &[]).ok().proves();
    assert_equal(&source, &world.volumes[0], "push");
    world.client.sync(world.shop(1), &back, &[]).ok().proves();
    assert_equal(&source, &back, "pull");
}

#[test]
fn a_copy_between_two_hosts_does_not_pass_the_client() {
    let world = World::new();
    fs::write(world.volumes[0].join("big"), Rng::new(1).bytes(30 << 20)).unwrap();
    grow(&world.volumes[0], &mut Rng::new(2), &Shape::SMALL);
    let (client, host) = (world.net.bytes(CLIENT), world.net.bytes(2));
    let outcome = world.client.sync(world.shop(1), world.shop(2), &["--code"]).ok().proves();
    let (through_client, into_host) = (world.net.bytes(CLIENT) - client, world.net.bytes(2) - host);
    assert_equal(&world.volumes[0], &world.volumes[1], "direct");
    assert!(into_host > 30 << 20, "only {into_host} bytes reached host 2");
    assert!(through_client < 1_000_000, "{through_client} bytes passed the client");
    assert!(outcome.wire() > 30 << 20, "{outcome}");
    // What `done` tells agrees with the kernel's count, but for packet headers.
    assert!(outcome.wire() < into_host && into_host < outcome.wire() * 12 / 10, "{into_host} on the cable\n{outcome}");
}

#[test]
fn a_copy_between_hosts_wants_rights_on_both() {
    let world = World::new();
    fs::write(world.volumes[0].join("file"), "1").unwrap();
    for (name, roles) in [("reader", ["viewer", "viewer"]), ("stranger", ["admin", ""])] {
        let someone = world.someone(name);
        for (number, role) in roles.iter().enumerate().filter(|(_, role)| !role.is_empty()) {
            world.enrol(&someone, number + 1, &["--role", role]);
        }
        let outcome = someone.sync(world.shop(1), world.shop(2), &["--code"]);
        assert!(matches!(outcome.status.code(), Some(3 | 4)), "{name}: {outcome}");
        assert!(!world.volumes[1].join("file").exists(), "{name} wrote");
    }
    // To read from here and write there is enough.
    let mover = world.someone("mover");
    world.enrol(&mover, 1, &["--role", "viewer"]);
    world.enrol(&mover, 2, &["--role", "deployer"]);
    mover.sync(world.shop(1), world.shop(2), &["--code"]).ok().proves();
}

#[test]
fn roles_and_globs_are_kept() {
    let world = World::new();
    let source = world.folder("source");
    fs::write(source.join("file"), "1").unwrap();
    let viewer = world.someone("viewer");
    world.enrol(&viewer, 1, &["--role", "viewer"]);
    viewer.sync(&source, world.shop(1), &[]).fails(3, "refused");
    assert!(!world.volumes[0].join("file").exists(), "a viewer wrote");
    // A freeze does something to the tenant, and a viewer may not.
    viewer.sync(world.shop(1), world.folder("got"), &["--force"]).fails(3, "refused");
    viewer.sync(world.shop(1), world.folder("got"), &["--yes"]).ok().proves();

    let other = world.someone("other");
    world.enrol(&other, 1, &["--role", "deployer", "--tenant", "other*"]);
    other.sync(&source, world.shop(1), &[]).fails(3, "refused");
    let deployer = world.someone("deployer");
    world.enrol(&deployer, 1, &["--role", "deployer", "--tenant", "sh*"]);
    deployer.sync(&source, world.shop(1), &[]).ok().proves();
    let outcome = deployer.run(&["-h", &world.hosts[0].address, "init", "sh2", "--path", "/tmp"]);
    assert_eq!(outcome.status.code(), Some(3), "a folder of the host is for admins\n{outcome}");
}

#[test]
fn nobody_unknown_gets_in() {
    let world = World::new();
    let source = world.folder("source");
    fs::write(source.join("file"), "1").unwrap();
    let stranger = world.someone("stranger");
    stranger.sync(&source, world.shop(1), &[]).fails(4, "unreachable");
    // A host's home read on another machine makes nobody an admin of this one.
    let thief = Client { mcloud_home: world.hosts[1].home.clone(), ..world.someone("thief") };
    let outcome = thief.sync(&source, world.shop(1), &[]);
    assert_eq!(outcome.status.code(), Some(4), "{outcome}");
    assert!(!world.volumes[0].join("file").exists());
}

#[test]
fn an_invite_is_good_once() {
    let world = World::new();
    let line = world.invite(1, &["--role", "viewer"]);
    world.someone("first").run(&line).ok();
    let second = world.someone("second").run(&line);
    assert!(matches!(second.status.code(), Some(3 | 4)), "{second}");
    let mut forged = line.clone();
    let last = forged.last_mut().unwrap();
    let end = if last.ends_with('a') { "b" } else { "a" };
    last.replace_range(last.len() - 1.., end);
    let outcome = world.someone("third").run(&forged);
    assert!(matches!(outcome.status.code(), Some(2..=4)), "{outcome}");
}

#[test]
fn a_revoked_key_is_out() {
    let world = World::new();
    let source = world.folder("source");
    fs::write(source.join("file"), "1").unwrap();
    let leaver = world.someone("leaver");
    let known = access_keys(&world);
    world.enrol(&leaver, 1, &["--role", "deployer"]);
    let key = access_keys(&world).into_iter().find(|key| !known.contains(key)).expect("a new key");
    leaver.sync(&source, world.shop(1), &[]).ok().proves();
    let mut watch = leaver.start_sync(&source, world.shop(1), &["--watch"]);
    assert!(watch.saw("\"synced\""));
    world.local(1).run(&["-h", &world.hosts[0].address, "access", "revoke", &key]).ok();
    fs::write(source.join("file"), "2").unwrap();
    let outcome = leaver.sync(&source, world.shop(1), &[]);
    assert_eq!(outcome.status.code(), Some(4), "{outcome}");
    // Trying again would not let it in.
    watch.finish().fails(4, "unreachable");
    assert_eq!(fs::read_to_string(world.volumes[0].join("file")).unwrap(), "1");
}

#[test]
fn a_watch_outlives_the_network() {
    let world = World::new();
    let source = world.folder("source");
    fs::write(source.join("file"), "1").unwrap();
    let mut watch = world.client.start_sync(&source, world.shop(1), &["--watch"]);
    assert!(watch.saw("\"synced\""));
    world.net.cable(CLIENT, false);
    fs::write(source.join("file"), "2").unwrap();
    assert!(watch.saw("\"failed\""));
    world.net.cable(CLIENT, true);
    crate::common::mounts::until("what was written meanwhile", || {
        fs::read_to_string(world.volumes[0].join("file")).is_ok_and(|text| text == "2")
    });
    watch.signal(rustix::process::Signal::INT);
    watch.finish().ok();
    assert_equal(&source, &world.volumes[0], "the network is back");
}

/// The keys that `access list` of host 1 names, whatever its table looks like: its longest words.
fn access_keys(world: &World) -> Vec<String> {
    let (ok, text) = world.local(1).plain(&["-h", &world.hosts[0].address, "access", "list"]);
    assert!(ok, "no list");
    text.lines().filter_map(|line| line.split_whitespace().max_by_key(|word| word.len()).map(str::to_owned)).collect()
}

#[test]
fn a_host_with_another_key_is_not_talked_to() {
    let mut world = World::new();
    let source = world.folder("source");
    fs::write(source.join("file"), "secret").unwrap();
    world.client.sync(&source, world.shop(1), &[]).ok().proves();
    // Somebody else answers at the address.
    world.hosts[0].kill();
    let (net, address) = (world.hosts[0].net.clone(), world.hosts[0].address.clone());
    let _impostor = Daemon::start_in(&world.dir.path().join("impostor"), net.as_deref(), &address, &[]);
    let outcome = world.client.sync(&source, world.shop(1), &[]).fails(4, "unreachable");
    assert!(outcome.text().contains("key"), "{outcome}");
}

/// A source whose copy takes some seconds at the rate used below.
fn slow_source(world: &World) -> PathBuf {
    let source = world.folder("source");
    for number in 0..24 {
        fs::write(source.join(format!("f{number}")), Rng::new(number).bytes(1 << 20)).unwrap();
    }
    source
}

const SLOWLY: [&str; 2] = ["--bwlimit", "4M"];

#[test]
fn a_cable_pulled_for_five_seconds_only_delays() {
    let world = World::new();
    let source = slow_source(&world);
    let mut running = world.client.start_sync(&source, world.shop(1), &SLOWLY);
    std::thread::sleep(Duration::from_millis(2000));
    assert!(running.is_running());
    world.net.cable(1, false);
    std::thread::sleep(Duration::from_secs(5));
    assert!(running.is_running(), "gave up: {}", running.finish());
    world.net.cable(1, true);
    running.finish().ok().proves();
    assert_equal(&source, &world.volumes[0], "after the cut");
}

#[test]
fn a_cable_pulled_for_good_is_an_error_and_the_next_try_sends_what_lacks() {
    let world = World::new();
    let source = slow_source(&world);
    let began = world.net.bytes(1);
    let mut running = world.client.start_sync(&source, world.shop(1), &SLOWLY);
    std::thread::sleep(Duration::from_millis(3500));
    assert!(running.is_running());
    world.net.cable(1, false);
    let cut = Instant::now();
    let outcome = running.finish();
    assert!(matches!(outcome.status.code(), Some(1 | 4)), "{outcome}");
    assert!(cut.elapsed() < Duration::from_secs(100), "it took {:?} to say so", cut.elapsed());
    let first = world.net.bytes(1) - began;
    assert!(
        fs::read_dir(&world.volumes[0]).unwrap().all(|entry| entry
            .unwrap()
            .file_name()
            .to_string_lossy()
            .starts_with('.'))
    );
    world.net.cable(1, true);
    let second = world.client.sync(&source, world.shop(1), &[]).ok().proves();
    assert_equal(&source, &world.volumes[0], "second try");
    let total = world.net.bytes(1) - began;
    assert!(first > 4 << 20, "the test cut too early: {first} bytes");
    assert!(total < (24 << 20) * 108 / 100 + (6 << 20), "{total} bytes in all, {first} in the first try\n{second}");
}

#[test]
fn a_direct_copy_survives_its_cable_pulled_for_five_seconds() {
    let world = World::new();
    for number in 0..24 {
        fs::write(world.volumes[0].join(format!("f{number}")), Rng::new(number).bytes(1 << 20)).unwrap();
    }
    let mut running = world.client.start_sync(world.shop(1), world.shop(2), &["--code", "--bwlimit", "4M"]);
    std::thread::sleep(Duration::from_millis(2000));
    assert!(running.is_running());
    world.net.cable(1, false);
    std::thread::sleep(Duration::from_secs(5));
    world.net.cable(1, true);
    running.finish().ok().proves();
    assert_equal(&world.volumes[0], &world.volumes[1], "after the cut");
}

#[test]
fn killed_again_and_again_all_tries_together_send_little_more_than_the_tree() {
    // "Bytes sent again bounded by one batch", counted by the kernel on the host's cable.
    let mut world = World::new();
    let source = slow_source(&world);
    let began = world.net.bytes(1);
    let mut tries = 0;
    let outcome: Outcome = loop {
        tries += 1;
        assert!(tries < 40, "it makes no headway");
        let mut running = world.client.start_sync(&source, world.shop(1), &["--bwlimit", "8M"]);
        let until = Instant::now() + Duration::from_millis(1300);
        while running.is_running() && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(5));
        }
        if !running.is_running() {
            break running.finish();
        }
        if tries % 2 == 0 {
            world.hosts[0].kill();
            drop(running);
            world.hosts[0].again();
        }
    };
    outcome.ok().proves();
    assert_equal(&source, &world.volumes[0], "in the end");
    let total = world.net.bytes(1) - began;
    println!("{tries} tries, {total} bytes");
    assert!(tries > 2, "it was never killed");
    assert!(total < (24 << 20) * 108 / 100 + tries * (4 << 20), "{total} bytes in {tries} tries");
}

#[test]
fn on_a_slow_link_text_is_compressed_and_noise_is_not_held_up() {
    let world = World::new();
    world.net.slow(CLIENT, 40);
    let source = world.folder("source");
    let mut rng = Rng::new(1);
    let words = ["tenant ", "volume ", "snapshot ", "release ", "held ", "request ", "\n"];
    let text: String = (0..2_000_000).map(|_| *rng.pick(&words)).collect();
    fs::write(source.join("text"), &text).unwrap();
    let outcome = world.client.sync(&source, world.shop(1), &[]).ok().proves();
    assert!(outcome.wire() < text.len() as u64 * 6 / 10, "{} bytes of text\n{outcome}", text.len());
    fs::write(source.join("noise"), rng.bytes(10 << 20)).unwrap();
    let outcome = world.client.sync(&source, world.shop(1), &[]).ok().proves();
    // A full queue drops packets, and those go again.
    assert!(outcome.wire() < (10 << 20) * 125 / 100, "{outcome}");
    assert_equal(&source, &world.volumes[0], "over a slow link");
}
