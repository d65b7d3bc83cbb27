//! A daemon killed at every point of a release, a rollback and a freeze: afterwards one tenant serves, nothing is frozen that
//! was not, and nobody was answered with an error. (While the daemon is down nobody answers at all: that is not an answer.)

use std::time::{Duration, Instant};

use crate::common::docker::{IMAGE, Port};
use crate::common::sh;
use crate::common::traffic::{Traffic, page};

const BEFORE_THE_MOVE: [&str; 8] = [
    "release.copying",
    "release.checking",
    "release.copying_again",
    "release.held",
    "release.hooked",
    "release.frozen",
    "release.copied",
    "release.started",
];
const AFTER_THE_MOVE: [&str; 2] = ["release.moved", "release.let_go"];
const OF_A_ROLLBACK: [&str; 2] = ["rollback.thawed", "rollback.held"];
const OF_A_SYNC: [&str; 5] = ["freeze.noted", "freeze.held", "freeze.hooked", "freeze.frozen", "freeze.thawed"];

struct Two {
    port: Port,
    a: String,
    b: String,
}

impl Two {
    fn new() -> Two {
        let port = Port::new();
        let yml = |says: &str| {
            format!(
                "web:\n    image: {IMAGE}\n    cmd: trap exit TERM; python3 -m http.server 5000 --directory /data & wait\n    data: [/data]\n    \
                 env: {{SAYS: {says}}}\n    web: 5000\n    wait: 20\n    health: {{path: /page}}\n    \
                 snapshot: {{before: \"true\", after: \"true\"}}\n"
            )
        };
        let (a, b) = (port.init("a", &yml("a")), port.init("b", &yml("b")));
        let two = Two { port, a, b };
        std::fs::write(two.data(&two.a).join("page"), "the page").unwrap();
        two.port.run(&["start", &two.a]).ok();
        two.port.run(&["publish", &two.a, "crash.test"]).ok();
        two
    }

    fn data(&self, tenant: &str) -> std::path::PathBuf {
        self.port.daemon.home.join("tenants").join(tenant).join("volumes/web/data")
    }

    /// Starts the daemon anew; it dies where it comes to this point, as by `kill -9`.
    fn again(&mut self, point: Option<&str>) {
        self.port.daemon.kill();
        self.port.daemon.vars =
            point.map(|point| ("FAILPOINTS".to_owned(), format!("{point}=return"))).into_iter().collect();
        self.port.daemon.again();
    }

    /// Has the daemon die at a point of what these words begin, under traffic.
    fn killed_at(&mut self, point: &str, words: &[&str]) {
        self.again(Some(point));
        self.serves(&format!("before {point}"));
        let traffic = Traffic::start(&self.port.daemon.http, "crash.test", "/page", 2);
        traffic.answers(4);
        let running = self.port.admin.start(words);
        let began = Instant::now();
        while std::net::TcpStream::connect(&self.port.daemon.http).is_ok() {
            assert!(began.elapsed() < Duration::from_secs(60), "{point} is come to");
            std::thread::sleep(Duration::from_millis(10));
        }
        drop(running);
        let seen = traffic.stop();
        assert!(seen.failures().is_empty(), "{point}: {:?}", seen.failures());
        self.again(None);
    }

    /// Waits until the page is served; fails if it is answered with anything else.
    fn serves(&self, when: &str) {
        let began = Instant::now();
        loop {
            match page(&self.port.daemon.http, "crash.test", "/page") {
                Ok((200, text)) => return assert_eq!(text, "the page", "{when}"),
                Ok((status, text)) if began.elapsed() > Duration::from_secs(30) => panic!("{when}: {status} {text}"),
                Err(error) if began.elapsed() > Duration::from_secs(30) => panic!("{when}: {error}"),
                _ => std::thread::sleep(Duration::from_millis(50)),
            }
        }
    }

    fn leads_to(&self) -> String {
        let routes = self.port.run(&["routes"]).ok();
        let found = routes.events.iter().find(|event| event["domain"] == "crash.test").expect("the route");
        found["tenant"].as_str().unwrap_or_default().to_owned()
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
        assert!(began.elapsed() < Duration::from_secs(30), "{when}: web.{tenant} is {found}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn a_release_that_is_killed_before_the_move_is_undone_and_after_it_finished() {
    let mut two = Two::new();
    let (a, b) = (two.a.clone(), two.b.clone());
    for point in BEFORE_THE_MOVE {
        two.killed_at(point, &["release", &a, &b, "crash.test"]);
        two.serves(point);
        is(&a, "running", point);
        assert_eq!(two.leads_to(), a, "{point}");
    }
    for (point, back) in AFTER_THE_MOVE.into_iter().zip(OF_A_ROLLBACK) {
        two.killed_at(point, &["release", &a, &b, "crash.test"]);
        two.serves(point);
        assert_eq!(two.leads_to(), b, "{point}");
        is(&a, "paused", point);
        is(&b, "running", point);
        two.killed_at(back, &["rollback", "crash.test"]);
        two.serves(back);
        assert_eq!(two.leads_to(), b, "{back}");
        is(&a, "paused", back);
        two.port.run(&["rollback", "crash.test"]).ok();
        two.serves("rolled back");
        is(&a, "running", "rolled back");
    }
    // What is left by a rollback runs on.
    two.port.run(&["release", &a, &b, "crash.test"]).ok();
    two.killed_at("rollback.moved", &["rollback", "crash.test"]);
    two.serves("rollback.moved");
    assert_eq!(two.leads_to(), a);
    is(&a, "running", "rollback.moved");
    assert_eq!(two.port.service("b", "web")["wanted"], "running", "rollback.moved");
    is(&b, "running", "rollback.moved");
    let history = two.port.run(&["release", "--history"]).ok();
    let outcomes: Vec<&str> = history.events.iter().filter_map(|event| event["outcome"].as_str()).collect();
    assert_eq!(outcomes.iter().filter(|outcome| outcome.starts_with("undone")).count(), 10, "{outcomes:?}");
    two.port.run(&["release", &a, &b, "crash.test"]).ok();
    two.serves("after all of it");
}

#[test]
fn a_copy_that_is_killed_while_its_source_is_frozen_leaves_it_thawed() {
    let mut two = Two::new();
    let (from, to) = (two.port.daemon.at(&two.a), two.port.daemon.at(&two.b));
    for point in OF_A_SYNC {
        two.killed_at(point, &["sync", &from, &to, "--force"]);
        two.serves(point);
        is(&two.a.clone(), "running", point);
        assert!(std::fs::read_dir(two.port.daemon.home.join("frozen")).map_or(0, Iterator::count) == 0, "{point}");
    }
    two.port.run(&["sync", &from, &to, "--force"]).ok().proves();
    // What the user paused stays so.
    two.port.run(&["pause", &two.a]).ok();
    two.port.run(&["sync", &from, &to, "--force"]).ok().proves();
    is(&two.a.clone(), "paused", "paused by its user");
}

/// Says who it is, over and over.
const STREAM: &str = r#"
import http.server, os, signal, time
signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
class Page(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        while True:
            self.wfile.write(("data: " + os.environ["SAYS"] + "\n\n").encode())
            self.wfile.flush()
            time.sleep(0.05)
server = http.server.ThreadingHTTPServer(("", 5000), Page)
print("it serves", flush=True)
server.serve_forever()
"#;

#[test]
fn an_event_stream_ends_when_its_tenant_is_frozen_for_good_and_comes_again_to_the_other() {
    let port = Port::new();
    let yml = |says: &str| {
        format!(
            "web:\n    image: {IMAGE}\n    cmd: exec python3 /app/stream.py\n    volumes: {{.: /app}}\n    data: [/data]\n    \
             env: {{SAYS: {says}}}\n    web: 5000\n    wait: 20s for \"it serves\"\n"
        )
    };
    let (a, b) = (port.init("a", &yml("a")), port.init("b", &yml("b")));
    for tenant in [&a, &b] {
        let code = port.dir.path().join(tenant);
        std::fs::create_dir_all(&code).unwrap();
        std::fs::write(code.join("stream.py"), STREAM).unwrap();
        port.admin.sync(&code, port.daemon.at(tenant), &["--yes", "--no-remove"]).ok();
    }
    port.run(&["start", &a]).ok();
    port.run(&["publish", &a, "stream.test"]).ok();
    let url = format!("http://{}/", port.daemon.http);
    let listen = |seconds: &str| {
        let mut curl = std::process::Command::new("curl");
        curl.args(["-sN", "-m", seconds, "-H", "Host: stream.test", &url]).stdout(std::process::Stdio::piped());
        curl.spawn().expect("curl runs")
    };
    let open = listen("60");
    std::thread::sleep(Duration::from_millis(500));
    port.run(&["release", &a, &b, "stream.test"]).ok();
    let ended = open.wait_with_output().unwrap();
    assert!(ended.status.success(), "it ends as streams end: {}", ended.status);
    let text = String::from_utf8_lossy(&ended.stdout);
    assert!(text.contains("data: a") && !text.contains("data: b"), "{text}");
    let text = String::from_utf8_lossy(&listen("2").wait_with_output().unwrap().stdout).into_owned();
    assert!(text.contains("data: b") && !text.contains("data: a"), "{text}");
}

#[test]
fn a_release_to_a_tenant_that_does_not_come_up_is_undone_and_nobody_notices() {
    let two = Two::new();
    let broken = two.port.yml(
        "broken",
        &format!("web:\n    image: {IMAGE}\n    cmd: sh -c 'exit 3'\n    data: [/data]\n    web: 5000\n    wait: 5\n"),
    );
    two.port.run(&["update", &two.b, &broken]).ok();
    let traffic = Traffic::start(&two.port.daemon.http, "crash.test", "/page", 2);
    let outcome = two.port.run(&["release", &two.a, &two.b, "crash.test"]).exits(1);
    assert!(outcome.last()["message"].as_str().unwrap().contains("serves on"), "{outcome}");
    traffic.answers(10);
    let seen = traffic.stop();
    assert!(seen.failures().is_empty() && seen.cut() == 0, "{seen:?}");
    assert_eq!(two.leads_to(), two.a);
    is(&two.a, "running", "undone");
    // Who is not asked to move does not.
    let outcome = two.port.run(&["release", &two.b, &two.a, "crash.test"]).exits(1);
    assert!(outcome.last()["message"].as_str().unwrap().contains("does not lead"), "{outcome}");
}
