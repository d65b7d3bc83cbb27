//! Every call that changes the target's tree fails, with every error that its manual page names: at each of its places, once
//! and for good. Each time the tree is the old one or the new one, or the change is finished by the next sync; and trees
//! are told to be equal only where they are. The errors come from the kernel's side of the call (strace injects them).

use std::fs;
use std::path::Path;

use crate::common::host::Client;
use crate::common::oracle::{assert_equal, differences};
use crate::common::{scratch, sh};

/// Two versions of a tree whose difference needs every kind of change.
fn versions(dir: &Path) {
    let (old, new) = (dir.join("old"), dir.join("new"));
    for folder in ["kept", "moves/below", "leaves/below"] {
        fs::create_dir_all(old.join(folder)).unwrap();
    }
    for (path, text) in [
        ("a", "one"),
        ("kept/b", "two"),
        ("gone", "three"),
        ("moves/below/m", "a file that moves with its folder"),
        ("kept/wanders", "a file that moves alone"),
        ("leaves/below/l", "five"),
    ] {
        fs::write(old.join(path), text).unwrap();
    }
    fs::hard_link(old.join("a"), old.join("kept/further")).unwrap();
    sh("cp", &["-a", old.to_str().unwrap(), new.to_str().unwrap()]);
    fs::remove_file(new.join("gone")).unwrap();
    fs::remove_dir_all(new.join("leaves")).unwrap();
    fs::rename(new.join("moves"), new.join("moved")).unwrap();
    fs::rename(new.join("kept/wanders"), new.join("wandered")).unwrap();
    // All names of the file change with it.
    fs::write(new.join("a"), "one, and longer").unwrap();
    fs::write(new.join("kept/b"), "two, and longer").unwrap();
    fs::create_dir_all(new.join("comes/below")).unwrap();
    fs::write(new.join("comes/below/c"), "six").unwrap();
    fs::hard_link(new.join("comes/below/c"), new.join("kept/c")).unwrap();
    sh("setfattr", &["-n", "user.mark", "-v", "new", new.join("kept/b").to_str().unwrap()]);
    sh("touch", &["-d", "2001-02-03 04:05:06.789", new.join("kept").to_str().unwrap()]);
}

/// Makes `call` fail with each of `errors`, at each of its first places, and looks at what comes of it.
fn fails(call: &str, errors: &[&str], places: u32) {
    let dir = scratch();
    versions(dir.path());
    let (old, new, target) = (dir.path().join("old"), dir.path().join("new"), dir.path().join("target"));
    let mut met = 0;
    for (error, place) in errors.iter().flat_map(|error| (1..=places).map(move |place| (error, place))) {
        // Once, and from there on (at the first places: what may pass is waited for each time).
        for more in ["", "+"].into_iter().take(if place <= 2 { 2 } else { 1 }) {
            let what = format!("{call}:error={error}:when={place}{more}");
            let client = Client::new(&dir.path().join("client"));
            sh("rm", &["-rf", target.to_str().unwrap(), dir.path().join(".mcloud-stage.target").to_str().unwrap()]);
            sh("cp", &["-a", old.to_str().unwrap(), target.to_str().unwrap()]);
            let words =
                ["strace", "-f", "-o", "/dev/null", "-e", &format!("trace={call}"), "-e", &format!("inject={what}")];
            let outcome =
                client.clone().under(&words).run(&["sync", new.to_str().unwrap(), target.to_str().unwrap(), "--yes"]);
            let is_new = differences(&new, &target).is_empty();
            let is_old = differences(&old, &target).is_empty();
            let log = dir.path().join(".mcloud-stage.target/log");
            let last = outcome.last();
            let claims = last["root_target"].is_string() && last["root_target"] == last["root_source"];
            assert!(is_new || !claims, "{what}: told to be equal, and is not\n{outcome}");
            match outcome.status.code() {
                Some(0) => assert!(is_new, "{what}: status 0, and not the new tree\n{outcome}"),
                Some(5) => assert!(is_new || !claims, "{what}\n{outcome}"),
                _ => assert!(
                    is_new || is_old || log.exists(),
                    "{what}: neither old nor new, and nothing to finish it\n{outcome}"
                ),
            }
            met += u32::from(!outcome.status.success());
            client.sync(&new, &target, &["--yes"]).ok().proves();
            assert_equal(&new, &target, &format!("{what}: after the next sync"));
        }
    }
    assert!(met > 0, "{call}: no error was ever met");
}

const ANY: [&str; 5] = ["EIO", "ENOMEM", "EINTR", "EACCES", "EPERM"];

#[test]
fn renames_that_fail_are_finished_or_told() {
    let more = [
        "EBUSY",
        "EDQUOT",
        "EINVAL",
        "EISDIR",
        "ELOOP",
        "EMLINK",
        "ENAMETOOLONG",
        "ENOENT",
        "ENOSPC",
        "ENOTDIR",
        "ENOTEMPTY",
        "EROFS",
        "EXDEV",
    ];
    fails("renameat", &[&ANY[..], &more[..]].concat(), 8);
}

#[test]
fn removals_that_fail_are_finished_or_told() {
    let more = ["EBUSY", "EISDIR", "ELOOP", "ENAMETOOLONG", "ENOENT", "ENOTDIR", "ENOTEMPTY", "EROFS"];
    fails("unlinkat", &[&ANY[..], &more[..]].concat(), 8);
}

#[test]
fn links_that_fail_are_finished_or_told() {
    let more = ["EDQUOT", "EEXIST", "ELOOP", "EMLINK", "ENAMETOOLONG", "ENOENT", "ENOSPC", "ENOTDIR", "EROFS", "EXDEV"];
    fails("linkat", &[&ANY[..], &more[..]].concat(), 3);
}

#[test]
fn folders_that_cannot_be_opened_are_met_again_or_told() {
    let more = ["EAGAIN", "EMFILE", "ENFILE", "ENOENT", "ENOTDIR", "ELOOP", "EXDEV"];
    fails("openat2", &[&ANY[..], &more[..]].concat(), 12);
}

#[test]
fn metadata_that_is_refused_is_told() {
    fails("utimensat", &["EACCES", "EPERM", "EROFS", "EIO", "ENOMEM"], 8);
    fails("fsetxattr,lsetxattr,setxattr", &["EDQUOT", "ENOSPC", "EPERM", "EOPNOTSUPP", "ERANGE", "EIO"], 2);
}

#[test]
fn what_is_not_durable_is_not_done() {
    fails("syncfs", &["EIO", "ENOSPC", "EDQUOT"], 3);
    fails("fsync", &["EIO", "ENOSPC", "EDQUOT", "EROFS"], 4);
}
