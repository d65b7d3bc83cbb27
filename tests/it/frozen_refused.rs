//! An engine that refuses to freeze: asked again, and if it goes on refusing everything goes on as if nothing had been asked.
//! Either way the audit log tells it.

use std::time::{Duration, Instant};

use serde_json::Value;

use crate::common::docker::{IMAGE, Port};
use crate::common::relay::Relay;
use crate::common::sh;
use crate::common::traffic::{Traffic, page};

/// What runc says when the freezer does not come to rest in time.
const REFUSAL: &str = "Cannot pause container: OCI runtime pause failed: unable to freeze";

/// Two tenants alike, of which the first one runs and is published.
fn two(relay: &Relay) -> (Port, String, String) {
    let port = Port::with(&relay.vars());
    let yml = format!(
        "web:\n    image: {IMAGE}\n    cmd: trap exit TERM; python3 -m http.server 5000 --directory /data & wait\n    data: [/data]\n    \
         web: 5000\n    wait: 20\n    health: {{path: /page}}\n"
    );
    let (a, b) = (port.init("a", &yml), port.init("b", &yml));
    let data = port.daemon.home.join("tenants").join(&a).join("volumes/web/data");
    std::fs::write(data.join("page"), "the page").unwrap();
    port.run(&["start", &a]).ok();
    port.run(&["publish", &a, "frozen.test"]).ok();
    (port, a, b)
}

/// How what was done to a tenant ended, as the audit log has it.
fn ended(port: &Port, tenant: &str, what: &str) -> Vec<String> {
    let audit = port.run(&["audit", tenant]).ok();
    let entries = audit.events.iter().filter(|event| event["what"] == what);
    entries.map(|event| event["result"].as_str().unwrap_or_default().to_owned()).collect()
}

fn state(container: &str) -> String {
    sh("docker", &["inspect", "--format", "{{.State.Status}}", container]).trim().to_owned()
}

#[test]
fn a_freeze_that_is_refused_now_and_then_is_tried_again_and_noted() {
    let relay = Relay::new();
    let (port, a, b) = two(&relay);
    let traffic = Traffic::start(&port.daemon.http, "frozen.test", "/page", 4);
    relay.answer("/pause", 3, 500, REFUSAL);
    let taken = port.run(&["snapshot", "create", &a, "--force"]).ok();
    assert!(taken.done()["freeze_ms"].as_u64().is_some_and(|ms| ms > 0), "{taken}");
    assert!(taken.text().contains("tried again"), "{taken}");
    assert!(ended(&port, &a, "freeze")[0].contains("refused 3 times"), "{:?}", ended(&port, &a, "freeze"));
    assert_eq!(ended(&port, &a, "snapshot"), ["ok"]);
    assert!(port.daemon.log().contains("the freeze was refused"));

    relay.answer("/pause", 2, 500, REFUSAL);
    port.run(&["pause", &a]).ok();
    assert_eq!(state(&port.on("web", "a")), "paused");
    port.run(&["resume", &a]).ok();

    relay.answer("/pause", 2, 500, REFUSAL);
    port.run(&["release", &a, &b, "frozen.test"]).ok();
    assert_eq!((state(&port.on("web", "a")), state(&port.on("web", "b"))), ("paused".into(), "running".into()));
    let seen = traffic.stop();
    assert!(seen.ok() > 0 && seen.failures().is_empty(), "{:?}", seen.failures());
}

#[test]
fn a_freeze_that_is_refused_for_good_leaves_all_as_it_was_and_is_in_the_audit_log() {
    let relay = Relay::new();
    let (port, a, b) = two(&relay);
    relay.answer("/pause", usize::MAX, 500, REFUSAL);
    let goes_on = |when: &str| {
        assert_eq!(state(&port.on("web", "a")), "running", "{when}");
        assert_eq!(port.service("a", "web")["wanted"], "running", "{when}");
        let began = Instant::now();
        assert_eq!(page(&port.daemon.http, "frozen.test", "/page").unwrap().1, "the page", "{when}");
        assert!(began.elapsed() < Duration::from_secs(3), "{when}: nobody is held any more");
    };
    let failed = port.run(&["snapshot", "create", &a, "--force"]).fails(1, "failed");
    assert!(failed.text().contains("unable to freeze") && failed.last()["hint"].is_string(), "{failed}");
    goes_on("after the snapshot");
    for what in ["freeze", "snapshot"] {
        let ended = ended(&port, &a, what);
        assert!(ended.len() == 1 && ended[0].contains("unable to freeze"), "{what}: {ended:?}");
    }
    let failed = port.admin.sync(port.daemon.at(&a), port.daemon.at(&b), &["--force"]).fails(1, "failed");
    assert!(failed.text().contains("unable to freeze"), "{failed}");
    goes_on("after the sync");
    port.run(&["pause", &a]).fails(1, "failed");
    goes_on("after the pause");
    let failed = port.run(&["release", &a, &b, "frozen.test"]).fails(1, "failed");
    assert!(failed.text().contains("unable to freeze"), "{failed}");
    goes_on("after the release");
    assert!(ended(&port, &a, "release")[0].contains("unable to freeze"));
    let routes: Vec<Value> = port.run(&["routes"]).ok().events;
    assert!(routes.iter().any(|route| route["tenant"] == a.as_str() && route["domain"] == "frozen.test"));
}

#[test]
fn a_service_that_somebody_thaws_in_the_middle_is_seen_and_what_was_copied_is_not_used() {
    let relay = Relay::new();
    let (mut port, a, _) = two(&relay);
    port.daemon.kill();
    port.daemon.vars.push(("FAILPOINTS".to_owned(), "freeze.frozen=1*sleep(3000)".to_owned()));
    port.daemon.again();
    port.becomes("a", "web", "running");
    let web = port.on("web", "a");
    let taking = port.admin.start(&["snapshot", "create", &a, "--force"]);
    let began = Instant::now();
    while state(&web) != "paused" {
        assert!(began.elapsed() < Duration::from_secs(60), "it is not frozen");
        std::thread::sleep(Duration::from_millis(10));
    }
    sh("docker", &["unpause", &web]);
    let failed = taking.finish().fails(1, "busy");
    assert!(failed.text().contains("did not stand still"), "{failed}");
    assert_eq!(port.run(&["snapshot", "list"]).ok().done()["snapshots"], 0);
    assert_eq!(state(&web), "running");
    port.run(&["snapshot", "create", &a, "--force"]).ok();
}
