//! Syncs into tenants that run: their services are stopped for it and started after.

use std::fs;

use crate::common::docker::{Port, example};

#[test]
fn the_count_of_one_tenant_is_served_by_another_after_a_sync() {
    let port = Port::new();
    let (a, b) = (port.example("a"), port.example("b"));
    port.run(&["start", &a]).ok();
    port.run(&["start", &b]).ok();
    for views in 1..=5 {
        assert_eq!(port.page("a", "/"), format!("mcloud: {views} views\n"));
    }
    assert_eq!(port.page("b", "/"), "mcloud: 1 views\n");
    let (from, to) = (port.daemon.at(&a), port.daemon.at(&b));

    let dry = port.admin.sync(&from, &to, &["--dry-run"]).ok();
    assert!(dry.text().contains(&format!("stops redis.{b}")), "the plan says so\n{dry}");
    let redis = port.service("b", "redis");
    port.admin.sync(&from, &to, &[]).ok().proves();
    assert_eq!(port.page("b", "/"), "mcloud: 6 views\n");
    assert_eq!(port.page("a", "/views"), "5\n");
    assert_eq!(port.container("b", "redis"), redis["container"].as_str().unwrap());

    // Nothing to copy: nothing is stopped.
    port.page("a", "/");
    port.admin.sync(&from, &to, &["--no-restart"]).ok().proves();
    assert_eq!([port.state("b", "redis"), port.state("b", "web")], ["stopped", "running"]);
    port.run(&["start", &b]).ok();
    assert_eq!(port.page("b", "/views"), "6\n");
}

#[test]
fn code_is_replaced_under_running_services() {
    let port = Port::new();
    let shop = port.example("shop");
    port.run(&["start", &shop]).ok();
    let before = port.container("shop", "web");
    let code = port.dir.path().join("code");
    fs::create_dir(&code).unwrap();
    for file in ["app.py", "run.sh", "mcloud.yml"] {
        let text = fs::read_to_string(example().join(file)).unwrap().replace(" views", " looks");
        fs::write(code.join(file), text).unwrap();
    }
    port.admin.sync(&code, port.daemon.at(&shop), &["--yes"]).ok().proves();
    assert_eq!(port.state("shop", "web"), "running");
    port.run(&["restart", &port.on("web", "shop")]).ok();
    assert_eq!(port.page("shop", "/"), "mcloud: 1 looks\n");
    assert_eq!(port.container("shop", "web"), before);
}
