//! `mcloud NAME [HOST]`: the commands of the mcloud.yml of a folder.

use std::fs;
use std::process::Output;

use crate::common::docker::{IMAGE, Port, SLEEP};
use crate::common::host::Client;
use crate::common::scratch;

const YML: &str = r#"
web: {image: x}
"---":
    hosts: {live: app@203.0.113.5, six: "web.app@[2001:db8::7]:7000"}
    commands:
        say: ["echo 'two  words' {host}", "echo {host} | tr a-z A-Z"]
        fail: ["touch first", "sh -c 'exit 7'", "touch never"]
        again: mcloud again
        version: mcloud --version
"#;

struct Folder {
    _dir: tempfile::TempDir,
    client: Client,
}

fn folder(yml: &str) -> Folder {
    let dir = scratch();
    let client = Client::new(&dir.path().join("app"));
    fs::write(client.home.join("mcloud.yml"), yml).unwrap();
    Folder { _dir: dir, client }
}

impl Folder {
    fn run(&self, words: &[&str]) -> Output {
        self.client.command(words).output().unwrap()
    }

    /// A command line that makes no sense: what is said of it.
    fn misused(&self, words: &[&str]) -> String {
        let out = self.run(words);
        assert_eq!(out.status.code(), Some(2), "{words:?}");
        String::from_utf8_lossy(&out.stderr).into_owned()
    }
}

#[test]
fn the_steps_are_shown_and_run_with_the_hosts_reference() {
    let app = folder(YML);
    let out = app.run(&["say", "live"]);
    assert!(out.status.success());
    assert_eq!(String::from_utf8_lossy(&out.stdout), "two  words app@203.0.113.5\nAPP@203.0.113.5\n");
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    assert_eq!(said, "$ echo 'two  words' app@203.0.113.5\n$ echo app@203.0.113.5 | tr a-z A-Z\n");
    // Brackets are nothing that a shell takes for a pattern: the word is the same with one and without.
    let out = String::from_utf8_lossy(&app.run(&["say", "six"]).stdout).into_owned();
    assert_eq!(out, "two  words web.app@[2001:db8::7]:7000\nWEB.APP@[2001:DB8::7]:7000\n");
    let out = app.run(&["-q", "say", "other@me"]);
    assert_eq!((&out.stdout[..], &out.stderr[..]), (&b"two  words other@me\nOTHER@ME\n"[..], &b""[..]));
    assert!(app.run(&["version"]).stdout.starts_with(b"mcloud "), "`mcloud` in a step is this program");
}

#[test]
fn it_stops_at_the_first_failure_with_its_exit_status() {
    let app = folder(YML);
    let out = app.run(&["fail"]);
    assert_eq!(out.status.code(), Some(7));
    assert!(String::from_utf8_lossy(&out.stderr).contains("`fail` stopped at step 2 of 3"));
    assert!(app.client.home.join("first").exists() && !app.client.home.join("never").exists());

    let json = app.client.run(&["fail"]).fails(7, "failed");
    let kinds: Vec<&str> = json.events.iter().filter_map(|event| event["event"].as_str()).collect();
    assert_eq!(kinds, ["step", "step", "error"], "{json}");
    let json = app.client.run(&["say", "live"]).ok();
    let said: Vec<&str> = json.events.iter().filter_map(|event| event["text"].as_str()).collect();
    assert_eq!(said, ["two  words app@203.0.113.5", "APP@203.0.113.5"], "{json}");
    assert_eq!((&json.done()["host"], json.count("steps")), (&"app@203.0.113.5".into(), 2));
}

#[test]
fn what_is_not_known_is_answered_with_what_was_meant() {
    let app = folder(YML);
    assert!(app.misused(&["saay", "live"]).contains("'say'"));
    assert!(app.misused(&["say", "lvie"]).contains("did you mean `live`?"));
    assert!(app.misused(&["say", "elsewhere"]).contains("live, six"));
    assert!(app.misused(&["say"]).contains("<HOST>"));
    assert!(app.misused(&["fail", "live"]).contains("live"), "it has no {{host}} in it");
    assert!(app.misused(&["say", "app@me:/data"]).contains("volume"));
    assert!(app.misused(&["again"]).contains("runs itself"));
    let help = String::from_utf8(app.run(&["--help"]).stdout).unwrap();
    assert!(help.contains("mcloud.yml: echo 'two  words' {host}; echo"), "{help}");
    let help = String::from_utf8(app.run(&["help", "say"]).stdout).unwrap();
    assert!(help.contains("live, six") && help.contains("tr a-z A-Z"), "{help}");

    let broken = folder("web: {imgae: x}\n");
    let said = broken.misused(&["ship"]);
    assert!(said.contains("`ship`") && said.contains("line 1") && said.contains("did you mean `image`?"), "{said}");
    fs::remove_file(broken.client.home.join("mcloud.yml")).unwrap();
    assert!(broken.misused(&["ship"]).contains("'ship'"));
}

#[test]
fn a_tenant_is_shipped_with_one_word() {
    let port = Port::new();
    let shop = port.init("shop", &format!("web: {{image: '{IMAGE}', cmd: {SLEEP}, volumes: {{.: /app}}}}\n"));
    let home = &port.admin.home;
    let yml = format!(
        "web: {{image: '{IMAGE}', cmd: {SLEEP}, volumes: {{.: /app}}}}\n'---': {{hosts: {{live: '{}'}}, \
         commands: {{ship: ['mcloud sync app {{host}}', 'mcloud restart {{host}}']}}}}\n",
        port.daemon.at(&shop)
    );
    fs::write(home.join("mcloud.yml"), yml).unwrap();
    fs::create_dir(home.join("app")).unwrap();
    fs::write(home.join("app/page"), "new").unwrap();
    let shipped = port.run(&["ship", "live"]).ok();
    let done = |step: u64| shipped.events.iter().any(|event| event["step"] == step && event["said"]["event"] == "done");
    assert!(done(1) && done(2), "{shipped}");
    let page = port.run(&["exec", &port.on("web", "shop"), "cat", "/app/page"]).ok();
    assert_eq!(page.events[0]["text"], "new");
}
