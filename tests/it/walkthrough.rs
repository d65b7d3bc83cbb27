//! The walk-through of zero-downtime updates, its commands as they are printed there, under traffic that is not let down.

use std::path::Path;
use std::process::Command;

use crate::common::docker::{Port, example};
use crate::common::host::Client;
use crate::common::traffic::{Traffic, page};

/// The folder in which somebody who follows it sits.
struct Sitting {
    port: Port,
    client: Client,
}

/// What is left of these tenants at Docker, now or from a run that was killed.
fn sweep() {
    for tenant in ["tenantA_flask-redis", "tenantB_flask-redis"] {
        for service in ["web", "redis"] {
            let _ = Command::new("docker").args(["rm", "-f", "-v", &format!("{service}.{tenant}")]).output();
        }
        let _ = Command::new("docker").args(["network", "rm", &format!("mcloud.{tenant}")]).output();
    }
}

impl Drop for Sitting {
    fn drop(&mut self) {
        self.port.daemon.kill();
        sweep();
    }
}

impl Sitting {
    fn new() -> Sitting {
        sweep();
        let port = Port::new();
        let folder = port.dir.path().join("app");
        crate::common::sh("cp", &["-a", example().to_str().unwrap(), folder.to_str().unwrap()]);
        // Whoever follows it sits in the app's folder.
        let client = Client { home: folder, ..port.admin.clone() };
        Sitting { port, client }
    }

    /// A command as it is printed, with the address filled in.
    #[track_caller]
    fn types(&self, printed: &str) {
        let line = printed.replace("<ip-here>", &self.port.daemon.address);
        let words: Vec<&str> = line.split_whitespace().collect();
        assert_eq!(words[0], "mcloud");
        self.client.run(&words[1..]).ok();
    }

    /// Gives the app another title: a new version.
    fn version(&self, title: &str) {
        let file = self.client.home.join("mcloud.yml");
        let text = std::fs::read_to_string(&file).unwrap();
        let lines = text.lines().map(|line| match line.trim_start().starts_with("env: {TITLE") {
            true => format!("    env: {{TITLE: \"{title}\"}}"),
            false => line.to_owned(),
        });
        std::fs::write(&file, lines.collect::<Vec<_>>().join("\n") + "\n").unwrap();
    }

    fn page(&self, host: &str, path: &str) -> String {
        let (status, text) = page(&self.port.daemon.http, host, path).expect("an answer");
        assert_eq!(status, 200, "{text}");
        text
    }

    /// The count of views, which nobody adds to just now.
    fn views(&self) -> u64 {
        self.page("my-domain.com", "/views").trim().parse().expect("a count")
    }
}

const PEOPLE: usize = 3;

/// Traffic around some steps: none of it fails, and each view that was answered is counted.
fn while_people_look(sitting: &Sitting, counted: bool, steps: impl FnOnce(&Traffic)) {
    let before = sitting.views();
    let traffic = Traffic::start(&sitting.port.daemon.http, "my-domain.com", "/", PEOPLE);
    traffic.answers(20);
    steps(&traffic);
    traffic.answers(20);
    let seen = traffic.stop();
    assert!(seen.failures().is_empty(), "{:?}", seen.failures());
    assert_eq!(seen.cut(), 0, "no connection broke");
    if counted {
        assert_eq!(sitting.views(), before + seen.ok(), "each view that was answered is counted, once");
    }
}

fn last(traffic: &Traffic) -> String {
    traffic.answers(PEOPLE as u64 * 2);
    traffic.seen.last.lock().unwrap().clone()
}

#[test]
fn its_commands_lead_from_the_first_version_to_the_next_ones_and_no_request_fails() {
    let sitting = Sitting::new();
    assert!(Path::new(&sitting.client.home).join("mcloud.yml").exists());
    let types = |printed: &str| sitting.types(printed);

    // Deploy initial version
    sitting.version("one");
    types("mcloud -h <ip-here> init tenantA_flask-redis mcloud.yml");
    types("mcloud -h <ip-here> init tenantB_flask-redis mcloud.yml");
    // "... do usual deploy here"
    types("mcloud sync . tenantA_flask-redis@<ip-here>");
    types("mcloud -h <ip-here> start tenantA_flask-redis");
    types("mcloud -h <ip-here> publish tenantA_flask-redis my-domain.com");
    assert!(sitting.page("my-domain.com", "/").starts_with("one: 1 views"));

    // Deploy & test
    sitting.version("two");
    while_people_look(&sitting, true, |traffic| {
        types("mcloud sync . tenantB_flask-redis@<ip-here>");
        types("mcloud -h <ip-here> restart tenantB_flask-redis");
        types("mcloud -h <ip-here> update tenantB_flask-redis mcloud.yml");
        types("mcloud sync tenantA_flask-redis@<ip-here> tenantB_flask-redis@<ip-here>");
        types("mcloud -h <ip-here> publish tenantB_flask-redis testing.my-domain.com");
        let tested = sitting.page("testing.my-domain.com", "/");
        assert!(tested.starts_with("two: "), "{tested}");
        assert!(last(traffic).starts_with("one: "));
    });

    let publish_changes = || {
        types("mcloud -h <ip-here> pause tenantA_flask-redis");
        types("mcloud sync --force tenantA_flask-redis@<ip-here> tenantB_flask-redis@<ip-here>");
        types("mcloud -h <ip-here> publish tenantB_flask-redis my-domain.com");
    };

    // Publish changes
    while_people_look(&sitting, true, |traffic| {
        publish_changes();
        assert!(last(traffic).starts_with("two: "));
    });
    assert_eq!(state(&sitting, "tenantA_flask-redis", "web"), "paused");

    // Rollback
    while_people_look(&sitting, false, |traffic| {
        types("mcloud -h <ip-here> publish tenantA_flask-redis my-domain.com");
        types("mcloud -h <ip-here> resume tenantA_flask-redis");
        assert!(last(traffic).starts_with("one: "));
    });

    // Once more, and this time with success
    while_people_look(&sitting, true, |traffic| {
        publish_changes();
        assert!(last(traffic).starts_with("two: "));
        types("mcloud -h <ip-here> resume tenantA_flask-redis");
        assert!(last(traffic).starts_with("two: "));
    });

    // Next update: the other way round
    sitting.version("three");
    while_people_look(&sitting, true, |traffic| {
        types("mcloud sync . tenantA_flask-redis@<ip-here>");
        types("mcloud -h <ip-here> restart tenantA_flask-redis");
        types("mcloud -h <ip-here> update tenantA_flask-redis mcloud.yml");
        types("mcloud sync tenantB_flask-redis@<ip-here> tenantA_flask-redis@<ip-here>");
        types("mcloud -h <ip-here> publish tenantA_flask-redis testing.my-domain.com");
        assert!(sitting.page("testing.my-domain.com", "/").starts_with("three: "));
        types("mcloud -h <ip-here> pause tenantB_flask-redis");
        types("mcloud sync --force tenantB_flask-redis@<ip-here> tenantA_flask-redis@<ip-here>");
        types("mcloud -h <ip-here> publish tenantA_flask-redis my-domain.com");
        assert!(last(traffic).starts_with("three: "));
        types("mcloud -h <ip-here> resume tenantB_flask-redis");
    });

    // And all of that as one command, forth and back.
    while_people_look(&sitting, true, |traffic| {
        types("mcloud -h <ip-here> release tenantA_flask-redis tenantB_flask-redis my-domain.com");
        assert!(last(traffic).starts_with("two: "));
        types("mcloud -h <ip-here> rollback my-domain.com --data back");
        assert!(last(traffic).starts_with("three: "));
    });
}

fn state(sitting: &Sitting, tenant: &str, service: &str) -> String {
    let status = sitting.client.run(&["-h", &sitting.port.daemon.address, "status", tenant]).ok();
    let services = status.events[0]["services"].as_array().cloned().unwrap_or_default();
    let found = services.into_iter().find(|one| one["service"] == service).expect("the service");
    found["state"].as_str().unwrap_or_default().to_owned()
}
