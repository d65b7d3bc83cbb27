//! What goes wrong around tenants that run: each time a clear error, and a state that `status` tells truly.

use std::fs;
use std::path::Path;

use crate::common::docker::{IMAGE, Port, SLEEP};
use crate::common::host::{Client, Daemon};
use crate::common::{scratch, sh};

#[test]
fn a_service_that_does_not_come_up_stops_the_rest_and_says_why() {
    let port = Port::new();
    let yml = format!(
        "one: {{image: '{IMAGE}', cmd: {SLEEP}}}\ntwo: {{image: '{IMAGE}', cmd: 'echo broken pipe dream; exit 3'}}\n"
    );
    let shop = port.init("shop", &yml);
    let failed = port.run(&["start", &shop]).exits(1);
    assert!(failed.text().contains("broken pipe dream") && failed.text().contains("status 3"), "{failed}");
    assert_eq!([port.state("shop", "one"), port.state("shop", "two")], ["stopped", "stopped"]);

    let yml = format!("one: {{image: '{IMAGE}', cmd: {SLEEP}, wait: '1s for \"hello\"'}}\n");
    port.run(&["update", &shop, &port.yml("wait", &yml)]).ok();
    let failed = port.run(&["start", &shop]).exits(1);
    assert!(failed.text().contains("hello"), "{failed}");
    let yml =
        format!("one: {{image: '{IMAGE}', cmd: {SLEEP}, web: 5000, wait: 1, health: {{path: /up, timeout: 1}}}}\n");
    port.run(&["update", &shop, &port.yml("health", &yml)]).ok();
    let failed = port.run(&["start", &shop]).exits(1);
    assert!(failed.text().contains("not healthy after 1 s"), "{failed}");
}

#[test]
fn an_image_that_cannot_be_had_or_built_is_told() {
    let port = Port::new();
    let shop = port.init("shop", "web: {image: 'localhost:1/nothing/here:1'}\n");
    let failed = port.run(&["start", &shop]).exits(1);
    assert!(failed.text().contains("localhost:1/nothing/here:1"), "{failed}");
    assert!(failed.last()["hint"].as_str().is_some_and(|hint| hint.contains("registry")), "{failed}");
    assert_eq!(port.state("shop", "web"), "absent");
    let yml = format!("web:\n    dockerfile: |\n        FROM {IMAGE}\n        RUN echo words of despair && false\n");
    port.run(&["update", &shop, &port.yml("bad", &yml)]).exits(1);
    let failed = port.run(&["start", &shop]).exits(1);
    assert!(failed.text().contains("words of despair"), "{failed}");
}

#[test]
fn a_volume_that_leads_out_or_is_a_file_is_refused() {
    let port = Port::new();
    let yml = format!("web: {{image: '{IMAGE}', cmd: sleep 3600, volumes: {{conf: /conf}}, data: [/data]}}\n");
    let shop = port.init("shop", &yml);
    let root = port.daemon.home.join("tenants").join(&shop).join("root");
    std::os::unix::fs::symlink("/etc", root.join("conf")).unwrap();
    let failed = port.run(&["start", &shop]).exits(1);
    assert!(failed.text().contains("`conf`"), "{failed}");
    fs::remove_file(root.join("conf")).unwrap();
    let data = port.daemon.home.join("tenants").join(&shop).join("volumes/web/data");
    fs::remove_dir(&data).unwrap();
    fs::write(&data, "a file").unwrap();
    let failed = port.run(&["start", &shop]).exits(1);
    assert!(failed.text().contains("no folder"), "{failed}");
    fs::remove_file(&data).unwrap();
    port.run(&["start", &shop]).ok();
    assert!(Path::new(&root).join("conf").is_dir());
}

#[test]
fn a_container_of_somebody_else_with_that_name_is_left_alone() {
    let port = Port::new();
    let shop = port.init("shop", &format!("web: {{image: '{IMAGE}', cmd: sleep 3600}}\n"));
    sh("docker", &["create", "--name", &port.on("web", "shop"), IMAGE, "true"]);
    let failed = port.run(&["start", &shop]).fails(1, "busy");
    assert!(failed.text().contains("docker r"), "{failed}");
    sh("docker", &["rm", &port.on("web", "shop")]);
    port.run(&["start", &shop]).ok();
}

#[test]
fn without_docker_what_needs_it_says_so_and_other_syncs_work() {
    let dir = scratch();
    let docker = [("MCLOUD_DOCKER".to_owned(), "unix:///nowhere/docker.sock".to_owned())];
    let daemon = Daemon::start_in(&dir.path().join("host"), None, "127.0.0.1:0", &docker);
    let admin = Client::of(&daemon, &dir.path().join("admin"));
    let yml = dir.path().join("mcloud.yml");
    fs::write(&yml, "web: {image: x, data: [/data]}\n").unwrap();
    admin.run(&["init", "shop", yml.to_str().unwrap()]).ok();
    let failed = admin.run(&["start", "shop"]).exits(1);
    assert!(failed.text().contains("Docker does not answer") && failed.text().contains("--docker"), "{failed}");
    let status = admin.run(&["status", "shop"]).ok();
    assert_eq!(status.events[0]["services"][0]["state"], "unknown", "{status}");
    let source = dir.path().join("source");
    fs::create_dir(&source).unwrap();
    fs::write(source.join("a"), "b").unwrap();
    admin.sync(&source, daemon.at("shop"), &["--yes"]).ok().proves();
    // Nothing was ever asked of this one's services; of the other's, and whether they run is not known.
    admin.run(&["init", "still", yml.to_str().unwrap()]).ok();
    admin.sync(&source, format!("web.still@{}:/data", daemon.address), &[]).ok().proves();
    let failed = admin.sync(&source, format!("web.shop@{}:/data", daemon.address), &[]).fails(1, "failed");
    assert!(failed.text().contains("is left as it was") && failed.last()["hint"].is_string(), "{failed}");
    assert_eq!(fs::read_dir(daemon.home.join("tenants/shop/volumes/web/data")).unwrap().count(), 0);
}
