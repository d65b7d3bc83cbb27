//! A release to another host and back: the domain's proxy forwards to the host that serves, and nobody is answered with an
//! error; whichever of the two daemons is killed in the middle, one tenant serves afterwards.

use std::time::{Duration, Instant};

use crate::common::docker::{IMAGE, Port};
use crate::common::host::Client;
use crate::common::sh;
use crate::common::traffic::{Traffic, page};

/// Host one has the domain and `a`, host two has `b`; a client who may do all on both.
struct Two {
    one: Port,
    two: Port,
    client: Client,
    a: String,
    b: String,
    a_at: String,
    b_at: String,
}

const DOMAIN: &str = "far.test";

impl Two {
    fn new() -> Two {
        let (one, two) = (Port::new(), Port::new());
        let yml = format!(
            "web:\n    image: {IMAGE}\n    cmd: trap exit TERM; python3 -m http.server 5000 --directory /data & wait\n    data: [/data]\n    \
             web: 5000\n    wait: 20\n    health: {{path: /page}}\n    \
             snapshot: {{before: \"echo before >> /data/hooks\", after: \"echo after >> /data/hooks\"}}\n"
        );
        let (a, b) = (one.init("a", &yml), two.init("b", &yml));
        let client = Client::of(&one.daemon, &one.dir.path().join("both"));
        let (ok, text) = two.admin.plain(&["-h", &two.daemon.address, "invite", "--role", "admin"]);
        assert!(ok, "no invite");
        let line = text.lines().find(|line| line.trim().starts_with("mcloud login ")).expect("a login line");
        client.run(&line.split_whitespace().skip(1).collect::<Vec<_>>()).ok();
        let (a_at, b_at) = (one.daemon.at(&a), two.daemon.at(&b));
        let two = Two { one, two, client, a, b, a_at, b_at };
        two.write("the page");
        two.one.run(&["start", &two.a]).ok();
        two.one.run(&["publish", &two.a, DOMAIN]).ok();
        two
    }

    fn data(port: &Port, tenant: &str) -> std::path::PathBuf {
        port.daemon.home.join("tenants").join(tenant).join("volumes/web/data")
    }

    /// What `a` shows from now on.
    fn write(&self, text: &str) {
        std::fs::write(Two::data(&self.one, &self.a).join("page"), text).unwrap();
    }

    fn traffic(&self) -> Traffic {
        Traffic::start(&self.one.daemon.http, DOMAIN, "/page", 4)
    }

    /// Waits until the page is served.
    fn serves(&self, wanted: &str, when: &str) {
        let began = Instant::now();
        loop {
            match page(&self.one.daemon.http, DOMAIN, "/page") {
                Ok((200, text)) => return assert_eq!(text, wanted, "{when}"),
                Ok((status, text)) if began.elapsed() > Duration::from_secs(40) => panic!("{when}: {status} {text}"),
                Err(error) if began.elapsed() > Duration::from_secs(40) => panic!("{when}: {error}"),
                _ => std::thread::sleep(Duration::from_millis(50)),
            }
        }
    }

    fn leads_to(&self) -> String {
        let routes = self.one.run(&["routes"]).ok();
        let found = routes.events.iter().find(|event| event["domain"] == DOMAIN).expect("the route");
        found["tenant"].as_str().unwrap_or_default().to_owned()
    }

    /// The grants that host two has given.
    fn grants(&self) -> usize {
        let listed = self.two.run(&["access", "list"]).ok();
        listed.events.iter().filter(|event| event["event"] == "grant").count()
    }
}

/// Waits until Docker says of a tenant's container what it is to be.
fn is(tenant: &str, state: &str, when: &str) {
    let began = Instant::now();
    loop {
        let found = sh("docker", &["inspect", "-f", "{{.State.Status}}", &format!("web.{tenant}")]);
        if found.trim() == state {
            return;
        }
        assert!(began.elapsed() < Duration::from_secs(40), "{when}: web.{tenant} is {found}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Nobody was told of an error, and no connection broke.
fn unnoticed(traffic: Traffic, when: &str) {
    traffic.answers(20);
    let seen = traffic.stop();
    assert!(seen.failures().is_empty() && seen.cut() == 0, "{when}: {seen:?}");
}

#[test]
fn a_tenant_moves_to_another_host_and_back_and_no_request_fails() {
    let two = Two::new();
    let (a, b) = (two.a.as_str(), two.b.as_str());
    let dry = two.client.run(&["release", &two.a_at, &two.b_at, DOMAIN, "--dry-run"]).ok();
    assert_eq!(dry.done()["outcome"], "dry run");
    assert_eq!((two.leads_to().as_str(), two.grants()), (a, 0), "who only looked keeps no right");

    let traffic = two.traffic();
    traffic.answers(20);
    let there = two.client.run(&["release", &two.a_at, &two.b_at, DOMAIN]).ok().proves();
    assert_eq!(there.done()["serving"], two.b_at.as_str());
    assert_eq!(there.done()["failed_requests"], 0, "{there}");
    assert_eq!((two.leads_to(), two.grants()), (two.b_at.clone(), 1));
    is(a, "paused", "there");
    is(b, "running", "there");
    unnoticed(traffic, "there");
    let hooks = std::fs::read_to_string(Two::data(&two.two, b).join("hooks")).unwrap();
    assert_eq!(hooks, "before\n", "what came over is of after the hook");

    // What is written there comes back, and the way back is the frozen one.
    std::fs::write(Two::data(&two.two, b).join("page"), "written there").unwrap();
    let traffic = two.traffic();
    traffic.answers(20);
    let back = two.client.run(&["release", &two.b_at, &two.a_at, DOMAIN]).ok().proves();
    assert_eq!(
        (back.done()["serving"].as_str(), back.done()["failed_requests"].as_u64()),
        (Some(a), Some(0)),
        "{back}"
    );
    assert_eq!((two.leads_to().as_str(), two.grants()), (a, 1), "one grant takes the place of the other");
    is(a, "running", "back");
    is(b, "paused", "back");
    two.serves("written there", "back");
    unnoticed(traffic, "back");

    // Back once more, without the data: it is there still.
    let traffic = two.traffic();
    std::fs::write(Two::data(&two.one, a).join("page"), "left behind").unwrap();
    traffic.answers(20);
    let undone = two.one.run(&["rollback", DOMAIN]).ok();
    assert_eq!(undone.done()["serving"], two.b_at.as_str());
    assert_eq!(undone.done()["since"]["updated"]["count"], 2, "the page, and what the hooks wrote\n{undone}");
    two.serves("written there", "rolled back");
    is(b, "running", "rolled back");
    unnoticed(traffic, "rolled back");
    let history = two.one.run(&["release", "--history"]).ok();
    let served: Vec<&str> = history.events.iter().filter_map(|event| event["serving"].as_str()).collect();
    assert_eq!(served, [two.b_at.as_str(), a, two.b_at.as_str()]);
}

#[test]
fn a_rollback_from_another_host_brings_the_data_along_if_that_is_wanted() {
    let two = Two::new();
    two.client.run(&["release", &two.a_at, &two.b_at, DOMAIN]).ok().proves();
    std::fs::write(Two::data(&two.two, &two.b).join("page"), "written there").unwrap();
    let traffic = two.traffic();
    traffic.answers(20);
    let back = two.one.run(&["rollback", DOMAIN, "--data", "back"]).ok();
    assert_eq!(back.done()["serving"], two.a.as_str());
    assert_eq!(back.done()["since"]["copied_back"], true, "{back}");
    two.serves("written there", "rolled back with its data");
    is(&two.a, "running", "rolled back");
    is(&two.b, "paused", "rolled back");
    unnoticed(traffic, "rolled back");
}

#[test]
fn a_tenant_that_is_served_from_another_host_is_held_where_its_requests_come_in() {
    let two = Two::new();
    two.client.run(&["release", &two.a_at, &two.b_at, DOMAIN]).ok();
    let traffic = two.traffic();
    traffic.answers(20);
    // Held there is held here, and nothing is lost in the middle.
    two.two.run(&["pause", &two.b]).ok();
    let held = traffic.seen.ok();
    std::thread::sleep(Duration::from_millis(500));
    assert!(traffic.seen.ok() <= held + 4, "somebody was answered by what stands still");
    let routes = two.one.run(&["routes"]).ok();
    assert_eq!(routes.events[0]["state"], "held", "{routes}");
    two.two.run(&["resume", &two.b]).ok();
    traffic.answers(20);
    two.client.sync(&two.b_at, &two.a_at, &["--force", "--yes"]).ok().proves();
    unnoticed(traffic, "paused, resumed and copied");
    two.two.run(&["restart", &two.b]).ok();
    two.serves("the page", "restarted");

    // A right that is taken back is gone, and whoever asks hears why.
    let listed = two.two.run(&["access", "list"]).ok();
    let grant = listed.events.iter().find(|event| event["event"] == "grant").expect("the grant");
    two.two.run(&["access", "revoke", grant["grant"].as_str().unwrap()]).ok();
    let began = Instant::now();
    loop {
        let (status, text) = page(&two.one.daemon.http, DOMAIN, "/page").unwrap();
        if status == 503 && text.contains("was revoked") {
            break;
        }
        assert!(began.elapsed() < Duration::from_secs(20), "{status} {text}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

impl Two {
    /// Starts host one's daemon anew; it dies where it comes to this point.
    fn again(&mut self, point: Option<&str>) {
        self.one.daemon.kill();
        self.one.daemon.vars =
            point.map(|point| ("FAILPOINTS".to_owned(), format!("{point}=return"))).into_iter().collect();
        self.one.daemon.again();
    }

    fn killed_at(&mut self, point: &str, words: &[&str]) {
        self.again(Some(point));
        self.serves("the page", &format!("before {point}"));
        let traffic = self.traffic();
        traffic.answers(4);
        let running = self.client.start(words);
        let began = Instant::now();
        while std::net::TcpStream::connect(&self.one.daemon.http).is_ok() {
            assert!(began.elapsed() < Duration::from_secs(60), "{point} is come to");
            std::thread::sleep(Duration::from_millis(10));
        }
        drop(running);
        let seen = traffic.stop();
        assert!(seen.failures().is_empty(), "{point}: {:?}", seen.failures());
        self.again(None);
        self.serves("the page", point);
    }
}

#[test]
fn a_release_to_another_host_that_is_killed_is_undone_there_too_or_finished() {
    let mut two = Two::new();
    let (a, b, a_at, b_at) = (two.a.clone(), two.b.clone(), two.a_at.clone(), two.b_at.clone());
    for point in ["release.checking", "release.held", "release.frozen", "release.copied", "release.started"] {
        two.killed_at(point, &["release", &a_at, &b_at, DOMAIN]);
        is(&a, "running", point);
        assert_eq!(two.leads_to(), a, "{point}");
    }
    // It had not lived before, and does not run now.
    is(&b, "exited", "undone");
    two.killed_at("release.moved", &["release", &a_at, &b_at, DOMAIN]);
    is(&a, "paused", "moved");
    is(&b, "running", "moved");
    assert_eq!(two.leads_to(), b_at);
    // And the other way round, where it is the source that is far.
    for point in ["release.copying", "release.hooked", "release.frozen", "release.copied", "release.started"] {
        two.killed_at(point, &["release", &b_at, &a_at, DOMAIN]);
        is(&b, "running", point);
        is(&a, "paused", point);
        assert_eq!(two.leads_to(), b_at, "{point}");
    }
    two.killed_at("rollback.held", &["rollback", DOMAIN]);
    is(&b, "running", "rollback.held");
    assert_eq!(two.leads_to(), b_at);
    two.killed_at("release.let_go", &["release", &b_at, &a_at, DOMAIN]);
    is(&a, "running", "let go");
    is(&b, "paused", "let go");
    assert_eq!(two.leads_to(), a);
}

#[test]
fn the_other_host_may_be_killed_in_the_middle_and_is_put_right_when_it_is_there_again() {
    let mut two = Two::new();
    let (a, b, a_at, b_at) = (two.a.clone(), two.b.clone(), two.a_at.clone(), two.b_at.clone());
    let traffic = two.traffic();
    traffic.answers(10);
    let mut running = two.client.start(&["release", &a_at, &b_at, DOMAIN]);
    assert!(running.saw("checking …"), "it comes so far");
    two.two.daemon.kill();
    let failed = running.finish().exits(4);
    assert!(failed.last()["message"].as_str().unwrap().contains("serves on"), "{failed}");
    unnoticed(traffic, "the target's host is gone");
    is(&a, "running", "the target's host is gone");
    two.two.daemon.again();
    // It is put back in the background; the next release waits for that.
    two.client.run(&["release", &a_at, &b_at, DOMAIN]).ok().proves();
    assert_eq!(two.leads_to(), b_at);

    // Now the source is there: while its host is away nobody can be served, but what stood still comes back with it.
    two.serves("the page", "released");
    let mut running = two.client.start(&["release", &b_at, &a_at, DOMAIN]);
    assert!(running.saw("copying the rest …"), "it comes so far");
    two.two.daemon.kill();
    let ended = running.finish();
    two.two.daemon.again();
    // It may have had all that it needed by then.
    let undone = !ended.status.success();
    two.serves("the page", "the source's host is there again");
    is(if undone { &b } else { &a }, "running", "the source's host is there again");
    assert_eq!(two.leads_to(), if undone { b_at } else { a });
}
