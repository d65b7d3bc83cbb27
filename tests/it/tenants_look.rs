//! Looking into tenants that run, and being in them: status, logs, inspect, exec, run, vars, config, ps and kill.

use std::io::Write;
use std::process::Stdio;

use crate::common::docker::{IMAGE, Port};
use crate::common::seat::sit;
use crate::common::sh;

fn talker() -> String {
    format!(
        "web:\n    image: {IMAGE}\n    cmd: \"echo one; echo two >&2; echo three; trap 'exit 0' TERM; sleep 3600 & wait\"\n    data: [/data]\n    env: {{OWN: mine, BOTH: mine}}\n    wait: 10s for \"three\"\n    ~prod: {{env: {{OWN: prod}}}}\n"
    )
}

#[test]
fn status_logs_and_inspect_tell_what_is() {
    let port = Port::new();
    let shop = port.init("shop", &talker());
    port.run(&["start", &shop]).ok();
    port.run(&["exec", &port.on("web", "shop"), "sh", "-c", "head -c 100000 /dev/zero > /data/big; sync"]).ok();
    port.run(&["publish", &shop, "shop.example.org", "--port", "80"]).ok();
    let web = port.service("shop", "web");
    assert!(web["urls"][0].as_str().is_some_and(|url| url.starts_with("http://shop.example.org:")), "{web}");
    assert_eq!((&web["state"], &web["wanted"]), (&"running".into(), &"running".into()));
    assert!(web["ip"].as_str().is_some_and(|ip| ip.contains('.')), "{web}");
    assert!(web["memory_bytes"].as_u64().is_some_and(|bytes| bytes > 0), "{web}");
    assert!(web["cpu_millis"].as_u64().is_some(), "{web}");
    assert!(web["volumes"][0]["bytes"].as_u64().is_some_and(|bytes| bytes >= 100_000), "{web}");

    let (_, logs) = port.admin.plain(&["logs", &port.on("web", "shop")]);
    let mut lines: Vec<&str> = logs.lines().collect();
    lines.sort_unstable();
    assert_eq!(lines, ["one", "three", "two"]);
    let (_, tail) = port.admin.plain(&["logs", "--tail", "1", &shop]);
    assert!(tail.starts_with("web | ") && tail.lines().count() == 1, "{tail:?}");
    let mut following = port.admin.start(&["logs", "-f", &shop]);
    assert!(following.saw("three"));
    assert!(following.is_running());
    port.run(&["stop", &shop]).ok();
    following.finish().ok();

    let told = port.run(&["inspect", &port.on("web", "shop")]).ok();
    assert_eq!(told.done()["container"]["Name"], format!("/{}", port.on("web", "shop")));
    let exec = port.run(&["exec", &port.on("web", "shop"), "true"]).exits(1);
    assert!(exec.text().contains("does not run"), "{exec}");
}

#[test]
fn exec_and_run_pass_input_output_and_exit_status_on() {
    let port = Port::new();
    let shop = port.init("shop", &talker());
    port.run(&["start", &shop]).ok();
    let web = port.on("web", "shop");
    assert_eq!(port.admin.command(&["exec", &web, "sh", "-c", "exit 7"]).status().unwrap().code(), Some(7));
    assert_eq!(port.admin.command(&["run", &web, "sh", "-c", "exit 8"]).status().unwrap().code(), Some(8));
    for verb in ["exec", "run"] {
        let mut cat = port.admin.command(&[verb, &web, "sh", "-c", "cat; echo err >&2"]);
        let mut child = cat.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let sent = vec![b'x'; 300_000];
        child.stdin.take().unwrap().write_all(&sent).unwrap();
        let out = child.wait_with_output().unwrap();
        assert!(out.status.success(), "{verb}: {}", String::from_utf8_lossy(&out.stderr));
        assert_eq!(out.stdout.len(), sent.len(), "{verb}");
        assert_eq!(String::from_utf8_lossy(&out.stderr), "err\n", "{verb}");
    }
    // A container of `run` has what the service has, and does not stay.
    port.run(&["run", &web, "sh", "-c", "echo kept > /data/kept"]).ok();
    let kept = port.run(&["exec", &web, "cat", "/data/kept"]).ok();
    assert_eq!(kept.events[0]["text"], "kept\n");
    std::thread::sleep(std::time::Duration::from_millis(500));
    let names = sh("docker", &["ps", "-a", "--format", "{{.Names}}"]);
    assert_eq!(names.lines().filter(|name| name.contains(&shop)).count(), 1, "{names}");
}

#[test]
fn on_a_terminal_the_command_gets_one_of_its_size() {
    let port = Port::new();
    let shop = port.init("shop", &talker());
    port.run(&["start", &shop]).ok();
    let web = port.on("web", "shop");
    for (verb, status) in [("exec", 5), ("run", 6)] {
        let steps = ["size:33x77", "ask:stty size:33 77", "size:44x88", "ask:stty size:44 88"];
        let exit = format!("send:exit {status}\\n");
        let steps: Vec<&str> = steps.into_iter().chain([exit.as_str(), "end"]).collect();
        let out = sit(&port.admin, port.dir.path(), &[verb, &web, "sh"], &steps);
        assert_eq!(out.status.code(), Some(status), "{verb}: {}", String::from_utf8_lossy(&out.stderr));
    }
}

#[test]
fn status_and_list_follow_in_place() {
    let port = Port::new();
    let shop = port.init("shop", &talker());
    port.run(&["start", &shop]).ok();
    let stop = format!("do:stop {shop}");
    let steps = ["size:20x200", "until:running", "until:\x1b[2A\x1b[J", &stop, "until:stopped", "send:\\x03", "end"];
    let out = sit(&port.admin, port.dir.path(), &["status", "-f", &shop], &steps);
    assert_eq!(out.status.code(), Some(130), "{}", String::from_utf8_lossy(&out.stderr));
    // What does not fit is cut, so that it can be shown over.
    let steps = ["size:20x8", "until:TENANT", "until:\x1b[2A\x1b[J", "send:\\x03", "end"];
    let out = sit(&port.admin, port.dir.path(), &["list", "-f"], &steps);
    assert!(!String::from_utf8_lossy(&out.stdout).contains(&shop), "{}", String::from_utf8_lossy(&out.stdout));

    let mut following = port.admin.start(&["status", "-f", &shop]);
    assert!(following.saw("\"state\":\"stopped\""));
    port.run(&["start", &shop]).ok();
    assert!(following.saw("\"state\":\"running\""));
}

#[test]
fn a_command_ends_with_the_one_who_sat_at_it() {
    let port = Port::new();
    let shop = port.init("shop", &talker());
    port.run(&["start", &shop]).ok();
    let (web, container) = (port.on("web", "shop"), port.container("shop", "web"));
    let runs = |what: &str| sh("docker", &["top", &container, "-o", "pid,args"]).contains(what);
    let until_gone = |what: &str| {
        let began = std::time::Instant::now();
        while runs(what) {
            assert!(began.elapsed().as_secs() < 60, "{what} runs on");
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
    };
    let mut left = port.admin.start(&["exec", &web, "sh", "-c", "echo here; sleep 4711"]);
    assert!(left.saw("here") && runs("sleep 4711"));
    left.signal(rustix::process::Signal::INT);
    assert_eq!(left.finish().status.code(), Some(130));
    until_gone("sleep 4711");
    let mut killed = port.admin.start(&["exec", &web, "sh", "-c", "echo here; sleep 4712"]);
    assert!(killed.saw("here"));
    let tasks = port.run(&["ps"]).ok();
    let task = tasks.events.iter().find(|event| event["what"] == "exec").unwrap_or_else(|| panic!("{tasks}")).clone();
    port.run(&["kill", &task["task"].to_string()]).ok();
    killed.finish().fails(1, "cancelled");
    until_gone("sleep 4712");
    assert!(runs("sleep 3600"));
}

#[test]
fn variables_and_the_env_reach_containers_and_values_stay_hidden() {
    let port = Port::new();
    let shop = port.init("shop", &talker());
    let web = port.on("web", "shop");
    port.run(&["set", "TOKEN", "hush-hush"]).ok();
    port.run(&["set", "BOTH", "host"]).ok();
    port.run(&["start", &shop]).ok();
    let env = |name: &str| {
        let said = port.run(&["exec", &web, "printenv", name]);
        said.events[0]["text"].as_str().unwrap_or_default().trim_end().to_owned()
    };
    assert_eq!([env("TOKEN"), env("BOTH"), env("OWN")], ["hush-hush", "mine", "mine"]);
    let vars = port.run(&["vars"]).ok();
    assert!(vars.text().contains("TOKEN") && !vars.text().contains("hush-hush"), "{vars}");
    assert_eq!(port.admin.plain(&["vars"]).1, "BOTH=***\nTOKEN=***\n");
    assert!(!port.run(&["inspect", &web]).ok().text().contains("hush-hush"));
    assert!(!port.daemon.log().contains("hush-hush"));
    port.run(&["unset", "TOKEN"]).ok();
    port.run(&["unset", "TOKEN"]).fails(1, "not_found");
    port.run(&["set", "1=2", "x"]).fails(2, "usage");

    port.run(&["config", &shop, "--set-env", "prod"]).ok();
    assert_eq!(env("OWN"), "prod");
    let config = port.run(&["config", &shop]).ok();
    assert_eq!((&config.done()["env"], &config.done()["config"]), (&"prod".into(), &talker().into()));
    let other = port.yml("other", &talker().replace("three; ", "three; echo four; "));
    assert_eq!(port.run(&["config", &shop, "--diff", &other]).ok().count("lines_changed"), 2);
    let same = port.yml("same", &talker());
    assert_eq!(port.run(&["config", &shop, "--diff", &same]).ok().count("lines_changed"), 0);
}

#[test]
fn a_service_that_says_when_it_is_ready_is_believed() {
    let port = Port::new();
    let yml = "web:\n    image: IMAGE\n    cmd: \"echo '@mcloud ready in 1s'; exec sleep 3600\"\n    wait: 600\n";
    let shop = port.init("shop", &yml.replace("IMAGE", IMAGE));
    let began = std::time::Instant::now();
    let started = port.run(&["start", &shop]).ok();
    let took = began.elapsed().as_secs();
    assert!((1..200).contains(&took), "a second, and neither none nor all: {took} s\n{started}");
    // One that runs is not waited for again.
    port.run(&["start", &shop]).ok();
}

#[test]
fn a_start_that_waits_is_listed_and_can_be_killed() {
    let port = Port::new();
    let yml = format!("web:\n    image: {IMAGE}\n    cmd: sleep 3600\n    wait: 600s for \"never\"\n");
    let shop = port.init("shop", &yml);
    let mut starting = port.admin.start(&["start", &shop]);
    assert!(starting.saw("starting"));
    let tasks = port.run(&["ps"]).ok();
    let task = tasks.events.iter().find(|event| event["what"] == "start").unwrap_or_else(|| panic!("{tasks}")).clone();
    assert_eq!(task["on"], shop.as_str());
    port.run(&["kill", &task["task"].to_string()]).ok();
    starting.finish().fails(1, "cancelled");
    port.run(&["kill", "999999"]).fails(1, "not_found");
    assert_eq!(port.run(&["ps"]).ok().count("tasks"), 0);
}
