//! Domains of real tenants: the daemon, Docker, and requests that go on through pauses, moves and kills.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::common::docker::Port;

/// A page of a domain; its status and what it says.
fn page(port: &Port, domain: &str) -> (String, String) {
    finished(asked(port, domain))
}

fn asked(port: &Port, domain: &str) -> std::process::Child {
    let url = format!("http://{}/", port.daemon.http);
    let words = ["-sS", "--max-time", "60", "-w", "\n%{http_code}", "-H", &format!("Host: {domain}"), &url];
    Command::new("curl").args(words).stdout(Stdio::piped()).spawn().unwrap()
}

fn finished(asked: std::process::Child) -> (String, String) {
    let out = asked.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&out.stdout).into_owned();
    let (text, status) = said.rsplit_once('\n').unwrap_or_default();
    (status.to_owned(), text.to_owned())
}

/// What `routes` says of a domain.
fn route(port: &Port, domain: &str) -> serde_json::Value {
    let routes = port.run(&["routes"]).ok();
    routes.events.iter().find(|event| event["domain"] == domain).cloned().unwrap_or_default()
}

/// Waits until a request for the domain waits.
fn waits(port: &Port, domain: &str) {
    let began = Instant::now();
    while route(port, domain)["waiting"] != 1 {
        assert!(began.elapsed() < Duration::from_secs(30), "no request waits for {domain}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_domain_is_held_by_a_pause_also_after_a_kill_and_moves_with_those_that_wait() {
    let mut port = Port::new();
    let (one, two) = (port.example("one"), port.example("two"));
    for tenant in [&one, &two] {
        port.run(&["start", tenant]).ok();
    }
    let domain = "my-domain.test";
    assert_eq!(page(&port, domain).0, "404");
    port.run(&["publish", &one, domain]).ok();
    assert_eq!(route(&port, domain)["state"], "serving");
    assert_eq!(page(&port, domain), ("200".to_owned(), "mcloud: 1 views\n".to_owned()));

    port.run(&["pause", &one]).ok();
    let held = asked(&port, domain);
    waits(&port, domain);
    let resumed = port.run(&["resume", &one]).ok();
    assert!(resumed.text().contains("1 held request goes on"), "{resumed}");
    assert_eq!(finished(held), ("200".to_owned(), "mcloud: 2 views\n".to_owned()));

    // A daemon that is killed comes back with its tenants held.
    port.run(&["pause", &one]).ok();
    port.daemon.kill();
    port.daemon.again();
    let held = asked(&port, domain);
    waits(&port, domain);
    // The walk-through: the other one takes over, and those that wait go there.
    port.run(&["publish", &two, domain]).ok();
    assert_eq!(finished(held), ("200".to_owned(), "mcloud: 1 views\n".to_owned()));
    // And back: published for what is paused, it is held until that goes on.
    port.run(&["publish", &one, domain]).ok();
    let held = asked(&port, domain);
    waits(&port, domain);
    port.run(&["resume", &one]).ok();
    assert_eq!(finished(held), ("200".to_owned(), "mcloud: 3 views\n".to_owned()));

    // Another address after each start, and the domain leads there; what is stopped says so.
    port.run(&["restart", &one]).ok();
    assert_eq!(page(&port, domain), ("200".to_owned(), "mcloud: 4 views\n".to_owned()));
    port.run(&["stop", &one]).ok();
    let (status, text) = page(&port, domain);
    assert_eq!((status.as_str(), text), ("503", format!("{one} is stopped\n")));
    port.run(&["start", &one]).ok();
    assert_eq!(page(&port, domain).1, "mcloud: 5 views\n");
    port.run(&["unpublish", domain]).ok();
    assert_eq!(page(&port, domain).0, "404");
    port.run(&["publish", &one, domain]).ok();
    port.run(&["remove", &one]).ok();
    assert_eq!(page(&port, domain).0, "404", "a tenant's domains go with it");
}

#[test]
fn domains_are_checked_and_taken_only_by_who_may_act_on_both_tenants() {
    let port = Port::new();
    let yml = "web:\n    image: none\n    web: 80\n";
    let (one, two) = (port.init("one", yml), port.init("two", yml));
    let plain = port.init("plain", "a:\n    image: none\nb:\n    image: none\n");
    for domain in ["*.test", "http://a.test", "a.test:80", "a..test", "bücher.test"] {
        port.run(&["publish", &one, domain]).fails(2, "usage");
    }
    port.run(&["publish", &plain, "a.test"]).fails(2, "usage");
    port.run(&["publish", &plain, "a.test", "--port", "80"]).fails(2, "usage");
    port.run(&["publish", &port.name("none"), "a.test"]).fails(1, "not_found");
    port.run(&["publish", &one, "10.0.0.1", "--ssl"]).fails(2, "usage");
    port.run(&["unpublish", "a.test"]).fails(1, "not_found");

    let invited = port.run(&["invite", "--role", "deployer", "--tenant", &two]).ok();
    let ann = crate::common::host::Client::new(&port.dir.path().join("ann"));
    let invitation = invited.done()["invitation"].as_str().unwrap().to_owned();
    ann.run(&["login", &invitation]).ok();
    let at = |words: &[&str]| ann.run(&[&["-h", &port.daemon.address], words].concat());
    port.run(&["publish", &one, "A.test."]).ok();
    at(&["publish", &two, "a.test"]).fails(3, "refused");
    at(&["unpublish", "a.test"]).fails(3, "refused");
    at(&["publish", &one, "b.test"]).fails(3, "refused");
    at(&["publish", &two, "b.test"]).ok();
    // Both ways of one domain are apart, and only what one may see is listed.
    let ssl = at(&["publish", &two, "a.test", "--ssl"]).ok();
    assert!(ssl.done()["why"].as_str().is_some_and(|why| why.contains("is not running")), "{ssl}");
    let listed = at(&["routes"]).ok();
    assert_eq!(listed.count("routes"), 2, "{listed}");
    let moved = port.run(&["publish", &two, "a.test"]).ok();
    assert_eq!(moved.done()["moved_from"], one.as_str());
    at(&["unpublish", "a.test"]).ok();
    at(&["cert", "remove", "other.test"]).fails(3, "refused");
}
