//! What a sync asks of the kernel, seen with strace: how it names files, when it makes things durable, and what it does when the
//! kernel says no.

use std::fs;
use std::path::Path;

use crate::common::host::Client;
use crate::common::oracle::assert_equal;
use crate::common::versions::{SMALL, nothing_is_torn, version_of};
use crate::common::{Rng, scratch};

/// The lines of a trace of one local sync.
fn trace(dir: &Path, client: &Client, calls: &str, source: &Path, target: &Path) -> Vec<String> {
    let log = dir.join("trace");
    let words = ["strace", "-f", "-s", "4096", "-e", &format!("trace={calls}"), "-o", log.to_str().unwrap()];
    client.clone().under(&words).sync(source, target, &["--force"]).ok().proves();
    let text = String::from_utf8_lossy(&fs::read(&log).unwrap()).into_owned();
    text.lines().map(str::to_owned).collect()
}

#[test]
fn no_file_of_a_tree_is_ever_named_by_a_path_from_outside() {
    // A path is walked by the kernel anew each time, through whatever its owner has made of it by then.
    let dir = scratch();
    let (source, target) = (dir.path().join("source"), dir.path().join("target"));
    let client = Client::new(&dir.path().join("client"));
    for v in 1..=3 {
        version_of(&source, v, SMALL);
        for line in trace(dir.path(), &client, "%file", &source, &target) {
            for root in [&source, &target] {
                // The stage is looked for beside the root's own entries, its last name never followed.
                let staged = format!("{}/.mcloud-stage\"", root.display());
                let inside = format!("{}/", root.display());
                let fine = line.contains("execve") || line.contains(&staged) && line.contains("NOFOLLOW");
                assert!(!line.contains(&inside) || fine, "version {v}: {line}");
            }
            assert!(!line.contains("\"../") && !line.contains("/../"), "version {v}: {line}");
        }
    }
}

#[test]
fn more_than_one_name_at_a_time_is_only_opened_beneath() {
    let dir = scratch();
    let (source, target) = (dir.path().join("source"), dir.path().join("target"));
    let client = Client::new(&dir.path().join("client"));
    for v in 1..=2 {
        version_of(&source, v, SMALL);
        for line in trace(dir.path(), &client, "openat,openat2", &source, &target) {
            // Names of these trees; libraries and /proc are none of them.
            if ["still", "even", "odd", "\"big\""].iter().any(|name| line.contains(name)) {
                let beneath = line.contains("openat2(") && line.contains("RESOLVE_BENEATH");
                let nofollow = line.contains("RESOLVE_NO_SYMLINKS") || line.contains("O_NOFOLLOW");
                let single = line.split('"').nth(1).is_some_and(|path| !path.contains('/'));
                assert!((beneath || single) && nofollow, "version {v}: {line}");
            }
        }
    }
}

#[test]
fn what_is_staged_is_durable_before_the_first_rename_and_the_tree_after_the_last() {
    let dir = scratch();
    let (source, target) = (dir.path().join("source"), dir.path().join("target"));
    let client = Client::new(&dir.path().join("client"));
    version_of(&source, 1, SMALL);
    client.sync(&source, &target, &[]).ok().proves();
    version_of(&source, 2, SMALL);
    let lines = trace(dir.path(), &client, "renameat,renameat2,syncfs,fsync,fdatasync", &source, &target);
    let is_sync = |line: &String| line.contains("sync");
    let is_rename =
        |line: &String| line.contains("rename") && ["still", "even", "odd"].iter().any(|name| line.contains(name));
    let first = lines.iter().position(is_rename);
    let last = lines.iter().rposition(is_rename);
    let (Some(first), Some(last)) = (first, last) else {
        // Moved as whole folders or by links: then the log's rename is the only one.
        assert!(lines.iter().any(is_sync), "nothing was made durable:\n{}", lines.join("\n"));
        return;
    };
    assert!(lines[..first].iter().any(is_sync), "renamed before it was durable:\n{}", lines.join("\n"));
    assert!(lines[last..].iter().any(|line| line.contains("syncfs") || line.contains("fsync")), "{}", lines.join("\n"));
}

/// Calls that change a target, and what a disk or a quota may answer.
const REFUSALS: [(&str, &str); 17] = [
    ("syncfs", "EIO"),
    ("fsync", "EIO"),
    ("fdatasync", "EIO"),
    ("pwrite64", "EIO"),
    ("pwrite64", "ENOSPC"),
    ("copy_file_range", "ENOSPC"),
    ("renameat2", "EIO"),
    ("renameat", "EIO"),
    ("linkat", "EMLINK"),
    ("unlinkat", "EIO"),
    ("mkdirat", "ENOSPC"),
    ("symlinkat", "EDQUOT"),
    ("fchmod", "EIO"),
    ("fchownat", "EIO"),
    ("utimensat", "EIO"),
    ("getdents64", "EIO"),
    ("ftruncate", "ENOSPC"),
];

#[test]
fn whatever_the_kernel_refuses_nothing_is_torn_nothing_is_claimed_and_the_next_sync_is_equal() {
    let mut rng = Rng::new(1);
    let mut refused = 0;
    for (call, error) in REFUSALS {
        for nth in [1, 2, 4 + rng.below(12)] {
            let dir = scratch();
            let (source, target) = (dir.path().join("source"), dir.path().join("target"));
            let client = Client::new(&dir.path().join("client"));
            version_of(&source, 1, SMALL);
            client.sync(&source, &target, &[]).ok().proves();
            version_of(&source, 2, SMALL);
            let inject = format!("inject={call}:error={error}:when={nth}");
            let log = dir.path().join("trace");
            let words = ["strace", "-f", "-o", log.to_str().unwrap(), "-e", &format!("trace={call}"), "-e", &inject];
            let outcome = client.clone().under(&words).sync(&source, &target, &["--force"]);
            let context = format!("{inject}\n{outcome}");
            assert!(matches!(outcome.status.code(), Some(0 | 1 | 5)), "{context}");
            assert!(!outcome.stderr.contains("panicked"), "{context}");
            nothing_is_torn(&target, &context);
            refused += u32::from(fs::read_to_string(&log).is_ok_and(|text| text.contains("(INJECTED)")));
            if outcome.status.code() == Some(0) {
                assert_equal(&source, &target, &context);
            }
            client.sync(&source, &target, &["--force"]).ok().proves();
            assert_equal(&source, &target, &format!("after {context}"));
        }
    }
    println!("{refused} refusals met");
    assert!(refused > 10, "hardly any refusal was met");
}

#[test]
fn a_failed_sync_to_disk_is_a_failed_sync() {
    // What others ignore: the kernel could not write, and says so once.
    for call in ["syncfs", "fsync,fdatasync,syncfs"] {
        let dir = scratch();
        let (source, target) = (dir.path().join("source"), dir.path().join("target"));
        version_of(&source, 1, SMALL);
        let inject = format!("inject={call}:error=EIO");
        let words = ["strace", "-f", "-o", "/dev/null", "-e", &format!("trace={call}"), "-e", &inject];
        let client = Client::new(&dir.path().join("client"));
        let outcome = client.clone().under(&words).sync(&source, &target, &["--force"]);
        assert_eq!(outcome.status.code(), Some(1), "{outcome}");
        client.sync(&source, &target, &[]).ok().proves();
        assert_equal(&source, &target, "after the failure");
    }
}
