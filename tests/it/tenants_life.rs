//! Tenants on the real Docker: from an mcloud.yml to containers that serve, through every state, and back.

use std::fs;

use crate::common::docker::{IMAGE, Port, SLEEP, example};
use crate::common::sh;

/// Two services that do nothing but live.
fn sleepers() -> String {
    format!(
        "one:\n    image: {IMAGE}\n    cmd: {SLEEP}\n    data: [/data]\n    volumes: {{.: /code}}\ntwo:\n    image: {IMAGE}\n    cmd: {SLEEP}\n"
    )
}

#[test]
fn the_example_starts_counts_is_paused_restarted_and_keeps_its_count() {
    let port = Port::new();
    let shop = port.example("shop");
    port.run(&["start", &shop]).ok();
    assert_eq!(port.page("shop", "/"), "mcloud: 1 views\n");
    assert_eq!(port.page("shop", "/"), "mcloud: 2 views\n");

    port.run(&["pause", &shop]).ok();
    assert_eq!([port.state("shop", "redis"), port.state("shop", "web")], ["paused", "paused"]);
    port.run(&["pause", &shop]).ok();
    port.run(&["resume", &shop]).ok();
    assert_eq!(port.page("shop", "/views"), "2\n");

    port.run(&["restart", &shop]).ok();
    assert_eq!(port.page("shop", "/views"), "2\n");
    port.run(&["destroy", &shop]).ok();
    assert_eq!(port.state("shop", "redis"), "absent");
    port.run(&["start", &shop]).ok();
    assert_eq!(port.page("shop", "/views"), "2\n", "destroy keeps the data");

    // An update recreates just what changed.
    let redis = port.container("shop", "redis");
    let yml = fs::read_to_string(example().join("mcloud.yml")).unwrap().replace("\"mcloud\"", "\"new\"");
    port.run(&["update", &shop, &port.yml("new", &yml)]).ok();
    assert_eq!(port.page("shop", "/"), "new: 3 views\n");
    assert_eq!(port.container("shop", "redis"), redis);
    let again = port.run(&["update", &shop, &port.yml("new", &yml)]).ok();
    assert!(again.text().contains("no container had to change"), "{again}");

    port.run(&["destroy", "--scrub-data", &shop]).ok();
    port.run(&["start", &shop]).ok();
    assert_eq!(port.page("shop", "/views"), "0\n", "--scrub-data does not");
    port.run(&["remove", &shop, "--scrub-data"]).ok();
    assert!(!sh("docker", &["ps", "-a", "--format", "{{.Names}}"]).contains(&shop));
    assert!(!sh("docker", &["network", "ls", "--format", "{{.Name}}"]).contains(&shop));
}

#[test]
fn one_service_alone_is_created_started_and_stopped() {
    let port = Port::new();
    let shop = port.init("shop", &sleepers());
    let one = port.on("one", "shop");
    port.run(&["create", &shop]).ok();
    assert_eq!([port.state("shop", "one"), port.state("shop", "two")], ["created", "created"]);
    port.run(&["start", &one]).ok();
    assert_eq!([port.state("shop", "one"), port.state("shop", "two")], ["running", "created"]);
    port.run(&["start", &shop]).ok();
    port.run(&["stop", &one]).ok();
    assert_eq!([port.state("shop", "one"), port.state("shop", "two")], ["stopped", "running"]);
    let missing = port.run(&["stop", &port.on("three", "shop")]).fails(1, "not_found");
    assert!(missing.text().contains("one, two"), "{missing}");
    // A service that the new mcloud.yml lacks goes; one that is new runs as the others do.
    let yml = sleepers().replace("two:", "three:");
    port.run(&["update", &shop, &port.yml("new", &yml)]).ok();
    assert_eq!(port.state("shop", "three"), "running");
    assert!(!sh("docker", &["ps", "-a", "--format", "{{.Names}}"]).contains(&port.on("two", "shop")));
}

#[test]
fn a_daemon_that_starts_again_brings_each_tenant_back_to_what_was_asked() {
    let mut port = Port::new();
    for (tenant, verb) in [("run", None), ("stop", Some("stop")), ("pause", Some("pause"))] {
        let name = port.init(tenant, &sleepers());
        port.run(&["start", &name]).ok();
        if let Some(verb) = verb {
            port.run(&[verb, &name]).ok();
        }
    }
    port.daemon.kill();
    // What a host that starts again finds: nothing runs, and one container is gone altogether.
    for tenant in ["run", "stop", "pause"] {
        for service in ["one", "two"] {
            let _ = std::process::Command::new("docker").args(["kill", &port.on(service, tenant)]).output();
        }
    }
    sh("docker", &["rm", "-f", &port.on("two", "run")]);
    port.daemon.again();
    for service in ["one", "two"] {
        port.becomes("run", service, "running");
        port.becomes("pause", service, "paused");
        assert_eq!(port.state("stop", service), "stopped");
    }
}

#[test]
fn a_network_that_was_removed_is_made_again_and_services_find_each_other_by_name() {
    let port = Port::new();
    let shop = port.init("shop", &sleepers());
    port.run(&["start", &shop]).ok();
    port.run(&["exec", &port.on("two", "shop"), "getent", "hosts", "one"]).ok();
    port.run(&["stop", &shop]).ok();
    sh("docker", &["network", "rm", &format!("mcloud.{shop}")]);
    port.run(&["start", &shop]).ok();
    port.run(&["exec", &port.on("two", "shop"), "getent", "hosts", "one"]).ok();
    // Another tenant's services are not to be found.
    let other = port.init("other", "lone:\n    image: mcloud-example/flask-redis:1\n    cmd: sleep 3600\n");
    port.run(&["start", &other]).ok();
    assert_ne!(port.run(&["exec", &port.on("lone", "other"), "getent", "hosts", "one"]).status.code(), Some(0));
}

#[test]
fn images_are_built_from_a_folder_or_a_text_and_what_they_declare_holds() {
    let port = Port::new();
    let yml = format!(
        "text:\n    dockerfile: |\n        FROM {IMAGE}\n        VOLUME /state\n        HEALTHCHECK --interval=1s CMD test -e /state/up\n        CMD [\"sh\", \"-c\", \"sleep 1; touch /state/up; sleep 3600\"]\nfolder:\n    build: image\n"
    );
    let shop = port.init("shop", &yml);
    let missing = port.run(&["start", &port.on("folder", "shop")]).fails(1, "not_found");
    assert!(missing.text().contains("`image`"), "{missing}");
    let code = port.dir.path().join("code");
    fs::create_dir_all(code.join("image")).unwrap();
    fs::write(code.join("image/Dockerfile"), format!("FROM {IMAGE}\nCOPY hello /hello\nCMD [\"sleep\", \"3600\"]\n"))
        .unwrap();
    fs::write(code.join("image/hello"), "hello\n").unwrap();
    port.admin.sync(&code, port.daemon.at(&shop), &["--no-remove"]).ok();
    let started = port.run(&["start", &shop]).ok();
    let shown = |event: &serde_json::Value| event["text"].as_str().is_some_and(|text| text.starts_with("Step 1/"));
    assert!(started.events.iter().any(shown), "the build's output is shown\n{started}");
    assert_eq!(port.service("shop", "text")["health"], "healthy");
    let hello = port.run(&["exec", &port.on("folder", "shop"), "cat", "/hello"]).ok();
    assert_eq!(hello.events[0]["text"], "hello\n");
    // The volume that the image declares is one that can be copied.
    let got = port.dir.path().join("got");
    fs::create_dir(&got).unwrap();
    port.admin.sync(format!("{}@{}:/state", port.on("text", "shop"), port.daemon.address), &got, &[]).ok().proves();
    assert!(got.join("up").exists());
    // Rebuilt, it has what is there now.
    fs::write(code.join("image/hello"), "again\n").unwrap();
    port.admin.sync(&code, port.daemon.at(&shop), &["--no-remove"]).ok();
    port.run(&["rebuild", &port.on("folder", "shop")]).ok();
    let hello = port.run(&["exec", &port.on("folder", "shop"), "cat", "/hello"]).ok();
    assert_eq!(hello.events[0]["text"], "again\n");
    for image in sh("docker", &["image", "ls", "-q", "--filter", &format!("label=mcloud.tenant={shop}")]).lines() {
        let _ = std::process::Command::new("docker").args(["rmi", "-f", image]).output();
    }
}

#[test]
fn start_with_init_makes_the_tenant_of_this_folder() {
    let port = Port::new();
    let folder = port.dir.path().join(port.name("here"));
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("mcloud.yml"), sleepers()).unwrap();
    let mut command = port.admin.command(&["start", "--init"]);
    assert!(command.current_dir(&folder).status().unwrap().success());
    assert_eq!(port.state("here", "one"), "running");
}
