//! The command line as people and scripts meet it: usage, help, errors as words and as JSON, exit statuses.

use std::path::Path;

use assert_cmd::Command;
use serde_json::Value;

struct Ran {
    code: i32,
    out: String,
    err: String,
}

/// Runs mcloud with nothing of this machine's user in its environment.
fn mcloud(words: &[&str], vars: &[(&str, &str)]) -> Ran {
    mcloud_in(Path::new("/"), words, vars)
}

fn mcloud_in(dir: &Path, words: &[&str], vars: &[(&str, &str)]) -> Ran {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mcloud"));
    command.env_clear().env("HOME", "/nonexistent").env("MCLOUD_HOME", "/nonexistent/host").current_dir(dir);
    let output = command.envs(vars.iter().copied()).args(words).output().expect("mcloud runs");
    Ran {
        code: output.status.code().expect("an exit status"),
        out: String::from_utf8(output.stdout).expect("text"),
        err: String::from_utf8(output.stderr).expect("text"),
    }
}

/// The last line of standard output, which is the error.
fn error_event(ran: &Ran) -> Value {
    let event: Value = ran.out.lines().last().and_then(|line| serde_json::from_str(line).ok()).expect("an event");
    assert_eq!(event["event"], "error", "{}", ran.out);
    assert!(ran.err.is_empty(), "said twice: {}", ran.err);
    event
}

#[test]
fn help_is_on_standard_output_and_every_command_has_some() {
    let help = mcloud(&["--help"], &[]);
    assert_eq!((help.code, help.err.as_str()), (0, ""));
    for verb in [
        "server",
        "invite",
        "login",
        "whoami",
        "access",
        "audit",
        "init",
        "list",
        "remove",
        "sync",
        "create",
        "start",
        "stop",
        "restart",
        "pause",
        "resume",
        "destroy",
        "rebuild",
        "update",
        "config",
        "status",
        "inspect",
        "logs",
        "exec",
        "run",
        "set",
        "unset",
        "vars",
        "ps",
        "kill",
        "publish",
        "unpublish",
        "routes",
        "cert",
        "completions",
        "man",
    ] {
        assert!(help.out.contains(&format!("\n  {verb} ")), "{verb} is not listed");
        for words in [&["help", verb][..], &[verb, "--help"]] {
            let page = mcloud(words, &[]);
            assert_eq!(page.code, 0, "{words:?}");
            assert!(page.out.contains("Examples:\n  mcloud "), "{words:?} has no example:\n{}", page.out);
        }
    }
    let version = mcloud(&["--version"], &[]);
    assert_eq!((version.code, version.out.trim()), (0, concat!("mcloud ", env!("CARGO_PKG_VERSION"))));
}

#[test]
fn without_a_command_it_shows_help_and_fails() {
    let ran = mcloud(&[], &[]);
    assert_eq!((ran.code, ran.out.as_str()), (2, ""));
    assert!(ran.err.contains("Usage: mcloud"));
}

#[test]
fn usage_errors_are_exit_2_in_words_and_in_json() {
    let ran = mcloud(&["sync", "a"], &[]);
    assert_eq!((ran.code, ran.out.as_str()), (2, ""));
    assert!(ran.err.starts_with("error: ") && ran.err.contains("hint: "), "{}", ran.err);
    let event = error_event(&mcloud(&["sync", "a", "--json"], &[]));
    assert_eq!(event["kind"], "usage");
    assert!(event["message"].as_str().expect("text").contains("<DST>"), "{event}");
    let event = error_event(&mcloud(&["--json", "snyc"], &[]));
    assert!(event["hint"].as_str().expect("text").contains("sync"), "{event}");
    assert_eq!(mcloud(&["--json"], &[]).code, 2);
    error_event(&mcloud(&["--json"], &[]));
}

#[test]
fn the_hosts_flag_is_h_and_stands_anywhere() {
    for words in
        [&["-h", "127.0.0.1:0", "list"][..], &["list", "-h", "127.0.0.1:0"], &["list", "--host", "127.0.0.1:0"]]
    {
        let ran = mcloud(words, &[]);
        assert_eq!(ran.code, 2);
        assert!(ran.err.contains("not a port"), "{}", ran.err);
    }
    let ran = mcloud(&["list"], &[("MCLOUD_HOST", "::1")]);
    assert!(ran.err.contains("MCLOUD_HOST") && ran.err.contains("[::1]"), "{}", ran.err);
    let ran = mcloud(&["-h", "a", "init", "shop@b"], &[]);
    assert!(ran.code == 2 && ran.err.contains("two hosts"), "{}", ran.err);
}

#[test]
fn a_bad_reference_says_what_was_meant() {
    for (words, said) in [
        (&["sync", "a", "my app@me"][..], "my-app"),
        (&["sync", "a/b@c", "d"], "./a/b@c"),
        (&["sync", "a", "app@me:data"], "me:/data"),
        (&["sync", "a", "app@::1"], "[::1]"),
        (&["remove", "web.shop"], "`shop`"),
        (&["init", "shop:/data"], "`shop`"),
    ] {
        let ran = mcloud(words, &[]);
        assert_eq!(ran.code, 2, "{words:?}");
        assert!(ran.err.contains(said), "{words:?}: {}", ran.err);
    }
}

#[test]
fn names_from_outside_cannot_write_on_the_terminal() {
    for words in [
        &["sync", "a", "\u{1b}[2J@me"][..],
        &["\u{1b}[2J"],
        &["sync", "/nowhere/\u{1b}[2J\n", "/tmp/x"],
        &["sync", "a", "b", "--bwlimit", "\u{7}"],
    ] {
        for json in [false, true] {
            let words: Vec<&str> = words.iter().copied().chain(json.then_some("--json")).collect();
            let ran = mcloud(&words, &[]);
            assert_ne!(ran.code, 0);
            let shown = ran.err + &ran.out;
            assert!(!shown.chars().any(|c| c.is_control() && c != '\n'), "{words:?}: {shown:?}");
        }
    }
}

#[test]
fn options_that_make_no_sense_together_are_told() {
    for (words, said) in [
        (&["sync", "a", "b", "--code"][..], "--code"),
        (&["sync", "t@me", "b", "--watch"], "folder of this machine"),
        (&["sync", "a", "b", "--watch", "--dry-run"], "--watch"),
        (&["sync", "a", "b", "--bwlimit", "fast"], "10M"),
        (&["sync", "a", "b", "--path", "../x"], ".."),
        (&["sync", "a", "b", "--path", "/x"], "absolute"),
        (&["invite", "--role", "root"], "deployer"),
        (&["invite", "--role", "admin", "--tenant", "x"], "admin"),
        (&["invite", "--expires", "soon"], "1h"),
        (&["audit", "--since", "yesterday"], "2026-11-23"),
        (&["init", "shop", "--path", "here"], "absolute"),
        (&["server", "--listen", "nowhere"], "ADDR:PORT"),
        (&["list", "-q", "-v"], "cannot be used with"),
    ] {
        let ran = mcloud(words, &[]);
        assert_eq!(ran.code, 2, "{words:?}: {}", ran.err);
        assert!(ran.err.contains(said), "{words:?}: {}", ran.err);
    }
    let ran = mcloud(&["list"], &[("MCLOUD_LOG", "a=b=c")]);
    assert!(ran.code == 2 && ran.err.contains("MCLOUD_LOG"), "{}", ran.err);
    let ran = mcloud(&["server"], &[("MCLOUD_LISTEN", "x")]);
    assert!(ran.code == 2 && ran.err.contains("'x'"), "{}", ran.err);
}

#[test]
fn a_mistake_in_mcloud_yml_is_shown_with_its_place() {
    let dir = tempfile::tempdir().expect("a folder");
    std::fs::write(dir.path().join("mcloud.yml"), "web:\n    imgae: nginx\n").expect("a file");
    let ran = mcloud_in(dir.path(), &["init", "shop"], &[]);
    assert_eq!(ran.code, 2);
    assert!(ran.err.contains("line 2, column 5") && ran.err.contains("did you mean `image`?"), "{}", ran.err);
    let ran = mcloud_in(dir.path(), &["init", "shop", "other.yml"], &[]);
    assert!(ran.code == 1 && ran.err.contains("other.yml"), "{}", ran.err);
    std::fs::write(dir.path().join("mcloud.yml"), b"web:\n  image: \xff\n").expect("a file");
    assert!(mcloud_in(dir.path(), &["init", "shop"], &[]).err.contains("line 2"));
}

#[test]
fn no_daemon_here_is_exit_4_with_what_to_do() {
    let ran = mcloud(&["list"], &[]);
    assert_eq!(ran.code, 4, "{}", ran.err);
    assert!(ran.err.contains("hint: ") && ran.err.contains("mcloud server"), "{}", ran.err);
    assert_eq!(error_event(&mcloud(&["list", "--json"], &[]))["kind"], "unreachable");
}

#[test]
fn completions_and_manual_pages_are_written() {
    for shell in ["bash", "zsh", "fish"] {
        let ran = mcloud(&["completions", shell], &[]);
        assert!(ran.code == 0 && ran.out.contains("bwlimit"), "{shell}");
    }
    let dir = tempfile::tempdir().expect("a folder");
    let pages = dir.path().join("man1");
    assert_eq!(mcloud(&["man", pages.to_str().expect("a plain path")], &[]).code, 0);
    let page = std::fs::read_to_string(pages.join("mcloud-sync.1")).expect("a page");
    assert!(page.starts_with(".ie") && page.contains("MCLOUD\\-SYNC") || page.contains("MCLOUD-SYNC"), "{page}");
    assert!(pages.join("mcloud-access-revoke.1").is_file());
}

#[test]
fn two_folders_sync_with_no_home_and_no_daemon() {
    let dir = tempfile::tempdir().expect("a folder");
    std::fs::create_dir(dir.path().join("a")).expect("a folder");
    std::fs::write(dir.path().join("a/file"), "x").expect("a file");
    let ran = mcloud_in(dir.path(), &["sync", "a", "b"], &[("HOME", "")]);
    assert_eq!((ran.code, ran.err.as_str()), (0, ""));
    assert_eq!(std::fs::read_to_string(dir.path().join("b/file")).expect("a file"), "x");
    for words in [["sync", "a", "a"], ["sync", "a", "a/in"], ["sync", "a", "."]] {
        assert_eq!(mcloud_in(dir.path(), &words, &[]).code, 3, "{words:?}");
    }
}
