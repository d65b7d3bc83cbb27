//! The way to a source and a target: a link of another user does not lead there.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown, lchown, symlink};

use crate::common::host::Client;
use crate::common::oracle::assert_equal;
use crate::common::scratch;

const NOBODY: u32 = 65534;

#[test]
fn a_link_of_another_user_leads_neither_to_a_source_nor_to_a_target() {
    let dir = scratch();
    let at = |name: &str| dir.path().join(name);
    let client = Client::new(&at("client"));
    for name in ["source", "home", "out/below"] {
        fs::create_dir_all(at(name)).unwrap();
    }
    fs::write(at("source/file"), "1").unwrap();
    fs::write(at("out/precious"), "kept").unwrap();
    fs::write(at("out/below/precious"), "kept").unwrap();
    chown(at("home"), Some(NOBODY), Some(NOBODY)).unwrap();
    symlink(at("out"), at("home/backup")).unwrap();
    lchown(at("home/backup"), Some(NOBODY), Some(NOBODY)).unwrap();
    // A link of our own that leads through it leads no further.
    symlink("home/backup/below", at("short")).unwrap();
    for led in ["home/backup", "home/backup/", "home/backup/below", "home/backup/new", "short", "source/../home/backup"]
    {
        for more in [&["--force"][..], &["--dry-run"]] {
            let outcome = client.sync(at("source"), at(led), more).fails(3, "refused");
            assert!(outcome.text().contains("65534") && outcome.last()["hint"].is_string(), "{led}: {outcome}");
        }
        if !led.ends_with("new") {
            client.sync(at(led), at("copy"), &["--force"]).fails(3, "refused");
        }
    }
    assert_eq!(fs::read(at("out/precious")).unwrap(), b"kept");
    assert_eq!(fs::read(at("out/below/precious")).unwrap(), b"kept");
    assert_eq!(fs::read_dir(at("out")).unwrap().count(), 2, "nothing was left there");
    assert!(!at("copy").exists());
}

#[test]
fn links_of_root_and_of_this_user_are_followed() {
    let dir = scratch();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let at = |name: &str| dir.path().join(name);
    for name in ["source", "home/real/below", "home/other"] {
        fs::create_dir_all(at(name)).unwrap();
    }
    fs::write(at("source/file"), "1").unwrap();
    for name in ["home", "home/real", "home/real/below", "home/other", "source", "source/file"] {
        chown(at(name), Some(NOBODY), Some(NOBODY)).unwrap();
    }
    symlink("real", at("home/roots")).unwrap();
    symlink("real", at("home/theirs")).unwrap();
    lchown(at("home/theirs"), Some(NOBODY), Some(NOBODY)).unwrap();
    let user = Client::new(&at("client")).by_user(NOBODY);
    for (number, led) in ["home/roots", "home/theirs", "home/theirs/below", "home/roots/new"].into_iter().enumerate() {
        fs::write(at("source/file"), number.to_string()).unwrap();
        user.sync(at("source"), at(led), &["--force"]).ok().proves();
        assert_equal(&at("source"), &at(led).canonicalize().unwrap(), led);
    }
    symlink("../home/real", at("source/../home/other/up")).unwrap();
    lchown(at("home/other/up"), Some(1000), Some(1000)).unwrap();
    user.sync(at("source"), at("home/other/up"), &["--force"]).fails(3, "refused");
}
