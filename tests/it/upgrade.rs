//! Homes, stores and indexes of other versions: those of before are read and nothing of them is lost, those of later ones are
//! refused without a trace, or (what is a memory only) built anew.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use mcloud::tree::records::{Found, Records};
use mcloud::tree::view::decode_items;
use serde_json::Value;

use crate::common::host::{Client, Daemon, Stage};
use crate::common::oracle::assert_equal;
use crate::common::trees::walk;
use crate::common::{scratch, sh};

fn fixture(of: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/home-10").join(of)
}

/// The fixture's home at a place of its own, with the modes that a checkout does not keep.
fn home_in(dir: &Path) -> PathBuf {
    let home = dir.join("host");
    sh("cp", &["-r", fixture("home").to_str().unwrap(), home.to_str().unwrap()]);
    for key in ["host.key", "admin.key"] {
        fs::set_permissions(home.join("keys").join(key), fs::Permissions::from_mode(0o600)).unwrap();
    }
    home
}

fn no_docker() -> Vec<(String, String)> {
    vec![("MCLOUD_DOCKER".to_owned(), "unix:///nowhere/docker.sock".to_owned())]
}

/// What the time of the day is in, and what of the world is there just now.
const OF_NOW: [&str; 3] = ["last_seen_unix", "next_unix", "why"];

/// Whether all that is in `said` is in `now` as well; more may be.
fn holds(said: &Value, now: &Value) -> bool {
    match (said, now) {
        (Value::Object(said), Value::Object(now)) => said
            .iter()
            .filter(|(name, _)| !OF_NOW.contains(&name.as_str()))
            .all(|(name, value)| now.get(name).is_some_and(|now| holds(value, now))),
        (Value::Array(said), Value::Array(now)) => {
            said.len() == now.len() && said.iter().zip(now).all(|(said, now)| holds(said, now))
        }
        (said, now) => said == now,
    }
}

#[test]
fn a_home_of_the_version_before_is_read_and_all_in_it_is_kept() {
    let dir = scratch();
    let home = home_in(dir.path());
    let mut daemon = Daemon::start_in(&home, None, "127.0.0.1:0", &no_docker());
    let admin = Client::of(&daemon, &dir.path().join("admin"));
    // Once as it is opened first, once as this program has left it.
    for _ in 0..2 {
        for file in fs::read_dir(fixture("said")).unwrap().map(|entry| entry.unwrap().path()) {
            let words = file.file_name().unwrap().to_str().unwrap().replace('_', " ");
            let now = admin.run(&words.split(' ').collect::<Vec<_>>()).ok();
            let said = fs::read_to_string(&file).unwrap();
            let said: Vec<Value> = said.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
            // The audit log grows by what is done here.
            let is_log = words == "audit";
            let at_least = said.len() - usize::from(is_log);
            assert!(now.events.len() >= at_least && (is_log || now.events.len() == at_least), "{words}: {now}");
            for (said, now) in said.iter().zip(&now.events).take(at_least) {
                assert!(holds(said, now), "`{words}` said\n{said}\nand says now\n{now}");
            }
        }
        daemon.stop();
        daemon.again();
    }
    // The store, too: what a snapshot held then.
    let back = dir.path().join("back");
    admin.run(&["snapshot", "verify", "--read-data"]).ok();
    admin.run(&["snapshot", "restore", "latest:next", back.to_str().unwrap(), "--force"]).ok();
    let data = back.join("web.data");
    assert_eq!(fs::read(data.join("folder/text")).unwrap(), b"plain text\n");
    assert_eq!(fs::read(data.join("folder/big")).unwrap(), (0..=255u8).cycle().take(512_000).collect::<Vec<_>>());
    assert_eq!(fs::read_link(data.join("link")).unwrap(), Path::new("folder/text"));
}

#[test]
fn an_index_of_the_version_before_is_read() {
    let dir = scratch();
    for tenant in ["shop", "next", "blog"] {
        let file = dir.path().join(tenant);
        fs::copy(fixture(&format!("home/index/{tenant}/web.data.idx")), &file).unwrap();
        let (records, rows, found) = Records::open(Some(&file)).unwrap();
        assert_eq!(found, Found::Whole, "{tenant}");
        let mut names = Vec::new();
        for row in rows.values() {
            let items = decode_items(&records.read(row.record).unwrap()).unwrap();
            names.extend(items.into_iter().map(|item| String::from_utf8(item.entry.name.to_vec()).unwrap()));
        }
        names.sort();
        assert_eq!(names, ["big", "folder", "link", "page", "second", "text"], "{tenant}");
    }
}

/// All that is in a home, less what any start makes for itself.
fn bytes_of(home: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let files = walk(home).into_iter().filter(|path| path.is_file() && !path.is_symlink());
    let files = files.filter(|path| !path.ends_with("lock") && !path.ends_with("state.db-shm"));
    files.map(|path| (path.clone(), fs::read(&path).unwrap())).collect()
}

#[test]
fn a_home_of_a_newer_version_is_refused_and_not_a_byte_of_it_changes() {
    for in_log in [false, true] {
        let dir = scratch();
        let home = home_in(dir.path());
        let file = home.join("state.db");
        let state = rusqlite::Connection::open(&file).unwrap();
        state.pragma_update(None, "wal_autocheckpoint", 0).unwrap();
        state.pragma_update(None, "user_version", 1000).unwrap();
        if in_log {
            // As its daemon left it that was killed.
            let log = fs::read(home.join("state.db-wal")).unwrap();
            let main = fs::read(&file).unwrap();
            drop(state);
            fs::write(&file, main).unwrap();
            fs::write(home.join("state.db-wal"), log).unwrap();
        } else {
            state.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
            drop(state);
        }
        // A newer one may keep its keys elsewhere.
        fs::remove_dir_all(home.join("keys")).unwrap();
        let before = bytes_of(&home);
        assert_eq!(before.contains_key(&home.join("state.db-wal")), in_log);
        let client = Client::new(&dir.path().join("client"));
        let free = "127.0.0.1:0";
        let words = ["server", "--listen", free, "--http", free, "--https", free, "--admin", free, "--home"];
        let out = client.command(&words).arg(&home).output().unwrap();
        let told = String::from_utf8_lossy(&out.stderr).into_owned();
        assert!(!out.status.success() && told.contains("newer mcloud") && told.contains("1000"), "{told}");
        let after = bytes_of(&home);
        assert!(before.keys().eq(after.keys()), "{:?}", after.keys().collect::<Vec<_>>());
        for (path, bytes) in before {
            assert!(after[&path] == bytes, "{} is another", path.display());
        }
    }
}

#[test]
fn a_store_of_a_newer_version_is_refused_and_not_a_byte_of_it_changes() {
    let dir = scratch();
    let home = home_in(dir.path());
    let format = fs::read_to_string(home.join("store/format")).unwrap();
    assert!(format.starts_with("mcloud store 1\n"));
    fs::write(home.join("store/format"), format.replace("store 1", "store 2")).unwrap();
    let before = bytes_of(&home.join("store"));
    let daemon = Daemon::start_in(&home, None, "127.0.0.1:0", &no_docker());
    let admin = Client::of(&daemon, &dir.path().join("admin"));
    for words in [&["snapshot", "list"][..], &["snapshot", "create", "next"], &["snapshot", "prune"]] {
        let failed = admin.run(words);
        assert!(!failed.status.success() && failed.text().contains("store"), "{failed}");
    }
    let after = bytes_of(&home.join("store"));
    assert!(before == after, "{:?}", after.keys().collect::<Vec<_>>());
}

/// Another version in the first bytes of an index, which for the rest is what this program believes.
fn of_another_version(index: &Path) -> Vec<u8> {
    let mut bytes = fs::read(index).unwrap();
    let head = bytes[..16].to_vec();
    assert!(head.starts_with(b"mcloud index "), "{}", index.display());
    bytes[13] += 1;
    fs::write(index, bytes).unwrap();
    head
}

#[test]
fn an_index_of_a_newer_version_is_not_believed_and_is_built_anew() {
    let stage = Stage::new();
    let from = stage.folder("from");
    for name in 0..20 {
        fs::write(from.join(format!("f{name}")), vec![name; 40_000]).unwrap();
    }
    let sync = || stage.admin.sync(&from, stage.shop(), &["--yes"]).ok().proves();
    sync();
    // What is young is read again.
    std::thread::sleep(std::time::Duration::from_secs(3));
    sync();
    fs::write(from.join("f0"), "another").unwrap();
    let known = sync();
    assert!(known.count("bytes_read") < 40_000, "else this test shows nothing: {known}");
    let all = walk(&stage.admin.cache()).into_iter().chain([stage.daemon.home.join("index/shop/root.idx")]);
    let indexes: Vec<PathBuf> = all.filter(|path| path.extension().is_some_and(|end| end == "idx")).collect();
    assert_eq!(indexes.len(), 2, "the client's and the host's: {indexes:?}");
    let heads: Vec<Vec<u8>> = indexes.iter().map(|index| of_another_version(index)).collect();
    fs::write(from.join("f1"), "another").unwrap();
    let read = sync();
    assert!(read.count("bytes_read") >= 18 * 40_000, "all is read again: {read}");
    let told =
        read.events.iter().filter(|event| event["message"].as_str().is_some_and(|text| text.contains("the index of")));
    assert_eq!(told.count(), 2, "at both ends: {read}");
    assert_equal(&from, &stage.volume, "equal");
    for (index, head) in indexes.iter().zip(heads) {
        assert_eq!(fs::read(index).unwrap()[..16], head, "it is of this version again");
    }
    fs::write(from.join("f2"), "another").unwrap();
    assert!(sync().count("bytes_read") < 40_000, "it is believed");
}
