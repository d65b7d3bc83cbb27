//! An engine that goes away, a disk that is full, things that are bent or removed behind mcloud's back: each a clear error,
//! and a `status` that is true afterwards.

use std::fs;
use std::os::unix::fs::symlink;

use crate::common::disks::Disk;
use crate::common::docker::{IMAGE, Port, SLEEP};
use crate::common::host::{Client, Daemon};
use crate::common::relay::Relay;
use crate::common::sh;

fn sleeper(more: &str) -> String {
    format!("web:\n    image: {IMAGE}\n    cmd: {SLEEP}\n    data: [/data]\n{more}")
}

#[test]
fn docker_that_goes_away_in_the_middle_is_told_and_what_was_asked_is_done_when_it_is_back() {
    let relay = Relay::new();
    let port = Port::with(&relay.vars());
    let yml = sleeper("    wait: '600s for \"never\"'\n");
    let slow = port.init("slow", &yml);
    let shop = port.init("shop", &sleeper(""));
    port.run(&["start", &shop]).ok();
    let logs = port.admin.start(&["logs", "-f", &shop]);
    let mut starting = port.admin.start(&["start", &slow]);
    assert!(starting.saw("starting"));
    relay.cut();
    let failed = starting.finish().exits(1);
    assert!(failed.text().contains("Docker does not answer") && failed.last()["hint"].is_string(), "{failed}");
    logs.finish().exits(1);

    let failed = port.run(&["restart", &shop]).exits(1);
    assert!(failed.text().contains("Docker does not answer"), "{failed}");
    assert_eq!(port.state("shop", "web"), "unknown");
    let status = port.run(&["status", &shop]).ok();
    assert!(status.events[0]["trouble"].as_str().is_some_and(|text| text.contains("Docker")), "{status}");
    // Folders need no Docker.
    let code = port.dir.path().join("code");
    fs::create_dir(&code).unwrap();
    fs::write(code.join("a"), "b").unwrap();
    port.admin.sync(&code, port.daemon.at(&shop), &["--no-remove"]).ok();

    sh("docker", &["kill", &port.on("web", "shop")]);
    relay.mend();
    port.becomes("shop", "web", "running");
    assert_eq!(port.service("shop", "web")["wanted"], "running");
    assert_eq!(port.state("slow", "web"), "running", "it was not stopped, and is still asked for");
}

#[test]
fn docker_that_is_back_at_once_has_been_away_all_the_same() {
    let relay = Relay::new();
    let port = Port::with(&relay.vars());
    let shop = port.init("shop", &sleeper(""));
    port.run(&["start", &shop]).ok();
    // Many times: no moment is the one that is not looked at.
    for _ in 0..3 {
        relay.cut();
        sh("docker", &["kill", &port.on("web", "shop")]);
        relay.mend();
        port.becomes("shop", "web", "running");
    }
}

#[test]
fn what_is_removed_behind_its_back_is_made_again() {
    let port = Port::new();
    let shop = port.init("shop", &format!("{}two: {{image: '{IMAGE}', cmd: {SLEEP}}}\n", sleeper("")));
    port.run(&["start", &shop]).ok();
    sh("docker", &["rm", "-f", &port.on("web", "shop")]);
    let web = port.service("shop", "web");
    assert_eq!((&web["state"], &web["wanted"]), (&"absent".into(), &"running".into()));
    let failed = port.run(&["exec", &port.on("web", "shop"), "true"]).fails(1, "not_found");
    assert!(failed.text().contains("no container"), "{failed}");
    port.run(&["start", &shop]).ok();
    assert_eq!(port.state("shop", "web"), "running");

    // A network that is taken away under running containers.
    let network = format!("mcloud.{shop}");
    for service in ["web", "two"] {
        sh("docker", &["network", "disconnect", "-f", &network, &port.on(service, "shop")]);
    }
    sh("docker", &["network", "rm", &network]);
    // One after the other: the second finds a network, and is not in it.
    port.run(&["start", &port.on("two", "shop")]).ok();
    port.run(&["start", &shop]).ok();
    port.run(&["exec", &port.on("two", "shop"), "getent", "hosts", "web"]).ok();
}

#[test]
fn a_disk_that_is_full_while_an_image_is_built_is_told_and_nothing_is_left_half() {
    let disk = Disk::new("tmpfs", 24);
    let port = Port::new();
    let daemon = Daemon::start(&disk.root.join("host"));
    let admin = Client::of(&daemon, &port.dir.path().join("other"));
    let code = port.dir.path().join("code");
    fs::create_dir(&code).unwrap();
    fs::write(code.join("mcloud.yml"), "web: {build: '.'}\n").unwrap();
    fs::write(code.join("Dockerfile"), format!("FROM {IMAGE}\nCMD redis-server\n")).unwrap();
    fs::write(code.join("big"), vec![7; 40 << 20]).unwrap();
    let shop = port.name("full");
    admin.run(&["init", &shop, "--path", code.to_str().unwrap()]).ok();
    let failed = admin.run(&["start", &shop]).fails(1, "no_space");
    assert!(failed.last()["hint"].is_string(), "{failed}");
    let status = admin.run(&["status", &shop]).ok();
    assert_eq!(status.events[0]["services"][0]["state"], "absent", "{status}");
    fs::remove_file(code.join("big")).unwrap();
    admin.run(&["start", &shop]).ok();
    for image in sh("docker", &["image", "ls", "-q", "--filter", &format!("label=mcloud.tenant={shop}")]).lines() {
        let _ = std::process::Command::new("docker").args(["rmi", "-f", image]).output();
    }
}

#[test]
fn a_folder_of_the_tenant_cannot_be_bent_to_another_of_the_host() {
    let port = Port::new();
    let shop = port.init("shop", &sleeper("    volumes: {.: /code, conf/web: /conf}\n"));
    let root = port.daemon.home.join("tenants").join(&shop).join("root");
    fs::create_dir_all(root.join("conf/web")).unwrap();
    fs::write(root.join("conf/web/a"), "mine").unwrap();
    let secret = port.dir.path().join("secret");
    fs::create_dir_all(secret.join("web")).unwrap();
    fs::write(secret.join("web/a"), "the host's").unwrap();
    port.run(&["start", &shop]).ok();
    let web = port.on("web", "shop");
    let read = || port.run(&["exec", &web, "cat", "/conf/a"]).ok().events[0]["text"].clone();
    assert_eq!(read(), "mine");

    // As the tenant could, who has the folder above in his container; and Docker starts it again by itself.
    port.run(&["exec", &web, "mv", "/code/conf", "/code/old"]).ok();
    symlink(&secret, root.join("conf")).unwrap();
    sh("docker", &["restart", "-t", "0", &web]);
    assert_eq!(read(), "mine");
    let failed = port.run(&["restart", &shop]).exits(1);
    assert!(failed.text().contains("`conf/web`"), "{failed}");
    assert_eq!(port.state("shop", "web"), "stopped");

    // Another folder of that name is what the next start has.
    fs::remove_file(root.join("conf")).unwrap();
    fs::create_dir_all(root.join("conf/web")).unwrap();
    fs::write(root.join("conf/web/a"), "new").unwrap();
    port.run(&["start", &shop]).ok();
    assert_eq!(read(), "new");
    let bound = || {
        fs::read_to_string("/proc/self/mounts").unwrap().contains(&format!("/{shop} "))
            || fs::read_to_string("/proc/self/mounts").unwrap().contains(&format!("/{shop}/"))
    };
    assert!(bound());
    port.run(&["remove", "--scrub-data", &shop]).ok();
    assert!(!bound());
    assert_eq!(fs::read_to_string(secret.join("web/a")).unwrap(), "the host's");
}
