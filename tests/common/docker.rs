//! Tenants on the machine's own Docker: the image they run, names that nobody else has, and nothing left behind.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use super::host::{Client, Daemon, Outcome};
use super::{scratch, sh};

pub const IMAGE: &str = "mcloud-example/flask-redis:1";

/// What does nothing and ends when it is told to: the first process of a container ignores SIGTERM where it does not say.
pub const SLEEP: &str = "\"trap 'exit 0' TERM; sleep 3600 & wait\"";

pub fn example() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/flask-redis")
}

/// Docker answers and has the image; a test that cannot have them fails.
fn ready() {
    static READY: OnceLock<()> = OnceLock::new();
    READY.get_or_init(|| {
        let answers = Command::new("docker").args(["version", "--format", "{{.Server.APIVersion}}"]).output();
        assert!(
            answers.is_ok_and(|out| out.status.success()),
            "Docker does not answer: `make test` installs and starts it where it may"
        );
        sh(example().join("image.sh").to_str().expect("a plain path"), &[]);
    });
}

/// A daemon with tenants that run. Dropped, their containers and networks go.
pub struct Port {
    pub daemon: Daemon,
    pub admin: Client,
    pub dir: tempfile::TempDir,
    names: String,
}

impl Port {
    pub fn new() -> Port {
        let dir = scratch();
        let home = dir.path().join("host");
        Port::made(dir, &home, &[])
    }

    /// With the daemon's home in a folder of the caller's choice.
    pub fn at(dir: tempfile::TempDir, home: &Path) -> Port {
        Port::made(dir, home, &[])
    }

    /// With variables in the daemon's environment.
    pub fn with(vars: &[(String, String)]) -> Port {
        let dir = scratch();
        let home = dir.path().join("host");
        Port::made(dir, &home, vars)
    }

    fn made(dir: tempfile::TempDir, home: &Path, vars: &[(String, String)]) -> Port {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        ready();
        let daemon = Daemon::start_in(home, None, "127.0.0.1:0", vars);
        let admin = Client::of(&daemon, &dir.path().join("admin"));
        let names = format!("t{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        Port { daemon, admin, dir, names }
    }

    /// This test's name for a tenant.
    pub fn name(&self, tenant: &str) -> String {
        format!("{}-{tenant}", self.names)
    }

    pub fn on(&self, service: &str, tenant: &str) -> String {
        format!("{service}.{}", self.name(tenant))
    }

    pub fn run(&self, words: &[&str]) -> Outcome {
        self.admin.run(words)
    }

    pub fn yml(&self, name: &str, text: &str) -> String {
        let file = self.dir.path().join(format!("{name}.yml"));
        std::fs::write(&file, text).expect("a file");
        file.to_str().expect("a plain path").to_owned()
    }

    /// A tenant from the text of an mcloud.yml.
    pub fn init(&self, tenant: &str, yml: &str) -> String {
        let name = self.name(tenant);
        self.run(&["init", &name, &self.yml(tenant, yml)]).ok();
        name
    }

    /// The example as a tenant, with its code.
    pub fn example(&self, tenant: &str) -> String {
        let name = self.name(tenant);
        self.run(&["init", &name, example().join("mcloud.yml").to_str().expect("a plain path")]).ok();
        self.admin.sync(example(), self.daemon.at(&name), &["--yes"]).ok();
        name
    }

    /// What `status` says of a service.
    pub fn service(&self, tenant: &str, service: &str) -> serde_json::Value {
        let status = self.run(&["status", &self.name(tenant)]).ok();
        let services = status.events[0]["services"].as_array().cloned().unwrap_or_default();
        services.into_iter().find(|one| one["service"] == service).unwrap_or_else(|| panic!("no {service}\n{status}"))
    }

    pub fn state(&self, tenant: &str, service: &str) -> String {
        self.service(tenant, service)["state"].as_str().unwrap_or_default().to_owned()
    }

    pub fn container(&self, tenant: &str, service: &str) -> String {
        self.service(tenant, service)["container"].as_str().unwrap_or_default().to_owned()
    }

    /// A page of a tenant's web service.
    pub fn page(&self, tenant: &str, path: &str) -> String {
        let ip = self.service(tenant, "web")["ip"].as_str().unwrap_or_default().to_owned();
        super::host::http(&ip, 5000, path)
    }

    /// Waits until a service is in a state.
    pub fn becomes(&self, tenant: &str, service: &str, state: &str) {
        let began = Instant::now();
        while self.state(tenant, service) != state {
            assert!(began.elapsed() < Duration::from_secs(60), "{service}.{tenant} never was {state}");
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

impl Drop for Port {
    fn drop(&mut self) {
        self.daemon.kill();
        let list = |kind: &[&str]| sh("docker", kind);
        let names = list(&["ps", "-a", "--format", "{{.Names}}"]);
        let ours = |name: &&str| name.split('.').any(|part| part.starts_with(&format!("{}-", self.names)));
        for name in names.lines().filter(ours) {
            // One that is frozen takes its time to die.
            let _ = Command::new("docker").args(["unpause", name]).output();
            let _ = Command::new("docker").args(["rm", "-f", "-v", name]).output();
        }
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        for mount in mounts.lines().filter_map(|line| line.split(' ').nth(1)) {
            if mount.starts_with("/run/mcloud/") && mount.contains(&format!("/{}-", self.names)) {
                let _ = Command::new("umount").args(["-l", mount]).output();
                let _ = std::fs::remove_dir(mount).or_else(|_| std::fs::remove_file(mount));
                for above in Path::new(mount).ancestors().skip(1).take(2) {
                    let _ = std::fs::remove_dir(above);
                }
            }
        }
        for name in list(&["network", "ls", "--format", "{{.Name}}"]).lines().filter(ours) {
            let _ = Command::new("docker").args(["network", "rm", name]).output();
        }
    }
}
