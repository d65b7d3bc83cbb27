//! What rules do to a whole sync: what they protect stays, and rules that cannot be read stop it before anything changes.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use crate::common::host::{Client, Outcome, Stage};
use crate::common::oracle::{assert_equal, portrait};
use crate::common::{scratch, sh};

struct Pair {
    dir: tempfile::TempDir,
    client: Client,
    source: PathBuf,
    target: PathBuf,
}

fn pair() -> Pair {
    let dir = scratch();
    let (source, target) = (dir.path().join("source"), dir.path().join("target"));
    fs::create_dir(&source).unwrap();
    fs::create_dir(&target).unwrap();
    let client = Client::new(&dir.path().join("client"));
    Pair { dir, client, source, target }
}

fn put(root: &Path, path: &[u8], text: &str) {
    let path = root.join(OsStr::from_bytes(path));
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

fn is_there(root: &Path, path: &[u8]) -> bool {
    root.join(OsStr::from_bytes(path)).symlink_metadata().is_ok()
}

/// Rules, what they protect, and what they do not.
const CASES: [(&[u8], &[u8], &[u8]); 9] = [
    (b"\xef\xbb\xbfkeep\n", b"keep", b"other"),
    (b"caf\xe9\n", b"caf\xe9", b"caf\xc3\xa9"),
    (b"{{app.name}}\n", b"{{app.name}}", b"app.name"),
    (b"*.py{}\n", b"x.py{}", b"x.py"),
    (b"[[:digit:]]*.db\n", b"7x.db", b"x.db"),
    (b"keep\\ \r\n", b"keep ", b"keep"),
    (b"[a\nkeep\n", b"keep", b"[a"),
    (b"/a**/keep\n", b"a/x/keep", b"b/keep"),
    (b"a/\n!a/keep\n", b"a/keep", b"b/keep"),
];

#[test]
fn what_git_would_ignore_is_left_alone_at_the_target_and_nothing_else() {
    let stage = Stage::new();
    for (number, (rules, protected, not)) in CASES.into_iter().enumerate() {
        let shown = rules.escape_ascii();
        let p = pair();
        fs::write(p.source.join(".mcignore"), rules).unwrap();
        put(&p.source, b"f", "the source's");
        let volume = stage.folder(&format!("volume-{number}"));
        let tenant = format!("t{number}");
        stage.init(&tenant, &volume);
        let far: OsString = stage.daemon.at(&tenant).into();
        for (client, to, root) in [(&p.client, p.target.clone().into(), &p.target), (&stage.admin, far, &volume)] {
            put(root, protected, "the target's");
            put(root, not, "the target's");
            let outcome = client.sync(&p.source, &to, &["--yes"]).ok();
            // A folder that stays for what is protected in it is one that the source lacks, and is told so.
            if !protected.contains(&b'/') {
                outcome.proves();
            }
            assert!(is_there(root, protected), "{shown} did not protect {}", protected.escape_ascii());
            assert!(!is_there(root, not), "{shown} protected {}", not.escape_ascii());
            // And on the way back it is not sent.
            let back = p.dir.path().join("back");
            client.sync(&to, &back, &["--yes"]).ok().proves();
            assert!(!is_there(&back, protected) && is_there(&back, b"f"), "{shown}");
            fs::remove_dir_all(back).unwrap();
        }
    }
}

#[test]
fn exclude_reads_patterns_as_mcignore_does_and_wins() {
    let p = pair();
    put(&p.source, b".mcignore", "*.log\n");
    put(&p.source, b"keep.log", "the source's");
    for name in [&b"{a,b}"[..], b"a", b"7x.db", b"x.log"] {
        put(&p.target, name, "the target's");
    }
    let options = ["--yes", "--exclude", "{a,b}", "--exclude", "[[:digit:]]*", "--exclude", "!keep.log"];
    p.client.sync(&p.source, &p.target, &options).ok().proves();
    for (name, expected) in
        [(&b"{a,b}"[..], true), (b"a", false), (b"7x.db", true), (b"x.log", true), (b"keep.log", true)]
    {
        assert_eq!(is_there(&p.target, name), expected, "{}", name.escape_ascii());
    }
    let outcome = p.client.sync(&p.source, &p.target, &["--exclude", "#a"]).fails(2, "usage");
    assert!(outcome.text().contains("comment"), "{outcome}");
}

/// Puts something in place of the rules that are no rules, and says what.
fn break_rules(at: &Path, how: &str) {
    if at.symlink_metadata().is_ok() {
        sh("rm", &["-rf", at.to_str().unwrap()]);
    }
    match how {
        "a link" => {
            fs::write(at.with_file_name("rules"), "keep\n").unwrap();
            symlink("rules", at).unwrap();
        }
        "a link to nothing" => symlink("nowhere", at).unwrap(),
        "a folder" => fs::create_dir(at).unwrap(),
        "a FIFO" => drop(sh("mkfifo", &[at.to_str().unwrap()])),
        "too long" => fs::write(at, "#".repeat((1 << 20) + 1)).unwrap(),
        "too many" => fs::write(at, "a\n".repeat(70_000)).unwrap(),
        "too many wildcards" => fs::write(at, "a*b*c\n".repeat(50_000)).unwrap(),
        other => panic!("{other}"),
    }
}

const BROKEN: [&str; 7] =
    ["a link", "a link to nothing", "a folder", "a FIFO", "too long", "too many", "too many wildcards"];

#[track_caller]
fn stops(outcome: &Outcome, how: &str) {
    assert!(matches!(outcome.status.code(), Some(1 | 2)), "{how}: {outcome}");
    let message = outcome.last()["message"].as_str().unwrap_or_default();
    assert!(message.contains(".mcignore") && outcome.last()["hint"].is_string(), "{how}: {outcome}");
}

#[test]
fn rules_that_cannot_be_read_stop_a_sync_before_anything_changes() {
    let p = pair();
    put(&p.source, b"f", "the source's");
    put(&p.target, b"keep", "the target's");
    for how in BROKEN {
        break_rules(&p.source.join(".mcignore"), how);
        let before = portrait(&p.target);
        stops(&p.client.sync(&p.source, &p.target, &["--force"]), how);
        stops(&p.client.sync(&p.source, p.dir.path().join("new"), &["--yes"]), how);
        assert_eq!(portrait(&p.target), before, "{how}");
    }
    // Put right, it goes on.
    sh("rm", &["-rf", p.source.join(".mcignore").to_str().unwrap()]);
    fs::write(p.source.join(".mcignore"), "keep\n").unwrap();
    p.client.sync(&p.source, &p.target, &["--yes"]).ok().proves();
    assert!(is_there(&p.target, b"keep"));
}

#[test]
fn rules_that_cannot_be_read_stop_whatever_takes_a_tenants_tree() {
    let stage = Stage::new();
    let p = pair();
    put(&p.target, b"keep", "the target's");
    let other = stage.folder("other");
    stage.init("other", &other);
    put(&other, b"keep", "the target's");
    // A tenant for each, since one is held while it is copied.
    for (number, how) in ["a link", "a folder", "too long", "a link"].into_iter().enumerate() {
        let (tenant, volume) = (format!("from{number}"), stage.folder(&format!("volume-{number}")));
        stage.init(&tenant, &volume);
        put(&volume, b"f", "the source's");
        break_rules(&volume.join(".mcignore"), how);
        let (from, to) = (stage.daemon.at(&tenant), stage.daemon.at("other"));
        let outcome = match number {
            0 => stage.admin.sync(&from, &p.target, &["--force"]),
            1 => stage.admin.sync(&from, &to, &["--code", "--force"]),
            2 => stage.admin.sync(&volume, &to, &["--force"]),
            _ => stage.admin.run(&["-h", &stage.daemon.address, "snapshot", "create", &tenant]),
        };
        stops(&outcome, &format!("{how}, {number}"));
    }
    for root in [&p.target, &other] {
        assert!(is_there(root, b"keep") && !is_there(root, b"f"));
    }
}

#[test]
fn rules_that_may_not_be_read_stop_a_sync() {
    let p = pair();
    put(&p.source, b"f", "the source's");
    put(&p.source, b".mcignore", "keep\n");
    put(&p.target, b"keep", "the target's");
    fs::set_permissions(p.source.join(".mcignore"), fs::Permissions::from_mode(0o000)).unwrap();
    let client = Client::new(&p.dir.path().join("stranger")).by_user(54_321);
    for path in [p.dir.path(), &p.source] {
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    sh("chown", &["-R", "54321:54321", p.target.to_str().unwrap()]);
    stops(&client.sync(&p.source, &p.target, &["--force"]), "mode 0");
    assert!(is_there(&p.target, b"keep"));
}

/// The names of what an outcome lists as left out.
fn left_out(outcome: &Outcome) -> Vec<String> {
    let events = outcome.events.iter().filter(|event| event["event"] == "left_out");
    let mut names: Vec<String> = events.map(|event| event["path"].as_str().unwrap().to_owned()).collect();
    names.sort();
    names
}

#[test]
fn what_has_a_stages_name_in_the_source_is_listed_unless_it_is_a_stage() {
    let p = pair();
    put(&p.source, b".mcloud-stage/data", "somebody's");
    put(&p.source, b".mcloud-stage.notes", "somebody's");
    put(&p.source, b"sub/.mcloud-stage/data", "somebody's");
    put(&p.source, b".mcloud-stagecraft", "somebody's");
    // One that an interrupted sync left.
    put(&p.source, b".mcloud-stage.sub/files/0/1", "a stage's");
    fs::set_permissions(p.source.join(".mcloud-stage.sub"), fs::Permissions::from_mode(0o700)).unwrap();
    put(&p.target, b".mcloud-stage.mine", "the target's");
    let outcome = p.client.sync(&p.source, &p.target, &["--yes"]).exits(5);
    assert_eq!(left_out(&outcome), [".mcloud-stage", ".mcloud-stage.notes"], "{outcome}");
    assert!(is_there(&p.target, b".mcloud-stage.mine"));
    assert!(is_there(&p.target, b"sub/.mcloud-stage/data") && is_there(&p.target, b".mcloud-stagecraft"));
    assert!(!is_there(&p.target, b".mcloud-stage.notes") && !is_there(&p.target, b".mcloud-stage.sub"));
    // Who leaves them out himself, or looks elsewhere, is not told.
    p.client.sync(&p.source, &p.target, &["--exclude", ".mcloud-stage*"]).ok().proves();
    p.client.sync(&p.source, &p.target, &["--path", "sub"]).ok().proves();
    assert_equal(&p.source.join("sub"), &p.target.join("sub"), "sub");
}

#[test]
fn names_are_told_so_that_no_two_look_alike() {
    let p = pair();
    let names: [&[u8]; 8] = [b"a\nb", b"a\\nb", b"x\xff", b"x\\xff", b"a\\u{a}b", b"a\\\\nb", b"\xc2\x85", b"\\u{85}"];
    for name in names {
        put(&p.source, name, "");
    }
    let outcome = p.client.sync(&p.source, &p.target, &["--dry-run"]).ok();
    let plan = outcome.events.iter().find(|event| event["event"] == "plan").unwrap();
    let mut first: Vec<&str> =
        plan["created"]["first"].as_array().unwrap().iter().map(|name| name.as_str().unwrap()).collect();
    first.sort_unstable();
    let (_, text) =
        p.client.plain(&[OsStr::new("sync"), p.source.as_os_str(), p.target.as_os_str(), OsStr::new("--dry-run")]);
    let mut expected =
        ["a\\u{a}b", "a\\\\nb", "x\\xff", "x\\\\xff", "a\\\\u{a}b", "a\\\\\\\\nb", "\\u{85}", "\\\\u{85}"];
    expected.sort_unstable();
    // As many as are shown.
    assert!(first.len() >= 5, "{outcome}");
    assert!(first.iter().all(|name| expected.contains(name)), "{first:?}");
    let mut unlike = first.clone();
    unlike.dedup();
    assert_eq!(unlike, first);
    for name in &first {
        assert!(text.lines().any(|line| line.trim_start() == *name), "{name} in {text}");
    }
    assert_eq!(fs::metadata(&p.target).unwrap().nlink(), 2);
}
