//! The commands around a snapshot, in real containers: what they say, how they fail, and that one that hangs is killed.

use std::fs::File;
use std::path::PathBuf;
use std::sync::Mutex;

use mcloud::model::{Result, ServiceName, TenantName, VolumePath};
use mcloud::tenant::config::{self, LocalPath};
use mcloud::tenant::docker::{Docker, SOCKET};
use mcloud::tenant::hooks::Hook;
use mcloud::tenant::lifecycle::{Context, Folders, Site};

use crate::common::docker::{IMAGE, Port, SLEEP};
use crate::common::sh;

/// A hook needs no folder.
struct Nowhere;

impl Folders for Nowhere {
    fn data(&self, _: &ServiceName, _: &VolumePath) -> Result<PathBuf> {
        unreachable!()
    }
    fn local(&self, _: &LocalPath) -> Result<PathBuf> {
        unreachable!()
    }
    fn context(&self, _: Context<'_>) -> Result<File> {
        unreachable!()
    }
}

/// Runs the hook that `snapshot` describes in a container that runs: how it ended, and what was said.
fn hook(port: &Port, snapshot: &str) -> (Result<bool>, Vec<String>) {
    let container = port.container("shop", "web");
    let owner = sh("docker", &["inspect", "--format", r#"{{index .Config.Labels "mcloud.owner"}}"#, &container]);
    let config = config::parse(&format!("web: {{image: x, snapshot: {snapshot}}}\n"), None).unwrap();
    let (docker, said) = (Docker::at(SOCKET).unwrap(), Mutex::new(Vec::new()));
    let say = |_: Option<&ServiceName>, text: String| said.lock().unwrap().push(text);
    let site = Site {
        runtime: &docker,
        owner: owner.trim(),
        tenant: &TenantName::new(&port.name("shop")).unwrap(),
        services: &config.services,
        vars: &[],
        folders: &Nowhere,
        say: &say,
    };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let ran = runtime.block_on(site.hook(&config.services[0], Hook::Before));
    (ran, said.into_inner().unwrap())
}

#[test]
fn a_hook_runs_in_the_container_and_one_that_hangs_is_killed_there() {
    let port = Port::new();
    let shop = port.init("shop", &format!("web: {{image: '{IMAGE}', cmd: {SLEEP}}}\n"));
    port.run(&["start", &shop]).ok();
    let container = port.container("shop", "web");

    let (ran, said) = hook(&port, "{before: 'echo one; echo two >&2; cat /etc/hostname'}");
    assert!(ran.unwrap());
    for line in ["| one", "| two", "| web"] {
        assert!(said.iter().any(|text| text == line), "{line}: {said:?}");
    }

    let (ran, _) = hook(&port, "{before: 'echo no space; exit 9'}");
    let error = ran.unwrap_err();
    assert_eq!(error.chain().split_once("ended with").unwrap().1, " status 9: it said: no space");
    assert!(error.message.contains(&port.on("web", "shop")) && error.message.contains("snapshot.before"), "{error}");
    let (ran, _) = hook(&port, "{before: no-such-program}");
    assert!(ran.unwrap_err().chain().contains("no-such-program"));

    // What it started is ended with it, and nothing else is.
    let (ran, said) = hook(&port, "{before: 'echo begun; sleep 4711 & sleep 4712; true', timeout: 1}");
    let error = ran.unwrap_err();
    assert!(error.message.contains("did not end in 1 s and was killed"), "{}", error.chain());
    assert!(error.hint.unwrap().contains("timeout: 2") && said.contains(&"| begun".to_owned()));
    let runs = sh("docker", &["top", &container, "-o", "pid,args"]);
    assert!(!runs.contains("471") && runs.contains("sleep 3600"), "{runs}");
    assert_eq!(port.state("shop", "web"), "running");

    port.run(&["pause", &shop]).ok();
    let (ran, said) = hook(&port, "{before: 'true'}");
    assert!(!ran.unwrap() && said[0].contains("left out"), "{said:?}");
}
