//! Snapshots in a bucket: a real S3 server in a process of its own, what it holds, what it loses.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::common::host::{Client, Daemon, Outcome};
use crate::common::oracle::assert_equal;
use crate::common::trees::{Shape, grow};
use crate::common::{Rng, scratch};

/// moto's S3 server with one bucket, `snaps`.
struct Bucket {
    server: Child,
    address: String,
}

impl Drop for Bucket {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

impl Bucket {
    fn start() -> Bucket {
        let repo = Path::new(env!("CARGO_MANIFEST_DIR"));
        let moto = repo.join("target/moto/bin");
        if !moto.join("moto_server").exists() {
            // `make test` has done this already; by one at a time.
            let made = Command::new("flock").args(["Makefile", "make", "moto"]).current_dir(repo).status();
            assert!(made.expect("flock runs").success());
        }
        assert!(moto.join("moto_server").exists(), "the S3 server is not installed: `make moto`");
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let server = Command::new(moto.join("moto_server"))
            .args(["-H", "127.0.0.1", "-p", &port.to_string()])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("moto_server starts");
        let bucket = Bucket { server, address: format!("127.0.0.1:{port}") };
        let began = Instant::now();
        while std::net::TcpStream::connect(&bucket.address).is_err() {
            assert!(began.elapsed() < Duration::from_secs(60), "moto_server does not listen");
            std::thread::sleep(Duration::from_millis(20));
        }
        bucket.request("PUT", "/snaps");
        bucket
    }

    /// One request; moto looks at no signature, but wants one.
    fn request(&self, method: &str, path: &str) -> String {
        let out = Command::new("python3")
            .args([
                "-c",
                "import sys, urllib.request as u\n\
                 who = 'AWS4-HMAC-SHA256 Credential=a/20260101/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=x'\n\
                 wanted = u.Request(sys.argv[2], method=sys.argv[1], headers={'Authorization': who})\n\
                 print(u.urlopen(wanted).read().decode(errors='replace'))",
                method,
                &format!("http://{}{path}", self.address),
            ])
            .output()
            .expect("python3 runs");
        assert!(out.status.success(), "{method} {path}: {}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8_lossy(&out.stdout).into_owned()
    }

    /// The keys of all objects, with their sizes.
    fn objects(&self) -> Vec<(String, u64)> {
        let listing = self.request("GET", "/snaps?list-type=2");
        let between = |text: &str, tag: &str| -> String {
            let (_, rest) = text.split_once(&format!("<{tag}>")).unwrap_or_default();
            rest.split_once('<').unwrap_or_default().0.to_owned()
        };
        let contents = listing.split("<Contents>").skip(1);
        contents.map(|part| (between(part, "Key"), between(part, "Size").parse().unwrap_or(0))).collect()
    }

    fn daemon(&self, dir: &Path, more: &[(&str, &str)]) -> Daemon {
        let mut vars: Vec<(String, String)> = [
            ("MCLOUD_STORE", "s3://snaps/hosts/one"),
            ("AWS_ACCESS_KEY_ID", "a"),
            ("AWS_SECRET_ACCESS_KEY", "b"),
            ("AWS_REGION", "us-east-1"),
            ("AWS_ENDPOINT", &format!("http://{}", self.address)),
            ("AWS_ALLOW_HTTP", "true"),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .to_vec();
        vars.extend(more.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        Daemon::start_in(&dir.join("host"), None, "127.0.0.1:0", &vars)
    }
}

struct Host {
    daemon: Daemon,
    admin: Client,
}

impl Host {
    fn run(&self, words: &[&str]) -> Outcome {
        self.admin.run(&[&["-h", &self.daemon.address], words].concat())
    }

    fn take(&self) -> String {
        let taken = self.run(&["snapshot", "create", "shop"]).ok();
        taken.done()["snapshot"].as_str().expect("an id").to_owned()
    }

    fn back(&self, id: &str, to: &Path) {
        fs::create_dir_all(to).unwrap();
        self.run(&["snapshot", "restore", id, to.to_str().unwrap(), "--force"]).ok().proves();
    }
}

fn tree(dir: &Path) -> PathBuf {
    let volume = dir.join("volume");
    fs::create_dir(&volume).unwrap();
    grow(&volume, &mut Rng::new(7), &Shape::USUAL);
    fs::write(volume.join("told"), "nobody reads this in the bucket ".repeat(2000)).unwrap();
    volume
}

#[test]
fn a_bucket_holds_snapshots_sealed_and_what_it_loses_is_named_and_put_back() {
    let bucket = Bucket::start();
    let dir = scratch();
    let volume = tree(dir.path());
    let daemon = bucket.daemon(dir.path(), &[]);
    let mut host = Host { admin: Client::of(&daemon, &dir.path().join("admin")), daemon };
    host.run(&["init", "shop", "--path", volume.to_str().unwrap()]).ok();
    let id = host.take();
    host.back(&id, &dir.path().join("back"));
    assert_equal(&volume, &dir.path().join("back"), "out of the bucket");
    host.run(&["snapshot", "verify", "--read-data"]).ok();
    let objects = bucket.objects();
    assert!(objects.iter().any(|(key, _)| key == &format!("hosts/one/snapshots/{id}")), "{objects:?}");
    assert!(host.daemon.home.join("keys/store.key").exists(), "it is sealed unless that is refused");
    for (key, _) in objects.iter().filter(|(key, _)| !key.ends_with("/format")) {
        assert!(!bucket.request("GET", &format!("/snaps/{key}")).contains("shop"), "{key} can be read");
    }

    // The bucket loses its largest pack.
    let packs = objects.iter().filter(|(key, _)| key.contains("/packs/"));
    let (lost, _) = packs.max_by_key(|(_, size)| *size).expect("a pack");
    bucket.request("DELETE", &format!("/snaps/{lost}"));
    let found = host.run(&["snapshot", "verify"]).fails(1, "corrupt");
    let named = |event: &Value| event["file"].as_str().is_some_and(|file| lost.ends_with(file));
    assert!(found.events.iter().any(named), "{found}");
    assert!(found.events.iter().any(|event| event["snapshot"] == id.as_str() && event["path"] == "told"), "{found}");
    host.take();
    host.run(&["snapshot", "verify", "--read-data"]).ok();
    host.back(&id, &dir.path().join("healed"));
    assert_equal(&volume, &dir.path().join("healed"), "put back");

    // Another machine with the key has nothing but the bucket.
    host.daemon.stop();
    fs::remove_dir_all(host.daemon.home.join("store-cache")).unwrap();
    host.daemon.again();
    host.back(&id, &dir.path().join("anew"));
    assert_equal(&volume, &dir.path().join("anew"), "with the index built anew");
    host.run(&["snapshot", "remove", &id]).ok();
    host.run(&["snapshot", "prune", "--keep-last", "1"]).ok();
    host.run(&["snapshot", "verify", "--read-data"]).ok();
}

#[test]
fn a_bucket_is_opened_as_it_was_made_and_one_that_is_away_is_said_to_be() {
    let bucket = Bucket::start();
    let dir = scratch();
    let volume = tree(dir.path());
    let daemon = bucket.daemon(dir.path(), &[("MCLOUD_STORE_PLAIN", "true")]);
    let mut host = Host { admin: Client::of(&daemon, &dir.path().join("admin")), daemon };
    host.run(&["init", "shop", "--path", volume.to_str().unwrap()]).ok();
    let id = host.take();
    host.back(&id, &dir.path().join("back"));
    assert_equal(&volume, &dir.path().join("back"), "out of a plain bucket");
    host.daemon.stop();
    host.daemon = bucket.daemon(dir.path(), &[]);
    host.run(&["snapshot", "list"]).fails(3, "refused");
    host.daemon.stop();
    let away = [("AWS_ENDPOINT", "http://127.0.0.1:9")];
    host.daemon = bucket.daemon(dir.path(), &away);
    let words = host.run(&["snapshot", "list"]).exits(1).text();
    assert!(words.contains("s3://snaps/hosts/one"), "{words}");
}
