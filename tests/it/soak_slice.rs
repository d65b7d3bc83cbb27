//! A slice of the soak (`make soak`): some of its seeds, always the same, and one of today, on every file system it has.

use std::path::Path;
use std::process::Command;

use crate::common::host::binary;
use crate::common::scratch;

/// Runs `tests/soak/soak.py`; fails with what it told when a promise was broken.
fn soak(words: &[&str]) {
    let dir = scratch();
    let kept = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/soak");
    let out = Command::new("python3")
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/soak/soak.py"))
        .arg("--binary")
        .arg(binary())
        .args(words)
        .arg("--keep")
        .arg(&kept)
        .arg("--work")
        .arg(dir.path())
        .output()
        .expect("python3 runs");
    let (said, errors) = (String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    assert!(out.status.success(), "the soak ended with {}\n{said}\n{errors}", out.status);
    println!("{said}");
}

#[test]
fn seeds_that_stay_hold_folder_to_folder() {
    soak(&["--seed", "1", "--seeds", "20", "--rounds", "8", "--nodes", "t", "--minutes", "2"]);
}

#[test]
fn seeds_that_stay_hold_through_daemons_and_snapshots() {
    soak(&["--seed", "101", "--seeds", "20", "--rounds", "8", "--nodes", "v,w,x", "--minutes", "2"]);
}

#[test]
fn seeds_of_today_hold() {
    let named = std::env::var("MCLOUD_SEED").ok();
    let today = named.unwrap_or_else(|| {
        std::time::UNIX_EPOCH.elapsed().map_or(0, |since| since.as_secs() % 1_000_000_007).to_string()
    });
    println!("seed {today} (MCLOUD_SEED={today} repeats it)");
    soak(&["--seed", &today, "--seeds", "10", "--rounds", "8", "--minutes", "1"]);
}
