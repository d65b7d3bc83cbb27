//! A volume changes only when the engine has told that nothing runs which uses it: whatever goes wrong with the stop, the
//! data is what it was and what ran runs on.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::common::docker::{IMAGE, Port, SLEEP};
use crate::common::host::Outcome;
use crate::common::oracle::{assert_equal, differences};
use crate::common::relay::Relay;
use crate::common::sh;

/// The list of all containers: others ask for those with some labels.
const LIST: &str = "/containers/json?all=true&size=false HTTP";

/// A tenant that runs, with old data in its volume, and new data to be copied there.
struct Stage {
    port: Port,
    shop: String,
    /// A copy of the volume as it was.
    old: PathBuf,
    new: PathBuf,
}

impl Stage {
    fn new(vars: &[(String, String)]) -> Stage {
        let port = Port::with(vars);
        let shop = port.init("shop", &format!("web:\n    image: {IMAGE}\n    cmd: {SLEEP}\n    data: [/data]\n"));
        let (old, new) = (port.dir.path().join("old"), port.dir.path().join("new"));
        for (dir, says) in [(&old, "old"), (&new, "new")] {
            fs::create_dir_all(dir.join("folder")).unwrap();
            for name in ["a", "b", "folder/c"] {
                fs::write(dir.join(name), format!("{says} {name}")).unwrap();
            }
            fs::write(dir.join(says), says).unwrap();
        }
        let stage = Stage { port, shop, old, new };
        stage.sync(&stage.old).ok();
        stage.port.run(&["start", &stage.shop]).ok();
        stage
    }

    fn volume(&self) -> PathBuf {
        self.port.daemon.home.join("tenants").join(&self.shop).join("volumes/web/data")
    }

    fn target(&self) -> String {
        format!("web.{}:/data", self.port.daemon.at(&self.shop))
    }

    fn sync(&self, from: &PathBuf) -> Outcome {
        self.port.admin.sync(from, self.target(), &["--yes"])
    }

    /// The sync fails with these words, the volume is what it was, and its service runs.
    #[track_caller]
    fn is_refused(&self, kind: &str, words: &str) {
        let failed = self.sync(&self.new).fails(1, kind);
        assert!(failed.text().contains(words) && failed.last()["hint"].is_string(), "{failed}");
        assert_equal(&self.old, &self.volume(), "the volume is what it was");
        let state = sh("docker", &["inspect", "--format", "{{.State.Status}}", &self.port.on("web", "shop")]);
        assert_eq!(state.trim(), "running", "{failed}");
    }

    #[track_caller]
    fn is_done(&self) {
        self.sync(&self.new).ok().proves();
        assert_equal(&self.new, &self.volume(), "the volume is new");
        assert_eq!(self.port.state("shop", "web"), "running");
    }
}

/// Removed when this is dropped.
struct Stranger(String);

impl Stranger {
    fn new(stage: &Stage, name: &str, mount: &str) -> Stranger {
        let name = stage.port.name(name);
        sh("docker", &["run", "-d", "--name", &name, "-v", mount, IMAGE, "sleep", "1000"]);
        Stranger(name)
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        let _ = Command::new("docker").args(["rm", "-f", &self.0]).output();
    }
}

#[test]
fn an_engine_that_fails_or_lies_leaves_the_volume_as_it_was_and_its_service_running() {
    let relay = Relay::new();
    let stage = Stage::new(&relay.vars());
    let ever = usize::MAX;
    // It does not tell what runs; it does not stop it; it says that it did, and did not.
    for (part, status, kind, words) in [
        (LIST, 500, "failed", "is not known"),
        ("/stop?", 500, "failed", "is not known"),
        ("/stop?", 204, "busy", "does not stay stopped"),
    ] {
        relay.answer(part, ever, status, "a fault");
        stage.is_refused(kind, words);
        relay.be_honest();
    }
    relay.cut();
    stage.is_refused("failed", "is not known");
    relay.mend();
    stage.is_done();
}

#[test]
fn what_the_engine_does_not_tell_after_the_stop_is_not_taken_for_a_yes() {
    let relay = Relay::new();
    let stage = Stage::new(&relay.vars());
    // The plan asks, the stop asks and stops; the look after it is not answered.
    let before = sh("docker", &["inspect", "--format", "{{.State.StartedAt}}", &stage.port.on("web", "shop")]);
    relay.answer_after("/stop?", LIST, 500);
    stage.is_refused("failed", "is not known");
    relay.be_honest();
    let after = sh("docker", &["inspect", "--format", "{{.State.StartedAt}}", &stage.port.on("web", "shop")]);
    assert_ne!(before, after, "it was stopped, and is started again");
    stage.is_done();
}

#[test]
fn whoever_else_can_write_the_volume_is_in_the_way_and_who_only_reads_it_is_not() {
    let stage = Stage::new(&[]);
    let volume = stage.volume();
    let by_link = stage.port.dir.path().join("link");
    std::os::unix::fs::symlink(&volume, &by_link).unwrap();
    for mount in [format!("{}:/x", volume.display()), format!("{}/folder:/x", by_link.display())] {
        let stranger = Stranger::new(&stage, "stranger", &mount);
        stage.is_refused("busy", &stranger.0);
        let frozen = stage.port.run(&["snapshot", "create", &stage.shop, "--force"]).fails(1, "busy");
        assert!(frozen.text().contains(&stranger.0), "{frozen}");
        // Paused it is none the less there.
        sh("docker", &["pause", &stranger.0]);
        stage.is_refused("busy", &stranger.0);
        sh("docker", &["unpause", &stranger.0]);
    }
    let mut run = stage.port.admin.start(&["run", &stage.port.on("web", "shop"), "sleep", "1000"]);
    let began = Instant::now();
    while !sh("docker", &["ps", "--format", "{{.Names}}"]).contains(&format!("{}.run-", stage.port.on("web", "shop"))) {
        assert!(run.is_running() && began.elapsed() < Duration::from_secs(60), "the command does not come up");
        std::thread::sleep(Duration::from_millis(20));
    }
    stage.is_refused("busy", ".run-");
    drop(run);
    let began = Instant::now();
    while sh("docker", &["ps", "--format", "{{.Names}}"]).contains(".run-") {
        assert!(began.elapsed() < Duration::from_secs(60), "the command does not end");
        std::thread::sleep(Duration::from_millis(20));
    }
    let _reader = Stranger::new(&stage, "reader", &format!("{}:/x:ro", volume.display()));
    let _above = Stranger::new(&stage, "above", &format!("{}:/x", stage.port.dir.path().display()));
    stage.is_done();
}

#[test]
fn a_service_that_is_started_while_its_data_changes_is_told_and_nothing_is_called_equal() {
    let mut stage = Stage::new(&[]);
    stage.port.daemon.kill();
    stage.port.daemon.vars = vec![("FAILPOINTS".to_owned(), "commit.log_written=1*sleep(4000)".to_owned())];
    stage.port.daemon.again();
    stage.port.becomes("shop", "web", "running");
    let web = stage.port.on("web", "shop");
    let syncing = stage.port.admin.start_sync(&stage.new, stage.target(), &["--yes"]);
    let began = Instant::now();
    while sh("docker", &["inspect", "--format", "{{.State.Running}}", &web]).trim() == "true" {
        assert!(began.elapsed() < Duration::from_secs(60), "it is not stopped");
        std::thread::sleep(Duration::from_millis(10));
    }
    // As an engine that was restarted does, or somebody by hand. (Some time after the last look before the change.)
    std::thread::sleep(Duration::from_millis(1000));
    sh("docker", &["start", &web]);
    let failed = syncing.finish().fails(1, "busy");
    assert!(failed.text().contains("was started by somebody else"), "{failed}");
    assert!(failed.events.iter().all(|event| event["event"] != "done"), "{failed}");
    stage.is_done();
}

#[test]
fn services_stay_stopped_on_data_that_is_half_replaced_and_start_when_it_is_whole() {
    let mut stage = Stage::new(&[]);
    stage.port.daemon.kill();
    stage.port.daemon.vars = vec![("FAILPOINTS".to_owned(), "commit.log_written=1*return".to_owned())];
    stage.port.daemon.again();
    stage.port.becomes("shop", "web", "running");
    let failed = stage.sync(&stage.new).exits(1);
    assert!(failed.text().contains("web"), "it says what is stopped\n{failed}");
    assert_eq!(stage.port.state("shop", "web"), "stopped");
    assert_eq!(stage.port.service("shop", "web")["wanted"], "running");
    // The same again finishes it and starts it, though nothing is left to copy.
    stage.is_done();
    assert!(!differences(&stage.old, &stage.volume()).is_empty());
}
